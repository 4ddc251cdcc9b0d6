"""Factors that make a model's stds mean what they say, one per output dimension.

The scale is fitted to rows held out: Kuleshov's is applied to the epistemic std alone,
the conformal one to both stds. Two stretches are driven by the executed steps, one
applied to the scaled stds and one to what is claimed of new inputs; each answers for
the misses of an input by its share of the variance there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from safex.config import CalibrationConfig
from safex.types import Array, Prediction

# Widths, in calibrated standard deviations, at which coverage is reported everywhere.
COVERAGE_LEVELS = (1.0, 2.0, 3.0)
# Guards the division by an epistemic std of exactly zero; far below any real error.
_MIN_STD = 1e-8


def safe_sqrt(x: Array) -> Array:
    """The root of x >= 0, with a slope of 0 at 0 in place of an infinite one.

    An adversary climbs along the slope of a std, and infinity times 0 is NaN.
    """
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def calibrated(
    config: CalibrationConfig,
    prediction: Prediction,
    scale: Array,
    novel_std: Array,
) -> Prediction:
    """The prediction with its stds scaled by `[D]` factors and widened where new.

    Args:
      config: which calibration.
      prediction: not yet scaled.
      scale: `[D]` of the stds as they come.
      novel_std: `[D]` std that an input adds by being new, in quadrature.
    """
    if config.method == "none":
        return prediction
    noise_scale = scale if config.method == "conformal" else 1.0
    return Prediction(
        prediction.mean,
        safe_sqrt((prediction.epistemic_std * scale) ** 2 + novel_std**2),
        prediction.aleatoric_std * noise_scale,
    )


def fit_scale(
    config: CalibrationConfig,
    error: Array,
    prediction: Prediction,
    novel_std: Array,
    mask: Array,
) -> Array:
    """The scale `[D]` that held-out errors ask for.

    Args:
      config: which calibration.
      error: `[B, D]` observed minus predicted mean.
      prediction: `[B, D]` leaves, not yet scaled.
      novel_std: `[B, D]` std that is not scaled.
      mask: `[B]` bool, rows that count. Without any the scale is `min_scale` or 1,
        whichever is larger.
    """
    epistemic, aleatoric = prediction.epistemic_std, prediction.aleatoric_std
    if config.method == "none":
        return jnp.ones(error.shape[-1])
    if config.method == "kuleshov":
        candidates = jnp.linspace(0.0, config.max_scale, config.num_test_alphas + 1)
        scale = kuleshov_scale(
            error,
            epistemic,
            jnp.sqrt(aleatoric**2 + novel_std**2),
            mask,
            candidates[1:],
            config.num_calibration_ps,
        )
    else:
        scale = conformal_scale(
            error, epistemic, aleatoric, novel_std, mask, config.target_coverage
        )
    scale = jnp.where(mask.any(), scale, 1.0)
    return jnp.clip(scale, config.min_scale, config.max_scale)


def fit_stretch(
    config: CalibrationConfig,
    stretch: Array,
    error: Array,
    prediction: Prediction,
    mask: Array,
    part: Array,
) -> Array:
    """The stretch `[D]` after an episode that the model had not seen.

    Adaptive conformal inference, an episode at a time:

        log stretch <- max(log stretch + rate mean(part (missed - alpha)), 0)

    with alpha = 1 - target_coverage (Gibbs and Candes 2021, arXiv 2106.00170, Eq. 2; as
    a quantile tracker Angelopoulos et al. 2023, arXiv 2307.16895, Eq. 4), and `part`
    what the stretch answers for at each row. Whatever the data: if no episode under a
    stretch of at least `max_scale` misses more than alpha of what it answers for, that
    excess averaged over T episodes is at most
    `(log(max_scale) / rate + target_coverage) / T`. What is beyond `max_scale` only
    remembers; it is not applied. A few rows that miss by chance move the stretch a
    little, unlike a scale that would have covered them.

    Args:
      config: target and rate.
      stretch: `[D]` under which the predictions were made.
      error: `[B, D]` observed minus predicted mean.
      prediction: `[B, D]` leaves, calibrated.
      mask: `[B]` bool, rows that count; without any the stretch stays.
      part: `[B, D]` share of each row's variance that is stretched.
    """
    z = nominal_width(config.target_coverage)
    sigma = jnp.sqrt(prediction.epistemic_std**2 + prediction.aleatoric_std**2)
    excess = (jnp.abs(error) > z * sigma) - (1.0 - config.target_coverage)
    excess = jnp.where(mask[:, None], part * excess, 0.0)
    move = config.prequential_rate * excess.sum(0) / jnp.maximum(mask.sum(), 1)
    # The bound never needs more than this; it only keeps the memory finite.
    most = jnp.log(config.max_scale) + config.prequential_rate * config.target_coverage
    moved = jnp.exp(jnp.clip(jnp.log(stretch) + move, 0.0, most))
    return jnp.where(mask.any(), moved, stretch)


def nominal_width(target_coverage: float) -> Array:
    """Half-width, in stds, of the Gaussian band that holds a share of errors."""
    return jax.scipy.stats.norm.ppf(0.5 + 0.5 * target_coverage)


def kuleshov_scale(
    error: Array,
    epistemic_std: Array,
    aleatoric_std: Array,
    mask: Array,
    candidates: Array,
    num_levels: int,
) -> Array:
    """Scale whose predicted CDF matches the observed one best.

    For levels `p_k = k / K` minimises `mean_k (share of Phi(z) <= p_k  -  p_k)^2`
    (Kuleshov et al. 2018, arXiv 1807.00263, with one scale instead of an isotonic map).
    Ties pick the larger scale.

    Args:
      error: `[B, D]` observed minus predicted mean.
      epistemic_std: `[B, D]` unscaled.
      aleatoric_std: `[B, D]`.
      mask: `[B]` bool, rows that count.
      candidates: `[S]` scales to try, ascending.
      num_levels: K.

    Returns:
      `[D]` scale per output dimension.
    """
    levels = jnp.arange(1, num_levels + 1) / num_levels
    weight = mask / jnp.maximum(mask.sum(), 1)

    def mismatch(scale: Array) -> Array:
        std = jnp.sqrt((scale * epistemic_std) ** 2 + aleatoric_std**2)
        p = jax.scipy.stats.norm.cdf(error / jnp.maximum(std, _MIN_STD))
        below = p[None] <= levels[:, None, None]
        observed = jnp.einsum("b,kbd->kd", weight, below.astype(jnp.float32))
        return jnp.mean((observed - levels[:, None]) ** 2, axis=0)

    descending = candidates[::-1]
    return descending[jnp.argmin(jax.lax.map(mismatch, descending), axis=0)]


def conformal_scale(
    error: Array,
    epistemic_std: Array,
    aleatoric_std: Array,
    novel_std: Array,
    mask: Array,
    target_coverage: float,
) -> Array:
    """Scale of the total std whose band holds the target share of errors.

    The `ceil((n + 1) target)`-th smallest of the scales that the errors need,
    `sqrt((error / z)^2 - novel^2) / sigma`, `sigma` the total std but for the novel
    part (split conformal prediction, Lei et al. 2018, Sec. 2.2; normalised scores), the
    largest when n is too small for the target. `z` is the Gaussian quantile of the
    target, so that 1 is right for a model that is Gaussian and already calibrated.

    It scales both stds: where noise dominates, the epistemic part of an error cannot be
    told from noise, and stretching that part alone to explain it would go astray.

    Args:
      error: `[B, D]` observed minus predicted mean.
      epistemic_std: `[B, D]` unscaled.
      aleatoric_std: `[B, D]` unscaled.
      novel_std: `[B, D]` that stays as it is.
      mask: `[B]` bool, rows that count.
      target_coverage: two-sided coverage in (0, 1).

    Returns:
      `[D]` scale per output dimension.
    """
    z = nominal_width(target_coverage)
    sigma = jnp.sqrt(epistemic_std**2 + aleatoric_std**2)
    unexplained = jnp.sqrt(jnp.maximum((error / z) ** 2 - novel_std**2, 0.0))
    needed = unexplained / jnp.maximum(sigma, _MIN_STD)
    ascending = jnp.sort(jnp.where(mask[:, None], needed, jnp.inf), axis=0)
    count = mask.sum()
    rank = jnp.ceil((count + 1) * target_coverage).astype(jnp.int32)
    return ascending[jnp.clip(rank, 1, jnp.maximum(count, 1)) - 1]


class Coverage(NamedTuple):
    """Counts of errors inside the band, so that episodes can be added up.

    Attributes:
      inside: `[levels]` errors within each of `COVERAGE_LEVELS`, over rows and
        dimensions.
      total: errors looked at.
    """

    inside: np.ndarray
    total: int

    def __add__(self, other: object) -> "Coverage":
        """Pools two counts."""
        if not isinstance(other, Coverage):
            return NotImplemented
        return Coverage(self.inside + other.inside, self.total + other.total)

    def shares(self) -> dict[str, float | None]:
        """Share inside at each level by its name; None where nothing counts."""
        return {
            f"{level:g}": float(count / self.total) if self.total else None
            for level, count in zip(COVERAGE_LEVELS, self.inside, strict=True)
        }


def coverage(
    next_obs: npt.ArrayLike,
    mean: npt.ArrayLike,
    epistemic_std: npt.ArrayLike,
    aleatoric_std: npt.ArrayLike,
    beta: npt.ArrayLike,
    mask: npt.ArrayLike,
) -> Coverage:
    """Counts how many observations fell inside the 1, 2 and 3 beta-sigma bands.

    Sigma is the total calibrated std, `sqrt((beta epistemic)^2 + aleatoric^2)`.

    Args:
      next_obs: `[B, D]` what happened.
      mean: `[B, D]` predicted.
      epistemic_std: `[B, D]` calibrated.
      aleatoric_std: `[B, D]`.
      beta: `[D]` or scalar confidence width.
      mask: `[B]` bool, rows that count.
    """
    error = np.abs(np.asarray(next_obs) - np.asarray(mean))
    epistemic = np.asarray(beta) * np.asarray(epistemic_std)
    sigma = np.sqrt(epistemic**2 + np.asarray(aleatoric_std) ** 2)
    keep = np.asarray(mask, bool)
    inside = [int((error <= level * sigma)[keep].sum()) for level in COVERAGE_LEVELS]
    return Coverage(np.asarray(inside), int(keep.sum()) * error.shape[-1])
