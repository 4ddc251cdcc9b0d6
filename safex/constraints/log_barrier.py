"""A logarithmic barrier that keeps plans off the threshold."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from safex.config import LogBarrierConfig
from safex.constraints.feasible_first import FeasibleFirst
from safex.constraints.rule import COST_TOLERANCE
from safex.types import Array, PyTree, Score


class LogBarrierState(NamedTuple):
    """What episodes have taught.

    Attributes:
      eta: `[]` weight of the barrier.
    """

    eta: Array


@dataclasses.dataclass(frozen=True)
class LogBarrier(FeasibleFirst):
    """Feasible first; the feasible by `value + eta sum_c log(threshold_c - cost_c)`.

    The objective of LB-SGD (Usmanova et al. 2024, arXiv 2207.10415; the constraint of
    ActSafe, As et al. 2025, arXiv 2410.09486), maximised by search in place of its
    gradient steps. The multiplier it implies is `eta / (threshold - cost)`; as eta
    falls the plan goes to the constrained optimum from inside. Eta falls after each
    episode that kept its budgets and stays after one that did not. Slack is counted
    from `COST_TOLERANCE` past the threshold: with a budget of zero there is no inside,
    the barrier is the same for all that is feasible, and value decides.

    Attributes:
      config: weight and its decay.
    """

    config: LogBarrierConfig = LogBarrierConfig()

    def init(self, num_constraints: int) -> LogBarrierState:
        """The weight to begin with."""
        del num_constraints
        return LogBarrierState(jnp.asarray(self.config.init_eta))

    def update(
        self, state: LogBarrierState, cost_return: Array, cost_budget: Array
    ) -> LogBarrierState:
        """Lowers the barrier after an episode within its budgets."""
        kept = jnp.all(cost_return <= cost_budget + COST_TOLERANCE)
        lower = jnp.maximum(self.config.decay * state.eta, self.config.min_eta)
        return LogBarrierState(jnp.where(kept, lower, state.eta))

    def _worth(self, state: PyTree, threshold: Array, score: Score) -> Array:
        slack = jnp.maximum(threshold - score.cost, 0.0) + COST_TOLERANCE
        return score.value + state.eta * jnp.log(slack).sum(-1)
