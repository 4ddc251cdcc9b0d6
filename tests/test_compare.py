import copy
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.compare import main
from safex.training.files import sealed
from safex.training.statistics import stratified_bootstrap_interval

SCRIPT = Path(__file__).parents[1] / "experiments" / "compare.py"
FILES = [
    "comparison.csv", "comparison.md", "comparison.pdf", "comparison.png",
    "improvement.csv", "improvement.pdf", "improvement.png", "pareto.pdf", "pareto.png",
    "profiles.pdf", "profiles.png",
]  # fmt: skip


def seed_entry(seed, violations=0, final_return=-300.0, coverage=0.95):
    shares = {"1": coverage, "2": coverage, "3": coverage}
    return {
        "seed": seed,
        "final_return": final_return,
        "training_violating_steps": violations,
        "random_violating_steps": 2,
        "worst_excess": [0.25 * violations],
        "worst_episode_cost": [violations],
        "episode_cost_returns": [[0.0], [float(violations)]],
        "infeasible_plans": 3,
        "coverage": {"held_out": shares, "prequential": shares},
    }


def limit(name="|omega|", value=6.0, unit="rad/s", cost_budget=0.0):
    return {"name": name, "value": value, "unit": unit, "cost_budget": cost_budget}


def summary(seeds, **changes):
    content = {
        "env": "pendulum",
        "method": "minmax",
        "model": "bnn",
        "num_seeds": len(seeds),
        "episodes": 8,
        "random_steps": 100,
        "revision": "abc",
        "limits": [limit()],
        "seeds": seeds,
    }
    return copy.deepcopy(content | changes)


def write(folder, content):
    folder.mkdir(parents=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "summary.json").write_text(text)
    return str(folder)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def drawn(monkeypatch):
    """Takes the place of the slow figure; holds the tables that were to be drawn."""
    tables = []

    def draw(path, table):
        path.touch()
        tables.append(table)

    monkeypatch.setattr("safex.training.plots.plot_comparison", draw)
    for name in ("pareto", "profiles", "improvement"):
        nothing = lambda *args, **kwargs: None  # noqa: E731
        monkeypatch.setattr(f"safex.training.plots.plot_{name}", nothing)
    return tables


def rows(out):
    with (out / "comparison.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def refused(capsys, argv, *parts):
    """The command ends with code 2 and one line that names all the parts."""
    assert main([str(arg) for arg in argv]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("safex: ")
    for part in parts:
        assert str(part) in lines[0]


def test_table_files_and_figure(tmp_path, out, capsys):
    violations = [0, 4, 1, 2, 30]
    seeds = [seed_entry(i, v, -300.0 - i) for i, v in enumerate(violations)]
    learned = write(tmp_path / "a", summary(seeds))
    exact = [seed_entry(0, coverage=None)]
    true = write(tmp_path / "b", summary(exact, model="true"))
    assert main([learned, true, "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "comparison.pdf").read_bytes().startswith(b"%PDF")

    first, second = rows(out)
    assert (first["label"], second["label"]) == ("minmax bnn", "minmax true")
    assert first["num_seeds"] == "5"
    # Five seeds: the lowest and the highest are dropped.
    assert float(first["training_violating_steps_iqm"]) == pytest.approx(7 / 3)
    assert float(first["training_violating_steps_worst"]) == 30
    low, high = stratified_bootstrap_interval([violations])
    assert float(first["training_violating_steps_low"]) == low
    assert float(first["training_violating_steps_high"]) == high
    assert float(first["final_return_iqm"]) == -302.0
    assert float(first["final_return_worst"]) == -304.0
    assert float(first["worst_excess_worst"]) == 7.5
    assert float(first["infeasible_plans_iqm"]) == 3.0
    assert float(first["prequential_coverage_2_iqm"]) == pytest.approx(0.95)
    assert float(first["random_violating_steps_iqm"]) == 2.0
    assert second["prequential_coverage_2_iqm"] == ""  # missing is not 0
    assert second["training_violating_steps_iqm"] == "0.0"
    assert second["training_violating_steps_low"] == ""  # one seed, no interval

    lines = (out / "comparison.md").read_text().splitlines()
    head, cells, exact_cells = (lines[i].split(" | ") for i in (2, 4, 5))
    assert head[1:4] == [
        "training violations [steps]",
        "worst seed",
        "worst excess [rad/s]",
    ]
    assert cells[1:4] == [
        f"2.3 [{low:.1f}, {high:.1f}]".replace(".0", ""),
        "30",
        "7.500",
    ]
    assert exact_cells[-3:] == ["-", "-", "1 |"]
    printed = capsys.readouterr().out
    for text in ("2.3", "worst 30", "-302", "worst -304", "0.950", "[-]"):
        assert text in printed
    assert "…" not in printed  # nothing cut short


def test_the_probability_of_improvement_by_hand(tmp_path, out, drawn):
    few = write(
        tmp_path / "a", summary([seed_entry(0, 1, -5.0), seed_entry(1, 3, -9.0)])
    )
    more = write(tmp_path / "b", summary([seed_entry(0, 3, -7.0)], method="cem"))
    assert main([few, more, "--labels", "a|b", "c", "--out", str(out)]) == 0
    with (out / "improvement.csv").open(newline="") as file:
        steps, returns = csv.DictReader(file)
    assert steps["quantity"] == "violating steps of training"
    assert (steps["one"], steps["other"]) == ("a|b", "c")
    assert float(steps["probability"]) == 0.75  # one better, one draw
    assert float(returns["probability"]) == 0.5  # one better, one worse
    text = (out / "comparison.md").read_text()
    assert "| final return | a\\|b | c | 0.50 [0.00, 1.00] |" in text


def test_one_run_alone_has_nobody_to_improve_on(tmp_path, out, drawn):
    a = write(tmp_path / "a", summary([seed_entry(0)]))
    assert main([a, "--out", str(out)]) == 0
    assert not (out / "improvement.csv").exists()
    assert "improvement" not in (out / "comparison.md").read_text()


def test_the_figure_gets_the_same_estimates(tmp_path, out, drawn):
    a = write(tmp_path / "a", summary([seed_entry(0, 3), seed_entry(1, 5)]))
    assert main([a, "--out", str(out)]) == 0
    table = drawn[0]["minmax bnn"]
    headings = [" ".join(title.split()) for title in table]
    assert headings[0] == "training violations [steps]"
    found = next(iter(table.values()))
    assert (found.iqm, found.worst, found.values) == (4.0, 5.0, (3.0, 5.0))
    assert len(drawn) == 2  # png and pdf


def test_equal_experiments_are_rows_of_their_own(tmp_path, out, drawn):
    folders = [write(tmp_path / n, summary([seed_entry(0)])) for n in ("a", "b")]
    assert main([*folders, "--out", str(out)]) == 0
    assert [row["label"] for row in rows(out)] == ["minmax bnn (a)", "minmax bnn (b)"]
    same = write(tmp_path / "c" / "a", summary([seed_entry(0)]))
    assert main([folders[0], same, "--out", str(out)]) == 0
    labels = [row["label"] for row in rows(out)]
    assert len(set(labels)) == 2 and all("(a)" in label for label in labels)


def test_the_same_label_pools_the_seeds(tmp_path, out, drawn):
    a = write(tmp_path / "a", summary([seed_entry(0, 1), seed_entry(1, 2)]))
    b = write(tmp_path / "b", summary([seed_entry(2, 6)], revision="def"))
    assert main([a, b, "--labels", "x", "x", "--out", str(out)]) == 0
    (row,) = rows(out)
    assert row["num_seeds"] == "3"
    assert float(row["training_violating_steps_iqm"]) == 3.0
    assert row["revisions"] == "abc def"
    assert row["folders"] == f"{a} {b}"


def test_pooling_refuses_what_is_not_one_experiment(tmp_path, out, capsys):
    a = write(tmp_path / "a", summary([seed_entry(0)]))
    again = write(tmp_path / "b", summary([seed_entry(0)]))
    cem = write(tmp_path / "c", summary([seed_entry(1)], method="cem"))
    labels = ["--labels", "x", "x", "--out", out]
    refused(capsys, [a, cem, *labels], "label 'x'", "method", "minmax", "cem")
    refused(capsys, [a, again, *labels], "label 'x'", "seed 0 twice")
    assert not out.exists()


def test_a_parent_folder_stands_for_its_latest_run(tmp_path, out, drawn, capsys):
    parent = tmp_path / "runs"
    write(parent / "first", summary([seed_entry(0, 1)]))
    assert main([str(parent), "--out", str(out)]) == 0
    assert capsys.readouterr().err == ""
    write(parent / "a_later_one", summary([seed_entry(0, 9)]))
    os.utime(parent / "first" / "summary.json", (1, 1))
    assert main([str(parent), "--out", str(out)]) == 0
    assert rows(out)[0]["training_violating_steps_worst"] == "9.0"
    assert "2 runs, taking the latest, a_later_one" in capsys.readouterr().err


def test_points_of_a_grid_are_rows_of_their_own(tmp_path, out, drawn, capsys):
    job = tmp_path / "job"
    for value in (1, 2):
        write(job / f"horizon={value}", summary([seed_entry(0, value)]))
    (job / "config.yaml").write_text("method: minmax\n")
    (job / "grid.json").write_text("[]")
    points = [f"horizon={value}" for value in (1, 2)]
    assert main([str(job), "--out", str(out)]) == 0
    assert [row["label"] for row in rows(out)] == [f"minmax bnn ({p})" for p in points]
    assert main([str(job), "--labels", "x", "--out", str(out)]) == 0
    assert [row["label"] for row in rows(out)] == [f"x {point}" for point in points]
    assert capsys.readouterr().err == ""
    # As the latest job of a folder, it stands for all of its points.
    write(tmp_path / "older", summary([seed_entry(0)]))
    os.utime(tmp_path / "older" / "summary.json", (1, 1))
    assert main([str(tmp_path), "--out", str(out)]) == 0
    assert len(rows(out)) == 2
    assert "taking the latest, job" in capsys.readouterr().err


def test_a_summary_that_is_not_what_was_written_is_refused(tmp_path, out, capsys):
    content = sealed(summary([seed_entry(0, 4)]))
    content["seeds"][0]["training_violating_steps"] = 0
    folder = write(tmp_path / "a", content)
    refused(capsys, [folder, "--out", out], "is damaged", f"resume.py {folder}")


def test_a_wider_level_gives_a_wider_interval(tmp_path, out, drawn):
    a = write(tmp_path / "a", summary([seed_entry(i, i * i) for i in range(8)]))
    ends = []
    for level in ("0.5", "0.99"):
        assert main([a, "--level", level, "--out", str(out)]) == 0
        assert f"[{float(level) * 100:g}% " in (out / "comparison.md").read_text()
        row = rows(out)[0]
        name = "training_violating_steps"
        ends.append([float(row[f"{name}_{end}"]) for end in ("low", "high")])
    assert ends[1][0] < ends[0][0] < ends[0][1] < ends[1][1]


def test_labels_with_brackets_and_bars_are_text(tmp_path, out, drawn, capsys):
    a = write(tmp_path / "a", summary([seed_entry(0)]))
    assert main([a, "--labels", "[bold]a|b", "--out", str(out)]) == 0
    assert "[bold]a|b" in capsys.readouterr().out
    assert "[bold]a\\|b" in (out / "comparison.md").read_text()


def test_different_limits_are_told(tmp_path, out, drawn, capsys):
    a = write(tmp_path / "a", summary([seed_entry(0)]))
    other = [limit(value=5.0, cost_budget=3.0)]
    b = write(tmp_path / "b", summary([seed_entry(0)], limits=other))
    assert main([a, b, "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "different limits: 5, 6" in said
    assert "different cost budgets: 0, 3" in said
    assert [row["limits"] for row in rows(out)] == ["6", "5"]
    assert [row["cost_budgets"] for row in rows(out)] == ["0", "3"]
    # One of them may cost something, and no one budget is that of both.
    head = (out / "comparison.md").read_text().splitlines()[2]
    assert "| worst episode cost |" in head


def test_two_limits_have_columns_each(tmp_path, out, drawn, capsys):
    limits = [limit("|x|", 2.0, "m", 10.0), limit("|v|", 1.0, "m/s")]
    seeds = [seed_entry(0), seed_entry(1)]
    seeds[0] |= {"worst_excess": [0.5, 0.0], "worst_episode_cost": [12, 0]}
    seeds[1] |= {"worst_excess": [0.25, 3.0], "worst_episode_cost": [7, 1]}
    for seed in seeds:
        seed["episode_cost_returns"] = [[0.0, 0.0]]
    a = write(tmp_path / "a", summary(seeds, limits=limits))
    assert main([a, "--out", str(out)]) == 0
    head, _, cells = (out / "comparison.md").read_text().splitlines()[2:5]
    assert head.split(" | ")[3:7] == [
        "worst \\|x\\| excess [m]",
        "worst \\|v\\| excess [m/s]",
        "worst episode \\|x\\| cost (of 10)",
        "worst episode \\|v\\| cost (of 0)",
    ]
    assert cells.split(" | ")[3:7] == ["0.500", "3.000", "12", "1"]
    (row,) = rows(out)
    assert float(row["worst_excess_1_worst"]) == 3.0
    assert float(row["worst_episode_cost_0_iqm"]) == 9.5
    assert (row["limits"], row["cost_budgets"]) == ("2 and 1", "10 and 0")
    assert capsys.readouterr().err == ""


def test_limits_on_other_things_are_other_environments(tmp_path, capsys):
    a = write(tmp_path / "a", summary([seed_entry(0)]))
    seed = seed_entry(0) | {"worst_excess": [0, 0], "worst_episode_cost": [0, 0]}
    two = [limit(), limit("|theta|", 1.0, "rad")]
    b = write(tmp_path / "b", summary([seed], limits=two))
    refused(capsys, [a, b], "different tasks", "|omega| [rad/s], |theta| [rad]")
    c = write(tmp_path / "c", summary([seed_entry(0)], limits=[limit("|theta|")]))
    refused(capsys, [a, c], "different tasks", "|theta| [rad/s]")


@pytest.mark.parametrize("limits", [[], {}, None])
def test_a_run_without_limits_is_refused(tmp_path, capsys, limits):
    a = write(tmp_path / "a", summary([seed_entry(0)], limits=limits))
    refused(capsys, [a], "limits must be a list, not empty", limits)


def test_different_environments_are_refused(tmp_path, capsys):
    a = write(tmp_path / "a", summary([seed_entry(0)]))
    b = write(tmp_path / "b", summary([seed_entry(0)], env="cartpole"))
    on = ", |omega| [rad/s] in"
    parts = (f"pendulum{on} {a}", f"cartpole{on} {b}")
    refused(capsys, [a, b], "different tasks", *parts)


def test_missing_folders_and_files_are_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    refused(capsys, [tmp_path / "none"], tmp_path / "none", "is not a folder")
    refused(capsys, [tmp_path / "empty"], tmp_path / "empty", "no summary.json")


@pytest.mark.parametrize("text", ["{", "", "\x00"])
def test_a_file_that_is_not_json_is_refused(tmp_path, capsys, text):
    folder = write(tmp_path / "a", text)
    refused(
        capsys, [folder], Path(folder) / "summary.json", "is damaged: it is no JSON"
    )


@pytest.mark.parametrize(
    "keys",
    [
        ("env",),
        ("model",),
        ("seeds",),
        ("num_seeds",),
        ("limits",),
        ("limits", 0, "unit"),
        ("limits", 0, "cost_budget"),
        ("seeds", 1, "worst_episode_cost"),
        ("seeds", 0, "worst_excess", 0),
        ("seeds", 1, "seed"),
        ("seeds", 1, "training_violating_steps"),
        ("seeds", 0, "coverage", "prequential"),
        ("seeds", 0, "coverage", "prequential", "2"),
    ],
)
def test_a_missing_key_is_named(tmp_path, capsys, keys):
    content = summary([seed_entry(0), seed_entry(1)])
    *parents, last = keys
    section = content
    for key in parents:
        section = section[key]
    del section[last]
    folder = write(tmp_path / "a", content)
    name = ".".join(str(key) for key in keys)
    # One that every command needs is named by its last part alone.
    named = f"has no key {name}" if keys[0] == "seeds" and keys[1:] else repr(last)
    refused(capsys, [folder], Path(folder) / "summary.json", named)


@pytest.mark.parametrize("content", [[], "text", 3, None])
def test_a_summary_that_is_no_object_is_refused(tmp_path, capsys, content):
    folder = write(tmp_path / "a", json.dumps(content))
    refused(capsys, [folder], "holds no JSON object")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "many", [1]])
def test_a_value_that_is_no_number_is_refused(tmp_path, capsys, value):
    entry = seed_entry(0) | {"final_return": value}
    folder = write(tmp_path / "a", summary([entry]))
    refused(capsys, [folder], "seeds.0.final_return must be a number", repr(value))


def test_a_count_of_seeds_that_does_not_hold_is_refused(tmp_path, capsys):
    a = write(tmp_path / "a", summary([seed_entry(0)], num_seeds=2))
    refused(capsys, [a], "num_seeds is 2, seeds holds 1")
    b = write(tmp_path / "b", summary([]))
    refused(capsys, [b], "holds no seed")


def test_a_quantity_that_one_seed_lacks_is_missing(tmp_path, out, drawn):
    seeds = [seed_entry(0), seed_entry(1, coverage=None)]
    seeds[0]["coverage"] = None  # the whole section
    a = write(tmp_path / "a", summary(seeds))
    b = write(tmp_path / "b", summary([seed_entry(0), seed_entry(1, coverage=None)]))
    assert main([a, b, "--out", str(out)]) == 0
    assert [row["prequential_coverage_2_iqm"] for row in rows(out)] == ["", ""]


def test_wrong_options_are_refused(tmp_path, capsys):
    a = write(tmp_path / "a", summary([seed_entry(0)]))
    refused(capsys, [a, "--labels", "x", "y"], "2 labels for 1 folders")
    refused(capsys, [a, "--level", "95"], "--level must be in (0, 1), got 95")
    blocked = tmp_path / "file"
    blocked.touch()
    refused(capsys, [a, "--out", blocked], blocked)


def test_help_and_errors_of_the_script_import_nothing_heavy(tmp_path):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['compare.py', '--help']\n"
        f"try:\n    runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'numpy', 'jax', 'matplotlib', 'rich'} & set(sys.modules)\n"
        "print('heavy', heavy)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--labels" in done.stdout and "heavy set()" in done.stdout
    command = [sys.executable, str(SCRIPT), str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_a_grid_is_compared_by_its_folder(tmp_path, out, drawn, capsys):
    """What docs/configuration.md says: the job's folder holds more than points."""
    job = tmp_path / "job"
    for name in ("pes_alpha=1", "pes_alpha=2"):
        write(job / name, summary([seed_entry(0)]))
    (job / "config.yaml").write_text("job: {}\n")
    (job / "grid.json").write_text("[]\n")
    (job / "wandb" / "wandb").mkdir(parents=True)
    assert main([str(job), "--out", str(out)]) == 0
    assert [row["label"] for row in rows(out)] == [
        "minmax bnn (pes_alpha=1)",
        "minmax bnn (pes_alpha=2)",
    ]
    assert capsys.readouterr().err == ""
