"""Soft actor-critic with a learned temperature.

Haarnoja et al. 2018, arXiv 1812.05905, Eq. 5, 7 and 18.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from safex.agents.off_policy.critics import Critics, CriticsState
from safex.agents.off_policy.networks import GaussianActor
from safex.agents.off_policy.prices import priced_loss
from safex.config import SACConfig
from safex.types import Array, Metrics, PyTree, Replay


class SACState(NamedTuple):
    """All that changes.

    Attributes:
      params: of the actor.
      opt_state: of the actor.
      log_temperature: `[]`.
      temperature_opt_state: of the temperature.
    """

    params: PyTree
    opt_state: PyTree
    log_temperature: Array
    temperature_opt_state: PyTree


@dataclasses.dataclass(frozen=True)
class SoftPolicy:
    """A squashed Gaussian that is paid for its entropy.

    Attributes:
      config: learning rates and the entropy that the temperature steers to.
      actor: its network.
      critics: that judge its actions.
    """

    config: SACConfig
    actor: GaussianActor
    critics: Critics

    @property
    def newest(self) -> None:
        """Improved on all of the replay."""
        return None

    def init(self, key: Array) -> SACState:
        """A random actor."""
        params = self.actor.init(key)
        # An array of its own type: a Python number's would compile the update twice.
        log_temperature = jnp.log(jnp.float32(self.config.init_temperature))
        return SACState(
            params,
            self._optimizer.init(params),
            log_temperature,
            self._temperature_optimizer.init(log_temperature),
        )

    def act(self, key: Array, state: SACState, obs: Array, *, explore: bool) -> Array:
        """A sample, or the action of the mean."""
        if not explore:
            return self.actor.mode(state.params, obs)
        return self.actor.distribution(state.params, obs).sample(seed=key)

    def target_action(
        self, key: Array, state: SACState, obs: Array
    ) -> tuple[Array, Array]:
        """A sample and `-alpha log pi` of it."""
        distribution = self.actor.distribution(state.params, obs)
        action, log_prob = distribution.sample_and_log_prob(seed=key)
        return action, -jnp.exp(state.log_temperature) * log_prob

    def hear(
        self,
        key: Array,
        state: SACState,
        acted: SACState,
        critics: CriticsState,
        replay: Replay,
        episode_cost: Array,
        fresh: Array,
    ) -> SACState:
        """Budgets are its price's."""
        del key, acted, critics, replay, episode_cost, fresh
        return state

    def improve(
        self,
        key: Array,
        state: SACState,
        critics: CriticsState,
        obs: Array,
        multiplier: Array,
        count: Array,
    ) -> tuple[SACState, Metrics]:
        """One step of Adam on `alpha log pi - Q_r + lambda . Q_c`, and on alpha."""
        del count
        temperature = jnp.exp(state.log_temperature)

        def loss(params: PyTree) -> tuple[Array, Array]:
            distribution = self.actor.distribution(params, obs)
            action, log_prob = distribution.sample_and_log_prob(seed=key)
            values = self.critics.values(critics.params, obs, action)
            entropy_cost = temperature * log_prob
            return priced_loss(entropy_cost, values, multiplier), -log_prob.mean()

        (value, entropy), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = self._optimizer.update(grads, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        # Too little entropy raises the temperature.
        wanted = self.config.target_entropy * self.actor.action_dim
        updates, temperature_opt_state = self._temperature_optimizer.update(
            entropy - wanted, state.temperature_opt_state
        )
        log_temperature = optax.apply_updates(state.log_temperature, updates)
        metrics = {
            "actor/loss": value,
            "actor/entropy": entropy,
            "actor/temperature": temperature,
        }
        return (
            SACState(params, opt_state, log_temperature, temperature_opt_state),
            metrics,
        )

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.config.actor_lr_rate)

    @property
    def _temperature_optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.config.temperature_lr_rate)
