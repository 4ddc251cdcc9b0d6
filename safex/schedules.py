"""Schedules of pessimism and optimism over episodes; their values are traced."""

import dataclasses

import jax.numpy as jnp

from safex.types import Array

KINDS = ("constant", "linear", "sigmoid")


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """A width that changes from episode to episode.

    Attributes:
      kind: `constant`, `linear` or `sigmoid`.
      final: value that a linear or sigmoid schedule tends to.
      num_episodes: episodes after which a linear schedule has arrived.
      scale: steepness of a sigmoid [1/episode].
      midpoint: episode at which a sigmoid is half-way.
    """

    kind: str = "constant"
    final: float = 3.0
    num_episodes: int = 10
    scale: float = 0.25
    midpoint: float = 10.0

    def __post_init__(self) -> None:
        """Refuses an unknown kind and a schedule that never arrives.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {self.kind!r}")
        if self.num_episodes < 1:
            raise ValueError(f"num_episodes must be >= 1, got {self.num_episodes}")
        if self.final < 0:
            raise ValueError(f"final must be >= 0, got {self.final}")

    def value(self, initial: float, episode: Array) -> Array:
        """The width in an episode, counted from 1.

        Linear: `v0 + (v1 - v0) min(e / n, 1)`; sigmoid:
        `v0 + (v1 - v0) / (1 + exp(-scale (e - midpoint)))`.
        """
        e = jnp.asarray(episode, jnp.float32)
        if self.kind == "linear":
            progress = jnp.minimum(e / self.num_episodes, 1.0)
        elif self.kind == "sigmoid":
            progress = 1.0 / (1.0 + jnp.exp(-self.scale * (e - self.midpoint)))
        else:
            progress = jnp.zeros(())
        return initial + (self.final - initial) * progress
