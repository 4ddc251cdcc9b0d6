"""The command itself: killed with SIGKILL, started again, and what it leaves behind."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from experiments.compare import main as compare
from experiments.plot import main as plot
from safex.training.account import load_record
from tests.tracked import (
    events,
    wandb_config,
    wandb_history,
    wandb_rows,
    wandb_run,
    without_service,
)

ROOT = Path(__file__).resolve().parents[1]
# The smallest job that goes through every part; compiling is what takes the time.
TINY = (
    "method=safe",
    "model=bnn",
    "preset=debug",
    "wandb.mode=offline",
    "tensorboard=true",
    "job.num_seeds_per_hparam=1",
    "optimizer.num_iter=1",
    "optimizer.num_samples=20",
    "horizon=4",
    "model.features=[8]",
    "model.num_training_steps=20",
    "model.eval_frequency=10",
    "train.num_rollout_steps=20",
    "train.val_buffer_size=10",
)


def command(folder, *more):
    script = str(ROOT / "experiments" / "launcher_pendulum.py")
    return [sys.executable, script, *TINY, f"results_dir={folder}", *more]


def environment(folder):
    """One compilation cache for all runs of this file."""
    return without_service() | {
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }


def launch(folder, *more):
    return subprocess.run(
        command(folder, *more),
        capture_output=True,
        text=True,
        cwd=folder.parent,
        env=environment(folder),
        check=False,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launch") / "whole"
    result = launch(folder)
    assert result.returncode == 0, result.stderr
    return folder, result


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_a_run_leaves(whole):
    folder, result = whole
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["env"] == "pendulum"
    assert (summary["method"], summary["model"]) == ("safe", "bnn")
    assert summary["num_seeds"] == len(summary["seeds"]) == 1
    assert summary["episodes"] == 2
    assert summary["random_steps"] == 50
    assert summary["revision"]
    assert summary["seconds"] > 0
    assert summary["seconds_per_decision"] > 0
    (seed,) = summary["seeds"]
    records = [
        load_record(folder / "seed_0" / "episodes" / f"episode_00{e}.npz")
        for e in range(3)
    ]
    assert seed["final_return"] == pytest.approx(float(records[2].reward.sum()))
    violating = [int((r.cost > 0).any(1).sum()) for r in records]
    assert seed["episode_violating_steps"] == violating
    assert seed["training_violating_steps"] == sum(violating)
    for kind in ("held_out", "out_of_distribution", "prequential"):
        levels = [seed["coverage"][kind][level] for level in "123"]
        assert levels == sorted(levels)
        assert summary["aggregate"]["coverage"][kind]["1"]["mean"] == levels[0]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["horizon"] == 4
    assert config["model"]["features"] == [8]
    for name in ("learning", "phase_portrait", "prediction", "forecast", "calibration"):
        assert (folder / "plots" / f"{name}.png").stat().st_size > 10_000
    assert (folder / "videos" / "seed_0.mp4").stat().st_size > 1_000
    page = (folder / "report.html").read_text()
    assert page.count("<img") == 5 and page.count("<video") == 1
    rows = list(
        csv.DictReader((folder / "seed_0" / "metrics.csv").read_text().splitlines())
    )
    assert [row["step"] for row in rows] == ["50", "70", "90"]
    assert "violating" in result.stdout
    assert "seed 1/1" in result.stdout
    # Nothing is left where the user happens to stand.
    assert not list(folder.parent.glob("*.log"))


def test_wandb_groups_seeds_offline(whole):
    (run,) = (whole[0] / "wandb" / "wandb").glob("offline-run-*/*.wandb")
    found = wandb_run(run)
    summary = json.loads((whole[0] / "summary.json").read_text())
    assert found.project == "safex-pendulum"
    assert found.run_group == "pendulum_safe_bnn"
    assert found.job_type == "safe_bnn"
    config = wandb_config(found)
    assert config["seed"] == summary["seeds"][0]["seed"]
    assert config["horizon"] == 4
    assert config["model"]["features"] == [8]
    # The very rows of the local files.
    text = (whole[0] / "seed_0" / "metrics.jsonl").read_text()
    local = [json.loads(line) for line in text.splitlines()]
    history = wandb_history(run)
    assert [row["_step"] for row in history] == [50, 70, 90]
    for row, kept in zip(history, local, strict=True):
        known = {k: v for k, v in kept.items() if v is not None and k != "step"}
        assert {name: row[name] for name in known} == known


def test_sigkill_then_the_same_command_gives_the_same_numbers(whole):
    folder = whole[0].parent / "killed"
    with subprocess.Popen(
        command(folder),
        cwd=folder.parent,
        env=environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_for(folder / "seed_0" / "checkpoints" / "episode_0000.ckpt", process)
        os.kill(process.pid, signal.SIGKILL)
    assert not (folder / "summary.json").exists()
    assert launch(folder).returncode == 0
    for name in ("metrics.csv", "violations.jsonl"):
        one, other = ((f / "seed_0" / name).read_text() for f in (whole[0], folder))
        assert one == other
    for episode in range(3):
        name = f"seed_0/episodes/episode_00{episode}.npz"
        for one, other in zip(
            load_record(whole[0] / name), load_record(folder / name), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    # What is beside the local files has every step once, too.
    board = events(folder / "seed_0" / "tensorboard")
    steps = [step for tag, step, _ in board if tag == "train/episode/return"]
    assert steps == [50, 70, 90]
    newest = (folder / "wandb" / "wandb" / "latest-run").resolve()
    assert [step for step, _ in wandb_rows(newest)] == [50, 70, 90]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["model.num_ensembles=3"], "model.num_ensembles: 5 there, 3 here"),
        (["model.num_ensmbles=3"], "did you mean model.num_ensembles"),
    ],
)
def test_a_mistake_is_one_line_and_harms_nothing(whole, more, words):
    before = (whole[0] / "summary.json").read_bytes()
    result = launch(whole[0], *more)
    assert result.returncode != 0
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert (whole[0] / "summary.json").read_bytes() == before


def test_a_foreign_folder_is_refused(whole):
    folder = whole[0].parent / "foreign"
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    result = launch(folder)
    assert result.returncode == 2
    assert "is not empty and has no readable config" in result.stderr
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_plot_makes_the_figures_again(whole, tmp_path, capsys, monkeypatch):
    # This process has its devices already.
    monkeypatch.setattr("experiments.runtime.set_up_jax", lambda: None)
    assert plot([str(whole[0]), "--format", "svg", "--out", str(tmp_path)]) == 0
    made = {path.stem for path in tmp_path.iterdir()}
    assert made == {"curves", *(path.stem for path in (whole[0] / "plots").iterdir())}
    # A run whose episodes are gone says what brings them back.
    episodes = whole[0] / "seed_0" / "episodes"
    episodes.rename(episodes.with_name("elsewhere"))
    try:
        assert plot([str(whole[0]), "--out", str(tmp_path)]) == 2
    finally:
        episodes.with_name("elsewhere").rename(episodes)
    (line,) = capsys.readouterr().err.splitlines()
    assert "episode_000.npz" in line and "resume.py" in line


def test_compare_reads_what_the_launcher_wrote(whole, tmp_path, capsys):
    assert compare([str(whole[0]), "--out", str(tmp_path)]) == 0
    assert "safe" in capsys.readouterr().out
    assert (tmp_path / "comparison.csv").exists()
