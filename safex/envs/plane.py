"""Observations of a body in the plane, as seen from where it is and looks.

Such an observation begins with `(x, y, cos theta, sin theta)`. What moves a car or a
robot does not depend on where it is or which way it looks; seen from its own pose
before the step, all places and headings are one.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from safex.envs.angles import to_unit_circle
from safex.types import Array


def seen_from(origin: Array, obs: Array, vectors: Sequence[int]) -> Array:
    """An observation `[D]` as it looks from the pose of another.

    Args:
      origin: `[D]` whose pose is the frame.
      obs: `[D]` what is seen.
      vectors: first index of each further pair that turns with the frame, above 3.
    """
    cos, sin = to_unit_circle(origin[2:4])
    moved = obs.at[:2].add(-origin[:2])
    return _turned(moved, cos, -sin, vectors)


def placed_at(origin: Array, seen: Array, vectors: Sequence[int]) -> Array:
    """Inverse of `seen_from`; affine in what is seen, `[D], [D] -> [D]`."""
    cos, sin = to_unit_circle(origin[2:4])
    return _turned(seen, cos, sin, vectors).at[:2].add(origin[:2])


def _turned(obs: Array, cos: Array, sin: Array, vectors: Sequence[int]) -> Array:
    """Position, direction and further vectors turned by an angle."""
    parts, done = [], 0
    for first in (0, 2, *vectors):
        x, y = obs[first], obs[first + 1]
        pair = jnp.stack([cos * x - sin * y, sin * x + cos * y])
        parts += [obs[done:first], pair]
        done = first + 2
    return jnp.concatenate([*parts, obs[done:]])
