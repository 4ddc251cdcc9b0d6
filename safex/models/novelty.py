"""A second opinion on inputs that are new: how wrong may the model be there?

An ensemble of networks is one way of extrapolating, five times over: beyond the data
its members go wrong together, and their spread says little of it. A smooth Gaussian
process on the same data extrapolates in another way, and knows where the data end. If
it is right, the expected squared error of the model's mean is

    E (f - mean)^2 = (mean_gp - mean)^2 + std_gp^2

which is added to the spread of the members where an input is new, and only there: near
the data held-out rows say better how large errors are.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from safex.models import sparse_gp
from safex.models.calibration import safe_sqrt
from safex.models.normalizer import Normalizer, identity_normalizer
from safex.models.sparse_gp import SparseGPState
from safex.models.training import normalized
from safex.types import Array, Dataset, Prediction

# Share of the training inputs that count as known.
_KNOWN_SHARE = 0.95
# Of one less the explained share, in float32.
_ROUNDING = 1e-6
# Of the trend: ridge as a share of the rows, and rounds without jumps.
_RIDGE, _ROUNDS = 1e-4, 30
# A jump, in 90 % quantiles of what is left of the targets, and the least of those that
# count, in stds of the targets.
_JUMP, _JUMP_QUANTILE, _LEAST_SIZE = 5.0, 0.9, 0.01


class NoveltyState(NamedTuple):
    """All that a fit changes.

    Attributes:
      process: the second opinion on what is left of a trend, in normalised units.
      trend: `[I, D]` linear part of the targets, in normalised units.
      inputs: normalizer of `(obs, action)`.
      targets: normalizer of `next_obs - obs`.
      known: `[]` unknown share of the prior variance up to which an input is known.
    """

    process: SparseGPState
    trend: Array
    inputs: Normalizer
    targets: Normalizer
    known: Array


def init(obs_dim: int, action_dim: int, num_inducing: int) -> NoveltyState:
    """No opinion yet, nothing is new."""
    num_inputs = obs_dim + action_dim
    return NoveltyState(
        process=sparse_gp.unfitted(num_inputs, obs_dim, num_inducing),
        trend=jnp.zeros((num_inputs, obs_dim)),
        inputs=identity_normalizer(num_inputs),
        targets=identity_normalizer(obs_dim),
        known=jnp.ones(()),
    )


def fit(num_inducing: int, data: Dataset, train: Array) -> NoveltyState:
    """Forms an opinion from the training rows.

    Args:
      num_inducing: M.
      data: all experience.
      train: `[capacity]` bool, rows that may be learned from.
    """
    rows = normalized(data, train)
    trend, smooth = _trend(rows.x, rows.y, train)
    left = rows.y - rows.x @ trend
    process = sparse_gp.fit(num_inducing, rows.x, left, train & smooth)
    _, unknown = jax.vmap(sparse_gp.predict, (None, 0))(process, rows.x)
    ascending = jnp.sort(jnp.where(train, unknown, jnp.inf))
    rank = jnp.ceil(_KNOWN_SHARE * train.sum()).astype(jnp.int32) - 1
    known = ascending[rank] + _ROUNDING
    return NoveltyState(process, trend, rows.inputs, rows.targets, known)


def _trend(x: Array, y: Array, mask: Array) -> tuple[Array, Array]:
    """The linear part `[I, D]` of the targets, and `[capacity]` bool: rows of no jump.

    A smooth process says a line only with an amplitude of many times its size, and is
    then as unsure of everything else; so the line is taken out first (Rasmussen and
    Williams 2006, Sec. 2.7). By least squares with a little ridge, again and again
    without the jumps that it found (winsorised regression).

    A collision is a jump of many times what else moves. A smooth process would take it
    for its own amplitude, and then nothing near any of its inputs would be known.
    """
    x, y = (jnp.where(mask[:, None], leaf, 0.0) for leaf in (x, y))
    gram = x.T @ x + (1.0 + _RIDGE * mask.sum()) * jnp.eye(x.shape[1])
    solve = jnp.linalg.solve(gram, x.T)

    rank = jnp.ceil(_JUMP_QUANTILE * mask.sum()).astype(jnp.int32) - 1

    def again(jumps: Array, _: None) -> tuple[Array, Array]:
        trend = solve @ (y - jumps)
        left = y - x @ trend
        size = jnp.sort(jnp.where(mask[:, None], jnp.abs(left), jnp.inf), axis=0)[rank]
        most = _JUMP * jnp.maximum(size, _LEAST_SIZE)
        return left - jnp.clip(left, -most, most), trend

    jumps, trends = jax.lax.scan(again, jnp.zeros_like(y), length=_ROUNDS)
    return trends[-1], (jumps == 0.0).all(axis=1)


def novel_std(
    state: NoveltyState, obs: Array, action: Array, prediction: Prediction
) -> Array:
    """`[D]` std of the model's error that the second opinion adds, 0 where known.

    With u the unknown share of the prior variance and u_0 that of known inputs,
    `(1 - u_0 / u)_+` of the variance counts, which grows without a jump.

    Args:
      state: the opinion.
      obs: `[D]`.
      action: `[A]`.
      prediction: the model's own belief, uncalibrated.
    """
    x = state.inputs.normalize(jnp.concatenate([obs, action], axis=-1))
    mean, unknown = sparse_gp.predict(state.process, x)
    mean = mean + x @ state.trend
    disagreement = obs + state.targets.denormalize(mean) - prediction.mean
    process_var = (state.process.amplitude * state.targets.std) ** 2 * unknown
    new = jnp.maximum(1.0 - state.known / jnp.maximum(unknown, 1e-12), 0.0)
    var = prediction.epistemic_std**2 + disagreement**2 + process_var
    return safe_sqrt(new * var)
