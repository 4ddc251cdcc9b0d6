import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex.constraints.feasible_first import FeasibleFirst
from safex.constraints.penalty import PENALTIES, Penalty
from safex.constraints.rule import COST_TOLERANCE, constrain, total_margin
from safex.constraints.unconstrained import Unconstrained
from safex.types import Score
from tests.helpers import assert_close

INF = np.inf
ALL_PENALTIES = pytest.mark.parametrize("name", PENALTIES)


def score(value, cost, margin=None):
    """Costs and margins are `[N]` for one constraint or `[N, C]`."""
    cost = np.reshape(cost, (len(value), -1))
    margin = np.zeros_like(cost) if margin is None else np.reshape(margin, cost.shape)
    return Score(*(jnp.asarray(x, jnp.float32) for x in (value, cost, margin)))


def order(rule, threshold, *args):
    scores = score(*args)
    constraint = constrain(rule, threshold, scores.cost.shape[-1])
    return np.asarray(constraint.order(scores)).tolist()


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


# Orders under one constraint.


def test_unconstrained_orders_by_value_alone():
    value, cost = [1.0, 3.0, 2.0, -INF], [0.0, 9.0, 1.0, INF]
    assert order(Unconstrained(), 0.0, value, cost) == [1, 2, 0, 3]
    constraint = constrain(Unconstrained(), num=2)
    assert constraint.feasible(score([1.0, 1.0], [[0.0, 1e9]] * 2)).all()


def test_feasible_first_orders_the_feasible_by_value():
    # Neither cost nor margin counts among the feasible.
    costs, margins = [0.9, 0.0, 0.5], [-9.0, -1.0, -5.0]
    assert order(FeasibleFirst(), 1.0, [1.0, 2.0, 3.0], costs, margins) == [2, 1, 0]


def test_feasible_first_orders_the_infeasible_by_margin_then_cost_then_value():
    value = [9.0, 8.0, 1.0, 2.0, 3.0]
    cost = [1.1, 1.4, 1.9, 1.2, 1.4]
    margin = [5.0, 3.0, 2.0, 3.0, 3.0]
    assert order(FeasibleFirst(), 1.0, value, cost, margin) == [2, 3, 1, 4, 0]


def test_feasible_first_puts_any_feasible_before_any_infeasible():
    value, cost = [100.0, -100.0, 50.0], [0.1, 0.0, 0.2]
    assert order(FeasibleFirst(), 0.0, value, cost) == [1, 0, 2]


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize(
    "rule",
    [Unconstrained(), FeasibleFirst(), *(Penalty(barrierfn=b) for b in PENALTIES)],
)
def test_candidates_that_are_not_finite_come_last(rule, num):
    # As `gaussian.evaluate` marks them.
    value = [-INF, -50.0, -INF, 1.0]
    cost = np.repeat([[INF], [9.0], [INF], [0.0]], num, axis=1)
    margin = np.repeat([[INF], [2.0], [INF], [0.0]], num, axis=1)
    assert order(rule, 0.0, value, cost, margin)[:2] == [3, 1]
    if not isinstance(rule, Unconstrained):
        feasible = constrain(rule, 0.0, num).feasible(score(value, cost, margin))
        assert not feasible[jnp.array([0, 2])].any()


def test_penalty_orders_by_the_penalised_value():
    # 5 - 2 (3 - 1) = 1, 2 - 2 (1.5 - 1) = 1.0, 0.9, 1.5 - 2 (0.1) = 1.3.
    value, cost = [5.0, 2.2, 0.9, 1.5], [3.0, 1.5, 0.0, 1.1]
    assert order(Penalty(2.0), 1.0, value, cost) == [3, 1, 0, 2]
    assert order(Penalty(0.0), 1.0, value, cost) == [0, 1, 3, 2]
    assert order(Penalty(1e3), 1.0, value, cost) == [2, 3, 1, 0]


def test_penalty_uses_the_function_it_names():
    # With a violation of 3: relu 3, huber 2.5, quadratic 7, exponential 19.
    value, cost = [4.5, 0.0, 1.7], [3.0, 0.0, 0.0]
    assert order(Penalty(1.0), 0.0, value, cost) == [2, 0, 1]
    assert order(Penalty(1.0, barrierfn="huber"), 0.0, value, cost) == [0, 2, 1]
    assert order(Penalty(1.0, barrierfn="quadratic"), 0.0, value, cost) == [2, 1, 0]


@pytest.mark.parametrize("rule", [FeasibleFirst(), Penalty()])
def test_rounding_does_not_make_a_plan_infeasible(rule):
    costs = [2.0, 2.0 + 0.5 * COST_TOLERANCE, 2.0 + 2.0 * COST_TOLERANCE, 1.0]
    feasible = constrain(rule, 2.0).feasible(score([0.0] * 4, costs))
    assert feasible.tolist() == [True, True, False, True]


# Several constraints.


@pytest.mark.parametrize("rule", [FeasibleFirst(), Penalty()])
def test_every_cost_must_meet_its_own_threshold(rule):
    constraint = constrain(rule, np.array([1.0, 3.0]), 2)
    # The last would meet both the other way round, and on average.
    costs = [[1.0, 3.0], [0.0, 3.1], [1.1, 0.0], [1.5, 2.0]]
    feasible = constraint.feasible(score([0.0] * 4, costs))
    assert feasible.tolist() == [True, False, False, False]


def test_feasible_first_with_two_constraints():
    # Allowed are 1 and 1. What a candidate does not break does not count, however
    # large its margin; what it breaks is added up.
    rows = [
        # value, costs, margins
        (9.0, (2.0, 1.0), (0.5, 9.0)),  # breaks the first by 0.5
        (1.0, (1.0, 1.0), (0.9, 0.9)),  # feasible
        (8.0, (0.0, 5.0), (7.0, 0.4)),  # breaks the second by 0.4
        (7.0, (2.0, 5.0), (0.3, 0.3)),  # breaks both by 0.6
        (2.0, (0.0, 0.0), (-1.0, -1.0)),  # feasible, and better
        (6.0, (3.0, 0.0), (0.5, 8.0)),  # as the first, at more cost
    ]
    assert order(FeasibleFirst(), 1.0, *zip(*rows, strict=True)) == [4, 1, 2, 0, 5, 3]


def test_penalty_adds_up_what_passes_each_threshold():
    # Penalties are 1 + 2, 2, 0, 0: slack under one pays for nothing under the other.
    value, cost = [5.0, 5.0, 1.9, 2.1], [[2, 4], [0, 4], [1, 2], [0, 0]]
    assert order(Penalty(), np.array([1.0, 2.0]), value, cost) == [1, 3, 0, 2]
    # Each is bent before they are added: 2 huber(1) = 1 and huber(2) = 1.5.
    value, cost = [0.0, 0.4], [[1.0, 1.0], [2.0, 0.0]]
    assert order(Penalty(barrierfn="huber"), 0.0, value, cost) == [0, 1]
    assert order(Penalty(barrierfn="relu"), 0.0, value, cost) == [1, 0]


def test_one_constraint_twice_orders_as_once():
    rng = np.random.default_rng(0)
    value, cost = rng.normal(size=50), rng.choice([0.0, 1.0, 2.0], 50)
    margin = np.where(cost > 0, cost * rng.uniform(0.5, 1.5, 50), -1.0)
    for rule in (FeasibleFirst(), Unconstrained(), Penalty(3.0)):
        half = Penalty(1.5) if isinstance(rule, Penalty) else rule
        twice = order(half, 0.0, value, *(np.stack([x, x], 1) for x in (cost, margin)))
        assert order(rule, 0.0, value, cost, margin) == twice


def test_total_margin_by_hand():
    margin = jnp.array([[-3.0, -1.0], [0.0, -2.0], [0.5, -9.0], [0.5, 2.0], [1.0, 0.0]])
    assert_close(total_margin(margin), np.array([-1.0, 0.0, 0.5, 2.5, 1.0]))


def test_total_margin_identities():
    margin = jax.random.normal(jax.random.key(0), (40, 3))
    total = np.asarray(total_margin(margin))
    # One constraint is the margin itself, and the order of constraints means nothing.
    np.testing.assert_array_equal(total_margin(margin[:, :1]), margin[:, 0])
    assert_close(total_margin(margin[:, ::-1]), total)
    # Its sign says whether any limit is passed.
    np.testing.assert_array_equal(total > 0, (margin > 0).any(1))
    # It never falls as any margin rises.
    for c in range(3):
        assert np.all(total_margin(margin.at[:, c].add(0.3)) >= total)


def test_a_margin_of_minus_infinity_never_counts():
    margin = jnp.array([[-INF, 0.5], [-INF, -2.0], [-INF, -INF]])
    assert_close(total_margin(margin[:2]), np.array([0.5, -2.0]))
    assert total_margin(margin)[2] == -INF


@pytest.mark.parametrize("rule", [FeasibleFirst(), Penalty(2.0), Unconstrained()])
def test_a_threshold_is_traced_and_one_program_serves_all(rule):
    value = [0.0, 1.0, 2.0]
    scores = score(value, [[0.0, 0.0], [1.0, 0.0], [1.0, 4.0]])
    run = jax.jit(lambda constraint: constraint.order(scores))
    for threshold in ([0.0, 0.0], [1.0, 0.0], [5.0, 5.0]):
        constraint = constrain(rule, jnp.array(threshold), 2)
        np.testing.assert_array_equal(run(constraint), constraint.order(scores))
    assert run._cache_size() == 1


@pytest.mark.parametrize("rule", [FeasibleFirst(), Penalty(), Unconstrained()])
def test_rules_without_memory_learn_nothing(rule):
    assert rule.init(2) == ()
    assert rule.update((), jnp.array([9.0, 9.0]), jnp.zeros(2)) == ()


def test_a_number_is_the_threshold_of_all():
    assert_close(constrain(FeasibleFirst(), 2.0, 3).threshold, np.full(3, 2.0))
    assert_close(constrain(FeasibleFirst()).threshold, np.zeros(1))
