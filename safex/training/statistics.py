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


class Improvement(NamedTuple):
    """How probably one experiment does better than another.

    Attributes:
      probability: that a run of the one is better than a run of the other; a draw
        counts half.
      low: lower end of its bootstrap interval; nan where neither has two seeds.
      high: upper end of it.
    """

    probability: float
    low: float
    high: float


class Profile(NamedTuple):
    """The share of an experiment's runs beyond each of some values.

    Attributes:
      thresholds: `[n]` the values tau.
      share: `[n]` of runs > tau.
      low: `[n]` lower ends of the pointwise bootstrap intervals; nan with one run.
      high: `[n]` upper ends.
    """

    thresholds: Floats
    share: Floats
    low: Floats
    high: Floats


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
    _check_resampling(level, num_resamples)
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


def probability_of_improvement(
    one: npt.ArrayLike,
    other: npt.ArrayLike,
    *,
    better: Literal["low", "high"],
    level: float = 0.95,
    num_resamples: int = 2_000,
    seed: int = 0,
) -> Improvement:
    """`P(X better than Y)` of two experiments on one task, a draw counted half.

    The Mann-Whitney statistic over all pairs of runs, with the percentile bootstrap
    interval that resamples both experiments (Agarwal et al., 2021, eq. 1).

    Args:
      one: `[n]` one value per seed.
      other: `[m]` those of the other experiment.
      better: which end of the scale is the good one.
      level: nominal coverage of the interval, in (0, 1).
      num_resamples: number of bootstrap resamples.
      seed: of the resampling.

    Raises:
      ValueError: as `stratified_bootstrap_interval`.
    """
    x, y = _one_dimensional("one", one), _one_dimensional("other", other)
    _check_resampling(level, num_resamples)
    sign = 1.0 if better == "high" else -1.0
    wins = 0.5 + 0.5 * np.sign(sign * (x[:, None] - y[None, :]))
    if x.size == y.size == 1:
        return Improvement(float(wins.mean()), math.nan, math.nan)
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, x.size, (num_resamples, x.size, 1))
    columns = rng.integers(0, y.size, (num_resamples, 1, y.size))
    means = wins[rows, columns].mean(axis=(1, 2))
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Improvement(float(wins.mean()), float(low), float(high))


def performance_profile(
    values: npt.ArrayLike,
    thresholds: npt.ArrayLike,
    *,
    level: float = 0.95,
    num_resamples: int = 2_000,
    seed: int = 0,
) -> Profile:
    """Share of runs beyond each value, with pointwise bootstrap intervals.

    The run-score distribution of Agarwal et al. (2021), section 4.2, on one task.

    Args:
      values: `[n]` one value per seed.
      thresholds: `[t]` the values tau.
      level: nominal coverage of each interval, in (0, 1).
      num_resamples: number of bootstrap resamples.
      seed: of the resampling.

    Raises:
      ValueError: as `stratified_bootstrap_interval`.
    """
    x = _one_dimensional("values", values)
    tau = _one_dimensional("thresholds", thresholds)
    _check_resampling(level, num_resamples)
    beyond = (x[:, None] > tau).astype(np.float64)
    share = beyond.mean(axis=0)
    if x.size == 1:
        nothing = np.full(tau.size, math.nan)
        return Profile(tau, share, nothing, nothing)
    rng = np.random.default_rng(seed)
    # A resample is how often it draws each run.
    drawn = rng.multinomial(x.size, np.full(x.size, 1.0 / x.size), num_resamples)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(drawn @ beyond / x.size, [tail, 1.0 - tail], axis=0)
    return Profile(tau, share, low, high)


def nominal_coverage(beta: float) -> float:
    """Share of a Gaussian inside `beta` sigma: `erf(beta / sqrt 2)`."""
    return math.erf(beta / math.sqrt(2.0))


def _check_resampling(level: float, num_resamples: int) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be in (0, 1), got {level}")
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be >= 1, got {num_resamples}")


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
