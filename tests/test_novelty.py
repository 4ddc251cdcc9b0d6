"""A model that goes wrong beyond its data without knowing it, and what makes up for it.

The stand-in is right to within its noise where it has data and keeps its value of the
data's edge beyond; its own stds are the same everywhere.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex.config import CalibrationConfig, SplitConfig
from safex.models import calibration, novelty
from safex.models.calibrated import CalibratedModel
from safex.types import Dataset, Prediction, Transition
from tests.helpers import assert_close

CAPACITY, SIZE = 700, 600
NOISE = 0.02
EDGE = 1.5


def drift(obs, action):
    return 0.3 * jnp.stack([jnp.sin(2.0 * obs[0]) + action[0], obs[0] * obs[1]])


@dataclasses.dataclass(frozen=True)
class Overconfident:
    """Knows the drift within the edge; beyond, it holds the value at the edge."""

    obs_dim = 2
    action_dim = 1
    num_members = 0

    def init(self, key):
        del key
        return ()

    def train(self, key, state, data, split):
        del key, data, split
        return state, {}

    def moments(self, state, obs, action):
        del state
        inside = jnp.clip(obs, -EDGE, EDGE)
        # Twice too wide where it is right, hundreds of times too narrow elsewhere.
        return Prediction(
            obs + drift(inside, action), 0.01 * jnp.ones(2), 0.04 * jnp.ones(2)
        )


def transitions(seed, rows, low, high, size=None):
    """Rows at `low <= |obs| < high` in the first dimension, noisy."""
    rng = np.random.default_rng(seed)
    first = rng.uniform(low, high, rows) * rng.choice([-1.0, 1.0], rows)
    obs = np.stack([first, rng.uniform(-EDGE, EDGE, rows)], axis=1)
    action = rng.uniform(-1.0, 1.0, (rows, 1))
    obs, action = obs.astype(np.float32), action.astype(np.float32)
    moved = np.asarray(jax.vmap(drift)(obs, action))
    next_obs = (obs + moved + NOISE * rng.normal(size=obs.shape)).astype(np.float32)
    zero, false = np.zeros(rows, np.float32), np.zeros(rows, bool)
    return Dataset(
        Transition(obs, action, zero, zero, next_obs, false, false),
        jnp.asarray(rows if size is None else size, jnp.int32),
    )


DATA = transitions(0, CAPACITY, 0.0, EDGE, SIZE)
FRESH = transitions(1, CAPACITY, 0.0, EDGE).transitions
FAR = transitions(2, CAPACITY, 2.0 * EDGE, 3.0 * EDGE).transitions
CONFIG = CalibrationConfig(num_inducing=48)


@functools.cache
def fitted(num_inducing=48):
    config = dataclasses.replace(CONFIG, num_inducing=num_inducing)
    model = CalibratedModel(Overconfident(), config, SplitConfig())
    state = model.init(jax.random.key(0))
    fit, predict = jax.jit(model.fit), jax.jit(jax.vmap(model.predict, (None, 0, 0)))
    state, metrics = fit(jax.random.key(1), state, DATA)
    return fit, predict, state, metrics


def inside(width, rows, num_inducing=48, state=None):
    """Share of rows within `width` stds."""
    _, predict, own, _ = fitted(num_inducing)
    mean, epistemic, aleatoric = predict(state or own, rows.obs, rows.action)
    error = np.abs(rows.next_obs - mean)
    return float((error <= width * np.hypot(epistemic, aleatoric)).mean())


def test_the_band_holds_far_from_the_data():
    assert inside(2.0, FAR) >= 0.9
    assert inside(2.0, FAR, num_inducing=0) < 0.3  # what the stand-in says itself


def test_the_band_is_not_inflated_near_the_data():
    # 0.95 within three standard errors of 60 calibration rows.
    assert 0.9 <= inside(1.96, FRESH) <= 0.992
    _, _, state, _ = fitted()
    assert np.all(state.scale < 0.7)  # it was twice too wide


def test_known_inputs_are_not_novel_and_far_ones_are():
    _, _, state, _ = fitted()
    model = CalibratedModel(Overconfident(), CONFIG)
    train = np.asarray(model._split(DATA).train)
    novel = jax.jit(
        jax.vmap(
            lambda obs, action: novelty.novel_std(
                state.novelty,
                obs,
                action,
                Prediction(obs, jnp.zeros(2), jnp.zeros(2)),
            )
        )
    )
    known = np.asarray(novel(DATA.transitions.obs, DATA.transitions.action))[train]
    assert (known == 0).all(1).mean() >= 0.95
    assert np.asarray(novel(FAR.obs, FAR.action)).min() > 0.1


def test_at_infinity_it_is_prior_and_disagreement():
    _, _, state, _ = fitted()
    obs, action = jnp.array([900.0, 900.0]), jnp.zeros(1)
    belief = Prediction(obs + 3.0, jnp.array([4.0, 0.0]), jnp.zeros(2))
    opinion = state.novelty
    found = novelty.novel_std(opinion, obs, action, belief)
    # The process is at its prior mean there: the trend of the data.
    x = opinion.inputs.normalize(jnp.concatenate([obs, action]))
    disagreement = opinion.targets.denormalize(x @ opinion.trend.slope) - 3.0
    prior = opinion.process.amplitude * opinion.targets.std
    slope = opinion.trend.left * opinion.targets.std
    own = prior**2 + slope**2 * (x @ opinion.trend.spread @ x)
    var = (1.0 - opinion.known) * (jnp.array([16.0, 0.0]) + disagreement**2 + own)
    assert_close(found, jnp.sqrt(var), rtol=1e-4)


def test_a_line_and_a_collision_do_not_make_everything_new():
    """A speed that a force changes by a line and a little curve; once it hit a wall."""
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1.0, 1.0, (200, 2)).astype(np.float32)
    action = rng.uniform(-1.0, 1.0, (200, 1)).astype(np.float32)

    def moved(obs, action):
        line = 0.5 * action[:, 0] - 0.3 * obs[:, 0]
        return np.stack([line + 0.02 * np.sin(2.0 * obs[:, 1]), line], axis=1)

    next_obs = obs + moved(obs, action)
    next_obs[17, 0] -= 3.0
    zero, false = np.zeros(200, np.float32), np.zeros(200, bool)
    rows = Transition(obs, action, zero, zero, next_obs, false, false)
    opinion = jax.jit(novelty.fit, static_argnums=0)(
        48, Dataset(rows, jnp.asarray(200)), np.arange(200) < 160
    )
    # The line is known as what it is, the collision and the curve notwithstanding.
    unit = opinion.targets.std[:, None] / opinion.inputs.std
    assert_close(
        opinion.trend.slope.T * unit, np.array([[-0.3, 0, 0.5]] * 2), atol=0.03
    )
    assert np.all(opinion.process.amplitude * opinion.targets.std < 0.3)
    # A little beyond the data a true model is not called wrong by many times its size.
    beyond, push = np.float32([[0.5, 1.3], [1.3, 0.0]]), np.ones((2, 1), np.float32)
    belief = Prediction(
        beyond + moved(beyond, push), np.zeros((2, 2)), np.zeros((2, 2))
    )
    novel = jax.vmap(novelty.novel_std, (None, 0, 0, 0))(opinion, beyond, push, belief)
    assert float(novel.max()) < 0.1


def test_before_a_fit_nothing_is_novel():
    opinion = novelty.init(2, 1, 8)
    belief = Prediction(jnp.ones(2), jnp.ones(2), jnp.ones(2))
    assert_close(
        novelty.novel_std(opinion, jnp.ones(2), jnp.ones(1), belief), jnp.zeros(2)
    )


def appended(rows):
    """The data, and as many new rows behind them as there is room for."""
    behind = np.arange(CAPACITY) >= SIZE
    merged = jax.tree.map(
        lambda old, new: np.where(
            behind.reshape((-1,) + (1,) * (old.ndim - 1)), new, old
        ),
        DATA.transitions,
        rows,
    )
    return Dataset(merged, jnp.asarray(CAPACITY, jnp.int32))


def test_an_episode_that_surprises_stretches_what_is_novel_alone():
    fit, predict, state, metrics = fitted()
    assert_close(metrics["calibration/stretch"], jnp.ones(2))  # nothing to confront
    # Far rows whose errors are many times what even the second opinion expects.
    absurd = FAR._replace(next_obs=FAR.obs + 50.0)
    after, _ = fit(jax.random.key(2), state, appended(absurd))
    assert np.all(after.stretch > 10.0)
    assert np.all(after.known_stretch < 1.1)
    wider = state._replace(stretch=after.stretch)
    near = [predict(s, FRESH.obs, FRESH.action).epistemic_std for s in (state, wider)]
    far = [predict(s, FAR.obs, FAR.action).epistemic_std for s in (state, wider)]
    assert np.median(near[1] / near[0]) == 1.0
    # What is beyond the largest stretch is remembered, not applied.
    ratio = np.asarray(far[1] / far[0])
    assert np.all((ratio > 8.0) & (ratio <= 10.001))


def test_a_surprise_at_known_inputs_stretches_what_is_known_alone():
    fit, predict, state, _ = fitted()
    # Rows among the data whose errors are many times the band, in one dimension.
    shifted = FRESH._replace(next_obs=FRESH.next_obs + np.float32([0.5, 0.0]))
    after, metrics = fit(jax.random.key(2), state, appended(shifted))
    assert 10.0 < after.known_stretch[0] < np.exp(3.0 * 0.95) + 1e-3
    assert after.known_stretch[1] < 1.3
    assert np.all(after.stretch < 1.3)
    assert_close(metrics["calibration/known_stretch"], after.known_stretch)
    wider = state._replace(known_stretch=after.known_stretch)
    near = [predict(s, FRESH.obs, FRESH.action) for s in (state, wider)]
    for std in ("epistemic_std", "aleatoric_std"):
        ratio = getattr(near[1], std)[:, 0] / getattr(near[0], std)[:, 0]
        # Of the scale and this stretch together no more than 10 is applied.
        most = 10.0 / state.scale[0]
        expected = min(float(after.known_stretch[0]), float(most))
        assert np.median(ratio) == pytest.approx(expected, rel=1e-3)


def test_an_episode_without_surprise_lets_the_stretch_fade():
    fit, _, state, _ = fitted()
    five = jnp.full(2, 5.0)
    stretched = state._replace(known_stretch=five, stretch=five)
    after, _ = fit(jax.random.key(2), stretched, appended(FRESH))
    # Hardly a row is new, so that only the other stretch has evidence.
    assert np.all(after.known_stretch < 4.6)
    assert np.all(after.known_stretch >= 5.0 * np.exp(-0.15) - 1e-3)
    assert np.all((after.stretch > 4.8) & (after.stretch <= 5.0))


def test_without_members_there_is_nothing_to_ask():
    model = CalibratedModel(Overconfident(), CONFIG)
    with pytest.raises(Exception, match="no members"):
        model.member(fitted()[2], jnp.zeros(2), jnp.zeros(1), 0)


def test_an_adversary_can_climb_along_the_band():
    # At known inputs nothing is novel, and the root of 0 has an infinite slope.
    _, predict, state, _ = fitted()

    def width(obs):
        return predict(state, obs, jnp.zeros((2, 1))).epistemic_std.sum()

    slopes = jax.grad(width)(jnp.array([[0.1, 0.1], [2.5, 0.0]]))
    assert np.all(np.isfinite(slopes))
    assert np.any(slopes[1] != 0.0)


def test_the_root_has_a_slope_of_zero_at_zero():
    x = jnp.array([0.0, 4.0, 1e-30])
    assert_close(calibration.safe_sqrt(x), jnp.sqrt(x))
    assert_close(jax.vmap(jax.grad(calibration.safe_sqrt))(x[:2]), jnp.array([0, 0.25]))
