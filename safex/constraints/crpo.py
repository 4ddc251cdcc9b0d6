"""Either the reward or the cost, never both: which one, the last episodes say.

Xu et al. 2021, arXiv 2011.05869, Alg. 1.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp

from safex.config import CRPOConfig
from safex.constraints.rule import Rule
from safex.types import Array, PyTree, Score


class CRPOState(NamedTuple):
    """What episodes have taught.

    Attributes:
      excess: `[C]` cost past the budget, of the last episode or added up.
    """

    excess: Array


@dataclasses.dataclass(frozen=True)
class CRPO(Rule):
    """Orders by cost while an excess is above its tolerance, else by value alone.

    Between equal costs value decides.

    There is no multiplier to tune. After an episode `excess <- memory excess +
    cost_return - budget`. With memory 0 the last episode decides, as in the paper,
    whose policy moves by a gradient step; a planner goes all the way to one side or the
    other, so that then every second episode is over. With memory 1 the excess adds up
    and the *mean* cost over episodes tends to the budget.

    Attributes:
      config: tolerance and memory.
    """

    config: CRPOConfig = CRPOConfig()

    prices: ClassVar[bool] = True

    def init(self, num_constraints: int) -> CRPOState:
        """Nothing overspent."""
        return CRPOState(jnp.zeros(num_constraints))

    def update(
        self, state: CRPOState, cost_return: Array, cost_budget: Array
    ) -> CRPOState:
        """Adds the episode's excess to what is remembered."""
        return CRPOState(self.config.memory * state.excess + cost_return - cost_budget)

    def merit(self, state: PyTree, threshold: Array, score: Score) -> Array:
        """Value, or minus the cost under the constraints that are over."""
        del threshold
        over = state.excess > self.config.tolerance
        return jnp.where(over.any(), -self._cost(state, score), score.value)

    def order(self, state: PyTree, threshold: Array, score: Score) -> Array:
        """Least cost under the constraints that are over, then largest value."""
        del threshold
        return jnp.lexsort((-score.value, self._cost(state, score)))

    def _cost(self, state: PyTree, score: Score) -> Array:
        """`[N]` cost under the constraints that are over, zero if none is."""
        over = state.excess > self.config.tolerance
        return jnp.where(over, score.cost, 0.0).sum(-1)
