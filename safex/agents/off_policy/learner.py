"""What all off-policy agents share: minibatches, critics, multipliers, one scan."""

import dataclasses
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from safex.agents.off_policy.critics import Critics, CriticsState
from safex.agents.off_policy.prices import Price
from safex.replay import Replay, newest_obs, sample
from safex.types import Array, Metrics, PyTree


class Policy(Protocol):
    """An actor and how it is improved: what makes an algorithm of the learner."""

    @property
    def newest(self) -> int | None:
        """Newest steps of the replay that it is improved on; None is all of it."""
        ...

    def init(self, key: Array) -> PyTree:
        """Before any update."""
        ...

    def act(self, key: Array, state: PyTree, obs: Array, *, explore: bool) -> Array:
        """An action `[A]` for `obs` `[D]`."""
        ...

    def target_action(
        self, key: Array, state: PyTree, obs: Array
    ) -> tuple[Array, Array]:
        """Actions `[B, A]` to bootstrap from at `[B, D]`, and their bonus `[B]`."""
        ...

    def hear(
        self,
        key: Array,
        state: PyTree,
        acted: PyTree,
        critics: CriticsState,
        replay: Replay,
        episode_cost: Array,
        fresh: Array,
    ) -> PyTree:
        """Takes note of the episodes that ended, after the updates of a call.

        Args:
          key: consumed.
          state: of the policy.
          acted: its state before the updates, in which it took the newest steps.
          critics: which have learned from these steps.
          replay: with the steps of the episodes.
          episode_cost: `[C]` mean cost return of the episodes.
          fresh: `[]` bool, whether there are any.
        """
        ...

    def improve(
        self,
        key: Array,
        state: PyTree,
        critics: CriticsState,
        obs: Array,
        multiplier: Array,
        count: Array,
    ) -> tuple[PyTree, Metrics]:
        """One step on the observations `[B, D]` of a minibatch.

        Args:
          key: consumed.
          state: of the policy.
          critics: after their own step on the minibatch.
          obs: `[B, D]`.
          multiplier: `[C]` price of the costs.
          count: `[]` int32 updates before this one.
        """
        ...


class OffPolicyState(NamedTuple):
    """All that changes.

    Attributes:
      policy: of the policy.
      critics: of the critics.
      price: of the multipliers.
      updates: `[]` int32 so far.
    """

    policy: PyTree
    critics: CriticsState
    price: PyTree
    updates: Array


@dataclasses.dataclass(frozen=True)
class OffPolicyLearner:
    """An agent: critics on minibatches, a policy on the critics, a price on the costs.

    Attributes:
      critics: of the reward and of the costs that the policy looks at.
      policy: the algorithm.
      price: its multipliers.
    """

    critics: Critics
    policy: Policy
    price: Price

    def init(self, key: Array) -> OffPolicyState:
        """An agent that has seen nothing."""
        policy_key, critics_key = jax.random.split(key)
        return OffPolicyState(
            self.policy.init(policy_key),
            self.critics.init(critics_key),
            self.price.init(),
            jnp.zeros((), jnp.int32),
        )

    def act(
        self, key: Array, state: OffPolicyState, obs: Array, *, explore: bool
    ) -> tuple[Array, Metrics]:
        """An action `[A]` in the box for one `obs` `[D]`."""
        return self.policy.act(key, state.policy, obs, explore=explore), {}

    @partial(jax.jit, static_argnums=(0,), static_argnames=("num_updates",))
    def update(
        self,
        key: Array,
        state: OffPolicyState,
        replay: Replay,
        episode_cost: Array,
        fresh: Array,
        *,
        num_updates: int,
    ) -> tuple[OffPolicyState, Metrics]:
        """`num_updates` steps of critics and policy, as one compiled scan.

        Args:
          key: consumed.
          state: of the agent.
          replay: has at least one step of each environment.
          episode_cost: `[C]` mean cost return of the episodes that ended since the last
            call.
          fresh: `[]` bool, whether any did.
          num_updates: static.

        Returns:
          the new state, and the means over the updates of all metrics.
        """
        price = self.price.update(state.price, episode_cost, fresh)
        multiplier = self.price.multiplier(price)
        keys = jax.random.split(key, num_updates + 1)

        def step(
            carry: tuple[PyTree, CriticsState, Array], step_key: Array
        ) -> tuple[tuple[PyTree, CriticsState, Array], Metrics]:
            policy, critics, count = carry
            sample_key, target_key, improve_key, obs_key = jax.random.split(step_key, 4)
            c = self.critics.config
            batch = sample(
                sample_key, replay, c.batch_size, c.n_step, c.discount, c.cost_discount
            )
            batch = batch._replace(cost=batch.cost[:, : self.critics.num_costs])
            action, bonus = self.policy.target_action(
                target_key, policy, batch.next_obs
            )
            critics, metrics = self.critics.update(critics, batch, action, bonus)
            obs = batch.obs
            if self.policy.newest is not None:
                obs = newest_obs(obs_key, replay, c.batch_size, self.policy.newest)
            policy, more = self.policy.improve(
                improve_key, policy, critics, obs, multiplier, count
            )
            return (policy, critics, count + 1), {**metrics, **more}

        start = (state.policy, state.critics, state.updates)
        (policy, critics, count), metrics = jax.lax.scan(step, start, keys[:-1])
        metrics = jax.tree.map(lambda x: x.mean(0), metrics)
        policy = self.policy.hear(
            keys[-1], policy, state.policy, critics, replay, episode_cost, fresh
        )
        if multiplier.size:
            metrics["multiplier"] = multiplier
        return OffPolicyState(policy, critics, price, count), metrics
