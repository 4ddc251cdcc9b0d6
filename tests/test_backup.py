"""What a plan ends in, what acts without one, and what the account keeps of it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from safex import rollout
from safex.agents.mpc import BUDGET_SWITCH, NO_FEASIBLE_PLAN, MPCAgent
from safex.agents.planners import Pessimistic, Safe, Situation
from safex.config import (
    CalibrationConfig,
    CEMConfig,
    EnsembleConfig,
    ICEMConfig,
    MinMaxConfig,
    MPCConfig,
    MPPIConfig,
    TerminalConfig,
)
from safex.constraints.dual_ascent import DualAscent
from safex.constraints.feasible_first import FeasibleFirst
from safex.constraints.unconstrained import Unconstrained
from safex.envs.pendulum import Pendulum
from safex.models.ensemble import probabilistic_ensemble
from safex.models.true_dynamics import TrueDynamics
from safex.optimizers import gaussian
from safex.optimizers.cem import CEM
from safex.optimizers.icem import ICEM
from safex.optimizers.minmax import MinMax
from safex.optimizers.mppi import MPPI
from safex.training.account import EpisodeRecord, account, load_record, save_record
from safex.types import Prediction, Transition
from tests.helpers import assert_close

# Compiling takes far longer than running here: skip the optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY = jax.random.key(0)


class Cart(struct.PyTreeNode):
    """Position and speed; pushed by up to 1 a step, to be stopped before the wall."""

    wall: jax.Array = struct.field(default_factory=lambda: jnp.float32(3.5))

    obs_dim = 2
    action_dim = 1
    num_constraints = 1
    max_steps = 20

    @property
    def noise_std(self):
        return jnp.zeros(2)

    def dynamics(self, obs, action):
        speed = obs[1] + action[0]
        return jnp.stack([obs[0] + speed, speed])

    def reward(self, obs, action, next_obs):
        return next_obs[0]

    def margin(self, obs, action, next_obs):
        return next_obs[:1] - self.wall

    def cost(self, obs, action, next_obs):
        return (self.margin(obs, action, next_obs) > 0).astype(jnp.float32)

    def project(self, obs):
        return obs

    def backup(self, obs):
        return -jnp.clip(obs[1:], -1.0, 1.0)

    def terminal_value(self, obs):
        return 10.0 * obs[1]


class NoBackup(Cart):
    backup = None


class NoWorth(Cart):
    terminal_value = None


CART = Cart()
START = jnp.zeros(2)
ACTIONS = jnp.ones((2, 1))
# Too far, and slowly on: no plan ends its next step before the wall.
PAST_THE_WALL = jnp.array([5.0, 0.2])
# Two pushes lead to 1 and 3 at speed 2; braking goes on to 4 and stays there.


def cart_score(terminal, actions=ACTIONS, width=0.0):
    """Under an adversary of `width` that pushes the position on, and holds on."""
    model = Uncertain()
    transition = rollout.hallucinated_transition(model, CART, CART, width, 0.0)
    eta = jnp.tile(jnp.array([[1.0, 0.0]]), (len(actions), 1))
    push = rollout.Push(eta)
    return rollout.evaluate(CART, transition, START, actions, push, terminal=terminal)


@dataclasses.dataclass(frozen=True)
class Uncertain:
    """The true cart with an epistemic std of its position; its two members agree."""

    num_members = 2

    def init(self, key):
        return CART

    def predict(self, state, obs, action):
        mean = state.dynamics(obs, action)
        return Prediction(mean, jnp.array([0.25, 0.0]), jnp.zeros(2))

    def member(self, state, obs, action, index):
        mean = state.dynamics(obs, action) + 0.1 * index
        return Prediction(mean, jnp.zeros(2), jnp.full(2, 0.05))

    def members(self, state, obs, action):
        action = jnp.broadcast_to(action, (*obs.shape[:-1], 1))
        mean = jax.vmap(jax.vmap(state.dynamics))(obs, action)
        mean = mean + 0.1 * jnp.arange(len(obs))[:, None, None]
        return Prediction(mean, jnp.zeros_like(mean), jnp.full_like(mean, 0.05))

    def select(self, state, index):
        return state


# The terminal condition.


def test_terminal_steps_count_the_cost_of_stopping():
    free = cart_score(TerminalConfig())
    assert_close(tuple(free), (2.0, np.zeros(1), np.full(1, -0.5)))
    held = cart_score(TerminalConfig(steps=3))
    # Three steps at 4, each half a metre past the wall; the value is that of the plan.
    assert_close(tuple(held), (2.0, np.full(1, 3.0), np.full(1, 1.5)))


def test_terminal_value_by_hand():
    backup = TerminalConfig(steps=3, value="backup", discount=0.5)
    assert_close(cart_score(backup).value, (1 + 3 + 4 + 2 + 1) / 2.0)
    # Resting: 4 + 2 + (1 + 1/2 + 1/4 + ...), against the sum of a long tail.
    hold = TerminalConfig(steps=3, value="hold", discount=0.5)
    assert_close(cart_score(hold).value, (1 + 3 + 4 + 2 + 2) / 2.0)
    long = TerminalConfig(steps=40, value="backup", discount=0.5)
    assert_close(cart_score(hold).value, cart_score(long).value)
    # 10 times the speed of 2 in which the plan ends, with and without steps behind.
    for steps in (0, 3):
        own = TerminalConfig(steps=steps, value="env")
        assert_close(cart_score(own).value, (1 + 3 + 20) / 2.0)


def test_the_adversary_holds_on_through_the_terminal_steps():
    # A quarter of a metre a step: 1.25, 3.5, then 4.75, 5, 5.25.
    score = cart_score(TerminalConfig(steps=3), width=1.0)
    assert_close(score.cost, np.full(1, 3.0))
    assert_close(score.margin, np.full(1, 1.25 + 1.5 + 1.75))


@pytest.mark.parametrize("particles", [1, 3])
def test_particles_of_members_brake_each_for_itself(particles):
    terminal = TerminalConfig(steps=3, value="backup")
    noise = rollout.draw_noise(KEY, "TSInf", particles, 5, 2, 2)
    together = rollout.evaluate_by_member(
        CART, Uncertain(), CART, START, ACTIONS, noise, terminal=terminal
    )
    transition = rollout.sampled_transition(Uncertain(), CART, "TSInf", CART)
    apart = [
        rollout.evaluate(
            CART,
            transition,
            START,
            ACTIONS,
            jax.tree.map(lambda leaf, p=p: leaf[p], noise),
            terminal=terminal,
        )
        for p in range(particles)
    ]
    assert_close(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *apart))


@pytest.mark.parametrize("planner", [Safe(2), Pessimistic(2)])
def test_planners_ask_for_the_terminal_condition(planner):
    situation = Situation(START, CART, jnp.zeros(2), jnp.zeros(2))

    def costs(planner):
        problem = planner.problem(KEY, CART, TrueDynamics(CART), situation)
        if not isinstance(planner, Pessimistic):
            return [problem(ACTIONS).cost]
        score, known = problem.nominal(ACTIONS)
        return [score.cost, problem.attacked(ACTIONS, jnp.zeros((2, 2)), known)[0]]

    assert planner.span == 2
    assert all(cost == 0.0 for cost in costs(planner))
    stopping = dataclasses.replace(planner, terminal=TerminalConfig(steps=3))
    assert stopping.span == 5
    assert all(cost == 3.0 for cost in costs(stopping))


# The agent.


def agent(env, planner, rule=FeasibleFirst(), **settings):  # noqa: B008
    config = CEMConfig(
        horizon=planner.horizon, num_iter=4, num_elites=6, num_samples=60
    )
    cem = CEM(1, config)
    model = TrueDynamics(env)
    return MPCAgent(env, model, planner, cem, rule, MPCConfig(**settings))


def drive(agent, obs, steps):
    """Observations, costs and metrics of an episode in the true system."""
    env = agent.env

    @jit
    def episode(key):
        def one(carry, key):
            state, obs = carry
            state, action, metrics = agent.act(key, state, obs)
            next_obs = env.dynamics(obs, action)
            cost = env.cost(obs, action, next_obs)
            no = jnp.zeros((), bool)
            reward = env.reward(obs, action, next_obs)
            state = agent.observe(
                state, Transition(obs, action, reward, cost, next_obs, no, no)
            )
            metrics.pop("search")
            return (state, next_obs), (next_obs, action, cost, metrics)

        start = (agent.init(key), jnp.asarray(obs, jnp.float32))
        return jax.lax.scan(one, start, jax.random.split(key, steps))[1]

    return jax.device_get(episode(KEY))


def test_plans_that_can_stop_stay_feasible_and_others_run_into_the_wall():
    # With a terminal condition the plan before, shifted, and the brake behind it are a
    # feasible plan again; without, two steps see the wall too late: at 6 and speed 3.
    short, far = Safe(2), Cart(jnp.float32(8.5))
    _, _, cost, metrics = drive(agent(far, short, backup="policy"), START, 12)
    assert cost.sum() > 0
    assert not metrics["plan/feasible"].all()
    stopping = dataclasses.replace(short, terminal=TerminalConfig(steps=8))
    obs, _, cost, metrics = drive(agent(far, stopping, backup="policy"), START, 12)
    assert cost.sum() == 0
    assert metrics["plan/feasible"].all()
    # It is not merely timid: it ends close to the wall.
    assert obs[-1, 0] > 7.5


def test_a_moved_sequence_ends_in_the_action_given():
    # A luck of two dimensions and an action: the luck is repeated, the action is not.
    sequence = jnp.arange(9.0).reshape(3, 3)
    expected = np.array([[3, 4, 5], [6, 7, 8], [6, 7, -1]], np.float32)
    assert_close(gaussian.shift(sequence, last=-jnp.ones(1)), expected)
    stacked = gaussian.shift(jnp.stack([sequence] * 2), 1, -jnp.ones(1))
    assert_close(stacked, np.stack([expected] * 2))
    for optimizer, leaves in (
        (CEM(1, CEMConfig(horizon=3)), 1),
        (MPPI(1, MPPIConfig(horizon=3)), 1),
        (ICEM(1, ICEMConfig(horizon=3)), 2),
        (MinMax(1, 2, MinMaxConfig(horizon=3)), 2),
    ):
        moved = optimizer.shift(optimizer.init(KEY), -jnp.ones(1))
        ends = [leaf[..., -1, 0] for leaf in moved[:leaves]]
        assert all((end == -1.0).all() for end in ends)


def test_what_is_left_of_a_plan_and_the_backup_is_the_next_plan():
    # A second agent never searches: it judges what the first one left, step after step.
    far = Cart(jnp.float32(8.5))
    search = MinMaxConfig(horizon=3, num_samples_x=80, init_std_x=1.0)
    stopping = Pessimistic(3, terminal=TerminalConfig(steps=8))
    model, config = TrueDynamics(far), MPCConfig(backup="policy")
    seeker = MPCAgent(
        far, model, stopping, MinMax(1, 2, search), FeasibleFirst(), config
    )
    still = dataclasses.replace(search, init_std_x=1e-9, min_std=1e-9)
    keeper = dataclasses.replace(seeker, optimizer=MinMax(1, 2, still))
    obs = START
    state, action, metrics = jit(seeker.act)(KEY, seeker.init(KEY), obs)
    assert metrics["plan/feasible"]
    # The plan hurries on until its end, which is why its last action may not go on.
    assert state.optimizer_state.x_mean[-1, 0] > state.tail[0] + 0.5
    act = jit(keeper.act)
    for _ in range(6):
        obs = far.dynamics(obs, action)
        assert obs[0] <= far.wall
        state, action, metrics = act(KEY, state, obs)
        assert metrics["plan/feasible"]
    assert obs[0] > 8.0
    assert obs[1] == pytest.approx(0.0, abs=0.2)
    assert_close(seeker.begin_episode(KEY, state).tail, jnp.zeros(1))


@pytest.mark.parametrize("policy", [True, False])
def test_without_a_feasible_plan_the_backup_that_was_chosen_acts(policy):
    chosen = agent(CART, Safe(2), backup="policy" if policy else "least_margin")
    state = chosen.init(KEY)
    obs = PAST_THE_WALL
    _, action, metrics = jit(chosen.act)(KEY, state, obs)
    assert metrics["plan/backup"]
    assert metrics["plan/backup_reason"] == NO_FEASIBLE_PLAN
    # The controller stops; the least margin is to go back at full power.
    assert_close(action, np.array([-0.2 if policy else -1.0]), rtol=0.0, atol=1e-3)


def test_a_rule_that_prices_the_cost_lets_the_plan_act():
    pricing = agent(CART, Safe(2), DualAscent(), backup="policy")
    _, action, metrics = jit(pricing.act)(KEY, pricing.init(KEY), PAST_THE_WALL)
    assert not metrics["plan/feasible"]
    assert not metrics["plan/backup"]
    assert metrics["plan/backup_reason"] == 0
    assert action[0] > 0.9


@pytest.mark.parametrize(
    ("env", "terminal", "settings", "message"),
    [
        (NoBackup(), TerminalConfig(), {"backup": "policy"}, "backup 'policy'"),
        (NoBackup(), TerminalConfig(steps=2), {}, "terminal steps .*backup"),
        (NoWorth(), TerminalConfig(value="env"), {}, "terminal_value, NoWorth"),
    ],
)
def test_what_the_environment_lacks_is_refused_at_once(
    env, terminal, settings, message
):
    with pytest.raises(ValueError, match=message):
        agent(env, Safe(2, terminal=terminal), **settings)


# The budget switch.


class Slope(Cart):
    """The position alone: pays 1 for each step right of 0, and wants to go right."""

    obs_dim = 1

    @property
    def noise_std(self):
        return jnp.zeros(1)

    def dynamics(self, obs, action):
        return obs + action

    def margin(self, obs, action, next_obs):
        return next_obs

    def backup(self, obs):
        return -jnp.ones(1)


@dataclasses.dataclass(frozen=True)
class Slippery(TrueDynamics):
    """Knows the position to half a step."""

    def predict(self, state, obs, action):
        mean = state.dynamics(obs, action)
        return Prediction(mean, jnp.full(1, 0.5), jnp.full(1, 0.1))


SPENDING = {"backup": "policy", "budget_switch": True, "cost_budget": (10.0,)}
SPAN = TerminalConfig(steps=11)


def test_switch_cost_by_hand():
    planner = Safe(1, terminal=SPAN)
    spending = agent(Slope(), planner, pes_steps=None, **SPENDING)
    state = spending.init(KEY)
    for x, action, cost in ((0.0, 1.0, 1.0), (4.0, 1.0, 5.0), (4.0, -1.0, 3.0)):
        found = spending.switch_cost(state, jnp.array([x]), jnp.array([action]))
        assert_close(found, np.array([cost], np.float32))
    wary = dataclasses.replace(spending, model=Slippery(Slope()))
    state = state._replace(pessimism=jnp.float32(1.0))
    # Half a step further each time, judged at 0.3 more: 1.8, 1.3, 0.8, 0.3, -0.2.
    found = wary.switch_cost(state, jnp.zeros(1), jnp.ones(1))
    assert_close(found, np.array([4.0], np.float32))
    # The adversary may have no reach, and its noise counts all the same: 1.3, 0.3.
    state = state._replace(pessimism=jnp.float32(0.0))
    assert_close(wary.switch_cost(state, jnp.zeros(1), jnp.ones(1)), jnp.full(1, 2.0))


def test_the_switch_spends_the_budget_to_the_last_and_no_more():
    planner = Safe(1, terminal=SPAN)
    reckless = agent(Slope(), planner, Unconstrained(), **SPENDING)
    obs, _, cost, metrics = drive(reckless, jnp.zeros(1), 16)
    # After k steps right, k is spent and the way back costs k + 1 with one more: right
    # up to 5, back to 0, once more to 1 and back; then no step right is left.
    path = [1, 2, 3, 4, 5, 4, 3, 2, 1, 0, 1, 0, -1, 0, -1, 0]
    assert_close(obs[:, 0], np.array(path, np.float32), rtol=0.0, atol=1e-4)
    assert cost.sum() == 10.0
    back = np.diff([0, *path]) < 0
    assert np.array_equal(metrics["plan/backup_reason"] == BUDGET_SWITCH, back)
    assert np.array_equal(metrics["plan/backup"], back)
    # Without the switch it just goes on.
    free = agent(Slope(), planner, Unconstrained(), cost_budget=(10.0,))
    assert drive(free, jnp.zeros(1), 16)[2].sum() == 16.0


def test_a_plan_may_spend_all_that_is_left_where_the_switch_watches():
    state = agent(Slope(), Safe(1)).init(KEY)._replace(spent=jnp.array([4.0]))
    even = agent(Slope(), Safe(1), cost_budget=(10.0,))
    watched = agent(Slope(), Safe(1), **SPENDING)
    assert_close(even.constraint(state).threshold, jnp.array([6.0 / 20.0]))
    assert_close(watched.constraint(state).threshold, jnp.array([6.0]))
    # What is spread covers the terminal steps as well.
    longer = agent(Slope(), Safe(1, terminal=SPAN), cost_budget=(10.0,))
    assert_close(longer.constraint(state).threshold, jnp.array([6.0 * 12.0 / 20.0]))


# The ledger.


def test_a_decision_tells_slack_and_share():
    careful = agent(CART, Safe(2), cost_budget=(0.0,))
    _, _, metrics = jit(careful.act)(KEY, careful.init(KEY), START)
    assert_close(
        metrics["plan/slack"], metrics["plan/threshold"] - metrics["plan/cost"]
    )
    assert metrics["plan/binding"] == 0
    assert metrics["plan/feasible_share"] == 1.0  # both pushes end before the wall
    _, _, metrics = jit(careful.act)(KEY, careful.init(KEY), PAST_THE_WALL)
    assert metrics["plan/feasible_share"] == 0.0
    assert metrics["plan/slack"] < 0.0


def test_rules_are_logged_as_they_learn():
    pricing = agent(CART, Safe(2), DualAscent(), cost_budget=(1.0,))
    state = pricing.init(KEY)._replace(spent=jnp.array([6.0]), episode=jnp.int32(1))
    _, metrics = pricing.update(KEY, state, None)
    assert_close(metrics["rule/multiplier"], jnp.array([0.5]))


def make_record(**fields):
    zeros = np.zeros((4, 2))
    no = np.zeros(4, bool)
    return EpisodeRecord(
        obs=zeros,
        action=zeros[:, :1],
        next_obs=zeros,
        reward=zeros[:, 0],
        cost=zeros[:, :1],
        margin=zeros[:, :1] - 1.0,
        terminated=no,
        truncated=no,
        planned=~no,
        feasible=np.array([True, False, True, True]),
        backup=np.array([False, True, True, True]),
        predicted_cost=zeros[:, :1],
        mean=zeros,
        epistemic_std=zeros + 1.0,
        aleatoric_std=zeros,
        **fields,
    )


def test_account_says_why_the_backup_acted():
    record = make_record(
        feasible_share=np.array([1.0, 0.0, 0.5, 0.1]),
        backup_reason=np.array([0, 1, 2, 2], np.int32),
    )
    entry = account(record, np.ones(2), horizon=2)
    assert entry.feasible_share == pytest.approx(0.4)
    assert (entry.no_plan_steps, entry.budget_switch_steps) == (1, 2)
    assert entry.backup_steps == 3


def test_a_record_without_a_ledger_is_read_and_counted(tmp_path):
    save_record(tmp_path / "old.npz", make_record())
    entry = account(load_record(tmp_path / "old.npz"), np.ones(2), horizon=2)
    assert entry.feasible_share is None
    assert (entry.no_plan_steps, entry.budget_switch_steps) == (3, 0)
    whole = make_record(backup_reason=np.array([0, 1, 2, 2], np.int32))
    save_record(tmp_path / "new.npz", whole)
    assert_close(load_record(tmp_path / "new.npz").backup_reason, whole.backup_reason)


# Settings.


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (TerminalConfig, "steps", -1),
        (TerminalConfig, "value", "critic"),
        (TerminalConfig, "value", "backup"),  # without steps
        (TerminalConfig, "discount", 0.0),
        (TerminalConfig, "discount", 1.1),
        (MPCConfig, "backup", "brake"),
        (MPCConfig, "budget_switch", True),  # without the policy
        (MPCConfig, "switch_noise_alpha", -1.0),
    ],
)
def test_impossible_settings_name_the_field(config, field, value):
    with pytest.raises(ValueError, match=field):
        config(**{field: value})


@pytest.mark.parametrize("mode", ["TS1", "TSInf", "DIST"])
def test_a_learned_model_can_be_asked_beyond_the_plan(mode):
    # Behind the plan every particle has an action of its own.
    env = Pendulum.from_config()
    model = probabilistic_ensemble(
        3, 1, EnsembleConfig(features=(4,)), CalibrationConfig()
    )
    planner = Safe(3, mode, 5, terminal=TerminalConfig(steps=2))
    agent = MPCAgent(env, model, planner, CEM(1, CEMConfig(horizon=3)), FeasibleFirst())
    shapes = jax.eval_shape(agent.pose, jax.random.key(0))
    assert shapes.spent.shape == (1,)
