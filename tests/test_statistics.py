import math

import numpy as np
import pytest
import scipy.stats

from safex.training.statistics import (
    estimate,
    interquartile_mean,
    nominal_coverage,
    performance_profile,
    probability_of_improvement,
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


def test_probability_of_improvement_is_the_mann_whitney_statistic():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 7).astype(float), rng.integers(1, 6, 9).astype(float)
    found = probability_of_improvement(x, y, better="high")
    u = scipy.stats.mannwhitneyu(x, y).statistic
    assert found.probability == pytest.approx(u / (7 * 9))
    assert 0 <= found.low <= found.probability <= found.high <= 1
    low = probability_of_improvement(x, y, better="low")
    assert low.probability == pytest.approx(1 - found.probability)


def test_probability_of_improvement_by_hand():
    assert probability_of_improvement([1.0, 2.0], [2.0], better="low")[0] == 0.75
    assert probability_of_improvement([0.0] * 3, [0.0] * 2, better="low") == (0.5,) * 3
    sure = probability_of_improvement([1.0, 2.0], [3.0, 4.0], better="low")
    assert sure == (1.0, 1.0, 1.0)
    alone = probability_of_improvement([1.0], [2.0], better="low")
    assert alone.probability == 1.0 and math.isnan(alone.low)


def test_the_interval_of_an_improvement_covers_the_truth():
    """Two normal laws a std apart: P(X > Y) is Phi(1 / sqrt 2), 0.76."""
    rng = np.random.default_rng(1)
    truth = scipy.stats.norm.cdf(1 / math.sqrt(2))
    held = 0
    for seed in range(200):
        x, y = rng.normal(1, 1, 20), rng.normal(0, 1, 20)
        found = probability_of_improvement(
            x, y, better="high", num_resamples=300, seed=seed
        )
        held += found.low <= truth <= found.high
    assert 0.88 <= held / 200 <= 0.99  # of 0.95; a percentile bootstrap falls short


def test_performance_profile_by_hand():
    found = performance_profile([1.0, 3.0, 3.0, 8.0], [0.0, 1.0, 3.0, 5.0, 8.0])
    assert found.share.tolist() == [1.0, 0.75, 0.25, 0.25, 0.0]
    assert np.all(found.low <= found.share) and np.all(found.share <= found.high)
    # Where all runs or none are beyond, every resample agrees.
    assert found.low[0] == found.high[0] == 1.0 and found.high[-1] == 0.0
    # The share is a binomial one: with four runs P(no run > 3) is 0.75^4 = 0.32.
    assert (found.low[2], found.high[2]) == (0.0, 0.75)
    assert np.isnan(performance_profile([1.0], [0.0]).low).all()


@pytest.mark.parametrize("wrong", [{"level": 1.0}, {"num_resamples": 0}])
def test_resampling_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        probability_of_improvement([1.0, 2.0], [1.0], better="low", **wrong)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        performance_profile([1.0, 2.0], [1.0], **wrong)
