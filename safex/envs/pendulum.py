"""The torque-limited pendulum that must swing up below a speed limit.

Minimise the distance to upright subject to `|omega| <= speed_threshold` at every step
(the constrained pendulum of the safe-exploration study; constants of gymnasium's
`Pendulum-v1`). With a limit of 6 rad/s a ballistic swing-up, which needs
`sqrt(6 g / l) = 7.7` rad/s at the bottom, is forbidden: torque must do the rest.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from safex.config import PendulumConfig
from safex.envs.angles import to_unit_circle, wrap
from safex.envs.system import System
from safex.types import Array, Step


class PendulumState(NamedTuple):
    """Physical state and the counters that end an episode.

    Attributes:
      theta: `[]` angle from upright [rad], wrapped to [-pi, pi).
      omega: `[]` angular speed [rad/s].
      t: `[]` int32 steps taken.
      stable_steps: `[]` int32 consecutive steps within the angle tolerance.
    """

    theta: Array
    omega: Array
    t: Array
    stable_steps: Array


class PendulumParams(struct.PyTreeNode):
    """Everything about the pendulum that may be varied, batched or differentiated.

    Meaning and units as in `PendulumConfig`.
    """

    speed_threshold: Array
    action_cost: Array
    angle_tolerance: Array
    stability_duration: Array
    max_speed: Array
    gravity: Array
    mass: Array
    length: Array
    dt: Array
    max_torque: Array
    process_noise_std: Array
    observation_noise_std: Array


class Pendulum(System):
    """The constrained pendulum; observation `(cos theta, sin theta, omega)`."""

    params: PendulumParams

    config_class = PendulumConfig
    params_class = PendulumParams
    obs_dim = 3
    action_dim = 1
    obs_names = ("cos theta", "sin theta", "omega [rad/s]")
    state_names = ("theta", "omega")
    limit_names = ("|omega|",)
    limit_units = ("rad/s",)
    angle_names = ("theta",)
    portrait = ("theta", "omega")
    portrait_labels = ("theta [rad], 0 = upright", "omega [rad/s]")

    @property
    def noise_std(self) -> Array:
        """`[3]` std of the next observation, to first order in the noise."""
        p = self.params
        angle = p.process_noise_std * p.dt
        process = jnp.stack([angle, angle, p.process_noise_std])
        return jnp.sqrt(process**2 + p.observation_noise_std**2)

    @property
    def limits(self) -> Array:
        """`[1]` the speed limit [rad/s]."""
        return self.params.speed_threshold[None]

    def obs_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest observation, `[D]` each; infinite under sensor noise."""
        high = np.array([1.0, 1.0, self.params.max_speed], np.float32)
        if self.params.observation_noise_std > 0:
            high[:] = np.inf
        return -high, high

    def reset(self, key: Array) -> tuple[PendulumState, Array]:
        """Hangs the pendulum: theta ~ U(pi ± 0.1), omega ~ U(±0.1)."""
        angle_key, speed_key, noise_key = jax.random.split(key, 3)
        theta = jnp.pi + jax.random.uniform(angle_key, (), minval=-0.1, maxval=0.1)
        omega = jax.random.uniform(speed_key, (), minval=-0.1, maxval=0.1)
        state = self.state_at(theta, omega)
        return state, self._measure(noise_key, state)

    def state_at(self, theta: Array | float, omega: Array | float) -> PendulumState:
        """The state of an episode that begins at an angle [rad] and a speed [rad/s]."""
        zero = jnp.zeros((), jnp.int32)
        theta = wrap(jnp.asarray(theta, jnp.float32))
        return PendulumState(theta, jnp.asarray(omega, jnp.float32), zero, zero)

    def far_state(self, key: Array) -> PendulumState:
        """A state above the limit: speed_threshold <= |omega| < max_speed."""
        angle_key, speed_key, sign_key = jax.random.split(key, 3)
        high = self.params.max_speed
        low = jnp.minimum(self.params.speed_threshold, high)
        theta = jax.random.uniform(angle_key, (), minval=-jnp.pi, maxval=jnp.pi)
        speed = jax.random.uniform(speed_key, (), minval=low, maxval=high)
        return self.state_at(theta, speed * jax.random.rademacher(sign_key, ()))

    def state_from_obs(self, obs: Array) -> PendulumState:
        """The state that an observation `[3]` shows, as of an episode that begins."""
        return self.state_at(jnp.arctan2(obs[1], obs[0]), obs[2])

    def observe(self, state: PendulumState) -> Array:
        """Noise-free observation `[3]` of a state."""
        return jnp.stack([jnp.cos(state.theta), jnp.sin(state.theta), state.omega])

    def step(self, key: Array, state: PendulumState, action: Array) -> Step:
        """Advances one step; noise enters the speed before the speed clip."""
        p = self.params
        process_key, noise_key = jax.random.split(key)
        action = jnp.clip(action, -1.0, 1.0)
        noise = p.process_noise_std * jax.random.normal(process_key)
        omega = self._next_speed(jnp.sin(state.theta), state.omega, action) + noise
        omega = jnp.clip(omega, -p.max_speed, p.max_speed)
        theta = wrap(state.theta + omega * p.dt)
        upright = jnp.abs(theta) < p.angle_tolerance
        stable_steps = jnp.where(upright, state.stable_steps + 1, 0)
        next_state = PendulumState(theta, omega, state.t + 1, stable_steps)
        terminated = stable_steps >= p.stability_duration
        return self._outcome(noise_key, state, action, next_state, terminated)

    def dynamics(self, obs: Array, action: Array) -> Array:
        """Noise-free next observation `[3]` of `obs` `[3]` under `action` `[1]`."""
        p = self.params
        cos, sin, omega = obs[0], obs[1], obs[2]
        action = jnp.clip(action, -1.0, 1.0)
        omega = self._next_speed(sin, omega, action)
        omega = jnp.clip(omega, -p.max_speed, p.max_speed)
        turn_cos, turn_sin = jnp.cos(omega * p.dt), jnp.sin(omega * p.dt)
        return jnp.stack(
            [cos * turn_cos - sin * turn_sin, sin * turn_cos + cos * turn_sin, omega]
        )

    def reward(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """`-(theta^2 + 0.1 omega^2 + action_cost u^2)` of the state before the step.

        `u` is the physical torque [N m], for planner and simulator alike.
        """
        del next_obs
        theta = jnp.arctan2(obs[1], obs[0])
        torque = self.params.max_torque * jnp.clip(action[0], -1.0, 1.0)
        effort = self.params.action_cost * torque**2
        return -(theta**2 + 0.1 * obs[2] ** 2 + effort)

    def margin(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """`[1]` next speed minus the limit [rad/s]; > 0 violates."""
        del obs, action
        return jnp.abs(next_obs[2:3]) - self.limits

    def project(self, obs: Array) -> Array:
        """Brings `(cos, sin)` back to the unit circle and the speed to its clip."""
        cos, sin = to_unit_circle(obs[:2])
        speed = jnp.clip(obs[2], -self.params.max_speed, self.params.max_speed)
        return jnp.stack([cos, sin, speed])

    def backup(self, obs: Array) -> Array:
        """Brakes, with all torque from 1 rad/s on: the pendulum comes to hang."""
        return -jnp.clip(obs[2:3], -1.0, 1.0)

    def _next_speed(self, sin: Array, omega: Array, action: Array) -> Array:
        p = self.params
        torque = p.max_torque * action[0]
        pull = 1.5 * p.gravity / p.length * sin
        return omega + (pull + 3.0 * torque / (p.mass * p.length**2)) * p.dt
