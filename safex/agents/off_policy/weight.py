"""How much a cost may weigh beside the reward where an E-step has no price for it."""

import dataclasses
import math
from typing import Protocol

import jax.numpy as jnp

from safex.config.off_policy import COST_WEIGHTS
from safex.types import Array, PyTree

# In budgets: one bad round says that a weight must rise, not how far.
_WORST_EXCESS = 2.0


class CostWeight(Protocol):
    """Bounds of `lambda std(Q_c) / std(Q_r)` in infeasible batches.

    A std is the root mean square, over all observations and actions of a batch, of what
    is left when each observation's mean is taken off.
    """

    def init(self) -> PyTree:
        """Before any episode."""
        ...

    def update(self, state: PyTree, episode_cost: Array) -> PyTree:
        """After a round with episodes of mean cost `[C]`."""
        ...

    def bound(self, state: PyTree) -> Array:
        """`[C]`, may be infinite."""
        ...


@dataclasses.dataclass(frozen=True)
class AnyWeight:
    """No bound.

    Attributes:
      num_costs: C.
    """

    num_costs: int

    def init(self) -> tuple[()]:
        """Nothing to remember."""
        return ()

    def update(self, state: PyTree, episode_cost: Array) -> PyTree:
        """Stays as it is."""
        del episode_cost
        return state

    def bound(self, state: PyTree) -> Array:
        """Infinite."""
        del state
        return jnp.full(self.num_costs, jnp.inf)


@dataclasses.dataclass(frozen=True)
class AccountedWeight:
    """A bound that is moved by what episodes cost.

    Which states a batch shows moves its mean Q_c by more than weights within a small KL
    can: most batches have either no price or none that is enough. If the latter forgot
    the reward, a task would not be learned before its costs are. The bound follows the
    account, as a Lagrangian agent's price does: it rises while episodes cost more than
    their budget, each round's excess counted up to two budgets.

    Attributes:
      cost_budget: C allowed costs of an episode.
      init_weight: before any episode.
      rate: of the bound's logarithm, for an excess of a budget in the episodes of a
        round; a budget of 0 counts in units of cost.
    """

    cost_budget: tuple[float, ...]
    init_weight: float
    rate: float

    def init(self) -> Array:
        """`[C]` logarithm of the bound."""
        # A dtype of its own, or the first call would compile for a weak one.
        log_weight = math.log(self.init_weight)
        return jnp.full(len(self.cost_budget), log_weight, jnp.float32)

    def update(self, state: Array, episode_cost: Array) -> Array:
        """Moves by the excess."""
        budget = jnp.asarray(self.cost_budget)
        excess = (episode_cost - budget) / jnp.where(budget > 0, budget, 1.0)
        moved = state + self.rate * jnp.minimum(excess, _WORST_EXCESS)
        return jnp.clip(moved, *map(math.log, COST_WEIGHTS))

    def bound(self, state: Array) -> Array:
        """As it stands."""
        return jnp.exp(state)
