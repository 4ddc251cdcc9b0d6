"""The networks of the learned models: an MLP, its activations, its noise heads."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from safex.models.normalizer import Normalizer
from safex.types import Array, PyTree


@jax.custom_jvp
def algebraic_swish(x: Array) -> Array:
    """`x (1 + x / (1 + |x|)) / 2`: swish with the softsign for its gate.

    Planning spends half its time in the exponential of swish on a CPU; this one has the
    same shape, linear on the right and level on the left (at -1/2), and no exponential.
    """
    return 0.5 * x * (1.0 + x / (1.0 + jnp.abs(x)))


@algebraic_swish.defjvp
def _algebraic_swish_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    # Derived by hand it needs one division; derived by rule it makes a fit take twice
    # its time.
    (x,), (tangent,) = primals, tangents
    shrink = 1.0 / (1.0 + jnp.abs(x))
    gate = x * shrink
    return algebraic_swish(x), 0.5 * (1.0 + gate + gate * shrink) * tangent


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "algebraic_swish": algebraic_swish,
    "swish": nn.swish,
    "tanh": jnp.tanh,
    "relu": nn.relu,
}


def _kernel_init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """LeCun's normal, flax's default to the bit; in a row it compiles in less time."""
    # Of a normal cut off at 2 stds, and so of this std.
    scale = np.sqrt(np.float32(1.0 / shape[0])) / np.float32(0.87962566103423978)
    row = jax.random.truncated_normal(key, -2.0, 2.0, (math.prod(shape),), dtype)
    return (row * scale.astype(dtype)).reshape(shape)


class MLP(nn.Module):
    """MLP with a linear head."""

    features: tuple[int, ...]
    output_dim: int
    activation: str
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, masks: Sequence[Array] = ()) -> Array:
        """Maps `[..., D+A]` to `[..., output_dim]`.

        Args:
          x: normalised inputs.
          masks: factors `[..., width]` on the units of each hidden layer; none is 1.
        """
        hidden = x
        for layer, width in enumerate(self.features):
            hidden = nn.Dense(width, dtype=self.dtype, kernel_init=_kernel_init)(hidden)
            hidden = ACTIVATIONS[self.activation](hidden)
            if masks:
                hidden = hidden * masks[layer].astype(hidden.dtype)
        self.sow("intermediates", "last", hidden)
        head = nn.Dense(self.output_dim, dtype="float32", kernel_init=_kernel_init)
        return head(hidden)


@dataclasses.dataclass(frozen=True)
class FixedNoise:
    """Noise std given by the user: the head predicts the mean alone."""

    std: tuple[float, ...]

    outputs_per_dim = 1
    learned = False

    def moments(self, raw: Array, targets: Normalizer) -> tuple[Array, Array]:
        """Splits a head `[..., D]` into normalised mean and std."""
        std = jnp.asarray(self.std) / targets.std
        return raw, jnp.broadcast_to(std, raw.shape)


@dataclasses.dataclass(frozen=True)
class LearnedNoise:
    """Noise std learned by likelihood: softplus head with a floor."""

    min_std: float

    outputs_per_dim = 2
    learned = True

    def moments(self, raw: Array, targets: Normalizer) -> tuple[Array, Array]:
        """Splits a head `[..., 2 D]` into normalised mean and std."""
        del targets
        mean, pre_std = jnp.split(raw, 2, axis=-1)
        return mean, nn.softplus(pre_std) + self.min_std


def fixed_noise(std: tuple[float, ...], obs_dim: int) -> FixedNoise:
    """Noise std given by the user, checked against the number of outputs.

    Raises:
      ValueError: `std` has neither one entry nor one per output.
    """
    if len(std) not in (1, obs_dim):
        raise ValueError(f"output_stds needs 1 or {obs_dim} entries, got {len(std)}")
    return FixedNoise(std)


def gaussian_nll(mean: Array, std: Array, y: Array) -> Array:
    """Negative log density of `y`, each entry on its own."""
    # By hand: `norm.logpdf` and its derivative cost a quarter of a fit.
    z = (y - mean) / std
    return 0.5 * (z * z + jnp.log(2.0 * jnp.pi)) + jnp.log(std)


def beta_nll(mean: Array, std: Array, y: Array, beta: float) -> Array:
    """The same, each entry weighted by `std^(2 beta)` held constant.

    The likelihood pulls at a mean with `1 / std^2`: outputs that are already known
    drown those that are not, which end as noise. With beta 1 all means are pulled at as
    by a squared error, with beta 0 it is the likelihood (Seitzer et al. 2022,
    arXiv 2203.09168, Eq. 8).
    """
    weight = jax.lax.stop_gradient(std) ** (2.0 * beta)
    return weight * gaussian_nll(mean, std, y)


def weight_prior(params: PyTree) -> Array:
    """`sum fan_in w^2 / 2` over all kernels: -log of a prior w ~ N(0, 1 / fan_in)."""
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 3]
    return sum((0.5 * k.shape[1] * jnp.sum(k**2) for k in kernels), start=jnp.zeros(()))
