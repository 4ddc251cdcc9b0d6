"""How much a cost may weigh beside the reward in an E-step."""

import dataclasses
import math

import jax.numpy as jnp

from safex.types import Array

_LIGHTEST, _HEAVIEST = 0.05, 20.0
# In budgets: one bad round says how fast a weight must rise, not how far.
_WORST_EXCESS = 2.0


@dataclasses.dataclass(frozen=True)
class CostWeight:
    """Bounds of `lambda std(Q_c) / std(Q_r)`, moved by what episodes cost.

    Which states a batch shows moves its mean Q_c by more than weights within a small KL
    can: most batches have either no price or no price that is enough. If the latter
    left the reward out, a task would not be learned before its costs are. So a cost may
    weigh that much and no more, and that much follows the account: more while episodes
    cost more than their budget, less while they cost less, slowly, as a Lagrangian
    agent's price does. Stds are over the actions of an observation, so that one weight
    means the same whatever the scales of reward and cost.

    Attributes:
      cost_budget: C allowed costs of an episode.
      initial: before any episode; infinite leaves multipliers without such a bound.
      rate: of the weight's logarithm, for an excess of a budget in the episodes of a
        round; a budget of 0 counts in units of cost.
    """

    cost_budget: tuple[float, ...]
    initial: float
    rate: float

    def init(self) -> Array:
        """`[C]` logarithm of the weight."""
        # A dtype of its own, or the first call would compile for a weak one.
        return jnp.full(len(self.cost_budget), math.log(self.initial), jnp.float32)

    def update(self, log_weight: Array, episode_cost: Array) -> Array:
        """After episodes of mean cost `[C]`."""
        budget = jnp.asarray(self.cost_budget)
        excess = (episode_cost - budget) / jnp.where(budget > 0, budget, 1.0)
        moved = log_weight + self.rate * jnp.minimum(excess, _WORST_EXCESS)
        moved = jnp.clip(moved, math.log(_LIGHTEST), math.log(_HEAVIEST))
        return jnp.where(jnp.isinf(log_weight), log_weight, moved)
