import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from safex.config import CalibrationConfig, EnsembleConfig, FSVGDConfig
from safex.models.ensemble import Ensemble, deterministic_ensemble
from safex.models.fsvgd import (
    FSVGD,
    deterministic_fsvgd,
    function_prior,
    stein_direction,
)
from safex.models.networks import FixedNoise, LearnedNoise
from safex.models.training import Split
from safex.types import Dataset, Transition
from tests.helpers import assert_close

CAPACITY = 160
NOISE = 0.1
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


# The prior.


def test_the_prior_is_that_gaussian():
    x = np.random.default_rng(0).normal(size=(6, 3))
    prior = function_prior(jnp.asarray(x), 0.8, 1.5, 0.05)
    gap = ((x[:, None] - x[None]) ** 2).sum(-1) / 3
    K = 1.5**2 * (np.exp(-0.5 * gap / 0.8**2) + 0.05 * np.eye(6))
    covariance = prior.basis * prior.variance @ prior.basis.T
    assert_close(covariance, K, rtol=1e-4, atol=1e-5)
    values = np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)
    expected = -np.linalg.solve(K, values)
    assert_close(prior.score(values), expected, rtol=1e-3, atol=1e-3)
    back = prior.from_coordinates(prior.to_coordinates(values))
    assert_close(back, values, atol=1e-5)


# The direction.


def test_one_particle_follows_the_score_alone():
    values, score = jnp.ones((1, 5)), jnp.arange(5.0)[None]
    assert_close(stein_direction(values, score, 1.0), score)


def test_two_particles_by_hand():
    # One gap of 2: h^2 = 4 / (2 log 3), k = exp(-log 3) = 1/3.
    values, score = jnp.array([[0.0], [2.0]]), jnp.array([[1.0], [5.0]])
    push = 2.0 * (2.0 * np.log(3.0) / 4.0) / 3.0
    expected = [[1.0 + 5.0 / 3.0 - push], [5.0 + 1.0 / 3.0 + push]]
    assert_close(stein_direction(values, score, 1.0), jnp.array(expected), rtol=1e-4)


@pytest.mark.parametrize("dim", [1, 300])
def test_particles_of_a_gaussian_spread_as_it_does_in_any_dimension(dim):
    """What a single kernel over all coordinates fails: its spread falls as 1 / dim."""
    std = jnp.linspace(0.5, 2.0, dim) if dim > 1 else jnp.array([0.5])
    start = 0.1 * jax.random.normal(jax.random.key(0), (10, dim))

    def step(values, _):
        direction = stein_direction(values, -values / std**2, 1.0)
        return values + 0.02 * direction * std**2, None

    values, _ = jax.jit(lambda v: jax.lax.scan(step, v, None, 1500))(start)
    ratio = np.asarray(values.std(0) / std)
    assert np.all(np.abs(values.mean(0)) < 0.2 * std)
    assert np.all((ratio > 0.7) & (ratio < 1.2)), ratio


# The likelihood.


def test_likelihood_score_is_that_of_all_rows():
    model = FSVGD(2, 1, FSVGDConfig(num_ensembles=3), LearnedNoise(0.01))
    state = model.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 5, 4)).astype(np.float32)
    y = rng.normal(size=(5, 2)).astype(np.float32)
    loss, score = model._likelihood(state, values, y, 50)
    density = stats.norm(values[..., :2], np.exp(values[..., 2:]))
    assert_close(loss, -density.logpdf(y).mean(), rtol=1e-4)
    z = (y - values[..., :2]) / np.exp(values[..., 2:])
    assert_close(score[..., :2], 10.0 * z / np.exp(values[..., 2:]), rtol=1e-3)
    assert_close(score[..., 2:], 10.0 * (z**2 - 1.0), rtol=1e-3, atol=1e-3)


# The fit: a sine with a gap, compared with a plain ensemble of the same networks.

SMALL = {
    "features": (32,),
    "activation": "tanh",
    "num_ensembles": 5,
    "num_training_steps": 1000,
    "batch_size": 32,
    "lr_rate": 1e-2,
    "eval_frequency": 50,
    "patience": 0,
    "output_stds": (NOISE,),
    "weight_decay": 0.0,
}
RAW = CalibrationConfig(method="none", prequential=False)


def dataset():
    rng = np.random.default_rng(0)
    x = np.where(
        rng.uniform(size=CAPACITY) < 0.5,
        rng.uniform(-2.0, -0.5, CAPACITY),
        rng.uniform(0.8, 2.0, CAPACITY),
    )
    obs = x[:, None].astype(np.float32)
    moved = np.sin(2.0 * obs) + NOISE * rng.normal(size=obs.shape)
    zero, false = np.zeros(CAPACITY, np.float32), np.zeros(CAPACITY, bool)
    t = Transition(obs, 0.0 * obs, zero, zero, np.float32(obs + moved), false, false)
    return Dataset(t, jnp.asarray(CAPACITY))


INSIDE = np.array([[-1.6], [-1.2], [-0.8], [1.1], [1.5], [1.8]], np.float32)
OUTSIDE = np.array([[-3.5], [-3.0], [-2.8], [2.8], [3.0], [3.5]], np.float32)


def spread(model):
    """Epistemic std inside and outside the data, and the error inside."""
    start = jit(model.init)(jax.random.key(0))
    state, _ = jit(model.fit)(jax.random.key(1), start, dataset())
    predict = jit(jax.vmap(model.predict, (None, 0, 0)))
    inside, outside = (
        predict(state, points, np.zeros_like(points)) for points in (INSIDE, OUTSIDE)
    )
    error = np.abs(inside.mean - INSIDE - np.sin(2.0 * INSIDE)).mean()
    return inside.epistemic_std.mean(), outside.epistemic_std.mean(), error


def test_repulsion_is_not_inert():
    plain = spread(deterministic_ensemble(1, 1, EnsembleConfig(**SMALL), RAW))
    repelled = spread(deterministic_fsvgd(1, 1, FSVGDConfig(**SMALL), RAW))
    assert repelled[1] > 1.5 * plain[1], (plain, repelled)
    # At the data the likelihood decides: below the noise, and no worse a fit.
    assert repelled[0] < 0.5 * NOISE, (plain, repelled)
    assert repelled[2] < 0.6 * NOISE, (plain, repelled)


def test_one_particle_without_a_prior_is_maximum_likelihood():
    """The same networks, rows and steps as an ensemble of one."""
    settings = SMALL | {"num_training_steps": 50, "eval_frequency": 50}
    data = dataset()
    every = jnp.ones(CAPACITY, bool)
    params = []
    for kind, config in (
        (Ensemble, EnsembleConfig(**settings)),
        (FSVGD, FSVGDConfig(**settings, prior_weight=0.0)),
    ):
        object.__setattr__(config, "num_ensembles", 1)  # which a user may not
        model = kind(1, 1, config, FixedNoise((NOISE,)))
        state = model.init(jax.random.key(0))
        state, _ = jit(model.train)(
            jax.random.key(1), state, data, Split(every, every, ~every)
        )
        params.append(state.params)
    assert_close(*params, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nll_beta", 0.5),
        ("num_measurements", 0),
        ("measurement_margin", -0.1),
        ("prior_lengthscale", 0.0),
        ("prior_std", 0.0),
        ("prior_weight", -1.0),
        ("prior_jitter", 0.0),
        ("bandwidth", 0.0),
        ("num_ensembles", 1),
    ],
)
def test_impossible_settings_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        FSVGDConfig(**{field: value})


def test_output_stds_need_one_entry_or_one_per_output():
    with pytest.raises(ValueError, match="output_stds needs 1 or 2 entries, got 3"):
        deterministic_fsvgd(2, 1, FSVGDConfig(output_stds=(1.0,) * 3), RAW)
