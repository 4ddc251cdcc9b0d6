"""Equations of returns, budgets and risk, as small pure functions."""

import jax.numpy as jnp

from safex.types import Array


def discounted_sum(x: Array, discount: float) -> Array:
    """`sum_t discount^t x_t` over the leading axis of `[T, ...]`."""
    weight = discount ** jnp.arange(x.shape[0])
    return jnp.tensordot(weight, x, axes=1)


def budget_to_threshold(cost_budget: float, discount: float, horizon: int) -> float:
    """Episodic budget on the scale of a discounted sum.

    A cost of `cost_budget / horizon` at every step has the discounted sum
    `cost_budget (1 - discount^horizon) / (horizon (1 - discount))`; at discount 1 that
    is the budget itself.

    Args:
      cost_budget: allowed cost of an episode.
      discount: in (0, 1].
      horizon: steps of an episode.
    """
    if discount == 1.0:
        return cost_budget
    mass = (1.0 - discount**horizon) / (1.0 - discount)
    return cost_budget * mass / horizon


def horizon_threshold(left: Array, steps_left: Array, horizon: int) -> Array:
    """Share of an episode's remaining budget that the next `horizon` steps may cost.

    `left min(1, horizon / steps_left)`: spent evenly over the steps that are left,
    whole once the horizon reaches the end of the episode, and zero for a budget of zero.

    Args:
      left: `[C]` budget that is left.
      steps_left: `[]` steps of the episode that are left, at least 1.
      horizon: H.
    """
    return left * jnp.minimum(1.0, horizon / steps_left)


def conditional_value_at_risk(x: Array, level: float) -> Array:
    """Mean of the worst (largest) `1 - level` share of `[P]` samples.

    Level 0 is the mean and level 1 the maximum (Rockafellar and Uryasev 2000).
    """
    tail = max(1, round((1.0 - level) * x.shape[0]))
    return jnp.sort(x)[-tail:].mean()
