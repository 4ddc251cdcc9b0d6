"""Playing with what was learned; how an episode runs is in test_loop."""

import io
import json

import pytest
from rich.console import Console

from experiments import evaluate, evaluating
from experiments.folders import write_config
from experiments.jobs import Job
from experiments.training import train_units
from safex.training.certificate import binomial_bound
from tests.test_configuration import read

EPISODES = 2
# The least run there is: no model to learn, next to no search.
TINY = (
    "method=safe",
    "model=true",
    "horizon=3",
    "optimizer.num_iter=1",
    "optimizer.num_samples=8",
    "optimizer.num_elites=2",
    "train.num_model_updates=1",
    "train.num_rollout_steps=5",
    "train.num_exploration_steps=50",
    "train.val_buffer_size=4",
    "job.num_seeds_per_hparam=2",
    "wandb.mode=disabled",
)


class Quiet:
    def say(self, text):
        raise AssertionError(text)

    def update(self, progress):
        pass


@pytest.fixture(autouse=True)
def _jax_is_set_up(monkeypatch):
    monkeypatch.setattr(evaluating, "set_up_jax", lambda: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    config = read(*TINY)
    write_config(folder, config)
    job = Job.of(config)
    train_units(job, folder, job.units(2), Quiet())
    return folder


def play(folder, *settings):
    arguments = [str(folder), *settings, "--episodes", str(EPISODES)]
    assert evaluate.main(arguments) == 0
    return json.loads((folder / "evaluation.json").read_text())


def test_it_plays_the_same_episodes_again_and_changes_no_checkpoint(trained):
    paths = sorted(trained.rglob("*.ckpt"))
    before = [path.read_bytes() for path in paths]
    one, other = play(trained), play(trained)
    assert one == other
    assert [path.read_bytes() for path in paths] == before
    returns = [seed["returns"] for seed in one["seeds"]]
    # Two episodes of two seeds, each its own.
    assert len({value for seed in returns for value in seed}) == 4
    assert [seed["violating_steps"] for seed in one["seeds"]] == [0, 0]
    assert one["certificate"]["binomial"] == binomial_bound(0, 4)
    assert [seed["binomial"] for seed in one["seeds"]] == 2 * [binomial_bound(0, 2)]
    assert [seed["learned_from"] for seed in one["seeds"]] == [1, 1]
    # The true model makes no claim.
    assert [seed["coverage"] for seed in one["seeds"]] == [None, None]


def test_a_changed_limit_is_known_and_counted(trained, capsys):
    # 1e-3 is a number here as it is for a launcher.
    found = play(trained, "env.speed_threshold=1e-3")
    assert found["set"] == ["env.speed_threshold=1e-3"]
    assert all(seed["violating_steps"] > 0 for seed in found["seeds"])
    assert all(seed["worst_excess"][0] > 0 for seed in found["seeds"])
    broken = sum(seed["episodes_over_budget"] for seed in found["seeds"])
    assert found["certificate"]["over_budget"] == broken > 0
    text = capsys.readouterr().out
    assert "with env.speed_threshold=1e-3" in text
    assert "…" not in text
    # With what an episode may cost, none is over it.
    allowed = play(trained, "env.speed_threshold=0.001", "agent.cost_budget=5")
    assert allowed["certificate"]["over_budget"] == 0


@pytest.mark.parametrize("limits", [1, 2])
def test_the_table_fits_a_terminal(trained, limits):
    found = play(trained)
    found["limits"] *= limits
    for seed in found["seeds"]:
        seed["worst_excess"] *= limits
        seed["seed"] = 999_999
        seed["returns"] = [-1234.5, -1300.0]
        seed["coverage"] = {"2": 1.0}
    console = Console(width=80, file=io.StringIO())
    console.print(evaluating.table(found))
    text = console.file.getvalue()
    assert "…" not in text
    assert "violating" in text
    assert text.count("999999") == 2
    assert text.count("-1300.0") == text.count("100.0%") == 2
    assert text.count("|omega|") == limits


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no folder of a run"),
        (["{run}", "env.masss=1"], "mass"),
        (["{run}", "env.mass"], "expected key=value"),
        (["{run}", "env.mass=-1"], "mass"),
        (["{run}", "env.mass=[1"], "env.mass cannot be read"),
        (["{run}", "train.num_rollout_steps=9"], "must be as in training"),
    ],
)
def test_a_mistake_is_one_line(trained, capsys, arguments, words):
    assert evaluate.main([part.format(run=trained) for part in arguments]) == 2
    *warnings, line = capsys.readouterr().err.splitlines()
    assert all(warning.startswith("warning: ") for warning in warnings)
    assert line.startswith("safex: ")
    assert words in line


def test_a_run_without_a_checkpoint_is_named(trained, capsys, tmp_path):
    for name in ("config.yaml", "config.json"):
        (tmp_path / name).write_text((trained / name).read_text())
    assert evaluate.main([str(tmp_path)]) == 2
    assert "holds no seed_0" in capsys.readouterr().err
    for index in range(2):
        (tmp_path / f"seed_{index}").mkdir()
    assert evaluate.main([str(tmp_path)]) == 2
    assert "seed_0 has no checkpoint" in capsys.readouterr().err
