"""Builds a system and an agent from a configuration.

The classes behind the kinds of `registry`; this file imports JAX.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.configuration import (
    Experiment,
    ExperimentConfig,
    ModelFreeConfig,
)
from experiments.registry import import_class
from safex.agents import planners
from safex.agents.mpc import MPCAgent
from safex.agents.off_policy.build import build_off_policy
from safex.agents.planners import Planner
from safex.config import CalibrationConfig, SplitConfig
from safex.constraints.augmented_lagrangian import AugmentedLagrangian
from safex.constraints.crpo import CRPO
from safex.constraints.dual_ascent import DualAscent
from safex.constraints.feasible_first import FeasibleFirst
from safex.constraints.log_barrier import LogBarrier
from safex.constraints.penalty import Penalty
from safex.constraints.pid import PID
from safex.constraints.rule import Rule
from safex.constraints.unconstrained import Unconstrained
from safex.envs.car_park import CarPark
from safex.envs.cartpole import Cartpole
from safex.envs.pendulum import Pendulum
from safex.envs.pitch_control import PitchControl
from safex.envs.point_goal import PointGoal
from safex.envs.rc_car import RCCar
from safex.envs.suites.tasks import BulletSafetyGym, Gymnasium, SafetyGymnasium
from safex.envs.vector import JaxVector, VectorEnv
from safex.errors import ConfigError, ContractError, SafexError
from safex.models.calibrated import CalibratedModel
from safex.models.dropout import mc_dropout
from safex.models.ensemble import deterministic_ensemble, probabilistic_ensemble
from safex.models.fsvgd import deterministic_fsvgd, probabilistic_fsvgd
from safex.models.gaussian_process import GaussianProcess, gaussian_process
from safex.models.last_layer import bayesian_last_layer
from safex.models.own_frame import OwnFrameModel, has_frame
from safex.models.true_dynamics import TrueDynamics
from safex.optimizers.cem import CEM
from safex.optimizers.icem import ICEM
from safex.optimizers.minmax import MinMax
from safex.optimizers.mppi import MPPI
from safex.rollout import check_sampling_mode
from safex.training.off_policy import OffPolicyTrainer, RoundProgress
from safex.types import DynamicsModel, OffPolicyAgent

SYSTEMS: Mapping[str, Any] = {
    "Pendulum": Pendulum,
    "Cartpole": Cartpole,
    "PitchControl": PitchControl,
    "CarPark": CarPark,
    "RCCar": RCCar,
    "PointGoal": PointGoal,
    "SafetyGymnasium": SafetyGymnasium,
    "BulletSafetyGym": BulletSafetyGym,
    "Gymnasium": Gymnasium,
}
# Of a learned model: `(obs_dim, action_dim, settings, calibration) -> model`.
MODELS: Mapping[str, Callable[[int, int, Any, CalibrationConfig], CalibratedModel]] = {
    "ProbabilisticEnsemble": probabilistic_ensemble,
    "DeterministicEnsemble": deterministic_ensemble,
    "ProbabilisticFSVGD": probabilistic_fsvgd,
    "DeterministicFSVGD": deterministic_fsvgd,
    "GaussianProcess": gaussian_process,
    "BayesianLastLayer": bayesian_last_layer,
    "MCDropout": mc_dropout,
}
PLANNERS: Mapping[str, Callable[..., Planner]] = {
    "Nominal": planners.Nominal,
    "Safe": planners.Safe,
    "PesTraj": planners.PesTraj,
    "OPAX": planners.OPAX,
    "Pessimistic": planners.Pessimistic,
    "ActSafe": planners.ActSafe,
    "OptimisticPessimistic": planners.OptimisticPessimistic,
}
# Of an optimizer: `(variables a step, settings, devices) -> optimizer`.
OPTIMIZERS: Mapping[str, Callable[[int, Any, int], Any]] = {
    "CEM": CEM,
    "ICEM": ICEM,
    "MPPI": MPPI,
}
RULES: Mapping[str, Callable[[Any], Rule]] = {
    "Unconstrained": lambda config: Unconstrained(),
    "FeasibleFirst": lambda config: FeasibleFirst(),
    "Penalty": lambda config: Penalty(config.lmbda, config.barrierfn),
    "DualAscent": DualAscent,
    "PID": PID,
    "AugmentedLagrangian": AugmentedLagrangian,
    "LogBarrier": LogBarrier,
    "CRPO": CRPO,
}


def build_env(config: Experiment) -> Any:
    """The system that a configuration describes."""
    kind, settings = config.env
    system = SYSTEMS[kind] if kind in SYSTEMS else import_class("env", kind)
    return system.from_config(settings)


def build_agent(config: ExperimentConfig, env: Any, *, check: bool = True) -> MPCAgent:
    """The agent that a configuration describes.

    Args:
      config: the configuration.
      env: the system.
      check: pose a decision, to see that the parts go together; takes a while, and
        once is enough for all systems of the same sizes.

    Raises:
      ConfigError: something does not fit this system or this machine.
    """
    num_devices = config.job.cores_per_decision
    if num_devices > jax.local_device_count():
        raise ConfigError(
            f"job.cores_per_decision must not exceed the {jax.local_device_count()} "
            f"devices of this process, got {num_devices}"
        )
    sizes = {"beta": env.obs_dim, "cost_budget": env.num_constraints}
    for name, size in sizes.items():
        _check_entries(name, getattr(config.agent, name), size)
    steps = config.agent.episode_steps or config.train.num_rollout_steps
    rule = RULES[config.constraint.kind](config.constraint.settings)
    with _named("agent"):
        agent = MPCAgent(
            env=env,
            model=build_model(config, env),
            planner=_planner(config, env),
            optimizer=_optimizer(config, env, num_devices),
            rule=rule,
            config=dataclasses.replace(config.agent, episode_steps=steps),
        )
    if check:
        _check(config, agent)
    return agent


def _check_entries(name: str, entries: Sequence[float], size: int) -> None:
    """Refuses a setting of the agent with neither one entry nor one for each."""
    if len(entries) not in (1, size):
        wanted = "1 entry" if size == 1 else f"1 or {size} entries"
        raise ConfigError(f"agent.{name} needs {wanted}, got {len(entries)}")


def build_vector(env: Any, num_envs: int) -> VectorEnv:
    """So many of a task's environments: its own way, or the device's for a system."""
    if hasattr(env, "make_vector"):
        vector: VectorEnv = env.make_vector(num_envs)
        return vector
    return JaxVector(env, num_envs)


def build_model_free(config: ModelFreeConfig, env: Any) -> OffPolicyAgent:
    """The agent that a configuration without a model describes.

    Raises:
      ConfigError: something does not fit this task.
      ContractError: the task says no cost.
    """
    kind, settings = config.agent
    name = f"env.kind {config.env.kind}"
    size = getattr(env, "action_dim", None)
    if not isinstance(size, int) or size < 1:
        raise ConfigError(
            f"agent.kind {kind} acts in a box of continuous actions, and {name} says "
            "no action_dim of one: a task of discrete actions needs another agent"
        )
    if not getattr(env, "num_constraints", 0):
        raise ContractError(
            f"{name} says no cost: every step must, a missing cost is never taken for "
            "zero"
        )
    _check_entries("cost_budget", settings.cost_budget, env.num_constraints)
    with _named("train"):
        config.train.rounds(env.max_steps)
    with _named("agent"):
        return build_off_policy(kind, settings, env)


def budget_of(config: Experiment, env: Any) -> tuple[float, ...]:
    """C costs that an episode is allowed."""
    settings: Any = config.agent
    if isinstance(config, ModelFreeConfig):
        settings = config.agent.settings
    allowed = np.broadcast_to(settings.cost_budget, env.num_constraints)
    return tuple(allowed.tolist())


def build_trainer(
    config: ModelFreeConfig,
    warn: Callable[[str], None],
    report: Callable[[RoundProgress], None],
) -> OffPolicyTrainer:
    """What trains the seeds of a configuration without a model."""
    env, train = build_env(config), config.train
    # Of foreign environments no more at a time than in training.
    evaluated = train.eval_episodes
    if hasattr(env, "make_vector"):
        evaluated = min(evaluated, train.num_envs)
    return OffPolicyTrainer(
        build_vector(env, train.num_envs),
        build_vector(env, evaluated),
        build_model_free(config, env),
        train,
        cost_budget=budget_of(config, env),
        fixed_length=getattr(config.agent.settings, "threshold", None) == "even",
        warn=warn,
        report=report,
    )


def _check(config: ExperimentConfig, agent: MPCAgent) -> None:
    """Refuses parts that do not go together, before a run begins."""
    with _named("planner"):
        if config.planner.kind != "OptimisticPessimistic":  # which samples nothing
            check_sampling_mode(agent.model, config.planner.settings.sampling_mode)
        jax.eval_shape(agent.pose, jax.random.key(0))
    process = getattr(agent.model, "base", None)
    if isinstance(process, GaussianProcess):
        process.check_capacity(config.train.capacity, process.config.train_share)


@contextlib.contextmanager
def _named(section: str) -> Iterator[None]:
    """Puts the section before what a refusal names."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, SafexError) as error:
        text = str(error)
        # The agent looks at the settings of its planner as well.
        if text.startswith("terminal "):
            section, text = "planner", text.replace(" ", ".", 1)
        raise ConfigError(f"{section}.{text}") from error


def _planner(config: ExperimentConfig, env: Any) -> Planner:
    kind, settings = config.planner
    more = {"obs_dim": env.obs_dim} if kind == "OptimisticPessimistic" else {}
    return PLANNERS[kind](config.horizon, **_fields(settings), **more)


def build_model(config: ExperimentConfig, env: Any) -> DynamicsModel:
    """The dynamics model that a configuration describes.

    Raises:
      ConfigError: something does not fit this system.
    """
    kind, settings = config.model
    if kind == "TrueDynamics":
        return TrueDynamics(env)
    sizes = env.obs_dim, env.action_dim
    with _named("model"):
        if kind in MODELS:
            model = MODELS[kind](*sizes, settings, config.calibration)
            framed = settings.own_frame and has_frame(env)
            return OwnFrameModel(env, model) if framed else model
        methods = ("init", "train", "moments", "num_members")
        raw = _own("model", kind, methods, *sizes, settings)
        split = settings if isinstance(settings, SplitConfig) else SplitConfig()
        return CalibratedModel(raw, config.calibration, split)


def _optimizer(config: ExperimentConfig, env: Any, num_devices: int) -> Any:
    kind, settings = config.optimizer
    if kind == "MinMax":
        # An optimist decides on its own luck as well.
        luck = env.obs_dim if config.planner.kind == "OptimisticPessimistic" else 0
        return MinMax(env.action_dim + luck, env.obs_dim, settings, num_devices)
    if kind in OPTIMIZERS:
        return OPTIMIZERS[kind](env.action_dim, settings, num_devices)
    if num_devices > 1:
        raise ConfigError(
            f"job.cores_per_decision must be 1 with optimizer.kind {kind}, which "
            f"cannot share out its candidates, got {num_devices}"
        )
    methods = ("init", "shift", "optimize")
    return _own("optimizer", kind, methods, env.action_dim, settings)


def _own(section: str, kind: str, methods: tuple[str, ...], *arguments: Any) -> Any:
    """Makes a part of one's own, with a look at whether it has what it needs."""
    try:
        part = import_class(section, kind)(*arguments)
    except TypeError as error:
        sizes = "obs_dim, action_dim" if section == "model" else "action_dim"
        raise ConfigError(
            f"{section}.kind {kind} cannot be made of ({sizes}, settings): {error}"
        ) from error
    missing = [name for name in methods if not hasattr(part, name)]
    if missing:
        raise ConfigError(f"{section}.kind {kind} has no {', '.join(missing)}")
    return part


def _fields(settings: Any) -> dict[str, Any]:
    """A flat dataclass as keyword arguments."""
    names = [field.name for field in dataclasses.fields(settings)]
    return {name: getattr(settings, name) for name in names}
