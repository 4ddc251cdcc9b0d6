"""Every example is run, does what it says, and is as short as it says."""

import ast
import io
import json
import tokenize
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples import manual_loop, own_agent, own_environment, own_model, own_optimizer
from experiments.configuration import read_config
from experiments.overrides import read_command_line
from safex.agents.mpc import MPCAgent
from safex.agents.planners import Safe
from safex.config import ICEMConfig, MPCConfig, TerminalConfig
from safex.constraints.feasible_first import FeasibleFirst
from safex.envs.contract import check_environment
from safex.envs.gymnasium_adapter import JaxEnv
from safex.envs.pendulum import Pendulum
from safex.models.true_dynamics import TrueDynamics
from safex.optimizers.icem import ICEM
from safex.training.honesty import random_path
from tests.helpers import assert_close
from tests.test_configuration import CONFIG_DIR, compose_config

FOLDER = Path(own_agent.__file__).parent
SPACE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(text):
    """Lines that are neither blank, comment nor docstring."""
    aside = set()
    for node in ast.walk(ast.parse(text)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node):
            aside |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SPACE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - aside)


def test_lines_are_counted_as_said():
    text = '"""Doc.\n\nMore."""\n\nimport os\n\n# Why.\na = (\n  1\n)\n'
    text += "\ndef main():\n    pass\n"
    assert code_lines(text) == 6


@pytest.mark.parametrize("path", sorted(FOLDER.glob("[!_]*.py")), ids=lambda p: p.stem)
def test_an_example_takes_less_than_60_lines(path):
    assert 20 < code_lines(path.read_text()) < 60


class TestEnvironment:
    tank = own_environment.Tank.from_config()

    def test_it_keeps_the_contract_and_its_equations(self):
        check_environment(self.tank)
        # An open valve in the steady state lets 0.5 m/s in, 0.1 sqrt(h) leaves.
        h, q = self.tank.dynamics(jnp.array([0.25, 0.5]), jnp.ones(1))
        assert_close(q, jnp.float32(0.5))
        assert_close(h, jnp.float32(0.25 + 0.1 * (0.5 - 0.05)))

    def test_a_launcher_takes_it_by_its_name(self):
        line = ["env.kind=examples.own_environment:Tank", "env.brim=1.2"]
        name = "launcher_car_park"
        arguments, _ = read_command_line(CONFIG_DIR, name, line)
        config = read_config(compose_config(*arguments, name=name))
        assert config.env.settings.brim == 1.2
        assert own_environment.Tank.from_config(config.env.settings).limits[0] == 1.2

    def test_full_inflow_overflows_and_a_constrained_plan_fills_it_to_the_goal(self):
        env = self.tank
        full = jax.lax.scan(
            lambda obs, _: (env.dynamics(obs, jnp.ones(1)),) * 2,
            jnp.zeros(2),
            None,
            60,
        )[1]
        assert full[:, 0].max() > 1.5
        planner = Safe(8, terminal=TerminalConfig(steps=20))
        icem = ICEM(1, ICEMConfig(horizon=8, num_samples=60, num_iter=3, num_elites=6))
        model, config = TrueDynamics(env), MPCConfig(backup="policy")
        agent = MPCAgent(env, model, planner, icem, FeasibleFirst(), config)

        @jax.jit
        def episode(key):
            def step(carry, key):
                state, obs = carry
                state, action, _ = agent.act(key, state, obs)
                obs = env.dynamics(obs, action)
                return (state, obs), obs

            start = (agent.init(key), env.reset(key)[1])
            return jax.lax.scan(step, start, jax.random.split(key, 60))[1]

        level = episode(jax.random.key(0))[:, 0]
        assert level.max() <= 1.0
        np.testing.assert_allclose(level[-10:], 0.9, atol=0.05)

    def test_gymnasium_steps_it(self):
        env = JaxEnv(self.tank)
        assert isinstance(env.observation_space, gymnasium.spaces.Box)
        env.reset(options={"h": 0.999, "q": 0.5})
        assert env.step(np.ones(1, np.float32))[-1]["cost"] == 1.0


def test_the_model_learns_and_knows_where_it_does_not():
    model, state, metrics = own_model.main()
    assert metrics["held_out/rmse"] < 0.03
    env, key = Pendulum.from_config(), jax.random.key(1)
    predict = jax.jit(jax.vmap(model.predict, (None, 0, 0)))

    path = random_path(key, env, *env.reset(key), 100)
    belief = predict(state, path.obs, path.action)
    std = jnp.hypot(belief.epistemic_std, belief.aleatoric_std)
    held = jnp.abs(path.next_obs - belief.mean) <= 2 * std
    assert held.mean() > 0.85
    # As fast as random torque never turns it.
    far = predict(state, path.obs.at[:, 2].add(8.0), path.action)
    assert far.epistemic_std[:, 2].mean() > 10 * belief.epistemic_std[:, 2].mean()


def test_the_optimizer_parks_the_car_within_its_limit():
    obs, total, violating = own_optimizer.main()
    assert violating == 0
    np.testing.assert_allclose(obs, [3.0, 0.0], atol=0.051)
    assert total > -300


def test_the_agent_parks_the_car_in_the_loop_of_all_agents(tmp_path):
    env = own_agent.CarPark.from_config()
    own_agent.main(tmp_path, TrueDynamics(env), episodes=1)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows[0]["train/episode/return"] < -900
    # Behind the backup alone it would stay where it began.
    assert rows[1]["train/episode/return"] > -300
    assert rows[1]["train/account/worst_excess"] == 0.0
    assert rows[1]["train/account/infeasible_plans"] == 0
    assert (tmp_path / "checkpoints" / "episode_0001.ckpt").exists()


class Doubtful(TrueDynamics):
    """True, but sure of no speed beyond 1 m/s."""

    def predict(self, state, obs, action):
        belief = super().predict(state, obs, action)
        std = jnp.where(jnp.abs(obs[1]) > 1.0, 1.0, 0.0) * jnp.array([0.0, 1.0])
        return belief._replace(epistemic_std=std)


def test_the_agent_minds_what_its_model_does_not_know():
    env = own_agent.CarPark.from_config()
    # At 2 m/s 0.5 m are enough to stop in, unless another 6 m/s might come.
    obs, key = jnp.array([2.4, 2.0]), jax.random.key(0)
    agents = [
        own_agent.BrakingAgent(env, model, beta=jnp.full(2, 2.0))
        for model in (TrueDynamics(env), Doubtful(env))
    ]
    bold, careful = (
        jax.jit(lambda agent=agent: agent.act(key, env, obs, explore=True))()
        for agent in agents
    )
    assert bold[2]["plan/feasible"]
    assert bold[1][0] > -0.9
    # No action is good enough: it brakes and says so.
    assert not careful[2]["plan/feasible"]
    assert_close(careful[1], -jnp.ones(1))
    nominal, low, high = agents[1].band(env, obs, jnp.zeros((3, 1)))
    assert bool(((low <= nominal) & (nominal <= high)).all())
    assert high[-1, 1] > nominal[-1, 1] + 1


@pytest.mark.slow
def test_the_agent_learns_to_park_within_its_limit(tmp_path):
    own_agent.main(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows[0]["train/episode/return"] < -900
    assert rows[-1]["train/episode/return"] > -600
    assert rows[-1]["train/account/cumulative_violating_steps"] == 0


def check_loop(loop, state, returns, steps):
    """It counts what happened, and swings higher than random torque does."""
    episodes = len(returns)
    assert int(state.data.size) == episodes * steps
    assert int(state.agent.episode) == episodes
    reward = state.data.transitions.reward.reshape(episodes, steps)
    np.testing.assert_allclose(reward.sum(1), returns, rtol=1e-4)
    height = state.data.transitions.obs[:, 0].reshape(episodes, steps).max(1)
    assert height[1:].max() > height[0] + 0.3
    cost = state.data.transitions.cost
    assert loop.violating_steps(state) == int((cost > 0).sum()) <= 10


def test_a_loop_of_ones_own_acts_and_counts():
    model = TrueDynamics(Pendulum.from_config(speed_threshold=6.0))
    check_loop(*manual_loop.main(episodes=1, steps=50, model=model), steps=50)


@pytest.mark.slow
def test_a_loop_of_ones_own_learns():
    check_loop(*manual_loop.main(episodes=2, steps=50), steps=50)
