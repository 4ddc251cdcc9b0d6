"""The one class behind `DynamicsModel` for everything that is learned.

A raw model learns from the rows it is given and says what it believes. Which rows it is
given, and how far its stds can be trusted, is decided here, the same for all of them:

    epistemic^2 = (known_stretch scale epistemic_raw)^2 + (stretch novel)^2
    aleatoric = known_stretch scale aleatoric_raw

`scale` is conformal: near the data, where nothing is novel, held-out rows decide how
wide the band is. `novel` is what a second opinion adds where inputs are new. The
episodes that the model had not seen yet decide how far either part is stretched: what
was missed at an input that counts as known says nothing of new ones.
"""

import dataclasses
from functools import partial
from typing import NamedTuple, Protocol, Self, cast

import jax
import jax.numpy as jnp

from safex.config import CalibrationConfig, SplitConfig
from safex.errors import SafexError
from safex.models import novelty
from safex.models.calibration import calibrated, fit_scale, fit_stretch
from safex.models.normalizer import fit_normalizer
from safex.models.novelty import NoveltyState
from safex.models.staged import sized, with_field
from safex.models.training import Split, first_rows, split_rows
from safex.types import Array, Dataset, Metrics, Prediction, PyTree


class RawModel(Protocol):
    """A model of the next observation, as it comes: uncalibrated."""

    @property
    def obs_dim(self) -> int:
        """D."""
        ...

    @property
    def action_dim(self) -> int:
        """A."""
        ...

    @property
    def num_members(self) -> int:
        """E; 0 where there are none, or as `MemberModel` has them."""
        ...

    def init(self, key: Array) -> PyTree:
        """Returns the state of a model that has seen nothing."""
        ...

    def train(
        self, key: Array, state: PyTree, data: Dataset, split: Split
    ) -> tuple[PyTree, Metrics]:
        """Learns from the rows `split.train`; `split.calibrate` may end it early."""
        ...

    def moments(self, state: PyTree, obs: Array, action: Array) -> Prediction:
        """Predicts one next observation, `[D], [A] -> Prediction`."""
        ...


class MemberModel(RawModel, Protocol):
    """A raw model that is a finite set of functions."""

    def member(
        self, state: PyTree, obs: Array, action: Array, index: Array
    ) -> Prediction:
        """The same from one member alone; its epistemic std is zero."""
        ...

    def members(self, state: PyTree, obs: Array, action: Array) -> Prediction:
        """Every member on observations of its own, `[E, S, D], [A] -> [E, S, D]`."""
        ...

    def select(self, state: PyTree, index: Array) -> PyTree:
        """The state of a model whose members are `index` `[G]`, for `members`."""
        ...


class CalibratedState(NamedTuple):
    """All that a fit changes.

    Attributes:
      base: state of the raw model.
      novelty: the second opinion on new inputs.
      scale: `[D]` factor on the stds.
      known_stretch: `[D]` further factor on them, from the executed steps.
      stretch: `[D]` factor on what is claimed of new inputs.
      size_seen: `[]` int32 rows that the last fit was given.
    """

    base: PyTree
    novelty: NoveltyState
    scale: Array
    known_stretch: Array
    stretch: Array
    size_seen: Array


@dataclasses.dataclass(frozen=True)
class CalibratedModel:
    """A raw model behind the `DynamicsModel` protocol.

    Attributes:
      base: what learns.
      config: how the stds are rescaled after each fit.
      split: which rows are trained on, and how many calibrate.
    """

    base: RawModel
    config: CalibrationConfig = CalibrationConfig()
    split: SplitConfig = SplitConfig()

    @property
    def num_members(self) -> int:
        """E, or 0."""
        return self.base.num_members

    def sized(self, batch_size: int) -> Self:
        """The same model for a planner that asks it of so many inputs at once."""
        return with_field(self, "base", sized(self.base, batch_size))

    def init(self, key: Array) -> CalibratedState:
        """A raw model that has seen nothing, scale 1."""
        return CalibratedState(
            base=self.base.init(key),
            novelty=novelty.init(
                self.base.obs_dim, self.base.action_dim, self.config.num_inducing
            ),
            scale=jnp.ones(self.base.obs_dim),
            known_stretch=jnp.ones(self.base.obs_dim),
            stretch=jnp.ones(self.base.obs_dim),
            size_seen=jnp.zeros((), jnp.int32),
        )

    def predict(self, state: CalibratedState, obs: Array, action: Array) -> Prediction:
        """Calibrated moments, `[D], [A] -> Prediction`."""
        return self.complete(state, obs, action, self.outline(state, obs, action)[1])

    def outline(
        self, state: CalibratedState, obs: Array, action: Array
    ) -> tuple[Array, Prediction]:
        """The mean, and the raw moments, `[D], [A] -> [D], Prediction`."""
        raw = self.base.moments(state.base, obs, action)
        return raw.mean, raw

    def complete(
        self, state: CalibratedState, obs: Array, action: Array, outline: Prediction
    ) -> Prediction:
        """The calibrated moments of raw ones."""
        novel = self._novel_std(state, obs, action, outline)
        return self._widened(state, outline, novel)

    def member(
        self, state: CalibratedState, obs: Array, action: Array, index: Array
    ) -> Prediction:
        """One member's mean and noise, `[D], [A], [] -> Prediction`.

        Its epistemic std is what the second opinion says against this member: 0 near
        the data.

        Raises:
          SafexError: there are no members.
        """
        prediction = self._of_members().member(state.base, obs, action, index)
        return self.complete(state, obs, action, prediction)

    def members(self, state: CalibratedState, obs: Array, action: Array) -> Prediction:
        """Every member on observations of its own, `[E, S, D], [A] -> [E, S, D]`.

        The action may also be each observation's own, `[E, S, A]`.

        Raises:
          SafexError: there are no members.
        """
        prediction = self._of_members().members(state.base, obs, action)
        each = jnp.broadcast_to(action, (*obs.shape[:-1], action.shape[-1]))

        complete = jax.vmap(jax.vmap(partial(self.complete, state)))
        return complete(obs, each, prediction)

    def select(self, state: CalibratedState, index: Array) -> CalibratedState:
        """The state of a model whose members are `index` `[G]`, for `members`.

        Raises:
          SafexError: there are no members.
        """
        return state._replace(base=self._of_members().select(state.base, index))

    def fit(
        self, key: Array, state: CalibratedState, data: Dataset
    ) -> tuple[CalibratedState, Metrics]:
        """Trains on the training rows, then calibrates on rows held out.

        It does not recompile as the data grow. Rows held out by `split_rows` are never
        trained on.
        """
        known_stretch, stretch = self._stretches(state, data)
        split = self._split(data)
        # The first block to be held out comes late (row 20 at a share of 0.8); until
        # then the training rows stand in, since no rows at all would give NaN.
        stand_in = jnp.where(split.calibrate.any(), split.calibrate, split.train)
        split = split._replace(calibrate=stand_in)
        base, metrics = self.base.train(key, state.base, data, split)
        opinion = state.novelty
        if self._has_opinion:
            opinion = novelty.fit(self.config.num_inducing, data, split.train)
        state = CalibratedState(
            base, opinion, state.scale, known_stretch, stretch, data.size
        )
        rows, mask = first_rows(split.calibrate, self.split.eval_batch_size)
        obs, action, next_obs = _rows(data, rows)
        prediction = jax.vmap(self.base.moments, (None, 0, 0))(base, obs, action)
        error = next_obs - prediction.mean
        novel = jax.vmap(self._novel_std, (None, 0, 0, 0))(
            state, obs, action, prediction
        )
        scale = fit_scale(self.config, error, prediction, novel, mask)
        moved = data.transitions.next_obs - data.transitions.obs
        unit = fit_normalizer(moved, split.train).std
        metrics = {
            **metrics,
            "held_out/rmse": jnp.sqrt(
                jnp.mean((error / unit) ** 2, where=mask[:, None])
            ),
            "calibration/scale": scale,
            "calibration/known_stretch": known_stretch,
            "calibration/stretch": stretch,
        }
        return state._replace(scale=scale), metrics

    def test_rows(self, data: Dataset) -> Array:
        """`[capacity]` bool: rows that were neither trained nor calibrated on."""
        return self._split(data).test

    def _split(self, data: Dataset) -> Split:
        capacity = data.transitions.obs.shape[0]
        return split_rows(data.size, capacity, self.split.train_share)

    @property
    def _has_opinion(self) -> bool:
        return self.config.num_inducing > 0 and self.config.method != "none"

    def _widened(
        self, state: CalibratedState, prediction: Prediction, novel_std: Array
    ) -> Prediction:
        """A raw prediction, `[..., D]` leaves, under the state's factors."""
        scale = jnp.minimum(state.known_stretch * state.scale, self.config.max_scale)
        return calibrated(self.config, prediction, scale, novel_std)

    def _novel_std(
        self, state: CalibratedState, obs: Array, action: Array, prediction: Prediction
    ) -> Array:
        """What an input adds to the std by being new, stretched, `[D]`."""
        if not self._has_opinion:  # nobody calls anything new
            return jnp.zeros_like(prediction.epistemic_std)
        stretch = jnp.minimum(state.stretch, self.config.max_scale)
        return stretch * novelty.novel_std(state.novelty, obs, action, prediction)

    def _stretches(self, state: CalibratedState, data: Dataset) -> tuple[Array, Array]:
        """Both stretches after the rows that this model has not seen yet."""
        stretches = state.known_stretch, state.stretch
        if not self.config.prequential or self.config.method == "none":
            return stretches
        row = jnp.arange(data.transitions.obs.shape[0])
        fresh = (row >= state.size_seen) & (row < data.size)
        rows, mask = first_rows(fresh, self.split.eval_batch_size)
        obs, action, next_obs = _rows(data, rows)
        raw = jax.vmap(self.base.moments, (None, 0, 0))(state.base, obs, action)
        novel = jax.vmap(self._novel_std, (None, 0, 0, 0))(state, obs, action, raw)
        prediction = self._widened(state, raw, novel)
        # Before the first fit there is no model to be surprised.
        mask = mask & (state.size_seen > 0)
        error = next_obs - prediction.mean
        parts = _parts(self.config, prediction, novel)
        known_stretch, stretch = (
            fit_stretch(self.config, stretch, error, prediction, mask, part)
            for stretch, part in zip(stretches, parts, strict=True)
        )
        return known_stretch, stretch

    def _of_members(self) -> MemberModel:
        if not self.num_members:
            raise SafexError(f"a {type(self.base).__name__} has no members to ask")
        return cast(MemberModel, self.base)


def _parts(
    config: CalibrationConfig, prediction: Prediction, novel_std: Array
) -> tuple[Array, Array]:
    """Shares of the variance that is scaled and of what is novel, `[..., D]` each."""
    var = prediction.epistemic_std**2 + prediction.aleatoric_std**2
    var = jnp.maximum(var, 1e-12)
    new = novel_std**2 / var
    # Kuleshov's scale leaves the noise as it is, which so answers for itself.
    noise = prediction.aleatoric_std**2 / var if config.method == "kuleshov" else 0.0
    return 1.0 - new - noise, new


def _rows(data: Dataset, rows: Array) -> tuple[Array, Array, Array]:
    """Observations, actions and next observations of some rows."""
    transitions = data.transitions
    return transitions.obs[rows], transitions.action[rows], transitions.next_obs[rows]
