"""Builds the pendulum experiment from its configuration and runs it."""

import sys

import jax

from experiments.configuration import ExperimentConfig, ModelSection
from experiments.running import run_experiment
from experiments.runtime import set_up_jax
from safex.agents import planners
from safex.agents.mpc import MPCAgent
from safex.agents.planners import Planner
from safex.envs.pendulum import Pendulum
from safex.errors import ConfigError, SafexError
from safex.models.calibrated import CalibratedModel
from safex.models.ensemble import deterministic_ensemble, probabilistic_ensemble
from safex.models.true_dynamics import TrueDynamics
from safex.optimizers.cem import CEM
from safex.optimizers.constraint import (
    Constraint,
    FeasibleFirst,
    Penalty,
    Unconstrained,
)
from safex.optimizers.icem import ICEM
from safex.optimizers.minmax import MinMax

# Which observation coordinate the limit is on.
LIMIT_INDEX = 2


def run(config: ExperimentConfig) -> int:
    """Runs one configuration; a user's mistake is one line and exit code 2."""
    set_up_jax()
    try:
        env = Pendulum.from_config(config.env, config.constraint.speed_threshold)
        run_experiment(config, env, build_agent(config, env), LIMIT_INDEX)
    except SafexError as error:
        print(f"safex: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "safex: stopped; the same command goes on from the last checkpoint",
            file=sys.stderr,
        )
        return 130
    return 0


def build_agent(config: ExperimentConfig, env: Pendulum) -> MPCAgent:
    """The agent that a configuration describes.

    Raises:
      ConfigError: a list has the wrong number of entries for this system.
    """
    model = config.model
    num_devices = config.job.cores_per_decision
    if num_devices > jax.local_device_count():
        raise ConfigError(
            f"job.cores_per_decision must not exceed the {jax.local_device_count()} "
            f"devices of this process, got {num_devices}"
        )
    if len(model.beta) not in (1, env.obs_dim):
        raise ConfigError(
            f"model.beta needs 1 or {env.obs_dim} entries, got {len(model.beta)}"
        )
    planner = _planner(config, env)
    # An optimist decides on its own luck as well.
    x_dim = env.action_dim + (env.obs_dim if model.agent == "OptMinMax" else 0)
    constraint = _constraint(config)
    optimizer: CEM | ICEM | MinMax
    if model.optimizer == "MinMax":
        assert config.minmax is not None
        optimizer = MinMax(x_dim, env.obs_dim, config.minmax, constraint, num_devices)
    elif model.optimizer == "ICEM":
        assert config.icem is not None
        optimizer = ICEM(env.action_dim, config.icem, constraint, num_devices)
    else:
        assert config.cem is not None
        optimizer = CEM(env.action_dim, config.cem, constraint, num_devices)
    return MPCAgent(
        env=env,
        model=TrueDynamics(env) if model.dynamics == "TRUE" else _ensemble(model, env),
        planner=planner,
        optimizer=optimizer,
        config=config.mpc_config(),
    )


def _planner(config: ExperimentConfig, env: Pendulum) -> Planner:
    model, horizon = config.model, config.horizon
    sampled = (horizon, model.sampling_mode, model.num_particles)
    if model.agent == "CEM":
        return planners.Nominal(*sampled)
    if model.agent == "SafeCEM":
        return planners.Safe(*sampled)
    if model.agent == "PesTraj":
        return planners.PesTraj(*sampled)
    assert config.minmax is not None
    if model.agent == "MinMax":
        return planners.Pessimistic(*sampled, noise_alpha=config.minmax.noise_alpha)
    return planners.OptimisticPessimistic(env.obs_dim, config.minmax.noise_alpha)


def _constraint(config: ExperimentConfig) -> Constraint:
    c = config.constraint
    if config.model.agent == "CEM":
        return Unconstrained()
    if c.elites == "penalty":
        return Penalty(c.lmbda, c.d, c.barrierfn)
    return FeasibleFirst(c.d)


def _ensemble(model: ModelSection, env: Pendulum) -> CalibratedModel:
    build = {
        "DeterministicEnsemble": deterministic_ensemble,
        "ProbabilisticEnsemble": probabilistic_ensemble,
    }[model.bnn_type]
    try:
        return build(env.obs_dim, env.action_dim, model, model.calibration_config())
    except ValueError as error:
        raise ConfigError(f"model.{error}") from error
