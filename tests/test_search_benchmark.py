"""How the benchmark of searches pairs and judges, on numbers made up here."""

import numpy as np
import pytest
from scipy import stats

from benchmarks import search
from tests.helpers import assert_close

BASE = np.array([[-350.0, -348.0], [-352.0, -351.0], [-349.0, -353.0]])


@pytest.fixture
def results(tmp_path):
    return search.Results(tmp_path / "results.jsonl")


def fill(results, name, returns, violations=0):
    for seed, row in enumerate(returns):
        for episode, value in enumerate(row):
            results.add(
                kind="control",
                task="pendulum",
                search=name,
                seed=seed,
                episode=episode,
                ret=float(value),
                violations=violations,
            )


def test_a_seed_is_one_pair(results):
    own = BASE + np.array([[1.0, 2.0], [-3.0, 0.5], [2.0, 2.0]])
    # An episode that only one of them has does not count.
    fill(results, "iCEM", np.hstack([own, [[1e3]] * 3]))
    fill(results, "CEM", BASE)
    found = search.compare(results, "pendulum", "iCEM")
    expected = stats.ttest_rel(own.mean(1), BASE.mean(1)).confidence_interval(0.95)
    assert_close((found.low, found.high), (expected.low, expected.high), rtol=1e-9)
    assert found.difference == pytest.approx((own - BASE).mean())
    assert found.worst == pytest.approx(-1.25)


@pytest.mark.parametrize(
    ("change", "violations", "equal"),
    [
        (-6.0, 0, True),  # below 2 %
        (-8.0, 0, False),
        (+8.0, 0, True),
        (np.array([[-40.0], [10.0], [0.0]]), 0, True),  # the interval contains 0
        (0.0, 1, False),
    ],
)
def test_as_good_means_return_and_violations(results, change, violations, equal):
    fill(results, "CEM", BASE)
    fill(results, "iCEM", BASE + change + 0.01 * np.arange(3)[:, None], violations)
    assert search.compare(results, "pendulum", "iCEM").equal is equal


def test_shares_of_the_best_value_known(results):
    infeasible = -np.inf
    for seed, values in enumerate(
        [
            {"iCEM": [[-2.0, -1.0]], "CEM": [[-1.0, -1.5]], "best known": [[-1, -2.0]]},
            {"iCEM": [[-4.0, infeasible]], "CEM": [[-3, -3]], "best known": [[-4, -2]]},
        ]
    ):
        results.add(kind="inside", task="pendulum", seed=seed, values=values)
    # Cold: 2 and 4 of the best 1 and 3. Warm: the best, then the worst of others.
    assert search.shares(results, "pendulum", "iCEM") == pytest.approx([0.5, 2 / 3])
    assert search.shares(results, "pendulum", "CEM") == pytest.approx([1, 1 - 1.5 / 3])


def test_what_is_on_disk_is_read_again(results, tmp_path):
    fill(results, "CEM", BASE)
    again = search.Results(tmp_path / "results.jsonl")
    assert again.lines == results.lines
    assert len(again.of(kind="control", seed=1)) == 2
    assert search.compare(again, "pendulum", "iCEM") is None
