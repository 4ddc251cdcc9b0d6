import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from safex.config import DropoutConfig, LastLayerConfig
from safex.models.dropout import Dropout
from safex.models.last_layer import LastLayer, weight_posterior
from tests.helpers import assert_close

F, B = 6, 40


def problem():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(B, F))
    std = rng.uniform(0.2, 1.0, B)
    y = features @ rng.normal(size=F) + std * rng.normal(size=B)
    return features, y, std


def evidence(log_precision, features, y, std):
    """Log marginal likelihood of the linear model, by its covariance of the targets."""
    covariance = features @ features.T / np.exp(log_precision) + np.diag(std**2)
    return stats.multivariate_normal(np.zeros(len(y)), covariance).logpdf(y)


def test_posterior_is_the_closed_form_at_the_precision_of_most_evidence():
    features, y, std = problem()
    found = jax.jit(weight_posterior, static_argnums=3)(features, y, 1.0 / std**2, 50)
    best = optimize.minimize_scalar(
        lambda a: -evidence(a, features, y, std), bounds=(-6, 6), method="bounded"
    )
    assert float(jnp.log(found.precision)) == pytest.approx(best.x, abs=1e-2)
    scaled = features / std[:, None]
    A = float(found.precision) * np.eye(F) + scaled.T @ scaled
    assert_close(found.root @ found.root.T, np.linalg.inv(A), rtol=1e-3, atol=1e-5)
    mean = np.linalg.solve(A, features.T @ (y / std**2))
    assert_close(found.mean, mean, rtol=1e-3, atol=1e-4)


def test_rows_of_no_weight_do_not_count():
    features, y, std = problem()
    keep = np.arange(B) < 25
    weight = np.where(keep, 1.0 / std**2, 0.0)
    masked = weight_posterior(
        jnp.where(keep[:, None], features, 7.0), jnp.where(keep, y, 9.0), weight, 30
    )
    alone = weight_posterior(
        jnp.asarray(features[:25]), jnp.asarray(y[:25]), 1.0 / std[:25] ** 2, 30
    )
    assert_close(masked.mean, alone.mean, rtol=1e-3, atol=1e-4)
    assert_close(masked.precision, alone.precision, rtol=1e-3)


def test_features_that_say_nothing_leave_the_prior():
    zeros = jnp.zeros((B, F))
    found = weight_posterior(zeros, jnp.zeros(B), jnp.ones(B), 30)
    assert all(np.all(np.isfinite(leaf)) for leaf in found)
    assert not found.mean.any()


def test_samples_have_the_moments_of_the_posterior():
    model = LastLayer(1, 1, LastLayerConfig(features=(3,), num_samples=4000))
    root = jnp.array([[1.0, 0, 0, 0], [0.5, 0.3, 0, 0], [0, 0, 2, 0], [0, 1, 0, 0.1]])
    posterior = model.init(jax.random.key(0)).posterior
    posterior = posterior._replace(mean=jnp.arange(4.0)[None], root=root[None])
    samples = model._draw(jax.random.key(1), posterior)[:, 0]
    assert_close(samples.mean(0), jnp.arange(4.0), atol=0.1)
    assert_close(jnp.cov(samples.T), root @ root.T, atol=0.3)


def test_masks_keep_the_mean_and_the_share():
    model = Dropout(1, 1, DropoutConfig(features=(50, 20), dropout_rate=0.25))
    masks = model._draw(jax.random.key(0), 400)
    assert [mask.shape for mask in masks] == [(400, 50), (400, 20)]
    for mask in masks:
        assert_close(np.unique(mask), np.array([0.0, 4.0 / 3.0]))
        assert float((mask == 0).mean()) == pytest.approx(0.25, abs=0.02)
    state = model.init(jax.random.key(1))
    assert state.masks[0].shape == (10, 50)


def test_a_mask_switches_units_off():
    """By hand: the network without its masked units, the others scaled up."""
    model = Dropout(1, 1, DropoutConfig(features=(4,), dropout_rate=0.5))
    state = model.init(jax.random.key(0))
    mask = jnp.array([2.0, 0.0, 2.0, 0.0])
    x = jnp.array([0.3, -0.7])
    params = jax.tree.map(np.asarray, state.params)
    hidden = x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    hidden = 0.5 * hidden * (1.0 + hidden / (1.0 + np.abs(hidden)))
    out = (hidden * mask) @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]
    mean, std = model._head(state.params, (mask,), x)
    assert_close(mean, out[:1], rtol=1e-4)
    assert_close(std, np.log1p(np.exp(out[1:])) + 0.01, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (LastLayerConfig, "num_samples", 0),
        (LastLayerConfig, "num_evidence_steps", 0),
        (DropoutConfig, "dropout_rate", 0.0),
        (DropoutConfig, "dropout_rate", 1.0),
        (DropoutConfig, "num_masks", 1),
    ],
)
def test_impossible_settings_name_the_field(config, field, value):
    with pytest.raises(ValueError, match=field):
        config(**{field: value})
