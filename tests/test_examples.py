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
from safex.training.honesty import far_paths, random_path
from safex.training.manual import ManualLoop
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
    """Lines that are neither blank, comment, docstring, import nor demonstration."""
    tree = ast.parse(text)
    aside = set()
    for node in ast.walk(tree):
        skipped = None
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            skipped = node.body[0] if ast.get_docstring(node) else None
        if isinstance(node, ast.Import | ast.ImportFrom):
            skipped = node
        if isinstance(node, ast.FunctionDef) and node.name == "main":
            skipped = node
        if isinstance(node, ast.If) and ast.unparse(node.test).startswith("__name__"):
            skipped = node
        if skipped is not None:
            aside |= set(range(skipped.lineno, skipped.end_lineno + 1))
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SPACE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - aside)


def test_lines_are_counted_as_said():
    text = '"""Doc."""\n\nimport os\n\n# Why.\na = (\n  1\n)\n\ndef main():\n    pass\n'
    assert code_lines(text) == 3


@pytest.mark.parametrize("part", ["environment", "model", "optimizer", "agent"])
def test_a_part_of_ones_own_takes_less_than_60_lines(part):
    assert 20 < code_lines((FOLDER / f"own_{part}.py").read_text()) < 60


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

    def claimed(path):
        belief = predict(state, path.obs, path.action)
        std = jnp.hypot(belief.epistemic_std, belief.aleatoric_std)
        held = jnp.abs(path.next_obs - belief.mean) <= 2 * std
        return held.mean(), belief.epistemic_std[:, 2].mean()

    near, near_std = claimed(random_path(key, env, *env.reset(key), 100))
    far_path = jax.tree.map(lambda leaf: leaf.reshape(100, -1), far_paths(key, env, 10))
    _, far_std = claimed(far_path)
    assert near > 0.85
    assert far_std > 10 * near_std


def test_the_optimizer_parks_the_car_within_its_limit():
    obs, total, violating = own_optimizer.main()
    assert violating == 0
    np.testing.assert_allclose(obs, [3.0, 0.0], atol=0.051)
    assert total > -300


def test_the_agent_begins_at_rest_and_has_a_band():
    agent, env = own_agent.make_agent(), own_agent.ICE
    state = agent.init(jax.random.key(0))
    obs = env.reset(jax.random.key(1))[1]
    _, action, info = agent.act(jax.random.key(2), state, obs, explore=True)
    assert_close(action, jnp.zeros(1))
    assert info["prediction/mean"].shape == (2,)
    nominal, low, high = agent.band(state, obs, jnp.zeros((3, 1)))
    assert bool(((low <= nominal) & (nominal <= high)).all())


@pytest.mark.slow
def test_the_agent_improves_its_policy_on_what_it_has_seen():
    agent, env = own_agent.make_agent(), own_agent.ICE
    loop = ManualLoop(env, agent, capacity=100)
    pushes = np.repeat(np.random.default_rng(0).uniform(-1, 1, (10, 1)), 10, axis=0)
    dynamics, state = jax.jit(env.dynamics), loop.init(0)
    obs = env.reset(jax.random.key(3))[1]
    for action in pushes.astype(np.float32):
        next_obs = dynamics(obs, action)
        reward, cost = (
            env.reward(obs, action, next_obs),
            env.cost(obs, action, next_obs),
        )
        step = {"obs": obs, "action": action, "next_obs": next_obs}
        state = loop.observe(state, reward=reward, cost=cost, **step)
        obs = next_obs
    state, metrics = loop.update(state)
    assert metrics["policy/feasible"]

    @jax.jit
    def episode(agent_state):
        def step(obs, key):
            action = agent.act(key, agent_state, obs, explore=True)[1]
            next_obs = env.dynamics(obs, action)
            triple = (obs, action, next_obs)
            return next_obs, (env.reward(*triple), env.cost(*triple))

        keys = jax.random.split(jax.random.key(0), 100)
        return jax.lax.scan(step, env.reset(jax.random.key(4))[1], keys)[1]

    reward, cost = episode(state.agent)
    assert reward.sum() > -600 > episode(agent.init(jax.random.key(0)))[0].sum()
    assert cost.sum() < 5
    nominal, low, high = agent.band(state.agent, obs, pushes[:5])
    assert bool(((low <= nominal) & (nominal <= high)).all())


@pytest.mark.slow
def test_the_agent_learns_in_the_loop_of_all_agents(tmp_path):
    own_agent.main(tmp_path, episodes=2)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows[0]["train/episode/return"] < -900
    assert rows[2]["train/episode/return"] > -300
    assert rows[2]["train/account/cumulative_violating_steps"] <= 1
    assert rows[2]["coverage/prequential/2"] > 0.3
    assert (tmp_path / "checkpoints" / "episode_0002.ckpt").exists()


def test_a_loop_of_ones_own_learns():
    loop, state, returns = manual_loop.main(episodes=2, steps=50)
    assert len(returns) == 3
    assert int(state.data.size) == 150
    assert int(state.agent.episode) == 3
    # Once it has a model it swings higher than random torque does.
    height = state.data.transitions.obs[:, 0].reshape(3, 50).max(1)
    assert height[1:].max() > height[0] + 0.3
    cost = state.data.transitions.cost
    assert loop.violating_steps(state) == int((cost > 0).sum()) <= 10
