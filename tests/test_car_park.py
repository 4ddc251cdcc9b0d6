"""The car park by hand, against small steps of Coulomb's friction, and itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex.config import CarParkConfig
from safex.envs.car_park import CarPark
from safex.envs.contract import check_environment
from tests.helpers import assert_close

KEY = jax.random.key(0)
ENV = CarPark.from_config()
# Compiling takes far longer than running here: skip the optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
step = jit(lambda env, state, action: env.step(KEY, state, action))
dynamics = jit(jax.vmap(ENV.dynamics))


def tiny_steps(p, v, action, pieces=20000):
    """Explicit Euler of the same laws, at rest between two steps of either sign."""
    h, u = 0.05 / pieces, 6.0 * action
    for _ in range(pieces):
        if v == 0:
            a = u - 0.2 * 9.81 * np.sign(u) if abs(u) > 0.4 * 9.81 else 0.0
        else:
            a = u - 0.2 * 9.81 * np.sign(v)
        after = v + h * a
        v = 0.0 if v * after < 0 else after
        p += h * v
    return p, v


@pytest.mark.parametrize(
    ("p", "v", "action"),
    [
        (0.0, 2.0, 0.5),
        (1.0, -1.0, -0.3),
        (0.5, 0.2, -1.0),  # stops, and sets off backwards
        (0.5, -0.1, 0.6),  # stops, and is held
        (0.5, 0.05, 0.0),  # friction alone stops it
        (0.0, 0.0, 1.0),
    ],
)
def test_a_step_is_that_of_many_tiny_steps(p, v, action):
    obs = ENV.dynamics(jnp.array([p, v]), jnp.array([action]))
    np.testing.assert_allclose(obs, tiny_steps(p, v, action), atol=2e-5)


def test_a_stop_within_the_step_worked_by_hand():
    # Decelerated by 6 + 1.962 from 0.2 m/s: stops after 0.02512 s, 2.512 mm on; then
    # pushed back with 6 - 1.962 for the other 0.02488 s.
    stop = 0.2 / 7.962
    left = 0.05 - stop
    obs = ENV.dynamics(jnp.array([1.0, 0.2]), jnp.array([-1.0]))
    assert_close(obs[1], -4.038 * left)
    assert_close(obs[0], 1.0 + 0.1 * stop - 0.5 * 4.038 * left**2)


def test_friction_holds_and_never_reverses():
    rng = np.random.default_rng(0)
    speed = rng.uniform(-0.3, 0.3, 500)
    action = rng.uniform(-0.65, 0.65, 500)  # less than the 3.924 N that hold it
    obs = np.stack([np.zeros(500), speed], 1).astype(np.float32)
    after = np.asarray(dynamics(obs, action[:, None].astype(np.float32)))
    assert np.all(after[:, 1] * speed >= 0)
    assert 0.1 < (after[:, 1] == 0).mean() < 0.9
    held = dynamics(np.float32([[2.0, 0.0]]), np.float32([[0.65]]))
    assert_close(held, np.float32([[2.0, 0.0]]))
    moved = dynamics(np.float32([[2.0, 0.0]]), np.float32([[0.66]]))
    assert_close(moved[0, 1], (0.66 * 6 - 1.962) * 0.05)


def test_friction_only_takes_energy():
    rng = np.random.default_rng(1)
    obs = rng.uniform([-4, -3], [4, 3], (500, 2)).astype(np.float32)
    action = rng.uniform(-1, 1, (500, 1)).astype(np.float32)
    after = np.asarray(dynamics(obs, action), np.float64)
    gained = 0.5 * (after[:, 1] ** 2 - obs[:, 1].astype(np.float64) ** 2)
    work = 6.0 * action[:, 0] * (after[:, 0] - obs[:, 0])
    assert np.all(gained <= work + 1e-5)
    assert (work - gained).max() > 0.1


def test_the_end_of_the_road_stops_the_car():
    result = step(ENV, ENV.state_at(4.9, 6.0), jnp.ones(1))
    assert_close(result.state[:2], (jnp.array(5.0), jnp.array(0.0)))
    assert result.cost[0] == 1.0


def test_gradients_are_finite_at_rest():
    jacobian = jax.jit(jax.jacobian(ENV.dynamics, argnums=(0, 1)))
    for v, action in ((0.0, 0.0), (0.0, 1.0), (0.1, 0.327), (-0.1, 1.0)):
        leaves = jax.tree.leaves(jacobian(jnp.array([0.0, v]), jnp.array([action])))
        assert all(np.all(np.isfinite(leaf)) for leaf in leaves)


def test_prediction_is_the_simulator():
    result = step(ENV, ENV.state_at(1.0, 0.2), jnp.array([-0.9]))
    assert_close(dynamics(jnp.array([[1.0, 0.2]]), jnp.array([[-0.9]]))[0], result.obs)
    assert_close(ENV.state_from_obs(result.obs)[:2], result.state[:2])


def test_reward_has_its_values():
    def reward(p, v=0.0, action=0.0):
        return float(ENV.reward(jnp.ones(2), jnp.array([action]), jnp.array([p, v])))

    assert reward(3.04) == pytest.approx(0.0)
    assert reward(3.1) == pytest.approx(-0.5, abs=1e-4)  # a tolerance outside: 0.95
    assert reward(2.9) == pytest.approx(-0.5, abs=1e-4)
    assert reward(3.0, v=2.0, action=-1.0) == pytest.approx(-0.041)
    assert -10.0 < reward(0.0) < -9.9


def test_cost_is_the_wall_at_the_next_state():
    zero, past = jnp.zeros(2), jnp.array([3.07, 0.0])
    assert_close(ENV.margin(zero, jnp.zeros(1), past), np.array([0.02]), atol=1e-6)
    assert ENV.cost(zero, jnp.zeros(1), past)[0] == 1.0
    assert ENV.cost(past, jnp.zeros(1), zero)[0] == 0.0
    assert ENV.cost(zero, jnp.zeros(1), -past)[0] == 0.0


def test_ten_steps_at_the_goal_end_the_task():
    env = CarPark.from_config(max_steps=12)
    state, ends = env.state_at(3.0, 0.0), []
    for _ in range(12):
        result = step(env, state, jnp.zeros(1))
        state = result.state
        ends.append((bool(result.terminated), bool(result.truncated)))
    assert ends == [(False, False)] * 9 + [(True, False)] * 2 + [(True, True)]


def test_noise_reset_and_contract():
    check_environment(ENV)
    noisy = CarPark.from_config(process_noise_std=0.1, observation_noise_std=0.02)
    keys = jax.random.split(KEY, 2000)
    state, obs = jit(jax.vmap(noisy.reset))(keys)
    assert 0.0 <= state.p.min() and 0.09 < state.p.max() <= 0.1
    assert not np.any(state.v)
    assert_close((obs[:, 0] - state.p).std(), np.float32(0.02), rtol=0.1)
    moving = noisy.state_at(1.0, 1.0)
    ends = jit(jax.vmap(lambda key: noisy.step(key, moving, jnp.zeros(1)).obs))(keys)
    assert_close(ends.std(0), noisy.noise_std, rtol=0.1)
    far = jit(jax.vmap(noisy.far_state))(keys)
    assert 3.05 <= far.p.min() <= far.p.max() <= 5.0


def test_backup_stops_and_stays():
    obs = jnp.array([[2.9, 1.0]])
    for _ in range(40):
        obs = dynamics(obs, ENV.backup(obs[0])[None])
    assert obs[0, 1] == 0.0
    assert 2.95 < obs[0, 0] < 3.05


def test_backup_backs_out():
    obs = jnp.array([[3.3, 0.0]])
    for _ in range(30):
        obs = dynamics(obs, ENV.backup(obs[0])[None])
    assert obs[0, 1] == 0.0
    assert 2.8 < obs[0, 0] < 3.05


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dt", 0.0),
        ("mass", -1.0),
        ("static_friction", 0.1),
        ("max_position", 2.9),
        ("max_position", 5.1),
        ("process_noise_std", float("nan")),
        ("max_steps", 0),
    ],
)
def test_impossible_settings_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        CarParkConfig(**{field: value})
