import dataclasses

import jax
import numpy as np
import pytest
from scipy import stats

from safex.config import CalibrationConfig
from safex.models.calibration import (
    calibrated,
    conformal_scale,
    coverage,
    fit_scale,
    fit_stretch,
    kuleshov_scale,
)
from safex.types import Prediction
from tests.helpers import assert_close

FACTORS = np.array([0.5, 2.0, 4.0])
GRID = np.linspace(0.0, 10.0, 101)[1:].astype(np.float32)

conformal = jax.jit(conformal_scale)
fitted = jax.jit(fit_scale, static_argnums=0)
kuleshov = jax.jit(kuleshov_scale, static_argnames="num_levels")


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def draw(rng, rows, factors, aleatoric=0.0):
    """Errors `[rows, D]` of a model whose epistemic std must be scaled by `factors`."""
    epistemic = rng.uniform(0.05, 2.0, (rows, len(factors)))
    aleatoric = np.full_like(epistemic, aleatoric)
    std = np.sqrt((factors * epistemic) ** 2 + aleatoric**2)
    error = std * rng.normal(size=std.shape)
    return (x.astype(np.float32) for x in (error, epistemic, aleatoric))


@pytest.mark.parametrize("aleatoric", [0.0, 0.5])
def test_kuleshov_finds_a_known_factor(rng, aleatoric):
    error, ep, al = draw(rng, 4000, FACTORS, aleatoric)
    scale = kuleshov(error, ep, al, np.ones(4000, bool), GRID, num_levels=20)
    # Half a grid step, and three standard errors of a std fitted to 4000 rows.
    assert np.all(np.abs(scale - FACTORS) <= 0.05 + 0.06 * FACTORS), scale


def test_kuleshov_minimises_the_mismatch_of_the_cdf(rng):
    error, ep, al = draw(rng, 40, FACTORS, 0.3)
    mask = rng.uniform(size=40) < 0.7
    std = np.sqrt((GRID[:, None, None] * ep) ** 2 + al**2)
    levels = np.arange(1, 21) / 20
    cdf = stats.norm.cdf(error / std)[:, mask]
    observed = (cdf[:, None] <= levels[:, None, None]).mean(2)
    mismatch = ((observed - levels[:, None]) ** 2).mean(1)
    scale = kuleshov(error, ep, al, mask, GRID, num_levels=20)
    chosen = np.take_along_axis(mismatch, np.searchsorted(GRID, scale)[None], 0)
    assert_close(chosen[0], mismatch.min(0), atol=1e-5)


def test_kuleshov_prefers_the_larger_of_equal_scales():
    nothing = np.zeros((4, 1), np.float32)  # no error, so that no scale is better
    ones = np.ones((4, 1), np.float32)
    assert kuleshov(nothing, ones, nothing, np.ones(4, bool), GRID, num_levels=20) == 10


@pytest.mark.parametrize("law", ["gaussian", "aleatoric", "heavy_tails"])
def test_conformal_meets_the_target_on_fresh_data(rng, law):
    target, rows, columns = 0.9, 60, 400

    def sample():
        error, ep, al = draw(
            rng, rows, np.full(columns, 3.0), 0.4 if law == "aleatoric" else 0.0
        )
        if law == "heavy_tails":
            error = (ep * rng.standard_t(1.5, size=ep.shape)).astype(np.float32)
        return error, ep, al

    error, ep, al = sample()
    scale = np.asarray(conformal(error, ep, al, 0.0, np.ones(rows, bool), target))
    z = stats.norm.ppf(0.95)
    error, ep, al = sample()
    inside = np.abs(error) <= z * scale * np.hypot(ep, al)
    # Each column is one calibration: 0.9 to 0.9 + 1 / 61 in expectation.
    per_column = inside.mean(0)
    noise = 3.5 * per_column.std() / np.sqrt(columns)
    assert target - noise <= per_column.mean() <= target + 1 / (rows + 1) + noise


# Padded to one shape, so that all tests share the compiled operations.
NINE = np.array([7, -1, 9, -3, -5, 8, 2, 6, -4, 0, 0, 0])
VALID = np.arange(12) < 9
CONFORMAL = CalibrationConfig(target_coverage=0.8, min_scale=0.0)
NARROW = dataclasses.replace(CONFORMAL, min_scale=8.5, max_scale=9.0)
KULESHOV = CalibrationConfig(method="kuleshov", min_scale=0.0)


def nine(target=0.8, epistemic=1.0, aleatoric=0.0, padding=0.0):
    """Nine errors of which the i-th smallest needs exactly the scale i."""
    z = stats.norm.ppf(0.5 + 0.5 * target)
    error = z * NINE * np.hypot(epistemic, aleatoric)
    columns = (error, np.full(12, epistemic), np.full(12, aleatoric))
    fill = (padding, 1.0, 0.0)
    columns = (np.where(VALID, x, f) for x, f in zip(columns, fill, strict=True))
    return tuple(x.astype(np.float32)[:, None] for x in columns)


def fit(config, error, epistemic, aleatoric, mask=VALID):
    """The one scale that a configured calibration finds."""
    scale = fitted(config, error, Prediction(None, epistemic, aleatoric), 0.0, mask)
    assert scale.shape == (1,)
    return float(scale[0])


@pytest.mark.parametrize(
    ("target", "expected"), [(0.8, 8), (0.5, 5), (0.51, 6), (0.9, 9), (0.95, 9)]
)
@pytest.mark.parametrize(("ep", "al"), [(1.0, 0.0), (0.2, 3.0)])
def test_conformal_takes_the_rank_by_hand(target, expected, ep, al):
    # rank = ceil(10 target); more than nine there are not.
    scale = conformal(*nine(target, ep, al), 0.0, VALID, target)
    assert_close(scale, np.array([expected]), rtol=1e-4)


@pytest.mark.parametrize("config", [CONFORMAL, KULESHOV])
def test_masked_rows_never_matter(config):
    scale = fit(config, *nine(aleatoric=0.1))
    assert 0.0 < scale < 10.0
    assert fit(config, *nine(aleatoric=0.1, padding=1e6)) == scale


@pytest.mark.parametrize(
    ("config", "expected"), [(CONFORMAL, 1.0), (KULESHOV, 1.0), (NARROW, 8.5)]
)
def test_without_rows_the_scale_is_one_or_the_least(config, expected):
    assert fit(config, *nine(), mask=np.zeros(12, bool)) == expected


def test_scales_are_clipped():
    assert fit(CONFORMAL, *nine()) == pytest.approx(8.0, rel=1e-4)
    assert fit(NARROW, *nine()) == 8.5
    error, ep, al = nine()
    assert fit(NARROW, 2.0 * error, ep, al) == 9.0


def test_method_none_leaves_the_std_alone():
    assert fit(CalibrationConfig(method="none", min_scale=2.0), *nine()) == 1.0


@pytest.mark.parametrize("config", [CONFORMAL, KULESHOV])
@pytest.mark.parametrize(("size", "expected"), [(0.0, (0.0, 10.0)), (1.0, (10.0,))])
def test_a_model_that_is_certain_gives_no_nan(config, size, expected):
    error, zero, _ = nine(epistemic=0.0, aleatoric=1.0)
    assert fit(config, size * error, zero, zero) in expected


@pytest.mark.parametrize(
    ("method", "scale", "epistemic", "noise"),
    [
        ("conformal", 2.0, 10.0, 8.0),  # sqrt(6^2 + 8^2)
        ("kuleshov", 2.0, 10.0, 4.0),
        ("none", 1.0, 3.0, 4.0),
    ],
)
def test_what_is_scaled_and_what_is_added(method, scale, epistemic, noise):
    applied = calibrated(
        CalibrationConfig(method=method), Prediction(1.0, 3.0, 4.0), scale, 8.0
    )
    assert applied == Prediction(1.0, epistemic, noise)


def test_the_applied_scale_holds_the_errors_it_was_fitted_to():
    error, ep, al = nine(aleatoric=0.5)
    scale = fit(CONFORMAL, error, ep, al)
    _, ep, al = calibrated(CONFORMAL, Prediction(0.0, ep, al), scale, 0.0)
    band = stats.norm.ppf(0.9) * np.hypot(ep, al)
    assert (np.abs(error) <= 1.0001 * band)[VALID].sum() == 8


def test_the_scale_allows_for_what_is_added():
    # The error that needs 8 without an addition needs sqrt(8^2 - 5^2) with one of 5,
    # and the applied band holds as many errors as before.
    error, ep, al = nine()
    prediction = Prediction(0.0, ep, al)
    scale = fitted(CONFORMAL, error, prediction, np.float32(5.0), VALID)
    assert_close(scale, np.array([np.sqrt(39.0)]), rtol=1e-4)
    _, ep, al = calibrated(CONFORMAL, prediction, scale, 5.0)
    band = stats.norm.ppf(0.9) * np.hypot(ep, al)
    assert (np.abs(error) <= 1.0001 * band)[VALID].sum() == 8


STRETCH = CalibrationConfig(target_coverage=0.9, prequential_rate=2.0, max_scale=8.0)
stretched = jax.jit(fit_stretch, static_argnums=0)


def after_missing(share, stretch):
    """The stretch after an episode of 20 rows that misses a share of them."""
    missed = np.arange(20) < round(20 * share)
    error = np.where(missed, 9.0, 1.0).astype(np.float32)[:, None]
    one, zero = np.ones((20, 1), np.float32), np.zeros((20, 1), np.float32)
    prediction = Prediction(zero, one, zero)
    before, all_rows = np.full(1, stretch, np.float32), np.ones(20, bool)
    return float(stretched(STRETCH, before, error, prediction, all_rows, one)[0])


def test_the_stretch_moves_by_hand():
    assert after_missing(0.5, 2.0) == pytest.approx(2.0 * np.exp(2.0 * 0.4), rel=1e-5)
    assert after_missing(0.0, 2.0) == pytest.approx(2.0 * np.exp(-0.2), rel=1e-5)
    assert after_missing(0.1, 2.0) == pytest.approx(2.0, rel=1e-5)  # as many as it may
    assert after_missing(0.0, 1.0) == 1.0  # never below 1
    nobody = stretched(
        STRETCH,
        np.full(1, 3.0, np.float32),
        np.full((20, 1), 9.0, np.float32),
        Prediction(np.zeros((20, 1)), np.ones((20, 1)), np.zeros((20, 1))),
        np.zeros(20, bool),
        np.ones((20, 1), np.float32),
    )
    assert nobody == 3.0


def test_a_stretch_answers_for_its_part_of_the_rows_alone():
    # Of 20 rows the first 10 are missed, and only the last 10 are this stretch's.
    error = np.repeat(np.float32([9.0, 1.0]), 10)[:, None]
    one, zero = np.ones((20, 1), np.float32), np.zeros((20, 1), np.float32)
    arguments = (
        STRETCH,
        2.0 * one[0],
        error,
        Prediction(zero, one, zero),
        one[:, 0] > 0,
    )
    mine = np.repeat(np.float32([0.0, 1.0]), 10)[:, None]
    assert_close(stretched(*arguments, mine), 2.0 * np.exp([-2.0 * 0.1 / 2]), rtol=1e-5)
    assert_close(
        stretched(*arguments, 1.0 - mine), 2.0 * np.exp([2.0 * 0.9 / 2]), rtol=1e-5
    )
    # Both together move as one that answers for all.
    assert_close(stretched(*arguments, one), 2.0 * np.exp([2.0 * 0.4]), rtol=1e-5)


@pytest.mark.parametrize("adversary", ["greedy", "patient", "random"])
def test_no_adversary_breaks_the_bound_on_what_is_missed(adversary):
    # All that is assumed: an episode under the largest stretch misses none too many.
    rng = np.random.default_rng(0)
    stretch, missed = 1.0, []
    for episode in range(120):
        most = 1.0 if stretch < STRETCH.max_scale else 0.1
        share = {
            "greedy": most,
            "patient": 0.0 if episode % 3 else most,
            "random": np.floor(20 * most * rng.uniform()) / 20,
        }[adversary]
        missed.append(share)
        stretch = after_missing(share, stretch)
    count = np.arange(1, 121)
    excess = np.cumsum(missed) / count - 0.1
    bound = (np.log(8.0) / 2.0 + 0.9) / count
    assert np.all(excess <= bound + 1e-5)
    if adversary == "greedy":
        assert excess.max() > 0.5  # it does try


def by_hand(keep=(True, True, True, True), beta=2.0):
    errors = np.array([[0.5], [-1.5], [2.5], [-3.5]])
    flat = np.ones_like(errors)
    prediction = Prediction(10.0 * flat, 0.3 * flat, 0.8 * flat)  # sigma = 1
    return coverage(10.0 + errors, *prediction, beta, np.array(keep))


def test_coverage_counts_by_hand():
    counted = by_hand()
    assert counted.inside.tolist() == [1, 2, 3]
    assert counted.total == 4
    assert counted.shares() == {"1": 0.25, "2": 0.5, "3": 0.75}


def test_coverage_leaves_masked_rows_out_and_adds_up():
    first = by_hand(keep=(True, False, False, False))
    rest = by_hand(keep=(False, True, True, True))
    assert (first.inside.tolist(), first.total) == ([1, 1, 1], 1)
    assert (first + rest).inside.tolist() == by_hand().inside.tolist()
    assert (first + rest).total == 4


def test_coverage_without_rows_has_no_share():
    assert by_hand(keep=[False] * 4).shares() == {"1": None, "2": None, "3": None}


def test_coverage_widens_the_epistemic_std_of_each_dimension_by_its_own_beta():
    error = np.array([[2.5, 2.5]])
    prediction = Prediction(np.zeros((1, 2)), np.ones((1, 2)), np.zeros((1, 2)))
    counted = coverage(error, *prediction, np.array([1.0, 3.0]), np.array([True]))
    assert counted.inside.tolist() == [1, 1, 2]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "isotonic"),
        ("target_coverage", 0.0),
        ("target_coverage", 1.0),
        ("min_scale", -0.1),
        ("min_scale", 11.0),
        ("max_scale", 0.9),
        ("prequential_rate", 0.0),
        ("num_inducing", -1),
        ("num_calibration_ps", 1),
        ("num_test_alphas", 1),
    ],
)
def test_impossible_settings_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        CalibrationConfig(**{field: value})
