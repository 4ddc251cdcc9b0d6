"""iCEM, the sample-efficient cross-entropy method, under a constraint.

Pinneri et al. 2020, arXiv 2008.06389.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from safex.config import ICEMConfig
from safex.constraints.rule import Constraint
from safex.optimizers import gaussian
from safex.types import Array, Metrics, Plan, Score


class ICEMState(NamedTuple):
    """What the next decision starts from.

    Attributes:
      mean: `[H, A]` mean of the search.
      elites: `[num_kept, H, A]` best sequences of the last decision.
    """

    mean: Array
    elites: Array


@dataclasses.dataclass(frozen=True)
class ICEM:
    """CEM with the tricks of iCEM.

    Coloured noise, kept and shifted elites, a shrinking population, and the mean among
    the last candidates.

    Attributes:
      action_dim: A.
      config: budget and tricks.
      num_devices: local devices that share out the candidates, see `spread.mapped`.
    """

    action_dim: int
    config: ICEMConfig
    num_devices: int = 1

    def init(self, key: Array) -> ICEMState:
        """Starts from zero sequences."""
        del key
        shape = (self.config.horizon, self.action_dim)
        return ICEMState(jnp.zeros(shape), jnp.zeros((self.config.num_kept, *shape)))

    def shift(self, state: ICEMState, last: Array | None = None) -> ICEMState:
        """Warm start of the next time step: mean and elites one step ahead."""
        return ICEMState(
            gaussian.shift(state.mean, last=last), gaussian.shift(state.elites, 1, last)
        )

    def optimize(
        self,
        key: Array,
        state: ICEMState,
        objective: Callable[[Array], Score],
        constraint: Constraint,
    ) -> tuple[ICEMState, Plan, Metrics]:
        """Searches once; arguments and returns as `CEM.optimize`."""
        config = self.config
        shape = (config.horizon, self.action_dim)
        mean = state.mean
        std = jnp.full(shape, config.init_std)
        incumbent = gaussian.no_incumbent(*shape, constraint)
        kept = None
        infos = []
        # One draw for all iterations: each draw costs most of a second to compile.
        populations = [config.population(i) for i in range(config.num_iter)]
        noise = gaussian.coloured_noise(
            key, config.exponent, (sum(populations), *shape)
        )
        first = 0
        for i, population in enumerate(populations):
            samples = mean + std * noise[first : first + population]
            first += population
            if i == config.num_iter - 1:
                samples = samples.at[0].set(mean)
            samples = jnp.clip(samples, -1.0, 1.0)
            if i == 0:
                # Elites of the last decision are candidates of this iteration only.
                samples = jnp.concatenate([samples, state.elites])
            candidates = gaussian.evaluate(objective, samples, self.num_devices)
            if kept is not None:
                candidates = gaussian.join(candidates, kept)
            candidates = gaussian.take(candidates, constraint.order(candidates.score))
            elites = gaussian.take(candidates, jnp.arange(config.num_elites))
            mean, std = gaussian.refit(
                mean, std, elites.actions, config.alpha, config.min_std
            )
            if config.num_kept:
                kept = gaussian.take(elites, jnp.arange(config.num_kept))
            incumbent = gaussian.update_incumbent(incumbent, candidates, constraint)
            infos.append(gaussian.search_info(incumbent, candidates, constraint))
        plan = gaussian.to_plan(incumbent, constraint)
        elites_left = kept.actions if kept is not None else state.elites
        info = jax.tree.map(lambda *leaves: jnp.stack(leaves), *infos)
        return ICEMState(mean, elites_left), plan, info
