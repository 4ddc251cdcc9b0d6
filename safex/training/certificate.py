"""How often an episode breaks its budget, with a confidence that holds while one looks.

Two statements about the training episodes of a group, for two readings of "how often":

- if the episodes were alike, each breaking its budget with the same probability p, the
  exact binomial bound on p (Clopper and Pearson 1934) after a number of episodes that
  was fixed beforehand;
- whatever each episode's own probability is (learning changes it, the last outcome may
  decide it), a confidence sequence for their running average, at every episode at once,
  so that it also holds for who stops when they like what they see.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
# Bets on a lower rate, |lambda|: from what 10 000 episodes without a failure reward to
# what 2 do.
_BETS = np.geomspace(1e-3, 8.0, 64)
_RESOLUTION = 1e-9
# A sum of float32 costs may pass its budget by rounding alone.
_ROUNDING = 1e-4


class Certificate(NamedTuple):
    """About the episodes of a group, in the order in which they were run.

    Attributes:
      episodes: T.
      over_budget: how many broke a budget.
      level: confidence in (0, 1) of each bound for itself.
      binomial: upper bound on p, if all episodes had the same.
      sequence: `[T]` upper bounds on the average probability of the first t episodes,
        all of them true at once with that confidence.
    """

    episodes: int
    over_budget: int
    level: float
    binomial: float
    sequence: Floats

    def plain(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**self._asdict(), "sequence": self.sequence.tolist()}


def over_budget(costs: npt.ArrayLike, budget: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which episodes, of costs `[..., C]`, break a budget `[C]`."""
    over = np.asarray(costs) > np.asarray(budget) + _ROUNDING
    return np.asarray(over.any(axis=-1))


def certify(
    over_budget: Sequence[npt.ArrayLike] | npt.NDArray[np.bool_], level: float = LEVEL
) -> Certificate:
    """Both bounds, from what each episode did.

    Args:
      over_budget: `[S, T]` bool, S runs of T episodes, or S runs of `[T_s]` each. Runs
        are independent, so their episodes follow each other in any order that keeps
        each run's own: here the first of all, then the second.
      level: confidence of each bound, in (0, 1).

    Raises:
      ValueError: no episode, or a level outside (0, 1).
    """
    runs = [np.asarray(run, bool) for run in over_budget]
    shapes = [run.shape for run in runs]
    if any(run.ndim != 1 for run in runs) or not sum(run.size for run in runs):
        raise ValueError(f"over_budget must be [S, T], not empty; got runs of {shapes}")
    in_order = np.array(
        [
            over
            for episodes in itertools.zip_longest(*runs)
            for over in episodes
            if over is not None
        ]
    )
    total, failures = in_order.size, int(in_order.sum())
    return Certificate(
        episodes=total,
        over_budget=failures,
        level=level,
        binomial=binomial_bound(failures, total, level),
        sequence=confidence_sequence(in_order, level),
    )


def binomial_bound(failures: int, trials: int, level: float = LEVEL) -> float:
    """The p at which so few failures have probability `1 - level` (Clopper-Pearson).

    One-sided and exact; without a failure it is `1 - (1 - level)^(1 / trials)`, close
    to `3 / trials` at 95 %.

    Raises:
      ValueError: not `0 <= failures <= trials`, no trial, or a level outside (0, 1).
    """
    _check_level(level)
    if not (trials >= 1 and 0 <= failures <= trials):
        raise ValueError(f"got {failures} failures in {trials} trials")
    if failures == trials:
        return 1.0
    return float(stats.beta.ppf(level, failures + 1, trials - failures))


def confidence_sequence(outcomes: npt.ArrayLike, level: float = LEVEL) -> Floats:
    """Upper bounds `[T]` on the running average of the outcomes' probabilities.

    For any bet lambda < 0 and outcomes x_i in {0, 1} with probabilities p_i given the
    past, `exp(sum_i lambda x_i - log(1 - p_i + p_i e^lambda))` is a martingale of mean
    1, and by the concavity of the logarithm it is at least

        exp(lambda S_t - t log(1 - m + m e^lambda)),  S_t = sum x_i,  m = mean p_i.

    A mixture over bets keeps that, and Ville's inequality says that it never reaches
    `1 / (1 - level)` but with probability `1 - level`: all m where it does are ruled
    out (Howard et al. 2021, arXiv 1810.08240, for the bound on Bernoulli sums; the
    mixture over a grid as in Waudby-Smith and Ramdas 2024, arXiv 2010.09686).

    Args:
      outcomes: `[T]` bool.
      level: confidence in (0, 1) that all T bounds are true.
    """
    _check_level(level)
    x = np.asarray(outcomes, bool)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"outcomes must be [T] with T >= 1, got {x.shape}")
    t = np.arange(1, x.size + 1, dtype=float)
    failures = np.cumsum(x).astype(float)
    # The mixture grows with m, from nothing at the observed rate: bisect.
    low, high = failures / t, np.ones(x.size)
    while np.max(high - low) > _RESOLUTION:
        middle = 0.5 * (low + high)
        out = _log_mixture(failures, t, middle) >= -np.log1p(-level)
        low, high = np.where(out, low, middle), np.where(out, middle, high)
    return high


def _log_mixture(failures: Floats, t: Floats, mean: Floats) -> Floats:
    """`log mean_k exp(-b_k S - t log(1 - m + m exp(-b_k)))`, `[T]` each."""
    bets = _BETS[:, None]
    logs = -bets * failures - t * np.log1p(mean * np.expm1(-bets))
    return np.logaddexp.reduce(logs, axis=0) - np.log(_BETS.size)


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be in (0, 1), got {level}")
