import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from safex import rollout
from safex.agents.mpc import MPCAgent, Widths
from safex.agents.planners import (
    Nominal,
    OptimisticPessimistic,
    Pessimistic,
    PesTraj,
    Safe,
    Situation,
)
from safex.config import (
    CEMConfig,
    MinMaxConfig,
    MPCConfig,
    ScheduleConfig,
    TerminalConfig,
)
from safex.constraints.feasible_first import FeasibleFirst
from safex.constraints.penalty import Penalty
from safex.constraints.rule import Rule
from safex.models.true_dynamics import TrueDynamics
from safex.optimizers.cem import CEM
from safex.optimizers.minmax import MinMax
from safex.types import Transition
from tests.helpers import assert_close
from tests.test_rollout import ACTIONS, AL, EP, MEAN_PATH, START, Drift, Line

# Compiling takes far longer than running here: skip the optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY = jax.random.key(0)
H = len(ACTIONS)
P = 16
# The second limit is out of the mean path's reach.
LINE = Line(2.0, 10.0)
DRIFT = Drift()
# Reward and cost of the mean path, as in test_rollout.
MEAN_VALUE = (207.5 + 241.5 + 173.5) / 3.0
MEAN_COST, MEAN_MARGIN = np.array([4.0, 0.0]), np.array([2.0, -6.5])


class BackedLine(Line):
    """With a backup that goes on as it is."""

    def backup(self, obs):
        return jnp.zeros(1)


def situation(pessimism=0.0, optimism=0.0, pes_steps=np.inf):
    widths = (jnp.broadcast_to(jnp.float32(w), 2) for w in (pessimism, optimism))
    return Situation(START, jnp.float32(0.0), *widths, pes_steps=pes_steps)


def problem(planner, key=KEY, **widths):
    return planner.problem(key, LINE, DRIFT, situation(**widths))


def particle_scores(key, mode="DIST"):
    """Scores `[P]`, `[P, 2]` of the particles a planner draws with a key."""
    noise = rollout.draw_noise(key, mode, P, H, 2, DRIFT.num_members)
    transition = rollout.sampled_transition(DRIFT, 0.0, mode, LINE)

    def particle(noise):
        return rollout.evaluate(LINE, transition, START, ACTIONS, noise)

    return jax.vmap(particle)(noise)


# Objectives of one player.


@pytest.mark.parametrize("planner", [Nominal, PesTraj])
def test_without_noise_all_planners_score_the_mean_path(planner):
    score = problem(planner(H, "MEAN", P))(ACTIONS)
    assert_close(tuple(score), (MEAN_VALUE, MEAN_COST, MEAN_MARGIN))


def test_safe_averages_value_and_cost_over_the_same_particles():
    score = problem(Safe(H, "DIST", P))(ACTIONS)
    value, cost, margin = particle_scores(KEY)
    assert np.ptp(cost[:, 0]) > 0.1
    assert_close(tuple(score), (value.mean(), cost.mean(0), margin.max(0)))


def test_pestraj_takes_the_worst_of_particles_of_its_own():
    score = problem(PesTraj(H, "DIST", P))(ACTIONS)
    value_key, cost_key = jax.random.split(KEY)
    of_value, of_cost = particle_scores(value_key), particle_scores(cost_key)
    expected = (of_value.value.mean(), of_cost.cost.max(0), of_cost.margin.max(0))
    assert_close(tuple(score), expected)
    assert score.cost[0] > of_cost.cost[:, 0].mean()
    assert score.cost[0] != of_value.cost[:, 0].max()


def test_the_sampling_mode_reaches_the_rollouts():
    # Members of the stub land at their index, far below the mean path's reward.
    value, cost, _ = problem(Safe(H, "TS1", P))(ACTIONS)
    assert_close(
        (value, cost), tuple(s.mean(0) for s in particle_scores(KEY, "TS1")[:2])
    )


def test_another_key_draws_other_particles():
    planner = Safe(H, "DIST", P)
    other = problem(planner, jax.random.key(1))(ACTIONS)
    assert problem(planner)(ACTIONS).value != other.value


# Games.


def attacked(planner, pessimism, decision=ACTIONS, **widths):
    """Cost and margin `[4, 2]` under the adversaries at the corners."""
    corners = jnp.array(list(itertools.product((-1.0, 1.0), repeat=2)))
    etas = jnp.broadcast_to(corners[:, None], (4, H, 2))
    game = problem(planner, pessimism=pessimism, **widths)
    known = game.nominal(decision)[1]
    return jax.vmap(lambda eta: game.attacked(decision, eta, known))(etas)


def test_pessimism_changes_the_attack_and_never_the_value():
    planner = Pessimistic(H, "MEAN", 1)
    for width in (0.0, 3.0):
        nominal, _ = problem(planner, pessimism=width).nominal(ACTIONS)
        assert_close(tuple(nominal), (MEAN_VALUE, MEAN_COST, MEAN_MARGIN))


def test_without_width_or_noise_the_attack_is_the_nominal_rollout():
    cost, margin = attacked(Pessimistic(H, noise_alpha=0.0), 0.0)
    expected = np.tile(MEAN_COST, (4, 1)), np.tile(MEAN_MARGIN, (4, 1))
    assert_close((cost, margin), expected)


def test_attacked_cost_by_hand():
    # The worst corner pushes dimension 0 up by 2 ep a step, and 3 al at each judgement.
    cost, margin = attacked(Pessimistic(H, noise_alpha=3.0), 2.0)
    path = MEAN_PATH[:, 0] + 2.0 * EP[0] * np.arange(1, 4) + 3.0 * AL[0]
    excess = (path - 2.0).sum()
    assert_close(cost.max(0), np.array([2.0 * excess, 0.0]))
    assert_close(margin.max(0), np.array([excess, path.max() - 10.0]))


@pytest.mark.parametrize("optimistic", [False, True])
def test_what_is_affordable_limits_the_pushes_and_not_the_noise(optimistic):
    # Three pushes of 2 ep cost three steps; one step buys sqrt(1 / 3) of each.
    planner, decision = Pessimistic(H, noise_alpha=3.0), ACTIONS
    if optimistic:
        planner, decision = OPTIMISTIC, luck(0.0)
    cost, _ = attacked(planner, 2.0, decision, pes_steps=1.0)
    pushes = 3**-0.5 * 2.0 * EP[0] * np.arange(1, 4)
    excess = (MEAN_PATH[:, 0] + pushes + 3.0 * AL[0] - 2.0).sum()
    assert_close(cost.max(0), np.array([2.0 * excess, 0.0]))


def test_what_the_backup_does_is_paid_for_as_well():
    planner = Pessimistic(H, noise_alpha=0.0, terminal=TerminalConfig(steps=5))
    env = BackedLine(2.0, 10.0)
    situated = situation(2.0, pes_steps=2.0)
    eta = jnp.ones((H, 2))

    def found(situated):
        game = planner.problem(KEY, env, DRIFT, situated)
        return game.attacked(ACTIONS, eta, game.nominal(ACTIONS)[1])

    assert_close(found(situated), found(situation(2.0 * (2 / 8) ** 0.5)))


def test_an_adversary_who_does_nothing_leaves_the_nominal_rollout():
    game = problem(Pessimistic(H, noise_alpha=3.0), pessimism=2.0)
    score, known = game.nominal(ACTIONS)
    found = game.attacked(ACTIONS, jnp.zeros((H, 2)), known)
    assert_close(found, (score.cost, score.margin))


class Growing(Drift):
    """As uncertain as the line's position is far from 0."""

    def predict(self, state, obs, action):
        prediction = super().predict(state, obs, action)
        std = jnp.array([0.5, 0.0]) * jnp.abs(obs[0])
        return prediction._replace(epistemic_std=std, aleatoric_std=jnp.zeros(2))


@pytest.mark.parametrize("along", ["plan", "attack"])
@pytest.mark.parametrize("optimistic", [False, True])
def test_pushes_go_by_the_stds_of_the_plan_or_of_where_they_led(along, optimistic):
    planner, decision = Pessimistic(H, std_along=along), ACTIONS
    if optimistic:
        planner = dataclasses.replace(OPTIMISTIC, std_along=along)
        decision = luck(0.0)
    game = planner.problem(KEY, LINE, Growing(), situation(1.0))
    known = game.nominal(decision)[1]
    _, margin = game.attacked(decision, jnp.ones((H, 2)), known)
    plan, path = [START[0], *MEAN_PATH[:2, 0]], []
    position = START[0]
    for where, move in zip(plan, np.diff([START[0], *MEAN_PATH[:, 0]]), strict=True):
        std = 0.5 * abs(where if along == "plan" else position)
        position = position + move + std
        path.append(position)
    assert_close(margin[0], np.maximum(np.array(path) - 2.0, 0.0).sum())


def test_more_pessimism_never_promises_less_cost():
    planner = Pessimistic(H, noise_alpha=1.0)
    worst = [
        attacked(planner, width)[0][:, 0].max() for width in (0.0, 0.5, 1.0, 2.0, 4.0)
    ]
    assert np.all(np.diff(worst) > 0.0)


def luck(eta, actions=ACTIONS):
    eta = jnp.broadcast_to(jnp.asarray(eta, jnp.float32), (H, 2))
    return jnp.concatenate([eta, actions], axis=1)


OPTIMISTIC = OptimisticPessimistic(horizon=H, obs_dim=2, noise_alpha=3.0)


def test_optimist_acts_with_the_actions_alone():
    assert_close(OPTIMISTIC.actions(luck([0.3, -0.3])), ACTIONS)
    assert_close(Safe(H).actions(ACTIONS), ACTIONS)


def test_optimist_hopes_for_the_value_and_leaves_the_cost_to_the_adversary():
    game = problem(OPTIMISTIC, optimism=2.0, pessimism=9.0)

    def nominal(decision):
        return game.nominal(decision)[0]

    plain = nominal(luck([0.0, 0.0]))
    assert_close(plain.value, np.float32(MEAN_VALUE))
    for eta, sign in (([1.0, 1.0], 1), ([-1.0, 1.0], -1)):
        score = nominal(luck(eta))
        assert sign * (score.value - plain.value) > 1.0
        np.testing.assert_array_equal(score.cost, np.zeros(2))
        np.testing.assert_array_equal(score.margin, np.full(2, -np.inf))
    # By 2 ep a step: the reward is 100 obs + next_obs.
    step = 2.0 * EP[0]
    gained = (100.0 * step * (0 + 1 + 2) + step * (1 + 2 + 3)) / 3.0
    assert_close(nominal(luck([1.0, 1.0])).value, np.float32(MEAN_VALUE + gained))


def test_hope_never_changes_the_attack():
    expected = attacked(Pessimistic(H, noise_alpha=3.0), 2.0)
    for eta in ([0.0, 0.0], [1.0, -1.0]):
        assert_close(attacked(OPTIMISTIC, 2.0, luck(eta)), expected)


# The agent.


@dataclasses.dataclass(frozen=True)
class Learner(Drift):
    """`Drift` that learns one number: how often it was fitted, not what."""

    def init(self, key):
        return jnp.zeros(())

    def fit(self, key, state, data):
        return state + 0.0, {"fits": jnp.ones(())}

    def test_rows(self, data):
        return data


class Hill(Line):
    """Reward for going right, of the size of a step."""

    def reward(self, obs, action, next_obs):
        return next_obs[0]


HILL = Hill(3.0)
CONFIG = MPCConfig(
    beta=(0.5, 1.0),
    pes_alpha=1.0,
    opt_alpha=0.5,
    pes_schedule=ScheduleConfig(kind="linear", final=3.0, num_episodes=2),
    episode_steps=20,
)


SEARCH = MinMaxConfig(
    iterations=8,
    horizon=H,
    num_samples_x=100,
    num_samples_y=16,
    num_elites_x=8,
    num_elites_y=4,
    init_std_x=1.0,
    std_decay=0.7,
    std_spread_x=1.0,
)


class Counting(FeasibleFirst):
    """Feasible first, whose state adds up what the episodes cost past the budget."""

    def init(self, num_constraints):
        return jnp.zeros(num_constraints)

    def update(self, state, cost_return, cost_budget):
        return state + cost_return - cost_budget


def transition(cost, obs=START, action=ACTIONS[0]):
    cost, no = jnp.asarray(cost, jnp.float32), jnp.zeros((), bool)
    return Transition(obs, action, jnp.zeros(()), cost, obs, no, no)


class Compiled:
    """An agent with its act compiled."""

    def __init__(self, agent):
        self.agent = agent
        self.act = jit(agent.act)
        self.state = agent.init(KEY)

    def __call__(self, key=KEY, obs=START, state=None, **changes):
        widths = {name: jnp.float32(width) for name, width in changes.items()}
        state = (state or self.state)._replace(**widths)
        return jax.device_get(self.act(key, state, obs))


@pytest.fixture(scope="module")
def minmax():
    """The optimist; without optimism it plans as the pessimist does."""
    planner = OptimisticPessimistic(horizon=H, obs_dim=2, noise_alpha=0.0)
    search, rule = MinMax(3, 2, SEARCH), Counting()
    return Compiled(MPCAgent(HILL, Learner(), planner, search, rule, CONFIG))


@pytest.fixture(scope="module")
def reckless():
    """Plans for the value alone, in effect, so that plan and backup differ."""
    config = CEMConfig(horizon=H, num_iter=3, num_elites=5, num_samples=50)
    search, rule = CEM(1, config), Penalty(lmbda=1e-4)
    return Compiled(MPCAgent(HILL, Learner(), Safe(H), search, rule, CONFIG))


def test_more_pessimism_acts_with_more_care(minmax):
    actions = []
    for width in (0.0, 2.0, 4.0):
        _, action, metrics = minmax(pessimism=width, optimism=0.0)
        # Half of beta ep of the width must stay free below the limit.
        room = 3.0 - START[0] - 0.5 * width * EP[0]
        assert room - 0.1 < action[0] < room + 1e-4
        assert metrics["plan/feasible"]
        assert not metrics["plan/backup"]
        actions.append(float(action[0]))
    assert actions == sorted(actions, reverse=True)


def test_more_optimism_hopes_for_more(minmax):
    hopes = [minmax(optimism=width) for width in (0.0, 2.0)]
    for state, action, metrics in hopes:
        assert action.shape == (1,)
        assert metrics["plan/feasible"]
        assert state.optimizer_state.x_mean.shape == (H, 3)
    sober, hopeful = (metrics["plan/value"] for _, _, metrics in hopes)
    assert hopeful > sober + 0.1


def test_a_decision_reports_its_belief_and_its_plan(minmax):
    _, action, metrics = minmax()
    belief = minmax.agent.predict(minmax.state, START, action)
    assert_close(metrics["prediction/mean"], belief.mean)
    assert_close(metrics["prediction/epistemic_std"], EP)
    assert_close(metrics["prediction/aleatoric_std"], AL)
    assert metrics["plan/cost"].shape == metrics["plan/margin"].shape == (1,)
    assert metrics["plan/cost"][0] <= 1e-5
    assert metrics["plan/margin"][0] <= 1e-5
    assert metrics["plan/threshold"] == [0.0]
    assert 2.0 < metrics["plan/value"] < 3.5


def test_same_key_same_action_other_key_other(minmax):
    _, one, _ = first = minmax()
    assert_close(minmax(), first, rtol=0.0, atol=0.0)
    assert minmax(jax.random.key(1))[1] != one


def test_nothing_recompiles_as_pessimism_and_episodes_go_on(minmax):
    agent, state = minmax.agent, minmax.state
    for episode in range(3):
        state = agent.begin_episode(KEY, state)
        for _ in range(2):
            state, _, _ = minmax.act(KEY, state, START)
            state = agent.observe(state, transition(cost=[1.0]))
        state, _ = agent.update(KEY, state, None)
        assert state.episode == episode + 1
    assert minmax.act._cache_size() == 1


def test_a_decision_starts_from_the_one_before_one_step_ahead(minmax):
    # With the same key, only the warm start can make a difference.
    first, _, _ = minmax()
    assert not np.array_equal(first.optimizer_state.x_mean, np.zeros((H, 1)))
    assert minmax(state=first)[2]["plan/value"] != minmax()[2]["plan/value"]


def test_an_episode_begins_without_a_warm_start(minmax):
    used, _, _ = minmax()
    again = minmax.agent.begin_episode(jax.random.key(5), used)
    fresh = minmax.agent.optimizer.init(jax.random.key(5))
    assert_close(again.optimizer_state, fresh)
    assert_close(again.pessimism, used.pessimism)


def test_a_plan_that_is_not_feasible_gives_way_to_the_backup(reckless):
    _, action, metrics = reckless(obs=jnp.array([20.0, 0.0]))
    assert not metrics["plan/feasible"]
    assert metrics["plan/backup"]
    assert action[0] < -0.9  # away from the limit, while the plan goes for the value
    _, action, metrics = reckless(obs=jnp.array([-5.0, 0.0]))
    assert metrics["plan/feasible"]
    assert action[0] > 0.9


def test_update_moves_pessimism_by_its_schedule(minmax):
    agent, state = minmax.agent, minmax.state
    assert_close((state.pessimism, state.optimism), (1.0, 0.5))
    for expected in (2.0, 3.0, 3.0):
        state, metrics = agent.update(KEY, state, None)
        assert_close((state.pessimism, state.optimism), (expected, 0.5))
        assert metrics["agent/pessimism"] == expected
        assert metrics["model/fits"] == 1.0


def test_an_episode_begins_with_the_widths_of_the_agent_that_plays_it(minmax):
    widths = Widths.of(MPCConfig(pes_alpha=7.0, opt_alpha=3.0), LINE)
    other = dataclasses.replace(minmax.agent, widths=widths)
    begun = other.begin_episode(KEY, minmax.state)
    assert (begun.pessimism, begun.optimism) == (7.0, 3.0)


@pytest.mark.parametrize(
    ("pes_steps", "pushes"),
    # Two full pushes, or three of sqrt(2 / 3); one, or three of sqrt(1 / 3).
    [(None, (1.0, 2.0, 3.0)), (2.0, (1.0, 2.0, 6**0.5)), (1.0, (1.0, 2**0.5, 3**0.5))],
)
def test_band_holds_all_constant_adversaries(minmax, pes_steps, pushes):
    widths = Widths.of(MPCConfig(beta=(0.5, 1.0), pes_steps=pes_steps), LINE)
    agent = dataclasses.replace(minmax.agent, widths=widths)
    state = minmax.state._replace(pessimism=jnp.float32(2.0))
    nominal, low, high = agent.band(state, START, ACTIONS)
    reach = 2.0 * np.array([0.5, 1.0]) * EP * np.array(pushes)[:, None]
    assert_close(
        (nominal, low, high), (MEAN_PATH, MEAN_PATH - reach, MEAN_PATH + reach)
    )


# The budget of an episode.


def test_the_threshold_is_the_share_of_what_the_budget_has_left():
    config = MPCConfig(cost_budget=(10.0, 0.0), episode_steps=20)
    planner = Safe(horizon=5)
    agent = MPCAgent(LINE, Learner(), planner, CEM(1, SMALL), FeasibleFirst(), config)
    state = agent.init(KEY)
    assert_close(agent.constraint(state).threshold, np.array([10 * 5 / 20, 0.0]))
    state = agent.observe(agent.observe(state, transition([3.0, 0.0])), LATE)
    assert state.steps == 2
    assert_close(state.spent, np.array([4.0, 0.5]))
    assert_close(agent.constraint(state).threshold, np.array([6 * 5 / 18, 0.0]))
    # What is overspent is not owed, and at the end all that is left may be spent.
    assert not agent.constraint(state._replace(spent=jnp.full(2, 11.0))).threshold.any()
    for steps in (15, 19, 20, 25):
        late = state._replace(steps=jnp.int32(steps))
        assert_close(agent.constraint(late).threshold, np.array([6.0, 0.0]))
    state = agent.begin_episode(KEY, state)
    assert state.steps == 0
    assert not state.spent.any()


SMALL = CEMConfig(horizon=5, num_iter=2, num_elites=4, num_samples=16)
LATE = transition([1.0, 0.5])


def test_one_number_is_the_budget_of_every_constraint():
    config = MPCConfig(cost_budget=(7.0,), episode_steps=20)
    agent = MPCAgent(LINE, Learner(), Safe(H), CEM(1, SMALL), Rule(), config)
    assert_close(Widths.of(config, LINE).cost_budget, np.array([7.0, 7.0]))
    state = agent.init(KEY)._replace(steps=jnp.int32(config.episode_steps))
    assert_close(agent.constraint(state).threshold, np.array([7.0, 7.0]))


def test_the_rule_learns_from_planned_episodes_alone(minmax):
    agent = minmax.agent
    state = agent.observe(minmax.state, transition([5.0]))
    state, _ = agent.update(KEY, state, None)
    assert_close(state.rule_state, np.zeros(1))  # the random phase
    for episode in (1, 2):
        state = agent.begin_episode(KEY, state)
        for _ in range(3):
            state = agent.observe(state, transition([0.5]))
        state, _ = agent.update(KEY, state, None)
        assert_close(state.rule_state, np.full(1, 1.5 * episode))


class Toll(struct.PyTreeNode):
    """Every unit of cost buys a unit of reward; nothing else does.

    The action is the cost of the step, 0 where negative; the second constraint is never
    touched. The observation is how many steps were taken.
    """

    obs_dim = action_dim = 1
    num_constraints = 2
    noise_std = np.zeros(1, np.float32)

    def dynamics(self, obs, action):
        return obs + 1.0

    def reward(self, obs, action, next_obs):
        return jnp.clip(action[0], 0.0, 1.0)

    def cost(self, obs, action, next_obs):
        return jnp.stack([jnp.clip(action[0], 0.0, 1.0), jnp.zeros(())])

    def margin(self, obs, action, next_obs):
        return jnp.stack([action[0], -jnp.ones(())])

    def project(self, obs):
        return obs


@pytest.fixture(scope="module")
def toll():
    """A whole episode of 30 steps at a traced budget, `cost [30]`, `threshold [30]`."""
    # Enough search to come close to the optimum: only then is a budget used up.
    search = CEMConfig(
        horizon=3, num_iter=10, num_elites=20, num_samples=200, min_std=0.01
    )
    config = MPCConfig(episode_steps=30)

    @jit
    def run(budget, key):
        env = Toll()
        parts = env, TrueDynamics(env), Safe(3), CEM(1, search), FeasibleFirst()
        widths = Widths.of(config, env)._replace(cost_budget=budget)
        agent = MPCAgent(*parts, config, widths)

        def advance(carry, key):
            state, obs = carry
            state, action, info = agent.act(key, state, obs)
            cost = env.cost(obs, action, obs)
            state = agent.observe(state, transition(cost, obs, action))
            return (state, obs + 1.0), (cost[0], info["plan/threshold"][0])

        start = (agent.init(key), jnp.zeros(1))
        return jax.lax.scan(advance, start, jax.random.split(key, 30))[1]

    return lambda d: jax.device_get(run(jnp.array([d, 0.0]), jax.random.key(3)))


@pytest.mark.parametrize("budget", [1.0, 6.0, 15.0])
def test_an_episode_spends_its_budget_and_never_more(toll, budget):
    cost, threshold = toll(budget)
    # A cost may pass its threshold by the tolerance of the rule, at every step.
    assert cost.sum() <= budget + 30 * 1e-5
    assert cost.sum() >= 0.93 * budget
    # Every decision keeps to its share: neither all at once nor only at the end.
    assert np.all(cost <= threshold + 2e-5)
    assert 0.3 < cost[:15].sum() / budget < 0.8


def test_an_episode_without_a_budget_spends_nothing(toll):
    cost, threshold = toll(0.0)
    assert not threshold.any()
    assert cost.sum() <= 30 * 1e-5


def test_a_budget_for_everything_forbids_nothing(toll):
    cost, _ = toll(30.0)
    assert cost.sum() > 27.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("beta", ()),
        ("beta", (1.0, -1.0)),
        ("pes_alpha", -1.0),
        ("opt_alpha", -0.1),
        ("cost_budget", ()),
        ("cost_budget", (1.0, -1.0)),
        ("cost_budget", (float("nan"),)),
        ("episode_steps", 0),
    ],
)
def test_impossible_settings_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        MPCConfig(**{field: value})
