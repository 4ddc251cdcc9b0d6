"""CVPO's M-step, its weights in the loop, and the probe."""

import dataclasses
import math

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from safex.agents.off_policy.build import build_off_policy
from safex.agents.off_policy.critics import CriticsState, Values
from safex.agents.off_policy.cvpo import (
    Moments,
    distance,
    likeliest,
    mean_kl,
    std_kl,
)
from safex.agents.off_policy.threshold import Threshold
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


def weighted(old):
    """Samples of a policy, and weights that pull it aside and widen or narrow it."""
    keys = jax.random.split(jax.random.key(1), 2)
    noise = jax.random.normal(keys[1], (B, N, old.mean.shape[-1]))
    samples = old.mean[:, None] + old.std[:, None] * noise
    weights = jax.nn.softmax(2.0 * jax.random.normal(keys[0], (B, N)), -1)
    return weights, samples


def test_the_likeliest_moments_are_those_that_scipy_finds(moments):
    """By the likelihood of every sample, under both constraints."""
    old, _ = moments
    weights, samples = weighted(old)
    limits = 0.02, 0.005
    size = old.mean.size

    def unpack(x):
        shape = old.mean.shape
        return Moments(x[:size].reshape(shape), jnp.exp(x[size:].reshape(shape)))

    def loss(x):
        new = unpack(x)
        first = jax.vmap(normal(new.mean, old.std).log_prob, 1, 1)(samples)
        second = jax.vmap(normal(old.mean, new.std).log_prob, 1, 1)(samples)
        return -(weights * (first + second)).sum(1).mean()

    def room(x):
        new = unpack(x)
        return jnp.stack([limits[0] - mean_kl(old, new), limits[1] - std_kl(old, new)])

    def scipys(function):
        """In the float64 that it asks for."""
        compiled = jax.jit(function)
        return lambda x: np.asarray(compiled(jnp.asarray(x)), np.float64)

    start = jnp.concatenate([old.mean.ravel(), jnp.log(old.std).ravel()])
    best = scipy.optimize.minimize(
        scipys(loss),
        np.asarray(start, np.float64),
        jac=scipys(jax.grad(loss)),
        method="SLSQP",
        constraints={
            "type": "ineq",
            "fun": scipys(room),
            "jac": scipys(jax.jacobian(room)),
        },
        options={"maxiter": 500, "ftol": 1e-9},
    )
    found = likeliest(weights, samples, old, *limits)
    assert_close(found, unpack(jnp.asarray(best.x)), rtol=0.01, atol=0.01)
    np.testing.assert_allclose(mean_kl(old, found), limits[0], rtol=1e-3)
    np.testing.assert_allclose(std_kl(old, found), limits[1], rtol=1e-3)


def test_without_a_limit_the_moments_are_those_of_the_samples(moments):
    """And one sample alone, whose std is none, is not followed into nothing."""
    old, _ = moments
    weights, samples = weighted(old)
    found = likeliest(weights, samples, old, 1e6, 1e6)
    around = (weights[..., None] * (samples - old.mean[:, None]) ** 2).sum(1)
    expected = Moments((weights[..., None] * samples).sum(1), jnp.sqrt(around))
    assert_close(found, expected, rtol=1e-3, atol=1e-4)
    still = likeliest(
        weights, jnp.broadcast_to(old.mean[:, None], samples.shape), old, 1e-2, 1e-3
    )
    np.testing.assert_allclose(still.mean, old.mean, rtol=1e-5)
    assert float(std_kl(old, still)) == pytest.approx(1e-3, rel=1e-2)


def test_the_actor_is_nearest_at_the_goal(moments):
    old, goal = moments
    slope = jax.grad(lambda new: distance(old, goal, new))(goal)
    assert_close(slope, jax.tree.map(jnp.zeros_like, slope), atol=1e-5)
    for other in (
        Moments(goal.mean + 0.1, goal.std),
        Moments(goal.mean, 1.1 * goal.std),
    ):
        assert float(distance(old, goal, other)) > float(distance(old, goal, goal))


def test_an_actor_stays_within_its_trust_regions():
    """However long it is fitted to samples that lie far off."""
    agent = build_off_policy(
        "CVPO", CVPOConfig(features=(8,), actor_lr_rate=3e-3), Probe()
    )
    policy = agent.policy
    state = policy.init(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (B, 2))
    old = Moments(*policy.actor.moments(state.old, obs))
    samples = old.mean[:, None] + 3.0 * old.std[:, None] + jnp.zeros((B, N, 2))
    weights = jnp.full((B, N), 1 / N)
    limits = policy.config.mstep_kl_mean, policy.config.mstep_kl_std
    goal = likeliest(weights, samples, old, *limits)

    def step(state, _):
        return policy._mstep(state, obs, old, goal)

    _, metrics = jax.jit(lambda s: jax.lax.scan(step, s, length=2000))(state)
    for name, limit in zip(("mean", "std"), limits, strict=True):
        kls = np.asarray(metrics[f"mstep/kl_{name}"])
        # Adam swings past the goal at first.
        assert kls.max() < 3.0 * limit
        assert kls[-1] == pytest.approx(limit, rel=0.05)


def test_the_policy_follows_its_weights_to_where_the_constraint_allows():
    """A threshold that is slack, tight, and beyond what any action can do."""
    agent = agent_of("CVPO", features=(8,), actor_lr_rate=3e-3, old_policy_period=10)
    threshold = (cost(jnp.array([BEST_ACTION]))[0].item(),)
    # At a discount of 0 the budget of one step.
    known = Threshold(threshold, 0.0, 1, math.inf)
    policy = dataclasses.replace(agent.policy, critics=Known(), threshold=known)
    run = jax.jit(lambda added: improve(policy, added, steps=400))
    slack, metrics = run(-1.0)
    assert float(slack[0]) > 0.6
    assert float(metrics["estep/multiplier"][0]) == 0.0
    assert float(metrics["estep/kl"]) == pytest.approx(0.1, rel=1e-3)
    assert float(metrics["mstep/kl_mean"]) < 0.1
    tight, metrics = run(0.0)
    assert abs(float(tight[0]) - BEST_ACTION) < 0.15
    assert abs(float(tight[1])) < 0.15
    assert float(metrics["estep/cost"][0]) == pytest.approx(threshold[0], rel=1e-3)
    cheap, metrics = run(1.0)
    assert float(cheap[0]) < -0.6
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
    assert 2.0 < float(most.min()) and float(most.max()) < 3.4
    _, back = run(far, -1.0, 3000)
    assert float(back.max()) < 0.0


@pytest.mark.slow
def test_a_budget_is_met_and_one_of_0_lowers_the_cost_alone():
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
    early = {"rounds": 60, "num_updates": 30, "task": Probe(first=5)}
    # The newest ten rounds, so that the first means are forgotten in time.
    budget = {"cost_budget": (BUDGET / 4,), "estep_newest": 1600}
    measured = learn(agent_of("CVPO", **budget), **early)
    # Actions that explore pay for their std as well.
    assert measured.train_cost < 1.25 * BUDGET / 4
    assert measured.cost < 1.1 * BUDGET / 4
    assert abs(float(measured.action[0]) - BEST_ACTION) < 0.15
    even = learn(agent_of("CVPO", threshold="even", **budget), **early)
    assert even.cost > 1.6 * BUDGET / 4
