"""The safety account against episodes counted by hand."""

import json

import numpy as np
import pytest

from safex.training.account import (
    EpisodeRecord,
    account,
    append_jsonl,
    count_events,
    load_record,
    save_record,
    truncate_jsonl,
    violations,
)
from safex.training.files import sealed


def make_record(cost, margin, predicted_cost, feasible=None, planned=True):
    """Of one constraint, `[T]`, or several, `[T, C]`."""

    def by_constraint(x):
        return np.asarray(x, float).reshape(length, -1)

    length = len(cost)
    zeros = np.zeros((length, 2))
    return EpisodeRecord(
        obs=zeros,
        action=np.full((length, 1), 0.5),
        next_obs=np.arange(2.0 * length).reshape(length, 2),
        reward=-np.ones(length),
        cost=by_constraint(cost),
        margin=by_constraint(margin),
        terminated=np.zeros(length, bool),
        truncated=np.zeros(length, bool),
        planned=np.full(length, planned),
        feasible=np.ones(length, bool) if feasible is None else np.asarray(feasible),
        backup=np.zeros(length, bool) if feasible is None else ~np.asarray(feasible),
        predicted_cost=by_constraint(predicted_cost),
        mean=np.arange(2.0 * length).reshape(length, 2),
        epistemic_std=np.ones((length, 2)),
        aleatoric_std=zeros,
    )


def test_events_are_uninterrupted_runs():
    assert count_events(np.array([1, 1, 0, 1, 0, 0, 1], bool)) == 3
    assert count_events(np.zeros(4, bool)) == 0


def test_account_by_hand():
    record = make_record(
        cost=[0, 1, 1, 0, 1],
        margin=[-1.0, 0.2, 0.7, -0.1, 0.3],
        predicted_cost=[2, 2, 0, 1, 0],
        feasible=[True, True, False, True, False],
    )
    entry = account(record, np.ones(2), horizon=2)
    assert entry.episode_return == -5
    assert entry.cost_return == (3,)
    assert entry.violating_steps == 3
    assert entry.violation_events == 2
    assert entry.worst_excess == pytest.approx((0.7,))
    assert entry.infeasible_plans == entry.backup_steps == 2
    # Cost of the next two steps is 1, 2, 1, 1, 1; predicted 2, 2, 0, 1, 0.
    assert entry.underpredicted_plans == 2
    assert entry.prequential.total == 10
    assert entry.prequential.inside.tolist() == [10, 10, 10]


TWO = {
    "cost": [[0, 0], [1, 0], [1, 2], [0, 0], [0, 1]],
    "margin": [[-1.0, -2.0], [0.2, -0.1], [0.7, 0.4], [-0.1, 5.0], [-0.3, 0.6]],
    "predicted_cost": [[2, 0], [2, 2], [1, 2], [0, 0], [0, 1]],
}


def test_account_of_two_constraints_by_hand():
    entry = account(make_record(**TWO), np.ones(2), horizon=2)
    assert entry.cost_return == (2, 3)
    # Any constraint makes a step a violating one, and two at once make one step.
    assert entry.violating_steps == 3
    assert entry.violation_events == 2
    # A margin counts where there is a cost: not the 5.0.
    assert entry.worst_excess == pytest.approx((0.7, 0.6))
    # Costs of the next two steps are (1, 0), (2, 2), (1, 2), (0, 1), (0, 1): only the
    # fourth plan promised less, under the second constraint alone.
    assert entry.underpredicted_plans == 1


def test_violations_name_every_constraint():
    lines = violations(make_record(**TWO), 1, first_step=10, limits=[6.0, 0.5])
    assert [line["step"] for line in lines] == [11, 12, 14]
    assert [line["cost"] for line in lines] == [[1, 0], [1, 2], [0, 1]]
    assert [line["excess"] for line in lines] == [[0.2, -0.1], [0.7, 0.4], [-0.3, 0.6]]
    assert lines[1]["predicted_cost"] == [1.0, 2.0]
    assert all(line["limits"] == [6.0, 0.5] for line in lines)


def test_no_violation_has_no_excess():
    record = make_record([0, 0], [-1.0, -0.5], [0, 0])
    entry = account(record, np.ones(2), horizon=2)
    assert entry.worst_excess == (0.0,)
    assert entry.violation_events == 0


def test_random_phase_makes_no_prediction():
    unknown = make_record([1, 0], [0.5, -1.0], [np.nan, np.nan], planned=False)
    entry = account(unknown, np.ones(2), horizon=2)
    assert entry.violating_steps == 1
    assert entry.underpredicted_plans == entry.infeasible_plans == 0
    assert entry.prequential.total == 0
    assert entry.prequential.shares() == {"1": None, "2": None, "3": None}
    (line,) = violations(unknown, 0, first_step=0, limits=[6.0])
    assert line["predicted_cost"] is None
    assert line["plan_feasible"] is None


def test_violations_say_when_where_and_what_was_predicted(tmp_path):
    record = make_record([0, 1], [-1.0, 0.25], [0, 3], feasible=[True, False])
    (line,) = violations(record, episode=4, first_step=700, limits=[6.0])
    assert line == {
        "step": 701,
        "episode": 4,
        "step_in_episode": 1,
        "state": [2.0, 3.0],
        "action": [0.5],
        "cost": [1.0],
        "limits": [6.0],
        "excess": [0.25],
        "predicted_cost": [3.0],
        "plan_feasible": False,
        "backup": True,
    }
    append_jsonl(tmp_path / "v.jsonl", [line])
    assert json.loads((tmp_path / "v.jsonl").read_text()) == line


def test_records_come_back_whole(tmp_path):
    record = make_record([0, 1], [-1.0, 0.25], [0, 3])
    save_record(tmp_path / "e.npz", record)
    for saved, loaded in zip(record, load_record(tmp_path / "e.npz"), strict=True):
        np.testing.assert_array_equal(saved, loaded)


@pytest.mark.parametrize("damage", ["truncate", "text", "fields"])
def test_a_broken_record_is_named(tmp_path, damage):
    path = tmp_path / "e.npz"
    save_record(path, make_record([0, 1], [-1.0, 0.25], [0, 3]))
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "text":
        path.write_text("no record")
    else:
        np.savez(path, something=np.ones(3))
    with pytest.raises(ValueError, match=r"e\.npz is not a whole episode record"):
        load_record(path)


@pytest.mark.parametrize("place", [6, 8])
def test_a_flag_that_numpy_cannot_follow_is_damage(tmp_path, place):
    """One bit says that the archive is encrypted, or compressed in an unknown way."""
    path = tmp_path / "e.npz"
    save_record(path, make_record([0, 1], [-1.0, 0.25], [0, 3]))
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + place + 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"e\.npz is not a whole episode record"):
        load_record(path)


def test_a_line_without_its_episode_is_dropped_as_a_torn_one(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"episode": 0}\n{"episoee": 1}\n7\n{"episode": "1"}\n')
    truncate_jsonl(path, 1)
    assert path.read_text() == '{"episode": 0}\n'


def test_a_line_whose_seal_is_broken_is_dropped_as_well(tmp_path):
    path = tmp_path / "lines.jsonl"
    append_jsonl(path, [sealed({"episode": e, "value": 5}) for e in range(3)])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1].replace("5", "4", 1) + lines[2])
    truncate_jsonl(path, 9)
    assert path.read_text() == lines[0] + lines[2]


def test_truncation_drops_later_episodes_and_torn_lines(tmp_path):
    path = tmp_path / "lines.jsonl"
    append_jsonl(path, [{"episode": e} for e in (0, 1, 2, 3)])
    path.write_text(path.read_text() + '{"episode": 1, "tor')
    truncate_jsonl(path, 1)
    assert path.read_text() == '{"episode": 0}\n{"episode": 1}\n'
