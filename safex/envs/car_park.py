"""A car with dry friction that must park close to a wall.

The goal is `goal`, the wall at `max_position`, and the friction of tyres on the road
(Coulomb's, with a larger coefficient at rest) is what a model has to find out. Force
and friction are constant between two stops, so each step is solved exactly: friction
brings the car to rest and never reverses it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from safex.config import CarParkConfig
from safex.envs.system import System
from safex.types import Array, Step


class CarParkState(NamedTuple):
    """Physical state and the counters that end an episode.

    Attributes:
      p: `[]` position along the road [m].
      v: `[]` speed [m/s].
      t: `[]` int32 steps taken.
      stable_steps: `[]` int32 consecutive steps within the goal's tolerance.
    """

    p: Array
    v: Array
    t: Array
    stable_steps: Array


class CarParkParams(struct.PyTreeNode):
    """Everything about the car that may be varied, batched or differentiated.

    Meaning and units as in `CarParkConfig`.
    """

    max_position: Array
    goal: Array
    goal_tolerance: Array
    stability_duration: Array
    dt: Array
    mass: Array
    gravity: Array
    static_friction: Array
    kinetic_friction: Array
    max_force: Array
    road: Array
    process_noise_std: Array
    observation_noise_std: Array


class CarPark(System):
    """The car park; observation `(p, v)`."""

    params: CarParkParams

    config_class = CarParkConfig
    params_class = CarParkParams
    obs_dim = 2
    action_dim = 1
    obs_names = ("p [m]", "v [m/s]")
    state_names = ("p", "v")
    limit_names = ("p",)
    limit_units = ("m",)
    portrait = ("p", "v")
    portrait_labels = ("p [m]", "v [m/s]")

    @property
    def limits(self) -> Array:
        """`[1]` the limit of the position [m]."""
        return self.params.max_position[None]

    @property
    def noise_std(self) -> Array:
        """`[2]` std of the next observation."""
        p = self.params
        process = p.process_noise_std * jnp.array([0.0, 1.0])
        return jnp.sqrt(process**2 + p.observation_noise_std**2)

    def obs_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest observation, `[D]` each; the speed is not bounded."""
        high = np.array([self.params.road, np.inf], np.float32)
        if self.params.observation_noise_std > 0:
            high[:] = np.inf
        return -high, high

    def reset(self, key: Array) -> tuple[CarParkState, Array]:
        """The car stands at p ~ U(0, 0.1)."""
        state_key, noise_key = jax.random.split(key)
        state = self.state_at(jax.random.uniform(state_key, (), maxval=0.1), 0.0)
        return state, self._measure(noise_key, state)

    def state_at(self, p: Array | float, v: Array | float) -> CarParkState:
        """The state of an episode that begins at a position [m] and speed [m/s]."""
        zero = jnp.zeros((), jnp.int32)
        p, v = jnp.asarray(p, jnp.float32), jnp.asarray(v, jnp.float32)
        return CarParkState(p, v, zero, zero)

    def state_from_obs(self, obs: Array) -> CarParkState:
        """The state that an observation `[2]` shows, as of an episode that begins."""
        return self.state_at(obs[0], obs[1])

    def far_state(self, key: Array) -> CarParkState:
        """A state past the wall, up to 8 m/s either way."""
        p_key, v_key = jax.random.split(key)
        low, high = self.params.max_position, self.params.road
        p = jax.random.uniform(p_key, (), minval=low, maxval=high)
        return self.state_at(p, jax.random.uniform(v_key, (), minval=-8.0, maxval=8.0))

    def observe(self, state: CarParkState) -> Array:
        """Noise-free observation `[2]` of a state."""
        return jnp.stack([state.p, state.v])

    def step(self, key: Array, state: CarParkState, action: Array) -> Step:
        """Advances one step; noise is added to the speed at its end."""
        params = self.params
        process_key, noise_key = jax.random.split(key)
        p, v = self.dynamics(self.observe(state), action)
        v = v + params.process_noise_std * jax.random.normal(process_key)
        there = jnp.abs(p - params.goal) < params.goal_tolerance
        stable_steps = jnp.where(there, state.stable_steps + 1, 0)
        next_state = CarParkState(p, v, state.t + 1, stable_steps)
        terminated = stable_steps >= params.stability_duration
        return self._outcome(noise_key, state, action, next_state, terminated)

    def dynamics(self, obs: Array, action: Array) -> Array:
        """Noise-free next observation `[2]` of `obs` `[2]` under `action` `[1]`.

        The step has two parts. Moving, the car is driven and slowed,
        `m v' = u - mu_k m g sign(v)`, until it stops or the step ends. At rest it stays
        there if `|u| <= mu_s m g`; a larger force sets it going its own way.
        """
        params = self.params
        p, v = obs[0], obs[1]
        drive = params.max_force * jnp.clip(action[0], -1.0, 1.0) / params.mass
        drag = params.kinetic_friction * params.gravity

        slowing = drive - drag * jnp.sign(v)
        stops = v * slowing < 0
        stop_time = jnp.where(stops, -v / jnp.where(stops, slowing, 1.0), jnp.inf)
        moving = jnp.where(v == 0, 0.0, jnp.minimum(stop_time, params.dt))
        p = p + v * moving + 0.5 * slowing * moving**2
        rests = (v == 0) | (stop_time < params.dt)

        sets_off = jnp.abs(drive) > params.static_friction * params.gravity
        start = jnp.where(sets_off, drive - drag * jnp.sign(drive), 0.0)
        left = params.dt - moving
        p = p + jnp.where(rests, 0.5 * start * left**2, 0.0)
        v = jnp.where(rests, start * left, v + slowing * moving)
        inside = jnp.clip(p, -params.road, params.road)
        return jnp.stack([inside, jnp.where(inside == p, v, 0.0)])

    def reward(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """`10 (T - 1) - 0.01 v^2 - 0.001 a^2` of the next state.

        T is 1 within the tolerance of the goal and 0.95 a tolerance outside of it, with
        a long tail: `1 / (1 + (1 / 0.95 - 1) e^2)`, e in units of the tolerance.
        """
        del obs
        params = self.params
        p, v = next_obs
        outside = jnp.abs(p - params.goal) - params.goal_tolerance
        excess = jnp.maximum(outside, 0.0) / params.goal_tolerance
        near = 1.0 / (1.0 + (1.0 / 0.95 - 1.0) * excess**2)
        effort = jnp.clip(action[0], -1.0, 1.0) ** 2
        return 10.0 * (near - 1.0) - 0.01 * v**2 - 0.001 * effort

    def margin(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """`[1]` next position minus the limit [m]; > 0 violates."""
        del obs, action
        return next_obs[:1] - self.limits

    def project(self, obs: Array) -> Array:
        """Brings the car onto its road."""
        return jnp.stack(
            [jnp.clip(obs[0], -self.params.road, self.params.road), obs[1]]
        )

    def backup(self, obs: Array) -> Array:
        """Brakes, with all force from 1 m/s on; beyond the limit it backs out."""
        outside = obs[:1] > self.limits
        return -jnp.clip(obs[1:2] + outside, -1.0, 1.0)
