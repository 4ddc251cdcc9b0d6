import math

import numpy as np
import pytest
import scipy.stats

from safex.training.statistics import (
    estimate,
    interquartile_mean,
    nominal_coverage,
    stratified_bootstrap_interval,
    summarise,
)


@pytest.mark.parametrize("size", range(1, 30))
def test_interquartile_mean_is_the_published_trimmed_mean(size):
    x = np.random.default_rng(size).normal(size=size)
    expected = scipy.stats.trim_mean(x, 0.25)
    assert interquartile_mean(x) == pytest.approx(expected, rel=1e-12)


def test_interquartile_mean_by_hand():
    assert interquartile_mean([3.0]) == 3.0
    assert interquartile_mean([1.0, 5.0]) == 3.0
    assert interquartile_mean([1.0, 5.0, 0.0]) == 2.0
    assert interquartile_mean([100.0, 1.0, 3.0, -50.0]) == 2.0
    assert interquartile_mean([9.0, 1.0, 2.0, 3.0, -8.0, 4.0, 0.0, 99.0]) == 2.5


def test_interquartile_mean_reduces_the_asked_axis():
    x = np.random.default_rng(0).normal(size=(7, 9))
    rows = [interquartile_mean(row) for row in x]
    np.testing.assert_allclose(interquartile_mean(x), rows)
    np.testing.assert_allclose(interquartile_mean(x.T, axis=0), rows)


def test_summary_by_hand():
    found = summarise([1.0, 2.0, 3.0, 100.0])
    assert found["mean"] == 26.5
    assert found["iqm"] == 2.5
    assert (found["min"], found["max"]) == (1.0, 100.0)
    # Sample std: squared deviations 650.25 + 600.25 + 552.25 + 5402.25, over 3.
    assert found["std"] == pytest.approx(math.sqrt(7205.0 / 3.0))


def test_summary_of_one_seed_has_no_spread():
    expected = {"mean": 4.0, "std": None, "iqm": 4.0, "min": 4.0, "max": 4.0}
    assert summarise([4]) == expected


@pytest.mark.parametrize("values", [[1.0, math.nan], [math.inf]])
def test_values_that_are_not_finite_are_refused(values):
    for function in (summarise, interquartile_mean):
        with pytest.raises(ValueError, match="values must be finite"):
            function(values)
    with pytest.raises(ValueError, match=r"groups\[1\] must be finite"):
        stratified_bootstrap_interval([[1.0, 2.0], values])


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]]])
def test_summary_refuses_other_shapes(values):
    with pytest.raises(ValueError, match="values must have shape"):
        summarise(values)


def test_interval_agrees_with_scipy_on_one_stratum():
    x = np.random.default_rng(1).gamma(2.0, size=25)
    expected = scipy.stats.bootstrap(
        (x,),
        lambda sample, axis: scipy.stats.trim_mean(sample, 0.25, axis=axis),
        n_resamples=20_000,
        method="percentile",
        confidence_level=0.9,
        rng=np.random.default_rng(5),
    ).confidence_interval
    found = stratified_bootstrap_interval([x], level=0.9, num_resamples=20_000)
    np.testing.assert_allclose(found, expected, atol=0.03 * np.ptp(expected))


def test_interval_of_a_mean_is_the_normal_one():
    x = np.random.default_rng(2).normal(3.0, 2.0, size=400)
    low, high = stratified_bootstrap_interval([x], np.mean)
    half = 1.96 * np.std(x) / math.sqrt(400)
    assert (low, high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.02)


def test_interval_of_two_values_by_hand():
    # The resampled mean is 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4.
    assert stratified_bootstrap_interval([[0.0, 1.0]], np.mean, level=0.95) == (0, 1)
    assert stratified_bootstrap_interval([[0.0, 1.0]], np.mean, level=0.4) == (0.5, 0.5)


def test_resampling_stays_within_each_stratum():
    # Constant strata: a resample across strata would spread between 0 and 10.
    groups = [[0.0, 0.0, 0.0], [10.0, 10.0, 10.0]]
    assert stratified_bootstrap_interval(groups, np.mean) == (5.0, 5.0)


def test_a_single_run_claims_no_interval():
    assert all(math.isnan(end) for end in stratified_bootstrap_interval([[1.0]]))
    assert all(math.isnan(end) for end in stratified_bootstrap_interval([[1], [2]]))
    low, high = stratified_bootstrap_interval([[1.0], [0.0, 2.0]], np.mean)
    assert low == pytest.approx(1 / 3) and high == pytest.approx(5 / 3)


def test_interval_is_deterministic_by_seed():
    x = np.random.default_rng(3).normal(size=9)
    first = stratified_bootstrap_interval([x], num_resamples=50, seed=1)
    assert first == stratified_bootstrap_interval([x], num_resamples=50, seed=1)
    assert first != stratified_bootstrap_interval([x], num_resamples=50, seed=2)


def test_a_higher_level_gives_a_wider_interval():
    x = np.random.default_rng(4).normal(size=12)
    narrow, wide = (stratified_bootstrap_interval([x], level=q) for q in (0.5, 0.99))
    assert wide[0] < narrow[0] <= interquartile_mean(x) <= narrow[1] < wide[1]


def test_impossible_intervals_are_refused():
    with pytest.raises(ValueError, match="at least one stratum"):
        stratified_bootstrap_interval([])
    with pytest.raises(ValueError, match=r"groups\[0\] must have shape"):
        stratified_bootstrap_interval([[]])
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\), got 95"):
        stratified_bootstrap_interval([[1.0]], level=95)
    with pytest.raises(ValueError, match="num_resamples"):
        stratified_bootstrap_interval([[1.0]], num_resamples=0)


def test_estimate_carries_the_bad_extreme():
    values = [3.0, 1.0, 2.0, 8.0]
    assert estimate(values, worst="max").worst == 8.0
    found = estimate(values, worst="min")
    assert (found.worst, found.iqm, found.values) == (1.0, 2.5, (3.0, 1.0, 2.0, 8.0))
    assert (found.low, found.high) == stratified_bootstrap_interval([values])


def test_nominal_coverage_of_a_gaussian():
    found = [nominal_coverage(beta) for beta in (0.0, 1.0, 2.0, 3.0)]
    assert found == pytest.approx([0.0, 0.682689, 0.954500, 0.997300], abs=1e-6)
