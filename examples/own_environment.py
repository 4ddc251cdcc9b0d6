"""A system of one's own: a tank to be filled close to its brim through a slow valve.

    python experiments/launcher_car_park.py env.kind=examples.own_environment:Tank

explores it with every file of the car park that does not describe the car.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from safex.envs.system import System
from safex.types import Array, Step


class TankConfig(struct.PyTreeNode):
    """Brim and goal [m], lag of the valve [s]; wide open it lets in 0.5 m/s.

    Numbers as a YAML has them, and arrays once a system is built from them.
    """

    brim: float = 1.0
    goal: float = 0.9
    lag: float = 0.5
    dt: float = 0.1
    observation_noise_std: float = 0.0
    max_steps: int = 200


class TankState(NamedTuple):
    """Level [m], inflow [m/s], steps taken."""

    h: Array
    q: Array
    t: Array


class Tank(System):
    """`h' = q - 0.1 sqrt(h)`, `q' = (u - q) / lag`; no level above the brim."""

    config_class, params_class, obs_dim, action_dim = TankConfig, TankConfig, 2, 1
    obs_names, state_names = ("h [m]", "q [m/s]"), ("h", "q")
    limit_names, limit_units, portrait = ("h",), ("m",), ("h", "q")

    @property
    def limits(self) -> Array:
        """`[1]` the brim [m]."""
        return self.params.brim[None]

    @property
    def noise_std(self) -> Array:
        """`[2]`, of the sensors alone."""
        return jnp.full(2, self.params.observation_noise_std)

    def obs_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Nothing is bounded under sensor noise, and a level never for long."""
        return np.full(2, -np.inf, np.float32), np.full(2, np.inf, np.float32)

    def reset(self, key: Array) -> tuple[TankState, Array]:
        """Almost empty, the valve closed; the first reading has no sensor noise."""
        state = self.state_at(jax.random.uniform(key, (), maxval=0.2), 0.0)
        return state, self.observe(state)

    def state_at(self, h: Array | float, q: Array | float) -> TankState:
        """The state of an episode that begins at a level and an inflow."""
        return TankState(jnp.float32(h), jnp.float32(q), jnp.zeros((), jnp.int32))

    def state_from_obs(self, obs: Array) -> TankState:
        """The state that an observation shows."""
        return self.state_at(obs[0], obs[1])

    def far_state(self, key: Array) -> TankState:
        """Past the brim, up to twice as high."""
        h, q = jax.random.uniform(key, (2,))
        return self.state_at(self.params.brim * (1.0 + h), 0.5 * q)

    def observe(self, state: TankState) -> Array:
        """`[2]` level and inflow."""
        return jnp.stack([state.h, state.q])

    def dynamics(self, obs: Array, action: Array) -> Array:
        """`[2]`: the valve first, exactly, then the level by one Euler step."""
        p, (h, q) = self.params, obs
        wanted = 0.25 * (jnp.clip(action[0], -1.0, 1.0) + 1.0)
        q = wanted + (q - wanted) * jnp.exp(-p.dt / p.lag)
        h = h + p.dt * (q - 0.1 * jnp.sqrt(jnp.maximum(h, 0.0)))
        return jnp.stack([jnp.maximum(h, 0.0), q])

    def step(self, key: Array, state: TankState, action: Array) -> Step:
        """One step; only what the sensors say of it is random."""
        h, q = self.dynamics(self.observe(state), action)
        return self._outcome(key, state, action, TankState(h, q, state.t + 1))

    def reward(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """Minus the distance to the goal [m]."""
        return -jnp.abs(next_obs[0] - self.params.goal)

    def margin(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """`[1]` level above the brim [m]."""
        return next_obs[:1] - self.limits

    def project(self, obs: Array) -> Array:
        """No level below 0, no inflow that the valve cannot let in."""
        return jnp.clip(obs, 0.0, jnp.array([jnp.inf, 0.5]))

    def backup(self, obs: Array) -> Array:
        """Closes the valve."""
        return -jnp.ones(1)
