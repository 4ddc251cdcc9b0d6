"""Agents without a model from the command line to the report."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from rich.console import Console

from experiments import evaluate, evaluating, resume, running
from experiments.building import (
    build_env,
    build_model_free,
    build_trainer,
    build_vector,
)
from experiments.compare import main as compare
from experiments.configuration import (
    ModelFreeConfig,
    fingerprint,
    numbers_of,
    plain_of,
    read_config,
    read_mapping,
    require_planning,
)
from experiments.jobs import Job, read_launch, write_launch
from experiments.overrides import read_command_line
from experiments.plot import main as plot
from experiments.progress import make_display
from experiments.registry import AGENTS, Choice
from experiments.running import run_job
from experiments.tables import model_free_table
from experiments.watch import table, watch
from experiments.wholeness import missing
from safex.config import OFF_POLICY_KINDS, OFF_POLICY_PRESETS
from safex.errors import ConfigError, ContractError
from safex.training.account import load_record
from safex.training.files import read_sealed, sealed
from safex.training.model_free_report import _filled, _stretches, read_seed
from safex.training.off_policy import RoundProgress, evaluation_records
from safex.training.page import write_page
from safex.training.plots.training import Stretch, plot_learned, plot_training
from safex.training.results import read_all
from tests.finished_run import seed_of, write_run
from tests.test_configuration import (
    CONFIG_DIR,
    MODEL_FREE,
    TASKS,
    compose_config,
)
from tests.test_video import read_back

TINY = (
    "method=ddpg_lag",  # compiles fastest
    "preset=debug",
    "wandb.mode=disabled",
    "job.num_seeds_per_hparam=2",
    "env.max_steps=20",
    "env.speed_threshold=1",
    "cost_budget=4",
    "train.total_steps=280",
    "train.random_steps=80",
    "train.eval_every=3",
    "agent.features=[8]",
    "agent.batch_size=16",
)


def read(*line, name="launcher_pendulum"):
    arguments, _ = read_command_line(CONFIG_DIR, name, list(line))
    return read_config(compose_config(*arguments, name=name))


def config_in(folder, *more):
    return read(*TINY, f"results_dir={folder}", "verbose=false", *more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(running, "set_up_jax", lambda *arguments: None)
    patch.setattr(evaluating, "set_up_jax", lambda *arguments: None)
    folder = tmp_path_factory.mktemp("job") / "whole"
    run_job(config_in(folder))
    yield folder
    patch.undo()


def test_every_method_composes_and_one_does_for_every_task():
    lines = [(TASKS[0], method, "debug") for method in MODEL_FREE]
    lines += [(task, "cvpo", "default") for task in TASKS]
    for task, method, preset in lines:
        name = f"launcher_{task}"
        config = read(f"method={method}", f"preset={preset}", name=name)
        assert isinstance(config, ModelFreeConfig)
        assert (config.task, config.method) == (task, method)
        assert config.model_name == "model_free"
        assert config.wandb.group_name == f"{task}_{method}_model_free"
        small = config.train.total_steps == 1600
        assert small == (preset == "debug")
        # As a finished run writes it down, and as another process reads it.
        again = read_mapping(json.loads(json.dumps(plain_of(config))))
        assert again == config
        assert fingerprint(again) == fingerprint(config)


def test_the_yaml_of_a_method_says_what_its_class_does():
    assert (*AGENTS,) == ("MPC", *OFF_POLICY_KINDS)
    for method in MODEL_FREE:
        kind, settings = read(f"method={method}").agent
        assert kind.lower() == method.replace("_", "")
        assert settings == AGENTS[kind]()


def test_agents_of_every_kind_are_built():
    config = read("method=cvpo")
    env = build_env(config)
    for kind in OFF_POLICY_KINDS:
        choice = Choice(kind, AGENTS[kind]())
        agent = build_model_free(dataclasses.replace(config, agent=choice), env)
        assert agent.critics.num_costs == (0 if kind in ("SAC", "TD3", "DDPG") else 1)


def test_who_counts_on_full_episodes_has_reason_to_warn_of_others():
    def warns(*settings):
        trainer = build_trainer(read(*settings), print, lambda progress: None)
        return not trainer._told_of_length

    assert warns("method=cvpo", "agent.threshold=even")
    assert not warns("method=cvpo")
    assert not warns("method=sac_lag")


def test_presets_named_after_papers_have_their_numbers():
    for name, (kind, settings) in OFF_POLICY_PRESETS.items():
        method = next(m for m in MODEL_FREE if m.replace("_", "") == kind.lower())
        agent = read(f"method={method}", f"preset={name}").agent
        assert agent == (kind, settings)


def test_planners_are_configured_as_before():
    config = read("agent.kind=MPC")
    assert config == read()
    assert "kind" not in numbers_of(config)["agent"]
    assert read("cost_budget=3").agent.cost_budget == (3.0,)
    assert read("method=cvpo", "cost_budget=[3]").agent.settings.cost_budget == (3.0,)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("method=cvpo model=gp", "model cannot be set with agent.kind CVPO"),
        ("method=cvpo planner.kind=Safe", "agent.kind CVPO has no planner"),
        ("method=cvpo optimizer.num_iter=2", "agent.kind CVPO has no optimizer"),
        ("method=cvpo horizon=3", "agent.kind CVPO has no horizon"),
        ("method=cvpo calibration.method=none", "has no calibration"),
        ("method=cvpo train.num_model_updates=3", "has no train.num_model_updates"),
        ("method=cvpo agent.beta=2", "agent.kind CVPO has no agent.beta"),
        ("method=sac agent.estep_kl=1", "of agent.kind SAC: CVPO has it"),
        ("train.total_steps=3", "agent.kind MPC has no train.total_steps"),
        ("model=model_free", "method minmax plans in a model: choose one"),
        ("agent.kind=CVPO", "agent.kind cannot be CVPO with method=minmax"),
        ("method=cvpo agent.kind=MPC", "agent.kind cannot be MPC with method=cvpo"),
        ("method=cvpo agent.kind=CVPX", "did you mean CVPO"),
        ("method=cvpo train.nun_envs=3", "did you mean train.num_envs"),
        ("method=cvpo train.num_envs=2.5", "train.num_envs must be an int, got 2.5"),
        ("method=cvpo train.random_steps=-1", "train.random_steps must be >= 0"),
        ("cost_budget=3 agent.cost_budget=2", "only one of them can be set"),
        ("method=cvpo cost_budget=-1", "agent.cost_budget must be >= 0"),
        (
            "method=cvpo job.cores_per_decision=2 job.seeds_per_process=1",
            "job.cores_per_decision must be 1 with agent.kind CVPO",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(line, words):
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        read(*line.split())


def test_a_section_of_a_planner_in_a_file_is_refused():
    plain = plain_of(read("method=cvpo")) | {"planner": {"kind": "Safe"}}
    with pytest.raises(
        ConfigError, match=r"planner cannot be set with agent\.kind CVPO"
    ):
        read_mapping(plain)
    # As the files of these methods take it away.
    assert read_mapping(plain | {"planner": None}) == read("method=cvpo")


def test_another_agent_of_the_same_sort_drops_what_it_has_not():
    line = ["method=cvpo", "agent.kind=SACLag", "agent.pid.k_p=1"]
    arguments, (note,) = read_command_line(CONFIG_DIR, "launcher_pendulum", line)
    config = read_config(compose_config(*arguments))
    assert config.agent.settings.pid.k_p == 1.0
    assert "SACLag has no threshold, estep_newest, num_samples" in note


def test_a_task_that_an_agent_cannot_do_is_refused():
    config = read("method=cvpo")

    class Task:
        obs_dim, action_dim, num_constraints, max_steps = 3, 1, 1, 20

    class Discrete(Task):
        action_dim = None

    class Free(Task):
        num_constraints = 0

    with pytest.raises(ConfigError, match=r"continuous actions.*no action_dim"):
        build_model_free(config, Discrete())
    with pytest.raises(ContractError, match="says no cost"):
        build_model_free(config, Free())
    with pytest.raises(ConfigError, match=r"agent\.cost_budget needs 1 entry, got 2"):
        build_model_free(read("method=cvpo", "cost_budget=[1,2]"), Task())
    build_model_free(read("method=cvpo", "cost_budget=0"), Task())


def test_a_random_phase_of_all_rounds_is_refused():
    config = read("method=cvpo", "train.total_steps=1700", "train.random_steps=1650")
    # Of 1600 steps, as 8 environments of 200.
    with pytest.raises(ConfigError, match=r"train\.random_steps 1650 are all of the 2"):
        build_model_free(config, build_env(config))


def test_a_foreign_task_makes_its_own_environments():
    class Foreign:
        def make_vector(self, num_envs):
            return num_envs

    assert build_vector(Foreign(), 3) == 3
    assert build_vector(build_env(read("method=cvpo")), 2).num_envs == 2


def test_points_of_a_grid_are_programs_of_their_own(tmp_path):
    line = (*TINY, "job.grid={agent.cost_budget:[1,2],train.total_steps:[200,280]}")
    job = Job.of(read(*line))
    assert len(job.programs) == 4
    units = job.units(1)
    assert [(u.program, u.runs) for u in units[:3]] == [
        (0, ((0, 0),)),
        (0, ((0, 1),)),
        (1, ((1, 0),)),
    ]
    # Each point has steps of its own.
    for point, steps in ((0, 200), (1, 200)):
        folder = job.folder_of(tmp_path, (point, 0)) / "checkpoints"
        folder.mkdir(parents=True)
        (folder / f"step_{steps:04d}.ckpt").touch()
    left = {unit.runs[0] for unit in job.left_of(tmp_path, units)}
    assert (0, 0) not in left
    assert (1, 0) in left
    write_launch(tmp_path, job.config, units)
    again, _ = read_launch(tmp_path)
    told = [[numbers_of(p.config) for p in j.points] for j in (again, job)]
    assert told[0] == told[1]


def test_the_summary_has_what_all_that_reads_it_needs(whole):
    summary = read_sealed(whole / "summary.json")
    assert (summary["agent"], summary["model"]) == ("DDPGLag", "model_free")
    # 280 steps in rounds of 40, the first two at random.
    assert summary["point_steps"] == [120, 160, 200, 240, 280]
    assert summary["limits"][0]["cost_budget"] == 4.0
    for index, seed in enumerate(summary["seeds"]):
        found = read_seed(whole / f"seed_{index}")
        counted = sum(e["violating_steps"] for e in found.episodes)
        assert seed["training_violating_steps"] == counted > 0
        assert sum(seed["episode_violating_steps"]) == counted
        random = sum(r["train/account/violating_steps"] for r in found.rows[:2])
        assert seed["random_violating_steps"] == random
        assert seed["episode_violating_steps"][0] == random
        trained = [e for e in found.episodes if e["phase"] == "train"]
        over = sum(e["cost_return"][0] > 4 for e in trained)
        assert seed["episodes_over_budget"] == over
        last = [e for e in found.evaluations if e["step"] == 280]
        mean = np.mean([e["return"] for e in last])
        assert seed["final_return"] == pytest.approx(mean)
        assert seed["evaluation"]["within_budget"] == (
            seed["evaluation"]["cost"][0] <= 4
        )
        assert len(seed["episode_returns"]) == summary["episodes"] == 5
    assert (whole / "report.html").stat().st_size > 10_000
    names = {path.name for path in (whole / "plots").iterdir()}
    assert names == {"training.png", "learned.png", "evaluation.png"}


def test_the_table_has_violations_first_and_fits_a_terminal(whole, capsys):
    summary = read_sealed(whole / "summary.json")
    console = Console(width=80)
    console.print(model_free_table(summary))
    printed = capsys.readouterr().out
    assert "ddpg_lag on pendulum, 280 steps" in printed
    heading = printed[: printed.index("─")]
    assert heading.index("violating") < heading.index("return")
    assert "…" not in printed


def test_a_run_is_compared_with_one_of_a_planner(whole, tmp_path):
    planned = write_run(tmp_path / "planned", [seed_of(1, [2, 1, 0], [1.0, 2.0])])
    (result,) = read_all([whole], None)
    assert result.label == "ddpg_lag"
    limits = result.summary["limits"]
    summary = json.loads((planned / "summary.json").read_text())
    summary["limits"] = limits
    (planned / "summary.json").write_text(json.dumps(summary))
    assert compare([str(whole), str(planned), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "| ddpg_lag |" in text
    results = read_all([whole, planned], None)
    write_page(tmp_path / "page.html", results)
    page = (tmp_path / "page.html").read_text()
    assert "2 experiments on pendulum" in page
    assert "seeds with an agent that met the budget" in page


def test_figures_can_be_drawn_again(whole, tmp_path):
    out = tmp_path / "figures"
    assert plot([str(whole), "--out", str(out), "--format", "pdf"]) == 0
    assert (out / "training.pdf").exists()


def test_watch_says_the_steps(whole, capsys):
    (run,) = watch(whole)
    assert (run.state, run.episodes) == ("done", 280)
    assert [seed.episode for seed in run.seeds] == [280, 280]
    total = read_sealed(whole / "summary.json")["seeds"][0]
    assert run.seeds[0].violating_steps == total["training_violating_steps"]
    Console(width=100).print(table([run], whole))
    assert "280/280" in capsys.readouterr().out


@pytest.mark.parametrize("best", [False, True])
def test_an_agent_is_evaluated_from_its_last_and_best_checkpoint(whole, best, capsys):
    flags = ["--best"] if best else []
    out = whole.parent / f"evaluation_{best}.json"
    arguments = [str(whole), "--episodes", "2", *flags, "--out", str(out)]
    assert evaluate.main(arguments) == 0
    found = json.loads(out.read_text())
    summary = read_sealed(whole / "summary.json")
    steps = [s["best"]["step"] if best else 280 for s in summary["seeds"]]
    assert [s["learned_from"] for s in found["seeds"]] == steps
    assert all(len(s["returns"]) == 2 for s in found["seeds"])
    assert f"{'best' if best else 'last'} checkpoint" in capsys.readouterr().out


def test_an_agent_is_evaluated_from_any_kept_checkpoint(whole, capsys):
    kept = sorted((whole / "seed_0" / "checkpoints").glob("step_*.ckpt"))
    steps = [int(path.stem.removeprefix("step_")) for path in kept]
    assert len(steps) == 2 and steps[-1] == 280
    out = whole.parent / "earlier.json"
    line = [str(whole), "--episodes", "2", "--out", str(out), "--checkpoint"]
    assert evaluate.main([*line, str(steps[0])]) == 0
    found = json.loads(out.read_text())
    assert found["checkpoint"] == steps[0]
    assert [seed["learned_from"] for seed in found["seeds"]] == 2 * [steps[0]]
    shown = capsys.readouterr()
    assert f"checkpoint {steps[0]}" in shown.out and shown.err == ""
    assert evaluate.main([*line, "1"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.endswith(f"has no checkpoint 1; there are: {steps[0]}, {steps[1]}")


@pytest.mark.parametrize("best", [False, True])
def test_an_agent_is_evaluated_in_episodes_of_another_length(whole, best):
    out = whole.parent / "longer.json"
    flags = ["--best"] if best else []
    arguments = [str(whole), "env.max_steps=25", "--out", str(out)]
    assert evaluate.main(["--episodes", "2", *arguments, *flags]) == 0
    longer = json.loads(out.read_text())
    assert longer["set"] == ["env.max_steps=25"]
    arguments[1] = "env.max_steps=20"
    assert evaluate.main(["--episodes", "2", *arguments, *flags]) == 0
    returns = [
        [value for seed in found["seeds"] for value in seed["returns"]]
        for found in (longer, json.loads(out.read_text()))
    ]
    # Rewards are below 0: each of the longer ones has more of them.
    assert len(returns[0]) == len(returns[1]) == 4
    assert sum(returns[0]) < sum(returns[1]) < 0


SLOPE = (
    "preset=debug",
    "wandb.mode=disabled",
    "method=ddpg_lag",
    "env.kind=Gymnasium",
    "env.module=tests.foreign",
    "env.id=Slope-v0",
    "env.max_steps=9",
    "cost_budget=1",
    "job.num_seeds_per_hparam=1",
    "train.total_steps=216",
    "train.num_envs=4",
    "train.random_steps=72",
    "train.eval_every=3",
    "agent.features=[8]",
    "agent.batch_size=16",
    "verbose=false",
)


def foreign_run(folder, *more):
    config = read(*SLOPE, f"results_dir={folder}", *more, name="launcher_bullet")
    run_job(config)
    return config


@pytest.fixture(scope="module")
def sloped(whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("slope") / "run"
    foreign_run(folder, "env.workers=0", "render=true")
    return folder


def test_no_number_of_a_run_depends_on_who_steps_its_environments(sloped, tmp_path):
    other = tmp_path / "other"
    config = foreign_run(other, "env.workers=2", "render=false")
    assert "workers" not in numbers_of(config)["env"]
    for name in ("episodes", "evaluations", "metrics"):
        found = [(f / "seed_0" / f"{name}.jsonl").read_bytes() for f in (sloped, other)]
        assert found[0] == found[1]
        assert found[0].count(b"\n") >= 3
    # So one goes on with other workers: to the run that it is, it is whole.
    assert not list(missing(other, foreign_run(other, "env.workers=1")))


def test_a_foreign_task_is_filmed_as_it_was_evaluated(sloped):
    frames, fps, _ = read_back(sloped / "videos" / "seed_0.mp4")
    (first, *_) = read_seed(sloped / "seed_0").evaluations[-10:]
    assert len(frames) == first["length"] + 1
    assert fps == 30
    # `Slope` draws a bar as far as it has come: it moves, and it ends where it was.
    bars = (frames.mean(-1) > 128).mean((1, 2))
    assert len(np.unique(bars.round(3))) > 3
    record = load_record(evaluation_records(sloped / "seed_0")[0])
    place = (record.next_obs[-1, 0] + 4) / 8
    assert bars[-1] == pytest.approx(place, abs=0.05)


def test_an_agent_of_a_foreign_task_is_evaluated_in_longer_episodes(sloped):
    out = sloped.parent / "longer.json"
    line = [str(sloped), "env.max_steps=12", "--episodes", "3", "--out", str(out)]
    assert evaluate.main(line) == 0
    (seed,) = json.loads(out.read_text())["seeds"]
    assert len(seed["returns"]) == 3


def test_what_is_about_models_refuses_an_agent_without_one():
    with pytest.raises(ConfigError, match="calibrate is about a model"):
        require_planning(read("method=cvpo"), "calibrate")


@pytest.mark.parametrize("name", ["metrics", "episodes", "evaluations", "timing"])
def test_what_is_damaged_is_run_again_with_the_same_numbers(whole, tmp_path, name):
    copy = shutil.copytree(whole, tmp_path / "copy")
    config = config_in(copy)
    assert not list(missing(copy, config))
    path = copy / "seed_1" / f"{name}.jsonl"
    lines = path.read_text().splitlines(True)
    path.write_text("".join(lines[:-1]) + lines[-1][:20])
    ((seed, first),) = missing(copy, config)
    assert (seed.name, first) == ("seed_1", 241)
    if name == "metrics":
        assert resume.main([str(copy)]) == 0
        assert (
            read_sealed(copy / "summary.json")["seeds"]
            == (read_sealed(whole / "summary.json")["seeds"])
        )
        for file in ("episodes.jsonl", "metrics.csv", "evaluations.jsonl"):
            one, other = (f / "seed_1" / file for f in (whole, copy))
            assert one.read_bytes() == other.read_bytes()
        newest = "seed_1/episodes/evaluation_280_0000001.npz"
        np.testing.assert_array_equal(
            load_record(copy / newest).obs, load_record(whole / newest).obs
        )


@pytest.mark.parametrize(
    ("name", "old", "new", "first"),
    [
        ("episodes", '"return": -', '"return": -1', 41),
        ("episodes", '"cost_return": [', '"cost_return": [1', 41),
        ("episodes", '"worst_excess": [', '"worst_excess": [1', 41),
        ("episodes", '"phase": "random', '"phase": "randnm', 41),
        ("episodes", '"episode"', '"episodd"', 41),
        ("episodes", '"violating_steps"', '"violatinf_steps"', 41),
        ("episodes", "sha256", "sha257", 41),
        ("evaluations", '"return": -', '"return": -1', 201),
        ("evaluations", '"cost_return": [', '"cost_return": [1', 201),
        ("evaluations", '"violating_steps"', '"violatinf_steps"', 201),
        ("timing", '"updates": ', '"updates": 1', 41),
        ("timing", '"updates"', '"updatet"', 41),
    ],
)
@pytest.mark.parametrize("is_sealed", [True, False])
def test_a_digit_or_a_name_that_is_not_its_own_is_found(
    whole, tmp_path, name, old, new, first, is_sealed
):
    copy = shutil.copytree(whole, tmp_path / "copy")
    path = copy / "seed_0" / f"{name}.jsonl"
    lines = path.read_text().splitlines()
    # Of the second round, and of the second evaluation, after the sixth.
    number = 1 if name == "timing" else 2
    assert old in lines[number]
    lines[number] = lines[number].replace(old, new, 1)
    if not is_sealed:
        # Of an earlier version: a wrong digit goes unnoticed, a name ends nothing.
        lines = [json.dumps(unsealed(json.loads(line))) for line in lines]
    path.write_text("\n".join(lines) + "\n")
    found = [step for _, step in missing(copy, config_in(copy))]
    believed = not is_sealed and not re.fullmatch(r'"[a-z_]+"', old)
    assert found == ([] if believed else [first])


def unsealed(entry):
    return {k: v for k, v in entry.items() if not k.startswith("sha25")}


def test_episodes_that_the_end_cut_off_cost_the_last_round_alone(whole, tmp_path):
    copy = shutil.copytree(whole, tmp_path / "copy")
    # As if the last round had left an episode under way, whose line is torn.
    path = copy / "seed_0" / "episodes.jsonl"
    lines = path.read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["complete"]
    rows = copy / "seed_0" / "metrics.jsonl"
    text = rows.read_text()
    number = f'"train/episode/number": {len(lines)}'
    assert text.count(number) == 1
    text = text.replace(number, f'"train/episode/number": {len(lines) - 1}')
    rows.write_text(text)
    table = copy / "seed_0" / "metrics.csv"
    header, *told = [line.split(",") for line in table.read_text().splitlines()]
    told[-1][header.index("train/episode/number")] = str(len(lines) - 1)
    table.write_text("".join(",".join(row) + "\n" for row in [header, *told]))
    cut = sealed(unsealed(last) | {"complete": False})
    path.write_text("\n".join([*lines[:-1], json.dumps(cut)]) + "\n")
    config = config_in(copy)
    assert not list(missing(copy, config))
    path.write_text("\n".join(lines[:-1]) + "\n" + json.dumps(cut)[:40])
    assert [step for _, step in missing(copy, config)] == [241]


def test_what_cannot_be_read_now_is_said_and_costs_nothing(whole, tmp_path, capsys):
    copy = shutil.copytree(whole, tmp_path / "copy")
    path = copy / "seed_1" / "evaluations.jsonl"
    path.unlink()
    path.symlink_to(path.name)
    before = sorted(copy.rglob("*.ckpt"))
    assert resume.main([str(copy)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "evaluations.jsonl cannot be read: Too many levels" in line
    assert sorted(copy.rglob("*.ckpt")) == before


def test_curves_have_a_point_for_each_stretch(whole):
    found = read_seed(whole / "seed_0")
    stretches = _stretches(found, None, 2)
    assert [s.step for s in stretches] == [80, 200, 280]
    assert (
        sum(s.violating_steps for s in stretches)
        == (found.rows[-1]["train/account/cumulative_violating_steps"])
    )
    inside = [e["return"] for e in found.episodes if 80 < e["step"] <= 200]
    assert stretches[1].value == pytest.approx(np.mean(inside))


def test_a_stretch_without_an_episode_repeats_its_neighbour():
    known = [
        Stretch(1, None, (), 1),
        Stretch(2, 5.0, (3.0,), 0),
        Stretch(3, None, (), 2),
    ]
    found = _filled(known)
    assert [(s.value, s.violating_steps) for s in found] == [
        (5.0, 1),
        (5.0, 0),
        (5.0, 2),
    ]


def test_each_constraint_has_a_panel_with_its_budget(tmp_path):
    parts = [Stretch(0, None, (), 0), *(Stretch(s, s, (s, 0.0), 1) for s in (1, 2))]
    marks = [Stretch(2, 1.0, (2.0, 0.0), 0)]
    names = ["theta", "left wall"]
    figure = plot_training(
        tmp_path / "a.png", [parts], [marks], [1.0, 0.0], names, random_steps=0
    )
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["", "", "θ, budget 1", "left wall, budget 0"]
    figure = plot_learned(tmp_path / "b.png", {"loss": [([1, 2], [5.0, 5.0])]})
    low, high = figure.axes[0].get_ylim()
    assert (low, high) == pytest.approx((4.725, 5.275))


def test_progress_is_a_line_for_rounds(capsys):
    config = read(*TINY).train
    with make_display(Console(width=200), config, ["1/1"], quiet=False) as display:
        display.update(RoundProgress(0, 40, 2, 1.5, (3.0,), 7, None, None))
        display.update(RoundProgress(0, 280, 14, 2.5, (4.0,), 9, 6.0, (1.0,)))
    printed = capsys.readouterr().out
    assert "step 40/280  return 1.5  cost 3.0  evaluated - at cost -" in printed
    assert "evaluated 6.0 at cost 1.0  violations so far 9" in printed
