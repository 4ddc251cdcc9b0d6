"""The aircraft's pitch against SciPy, by hand, and itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from safex.config import PitchControlConfig
from safex.envs.contract import check_environment
from safex.envs.pitch_control import PitchControl
from tests.helpers import assert_close

KEY = jax.random.key(0)
ENV = PitchControl.from_config()
# Compiling takes far longer than running here: skip the optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
step = jit(lambda env, state, action: env.step(KEY, state, action))


@pytest.mark.parametrize("action", [-1.0, 0.0, 0.3])
def test_two_seconds_are_scipys_integral(action):
    start = (0.05, -0.004, -0.2)

    def rates(_, z):
        alpha, q, _ = z
        u = 1.4 * action
        return [
            -0.313 * alpha + 56.7 * q + 0.232 * u,
            -0.0139 * alpha - 0.426 * q + 0.0203 * u,
            56.7 * q,
        ]

    truth = solve_ivp(rates, (0.0, 2.0), start, rtol=1e-10, atol=1e-12).y[:, -1]
    state = ENV.state_at(*start)
    for _ in range(40):
        state = step(ENV, state, jnp.array([action])).state
    np.testing.assert_allclose(np.array(state[:3]), truth, rtol=1e-4, atol=1e-6)


def test_prediction_is_the_simulator_and_superposes():
    dynamics = jit(ENV.dynamics)
    rng = np.random.default_rng(0)
    first, second = rng.uniform(-0.2, 0.2, (2, 3)).astype(np.float32)
    one, other = jnp.array([0.4]), jnp.array([-0.2])
    result = step(ENV, ENV.state_at(*first), one)
    assert_close(dynamics(first, one), result.obs)
    assert_close(
        dynamics(first, one) + dynamics(second, other),
        dynamics(first + second, one + other),
    )
    assert_close(dynamics(first, 5 * one), dynamics(first, jnp.ones(1)))


def test_reward_is_of_the_physical_elevator_before_the_step():
    obs, next_obs = jnp.array([0.3, 0.0, -0.2]), jnp.array([0.0, 0.0, 1.0])
    expected = -(2.0 * 0.04 + 0.02 * 0.7**2)
    assert_close(ENV.reward(obs, jnp.array([0.5]), next_obs), expected)


def test_cost_is_overshoot_at_the_next_state():
    env = PitchControl.from_config(max_angle=0.1)
    zero, action = jnp.zeros(3), jnp.zeros(1)
    above, at = jnp.array([0.0, 0.0, 0.13]), jnp.array([0.0, 0.0, 0.1])
    assert_close(env.margin(zero, action, above), np.array([0.03]))
    assert_close(env.cost(zero, action, above), np.ones(1))
    assert_close(env.cost(above, action, at), np.zeros(1))
    assert_close(env.cost(zero, action, -above), np.zeros(1))


def test_twenty_steps_at_the_target_end_the_task():
    env = PitchControl.from_config(max_angle=0.1, max_steps=25)
    state, ends = env.state_at(0.0, 0.0, 0.0), []
    for _ in range(25):
        result = step(env, state, jnp.zeros(1))
        state = result.state
        ends.append((bool(result.terminated), bool(result.truncated)))
    assert ends == [(False, False)] * 19 + [(True, False)] * 5 + [(True, True)]
    off = step(env, env.state_at(0.0, 0.0, -0.1), jnp.zeros(1))
    assert off.state.stable_steps == 0


def test_noise_reset_and_contract():
    check_environment(ENV)
    noisy = PitchControl.from_config(process_noise_std=0.002)
    keys = jax.random.split(KEY, 2000)
    state, obs = jit(jax.vmap(noisy.reset))(keys)
    assert_close(obs, jax.vmap(noisy.observe)(state))
    spread = obs - np.array([0.0, 0.0, -0.2])
    assert 9e-4 < np.abs(spread).max() <= 1.001e-3
    assert np.abs(np.corrcoef(spread.T) - np.eye(3)).max() < 0.1
    one = jax.tree.map(lambda leaf: leaf[0], state)
    ends = jit(jax.vmap(lambda key: noisy.step(key, one, jnp.zeros(1)).obs))(keys)
    assert_close(ends.std(0), noisy.noise_std, rtol=0.1, atol=1e-6)
    far = jit(jax.vmap(noisy.far_state))(keys)
    assert 0.0 <= far.theta.min() and 0.4 < far.theta.max() <= 0.5
    assert_close(noisy.state_from_obs(obs[0]), one)


def test_backup_levels_off_below_the_limit():
    def run(start):
        def advance(obs, _):
            obs = ENV.dynamics(obs, ENV.backup(obs))
            return obs, obs

        return jax.lax.scan(advance, start, length=400)[1]

    rng = np.random.default_rng(0)
    starts = rng.uniform([-0.1, -0.004, -0.3], [0.1, 0.003, -0.1], (100, 3))
    obs = jax.jit(jax.vmap(run))(jnp.asarray(starts, jnp.float32))
    assert float(obs[..., 2].max()) < 0.0
    assert_close(obs[:, -1, 2], np.full(100, -0.2), atol=0.02)
    assert float(jnp.abs(obs[:, -1, 1]).max()) < 1e-3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dt", 0.0),
        ("max_elevator", -1.0),
        ("target_angle", 0.1),
        ("start_angle", float("nan")),
        ("process_noise_std", -0.1),
        ("stability_duration", 0),
    ],
)
def test_impossible_settings_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        PitchControlConfig(**{field: value})
