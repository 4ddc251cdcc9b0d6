import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from safex.envs.pendulum import Pendulum
from safex.envs.rc_car import RCCar
from safex.models import calibration_report as report
from safex.models.own_frame import OwnFrameModel
from safex.models.true_dynamics import TrueDynamics
from safex.types import Prediction
from tests.helpers import assert_close

RNG = np.random.default_rng(0)
ERROR = RNG.normal(size=(40, 2)) * [0.3, 5.0]
STD = RNG.uniform(0.1, 2.0, (40, 2)) * [0.3, 5.0]


def test_crps_is_the_integral_it_stands_for():
    for error, std in [(0.0, 1.0), (0.7, 0.2), (-3.0, 1.5)]:

        def squared(x, error=error, std=std):
            return (stats.norm.cdf(x, scale=std) - (x >= error)) ** 2

        by_parts = sum(
            integrate.quad(squared, *ends)[0]
            for ends in ((-15.0, error), (error, 15.0))
        )
        assert report.gaussian_crps(error, std) == pytest.approx(by_parts, abs=1e-7)


def test_nll_by_hand():
    # log(2 sqrt(2 pi)) + (3 / 2)^2 / 2
    by_hand = np.log(2.0) + 0.5 * np.log(2.0 * np.pi) + 1.125
    assert report.gaussian_nll(3.0, 2.0) == pytest.approx(by_hand)


def test_curve_and_calibration_error_are_those_of_uncertainty_toolbox():
    # There: expected shares linspace(0, 1, 100); observed is the share of residuals
    # between the normal quantiles at 0.5 -+ share / 2; the mean of |difference|.
    expected = np.linspace(0.0, 1.0, 100)
    z = ERROR / STD
    observed = [
        (
            (z >= stats.norm.ppf(0.5 - share / 2))
            & (z <= stats.norm.ppf(0.5 + share / 2))
        ).mean(0)
        for share in expected
    ]
    assert_close(report.interval_curve(ERROR, STD), np.array(observed))
    by_hand = np.abs(np.array(observed) - expected[:, None]).mean(0)
    assert_close(report.score(ERROR, STD).calibration_error, by_hand)


def test_a_perfect_model_scores_as_theory_says():
    std = np.full((200_000, 1), 3.0)
    found = report.score(std * np.random.default_rng(1).normal(size=std.shape), std)
    shares = [[0.6827], [0.9545], [0.9973]]
    assert_close(found.coverage, np.array(shares), atol=4e-3)
    assert_close(found.nominal, np.array([0.95]), atol=2e-3)
    assert found.calibration_error < 2e-3
    # Entropy of the normal, and std / sqrt(pi).
    entropy = 0.5 * np.log(2 * np.pi * np.e * 9.0)
    assert_close(found.nll, np.array([entropy]), atol=1e-2)
    assert_close(found.crps, np.array([3.0 / np.sqrt(np.pi)]), rtol=1e-2)
    assert_close(found.sharpness, np.array([3.0]))


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_proper_scores_prefer_the_right_std(factor):
    std = np.full((5000, 1), 2.0)
    error = std * np.random.default_rng(2).normal(size=std.shape)
    right, wrong = report.score(error, std), report.score(error, factor * std)
    assert right.nll < wrong.nll
    assert right.crps < wrong.crps
    assert right.calibration_error < wrong.calibration_error


def test_coverage_by_hand_in_each_dimension_and_together():
    error = np.array([[0.5, 0.5], [-1.5, 0.5], [2.5, 0.5], [3.5, 9.0]])
    found = report.score(error, np.ones_like(error))
    by_hand = np.array([[0.25, 0.75], [0.5, 0.75], [0.75, 0.75]])
    assert_close(found.coverage, by_hand)
    assert_close(found.nominal, np.array([0.5, 0.75]))
    assert found.simultaneous == 0.5  # rows 1 and 2


def test_pooled_scores_do_not_depend_on_the_unit_of_a_dimension():
    unit = np.array([0.3, 5.0])
    scale = np.array([1000.0, 0.01])
    before = report.summarise(report.score(ERROR, STD, unit), ["a", "b"])
    rescaled = report.score(scale * ERROR, scale * STD, scale * unit)
    after = report.summarise(rescaled, ["a", "b"])
    per_dimension = after.pop("dimensions")
    original = before.pop("dimensions")
    assert_close(after, before)
    for name, factor in zip("ab", scale, strict=True):
        for score in ("rmse", "crps", "sharpness"):
            by_scale = factor * original[name][score]
            assert per_dimension[name][score] == pytest.approx(by_scale)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_a_std_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="stds"):
        report.score(np.zeros((2, 1)), np.array([[1.0], [bad]]))
    with pytest.raises(ValueError, match="row"):
        report.score(np.zeros((0, 1)), np.zeros((0, 1)))


@dataclasses.dataclass(frozen=True)
class Drift:
    """`s' = s + a`, known up to a Gaussian of both uncertainties."""

    num_members = 0

    def predict(self, state, obs, action):
        return Prediction(obs + action, 3.0 * jnp.ones(2), 4.0 * jnp.ones(2))


class Plane:
    """An environment in which every observation is possible."""

    def project(self, obs):
        return obs


def test_one_step_adds_the_stds_in_quadrature():
    obs = np.array([[0.0, 1.0], [2.0, 3.0]])
    error, std = report.one_step(Drift(), (), obs, np.ones((2, 1)), obs + 3.0)
    assert_close(error, np.full((2, 2), 2.0))
    assert_close(std, np.full((2, 2), 5.0))


@pytest.mark.parametrize("framed", [False, True])
def test_models_that_hold_a_system_are_scored(framed):
    env = RCCar.from_config()
    truth = TrueDynamics(env)
    model = OwnFrameModel(env, truth) if framed else truth
    # The true car in a frame of its own is the true car.
    state = truth.init(jax.random.key(0))
    obs = jnp.array([[0.5, -0.4, 0.6, 0.8, 0.3, 0.4, 0.1]])
    action = jnp.array([[0.3, 0.7]])
    next_obs = jax.vmap(env.dynamics)(obs, action)
    error, std = report.one_step(model, state, obs, action, next_obs)
    assert_close(error, np.zeros((1, 7)), atol=1e-6)
    assert_close(std, np.zeros((1, 7)), atol=1e-6)


def test_particles_of_a_random_walk_spread_with_the_root_of_time():
    actions = np.linspace(-1.0, 1.0, 6).reshape(1, 6, 1)
    found = report.imagine(
        jax.random.key(0),
        Drift(),
        (),
        Plane(),
        np.zeros((1, 2)),
        actions,
        num_particles=4000,
    )
    time = np.arange(1, 7)
    assert_close(found.mean[0, :, 0], np.cumsum(actions[0, :, 0]), atol=1.0)
    for dim in range(2):
        assert_close(found.std[0, :, dim], 5.0 * np.sqrt(time), rtol=0.05)
        half = 0.5 * (found.upper - found.lower)[0, :, dim]
        assert_close(half, 1.96 * 5.0 * np.sqrt(time), rtol=0.07)
    truth = np.stack([found.mean, found.upper + 1.0])[:, 0]
    twice = report.Imagined(*(np.repeat(leaf, 2, axis=0) for leaf in found))
    assert_close(report.held(truth, twice), np.full((6, 2), 0.5))


def test_the_true_model_imagines_what_happens():
    env = Pendulum.from_config()
    actions = jax.random.uniform(jax.random.key(1), (10, 1), minval=-1.0)
    state, obs = env.reset(jax.random.key(2))
    path = []
    for action in actions:
        step = env.step(jax.random.key(3), state, action)
        state = step.state
        path.append(step.obs)
    found = report.imagine(
        jax.random.key(4),
        TrueDynamics(env),
        env,
        env,
        obs[None],
        actions[None],
        num_particles=2,
    )
    assert_close(found.mean[0], np.stack(path), atol=1e-5)
    assert found.std.max() < 1e-6


def test_windows_stay_within_the_episode():
    rows = report.windows(7, 3, 2)
    assert rows.tolist() == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    assert report.windows(2, 3, 1).shape == (0, 3)
