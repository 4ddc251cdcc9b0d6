import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex.config import MPPIConfig
from safex.constraints.feasible_first import FeasibleFirst
from safex.constraints.penalty import Penalty
from safex.constraints.rule import constrain
from safex.constraints.unconstrained import Unconstrained
from safex.optimizers.mppi import MPPI, MPPIState, elite_weights
from safex.types import Score
from tests.helpers import assert_close

# Compiling takes far longer than running here: skip the optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY = jax.random.key(0)
INF = np.inf
FEASIBLE_FIRST = FeasibleFirst()


class Problem(NamedTuple):
    """A quadratic around `target` under `sum(actions) <= limit`."""

    target: np.ndarray
    limit: float = 1e3
    floor: float = 0.0  # cost that no candidate avoids; least margin at `SAFEST`
    nan_above: float = 1e3  # the value is NaN where the first action is above this


TARGET = np.array([[0.8, -0.2], [0.4, 0.6]], np.float32)
SAFEST = np.array([[-0.5, 0.5], [0.25, 0.0]], np.float32)
FREE = Problem(TARGET)
ACTIVE = Problem(TARGET, limit=0.4)
HOPELESS = Problem(TARGET, floor=1.0)


def score(problem, actions):
    value = -jnp.sum((actions - problem.target) ** 2)
    value = jnp.where(actions[0, 0] > problem.nan_above, jnp.nan, value)
    slack = actions.sum() - problem.limit
    excess = problem.floor * (1.0 + jnp.sum((actions - SAFEST) ** 2))
    cost = problem.floor + jnp.maximum(slack, 0.0)
    margin = jnp.where(problem.floor > 0.0, excess, slack)
    return Score(value, cost[None], margin[None])


CONFIG = MPPIConfig(
    horizon=2,
    num_iter=15,
    num_elites=16,
    num_samples=100,
    min_std=0.01,
    temperature=0.02,
)


class Solver:
    """MPPI with its search compiled once for all problems."""

    def __init__(self, config=CONFIG, rule=FEASIBLE_FIRST):
        self.optimizer = MPPI(2, config)

        @jit
        def once(key, state, problem):
            objective = functools.partial(score, problem)
            return self.optimizer.optimize(key, state, objective, constrain(rule))

        self.once = once

    def __call__(self, problem, key=KEY, decisions=3):
        """The last of some decisions of which each starts from the one before."""
        state = self.optimizer.init(key)
        for key_i in jax.random.split(key, decisions):
            state, plan, info = self.once(key_i, state, problem)
        return jax.device_get((state, plan, info))


@pytest.fixture(scope="module")
def solver():
    return Solver()


def test_finds_the_optimum_inside_the_box(solver):
    state, plan, info = solver(FREE)
    assert_close(plan.actions, TARGET, rtol=0.0, atol=0.04)
    assert_close(state.mean, TARGET, rtol=0.0, atol=0.04)
    assert plan.feasible
    assert_close(info["feasible_share"], np.ones(15, np.float32))


def test_stays_in_the_box(solver):
    _, plan, _ = solver(Problem(np.array([[3.0, -0.2], [0.4, -3.0]], np.float32)))
    expected = np.array([[1.0, -0.2], [0.4, -1.0]])
    assert_close(plan.actions, expected, rtol=0.0, atol=0.06)
    assert np.abs(plan.actions).max() <= 1.0


def test_finds_the_optimum_on_an_active_constraint(solver):
    state, plan, info = solver(ACTIVE)
    # The sum must fall from 1.6 to 0.4, at least cost evenly: 0.3 each.
    assert_close(plan.actions, TARGET - 0.3, rtol=0.0, atol=0.06)
    assert plan.feasible
    assert plan.cost <= 1e-5
    assert 0.0 < info["feasible_share"][-1] < 1.0
    # The mean is one of feasible elites, and here the feasible set is convex.
    assert state.mean.sum() <= 0.4 + 0.02
    assert score(ACTIVE, plan.backup_actions).margin < plan.margin - 0.1


def test_without_a_feasible_point_the_least_margin_is_the_backup(solver):
    state, plan, info = solver(HOPELESS)
    assert not plan.feasible
    assert not info["feasible_share"].any()
    for actions in (plan.actions, plan.backup_actions, state.mean):
        assert_close(actions, SAFEST, rtol=0.0, atol=0.06)


@pytest.mark.parametrize("problem", [FREE, ACTIVE, HOPELESS])
def test_plan_reports_the_score_of_its_actions(solver, problem):
    _, plan, info = solver(problem)
    found = Score(plan.value, plan.cost, plan.margin)
    assert_close(found, score(problem, plan.actions))
    assert_close((info["value"][-1], info["cost"][-1]), (plan.value, plan.cost))
    assert np.all(np.diff(info["value"]) >= 0.0) or problem is HOPELESS


def test_a_candidate_that_is_not_finite_never_wins(solver):
    state, plan, _ = solver(FREE._replace(nan_above=0.2))
    assert plan.actions[0, 0] <= 0.2
    assert np.isfinite(plan.value)
    assert np.isfinite(state.mean).all()
    assert_close(plan.actions[1], TARGET[1], rtol=0.0, atol=0.06)


def test_nothing_finite_gives_no_plan_and_leaves_the_search_where_it_was(solver):
    state, plan, _ = solver(FREE._replace(nan_above=-1e3))
    assert not plan.feasible
    assert np.isfinite(plan.actions).all()
    assert_close(state.mean, np.zeros((2, 2), np.float32))


def test_same_key_same_plan_other_key_other(solver):
    one, again, other = (
        solver(FREE, key, decisions=1)[1] for key in (KEY, KEY, jax.random.key(1))
    )
    assert_close(one, again, rtol=0.0, atol=0.0)
    assert np.all(one.actions != other.actions)


def test_the_next_decision_starts_from_this_one(solver):
    state, _, _ = solver(FREE)
    shifted = solver.optimizer.shift(MPPIState(jnp.asarray(state.mean)))
    assert_close(shifted.mean, state.mean[[1, 1]])
    # The mean is a candidate of the first iteration already.
    _, plan, info = solver.once(KEY, MPPIState(jnp.asarray(TARGET)), FREE)
    assert_close(info["value"][0], jnp.float32(0.0))
    assert_close(plan.actions, TARGET)


def test_a_price_has_no_feasible_tier():
    # Exact: the multiplier of the active constraint is 0.6.
    _, plan, _ = Solver(rule=Penalty(lmbda=3.0))(ACTIVE)
    assert_close(plan.actions, TARGET - 0.3, rtol=0.0, atol=0.06)


def test_coloured_noise_gives_smoother_candidates():
    seen = []

    def objective(actions):
        jax.debug.callback(lambda a: seen.append(np.asarray(a)), actions)
        return Score(jnp.zeros(()), jnp.zeros(1), jnp.zeros(1))

    def roughness(exponent):
        seen.clear()
        config = MPPIConfig(
            horizon=16,
            num_iter=1,
            num_elites=4,
            num_samples=60,
            init_std=0.1,
            exponent=exponent,
        )
        mppi = MPPI(1, config)
        jit(mppi.optimize, static_argnums=(2,))(
            KEY, mppi.init(KEY), objective, constrain(Unconstrained())
        )
        jax.effects_barrier()
        paths = np.stack(seen)[..., 0]
        return np.abs(np.diff(paths, axis=1)).mean() / np.abs(paths).mean()

    assert roughness(2.0) < 0.6 * roughness(0.0)


# The weights.


def weights(value, cost, margin, rule=FEASIBLE_FIRST, temperature=1.0):
    columns = (jnp.asarray(x, jnp.float32)[:, None] for x in (cost, margin))
    scores = Score(jnp.asarray(value, jnp.float32), *columns)
    ordered = jax.tree.map(lambda x: x[constrain(rule).order(scores)], scores)
    return np.asarray(elite_weights(ordered, constrain(rule), temperature))


def softmax(*x):
    w = np.exp(np.asarray(x, np.float32))
    return w / w.sum()


def test_weights_are_a_softmax_over_feasible_elites_alone():
    found = weights([1.0, 9.0, 2.0], [0.0, 5.0, 0.0], [-1.0, 1.0, -1.0])
    assert_close(found, np.array([*softmax(2.0, 1.0), 0.0], np.float32))
    cold = weights([1.0, 2.0], [0.0, 0.0], [-1.0, -1.0], temperature=0.1)
    assert_close(cold, softmax(20.0, 10.0))


def test_weights_without_a_feasible_elite_go_by_margin():
    found = weights([1.0, 9.0, 2.0], [5.0, 5.0, 1.0], [3.0, 1.0, 2.0])
    assert_close(found, softmax(-1.0, -2.0, -3.0))


def test_weights_of_a_price_go_by_the_net_value():
    found = weights([1.0, 9.0], [0.0, 5.0], [-1.0, 1.0], Penalty(lmbda=1.5))
    assert_close(found, softmax(1.5, 1.0))


def test_what_is_not_finite_has_no_weight():
    found = weights([1.0, -INF], [0.0, INF], [-1.0, INF])
    assert_close(found, np.array([1.0, 0.0], np.float32))
    assert_close(weights([-INF] * 2, [INF] * 2, [INF] * 2), np.zeros(2, np.float32))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("exponent", -1.0),
        ("num_elites", 9999),
        ("min_std", 0.0),
        ("alpha", 1.0),
    ],
)
def test_impossible_settings_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        MPPIConfig(**{field: value})
