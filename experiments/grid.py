"""The points of a job's grid, and what of them can differ in one compiled program."""

import copy
import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.building import build_env
from experiments.configuration import (
    Experiment,
    ExperimentConfig,
    ModelFreeConfig,
    numbers_of,
    plain_of,
    read_mapping,
    set_field,
)
from safex.agents.mpc import MPCAgent, Widths
from safex.errors import ConfigError
from safex.types import Array

# Names and files are the job's own, and decide no number of a point.
_NOT_IN_A_GRID = (
    "task",
    "method",
    "model_name",
    "job",
    "wandb",
    "tensorboard",
    "launcher",
    "results_dir",
    "render",
    "verbose",
)
# Numbers of the agent that may be traced; those of the system all may, if it says so by
# being a pytree of them.
_TRACED_OF_AGENT = ("beta", "pes_alpha", "pes_steps", "opt_alpha", "cost_budget")


class Point(NamedTuple):
    """One configuration of a job.

    Attributes:
      config: without a grid.
      name: its folder below the job's; empty where there is no grid.
      settings: what the grid set, by full name.
    """

    config: Experiment
    name: str
    settings: Mapping[str, Any]


class Traced(NamedTuple):
    """What may differ between runs of one program.

    Attributes:
      env: the system, a pytree of its parameters.
      widths: of the agent.
      noise_alpha: of planners with an adversary, else ().
    """

    env: Any
    widths: Widths
    noise_alpha: Array | tuple[()]


def expand(config: Experiment) -> list[Point]:
    """Every combination of the grid's values, the last field changing fastest.

    Raises:
      ConfigError: a field does not exist or a value is refused, by full name.
    """
    grid = config.job.grid or {}
    for name in grid:
        if name.split(".")[0] in _NOT_IN_A_GRID:
            raise ConfigError(
                f"job.grid: {name} is the same for all points of a job; a grid may set "
                "what decides their numbers"
            )
    plain = plain_of(config)
    plain["job"]["grid"] = None
    points = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        changed = copy.deepcopy(plain)
        for name, value in settings.items():
            try:
                set_field(changed, name, value)
            except ConfigError as error:
                raise ConfigError(f"job.grid: {error}") from error
        name = ",".join(f"{key}={_text(value)}" for key, value in settings.items())
        if name:
            # Runs of one group and job_type must differ by seed alone.
            changed["wandb"]["group_name"] += f"_{name}"
        points.append(Point(read_mapping(changed), name, settings))
    names = [point.name for point in points]
    if len(set(names)) < len(names):
        raise ConfigError("job.grid holds a value twice")
    return points


def same_program(points: Sequence[Point]) -> list[list[Point]]:
    """Groups the points that differ in traced numbers alone.

    Agents without a model have no such numbers.
    """
    if len(points) == 1:
        return [list(points)]
    groups: dict[str, list[Point]] = {}
    for point in points:
        config = point.config
        part = (
            point.name if isinstance(config, ModelFreeConfig) else _static_part(config)
        )
        groups.setdefault(part, []).append(point)
    return list(groups.values())


def traced_of(config: ExperimentConfig) -> Traced:
    """The traced numbers of a configuration."""
    env = build_env(config)
    noise_alpha = getattr(config.planner.settings, "noise_alpha", None)
    return Traced(
        env,
        Widths.of(config.agent, env),
        () if noise_alpha is None else jnp.asarray(noise_alpha, jnp.float32),
    )


def rebuild(agent: MPCAgent, traced: Traced) -> MPCAgent:
    """The agent with traced numbers in place of its configuration's."""
    planner: Any = agent.planner
    if not isinstance(traced.noise_alpha, tuple):
        planner = dataclasses.replace(planner, noise_alpha=traced.noise_alpha)
    return dataclasses.replace(agent, planner=planner, widths=traced.widths)


def _static_part(config: ExperimentConfig) -> str:
    """Everything of a configuration that a compiled program has in it."""
    numbers = numbers_of(config)
    for name in _TRACED_OF_AGENT:
        del numbers["agent"][name]
    numbers["planner"].pop("noise_alpha", None)
    traced = traced_of(config)
    for field in dataclasses.fields(traced.env.params):
        numbers["env"].pop(field.name, None)
    leaves = jax.tree.leaves(traced)
    kinds = [(jnp.shape(leaf), str(jnp.result_type(leaf))) for leaf in leaves]
    return json.dumps([numbers, kinds], sort_keys=True)


def _text(value: Any) -> str:
    """A value as part of a folder's name."""
    text = json.dumps(value) if not isinstance(value, str) else value
    return "".join(c if c.isalnum() or c in ".-+_" else "_" for c in text)
