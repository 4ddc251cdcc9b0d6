"""The cross-entropy method under a constraint."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from safex.optimizers import gaussian
from safex.optimizers.constraint import Constraint
from safex.types import Array, Metrics, Plan, Score


@dataclasses.dataclass(frozen=True)
class CEMConfig:
    """Budget of a cross-entropy search in the box [-1, 1].

    Attributes:
      horizon: H [steps].
      num_iter: iterations.
      num_elites: K.
      num_samples: N candidates per iteration.
      init_std: std of the first iteration; 5 begins bang-bang, since most samples fall
        outside the box and are clipped.
      min_std: floor of the std.
      alpha: momentum of mean and std, in [0, 1).
    """

    horizon: int = 20
    num_iter: int = 10
    num_elites: int = 50
    num_samples: int = 500
    init_std: float = 5.0
    min_std: float = 1e-6
    alpha: float = 0.0

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        for name in ("horizon", "num_iter", "num_elites", "num_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.num_elites > self.num_samples:
            raise ValueError(
                f"num_elites must not exceed num_samples, got {self.num_elites} elites "
                f"of {self.num_samples} samples"
            )
        for name in ("init_std", "min_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if not 0.0 <= self.alpha < 1.0:
            raise ValueError(f"alpha must lie in [0, 1), got {self.alpha}")


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
      constraint: how candidates are ordered.
    """

    action_dim: int
    config: CEMConfig
    constraint: Constraint

    def init(self, key: Array) -> CEMState:
        """Starts from the zero sequence."""
        del key
        return CEMState(jnp.zeros((self.config.horizon, self.action_dim)))

    def shift(self, state: CEMState) -> CEMState:
        """Warm start of the next time step."""
        return CEMState(gaussian.shift(state.mean))

    def optimize(
        self, key: Array, state: CEMState, objective: Callable[[Array], Score]
    ) -> tuple[CEMState, Plan, Metrics]:
        """Searches once.

        Args:
          key: consumed.
          state: warm start.
          objective: `[H, A] -> Score`.

        Returns:
          next state, plan, and the best value, cost and share of feasible candidates
          of each iteration `[num_iter]`.
        """
        config = self.config
        shape = (config.num_samples, config.horizon, self.action_dim)

        def iterate(carry: tuple, key: Array) -> tuple[tuple, Metrics]:
            mean, std, incumbent = carry
            samples = mean + std * jax.random.normal(key, shape)
            candidates = gaussian.evaluate(objective, jnp.clip(samples, -1.0, 1.0))
            order = self.constraint.order(candidates.score)
            candidates = gaussian.take(candidates, order)
            elites = candidates.actions[: config.num_elites]
            mean, std = gaussian.refit(mean, std, elites, config.alpha, config.min_std)
            incumbent = gaussian.update_incumbent(
                incumbent, candidates, self.constraint
            )
            info = gaussian.search_info(incumbent, candidates, self.constraint)
            return (mean, std, incumbent), info

        incumbent = gaussian.no_incumbent(config.horizon, self.action_dim)
        std = jnp.full_like(state.mean, config.init_std)
        keys = jax.random.split(key, config.num_iter)
        (_, _, incumbent), info = jax.lax.scan(
            iterate, (state.mean, std, incumbent), keys
        )
        plan = gaussian.to_plan(incumbent, self.constraint)
        return CEMState(plan.actions), plan, info
