import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex.config import CEMConfig, ICEMConfig, MinMaxConfig
from safex.constraints.feasible_first import FeasibleFirst
from safex.constraints.penalty import Penalty
from safex.constraints.rule import Constraint, constrain
from safex.constraints.unconstrained import Unconstrained
from safex.optimizers import gaussian
from safex.optimizers.cem import CEM
from safex.optimizers.icem import ICEM, ICEMState
from safex.optimizers.minmax import MinMax, _Attack
from safex.types import Score
from tests.helpers import assert_close, game_of

# Compiling takes far longer than running here: skip the optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY = jax.random.key(0)


def compiled(optimizer, pose, rule):
    """`optimize` of the problem that `pose` makes of traced numbers."""
    state = rule.init(2)

    @jit
    def solve(key, warm, numbers, threshold):
        constraint = Constraint(threshold, state, rule)
        return optimizer.optimize(key, warm, pose(numbers), constraint)

    return solve


# What the sampling optimizers share.


@functools.partial(jit, static_argnums=(0, 1))
def noise(exponent, horizon):
    return gaussian.coloured_noise(KEY, exponent, (4000, horizon, 2))


@pytest.mark.parametrize(
    ("exponent", "horizon"), [(0.0, 16), (1.0, 15), (2.0, 16), (2.0, 1)]
)
def test_noise_has_unit_variance_and_the_spectrum_asked_for(exponent, horizon):
    draws = np.asarray(noise(exponent, horizon))
    assert np.all(np.abs(draws.var((0, 2)) - 1.0) < 0.1)  # at every step
    assert np.all(np.abs(draws.mean((0, 2))) < 0.06)
    frequency = np.maximum(np.fft.rfftfreq(horizon), 1.0 / horizon)
    power = (np.abs(np.fft.rfft(draws, axis=1)) ** 2).mean((0, 2))
    shape = power * frequency**exponent
    assert np.all(np.abs(shape / shape.mean() - 1.0) < 0.12)


def test_noise_is_correlated_in_time_alone():
    draws = np.asarray(noise(2.0, 16))
    assert np.mean(draws[:, 1:] * draws[:, :-1]) > 0.7
    for other in (draws[..., ::-1], np.roll(draws, 1, axis=0)):
        assert np.all(np.abs((draws * other).mean((0, 2))) < 0.06)


def test_refit_by_hand():
    elites = jnp.array([[[1.0]], [[3.0]]])
    mean, std = gaussian.refit(jnp.array([[4.0]]), jnp.array([[5.0]]), elites, 0.5, 0.1)
    assert_close((mean, std), (np.array([[3.0]]), np.array([[3.0]])))
    _, std = gaussian.refit(mean, std, elites[:1], 0.0, 0.1)
    assert_close(std, np.array([[0.1]]))


def test_shift_moves_one_step_and_repeats_the_last():
    rows = jnp.arange(6.0).reshape(3, 2)
    assert_close(gaussian.shift(rows), np.array([[2, 3], [4, 5], [4, 5]], np.float32))
    assert_close(gaussian.shift(rows, axis=1), np.array([[1, 1], [3, 3], [5.0, 5]]))


# CEM and iCEM.


class Problem(NamedTuple):
    """A quadratic around `target` under limits to the sums over all and the first step.

    They are the two constraints; each costs what its sum is past its limit.
    """

    target: np.ndarray
    limit: float = 1e3
    first_limit: float = 1e3
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
    slack = jnp.stack(
        [actions.sum() - problem.limit, actions[0].sum() - problem.first_limit]
    )
    excess = problem.floor * (1.0 + jnp.sum((actions - SAFEST) ** 2))
    cost = problem.floor + jnp.maximum(slack, 0.0)
    return Score(value, cost, jnp.where(problem.floor > 0.0, excess, slack))


def pose(problem):
    return functools.partial(score, problem)


class Recording(FeasibleFirst):
    """Feasible first, and remembers every score that it was asked to order."""

    log = []  # noqa: RUF012

    def order(self, state, threshold, score):
        jax.debug.callback(self.log.append, score.value, ordered=True)
        return super().order(state, threshold, score)


CEM_CONFIG = CEMConfig(
    horizon=2, num_iter=20, num_elites=8, num_samples=80, init_std=1.0, alpha=0.1
)
ICEM_CONFIG = ICEMConfig(
    horizon=2,
    num_iter=4,
    num_elites=8,
    num_samples=80,
    alpha=0.0,
    exponent=1.0,
    keep_fraction=0.5,
    population_decay=2.0,
)
OPTIMIZERS = {
    "CEM": (CEM(2, CEM_CONFIG), FeasibleFirst()),
    "ICEM": (ICEM(2, ICEM_CONFIG), Recording()),
}


class Solver:
    """An optimizer with its search compiled once for all problems."""

    def __init__(self, optimizer, rule):
        self.optimizer = optimizer
        self.solve = compiled(optimizer, pose, rule)

    def once(self, key, state, problem, threshold=(0.0, 0.0)):
        return self.solve(key, state, problem, jnp.asarray(threshold))

    def __call__(self, problem, key=KEY, decisions=4, threshold=(0.0, 0.0)):
        """The last of some decisions of which each starts from the one before."""
        state = self.optimizer.init(key)
        for key_i in jax.random.split(key, decisions):
            state, plan, info = self.once(key_i, state, problem, threshold)
        return state, jax.device_get(plan), info


@pytest.fixture(scope="module")
def solvers():
    return {name: Solver(*both) for name, both in OPTIMIZERS.items()}


@pytest.fixture(scope="module", params=OPTIMIZERS)
def solver(request, solvers):
    return solvers[request.param]


def test_finds_the_optimum_inside_the_box(solver):
    _, plan, info = solver(FREE)
    assert_close(plan.actions, TARGET, rtol=0.0, atol=0.03)
    assert plan.feasible
    assert_close(info["feasible_share"], np.ones_like(info["feasible_share"]))


def test_stays_in_the_box(solver):
    _, plan, _ = solver(Problem(np.array([[3.0, -0.2], [0.4, -3.0]], np.float32)))
    expected = np.array([[1.0, -0.2], [0.4, -1.0]])
    assert_close(plan.actions, expected, rtol=0.0, atol=0.06)
    assert np.abs(plan.actions).max() <= 1.0


def test_finds_the_optimum_on_an_active_constraint(solver):
    _, plan, info = solver(ACTIVE)
    # The sum must fall from 1.6 to 0.4, at least cost evenly: 0.3 each.
    assert_close(plan.actions, TARGET - 0.3, rtol=0.0, atol=0.06)
    assert plan.feasible
    assert np.all(plan.cost <= 1e-5)
    assert plan.value == pytest.approx(-4 * 0.3**2, abs=0.01)
    assert 0.0 < info["feasible_share"][-1] < 1.0
    # No sequence costs less than the plan, but the backup is further from the limit.
    assert score(ACTIVE, plan.backup_actions).margin[0] < plan.margin[0] - 0.1


def test_without_a_feasible_point_the_least_margin_is_the_backup(solver):
    _, plan, info = solver(HOPELESS)
    assert not plan.feasible
    assert not info["feasible_share"].any()
    assert_close(plan.backup_actions, SAFEST, rtol=0.0, atol=0.06)
    assert_close(plan.actions, plan.backup_actions)


@pytest.mark.parametrize("problem", [FREE, ACTIVE, HOPELESS])
def test_plan_reports_the_score_of_its_actions(solver, problem):
    _, plan, info = solver(problem)
    assert_close(
        Score(plan.value, plan.cost, plan.margin), score(problem, plan.actions)
    )
    assert_close((info["value"][-1], info["cost"][-1]), (plan.value, plan.cost))
    assert len(info["value"]) == solver.optimizer.config.num_iter


def test_the_incumbent_never_gets_worse(solver):
    best = solver(FREE, decisions=1)[2]["value"]
    assert np.all(np.diff(best) >= 0.0)
    assert best[-1] > best[0]


def test_a_candidate_that_is_not_finite_never_wins(solver):
    _, plan, _ = solver(FREE._replace(nan_above=0.2))
    assert plan.actions[0, 0] <= 0.2
    assert np.isfinite(plan.value)
    assert_close(plan.actions[1], TARGET[1], rtol=0.0, atol=0.06)


def test_nothing_finite_gives_no_plan(solver):
    _, plan, _ = solver(FREE._replace(nan_above=-1e3))
    assert not plan.feasible
    for actions in (plan.actions, plan.backup_actions):
        assert np.all(np.isfinite(actions))


def test_same_key_same_plan_other_key_other(solver):
    one, again, other = (
        solver(FREE, key, decisions=1)[1] for key in (KEY, KEY, jax.random.key(1))
    )
    assert_close(one, again, rtol=0.0, atol=0.0)
    assert np.all(one.actions != other.actions)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_next_decision_starts_from_this_one(solvers, name):
    solver = solvers[name]
    state, plan, _ = solver(FREE)
    if name == "CEM":
        assert_close(state.mean, plan.actions)
    shifted = solver.optimizer.shift(state)
    assert_close(shifted.mean, np.asarray(state.mean)[[1, 1]])
    if name == "ICEM":
        assert state.elites.shape == (4, 2, 2)
        assert_close(shifted.elites, np.asarray(state.elites)[:, [1, 1]])


def test_search_is_centred_on_the_last_plan(solvers):
    for solver in solvers.values():
        start = solver.optimizer.init(KEY)
        centred = start._replace(mean=jnp.asarray(TARGET))
        cold, warm = (
            solver.once(KEY, state, FREE)[2]["value"][0] for state in (start, centred)
        )
        assert warm > cold


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Penalty(lmbda=3.0), TARGET - 0.3),  # exact: the multiplier is 0.6
        (Unconstrained(), TARGET),
    ],
)
def test_other_rules_have_their_own_optimum(rule, expected):
    solver = Solver(CEM(2, CEM_CONFIG), rule)
    _, plan, _ = solver(ACTIVE)
    assert_close(plan.actions, expected, rtol=0.0, atol=0.06)
    assert plan.feasible
    assert (plan.cost[0] > 1.0) == isinstance(rule, Unconstrained)


# Two constraints at once.


def test_one_constraint_binds_and_the_other_does_not(solver):
    # The first step alone must lose 0.5 of its sum; the sum of all, then 1.1, is free.
    _, plan, _ = solver(Problem(TARGET, limit=1.5, first_limit=0.1))
    expected = TARGET - np.array([[0.25], [0.0]])
    assert_close(plan.actions, expected, rtol=0.0, atol=0.06)
    assert plan.feasible
    assert_close(plan.margin, np.array([1.1 - 1.5, 0.0]), rtol=0.0, atol=0.1)


def test_both_constraints_bind(solver):
    # The first step falls to a sum of -0.2, which leaves the second one 0.6 of 1.0.
    _, plan, _ = solver(Problem(TARGET, limit=0.4, first_limit=-0.2), decisions=8)
    expected = TARGET - np.array([[0.4], [0.2]])
    assert_close(plan.actions, expected, rtol=0.0, atol=0.08)
    assert plan.feasible
    assert_close(plan.margin, np.zeros(2), rtol=0.0, atol=0.06)


def test_each_constraint_may_cost_up_to_its_own_threshold(solver):
    # Limits of 0 with allowances of 0.4 and -0.2 + 0.3 = 0.1 are limits there.
    problem = Problem(TARGET, limit=0.0, first_limit=-0.2)
    _, plan, _ = solver(problem, threshold=(1.5, 0.3))
    expected = TARGET - np.array([[0.25], [0.0]])
    assert_close(plan.actions, expected, rtol=0.0, atol=0.06)
    assert plan.feasible
    assert plan.cost[1] == pytest.approx(0.3, abs=0.05)
    assert plan.cost[0] > 0.9


def test_other_problems_and_thresholds_do_not_compile_again(solver):
    solver(FREE)
    before = solver.solve._cache_size()
    for threshold in ((0.0, 0.0), (2.0, 0.5)):
        for problem in (ACTIVE, HOPELESS, Problem(TARGET, 0.4, -0.2)):
            solver(problem, threshold=threshold)
    assert solver.solve._cache_size() == before


# iCEM's own tricks.


def recorded(solvers, state, problem, key=KEY):
    """Values of the candidates of each iteration, and the plan."""
    Recording.log.clear()
    _, plan, _ = solvers["ICEM"].once(key, state, problem)
    jax.effects_barrier()
    return [np.asarray(v) for v in Recording.log if len(v) > 2], plan


def icem_state(mean=0.0, elites=0.0):
    shape = np.zeros((4, 2, 2), np.float32)
    return ICEMState(shape[0] + np.float32(mean), shape + np.float32(elites))


def test_icem_shrinks_its_population_and_keeps_elites(solvers):
    values, _ = recorded(solvers, icem_state(), FREE)
    # 80, 40, then not below twice the 8 elites; 4 kept elites join.
    assert [len(v) for v in values] == [84, 44, 24, 20]
    assert sum(map(len, values)) == ICEM_CONFIG.num_scored
    for before, after in itertools.pairwise(values):
        kept = np.sort(before)[-4:]
        assert np.all(np.isin(kept, after))
        assert not np.isin(np.sort(before)[:-4], after).any()


def test_icem_population_never_grows():
    config = dataclasses.replace(ICEM_CONFIG, num_samples=10, num_elites=8)
    assert [config.population(i) for i in range(3)] == [10, 10, 10]


def test_icem_tries_the_elites_of_the_last_decision(solvers):
    elites = np.stack([TARGET + 0.001 * i for i in range(4)])
    values, plan = recorded(solvers, icem_state(elites=elites), FREE)
    assert plan.value >= -1e-6
    expected = [-4 * (0.001 * i) ** 2 for i in range(4)]
    nearest = np.abs(values[0][:, None] - expected).min(0)
    assert np.all(nearest < 1e-8)


def test_icem_tries_its_mean_in_the_last_iteration():
    config = dataclasses.replace(ICEM_CONFIG, num_iter=1)
    solve = compiled(ICEM(2, config), pose, FeasibleFirst())
    state = icem_state(mean=TARGET)
    _, plan, _ = solve(KEY, state, FREE, jnp.zeros(2))
    assert_close(plan.actions, TARGET, rtol=0.0, atol=0.0)
    assert plan.value == 0.0


def first_values(**changes):
    """Values of the first iteration's candidates around 0, in the order drawn."""
    config = dataclasses.replace(ICEM_CONFIG, num_iter=2, init_std=0.1, **changes)
    solve = compiled(ICEM(2, config), pose, Recording())
    Recording.log.clear()
    solve(KEY, icem_state(), Problem(np.zeros((2, 2), np.float32)), jnp.zeros(2))
    jax.effects_barrier()
    values = [np.asarray(v) for v in Recording.log if len(v) > 2]
    assert sum(map(len, values)) == config.num_scored
    return values


def test_icem_draws_its_first_candidates_at_widths_even_in_the_logarithm():
    # Populations of one size are one loop; of different sizes, one each.
    alike, spread = first_values(), first_values(std_spread=50.0, population_decay=1.0)
    assert [len(v) for v in spread] == [84, 84]
    ratio = np.sqrt(spread[0][:80] / alike[0][:80])
    assert_close(ratio, np.geomspace(1.0, 0.02, 80, dtype=np.float32), rtol=1e-3)


def test_icem_with_spread_widths_refines_a_good_start():
    # Almost all candidates of a wide search are clipped; the narrow ones are not.
    found = {}
    for spread in (1.0, 50.0):
        config = dataclasses.replace(
            ICEM_CONFIG, num_iter=1, init_std=5.0, std_spread=spread
        )
        solve = compiled(ICEM(2, config), pose, FeasibleFirst())
        start = icem_state(mean=TARGET + 0.1, elites=TARGET + 0.1)
        found[spread] = [
            solve(key, start, FREE, jnp.zeros(2))[2]["value"][0]
            for key in jax.random.split(KEY, 8)
        ]
    assert np.median(found[1.0]) == pytest.approx(-0.04, abs=1e-6)  # the start itself
    assert np.median(found[50.0]) > -0.02


# MinMax.


class Rules(NamedTuple):
    """The harm `f(x, y)`: weights `[9]` or `[C, 9]` of the terms in `harm`."""

    weights: np.ndarray
    least: float = -1e7  # the cost is never below this
    hidden: float = 0.0  # 1 hides the cost, so that only the margin tells
    target: float = 0.0  # where the value is best, at every step
    budget: float = -1e8  # by default nothing is feasible: x minimises the harm


def weights(**named):
    names = ("xx", "x", "yy", "y", "xy", "sine", "distance", "sum", "one")
    return np.array([named.pop(name, 0.0) for name in names], np.float32)


def harm(w, x, y):
    """Terms of the first step, and the sum of both players over all steps."""
    x0, y0 = x[0, 0], y[0, 0]
    first = [x0**2, x0, y0**2, y0, x0 * y0, jnp.sin(x0 * y0 + 0.4 * x0), abs(x0 - y0)]
    return w @ jnp.stack([*first, x.sum() + y.sum(), jnp.ones(())])


def game(rules):
    def nominal(x):
        low = jnp.full(len(jnp.atleast_2d(rules.weights)), -1e7)
        return Score(-jnp.sum((x - rules.target) ** 2), low, low)

    def attacked(x, y):
        f = harm(jnp.atleast_2d(rules.weights), x, y)
        return (1.0 - rules.hidden) * jnp.maximum(f, rules.least), f

    return game_of(nominal, attacked)


class Referee:
    """MinMax with its search compiled once for all rules."""

    def __init__(self, **settings):
        self.config = MinMaxConfig(horizon=2, **settings)
        minmax = MinMax(1, 1, self.config)
        self.start = jit(minmax.init)(KEY)

        @jit
        def once(key, state, rules):
            num = len(jnp.atleast_2d(rules.weights))
            constraint = constrain(FeasibleFirst(), rules.budget, num)
            return minmax.optimize(key, state, game(rules), constraint)

        self.once = once

    def __call__(self, rules, key=KEY):
        return jax.device_get(self.once(key, self.start, rules))


GENEROUS = {
    "iterations": 10,
    "num_iter_x": 2,
    "num_iter_y": 2,
    "num_samples_x": 64,
    "num_samples_y": 32,
    "num_elites_x": 8,
    "num_elites_y": 6,
    "num_fixed_elites_x": 2,
    "num_fixed_elites_y": 4,
    "std_decay": 0.7,
    "init_std_x": 0.5,
}
# Little enough of everything for the two to differ by what is told apart.
QUICK = {
    "iterations": 1,
    "num_iter_x": 1,
    "num_iter_y": 1,
    "num_samples_x": 8,
    "num_samples_y": 8,
    "num_elites_x": 2,
    "num_elites_y": 2,
    "num_fixed_elites_x": 1,
    "num_fixed_elites_y": 3,
    "init_std_x": 0.5,
    "corners": False,
}
SEPARABLE = weights(xx=1.0, x=-0.6, yy=-1.0, y=-0.4, one=0.05)
CURVED = weights(xy=1.0, xx=0.5, yy=-0.5, x=0.2, y=-0.1)
SINE = weights(xx=1.0, yy=-1.0, sine=0.5)
DISTANCE = weights(distance=1.0)
BOTH = weights(sum=1.0, one=-2.6)  # of which 2 are the adversary's


@pytest.fixture(scope="module")
def worst_case():
    return Referee(**GENEROUS)


@pytest.fixture(scope="module")
def mean():
    return Referee(**GENEROUS, mode="mean", corners=False)


@pytest.fixture(scope="module")
def quick():
    return Referee(**QUICK, verify=False)


GRID = np.linspace(-1.0, 1.0, 201, dtype=np.float32)


@functools.cache
def harm_table(name):
    """`f(x, y)` over the grid, `[201, 201]`."""
    f = jit(jax.vmap(jax.vmap(harm, (None, None, 0)), (None, 0, None)))
    points = np.stack([GRID, 0 * GRID], axis=1)[..., None]
    return np.asarray(f(globals()[name], points, points))


def test_the_games_have_the_saddle_points_they_should():
    for name, saddle in (("SEPARABLE", (0.3, -0.2)), ("CURVED", (-0.05, -0.15))):
        table = harm_table(name)
        x = table.max(1).argmin()
        assert_close((GRID[x], GRID[table[x].argmax()]), saddle, rtol=0.0, atol=0.011)
    for name in ("SEPARABLE", "CURVED", "SINE"):
        table = harm_table(name)
        assert table.max(1).min() == pytest.approx(table.min(0).max(), abs=1e-3)


@pytest.mark.parametrize("mode", ["worst_case", "mean"])
@pytest.mark.parametrize("name", ["SEPARABLE", "CURVED", "SINE"])
def test_finds_the_saddle_point(request, mode, name):
    table = harm_table(name)
    _, plan, _ = request.getfixturevalue(mode)(Rules(globals()[name]))
    x = plan.actions[0, 0]
    assert x == pytest.approx(GRID[table.max(1).argmin()], abs=0.05)
    # The plan does not understate what the worst adversary would do to it.
    row = table[np.abs(GRID - x).argmin()]
    assert plan.cost[0] == pytest.approx(row.max(), abs=0.03)


def test_worst_case_holds_where_averaging_is_wrong(worst_case):
    # Against both corners the best is the middle, whatever their average says.
    for key in jax.random.split(KEY, 3):
        state, plan, _ = worst_case(Rules(DISTANCE), key)
        assert abs(plan.actions[0, 0]) < 0.05
        assert plan.cost[0] == pytest.approx(1.0 + abs(plan.actions[0, 0]), abs=1e-6)
        assert {-1.0, 1.0} <= set(state.archive[:, 0, 0].tolist())


def test_best_value_that_no_adversary_makes_unsafe(worst_case):
    rules = Rules(BOTH, least=0.0, target=0.8, budget=0.0)
    _, plan, info = worst_case(rules)
    # sum(x) + sum(y) <= 2.6 for all y: 0.3 each, far from the target.
    assert_close(plan.actions, np.full((2, 1), 0.3), rtol=0.0, atol=0.06)
    assert plan.feasible
    assert plan.actions.sum() <= 0.6 + 1e-4
    assert plan.value == pytest.approx(-0.5, abs=0.1)
    assert 0.0 < info["feasible_share"][-1] < 1.0


# The first constraint is attacked by y = -1 and the second by y = 1.
OPPOSED = np.stack([weights(x=1.0, y=-1.0, one=-1.2), weights(sum=1.0, one=-2.5)])


def test_best_value_under_two_constraints_that_both_bind(worst_case):
    rules = Rules(OPPOSED, least=0.0, target=0.8, budget=0.0)
    state, plan, _ = worst_case(rules)
    # x0 + 1 <= 1.2 and sum(x) + 2 <= 2.5.
    expected = np.array([[0.2], [0.3]])
    assert_close(plan.actions, expected, rtol=0.0, atol=0.08)
    assert plan.feasible
    assert plan.actions[0, 0] <= 0.2 + 1e-4
    assert plan.actions.sum() <= 0.5 + 1e-4
    # The worst adversary of each is kept.
    assert {-1.0, 1.0} <= set(state.archive[:, 0, 0].tolist())
    assert_close(plan.margin, np.zeros(2), rtol=0.0, atol=0.1)


def test_one_of_two_constraints_binds(worst_case):
    free = OPPOSED + np.array([weights(), weights(one=-1.0)])
    rules = Rules(free, least=0.0, target=0.8, budget=0.0)
    _, plan, _ = worst_case(rules)
    assert_close(plan.actions, np.array([[0.2], [0.8]]), rtol=0.0, atol=0.08)
    assert plan.feasible
    assert plan.actions[0, 0] <= 0.2 + 1e-4
    assert plan.margin[1] == pytest.approx(plan.actions.sum() - 1.5, abs=1e-4)


def test_the_archive_keeps_the_worst_reply_under_each_constraint():
    """Room for three of the six worst replies: the best agent's come first."""
    search = MinMax(1, 1, MinMaxConfig(num_fixed_elites_y=3))
    y = jnp.arange(6.0)[:, None, None]
    cost = np.zeros((6, 2, 3), np.float32)
    margin = np.zeros_like(cost)
    # Costs and, where all are equal, margins: of agent 0 the worst are 1, 2 and 3.
    cost[1, 0, 0] = cost[2, 0, 1] = 2.0
    margin[3, 0, 2] = 0.1
    margin[4, 0, :2] = 9.0  # costs less, so it is not the worst
    cost[[4, 5, 5], 1, [0, 1, 2]] = 7.0
    attack = _Attack(y, jnp.asarray(cost), jnp.asarray(margin))
    archive = search._next_archive(attack, y[:3])
    assert archive.ravel().tolist() == [1.0, 2.0, 3.0]
    # With more room the other agent's follow, then the older ones; none twice.
    search = MinMax(1, 1, MinMaxConfig(num_fixed_elites_y=6))
    archive = search._next_archive(attack, y)
    assert archive.ravel().tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 0.0]


@pytest.mark.parametrize("spread", [1.0, 50.0])
def test_gentle_plans_are_proposed_where_only_they_are_feasible(spread):
    """Feasible is `x^2 <= 0.01` in the first step; the best of it is 0.1."""
    play = Referee(
        **QUICK | {"init_std_x": 5.0, "num_samples_x": 40, "num_elites_x": 6},
        std_spread_x=spread,
    )
    rules = Rules(weights(xx=1.0), target=1.0, budget=0.01)
    plans = [play(rules, key)[1] for key in jax.random.split(KEY, 8)]
    first = np.array([plan.actions[0, 0] for plan in plans])
    assert all(plan.feasible for plan in plans)
    if spread == 1.0:  # nearly all candidates are clipped
        assert np.median(first) < 0.02
    else:
        assert np.median(first) > 0.05


def test_a_game_that_cannot_be_won_is_reported(worst_case):
    rules = Rules(weights(sum=1.0, one=10.0), least=0.0, target=0.8, budget=0.0)
    _, plan, info = worst_case(rules)
    assert not plan.feasible
    assert not info["feasible_share"].any()
    assert_close(plan.backup_actions, np.full((2, 1), -1.0), rtol=0.0, atol=0.02)
    assert plan.cost[0] == pytest.approx(10.0 + plan.actions.sum() + 2.0, abs=1e-4)


def test_the_adversary_sees_margins_where_all_costs_are_equal(mean):
    rules = Rules(weights(yy=-1.0, y=1.4, one=-1.49), hidden=1.0, budget=0.0)
    state, plan, _ = mean(rules)  # margin -(y - 0.7)^2 - 1
    assert plan.cost[0] == 0.0
    assert plan.feasible
    assert state.archive[0, 0, 0] == pytest.approx(0.7, abs=0.03)
    assert plan.margin[0] == pytest.approx(-1.0, abs=1e-3)


def test_a_harm_that_is_not_finite_is_never_accepted(worst_case):
    state, plan, _ = worst_case(Rules(np.full(9, np.nan, np.float32), budget=0.0))
    assert not plan.feasible
    assert np.all(np.isfinite(plan.actions))
    assert np.all(np.isfinite(state.archive))


def test_same_key_same_game_other_key_other(worst_case):
    one, again, other = (
        worst_case(Rules(SINE), k) for k in (KEY, KEY, jax.random.key(1))
    )
    assert_close(one, again, rtol=0.0, atol=0.0)
    assert np.all(one[1].actions != other[1].actions)


def test_fresh_adversaries_push_out_the_oldest(quick):
    archive = np.array([0.1, 0.2, 0.3], np.float32)[:, None, None] * np.ones((1, 2, 1))
    start = quick.start._replace(archive=jnp.asarray(archive, jnp.float32))
    state, plan, _ = quick.once(KEY, start, Rules(weights(y=1.0)))
    assert state.archive[0, 0, 0] > 0.3
    assert_close(state.archive[1:], start.archive[:2])
    # Without verification the archive alone judges the plan.
    assert plan.cost[0] == pytest.approx(float(state.archive[0, 0, 0]))
    # A known adversary that is still the worst stays once, not twice.
    known = start._replace(archive=start.archive.at[0].set(1.0))
    state, _, _ = quick.once(KEY, known, Rules(weights(y=1.0)))
    assert_close(state.archive, known.archive)


def test_verification_attacks_the_plan_once_more(quick):
    verified = Referee(**QUICK, verify=True)
    idle = quick.start._replace(archive=np.zeros((3, 2, 1), np.float32))
    excess = []
    for key in jax.random.split(KEY, 8):
        _, before, _ = quick.once(key, idle, Rules(DISTANCE))
        _, after, _ = verified.once(key, idle, Rules(DISTANCE))
        excess.append(float(after.cost[0] - before.cost[0]))
        assert after.cost[0] <= 1.0 + abs(after.actions[0, 0]) + 1e-6
    assert min(excess) >= 0.0
    assert max(excess) > 0.1


def test_warm_start_is_the_last_game_one_step_ahead(worst_case):
    state, plan, _ = worst_case(Rules(CURVED))
    assert_close(state.x_mean, plan.actions)
    shifted = MinMax(1, 1, worst_case.config).shift(jax.tree.map(jnp.asarray, state))
    for name, axis in (("x_mean", 0), ("y_mean", 0), ("x_elites", 1), ("archive", 1)):
        expected = np.take(getattr(state, name), [1, 1], axis)
        assert_close(getattr(shifted, name), expected)


def test_search_starts_from_the_agents_of_the_state(quick):
    rules = Rules(weights(xx=1.0, x=-1.8))
    best = quick.start._replace(x_elites=np.full((1, 2, 1), 0.9, np.float32))
    far, near = (quick.once(KEY, s, rules)[1] for s in (quick.start, best))
    assert near.cost[0] == pytest.approx(-0.81, abs=1e-5)
    assert far.cost[0] > near.cost[0]


@pytest.mark.parametrize("y_dim", [1, 2, 3])
def test_corners_are_all_sign_patterns_held_for_a_while(y_dim):
    corners = np.asarray(MinMax(1, y_dim, MinMaxConfig())._corners())
    assert corners.shape == (3 * 2**y_dim, 20, y_dim)
    assert len(np.unique(corners, axis=0)) == 3 * 2**y_dim
    for part, duration in zip(np.split(corners, 3), (1, 5, 20), strict=True):
        assert np.all(np.abs(part[:, :duration]) == 1.0)
        assert np.all(part[:, :duration] == part[:, :1])
        assert not part[:, duration:].any()


def test_corners_of_many_dimensions_are_the_axes():
    corners = np.asarray(MinMax(1, 5, MinMaxConfig())._corners())
    assert len(np.unique(corners[:, 0], axis=0)) == 10
    assert np.all(np.abs(corners[:, 0]).sum(1) == 1.0)


def test_corners_of_a_short_horizon_are_not_there_twice():
    corners = np.asarray(MinMax(1, 1, MinMaxConfig(horizon=2))._corners())
    assert len(np.unique(corners, axis=0)) == len(corners) == 4


def test_first_adversaries_are_at_corners():
    minmax = MinMax(1, 3, MinMaxConfig(num_fixed_elites_y=30, num_samples_y=30))
    archive = np.asarray(minmax.init(KEY).archive)
    assert np.all(np.abs(archive) == 1.0)
    assert len(np.unique(archive[:, 0], axis=0)) > 4


# Settings.


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (CEMConfig, "horizon", 0),
        (CEMConfig, "num_iter", 0),
        (CEMConfig, "num_samples", 0),
        (CEMConfig, "num_elites", 0),
        (CEMConfig, "num_elites", 9999),
        (CEMConfig, "init_std", 0.0),
        (CEMConfig, "min_std", -1.0),
        (CEMConfig, "alpha", 1.0),
        (ICEMConfig, "num_elites", 9999),
        (ICEMConfig, "exponent", -0.5),
        (ICEMConfig, "keep_fraction", 1.5),
        (ICEMConfig, "population_decay", 0.9),
        (ICEMConfig, "std_spread", 0.5),
        (MinMaxConfig, "mode", "median"),
        (MinMaxConfig, "horizon", 0),
        (MinMaxConfig, "iterations", 0),
        (MinMaxConfig, "num_iter_y", 0),
        (MinMaxConfig, "num_elites_x", 9999),
        (MinMaxConfig, "num_elites_y", 9999),
        (MinMaxConfig, "num_fixed_elites_x", 9999),
        (MinMaxConfig, "num_fixed_elites_y", 9999),
        (MinMaxConfig, "exponent_x", -1.0),
        (MinMaxConfig, "exponent_y", -1.0),
        (MinMaxConfig, "init_std_x", 0.0),
        (MinMaxConfig, "init_std_y", float("nan")),
        (MinMaxConfig, "std_decay", 0.0),
        (MinMaxConfig, "std_spread_x", 0.5),
        (MinMaxConfig, "min_std", 0.0),
        (Penalty, "barrierfn", "log"),
        (Penalty, "lmbda", -1.0),
    ],
)
def test_impossible_settings_name_the_field(config, field, value):
    with pytest.raises(ValueError, match=field):
        config(**{field: value})


def test_a_horizon_must_be_positive_for_both_players():
    with pytest.raises(ValueError, match="horizon must be >= 1"):
        MinMaxConfig(horizon=0)


def test_a_rollout_that_diverges_is_not_safe():
    # A cost that counts margins above 0 takes NaN for 0; the margin does not.
    def nominal(x):
        return Score(-jnp.sum(x**2), jnp.zeros(1), -jnp.ones(1))

    def attacked(x, y):
        diverges = x[0, 0] > 0.0
        return jnp.zeros(1), jnp.where(diverges, jnp.nan, -1.0) * jnp.ones(1)

    optimizer = MinMax(1, 1, MinMaxConfig(horizon=2, iterations=1))
    constraint = constrain(FeasibleFirst())
    _, plan, _ = jit(
        lambda key, state: optimizer.optimize(
            key, state, game_of(nominal, attacked), constraint
        )
    )(KEY, optimizer.init(KEY))
    assert plan.feasible
    assert plan.actions[0, 0] <= 0.0
    assert plan.margin == -1.0
    scores = jax.vmap(lambda x: Score(x.sum(), jnp.zeros(1), x.reshape(1)))
    candidates = gaussian.evaluate(
        lambda x: jax.tree.map(lambda leaf: leaf[0], scores(x)),
        jnp.array([[[jnp.nan]], [[1.0]]]),
    )
    assert candidates.score.cost[0, 0] == np.inf
    assert candidates.score.cost[1, 0] == 0.0


def test_noise_is_jaxs_own_to_the_bit():
    expected = jax.random.normal(KEY, (5, 1, 3))
    assert np.array_equal(gaussian.coloured_noise(KEY, 2.0, (5, 1, 3)), expected)


def test_the_foremost_is_the_first_of_a_sort():
    rng = np.random.default_rng(0)
    # Few values, so that there are ties of the first, of both and of all keys.
    keys = rng.integers(0, 3, (2, 200, 12, 4)).astype(np.float32)
    keys[0, keys[0] == 2.0] = np.inf
    keys[1, :20] = np.inf
    keys[:, 20:40] -= 1.0
    keys[:, 40:60][keys[:, 40:60] == 0.0] = -np.inf
    keys[:, 60:80][keys[:, 60:80] == 0.0] = np.nan
    keys[1, 80:90] = np.nan
    found = jax.vmap(gaussian.foremost)(*jnp.asarray(keys))
    for trial, row in enumerate(np.asarray(found)):
        for column, index in enumerate(row):
            pair = keys[:, trial, :, column]
            pair = np.where(np.isnan(pair), np.inf, pair)
            assert index == np.lexsort((pair[0], pair[1]))[0]


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (CEM(1, CEMConfig(num_elites=9, num_samples=33)), 33),
        (ICEM(1, ICEMConfig(num_elites=9, num_samples=33), 2), 18),
        # 35 agents against 3 adversaries; 3 known, 24 corners and 16 fresh against 2.
        (MinMax(1, 3, MinMaxConfig()), 105),
        (MinMax(1, 3, MinMaxConfig(num_samples_y=40), 2), 67),
    ],
)
def test_the_batch_of_a_search(optimizer, expected):
    assert optimizer.batch_size == expected


def test_every_refit_of_a_game_has_draws_of_its_own():
    player = MinMax(1, 2, MinMaxConfig(horizon=6, num_iter_x=3, num_iter_y=2))
    c = player.config
    ys, xs = player._draws(KEY)
    final, *rounds = jax.random.split(KEY, c.iterations + 1)
    steps = [jax.random.split(key) for key in rounds]
    expected = {
        "y": ([*(step[0] for step in steps), final], c.num_iter_y, c.num_samples_y, 2),
        "x": ([step[1] for step in steps], c.num_iter_x, c.num_samples_x, 1),
    }
    for draws, (keys, refits, rows, dim) in zip(
        (ys, xs), expected.values(), strict=True
    ):
        assert draws.noise.shape == (len(keys), refits, rows, 6, dim)
        for i, key in enumerate(keys):
            for j, own in enumerate(jax.random.split(key, refits)):
                noise = gaussian.coloured_noise(own, 2.0, (rows, 6, dim))
                assert_close(draws.noise[i, j], noise)
                assert draws.pick_key[i, j] == own
