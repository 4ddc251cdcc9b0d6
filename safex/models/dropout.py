"""Monte-Carlo dropout: one network, and masks that switch hidden units off.

Gal and Ghahramani 2016, arXiv 1506.02142. Training draws a mask for every row and
step; the belief is the mixture over E masks that were drawn once and are kept, so that
a mask is a function: a member that a whole imagined rollout can follow.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from safex.config import CalibrationConfig, DropoutConfig
from safex.models.calibrated import CalibratedModel
from safex.models.networks import MLP, LearnedNoise, beta_nll, weight_prior
from safex.models.normalizer import Normalizer, identity_normalizer
from safex.models.training import Split, first_rows, normalized, train_minibatches
from safex.types import Array, Dataset, Metrics, Prediction, PyTree

Masks = tuple[Array, ...]


class DropoutState(NamedTuple):
    """All that training changes.

    Attributes:
      params: of the network.
      masks: factors on the units of each hidden layer, each `[E, width]`, never
        changed: 0 or `1 / (1 - dropout_rate)`.
      inputs: normalizer of `(obs, action)`.
      targets: normalizer of `next_obs - obs`.
    """

    params: PyTree
    masks: Masks
    inputs: Normalizer
    targets: Normalizer


@dataclasses.dataclass(frozen=True)
class Dropout:
    """A network with Monte-Carlo dropout, a raw model whose members are masks.

    Attributes:
      obs_dim: D.
      action_dim: A.
      config: architecture, training, how many masks.
    """

    obs_dim: int
    action_dim: int
    config: DropoutConfig

    @property
    def num_members(self) -> int:
        """E."""
        return self.config.num_masks

    def init(self, key: Array) -> DropoutState:
        """A random network and its masks."""
        params_key, mask_key = jax.random.split(key)
        x = jnp.zeros(self.obs_dim + self.action_dim)
        return DropoutState(
            params=self._network().init(params_key, x)["params"],
            masks=self._draw(mask_key, self.config.num_masks),
            inputs=identity_normalizer(self.obs_dim + self.action_dim),
            targets=identity_normalizer(self.obs_dim),
        )

    def moments(self, state: DropoutState, obs: Array, action: Array) -> Prediction:
        """Moments of the mixture of masks, `[D], [A] -> Prediction`."""
        x = state.inputs.normalize(jnp.concatenate([obs, action], axis=-1))
        dtype = self.config.plan_dtype
        # As in an ensemble, a scan makes plain products of a planner's candidates.
        _, (means, stds) = jax.lax.scan(
            lambda _, masks: (None, self._head(state.params, masks, x, dtype)),
            None,
            state.masks,
        )
        return Prediction(
            mean=obs + state.targets.denormalize(means.mean(0)),
            epistemic_std=means.std(0) * state.targets.std,
            aleatoric_std=stds.mean(0) * state.targets.std,
        )

    def member(
        self, state: DropoutState, obs: Array, action: Array, index: Array
    ) -> Prediction:
        """One mask's mean and noise, `[D], [A], [] -> Prediction`."""
        masks = tuple(mask[index] for mask in state.masks)
        return self._of_masks(state, masks, obs, action)

    def members(self, state: DropoutState, obs: Array, action: Array) -> Prediction:
        """Every mask on observations of its own, `[E, S, D], [A] -> [E, S, D]`."""
        actions = jnp.broadcast_to(action, (*obs.shape[:-1], self.action_dim))
        masks = tuple(mask[:, None] for mask in state.masks)
        return self._of_masks(state, masks, obs, actions)

    def select(self, state: DropoutState, index: Array) -> DropoutState:
        """The state of a model whose masks are `index` `[G]`, for `members`."""
        return state._replace(masks=tuple(mask[index] for mask in state.masks))

    def train(
        self, key: Array, state: DropoutState, data: Dataset, split: Split
    ) -> tuple[DropoutState, Metrics]:
        """Trains by likelihood under fresh masks; the kept ones stop it early."""
        config = self.config
        rows = normalized(data, split.train)
        state = state._replace(inputs=rows.inputs, targets=rows.targets)
        num_train = split.train.sum()

        def nll(params: PyTree, masks: Masks, index: Array, beta: float = 0.0) -> Array:
            mean, std = self._head(params, masks, rows.x[index])
            return beta_nll(mean, std, rows.y[index], beta)

        def draw(key: Array, steps: int) -> Masks:
            return self._draw(key, steps, config.batch_size)

        def gradient(
            params: PyTree, batch: Array, masks: Masks
        ) -> tuple[Array, PyTree]:
            def loss(params: PyTree) -> Array:
                prior = weight_prior(jax.tree.map(lambda leaf: leaf[None], params))
                share = config.weight_decay * prior / num_train
                return nll(params, masks, batch[0], config.nll_beta).mean() + share

            return jax.value_and_grad(loss)(params)

        held, mask = first_rows(split.calibrate, config.eval_batch_size)

        def held_out(params: PyTree) -> Array:
            every = jax.vmap(nll, (None, 0, None))(params, state.masks, held)
            return jnp.mean(every, where=mask[:, None])

        params, metrics = train_minibatches(
            key, state.params, config, 1, split, gradient, held_out, draw
        )
        return state._replace(params=params), metrics

    def _network(self, dtype: str = "float32") -> MLP:
        config = self.config
        return MLP(config.features, 2 * self.obs_dim, config.activation, dtype)

    def _draw(self, key: Array, *shape: int) -> Masks:
        """Masks of each hidden layer, each `[*shape, width]`."""
        keep = 1.0 - self.config.dropout_rate
        keys = jax.random.split(key, len(self.config.features))
        return tuple(
            jax.random.bernoulli(k, keep, (*shape, width)) / keep
            for k, width in zip(keys, self.config.features, strict=True)
        )

    def _head(
        self, params: PyTree, masks: Masks, x: Array, dtype: str = "float32"
    ) -> tuple[Array, Array]:
        """Normalised mean and std under masks."""
        raw = jnp.asarray(self._network(dtype).apply({"params": params}, x, masks))
        noise = LearnedNoise(self.config.min_std)
        return noise.moments(raw, identity_normalizer(self.obs_dim))

    def _of_masks(
        self, state: DropoutState, masks: Masks, obs: Array, action: Array
    ) -> Prediction:
        x = state.inputs.normalize(jnp.concatenate([obs, action], axis=-1))
        mean, std = self._head(state.params, masks, x, self.config.plan_dtype)
        mean = obs + state.targets.denormalize(mean)
        return Prediction(mean, jnp.zeros_like(mean), std * state.targets.std)


def mc_dropout(
    obs_dim: int,
    action_dim: int,
    config: DropoutConfig,
    calibration: CalibrationConfig,
) -> CalibratedModel:
    """A network with Monte-Carlo dropout behind the `DynamicsModel` protocol."""
    base = Dropout(obs_dim, action_dim, config)
    return CalibratedModel(base, calibration, config)
