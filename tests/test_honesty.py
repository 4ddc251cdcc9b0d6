import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex.envs.pendulum import Pendulum
from safex.models import calibration_report
from safex.training.honesty import (
    HORIZON,
    SCORES,
    Claim,
    far_paths,
    held_after,
    newest_paths,
    score_claims,
)
from safex.types import Dataset, Prediction, Transition
from tests.helpers import assert_close

ENV = Pendulum.from_config()
KEY = jax.random.key(0)


def test_far_paths_start_far_away_and_go_on_in_the_system():
    paths = far_paths(KEY, ENV, 7)
    assert paths.obs.shape == (7, HORIZON, 3)
    assert_close(paths.obs[:, 1:], paths.next_obs[:, :-1])
    step = jax.vmap(jax.vmap(ENV.dynamics))
    assert_close(step(paths.obs, paths.action), paths.next_obs, atol=1e-5)
    # Beyond the limit, where a safe agent does not go; each with actions of its own.
    assert (np.abs(paths.obs[:, 0, 2]) > ENV.limits[0]).all()
    assert np.unique(paths.action).size == paths.action.size


def numbered(size, capacity):
    """A buffer whose observations are row numbers."""
    row = jnp.arange(capacity, dtype=jnp.float32)
    column = row[:, None]
    none = jnp.zeros(capacity, bool)
    data = Transition(column, column, row, column, column + 1, none, none)
    return Dataset(data, jnp.int32(size))


@pytest.mark.parametrize(
    ("size", "length", "number", "horizon"),
    [(300, 200, 20, 10), (125, 25, 2, 10), (60, 10, 1, 10), (60, 4, 1, 4)],
)
def test_newest_paths_are_stretches_of_the_last_episode(size, length, number, horizon):
    paths = newest_paths(numbered(size, 400), length)
    rows = np.asarray(paths.obs)[..., 0]
    assert rows.shape == (number, horizon)
    assert np.all(np.diff(rows, axis=1) == 1)
    assert rows.min() == size - length
    # The last one ends with the episode, should there be more than one.
    assert rows.max() == (size - 1 if number > 1 else size - length + horizon - 1)
    assert np.all(np.diff(rows[:, 0]) >= 1)


class Walk:
    """The agent's belief: stays where it is, give or take; the env forbids nothing."""

    obs_dim = 2
    beta = 1.0

    def predict(self, state, obs, action):
        return Prediction(obs, *state)

    def project(self, obs):
        return obs


@jax.jit
def share_held(key, stds, paths):
    return held_after(key, Walk(), Walk(), stds, paths)


@pytest.mark.parametrize(
    ("epistemic", "aleatoric", "expected"),
    # Of a random walk of std 1; half the std holds P(|z| < 0.98), none nothing.
    [(0.6, 0.8, 0.95), (0.0, 0.5, 0.673), (0.0, 0.0, 0.0), (9.0, 0.0, 1.0)],
)
def test_a_random_walk_is_held_as_often_as_its_stds_say(epistemic, aleatoric, expected):
    steps = jax.random.normal(KEY, (20, HORIZON, 2))
    path = jnp.cumsum(steps, axis=1)
    start = jnp.zeros((20, 1, 2))
    obs = jnp.concatenate([start, path[:, :-1]], axis=1)
    unused = jnp.zeros((20, HORIZON))
    paths = Transition(obs, obs[..., :1], unused, unused, path, unused, unused)
    stds = jnp.full(2, epistemic), jnp.full(2, aleatoric)
    shares = [
        share_held(jax.random.key(k), stds, paths._replace(next_obs=turned))
        for k in range(20)
        # The same walk from other directions: 20 paths alone are few.
        for turned in (path, jnp.roll(path, k, axis=0))
    ]
    assert np.mean(shares) == pytest.approx(expected, abs=0.06)


def test_scores_are_those_of_the_rows_that_count():
    rng = np.random.default_rng(0)
    next_obs, mean = rng.normal(size=(2, 50, 3))
    epistemic, aleatoric = rng.uniform(0.5, 2.0, size=(2, 50, 3))
    mask = rng.uniform(size=50) < 0.5
    beta, unit = np.array([1.0, 2.0, 0.5]), np.array([1.0, 10.0, 0.1])
    claim = Claim(next_obs, mean, epistemic, aleatoric, mask)
    nothing = claim._replace(mask=np.zeros(50, bool))
    endless = claim._replace(epistemic_std=np.where(mask[:, None], np.inf, 1.0))
    claims = {"some": claim, "none": nothing, "endless": endless}
    found = score_claims(claims, beta, unit)
    std = np.sqrt((beta * epistemic) ** 2 + aleatoric**2)[mask]
    scores = calibration_report.score((next_obs - mean)[mask], std, unit)
    expected = calibration_report.summarise(scores, "abc")
    assert {name: found[f"scores/some/{name}"] for name in SCORES} == {
        name: pytest.approx(expected[name]) for name in SCORES
    }
    for region in ("none", "endless"):
        assert {found[f"scores/{region}/{name}"] for name in SCORES} == {None}
