"""Candidates shared out over devices against plain vmap; whole searches as well."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex.config import CEMConfig, ICEMConfig, MinMaxConfig
from safex.constraints.feasible_first import FeasibleFirst
from safex.constraints.rule import constrain
from safex.optimizers.cem import CEM
from safex.optimizers.icem import ICEM
from safex.optimizers.minmax import MinMax
from safex.optimizers.spread import mapped, replicate
from safex.types import Score
from tests.helpers import assert_close, game_of


def margins(total):
    """The sum may be 1, and -3 in the other direction."""
    return jnp.stack([total - 1.0, -3.0 - total])


def score(actions):
    value = -jnp.sum((actions - 0.3) ** 2)
    margin = margins(actions.sum())
    return Score(value, jnp.maximum(margin, 0.0), margin)


CONSTRAINT = constrain(FeasibleFirst(), num=2)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_rows_come_back_in_order_and_without_padding(rows):
    """Scalars and vectors of two and of three."""
    weight = jnp.arange(3.0)

    def weighted(weight):
        """Closes over an array, as objectives close over a model's state."""
        return lambda x, y: Score(weight @ x, jnp.stack([x.sum() - y, y]), 2.0 * x)

    x = jax.random.normal(jax.random.key(0), (rows, 3))
    y = jnp.arange(rows)
    run = jax.jit(lambda w, x, y: mapped(weighted(w), 2)(x, y))
    got = run(weight, x, y)
    expected = jax.vmap(weighted(weight))(x, y)
    assert_close(got, jax.tree.map(jnp.float32, expected))


def test_more_devices_than_there_are_is_refused():
    with pytest.raises(ValueError, match="must not exceed the 2 devices"):
        mapped(lambda x: x, 3)


# Compiling takes far longer than running here: skip the optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

SEARCHES = {
    "cem": (CEM, CEMConfig(horizon=4, num_iter=3, num_samples=21, num_elites=5)),
    "icem": (ICEM, ICEMConfig(horizon=4, num_iter=3, num_samples=21, num_elites=5)),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_finds_the_same_on_two_devices(name):
    cls, config = SEARCHES[name]
    plans = []
    for devices in (1, 2):
        search = cls(2, config, devices)
        run = jit(
            lambda key, search=search: search.optimize(
                key, search.init(key), score, CONSTRAINT
            )
        )
        plans.append(run(jax.random.key(1))[1])
    one, other = plans
    assert one.feasible
    np.testing.assert_allclose(one.value, other.value, rtol=1e-4)
    np.testing.assert_allclose(one.actions, other.actions, atol=1e-3)


def test_the_game_is_played_the_same_on_two_devices():
    config = MinMaxConfig(horizon=4, num_samples_x=13, num_samples_y=9, corners=False)

    def attacked(x, y):
        margin = margins(x.sum() + 0.5 * y.sum())
        return jnp.maximum(margin, 0.0), margin

    plans = []
    for devices in (1, 2):
        search = MinMax(2, 3, config, devices)
        run = jit(
            lambda key, search=search: search.optimize(
                key, search.init(key), game_of(score, attacked), CONSTRAINT
            )
        )
        plans.append(run(jax.random.key(1))[1])
    np.testing.assert_allclose(plans[0].cost, plans[1].cost, atol=1e-4)
    np.testing.assert_allclose(plans[0].actions, plans[1].actions, atol=1e-3)


def test_a_replicated_start_compiles_once():
    cls, config = SEARCHES["cem"]
    search = cls(2, config, 2)
    run = jit(
        lambda key, state: search.optimize(key, search.shift(state), score, CONSTRAINT)[
            0
        ]
    )
    state = replicate(search.init(jax.random.key(0)), 2)
    for seed in range(3):
        state = run(jax.random.key(seed), state)
    assert run._cache_size() == 1
