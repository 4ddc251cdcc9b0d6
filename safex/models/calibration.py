"""Scales that make a model's stds mean what they say.

Each is one factor per output dimension. Kuleshov's is applied to the epistemic std
alone, the conformal one to both stds.
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


def calibrated(
    config: CalibrationConfig, prediction: Prediction, scale: Array
) -> Prediction:
    """The prediction with its stds scaled by `[D]` factors."""
    noise_scale = scale if config.method == "conformal" else 1.0
    return Prediction(
        prediction.mean,
        prediction.epistemic_std * scale,
        prediction.aleatoric_std * noise_scale,
    )


def fit_scale(
    config: CalibrationConfig, error: Array, prediction: Prediction, mask: Array
) -> Array:
    """The scale `[D]` that held-out errors ask for.

    Args:
      config: which calibration.
      error: `[B, D]` observed minus predicted mean.
      prediction: `[B, D]` leaves, not yet scaled.
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
            aleatoric,
            mask,
            candidates[1:],
            config.num_calibration_ps,
        )
    else:
        scale = conformal_scale(
            error, epistemic, aleatoric, mask, config.target_coverage
        )
    scale = jnp.where(mask.any(), scale, 1.0)
    return jnp.clip(scale, config.min_scale, config.max_scale)


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
    mask: Array,
    target_coverage: float,
) -> Array:
    """Scale of the total std whose band holds the target share of errors.

    The `ceil((n + 1) target)`-th smallest of `|error| / (z sigma)`, `sigma` the total
    std (split conformal prediction, Lei et al. 2018, Sec. 2.2; normalised scores), the
    largest when n is too small for the target. `z` is the Gaussian quantile of the
    target, so that 1 is right for a model that is Gaussian and already calibrated.

    It scales both stds: where noise dominates, the epistemic part of an error cannot be
    told from noise, and stretching that part alone to explain it would go astray.

    Args:
      error: `[B, D]` observed minus predicted mean.
      epistemic_std: `[B, D]` unscaled.
      aleatoric_std: `[B, D]` unscaled.
      mask: `[B]` bool, rows that count.
      target_coverage: two-sided coverage in (0, 1).

    Returns:
      `[D]` scale per output dimension.
    """
    z = jax.scipy.stats.norm.ppf(0.5 + 0.5 * target_coverage)
    sigma = jnp.sqrt(epistemic_std**2 + aleatoric_std**2)
    needed = jnp.abs(error) / (z * jnp.maximum(sigma, _MIN_STD))
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
