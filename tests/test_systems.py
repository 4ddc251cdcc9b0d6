"""What holds for every system: contract, noise, drawing, registration."""

import functools
import importlib

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from safex.envs import SYSTEMS, rendering
from safex.envs.contract import check_environment
from tests.helpers import assert_close

KEYS = jax.random.split(jax.random.key(0), 1000)
RED = (214, 39, 40)


def system_class(name):
    module, cls = SYSTEMS[name].split(":")
    return getattr(importlib.import_module(module), cls)


@pytest.fixture(scope="module", params=list(SYSTEMS))
def env(request):
    """Each system, with noise in its process and its sensors."""
    return system_class(request.param).from_config(
        process_noise_std=0.01, observation_noise_std=0.02
    )


@pytest.fixture(scope="module")
def quiet(env):
    zero = jnp.zeros_like(env.params.observation_noise_std)
    none = {"process_noise_std": jnp.zeros(()), "observation_noise_std": zero}
    return env.replace(params=env.params.replace(**none))


# Compiling takes far longer than running here: skip the optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@jit
def many(env):
    """A reset, then a step of each of 1000 episodes, and the far states."""
    step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(KEYS, 1)
    actions = jax.random.uniform(
        KEYS[0], (KEYS.size, env.action_dim), minval=-1.5, maxval=1.5
    )

    def one(key, step_key, action):
        state, first = env.reset(key)

        def advance(state, _):
            return env.step(step_key, state, action).state, None

        # Off the start, where nothing moves yet.
        state, _ = jax.lax.scan(advance, state, length=3)
        step = env.step(step_key, state, action)
        obs, next_obs = env.observe(state), env.observe(step.state)
        far = env.far_state(key)
        return {
            "first": first,
            "step": step,
            "predicted": env.dynamics(obs, action),
            "next_obs": next_obs,
            "reward": env.reward(obs, action, next_obs),
            "cost": env.cost(obs, action, next_obs),
            "margin": env.margin(obs, action, next_obs),
            "projected": env.project(next_obs),
            "again": env.observe(env.state_from_obs(next_obs)),
            "far_margin": env.margin(obs, action, env.observe(far)),
            "far_kept": env.project(env.observe(far)) - env.observe(far),
            "backup": env.backup(next_obs),
        }

    return jax.vmap(one)(KEYS, step_keys, actions)


def test_the_contract_is_kept(env):
    check_environment(env)
    assert env.obs_dim == len(env.obs_names)
    assert set(env.portrait) <= set(env.state_names)
    state, _ = env.reset(KEYS[0])
    assert state._fields[: len(env.state_names)] == env.state_names


def test_one_definition_for_planner_and_simulator(quiet):
    out = jax.device_get(many(quiet))
    step = out["step"]
    assert_close(out["predicted"], out["next_obs"], rtol=1e-4, atol=2e-5)
    assert_close(step.obs, out["next_obs"])
    assert_close(step.reward, out["reward"])
    np.testing.assert_array_equal(step.cost, out["cost"])
    np.testing.assert_array_equal(out["cost"], out["margin"] > 0)
    assert_close(out["projected"], out["next_obs"], rtol=1e-4, atol=2e-5)
    assert_close(out["again"], out["next_obs"], rtol=1e-4, atol=2e-5)
    assert np.all(np.abs(out["backup"]) <= 1)
    # Far states are beyond a limit, and possible.
    assert np.all(out["far_margin"].max(-1) >= -1e-5)
    assert_close(out["far_kept"], np.zeros_like(out["far_kept"]), atol=1e-5)


def test_noise_has_its_std_and_stays_out_of_the_task(env, quiet):
    noisy, clean = (jax.device_get(many(system)) for system in (env, quiet))
    sensors = noisy["step"].obs - noisy["next_obs"]
    std = np.broadcast_to(env.params.observation_noise_std, env.obs_dim)
    assert_close(sensors.std(0), std, rtol=0.1)
    assert_close((noisy["first"] - clean["first"]).std(0), std, rtol=0.1)
    assert_close(noisy["step"].reward, noisy["reward"])
    np.testing.assert_array_equal(noisy["step"].cost, noisy["cost"])
    # To first order: the noise of one step about what is predicted of it.
    process = (noisy["next_obs"] - noisy["predicted"]).std(0)
    expected = np.sqrt(np.maximum(np.asarray(env.noise_std) ** 2 - std**2, 0.0))
    assert process.max() > 0
    # A direction turns with its angle: (cos, sin) have the std of the angle at most.
    assert np.all(process <= 1.1 * expected + 1e-5)
    assert_close(process.max(), expected.max(), rtol=0.15)


def test_a_batch_of_parameters_is_one_system(quiet):
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), quiet.params)
    batch = quiet.replace(params=params)
    obs = quiet.observe(quiet.reset(KEYS[0])[0])
    action = jnp.full(quiet.action_dim, 0.3)
    pair = jit(jax.vmap(lambda system: system.dynamics(obs, action)))(batch)
    alone = jit(quiet.dynamics)(obs, action)
    assert_close(pair, jnp.stack([alone, alone]), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*infinity")
def test_registered_and_checked_by_gymnasium(env):
    made = gymnasium.make(f"safex/{type(env).__name__}-v0", max_steps=9)
    assert made.unwrapped.system.max_steps == 9
    check_env(made.unwrapped, skip_render_check=True)
    with pytest.raises(TypeError, match=r"\['max_stepz'\], allowed: .*'max_steps'"):
        gymnasium.make(f"safex/{type(env).__name__}-v0", max_stepz=9)


def test_drawings_are_red_past_the_limit(quiet):
    state, _ = quiet.reset(KEYS[0])
    action = np.ones(quiet.action_dim, np.float32)

    def red(state):
        frame = rendering.draw(quiet, state, action, lines=("a", "b"), size=200)
        assert frame.shape == (200, 200, 3) and frame.dtype == np.uint8
        return int(np.all(frame == RED, -1).sum())

    assert red(quiet.far_state(KEYS[1])) > red(state) + 400
    visible = state._replace(**{quiet.portrait[0]: jnp.nan})
    with pytest.raises(ValueError, match="not finite"):
        rendering.draw(quiet, visible, None)
