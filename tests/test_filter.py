"""The filter: no violation behind it, nothing changed that is safe, budgets kept."""

import gymnasium
import jax
import numpy as np
import pytest

from safex.agents.mpc import MPCAgent
from safex.agents.planners import Safe
from safex.config import CEMConfig, MPCConfig, TerminalConfig
from safex.constraints.feasible_first import FeasibleFirst
from safex.envs.car_park import CarPark
from safex.envs.filter import SafetyFilter
from safex.envs.gymnasium_adapter import JaxEnv
from safex.envs.pendulum import Pendulum
from safex.errors import ConfigError, ContractError, NonFiniteError
from safex.models.true_dynamics import TrueDynamics
from safex.optimizers.cem import CEM
from tests.helpers import assert_close

SYSTEMS = {"pendulum": Pendulum.from_config(), "car_park": CarPark.from_config()}


def knowing_agent(system, steps=30, **settings):
    """Knows the true dynamics; its plans are never asked for."""
    planner = Safe(1, terminal=TerminalConfig(steps=steps))
    cem = CEM(system.action_dim, CEMConfig(horizon=1))
    model, config = TrueDynamics(system), MPCConfig(backup="policy", **settings)
    return MPCAgent(system, model, planner, cem, FeasibleFirst(), config)


def filtered(system, **settings):
    agent = knowing_agent(system, **settings)
    return SafetyFilter(JaxEnv(system), agent, agent.init(jax.random.key(0)))


@pytest.fixture(scope="module")
def filters():
    """One for each system, because it is compiling that takes the time."""
    return {name: filtered(system) for name, system in SYSTEMS.items()}


def hard(rng):
    """A random direction at full force, held for ten steps."""
    return np.repeat(np.sign(rng.uniform(-1, 1, (20, 1))), 10, axis=0)


def drive(env, actions, seed=0):
    """Total cost and the infos of an episode."""
    env.reset(seed=seed)
    infos = [env.step(action.astype(np.float32))[-1] for action in actions]
    return sum(info["cost"] for info in infos), infos


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_without_it_violations_with_it_none(filters, name):
    free = broken = overridden = 0
    for seed in range(4):
        actions = hard(np.random.default_rng(seed))
        free += drive(JaxEnv(SYSTEMS[name]), actions, seed)[0]
        cost, infos = drive(filters[name], actions, seed)
        broken += cost
        overridden += infos[-1]["overrides"]
        assert all(info["admitted"] for info in infos)
        assert sum(info["override"] for info in infos) == infos[-1]["overrides"]
        for info, action in zip(infos, actions, strict=True):
            changed = not np.array_equal(info["action"], action)
            assert changed == info["override"]
    assert free > 100
    assert broken == 0
    # It is no more than it has to be: most steps are the nominal policy's.
    assert 20 < overridden < 200


def test_what_is_safe_passes_unchanged(filters):
    actions = 0.3 * np.random.default_rng(0).uniform(-1, 1, (50, 1))
    env = filters["pendulum"]
    plain, _ = JaxEnv(SYSTEMS["pendulum"]), env.reset(seed=5)
    plain.reset(seed=5)
    for action in actions.astype(np.float32):
        obs, reward, _, _, info = env.step(action)
        expected = plain.step(action)
        np.testing.assert_array_equal(obs, expected[0])
        assert reward == expected[1]
        assert not info["override"]
        assert info["cost"] == expected[-1]["cost"]
        np.testing.assert_array_equal(info["costs"], expected[-1]["costs"])
    assert env.overrides == 0


def test_an_override_is_no_larger_than_needed(filters):
    # At 5 rad/s and falling, full torque on top of gravity would pass 6 rad/s.
    env = filters["pendulum"]
    env.reset(options={"theta": 2.0, "omega": 5.0})
    info = env.step(np.ones(1, np.float32))[-1]
    assert info["override"]
    agent, state = env.agent, env.agent.init(jax.random.key(0))
    obs = SYSTEMS["pendulum"].observe(SYSTEMS["pendulum"].state_at(2.0, 5.0))
    # On the way from 1 to the backup's -1, in quarters.
    judge = jax.jit(agent.overspends)
    over = [bool(judge(state, obs, np.full(1, a))) for a in (1, 0.5, 0, -0.5, -1)]
    assert over == sorted(over, reverse=True)
    assert_close(info["action"], np.full(1, 1 - 0.5 * over.index(False), np.float32))


def pump(env, seed=0):
    """Total cost and last info of an episode that always adds energy."""
    (_, _, speed), _ = env.reset(seed=seed)
    cost = 0.0
    for _ in range(150):
        push = np.full(1, 1.0 if speed >= 0 else -1.0, np.float32)
        (_, _, speed), _, _, _, info = env.step(push)
        cost += info["cost"]
    return cost, info


def test_a_budget_is_spent_and_not_overspent():
    env = filtered(SYSTEMS["pendulum"], cost_budget=(6.0,))
    assert pump(JaxEnv(SYSTEMS["pendulum"]))[0] > 20
    cost, info = pump(env)
    assert 0 < cost <= 6
    # The next episode has its whole budget again, and its own count.
    again, info_again = pump(env)
    assert again == cost
    assert info_again["overrides"] == info["overrides"] > 0


def test_where_even_the_backup_is_too_late_it_says_so(filters):
    env = filters["car_park"]
    limit = float(SYSTEMS["car_park"].limits[0])
    env.reset(options={"p": limit - 0.01, "v": 5.0})
    info = env.step(np.ones(1, np.float32))[-1]
    assert not info["admitted"]
    assert info["override"]
    assert_close(info["action"], -np.ones(1, np.float32))
    assert info["cost"] == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_cannot_be_judged_is_not_executed(filters, bad):
    env = filters["pendulum"]
    env.reset(seed=0)
    with pytest.raises(NonFiniteError, match="action must be finite"):
        env.step(np.full(1, bad, np.float32))
    env._obs = np.array([1.0, 0.0, bad], np.float32)
    with pytest.raises(NonFiniteError, match="observation must be finite"):
        env.step(np.zeros(1, np.float32))


def test_nan_is_never_within_the_budget(filters):
    agent, obs = filters["car_park"].agent, np.zeros(2, np.float32)
    state = agent.init(jax.random.key(0))
    judge = jax.jit(agent.overspends)
    assert not judge(state, obs, np.zeros(1, np.float32))
    assert judge(state, obs * np.nan, np.zeros(1, np.float32))
    assert judge(state, obs, np.full(1, np.nan, np.float32))
    spent = state._replace(spent=state.spent * np.nan)
    assert judge(spent, obs, np.zeros(1, np.float32))


class Costless(gymnasium.Wrapper):
    def step(self, action):
        *rest, info = self.env.step(action)
        return *rest, {name: info[name] for name in info if "cost" not in name}


class Twice(Costless):
    def step(self, action):
        *rest, info = super().step(action)
        return *rest, {**info, "costs": np.zeros(2)}


@pytest.mark.parametrize(
    ("wrapper", "words"),
    [(Costless, "tells no cost.*never taken for zero"), (Twice, "has 1 constraints")],
)
def test_an_environment_without_its_cost_is_an_error(filters, wrapper, words):
    system, known = SYSTEMS["car_park"], filters["car_park"]
    env = SafetyFilter(wrapper(JaxEnv(system)), known.agent, known.agent_state)
    env.reset(seed=0)
    with pytest.raises(ContractError, match=words):
        env.step(np.zeros(1, np.float32))


class NoJudge:
    env = SYSTEMS["pendulum"]


@pytest.mark.parametrize(
    ("env", "agent", "blends", "words"),
    [
        ("pendulum", NoJudge(), 4, "judge an action.*NoJudge has no overspends"),
        ("car_park", None, 4, r"observation_space Box of shape \(3,\)"),
        ("pendulum", None, 0, "num_blends must be >= 1, got 0"),
    ],
)
def test_what_does_not_go_together_is_refused(env, agent, blends, words):
    agent = agent or knowing_agent(SYSTEMS["pendulum"])
    with pytest.raises(ConfigError, match=words):
        SafetyFilter(JaxEnv(SYSTEMS[env]), agent, None, num_blends=blends)


def test_other_action_bounds_and_a_step_too_early_are_refused(filters):
    wide = JaxEnv(SYSTEMS["pendulum"])
    wide.action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
    agent = filters["pendulum"].agent
    with pytest.raises(ConfigError, match=r"lie in \[-1, 1\].*RescaleAction"):
        SafetyFilter(wide, agent, None)
    env = SafetyFilter(JaxEnv(SYSTEMS["pendulum"]), agent, None)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1, np.float32))
