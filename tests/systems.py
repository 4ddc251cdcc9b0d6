"""A system for tests of what is generic: two constraints, two coordinates in metres."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from flax import struct

from safex.envs.system import System


@dataclasses.dataclass(frozen=True)
class SliderConfig:
    """A speed limit, a disc to keep out of, the step and a sensor without noise."""

    top_speed: float = 1.0
    radius: float = 0.5
    dt: float = 0.1
    observation_noise_std: float = 0.0
    max_steps: int = 20


class SliderParams(struct.PyTreeNode):
    """As in `SliderConfig`."""

    top_speed: jnp.ndarray
    radius: jnp.ndarray
    dt: jnp.ndarray
    observation_noise_std: jnp.ndarray


class SliderState(NamedTuple):
    """A place in the plane, a speed and a step counter."""

    x: jnp.ndarray
    y: jnp.ndarray
    v: jnp.ndarray
    t: jnp.ndarray


class Slider(System):
    """What reads results needs of a system; the disc is around (2, 0)."""

    config_class = SliderConfig
    params_class = SliderParams
    obs_dim = 3
    action_dim = 2
    obs_names = ("x [m]", "y [m]", "v [m/s]")
    state_names = ("x", "y", "v")
    limit_names = ("|v|", "disc")
    limit_units = ("m/s", "m")
    portrait = ("x", "y")

    @property
    def limits(self):
        return jnp.stack([self.params.top_speed, self.params.radius])

    def state_at(self, x, y, v):
        return SliderState(x, y, v, jnp.zeros((), jnp.int32))

    def state_from_obs(self, obs):
        return self.state_at(*obs)

    def observe(self, state):
        return jnp.stack(state[:3])

    def margin(self, obs, action, next_obs):
        away = jnp.linalg.norm(next_obs[:2] - jnp.array([2.0, 0.0]))
        past = jnp.stack([jnp.abs(next_obs[2]), -away])
        return past - self.limits * jnp.array([1.0, -1.0])
