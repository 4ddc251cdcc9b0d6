import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex import rollout
from safex.agents.mpc import MPCAgent
from safex.agents.planners import Safe
from safex.config import (
    CalibrationConfig,
    CEMConfig,
    DropoutConfig,
    EnsembleConfig,
    LastLayerConfig,
)
from safex.constraints.feasible_first import FeasibleFirst
from safex.envs.pendulum import Pendulum
from safex.models import novelty
from safex.models.calibrated import CalibratedModel
from safex.models.dropout import mc_dropout
from safex.models.ensemble import (
    Ensemble,
    deterministic_ensemble,
    probabilistic_ensemble,
)
from safex.models.last_layer import bayesian_last_layer
from safex.models.networks import (
    LearnedNoise,
    _kernel_init,
    algebraic_swish,
    beta_nll,
    gaussian_nll,
    weight_prior,
)
from safex.models.training import split_rows
from safex.optimizers.cem import CEM
from safex.types import Dataset, Prediction, Transition
from tests.helpers import assert_close

CAPACITY = 400
SIZE = 300
DT = 0.02  # one step moves little, beside the spread of the observations
NOISE = 0.01
SEED = jax.random.key(3)

SMALL = EnsembleConfig(
    features=(32,),
    num_ensembles=3,
    num_training_steps=600,
    batch_size=32,
    lr_rate=1e-2,
    weight_decay=1e-3,
    eval_frequency=50,
    patience=0,
)
LEARNED = probabilistic_ensemble(
    2, 1, SMALL, CalibrationConfig(target_coverage=0.9, prequential_rate=3.0)
)
FIXED = deterministic_ensemble(
    2,
    1,
    dataclasses.replace(
        SMALL,
        output_stds=(0.004, 0.006),
        prior_scale=3.0,
        patience=4,
        return_best_model=False,
    ),
    CalibrationConfig(method="kuleshov", prequential=False),
)


UNSCALED = CalibrationConfig(method="none")


# Compiling takes far longer than running here: skip the optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Compiled:
    """A model with its methods compiled, `predict` and `member` over a batch."""

    def __init__(self, model):
        self.model = model
        self.init = jit(model.init)
        self.fit = jit(model.fit)
        self.predict = jit(jax.vmap(model.predict, (None, 0, 0)))
        self.member = jit(jax.vmap(model.member, (None, 0, 0, None)))

    def fitted(self, data, key=SEED):
        return self.fit(key, self.init(jax.random.key(4)), data)


@pytest.fixture(scope="module")
def learned():
    return Compiled(LEARNED)


@pytest.fixture(scope="module")
def fixed():
    return Compiled(FIXED)


def true_step(obs, action):
    """A linear and a sine row; the differences are small beside the observations."""
    drift = np.stack([obs[:, 1], action[:, 0] - np.sin(obs[:, 0])], axis=1)
    return obs + DT * drift


def dataset(seed=0, *, noise=0.0, size=SIZE, padding=0.0):
    """Transitions of the true system, around `(0, 10)` so that nothing is centred."""
    rng = np.random.default_rng(seed)
    obs = rng.uniform([-2.0, 8.0], [2.0, 12.0], (CAPACITY, 2))
    action = rng.uniform(-1.0, 1.0, (CAPACITY, 1))
    next_obs = true_step(obs, action) + noise * rng.normal(size=obs.shape)
    valid = np.arange(CAPACITY) < size
    obs, action, next_obs = (
        np.where(valid[:, None], x, padding).astype(np.float32)
        for x in (obs, action, next_obs)
    )
    zero, false = np.zeros(CAPACITY, np.float32), np.zeros(CAPACITY, bool)
    transitions = Transition(obs, action, zero, zero, next_obs, false, false)
    return Dataset(transitions, jnp.asarray(size, jnp.int32))


def pure_noise():
    """A few rows in which nothing can be learned, only overfitted."""
    t = dataset().transitions
    noise = np.random.default_rng(2).normal(size=t.obs.shape).astype(np.float32)
    return Dataset(t._replace(next_obs=t.obs + NOISE * noise), dataset(size=60).size)


CLEAN = dataset()
NOTHING = pure_noise()
NOISY = dataset(noise=NOISE)
FRESH = dataset(seed=9, size=CAPACITY)
FAR_OBS = np.tile(np.array([[60.0, -60.0]], np.float32), (CAPACITY, 1))
ACTION = FRESH.transitions.action


@pytest.fixture(scope="module")
def clean(learned):
    return learned.fitted(CLEAN)


@pytest.fixture(scope="module")
def noisy(learned):
    return learned.fitted(NOISY)


@pytest.fixture(scope="module")
def fixed_clean(fixed):
    return fixed.fitted(CLEAN)


def predict(model, state, obs=FRESH.transitions.obs):
    return jax.device_get(model.predict(state, obs, ACTION))


def relative_error(prediction):
    """Error on fresh rows, as a share of the std of the true differences, `[D]`."""
    error = FRESH.transitions.next_obs - prediction.mean
    moved = FRESH.transitions.next_obs - FRESH.transitions.obs
    return np.sqrt((error**2).mean(0)) / moved.std(0)


def held_out_nll(model, state, data):
    """Mean NLL of the members on the rows that stop the training early."""
    rows = np.flatnonzero(split_rows(data.size, CAPACITY, 0.8).calibrate)
    state = state._replace(scale=jnp.ones(2))
    nll = []
    for index in range(model.model.num_members):
        prediction = model.member(
            state, data.transitions.obs, data.transitions.action, index
        )
        mean, std = prediction.mean[rows], prediction.aleatoric_std[rows]
        z = (data.transitions.next_obs[rows] - mean) / std
        normalised_std = std / state.base.targets.std
        nll.append(0.5 * z**2 + np.log(normalised_std) + 0.5 * np.log(2 * np.pi))
    return float(np.mean(nll))


# The split.


def sides(size, share=0.8):
    return np.stack(split_rows(size, CAPACITY, share))


def test_hundred_rows_are_split_80_10_10():
    assert sides(100).sum(1).tolist() == [80, 10, 10]


@pytest.mark.parametrize("share", [0.5, 0.8, 0.9])
def test_split_is_a_partition_of_the_valid_rows_in_blocks_of_five(share):
    split = sides(397, share)
    assert np.array_equal(split.sum(0), np.arange(CAPACITY) < 397)
    blocks = split[:, :395].reshape(3, -1, 5)
    assert np.all(blocks == blocks[..., :1])
    rest = (1 - share) / 2
    assert np.allclose(split.sum(1) / 397, [share, rest, rest], atol=0.02)


def test_a_row_never_changes_sides():
    full = sides(CAPACITY)
    for size in (1, 23, 24, 100, 399):
        part = sides(size)
        assert np.array_equal(part[:, :size], full[:, :size])
        assert not part[:, size:].any()


def test_test_rows_are_the_third_side():
    expected = split_rows(SIZE, CAPACITY, 0.8).test
    assert np.array_equal(LEARNED.test_rows(CLEAN), expected)


# What a fit learns.


def test_learns_differences_to_a_few_percent(learned, clean, fixed, fixed_clean):
    for model, (state, _) in ((learned, clean), (fixed, fixed_clean)):
        linear, sine = relative_error(predict(model, state))
        assert linear < 0.06
        assert sine < 0.2


def test_learned_noise_is_the_systems_own(learned, noisy):
    std = predict(learned, noisy[0]).aleatoric_std.mean(0)
    assert np.all(np.abs(std / NOISE - 1.0) < 0.25), std


def test_learned_noise_is_small_where_there_is_none(learned, clean):
    assert np.all(predict(learned, clean[0]).aleatoric_std.mean(0) < 0.3 * NOISE)


def test_fixed_noise_is_what_the_user_said(fixed, fixed_clean):
    std = predict(fixed, fixed_clean[0]).aleatoric_std
    assert_close(std, np.broadcast_to([0.004, 0.006], std.shape))


def test_members_disagree_far_from_the_data(learned, clean, fixed, fixed_clean):
    for model, (state, _) in ((learned, clean), (fixed, fixed_clean)):
        near = predict(model, state).epistemic_std
        far = predict(model, state, FAR_OBS).epistemic_std
        assert np.all(far.mean(0) > 5.0 * near.mean(0))


def without_priors(state):
    zero = jax.tree.map(jnp.zeros_like, state.base.prior_params)
    return state._replace(base=state.base._replace(prior_params=zero))


def test_priors_are_added_to_the_members(fixed, fixed_clean):
    state, _ = fixed_clean
    swapped = state.base._replace(params=state.base.prior_params)
    of_priors = without_priors(state._replace(base=swapped))
    obs = FRESH.transitions.obs
    both, alone, prior = (
        np.asarray(fixed.member(s, obs, ACTION, 1).mean)
        for s in (state, without_priors(state), of_priors)
    )
    assert_close(both - alone, 3.0 * (prior - obs - state.base.targets.mean), atol=1e-5)


def test_priors_spread_members_where_nothing_was_learned(fixed):
    start = fixed.init(SEED)
    spread, without = (
        predict(fixed, state, FAR_OBS).epistemic_std.mean()
        for state in (start, without_priors(start))
    )
    assert spread > 1.5 * without  # sqrt(1 + 3^2) in expectation


def test_the_last_calibration_of_the_test_rows_is_honest(learned, noisy):
    state, _ = noisy
    rows = np.asarray(LEARNED.test_rows(NOISY))
    t = NOISY.transitions
    prediction = learned.predict(state, t.obs, t.action)
    std = np.hypot(prediction.epistemic_std, prediction.aleatoric_std)
    inside = (np.abs(t.next_obs - prediction.mean) <= 1.6449 * std)[rows].mean()
    assert inside > 0.8  # target 0.9; 60 values, 2.5 standard errors


# What a fit must not depend on.


def test_padding_never_matters(learned, noisy):
    state, metrics = learned.fitted(dataset(noise=NOISE, padding=1e6))
    assert_close((state, metrics), noisy, rtol=0.0, atol=0.0)


def test_test_rows_change_nothing(learned, noisy):
    t = NOISY.transitions
    test = np.asarray(LEARNED.test_rows(NOISY))
    spoiled = np.where(test[:, None], np.float32(1e3), t.next_obs)
    state, _ = learned.fitted(NOISY._replace(transitions=t._replace(next_obs=spoiled)))
    assert_close(state, noisy[0], rtol=0.0, atol=0.0)


def test_same_key_same_result_other_key_other(learned, noisy):
    again, _ = learned.fitted(NOISY)
    assert_close(again, noisy[0], rtol=0.0, atol=0.0)
    other, _ = learned.fitted(NOISY, key=jax.random.key(5))
    kernel, same = (
        state.base.params["params"]["Dense_0"]["kernel"] for state in (other, again)
    )
    assert not np.allclose(kernel, same)


def test_a_fit_compiles_once_as_the_data_grow(learned):
    state = learned.init(SEED)
    for size in (50, 51, 300, 400):
        state, _ = learned.fit(SEED, state, dataset(size=size))
        assert state.size_seen == size
    assert learned.fit._cache_size() == 1


def test_a_fit_with_nothing_held_out_yet_still_learns(learned):
    few = dataset(size=12)  # the first held-out block are rows 20 to 24
    state, metrics = learned.fitted(few)
    for value in jax.tree.leaves((state, metrics)):
        assert np.all(np.isfinite(value))
    moved = few.transitions.next_obs - few.transitions.obs
    t = few.transitions
    error = (t.next_obs - learned.predict(state, t.obs, t.action).mean)[:12]
    assert np.all(np.sqrt((error**2).mean(0)) < 0.2 * moved[:12].std(0))


# The moments.


def test_moments_are_those_of_the_members(learned, noisy):
    # Without the second opinion on new inputs, which `test_novelty` is about.
    nothing_new = novelty.init(2, 1, LEARNED.config.num_inducing)
    state = noisy[0]._replace(scale=jnp.array([1.5, 4.0]), novelty=nothing_new)
    obs = FRESH.transitions.obs
    members = [
        jax.device_get(learned.member(state, obs, ACTION, index)) for index in range(3)
    ]
    means = np.stack([member.mean for member in members])
    stds = np.stack([member.aleatoric_std for member in members])
    prediction = predict(learned, state)
    assert_close(prediction.mean, means.mean(0), rtol=1e-4)
    expected = np.array([1.5, 4.0]) * means.std(0)
    assert_close(prediction.epistemic_std, expected, rtol=1e-2, atol=1e-5)
    assert_close(prediction.aleatoric_std, stds.mean(0), rtol=1e-4)
    assert not members[0].epistemic_std.any()
    assert LEARNED.num_members == 3


def test_one_row_eagerly_is_a_row_of_the_batch(learned, noisy):
    batch = predict(learned, noisy[0])
    one = LEARNED.predict(noisy[0], FRESH.transitions.obs[7], ACTION[7])
    row = jax.tree.map(lambda x: x[7], batch)
    assert_close(one.mean, row.mean, rtol=1e-4)
    assert_close(one.epistemic_std, row.epistemic_std, rtol=1e-2, atol=1e-5)
    assert_close(one.aleatoric_std, row.aleatoric_std, rtol=1e-4)


# When training stops, and what it starts from.


def test_the_best_evaluation_is_kept(learned, clean, noisy):
    for (state, metrics), data in ((clean, CLEAN), (noisy, NOISY)):
        assert held_out_nll(learned, state, data) == pytest.approx(
            float(metrics["held_out/nll"]), rel=1e-3, abs=1e-3
        )
        assert metrics["train/steps"] == 600  # patience 0 never ends it early
    state, metrics = learned.fitted(NOTHING)
    best = float(metrics["held_out/nll"])
    assert held_out_nll(learned, state, NOTHING) == pytest.approx(best, abs=1e-2)
    # The last would be overfitted.
    assert float(metrics["train/loss"]) < best - 0.2


def test_an_early_stop_keeps_the_last_if_told_so(fixed):
    state, metrics = fixed.fitted(NOTHING)
    assert 250 <= metrics["train/steps"] <= 400
    best = float(metrics["held_out/nll"])
    assert held_out_nll(fixed, state, NOTHING) > best + 0.01


def test_a_second_fit_starts_from_the_first(learned, noisy):
    _, cold = noisy
    _, warm = learned.fit(SEED, noisy[0], NOISY)
    assert float(warm["train/loss"]) < float(cold["train/loss"])


# Calibration.


def refit(model, state, jump):
    """A refit after 100 more rows, in which dimension 0 moves by `jump` more.

    Returns the data, the state and the metrics.
    """
    full = dataset(size=CAPACITY)
    t = full.transitions
    late = np.arange(CAPACITY) >= SIZE
    next_obs = t.next_obs + np.outer(jump * late, [1.0, 0.0]).astype(np.float32)
    full = full._replace(transitions=t._replace(next_obs=next_obs))
    return full, *model.fit(SEED, state, full)


def test_surprising_rows_stretch_their_own_dimension(learned, clean):
    assert_close(clean[1]["calibration/known_stretch"], np.ones(2))
    (_, _, usual), (_, _, surprised) = (
        refit(learned, clean[0], jump) for jump in (0.0, 0.1)
    )
    before, after = (
        m["calibration/known_stretch"] * m["calibration/stretch"]
        for m in (usual, surprised)
    )
    assert before[0] < 2.0
    # All is missed, and what one stretch does not answer for is the other's.
    assert after[0] == pytest.approx(np.exp(3.0 * (1.0 - 0.1)), rel=1e-4)
    assert after[1] == before[1]
    assert surprised["calibration/known_stretch"][0] > 2.0
    # Rows held out decide the scale alone, surprised or not.
    assert usual["calibration/scale"].shape == (2,)


def test_without_prequential_calibration_nothing_surprises(fixed, fixed_clean):
    _, _, metrics = refit(fixed, fixed_clean[0], 0.1)
    for stretch in ("known_stretch", "stretch"):
        assert_close(metrics[f"calibration/{stretch}"], np.ones(2))


def test_weights_have_a_prior_by_fan_in_and_biases_have_none():
    # Two members, kernels from 3 to 4 units: 3 w^2 / 2 each.
    params = {"kernel": 2.0 * jnp.ones((2, 3, 4)), "bias": jnp.ones((2, 4))}
    assert_close(weight_prior(params), 24 * 3 * 2.0**2 / 2)


# Settings.


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("features", ()),
        ("features", (8, 0)),
        ("activation", "sine"),
        ("num_ensembles", 1),
        ("output_stds", ()),
        ("output_stds", (0.1, 0.0)),
        ("min_std", 0.0),
        ("num_training_steps", 0),
        ("batch_size", 0),
        ("lr_rate", 0.0),
        ("lr_rate", float("nan")),
        ("weight_decay", -1.0),
        ("train_share", 0.0),
        ("train_share", 1.0),
        ("eval_frequency", 0),
        ("eval_batch_size", 0),
        ("patience", -1),
        ("prior_scale", -0.1),
    ],
)
def test_impossible_settings_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        EnsembleConfig(**{field: value})


def test_output_stds_need_one_entry_or_one_per_output():
    with pytest.raises(ValueError, match="output_stds needs 1 or 2 entries, got 3"):
        deterministic_ensemble(
            2, 1, EnsembleConfig(output_stds=(1.0,) * 3), CalibrationConfig()
        )


def test_the_slope_of_the_algebraic_swish_is_its_own():
    x = jnp.linspace(-5.0, 5.0, 101)
    plain = jax.vmap(jax.grad(lambda x: 0.5 * x * (1.0 + x / (1.0 + jnp.abs(x)))))
    assert_close(jax.vmap(jax.grad(algebraic_swish))(x), plain(x), atol=1e-6)
    gap = (algebraic_swish(x + 1e-2) - algebraic_swish(x - 1e-2)) / 2e-2
    assert_close(jax.vmap(jax.grad(algebraic_swish))(x), gap, atol=2e-2)
    # Linear on the right, level on the left.
    assert_close(
        algebraic_swish(jnp.array([1e4, -1e4])), jnp.array([9999.5, -0.5]), rtol=1e-3
    )


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_beta_weighs_the_pull_of_each_output(beta):
    mean, std, y = jnp.array([0.3, -1.0]), jnp.array([0.01, 2.0]), jnp.array([0.5, 1.0])
    assert_close(
        beta_nll(mean, std, y, beta), std ** (2 * beta) * gaussian_nll(mean, std, y)
    )
    pulls = jax.grad(lambda m, s: beta_nll(m, s, y, beta).sum(), argnums=(0, 1))(
        mean, std
    )
    assert_close(pulls[0], std ** (2 * beta - 2) * (mean - y), rtol=1e-5)
    # The best std is the same as under the likelihood: that of the error.
    assert_close(
        pulls[1], std ** (2 * beta) * (1 / std - (mean - y) ** 2 / std**3), rtol=1e-4
    )


@pytest.mark.parametrize(
    ("build", "config"),
    [
        (probabilistic_ensemble, EnsembleConfig(num_ensembles=2)),
        (bayesian_last_layer, LastLayerConfig()),
        (mc_dropout, DropoutConfig()),
    ],
)
def test_an_output_known_early_does_not_drown_one_that_is_not(build, config):
    """Four copies of a line beside a product that takes a hidden layer to say.

    With a weight prior of 0.2 and plain likelihood the product was learned as noise,
    whatever the data; so were heading and yaw rate of a robot beside its position.
    """
    config = dataclasses.replace(config, num_training_steps=1000)
    model = build(5, 1, config, UNSCALED)
    obs = jax.random.uniform(jax.random.key(0), (200, 5), minval=-1.0, maxval=1.0)
    action = jax.random.uniform(jax.random.key(1), (200, 1), minval=-1.0, maxval=1.0)
    line = jnp.broadcast_to(obs[:, :1], (200, 4))
    moved = jnp.concatenate([line, obs[:, 1:2] * action], axis=1)
    zero, false = jnp.zeros(200), jnp.zeros(200, bool)
    rows = Transition(obs, action, zero, zero, obs + moved, false, false)
    state = model.init(jax.random.key(0))
    state, _ = jit(model.fit)(jax.random.key(2), state, Dataset(rows, jnp.array(200)))
    test = np.asarray(model.test_rows(Dataset(rows, jnp.array(200))))
    found = jit(jax.vmap(model.predict, (None, 0, 0)))(state, obs[test], action[test])
    error = np.asarray(obs + moved)[test] - found.mean
    share = np.sqrt((error**2).mean(0)) / np.std(moved, axis=0)
    assert share[:4].max() < 0.1
    assert share[4] < 0.3
    assert float(found.aleatoric_std[:, 4].mean()) < 0.3 * float(moved[:, 4].std())


def test_bfloat16_plans_by_nearly_the_same_predictions():
    """Against the same weights in float32; what is learned stays float32."""
    models = [
        probabilistic_ensemble(
            3,
            1,
            EnsembleConfig(features=(16, 16), num_ensembles=3, plan_dtype=dtype),
            CalibrationConfig(),
        )
        for dtype in ("float32", "bfloat16")
    ]
    state = jit(models[0].init)(jax.random.key(0))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.base.params)} == {
        "float32"
    }
    obs = jax.random.normal(jax.random.key(1), (3, 20, 3))
    action = jnp.ones(1)
    one, other = (jit(model.members)(state, obs, action) for model in models)
    assert other.mean.dtype == jnp.float32
    assert_close(one.mean, other.mean, atol=0.03)
    assert_close(one.aleatoric_std, other.aleatoric_std, atol=0.03)
    assert jnp.abs(one.mean - other.mean).max() > 0


def test_members_and_selected_members_are_the_members():
    model = probabilistic_ensemble(
        2, 1, EnsembleConfig(features=(8,), num_ensembles=4), CalibrationConfig()
    )
    state = model.init(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (4, 5, 2))
    action = jnp.array([0.3])
    every = jit(model.members)(state, obs, action)
    member = jit(model.member)
    for e in range(4):
        for s in range(5):
            one = member(state, obs[e, s], action, e)
            assert_close([leaf[e, s] for leaf in every], list(one), atol=1e-6)
    select = jit(lambda s, i, o, a: model.members(model.select(s, i), o, a))
    chosen = select(state, jnp.array([2, 0]), obs[:2], action)
    one, other = (
        member(state, obs[0, 0], action, 2),
        member(state, obs[1, 3], action, 0),
    )
    assert_close(chosen.mean[0, 0], one.mean, atol=1e-6)
    assert_close(chosen.mean[1, 3], other.mean, atol=1e-6)


@pytest.mark.parametrize("model", [LEARNED, FIXED], ids=["learned", "fixed"])
def test_members_together_say_what_they_say_in_turn(model):
    state = jax.jit(model.init)(SEED).base
    inputs = state.inputs._replace(mean=jnp.full(3, 0.2), std=jnp.full(3, 0.7))
    state = state._replace(inputs=inputs)
    obs = jax.random.normal(jax.random.key(1), (9, 2))
    action = jax.random.normal(jax.random.key(2), (9, 1))

    def moments(base):
        return jax.jit(jax.vmap(base.moments, (None, 0, 0)))(state, obs, action)

    few, many = model.sized(1).base, model.sized(10_000).base
    assert few.together and not many.together
    assert_close(moments(few), moments(many), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 64), (64, 64), (64, 6)])
def test_kernels_start_as_flax_starts_them(shape):
    expected = nn.initializers.lecun_normal()(SEED, shape)
    assert np.array_equal(_kernel_init(SEED, shape), expected)


class OwnEnsemble(Ensemble):
    """Made as `docs/extending.md` says, with one member more than it is told."""

    def __init__(self, obs_dim, action_dim, config):
        more = dataclasses.replace(config, num_ensembles=config.num_ensembles + 1)
        super().__init__(obs_dim, action_dim, more, LearnedNoise(1e-3))


@pytest.mark.parametrize("make", [probabilistic_ensemble, None], ids=["ours", "own"])
@pytest.mark.parametrize(
    ("num_samples", "mode", "together"),
    [(16, "MEAN", True), (200, "MEAN", False), (16, "DIST", False)],
)
def test_an_agent_asks_for_what_suits_its_search(num_samples, mode, together, make):
    """Ten particles of 16 candidates are 160 inputs."""
    env = Pendulum.from_config()
    config = CEMConfig(num_elites=4, num_samples=num_samples)
    model = make and make(3, 1, SMALL, UNSCALED)
    model = model or CalibratedModel(OwnEnsemble(3, 1, SMALL), UNSCALED, SMALL)
    asked = []

    class Watching(Safe):
        def problem(self, key, env, model, situation):
            asked.append(model.base)
            return super().problem(key, env, model, situation)

    planner = Watching(config.horizon, mode, 10)
    agent = MPCAgent(env, model, planner, CEM(1, config), FeasibleFirst())
    jax.eval_shape(agent.act, SEED, jax.eval_shape(agent.init, SEED), jnp.zeros(3))
    assert [base.together for base in asked] == [together]
    assert asked[0].config == model.base.config
    assert not model.base.together


def test_a_model_that_changes_what_it_predicts_is_asked_for_that():
    class Wary(CalibratedModel):
        """Twice as unsure, by `predict` alone."""

        def predict(self, state, obs, action):
            mean, epistemic, aleatoric = super().predict(state, obs, action)
            return Prediction(mean, 2.0 * epistemic, aleatoric)

    plain = probabilistic_ensemble(3, 1, SMALL, UNSCALED)
    wary = Wary(plain.base, UNSCALED, SMALL)
    state = jax.jit(plain.init)(SEED)
    obs, actions = jnp.array([1.0, 0.0, 0.3]), jnp.full((4, 1), 0.2)

    def stds(model):
        env = Pendulum.from_config()
        walk = rollout.trace_mean(env, model, state, obs, actions)
        return np.asarray(walk[1].epistemic)

    assert_close(stds(wary), 2.0 * stds(plain))
