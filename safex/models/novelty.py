"""A second opinion on inputs that are new: how wrong may the model be there?

An ensemble of networks is one way of extrapolating, five times over: beyond the data
its members go wrong together, and their spread says little of it. A line, with a smooth
Gaussian process on what it leaves of the same data, extrapolates in another way, and
knows where the data end. If it is right, the expected squared error of the model's
mean is

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
# Of the trend: precision of its prior, and most rounds without jumps.
_RIDGE, _ROUNDS = 1.0, 30
# A jump, in 90 % quantiles of what is left of the targets, and the least of those that
# count, in stds of the targets.
_JUMP, _JUMP_QUANTILE, _LEAST_SIZE = 5.0, 0.9, 0.01


class Trend(NamedTuple):
    """A line through normalised inputs and targets, and how sure it is.

    Attributes:
      slope: `[I, D]`.
      spread: `[I, I]` covariance of each output's slope, in variances of what is left.
      left: `[D]` std of what is left.
    """

    slope: Array
    spread: Array
    left: Array


class NoveltyState(NamedTuple):
    """All that a fit changes.

    Attributes:
      trend: the linear part of the targets.
      process: the second opinion on what is left of them, in normalised units.
      inputs: normalizer of `(obs, action)`.
      targets: normalizer of `next_obs - obs`.
      known: `[]` unknown share of the prior variance up to which an input is known.
    """

    trend: Trend
    process: SparseGPState
    inputs: Normalizer
    targets: Normalizer
    known: Array


def init(obs_dim: int, action_dim: int, num_inducing: int) -> NoveltyState:
    """No opinion yet, nothing is new."""
    num_inputs = obs_dim + action_dim
    return NoveltyState(
        trend=Trend(
            slope=jnp.zeros((num_inputs, obs_dim)),
            spread=jnp.zeros((num_inputs, num_inputs)),
            left=jnp.zeros(obs_dim),
        ),
        process=sparse_gp.unfitted(num_inputs, obs_dim, num_inducing),
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
    trend, left = _trend(rows.x, rows.y, train)
    process = sparse_gp.fit(num_inducing, rows.x, left, train)
    _, unknown = jax.vmap(sparse_gp.predict, (None, 0))(process, rows.x)
    ascending = jnp.sort(jnp.where(train, unknown, jnp.inf))
    rank = jnp.ceil(_KNOWN_SHARE * train.sum()).astype(jnp.int32) - 1
    known = ascending[rank] + _ROUNDING
    return NoveltyState(trend, process, rows.inputs, rows.targets, known)


def _trend(x: Array, y: Array, mask: Array) -> tuple[Trend, Array]:
    """The linear part of the targets, and what it leaves of them, `[capacity, D]`.

    A smooth process says a line only with an amplitude of many times its size, and is
    then as unsure of everything else; so the line is taken out first (Rasmussen and
    Williams 2006, Sec. 2.7). By least squares with a little ridge, again and again
    without the jumps that it found (winsorised regression).

    A collision is a jump of many times what else moves. A smooth process would take it
    for its own amplitude, and then nothing near any of its inputs would be known. So
    where an output jumps nothing is left of it, and a model that knows of the jump
    disagrees with the line.
    """
    x, y = (jnp.where(mask[:, None], leaf, 0.0) for leaf in (x, y))
    num_inputs, count = x.shape[1], mask.sum()
    spread = jnp.linalg.inv(x.T @ x + _RIDGE * jnp.eye(num_inputs))
    rank = jnp.ceil(_JUMP_QUANTILE * count).astype(jnp.int32) - 1

    def again(last: tuple) -> tuple:
        number, _, jumps, _ = last
        slope = spread @ (x.T @ (y - jumps))
        left = y - x @ slope
        size = jnp.sort(jnp.where(mask[:, None], jnp.abs(left), jnp.inf), axis=0)[rank]
        most = _JUMP * jnp.maximum(size, _LEAST_SIZE)
        found = left - jnp.clip(left, -most, most)
        return number + 1, slope, found, jnp.all(found == jumps)

    def unsettled(last: tuple) -> Array:
        return (last[0] < _ROUNDS) & ~last[3]

    no_slope, no_jumps = jnp.zeros((num_inputs, y.shape[1])), jnp.zeros_like(y)
    start = (jnp.zeros((), jnp.int32), no_slope, no_jumps, jnp.zeros((), bool))
    _, slope, jumps, _ = jax.lax.while_loop(unsettled, again, start)
    left = jnp.where(jumps == 0.0, y - x @ slope, 0.0)
    freedom = jnp.maximum(count - num_inputs, 1)
    std = jnp.sqrt(jnp.sum(left**2, axis=0) / freedom)
    return Trend(slope, spread, std), left


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
    mean = mean + x @ state.trend.slope
    disagreement = obs + state.targets.denormalize(mean) - prediction.mean
    process_var = state.process.amplitude**2 * unknown
    trend_var = state.trend.left**2 * (x @ state.trend.spread @ x)
    own_var = (process_var + trend_var) * state.targets.std**2
    new = jnp.maximum(1.0 - state.known / jnp.maximum(unknown, 1e-12), 0.0)
    var = prediction.epistemic_std**2 + disagreement**2 + own_var
    return safe_sqrt(new * var)
