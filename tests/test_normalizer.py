import jax
import numpy as np
import pytest

from safex.models.normalizer import fit_normalizer, identity_normalizer
from tests.helpers import assert_close

fit = jax.jit(fit_normalizer)

X = np.array([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0], [9.0, 8.0]], np.float32)
ALL = np.ones(4, bool)
FIRST_THREE = np.array([True, True, True, False])


def test_mean_and_population_std_of_the_valid_rows():
    fitted = fit(X, FIRST_THREE)
    assert_close(fitted.mean, np.array([3.0, 2.0]))
    assert_close(fitted.std, np.array([np.sqrt(8.0 / 3.0), 1.0]))  # constant column: 1


@pytest.mark.parametrize("padding", [-1e6, 3e38, np.nan])
def test_padding_never_matters(padding):
    padded = np.where(FIRST_THREE[:, None], X, np.float32(padding))
    assert_close(fit(padded, FIRST_THREE), fit(X, FIRST_THREE))


def test_one_row_and_no_row_divide_by_nothing():
    one = fit(X, np.array([False, True, False, False]))
    assert_close(tuple(one), (np.array([3.0, 2.0]), np.ones(2)))
    assert_close(tuple(fit(X, np.zeros(4, bool))), (np.zeros(2), np.ones(2)))


def test_small_spread_about_a_large_mean_is_seen():
    x = np.array([[999.9, 1e-3], [1000.1, 3e-3]], np.float32)
    std = fit(np.tile(x, (2, 1)), ALL).std
    assert_close(std, np.array([0.1, 1e-3]), rtol=1e-3)


def test_rounding_noise_counts_as_constant():
    x = np.array([[0.0, 0.0], [2e-7, 2e-5]] * 2, np.float32)
    assert_close(fit(x, ALL).std, np.array([1.0, 1e-5]), atol=1e-9)


def test_normalized_data_are_standard_and_come_back():
    fitted = fit(X, ALL)
    z = fitted.normalize(X)
    assert_close((z.mean(0), z.std(0)), (np.zeros(2), np.ones(2)))
    assert_close(fitted.denormalize(z), X)
    assert_close(fitted.normalize(X[0]), z[0])


def test_identity_changes_nothing():
    nothing = identity_normalizer(2)
    assert_close((nothing.normalize(X), nothing.denormalize(X)), (X, X))


@pytest.mark.parametrize("value", [1.0, -0.3, 700.0])
def test_a_constant_of_many_rows_has_no_spread(value):
    x = np.full((220, 1), value, np.float32)
    fitted = fit(x, np.arange(220) < 170)
    assert_close(tuple(fitted), (np.full(1, np.float32(value)), np.ones(1)), rtol=1e-6)
