"""CVPO's M-step, its weights in the loop, and the probe."""

import dataclasses
import math
from functools import partial

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex.agents.off_policy.build import build_off_policy
from safex.agents.off_policy.critics import CriticsState, Values
from safex.agents.off_policy.cvpo import Moments, mean_kl, std_kl, weighted_nll
from safex.agents.off_policy.threshold import Threshold
from safex.agents.off_policy.weight import AccountedWeight
from safex.config import CVPOConfig
from tests.helpers import assert_close
from tests.probe import (
    BEST_ACTION,
    BUDGET,
    Known,
    Probe,
    agent_of,
    cost,
    improve,
    learn,
)

B, N = 5, 16


@pytest.fixture(scope="module", params=[1, 2, 8])
def moments(request):
    """Two policies of 1, 2 and 8 action dimensions."""
    size = (B, request.param)
    keys = jax.random.split(jax.random.key(0), 4)
    old = Moments(
        jax.random.normal(keys[0], size),
        jax.random.uniform(keys[1], size, minval=0.3, maxval=2.0),
    )
    new = Moments(
        jax.random.normal(keys[2], size),
        jax.random.uniform(keys[3], size, minval=0.3, maxval=2.0),
    )
    return old, new


def normal(mean, std):
    return distrax.MultivariateNormalDiag(mean, std)


def test_the_kls_are_those_of_gaussians(moments):
    old, new = moments
    of_means = normal(*old).kl_divergence(normal(new.mean, old.std)).mean()
    of_stds = normal(*old).kl_divergence(normal(old.mean, new.std)).mean()
    np.testing.assert_allclose(mean_kl(old, new), of_means, rtol=1e-4)
    np.testing.assert_allclose(std_kl(old, new), of_stds, rtol=1e-4)
    assert float(mean_kl(old, old)) == float(std_kl(old, old)) == 0.0


def test_the_likelihood_is_that_of_every_sample(moments):
    """Two moments say what the sum over samples says, but for a constant."""
    old, new = moments
    keys = jax.random.split(jax.random.key(1), 3)
    weights = jax.nn.softmax(jax.random.normal(keys[0], (B, N)), -1)
    noise = jax.random.normal(keys[1], (B, N, old.mean.shape[-1]))
    samples = old.mean[:, None] + old.std[:, None] * noise

    def by_sample(new):
        first = jax.vmap(normal(new.mean, old.std).log_prob, 1, 1)(samples)
        second = jax.vmap(normal(old.mean, new.std).log_prob, 1, 1)(samples)
        return -(weights * (first + second)).sum(1).mean()

    def by_moments(new):
        return weighted_nll(weights, samples, old, new)

    found, expected = (jax.jit(jax.grad(f))(new) for f in (by_moments, by_sample))
    assert_close(found, expected, rtol=1e-4, atol=1e-4)


def fresh_policy(**settings):
    """A small policy, its state, observations, and its moments there."""
    config = CVPOConfig(features=(8,), **settings)
    policy = build_off_policy("CVPO", config, Probe()).policy
    state = policy.init(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (B, 2))
    return policy, state, obs, Moments(*policy.actor.moments(state.params, obs))


def test_the_prices_of_the_kls_rise_where_they_are_exceeded():
    policy, state, obs, now = fresh_policy(mstep_kl_mean=1e-3, mstep_kl_std=1e-3)
    samples, weights = jnp.zeros((B, N, 2)), jnp.full((B, N), 1 / N)
    # An old policy of another mean alone: its KL asks for a higher price, the other's
    # KL of 0 for a lower one.
    old = Moments(now.mean + now.std, now.std)
    new, metrics = jax.jit(policy._mstep)(state, obs, samples, weights, old)
    np.testing.assert_allclose(metrics["mstep/kl_mean"], 1.0, rtol=1e-4)
    assert float(new.log_prices[0]) > float(state.log_prices[0])
    assert float(new.log_prices[1]) < float(state.log_prices[1])


def test_a_price_rises_no_further_than_is_of_use():
    """At the highest price the likelihood's optimum is 1 / 101 of the way."""
    policy, state, obs, now = fresh_policy()
    old = Moments(now.mean + 3.0 * now.std, 2.0 * now.std)
    samples, weights = jnp.zeros((B, N, 2)), jnp.full((B, N), 1 / N)

    def step(state, _):
        moved, _ = policy._mstep(state, obs, samples, weights, old)
        return moved._replace(params=state.params), None

    state, _ = jax.jit(lambda s: jax.lax.scan(step, s, length=800))(state)
    prices = jnp.exp(state.log_prices)
    assert_close(prices, jnp.full(2, 100.0), rtol=1e-4)

    def priced(share):
        mean = old.mean + share * (samples.mean(1) - old.mean)
        new = Moments(mean, old.std)
        price = prices[0] * mean_kl(old, new)
        return weighted_nll(weights, samples, old, new) + price

    assert abs(float(jax.grad(priced)(1 / 101))) < 1e-3 * abs(
        float(jax.grad(priced)(0.0))
    )


def test_the_policy_follows_its_weights_to_where_the_constraint_allows():
    """A threshold that is slack, tight, and beyond what any action can do."""
    quick = {"features": (8,), "actor_lr_rate": 3e-3, "old_policy_period": 10}
    agent = agent_of("CVPO", init_cost_weight=None, **quick)
    threshold = (cost(jnp.array([BEST_ACTION]))[0].item(),)
    # At a discount of 0 the budget of one step.
    known = Threshold(threshold, 0.0, 1, math.inf)
    policy = dataclasses.replace(agent.policy, critics=Known(), threshold=known)
    run = jax.jit(partial(improve, steps=400), static_argnums=0)
    slack, metrics = run(policy, -1.0)
    assert float(slack[0]) > 0.6
    assert float(metrics["estep/multiplier"][0]) == 0.0
    assert float(metrics["estep/kl"]) == pytest.approx(0.1, rel=1e-3)
    assert float(metrics["mstep/kl_mean"]) < 0.1
    tight, metrics = run(policy, 0.0)
    assert abs(float(tight[0]) - BEST_ACTION) < 0.15
    assert abs(float(tight[1])) < 0.15
    assert float(metrics["estep/cost"][0]) == pytest.approx(threshold[0], rel=1e-3)
    cheap, metrics = run(policy, 1.0)
    assert float(cheap[0]) < -0.6
    assert float(metrics["estep/dual_infeasible"]) == 1.0
    # Where no price is enough, one as heavy as the reward goes between the two.
    weight = AccountedWeight(threshold, 1.0, 0.02)
    between, metrics = run(dataclasses.replace(policy, weight=weight), 1.0)
    assert float(cheap[0]) + 0.3 < float(between[0]) < float(slack[0]) - 0.3
    assert float(metrics["estep/dual_infeasible"]) == 1.0


def test_the_mean_goes_no_further_than_an_action_can_tell_and_comes_back():
    """More is better without end, then less is: the mean must not have run away."""

    class Line:
        def values(self, params, obs, action):
            return Values(params * action[..., 0], jnp.zeros((*action.shape[:-1], 1)))

    agent = agent_of("CVPO", features=(8,), actor_lr_rate=1e-2, old_policy_period=10)
    policy = dataclasses.replace(agent.policy, critics=Line())
    obs = jax.random.uniform(jax.random.key(0), (16, 2), minval=-1.0)

    def step(state, now):
        key, count, slope = now
        critics = CriticsState(slope, slope, ())
        return policy.improve(key, state, critics, obs, jnp.zeros(0), count)[0], None

    def mean(state, slope, steps):
        keys = jax.random.split(jax.random.key(1), steps)
        slopes = jnp.full(steps, slope)
        state, _ = jax.lax.scan(step, state, (keys, jnp.arange(steps), slopes))
        return state, policy.actor.moments(state.params, obs)[0][:, 0]

    run = jax.jit(mean, static_argnums=2)
    far, most = run(policy.init(jax.random.key(2)), 1.0, 1500)
    assert 1.5 < float(most.min()) and float(most.max()) < 2.3
    _, back = run(far, -1.0, 1000)
    assert float(back.max()) < 0.0


@pytest.mark.slow
def test_a_budget_is_met_and_one_of_0_lowers_the_cost():
    outcome = learn(agent_of("CVPO"), rounds=60, num_updates=30)
    assert outcome.train_cost < 1.05 * BUDGET
    assert abs(float(outcome.action[0]) - BEST_ACTION) < 0.15
    none = learn(agent_of("CVPO", cost_budget=(0.0,)), rounds=25, num_updates=30)
    assert none.cost < 0.3 * BUDGET
    assert float(none.metrics["estep/dual_infeasible"]) > 0.5
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(none.state))


@pytest.mark.slow
def test_a_budget_that_is_spent_early_is_met_by_what_was_measured():
    """As if it was spent evenly, the constraint would allow twice as much."""
    early = {"rounds": 90, "num_updates": 30, "task": Probe(first=5)}
    # The newest ten rounds, so that the first means are forgotten in time.
    budget = {"cost_budget": (BUDGET / 4,), "estep_newest": 1600}
    measured = learn(agent_of("CVPO", **budget), **early)
    # Actions that explore pay for their std as well.
    assert measured.train_cost < 1.25 * BUDGET / 4
    assert measured.cost < 1.1 * BUDGET / 4
    assert abs(float(measured.action[0]) - BEST_ACTION) < 0.15
    even = learn(agent_of("CVPO", threshold="even", **budget), **early)
    assert even.cost > 1.6 * BUDGET / 4
