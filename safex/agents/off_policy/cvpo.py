"""Constrained variational policy optimisation.

Liu et al. 2022, arXiv 2201.11927, Alg. 1. The E-step is in `dual.py`; the M-step is
MPO's with the KLs of mean and covariance apart (Abdolmaleki et al. 2018,
arXiv 1812.02256, Sec. 4.2.1).
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from safex.agents.off_policy.critics import Critics, CriticsState
from safex.agents.off_policy.dual import Dual, EStep, first_guess, solve_estep
from safex.agents.off_policy.networks import GaussianActor
from safex.agents.off_policy.threshold import Measured, Threshold
from safex.agents.off_policy.weight import CostWeight
from safex.config import CVPOConfig
from safex.replay import newest_obs
from safex.types import Array, Metrics, PyTree, Replay

# Further out (0.96 of the box) samples are nearly the same action, and the M-step takes
# them for it. Their weights would say nothing, yet draw the mean on and on, to where no
# sample of it is another action and nothing can bring it back.
_SATURATED = 2.0
# At a price a the priced likelihood is greatest 1 / (1 + a) of the way to the weighted
# moments, so that more would hold nothing back that this does not. A price that rose
# further would stand in the actor's way long after its KL has fallen.
_MAX_PRICE = 100.0


class CVPOState(NamedTuple):
    """All that changes.

    Attributes:
      params: of the actor.
      old: of the policy that actions are drawn from and KLs are measured from.
      opt_state: of the actor.
      log_prices: `[2]` logarithm of the prices of the two KLs, mean and std.
      prices_opt_state: of them.
      dual: of the last E-step, where the next one starts.
      measured: what the threshold is made from.
      weight: what the bound of the costs' weight is made from.
    """

    params: PyTree
    old: PyTree
    opt_state: PyTree
    log_prices: Array
    prices_opt_state: PyTree
    dual: Dual
    measured: Measured
    weight: PyTree


class Moments(NamedTuple):
    """A diagonal Gaussian before the tanh, `[B, A]` each."""

    mean: Array
    std: Array


def mean_kl(old: Moments, new: Moments) -> Array:
    """KL of the old policy from one with new means and the old stds, mean over B."""
    return (0.5 * ((new.mean - old.mean) / old.std) ** 2).sum(-1).mean()


def std_kl(old: Moments, new: Moments) -> Array:
    """KL of the old policy from one with new stds and the old means, mean over B."""
    ratio = (old.std / new.std) ** 2
    return (0.5 * (ratio - 1.0 - jnp.log(ratio))).sum(-1).mean()


def weighted_nll(weights: Array, samples: Array, old: Moments, new: Moments) -> Array:
    """`-mean_s E_w[log N(u; mu, S_old) + log N(u; mu_old, S)]`, but for a constant.

    The mean is fitted under the old stds and the stds around the old mean, so that
    neither hides behind the other. Both depend on the samples through two weighted
    moments alone. The tanh behind the Gaussian changes a sample's log density by what
    no parameter moves.

    Args:
      weights: `[B, N]`.
      samples: `[B, N, A]` before the tanh.
      old: moments that they were drawn with.
      new: moments to fit.
    """
    first = jnp.einsum("bn,bna->ba", weights, samples)
    second = jnp.einsum("bn,bna->ba", weights, (samples - old.mean[:, None]) ** 2)
    mean_term = 0.5 * ((new.mean - first) / old.std) ** 2
    std_term = 0.5 * second / new.std**2 + jnp.log(new.std)
    return (mean_term + std_term).sum(-1).mean()


@dataclasses.dataclass(frozen=True)
class VariationalPolicy:
    """A squashed Gaussian fitted to weighted samples of its former self.

    Attributes:
      config: sizes of the two trust regions, learning rates.
      actor: its network.
      critics: that judge its actions.
      threshold: of the costs, on the discounted scale of their critics.
      weight: the most that costs may weigh beside the reward.
    """

    config: CVPOConfig
    actor: GaussianActor
    critics: Critics
    threshold: Threshold
    weight: CostWeight

    @property
    def newest(self) -> int | None:
        """As the settings say."""
        return self.config.estep_newest

    def init(self, key: Array) -> CVPOState:
        """A random actor, its own old policy."""
        params = self.actor.init(key)
        log_prices = jnp.log(jnp.asarray([10.0, 100.0]))
        return CVPOState(
            params,
            jax.tree.map(jnp.copy, params),
            self._optimizer.init(params),
            log_prices,
            self._prices_optimizer.init(log_prices),
            first_guess(len(self.threshold.cost_budget)),
            self.threshold.init(),
            self.weight.init(),
        )

    def act(self, key: Array, state: CVPOState, obs: Array, *, explore: bool) -> Array:
        """A sample, or the action of the mean."""
        if not explore:
            return self.actor.mode(state.params, obs)
        return self.actor.distribution(state.params, obs).sample(seed=key)

    def target_action(
        self, key: Array, state: CVPOState, obs: Array
    ) -> tuple[Array, Array]:
        """A sample of the live actor; CVPO pays for no entropy."""
        action = self.actor.distribution(state.params, obs).sample(seed=key)
        return action, jnp.zeros(obs.shape[0])

    def hear(
        self,
        key: Array,
        state: CVPOState,
        acted: CVPOState,
        critics: CriticsState,
        replay: Replay,
        episode_cost: Array,
        fresh: Array,
    ) -> CVPOState:
        """Measures the mean Q_c of new steps, and moves what costs may weigh.

        As the E-step sees it, by the target critics and of a policy's own actions: of
        the one that took these steps and made the episodes' cost. Critics are asked
        only now: before, they know nothing of a cost that is new.
        """
        measured = state.measured
        num_envs = replay.transitions.reward.shape[1]
        steps = (replay.written - measured.written) * num_envs
        obs_key, act_key = jax.random.split(key)
        count = self.config.batch_size * self.config.num_samples
        obs = newest_obs(obs_key, replay, count, jnp.maximum(steps, 1))
        action = self.actor.distribution(acted.params, obs).sample(seed=act_key)
        value = self.critics.values(critics.target, obs, action).cost.mean(0)
        stored = replay.transitions.reward.size
        window = min(self.newest or stored, stored)
        new = self.threshold.update(measured, value, episode_cost, steps, window)
        new = new._replace(written=replay.written)
        moved = new, self.weight.update(state.weight, episode_cost)
        # What is not fresh may be anything, NaN too.
        new, weight = jax.tree.map(
            lambda a, b: jnp.where(fresh, a, b), moved, (measured, state.weight)
        )
        return state._replace(measured=new, weight=weight)

    def improve(
        self,
        key: Array,
        state: CVPOState,
        critics: CriticsState,
        obs: Array,
        multiplier: Array,
        count: Array,
    ) -> tuple[CVPOState, Metrics]:
        """An E-step and an M-step; the old policy follows when it is its turn."""
        del multiplier
        old = Moments(*self.actor.moments(state.old, obs))
        shape = (self.config.num_samples, *old.mean.shape)
        # [N, B, A] for the critics, whose rows are then blocks of one observation each.
        samples = old.mean + old.std * jax.random.normal(key, shape)
        threshold = self.threshold(state.measured)
        estep = self._estep(critics, state, obs, samples, threshold)
        samples = jnp.clip(jnp.moveaxis(samples, 0, 1), -_SATURATED, _SATURATED)

        def mstep(carry: CVPOState, _: None) -> tuple[CVPOState, Metrics]:
            return self._mstep(carry, obs, samples, estep.weights, old)

        state = state._replace(dual=estep.dual)
        state, metrics = jax.lax.scan(mstep, state, length=self.config.num_msteps)
        metrics = jax.tree.map(lambda x: x[-1], metrics)
        turn = (count + 1) % self.config.old_policy_period == 0
        share = jnp.where(turn, self.config.old_policy_tau, 0.0)
        old_params = optax.incremental_update(state.params, state.old, share)
        metrics |= {"estep/threshold": threshold, **_estep_metrics(estep)}
        if jax.tree.leaves(state.weight):
            metrics["estep/cost_weight"] = self.weight.bound(state.weight)
        return state._replace(old=old_params), metrics

    def _estep(
        self,
        critics: CriticsState,
        state: CVPOState,
        obs: Array,
        samples: Array,
        threshold: Array,
    ) -> EStep:
        """Weights `[B, N]` of the samples `[N, B, A]`, by the target critics."""
        many = jnp.broadcast_to(obs, (samples.shape[0], *obs.shape))
        values = self.critics.values(critics.target, many, jnp.tanh(samples))
        return solve_estep(
            values.reward.T,
            jnp.moveaxis(values.cost, (0, 1, 2), (2, 1, 0)),
            threshold,
            self.config.estep_kl,
            self.config.max_multiplier,
            self.weight.bound(state.weight),
            state.dual,
        )

    def _mstep(
        self,
        state: CVPOState,
        obs: Array,
        samples: Array,
        weights: Array,
        old: Moments,
    ) -> tuple[CVPOState, Metrics]:
        """One step of the actor on the priced likelihood, and of the prices."""
        prices = jnp.exp(state.log_prices)

        def loss(params: PyTree) -> tuple[Array, tuple[Array, Moments]]:
            new = Moments(*self.actor.moments(params, obs))
            kls = jnp.stack([mean_kl(old, new), std_kl(old, new)])
            nll = weighted_nll(weights, samples, old, new)
            return nll + prices @ kls, (kls, new)

        grad = jax.value_and_grad(loss, has_aux=True)
        (value, (kls, new)), grads = grad(state.params)
        updates, opt_state = self._optimizer.update(grads, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        limits = jnp.asarray([self.config.mstep_kl_mean, self.config.mstep_kl_std])
        # A KL above its limit raises its price.
        updates, prices_opt_state = self._prices_optimizer.update(
            (limits - kls) / limits, state.prices_opt_state
        )
        log_prices = optax.apply_updates(state.log_prices, updates)
        # Fallen without end while a KL was 0, a price would take long to return.
        log_prices = jnp.clip(log_prices, -7.0, math.log(_MAX_PRICE))
        state = state._replace(
            params=params,
            opt_state=opt_state,
            log_prices=log_prices,
            prices_opt_state=prices_opt_state,
        )
        metrics = {
            "actor/loss": value,
            "actor/std": new.std.mean(),
            "mstep/kl_mean": kls[0],
            "mstep/kl_std": kls[1],
            "mstep/price_mean": prices[0],
            "mstep/price_std": prices[1],
        }
        return state, metrics

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.config.actor_lr_rate)

    @property
    def _prices_optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.config.mstep_lr_rate)


def _estep_metrics(estep: EStep) -> Metrics:
    return {
        "estep/temperature": estep.dual.temperature,
        "estep/multiplier": estep.dual.multiplier,
        "estep/kl": estep.kl,
        "estep/cost": estep.cost,
        "estep/dual_infeasible": estep.infeasible.astype(jnp.float32),
        "estep/steps": estep.steps.astype(jnp.float32),
    }
