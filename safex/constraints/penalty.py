"""A fixed weight on what passes the threshold."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from safex.config import PenaltyConfig
from safex.constraints.rule import Rule, net_value
from safex.types import Array, PyTree, Score


def relu(z: Array) -> Array:
    """`max(0, z)`."""
    return jnp.maximum(z, 0.0)


def huber(z: Array) -> Array:
    """`z^2 / 2` below 1, `z - 1/2` above; zero for slack (z <= 0)."""
    z = jnp.maximum(z, 0.0)
    return jnp.where(z < 1.0, 0.5 * z**2, z - 0.5)


def quadratic(z: Array) -> Array:
    """`z` below 1, `z^2 - z + 1` above; zero for slack (z <= 0)."""
    z = jnp.maximum(z, 0.0)
    return jnp.where(z < 1.0, z, z**2 - z + 1.0)


def exponential(z: Array) -> Array:
    """`exp(z) - 1`; zero for slack (z <= 0)."""
    # exp(88) is the largest float32; a penalty must order candidates, not overflow.
    return jnp.expm1(jnp.clip(z, 0.0, 60.0))


PENALTIES: dict[str, Callable[[Array], Array]] = {
    "relu": relu,
    "huber": huber,
    "quadratic": quadratic,
    "exponential": exponential,
}


@dataclasses.dataclass(frozen=True)
class Penalty(Rule):
    """Orders by `value - lmbda sum_c b(cost_c - threshold_c)`.

    Attributes:
      lmbda: weight of the penalty.
      barrierfn: name of b in `PENALTIES`.
    """

    lmbda: float = 1.0
    barrierfn: str = "relu"

    def __post_init__(self) -> None:
        """Refuses an unknown penalty and a reward for violations.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        PenaltyConfig(self.lmbda, self.barrierfn)

    def merit(self, state: PyTree, threshold: Array, score: Score) -> Array:
        """The penalised value."""
        del state
        penalty = PENALTIES[self.barrierfn](score.cost - threshold).sum(-1)
        return net_value(score.value, self.lmbda * penalty)
