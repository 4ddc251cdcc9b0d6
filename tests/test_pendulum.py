import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex.config import PendulumConfig
from safex.envs.pendulum import Pendulum, PendulumState
from tests.helpers import assert_close

PI = np.pi
N = 4096  # every step test is a batch of this size, so that all share one compilation
KEYS = jax.random.split(jax.random.key(7), N)


@pytest.fixture(scope="module")
def env():
    return Pendulum.from_config()


def noisy(process=0.0, observation=0.0):
    return Pendulum.from_config(
        PendulumConfig(process_noise_std=process, observation_noise_std=observation)
    )


@jax.jit
def _run(env, state, action):
    start = jax.vmap(env.state_at)(state.theta, state.omega)
    state = start._replace(t=state.t, stable_steps=state.stable_steps)
    return jax.vmap(env.step)(KEYS, state, action[:, None])


def run(env, theta, omega, action=0.0, *, t=0, stable_steps=0):
    """One step of each of N pendulums; plain numbers hold for all of them."""
    theta, omega, action = (
        np.broadcast_to(np.float32(x), N) for x in (theta, omega, action)
    )
    t, stable_steps = (np.broadcast_to(np.int32(x), N) for x in (t, stable_steps))
    return _run(env, PendulumState(theta, omega, t, stable_steps), action)


def step(*args, **kwargs):
    """One step of one pendulum."""
    return jax.tree.map(lambda x: x[0], jax.device_get(run(*args, **kwargs)))


@jax.jit
def roll_out(env, theta, omega, action):
    """Terminated and truncated flags `[T]` of an episode with one constant action."""

    def advance(state, key):
        out = env.step(key, state, jnp.reshape(action, (1,)))
        return out.state, (out.terminated, out.truncated)

    return jax.lax.scan(advance, env.state_at(theta, omega), KEYS[:201])[1]


resets = jax.jit(jax.vmap(Pendulum.reset, in_axes=(None, 0)))
project = jax.jit(jax.vmap(Pendulum.project, in_axes=(None, 0)))
far_states = jax.jit(jax.vmap(Pendulum.far_state, in_axes=(None, 0)))


@pytest.fixture(scope="module")
def many():
    """Angles, speeds and actions from all over the state space."""
    rng = np.random.default_rng(0)
    low, high = np.array([[-PI, -8, -1.2], [PI, 8, 1.2]])
    return rng.uniform(low, high, (N, 3)).astype(np.float32).T


class TestDynamics:
    def test_a_step_worked_by_hand(self, env):
        out = step(env, PI / 2, 1.0, 0.5)
        # omega' = 1 + (1.5 * 10 * sin(pi/2) + 3 * (2 * 0.5)) * 0.05
        assert_close(out.state.omega, 1.9)
        assert_close(out.state.theta, PI / 2 + 1.9 * 0.05)
        assert_close(out.obs, np.array([-np.sin(0.095), np.cos(0.095), 1.9]))
        assert_close(out.reward, -((PI / 2) ** 2 + 0.1 + 0.001))
        assert out.cost == 0
        assert out.state.t == 1

    def test_mass_and_length_enter_the_torque(self):
        env = Pendulum.from_config(PendulumConfig(mass=2.0, length=0.5, gravity=9.81))
        out = step(env, PI / 2, 0.0, 1.0)
        # (1.5 * 9.81 / 0.5 + 3 * 2 / (2 * 0.25)) * 0.05
        assert_close(out.state.omega, (29.43 + 12.0) * 0.05)

    def test_one_step_is_that_of_gymnasium(self, many):
        env = Pendulum.from_config(PendulumConfig(max_speed=8.0))
        theta, omega, action = many
        out = run(env, theta, omega, action)
        reference = gymnasium.make("Pendulum-v1").unwrapped
        obs, reward = [], []
        some = slice(512)
        for state in zip(theta[some], omega[some], action[some], strict=True):
            reference.state = np.array(state[:2])
            result = reference.step(np.array([2.0 * state[2]]))
            obs.append(result[0])
            reward.append(result[1])
        assert np.abs(np.stack(obs)[:, 2]).max() == 8.0  # the clip is among them
        assert_close(out.obs[some], np.stack(obs), atol=1e-5)
        assert_close(out.reward[some], np.array(reward), atol=1e-5)

    def test_dynamics_of_the_observation_equal_the_step(self, env, many):
        theta, omega, action = many
        omega = omega * 1.5  # up to the clip
        out = run(env, theta, omega, action)
        obs = np.stack([np.cos(theta), np.sin(theta), omega], 1)
        predicted = jax.jit(jax.vmap(env.dynamics))(obs, action[:, None])
        assert np.abs(out.state.omega).max() == 12.0
        assert_close(predicted, out.obs, atol=5e-6)

    def test_actions_are_clipped_to_the_box(self, env, many):
        theta, omega, action = many
        clipped = np.clip(action, -1.0, 1.0)
        assert (action != clipped).any()
        assert_close(run(env, *many), run(env, theta, omega, clipped))

    @pytest.mark.parametrize(
        ("angle", "wrapped"),
        [(1.5 * PI, -0.5 * PI), (-1.5 * PI, 0.5 * PI), (4 * PI + 1, 1.0), (0.3, 0.3)],
    )
    def test_angles_are_wrapped(self, env, angle, wrapped):
        assert_close(env.state_at(angle, 0.0).theta, wrapped, atol=2e-6)

    def test_a_step_over_the_seam_wraps(self, env):
        out = step(env, PI - 0.01, 4.0, 0.0)
        # The pull of gravity at 0.01 rad from the bottom is 15 sin(0.01) * 0.05.
        omega = 4.0 + 0.75 * np.sin(0.01)
        assert_close(out.state.theta, -PI - 0.01 + omega * 0.05, atol=2e-6)


class TestTask:
    # Upright gravity does not pull: omega' = omega + 0.3 a.
    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize(
        ("omega", "action", "next_omega"),
        [(5.8, 1.0, 6.1), (6.2, -1.0, 5.9), (6.2, 0.0, 6.2), (1.0, 1.0, 1.3)],
    )
    def test_cost_is_of_the_next_speed(self, env, sign, omega, action, next_omega):
        out = step(env, 0.0, sign * omega, sign * action)
        assert_close(out.state.omega, sign * next_omega)
        assert out.cost == (next_omega > 6.0)

    def test_the_limit_itself_is_allowed(self, env):
        obs = jnp.array([1.0, 0.0, 0.0])
        at, above = jnp.array([1.0, 0.0, 6.0]), jnp.array([1.0, 0.0, 6.0001])
        assert_close(env.margin(obs, obs[:1], at), np.zeros(1))
        assert_close(env.cost(obs, obs[:1], at), np.zeros(1))
        assert_close(env.cost(obs, obs[:1], above), np.ones(1))
        assert_close(env.margin(obs, obs[:1], -above), np.array([1e-4]), atol=1e-6)

    def test_the_threshold_moves_the_cost(self):
        env = Pendulum.from_config(speed_threshold=2.0)
        assert step(env, 0.0, 2.1, 0.0).cost == 1
        assert step(env, 0.0, 1.9, 0.0).cost == 0

    def test_cost_is_the_margin_past_zero(self, env, many):
        theta, omega, action = many
        out = run(env, theta, omega, action)
        margin = np.abs(out.state.omega) - 6.0
        assert 0.1 < out.cost.mean() < 0.9
        np.testing.assert_array_equal(out.cost[:, 0], (margin > 0).astype(np.float32))

    def test_reward_counts_the_physical_torque(self):
        env = Pendulum.from_config(PendulumConfig(action_cost=0.2, max_torque=3.0))
        obs = jnp.array([1.0, 0.0, 0.0])  # upright at rest: only the effort is left
        for action, torque in ((0.5, 1.5), (-1.0, 3.0), (9.0, 3.0)):
            assert_close(env.reward(obs, jnp.array([action]), obs), -0.2 * torque**2)

    def test_reward_is_of_the_state_before_the_step(self, env):
        obs, next_obs = jnp.array([-1.0, 0.0, 2.0]), jnp.array([1.0, 0.0, 0.0])
        assert_close(env.reward(obs, jnp.zeros(1), next_obs), -(PI**2 + 0.4))

    def test_project_brings_a_guess_back_to_what_the_system_can_show(self, env):
        obs = np.random.default_rng(0).normal(0.0, 20.0, (256, 3)).astype(np.float32)
        obs[0, :2] = 0.0  # no direction at all
        projected = np.asarray(project(env, obs))
        angles = [np.arctan2(o[:, 1], o[:, 0]) for o in (obs, projected)]
        assert_close(np.hypot(projected[:, 0], projected[:, 1]), np.ones(256))
        assert_close(angles[0], angles[1], atol=1e-5)
        np.testing.assert_array_equal(projected[:, 2], np.clip(obs[:, 2], -12, 12))
        assert_close(project(env, projected), projected)

    def test_project_has_a_gradient_even_without_a_direction(self, env):
        jacobian = jax.jit(jax.jacobian(env.project))
        assert_close(jacobian(jnp.zeros(3)), np.diag([0.0, 0.0, 1.0]))
        # At (0, 2) only the part across the radius is kept, divided by the length.
        assert_close(jacobian(jnp.array([0.0, 2.0, 1.0])), np.diag([0.5, 0.0, 1.0]))

    def test_project_keeps_real_observations(self, env, many):
        obs = run(env, *many).obs[:256]
        assert_close(project(env, obs), obs)


class TestEpisode:
    def test_reset_hangs_the_pendulum(self, env):
        state, obs = resets(env, KEYS)
        from_bottom = np.mod(state.theta, 2 * PI) - PI
        for value in (from_bottom, np.asarray(state.omega)):
            assert np.abs(value).max() <= 0.1 + 1e-6
            # A uniform variable of this width has the std 0.2 / sqrt(12) = 0.0577.
            assert_close(value.std(), np.float32(0.0577), rtol=0.05)
            assert abs(value.mean()) < 4 * 0.0577 / np.sqrt(N)
        assert abs(np.corrcoef(from_bottom, state.omega)[0, 1]) < 0.1
        assert not np.any(state.t) and not np.any(state.stable_steps)
        assert_close(obs[:, 0], np.cos(state.theta))
        assert_close(obs[:, 1], np.sin(state.theta))
        assert_close(obs[:, 2], state.omega)

    def test_terminates_at_the_tenth_upright_step(self, env):
        terminated, truncated = roll_out(env, 0.0, 0.0, 0.0)
        np.testing.assert_array_equal(terminated, [False] * 9 + [True] * 192)
        assert not truncated[:199].any()

    def test_truncates_at_the_200th_step(self, env):
        terminated, truncated = roll_out(env, 3.0, 0.0, 0.0)
        np.testing.assert_array_equal(truncated, [False] * 199 + [True] * 2)
        assert not terminated.any()

    def test_a_step_off_upright_begins_the_count_again(self, env):
        assert step(env, 0.0, 0.0, 0.0, stable_steps=9).terminated
        # The tolerance of 0.1 rad holds for the angle after the step.
        out = step(env, 0.08, 1.0, 0.0, stable_steps=9)
        assert out.state.stable_steps == 0 and not out.terminated
        out = step(env, 0.12, -1.0, 0.0, stable_steps=0)
        assert out.state.stable_steps == 1 and not out.terminated

    def test_terminated_and_truncated_are_kept_apart(self, env):
        cases = {
            (198, 9): (True, False),
            (199, 0): (False, True),
            (199, 9): (True, True),
        }
        for (t, stable_steps), expected in cases.items():
            out = step(env, 0.0, 0.0, 0.0, t=t, stable_steps=stable_steps)
            assert (bool(out.terminated), bool(out.truncated)) == expected

    def test_far_states_are_above_the_limit(self, env):
        state = far_states(env, KEYS)
        speed = np.abs(state.omega)
        assert speed.min() >= 6.0 and speed.max() < 12.0
        assert speed.max() - speed.min() > 5.5
        assert 0.4 < (state.omega > 0).mean() < 0.6
        assert np.ptp(state.theta) > 6.0

    def test_far_states_stay_below_the_clip_of_the_simulator(self):
        env = Pendulum.from_config(speed_threshold=50.0)
        assert np.abs(far_states(env, KEYS).omega).max() <= 12.0


class TestNoise:
    def test_process_noise_has_its_std(self):
        out = run(noisy(process=0.3), 0.5, 1.0)
        mean = 1.0 + 15.0 * np.sin(0.5) * 0.05
        omega = np.asarray(out.state.omega, np.float64)
        assert abs(omega.mean() - mean) < 4 * 0.3 / np.sqrt(N)
        assert_close(omega.std(), np.float64(0.3), rtol=0.05)
        # The noise moves the angle too, and the observation shows the state as it is.
        assert_close(out.state.theta, 0.5 + 0.05 * np.asarray(out.state.omega))
        assert_close(out.obs[:, 2], out.state.omega)

    def test_process_noise_enters_before_the_clip(self):
        omega = run(noisy(process=0.3), 0.0, 12.0).state.omega
        assert omega.max() == 12.0
        assert abs((omega == 12.0).mean() - 0.5) < 4 * 0.5 / np.sqrt(N)

    def test_observation_noise_is_only_in_the_observation(self):
        clean, seen = (run(noisy(0.3, std), 0.5, 5.5) for std in (0.0, 0.5))
        for name in ("state", "reward", "cost", "terminated", "truncated"):
            assert_close(getattr(clean, name), getattr(seen, name))
        assert 0.1 < clean.cost.mean() < 0.9
        error = np.asarray(seen.obs - clean.obs, np.float64)
        assert_close(error.std(0), np.full(3, 0.5), rtol=0.05)
        assert np.abs(error.mean(0)).max() < 4 * 0.5 / np.sqrt(N)
        # Process and sensor do not share their noise.
        assert np.abs(
            np.corrcoef(error.T, clean.state.omega)[-1, :3]
        ).max() < 4 / np.sqrt(N)

    def test_the_first_observation_is_noisy_too(self):
        env = noisy(observation=0.5)
        state, obs = resets(env, KEYS)
        noise = np.asarray(obs[:, 2] - state.omega)
        assert_close(noise.std(), np.float32(0.5), rtol=0.05)


class TestParameters:
    def test_vmap_over_masses(self, env):
        masses = jnp.array([0.5, 1.0, 4.0])

        @jax.jit
        @jax.vmap
        def next_speed(mass):
            system = env.replace(params=env.params.replace(mass=mass))
            return system.dynamics(jnp.array([1.0, 0.0, 0.0]), jnp.ones(1))[2]

        assert_close(next_speed(masses), 0.3 / masses)

    def test_gradient_of_the_length_is_the_closed_form(self, env):
        def next_speed(length):
            system = env.replace(params=env.params.replace(length=length))
            return system.dynamics(jnp.array([0.6, 0.8, 1.0]), jnp.array([0.5]))[2]

        # d/dl (1.5 g sin / l + 3 u / (m l^2)) dt at l = 2, sin = 0.8, u = 1
        expected = (-15.0 * 0.8 / 4.0 - 6.0 / 8.0) * 0.05
        assert_close(jax.jit(jax.grad(next_speed))(2.0), expected)

    def test_gradient_through_an_episode_equals_finite_differences(self, env):
        def episode_return(length):
            system = env.replace(params=env.params.replace(length=length))

            def advance(obs, _):
                action = jnp.array([0.7])
                next_obs = system.dynamics(obs, action)
                return next_obs, system.reward(obs, action, next_obs)

            start = jnp.array([-0.6, 0.8, 1.0])
            return jax.lax.scan(advance, start, length=10)[1].sum()

        length, eps = 1.2, 0.02
        evaluate = jax.jit(jax.value_and_grad(episode_return))
        gradient = evaluate(length)[1]
        slope = evaluate(length + eps)[0] - evaluate(length - eps)[0]
        assert np.isfinite(gradient) and abs(gradient) > 0.1
        assert_close(gradient, slope / (2 * eps), rtol=5e-3)

    def test_whole_numbers_still_have_a_gradient(self):
        env = Pendulum.from_config(PendulumConfig(length=1, mass=2, gravity=9))
        assert env.params.stability_duration.dtype == jnp.int32
        floats = env.params.replace(stability_duration=jnp.zeros(()))
        assert {leaf.dtype for leaf in jax.tree.leaves(floats)} == {
            jnp.dtype("float32")
        }

    def test_bounds_of_the_observation(self, env):
        low, high = env.obs_bounds()
        assert low.dtype == high.dtype == np.float32
        assert_close(high, np.array([1.0, 1.0, 12.0]))
        assert_close(low, -high)
        assert np.isinf(noisy(observation=0.01).obs_bounds()).all()
        assert np.isfinite(noisy(process=0.01).obs_bounds()).all()

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("speed_threshold", 0.0),
            ("speed_threshold", float("nan")),
            ("mass", 0.0),
            ("length", -1.0),
            ("dt", float("nan")),
            ("max_torque", 0.0),
            ("max_speed", 0.0),
            ("process_noise_std", -0.1),
            ("observation_noise_std", -0.1),
            ("action_cost", -1.0),
            ("max_steps", 0),
            ("stability_duration", 0),
        ],
    )
    def test_impossible_values_are_refused_by_name(self, field, value):
        with pytest.raises(ValueError, match=f"{field} must be .*{value}"):
            PendulumConfig(**{field: value})

    def test_changes_replace_fields_of_the_config(self):
        config = PendulumConfig(mass=2.0)
        env = Pendulum.from_config(config, speed_threshold=3, max_steps=7)
        assert_close(env.limits, np.array([3.0]))
        assert env.params.mass == 2.0 and env.max_steps == 7
        with pytest.raises(TypeError, match=r"\['masss'\], allowed: .*'mass'"):
            Pendulum.from_config(config, masss=1.0)

    def test_the_state_of_an_observation_is_the_state(self, env):
        state = env.state_at(-2.0, 5.0)
        assert_close(env.state_from_obs(env.observe(state)), state)


def test_backup_comes_to_rest_below_the_limit(env):
    @jax.jit
    @jax.vmap
    def run(key):
        angle_key, speed_key = jax.random.split(key)
        theta = jax.random.uniform(angle_key, (), minval=-PI, maxval=PI)
        omega = jax.random.uniform(speed_key, (), minval=-3.0, maxval=3.0)

        def advance(obs, _):
            next_obs = env.dynamics(obs, env.backup(obs))
            return next_obs, (env.cost(obs, jnp.zeros(1), next_obs), next_obs[2])

        start = env.observe(env.state_at(theta, omega))
        return jax.lax.scan(advance, start, length=200)[1]

    cost, omega = run(KEYS[:200])
    assert not cost.any()
    assert np.abs(omega[:, -1]).max() < 0.05
