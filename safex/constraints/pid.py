"""Multipliers under PID control.

Stooke et al. 2020, arXiv 2007.03964, Alg. 2.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp

from safex.config import PIDConfig
from safex.constraints.rule import Rule, net_value
from safex.types import Array, PyTree, Score


class PIDState(NamedTuple):
    """What episodes have taught, each `[C]` but the count.

    Attributes:
      multiplier: price of a unit of cost over the horizon, in value.
      integral: sum of the excess, never below zero.
      excess: smoothed excess over the budget.
      cost_return: smoothed cost of the episodes so far.
      episodes: `[]` int32.
    """

    multiplier: Array
    integral: Array
    excess: Array
    cost_return: Array
    episodes: Array


@dataclasses.dataclass(frozen=True)
class PID(Rule):
    """Orders by `value - sum_c lambda_c cost_c`.

    With `delta` the excess over the budget, smoothed, after each episode
    `I <- max(0, I + delta)` and `lambda = max(0, K_P delta + K_I I + K_D max(0, J -
    J_before))`: dual ascent is the integral term alone; the other two damp its
    oscillation.

    Attributes:
      config: gains and smoothing.
    """

    config: PIDConfig = PIDConfig()

    prices: ClassVar[bool] = True

    def init(self, num_constraints: int) -> PIDState:
        """No price."""
        zero = jnp.zeros(num_constraints)
        return PIDState(zero, zero, zero, zero, jnp.zeros((), jnp.int32))

    def update(
        self, state: PIDState, cost_return: Array, cost_budget: Array
    ) -> PIDState:
        """One step of the controller."""
        c = self.config
        first = state.episodes == 0

        def smoothed(new: Array, old: Array) -> Array:
            return jnp.where(first, new, c.smoothing * old + (1.0 - c.smoothing) * new)

        new_excess = cost_return - cost_budget
        if c.relative:
            unit = jnp.where(cost_budget > 0, cost_budget, 1.0)
            cost_return = cost_return / unit
            # A first episode far beyond its budget would be paid off for long, since
            # one without cost is below it by no more than 1.
            new_excess = jnp.minimum(new_excess / unit, 1.0)
        excess = smoothed(new_excess, state.excess)
        cost = smoothed(cost_return, state.cost_return)
        # A first episode has no slope.
        slope = jnp.where(first, 0.0, jnp.maximum(cost - state.cost_return, 0.0))
        integral = jnp.maximum(state.integral + excess, 0.0)
        control = c.k_p * excess + c.k_i * integral + c.k_d * slope
        multiplier = jnp.clip(control, 0.0, c.max_multiplier)
        return PIDState(multiplier, integral, excess, cost, state.episodes + 1)

    def merit(self, state: PyTree, threshold: Array, score: Score) -> Array:
        """The Lagrangian, but for a constant."""
        del threshold
        return net_value(score.value, (state.multiplier * score.cost).sum(-1))
