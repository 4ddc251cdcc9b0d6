"""A Bayesian last layer: one network, exact Bayesian regression on its features.

An MLP is trained by likelihood; then the weights of its mean head are replaced by their
posterior given its last hidden layer `phi` (with a constant) and its noise std
`sigma(x)` (Snoek et al. 2015, arXiv 1502.05700; Bishop 2006, Sec. 3.3 and 3.5). For
each output, over the training rows,

    A = alpha I + sum_n phi_n phi_n^T / sigma_n^2
    w ~ N(m, A^-1),  m = A^-1 sum_n phi_n y_n / sigma_n^2

with the prior precision `alpha` that maximises the evidence.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from safex.config import CalibrationConfig, LastLayerConfig
from safex.models.calibrated import CalibratedModel
from safex.models.networks import MLP, LearnedNoise, beta_nll, weight_prior
from safex.models.normalizer import Normalizer, identity_normalizer
from safex.models.training import Split, first_rows, normalized, train_minibatches
from safex.types import Array, Dataset, Metrics, Prediction, PyTree

# The evidence is flat where the weights are nearly zero or nearly free.
_PRECISION_RANGE = (1e-4, 1e6)
# Smallest eigenvalue that rounding leaves, as a share of the largest.
_ROUNDING = 1e-6


class Posterior(NamedTuple):
    """Of the weights of one output, `N(mean, root root^T)`, F features.

    Attributes:
      mean: `[F]`.
      root: `[F, F]`.
      precision: `[]` of their prior.
    """

    mean: Array
    root: Array
    precision: Array


def weight_posterior(
    features: Array, y: Array, weight: Array, num_steps: int
) -> Posterior:
    """Posterior of the weights of a linear model whose noise is known.

    The prior precision is MacKay's fixed point `alpha = gamma / |m|^2`, `gamma =
    sum_i s_i / (s_i + alpha)` with the eigenvalues `s_i` of the data's part of A: where
    the evidence is stationary.

    Args:
      features: `[B, F]`.
      y: `[B]` targets.
      weight: `[B]` `1 / sigma^2`, 0 for a row that does not count.
      num_steps: fixed-point steps.
    """
    information = features.T @ (weight[:, None] * features)
    values, vectors = jnp.linalg.eigh(information)
    values = jnp.maximum(values, _ROUNDING * values[-1])
    projected = vectors.T @ (features.T @ (weight * y))

    def step(precision: Array, _: None) -> tuple[Array, None]:
        mean = projected / (values + precision)
        gamma = jnp.sum(values / (values + precision))
        precision = gamma / jnp.maximum(jnp.sum(mean**2), 1e-12)
        return jnp.clip(precision, *_PRECISION_RANGE), None

    precision, _ = jax.lax.scan(step, jnp.ones(()), None, num_steps)
    root = vectors / jnp.sqrt(values + precision)
    return Posterior(root @ (root.T @ (features.T @ (weight * y))), root, precision)


class LastLayerState(NamedTuple):
    """All that training changes.

    Attributes:
      params: of the network.
      inputs: normalizer of `(obs, action)`.
      targets: normalizer of `next_obs - obs`.
      posterior: of the weights of each output, leaves `[D, ...]`.
      samples: `[E, D, F]` weights drawn from it.
    """

    params: PyTree
    inputs: Normalizer
    targets: Normalizer
    posterior: Posterior
    samples: Array


@dataclasses.dataclass(frozen=True)
class LastLayer:
    """A network with a Bayesian last layer, a raw model; members are weight samples.

    Attributes:
      obs_dim: D.
      action_dim: A.
      config: architecture, training, how many samples.
    """

    obs_dim: int
    action_dim: int
    config: LastLayerConfig

    @property
    def num_members(self) -> int:
        """E."""
        return self.config.num_samples

    def init(self, key: Array) -> LastLayerState:
        """A random network under weights drawn from their prior."""
        params_key, sample_key = jax.random.split(key)
        F = self.config.features[-1] + 1
        prior = Posterior(jnp.zeros(F), jnp.eye(F), jnp.ones(()))
        posterior = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (self.obs_dim, *leaf.shape)), prior
        )
        x = jnp.zeros(self.obs_dim + self.action_dim)
        params = self._network().init(params_key, x)["params"]
        return LastLayerState(
            params=params,
            inputs=identity_normalizer(self.obs_dim + self.action_dim),
            targets=identity_normalizer(self.obs_dim),
            posterior=posterior,
            samples=self._draw(sample_key, posterior),
        )

    def moments(self, state: LastLayerState, obs: Array, action: Array) -> Prediction:
        """Exact moments of the posterior, `[D], [A] -> Prediction`."""
        features, std = self._features(state, obs, action)
        mean, root, _ = state.posterior
        spread = jnp.linalg.norm(jnp.einsum("f,dfg->dg", features, root), axis=-1)
        return Prediction(
            mean=obs + state.targets.denormalize(mean @ features),
            epistemic_std=spread * state.targets.std,
            aleatoric_std=std * state.targets.std,
        )

    def member(
        self, state: LastLayerState, obs: Array, action: Array, index: Array
    ) -> Prediction:
        """One sample's mean and the noise, `[D], [A], [] -> Prediction`."""
        features, std = self._features(state, obs, action)
        mean = jnp.einsum("df,...f->...d", state.samples[index], features)
        return self._of_member(state, obs, mean, std)

    def members(self, state: LastLayerState, obs: Array, action: Array) -> Prediction:
        """Every sample on observations of its own, `[E, S, D], [A] -> [E, S, D]`."""
        shape = (*obs.shape[:-1], self.action_dim)
        features, std = self._features(state, obs, jnp.broadcast_to(action, shape))
        mean = jnp.einsum("edf,esf->esd", state.samples, features)
        return self._of_member(state, obs, mean, std)

    def select(self, state: LastLayerState, index: Array) -> LastLayerState:
        """The state of a model whose samples are `index` `[G]`, for `members`."""
        return state._replace(samples=state.samples[index])

    def train(
        self, key: Array, state: LastLayerState, data: Dataset, split: Split
    ) -> tuple[LastLayerState, Metrics]:
        """Trains the network by likelihood, then conditions its last layer."""
        config = self.config
        train_key, sample_key = jax.random.split(key)
        rows = normalized(data, split.train)
        num_train = split.train.sum()

        def nll(params: PyTree, index: Array, beta: float = 0.0) -> Array:
            mean, std = self._head(params, rows.x[index])
            return beta_nll(mean, std, rows.y[index], beta)

        def gradient(params: PyTree, batch: Array, drawn: None) -> tuple[Array, PyTree]:
            del drawn

            def loss(params: PyTree) -> Array:
                prior = weight_prior(jax.tree.map(lambda leaf: leaf[None], params))
                share = config.weight_decay * prior / num_train
                return nll(params, batch[0], config.nll_beta).mean() + share

            return jax.value_and_grad(loss)(params)

        held, mask = first_rows(split.calibrate, config.eval_batch_size)

        def held_out(params: PyTree) -> Array:
            return jnp.mean(nll(params, held), where=mask[:, None])

        params, metrics = train_minibatches(
            train_key, state.params, config, 1, split, gradient, held_out
        )
        features, (_, std) = self._features_and_head(params, rows.x)
        counts = split.train[:, None]
        # Padding may hold anything, and 0 times an overflow would be NaN.
        features = jnp.where(counts, features, 0.0)
        weight = jnp.where(counts, 1.0 / std**2, 0.0)
        y = jnp.where(counts, rows.y, 0.0)
        posterior = jax.vmap(weight_posterior, (None, 1, 1, None))(
            features, y, weight, config.num_evidence_steps
        )
        metrics["last_layer/prior_precision"] = posterior.precision
        return (
            LastLayerState(
                params,
                rows.inputs,
                rows.targets,
                posterior,
                self._draw(sample_key, posterior),
            ),
            metrics,
        )

    def _network(self, dtype: str = "float32") -> MLP:
        config = self.config
        return MLP(config.features, 2 * self.obs_dim, config.activation, dtype)

    def _draw(self, key: Array, posterior: Posterior) -> Array:
        """`[E, D, F]` weights."""
        shape = (self.config.num_samples, *posterior.mean.shape)
        normal = jax.random.normal(key, shape)
        return posterior.mean + jnp.einsum("dfg,edg->edf", posterior.root, normal)

    def _features_and_head(
        self, params: PyTree, x: Array, dtype: str = "float32"
    ) -> tuple[Array, tuple[Array, Array]]:
        """Last hidden layer with a constant `[..., F]`, normalised mean and std."""
        raw, sown = self._network(dtype).apply(
            {"params": params}, x, mutable=["intermediates"]
        )
        (hidden,) = sown["intermediates"]["last"]
        one = jnp.ones((*hidden.shape[:-1], 1))
        features = jnp.concatenate([hidden.astype(jnp.float32), one], axis=-1)
        noise = LearnedNoise(self.config.min_std)
        return features, noise.moments(raw, identity_normalizer(self.obs_dim))

    def _head(self, params: PyTree, x: Array) -> tuple[Array, Array]:
        return self._features_and_head(params, x)[1]

    def _features(
        self, state: LastLayerState, obs: Array, action: Array
    ) -> tuple[Array, Array]:
        """Features `[..., F]` and normalised noise std `[..., D]` of a query."""
        x = state.inputs.normalize(jnp.concatenate([obs, action], axis=-1))
        features, (_, std) = self._features_and_head(
            state.params, x, self.config.plan_dtype
        )
        return features, std

    def _of_member(
        self, state: LastLayerState, obs: Array, mean: Array, std: Array
    ) -> Prediction:
        mean = obs + state.targets.denormalize(mean)
        return Prediction(mean, jnp.zeros_like(mean), std * state.targets.std)


def bayesian_last_layer(
    obs_dim: int,
    action_dim: int,
    config: LastLayerConfig,
    calibration: CalibrationConfig,
) -> CalibratedModel:
    """A network with a Bayesian last layer behind the `DynamicsModel` protocol."""
    base = LastLayer(obs_dim, action_dim, config)
    return CalibratedModel(base, calibration, config)
