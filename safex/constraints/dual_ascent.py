"""A Lagrange multiplier for each constraint, moved by dual ascent."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp

from safex.config import DualAscentConfig
from safex.constraints.rule import Rule, net_value
from safex.types import Array, PyTree, Score


class DualAscentState(NamedTuple):
    """What episodes have taught.

    Attributes:
      multiplier: `[C]` price of a unit of cost over the horizon, in value.
    """

    multiplier: Array


@dataclasses.dataclass(frozen=True)
class DualAscent(Rule):
    """Orders by `value - sum_c lambda_c cost_c`.

    After an episode `lambda <- clip(lambda + lr (cost_return - budget), 0, max)`
    (projected gradient ascent on the dual; Bertsekas 1999, Nonlinear Programming,
    Sec. 6.3). A budget that is kept with room to spare lets its price fall to zero.

    Attributes:
      config: step size and bounds.
    """

    config: DualAscentConfig = DualAscentConfig()

    prices: ClassVar[bool] = True

    def init(self, num_constraints: int) -> DualAscentState:
        """The same price for all."""
        return DualAscentState(jnp.full(num_constraints, self.config.init_multiplier))

    def update(
        self, state: DualAscentState, cost_return: Array, cost_budget: Array
    ) -> DualAscentState:
        """Raises the price of what was overspent, lowers that of what was not."""
        c = self.config
        moved = state.multiplier + c.lr_rate * (cost_return - cost_budget)
        return DualAscentState(jnp.clip(moved, 0.0, c.max_multiplier))

    def merit(self, state: PyTree, threshold: Array, score: Score) -> Array:
        """The Lagrangian, but for a constant."""
        del threshold
        return net_value(score.value, (state.multiplier * score.cost).sum(-1))
