"""The one class behind `DynamicsModel` for everything that is learned.

A raw model learns from the rows it is given and says what it believes. Which rows it is
given, and how far its stds can be trusted, is decided here, the same for all of them.
"""

import dataclasses
from typing import NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp

from safex.config import CalibrationConfig, SplitConfig
from safex.errors import SafexError
from safex.models.calibration import calibrated, fit_scale
from safex.models.normalizer import fit_normalizer
from safex.models.training import Split, first_rows, split_rows
from safex.types import Array, Dataset, Metrics, Prediction, PyTree


class RawModel(Protocol):
    """A model of the next observation, as it comes: uncalibrated."""

    @property
    def obs_dim(self) -> int:
        """D."""
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
      scale: `[D]` factor on the stds.
      surprise: `[D]` scale that fresh episodes asked for, fading with time.
      size_seen: `[]` int32 rows that the last fit was given.
    """

    base: PyTree
    scale: Array
    surprise: Array
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

    def init(self, key: Array) -> CalibratedState:
        """A raw model that has seen nothing, scale 1."""
        return CalibratedState(
            base=self.base.init(key),
            scale=jnp.ones(self.base.obs_dim),
            surprise=jnp.zeros(self.base.obs_dim),
            size_seen=jnp.zeros((), jnp.int32),
        )

    def predict(self, state: CalibratedState, obs: Array, action: Array) -> Prediction:
        """Calibrated moments, `[D], [A] -> Prediction`."""
        prediction = self.base.moments(state.base, obs, action)
        return calibrated(self.config, prediction, state.scale)

    def member(
        self, state: CalibratedState, obs: Array, action: Array, index: Array
    ) -> Prediction:
        """One member's mean and noise, `[D], [A], [] -> Prediction`.

        Raises:
          SafexError: there are no members.
        """
        prediction = self._of_members().member(state.base, obs, action, index)
        return calibrated(self.config, prediction, state.scale)

    def members(self, state: CalibratedState, obs: Array, action: Array) -> Prediction:
        """Every member on observations of its own, `[E, S, D], [A] -> [E, S, D]`.

        Raises:
          SafexError: there are no members.
        """
        prediction = self._of_members().members(state.base, obs, action)
        return calibrated(self.config, prediction, state.scale)

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
        # An episode that stays where the model is good says nothing of elsewhere, so
        # older surprises fade, they do not vanish.
        fresh = self._prequential_scale(state, data)
        surprise = jnp.maximum(fresh, self.config.prequential_memory * state.surprise)
        split = self._split(data)
        # The first block to be held out comes late (row 20 at a share of 0.8); until
        # then the training rows stand in, since no rows at all would give NaN.
        stand_in = jnp.where(split.calibrate.any(), split.calibrate, split.train)
        split = split._replace(calibrate=stand_in)
        base, metrics = self.base.train(key, state.base, data, split)
        error, prediction, mask = self._errors(base, data, split.calibrate)
        held_out = fit_scale(self.config, error, prediction, mask)
        scale = jnp.maximum(held_out, surprise)
        moved = data.transitions.next_obs - data.transitions.obs
        unit = fit_normalizer(moved, split.train).std
        metrics = {
            **metrics,
            "held_out/rmse": jnp.sqrt(
                jnp.mean((error / unit) ** 2, where=mask[:, None])
            ),
            "calibration/held_out_scale": held_out,
            "calibration/prequential_scale": surprise,
            "calibration/scale": scale,
        }
        return CalibratedState(base, scale, surprise, data.size), metrics

    def test_rows(self, data: Dataset) -> Array:
        """`[capacity]` bool: rows that were neither trained nor calibrated on."""
        return self._split(data).test

    def _split(self, data: Dataset) -> Split:
        capacity = data.transitions.obs.shape[0]
        return split_rows(data.size, capacity, self.split.train_share)

    def _errors(
        self, base: PyTree, data: Dataset, selected: Array
    ) -> tuple[Array, Prediction, Array]:
        """Errors `[B, D]` and predictions of selected rows, and which rows count."""
        rows, mask = first_rows(selected, self.split.eval_batch_size)
        obs, action, next_obs = (
            leaf[rows]
            for leaf in (
                data.transitions.obs,
                data.transitions.action,
                data.transitions.next_obs,
            )
        )
        moments = jax.vmap(self.base.moments, (None, 0, 0))
        prediction = moments(base, obs, action)
        return next_obs - prediction.mean, prediction, mask

    def _prequential_scale(self, state: CalibratedState, data: Dataset) -> Array:
        """Scale that would have covered the rows this model has not seen yet."""
        none = jnp.zeros(self.base.obs_dim)
        if not self.config.prequential:
            return none
        row = jnp.arange(data.transitions.obs.shape[0])
        fresh = (row >= state.size_seen) & (row < data.size)
        error, prediction, mask = self._errors(state.base, data, fresh)
        scale = fit_scale(self.config, error, prediction, mask)
        # Before the first fit there is no model to be surprised.
        return jnp.where(mask.any() & (state.size_seen > 0), scale, none)

    def _of_members(self) -> MemberModel:
        if not self.num_members:
            raise SafexError(f"a {type(self.base).__name__} has no members to ask")
        return cast(MemberModel, self.base)
