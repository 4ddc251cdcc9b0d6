"""Deep ensembles, deterministic and probabilistic.

Lakshminarayanan et al. 2017; as dynamics models: Chua et al. 2018, arXiv 1805.12114.

Members are MLPs on normalised `(obs, action)` that predict the normalised difference
`next_obs - obs`. Epistemic std is the spread of the member means; aleatoric std is the
mean of the member stds.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from safex.config import CalibrationConfig, EnsembleConfig
from safex.models.calibration import calibrated, fit_scale
from safex.models.normalizer import Normalizer, fit_normalizer, identity_normalizer
from safex.types import Array, Dataset, Metrics, Prediction, PyTree

# Consecutive steps that go to the same side of a split. Neighbours in time are nearly
# copies of each other; splitting them apart would leak the training set.
_BLOCK = 5


class EnsembleState(NamedTuple):
    """All that a fit changes.

    Attributes:
      params: member parameters, leaves `[E, ...]`.
      prior_params: fixed random members, leaves `[E, ...]`.
      inputs: normalizer of `(obs, action)`.
      targets: normalizer of `next_obs - obs`.
      calibration_scale: `[D]` factor on the stds.
      surprise: `[D]` scale that fresh episodes asked for, fading with time.
      size_seen: `[]` int32 rows that the last fit was given.
    """

    params: PyTree
    prior_params: PyTree
    inputs: Normalizer
    targets: Normalizer
    calibration_scale: Array
    surprise: Array
    size_seen: Array


class Split(NamedTuple):
    """Which rows of a buffer are used for what, each `[capacity]` bool."""

    train: Array
    calibrate: Array
    test: Array


def split_rows(size: Array, capacity: int, train_share: float) -> Split:
    """Splits rows by position in blocks of consecutive steps.

    A row keeps its side for ever, so that warm-started weights have never seen a row
    that a later fit calls held-out.

    Args:
      size: `[]` valid rows.
      capacity: rows of the buffer.
      train_share: share of the rows that are trained on.
    """
    row = jnp.arange(capacity)
    valid = row < size
    block = row // _BLOCK
    # Block b is held out when the running count of held-out blocks steps up at it.
    held_out_share = 1.0 - train_share
    count = jnp.floor((block + 1) * held_out_share + 1e-4)
    held_out = valid & (count > jnp.floor(block * held_out_share + 1e-4))
    even = count % 2 == 1
    return Split(valid & ~held_out, held_out & even, held_out & ~even)


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


class _MLP(nn.Module):
    """MLP with a linear head."""

    features: tuple[int, ...]
    output_dim: int
    activation: str
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for width in self.features:
            x = ACTIVATIONS[self.activation](nn.Dense(width, dtype=self.dtype)(x))
        return nn.Dense(self.output_dim, dtype="float32")(x)


@dataclasses.dataclass(frozen=True)
class FixedNoise:
    """Noise std given by the user: the head predicts the mean alone."""

    std: tuple[float, ...]

    outputs_per_dim = 1

    def moments(self, raw: Array, targets: Normalizer) -> tuple[Array, Array]:
        """Splits a head `[..., D]` into normalised mean and std."""
        std = jnp.asarray(self.std) / targets.std
        return raw, jnp.broadcast_to(std, raw.shape)


@dataclasses.dataclass(frozen=True)
class LearnedNoise:
    """Noise std learned by likelihood: softplus head with a floor."""

    min_std: float

    outputs_per_dim = 2

    def moments(self, raw: Array, targets: Normalizer) -> tuple[Array, Array]:
        """Splits a head `[..., 2 D]` into normalised mean and std."""
        del targets
        mean, pre_std = jnp.split(raw, 2, axis=-1)
        return mean, nn.softplus(pre_std) + self.min_std


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """An ensemble of MLPs behind the `DynamicsModel` protocol.

    Attributes:
      obs_dim: D.
      action_dim: A.
      config: architecture and training.
      noise: `FixedNoise` (deterministic ensemble) or `LearnedNoise` (probabilistic).
      calibration: how the stds are rescaled after each fit.
    """

    obs_dim: int
    action_dim: int
    config: EnsembleConfig
    noise: FixedNoise | LearnedNoise
    calibration: CalibrationConfig = CalibrationConfig()

    @property
    def num_members(self) -> int:
        """E."""
        return self.config.num_ensembles

    def _network(self, dtype: str = "float32") -> _MLP:
        output_dim = self.obs_dim * self.noise.outputs_per_dim
        return _MLP(self.config.features, output_dim, self.config.activation, dtype)

    def init(self, key: Array) -> EnsembleState:
        """Random members, no normalisation, scale 1."""
        params_key, prior_key = jax.random.split(key)
        return EnsembleState(
            params=self._init_members(params_key),
            prior_params=self._init_members(prior_key),
            inputs=identity_normalizer(self.obs_dim + self.action_dim),
            targets=identity_normalizer(self.obs_dim),
            calibration_scale=jnp.ones(self.obs_dim),
            surprise=jnp.zeros(self.obs_dim),
            size_seen=jnp.zeros((), jnp.int32),
        )

    def predict(self, state: EnsembleState, obs: Array, action: Array) -> Prediction:
        """Calibrated moments of the ensemble, `[D], [A] -> Prediction`."""
        prediction = self._moments(state, obs, action, self.config.plan_dtype)
        return calibrated(self.calibration, prediction, state.calibration_scale)

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
        mean = obs + state.targets.denormalize(mean)
        prediction = Prediction(mean, jnp.zeros_like(mean), std * state.targets.std)
        return calibrated(self.calibration, prediction, state.calibration_scale)

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
        mean = obs + state.targets.denormalize(means)
        prediction = Prediction(mean, jnp.zeros_like(mean), stds * state.targets.std)
        return calibrated(self.calibration, prediction, state.calibration_scale)

    def select(self, state: EnsembleState, index: Array) -> EnsembleState:
        """The state of a model whose members are `index` `[G]`, for `members`."""
        params, prior_params = jax.tree.map(
            lambda leaf: leaf[index], (state.params, state.prior_params)
        )
        return state._replace(params=params, prior_params=prior_params)

    def fit(
        self, key: Array, state: EnsembleState, data: Dataset
    ) -> tuple[EnsembleState, Metrics]:
        """Trains warm-started members by likelihood, stops early, then calibrates.

        The whole fit is one scan; it does not recompile as the data grows. Rows held
        out by `split_rows` are never trained on.
        """
        # An episode that stays where the model is good says nothing of elsewhere, so
        # older surprises fade, they do not vanish.
        memory = self.calibration.prequential_memory
        fresh = self._prequential_scale(state, data)
        surprise = jnp.maximum(fresh, memory * state.surprise)
        obs, action, next_obs = (
            data.transitions.obs,
            data.transitions.action,
            data.transitions.next_obs,
        )
        split = split_rows(data.size, obs.shape[0], self.config.train_share)
        # The first block to be held out comes late (row 20 at a share of 0.8); until
        # then the training rows stand in, since no rows at all would give NaN.
        stand_in = jnp.where(split.calibrate.any(), split.calibrate, split.train)
        split = split._replace(calibrate=stand_in)
        raw_x, raw_y = jnp.concatenate([obs, action], axis=-1), next_obs - obs
        state = state._replace(
            inputs=fit_normalizer(raw_x, split.train),
            targets=fit_normalizer(raw_y, split.train),
            surprise=surprise,
            size_seen=data.size,
        )
        x, y = state.inputs.normalize(raw_x), state.targets.normalize(raw_y)
        params, metrics = self._train(key, state, x, y, split)
        state = state._replace(params=params)

        rows, mask = _first_rows(split.calibrate, self.config.eval_batch_size)
        moments = partial(self._moments, state, dtype=self.config.plan_dtype)
        prediction = jax.vmap(moments)(obs[rows], action[rows])
        error = next_obs[rows] - prediction.mean
        held_out = fit_scale(self.calibration, error, prediction, mask)
        scale = jnp.maximum(held_out, surprise)
        metrics["held_out/rmse"] = jnp.sqrt(
            jnp.mean((error / state.targets.std) ** 2, where=mask[:, None])
        )
        metrics["calibration/held_out_scale"] = held_out
        metrics["calibration/prequential_scale"] = surprise
        metrics["calibration/scale"] = scale
        return state._replace(calibration_scale=scale), metrics

    def test_rows(self, data: Dataset) -> Array:
        """`[capacity]` bool: rows that were neither trained nor calibrated on."""
        capacity = data.transitions.obs.shape[0]
        return split_rows(data.size, capacity, self.config.train_share).test

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

    def _moments(
        self,
        state: EnsembleState,
        obs: Array,
        action: Array,
        dtype: str = "float32",
    ) -> Prediction:
        """Ensemble moments as they come, uncalibrated."""
        x = state.inputs.normalize(jnp.concatenate([obs, action], axis=-1))
        # A scan over members makes plain 2-D products of all candidates of a planner,
        # which on a CPU run faster than one product batched over members.
        members = (state.params, state.prior_params)
        _, (means, stds) = jax.lax.scan(
            lambda _, m: (None, self._member_moments(*m, state.targets, x, dtype)),
            None,
            members,
        )
        return Prediction(
            mean=obs + state.targets.denormalize(means.mean(0)),
            epistemic_std=means.std(0) * state.targets.std,
            aleatoric_std=stds.mean(0) * state.targets.std,
        )

    def _nll(
        self,
        state: EnsembleState,
        params: PyTree,
        x: Array,
        y: Array,
        mask: Array | None,
    ) -> Array:
        """Mean Gaussian NLL `[E]` of each member, in normalised units.

        Args:
          state: for the priors and the target scale.
          params: member parameters, leaves `[E, ...]`.
          x: `[E, B, D+A]` normalised inputs.
          y: `[E, B, D]` normalised targets.
          mask: `[B]` bool, rows that count; None is all.
        """

        def member_nll(params: PyTree, prior: PyTree, x: Array, y: Array) -> Array:
            mean, std = self._member_moments(params, prior, state.targets, x)
            # By hand: `norm.logpdf` and its derivative cost a quarter of a fit.
            z = (y - mean) / std
            nll = 0.5 * (z * z + jnp.log(2.0 * jnp.pi)) + jnp.log(std)
            return jnp.mean(nll, where=None if mask is None else mask[:, None])

        return jax.vmap(member_nll)(params, state.prior_params, x, y)

    def _train(
        self, key: Array, state: EnsembleState, x: Array, y: Array, split: Split
    ) -> tuple[PyTree, Metrics]:
        """Minibatch Adam with held-out early stopping: one scan over blocks."""
        config, E = self.config, self.config.num_ensembles
        num_blocks = -(-config.num_training_steps // config.eval_frequency)
        num_steps = num_blocks * config.eval_frequency
        schedule = optax.cosine_decay_schedule(config.lr_rate, num_steps, alpha=0.05)
        optimizer = optax.adam(schedule)

        train_rows = jnp.argsort(~split.train, stable=True)
        num_train = split.train.sum()
        held_rows, held_mask = _first_rows(split.calibrate, config.eval_batch_size)
        tile = partial(jnp.broadcast_to, shape=(E, held_rows.size, x.shape[-1]))
        held_x = tile(x[held_rows])
        held_y = jnp.broadcast_to(y[held_rows], (E, held_rows.size, y.shape[-1]))

        def step(carry: Any, draw: Array) -> tuple[Any, Array]:
            params, opt_state = carry
            rows = train_rows[draw]

            def loss(params: PyTree) -> Array:
                nll = self._nll(state, params, x[rows], y[rows], None).sum()
                return nll + config.weight_decay * _prior(params) / num_train

            value, grads = jax.value_and_grad(loss)(params)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value / E

        def block(carry: Any, block_key: Array) -> tuple[Any, None]:
            def train(carry: Any) -> Any:
                params, opt_state, best, best_loss, waited, _, steps = carry
                # One draw a block: a draw a step costs a fifth of the fit.
                shape = (config.eval_frequency, E, config.batch_size)
                draws = jax.random.randint(block_key, shape, 0, num_train)
                (params, opt_state), losses = jax.lax.scan(
                    step, (params, opt_state), draws
                )
                held_loss = self._nll(state, params, held_x, held_y, held_mask).mean()
                better = held_loss < best_loss
                best = jax.tree.map(partial(jnp.where, better), params, best)
                best_loss = jnp.where(better, held_loss, best_loss)
                waited = jnp.where(better, 0, waited + 1)
                steps = steps + config.eval_frequency
                return params, opt_state, best, best_loss, waited, losses.mean(), steps

            waited = carry[4]
            done = (config.patience > 0) & (waited >= config.patience)
            return jax.lax.cond(done, lambda carry: carry, train, carry), None

        zero = jnp.zeros(())
        start = (
            state.params,
            optimizer.init(state.params),
            state.params,
            jnp.full((), jnp.inf),
            jnp.zeros((), jnp.int32),
            zero,
            jnp.zeros((), jnp.int32),
        )
        end, _ = jax.lax.scan(block, start, jax.random.split(key, num_blocks))
        params, _, best, best_loss, _, train_loss, steps = end
        metrics = {
            "train/loss": train_loss,
            "held_out/nll": best_loss,
            "train/steps": steps,
        }
        return (best if config.return_best_model else params), metrics

    def _prequential_scale(self, state: EnsembleState, data: Dataset) -> Array:
        """Scale that would have covered the rows this model has not seen yet."""
        none = jnp.zeros(self.obs_dim)
        if not self.calibration.prequential:
            return none
        capacity = data.transitions.obs.shape[0]
        row = jnp.arange(capacity)
        fresh = (row >= state.size_seen) & (row < data.size)
        rows, mask = _first_rows(fresh, self.config.eval_batch_size)
        obs, action = data.transitions.obs[rows], data.transitions.action[rows]
        moments = partial(self._moments, state, dtype=self.config.plan_dtype)
        prediction = jax.vmap(moments)(obs, action)
        error = data.transitions.next_obs[rows] - prediction.mean
        scale = fit_scale(self.calibration, error, prediction, mask)
        # Before the first fit there is no model to be surprised.
        return jnp.where(mask.any() & (state.size_seen > 0), scale, none)


def _prior(params: PyTree) -> Array:
    """`sum fan_in w^2 / 2` over all kernels: -log of a prior w ~ N(0, 1 / fan_in)."""
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 3]
    return sum((0.5 * k.shape[1] * jnp.sum(k**2) for k in kernels), start=jnp.zeros(()))


def deterministic_ensemble(
    obs_dim: int,
    action_dim: int,
    config: EnsembleConfig,
    calibration: CalibrationConfig,
) -> Ensemble:
    """An ensemble whose members predict a mean; the noise std is `output_stds`.

    Raises:
      ValueError: `output_stds` has neither one entry nor one per output.
    """
    if len(config.output_stds) not in (1, obs_dim):
        raise ValueError(
            f"output_stds needs 1 or {obs_dim} entries, got {len(config.output_stds)}"
        )
    noise = FixedNoise(config.output_stds)
    return Ensemble(obs_dim, action_dim, config, noise, calibration)


def probabilistic_ensemble(
    obs_dim: int,
    action_dim: int,
    config: EnsembleConfig,
    calibration: CalibrationConfig,
) -> Ensemble:
    """An ensemble whose members predict a mean and a noise std."""
    noise = LearnedNoise(config.min_std)
    return Ensemble(obs_dim, action_dim, config, noise, calibration)


def _first_rows(selected: Array, most: int) -> tuple[Array, Array]:
    """Indices of up to `most` selected rows, newest first, and which of them count.

    Newest first, because the newest data are closest to where the agent goes next.
    """
    most = min(most, selected.shape[0])
    order = jnp.argsort(~selected[::-1], stable=True)[:most]
    rows = selected.shape[0] - 1 - order
    return rows, selected[rows]
