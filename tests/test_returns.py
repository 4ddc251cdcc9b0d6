import jax.numpy as jnp
import numpy as np
import pytest

from safex.returns import (
    budget_to_threshold,
    conditional_value_at_risk,
    discounted_sum,
    horizon_threshold,
)
from tests.helpers import assert_close


def test_discounted_sum_by_hand():
    x = jnp.array([1.0, 2.0, 4.0])
    assert_close(discounted_sum(x, 0.5), 1.0 + 1.0 + 1.0)
    assert_close(discounted_sum(x, 1.0), 7.0)
    assert_close(discounted_sum(x, 0.0), 1.0)


def test_discounted_sum_runs_over_the_leading_axis():
    x = np.arange(6.0, dtype=np.float32).reshape(3, 2)
    expected = np.array([0.0 + 1.0 + 1.0, 1.0 + 1.5 + 1.25])
    assert_close(discounted_sum(jnp.asarray(x), 0.5), expected)


def test_budget_to_threshold_by_hand():
    # 10 per episode of 4 steps is 2.5 a step: 2.5 (1 + 1/2 + 1/4 + 1/8).
    assert budget_to_threshold(10.0, 0.5, 4) == pytest.approx(4.6875)


@pytest.mark.parametrize("discount", [0.9, 0.99, 1.0])
def test_threshold_is_the_discounted_sum_of_a_constant_cost(discount):
    steps, budget = 50, 25.0
    spent = discounted_sum(jnp.full(steps, budget / steps), discount)
    assert_close(spent, np.float32(budget_to_threshold(budget, discount, steps)))


def test_threshold_tends_to_the_budget_as_the_discount_tends_to_one():
    assert budget_to_threshold(25.0, 1.0, 1000) == 25.0
    assert budget_to_threshold(25.0, 1.0 - 1e-9, 1000) == pytest.approx(25.0, rel=1e-4)


@pytest.mark.parametrize("late", [0, 1, 30, 49])
def test_a_measured_threshold_is_met_by_episodes_that_cost_the_budget(late):
    """A profile of cost, scaled up: the mean of its sums to come is the threshold."""
    steps, discount, budget = 50, 0.9, 2.0
    profile = np.where(np.arange(steps) == late, 3.0, 0.0)
    profile[:10] += 0.0 if late == 0 else 0.2
    after = [
        sum(discount ** (i - t) * profile[i] for i in range(t, steps))
        for t in range(steps)
    ]
    value, cost = np.mean(after), profile.sum()
    found = budget_to_threshold(
        budget, discount, steps, value=value, cost=cost, trust=1e-9
    )
    # Episodes of the budget have the same profile on another scale.
    np.testing.assert_allclose(found, value * budget / cost, rtol=1e-5)
    if late == 0:
        # Paid in the first step alone, it is in one sum of 50.
        np.testing.assert_allclose(found, budget / steps, rtol=1e-5)


def test_what_is_measured_outweighs_the_even_share_as_it_grows():
    even = float(budget_to_threshold(2.0, 0.9, 50))
    assert float(budget_to_threshold(2.0, 0.9, 50, value=0.0, cost=0.0, trust=0.2)) == (
        pytest.approx(even)
    )
    half = budget_to_threshold(2.0, 0.9, 50, value=0.1, cost=0.2, trust=0.2)
    assert float(half) == pytest.approx((even + 2.0 * 0.1 / 0.2) / 2)
    # Infinite trust knows the even share alone.
    assert float(budget_to_threshold(2.0, 0.9, 50, value=9.0, cost=1.0)) == even


def test_a_measured_share_is_held_within_what_it_can_be():
    def of(value, horizon=50):
        return float(
            budget_to_threshold(2.0, 0.9, horizon, value=value, cost=1.0, trust=0.1)
        )

    assert of(-5.0) == pytest.approx(2.0 / 50)
    assert of(1e9) == 2.0
    # Critics go on past episodes that are shorter than they look ahead.
    assert of(1e9, horizon=4) == pytest.approx(2.0 / (4 * 0.1))


def test_horizon_threshold_by_hand():
    # 12 left over 40 steps is 0.3 a step, 3 over the next 10; all of it at the end.
    left = jnp.array([12.0, 4.0])
    assert_close(horizon_threshold(left, jnp.asarray(40), 10), np.array([3.0, 1.0]))
    for steps_left in (10, 7, 1):
        assert_close(horizon_threshold(left, jnp.asarray(steps_left), 10), left)


@pytest.mark.parametrize("horizon", [1, 4, 10])
def test_a_budget_spent_evenly_adds_up_to_itself(horizon):
    """Each step takes its share of what the horizon may cost."""
    steps, budget = 50, jnp.array([5.0, 0.0, 80.0])
    spent, shares = jnp.zeros(3), []
    for t in range(steps):
        threshold = horizon_threshold(budget - spent, jnp.asarray(steps - t), horizon)
        shares.append(threshold / min(horizon, steps - t))
        spent = spent + shares[-1]
    assert_close(spent, budget, atol=1e-4)
    assert_close(jnp.stack(shares), jnp.full((steps, 3), budget / steps), rtol=1e-3)


def test_a_horizon_never_gets_more_than_is_left_nor_anything_of_nothing():
    steps_left = jnp.arange(1, 60)
    for left in (0.0, 7.0):
        share = horizon_threshold(jnp.array([[left]]), steps_left[:, None], 20)
        assert share.max() == left
        assert share.min() >= 0.0
        assert np.all(np.diff(share[:, 0]) <= 0.0)


def test_cvar_by_hand():
    x = jnp.array([4.0, 1.0, 3.0, 2.0, 10.0, 5.0, 7.0, 6.0, 8.0, 9.0])
    assert_close(conditional_value_at_risk(x, 0.8), 9.5)
    assert_close(conditional_value_at_risk(x, 0.5), 8.0)


def test_cvar_goes_from_mean_to_maximum():
    x = np.random.default_rng(0).normal(size=37).astype(np.float32)
    levels = (0.0, 0.3, 0.6, 0.9, 1.0)
    cvar = [float(conditional_value_at_risk(x, level)) for level in levels]
    assert cvar[0] == pytest.approx(x.mean(), abs=1e-6)
    assert cvar[-1] == x.max()
    assert np.all(np.diff(cvar) >= -1e-6)  # mean <= CVaR <= max, monotone between


def test_cvar_of_one_sample_is_that_sample():
    assert_close(conditional_value_at_risk(jnp.array([3.0]), 0.95), 3.0)
