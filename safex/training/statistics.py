"""Summaries of a few seeds: interquartile mean, bootstrap intervals, worst seed.

The estimators of Agarwal et al., "Deep Reinforcement Learning at the Edge of the
Statistical Precipice" (NeurIPS 2021). A mean over seeds hides the seed that broke the
system, so `Estimate` always carries the worst seed and all values beside the mean.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Statistic(Protocol):
    """A function that reduces one axis of an array, such as `np.mean`."""

    def __call__(self, x: Floats, /, *, axis: int) -> Floats:
        """Returns `x` with `axis` reduced."""
        ...


class Estimate(NamedTuple):
    """One quantity over the seeds of one experiment.

    Attributes:
      iqm: interquartile mean over seeds.
      low: lower end of its bootstrap interval; nan where there is one seed only.
      high: upper end of its bootstrap interval; nan where there is one seed only.
      worst: the worst single seed.
      values: every seed's value.
    """

    iqm: float
    low: float
    high: float
    worst: float
    values: tuple[float, ...]


def interquartile_mean(x: npt.ArrayLike, *, axis: int = -1) -> Floats:
    """Mean of the middle half of the values.

    The `floor(n / 4)` lowest and as many highest values are dropped whole and the rest
    averaged: `scipy.stats.trim_mean(x, 0.25)`, as in the paper's own code, so that
    numbers compare with published ones. Up to three values it is the plain mean.

    Args:
      x: `[..., n]` values along `axis`.
      axis: the axis to reduce.

    Returns:
      `[...]` the mean; a NumPy scalar for one-dimensional `x`.

    Raises:
      ValueError: nothing along `axis`, or a value that is not finite.
    """
    values = np.sort(_finite("values", x), axis=axis)
    size = values.shape[axis]
    if size == 0:
        raise ValueError("values must not be empty")
    cut = size // 4
    middle = np.take(values, np.arange(cut, size - cut), axis=axis)
    return np.mean(middle, axis=axis)


def summarise(values: npt.ArrayLike) -> dict[str, float | None]:
    """Mean, spread, interquartile mean and extremes of one number per seed.

    `std` is the sample standard deviation (divisor n - 1): the seeds are a sample of
    all seeds. One seed has none, so `std` is then None (`null` in JSON) and not 0.

    Args:
      values: `[n]` one value per seed.

    Returns:
      The plain floats `mean`, `std`, `iqm`, `min`, `max`.

    Raises:
      ValueError: `values` is not one-dimensional, is empty or has a value that is not
        finite.
    """
    x = _one_dimensional("values", values)
    return {
        "mean": float(np.mean(x)),
        "std": float(np.std(x, ddof=1)) if x.size > 1 else None,
        "iqm": float(interquartile_mean(x)),
        "min": float(np.min(x)),
        "max": float(np.max(x)),
    }


def stratified_bootstrap_interval(
    groups: Sequence[npt.ArrayLike],
    statistic: Statistic = interquartile_mean,
    *,
    level: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval that resamples the runs within every task.

    Each resample draws, in every stratum (a task) of n_k runs, n_k of them with
    replacement, pools all strata and takes the statistic (Agarwal et al., 2021). With
    two or three runs the interval can reach no further than the lowest and the highest
    of them, so it is then too narrow: read it beside the worst seed.

    Args:
      groups: one array `[n_k]` of runs per stratum.
      statistic: reduces the pooled runs, called with `axis=-1`.
      level: nominal coverage of the interval, in (0, 1).
      num_resamples: number of bootstrap resamples.
      seed: of the resampling; the same seed gives the same interval.

    Returns:
      The lower and the upper end. Both are nan where every stratum has one run: such
      data hold no spread, and an interval of width zero would claim certainty. A
      single-run stratum beside larger ones is kept and adds no spread.

    Raises:
      ValueError: no stratum, an empty one, a value that is not finite, a level outside
        (0, 1) or fewer than one resample.
    """
    if len(groups) == 0:
        raise ValueError("groups must hold at least one stratum")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be in (0, 1), got {level}")
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be >= 1, got {num_resamples}")
    strata = [_one_dimensional(f"groups[{k}]", x) for k, x in enumerate(groups)]
    if all(x.size == 1 for x in strata):
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    resamples = np.concatenate(
        [x[rng.integers(0, x.size, (num_resamples, x.size))] for x in strata], axis=-1
    )
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(statistic(resamples, axis=-1), [tail, 1.0 - tail])
    return float(low), float(high)


def estimate(
    values: npt.ArrayLike,
    *,
    worst: Literal["min", "max"],
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Interquartile mean of one task's seeds, its interval and the worst seed.

    Args:
      values: `[n]` one value per seed.
      worst: which extreme is the bad one.
      level: nominal coverage of the interval, in (0, 1).
      seed: of the bootstrap.

    Raises:
      ValueError: as `stratified_bootstrap_interval`.
    """
    x = _one_dimensional("values", values)
    low, high = stratified_bootstrap_interval([x], level=level, seed=seed)
    return Estimate(
        iqm=float(interquartile_mean(x)),
        low=low,
        high=high,
        worst=float(np.max(x) if worst == "max" else np.min(x)),
        values=tuple(x.tolist()),
    )


def nominal_coverage(beta: float) -> float:
    """Share of a Gaussian inside `beta` sigma: `erf(beta / sqrt 2)`."""
    return math.erf(beta / math.sqrt(2.0))


def _one_dimensional(name: str, x: npt.ArrayLike) -> Floats:
    values = _finite(name, x)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{name} must have shape [n] with n >= 1, got {values.shape}")
    return values


def _finite(name: str, x: npt.ArrayLike) -> Floats:
    values = np.asarray(x, dtype=np.float64)
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{name} must be finite, got {values.tolist()}")
    return values
