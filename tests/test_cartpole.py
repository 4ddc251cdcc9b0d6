"""The cart-pole against SciPy, energy, the Control Suite's constants, and itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from safex.config import CartpoleConfig
from safex.envs.cartpole import Cartpole
from safex.envs.contract import check_environment
from tests.helpers import assert_close

KEY = jax.random.key(0)
ENV = Cartpole.from_config()
LONG = Cartpole.from_config(CartpoleConfig(rail=1e3))
# Compiling takes far longer than running here: skip the optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
step = jit(lambda env, state, action: env.step(KEY, state, action))


def lagrange(z, force, p):
    """Accelerations from the mass matrix of the Lagrangian, solved as they stand."""
    _, v, theta, omega = z
    half, m, inertia = (
        p.pole_length / 2,
        p.pole_mass,
        p.pole_mass * p.pole_length**2 / 3,
    )
    matrix = [
        [p.cart_mass + m, m * half * np.cos(theta)],
        [m * half * np.cos(theta), inertia],
    ]
    right = [
        force + m * half * omega**2 * np.sin(theta),
        m * p.gravity * half * np.sin(theta),
    ]
    acceleration = np.linalg.solve(matrix, right)
    return [v, acceleration[0], omega, acceleration[1]]


def energy(state, p):
    half, inertia = p.pole_length / 2, p.pole_mass * p.pole_length**2 / 12
    x_speed = state.v + half * state.omega * jnp.cos(state.theta)
    y_speed = -half * state.omega * jnp.sin(state.theta)
    moving = 0.5 * p.cart_mass * state.v**2 + 0.5 * inertia * state.omega**2
    moving += 0.5 * p.pole_mass * (x_speed**2 + y_speed**2)
    return moving + p.pole_mass * p.gravity * half * jnp.cos(state.theta)


@pytest.mark.parametrize("action", [-1.0, 0.0, 0.7])
@pytest.mark.parametrize("start", [(0.1, -0.5, 3.0, 1.0), (-0.3, 1.0, 0.4, -6.0)])
def test_a_second_is_scipys_integral_of_the_lagrangian(start, action):
    p = jax.tree.map(float, LONG.params)
    state = LONG.state_at(*start)
    for _ in range(20):
        state = step(LONG, state, jnp.array([action])).state
    truth = solve_ivp(
        lambda t, z: lagrange(z, 10.0 * action, p), (0.0, 1.0), start, rtol=1e-9
    ).y[:, -1]
    got = np.array([*state[:2], np.cos(state.theta), np.sin(state.theta), state.omega])
    expected = [*truth[:2], np.cos(truth[2]), np.sin(truth[2]), truth[3]]
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-3)


def test_energy_is_kept_without_force():
    state = LONG.state_at(0.0, 0.5, 1.0, 2.0)
    before = energy(state, LONG.params)
    for _ in range(40):
        state = step(LONG, state, jnp.zeros(1)).state
    assert energy(state, LONG.params) == pytest.approx(float(before), rel=1e-3)


def test_prediction_is_the_simulator():
    state = ENV.state_at(0.2, -1.0, 2.0, 3.0)
    action = jnp.array([0.5])
    assert_close(
        jit(ENV.dynamics)(ENV.observe(state), action),
        step(ENV, state, action).obs,
        rtol=1e-4,
        atol=1e-5,
    )


def test_the_rail_stops_the_cart():
    state = ENV.state_at(1.75, 3.0, jnp.pi, 0.0)
    result = step(ENV, state, jnp.ones(1))
    assert result.state.x == pytest.approx(1.8)
    assert abs(result.state.v) < 0.6  # one substep's pull at most
    assert result.cost == 1.0


def test_cost_is_the_slider_limit_at_the_next_state():
    zero = jnp.zeros(5)
    at = jnp.array([0.51, 0.0, 1.0, 0.0, 0.0])
    assert ENV.cost(zero, jnp.zeros(1), at) == 1.0
    assert ENV.cost(at, jnp.zeros(1), zero) == 0.0
    assert ENV.cost(zero, jnp.zeros(1), -at) == 1.0
    assert ENV.margin(zero, jnp.zeros(1), at)[0] == pytest.approx(0.01)


def test_reward_has_the_control_suites_values():
    def reward(env, x=0.0, theta=0.0, omega=0.0, action=0.0):
        next_obs = jnp.array([x, 0.0, np.cos(theta), np.sin(theta), omega])
        return float(env.reward(jnp.zeros(5), jnp.array([action]), next_obs))

    assert reward(ENV) == pytest.approx(1.0)
    assert reward(ENV, theta=np.pi) == pytest.approx(0.0, abs=1e-6)
    assert reward(ENV, x=2.0) == pytest.approx(0.55)
    assert reward(ENV, omega=5.0) == pytest.approx(0.55)
    assert reward(ENV, action=1.0) == pytest.approx(0.8)
    sparse = Cartpole.from_config(CartpoleConfig(sparse=True))
    assert reward(sparse) == 1.0
    assert reward(sparse, x=0.3) == 0.0
    assert reward(sparse, theta=0.2) == 0.0


def test_noise_time_limit_and_contract():
    check_environment(ENV)
    noisy = Cartpole.from_config(
        CartpoleConfig(process_noise_std=0.1, max_steps=3), slider_limit=0.25
    )
    keys = jax.random.split(KEY, 2000)
    state, _ = jit(noisy.reset)(KEY)
    ends = jit(jax.vmap(lambda key: noisy.step(key, state, jnp.zeros(1)).obs))(keys)
    assert_close(ends.std(0), noisy.noise_std, rtol=0.1, atol=2e-3)
    for t in range(3):
        result = step(noisy, state, jnp.zeros(1))
        state = result.state
        assert bool(result.truncated) == (t == 2)
        assert not result.terminated
    far = jit(jax.vmap(noisy.far_state))(keys)
    assert 0.25 <= float(jnp.abs(far.x).min()) <= float(jnp.abs(far.x).max()) <= 1.8


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slider_limit", 0.0),
        ("dt", 0.0),
        ("rail", -1.0),
        ("substeps", 0),
        ("process_noise_std", -0.1),
    ],
)
def test_impossible_settings_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        CartpoleConfig(**{field: value})


def test_backup_keeps_the_cart_inside():
    def run(key):
        x_key, v_key, angle_key = jax.random.split(key, 3)
        x = jax.random.uniform(x_key, (), minval=-0.3, maxval=0.3)
        v = jax.random.uniform(v_key, (), minval=-1.0, maxval=1.0)
        theta = jax.random.uniform(angle_key, (), minval=-jnp.pi, maxval=jnp.pi)

        def advance(obs, _):
            obs = ENV.dynamics(obs, ENV.backup(obs))
            return obs, obs

        start = ENV.observe(ENV.state_at(x, v, theta, 0.0))
        return jax.lax.scan(advance, start, length=200)[1]

    obs = jax.jit(jax.vmap(run))(jax.random.split(KEY, 50))
    assert float(jnp.abs(obs[..., 0]).max()) < 0.5
    assert float(jnp.abs(obs[:, -1, :2]).max()) < 0.1


def test_state_from_obs_undoes_observe():
    state = ENV.state_at(0.2, -1.0, 2.0, 3.0)
    assert_close(ENV.state_from_obs(ENV.observe(state)), state)
