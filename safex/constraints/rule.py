"""What an optimizer asks of a constraint: which candidates are allowed, which are best.

A rule is hyper-parameters and pure methods. What changes from episode to episode, such
as a multiplier, is in its state; what changes from decision to decision is the
threshold. `Constraint` binds the three for one decision.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import struct

from safex.types import Array, PyTree, Score

# A cost summed in float32 may miss its threshold by rounding alone.
COST_TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule without memory that allows what meets every threshold.

    Nothing is gathered through masks or padding: order is a sort over all candidates.

    Attributes:
      prices: costs have a price and none is forbidden: a plan past its threshold is
        reported as such and still acts, so that the episode tells the price.
    """

    prices: ClassVar[bool] = False

    def init(self, num_constraints: int) -> PyTree:
        """The state of a rule that has seen no episode."""
        del num_constraints
        return ()

    def update(self, state: PyTree, cost_return: Array, cost_budget: Array) -> PyTree:
        """Learns from an episode's costs `[C]` and what was allowed `[C]`."""
        del cost_return, cost_budget
        return state

    def feasible(self, state: PyTree, threshold: Array, score: Score) -> Array:
        """Bool `[...]` of scores `[...]`, `[..., C]`."""
        del state
        return within(score, threshold)

    def merit(self, state: PyTree, threshold: Array, score: Score) -> Array:
        """`[N]` what candidates of the same tier are compared by, larger is better."""
        raise NotImplementedError

    def tier(self, state: PyTree, threshold: Array, score: Score) -> Array:
        """`[N]` int32; a lower tier comes first whatever the merit."""
        del state, threshold
        return jnp.zeros(score.value.shape, jnp.int32)

    def order(self, state: PyTree, threshold: Array, score: Score) -> Array:
        """Indices `[N]` of scores with leaves `[N]`, `[N, C]`, best first."""
        return jnp.argsort(-self.merit(state, threshold, score))


class Constraint(struct.PyTreeNode):
    """A rule as it stands at one decision.

    Attributes:
      threshold: `[C]` allowed cost over the horizon.
      state: of the rule.
      rule: orders candidates.
    """

    threshold: Array
    state: PyTree
    rule: Rule = struct.field(pytree_node=False)

    def order(self, score: Score) -> Array:
        """Indices `[N]` of `[N]` scores, best first."""
        return self.rule.order(self.state, self.threshold, score)

    def feasible(self, score: Score) -> Array:
        """Bool of each score."""
        return self.rule.feasible(self.state, self.threshold, score)

    def merit(self, score: Score) -> Array:
        """`[N]` what candidates of the same tier are compared by."""
        return self.rule.merit(self.state, self.threshold, score)

    def tier(self, score: Score) -> Array:
        """`[N]` int32; a lower tier comes first whatever the merit."""
        return self.rule.tier(self.state, self.threshold, score)


def constrain(rule: Rule, threshold: float | Array = 0.0, num: int = 1) -> Constraint:
    """A rule without a past at a threshold, a number or `[C]`."""
    threshold = jnp.broadcast_to(jnp.asarray(threshold, jnp.float32), (num,))
    return Constraint(threshold, rule.init(num), rule)


def within(score: Score, threshold: Array) -> Array:
    """Bool `[...]`: every cost meets its threshold."""
    return jnp.all(score.cost <= threshold + COST_TOLERANCE, axis=-1)


def net_value(value: Array, price: Array) -> Array:
    """`value - price`, and the least of all for a candidate that is not finite.

    Its cost is infinite, which times a multiplier of zero would be NaN.
    """
    return jnp.where(jnp.isfinite(value), value - price, -jnp.inf)


def total_margin(margin: Array) -> Array:
    """Margins `[..., C]` as one number `[...]`, to order by.

    The distances past the limits added up where any is passed (> 0), else the closest
    call (<= 0); with one constraint it is the margin itself.
    """
    past = jnp.maximum(margin, 0.0).sum(-1)
    return jnp.where(past > 0, past, margin.max(-1))
