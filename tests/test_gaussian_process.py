import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from safex.config import CalibrationConfig, GaussianProcessConfig
from safex.errors import SafexError
from safex.models.gaussian_process import (
    GaussianProcess,
    Hyperparameters,
    farthest_rows,
    gaussian_process,
)
from safex.models.training import Split
from safex.types import Dataset, Transition
from tests.helpers import assert_close

D, A, CAPACITY, SIZE, MOST = 2, 1, 64, 40, 48
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
HYPER = Hyperparameters(
    jnp.log(jnp.array([[0.7, 1.3, 2.0], [1.1, 0.9, 1.5]])),
    jnp.log(jnp.array([1.4, 0.6])),
    jnp.log(jnp.array([0.2, 0.1])),
)


def process(**changes):
    settings = {"max_data": MOST, "subset": "newest", "num_training_steps": 40}
    return GaussianProcess(D, A, GaussianProcessConfig(**(settings | changes)))


def dataset(size=SIZE, *, padding=0.0, noise=0.05, seed=0):
    rng = np.random.default_rng(seed)
    obs = rng.uniform(-2.0, 2.0, (CAPACITY, D))
    action = rng.uniform(-1.0, 1.0, (CAPACITY, A))
    moved = np.stack([np.sin(obs[:, 0]) + action[:, 0], 3.0 * np.cos(obs[:, 1])], 1)
    next_obs = obs + moved + noise * rng.normal(size=obs.shape)
    valid = np.arange(CAPACITY)[:, None] < size
    obs, action, next_obs = (
        np.where(valid, z, padding).astype(np.float32) for z in (obs, action, next_obs)
    )
    zero, false = np.zeros(CAPACITY, np.float32), np.zeros(CAPACITY, bool)
    return Dataset(
        Transition(obs, action, zero, zero, next_obs, false, false),
        jnp.asarray(size, jnp.int32),
    )


def every_row(size=SIZE):
    train = jnp.arange(CAPACITY) < size
    return Split(train, train, jnp.zeros(CAPACITY, bool))


def kernel_by_hand(kind, hyper, a, b):
    """`[A, B]` of one output, from all differences in float64."""
    length = np.exp(np.asarray(hyper.log_lengthscales, np.float64))
    r = np.sqrt((((a[:, None] - b[None]) / length) ** 2).sum(-1))
    signal = np.exp(2.0 * float(hyper.log_signal))
    if kind == "rbf":
        return signal * np.exp(-0.5 * r**2)
    root = np.sqrt(5.0) * r
    return signal * (1.0 + root + root**2 / 3.0) * np.exp(-root)


def output(hyper, j):
    return jax.tree.map(lambda leaf: leaf[j], hyper)


def noise_variance(gp, hyper):
    floor = gp.config.min_std + np.exp(float(hyper.log_noise))
    return floor**2 + 1e-5 * np.exp(2.0 * float(hyper.log_signal))


@pytest.mark.parametrize("kind", ["rbf", "matern52"])
def test_likelihood_is_that_of_scipy_and_padding_does_not_count(kind):
    gp = process(kernel=kind)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=12)
    mask = np.arange(12) < 9
    hyper = output(HYPER, 0)
    K = kernel_by_hand(kind, hyper, x[mask], x[mask])
    K += noise_variance(gp, hyper) * np.eye(9)
    expected = stats.multivariate_normal(np.zeros(9), K).logpdf(y[mask])
    y = np.where(mask, y, 0.0)
    likelihood = jit(gp._log_marginal_likelihood)
    assert_close(likelihood(hyper, x, y, mask), expected, rtol=1e-4)


@pytest.mark.parametrize("kind", ["rbf", "matern52"])
def test_gradient_of_the_likelihood_is_its_slope(kind):
    gp = process(kernel=kind)
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(8, 3)), rng.normal(size=8)
    hyper = output(HYPER, 1)
    flat, unflatten = jax.flatten_util.ravel_pytree(hyper)

    def by_hand(flat):
        h = jax.tree.map(np.asarray, unflatten(jnp.asarray(flat, jnp.float32)))
        h = Hyperparameters(flat[:3], flat[3], flat[4])
        K = kernel_by_hand(kind, h, x, x) + noise_variance(gp, h) * np.eye(8)
        return stats.multivariate_normal(np.zeros(8), K).logpdf(y)

    slope = optimize.approx_fprime(np.asarray(flat, np.float64), by_hand, 1e-6)
    ones = jnp.ones(8, bool)
    grad = jit(jax.grad(lambda h: gp._log_marginal_likelihood(h, x, y, ones)))(hyper)
    found = jax.flatten_util.ravel_pytree(grad)[0]
    assert_close(found, slope, rtol=1e-2, atol=1e-2)


@pytest.fixture(scope="module")
def fitted():
    gp = process()
    state, metrics = jit(gp.train)(
        jax.random.key(0), gp.init(jax.random.key(1)), dataset(), every_row()
    )
    return gp, state, metrics


def test_posterior_is_the_closed_form(fitted):
    gp, state, _ = fitted
    t = dataset().transitions
    fresh = dataset(size=CAPACITY, seed=5).transitions
    raw = np.concatenate([t.obs, t.action], 1)[:SIZE].astype(np.float64)
    moved = (t.next_obs - t.obs)[:SIZE].astype(np.float64)
    query = np.concatenate([fresh.obs, fresh.action], 1).astype(np.float64)
    x, q = ((z - raw.mean(0)) / raw.std(0) for z in (raw, query))
    y = (moved - moved.mean(0)) / moved.std(0)
    found = jit(jax.vmap(gp.moments, (None, 0, 0)))(state, fresh.obs, fresh.action)
    for j in range(D):
        hyper = output(state.hyper, j)
        K = kernel_by_hand("rbf", hyper, x, x) + noise_variance(gp, hyper) * np.eye(
            SIZE
        )
        k = kernel_by_hand("rbf", hyper, q, x)
        mean = k @ np.linalg.solve(K, y[:, j])
        explained = np.einsum("qn,nq->q", k, np.linalg.solve(K, k.T))
        std = np.sqrt(np.exp(2.0 * float(hyper.log_signal)) - explained)
        unit = moved.std(0)[j]
        expected = fresh.obs[:, j] + moved.mean(0)[j] + unit * mean
        assert_close(found.mean[:, j], expected, atol=3e-3 * unit)
        assert_close(found.epistemic_std[:, j], unit * std, rtol=1e-2, atol=3e-3 * unit)
        noise = unit * (gp.config.min_std + np.exp(float(hyper.log_noise)))
        assert_close(found.aleatoric_std[:, j], np.full(CAPACITY, noise), rtol=1e-4)


def test_far_away_the_posterior_is_the_prior(fitted):
    gp, state, _ = fitted
    far = gp.moments(state, jnp.array([500.0, -500.0]), jnp.zeros(A))
    std = jnp.exp(state.hyper.log_signal) * state.targets.std
    assert_close(far.epistemic_std, std, rtol=1e-4)
    assert_close(far.mean, jnp.array([500.0, -500.0]) + state.targets.mean, rtol=1e-5)


def test_training_raises_the_likelihood_and_finds_the_noise(fitted):
    _, _, metrics = fitted
    cold = process(num_training_steps=1)
    _, start = jit(cold.train)(
        jax.random.key(0), cold.init(jax.random.key(1)), dataset(), every_row()
    )
    assert metrics["train/loss"] < start["train/loss"] - 0.2
    # 40 rows with noise 0.05, in each target's own unit.
    assert np.all(np.abs(metrics["gp/noise_std"] / 0.05 - 1.0) < 0.6), metrics


def test_padding_and_the_rows_left_out_change_nothing(fitted):
    gp, state, _ = fitted
    again, _ = jit(gp.train)(
        jax.random.key(0),
        gp.init(jax.random.key(1)),
        dataset(padding=1e6),
        every_row(),
    )
    assert_close(again, state, rtol=0.0, atol=0.0)


def test_information_gain_and_its_width_by_hand(fitted):
    _, state, metrics = fitted
    gp = process(confidence="information_gain", f_norm_bound=2.0, delta=0.05)
    wide, found = jit(gp.train)(
        jax.random.key(0), gp.init(jax.random.key(1)), dataset(), every_row()
    )
    assert_close(wide.hyper, state.hyper)
    x = np.asarray(state.x[:SIZE], np.float64)
    for j in range(D):
        hyper = output(state.hyper, j)
        noise = (gp.config.min_std + np.exp(float(hyper.log_noise))) ** 2
        K = kernel_by_hand("rbf", hyper, x, x) / noise
        _, logdet = np.linalg.slogdet(np.eye(SIZE) + K)
        assert_close(metrics["gp/information_gain"][j], 0.5 * logdet, rtol=2e-2)
        width = 2.0 + np.sqrt(2.0 * (0.5 * logdet + np.log(D / 0.05)))
        assert_close(found["gp/width"][j], width, rtol=2e-2)
    one = gp.moments(wide, jnp.ones(D), jnp.zeros(A)).epistemic_std
    other = gp.moments(state, jnp.ones(D), jnp.zeros(A)).epistemic_std
    assert_close(one / other, found["gp/width"], rtol=1e-4)
    assert_close(metrics["gp/width"], np.ones(D))


def test_nearly_equal_rows_without_noise_can_be_factored():
    """What float32 finds hardest: a slow system seen at every step."""
    gp = process(num_training_steps=1)
    t = dataset().transitions
    slow = np.linspace(0.0, 1e-3, CAPACITY)[:, None] * np.ones((1, D))
    slow = slow.astype(np.float32)
    data = Dataset(t._replace(obs=slow, next_obs=slow), jnp.asarray(CAPACITY))
    state, _ = jit(gp.train)(
        jax.random.key(0), gp.init(jax.random.key(1)), data, every_row(CAPACITY)
    )
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))


# Which rows are kept.


def farthest_by_hand(x, rows, most):
    taken = [rows[-1]]
    while len(taken) < min(most, len(rows)):
        gap = ((x[rows][:, None] - x[taken][None]) ** 2).sum(-1).min(1)
        taken.append(rows[gap.argmax()])
    return taken


@pytest.mark.parametrize("most", [5, 12])
def test_farthest_rows_are_the_greedy_cover(most):
    x = np.random.default_rng(3).normal(size=(20, 3)).astype(np.float32)
    selected = np.random.default_rng(4).uniform(size=20) < 0.5
    rows, counts = farthest_rows(jnp.asarray(x), jnp.asarray(selected), most)
    expected = farthest_by_hand(x, np.flatnonzero(selected), most)
    assert np.asarray(rows)[np.asarray(counts)].tolist() == expected


def test_newest_keeps_the_newest():
    gp = process(max_data=8, num_training_steps=1)
    state, metrics = jit(gp.train)(
        jax.random.key(0), gp.init(jax.random.key(1)), dataset(), every_row()
    )
    t = dataset().transitions
    newest = np.concatenate([t.obs, t.action], 1)[SIZE - 8 : SIZE][::-1]
    assert_close(state.inputs.denormalize(state.x), newest, atol=1e-5)
    assert metrics["gp/rows"] == 8


def test_a_buffer_that_may_outgrow_it_is_refused_with_advice():
    config = GaussianProcessConfig(max_data=20)
    model = gaussian_process(D, A, config, CalibrationConfig())
    message = r"keep \d+ rows.* model\.max_data is 20.*model\.subset=farthest"
    with pytest.raises(SafexError, match=message):
        jax.jit(model.fit)(jax.random.key(0), model.init(jax.random.key(0)), dataset())
    process(max_data=20).check_capacity(CAPACITY, 0.8)
    process(subset="none", max_data=54).check_capacity(CAPACITY, 0.8)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kernel", "cosine"),
        ("noise_std", 0.0),
        ("min_std", 0.0),
        ("num_training_steps", 0),
        ("lr_rate", 0.0),
        ("num_hyper_rows", 0),
        ("max_data", 0),
        ("subset", "random"),
        ("confidence", "bayes"),
        ("f_norm_bound", -1.0),
        ("delta", 1.0),
        ("train_share", 1.0),
        ("eval_batch_size", 0),
    ],
)
def test_impossible_settings_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        GaussianProcessConfig(**{field: value})
