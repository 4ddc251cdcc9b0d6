"""Model-predictive path-integral control under a constraint.

Williams et al. 2017, Information-theoretic MPC; elites, momentum and a floor of the std
as in TD-MPC2 (Hansen et al. 2024, arXiv 2310.16828).
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from safex.config import MPPIConfig
from safex.constraints.rule import Constraint
from safex.optimizers import gaussian
from safex.optimizers.spread import share
from safex.types import Array, Metrics, Plan, Score


class MPPIState(NamedTuple):
    """What the next decision starts from.

    Attributes:
      mean: `[H, A]` weighted mean of the last decision.
    """

    mean: Array


@dataclasses.dataclass(frozen=True)
class MPPI:
    """max over `[H, A]` in [-1, 1] of value subject to a constraint.

    Repeats: draw N around the mean, clip, take the K best, and move mean and std to
    theirs under the weights `w_i ~ exp(merit_i / temperature)`. Only elites of the best
    tier have weight: under a rule that puts feasible candidates first, the mean is one
    of feasible elites, or, while there is none, of those of least margin. The mean is a
    candidate of every iteration; the plan is the best candidate of all, since a mean of
    feasible plans need not be one.

    Attributes:
      action_dim: A.
      config: budget.
      num_devices: local devices that share out the candidates, see `spread.mapped`.
    """

    action_dim: int
    config: MPPIConfig
    num_devices: int = 1

    @property
    def batch_size(self) -> int:
        """Candidates that a device scores at once."""
        return share(self.config.num_samples, self.num_devices)

    def init(self, key: Array) -> MPPIState:
        """Starts from the zero sequence."""
        del key
        return MPPIState(jnp.zeros((self.config.horizon, self.action_dim)))

    def shift(self, state: MPPIState, last: Array | None = None) -> MPPIState:
        """Warm start of the next time step, see `gaussian.shift`."""
        return MPPIState(gaussian.shift(state.mean, last=last))

    def optimize(
        self,
        key: Array,
        state: MPPIState,
        objective: Callable[[Array], Score],
        constraint: Constraint,
    ) -> tuple[MPPIState, Plan, Metrics]:
        """Searches once; arguments and returns as `CEM.optimize`."""
        config = self.config
        shape = (config.num_samples, config.horizon, self.action_dim)

        def iterate(carry: tuple, key: Array) -> tuple[tuple, Metrics]:
            mean, std, incumbent = carry
            noise = gaussian.coloured_noise(key, config.exponent, shape)
            samples = (mean + std * noise).at[0].set(mean)
            samples = jnp.clip(samples, -1.0, 1.0)
            candidates = gaussian.evaluate(objective, samples, self.num_devices)
            order = constraint.order(candidates.score)
            candidates = gaussian.take(candidates, order)
            elites = gaussian.take(candidates, jnp.arange(config.num_elites))
            weights = elite_weights(elites.score, constraint, config.temperature)
            mean, std = self._refit(mean, std, elites.actions, weights)
            incumbent = gaussian.update_incumbent(incumbent, candidates, constraint)
            info = gaussian.search_info(incumbent, candidates, constraint)
            return (mean, std, incumbent), info

        incumbent = gaussian.no_incumbent(config.horizon, self.action_dim, constraint)
        std = jnp.full_like(state.mean, config.init_std)
        keys = jax.random.split(key, config.num_iter)
        (mean, _, incumbent), info = jax.lax.scan(
            iterate, (state.mean, std, incumbent), keys
        )
        return MPPIState(mean), gaussian.to_plan(incumbent, constraint), info

    def _refit(
        self, mean: Array, std: Array, elites: Array, weights: Array
    ) -> tuple[Array, Array]:
        """Moves a Gaussian towards its weighted elites."""
        m = self.config.alpha
        new_mean = jnp.tensordot(weights, elites, axes=1)
        variance = jnp.tensordot(weights, (elites - new_mean) ** 2, axes=1)
        # Without a finite candidate nothing has weight, and the search stays.
        some = weights.sum() > 0.0
        mean = jnp.where(some, m * mean + (1.0 - m) * new_mean, mean)
        new_std = m * std + (1.0 - m) * jnp.sqrt(variance)
        std = jnp.where(some, new_std, std)
        return mean, jnp.maximum(std, self.config.min_std)


def elite_weights(score: Score, constraint: Constraint, temperature: float) -> Array:
    """Weights `[K]` of elites in order, best first; they add up to 1.

    `w ~ exp(merit / temperature)` within the tier of the best, 0 beyond it. All zero if
    no elite is finite.
    """
    tier = constraint.tier(score)
    merit = constraint.merit(score)
    counts = (tier == tier[0]) & jnp.isfinite(merit)
    best = jnp.max(merit, where=counts, initial=-jnp.inf)
    weights = jnp.where(counts, jnp.exp((merit - best) / temperature), 0.0)
    return weights / jnp.maximum(weights.sum(), 1.0)
