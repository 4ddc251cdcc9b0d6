import numpy as np
import pytest
from scipy import stats

from safex.training.certificate import (
    binomial_bound,
    certify,
    confidence_sequence,
)


@pytest.mark.parametrize("trials", [1, 40, 1000])
def test_without_a_failure_the_binomial_bound_has_a_closed_form(trials):
    assert binomial_bound(0, trials) == pytest.approx(1.0 - 0.05 ** (1.0 / trials))
    assert binomial_bound(trials, trials) == 1.0


@pytest.mark.parametrize(("failures", "trials"), [(1, 40), (7, 40), (39, 40), (3, 10)])
def test_so_few_failures_are_as_unlikely_as_the_level_says(failures, trials):
    bound = binomial_bound(failures, trials, 0.9)
    assert stats.binom.cdf(failures, trials, bound) == pytest.approx(0.1)
    test = stats.binomtest(failures, trials, alternative="less")
    scipys = test.proportion_ci(0.9, method="exact").high
    assert bound == pytest.approx(scipys)


def test_the_sequence_is_above_the_rate_and_not_far_from_the_binomial_bound():
    for failures in (0, 3):
        outcomes = np.zeros(400, bool)
        outcomes[:failures] = True
        sequence = confidence_sequence(outcomes)
        t = np.arange(1, 401)
        assert np.all(sequence >= np.cumsum(outcomes) / t)
        # What it costs to hold at every episode: less than three times the width.
        exact = binomial_bound(failures, 400)
        assert exact < sequence[-1] < 3.0 * exact
    assert confidence_sequence(np.ones(5, bool)).tolist() == [1.0] * 5
    assert confidence_sequence(np.zeros(1, bool))[0] == pytest.approx(0.95, abs=0.05)


def adaptive(rng):
    """Each failure makes the next less likely; the rate falls by itself as well."""
    p, probabilities, outcomes = 0.4, [], []
    for _ in range(120):
        probabilities.append(p)
        outcomes.append(rng.uniform() < p)
        p *= 0.85 if outcomes[-1] else 0.995
    return np.array(probabilities), np.array(outcomes)


def constant(rng):
    return np.full(120, 0.1), rng.uniform(size=120) < 0.1


@pytest.mark.parametrize("process", [adaptive, constant])
def test_the_sequence_fails_no_more_often_than_it_says(process):
    """At any episode, for rates that change and depend on the past."""
    rng = np.random.default_rng(0)
    runs = 400
    sequence_wrong = binomial_wrong = 0
    for _ in range(runs):
        probabilities, outcomes = process(rng)
        average = np.cumsum(probabilities) / np.arange(1, 121)
        sequence_wrong += np.any(confidence_sequence(outcomes, 0.9) < average)
        bounds = [
            binomial_bound(int(k), t, 0.9) for t, k in enumerate(np.cumsum(outcomes), 1)
        ]
        binomial_wrong += np.any(np.array(bounds) < average)
    assert sequence_wrong / runs <= 0.1
    # Looking at a bound for a fixed number of episodes after every one does fail: the
    # test can tell the two apart.
    assert binomial_wrong / runs > 0.1


def test_seeds_are_read_episode_by_episode():
    over = np.array([[True, False, False], [True, True, False]])
    found = certify(over, 0.9)
    assert (found.episodes, found.over_budget, found.level) == (6, 3, 0.9)
    assert found.binomial == binomial_bound(3, 6, 0.9)
    in_order = [True, True, False, True, False, False]
    np.testing.assert_array_equal(found.sequence, confidence_sequence(in_order, 0.9))


def test_runs_may_have_other_numbers_of_episodes():
    found = certify([[True, False, True], [], [False]], 0.9)
    assert (found.episodes, found.over_budget) == (4, 2)
    in_order = [True, False, False, True]
    np.testing.assert_array_equal(found.sequence, confidence_sequence(in_order, 0.9))


@pytest.mark.parametrize("level", [0.0, 1.0, 95])
def test_an_impossible_level_is_named(level):
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\)"):
        certify([[True]], level)


def test_nothing_can_be_said_of_no_episode():
    with pytest.raises(ValueError, match="not empty"):
        certify(np.zeros((2, 0), bool))
    with pytest.raises(ValueError, match="not empty"):
        certify([[[True]], [[False]]])
    with pytest.raises(ValueError, match="3 failures in 2 trials"):
        binomial_bound(3, 2)
