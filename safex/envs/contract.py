"""Checks that a system keeps its protocol, before any compute is spent."""

from typing import Any

import jax
import jax.numpy as jnp

from safex.errors import ContractError
from safex.types import Environment


def check_environment(env: Environment) -> None:
    """Traces one reset and one step without running them.

    Raises:
      ContractError: names the system and what is missing or has the wrong shape; a
        missing cost is an error, never zero.
    """
    name = type(env).__name__
    for attribute in (
        "obs_dim",
        "action_dim",
        "num_constraints",
        "max_steps",
        "reset",
        "step",
        "reward",
        "cost",
        "margin",
        "project",
        "dynamics",
        "observe",
        "far_state",
        "state_from_obs",
        "backup",
        "limits",
    ):
        if getattr(env, attribute, None) is None:
            raise ContractError(f"environment {name} has no {attribute}")
    if env.max_steps < 1:
        raise ContractError(
            f"environment {name}: max_steps must be >= 1, got {env.max_steps}"
        )
    key = jax.random.key(0)
    action = jnp.zeros(env.action_dim)
    state, obs = jax.eval_shape(env.reset, key)
    pair = (obs, action, obs)
    count = (env.num_constraints,)
    if not env.num_constraints == len(env.limit_names) == len(env.limit_units) >= 1:
        raise ContractError(
            f"environment {name} must name each of its constraints and its unit: "
            f"{env.num_constraints} constraints, names {env.limit_names}, "
            f"units {env.limit_units}"
        )
    # First, since a step's cost may be made from it.
    margin = jax.eval_shape(env.margin, *pair)
    _check(name, "margin(obs, action, next_obs)", margin, count)
    step = jax.eval_shape(env.step, key, state, action)
    expected: dict[str, tuple[Any, tuple[int, ...]]] = {
        "obs": (step.obs, (env.obs_dim,)),
        "reward": (step.reward, ()),
        "cost": (step.cost, count),
        "terminated": (step.terminated, ()),
        "truncated": (step.truncated, ()),
        "limits": (env.limits, count),
        "backup(obs)": (jax.eval_shape(env.backup, obs), (env.action_dim,)),
    }
    for field, wanted in (("reward", ()), ("cost", count)):
        expected[f"{field}(obs, action, next_obs)"] = (
            jax.eval_shape(getattr(env, field), *pair),
            wanted,
        )
    for field, (value, shape) in expected.items():
        _check(name, field, value, shape)


def _check(name: str, field: str, value: Any, shape: tuple[int, ...]) -> None:
    """Refuses what is not there or has another shape."""
    if value is None:
        raise ContractError(
            f"environment {name} gives no {field}: every step must say it, "
            "a missing cost is never taken for zero"
        )
    if getattr(value, "shape", None) != shape:
        raise ContractError(
            f"environment {name}: {field} must have shape {shape}, "
            f"got {getattr(value, 'shape', type(value).__name__)}"
        )
