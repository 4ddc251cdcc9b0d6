"""The account of time, by hand."""

import json

import pytest

from safex.training.report import _median, _timings


def entry(episode, calls, *, compiles=False, seeds=1, in_turn=1):
    return {
        "episode": episode,
        "call_seconds": calls,
        "steps_per_call": 10,
        "fit_seconds": 4.0,
        "compiles": compiles,
        "seeds": seeds,
        "in_turn": in_turn,
    }


def timings(folder, *entries):
    (folder / "timing.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))
    return _timings(folder)


def test_the_random_phase_and_the_compiling_call_are_no_decisions(tmp_path):
    total, decisions = timings(
        tmp_path,
        entry(0, [1.0]),
        entry(1, [9.0, 2.0], compiles=True),
        entry(2, [3.0, 2.0]),
    )
    assert total == pytest.approx(1 + 11 + 5 + 3 * 4)
    assert decisions == pytest.approx([0.2, 0.3, 0.2])
    assert _median(decisions) == pytest.approx(0.2)


def test_seeds_in_lockstep_share_the_seconds_and_wait_their_turn(tmp_path):
    """Six seeds on two cores: each core takes three, one after another."""
    total, decisions = timings(tmp_path, entry(1, [6.0], seeds=6, in_turn=3))
    assert total == pytest.approx((6 + 4) / 6)
    assert decisions == pytest.approx([0.2])


def test_a_run_whose_only_call_compiles_has_no_pace(tmp_path):
    _, decisions = timings(tmp_path, entry(1, [6.0], compiles=True))
    assert _median(decisions) is None
