"""What several tests share: the tolerance of float32 results that should be equal."""

import jax
import numpy as np

from safex.optimizers.minmax import Game

RTOL = 1e-5
ATOL = 1e-6


def assert_close(a, b, *, rtol=RTOL, atol=ATOL):
    """Asserts that two pytrees agree in structure, shapes and values, NaN nowhere."""
    a_leaves, a_tree = jax.tree.flatten(a)
    b_leaves, b_tree = jax.tree.flatten(b)
    assert a_tree == b_tree, f"{a_tree} != {b_tree}"
    for left, right in zip(a_leaves, b_leaves, strict=True):
        assert np.shape(left) == np.shape(right), f"{np.shape(left)} {np.shape(right)}"
        np.testing.assert_allclose(left, right, rtol=rtol, atol=atol, equal_nan=False)


def game_of(nominal, attacked):
    """A game whose attacks, `(x, y) -> (cost, margin)`, need nothing but the plan."""
    return Game(lambda x: (nominal(x), ()), lambda x, y, known: attacked(x, y))
