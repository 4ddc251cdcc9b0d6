"""Critics of the reward and of every cost: one stacked ensemble for all agents."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from safex.config import OffPolicyConfig
from safex.models.networks import MLP
from safex.replay import Minibatch
from safex.types import Array, Metrics, PyTree


class CriticsState(NamedTuple):
    """All that changes; leaves `[M, ...]`, one slice a network.

    Attributes:
      params: live parameters.
      target: slow copy, which bootstraps.
      opt_state: of Adam.
    """

    params: PyTree
    target: PyTree
    opt_state: PyTree


class Values(NamedTuple):
    """What critics say of actions, each on its wary side.

    Attributes:
      reward: `[...]` least of the reward's critics.
      cost: `[..., C]` largest of each cost's critics.
    """

    reward: Array
    cost: Array


@dataclasses.dataclass(frozen=True)
class Critics:
    """M = K (1 + C) networks `Q(obs, action)`: K of the reward, K of each cost.

    A reward is easily overrated by the action that maximises it, so its least critic
    counts (Fujimoto et al. 2018, arXiv 1802.09477, Eq. 10). A cost is underrated by the
    action that minimises it, so its largest counts where actions are judged.

    Attributes:
      config: sizes, learning rate, tau.
      obs_dim: D.
      action_dim: A.
      num_costs: C, 0 for agents that look at no cost.
    """

    config: OffPolicyConfig
    obs_dim: int
    action_dim: int
    num_costs: int

    def init(self, key: Array) -> CriticsState:
        """Networks drawn apart, each its own target."""
        members = self.config.num_critics * (1 + self.num_costs)
        x = jnp.zeros(self.obs_dim + self.action_dim)
        keys = jax.random.split(key, members)
        params = jax.vmap(lambda k: self._network.init(k, x)["params"])(keys)
        target = jax.tree.map(jnp.copy, params)
        return CriticsState(params, target, self._optimizer.init(params))

    def members(self, params: PyTree, obs: Array, action: Array) -> Array:
        """`[K, 1 + C, ...]` the reward first, for `[..., D]` and `[..., A]`."""
        x = jnp.concatenate([obs, action], axis=-1)

        def member(params: PyTree) -> Array:
            value = self._network.apply({"params": params}, x)
            assert isinstance(value, jax.Array)
            return value

        shape = (self.config.num_critics, 1 + self.num_costs, *x.shape[:-1])
        return jax.vmap(member)(params).reshape(shape)

    def values(self, params: PyTree, obs: Array, action: Array) -> Values:
        """The wary side of `members`."""
        members = self.members(params, obs, action)
        cost = members[:, 1:].max(0)
        return Values(members[:, 0].min(0), jnp.moveaxis(cost, 0, -1))

    def targets(
        self, target: PyTree, batch: Minibatch, next_action: Array, bonus: Array
    ) -> Array:
        """`[K, 1 + C, B]` what the critics are to say of the minibatch.

        `y_r = r + gamma^k (min_m Q'_r + bonus)` for all of the reward's, and its own
        `y_c = c + gamma_c^k Q'_c` for each of a cost's: the bonus (the entropy of SAC)
        belongs to the reward alone. The largest cost counts where an action is judged,
        not here: from one bootstrap to the next it would add up, and an agent whose
        episodes cost nothing would still take itself to be over its budget.

        Args:
          target: parameters of the target critics.
          batch: B windows.
          next_action: `[B, A]` of the policy after each window.
          bonus: `[B]` added to the value of the reward there.
        """
        members = self.members(target, batch.next_obs, next_action)
        after = members[:, 0].min(0)
        reward = batch.reward + batch.discount * (after + bonus)
        cost = batch.cost.T + batch.cost_discount * members[:, 1:]
        reward = jnp.broadcast_to(reward, (len(cost), 1, *reward.shape))
        return jnp.concatenate([reward, cost], axis=1)

    def update(
        self, state: CriticsState, batch: Minibatch, next_action: Array, bonus: Array
    ) -> tuple[CriticsState, Metrics]:
        """One step of Adam on the squared error, and of the target towards it."""
        y = self.targets(state.target, batch, next_action, bonus)

        def loss(params: PyTree) -> tuple[Array, Array]:
            error = self.members(params, batch.obs, batch.action) - y
            per_signal = (error**2).mean((0, 2))
            return self.config.num_critics * per_signal.sum(), per_signal

        grads, errors = jax.grad(loss, has_aux=True)(state.params)
        updates, opt_state = self._optimizer.update(grads, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        target = optax.incremental_update(params, state.target, self.config.tau)
        value = y.mean((0, 2))
        metrics = {"critic/loss": errors[0], "critic/value": value[0]}
        if self.num_costs:
            metrics["cost_critic/loss"] = errors[1:]
            metrics["cost_critic/value"] = value[1:]
        return CriticsState(params, target, opt_state), metrics

    @property
    def _network(self) -> MLP:
        return MLP(self.config.features, 1, self.config.activation)

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.config.critic_lr_rate)
