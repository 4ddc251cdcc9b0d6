import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex.models import sparse_gp
from tests.helpers import assert_close

LENGTH = np.array([1.0, 2.0])
NOISE = 0.01
AMPLITUDE = np.array([2.0, 0.5])
condition = jax.jit(sparse_gp.condition)
spread_rows = jax.jit(sparse_gp.spread_rows, static_argnums=2)
predict = jax.jit(jax.vmap(sparse_gp.predict, (None, 0)))


def kernel(a, b):
    difference = (a[:, None] - b) / LENGTH
    return np.exp(-0.5 * (difference**2).sum(-1))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.uniform(-3.0, 3.0, (20, 2))
    y = np.stack([np.sin(x[:, 0]), x[:, 0] * x[:, 1]], axis=1)
    return x.astype(np.float32), y.astype(np.float32)


def conditioned(x, y, num_inducing, mask=None):
    mask = np.ones(len(x), bool) if mask is None else mask
    inducing = (x[:num_inducing] / LENGTH).astype(np.float32)
    return condition(LENGTH, NOISE, AMPLITUDE, inducing, x, y, mask)


def test_with_an_inducing_input_at_every_row_it_is_the_exact_process(data):
    x, y = data
    query = np.random.default_rng(1).uniform(-4.0, 4.0, (15, 2)).astype(np.float32)
    gram = kernel(x, x) + NOISE * np.eye(len(x))
    cross = kernel(query, x)
    mean, unknown = predict(conditioned(x, y, len(x)), query)
    assert_close(mean, cross @ np.linalg.solve(gram, y), atol=2e-3)
    exact = 1.0 - np.sum(cross * np.linalg.solve(gram, cross.T).T, axis=1)
    assert_close(unknown, exact, atol=2e-3)


def test_with_few_inducing_inputs_it_is_the_training_conditional(data):
    # Quinonero-Candela and Rasmussen 2005, Eqs. 20b: Q = K_*u K_uu^-1 K_u*.
    x, y = data
    query = x[8:] + 0.3
    z = x[:8]
    inner = kernel(z, z) + kernel(z, x) @ kernel(x, z) / NOISE
    cross = kernel(query, z)
    mean, unknown = predict(conditioned(x, y, 8), query)
    weights = np.linalg.solve(inner, kernel(z, x) @ y) / NOISE
    assert_close(mean, cross @ weights, atol=2e-3)
    projected = cross * np.linalg.solve(kernel(z, z), cross.T).T
    posterior = cross * np.linalg.solve(inner, cross.T).T
    assert_close(unknown, 1.0 - (projected - posterior).sum(1), atol=2e-3)


def test_far_away_it_knows_nothing(data):
    far = np.array([[50.0, 0.0], [0.0, -1e4]], np.float32)
    mean, unknown = predict(conditioned(*data, 20), far)
    assert_close(mean, np.zeros((2, 2)))
    assert_close(unknown, np.ones(2))


def test_rows_that_do_not_count_change_nothing(data):
    x, y = data
    some = np.arange(20) < 12
    few = conditioned(x, np.where(some[:, None], y, 1e6), 5, some)
    rest = conditioned(x[:12], y[:12], 5)
    assert_close(predict(few, x), predict(rest, x), atol=1e-4)


def test_rows_are_chosen_one_by_one_the_farthest_first(data):
    x, _ = data
    allowed = np.arange(20) >= 3
    rows, new = (leaf.tolist() for leaf in spread_rows(x, allowed, 19))
    chosen = [3]
    while len(chosen) < 17:
        distance = np.linalg.norm(x[:, None] - x[chosen], axis=-1).min(1)
        chosen.append(int(np.argmax(np.where(allowed, distance, -1.0))))
    assert rows[:17] == chosen
    assert rows[17:] == [3, 3]  # there are no more
    assert new == 17 * [True] + 2 * [False]


def test_a_repeated_row_is_no_further_evidence(data):
    x, y = (jnp.asarray(leaf) for leaf in data)
    padded = jnp.concatenate([jnp.arange(20), jnp.zeros(108, int)])
    counts = jnp.arange(128) < 20
    alone = x, y, jnp.ones(20, bool)
    filled = x[padded], jnp.where(counts[:, None], y[padded], 0.0), counts
    one, other = (sparse_gp._fit_kernel(*rows) for rows in (alone, filled))
    assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert_close(
        sparse_gp._amplitude(*one, *alone),
        sparse_gp._amplitude(*one, *filled),
        rtol=1e-4,
    )


def test_an_unfitted_process_claims_nothing():
    state = sparse_gp.unfitted(2, 3, 4)
    mean, unknown = sparse_gp.predict(state, jnp.ones(2))
    assert_close(mean, jnp.zeros(3))
    assert_close(state.amplitude * jnp.sqrt(unknown), jnp.zeros(3))


def test_the_evidence_finds_what_matters():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(250, 3)).astype(np.float32)
    y = np.stack([np.sin(2.0 * x[:, 0]), 0.5 * x[:, 1]], axis=1)
    y = ((y - y.mean(0)) / y.std(0)).astype(np.float32)
    mask = np.arange(250) < 200
    x[~mask] = 1e6  # padding
    state = jax.jit(sparse_gp.fit, static_argnums=0)(32, x, y, mask)
    # Bending, straight, and without effect.
    assert state.length[0] < 0.5 * state.length[1]
    assert state.length[2] > 5.0 * state.length[0]
    fresh = rng.normal(size=(100, 3)).astype(np.float32)
    mean, unknown = predict(state, fresh)
    std = state.amplitude * np.sqrt(unknown)[:, None]
    truth = np.stack([np.sin(2.0 * fresh[:, 0]), 0.5 * fresh[:, 1]], axis=1)
    scale = np.stack([np.sin(2.0 * x[mask, 0]), 0.5 * x[mask, 1]], axis=1)
    error = np.abs(mean - (truth - scale.mean(0)) / scale.std(0))
    assert np.median(error) < 0.05
    assert (error < 3.0 * std + 0.05).mean() > 0.95


def test_the_kernel_descends_on_the_marginal_likelihood(data):
    x, y = (leaf.astype(np.float64) for leaf in data)
    counts = np.arange(len(x)) < 15
    y[~counts] = 0.0

    def misfit(params):
        length, noise = np.exp(params[:2]), 1e-4 + np.exp(params[2])
        scaled = (x / length)[counts]
        squares = ((scaled[:, None] - scaled) ** 2).sum(-1)
        gram = np.exp(-0.5 * squares) + noise * np.eye(15)
        var = np.sum(y[counts] * np.linalg.solve(gram, y[counts]), axis=0) / 15
        # An amplitude of 0.1 at least; log lengths are near 1, give or take 1.
        fit = 0.5 * 15 * np.log(var + 0.01).sum()
        complexity = 0.5 * y.shape[1] * np.linalg.slogdet(gram)[1]
        return fit + complexity + 0.5 * ((params[:2] - 1.0) ** 2).sum()

    at, step = np.array([0.7, 1.2, -3.0]), 1e-5
    wanted = [
        (misfit(at + step * way) - misfit(at - step * way)) / (2 * step)
        for way in np.eye(3)
    ]
    given = jnp.float32(at[:2]), jnp.float32(at[2])
    length, noise = sparse_gp._misfit_gradient(given, x, y, counts)
    found = np.append(length, noise)
    assert_close(found, np.array(wanted), rtol=1e-3, atol=1e-3)
