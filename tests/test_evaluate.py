"""Playing with what was learned; how an episode runs is in test_loop."""

import copy
import io
import json
import re
import shutil

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
    out = folder.parent / "played" / "evaluation.json"
    assert evaluate.main([*arguments, "--out", str(out)]) == 0
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def played(trained):
    """What is written of an evaluation, made once: it takes seconds to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluating, "set_up_jax", lambda: None)
        return play(trained)


def test_it_plays_the_same_episodes_again_and_changes_no_checkpoint(trained, played):
    paths = sorted(trained.rglob("*.ckpt"))
    before = [path.read_bytes() for path in paths]
    one, other = played, play(trained)
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


@pytest.mark.parametrize("counted", ["episodes", "steps"])
@pytest.mark.parametrize("limits", [1, 2, 3])
def test_the_table_fits_a_terminal(played, limits, counted):
    found = copy.deepcopy(played)
    found["learned_in"] = counted
    found["limits"] *= limits
    for seed in found["seeds"]:
        seed["worst_excess"] *= limits
        seed["costs"] = [cost * limits for cost in seed["costs"]]
        seed["learned_from"] = 1_000_000
        seed["seed"] = 999_999
        seed["returns"] = [-1234.5, -1300.0]
        seed["coverage"] = {"2": 1.0}
    console = Console(width=80, file=io.StringIO())
    console.print(evaluating.table(found))
    text = console.file.getvalue()
    assert "…" not in text
    assert "violating" in text
    assert text.count("999999") == (2 if limits == 1 else 2 + 2 * limits)
    assert text.count("-1300.0") == 2
    assert text.count("100.0%" if counted == "episodes" else "1000000") == 2
    # In the heading, or beside each seed's.
    assert text.count("|omega|") == (1 if limits == 1 else 2 * limits)


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


def test_any_kept_checkpoint_can_be_played(trained, played, capsys):
    last = play(trained, "--checkpoint", "1")
    assert last == played | {"checkpoint": 1}
    capsys.readouterr()
    first = play(trained, "--checkpoint", "0")
    assert [seed["learned_from"] for seed in first["seeds"]] == [0, 0]
    shown = capsys.readouterr()
    assert "checkpoint 0" in shown.out
    # An earlier one was asked for: nothing to warn of.
    assert shown.err == ""


def test_a_checkpoint_that_is_not_there_is_answered_by_those_that_are(trained, capsys):
    assert evaluate.main([str(trained), "--checkpoint", "7"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("seed_0 has no checkpoint 7; there are: 0, 1")
    with pytest.raises(SystemExit):
        evaluate.main([str(trained), "--checkpoint", "1", "--best"])


def test_a_damaged_checkpoint_is_not_replaced_by_another(trained, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "run")
    kept = folder / "seed_1" / "checkpoints"
    (kept / "episode_0001.ckpt").write_bytes((kept / "episode_0000.ckpt").read_bytes())
    assert evaluate.main([str(folder), "--checkpoint", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "seed_1" in line and "episode_0001.ckpt is truncated or damaged" in line


@pytest.fixture
def told(played, monkeypatch):
    """In place of episodes, what was played of others; only the files matter."""

    def evaluate(folder, settings, episodes, checkpoint):
        return played | {"set": list(settings), "checkpoint": checkpoint}

    monkeypatch.setattr(evaluating, "evaluate", evaluate)


@pytest.mark.usefixtures("told")
def test_a_shift_test_leaves_the_first_evaluation_alone(trained, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text((trained / "config.yaml").read_text())
    for more in (
        [],
        ["env.mass=1.2"],
        ["env.mass=1.2", "--checkpoint", "0"],
        ["--best"],
        ["agent.cost_budget=[5]"],
    ):
        assert evaluate.main([str(folder), *more]) == 0
    found = {
        path.name.removeprefix("evaluation"): json.loads(path.read_text())
        for path in folder.glob("evaluation*.json")
    }
    said = {name: (file["set"], file["checkpoint"]) for name, file in found.items()}
    assert said.pop(".json") == ([], "last")
    assert said.pop("_env.mass=1.2.json") == (["env.mass=1.2"], "last")
    assert said.pop("_env.mass=1.2_checkpoint_0.json") == (["env.mass=1.2"], 0)
    assert said.pop("_best.json") == ([], "best")
    # What a file's name cannot hold is told apart by a digest.
    ((name, budget),) = said.items()
    assert budget == (["agent.cost_budget=[5]"], "last")
    assert re.fullmatch(r"_agent\.cost_budget=-5-_[0-9a-f]{8}\.json", name)


@pytest.mark.usefixtures("told")
def test_what_was_played_is_shown_though_no_file_can_be_written(trained, capsys):
    out = trained / "config.yaml" / "evaluation.json"
    assert evaluate.main([str(trained), "--out", str(out)]) == 2
    shown = capsys.readouterr()
    assert "violating" in shown.out
    (line,) = shown.err.splitlines()
    assert line.startswith(f"safex: {out} cannot be written: ")
    assert line.endswith("--out FILE names another place")


def test_a_folder_that_cannot_be_read_is_one_line(trained, capsys, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(evaluate, "read_plain", refuse)
    assert evaluate.main([str(trained)]) == 2
    assert capsys.readouterr().err == f"safex: Permission denied: {trained}\n"
