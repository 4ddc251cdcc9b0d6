"""What an actor pays for cost: nothing, or what a controller asks."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from safex.agents.off_policy.critics import Values
from safex.constraints.pid import PID
from safex.types import Array, PyTree


class Price(Protocol):
    """The multipliers of an agent."""

    def init(self) -> PyTree:
        """Before any episode."""
        ...

    def update(self, state: PyTree, episode_cost: Array, fresh: Array) -> PyTree:
        """After episodes of mean cost `[C]`; nothing moves unless `fresh`."""
        ...

    def multiplier(self, state: PyTree) -> Array:
        """`[C]` reward that a unit of cost is worth; empty without cost critics."""
        ...


@dataclasses.dataclass(frozen=True)
class NoPrice:
    """Costs nothing: of agents without a constraint, or with one of another kind."""

    def init(self) -> tuple[()]:
        """Nothing to remember."""
        return ()

    def update(self, state: PyTree, episode_cost: Array, fresh: Array) -> PyTree:
        """Stays as it is."""
        del episode_cost, fresh
        return state

    def multiplier(self, state: PyTree) -> Array:
        """None."""
        del state
        return jnp.zeros(0)


@dataclasses.dataclass(frozen=True)
class EpisodicPrice:
    """Multipliers under PID control of the episodes' undiscounted cost.

    Attributes:
      controller: the package's PID.
      cost_budget: C allowed costs of an episode.
    """

    controller: PID
    cost_budget: tuple[float, ...]

    def init(self) -> PyTree:
        """No price."""
        return self.controller.init(len(self.cost_budget))

    def update(self, state: PyTree, episode_cost: Array, fresh: Array) -> PyTree:
        """One step of the controller if an episode has ended, else none."""
        budget = jnp.asarray(self.cost_budget)
        # What is not fresh may be anything, NaN too: it must not reach the arithmetic.
        cost = jnp.where(fresh, episode_cost, budget)
        moved = self.controller.update(state, cost, budget)
        return jax.tree.map(lambda new, old: jnp.where(fresh, new, old), moved, state)

    def multiplier(self, state: PyTree) -> Array:
        """As the controller has it."""
        return state.multiplier


def priced_loss(extra: Array, values: Values, multiplier: Array) -> Array:
    """`mean(extra - Q_r + lambda . Q_c) / (1 + sum lambda)`, an actor's loss.

    The division keeps the actor's steps of one size whatever the price (Stooke et al.
    2020, arXiv 2007.03964, Sec. 6).

    Args:
      extra: `[B]` what else an action costs (SAC's entropy), or 0.
      values: of the actor's actions.
      multiplier: `[C]`, or empty where the critics have no costs.
    """
    price = (values.cost * multiplier).sum(-1)
    return (extra - values.reward + price).mean() / (1.0 + multiplier.sum())
