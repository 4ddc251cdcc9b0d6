"""What a job does before and between its runs; the runs themselves are in test_loop."""

import io

import numpy as np
import pytest
import yaml
from rich.console import Console

from experiments import calibrate, running, training
from experiments.folders import revision
from experiments.grid import Point, traced_of
from experiments.jobs import Job, Unit
from safex.agents.mpc import MPCAgent
from safex.training.files import read_sealed
from tests.test_configuration import read


def test_every_point_says_what_it_is_before_any_is_trained(tmp_path, monkeypatch):
    class KilledError(Exception):
        pass

    def train(*arguments):
        raise KilledError

    monkeypatch.setattr(running, "set_up_jax", lambda: None)
    monkeypatch.setattr(running, "train_units", train)
    config = read(
        "method=safe",
        "job.grid={env.mass:[1,2],horizon:[3,4]}",
        f"results_dir={tmp_path / 'run'}",
        "verbose=false",
    )
    with pytest.raises(KilledError):
        running.run_job(config)
    for mass in (1, 2):
        for horizon in (3, 4):
            point = tmp_path / "run" / f"env.mass={mass},horizon={horizon}"
            plain = yaml.safe_load((point / "config.yaml").read_text())
            assert (plain["env"]["mass"], plain["horizon"]) == (mass, horizon)
            assert (point / "revision.txt").exists()
            # As calibrate reads it.
            found = calibrate.read_settings(calibrate._parse([str(point)]))
            assert found.env.settings.mass == mass


def test_a_summary_made_again_names_the_revision_that_its_run_was_begun_with(tmp_path):
    config = read("method=safe")
    env = running.build_env(config)
    agent = running.build_agent(config, env, check=False)
    (tmp_path / "revision.txt").write_text("abc\n")
    assert running.run_info(config, agent, env, tmp_path).revision == "abc"
    model_free = read("method=cvpo")
    assert running.model_free_info(model_free, env, tmp_path).revision == "abc"
    (tmp_path / "revision.txt").unlink()
    assert running.run_info(config, agent, env, tmp_path).revision == revision()


def test_pictures_that_fail_cost_no_number(tmp_path, monkeypatch):
    def fails(*arguments):
        raise OSError("[disk] full")

    for name in ("build_env", "build_agent", "run_info", "summary_table"):
        monkeypatch.setattr(running, name, lambda *arguments, **more: "")
    monkeypatch.setattr(running.report, "summarise_run", lambda *arguments: {"a": 1})
    for name in ("write_figures", "write_videos"):
        monkeypatch.setattr(running.report, name, fails)
    monkeypatch.setattr(running, "write_page", fails)
    monkeypatch.setattr(running, "read_all", lambda *arguments: [])
    printed = io.StringIO()
    point = Point(read("method=safe"), "", {})
    running._report(point, tmp_path, [1], Console(file=printed, width=80))
    assert read_sealed(tmp_path / "summary.json")["a"] == 1
    for what in ("figures", "videos", "report.html"):
        assert f"warning: no {what}: [disk] full" in printed.getvalue()


def test_an_agent_for_other_numbers_is_built_without_a_decision(tmp_path, monkeypatch):
    made = {}

    class Recorded:
        def __init__(self, *arguments, vary, **more):
            made["vary"] = vary

        def train(self, runs, stopped):
            made["runs"] = runs

    monkeypatch.setattr(training, "Trainer", Recorded)
    configs = [
        read("model=true", "wandb.mode=disabled", *more)
        for more in ((), ("env.mass=2", "planner.noise_alpha=1", "agent.beta=3"))
    ]
    points = [Point(config, f"point_{i}", {"i": i}) for i, config in enumerate(configs)]
    job = Job(configs[0], tuple(points), (7,))
    unit = Unit(0, ((0, 0), (1, 0)))
    training.train_units(job, tmp_path, [unit], RecordedProgress())
    assert [run.folder.parent.name for run in made["runs"]] == ["point_0", "point_1"]

    def pose(self, key):
        raise AssertionError("a decision was posed")

    monkeypatch.setattr(MPCAgent, "pose", pose)
    env, agent = made["vary"](traced_of(configs[1]))
    assert env.params.mass == 2.0
    assert agent.env.params.mass == agent.model.env.params.mass == 2.0
    assert agent.planner.noise_alpha == 1.0
    np.testing.assert_array_equal(agent.beta, [3.0, 3.0, 3.0])


class RecordedProgress:
    def say(self, text):
        raise AssertionError(text)

    def update(self, progress):
        raise AssertionError(progress)
