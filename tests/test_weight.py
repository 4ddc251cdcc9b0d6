"""What a cost may weigh in an E-step, as episodes move it."""

import math

import jax.numpy as jnp
import numpy as np

from safex.agents.off_policy.weight import AccountedWeight, AnyWeight
from tests.helpers import assert_close


def test_a_weight_moves_by_its_rate_with_the_excess_in_budgets():
    weight = AccountedWeight((10.0, 2.0, 0.0), init_weight=1.0, rate=0.02)
    start = weight.init()
    assert_close(jnp.exp(start), jnp.ones(3))
    # Over by half a budget, under by a whole one, and one unit and a half over none.
    moved = weight.update(start, jnp.array([15.0, 0.0, 1.5]))
    assert_close(moved, jnp.array([0.01, -0.02, 0.03]))
    # On budget, nothing moves.
    assert_close(weight.update(moved, jnp.array([10.0, 2.0, 0.0])), moved)


def test_one_bad_round_counts_as_two_budgets_over_at_most():
    weight = AccountedWeight((10.0,), init_weight=1.0, rate=0.1)
    bad, worse = (weight.update(weight.init(), jnp.array([c])) for c in (50.0, 5000.0))
    assert_close(bad, jnp.array([0.2]))
    assert_close(worse, bad)


def test_episodes_on_budget_by_turns_leave_it_where_it_was():
    weight = AccountedWeight((10.0,), init_weight=2.0, rate=0.02)
    log = weight.init()
    for cost in (0.0, 20.0) * 50:
        log = weight.update(log, jnp.array([cost]))
    assert_close(jnp.exp(log), jnp.array([2.0]))


def test_it_stays_within_its_bounds_and_comes_back_from_them():
    weight = AccountedWeight((10.0,), init_weight=1.0, rate=0.1)
    log = weight.init()
    for _ in range(200):
        log = weight.update(log, jnp.array([100.0]))
    assert_close(jnp.exp(log), jnp.array([20.0]))
    assert float(weight.update(log, jnp.array([0.0]))[0]) < math.log(20.0)
    for _ in range(200):
        log = weight.update(log, jnp.array([0.0]))
    assert_close(jnp.exp(log), jnp.array([0.05]))


def test_what_a_costly_round_counts_for_is_two_budgets_and_no_more():
    """The mean of what is counted is held, so that rare and costly rounds pass."""
    weight = AccountedWeight((25.0,), init_weight=1.0, rate=0.03)
    log = weight.init()
    for cost in (0.0, 0.0, 0.0, 200.0):
        log = weight.update(log, jnp.array([cost]))
    assert_close(log, jnp.array([0.03 * (2.0 - 3.0)]), atol=1e-6)


def test_without_a_bound_nothing_is_remembered():
    weight = AnyWeight(2)
    assert weight.update(weight.init(), jnp.array([0.0, 1.0])) == ()
    assert np.isposinf(np.asarray(weight.bound(()))).all()
