"""Schedules of pessimism and optimism over episodes; their values are traced."""

import jax.numpy as jnp

from safex.config import ScheduleConfig
from safex.types import Array


def scheduled(config: ScheduleConfig, initial: float | Array, episode: Array) -> Array:
    """The width in an episode, counted from 1.

    Linear: `v0 + (v1 - v0) min(e / n, 1)`; sigmoid:
    `v0 + (v1 - v0) / (1 + exp(-scale (e - midpoint)))`.
    """
    e = jnp.asarray(episode, jnp.float32)
    if config.kind == "linear":
        progress = jnp.minimum(e / config.num_episodes, 1.0)
    elif config.kind == "sigmoid":
        progress = 1.0 / (1.0 + jnp.exp(-config.scale * (e - config.midpoint)))
    else:
        progress = jnp.zeros(())
    return initial + (config.final - initial) * progress
