"""The cross-entropy method under a constraint."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from safex.config import CEMConfig
from safex.constraints.rule import Constraint
from safex.optimizers import gaussian
from safex.optimizers.spread import share
from safex.types import Array, Metrics, Plan, Score


class CEMState(NamedTuple):
    """What the next decision starts from.

    Attributes:
      mean: `[H, A]` best sequence of the last decision.
    """

    mean: Array


@dataclasses.dataclass(frozen=True)
class CEM:
    """max over `[H, A]` in [-1, 1] of value subject to a constraint.

    Repeats: draw N from a diagonal Gaussian, clip, order, refit to the K best. The plan
    is the best candidate of all iterations.

    Attributes:
      action_dim: A.
      config: budget.
      num_devices: local devices that share out the candidates, see `spread.mapped`.
    """

    action_dim: int
    config: CEMConfig
    num_devices: int = 1

    @property
    def batch_size(self) -> int:
        """Candidates that a device scores at once."""
        return share(self.config.num_samples, self.num_devices)

    def init(self, key: Array) -> CEMState:
        """Starts from the zero sequence."""
        del key
        return CEMState(jnp.zeros((self.config.horizon, self.action_dim)))

    def shift(self, state: CEMState, last: Array | None = None) -> CEMState:
        """Warm start of the next time step, see `gaussian.shift`."""
        return CEMState(gaussian.shift(state.mean, last=last))

    def optimize(
        self,
        key: Array,
        state: CEMState,
        objective: Callable[[Array], Score],
        constraint: Constraint,
    ) -> tuple[CEMState, Plan, Metrics]:
        """Searches once.

        Args:
          key: consumed.
          state: warm start.
          objective: `[H, A] -> Score`.
          constraint: how candidates are ordered.

        Returns:
          next state, plan, and the best value, cost and share of feasible candidates
          of each iteration `[num_iter]`.
        """
        config = self.config
        shape = (config.num_samples, config.horizon, self.action_dim)

        def iterate(carry: tuple, key: Array) -> tuple[tuple, Metrics]:
            mean, std, incumbent = carry
            samples = mean + std * gaussian.normal(key, shape)
            samples = jnp.clip(samples, -1.0, 1.0)
            candidates = gaussian.evaluate(objective, samples, self.num_devices)
            order = constraint.order(candidates.score)
            candidates = gaussian.take(candidates, order)
            elites = candidates.actions[: config.num_elites]
            mean, std = gaussian.refit(mean, std, elites, config.alpha, config.min_std)
            incumbent = gaussian.update_incumbent(incumbent, candidates, constraint)
            info = gaussian.search_info(incumbent, candidates, constraint)
            return (mean, std, incumbent), info

        incumbent = gaussian.no_incumbent(config.horizon, self.action_dim, constraint)
        std = jnp.full_like(state.mean, config.init_std)
        keys = jax.random.split(key, config.num_iter)
        (_, _, incumbent), info = jax.lax.scan(
            iterate, (state.mean, std, incumbent), keys
        )
        plan = gaussian.to_plan(incumbent, constraint)
        return CEMState(plan.actions), plan, info
