"""What every learned model must do, whatever it is: one fit program for each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex.config import (
    CalibrationConfig,
    DropoutConfig,
    EnsembleConfig,
    FSVGDConfig,
    GaussianProcessConfig,
    LastLayerConfig,
)
from safex.envs.pendulum import Pendulum
from safex.errors import SafexError
from safex.models.dropout import mc_dropout
from safex.models.ensemble import probabilistic_ensemble
from safex.models.fsvgd import deterministic_fsvgd, probabilistic_fsvgd
from safex.models.gaussian_process import gaussian_process
from safex.models.last_layer import bayesian_last_layer
from safex.models.true_dynamics import TrueDynamics
from safex.rollout import check_sampling_mode
from safex.types import Dataset, Transition
from tests.helpers import assert_close

CAPACITY, D, A = 400, 3, 1
NETWORK = {
    "features": (64,),
    "activation": "tanh",
    "num_training_steps": 1200,
    "batch_size": 64,
    "lr_rate": 1e-2,
    "eval_frequency": 100,
    "patience": 0,
    "weight_decay": 1e-2,
}
MEMBERS = NETWORK | {"num_ensembles": 4}
FIXED = MEMBERS | {"output_stds": (0.05,)}
BUILD = {
    "ensemble": (probabilistic_ensemble, EnsembleConfig(**MEMBERS)),
    "fsvgd": (probabilistic_fsvgd, FSVGDConfig(**MEMBERS)),
    "fixed_fsvgd": (deterministic_fsvgd, FSVGDConfig(**FIXED)),
    "process": (
        gaussian_process,
        GaussianProcessConfig(
            num_training_steps=40, num_hyper_rows=128, max_data=200, subset="farthest"
        ),
    ),
    "last_layer": (bayesian_last_layer, LastLayerConfig(**NETWORK)),
    "dropout": (
        mc_dropout,
        DropoutConfig(**NETWORK | {"features": (128,)}, dropout_rate=0.05),
    ),
}
TARGET = 0.9
CALIBRATION = CalibrationConfig(target_coverage=TARGET)
# Compiling takes far longer than running here: skip the optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Compiled:
    """A model with its methods compiled, `predict` over a batch."""

    def __init__(self, name):
        build, config = BUILD[name]
        self.name = name
        self.model = build(D, A, config, CALIBRATION)
        self.init = jit(self.model.init)
        self.fit = jit(self.model.fit)
        self.predict = jit(jax.vmap(self.model.predict, (None, 0, 0)))
        self.start = self.init(jax.random.key(1))
        self.known, self.known_metrics = self.fit(jax.random.key(2), self.start, KNOWN)


def dataset(obs, action, next_obs, size):
    obs, action, next_obs = (np.float32(z) for z in (obs, action, next_obs))
    zero, false = np.zeros(CAPACITY, np.float32), np.zeros(CAPACITY, bool)
    transitions = Transition(obs, action, zero, zero, next_obs, false, false)
    return Dataset(transitions, jnp.asarray(size, jnp.int32))


def known(x, rng):
    """A function of one input whose noise is known, in the shapes of the pendulum.

    A sine of constant noise, a cosine whose noise grows with x, and a line.
    """
    noise = np.stack([0.1 + 0.0 * x, 0.05 + 0.1 * np.abs(x), 0.02 + 0.0 * x], axis=1)
    mean = np.stack([np.sin(2.0 * x), np.cos(x), 0.5 * x], axis=1)
    obs = np.outer(x, [1.0, 0.0, 0.0])
    action = np.zeros((len(x), A))
    return obs, action, obs + mean + noise * rng.normal(size=mean.shape)


def with_a_gap(rng, count):
    """Inputs of [-2, 2] but for (-0.5, 0.8)."""
    x = np.where(
        rng.uniform(size=count) < 0.5,
        rng.uniform(-2.0, -0.5, count),
        rng.uniform(0.8, 2.0, count),
    )
    return x


RNG = np.random.default_rng(0)
KNOWN = dataset(*known(with_a_gap(RNG, CAPACITY), RNG), CAPACITY)
FRESH = known(with_a_gap(RNG, CAPACITY), RNG)
GAP = known(np.full(CAPACITY, 0.15), RNG)
FAR = known(np.full(CAPACITY, 5.0), RNG)


@pytest.fixture(scope="module", params=list(BUILD))
def compiled(request):
    return Compiled(request.param)


@pytest.fixture(scope="module")
def pendulum_data():
    env = Pendulum.from_config(process_noise_std=0.05)
    keys = jax.random.split(jax.random.key(5), 4)
    angle = jax.random.uniform(keys[0], (CAPACITY,), minval=-3.0, maxval=3.0)
    speed = jax.random.uniform(keys[1], (CAPACITY,), minval=-4.0, maxval=4.0)
    action = jax.random.uniform(keys[2], (CAPACITY, A), minval=-1.0, maxval=1.0)
    states = jax.vmap(env.state_at)(angle, speed)
    obs = jax.vmap(env.observe)(states)
    steps = jax.vmap(env.step)(jax.random.split(keys[3], CAPACITY), states, action)
    return dataset(*jax.device_get((obs, action, steps.obs)), CAPACITY)


def spread(compiled, points):
    prediction = compiled.predict(compiled.known, *map(np.float32, points[:2]))
    return np.asarray(prediction.epistemic_std).mean(0)


def test_the_band_holds_the_share_it_promises(compiled):
    """On fresh rows of the known function, in each dimension."""
    obs, action, next_obs = map(np.float32, FRESH)
    prediction = compiled.predict(compiled.known, obs, action)
    std = np.hypot(prediction.epistemic_std, prediction.aleatoric_std)
    inside = (np.abs(next_obs - prediction.mean) <= 1.6449 * std).mean(0)
    # 40 rows calibrate: 2.5 standard errors of the share are 0.12.
    assert np.all(inside > TARGET - 0.12), inside


def test_the_band_is_not_vainly_wide(compiled):
    obs, action, _ = map(np.float32, FRESH)
    prediction = compiled.predict(compiled.known, obs, action)
    std = np.hypot(prediction.epistemic_std, prediction.aleatoric_std).mean(0)
    noise = np.array([0.1, 0.05 + 0.1 * np.abs(FRESH[0][:, 0]).mean(), 0.02])
    # The noise of the masks adds to that of the data.
    most = 4.0 if compiled.name == "dropout" else 2.0
    assert np.all(std < most * noise), std / noise


def test_the_mean_is_learned(compiled):
    obs, action, _ = map(np.float32, FRESH)
    prediction = compiled.predict(compiled.known, obs, action)
    x = obs[:, 0]
    truth = obs + np.stack([np.sin(2.0 * x), np.cos(x), 0.5 * x], axis=1)
    error = np.sqrt(((prediction.mean - truth) ** 2).mean(0))
    most = 0.2 if compiled.name == "dropout" else 0.1
    assert np.all(error < most), error


def test_less_is_known_in_the_gap_and_beyond(compiled):
    inside = spread(compiled, FRESH)
    gap, far = spread(compiled, GAP), spread(compiled, FAR)
    if compiled.name == "dropout":
        # Its spread follows the size of the activations, not the lack of data: it grows
        # where the function does, far away, and not in a gap.
        assert far[2] > 1.5 * inside[2], far / inside
        return
    assert gap[0] > 2.0 * inside[0], gap / inside
    assert np.all(far > 4.0 * inside), far / inside


def test_noise_that_grows_is_seen_where_it_is_learned(compiled):
    near, wide = (
        compiled.predict(compiled.known, *map(np.float32, known(x, RNG)[:2]))
        for x in (np.full(CAPACITY, 0.9), np.full(CAPACITY, 1.9))
    )
    ratio = float((wide.aleatoric_std / near.aleatoric_std)[0, 1])
    if compiled.name in ("process", "fixed_fsvgd"):
        assert ratio == pytest.approx(1.0)  # one noise std, whatever the input
    else:
        assert 1.2 < ratio < 2.6  # 0.24 / 0.14 = 1.7


def test_the_pendulum_is_learned_and_the_state_keeps_its_structure(
    compiled, pendulum_data
):
    state, metrics = compiled.fit(jax.random.key(3), compiled.start, pendulum_data)
    for leaf in jax.tree.leaves((state, metrics)):
        assert np.all(np.isfinite(leaf))
    before, after = (
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), tree)
        for tree in (compiled.start, state)
    )
    assert before == after
    t = pendulum_data.transitions
    prediction = compiled.predict(state, t.obs, t.action)
    rows = np.asarray(compiled.model.test_rows(pendulum_data))
    error = (np.asarray(prediction.mean) - t.next_obs)[rows]
    moved = (t.next_obs - t.obs)[rows]
    assert np.all(np.sqrt((error**2).mean(0)) < 0.5 * moved.std(0))


def test_a_fit_compiles_once_as_the_data_grow(compiled, pendulum_data):
    state = compiled.start
    for size in (30, 31, 400):
        data = pendulum_data._replace(size=jnp.asarray(size, jnp.int32))
        state, _ = compiled.fit(jax.random.key(3), state, data)
        assert state.size_seen == size
    assert compiled.fit._cache_size() == 1


def test_sampling_modes_that_need_members_are_refused_without(compiled):
    for mode in ("MEAN", "NOISY_MEAN", "DIST"):
        check_sampling_mode(compiled.model, mode)
    for mode in ("TS1", "TSInf"):
        if compiled.model.num_members:
            check_sampling_mode(compiled.model, mode)
            continue
        message = rf"one of MEAN, NOISY_MEAN, DIST for this model.*no members.*{mode}"
        with pytest.raises(SafexError, match=message):
            check_sampling_mode(compiled.model, mode)


def test_the_oracle_has_no_members_and_an_unknown_mode_is_named():
    oracle = TrueDynamics(Pendulum.from_config())
    with pytest.raises(SafexError, match=r"one of MEAN.*'DS'"):
        check_sampling_mode(oracle, "DS")
    with pytest.raises(SafexError, match="no members"):
        check_sampling_mode(oracle, "TSInf")


def test_members_are_functions_and_their_moments_the_models(compiled):
    """One call for all, or one by one: the same; their spread is the model's."""
    model, state = compiled.model, compiled.known
    obs = jnp.asarray(FRESH[0][:5], jnp.float32)
    action = jnp.zeros(A)
    if not model.num_members:
        with pytest.raises(SafexError, match="no members"):
            model.members(state, obs[None], action)
        return
    E = model.num_members
    every = jit(model.members)(state, jnp.tile(obs, (E, 1, 1)), action)
    member = jit(jax.vmap(model.member, (None, 0, None, None)))
    for e in (0, E - 1):
        one = member(state, obs, action, e)
        assert_close([leaf[e] for leaf in every], list(one), rtol=1e-4, atol=1e-5)
    assert not every.epistemic_std.any()
    chosen = jit(lambda s, i: model.members(model.select(s, i), obs[None, :], action))(
        state, jnp.array([E - 1])
    )
    assert_close(chosen.mean[0], every.mean[E - 1], rtol=1e-4, atol=1e-5)
    belief = compiled.predict(state, obs, jnp.zeros((5, A)))
    std = np.asarray(every.mean).std(0) * np.asarray(state.scale)
    if compiled.name == "last_layer":  # ten draws of a Gaussian, not a mixture of ten
        ratio = std / np.asarray(belief.epistemic_std)
        assert 0.5 < ratio.mean() < 1.5
    else:
        assert_close(belief.epistemic_std, std, rtol=2e-2, atol=1e-4)
        assert_close(belief.mean, every.mean.mean(0), rtol=1e-3, atol=1e-4)
