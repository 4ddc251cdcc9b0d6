"""The robot among hazards against SciPy, a plain lidar, by hand, and itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from safex.config import PointGoalConfig
from safex.envs.contract import check_environment
from safex.envs.point_goal import PointGoal, draw_hazards
from tests.helpers import assert_close

KEY = jax.random.key(0)
ENV = PointGoal.from_config()
SEEING = PointGoal.from_config(lidar=True)
# Compiling takes far longer than running here: skip the optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
observe = jit(lambda env, values: env.observe(env.state_at(*values)))


def at(x=0.0, y=0.0, theta=0.0, goal=(1.2, 1.2)):
    return jnp.array([x, y, theta, 0.0, 0.0, 0.0, *goal])


class TestMap:
    @pytest.mark.parametrize("seed", range(20))
    def test_hazards_are_clear_of_start_goal_and_each_other(self, seed):
        config = PointGoalConfig(layout_seed=seed)
        hazards = draw_hazards(config)
        assert hazards.shape == (8, 2) and np.abs(hazards).max() <= 1.5
        between = np.linalg.norm(hazards[:, None] - hazards, axis=-1)
        assert between[~np.eye(8, dtype=bool)].min() >= 2 * 0.2 + 0.15
        assert np.linalg.norm(hazards - config.start, axis=1).min() >= 0.4
        # The whole goal is free.
        assert np.linalg.norm(hazards - config.goal, axis=1).min() >= 0.3 + 0.2
        # One lies on the straight way, on which start and goal have equal x and y.
        assert_close(hazards[0, 0], hazards[0, 1])
        assert np.abs(hazards[0]).max() <= 0.4

    def test_the_seed_is_the_map(self):
        assert_close(ENV.params.hazards, np.float32(draw_hazards(PointGoalConfig())))
        assert np.any(
            draw_hazards(PointGoalConfig(layout_seed=1)) != ENV.params.hazards
        )

    def test_a_map_without_room_is_refused(self):
        with pytest.raises(ValueError, match="no room for num_hazards 60"):
            PointGoal.from_config(num_hazards=60)
        with pytest.raises(ValueError, match="move start and goal apart"):
            PointGoal.from_config(goal=(-1.0, -1.0))


def test_three_seconds_are_scipys_integral():
    action, start = (0.7, -0.4), (-1.0, -0.5, 0.4, 0.3, -0.6, 1.0)

    def rates(_, z):
        x, y, theta, vx, vy, omega = z
        del x, y
        force = 1.5 * action[0]
        return [
            vx,
            vy,
            omega,
            force * np.cos(theta) - vx,
            force * np.sin(theta) - vy,
            (3.0 * action[1] - omega) / 0.2,
        ]

    truth = solve_ivp(rates, (0.0, 3.0), start, rtol=1e-9).y[:, -1]

    def advance(obs, _):
        obs = ENV.dynamics(obs, jnp.array(action))
        return obs, None

    obs = observe(ENV, jnp.array([*start, 1.2, 1.2]))
    obs = jit(lambda obs: jax.lax.scan(advance, obs, length=30)[0])(obs)
    expected = [*truth[:2], np.cos(truth[2]), np.sin(truth[2]), *truth[3:]]
    np.testing.assert_allclose(obs[:7], expected, atol=1e-3)
    assert_close(obs[:2] + obs[7:9], np.float32([1.2, 1.2]), atol=1e-5)


def test_cost_is_the_depth_in_the_nearest_hazard():
    first, second = np.asarray(ENV.params.hazards[:2])
    away = (second - first) / np.linalg.norm(second - first)
    for distance, depth in ((0.0, 0.2), (0.15, 0.05), (0.25, -0.05)):
        obs = observe(ENV, at(*(first + distance * away)))
        margin = ENV.margin(obs, jnp.zeros(2), obs)
        assert_close(margin, np.float32([depth]), atol=1e-6)
        assert ENV.cost(obs, jnp.zeros(2), obs)[0] == (depth > 0)


def test_reward_is_progress_and_the_bonus_inside():
    far, near, inside = (observe(ENV, at(x, 1.2)) for x in (0.2, 0.8, 1.0))
    none = jnp.zeros(2)
    assert_close(ENV.reward(far, none, near), 0.6)
    assert_close(ENV.reward(near, none, far), -0.6)
    assert_close(ENV.reward(near, none, inside), 0.2 + 0.1)
    gradient = jax.grad(lambda obs: ENV.reward(obs, none, obs))(
        observe(ENV, at(1.2, 1.2))
    )
    assert np.all(np.isfinite(gradient))


class TestLidar:
    def plain(self, place, heading, objects, bins=16, reach=3.0):
        """One object at a time, as the rule reads."""
        shown = np.zeros(bins)
        for x, y in objects:
            distance = np.hypot(x - place[0], y - place[1])
            angle = (np.arctan2(y - place[1], x - place[0]) - heading) % (2 * np.pi)
            own, share = divmod(angle / (2 * np.pi / bins), 1)
            closeness = max(0.0, 1 - distance / reach)
            for bin_, weight in ((0, 1.0), (1, share), (-1, 1 - share)):
                index = (int(own) + bin_) % bins
                shown[index] = max(shown[index], weight * closeness)
        return shown

    @pytest.mark.parametrize(
        "pose", [(0.3, -0.8, 0.4), (-1.2, 1.0, -2.9), (5.0, 5.0, 1.0)]
    )
    def test_it_is_the_plain_rule(self, pose):
        obs = observe(SEEING, at(*pose))
        hazards = np.asarray(SEEING.params.hazards, np.float64)
        expected = [self.plain(pose[:2], pose[2], o) for o in (hazards, [(1.2, 1.2)])]
        assert_close(obs[9:], np.float32(np.concatenate(expected)), atol=2e-5)

    def test_one_object_worked_by_hand(self):
        # 1.5 m away, a quarter into the third bin of 22.5 degrees.
        angle = 2.25 * 2 * np.pi / 16
        goal = 1.5 * np.cos(angle), 1.5 * np.sin(angle)
        lidar = observe(SEEING, at(goal=goal))[25:]
        expected = np.zeros(16)
        expected[1:4] = 0.5 * 0.75, 0.5, 0.5 * 0.25
        assert_close(lidar, np.float32(expected), atol=1e-5)

    def test_turning_by_a_bin_shifts_all_bins(self):
        before = observe(SEEING, at(0.1, -0.2, 0.3))[9:].reshape(2, 16)
        after = observe(SEEING, at(0.1, -0.2, 0.3 + 2 * np.pi / 16))[9:].reshape(2, 16)
        assert_close(after, np.roll(before, -1, axis=1), atol=1e-5)


class TestProject:
    def test_what_the_pose_tells_is_recomputed(self):
        real = observe(SEEING, at(0.3, -0.8, 0.4))
        guess = real.at[7:].set(0.5).at[2:4].multiply(1.7)
        assert_close(SEEING.project(guess), real, atol=1e-5)

    def test_a_random_goal_is_believed(self):
        env = PointGoal.from_config(random_goal=True, lidar=True)
        real = observe(env, at(0.3, -0.8, 0.4, goal=(-0.5, 1.0)))
        assert_close(env.project(real.at[9:].set(0.0)), real, atol=1e-5)


def test_resets_are_clear_of_hazards():
    keys = jax.random.split(KEY, 500)
    for seed in (0, 3):
        env = PointGoal.from_config(layout_seed=seed, random_goal=True)
        state, obs = jit(jax.vmap(env.reset))(keys)
        margin = jax.vmap(env.margin, in_axes=(0, None, 0))(obs, jnp.zeros(2), obs)
        assert margin.max() < 0
        goals = np.stack([state.goal_x, state.goal_y], 1)
        assert np.abs(goals).max() <= 1.5 and goals.std(0).min() > 0.4
        away = np.linalg.norm(goals[:, None] - env.params.hazards, axis=-1)
        assert away.min() > 0.5
        assert np.linalg.norm(goals - env.params.start, axis=1).min() > 1.0
        assert np.abs(state.x + 1.2).max() <= 0.1001
        assert state.theta.std() > 1.5
    fixed = jit(jax.vmap(ENV.reset))(keys)[0]
    assert_close(fixed.goal_x, np.full(500, 1.2, np.float32))


def test_contract_and_sizes():
    check_environment(SEEING)
    assert ENV.obs_dim == 9 and SEEING.obs_dim == 41
    assert PointGoal.from_config(lidar=True, lidar_bins=4).obs_dim == 17


def test_backup_comes_to_rest():
    params = ENV.params
    free = ENV.replace(params=params.replace(hazards=params.hazards + 10.0))

    def advance(obs, _):
        obs = free.dynamics(obs, free.backup(obs))
        return obs, obs

    start = observe(ENV, jnp.array([0.0, 0.0, 1.0, 0.9, -0.9, 0.0, 1.2, 1.2]))
    obs = jit(lambda obs: jax.lax.scan(advance, obs, length=40)[1])(start)
    assert float(jnp.abs(obs[-1, 4:6]).max()) < 0.02
    # Drag alone would let it slide by the 1.27 m that its momentum is worth.
    assert float(jnp.hypot(*(obs[-1, :2] - start[:2]))) < 0.7


def test_backup_leaves_a_hazard_and_stays_out():
    def advance(obs, _):
        obs = ENV.dynamics(obs, ENV.backup(obs))
        return obs, ENV.margin(obs, jnp.zeros(2), obs)[0]

    def leave(angle, away):
        x, y = ENV.params.hazards[0] + away * jnp.array([0.6, -0.8])
        state = ENV.state_at(x, y, angle, 0.0, 0.0, 0.0, 1.2, 1.2)
        return jax.lax.scan(advance, ENV.observe(state), length=40)[1]

    angles, aways = jnp.linspace(-3.0, 3.0, 7), jnp.array([0.0, 0.01, 0.19])
    depth = jit(jax.vmap(jax.vmap(leave, (None, 0)), (0, None)))(angles, aways)
    assert float(depth[..., 20:].max()) < 0.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dt", 0.0),
        ("hazard_radius", -1.0),
        ("num_hazards", 0),
        ("start", (3.0, 0.0)),
        ("goal", (0.0, float("nan"))),
        ("lidar_bins", 2),
        ("process_noise_std", -0.1),
    ],
)
def test_impossible_settings_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        PointGoalConfig(**{field: value})
