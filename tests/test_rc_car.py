"""The car against SciPy, by symmetry, by hand, and itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from safex.config import RC_CAR_ON_TYRES, RC_CAR_SENSORS, RCCarConfig
from safex.envs.contract import check_environment
from safex.envs.rc_car import RCCar
from tests.helpers import assert_close

KEY = jax.random.key(0)
ROLLING = RCCar.from_config()
TYRES = RCCar.from_config(RC_CAR_ON_TYRES)
# Compiling takes far longer than running here: skip the optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@jit
def drive(env, state, actions):
    """Observations `[T, 7]` after each of `actions` `[T, 2]`."""

    def advance(obs, action):
        obs = env.dynamics(obs, action)
        return obs, obs

    return jax.lax.scan(advance, env.observe(state), actions)[1]


def rates(z, action, c):
    """The car's equations once more, speeds in the frame of the ground."""
    _, _, theta, vx, vy, omega = z
    u = vx * np.cos(theta) + vy * np.sin(theta)
    w = vy * np.cos(theta) - vx * np.sin(theta)
    steer = c.max_steer * action[0]
    force = c.motor_gain * action[1] - c.motor_damping**2 * u - c.drag**2 * u * abs(u)
    yaw = u * np.tan(steer) / (c.front_length + c.rear_length)
    roll = np.array(
        [
            force / c.mass,
            (c.rear_length * yaw - w) / c.slip_lag,
            (yaw - omega) / c.slip_lag,
        ]
    )
    if c.tyres and u > c.blend_start:
        front = -np.arctan((w + c.front_length * omega) / u) + steer
        rear = -np.arctan((w - c.rear_length * omega) / u)
        ff = c.front_d * c.gravity * np.sin(c.front_c * np.arctan(c.front_b * front))
        fr = c.rear_d * c.gravity * np.sin(c.rear_c * np.arctan(c.rear_b * rear))
        slip = np.array(
            [
                (force - ff * np.sin(steer)) / c.mass + w * omega,
                (fr + ff * np.cos(steer)) / c.mass - u * omega,
                (c.front_length * ff * np.cos(steer) - c.rear_length * fr) / c.inertia,
            ]
        )
        share = min((u - c.blend_start) / (c.blend_end - c.blend_start), 1.0)
        roll = (1 - share) * roll + share * slip
    ahead, left = (
        np.array([np.cos(theta), np.sin(theta)]),
        np.array([-np.sin(theta), np.cos(theta)]),
    )
    # d/dt of u ahead + w left, whose directions turn with omega.
    moving = (roll[0] - w * omega) * ahead + (roll[1] + u * omega) * left
    return [vx, vy, omega, *moving, roll[2]]


@pytest.mark.parametrize("env", [ROLLING, TYRES], ids=["rolling", "tyres"])
@pytest.mark.parametrize(
    ("speed", "action"), [(1.5, (0.8, 0.6)), (0.0, (-1.0, 1.0)), (-0.8, (0.5, -0.4))]
)
def test_a_second_is_scipys_integral(env, speed, action):
    config = RC_CAR_ON_TYRES if env is TYRES else RCCarConfig()
    start = (0.3, -0.2, 2.5, speed * np.cos(2.5), speed * np.sin(2.5), 0.0)
    truth = solve_ivp(
        lambda t, z: rates(z, action, config),
        (0.0, 1.0),
        start,
        rtol=1e-9,
        atol=1e-10,
        max_step=0.01,
    ).y[:, -1]
    obs = drive(env, env.state_at(*start), jnp.tile(jnp.array(action), (15, 1)))[-1]
    expected = [*truth[:2], np.cos(truth[2]), np.sin(truth[2]), *truth[3:]]
    np.testing.assert_allclose(obs, expected, atol=2e-3)


def test_the_integrator_is_of_fourth_order():
    start = ROLLING.state_at(0.0, 0.0, 0.3, 1.0, 0.0, 0.0)
    actions = jnp.array([[0.9, 0.7]])
    # A slower lag, or the error would be lost in float32 before it shows its order.
    slow = ROLLING.replace(params=ROLLING.params.replace(slip_lag=jnp.array(0.02)))
    ends = [
        np.asarray(drive(slow.replace(substeps=n), start, actions)[0])
        for n in (2, 4, 64)
    ]
    coarse, fine = (np.abs(end - ends[-1]).max() for end in ends[:2])
    assert coarse / fine > 11.0  # 16 in the limit; a first-order scheme gives 2


@pytest.mark.parametrize("env", [ROLLING, TYRES], ids=["rolling", "tyres"])
def test_a_turned_and_moved_start_turns_and_moves_the_path(env):
    actions = jax.random.uniform(KEY, (20, 2), minval=-1.0, maxval=1.0)
    angle, shift = 0.8, np.array([0.5, -0.3])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    plain = drive(env, env.state_at(0.2, 0.1, 1.0, 0.4, 0.6, 0.0), actions)
    place, speed = turn @ [0.2, 0.1] + shift, turn @ [0.4, 0.6]
    start = env.state_at(*place, 1.0 + angle, *speed, 0.0)
    moved = np.asarray(drive(env, start, actions))
    assert_close(moved[:, :2], np.float32(plain[:, :2] @ turn.T + shift), atol=2e-4)
    for pair in (slice(2, 4), slice(4, 6)):
        assert_close(moved[:, pair], np.float32(plain[:, pair] @ turn.T), atol=2e-4)


@pytest.mark.parametrize("env", [ROLLING, TYRES], ids=["rolling", "tyres"])
def test_mirrored_steering_mirrors_the_path(env):
    actions = jax.random.uniform(KEY, (20, 2), minval=-1.0, maxval=1.0)
    left = drive(env, env.state_at(0.0, 0.0, 0.0, 1.0, 0.0, 0.0), actions)
    mirror = jnp.array([-1.0, 1.0])
    right = drive(env, env.state_at(0.0, 0.0, 0.0, 1.0, 0.0, 0.0), actions * mirror)
    flip = jnp.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0, -1.0])
    assert_close(right, left * flip, atol=1e-4)


def test_a_rolling_car_drives_the_circle_of_its_steering():
    actions = jnp.tile(jnp.array([1.0, 0.3]), (60, 1))
    obs = drive(ROLLING, ROLLING.state_at(*[0.0] * 6), actions)[-1]
    cos, sin, vx, vy, omega = obs[2:]
    ahead, left = vx * cos + vy * sin, vy * cos - vx * sin
    # Bicycle geometry: the rear axle is the wheel base over the tangent away from the
    # middle of the turn, and it does not move sideways.
    assert_close(ahead / omega, np.float32(0.3 / np.tan(0.6)), rtol=2e-2)
    assert_close(left, 0.17 * omega, rtol=2e-2)
    # The motor's top speed, all but for what is left of the start.
    assert_close(ahead, np.float32(8.0 * 0.3 / 1.5**2), rtol=1e-2)


def test_tyres_count_only_forwards_and_at_speed():
    kinematic = TYRES.replace(tyres=False)
    actions = jnp.tile(jnp.array([0.7, -0.5]), (10, 1))
    start = TYRES.state_at(0.0, 0.0, 0.0, -0.5, 0.0, 0.0)
    assert_close(
        drive(TYRES, start, actions), drive(kinematic, start, actions), atol=1e-5
    )
    # Forwards and fast, tyres hold the car less than rails would.
    fast = TYRES.state_at(0.0, 0.0, 0.0, 3.0, 0.0, 0.0)
    actions = jnp.tile(jnp.array([1.0, 1.0]), (10, 1))
    slipping, rolling = (drive(env, fast, actions)[-1, 6] for env in (TYRES, kinematic))
    assert 0.5 < slipping < 0.7 * rolling


def test_both_sides_of_the_box_are_limits_of_their_own():
    def judge(x, y):
        obs = jnp.zeros(7).at[:2].set(jnp.array([x, y]))
        args = (jnp.zeros(7), jnp.zeros(2), obs)
        return ROLLING.margin(*args), ROLLING.cost(*args)

    assert_close(ROLLING.limits, np.array([0.935, 0.735]))
    for x, y, margin in (
        (1.72, -1.32, (0.1, 0.1)),
        (-0.35, 0.0, (0.1, -0.25)),
        (0.0, 0.3, (-0.25, 0.05)),
        (1.0, -0.5, (-0.62, -0.72)),
    ):
        got, cost = judge(x, y)
        assert_close(got, np.float32(margin), atol=1e-5)
        np.testing.assert_array_equal(cost, np.float32(margin) > 0)


def test_reward_has_its_values():
    def reward(x=0.0, y=0.0, theta=0.0, action=(0.0, 0.0), env=ROLLING):
        obs = jnp.array([x, y, np.cos(theta), np.sin(theta), 0.0, 0.0, 0.0])
        return float(env.reward(jnp.zeros(7), jnp.array(action), obs))

    assert reward(0.06, 0.08) == pytest.approx(1.0)
    assert reward(1.1) == pytest.approx(0.1)
    assert reward(theta=-1.1) == pytest.approx(0.1)
    assert reward(theta=2 * np.pi - 0.05) == pytest.approx(1.0)
    assert reward(action=(1.0, -0.5)) == pytest.approx(1.0 - 0.005 * 1.25)
    turned = RCCar.from_config(goal=(0.0, 0.0, 3.0))
    assert reward(theta=-3.0, env=turned) == pytest.approx(
        1 / (1 + 9 * (2 * np.pi - 6.1) ** 2)
    )


def test_reset_presets_and_contract():
    for env in (ROLLING, TYRES):
        check_environment(env)
    keys = jax.random.split(KEY, 2000)
    seen = RCCar.from_config(observation_noise_std=RC_CAR_SENSORS)
    state, obs = jit(jax.vmap(seen.reset))(keys)
    error = obs - jax.vmap(seen.observe)(state)
    assert_close(error.std(0), np.float32(RC_CAR_SENSORS), rtol=0.1)
    assert_close(seen.noise_std, np.float32(RC_CAR_SENSORS))
    assert np.abs(state.x - 1.42).max() == pytest.approx(0.05, abs=1e-3)
    assert np.abs(state.y + 1.02).max() == pytest.approx(0.05, abs=1e-3)
    # Position and heading are drawn apart.
    assert abs(np.corrcoef(state.x, state.y)[0, 1]) < 0.1
    assert state.omega.std() == pytest.approx(0.02, rel=0.1)


def test_backup_stops():
    def advance(obs, _):
        obs = TYRES.dynamics(obs, TYRES.backup(obs))
        return obs, obs

    start = TYRES.observe(TYRES.state_at(0.5, -0.5, 2.0, -0.4, 0.8, 0.5))
    obs = jit(lambda obs: jax.lax.scan(advance, obs, length=30)[1])(start)
    assert float(jnp.abs(obs[-1, 4:]).max()) < 0.05
    assert float(jnp.hypot(*(obs[-1, :2] - start[:2]))) < 0.5


@pytest.mark.parametrize("env", [ROLLING, TYRES], ids=["rolling", "tyres"])
def test_backup_drives_back_inside_and_stays(env):
    def advance(obs, _):
        obs = env.dynamics(obs, env.backup(obs))
        return obs, env.margin(obs, jnp.zeros(2), obs)

    def come_back(x, y, theta):
        start = env.observe(env.state_at(x, y, theta, 0.0, 0.0, 0.0))
        return jax.lax.scan(advance, start, length=60)[1]

    p = env.params
    x = jnp.array([p.x_high + 0.2, p.x_low - 0.2, 0.0, p.x_high + 0.1])
    y = jnp.array([0.0, 0.5, p.y_low - 0.3, p.y_high + 0.1])
    margins = jit(jax.vmap(jax.vmap(come_back, (0, 0, None)), (None, None, 0)))(
        x, y, jnp.linspace(-3.0, 3.0, 9)
    )
    assert float(margins[:, :, -20:].max()) <= 0.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dt", 0.0),
        ("x_high", -0.3),
        ("blend_end", 0.05),
        ("start", (3.0, 0.0, 0.0)),
        ("goal", (0.0, 1.0, 0.0)),
        ("observation_noise_std", (0.1, 0.1)),
        ("observation_noise_std", -0.1),
        ("substeps", 0),
    ],
)
def test_impossible_settings_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        RCCarConfig(**{field: value})
