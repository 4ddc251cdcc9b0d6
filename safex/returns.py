"""Equations of returns, budgets and risk, as small pure functions."""

import math

import jax.numpy as jnp

from safex.types import Array


def discounted_sum(x: Array, discount: float) -> Array:
    """`sum_t discount^t x_t` over the leading axis of `[T, ...]`."""
    weight = discount ** jnp.arange(x.shape[0])
    return jnp.tensordot(weight, x, axes=1)


def budget_to_threshold(
    cost_budget: Array | float,
    discount: float,
    horizon: int,
    *,
    value: Array | float = 0.0,
    cost: Array | float = 0.0,
    trust: Array | float = math.inf,
) -> Array:
    """Episodic budget on the scale of a discounted sum.

    A cost of `cost_budget / horizon` at every step has the discounted sum
    `cost_budget r_0`, `r_0 = (1 - discount^horizon) / (horizon (1 - discount))`, at the
    start of an episode; at discount 1 that is the budget itself. Averaged over the
    steps of an episode the sums of what is still to come are another share of its cost,
    which depends on when it is paid. Where it was measured,

        threshold = cost_budget (value + trust r_0) / (cost + trust),

    so that nothing measured, or an infinite trust, leaves `r_0`. The share is held
    within what it can be. At least `1 / horizon`: each cost is in the sum of its own
    step. At most `max(1, 1 / (horizon (1 - discount)))`: no sum of what is to come
    exceeds the cost of its episode, and beyond its end a steady cost has the second.
    Critics that know nothing yet, or diverge, would take the threshold with them.

    Args:
      cost_budget: allowed cost of an episode.
      discount: in (0, 1].
      horizon: steps of an episode.
      value: measured mean of the discounted sums.
      cost: measured mean cost of the episodes that they are of.
      trust: cost, > 0, that the measured one must outweigh.
    """
    step = 1.0 - discount
    even = 1.0 if step == 0.0 else (1.0 - discount**horizon) / step / horizon
    most = 1.0 if step == 0.0 else max(1.0, 1.0 / (horizon * step))
    share = even + (value - cost * even) / (cost + trust)
    return jnp.asarray(cost_budget) * jnp.clip(share, 1.0 / horizon, most)


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
