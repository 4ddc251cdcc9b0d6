"""Functional Stein variational gradient descent: an ensemble whose members repel.

Wang, Ren, Zhu and Zhang 2019, arXiv 1902.09754. Members are particles of the posterior
over functions. Each step looks at their values `f_i = (mean, log std)` on a batch of
the data and on measurement points around and beyond them, and moves every value by

    phi_i = 1/E sum_j [ k(f_j, f_i) grad log p(f_j | data) + grad_{f_j} k(f_j, f_i) ]
    log p(f | data) = N / B sum_b log p(y_b | f(x_b)) + log GP(f; 0, K) + const

with the sum over the batch standing for all N rows, so that likelihood, prior and
repulsion are in one unit. The weights follow by the chain rule.
"""

import dataclasses
from functools import partial

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


def prior_precision(x: Array, lengthscale: float, std: float, jitter: float) -> Array:
    """`K^-1` `[B, B]` of the function prior at inputs `x` `[B, X]`.

    `K = std^2 (exp(-|x - x'|^2 / (2 X lengthscale^2)) + jitter I)`: distances per
    dimension, so that one lengthscale means the same for every system.
    """
    gap = jnp.sum((x[:, None] - x[None]) ** 2, axis=-1) / x.shape[-1]
    kernel = jnp.exp(-0.5 * gap / lengthscale**2) + jitter * jnp.eye(x.shape[0])
    factor = jax.scipy.linalg.cho_factor(std**2 * kernel, lower=True)
    return jax.scipy.linalg.cho_solve(factor, jnp.eye(x.shape[0]))


def stein_direction(values: Array, score: Array, bandwidth: float) -> Array:
    """How SVGD moves the values of each particle, `[E, V], [E, V] -> [E, V]`.

    Every value has a kernel of its own, `k(f_j, f_i) = exp(-(f_j - f_i)^2 / (2 h^2))`
    with `h^2 = bandwidth^2 median (f_j - f_i)^2 / (2 log(E + 1))` over pairs (the
    median heuristic). One kernel over all V values at once would repel by `1 / h^2 ~
    1 / V` against scores that do not shrink with V, and the spread collapses
    (Ba et al. 2022; local kernels: Zhuo et al. 2018, arXiv 1711.04425).

    Args:
      values: of E particles.
      score: gradient of the log density at them.
      bandwidth: multiple of the median heuristic.
    """
    num_particles = values.shape[0]
    gap = values[:, None] - values[None]  # [j, i, V]
    first, second = jnp.triu_indices(num_particles, 1)
    # One particle has no pairs and no repulsion, whatever its bandwidth.
    pairs = gap[first, second] ** 2 if num_particles > 1 else jnp.ones_like(values)
    median = jnp.median(pairs, axis=0)
    width = bandwidth**2 * median / (2.0 * jnp.log(num_particles + 1.0)) + _SAME**2
    kernel = jnp.exp(-0.5 * gap**2 / width)
    drive = jnp.einsum("jiv,jv->iv", kernel, score)
    repulsion = jnp.einsum("jiv,jiv->iv", kernel, -gap / width)
    return (drive + repulsion) / num_particles


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
        """Moves warm-started members by `stein_direction` and stops early."""
        config = self.config
        rows = normalized(data, split.train)
        state = state._replace(inputs=rows.inputs, targets=rows.targets)
        num_train = split.train.sum()
        inside = split.train[:, None]
        low = jnp.min(rows.x, axis=0, initial=jnp.inf, where=inside)
        high = jnp.max(rows.x, axis=0, initial=-jnp.inf, where=inside)
        beyond = config.measurement_margin * (high - low)

        def draw(key: Array, steps: int) -> Array:
            shape = (steps, config.num_measurements, rows.x.shape[-1])
            return jax.random.uniform(
                key, shape, minval=low - beyond, maxval=high + beyond
            )

        def gradient(
            params: PyTree, batch: Array, outside: Array
        ) -> tuple[Array, PyTree]:
            # All members see the same points: their values are compared there.
            x = jnp.concatenate([rows.x[batch[0]], outside])
            values, pull = jax.vjp(partial(self._values, state, x=x), params)
            loss, score = self._score(state, values, x, rows.y[batch[0]], num_train)
            shape = (self.num_members, -1)
            direction = stein_direction(
                values.reshape(shape), score.reshape(shape), config.bandwidth
            )
            (grads,) = pull(-direction.reshape(values.shape) / num_train)
            decay = jax.grad(weight_prior)(params)
            share = config.weight_decay / num_train
            return loss, jax.tree.map(lambda g, d: g + share * d, grads, decay)

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

    def _score(
        self, state: EnsembleState, values: Array, x: Array, y: Array, num_rows: Array
    ) -> tuple[Array, Array]:
        """Mean NLL `[]` of the batch, and `grad log p(f | data)` `[E, B + M, V]`.

        Args:
          state: for the scale of the targets.
          values: `[E, B + M, V]` at the batch, then at the measurement points.
          x: `[B + M, X]` inputs of both.
          y: `[B, D]` targets of the batch.
          num_rows: N.
        """
        config, size = self.config, y.shape[0]

        def nll(values: Array) -> Array:
            mean, log_std = jnp.split(values[:, :size], [self.obs_dim], axis=-1)
            if self.noise.outputs_per_dim == 1:
                _, std = self.noise.moments(mean, state.targets)
            else:
                std = jnp.exp(log_std)
            return gaussian_nll(mean, std, y).sum()

        loss, slope = jax.value_and_grad(nll)(values)
        score = -num_rows / size * slope
        if config.prior_weight > 0.0:
            precision = prior_precision(
                x, config.prior_lengthscale, config.prior_std, config.prior_jitter
            )
            pull = jnp.einsum("bc,ecv->ebv", precision, values)
            score = score - config.prior_weight * pull
        return loss / (self.num_members * y.size), score


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
