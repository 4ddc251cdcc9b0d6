"""Feasible candidates first, without any weight."""

import dataclasses

import jax.numpy as jnp

from safex.constraints.rule import COST_TOLERANCE, Rule, total_margin
from safex.types import Array, PyTree, Score


@dataclasses.dataclass(frozen=True)
class FeasibleFirst(Rule):
    """Any feasible candidate before any infeasible one; no penalty weight exists.

    Feasible candidates are ordered by value, infeasible ones by the margin of what they
    break and, between equal margins, by cost (the constrained cross-entropy method, Wen
    and Topcu 2018, arXiv 1802.01840, Alg. 1, with the margin for the cost). Counted
    violations of a pessimistic rollout saturate at the horizon and then say nothing of
    what to do; the distance past the limit still does.
    """

    def order(self, state: PyTree, threshold: Array, score: Score) -> Array:
        """Feasible by worth, then infeasible by margin and cost."""
        feasible = self.feasible(state, threshold, score)
        broken = score.cost > threshold + COST_TOLERANCE
        cost = jnp.where(broken, score.cost - threshold, 0.0).sum(-1)
        cost = jnp.where(feasible, 0.0, cost)
        margin = jnp.where(feasible, -jnp.inf, _broken_margin(threshold, score))
        return jnp.lexsort((-self._worth(state, threshold, score), cost, margin))

    def merit(self, state: PyTree, threshold: Array, score: Score) -> Array:
        """Worth of the feasible, least margin of the others."""
        return jnp.where(
            self.feasible(state, threshold, score),
            self._worth(state, threshold, score),
            -_broken_margin(threshold, score),
        )

    def tier(self, state: PyTree, threshold: Array, score: Score) -> Array:
        """The feasible are the first tier."""
        return (~self.feasible(state, threshold, score)).astype(jnp.int32)

    def _worth(self, state: PyTree, threshold: Array, score: Score) -> Array:
        """What feasible candidates are ordered by."""
        del state, threshold
        return score.value


def _broken_margin(threshold: Array, score: Score) -> Array:
    """Total margin of the constraints that are broken, `-inf` if none is."""
    broken = score.cost > threshold + COST_TOLERANCE
    return total_margin(jnp.where(broken, score.margin, -jnp.inf))
