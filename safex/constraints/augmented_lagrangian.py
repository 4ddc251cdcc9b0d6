"""Multipliers with a quadratic penalty, so that a plan is right before they are."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp

from safex.config import AugmentedLagrangianConfig
from safex.constraints.rule import Rule, net_value
from safex.types import Array, PyTree, Score


class AugmentedLagrangianState(NamedTuple):
    """What episodes have taught.

    Attributes:
      multiplier: `[C]` price of a unit of cost over the horizon, in value.
      penalty: `[]` weight of the quadratic term.
    """

    multiplier: Array
    penalty: Array


@dataclasses.dataclass(frozen=True)
class AugmentedLagrangian(Rule):
    """Orders by `value - sum_c (max(0, lambda_c + mu g_c)^2 - lambda_c^2) / (2 mu)`.

    `g = cost - threshold`. After an episode `lambda <- max(0, lambda + step mu g)` with
    the episode's excess for g, and `mu <- min(growth mu, max)` (Nocedal and Wright
    2006, Numerical Optimization, Sec. 17.4; as an agent's constraint: As et al. 2022,
    arXiv 2201.09802). The penalty keeps plans near the threshold while the price is
    still wrong; the price makes a finite penalty exact.

    Attributes:
      config: start, growth and bounds.
    """

    config: AugmentedLagrangianConfig = AugmentedLagrangianConfig()

    prices: ClassVar[bool] = True

    def init(self, num_constraints: int) -> AugmentedLagrangianState:
        """The same price for all."""
        c = self.config
        multiplier = jnp.full(num_constraints, c.init_multiplier)
        return AugmentedLagrangianState(multiplier, jnp.asarray(c.init_penalty))

    def update(
        self, state: AugmentedLagrangianState, cost_return: Array, cost_budget: Array
    ) -> AugmentedLagrangianState:
        """The multiplier goes where the penalty's slope was; the penalty grows."""
        c = self.config
        excess = cost_return - cost_budget
        moved = state.multiplier + c.step * state.penalty * excess
        penalty = jnp.minimum(c.penalty_growth * state.penalty, c.max_penalty)
        multiplier = jnp.clip(moved, 0.0, c.max_multiplier)
        return AugmentedLagrangianState(multiplier, penalty)

    def merit(self, state: PyTree, threshold: Array, score: Score) -> Array:
        """The augmented Lagrangian."""
        multiplier, mu = state.multiplier, state.penalty
        slope = jnp.maximum(multiplier + mu * (score.cost - threshold), 0.0)
        price = (slope**2 - multiplier**2) / (2.0 * mu)
        return net_value(score.value, price.sum(-1))
