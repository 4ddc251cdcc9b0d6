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

    `left min(1, horizon / steps_left)`: spent evenly over the steps that are left, all
    of it once the horizon reaches the end of the episode.

    Args:
      left: `[C]` budget that is left.
      steps_left: `[]` steps of the episode that are left, at least 1.
      horizon: H.
    """
    return left * jnp.minimum(1.0, horizon / steps_left)


def conditional_value_at_risk(x: Array, level: float) -> Array:
    """Mean of the worst (largest) `1 - level` share of samples, `[P, ...] -> [...]`.

    Level 0 is the mean and level 1 the maximum (Rockafellar and Uryasev 2000). A share
    that is no whole number of samples takes the last one in part.
    """
    tail = (1.0 - level) * x.shape[0]
    if tail <= 1.0:
        return x.max(0)
    weight = jnp.clip(tail - jnp.arange(x.shape[0]), 0.0, 1.0) / tail
    return jnp.tensordot(weight, jnp.sort(x, axis=0)[::-1], axes=1)


def upper_confidence_bound(x: Array, kappa: float) -> Array:
    """`mean + kappa std` over samples, `[P, ...] -> [...]`."""
    return x.mean(0) + kappa * x.std(0)


def group_means(x: Array, group: Array, num_groups: int) -> Array:
    """Mean over the samples of each group, `[P, C], [P] -> [G, C]`.

    Every group must have a sample.
    """
    belongs = (group == jnp.arange(num_groups)[:, None]).astype(x.dtype)
    return belongs @ x / belongs.sum(1, keepdims=True)
