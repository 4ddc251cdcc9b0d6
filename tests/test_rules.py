import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex.config import (
    AugmentedLagrangianConfig,
    CEMConfig,
    CRPOConfig,
    DualAscentConfig,
    LogBarrierConfig,
    PIDConfig,
)
from safex.constraints.augmented_lagrangian import AugmentedLagrangian
from safex.constraints.crpo import CRPO, CRPOState
from safex.constraints.dual_ascent import DualAscent, DualAscentState
from safex.constraints.feasible_first import FeasibleFirst
from safex.constraints.log_barrier import LogBarrier, LogBarrierState
from safex.constraints.penalty import Penalty
from safex.constraints.pid import PID
from safex.constraints.rule import COST_TOLERANCE, Constraint, constrain
from safex.constraints.unconstrained import Unconstrained
from safex.optimizers.cem import CEM
from safex.types import Score
from tests.helpers import assert_close

# Compiling takes far longer than running here: skip the optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY = jax.random.key(0)
INF = np.inf
RULES = [
    Unconstrained(),
    FeasibleFirst(),
    Penalty(),
    DualAscent(),
    PID(),
    AugmentedLagrangian(),
    LogBarrier(),
    CRPO(),
    CRPO(CRPOConfig(tolerance=-0.0, memory=1.0)),
]


def score(value, cost, margin=None):
    """Scores `[N]` of values `[N]` and costs `[N, C]`."""
    cost = jnp.asarray(cost, jnp.float32)
    margin = jnp.zeros_like(cost) if margin is None else jnp.asarray(margin)
    return Score(jnp.asarray(value, jnp.float32), cost, margin)


def vector(*values):
    return jnp.asarray(values, jnp.float32)


def order(rule, state, threshold, scores):
    return Constraint(vector(*threshold), state, rule).order(scores).tolist()


# Episode by episode, by hand.


def states(rule, cost_returns, budgets):
    """The states after each of some episodes with costs `[episodes, C]`."""
    state = rule.init(len(budgets))
    for cost in cost_returns:
        state = rule.update(state, vector(*cost), vector(*budgets))
        yield state


def test_dual_ascent_by_hand():
    config = DualAscentConfig(lr_rate=0.5, init_multiplier=1.0, max_multiplier=3.0)
    found = states(DualAscent(config), [(4.0, 0.0), (2.0, 0.0), (9.0, 2.0)], (2.0, 1.0))
    expected = [(2.0, 0.5), (2.0, 0.0), (3.0, 0.5)]
    assert_close([s.multiplier for s in found], [vector(*e) for e in expected])


def test_pid_by_hand():
    config = PIDConfig(k_p=1.0, k_i=0.5, k_d=2.0)
    # Excess 2, -1, -3, 1; integral 2, 1, 0, 1; slope none, 0, 0, 4.
    costs = [(5.0,), (2.0,), (0.0,), (4.0,)]
    found = list(states(PID(config), costs, (3.0,)))
    assert_close([s.integral for s in found], [vector(x) for x in (2, 1, 0, 1)])
    expected = [2 + 1.0, 0.0, 0.0, 1 + 0.5 + 8]
    assert_close([s.multiplier for s in found], [vector(x) for x in expected])


def test_pid_smooths_what_it_is_told():
    config = PIDConfig(k_p=1.0, k_i=0.0, k_d=1.0, smoothing=0.75)
    found = list(states(PID(config), [(4.0,), (8.0,)], (2.0,)))
    # Excess 2, then 0.75 2 + 0.25 6 = 3; smoothed cost 4, then 5.
    assert_close([s.multiplier for s in found], [vector(2.0), vector(3.0 + 1.0)])


def test_the_integral_term_alone_is_dual_ascent():
    costs = np.random.default_rng(0).uniform(0.0, 4.0, (6, 2))
    pid = states(PID(PIDConfig(k_p=0.0, k_i=0.3, k_d=0.0)), costs, (2.0, 1.0))
    dual = states(DualAscent(DualAscentConfig(lr_rate=0.3)), costs, (2.0, 1.0))
    for one, other in zip(pid, dual, strict=True):
        assert_close(one.multiplier, other.multiplier)


def test_augmented_lagrangian_by_hand():
    config = AugmentedLagrangianConfig(
        init_multiplier=1.0, init_penalty=0.5, penalty_growth=2.0, max_penalty=1.5
    )
    rule = AugmentedLagrangian(config)
    found = list(states(rule, [(4.0, 0.0), (1.0, 1.0)], (2.0, 3.0)))
    # 1 + 0.5 2, 1 - 0.5 3 -> 0; then with mu 1: 2 - 1, 0 - 2 -> 0; mu stops at 1.5.
    assert_close([s.multiplier for s in found], [vector(2.0, 0.0), vector(1.0, 0.0)])
    assert_close([s.penalty for s in found], [jnp.float32(1.0), jnp.float32(1.5)])


def test_augmented_lagrangian_prices_by_hand():
    rule = AugmentedLagrangian(
        AugmentedLagrangianConfig(init_multiplier=1.0, init_penalty=0.5)
    )
    # ((1 + g / 2)^2 - 1) for excess g above -2, then -1.
    excess = np.array([2.0, 0.0, -1.0, -2.0, -5.0], np.float32)
    scores = score(np.zeros(5), excess[:, None] + 3.0)
    price = -constrain(rule, 3.0).merit(scores)
    assert_close(price, vector(3.0, 0.0, -0.75, -1.0, -1.0))


def test_log_barrier_falls_after_kept_budgets_alone():
    rule = LogBarrier(LogBarrierConfig(init_eta=1.0, decay=0.5, min_eta=0.2))
    costs = [(2.0, 0.0), (2.1, 0.0), (0.0, 1.0), (0.0, 1.0)]
    found = states(rule, costs, (2.0, 1.0))
    assert_close(
        [s.eta for s in found], [jnp.float32(x) for x in (0.5, 0.5, 0.25, 0.2)]
    )


def test_crpo_remembers_the_last_episode_or_all():
    costs = [(3.0, 0.0), (0.0, 2.0), (1.0, 1.0)]
    last = states(CRPO(), costs, (1.0, 1.0))
    assert_close([s.excess for s in last], [vector(2, -1), vector(-1, 1), vector(0, 0)])
    added = states(CRPO(CRPOConfig(memory=1.0)), costs, (1.0, 1.0))
    assert_close([s.excess for s in added], [vector(2, -1), vector(1, 0), vector(1, 0)])


# Orders, by hand.


def test_multipliers_order_by_the_lagrangian():
    scores = score([5.0, 3.0, 4.0], [[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    free, priced = vector(0.0, 0.0), vector(0.5, 2.0)
    for rule in (DualAscent(), PID(), AugmentedLagrangian()):
        state = rule.init(2)._replace(multiplier=priced)
        if isinstance(rule, AugmentedLagrangian):
            state = state._replace(penalty=jnp.float32(1e-6))
        # 5 - 2.5, 3, 4 - 2.
        assert order(rule, state, (0.0, 0.0), scores) == [1, 0, 2]
        state = state._replace(multiplier=free)
        assert order(rule, state, (0.0, 0.0), scores) == [0, 2, 1]


def test_log_barrier_orders_the_feasible_by_value_and_slack():
    rule, state = LogBarrier(), LogBarrierState(jnp.float32(1.0))
    # 2 + log 0.1 < 1 + log 1 < 1.5 + log 0.8; then one with two constraints spent.
    scores = score([2.0, 1.0, 1.5], [[0.9], [0.0], [0.2]])
    assert order(rule, state, (1.0,), scores) == [2, 1, 0]
    assert order(rule, LogBarrierState(jnp.float32(1e-3)), (1.0,), scores) == [0, 2, 1]
    merit = Constraint(vector(1.0), state, rule).merit(scores)
    expected = np.array([2 + np.log(0.1), 1.0, 1.5 + np.log(0.8)], np.float32)
    assert_close(merit, expected, rtol=1e-3)


def test_log_barrier_orders_the_infeasible_by_margin():
    scores = score(
        [9.0, 8.0, 0.0, -5.0],
        [[2.0], [3.0], [2.5], [0.5]],
        [[4.0], [2.0], [3.0], [-1.0]],
    )
    assert order(LogBarrier(), LogBarrierState(jnp.float32(0.1)), (1.0,), scores) == [
        3,
        1,
        2,
        0,
    ]


def test_log_barrier_of_a_zero_budget_leaves_the_order_to_value():
    scores = score([1.0, 3.0, 2.0], np.zeros((3, 1)))
    rule = LogBarrier()
    assert order(rule, rule.init(1), (0.0,), scores) == [1, 2, 0]


def test_crpo_orders_by_the_cost_that_is_over_or_by_value():
    scores = score([3.0, 1.0, 2.0, 0.0], [[2.0, 0.0], [1.0, 5.0], [1.0, 9.0], [3.0, 0]])
    rule = CRPO(CRPOConfig(tolerance=0.5))
    for excess, expected in (
        ((0.5, 0.0), [0, 2, 1, 3]),
        ((0.6, 0.0), [2, 1, 0, 3]),
        ((0.0, 2.0), [0, 3, 1, 2]),
        ((1.0, 1.0), [0, 3, 1, 2]),
    ):
        assert order(rule, CRPOState(vector(*excess)), (0.0, 0.0), scores) == expected


@pytest.mark.parametrize("rule", RULES)
def test_candidates_that_are_not_finite_come_last(rule):
    # As `gaussian.evaluate` marks them.
    scores = score(
        [-INF, -50.0, -INF, 1.0],
        [[INF], [9.0], [INF], [0.0]],
        [[INF], [2.0], [INF], [-1.0]],
    )
    for state in (rule.init(1), rule.update(rule.init(1), vector(5.0), vector(0.0))):
        assert order(rule, state, (0.0,), scores)[:2] == [3, 1]
        merit = Constraint(vector(0.0), state, rule).merit(scores)
        assert np.isneginf(merit[jnp.array([0, 2])]).all()


@pytest.mark.parametrize("rule", RULES)
def test_order_puts_tiers_before_merits(rule):
    # What MPPI weighs by agrees with what all optimizers order by.
    draw = np.random.default_rng(1).normal(size=(3, 12, 2))
    scores = score(draw[0, :, 0], np.abs(draw[1]), draw[2])
    state = rule.update(rule.init(2), vector(3.0, 0.0), vector(1.0, 1.0))
    bound = Constraint(vector(0.6, 0.6), state, rule)
    keys = (-bound.merit(scores), bound.tier(scores))
    assert np.array_equal(bound.order(scores), np.lexsort(keys))


@pytest.mark.parametrize("rule", RULES)
def test_feasible_is_what_meets_the_thresholds(rule):
    costs = [[1.0, 2.0], [1.0, 2.1], [0.0, 2.0 + 0.5 * COST_TOLERANCE]]
    feasible = constrain(rule, vector(1.0, 2.0), 2).feasible(score(np.zeros(3), costs))
    everything = isinstance(rule, Unconstrained)
    assert feasible.tolist() == [True, everything, True]


# Probe problems with a known optimum, solved over episodes.

TARGET = np.array([0.8, 0.5], np.float32)
BUDGET = vector(0.3, 0.7)  # the first binds, the second does not
PRICE = 2.0 * (TARGET[0] - 0.3)  # slope of the value at the limit


def probe(actions):
    """An episode of one step: value `-|a - target|^2`, costs `max(0, a)`."""
    action = actions[0]
    value = -jnp.sum((action - TARGET) ** 2)
    return Score(value, jnp.maximum(action, 0.0), action)


def linear(actions):
    """Value and cost are the same, so that only a mixture meets a budget exactly."""
    share = 0.5 * (actions[0, :1] + 1.0)
    return Score(share[0], share, share)


def episodes(rule, count, problem=probe, budget=BUDGET):
    """Costs `[count, C]` and rule states of episodes that plan, act and learn."""
    config = CEMConfig(
        horizon=1,
        num_iter=12,
        num_elites=12,
        num_samples=120,
        init_std=1.0,
        min_std=1e-5,
        alpha=0.3,
    )
    cem = CEM(2, config)

    @jit
    def run():
        def episode(state, key):
            constraint = Constraint(budget, state, rule)
            _, plan, _ = cem.optimize(key, cem.init(key), problem, constraint)
            state = rule.update(state, plan.cost, budget)
            return state, (plan.cost, state)

        keys = jax.random.split(KEY, count)
        return jax.lax.scan(episode, rule.init(len(budget)), keys)[1]

    return jax.device_get(run())


@pytest.mark.parametrize(
    "rule",
    [
        DualAscent(DualAscentConfig(lr_rate=0.4)),
        PID(PIDConfig(k_p=0.3, k_i=0.2, k_d=0.1)),
        AugmentedLagrangian(),
    ],
)
def test_multipliers_converge_to_the_known_ones(rule):
    costs, states = episodes(rule, 50)
    assert_close(costs[-1], vector(0.3, 0.5), rtol=0.0, atol=0.01)
    assert_close(states.multiplier[-1], vector(PRICE, 0.0), rtol=0.0, atol=0.02)
    # Before the first episode nothing has a price (but for the quadratic penalty).
    assert costs[0, 0] > 0.7


def test_log_barrier_goes_to_the_optimum_from_inside():
    costs, states = episodes(LogBarrier(LogBarrierConfig(decay=0.8)), 30)
    assert np.all(costs[:, 0] <= 0.3)
    # 2 (t - a) (d - a) = eta.
    d, t, eta = 0.3, TARGET[0], np.array([0.1, *states.eta[:-1]])
    inside = 0.5 * (d + t - np.sqrt((t - d) ** 2 + 2.0 * eta))
    assert_close(costs[:, 0], inside.astype(np.float32), rtol=0.0, atol=0.005)
    assert costs[-1, 0] == pytest.approx(d, abs=0.003)
    implied = eta / (d - costs[:, 0])
    assert implied[6] == pytest.approx(PRICE, rel=0.1)


def test_crpo_with_memory_spends_its_budget_on_average():
    budget = vector(0.35)
    costs, _ = episodes(CRPO(CRPOConfig(memory=1.0)), 40, linear, budget)
    assert set(np.round(costs[:, 0], 3).tolist()) == {0.0, 1.0}
    assert costs.mean() == pytest.approx(0.35, abs=1.0 / 40)
    # Without it every second episode is over.
    costs, _ = episodes(CRPO(), 6, linear, budget)
    assert_close(costs[:, 0], vector(1, 0, 1, 0, 1, 0), rtol=0.0, atol=1e-3)


# Settings.


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (DualAscentConfig, "lr_rate", 0.0),
        (DualAscentConfig, "init_multiplier", -1.0),
        (DualAscentConfig, "init_multiplier", 1e9),
        (DualAscentConfig, "max_multiplier", float("nan")),
        (PIDConfig, "k_p", -0.1),
        (PIDConfig, "k_i", -0.1),
        (PIDConfig, "k_d", float("nan")),
        (PIDConfig, "smoothing", 1.0),
        (AugmentedLagrangianConfig, "init_penalty", 0.0),
        (AugmentedLagrangianConfig, "max_penalty", 0.01),
        (AugmentedLagrangianConfig, "penalty_growth", 0.9),
        (AugmentedLagrangianConfig, "step", 0.0),
        (LogBarrierConfig, "init_eta", 0.0),
        (LogBarrierConfig, "decay", 1.1),
        (LogBarrierConfig, "min_eta", 0.0),
        (CRPOConfig, "tolerance", -1.0),
        (CRPOConfig, "memory", 1.5),
    ],
)
def test_impossible_settings_name_the_field(config, field, value):
    with pytest.raises(ValueError, match=field):
        config(**{field: value})


def test_a_price_is_bounded():
    rule = DualAscent(DualAscentConfig(max_multiplier=2.0))
    state = rule.update(rule.init(1), vector(1e6), vector(0.0))
    assert_close(state, DualAscentState(vector(2.0)))
