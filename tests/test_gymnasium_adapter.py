import subprocess
import sys

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import safex.envs
from safex.config import PendulumConfig
from safex.envs import gymnasium_adapter, rendering
from safex.envs.gymnasium_adapter import JaxEnv
from safex.envs.pendulum import Pendulum
from tests.helpers import assert_close

ID = "safex/Pendulum-v0"
RED, BLUE, ORANGE = (214, 39, 40), (52, 101, 164), (240, 140, 30)


@pytest.fixture(scope="module")
def env():
    return gymnasium.make(ID)


@pytest.fixture
def dummy_display(monkeypatch):
    """A window that is never shown, for machines without a screen."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


def trajectory(env, seed, length=20):
    rng = np.random.default_rng(0)
    observations = [env.reset(seed=seed)[0]]
    for _ in range(length):
        observations.append(env.step(rng.uniform(-1, 1, 1).astype(np.float32))[0])
    return np.stack(observations)


def centre_of(frame, colour):
    """Mean distance (right, up) of all pixels of a colour from the middle [pixels]."""
    rows, columns = np.nonzero(np.all(np.abs(frame - np.float32(colour)) < 30, -1))
    middle = frame.shape[0] / 2
    return columns.mean() - middle, middle - rows.mean()


def count(frame, colour):
    return int(np.all(np.abs(frame - np.float32(colour)) < 30, -1).sum())


class TestInterface:
    @pytest.mark.usefixtures("dummy_display")
    def test_gymnasium_checks_it_without_a_warning(self, env):
        check_env(env.unwrapped)

    def test_spaces(self, env):
        high = np.array([1.0, 1.0, 12.0], np.float32)
        assert env.observation_space == gymnasium.spaces.Box(-high, high)
        assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (1,))
        noisy = gymnasium.make(ID, observation_noise_std=0.1, max_speed=9)
        assert not noisy.observation_space.is_bounded()
        assert gymnasium.make(ID, max_speed=9).observation_space.high[2] == 9.0

    def test_a_step_is_the_step_of_the_system(self, env):
        obs, info = env.reset(options={"theta": 2.0, "omega": -3.0})
        assert_close(obs, np.array([np.cos(2.0), np.sin(2.0), -3.0], np.float32))
        assert info == {}
        system = Pendulum.from_config()
        state = system.state_at(2.0, -3.0)
        _, expected, margins = gymnasium_adapter._step(
            system, jax.random.key(0), state, np.array([0.5], np.float32)
        )
        obs, reward, terminated, truncated, info = env.step(np.array([0.5]))
        assert_close(obs, np.asarray(expected.obs))
        assert obs.dtype == np.float32
        assert_close(reward, float(expected.reward))
        assert type(reward) is float
        assert terminated is False and truncated is False
        assert info.keys() == {"cost", "costs", "margin", "margins"}
        assert type(info["cost"]) is type(info["margin"]) is float
        assert_close(info["margins"], np.asarray(margins))
        assert_close(info["costs"], np.asarray(expected.cost))
        assert info["margin"] == margins.max() and info["cost"] == expected.cost.sum()

    def test_info_tells_cost_and_margin_of_the_next_speed(self, env):
        # Upright gravity does not pull: omega' = omega + 0.3 a.
        for omega, action, next_omega in ((5.8, 1.0, 6.1), (6.2, -1.0, 5.9)):
            env.reset(options={"theta": 0.0, "omega": omega})
            info = env.step(np.array([action]))[-1]
            assert info["cost"] == (next_omega > 6.0)
            assert_close(info["margin"], next_omega - 6.0, atol=2e-6)

    def test_margin_is_free_of_sensor_noise(self):
        env = gymnasium.make(ID, observation_noise_std=0.5, speed_threshold=1.0)
        env.reset(seed=0, options={"theta": 0.0, "omega": 2.0})
        obs, _, _, _, info = env.step(np.zeros(1))
        assert_close(info["margin"], 1.0)
        assert abs(obs[2] - 2.0) > 1e-3

    def test_upright_for_ten_steps_terminates(self, env):
        env.reset(options={"theta": 0.0, "omega": 0.0})
        ends = [env.step(np.zeros(1))[2:4] for _ in range(11)]
        assert ends == [(False, False)] * 9 + [(True, False)] * 2

    def test_the_200th_step_truncates(self, env):
        env.reset(seed=0)
        ends = [env.step(np.zeros(1))[2:4] for _ in range(200)]
        assert ends == [(False, False)] * 199 + [(False, True)]

    def test_no_second_clock(self, env):
        assert env.spec.max_episode_steps is None
        while env is not env.unwrapped:
            assert not isinstance(env, gymnasium.wrappers.TimeLimit)
            env = env.env

    def test_observations_belong_to_the_caller(self, env):
        obs, _ = env.reset(options={"theta": 0.0, "omega": 0.0})
        obs[:] = 9.0
        assert_close(env.step(np.zeros(1))[0], np.array([1.0, 0.0, 0.0], np.float32))

    def test_many_in_one_vector(self):
        envs = gymnasium.make_vec(ID, num_envs=3, vectorization_mode="sync")
        envs.reset(seed=0)
        obs, reward, _, _, info = envs.step(np.ones((3, 1), np.float32))
        assert obs.shape == (3, 3) and reward.shape == (3,)
        assert info["cost"].shape == info["margin"].shape == (3,)
        assert info["costs"].shape == info["margins"].shape == (3, 1)
        envs.close()

    def test_systems_of_one_type_share_a_compilation(self, env):
        trajectory(env, seed=0, length=2)
        before = gymnasium_adapter._step._cache_size()
        for mass in (0.5, 2, 3.0):
            other = gymnasium.make(ID, mass=mass, speed_threshold=mass)
            trajectory(other, seed=0, length=2)
            other.reset(options={"theta": 1, "omega": np.float32(0.5)})
            other.step(np.zeros(1, np.float64))
        assert gymnasium_adapter._step._cache_size() == before


class TestSeeding:
    def test_the_seed_fixes_the_trajectory(self):
        env = gymnasium.make(ID, process_noise_std=0.1, observation_noise_std=0.1)
        first = trajectory(env, seed=1)
        np.testing.assert_array_equal(first, trajectory(env, seed=1))
        other = gymnasium.make(ID, process_noise_std=0.1, observation_noise_std=0.1)
        np.testing.assert_array_equal(first, trajectory(other, seed=1))
        assert (trajectory(env, seed=2) != first).any(1).all()
        # Without a seed the numbers go on: a new episode, yet a reproducible one.
        second = trajectory(env, seed=None)
        assert (second != first).any(1).all()
        trajectory(other, seed=2)
        np.testing.assert_array_equal(second, trajectory(other, seed=None))

    def test_every_step_has_fresh_noise(self):
        env = gymnasium.make(ID, process_noise_std=0.1)
        env.reset(seed=0, options={"theta": 0.0, "omega": 0.0})
        theta, omega, noise = 0.0, 0.0, []
        for _ in range(5):
            obs = env.step(np.zeros(1))[0]
            noise.append(obs[2] - omega - 0.75 * np.sin(theta))
            theta, omega = np.arctan2(obs[1], obs[0]), obs[2]
        assert np.abs(np.subtract.outer(noise, noise))[~np.eye(5, dtype=bool)].min() > 0
        assert 0.01 < np.std(noise) < 0.3


class TestOptions:
    def test_what_is_not_named_is_drawn_as_always(self, env):
        plain, _ = env.reset(seed=3)
        obs, _ = env.reset(seed=3, options={"theta": 0.5})
        assert_close(obs[:2], np.array([np.cos(0.5), np.sin(0.5)], np.float32))
        assert obs[2] == plain[2]
        obs, _ = env.reset(seed=3, options={})
        np.testing.assert_array_equal(obs, plain)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"angle": 1.0}, r"\['angle'\], allowed: \['theta', 'omega'\]"),
            ({"theta": "up"}, "theta must be a finite number, got 'up'"),
            ({"theta": float("nan")}, "theta must be a finite number, got nan"),
            ({"omega": 12.5}, "outside of the system"),
        ],
    )
    def test_impossible_options_are_refused(self, env, options, message):
        env.reset(seed=0)
        with pytest.raises(ValueError, match=message):
            env.reset(options=options)
        env.step(np.zeros(1))  # the episode before goes on

    def test_kwargs_reach_the_system(self):
        env = gymnasium.make(
            ID, process_noise_std=0.1, speed_threshold=5, length=2, max_steps=17
        )
        config = PendulumConfig(process_noise_std=0.1, length=2.0, max_steps=17)
        assert_close(
            env.unwrapped.system, Pendulum.from_config(config, speed_threshold=5.0)
        )

    def test_an_unknown_kwarg_is_named(self):
        with pytest.raises(TypeError, match=r"\['masss'\], allowed: .*'mass'"):
            gymnasium.make(ID, masss=2.0)

    def test_an_impossible_kwarg_is_refused(self):
        with pytest.raises(ValueError, match="mass must be > 0"):
            gymnasium.make(ID, mass=-2.0)

    @pytest.mark.parametrize(
        "action",
        [0.5, np.zeros(2), np.zeros((1, 1)), [np.nan], [np.inf], None],
        ids=["scalar", "long", "matrix", "nan", "inf", "none"],
    )
    def test_impossible_actions_are_refused(self, env, action):
        env.reset(seed=0)
        with pytest.raises(ValueError, match=r"action must be finite .* shape \(1,\)"):
            env.step(action)
        assert env.unwrapped.state.t == 0

    def test_a_step_needs_an_episode(self):
        env = JaxEnv(Pendulum.from_config(), render_mode="rgb_array")
        for call in (lambda: env.step(np.zeros(1)), env.render):
            with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
                call()

    def test_an_unknown_render_mode_is_refused(self):
        with pytest.raises(ValueError, match=r"\['rgb_array', 'human'\], got 'ansi'"):
            JaxEnv(Pendulum.from_config(), render_mode="ansi")


class TestRendering:
    def test_frames_need_no_display(self, monkeypatch):
        monkeypatch.setenv("SDL_VIDEODRIVER", "there is no such driver")
        env = gymnasium.make(ID, render_mode="rgb_array")
        env.reset(seed=0)
        frame = env.render()
        import pygame

        assert not pygame.display.get_init()
        assert frame.shape == (400, 400, 3) and frame.dtype == np.uint8
        env.step(np.ones(1))
        assert count(env.render(), ORANGE) > 50 > count(frame, ORANGE)
        env.reset()
        assert count(env.render(), ORANGE) == 0  # the torque of the last episode
        env.unwrapped.overlay = ("episode 3", "return -12.0")
        assert (env.render()[:70, :120] < 100).sum() > (frame[:70, :120] < 100).sum()

    def test_red_shows_past_the_limit_only(self):
        env = gymnasium.make(ID, render_mode="rgb_array", speed_threshold=4)
        for omega, red in ((3.9, False), (4.1, True), (-4.1, True)):
            env.reset(options={"theta": 1.0, "omega": omega})
            frame = env.render()
            assert (count(frame, RED) > 2000) == red
            assert (count(frame, BLUE) > 2000) != red

    def test_the_rod_points_as_in_gymnasium(self):
        reference = gymnasium.make("Pendulum-v1", render_mode="rgb_array").unwrapped
        reference.reset()
        for theta in (0.0, 0.8, 2.0, -2.4):
            reference.state = np.array([theta, 0.0])
            right, up = centre_of(reference.render(), (204, 77, 77))
            frame = rendering.render_frame(theta, 0.0, 0.0, 6.0)
            ours_right, ours_up = centre_of(frame, BLUE)
            ours_up += 14  # the pivot lies as many pixels below the middle
            angles = np.arctan2(-right, up), np.arctan2(-ours_right, ours_up)
            assert_close(*angles, atol=0.03)
            assert_close(angles[0], theta, atol=0.03)

    @pytest.mark.parametrize("theta", [0.0, 2.5])
    def test_the_torque_arrow_turns_its_way(self, theta):
        ahead = np.array([-np.cos(theta), -np.sin(theta)])  # counter-clockwise
        ahead_of_rod = {}
        for torque in (2.0, 1.0, -2.0):
            frame = rendering.render_frame(theta, 0.0, torque, 6.0)
            right, up = centre_of(frame, ORANGE)
            ahead_of_rod[torque] = np.dot(ahead, [right, up + 14])
        assert ahead_of_rod[2.0] > ahead_of_rod[1.0] > 5
        assert ahead_of_rod[-2.0] < -5

    def test_edges_are_smooth(self):
        frame = rendering.render_frame(0.3, 0.0, 0.0, 6.0)
        colours = np.unique(frame[:330].reshape(-1, 3), axis=0)
        assert len(colours) > 20  # five are drawn, the others lie between them
        assert tuple(frame[0, 0]) == (250, 250, 248)

    @pytest.mark.parametrize("size", [64, 201, 500])
    def test_frames_come_in_any_size(self, size):
        frame = rendering.render_frame(0.3, 7.0, 1.0, 6.0, lines=("a", "b"), size=size)
        assert frame.shape == (size, size, 3)

    @pytest.mark.parametrize(
        ("arguments", "size", "message"),
        [
            ((0.0, 0.0, 0.0, 6.0), 10, "size must be >= 64"),
            ((np.nan, 0.0, 0.0, 6.0), 400, "theta=nan"),
            ((0.0, 0.0, 0.0, 0.0), 400, "speed_limit must be > 0"),
        ],
    )
    def test_impossible_frames_are_refused(self, arguments, size, message):
        with pytest.raises(ValueError, match=message):
            rendering.render_frame(*arguments, size=size)

    @pytest.mark.usefixtures("dummy_display")
    def test_a_window_opens_shows_and_closes(self):
        import pygame

        env = gymnasium.make(ID, render_mode="human", dt=0.01)
        for _ in range(2):  # it can be opened again
            env.reset(seed=0)
            shown = pygame.surfarray.array3d(pygame.display.get_surface())
            env.step(np.ones(1))
            after = pygame.surfarray.array3d(pygame.display.get_surface())
            assert shown.shape == (400, 400, 3) and (shown != after).any()
            assert env.render() is None
            env.close()
            env.close()
            assert not pygame.display.get_init()

    def test_no_render_mode_no_frame(self):
        env = JaxEnv(Pendulum.from_config())
        env.reset(seed=0)
        with pytest.warns(UserWarning, match="render_mode is None"):
            assert env.render() is None
        env.close()

    @pytest.mark.parametrize(("dt", "fps"), [(0.05, 20), (0.03, 33), (5.0, 1)])
    def test_frames_per_second_are_real_time(self, dt, fps):
        env = gymnasium.make(ID, dt=dt)
        assert env.metadata["render_fps"] == fps

    def test_a_system_without_a_drawing_says_so(self):
        with pytest.raises(NotImplementedError, match="no drawing of object: register"):
            rendering.draw(object(), None, None)


def test_registration_imports_nothing_heavy():
    code = (
        "import sys, safex.envs; "
        "print(sorted({'jax', 'pygame', 'safex.envs.pendulum'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
    assert safex.envs.__doc__
