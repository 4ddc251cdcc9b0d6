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
        """Feasible by value, then infeasible by margin and cost."""
        feasible = self.feasible(state, threshold, score)
        broken = score.cost > threshold + COST_TOLERANCE
        margin = total_margin(jnp.where(broken, score.margin, -jnp.inf))
        cost = jnp.where(broken, score.cost - threshold, 0.0).sum(-1)
        cost = jnp.where(feasible, 0.0, cost)
        return jnp.lexsort((-score.value, cost, jnp.where(feasible, -jnp.inf, margin)))
