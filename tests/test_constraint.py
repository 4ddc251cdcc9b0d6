import jax.numpy as jnp
import numpy as np
import pytest

from safex.optimizers.constraint import (
    COST_TOLERANCE,
    PENALTIES,
    FeasibleFirst,
    Penalty,
    Unconstrained,
)
from safex.types import Score
from tests.helpers import assert_close

INF = np.inf
ALL_PENALTIES = pytest.mark.parametrize("name", PENALTIES)


def score(value, cost, margin=None):
    margin = np.zeros(len(value)) if margin is None else margin
    return Score(*(jnp.asarray(x, jnp.float32) for x in (value, cost, margin)))


def order(constraint, *args):
    return np.asarray(constraint.order(score(*args))).tolist()


# Penalties.


@ALL_PENALTIES
def test_slack_costs_nothing(name):
    assert not PENALTIES[name](jnp.array([0.0, -0.5, -3.0, -1e6])).any()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relu", [0.5, 1.0, 3.0]),
        ("huber", [0.125, 0.5, 2.5]),
        ("quadratic", [0.5, 1.0, 7.0]),
        ("exponential", np.expm1([0.5, 1.0, 3.0])),
    ],
)
def test_penalties_by_hand(name, expected):
    assert_close(PENALTIES[name](jnp.array([0.5, 1.0, 3.0])), np.asarray(expected))


@ALL_PENALTIES
def test_penalties_grow_with_the_violation_and_stay_finite(name):
    z = jnp.array([*np.linspace(0.0, 4.0, 42), 30.0, 59.0, 1e6])
    penalty = np.asarray(PENALTIES[name](z))
    assert np.all(np.diff(penalty) > 0)
    assert np.all(np.isfinite(penalty))


# Orders.


def test_unconstrained_orders_by_value_alone():
    constraint = Unconstrained()
    assert order(constraint, [1.0, 3.0, 2.0, -INF], [0.0, 9.0, 1.0, INF]) == [
        1,
        2,
        0,
        3,
    ]
    assert constraint.feasible(score([1.0, 1.0], [0.0, 1e9])).all()


def test_feasible_first_orders_the_feasible_by_value():
    # Neither cost nor margin counts among the feasible.
    costs, margins = [0.9, 0.0, 0.5], [-9.0, -1.0, -5.0]
    assert order(FeasibleFirst(1.0), [1.0, 2.0, 3.0], costs, margins) == [2, 1, 0]


def test_feasible_first_orders_the_infeasible_by_margin_then_cost_then_value():
    value = [9.0, 8.0, 1.0, 2.0, 3.0]
    cost = [1.1, 1.4, 1.9, 1.2, 1.4]
    margin = [5.0, 3.0, 2.0, 3.0, 3.0]
    assert order(FeasibleFirst(1.0), value, cost, margin) == [2, 3, 1, 4, 0]


def test_feasible_first_puts_any_feasible_before_any_infeasible():
    assert order(FeasibleFirst(0.0), [100.0, -100.0, 50.0], [0.1, 0.0, 0.2]) == [
        1,
        0,
        2,
    ]


@pytest.mark.parametrize(
    "constraint",
    [Unconstrained(), FeasibleFirst(), *(Penalty(barrierfn=b) for b in PENALTIES)],
)
def test_candidates_that_are_not_finite_come_last(constraint):
    # As `gaussian.evaluate` marks them.
    value, cost, margin = (
        [-INF, -50.0, -INF, 1.0],
        [INF, 9.0, INF, 0.0],
        [INF, 2, INF, 0],
    )
    assert order(constraint, value, cost, margin)[:2] == [3, 1]
    if not isinstance(constraint, Unconstrained):
        assert not constraint.feasible(score(value, cost, margin))[
            jnp.array([0, 2])
        ].any()


def test_penalty_orders_by_the_penalised_value():
    # 5 - 2 (3 - 1) = 1, 2 - 2 (1.5 - 1) = 1.0, 0.9, 1.5 - 2 (0.1) = 1.3.
    value, cost = [5.0, 2.2, 0.9, 1.5], [3.0, 1.5, 0.0, 1.1]
    assert order(Penalty(2.0, 1.0), value, cost) == [3, 1, 0, 2]
    assert order(Penalty(0.0, 1.0), value, cost) == [0, 1, 3, 2]
    assert order(Penalty(1e3, 1.0), value, cost) == [2, 3, 1, 0]


def test_penalty_uses_the_function_it_names():
    # With a violation of 3: relu 3, huber 2.5, quadratic 7, exponential 19.
    value, cost = [4.5, 0.0, 1.7], [3.0, 0.0, 0.0]
    assert order(Penalty(1.0), value, cost) == [2, 0, 1]
    assert order(Penalty(1.0, barrierfn="huber"), value, cost) == [0, 2, 1]
    assert order(Penalty(1.0, barrierfn="quadratic"), value, cost) == [2, 1, 0]


@pytest.mark.parametrize("constraint", [FeasibleFirst(2.0), Penalty(d=2.0)])
def test_rounding_does_not_make_a_plan_infeasible(constraint):
    costs = [2.0, 2.0 + 0.5 * COST_TOLERANCE, 2.0 + 2.0 * COST_TOLERANCE, 1.0]
    feasible = constraint.feasible(score([0.0] * 4, costs))
    assert feasible.tolist() == [True, True, False, True]
