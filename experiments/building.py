"""Builds a system and an agent from a configuration.

The classes behind the kinds of `registry`; this file imports JAX.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from experiments.configuration import ExperimentConfig
from experiments.registry import import_class
from safex.agents import planners
from safex.agents.mpc import MPCAgent
from safex.agents.planners import Planner
from safex.config import CalibrationConfig
from safex.constraints.feasible_first import FeasibleFirst
from safex.constraints.penalty import Penalty
from safex.constraints.rule import Rule
from safex.constraints.unconstrained import Unconstrained
from safex.envs.cartpole import Cartpole
from safex.envs.pendulum import Pendulum
from safex.errors import ConfigError
from safex.models.dropout import mc_dropout
from safex.models.ensemble import deterministic_ensemble, probabilistic_ensemble
from safex.models.fsvgd import deterministic_fsvgd, probabilistic_fsvgd
from safex.models.gaussian_process import gaussian_process
from safex.models.last_layer import bayesian_last_layer
from safex.models.true_dynamics import TrueDynamics
from safex.optimizers.cem import CEM
from safex.optimizers.icem import ICEM
from safex.optimizers.minmax import MinMax
from safex.rollout import check_sampling_mode
from safex.types import DynamicsModel

SYSTEMS: Mapping[str, Any] = {
    "Pendulum": Pendulum,
    "Cartpole": Cartpole,
}
# Of a learned model: `(obs_dim, action_dim, settings, calibration) -> model`.
MODELS: Mapping[str, Callable[[int, int, Any, CalibrationConfig], DynamicsModel]] = {
    "ProbabilisticEnsemble": probabilistic_ensemble,
    "DeterministicEnsemble": deterministic_ensemble,
    "ProbabilisticFSVGD": probabilistic_fsvgd,
    "DeterministicFSVGD": deterministic_fsvgd,
    "GaussianProcess": gaussian_process,
    "BayesianLastLayer": bayesian_last_layer,
    "MCDropout": mc_dropout,
}
# Of a planner: `(horizon, env, settings) -> planner`.
PLANNERS: Mapping[str, Callable[[int, Any, Any], Planner]] = {
    "Nominal": lambda horizon, env, c: planners.Nominal(horizon, **_fields(c)),
    "Safe": lambda horizon, env, c: planners.Safe(horizon, **_fields(c)),
    "PesTraj": lambda horizon, env, c: planners.PesTraj(horizon, **_fields(c)),
    "Pessimistic": lambda horizon, env, c: planners.Pessimistic(horizon, **_fields(c)),
    "OptimisticPessimistic": lambda horizon, env, c: planners.OptimisticPessimistic(
        horizon, env.obs_dim, **_fields(c)
    ),
}
# Of an optimizer: `(variables a step, settings, devices) -> optimizer`.
OPTIMIZERS: Mapping[str, Callable[[int, Any, int], Any]] = {"CEM": CEM, "ICEM": ICEM}
RULES: Mapping[str, Callable[..., Rule]] = {
    "Unconstrained": Unconstrained,
    "FeasibleFirst": FeasibleFirst,
    "Penalty": Penalty,
}


def build_env(config: ExperimentConfig) -> Any:
    """The system that a configuration describes."""
    kind, settings = config.env
    system = SYSTEMS[kind] if kind in SYSTEMS else import_class(kind)
    return system.from_config(settings)


def build_agent(config: ExperimentConfig, env: Any) -> MPCAgent:
    """The agent that a configuration describes.

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
        count = len(getattr(config.agent, name))
        if count not in (1, size):
            raise ConfigError(f"agent.{name} needs 1 or {size} entries, got {count}")
    planner = PLANNERS[config.planner.kind](
        config.horizon, env, config.planner.settings
    )
    model = _model(config, env)
    if config.planner.kind != "OptimisticPessimistic":  # which samples nothing
        check_sampling_mode(model, config.planner.settings.sampling_mode)
    steps = config.agent.episode_steps or config.train.num_rollout_steps
    return MPCAgent(
        env=env,
        model=model,
        planner=planner,
        optimizer=_optimizer(config, env, num_devices),
        rule=RULES[config.constraint.kind](**_fields(config.constraint.settings)),
        config=dataclasses.replace(config.agent, episode_steps=steps),
    )


def _model(config: ExperimentConfig, env: Any) -> DynamicsModel:
    kind, settings = config.model
    if kind == "TrueDynamics":
        return TrueDynamics(env)
    try:
        return MODELS[kind](env.obs_dim, env.action_dim, settings, config.calibration)
    except ValueError as error:
        raise ConfigError(f"model.{error}") from error


def _optimizer(config: ExperimentConfig, env: Any, num_devices: int) -> Any:
    kind, settings = config.optimizer
    if kind == "MinMax":
        # An optimist decides on its own luck as well.
        luck = env.obs_dim if config.planner.kind == "OptimisticPessimistic" else 0
        return MinMax(env.action_dim + luck, env.obs_dim, settings, num_devices)
    return OPTIMIZERS[kind](env.action_dim, settings, num_devices)


def _fields(settings: Any) -> dict[str, Any]:
    """A flat dataclass as keyword arguments."""
    names = [field.name for field in dataclasses.fields(settings)]
    return {name: getattr(settings, name) for name in names}
