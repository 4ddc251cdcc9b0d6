"""What the sampling optimizers share: draw, order, refit, remember the best."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from safex.constraints.rule import Constraint, total_margin
from safex.optimizers.spread import mapped
from safex.types import Array, Metrics, Plan, Score

_Rows = TypeVar("_Rows")


class Candidates(NamedTuple):
    """Sequences and what the objective says of them.

    Attributes:
      actions: `[N, H, A]`.
      score: leaves `[N]` and `[N, C]`.
    """

    actions: Array
    score: Score


class Incumbent(NamedTuple):
    """The best and the safest candidate seen so far, leaves `[1, ...]`."""

    best: Candidates
    safest: Candidates


def coloured_noise(key: Array, exponent: float, shape: tuple[int, int, int]) -> Array:
    """Gaussian noise with power spectrum `1 / f^exponent` along time.

    Each row is drawn in the frequency domain and scaled to unit variance (Timmer and
    Koenig 1995; for planning: Pinneri et al. 2020, arXiv 2008.06389). Candidates and
    action dimensions are independent; only time is correlated.

    Args:
      key: consumed.
      exponent: 0 is white, 1 pink, 2 red.
      shape: `(N, H, A)`.

    Returns:
      `[N, H, A]`.
    """
    n, horizon, dim = shape
    if exponent == 0.0 or horizon == 1:
        return normal(key, shape)
    basis = _coloured_basis(exponent, horizon)
    white = normal(key, (n, dim, basis.shape[0]))
    return jnp.einsum("nab,bh->nha", white, basis)


def normal(key: Array, shape: tuple[int, ...]) -> Array:
    """`jax.random.normal` to the bit, drawn in a row: a quarter of the compilation."""
    return jax.random.normal(key, (math.prod(shape),)).reshape(shape)


def _coloured_basis(exponent: float, horizon: int) -> np.ndarray:
    """`[2 F, H]` inverse real FFT of each real and imaginary unit, with its amplitude.

    A constant matrix in place of a transform: horizons are short, and a transform for
    each optimizer iteration would cost seconds of compilation.
    """
    frequency = np.fft.rfftfreq(horizon)
    amplitude = np.maximum(frequency, 1.0 / horizon) ** (-0.5 * exponent)
    units = np.concatenate([np.diag(amplitude), 1j * np.diag(amplitude)])
    # The first coefficient of a real signal is real, and so is the last one of an even
    # horizon: their real part carries the power of both.
    real_only = [0, frequency.size - 1] if horizon % 2 == 0 else [0]
    for f in real_only:
        units[f] *= np.sqrt(2.0)
        units[frequency.size + f] = 0.0
    basis = np.fft.irfft(units, horizon, axis=1)
    # Every time step has the same variance, the sum over the basis.
    return (basis / np.sqrt((basis**2).sum(axis=0))).astype(np.float32)


def take(rows: _Rows, index: Array | slice | int) -> _Rows:
    """Some rows of a set of candidates, or of any other tree."""
    return jax.tree.map(lambda leaf: leaf[index], rows)


def join(*parts: Candidates) -> Candidates:
    """All candidates of several sets."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def evaluate(
    objective: Callable[[Array], Score], actions: Array, num_devices: int = 1
) -> Candidates:
    """Scores `[N, H, A]` sequences; one that is not finite can never be chosen."""
    return scored(actions, mapped(objective, num_devices)(actions))


def scored(actions: Array, score: Score) -> Candidates:
    """Candidates of which none that is not finite can be chosen."""
    # A cost that counts margins above 0 does not see one that is NaN.
    known = jnp.isfinite(score.cost) & ~jnp.isnan(score.margin)
    finite = jnp.isfinite(score.value) & known.all(-1)
    return Candidates(
        actions,
        Score(
            jnp.where(finite, score.value, -jnp.inf),
            jnp.where(finite[:, None], score.cost, jnp.inf),
            jnp.where(finite[:, None], score.margin, jnp.inf),
        ),
    )


def safest(score: Score) -> Array:
    """Index of the candidate of least margin; ties by cost, then by value."""
    keys = (-score.value, score.cost.sum(-1), total_margin(score.margin))
    return foremost(*keys)


def foremost(*keys: Array) -> Array:
    """`jnp.lexsort(keys)[0]` along the first axis of keys `[N, ...]`, without a sort.

    The last key counts first, the lower index between equals, NaN as much as infinity.
    A sort has several times its kernels to compile.
    """
    among = jnp.ones(keys[0].shape, bool)
    for key in (jnp.where(jnp.isnan(key), jnp.inf, key) for key in reversed(keys)):
        least = jnp.min(jnp.where(among, key, jnp.inf), axis=0, keepdims=True)
        among = among & (key == least)
    return jnp.argmax(among, axis=0)


def no_incumbent(horizon: int, dim: int, constraint: Constraint) -> Incumbent:
    """An incumbent that any finite candidate beats."""
    infinite = jnp.full((1, *constraint.threshold.shape), jnp.inf)
    worst = Candidates(
        jnp.zeros((1, horizon, dim)),
        Score(jnp.full(1, -jnp.inf), infinite, infinite),
    )
    return Incumbent(worst, worst)


def update_incumbent(
    incumbent: Incumbent, ordered: Candidates, constraint: Constraint
) -> Incumbent:
    """Keeps whichever is better: the incumbent or the best of `ordered`.

    Args:
      incumbent: so far.
      ordered: candidates, best first.
      constraint: decides what better means.
    """
    first = take(ordered, jnp.arange(1))
    pair = join(incumbent.best, first)
    best = take(pair, constraint.order(pair.score)[:1])
    safe = take(ordered, safest(ordered.score)[None])
    pair = join(incumbent.safest, safe)
    return Incumbent(best, take(pair, safest(pair.score)[None]))


def search_info(
    incumbent: Incumbent, candidates: Candidates, constraint: Constraint
) -> Metrics:
    """What an iteration says of itself: best so far, share of feasible candidates."""
    return {
        "value": incumbent.best.score.value[0],
        "cost": incumbent.best.score.cost[0],
        "feasible_share": constraint.feasible(candidates.score).mean(),
    }


def to_plan(incumbent: Incumbent, constraint: Constraint) -> Plan:
    """The best candidate, with the safest one beside it."""
    best = take(incumbent.best, 0)
    return Plan(
        actions=best.actions,
        value=best.score.value,
        cost=best.score.cost,
        margin=best.score.margin,
        feasible=constraint.feasible(best.score) & jnp.isfinite(best.score.cost).all(),
        backup_actions=incumbent.safest.actions[0],
    )


def refit(
    mean: Array, std: Array, elites: Array, momentum: float, min_std: float
) -> tuple[Array, Array]:
    """Moves a Gaussian towards its elites.

    `mean <- m mean + (1 - m) mean(elites)` and likewise the std (Botev et al. 2013,
    The cross-entropy method for optimization, Sec. 3).

    Args:
      mean: `[H, A]`.
      std: `[H, A]`.
      elites: `[K, H, A]`.
      momentum: m in [0, 1).
      min_std: floor of the std.
    """
    mean = momentum * mean + (1.0 - momentum) * elites.mean(0)
    std = momentum * std + (1.0 - momentum) * elites.std(0)
    return mean, jnp.maximum(std, min_std)


def shift(sequence: Array, axis: int = 0, last: Array | None = None) -> Array:
    """Moves sequences one step ahead in time and repeats the last step.

    Args:
      sequence: `[..., H, ...]`.
      axis: the time axis.
      last: `[A]` takes the place of the action that would be repeated, the last A of
        X in sequences `[..., H, X]`.
    """
    length = sequence.shape[axis]
    index = jnp.minimum(jnp.arange(1, length + 1), length - 1)
    moved = jnp.take(sequence, index, axis)
    if last is None:
        return moved
    return moved.at[..., -1, -last.shape[0] :].set(last)
