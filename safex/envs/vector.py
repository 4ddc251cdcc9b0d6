"""Parallel environments behind one door: pure JAX systems here, foreign ones beside.

At the end of an episode an environment is reset within the same step: `next_obs` of the
row is the real last observation, and `obs` of the next row is of the new episode.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from safex.types import Array, Environment, Step, Transition

# `(key, obs [N, D]) -> action [N, A]`. A `jax.tree_util.Partial` of a function and the
# arrays it acts by is compiled once for all values of them.
Policy = Callable[[Array, Array], Array]


class VectorEnv(Protocol):
    """N environments that step together; N is `num_envs`, the rest as in `types`."""

    @property
    def num_envs(self) -> int:
        """N."""
        ...

    @property
    def obs_dim(self) -> int:
        """D."""
        ...

    @property
    def action_dim(self) -> int:
        """A."""
        ...

    @property
    def num_constraints(self) -> int:
        """C."""
        ...

    @property
    def max_steps(self) -> int:
        """Time limit of an episode [steps]."""
        ...

    @property
    def limit_names(self) -> tuple[str, ...]:
        """What each constraint limits."""
        ...

    @property
    def limit_units(self) -> tuple[str, ...]:
        """The unit of each limit."""
        ...

    @property
    def limits(self) -> Array:
        """`[C]` the limits' values, each in its unit."""
        ...

    def blank(self) -> tuple[Any, Array]:
        """Zeros of the shapes and types that `reset` returns, for a checkpoint."""
        ...

    def reset(self, key: Array) -> tuple[Any, Array]:
        """Begins an episode everywhere; returns the state and observations `[N, D]`.

        The state is a pytree of arrays, from which a checkpoint goes on mid-episode.
        """
        ...

    def rollout(
        self, key: Array, state: Any, obs: Array, policy: Policy, steps: int
    ) -> tuple[tuple[Any, Array], Transition, Array]:
        """Takes `steps` steps in each environment.

        Args:
          key: consumed.
          state: of `reset` or of the rollout before.
          obs: `[N, D]` that belongs to it.
          policy: chooses the actions, in [-1, 1].
          steps: T.

        Returns:
          state and observations to go on from; transitions `[T, N, ...]`; and `[T, N,
          C]` signed distances past the limits (> 0 violates) in their units, which are
          the costs themselves where an environment knows no distance.
        """
        ...


@dataclasses.dataclass(frozen=True)
class JaxVector:
    """N copies of a pure JAX system on the device; a rollout is one compiled scan.

    Attributes:
      env: the system.
      num_envs: N.
    """

    env: Environment
    num_envs: int

    def __post_init__(self) -> None:
        """Refuses no environment at all.

        Raises:
          ValueError: `num_envs` is below 1.
        """
        if self.num_envs < 1:
            raise ValueError(f"num_envs must be >= 1, got {self.num_envs}")

    @property
    def obs_dim(self) -> int:
        """D."""
        return self.env.obs_dim

    @property
    def action_dim(self) -> int:
        """A."""
        return self.env.action_dim

    @property
    def num_constraints(self) -> int:
        """C."""
        return self.env.num_constraints

    @property
    def max_steps(self) -> int:
        """Time limit of an episode [steps]."""
        return self.env.max_steps

    @property
    def limit_names(self) -> tuple[str, ...]:
        """What each constraint limits."""
        return self.env.limit_names

    @property
    def limit_units(self) -> tuple[str, ...]:
        """The unit of each limit."""
        return self.env.limit_units

    @property
    def limits(self) -> Array:
        """`[C]` the limits' values, each in its unit."""
        return self.env.limits

    def blank(self) -> tuple[Any, Array]:
        """Zeros of the shapes and types that `reset` returns."""
        shapes = jax.eval_shape(self._reset_all, jax.random.key(0))
        state, obs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return state, obs

    def reset(self, key: Array) -> tuple[Any, Array]:
        """Begins an episode everywhere; returns the state and observations `[N, D]`."""
        state, obs = self._reset(key)
        return state, obs

    def rollout(
        self, key: Array, state: Any, obs: Array, policy: Policy, steps: int
    ) -> tuple[tuple[Any, Array], Transition, Array]:
        """As in `VectorEnv`; compiled once for each `steps` and policy function."""
        if not isinstance(policy, Partial):
            policy = Partial(policy)
        carry, transition, margin = self._rollout(key, state, obs, policy, steps)
        return carry, transition, margin

    @functools.cached_property
    def _reset(self) -> Callable:
        return jax.jit(self._reset_all)

    @functools.cached_property
    def _rollout(self) -> Callable:
        return jax.jit(self._scan, static_argnums=4)

    def _reset_all(self, key: Array) -> tuple[Any, Array]:
        return jax.vmap(self.env.reset)(jax.random.split(key, self.num_envs))

    def _scan(
        self, key: Array, state: Any, obs: Array, policy: Policy, steps: int
    ) -> tuple[tuple[Any, Array], Transition, Array]:
        def one(carry: tuple[Any, Array], key: Array) -> tuple[tuple, tuple]:
            state, obs = carry
            act_key, step_key, reset_key = jax.random.split(key, 3)
            action = policy(act_key, obs)
            keys = jax.random.split(step_key, self.num_envs)
            step, margin = jax.vmap(self._step)(keys, state, action)
            row = Transition(
                obs,
                action,
                step.reward,
                step.cost,
                step.obs,
                step.terminated,
                step.truncated,
            )
            over = step.terminated | step.truncated
            # Most steps end no episode, and a reset may cost more than a step.
            carry = jax.lax.cond(
                over.any(),
                lambda: _where(
                    over, self._reset_all(reset_key), (step.state, step.obs)
                ),
                lambda: (step.state, step.obs),
            )
            return carry, (row, margin)

        carry, (rows, margins) = jax.lax.scan(
            one, (state, obs), jax.random.split(key, steps)
        )
        return carry, rows, margins

    def _step(self, key: Array, state: Any, action: Array) -> tuple[Step, Array]:
        """One system's step, and its margins, of the truth and not of the sensors."""
        step = self.env.step(key, state, action)
        before, after = self.env.observe(state), self.env.observe(step.state)
        return step, self.env.margin(before, action, after)


def _where(mask: Array, new: Any, old: Any) -> Any:
    """Leaves `[N, ...]` of `new` where the mask `[N]` is true."""

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(mask.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

    return jax.tree.map(choose, new, old)
