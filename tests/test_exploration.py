"""Planners whose reward is what the model does not know."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from safex.agents.mpc import MPCAgent
from safex.agents.planners import (
    OPAX,
    ActSafe,
    OptimisticPessimistic,
    Safe,
    Situation,
    information_gain,
    summed_epistemic_std,
)
from safex.config import (
    ActSafeConfig,
    CEMConfig,
    ExplorationConfig,
    MinMaxConfig,
    MPCConfig,
    OPAXConfig,
)
from safex.constraints.feasible_first import FeasibleFirst
from safex.constraints.unconstrained import Unconstrained
from safex.optimizers.cem import CEM
from safex.optimizers.minmax import MinMax
from safex.types import Prediction
from tests.helpers import assert_close

# Compiling takes far longer than running here: skip the optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY = jax.random.key(0)
H = 3


class Line(struct.PyTreeNode):
    """A position that pays for going left, with a limit on the right."""

    limit: jax.Array = struct.field(default_factory=lambda: jnp.float32(2.0))

    obs_dim = 1
    action_dim = 1
    num_constraints = 1
    max_steps = 10

    def reward(self, obs, action, next_obs):
        return -next_obs[0]

    def margin(self, obs, action, next_obs):
        return next_obs - self.limit

    def cost(self, obs, action, next_obs):
        return jnp.maximum(self.margin(obs, action, next_obs), 0.0)

    def project(self, obs):
        return obs


@dataclasses.dataclass(frozen=True)
class Explorer:
    """Knows less the further right it is, by a tenth a step."""

    num_members = 2

    def init(self, key):
        return ()

    def fit(self, key, state, data):
        return state, {}

    def predict(self, state, obs, action):
        std = 0.1 * jax.nn.softplus(obs)
        return Prediction(obs + 0.5 * action, std, jnp.full(1, 0.1))

    def members(self, state, obs, action):
        action = jnp.broadcast_to(action, obs.shape)
        mean = obs + 0.5 * action
        return Prediction(mean, jnp.zeros_like(mean), jnp.zeros_like(mean))

    def select(self, state, index):
        return state


LINE, MODEL = Line(), Explorer()
ACTIONS = jnp.array([[1.0], [1.0], [-1.0]])
PATH = np.array([0.0, 0.5, 1.0], np.float32)  # where the model is asked
STDS = 0.1 * np.log1p(np.exp(PATH))
GAIN = np.log1p((STDS / 0.1) ** 2).mean()
RETURN = -np.mean([0.5, 1.0, 0.5])


def situation(episode=1, pessimism=0.0, optimism=0.0):
    widths = (jnp.full(1, w, jnp.float32) for w in (pessimism, optimism))
    return Situation(jnp.zeros(1), (), *widths, episode)


def value(planner, episode=1):
    problem = planner.problem(KEY, LINE, MODEL, situation(episode))
    if callable(problem):
        return problem(ACTIONS).value
    return problem.nominal(ACTIONS)[0].value


def test_information_gain_by_hand():
    prediction = Prediction(jnp.zeros(2), jnp.array([1.0, 0.0]), jnp.array([0.5, 2.0]))
    assert_close(information_gain(prediction), jnp.log(jnp.float32(5.0)))
    assert_close(summed_epistemic_std(prediction), jnp.float32(1.0))
    # Where all is known and nothing is noisy there is nothing to learn.
    known = Prediction(jnp.zeros(2), jnp.zeros(2), jnp.zeros(2))
    assert information_gain(known) == 0.0


@pytest.mark.parametrize(
    ("mode", "particles"), [("MEAN", 1), ("TSInf", 4), ("NOISY_MEAN", 4)]
)
def test_opax_values_a_plan_by_the_information_along_it(mode, particles):
    found = value(OPAX(H, mode, particles))
    if mode == "NOISY_MEAN":  # around the same path
        assert abs(found - GAIN) < 0.2
        assert found != pytest.approx(GAIN, abs=1e-6)
    else:
        assert_close(found, jnp.float32(GAIN))


def test_actsafe_values_a_plan_by_the_std_along_it_and_leaves_the_attack_alone():
    assert_close(value(ActSafe(H)), jnp.float32(STDS.mean()))
    eta = jnp.ones((H, 1))
    games = [
        planner.problem(KEY, LINE, MODEL, situation(pessimism=9.0))
        for planner in (
            ActSafe(H),
            ActSafe(H, exploration=ExplorationConfig("reward")),
        )
    ]
    one, other = (
        game.attacked(ACTIONS, eta, game.nominal(ACTIONS)[1]) for game in games
    )
    assert_close(one, other)
    assert one[0] > 0.0


def test_the_switch_to_the_reward_is_by_episode_and_traced():
    planner = ActSafe(H, exploration=ExplorationConfig("information_gain", 3))

    @jit
    def run(episode):
        return value(planner, episode)

    values = [float(run(jnp.int32(episode))) for episode in (1, 3, 4, 9)]
    assert_close(values, [GAIN, GAIN, RETURN, RETURN])
    assert run._cache_size() == 1
    # Without an end it never switches, and without exploration never begins.
    assert_close(value(OPAX(H), 1000), jnp.float32(GAIN))
    assert_close(value(Safe(H), 1), jnp.float32(RETURN))


def test_optimistic_information_hopes_for_a_path_that_tells_more():
    planner = OptimisticPessimistic(
        H, 1, exploration=ExplorationConfig("information_gain")
    )
    game = planner.problem(KEY, LINE, MODEL, situation(optimism=2.0))

    def hoped(luck):
        decision = jnp.concatenate([jnp.full((H, 1), luck), ACTIONS], axis=1)
        return game.nominal(decision)[0]

    assert_close(hoped(0.0).value, jnp.float32(GAIN))
    assert hoped(1.0).value > GAIN > hoped(-1.0).value


# Agents.


def position_of_plan(agent, episode):
    """Where the first action leads, and what was said of the plan."""
    state = agent.init(KEY)._replace(episode=jnp.int32(episode))
    _, action, metrics = jit(agent.act)(KEY, state, jnp.array([1.6]))
    return float(1.6 + 0.5 * action[0]), metrics


def test_opax_goes_where_it_knows_least():
    cem = CEM(1, CEMConfig(horizon=H, num_iter=4, num_elites=6, num_samples=60))
    agent = MPCAgent(LINE, MODEL, OPAX(H), cem, Unconstrained())
    where, _ = position_of_plan(agent, 1)
    assert where == pytest.approx(2.1, abs=1e-3)
    plain = MPCAgent(LINE, MODEL, Safe(H), cem, Unconstrained())
    assert position_of_plan(plain, 1)[0] == pytest.approx(1.1, abs=1e-3)


def test_actsafe_expands_within_the_pessimistic_limit_then_exploits():
    search = MinMaxConfig(horizon=H, iterations=4, num_samples_x=80, init_std_x=1.0)
    planner = ActSafe(
        H, noise_alpha=0.0, exploration=ExplorationConfig("epistemic_std", 2)
    )
    agent = MPCAgent(
        LINE,
        MODEL,
        planner,
        MinMax(1, 1, search),
        FeasibleFirst(),
        MPCConfig(pes_alpha=1.0),
    )
    where, metrics = position_of_plan(agent, 2)
    # The adversary adds the std at 1.6, whatever the action: 0.18 must stay free.
    room = 2.0 - 0.1 * np.log1p(np.exp(1.6))
    assert 1.6 < where <= room + 1e-4
    assert metrics["plan/feasible"]
    assert metrics["plan/cost"] <= 1e-5
    where, metrics = position_of_plan(agent, 3)
    assert where == pytest.approx(1.1, abs=0.05)
    assert metrics["plan/feasible"]


# Settings.


def test_configs_say_what_the_planners_default_to():
    for planner, config in ((OPAX(H), OPAXConfig()), (ActSafe(H), ActSafeConfig())):
        for field in dataclasses.fields(config):
            assert getattr(planner, field.name) == getattr(config, field.name)


@pytest.mark.parametrize(("field", "value"), [("objective", "fun"), ("episodes", -1)])
def test_impossible_settings_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        ExplorationConfig(**{field: value})
