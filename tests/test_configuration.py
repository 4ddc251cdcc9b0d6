"""Every shipped YAML builds an agent; every mistake is named before any compute."""

import dataclasses
import itertools
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from experiments.configuration import (
    ExperimentConfig,
    differences,
    fingerprint,
    from_mapping,
    numbers_of,
    read_config,
)
from experiments.overrides import check_overrides, quote_choices
from experiments.pendulum import build_agent
from safex import config as config_module
from safex import rollout
from safex.envs.pendulum import Pendulum
from safex.errors import ConfigError
from safex.models import networks
from safex.optimizers import constraint
from safex.optimizers.cem import CEM
from safex.optimizers.constraint import FeasibleFirst, Penalty, Unconstrained
from safex.optimizers.icem import ICEM
from safex.optimizers.minmax import MinMax

CONFIG_DIR = Path(__file__).resolve().parents[1] / "experiments" / "config"
NAME = "launcher_pendulum"
METHODS = ("unsafe", "safe", "pestraj", "minmax", "optminmax")
PAIRS = list(itertools.product(METHODS, ("true", "bnn")))


def compose_config(*overrides):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose(NAME, overrides=quote_choices(overrides))


def read(*overrides):
    return read_config(compose_config(*overrides))


@pytest.mark.parametrize(("method", "model"), PAIRS)
def test_every_yaml_builds_the_agent_it_names(method, model):
    config = read(f"method={method}", f"model={model}")
    assert (config.method, config.model_name) == (method, model)
    assert config.wandb.group_name == f"pendulum_{method}_{model}"
    assert config.wandb.job_name == f"{method}_{model}"
    assert config.job.num_seeds_per_hparam == 2
    env = Pendulum.from_config(config.env, config.constraint.speed_threshold)
    agent = build_agent(config, env)
    kinds = {"unsafe": (ICEM, CEM), "safe": (ICEM, CEM), "pestraj": (ICEM, CEM)}
    assert isinstance(agent.optimizer, kinds.get(method, MinMax))
    constraint = Unconstrained if method == "unsafe" else FeasibleFirst
    assert isinstance(agent.optimizer.constraint, constraint)
    assert agent.model.num_members == (5 if model == "bnn" else 0)
    assert config.horizon == 20


def test_the_files_are_exactly_those_pairs():
    names = {path.stem for path in (CONFIG_DIR / "pendulum").glob("*.yaml")}
    assert names == {f"{method}_{model}_pendulum" for method, model in PAIRS}


def test_overrides_reach_the_dataclasses():
    config = read(
        "model.beta=[1,1,2]",
        "env.mass=1.5",
        "minmax.pes_schedule.kind=sigmoid",
        "constraint.elites=penalty",
        "constraint.barrierfn=huber",
        "model.bnn_type=DeterministicEnsemble",
    )
    assert config.model.beta == (1.0, 1.0, 2.0)
    assert config.minmax.pes_schedule.kind == "sigmoid"
    assert config.minmax.opt_schedule.kind == "constant"
    env = Pendulum.from_config(config.env)
    assert float(env.params.mass) == 1.5
    agent = build_agent(config, env)
    assert agent.optimizer.constraint == Penalty(1.0, 0.0, "huber")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("minmax.horizon_x=-3", ["minmax.horizon_x", "-3"]),
        ("minmax.num_elites_x=100", ["minmax.num_elites_x", "num_samples_x", "100"]),
        ("model.agent=SafeCEM", ["model.agent SafeCEM", "CEM or ICEM", "MinMax"]),
        ("model.optimizer=ICEM", ["agent MinMax needs optimizer MinMax", "ICEM"]),
        ("model.sampling_mode=TS", ["model.sampling_mode", "TS1", "'TS'"]),
        ("model.num_ensembles=two", ["model.num_ensembles", "an int", "'two'"]),
        ("model.num_ensembles=2.5", ["model.num_ensembles", "an int", "2.5"]),
        ("model.num_ensembles=true", ["model.num_ensembles", "an int", "bool"]),
        ("model.lr_rate=fast", ["model.lr_rate", "a float", "'fast'"]),
        ("model.lr_rate=nan", ["model.lr_rate", "finite", "nan"]),
        ("model.features=[64,wide]", ["model.features[1]", "'wide'"]),
        ("model.calibration=isotonic", ["model.calibration", "conformal", "isotonic"]),
        ("env.mass=0", ["env.mass", "> 0"]),
        ("train.num_exploration_steps=10", ["train.num_exploration_steps", ">= 50"]),
        ("train.buffer_size=100", ["train.buffer_size", "1700"]),
        ("wandb.mode=on", ["wandb.mode", "offline"]),
        ("constraint.barrierfn=log", ["constraint.barrierfn", "huber"]),
        ("job.num_seeds_per_hparam=0", ["job.num_seeds_per_hparam", "[1, 1000]"]),
        ("job.seeds_per_process=0", ["job.seeds_per_process", ">= 1 or null"]),
        ("job.cores_per_decision=0", ["job.cores_per_decision", ">= 1"]),
        (
            "job.cores_per_decision=2",
            ["cores_per_decision", "job.seeds_per_process=1", "null"],
        ),
        ("minmax.pes_alpha=-1", ["minmax.pes_alpha", ">= 0"]),
        ("minmax.opt_alpha=-1", ["minmax.opt_alpha", ">= 0"]),
        ("minmax.noise_alpha=-1", ["minmax.noise_alpha", ">= 0"]),
        ("model.beta=-1", ["model.beta", ">= 0"]),
        ("model.plan_dtype=float16", ["model.plan_dtype", "bfloat16"]),
        ("minmax.pes_schedule.kind=cosine", ["minmax.pes_schedule.kind", "sigmoid"]),
        ("+model.typo=1", ["unknown key model.typo"]),
        ("+env.max_sped=1", ["unknown key env.max_sped", "did you mean max_speed"]),
        ("env=3", ["env must be a section"]),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(override, words):
    with pytest.raises(ConfigError) as caught:
        read(override)
    for word in words:
        assert word in str(caught.value)


def test_k_above_n_in_icem():
    with pytest.raises(ConfigError, match=r"icem\.num_elites must not exceed"):
        read("method=safe", "icem.num_elites=1000")


def test_a_beta_of_the_wrong_length():
    config = read("model.beta=[1,2]")
    with pytest.raises(ConfigError, match="beta needs 1 or 3 entries, got 2"):
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
    assert tuple(constraint.PENALTIES) == config_module.PENALTIES
    assert tuple(rollout.SAMPLING_MODES) == config_module.SAMPLING_MODES


def test_a_missing_section_names_it():
    with pytest.raises(ConfigError, match="there is no section icem"):
        read("model.agent=SafeCEM", "model.optimizer=ICEM")


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match="method is missing"):
        from_mapping(ExperimentConfig, {})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train.num_model_update=3"], ["train.num_model_update", "num_model_updates"]),
        (["num_ensembles=3"], ["num_ensembles", "model.num_ensembles"]),
        (["method=minimax"], ["method must be one of", "optminmax", "minimax"]),
        (["model=gp"], ["model must be one of bnn, true", "gp"]),
        (["preset=fast"], ["preset must be one of debug, default"]),
        (["a=[1"], ["cannot read the command line"]),
    ],
)
def test_a_mistyped_command_line_is_explained(arguments, words):
    problem = check_overrides(CONFIG_DIR, NAME, arguments)
    for word in words:
        assert word in problem


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["method=safe", "model=true"],
        ["preset=debug", "env.mass=2", "hydra.verbose=true"],
        ["method=safe", "icem.num_iter=2"],
        ["--cfg", "job"],
        ["method=safe,minmax", "-m"],
    ],
)
def test_a_right_command_line_passes(arguments):
    assert check_overrides(CONFIG_DIR, NAME, arguments) is None


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
