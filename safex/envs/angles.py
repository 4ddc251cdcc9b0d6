"""Angles and the pair (cos, sin) that stands for them."""

import jax
import jax.numpy as jnp

from safex.types import Array


def wrap(angle: Array) -> Array:
    """Wraps an angle [rad] to [-pi, pi)."""
    return jnp.mod(angle + jnp.pi, 2.0 * jnp.pi) - jnp.pi


def to_unit_circle(pair: Array) -> Array:
    """Brings `(cos, sin)` `[2]` back to length 1.

    Dividing by the length is several times cheaper than a round trip through the angle,
    and planners do this at every imagined step. No direction at all counts as angle 0,
    and has a gradient of 0 instead of NaN.
    """
    squared = pair[0] ** 2 + pair[1] ** 2
    known = squared > 1e-12
    scale = jax.lax.rsqrt(jnp.where(known, squared, 1.0))
    return jnp.where(known, scale * pair, jnp.array([1.0, 0.0]))
