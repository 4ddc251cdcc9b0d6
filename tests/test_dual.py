"""The E-step's dual against SciPy, and what its weights keep to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp

from safex.agents.off_policy.dual import Dual, dual_value, first_guess, solve_estep

STATES, SAMPLES = 48, 16
SOLVE = jax.jit(solve_estep)
CAP = 1e4


def batch(seed, num_costs, tightness):
    """Values on scales of their own; thresholds `tightness` stds below mean costs."""
    rng = np.random.default_rng(seed)
    shape = (STATES, SAMPLES)
    reward = 10 ** rng.uniform(-1, 2) * (
        3 * rng.normal(size=(STATES, 1)) + rng.normal(size=shape)
    )
    scale = 10 ** rng.uniform(-1, 1, (num_costs, 1, 1))
    noise = rng.normal(size=(num_costs, *shape)) + 0.3 * reward / reward.std()
    cost = scale * (3 + rng.normal(size=(num_costs, STATES, 1)) + noise)
    threshold = cost.mean((1, 2)) - np.asarray(tightness) * scale[:, 0, 0]
    return reward, cost, threshold


def solve(reward, cost, threshold, eps, cap=CAP, start=None, weight=np.inf):
    arrays = [jnp.asarray(x, jnp.float32) for x in (reward, cost, threshold)]
    start = first_guess(len(threshold)) if start is None else start
    return SOLVE(*arrays, eps, cap, jnp.full(len(threshold), weight), start)


def scipy_dual(reward, cost, threshold, eps, highest=None):
    """The same minimum in float64 by SLSQP, from several starts."""

    def value(y):
        x = (reward - np.tensordot(y[1:], cost, 1)) / y[0]
        log_mean = logsumexp(x, axis=1) - np.log(SAMPLES)
        return y[0] * eps + y[1:] @ threshold + y[0] * log_mean.mean()

    def gradient(y):
        x = (reward - np.tensordot(y[1:], cost, 1)) / y[0]
        log_mean = logsumexp(x, axis=1, keepdims=True) - np.log(SAMPLES)
        w = np.exp(x - log_mean) / SAMPLES
        kl = ((w * x).sum(1) - log_mean[:, 0]).mean()
        return np.append(eps - kl, threshold - (w * cost).sum(-1).mean(-1))

    unit = reward.std(1).mean() / cost.std(2).mean(1)
    scale = np.append(reward.std(1).mean(), unit)
    highest = [None] * len(unit) if highest is None else highest / unit
    bounds = [(1e-3, None), *((0.0, most) for most in highest)]
    best = min(
        (
            minimize(
                lambda y: value(y * scale) / scale[0],
                np.append(eta, np.full(len(unit), lam)),
                jac=lambda y: gradient(y * scale) * scale / scale[0],
                bounds=bounds,
                method="SLSQP",
                options={"ftol": 1e-15, "maxiter": 500},
            )
            for eta, lam in ((1.0, 0.0), (5.0, 1.0), (5.0, 5.0))
        ),
        key=lambda result: result.fun,
    )
    return best.x * scale


@pytest.mark.parametrize("eps", [0.02, 0.2])
@pytest.mark.parametrize(
    "tightness", [(0.0,), (-3.0,), (0.0, 0.05), (0.0, -3.0), (-3.0, -3.0)]
)
def test_the_dual_is_scipys(tightness, eps):
    for seed in range(4):
        reward, cost, threshold = batch(seed, len(tightness), tightness)
        estep = solve(reward, cost, threshold, eps)
        assert not estep.infeasible
        assert int(estep.steps) < 25
        expected = scipy_dual(reward, cost, threshold, eps)
        got = np.append(estep.dual.temperature, estep.dual.multiplier)
        np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-4 * got[0])
        # At a tight optimum the constraints are equalities; elsewhere lambda is 0.
        assert abs(float(estep.kl) / eps - 1) < 1e-4
        left = (np.asarray(estep.cost) - threshold) / cost.std(2).mean(1)
        price = np.asarray(estep.dual.multiplier)
        assert np.all(np.abs(left[price > 0]) < 1e-4)
        assert np.all(left[price == 0] < 1e-4)
        slack = np.asarray(tightness) == -3.0
        assert np.all(price[slack] == 0)
        np.testing.assert_allclose(estep.weights.sum(1), 1.0, rtol=1e-5)


def test_without_costs_it_is_mpos_temperature():
    reward, cost, threshold = batch(1, 0, ())
    estep = solve(reward, cost, threshold, 0.1)
    assert abs(float(estep.kl) - 0.1) < 1e-5
    order = jnp.argsort(estep.weights, 1)
    np.testing.assert_array_equal(order, np.argsort(reward, 1))


def _stds(values):
    """Root mean square over the observations of the std over their actions."""
    return np.sqrt(values.var(-1).mean(-1))


@pytest.mark.parametrize("tightness", [(5.0,), (5.0, -3.0), (5.0, 0.05)])
@pytest.mark.parametrize("by_weight", [False, True])
def test_an_infeasible_batch_is_called_so_and_weighs_by_the_capped_price(
    tightness, by_weight
):
    reward, cost, threshold = batch(3, len(tightness), tightness)
    unit = _stds(reward) / _stds(cost)
    highest = 2.0 * unit if by_weight else np.full(len(unit), 0.3 * unit.min())
    caps = {"weight": 2.0} if by_weight else {"cap": highest[0]}
    estep = solve(reward, cost, threshold, 0.05, **caps)
    assert estep.infeasible
    np.testing.assert_allclose(estep.dual.multiplier[0], highest[0], rtol=1e-4)
    np.testing.assert_allclose(estep.kl, 0.05, rtol=1e-4)
    expected = scipy_dual(reward, cost, threshold, 0.05, highest)
    got = np.append(estep.dual.temperature, estep.dual.multiplier)
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-4 * got[0])
    x = (reward - np.tensordot(expected[1:], cost, 1)) / expected[0]
    np.testing.assert_allclose(
        estep.weights, jax.nn.softmax(jnp.asarray(x), -1), atol=1e-3
    )


def test_what_a_cost_may_weigh_is_nothing_to_a_batch_that_a_price_is_enough_for():
    reward, cost, threshold = batch(3, 1, (0.2,))
    free = solve(reward, cost, threshold, 0.05)
    bounded = solve(reward, cost, threshold, 0.05, weight=0.05)
    assert not bounded.infeasible
    assert float(free.dual.multiplier[0]) > 0.05 * float(_stds(reward) / _stds(cost)[0])
    np.testing.assert_array_equal(bounded.weights, free.weights)


def test_what_a_cost_may_weigh_is_the_same_on_all_scales():
    reward, cost, threshold = batch(4, 1, (5.0,))
    weights = [
        solve(r * reward, c * cost, c * threshold, 0.05, weight=1.5).weights
        for r, c in ((1.0, 1.0), (0.01, 1.0), (1.0, 30.0))
    ]
    np.testing.assert_allclose(weights[1], weights[0], atol=1e-4)
    np.testing.assert_allclose(weights[2], weights[0], atol=1e-4)


def test_weights_come_from_the_multiplier_that_is_reported():
    reward, cost, threshold = batch(5, 1, (0.0,))
    estep = solve(reward, cost, threshold, 0.1)
    x = reward - float(estep.dual.multiplier[0]) * cost[0]
    expected = jax.nn.softmax(jnp.asarray(x / float(estep.dual.temperature)), -1)
    np.testing.assert_allclose(estep.weights, expected, atol=1e-5)


def test_the_gradient_of_the_dual_is_what_is_left_of_the_constraints():
    reward, cost, threshold = batch(7, 2, (0.0, 0.05))
    reward = reward / reward.std()
    arrays = [jnp.asarray(x, jnp.float32) for x in (reward, cost, threshold)]
    at = Dual(jnp.asarray(2.0), jnp.asarray([0.3, 0.7]))
    exact = jax.grad(lambda y: dual_value(y, *arrays, 0.1))(at)
    x = (reward - np.tensordot([0.3, 0.7], cost, 1)) / 2.0
    log_mean = logsumexp(x, axis=1, keepdims=True) - np.log(SAMPLES)
    w = np.exp(x - log_mean) / SAMPLES
    kl = ((w * x).sum(1) - log_mean[:, 0]).mean()
    np.testing.assert_allclose(exact.temperature, 0.1 - kl, rtol=1e-4, atol=1e-5)
    left = threshold - (w * cost).sum(-1).mean(-1)
    np.testing.assert_allclose(exact.multiplier, left, rtol=1e-3, atol=1e-4)

    def value(y):
        z = (reward - np.tensordot(y[1:], cost, 1)) / y[0]
        log = logsumexp(z, axis=1) - np.log(SAMPLES)
        return y[0] * 0.1 + y[1:] @ threshold + y[0] * log.mean()

    y, h = np.asarray([2.0, 0.3, 0.7]), 1e-5
    slopes = [(value(y + h * e) - value(y - h * e)) / (2 * h) for e in np.eye(3)]
    np.testing.assert_allclose(slopes, np.append(0.1 - kl, left), atol=1e-7)


def test_a_warm_start_ends_at_the_same_place_sooner():
    reward, cost, threshold = batch(2, 1, (0.0,))
    cold = solve(reward, cost, threshold, 0.05)
    warm = solve(reward, cost, threshold, 0.05, start=cold.dual)
    assert int(warm.steps) <= 2 < int(cold.steps)
    np.testing.assert_allclose(warm.weights, cold.weights, atol=1e-5)
    far = Dual(jnp.asarray(1e-4), jnp.asarray([50.0]))
    far = solve(reward, cost, threshold, 0.05, start=far)
    np.testing.assert_allclose(far.weights, cold.weights, atol=1e-4)


def test_actions_that_all_cost_the_same_have_no_price():
    reward, cost, _ = batch(4, 1, (0.0,))
    for level, threshold, infeasible in ((0.0, 0.0, False), (2.0, 1.0, True)):
        estep = solve(reward, 0.0 * cost + level, [threshold], 0.1)
        assert bool(estep.infeasible) == infeasible
        assert np.all(np.isfinite(estep.weights))
        assert float(estep.kl) < 0.1 + 1e-4
