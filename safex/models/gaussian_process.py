"""Exact Gaussian processes, one for each output, with trained kernels.

Rasmussen and Williams 2006, Ch. 2 and 5. In normalised units

    y = f(x) + noise,  f ~ GP(0, s^2 k(|(x - x') / l|)),  k an RBF or a Matern kernel

with lengthscales `l` of every input, `s` and the noise std trained by the log marginal
likelihood. What a prediction needs of the data is computed once a fit:
`w = (K + noise^2 I)^-1 y` and the inverse of the Cholesky factor, so that a prediction
is one kernel row, one product for the mean and one for the variance.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from safex.config import CalibrationConfig, GaussianProcessConfig
from safex.errors import SafexError
from safex.models.calibrated import CalibratedModel
from safex.models.normalizer import Normalizer, identity_normalizer
from safex.models.training import Split, first_rows, normalized, split_rows
from safex.types import Array, Dataset, Metrics, Prediction

# Added to the noise variance, as a share of the signal's: what float32 needs to factor
# a kernel matrix of some thousand rows that are nearly copies of each other.
_JITTER = 1e-5


def _rbf(squared: Array) -> Array:
    return jnp.exp(-0.5 * squared)


def _matern52(squared: Array) -> Array:
    # The root has no slope at 0; the kernel is flat there to far below 1e-12.
    r = jnp.sqrt(5.0 * squared + 1e-12)
    return (1.0 + r + r**2 / 3.0) * jnp.exp(-r)


KERNELS: dict[str, Callable[[Array], Array]] = {"rbf": _rbf, "matern52": _matern52}


# Accelerators round the factors of a product to half the digits, and the small
# differences that are taken here are lost.
_product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Hyperparameters(NamedTuple):
    """Of one output, or of all along a leading axis.

    Attributes:
      log_lengthscales: `[D+A]`, in stds of the inputs.
      log_signal: `[]` log of `s`, in stds of the target.
      log_noise: `[]` log of the noise std above its floor, in stds of the target.
    """

    log_lengthscales: Array
    log_signal: Array
    log_noise: Array


class GaussianProcessState(NamedTuple):
    """All that training changes; M rows are kept, D outputs.

    Attributes:
      hyper: leaves `[D, ...]`.
      inputs: normalizer of `(obs, action)`.
      targets: normalizer of `next_obs - obs`.
      x: `[M, D+A]` normalised inputs of the rows kept.
      weights: `[D, M]` `(K + noise^2 I)^-1 y`, 0 for padding.
      root: `[D, M, M]` inverse of the Cholesky factor, 0 for padding.
      width: `[D]` multiple of the posterior std that is the epistemic std.
    """

    hyper: Hyperparameters
    inputs: Normalizer
    targets: Normalizer
    x: Array
    weights: Array
    root: Array
    width: Array


@dataclasses.dataclass(frozen=True)
class GaussianProcess:
    """Exact Gaussian processes, a raw model without members.

    Attributes:
      obs_dim: D.
      action_dim: A.
      config: kernel, training, and how many rows are kept.
    """

    obs_dim: int
    action_dim: int
    config: GaussianProcessConfig

    num_members = 0

    def init(self, key: Array) -> GaussianProcessState:
        """The prior."""
        del key
        D, X, M = self.obs_dim, self.obs_dim + self.action_dim, self.config.max_data
        return GaussianProcessState(
            hyper=Hyperparameters(
                jnp.full((D, X), self._typical_log_lengthscale),
                jnp.zeros(D),
                jnp.full(D, math.log(self.config.noise_std)),
            ),
            inputs=identity_normalizer(X),
            targets=identity_normalizer(D),
            x=jnp.zeros((M, X)),
            weights=jnp.zeros((D, M)),
            root=jnp.zeros((D, M, M)),
            width=jnp.ones(D),
        )

    def moments(
        self, state: GaussianProcessState, obs: Array, action: Array
    ) -> Prediction:
        """Posterior mean and std of each output, `[D], [A] -> Prediction`."""
        x = state.inputs.normalize(jnp.concatenate([obs, action], axis=-1))

        def one(_: None, output: tuple) -> tuple[None, tuple[Array, Array]]:
            hyper, weights, root = output
            row = self._kernel(hyper, x[None], state.x)[0]
            explained = jnp.sum(_product(root, row) ** 2)
            variance = jnp.exp(2.0 * hyper.log_signal) - explained
            return None, (row @ weights, variance)

        # One output after the other, so that the rows of a planner make plain products.
        outputs = (state.hyper, state.weights, state.root)
        _, (mean, variance) = jax.lax.scan(one, None, outputs)
        # Rounding leaves the variance at a row of the data anywhere around its size.
        least = _JITTER * jnp.exp(2.0 * state.hyper.log_signal)
        std = jnp.sqrt(jnp.maximum(variance, least))
        return Prediction(
            mean=obs + state.targets.denormalize(mean),
            epistemic_std=state.width * std * state.targets.std,
            aleatoric_std=self._noise_std(state.hyper) * state.targets.std,
        )

    def train(
        self, key: Array, state: GaussianProcessState, data: Dataset, split: Split
    ) -> tuple[GaussianProcessState, Metrics]:
        """Trains the hyper-parameters, then conditions on the rows kept.

        Raises:
          SafexError: the buffer may hold more rows to train on than `max_data`, and
            `subset` does not say which to keep.
        """
        config = self.config
        self.check_capacity(data.transitions.obs.shape[0], config.train_share)
        rows = normalized(data, split.train)
        kept, mask = self._keep(rows.x, split.train)
        # Padding may hold anything, and 0 times an overflow would be NaN.
        x, y = (jnp.where(mask[:, None], z[kept], 0.0) for z in (rows.x, rows.y))
        hyper, metrics = self._train_hyper(key, state.hyper, x, y, mask)
        weights, root, gain = jax.lax.map(
            lambda output: self._condition(output[0], x, output[1], mask),
            (hyper, y.T),
        )
        width = jnp.ones(self.obs_dim)
        if config.confidence == "information_gain":
            # Abbasi-Yadkori 2013, Thm. 3.11, for noise of the std that regularises, all
            # outputs at once: |f - mean| <= width std with probability 1 - delta.
            failure = math.log(self.obs_dim / config.delta)
            width = config.f_norm_bound + jnp.sqrt(2.0 * (gain + failure))
        metrics |= {
            "gp/noise_std": self._noise_std(hyper) * rows.targets.std,
            "gp/information_gain": gain,
            "gp/width": width,
            "gp/rows": mask.sum(),
        }
        # The state has the same size whatever the buffer's.
        missing = (0, config.max_data - kept.size)
        state = GaussianProcessState(
            hyper=hyper,
            inputs=rows.inputs,
            targets=rows.targets,
            x=jnp.pad(x, (missing, (0, 0))),
            weights=jnp.pad(weights, ((0, 0), missing)),
            root=jnp.pad(root, ((0, 0), missing, missing)),
            width=width,
        )
        return state, metrics

    def check_capacity(self, capacity: int, train_share: float) -> None:
        """Refuses a buffer that may outgrow `max_data`, before anything is learned.

        Raises:
          SafexError: says by how much, and what to do.
        """
        with jax.ensure_compile_time_eval():
            most = int(
                split_rows(jnp.asarray(capacity), capacity, train_share).train.sum()
            )
        if self.config.subset == "none" and most > self.config.max_data:
            raise SafexError(
                f"an exact Gaussian process would have to keep {most} rows, and "
                f"model.max_data is {self.config.max_data}: set model.max_data={most} "
                "(a prediction costs max_data^2), or model.subset=farthest or newest "
                "to keep fewer"
            )

    @property
    def _typical_log_lengthscale(self) -> float:
        """Grows with the dimension, as the distances do."""
        return 0.5 * math.log(self.obs_dim + self.action_dim)

    def _kernel(self, hyper: Hyperparameters, a: Array, b: Array) -> Array:
        """`s^2 k` between `[.., X]` and `[.., X]`, of one output."""
        scale = jnp.exp(-hyper.log_lengthscales)
        a, b = a * scale, b * scale
        # A product instead of all differences: less memory, and faster.
        squared = (a**2).sum(-1)[:, None] + (b**2).sum(-1) - 2.0 * _product(a, b.T)
        shape = KERNELS[self.config.kernel](jnp.maximum(squared, 0.0))
        return jnp.exp(2.0 * hyper.log_signal) * shape

    def _noise_std(self, hyper: Hyperparameters) -> Array:
        return self.config.min_std + jnp.exp(hyper.log_noise)

    def _factor(self, hyper: Hyperparameters, x: Array, mask: Array) -> Array:
        """Cholesky factor of `K + noise^2 I`; padding is an identity block."""
        both = mask[:, None] & mask
        noise = self._noise_std(hyper) ** 2 + _JITTER * jnp.exp(2.0 * hyper.log_signal)
        diagonal = jnp.diag(jnp.where(mask, noise, 1.0))
        return jnp.linalg.cholesky(
            jnp.where(both, self._kernel(hyper, x, x), 0.0) + diagonal
        )

    def _condition(
        self, hyper: Hyperparameters, x: Array, y: Array, mask: Array
    ) -> tuple[Array, Array, Array]:
        """Weights `[M]`, root `[M, M]` and information gain `[]` of one output."""
        factor = self._factor(hyper, x, mask)
        root = jax.scipy.linalg.solve_triangular(
            factor, jnp.eye(x.shape[0]), lower=True
        )
        root = jnp.where(mask, root, 0.0)
        # 1/2 log det (I + K / noise^2), the diagonal of the factor of padding is 1.
        noise = self._noise_std(hyper)
        scaled = jnp.where(mask, jnp.diag(factor) / noise, 1.0)
        return root.T @ (root @ y), root, jnp.log(scaled).sum()

    def _log_marginal_likelihood(
        self, hyper: Hyperparameters, x: Array, y: Array, mask: Array
    ) -> Array:
        """`log N(y; 0, K + noise^2 I)` of one output, of the rows in `mask`."""
        factor = self._factor(hyper, x, mask)
        z = jax.scipy.linalg.solve_triangular(factor, y, lower=True)
        constant = 0.5 * mask.sum() * jnp.log(2.0 * jnp.pi)
        return -0.5 * z @ z - jnp.log(jnp.diag(factor)).sum() - constant

    def _log_prior(self, hyper: Hyperparameters) -> Array:
        """Log-normal priors, broad: they decide only where the data do not.

        Without them a lengthscale of an input that never moved runs off to infinity,
        and so the belief about what happens when it does move.
        """
        gap = hyper.log_lengthscales - self._typical_log_lengthscale
        noise = hyper.log_noise - math.log(self.config.noise_std)
        return -0.5 * (jnp.sum(gap**2) + hyper.log_signal**2 + (noise / 2.0) ** 2)

    def _train_hyper(
        self, key: Array, hyper: Hyperparameters, x: Array, y: Array, mask: Array
    ) -> tuple[Hyperparameters, Metrics]:
        """Adam on the marginal likelihood of a random part of the rows."""
        config = self.config
        size = min(config.num_hyper_rows, x.shape[0])
        order = jnp.where(mask, jax.random.uniform(key, mask.shape), 2.0)
        part = jnp.argsort(order)[:size]
        x, y, mask = x[part], y[part], mask[part]
        count = jnp.maximum(mask.sum(), 1)
        # A fit needs it, and what only plays an agent does not: a tenth of a second.
        import optax  # noqa: PLC0415

        schedule = optax.cosine_decay_schedule(
            config.lr_rate, config.num_training_steps, alpha=0.05
        )
        optimizer = optax.adam(schedule)

        def loss(hyper: Hyperparameters) -> Array:
            def one(hyper: Hyperparameters, y: Array) -> Array:
                log_likelihood = self._log_marginal_likelihood(hyper, x, y, mask)
                return -(log_likelihood + self._log_prior(hyper)) / count

            return jax.vmap(one)(hyper, y.T).sum()

        def step(carry: Any, _: None) -> tuple[Any, None]:
            hyper, opt_state, best, least = carry
            value, grads = jax.value_and_grad(loss)(hyper)
            updates, opt_state = optimizer.update(grads, opt_state)
            better = value < least  # never where the factor failed and it is NaN
            best = jax.tree.map(lambda a, b: jnp.where(better, a, b), hyper, best)
            least = jnp.where(better, value, least)
            return (optax.apply_updates(hyper, updates), opt_state, best, least), None

        start = (hyper, optimizer.init(hyper), hyper, jnp.full((), jnp.inf))
        (_, _, best, least), _ = jax.lax.scan(
            step, start, None, config.num_training_steps
        )
        steps = jnp.asarray(config.num_training_steps)
        return best, {"train/loss": least / self.obs_dim, "train/steps": steps}

    def _keep(self, x: Array, train: Array) -> tuple[Array, Array]:
        """Indices of up to `max_data` rows to condition on, and which of them count."""
        most = min(self.config.max_data, x.shape[0])
        if self.config.subset == "farthest":
            return farthest_rows(x, train, most)
        return first_rows(train, most)


def farthest_rows(x: Array, selected: Array, most: int) -> tuple[Array, Array]:
    """Up to `most` selected rows that cover all of them, and which of them count.

    Starts from the newest and adds, again and again, the row farthest from all taken
    (Gonzalez 1985): the largest distance left is at most twice the least possible.

    Args:
      x: `[capacity, X]` normalised inputs.
      selected: `[capacity]` bool.
      most: rows to return.
    """
    newest = jnp.max(jnp.where(selected, jnp.arange(x.shape[0]), 0))
    distance = jnp.where(selected, jnp.inf, -1.0).at[newest].set(jnp.inf)

    def take(carry: tuple, _: None) -> tuple[tuple, tuple[Array, Array]]:
        row, distance = carry
        counts = (distance[row] >= 0.0) & selected[row]
        gap = jnp.sum((x - x[row]) ** 2, axis=-1)
        # A row that was taken is never taken again.
        distance = jnp.where(selected, jnp.minimum(distance, gap), -1.0)
        distance = distance.at[row].set(-1.0)
        return (jnp.argmax(distance), distance), (row, counts)

    _, (rows, counts) = jax.lax.scan(take, (newest, distance), None, most)
    return rows, counts


def gaussian_process(
    obs_dim: int,
    action_dim: int,
    config: GaussianProcessConfig,
    calibration: CalibrationConfig,
) -> CalibratedModel:
    """Exact Gaussian processes behind the `DynamicsModel` protocol."""
    base = GaussianProcess(obs_dim, action_dim, config)
    return CalibratedModel(base, calibration, config)
