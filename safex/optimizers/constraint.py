"""How an optimizer orders candidates under a constraint: strategies, one shape.

Each has `order(score) -> indices, best first` and `feasible(score) -> bool`. Nothing is
gathered through masks or padding: order is a sort over all candidates.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax.numpy as jnp

from safex.types import Array, Score

# A cost summed in float32 may miss its budget by rounding alone.
COST_TOLERANCE = 1e-5


class Constraint(Protocol):
    """Orders candidates and says which are allowed."""

    def order(self, score: Score) -> Array:
        """Indices `[N]` of `[N]` scores, best first."""
        ...

    def feasible(self, score: Score) -> Array:
        """Bool of each score's shape."""
        ...


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
class Unconstrained:
    """Orders by value alone; everything is allowed."""

    def order(self, score: Score) -> Array:
        """Largest value first."""
        return jnp.argsort(-score.value)

    def feasible(self, score: Score) -> Array:
        """Always true."""
        return jnp.ones_like(score.cost, bool)


@dataclasses.dataclass(frozen=True)
class FeasibleFirst:
    """Any feasible candidate before any infeasible one; no penalty weight exists.

    Feasible candidates are ordered by value, infeasible ones by margin and, between
    equal margins, by cost (the constrained cross-entropy method, Wen and Topcu 2018,
    arXiv 1802.01840, Alg. 1, with the margin for the cost). Counted violations of a
    pessimistic rollout saturate at the horizon and then say nothing of what to do; the
    distance past the limit still does.

    Attributes:
      d: budget of the summed cost over the horizon.
    """

    d: float = 0.0

    def order(self, score: Score) -> Array:
        """Feasible by value, then infeasible by margin and cost."""
        feasible = self.feasible(score)
        margin = jnp.where(feasible, -jnp.inf, score.margin)
        cost = jnp.where(feasible, 0.0, score.cost)
        return jnp.lexsort((-score.value, cost, margin))

    def feasible(self, score: Score) -> Array:
        """Cost within the budget."""
        return score.cost <= self.d + COST_TOLERANCE


@dataclasses.dataclass(frozen=True)
class Penalty:
    """Orders by `value - lmbda b(cost - d)`.

    Attributes:
      lmbda: weight of the penalty.
      d: budget of the summed cost over the horizon.
      barrierfn: name of b in `PENALTIES`.
    """

    lmbda: float = 1.0
    d: float = 0.0
    barrierfn: str = "relu"

    def __post_init__(self) -> None:
        """Refuses an unknown penalty and a reward for violations.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        if self.barrierfn not in PENALTIES:
            raise ValueError(
                f"barrierfn must be one of {tuple(PENALTIES)}, got {self.barrierfn!r}"
            )
        if not self.lmbda >= 0:
            raise ValueError(f"lmbda must be >= 0, got {self.lmbda}")

    def order(self, score: Score) -> Array:
        """Largest penalised value first."""
        penalty = PENALTIES[self.barrierfn](score.cost - self.d)
        return jnp.argsort(-(score.value - self.lmbda * penalty))

    def feasible(self, score: Score) -> Array:
        """Cost within the budget."""
        return score.cost <= self.d + COST_TOLERANCE
