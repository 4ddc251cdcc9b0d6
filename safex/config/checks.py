"""What the hyper-parameters check themselves with."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any


def require_at_least(least: int, config: object, names: Iterable[str]) -> None:
    """Raises ValueError on the first named field below `least`; NaN is below."""
    for name in names:
        if not getattr(config, name) >= least:
            raise ValueError(f"{name} must be >= {least}, got {getattr(config, name)}")


def require_positive(config: object, names: Iterable[str]) -> None:
    """Raises ValueError on the first named field that is not above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be > 0, got {getattr(config, name)}")


def require_below_bound(config: object, name: str, bound: str) -> None:
    """Raises ValueError on a field above the field that bounds it; NaN is above."""
    if not getattr(config, name) <= getattr(config, bound):
        raise ValueError(
            f"{name} must not exceed {bound}, got {getattr(config, name)} with "
            f"{bound} {getattr(config, bound)}"
        )


def require_noise(config: Any, obs_dim: int) -> None:
    """Raises ValueError unless `observation_noise_std` is one number >= 0 or D such."""
    std = config.observation_noise_std
    each = std if isinstance(std, tuple) else (std,) * obs_dim
    if len(each) != obs_dim or not all(value >= 0 for value in each):
        raise ValueError(
            f"observation_noise_std must be one number >= 0 or {obs_dim}, got {std}"
        )


def changed(config: Any, changes: Mapping[str, object]) -> Any:
    """A copy of a dataclass with some fields replaced, and checked again.

    Raises:
      TypeError: names the fields that it does not have.
      ValueError: a value is impossible.
    """
    allowed = [field.name for field in dataclasses.fields(config)]
    unknown = sorted(set(changes) - set(allowed))
    if unknown:
        raise TypeError(f"unknown arguments {unknown}, allowed: {allowed}")
    return dataclasses.replace(config, **changes)
