"""Standardisation by the mean and std of the valid rows of a padded buffer."""

from typing import NamedTuple

import jax.numpy as jnp

from safex.types import Array

# Below this a column is constant for float32 data; dividing by it would turn the
# first value that differs into an outlier of thousands of standard deviations.
_CONSTANT_STD = 1e-6


class Normalizer(NamedTuple):
    """Shift and scale of each column.

    Attributes:
      mean: `[D]` mean of the data.
      std: `[D]` population std of the data, 1 for a constant column.
    """

    mean: Array
    std: Array

    def normalize(self, x: Array) -> Array:
        """Maps `[..., D]` data to zero mean and unit std."""
        return (x - self.mean) / self.std

    def denormalize(self, x: Array) -> Array:
        """Inverse of `normalize`."""
        return x * self.std + self.mean


def identity_normalizer(dim: int) -> Normalizer:
    """The normalizer that changes nothing."""
    return Normalizer(jnp.zeros(dim), jnp.ones(dim))


def fit_normalizer(x: Array, mask: Array) -> Normalizer:
    """Mean and population std of the rows where `mask` is true.

    Args:
      x: `[B, D]` data; rows where `mask` is false may hold anything.
      mask: `[B]` bool; without any true the normalizer is the identity.
    """
    weight = mask / jnp.maximum(mask.sum(), 1)
    # From the first row on: weights that do not add up to 1 by a rounding would give a
    # constant a mean beside it, and so a std.
    first = jnp.where(mask.any(), x[jnp.argmax(mask)], 0.0)
    x = jnp.where(mask[:, None], x - first, 0.0)  # 0 times an overflow would be NaN
    mean = weight @ x
    std = jnp.sqrt(weight @ (x - mean) ** 2)
    return Normalizer(first + mean, jnp.where(std > _CONSTANT_STD, std, 1.0))
