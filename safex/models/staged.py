"""What a model may offer beyond `DynamicsModel`, asked of any model.

A `StagedModel` says its mean first, and its stds of many steps later; a `SizedModel` is
told how many inputs come at once.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from safex.types import (
    Array,
    DynamicsModel,
    Prediction,
    PyTree,
    SizedModel,
    StagedModel,
)


def stages(
    model: DynamicsModel, state: PyTree
) -> tuple[Callable[..., tuple[Array, PyTree]], Callable[..., Prediction]]:
    """`outline` and `complete` of a model, by `predict` alone if it has no stages.

    So is a class that changes `predict` and leaves the stages it inherits as they are.
    """
    names = ("outline", "complete")
    if all(hasattr(model, name) for name in names):
        predicts, *others = (_depth(model, name) for name in ("predict", *names))
        if predicts >= min(others):
            staged = cast(StagedModel, model)
            return partial(staged.outline, state), partial(staged.complete, state)

    def outline(obs: Array, action: Array) -> tuple[Array, Prediction]:
        prediction = model.predict(state, obs, action)
        return prediction.mean, prediction

    def complete(obs: Array, action: Array, prediction: Prediction) -> Prediction:
        del obs, action
        return prediction

    return outline, complete


def sized(model: Any, batch_size: int) -> Any:
    """A model for so many inputs at once; itself if it makes no difference to it."""
    if not hasattr(model, "sized"):
        return model
    return cast(SizedModel, model).sized(batch_size)


def with_field(part: Any, name: str, value: Any) -> Any:
    """A copy of a frozen dataclass, whatever its own constructor takes."""
    changed = copy.copy(part)
    object.__setattr__(changed, name, value)
    return changed


def _depth(model: Any, name: str) -> int:
    """How far up its classes a method is defined."""
    for depth, kind in enumerate(type(model).__mro__):
        if name in vars(kind):
            return depth
    return -1  # of the object itself
