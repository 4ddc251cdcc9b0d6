"""Deep ensembles, deterministic and probabilistic.

Lakshminarayanan et al. 2017; as dynamics models: Chua et al. 2018, arXiv 1805.12114.

Members are MLPs on normalised `(obs, action)` that predict the normalised difference
`next_obs - obs`. Epistemic std is the spread of the member means; aleatoric std is the
mean of the member stds.
"""

import dataclasses
from functools import partial
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp

from safex.config import CalibrationConfig, EnsembleConfig
from safex.models.calibrated import CalibratedModel
from safex.models.networks import (
    MLP,
    FixedNoise,
    LearnedNoise,
    beta_nll,
    fixed_noise,
    weight_prior,
)
from safex.models.normalizer import Normalizer, identity_normalizer
from safex.models.staged import with_field
from safex.models.training import (
    Normalized,
    Split,
    first_rows,
    normalized,
    train_minibatches,
)
from safex.types import Array, Dataset, Metrics, Prediction, PyTree

# Inputs up to which one product of all members' weights is the faster for its fewer
# parts; what the members make of more no longer fits a core's cache.
_FEW_INPUTS = 128


class EnsembleState(NamedTuple):
    """All that training changes.

    Attributes:
      params: member parameters, leaves `[E, ...]`.
      prior_params: fixed random members, leaves `[E, ...]`.
      inputs: normalizer of `(obs, action)`.
      targets: normalizer of `next_obs - obs`.
    """

    params: PyTree
    prior_params: PyTree
    inputs: Normalizer
    targets: Normalizer


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """An ensemble of MLPs, a raw model with members.

    Attributes:
      obs_dim: D.
      action_dim: A.
      config: architecture and training.
      noise: `FixedNoise` (deterministic ensemble) or `LearnedNoise` (probabilistic).
      together: `moments` multiplies by the weights of all members at once.
    """

    obs_dim: int
    action_dim: int
    config: EnsembleConfig
    noise: FixedNoise | LearnedNoise
    together: bool = dataclasses.field(default=False, kw_only=True)

    def sized(self, batch_size: int) -> Self:
        """The same ensemble for `moments` of so many inputs at once."""
        return with_field(self, "together", batch_size <= _FEW_INPUTS)

    @property
    def num_members(self) -> int:
        """E."""
        return self.config.num_ensembles

    def init(self, key: Array) -> EnsembleState:
        """Random members, no normalisation."""
        params_key, prior_key = jax.random.split(key)
        return EnsembleState(
            params=self._init_members(params_key),
            prior_params=self._init_members(prior_key),
            inputs=identity_normalizer(self.obs_dim + self.action_dim),
            targets=identity_normalizer(self.obs_dim),
        )

    def moments(self, state: EnsembleState, obs: Array, action: Array) -> Prediction:
        """Moments of the mixture of members, `[D], [A] -> Prediction`."""
        x = state.inputs.normalize(jnp.concatenate([obs, action], axis=-1))
        dtype = self.config.plan_dtype
        members = (state.params, state.prior_params)

        def one(member: tuple[PyTree, PyTree]) -> tuple[Array, Array]:
            return self._member_moments(*member, state.targets, x, dtype)

        if self.together:
            means, stds = jax.vmap(one)(members)
        else:
            means, stds = jax.lax.map(one, members)
        return Prediction(
            mean=obs + state.targets.denormalize(means.mean(0)),
            epistemic_std=means.std(0) * state.targets.std,
            aleatoric_std=stds.mean(0) * state.targets.std,
        )

    def member(
        self, state: EnsembleState, obs: Array, action: Array, index: Array
    ) -> Prediction:
        """One member's mean and noise, `[D], [A], [] -> Prediction`."""
        params, prior = jax.tree.map(
            lambda leaf: leaf[index], (state.params, state.prior_params)
        )
        x = state.inputs.normalize(jnp.concatenate([obs, action], axis=-1))
        dtype = self.config.plan_dtype
        mean, std = self._member_moments(params, prior, state.targets, x, dtype)
        return _of_member(state, obs, mean, std)

    def members(self, state: EnsembleState, obs: Array, action: Array) -> Prediction:
        """Every member on observations of its own, `[E, S, D] -> [E, S, D]`.

        The action is `[A]`, common to all, or `[E, S, A]`.

        One product a layer and member for all observations: what `member` under `vmap`
        computes from a copy of the weights for each observation.
        """
        shape = (*obs.shape[:-1], self.action_dim)
        actions = jnp.broadcast_to(action, shape)
        x = state.inputs.normalize(jnp.concatenate([obs, actions], axis=-1))
        dtype = self.config.plan_dtype

        def one(_: None, member: tuple) -> tuple[None, tuple[Array, Array]]:
            params, prior, x = member
            return None, self._member_moments(params, prior, state.targets, x, dtype)

        members = (state.params, state.prior_params, x)
        _, (means, stds) = jax.lax.scan(one, None, members)
        return _of_member(state, obs, means, stds)

    def select(self, state: EnsembleState, index: Array) -> EnsembleState:
        """The state of a model whose members are `index` `[G]`, for `members`."""
        params, prior_params = jax.tree.map(
            lambda leaf: leaf[index], (state.params, state.prior_params)
        )
        return state._replace(params=params, prior_params=prior_params)

    def train(
        self, key: Array, state: EnsembleState, data: Dataset, split: Split
    ) -> tuple[EnsembleState, Metrics]:
        """Trains warm-started members by likelihood and stops early."""
        config, E = self.config, self.config.num_ensembles
        rows = normalized(data, split.train)
        state = state._replace(inputs=rows.inputs, targets=rows.targets)
        num_train = split.train.sum()
        beta = config.nll_beta if self.noise.learned else 0.0

        def gradient(params: PyTree, batch: Array, drawn: None) -> tuple[Array, PyTree]:
            del drawn
            x, y = rows.x[batch], rows.y[batch]

            def loss(params: PyTree) -> Array:
                nll = self._nll(state, params, x, y, None, beta).sum()
                return nll + config.weight_decay * weight_prior(params) / num_train

            value, grads = jax.value_and_grad(loss)(params)
            return value / E, grads

        params, metrics = train_minibatches(
            key,
            state.params,
            config,
            E,
            split,
            gradient,
            self._held_out_nll(state, rows, split),
        )
        return state._replace(params=params), metrics

    def _held_out_nll(
        self, state: EnsembleState, rows: Normalized, split: Split
    ) -> partial[Array]:
        """Mean NLL of the members on held-out rows, a function of their parameters."""
        held, mask = first_rows(split.calibrate, self.config.eval_batch_size)

        def every(leaf: Array) -> Array:
            shape = (self.config.num_ensembles, held.size, leaf.shape[-1])
            return jnp.broadcast_to(leaf[held], shape)

        x, y = every(rows.x), every(rows.y)
        return partial(self._mean_nll, state, x=x, y=y, mask=mask)

    def _mean_nll(
        self, state: EnsembleState, params: PyTree, x: Array, y: Array, mask: Array
    ) -> Array:
        return self._nll(state, params, x, y, mask).mean()

    def _network(self, dtype: str = "float32") -> MLP:
        output_dim = self.obs_dim * self.noise.outputs_per_dim
        return MLP(self.config.features, output_dim, self.config.activation, dtype)

    def _init_members(self, key: Array) -> PyTree:
        x = jnp.zeros(self.obs_dim + self.action_dim)
        keys = jax.random.split(key, self.config.num_ensembles)
        return jax.vmap(lambda k: self._network().init(k, x))(keys)

    def _member_moments(
        self,
        params: PyTree,
        prior: PyTree,
        targets: Normalizer,
        x: Array,
        dtype: str = "float32",
    ) -> tuple[Array, Array]:
        """Normalised mean and std of one member at normalised input(s) `[..., D+A]`."""
        raw = jnp.asarray(self._network(dtype).apply(params, x))
        mean, std = self.noise.moments(raw, targets)
        if self.config.prior_scale > 0.0:
            prior_mean, _ = self.noise.moments(
                jnp.asarray(self._network(dtype).apply(prior, x)), targets
            )
            mean = mean + self.config.prior_scale * prior_mean
        return mean, std

    def _nll(
        self,
        state: EnsembleState,
        params: PyTree,
        x: Array,
        y: Array,
        mask: Array | None,
        beta: float = 0.0,
    ) -> Array:
        """Mean Gaussian NLL `[E]` of each member, in normalised units.

        Args:
          state: for the priors and the target scale.
          params: member parameters, leaves `[E, ...]`.
          x: `[E, B, D+A]` normalised inputs.
          y: `[E, B, D]` normalised targets.
          mask: `[B]` bool, rows that count; None is all.
          beta: weighs the outputs as `beta_nll` does; 0 is the likelihood.
        """

        def member_nll(params: PyTree, prior: PyTree, x: Array, y: Array) -> Array:
            mean, std = self._member_moments(params, prior, state.targets, x)
            nll = beta_nll(mean, std, y, beta)
            return jnp.mean(nll, where=None if mask is None else mask[:, None])

        return jax.vmap(member_nll)(params, state.prior_params, x, y)


def _of_member(state: EnsembleState, obs: Array, mean: Array, std: Array) -> Prediction:
    """The belief of a member alone, from its normalised moments."""
    mean = obs + state.targets.denormalize(mean)
    return Prediction(mean, jnp.zeros_like(mean), std * state.targets.std)


def deterministic_ensemble(
    obs_dim: int,
    action_dim: int,
    config: EnsembleConfig,
    calibration: CalibrationConfig,
) -> CalibratedModel:
    """An ensemble whose members predict a mean; the noise std is `output_stds`.

    Raises:
      ValueError: `output_stds` has neither one entry nor one per output.
    """
    noise = fixed_noise(config.output_stds, obs_dim)
    base = Ensemble(obs_dim, action_dim, config, noise)
    return CalibratedModel(base, calibration, config)


def probabilistic_ensemble(
    obs_dim: int,
    action_dim: int,
    config: EnsembleConfig,
    calibration: CalibrationConfig,
) -> CalibratedModel:
    """An ensemble whose members predict a mean and a noise std."""
    noise = LearnedNoise(config.min_std)
    base = Ensemble(obs_dim, action_dim, config, noise)
    return CalibratedModel(base, calibration, config)
