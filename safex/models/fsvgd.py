"""Functional Stein variational gradient descent: an ensemble whose members repel.

After Wang, Ren, Zhu and Zhang 2019, arXiv 1902.09754. Members are particles of the
posterior over functions. They are compared by their values `f_i = (mean, log std)` at
measurement points around and beyond the data, in the coordinates in which a zero-mean
Gaussian process prior makes these values independent:

    phi_i = sum_j [ k(f_j, f_i) grad log GP(f_j) + grad_{f_j} k(f_j, f_i) ]

At the data each member follows `grad log p(data | f_i)`, the sum over a batch standing
for all N rows, so that likelihood, prior and repulsion are in one unit. The weights
follow both by the chain rule.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from safex.config import CalibrationConfig, FSVGDConfig
from safex.models.calibrated import CalibratedModel
from safex.models.ensemble import Ensemble, EnsembleState
from safex.models.networks import LearnedNoise, fixed_noise, gaussian_nll, weight_prior
from safex.models.training import Split, normalized, train_minibatches
from safex.types import Array, Dataset, Metrics, PyTree

# Two members that agree in a value to this many stds of the targets are the same.
_SAME = 1e-3


class FunctionPrior(NamedTuple):
    """A zero-mean Gaussian process seen at B points, in its own coordinates.

    Attributes:
      basis: `[B, B]` orthonormal columns, the eigenvectors of its covariance.
      variance: `[B]` of the values' coordinates along them.
    """

    basis: Array
    variance: Array

    def score(self, values: Array) -> Array:
        """`-K^-1 f` of values `[..., B, V]`: the gradient of the log prior."""
        coordinates = self.to_coordinates(values)
        return -self.from_coordinates(coordinates / self.variance[:, None])

    def to_coordinates(self, values: Array) -> Array:
        """`[..., B, V]` values along the basis, where the prior is independent."""
        return jnp.einsum("bc,...bv->...cv", self.basis, values)

    def from_coordinates(self, coordinates: Array) -> Array:
        """Inverse of `to_coordinates`."""
        return jnp.einsum("bc,...cv->...bv", self.basis, coordinates)


def function_prior(
    x: Array, lengthscale: float, std: float, jitter: float
) -> FunctionPrior:
    """The prior over functions at inputs `x` `[B, X]`.

    `K = std^2 (exp(-|x - x'|^2 / (2 X lengthscale^2)) + jitter I)`: distances per
    dimension, so that one lengthscale means the same for every system.
    """
    gap = jnp.sum((x[:, None] - x[None]) ** 2, axis=-1) / x.shape[-1]
    values, vectors = jnp.linalg.eigh(jnp.exp(-0.5 * gap / lengthscale**2))
    return FunctionPrior(vectors, std**2 * (jnp.maximum(values, 0.0) + jitter))


def stein_direction(values: Array, score: Array, bandwidth: float) -> Array:
    """How SVGD moves the coordinates of each particle, `[E, ...], [E, ...] -> same`.

    Every coordinate has a kernel of its own, `k(f_j, f_i) = exp(-(f_j - f_i)^2 /
    (2 h^2))` with `h^2 = bandwidth^2 median (f_j - f_i)^2 / (2 log(E + 1))` over pairs
    (the median heuristic). One kernel over all V coordinates at once would repel by
    `1 / h^2 ~ 1 / V` against scores that do not shrink with V, and the spread would
    collapse (local kernels: Zhuo et al. 2018, arXiv 1711.04425).

    Args:
      values: of E particles.
      score: gradient of the log density at them.
      bandwidth: multiple of the median heuristic.
    """
    num_particles = values.shape[0]
    if num_particles == 1:  # no pairs, no repulsion
        return score
    gap = values[:, None] - values[None]  # [j, i, ...]
    median = jnp.median(gap[jnp.triu_indices(num_particles, 1)] ** 2, axis=0)
    width = bandwidth**2 * median / (2.0 * jnp.log(num_particles + 1.0)) + _SAME**2
    kernel = jnp.exp(-0.5 * gap**2 / width)
    return jnp.sum(kernel * (score[:, None] - gap / width), axis=0)


@dataclasses.dataclass(frozen=True)
class FSVGD(Ensemble):
    """An ensemble trained by functional SVGD; it predicts as an `Ensemble` does.

    Attributes:
      config: architecture, training and function prior.
    """

    config: FSVGDConfig

    def train(
        self, key: Array, state: EnsembleState, data: Dataset, split: Split
    ) -> tuple[EnsembleState, Metrics]:
        """Moves warm-started members by likelihood and repulsion, and stops early."""
        config = self.config
        rows = normalized(data, split.train)
        state = state._replace(inputs=rows.inputs, targets=rows.targets)
        num_train = split.train.sum()
        inside = split.train[:, None]
        low = jnp.min(rows.x, axis=0, initial=jnp.inf, where=inside)
        high = jnp.max(rows.x, axis=0, initial=-jnp.inf, where=inside)
        beyond = config.measurement_margin * (high - low)

        def draw(key: Array, steps: int) -> tuple[Array, FunctionPrior]:
            shape = (config.num_measurements, rows.x.shape[-1])
            x = jax.random.uniform(
                key, shape, minval=low - beyond, maxval=high + beyond
            )
            prior = function_prior(
                x, config.prior_lengthscale, config.prior_std, config.prior_jitter
            )
            # The same for a block of steps: an eigenbasis costs as much as many steps.
            return jax.tree.map(
                lambda leaf: jnp.broadcast_to(leaf, (steps, *leaf.shape)), (x, prior)
            )

        def gradient(
            params: PyTree, batch: Array, drawn: tuple[Array, FunctionPrior]
        ) -> tuple[Array, PyTree]:
            points, prior = drawn
            x, y = rows.x[batch[0]], rows.y[batch[0]]
            both = jnp.concatenate([x, points])
            values, pull = jax.vjp(partial(self._values, state, x=both), params)
            at_data, at_points = jnp.split(values, [x.shape[0]], axis=1)
            loss, score = self._likelihood(state, at_data, y, num_train)
            direction = stein_direction(
                prior.to_coordinates(at_points),
                config.prior_weight * prior.to_coordinates(prior.score(at_points)),
                config.bandwidth,
            )
            towards = jnp.concatenate(
                [score, prior.from_coordinates(direction)], axis=1
            )
            (grads,) = pull(-towards / (num_train * self.obs_dim))
            decay = jax.grad(weight_prior)(params)
            weight = config.weight_decay / num_train
            return loss, jax.tree.map(lambda g, d: g + weight * d, grads, decay)

        params, metrics = train_minibatches(
            key,
            state.params,
            config,
            1,
            split,
            gradient,
            self._held_out_nll(state, rows, split),
            draw,
        )
        return state._replace(params=params), metrics

    def _values(self, state: EnsembleState, params: PyTree, x: Array) -> Array:
        """Means, and log stds where they are learned, `[B, X] -> [E, B, V]`."""

        def one(params: PyTree, prior: PyTree) -> Array:
            mean, std = self._member_moments(params, prior, state.targets, x)
            if self.noise.outputs_per_dim == 1:
                return mean
            return jnp.concatenate([mean, jnp.log(std)], axis=-1)

        return jax.vmap(one)(params, state.prior_params)

    def _likelihood(
        self, state: EnsembleState, values: Array, y: Array, num_rows: Array
    ) -> tuple[Array, Array]:
        """Mean NLL `[]` of a batch, and the gradient `[E, B, V]` of the log likelihood.

        Args:
          state: for the scale of the targets.
          values: `[E, B, V]`.
          y: `[B, D]` targets of the batch, which stand for those of all rows.
          num_rows: N.
        """

        def nll(values: Array) -> Array:
            mean, log_std = jnp.split(values, [self.obs_dim], axis=-1)
            if self.noise.outputs_per_dim == 1:
                _, std = self.noise.moments(mean, state.targets)
            else:
                std = jnp.exp(log_std)
            return gaussian_nll(mean, std, y).sum()

        total, slope = jax.value_and_grad(nll)(values)
        return total / (self.num_members * y.size), -num_rows / y.shape[0] * slope


def deterministic_fsvgd(
    obs_dim: int,
    action_dim: int,
    config: FSVGDConfig,
    calibration: CalibrationConfig,
) -> CalibratedModel:
    """Repelling members that predict a mean; the noise std is `output_stds`.

    Raises:
      ValueError: `output_stds` has neither one entry nor one per output.
    """
    noise = fixed_noise(config.output_stds, obs_dim)
    return CalibratedModel(
        FSVGD(obs_dim, action_dim, config, noise), calibration, config
    )


def probabilistic_fsvgd(
    obs_dim: int,
    action_dim: int,
    config: FSVGDConfig,
    calibration: CalibrationConfig,
) -> CalibratedModel:
    """Repelling members that predict a mean and a noise std."""
    noise = LearnedNoise(config.min_std)
    return CalibratedModel(
        FSVGD(obs_dim, action_dim, config, noise), calibration, config
    )
