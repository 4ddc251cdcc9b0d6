"""iCEM, the sample-efficient cross-entropy method, under a constraint.

Pinneri et al. 2020, arXiv 2008.06389.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from safex.config import ICEMConfig
from safex.constraints.rule import Constraint
from safex.optimizers import gaussian
from safex.optimizers.spread import share
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
    the last candidates. Beyond the paper: first candidates of several widths, see
    `ICEMConfig.std_spread`.

    Attributes:
      action_dim: A.
      config: budget and tricks.
      num_devices: local devices that share out the candidates, see `spread.mapped`.
    """

    action_dim: int
    config: ICEMConfig
    num_devices: int = 1

    @property
    def batch_size(self) -> int:
        """Candidates that a device scores at once."""
        rows = self.config.num_samples + self.config.num_kept
        return share(rows, self.num_devices)

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
        # One draw for all iterations: each draw costs most of a second to compile.
        populations = [config.population(i) for i in range(config.num_iter)]
        noise = gaussian.coloured_noise(
            key, config.exponent, (sum(populations), *shape)
        )
        widths = np.geomspace(1.0, 1.0 / config.std_spread, populations[0])
        noise = noise.at[: populations[0]].multiply(
            jnp.asarray(widths, noise.dtype)[:, None, None]
        )

        def iterate(carry: tuple, inputs: tuple) -> tuple[tuple, Metrics]:
            mean, std, kept, incumbent = carry
            noise, is_last = inputs
            samples = mean + std * noise
            samples = samples.at[0].set(jnp.where(is_last, mean, samples[0]))
            # Kept ones are scored again, so that no iteration is a special case: for
            # the first they come from the decision before.
            samples = jnp.concatenate([jnp.clip(samples, -1.0, 1.0), kept])
            candidates = gaussian.evaluate(objective, samples, self.num_devices)
            candidates = gaussian.take(candidates, constraint.order(candidates.score))
            mean, std = gaussian.refit(
                mean,
                std,
                candidates.actions[: config.num_elites],
                config.alpha,
                config.min_std,
            )
            incumbent = gaussian.update_incumbent(incumbent, candidates, constraint)
            info = gaussian.search_info(incumbent, candidates, constraint)
            kept = candidates.actions[: config.num_kept]
            return (mean, std, kept, incumbent), info

        std = jnp.full(shape, config.init_std)
        carry = (
            state.mean,
            std,
            state.elites,
            gaussian.no_incumbent(*shape, constraint),
        )
        infos = []
        first, drawn = 0, 0
        # Iterations of equal size are one loop: what is unrolled compiles each time.
        for population, group in itertools.groupby(populations):
            count = len(list(group))
            block = noise[drawn : drawn + count * population]
            block = block.reshape(count, population, *shape)
            is_last = jnp.arange(first, first + count) == config.num_iter - 1
            carry, info = jax.lax.scan(iterate, carry, (block, is_last))
            infos.append(info)
            first, drawn = first + count, drawn + count * population
        mean, _, elites, incumbent = carry
        plan = gaussian.to_plan(incumbent, constraint)
        info = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *infos)
        return ICEMState(mean, elites), plan, info
