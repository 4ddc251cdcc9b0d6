"""Every shipped YAML builds an agent; every mistake is named before any compute."""

import dataclasses
import itertools
import shutil
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from experiments import building
from experiments.building import build_agent, build_env
from experiments.configuration import (
    ExperimentConfig,
    differences,
    fingerprint,
    from_mapping,
    numbers_of,
    plain_of,
    read_config,
    read_mapping,
)
from experiments.grid import Point, expand, same_program
from experiments.overrides import quote_choices, read_command_line
from experiments.registry import KINDS
from safex import config as config_module
from safex import rollout
from safex.config import TerminalConfig
from safex.constraints import penalty
from safex.constraints.penalty import Penalty
from safex.envs.pendulum import Pendulum
from safex.errors import ConfigError, SafexError
from safex.models import networks

CONFIG_DIR = Path(__file__).resolve().parents[1] / "experiments" / "config"
NAME = "launcher_pendulum"


def choices(group):
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


MEMBERS = config_module.SafeConfig("TSInf", 5, risk=config_module.RiskConfig("members"))
FIVE_MEMBERS = ("bnn", "fsvgd")
# Tasks of other packages share a launcher each; test_suite_launchers.py has them.
TASKS = [task for task in choices("task") if not task.startswith("Safety")]
SUITES = ["bullet", "safety_gymnasium"]
MODELS = [model for model in choices("model") if model != "model_free"]
# Those without a model are in test_model_free.
MODEL_FREE = ("cvpo", "ddpg", "ddpg_lag", "sac", "sac_lag", "td3", "td3_lag")
METHODS = [method for method in choices("method") if method not in MODEL_FREE]


def compose_config(*overrides, name=NAME):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose(name, overrides=quote_choices(overrides))


def read(*overrides, name=NAME):
    return read_config(compose_config(*overrides, name=name))


@pytest.mark.parametrize(
    ("task", "methods", "models"),
    [
        *((task, METHODS, ["bnn"]) for task in TASKS),
        ("pendulum", ["safe", "safe_members", "minmax"], MODELS),
    ],
)
def test_every_yaml_builds_the_agent_it_names(task, methods, models):
    for method, model in itertools.product(methods, models):
        config = read(f"method={method}", f"model={model}", name=f"launcher_{task}")
        assert (config.task, config.method) == (task, method)
        assert config.model_name == model
        assert config.wandb.group_name == f"{task}_{method}_{model}"
        assert config.wandb.job_name == f"{method}_{model}"
        assert config.wandb.project_name == f"safex-{task}"
        if config.planner.settings == MEMBERS and model not in FIVE_MEMBERS:
            # None at all, or more than the method has particles.
            with pytest.raises(SafexError, match=r"members|TSInf"):
                build_agent(config, build_env(config))
            continue
        agent = build_agent(config, build_env(config))
        assert agent.planner.horizon == config.horizon
        assert agent.optimizer.config.horizon == config.horizon
        for section in ("planner", "optimizer", "constraint"):
            kind = getattr(config, section).kind
            part = {"constraint": "rule"}.get(section, section)
            assert type(getattr(agent, part)).__name__ == kind
        # The learned models are calibrated ones, so their kind is in their settings.
        assert (type(agent.model).__name__ == "TrueDynamics") == (model == "true")


def test_there_is_a_launcher_and_a_job_for_every_task():
    folder = CONFIG_DIR.parent
    launchers = sorted(path.stem for path in folder.glob("launcher_*.py"))
    assert launchers == sorted(f"launcher_{task}" for task in [*TASKS, *SUITES])
    assert choices("job") == sorted(f"{task}_job" for task in [*TASKS, *SUITES])


def test_every_kind_of_a_yaml_can_be_built():
    tables = {
        "env": building.SYSTEMS,
        "model": {**building.MODELS, "TrueDynamics": None},
        "planner": building.PLANNERS,
        "optimizer": {**building.OPTIMIZERS, "MinMax": None},
        "constraint": building.RULES,
    }
    for section, table in tables.items():
        assert set(table) == set(KINDS[section]), section


def test_a_configuration_reads_back_what_it_wrote():
    config = read("env.mass=1.5", "agent.beta=[1,1,2]", "method=safe")
    assert read_mapping(plain_of(config)) == config


def test_overrides_reach_the_dataclasses():
    config = read(
        "agent.beta=[1,1,2]",
        "agent.pes_schedule.kind=sigmoid",
        "env.mass=1.5",
        "constraint.kind=Penalty",
        "+constraint.barrierfn=huber",
        "model.kind=DeterministicEnsemble",
        "horizon=7",
        "agent.cost_budget=3",
    )
    assert config.agent.beta == (1.0, 1.0, 2.0)
    assert config.agent.pes_schedule.kind == "sigmoid"
    assert config.agent.opt_schedule.kind == "constant"
    env = build_env(config)
    assert float(env.params.mass) == 1.5
    agent = build_agent(config, env)
    assert agent.rule == Penalty(1.0, "huber")
    assert agent.optimizer.config.horizon == agent.planner.horizon == 7
    # The budget is spread over the steps that an episode really has.
    assert agent.config.episode_steps == 200
    assert agent.config.cost_budget == (3.0,)
    short = read("train.num_rollout_steps=50")
    assert build_agent(short, env).config.episode_steps == 50


OWN_SETTINGS = """
import dataclasses


@dataclasses.dataclass(frozen=True)
class Depth:
    top: float = 1.0


@dataclasses.dataclass(frozen=True)
class OwnConfig:
    mass: float = 1.0
    depth: Depth = Depth()


class Own:
    config_class = OwnConfig
"""
OWN = """
from safex.envs.pendulum import Pendulum


class Own(Pendulum):
    pass


class Broken:
    pass
"""


def test_an_environment_of_ones_own_needs_no_entry(tmp_path, monkeypatch):
    (tmp_path / "own_systems.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    config = read("env.kind=own_systems:Own", "env.mass=2")
    env = build_env(config)
    assert type(env).__name__ == "Own"
    assert float(env.params.mass) == 2.0
    for kind, words in (
        ("own_systems:Missing", "cannot be imported"),
        ("no_module:Own", "cannot be imported"),
        ("own_systems:Broken", "config_class"),
    ):
        with pytest.raises(ConfigError, match=words):
            read(f"env.kind={kind}")


OWN_PARTS = """
import dataclasses

from examples.own_model import FourierRegression
from examples.own_optimizer import EvolutionStrategy


@dataclasses.dataclass(frozen=True)
class StrategyConfig:
    horizon: int = 20
    num_samples: int = 64


class Strategy(EvolutionStrategy):
    config_class = StrategyConfig

    def __init__(self, action_dim, config):
        super().__init__(action_dim, config.horizon, config.num_samples)


@dataclasses.dataclass(frozen=True)
class FourierConfig:
    num_features: int = 100


class Fourier(FourierRegression):
    config_class = FourierConfig

    def __init__(self, obs_dim, action_dim, config):
        super().__init__(obs_dim, action_dim, config.num_features)


class NoHorizon(Strategy):
    config_class = FourierConfig


class Strange(Strategy):
    def __init__(self, config):
        pass


@dataclasses.dataclass(frozen=True)
class Idle:
    action_dim: int
    config: StrategyConfig
    config_class = StrategyConfig


class Silent:
    pass
"""


@pytest.fixture
def own_parts(tmp_path, monkeypatch):
    (tmp_path / "own_parts.py").write_text(OWN_PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    # Another test's file of that name is another module.
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)


def test_a_model_and_an_optimizer_of_ones_own_need_no_entry(own_parts):
    config, _ = read_line(
        "method=safe model.kind=own_parts:Fourier model.num_features=30 "
        "optimizer.kind=own_parts:Strategy optimizer.num_samples=16 horizon=7"
    )
    agent = build_agent(config, build_env(config))
    assert type(agent.model.base).__name__ == "Fourier"
    assert agent.model.base.num_features == 30
    assert agent.model.config == config.calibration
    assert type(agent.optimizer).__name__ == "Strategy"
    assert (agent.optimizer.horizon, agent.optimizer.num_samples) == (7, 16)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("model.kind=own_parts:Forier", "model.kind own_parts:Forier cannot be impo"),
        ("optimizer.kind=no_parts:A", "optimizer.kind no_parts:A cannot be imported"),
        ("model.kind=own_parts:Silent", "model.kind .* config_class.*extending.md"),
        ("optimizer.kind=own_parts:NoHorizon", "needs a field horizon"),
        ("optimizer.kind=own_parts:Strange", r"made of \(action_dim, settings\)"),
        ("optimizer.kind=own_parts:Idle", "Idle has no init, shift, optimize"),
        ("model.kind=BNN", "model.kind must be one of .* or module:Class, got 'BNN'"),
        ("planner.kind=own_parts:Silent", r"must be one of [^:]*, got 'own_parts"),
    ],
)
def test_a_wrong_part_of_ones_own_is_one_clear_error(own_parts, kind, words):
    with pytest.raises(ConfigError, match=words):
        config, _ = read_line(f"method=safe {kind}")
        build_agent(config, build_env(config), check=False)


def test_a_grid_is_every_combination():
    points = expand(
        read("job.grid={agent.pes_alpha:[1,2],model.num_ensembles:[3,4,5]}")
    )
    assert len(points) == 6
    assert [p.config.agent.pes_alpha for p in points] == [1.0] * 3 + [2.0] * 3
    assert [p.config.model.settings.num_ensembles for p in points] == [3, 4, 5] * 2
    assert points[1].name == "agent.pes_alpha=1,model.num_ensembles=4"
    assert len({p.config.wandb.group_name for p in points}) == 6
    assert all(p.config.job.grid is None for p in points)
    # The widths are traced, the architecture is not.
    groups = same_program(points)
    assert [[p.name for p in group] for group in groups] == [
        [points[i].name, points[i + 3].name] for i in range(3)
    ]


def test_numbers_of_the_system_and_the_budget_share_a_program():
    grid = "job.grid={env.mass:[1,2],agent.cost_budget:[0,5],planner.noise_alpha:[1,3]}"
    assert [len(group) for group in same_program(expand(read(grid)))] == [8]
    steps = "job.grid={env.max_steps:[100,200]}"
    assert [len(group) for group in same_program(expand(read(steps)))] == [1, 1]


def test_numbers_of_another_shape_need_another_program():
    noise = "[0,[1,1,1,1,1,1,1],1]"
    points = expand(
        read(f"job.grid={{env.observation_noise_std:{noise}}}", name="launcher_rc_car")
    )
    groups = same_program(points)
    assert [[points.index(p) for p in group] for group in groups] == [[0, 2], [1]]
    # One number for all dimensions or one for each is the same shape in the end.
    beta = expand(read("job.grid={agent.beta:[1,[1,2,3]]}"))
    assert [len(group) for group in same_program(beta)] == [2]


def test_one_point_is_asked_for_nothing(monkeypatch):
    monkeypatch.setattr("experiments.grid.build_env", lambda config: object())
    point = Point(read(), "", {})
    assert same_program([point]) == [[point]]


def test_without_a_grid_there_is_one_point():
    (point,) = expand(read())
    assert (point.name, dict(point.settings)) == ("", {})
    assert point.config == read()


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ("{agent.pes_alpa:[1]}", ["job.grid", "agent.pes_alpa", "pes_alpha"]),
        ("{agent.pes_alpha:[-1]}", ["agent.pes_alpha", ">= 0"]),
        ("{agent.pes_alpha:1}", ["job.grid", "list"]),
        ("{agent.pes_alpha:[]}", ["job.grid", "at least one"]),
        ("{agent.pes_alpha:[1,1]}", ["job.grid", "twice"]),
        ("3", ["job.grid", "map"]),
        ("{job.seed:[1,2]}", ["job.grid", "job.seed", "all points"]),
        ("{wandb.mode:[online]}", ["job.grid", "wandb.mode", "all points"]),
        ("{results_dir:[a,b]}", ["job.grid", "results_dir"]),
        ("{render:[true,false]}", ["job.grid", "render"]),
        ("{verbose:[true]}", ["job.grid", "verbose"]),
        ("{method:[a,b]}", ["job.grid", "method"]),
    ],
)
def test_a_wrong_grid_is_refused_by_name(grid, words):
    with pytest.raises(ConfigError) as caught:
        expand(read(f"job.grid={grid}"))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("horizon=-3", ["horizon", ">= 1", "-3"]),
        ("+optimizer.horizon=3", ["optimizer.horizon", "the key horizon"]),
        ("optimizer.num_elites_x=100", ["optimizer.num_elites_x", "num_samples_x"]),
        ("method=safe search=minmax", ["planner.kind Safe", "CEM or ICEM", "MinMax"]),
        ("planner.kind=Safe", ["unknown key planner.noise_alpha", "kind Safe"]),
        ("search=icem", ["planner.kind Pessimistic", "MinMax", "got ICEM"]),
        ("planner.kind=Minmax", ["planner.kind", "Pessimistic", "'Minmax'"]),
        ("model.kind=ProbabilisticEnsembl", ["did you mean ProbabilisticEnsemble"]),
        ("env.kind=Pendlum", ["env.kind", "did you mean Pendulum", "module:Class"]),
        ("planner.sampling_mode=TS", ["planner.sampling_mode", "TS1", "'TS'"]),
        ("model.num_ensembles=two", ["model.num_ensembles", "an int", "'two'"]),
        ("model.num_ensembles=2.5", ["model.num_ensembles", "an int", "2.5"]),
        ("model.num_ensembles=true", ["model.num_ensembles", "an int", "bool"]),
        ("model.lr_rate=fast", ["model.lr_rate", "a float", "'fast'"]),
        ("model.lr_rate=nan", ["model.lr_rate", "finite", "nan"]),
        ("model.features=[64,wide]", ["model.features[1]", "'wide'"]),
        ("calibration.method=isotonic", ["calibration.method", "conformal"]),
        ("env.mass=0", ["env.mass", "> 0"]),
        ("train.num_exploration_steps=10", ["train.num_exploration_steps", ">= 50"]),
        ("train.buffer_size=100", ["train.buffer_size", "1700"]),
        ("wandb.mode=on", ["wandb.mode", "offline"]),
        ("+constraint.lmbda=1", ["unknown key constraint.lmbda"]),
        ("job.num_seeds_per_hparam=0", ["job.num_seeds_per_hparam", "[1, 1000]"]),
        ("job.seeds_per_process=0", ["job.seeds_per_process", ">= 1 or null"]),
        ("job.cores_per_decision=0", ["job.cores_per_decision", ">= 1"]),
        (
            "job.cores_per_decision=2",
            ["cores_per_decision", "job.seeds_per_process=1", "null"],
        ),
        ("agent.pes_alpha=-1", ["agent.pes_alpha", ">= 0"]),
        ("agent.opt_alpha=-1", ["agent.opt_alpha", ">= 0"]),
        ("planner.noise_alpha=-1", ["planner.noise_alpha", ">= 0"]),
        ("agent.beta=-1", ["agent.beta", ">= 0"]),
        ("model.plan_dtype=float16", ["model.plan_dtype", "bfloat16"]),
        ("agent.pes_schedule.kind=cosine", ["agent.pes_schedule.kind", "sigmoid"]),
        ("+model.typo=1", ["unknown key model.typo"]),
        (
            "+env.max_sped=1",
            ["unknown key env.max_sped", "did you mean env.max_speed or"],
        ),
        ("env=3", ["env must be a section"]),
        ("task=rc_car env.start=[1,2]", ["env.start needs 3 entries", "[1, 2]"]),
        ("task=rc_car env.goal=[1,2,3,4]", ["env.goal needs 3 entries"]),
        ("task=point_goal env.start=1", ["env.start needs 2 entries", "got 1"]),
        ("task=rc_car env.start=[1,2,x]", ["env.start[2]", "a float", "'x'"]),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(override, words):
    with pytest.raises(ConfigError) as caught:
        read(*override.split())
    for word in words:
        assert word in str(caught.value)


def test_k_above_n_in_icem():
    with pytest.raises(ConfigError, match=r"optimizer\.num_elites must not exceed"):
        read("method=safe", "optimizer.num_elites=1000")


@pytest.mark.parametrize(("name", "size"), [("beta", 3), ("cost_budget", 1)])
def test_a_list_of_the_wrong_length(name, size):
    config = read(f"agent.{name}=[1,2]")
    with pytest.raises(ConfigError, match=f"{name} needs 1 .*, got 2"):
        build_agent(config, Pendulum.from_config())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("method=safe_members model=gp", ["planner.sampling_mode", "no members"]),
        (
            "method=safe_members model=dropout",
            ["planner.risk 'members'", "num_particles >= 10", "got 5"],
        ),
        ("method=safe planner.sampling_mode=TS1 model=true", ["planner.sampling_mode"]),
        (
            "model=gp model.subset=none",
            ["model.max_data is 300", "set model.max_data=", "model.subset=farthest"],
        ),
    ],
)
def test_parts_that_do_not_go_together_are_named(line, words):
    config = read(*line.split())
    env = build_env(config)
    with pytest.raises(SafexError) as caught:
        build_agent(config, env)
    for word in words:
        assert word in str(caught.value)
    build_agent(config, env, check=False)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("agent.backup=policy", "agent.backup 'policy' needs an environment"),
        ("planner.terminal.steps=2", "planner.terminal.steps needs an environment"),
        ("planner.terminal.value=env", "planner.terminal.value 'env' needs"),
    ],
)
def test_what_a_system_lacks_is_named_by_the_setting(override, words):
    class Bare(Pendulum):
        backup = None
        terminal_value = None

    with pytest.raises(ConfigError) as caught:
        build_agent(read("method=safe", override), Bare.from_config())
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"value": "rest"}, "value must be one of .*hold"),
        ({"value": "backup"}, "value 'backup' needs steps >= 1"),
        ({"value": "hold"}, "value 'hold' needs steps >= 1"),
        ({"value": "hold", "steps": 1, "discount": 1.0}, "'hold' needs a discount"),
        ({"steps": 1, "discount": 0.0}, "discount must lie in"),
    ],
)
def test_a_terminal_value_that_is_none_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        TerminalConfig(**settings)


def test_a_gaussian_process_that_can_hold_the_run_is_built():
    config = read("model=gp", "model.subset=none", "model.max_data=1700")
    build_agent(config, build_env(config))


def test_noise_stds_of_the_wrong_length():
    config = read("model.kind=DeterministicEnsemble", "model.output_stds=[1,2]")
    with pytest.raises(ConfigError, match=r"model\.output_stds needs 1 or 3"):
        build_agent(config, Pendulum.from_config())


def test_decisions_share_out_the_cores_there_are():
    env = Pendulum.from_config()
    alone = "job.seeds_per_process=1"
    config = read(alone, "job.cores_per_decision=2")
    assert build_agent(config, env).optimizer.num_devices == 2
    config = read(alone, "job.cores_per_decision=3")
    with pytest.raises(ConfigError, match="must not exceed the 2 devices"):
        build_agent(config, env)


def test_the_choices_are_those_that_the_code_offers():
    assert tuple(networks.ACTIVATIONS) == config_module.ACTIVATIONS
    assert tuple(penalty.PENALTIES) == config_module.PENALTIES
    assert tuple(rollout.SAMPLING_MODES) == config_module.SAMPLING_MODES


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match="method is missing"):
        from_mapping(ExperimentConfig, {"task": "pendulum"})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train.num_model_update=3"], ["train.num_model_update", "num_model_updates"]),
        (["num_ensembles=3"], ["num_ensembles", "model.num_ensembles"]),
        (["method=minimax"], ["method must be one of", "optminmax", "minimax"]),
        (["model=gb"], ["model must be one of bnn,", "true", "gb"]),
        (["preset=fast"], ["preset must be one of", "debug, default"]),
        (["a=[1"], ["cannot read the command line"]),
        (["constraint.lmbda=1"], ["constraint.kind FeasibleFirst", "Penalty has it"]),
        (
            ["planner.kind=Safe", "planner.noise_alpha=1", "search=icem"],
            ["unknown key planner.noise_alpha", "kind Safe", "Pessimistic"],
        ),
        (
            ["+constraint.lmda=1", "constraint.kind=Penalty"],
            ["unknown key constraint.lmda", "constraint.lmbda"],
        ),
        (["planner.terminal.step=1"], ["planner.terminal.steps"]),
        (["++agent.bakcup=policy"], ["agent.backup"]),
        (["planner.kind=Minmax"], ["planner.kind must be one of", "'Minmax'"]),
        (["env.kind=no_module:Own"], ["env.kind no_module:Own", "cannot be imported"]),
    ],
)
def test_a_mistyped_command_line_is_explained(arguments, words):
    with pytest.raises(ConfigError) as caught:
        read_command_line(CONFIG_DIR, NAME, arguments)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["method=safe", "model=true"],
        ["preset=debug", "env.mass=2", "hydra.verbose=true"],
        ["method=safe", "optimizer.num_iter=2"],
        ["job.grid={agent.pes_alpha:[1,2]}"],
        ["--cfg", "job"],
        ["method=safe,minmax", "-m"],
    ],
)
def test_a_right_command_line_passes(arguments):
    line = read_command_line(CONFIG_DIR, NAME, arguments)
    assert line == (quote_choices(arguments), [])


def read_line(line):
    arguments, notes = read_command_line(CONFIG_DIR, NAME, line.split())
    return read(*arguments), notes


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("agent.backup=policy", "agent.backup", "policy"),
        ("+agent.backup=policy", "agent.backup", "policy"),
        (
            "agent.backup=policy ++agent.budget_switch=true",
            "agent.budget_switch",
            True,
        ),
        ("agent.switch_noise_alpha=1", "agent.switch_noise_alpha", 1.0),
        ("planner.terminal.steps=10", "planner.terminal.steps", 10),
        ("method=safe planner.risk.kind=max", "planner.risk.kind", "max"),
        ("method=safe +planner.risk.kappa=2", "planner.risk.kappa", 2.0),
        ("method=safe planner.separate=true", "planner.separate", True),
        (
            "planner.exploration={objective:epistemic_std,episodes:2}",
            "planner.exploration.episodes",
            2,
        ),
        ("planner.exploration.episodes=3", "planner.exploration.episodes", 3),
        ("constraint.kind=Penalty constraint.lmbda=10", "constraint.lmbda", 10.0),
        ("constraint.lmbda=10 constraint.kind=Penalty", "constraint.lmbda", 10.0),
        ("constraint={kind:Penalty} constraint.lmbda=10", "constraint.lmbda", 10.0),
        ("constraint.kind=PID +constraint.k_p=1", "constraint.k_p", 1.0),
        (
            "model=fsvgd model.kind=DeterministicFSVGD model.prior_scale=1",
            "model.prior_scale",
            1.0,
        ),
    ],
)
def test_every_field_of_a_kind_can_be_set_by_its_name(line, key, value):
    config, notes = read_line(line)
    assert notes == []
    found = plain_of(config)
    for part in key.split("."):
        found = found[part]
    assert found == value


def test_what_a_replaced_kind_leaves_behind_is_dropped():
    config, notes = read_line("planner.kind=Safe search=icem planner.risk.kind=max")
    assert config.planner.kind == "Safe"
    assert config.planner.settings.risk.kind == "max"
    (note,) = notes
    for word in ("planner.kind Safe", "noise_alpha", "Pessimistic", "dropped"):
        assert word in note


def test_a_mistake_in_a_file_is_not_dropped_with_a_replaced_kind(tmp_path):
    folder = shutil.copytree(CONFIG_DIR, tmp_path / "config")
    with (folder / "model" / "bnn.yaml").open("a") as file:
        file.write("  typo: 1\n")
    line = read_command_line(folder, NAME, ["model.kind=MCDropout"])
    assert "~model.num_ensembles" in line.arguments
    assert "~model.typo" not in line.arguments
    with initialize_config_dir(str(folder), version_base="1.3"):
        node = compose(NAME, overrides=line.arguments)
    with pytest.raises(ConfigError, match=r"unknown key model\.typo"):
        read_config(node)


def test_flags_stay_where_they_are():
    arguments = ["--cfg", "job", "model.kind=MCDropout", "-p", "model"]
    found, _ = read_command_line(CONFIG_DIR, NAME, arguments)
    assert found[:3] == arguments[:3]
    assert found[-2:] == arguments[-2:]
    assert "~model.num_ensembles" in found[3:-2]


def test_fields_of_a_system_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_settings.py").write_text(OWN_SETTINGS)
    monkeypatch.syspath_prepend(tmp_path)
    config, notes = read_line("env.kind=own_settings:Own env.depth.top=2")
    assert config.env.settings.depth.top == 2.0
    assert config.env.settings.mass == 1.0
    (note,) = notes
    assert "speed_threshold" in note
    assert "mass" not in note
    with pytest.raises(ConfigError, match=r"unknown key env\.depth\.tip"):
        read_line("env.kind=own_settings:Own env.depth.tip=2")


def test_only_what_decides_numbers_is_in_the_fingerprint():
    base = read()
    assert fingerprint(base) == fingerprint(read("wandb.mode=disabled", "render=false"))
    assert fingerprint(base) != fingerprint(read("model.lr_rate=1e-4"))
    assert fingerprint(base) != fingerprint(read("job.seed=1"))
    assert fingerprint(base) == fingerprint(
        read("job.seeds_per_process=1", "job.cores_per_decision=2")
    )


def test_differences_name_keys_and_both_values():
    one = numbers_of(read())
    other = numbers_of(read("env.mass=2", "job.seed=1"))
    assert differences(one, other) == [
        "env.mass: 1.0 there, 2.0 here",
        "job.seed: 15063 there, 1 here",
    ]
    assert dataclasses.is_dataclass(read())
