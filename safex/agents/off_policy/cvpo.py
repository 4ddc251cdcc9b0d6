"""Constrained variational policy optimisation.

Liu et al. 2022, arXiv 2201.11927, Alg. 1. The E-step is in `dual.py`; the M-step is
MPO's with the KLs of mean and covariance apart (Abdolmaleki et al. 2018,
arXiv 1812.02256, Sec. 4.2.1), solved for the moments in closed form.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from safex.agents.off_policy.critics import Critics, CriticsState
from safex.agents.off_policy.dual import Dual, EStep, first_guess, solve_estep
from safex.agents.off_policy.networks import GaussianActor
from safex.agents.off_policy.threshold import Measured, Threshold
from safex.config import CVPOConfig
from safex.replay import newest_obs
from safex.types import Array, Metrics, PyTree, Replay

# Further out (0.995 of the box) samples are nearly one action, and the M-step takes
# them for it. Their weights would say nothing, yet draw the mean on and on, to where no
# sample of it is another action and nothing can bring it back.
_SATURATED = 3.0
# Of an interval of shares: to a millionth.
_HALVINGS = 20


class CVPOState(NamedTuple):
    """All that changes.

    Attributes:
      params: of the actor.
      old: of the policy that actions are drawn from and KLs are measured from.
      opt_state: of the actor.
      dual: of the last E-step, where the next one starts.
      measured: what the threshold is made from.
    """

    params: PyTree
    old: PyTree
    opt_state: PyTree
    dual: Dual
    measured: Measured


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


def likeliest(
    weights: Array, samples: Array, old: Moments, kl_of_means: float, kl_of_stds: float
) -> Moments:
    """The moments that weighted samples are likeliest under, within two trust regions.

        max  mean_s E_w[log N(u; mu, S_old) + log N(u; mu_old, S)]
        s.t. mean_kl <= kl_of_means,  std_kl <= kl_of_stds

    The mean is fitted under the old stds and the stds around the old mean, so that
    neither hides behind the other. At a price p of its KL either has its best where
    `p / (1 + p)` of it is the old and the rest the weighted moment of the samples, at
    all observations alike; that share is what the limit fixes. The tanh behind the
    Gaussian changes a sample's log density by what no moment moves.

    Args:
      weights: `[B, N]`.
      samples: `[B, N, A]` before the tanh.
      old: moments that they were drawn with.
      kl_of_means: limit of `mean_kl` [nat].
      kl_of_stds: limit of `std_kl` [nat].
    """
    first = jnp.einsum("bn,bna->ba", weights, samples)
    second = jnp.einsum("bn,bna->ba", weights, (samples - old.mean[:, None]) ** 2)

    def mean(share: Array | float) -> Array:
        return old.mean + share * (first - old.mean)

    def std(share: Array | float) -> Array:
        return jnp.sqrt(old.std**2 + share * (second - old.std**2))

    def allowed(share: Array | float) -> Array:
        # Not a number, where a second moment is 0, is not allowed either.
        return std_kl(old, Moments(old.mean, std(share))) <= kl_of_stds

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        inside = allowed(middle)
        return jnp.where(inside, middle, low), jnp.where(inside, high, middle)

    # The KL of the means is a square of the share, that of the stds rises with it.
    whole = mean_kl(old, Moments(mean(1.0), old.std))
    of_means = jnp.sqrt(kl_of_means / jnp.maximum(whole, kl_of_means))
    ends = jnp.zeros_like(whole), jnp.ones_like(whole)
    of_stds, _ = jax.lax.fori_loop(0, _HALVINGS, halve, ends)
    of_stds = jnp.where(allowed(1.0), 1.0, of_stds)
    return Moments(mean(of_means), std(of_stds))


def distance(old: Moments, goal: Moments, new: Moments) -> Array:
    """What the actor makes small: least at the goal, in stds of the old policy.

    Args:
      old: moments that the goal was measured from.
      goal: where to.
      new: the actor's.
    """
    mean_term = 0.5 * ((new.mean - goal.mean) / old.std) ** 2
    std_term = 0.5 * (goal.std / new.std) ** 2 + jnp.log(new.std)
    return (mean_term + std_term).sum(-1).mean()


@dataclasses.dataclass(frozen=True)
class VariationalPolicy:
    """A squashed Gaussian fitted to weighted samples of its former self.

    Attributes:
      config: sizes of the two trust regions, learning rates.
      actor: its network.
      critics: that judge its actions.
      threshold: of the costs, on the discounted scale of their critics.
    """

    config: CVPOConfig
    actor: GaussianActor
    critics: Critics
    threshold: Threshold

    @property
    def newest(self) -> int | None:
        """As the settings say."""
        return self.config.estep_newest

    def init(self, key: Array) -> CVPOState:
        """A random actor, its own old policy."""
        params = self.actor.init(key)
        return CVPOState(
            params,
            jax.tree.map(jnp.copy, params),
            self._optimizer.init(params),
            first_guess(len(self.threshold.cost_budget)),
            self.threshold.init(),
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
        """Measures the mean Q_c of the steps that came since it last did.

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
        # What is not fresh may be anything, NaN too.
        new = jax.tree.map(lambda a, b: jnp.where(fresh, a, b), new, measured)
        return state._replace(measured=new)

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
        estep = self._estep(critics, state.dual, obs, samples, threshold)
        samples = jnp.clip(jnp.moveaxis(samples, 0, 1), -_SATURATED, _SATURATED)
        limits = self.config.mstep_kl_mean, self.config.mstep_kl_std
        goal = likeliest(estep.weights, samples, old, *limits)

        def mstep(carry: CVPOState, _: None) -> tuple[CVPOState, Metrics]:
            return self._mstep(carry, obs, old, goal)

        state = state._replace(dual=estep.dual)
        state, metrics = jax.lax.scan(mstep, state, length=self.config.num_msteps)
        metrics = jax.tree.map(lambda x: x[-1], metrics)
        turn = (count + 1) % self.config.old_policy_period == 0
        share = jnp.where(turn, self.config.old_policy_tau, 0.0)
        old_params = optax.incremental_update(state.params, state.old, share)
        metrics |= {"estep/threshold": threshold, **_estep_metrics(estep)}
        return state._replace(old=old_params), metrics

    def _estep(
        self,
        critics: CriticsState,
        start: Dual,
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
            start,
        )

    def _mstep(
        self, state: CVPOState, obs: Array, old: Moments, goal: Moments
    ) -> tuple[CVPOState, Metrics]:
        """One step of the actor towards the goal."""

        def loss(params: PyTree) -> tuple[Array, Moments]:
            new = Moments(*self.actor.moments(params, obs))
            return distance(old, goal, new), new

        grad = jax.value_and_grad(loss, has_aux=True)
        (value, new), grads = grad(state.params)
        updates, opt_state = self._optimizer.update(grads, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "actor/loss": value,
            "actor/std": new.std.mean(),
            "mstep/kl_mean": mean_kl(old, new),
            "mstep/kl_std": std_kl(old, new),
        }
        return state._replace(params=params, opt_state=opt_state), metrics

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.config.actor_lr_rate)


def _estep_metrics(estep: EStep) -> Metrics:
    return {
        "estep/temperature": estep.dual.temperature,
        "estep/multiplier": estep.dual.multiplier,
        "estep/kl": estep.kl,
        "estep/cost": estep.cost,
        "estep/dual_infeasible": estep.infeasible.astype(jnp.float32),
        "estep/steps": estep.steps.astype(jnp.float32),
    }
