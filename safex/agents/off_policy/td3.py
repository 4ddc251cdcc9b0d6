"""Deterministic policy gradients: TD3, and DDPG as TD3 without its three changes.

Lillicrap et al. 2016, arXiv 1509.02971, Alg. 1; Fujimoto et al. 2018, arXiv 1802.09477,
Alg. 1.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from safex.agents.off_policy.critics import Critics, CriticsState
from safex.agents.off_policy.networks import DeterministicActor
from safex.agents.off_policy.prices import priced_loss
from safex.config import DDPGConfig
from safex.types import Array, Metrics, PyTree, Replay


@dataclasses.dataclass(frozen=True)
class TargetNoise:
    """Noise on the action that is bootstrapped from.

    Attributes:
      std: before the clip; 0 is none.
      clip: bound.
    """

    std: float = 0.0
    clip: float = 0.0

    def __call__(self, key: Array, action: Array) -> Array:
        """The action with noise, in the box (TD3, Eq. 14)."""
        noise = self.std * jax.random.normal(key, action.shape)
        noise = jnp.clip(noise, -self.clip, self.clip)
        return jnp.clip(action + noise, -1.0, 1.0)


class DeterministicState(NamedTuple):
    """All that changes.

    Attributes:
      params: of the actor.
      target: slow copy of them.
      opt_state: of Adam.
      loss: `[]` of the last step.
    """

    params: PyTree
    target: PyTree
    opt_state: PyTree
    loss: Array


@dataclasses.dataclass(frozen=True)
class DeterministicPolicy:
    """One action an observation, moved up the gradient of the critics.

    Attributes:
      config: learning rate, tau, exploration.
      actor: its network.
      critics: that judge its actions.
      target_noise: on the action that is bootstrapped from.
      delay: critic updates to one of the actor.
    """

    config: DDPGConfig
    actor: DeterministicActor
    critics: Critics
    target_noise: TargetNoise = TargetNoise()
    delay: int = 1

    @property
    def newest(self) -> None:
        """Improved on all of the replay."""
        return None

    def init(self, key: Array) -> DeterministicState:
        """A random actor, its own target."""
        params = self.actor.init(key)
        target = jax.tree.map(jnp.copy, params)
        opt_state = self._optimizer.init(params)
        return DeterministicState(params, target, opt_state, jnp.zeros(()))

    def act(
        self, key: Array, state: DeterministicState, obs: Array, *, explore: bool
    ) -> Array:
        """The actor's action, with noise clipped to the box if it explores."""
        action = self.actor.action(state.params, obs)
        if not explore:
            return action
        noise = self.config.exploration_std * jax.random.normal(key, action.shape)
        return jnp.clip(action + noise, -1.0, 1.0)

    def target_action(
        self, key: Array, state: DeterministicState, obs: Array
    ) -> tuple[Array, Array]:
        """The target actor's action, with noise."""
        action = self.actor.action(state.target, obs)
        return self.target_noise(key, action), jnp.zeros(obs.shape[0])

    def hear(
        self,
        key: Array,
        state: DeterministicState,
        acted: DeterministicState,
        critics: CriticsState,
        replay: Replay,
        episode_cost: Array,
        fresh: Array,
    ) -> DeterministicState:
        """Budgets are its price's."""
        del key, acted, critics, replay, episode_cost, fresh
        return state

    def improve(
        self,
        key: Array,
        state: DeterministicState,
        critics: CriticsState,
        obs: Array,
        multiplier: Array,
        count: Array,
    ) -> tuple[DeterministicState, Metrics]:
        """One step of Adam on `-Q_r + lambda . Q_c` where it is the actor's turn."""
        del key

        def move(state: DeterministicState) -> DeterministicState:
            return self._move(state, critics, obs, multiplier)

        turn = count % self.delay == self.delay - 1
        state = jax.lax.cond(turn, move, lambda state: state, state)
        return state, {"actor/loss": state.loss}

    def _move(
        self,
        state: DeterministicState,
        critics: CriticsState,
        obs: Array,
        multiplier: Array,
    ) -> DeterministicState:
        def loss(params: PyTree) -> Array:
            action = self.actor.action(params, obs)
            values = self.critics.values(critics.params, obs, action)
            return priced_loss(jnp.zeros(()), values, multiplier)

        value, grads = jax.value_and_grad(loss)(state.params)
        updates, opt_state = self._optimizer.update(grads, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        target = optax.incremental_update(params, state.target, self.config.tau)
        return DeterministicState(params, target, opt_state, value)

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.config.actor_lr_rate)
