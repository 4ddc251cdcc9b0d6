"""What the study keeps of its groups, and the tables it makes of that."""

import json

import pytest

from benchmarks import study


def _summary(revision: str, violations: int, final_return: float = -350.0) -> dict:
    """What a launcher writes, as far as the study reads it."""
    shares = {level: {"mean": 0.9} for level in "123"}
    seed = {
        "seed": 7,
        "final_return": final_return,
        "training_violating_steps": violations,
        "random_violating_steps": 2,
        "training_violation_events": 1,
        "worst_excess": [0.25],
        "worst_episode_cost": [3.0],
        "infeasible_plans": 4,
        "episodes_over_budget": 1,
        "scores": {"held_out": {"nll": 1.0}},
    }
    return {
        "revision": revision,
        "episodes": 8,
        "random_steps": 100,
        "seconds_per_decision": 0.05,
        "limits": [],
        "seeds": [seed, seed],
        "aggregate": {
            "coverage": dict.fromkeys(
                ("prequential", "held_out", "out_of_distribution"), shares
            )
        },
    }


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "KEPT", tmp_path / "study.jsonl")

    def call(*arguments: str) -> str:
        command = ["study.py", *arguments, "--out", str(tmp_path / "results")]
        monkeypatch.setattr("sys.argv", command)
        study.main()
        return capsys.readouterr().out

    return call


def _finish(tmp_path, task: str, method: str, summary: dict) -> None:
    folder = tmp_path / "results" / task / method
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary))


def test_later_results_take_the_place_of_kept_ones_and_others_stay(call, tmp_path):
    _finish(tmp_path, "pendulum", "minmax", _summary("a" * 40, 12))
    _finish(tmp_path, "car_park", "unsafe", _summary("b" * 40, 30))
    call("keep")
    (tmp_path / "results" / "car_park" / "unsafe" / "summary.json").unlink()
    _finish(tmp_path, "pendulum", "minmax", _summary("c" * 40, 2))
    call("keep")

    report = call("report", "--kept")

    assert len(study.KEPT.read_text().splitlines()) == 2
    assert "| minmax | 2, 8, `ccccccc` | 0.0 [0.0, 0.0] | 0, 0 |" in report
    assert "| unsafe | 2, 8, `bbbbbbb` | 28.0 [28.0, 28.0] | 28, 28 |" in report
    assert "scores" not in study.KEPT.read_text()


def test_report_of_results_does_not_show_what_is_only_kept(call, tmp_path):
    _finish(tmp_path, "pendulum", "minmax", _summary("a" * 40, 12))
    call("keep")
    (tmp_path / "results" / "pendulum" / "minmax" / "summary.json").unlink()
    assert "minmax" not in call("report")
    assert "minmax" in call("report", "--kept")


def test_a_method_is_held_to_the_others_of_the_same_seeds(call, tmp_path):
    _finish(tmp_path, "pendulum", "minmax", _summary("a" * 40, 4, -210.0))
    _finish(tmp_path, "pendulum", "unsafe", _summary("a" * 40, 42, -190.0))
    _finish(tmp_path, "pendulum", "oracle", _summary("a" * 40, 2, -200.0))
    other = _summary("a" * 40, 12)
    other["seeds"] = other["seeds"][:1]
    _finish(tmp_path, "pendulum", "safe_mean", other)

    line = call("report").splitlines()[-1]

    # 2 + 2 of 40 + 40, 10 below -200, no safe (mean) of these seeds.
    assert line.startswith(
        "| pendulum | minmax | 4 | 5% of 80 | - | 5.0% (5.0%) | 2 | 90, 9"
    )
