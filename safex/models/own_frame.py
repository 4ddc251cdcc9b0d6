"""A model of what a system does as seen from where it is.

What is known of a system before any data: that its place and heading do not matter to
how it moves. The model inside gets each step in the frame of the observation before it,
so that what was learned at one heading holds at all of them, for its mean, its stds and
what it calls new.
"""

import dataclasses
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp

from safex.models.calibrated import CalibratedModel
from safex.models.staged import sized, stages, with_field
from safex.types import Array, Dataset, Metrics, Prediction, PyTree


class Framed(Protocol):
    """A system with a frame of its own."""

    def to_frame(self, origin: Array, obs: Array) -> Array:
        """What `obs` looks like from `origin`, `[D], [D] -> [D]`."""
        ...

    def from_frame(self, origin: Array, seen: Array) -> Array:
        """Inverse of `to_frame`, affine in `seen`, `[D], [D] -> [D]`."""
        ...


def has_frame(env: Any) -> bool:
    """Whether an environment has a frame of its own."""
    return hasattr(env, "to_frame") and hasattr(env, "from_frame")


# Hashed by identity: the arrays of an environment have no hash.
@dataclasses.dataclass(frozen=True, eq=False)
class OwnFrameModel:
    """A `DynamicsModel` that learns in the system's own frame.

    Attributes:
      env: says what its frame is.
      model: learns and is calibrated there.
    """

    env: Framed
    model: CalibratedModel

    @property
    def base(self) -> Any:
        """The raw model inside."""
        return self.model.base

    @property
    def num_members(self) -> int:
        """E, or 0."""
        return self.model.num_members

    def sized(self, batch_size: int) -> Self:
        """The same model for a planner that asks it of so many inputs at once."""
        return with_field(self, "model", sized(self.model, batch_size))

    def init(self, key: Array) -> PyTree:
        """A model that has seen nothing."""
        return self.model.init(key)

    def fit(self, key: Array, state: PyTree, data: Dataset) -> tuple[PyTree, Metrics]:
        """Fits, then calibrates, on all valid rows."""
        return self.model.fit(key, state, self._seen(data))

    def test_rows(self, data: Dataset) -> Array:
        """`[capacity]` bool: rows that were neither trained nor calibrated on."""
        return self.model.test_rows(data)

    def predict(self, state: PyTree, obs: Array, action: Array) -> Prediction:
        """Predicts one next observation, `[D], [A] -> Prediction`."""
        seen = self.env.to_frame(obs, obs)
        return self._placed(obs, self.model.predict(state, seen, action))

    def outline(self, state: PyTree, obs: Array, action: Array) -> tuple[Array, PyTree]:
        """The mean `[D]`, and what the model inside left for `complete`."""
        seen = self.env.to_frame(obs, obs)
        mean, outline = stages(self.model, state)[0](seen, action)
        return self.env.from_frame(obs, mean), outline

    def complete(
        self, state: PyTree, obs: Array, action: Array, outline: PyTree
    ) -> Prediction:
        """What `predict` says, given `outline`."""
        seen = self.env.to_frame(obs, obs)
        prediction = stages(self.model, state)[1](seen, action, outline)
        return self._placed(obs, prediction)

    def member(
        self, state: PyTree, obs: Array, action: Array, index: Array
    ) -> Prediction:
        """One member's mean and noise, `[D], [A], [] -> Prediction`.

        Raises:
          SafexError: there are no members.
        """
        seen = self.env.to_frame(obs, obs)
        return self._placed(obs, self.model.member(state, seen, action, index))

    def members(self, state: PyTree, obs: Array, action: Array) -> Prediction:
        """Every member on observations of its own, `[E, S, D], [A] -> [E, S, D]`.

        Raises:
          SafexError: there are no members.
        """
        seen = jax.vmap(jax.vmap(self.env.to_frame))(obs, obs)
        prediction = self.model.members(state, seen, action)
        return jax.vmap(jax.vmap(self._placed))(obs, prediction)

    def select(self, state: PyTree, index: Array) -> PyTree:
        """The state of a model whose members are `index` `[G]`, for `members`.

        Raises:
          SafexError: there are no members.
        """
        return self.model.select(state, index)

    def _seen(self, data: Dataset) -> Dataset:
        transitions = data.transitions
        see = jax.vmap(self.env.to_frame)
        origin = transitions.obs
        seen = transitions._replace(
            obs=see(origin, origin), next_obs=see(origin, transitions.next_obs)
        )
        return data._replace(transitions=seen)

    def _placed(self, obs: Array, prediction: Prediction) -> Prediction:
        """A prediction of the frame of `obs` `[D]`, where the world is.

        The std of each dimension is exact for independent errors in the frame; that
        those of the world are then dependent is not kept.
        """
        mean = self.env.from_frame(obs, prediction.mean)

        def std(of: Array) -> Array:
            moved = jax.vmap(self.env.from_frame, (None, 0))(
                obs, prediction.mean + jnp.diag(of)
            )
            return jnp.sqrt(jnp.sum((moved - mean) ** 2, axis=0))

        return Prediction(
            mean, std(prediction.epistemic_std), std(prediction.aleatoric_std)
        )
