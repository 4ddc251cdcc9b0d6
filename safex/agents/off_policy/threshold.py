"""A budget of episodes on the scale of critics that discount."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from safex.returns import budget_to_threshold
from safex.types import Array


class Measured(NamedTuple):
    """Running means over the newest steps, each under the policy that took them.

    Attributes:
      value: `[C]` mean Q_c.
      cost: `[C]` mean cost of the episodes.
      written: `[]` int32 rows of the replay when it was last measured.
    """

    value: Array
    cost: Array
    written: Array


@dataclasses.dataclass(frozen=True)
class Threshold:
    """What a mean of Q_c over the steps of episodes may be, for a budget of an episode.

    Q_c and the cost of whole episodes are averaged over the same steps, so that the
    share of one in the other is neither of other policies nor of other states, and
    what critics are off by is in both sides of the constraint.

    Attributes:
      cost_budget: C allowed costs of an episode.
      discount: of the critics.
      horizon: T, longest episode [steps].
      trust: share of a budget that the measured cost must outweigh; infinite leaves the
        threshold that of a cost spent evenly over T steps.
    """

    cost_budget: tuple[float, ...]
    discount: float
    horizon: int
    trust: float

    def init(self) -> Measured:
        """As if the budget had been spent evenly; young critics know little of cost."""
        budget = jnp.asarray(self.cost_budget)
        even = budget_to_threshold(budget, self.discount, self.horizon)
        return Measured(even, budget, jnp.zeros((), jnp.int32))

    def update(
        self, measured: Measured, value: Array, cost: Array, steps: Array, window: int
    ) -> Measured:
        """Adds what so many new steps had; older ones fade as in a window so long."""
        share = jnp.minimum(steps / window, 1.0)
        return measured._replace(
            value=measured.value + share * (value - measured.value),
            cost=measured.cost + share * (cost - measured.cost),
        )

    def __call__(self, measured: Measured) -> Array:
        """`[C]` on the scale of the critics."""
        budget = jnp.asarray(self.cost_budget)
        # Above 0, for a budget of 0 as well: its threshold is 0 whatever is measured.
        trust = self.trust * jnp.maximum(budget, 1e-6)
        return budget_to_threshold(
            budget,
            self.discount,
            self.horizon,
            value=measured.value,
            cost=measured.cost,
            trust=trust,
        )
