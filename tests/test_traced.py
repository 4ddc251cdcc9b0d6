"""Runs that differ in traced numbers share a program, and stay themselves."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.grid import rebuild, traced_of
from safex.agents import planners
from safex.agents.mpc import MPCAgent
from safex.config import MinMaxConfig, TrainConfig
from safex.constraints.feasible_first import FeasibleFirst
from safex.envs.pendulum import Pendulum
from safex.errors import CheckpointError
from safex.models.true_dynamics import TrueDynamics
from safex.optimizers.minmax import MinMax
from safex.training.account import load_record
from safex.training.forecast import load_forecast
from safex.types import Prediction
from tests.test_configuration import read
from tests.test_loop import make_trainer, seed_run

# What one program is asked to do three times: other masses, limits, widths, budgets.
OVERRIDES = (
    (),
    ("env.mass=2", "env.speed_threshold=0.2", "agent.cost_budget=7"),
    ("agent.pes_alpha=0.5", "agent.beta=[1,2,3]", "planner.noise_alpha=0"),
)
TRAIN = TrainConfig(
    num_model_updates=1,
    num_rollout_steps=5,
    num_exploration_steps=50,
    val_buffer_size=8,
)
# The least search that plays the whole game.
SEARCH = MinMaxConfig(
    iterations=1,
    horizon=3,
    num_iter_x=1,
    num_iter_y=1,
    num_samples_x=8,
    num_samples_y=6,
    corners=False,
    verify=False,
)


class Doubtful(TrueDynamics):
    """The true system, of which everything is in doubt, and all rows are tests."""

    def predict(self, state, obs, action):
        mean = super().predict(state, obs, action).mean
        return Prediction(mean + 0.1, jnp.full(3, 0.05), jnp.full(3, 0.01))

    def test_rows(self, data):
        return jnp.arange(data.transitions.reward.size) < data.size


def build(env, noise_alpha=3.0):
    return MPCAgent(
        env,
        Doubtful(env),
        planners.Pessimistic(3, noise_alpha=noise_alpha),
        MinMax(1, 3, SEARCH),
        FeasibleFirst(),
    )


def vary(traced):
    return traced.env, rebuild(build(traced.env), traced)


@pytest.fixture(scope="module")
def points():
    return [traced_of(read(*overrides)) for overrides in OVERRIDES]


@pytest.fixture(scope="module")
def together(tmp_path_factory, points):
    folder = tmp_path_factory.mktemp("together")
    trainer = make_trainer(build(points[0].env), points[0].env, config=TRAIN, vary=vary)
    trainer.train(
        [seed_run(folder / str(i), 3, i, traced) for i, traced in enumerate(points)]
    )
    return folder, trainer


def records(folder):
    return [load_record(folder / f"episodes/episode_00{e}.npz") for e in range(2)]


def test_the_numbers_are_those_of_the_configurations(points):
    second, third = points[1], points[2]
    assert second.env.params.mass == 2.0
    np.testing.assert_array_equal(second.widths.cost_budget, [7.0])
    np.testing.assert_array_equal(third.widths.beta, [1.0, 2.0, 3.0])
    assert (third.widths.pes_alpha, third.noise_alpha) == (0.5, 0.0)


def test_a_run_is_as_if_it_had_its_numbers_compiled_in(together, points, tmp_path):
    folder, _ = together
    traced = points[1]
    agent = dataclasses.replace(
        build(traced.env, noise_alpha=float(traced.noise_alpha)), widths=traced.widths
    )
    make_trainer(agent, traced.env, config=TRAIN).train([seed_run(tmp_path, 3)])
    for one, other in zip(records(folder / "1"), records(tmp_path), strict=True):
        for name, value in one._asdict().items():
            if value is not None:
                # Rounding alone tells an argument from a constant.
                np.testing.assert_allclose(
                    value, getattr(other, name), rtol=1e-3, atol=1e-3, err_msg=name
                )


def test_the_runs_differ_as_their_numbers_do(together):
    folder, _ = together
    plain, heavy = (records(folder / str(i)) for i in range(2))
    # The same key, so the same random actions; but another mass.
    np.testing.assert_array_equal(plain[0].action, heavy[0].action)
    assert np.abs(plain[0].next_obs - heavy[0].next_obs).max() > 0.05
    # The limit is each run's own, in the account and in what it wrote down.
    assert plain[0].cost.sum() == 0
    np.testing.assert_allclose(
        heavy[0].margin[:, 0], np.abs(heavy[0].next_obs[:, 2]) - 0.2, atol=1e-5
    )
    assert heavy[0].cost.sum() > 0
    lines = (folder / "1" / "violations.jsonl").read_text().splitlines()
    limits = [limit for line in lines for limit in json.loads(line)["limits"]]
    assert limits == pytest.approx(len(lines) * [0.2])
    # The pessimist's reach in one step: pes_alpha beta times an epistemic std of 0.05.
    for i, reach in ((0, 2.0 * 1.0 * 0.05), (2, 0.5 * 3.0 * 0.05)):
        band = load_forecast(folder / str(i) / "forecast.npz")
        half = 0.5 * (band.upper - band.lower)[0, 2]
        assert half == pytest.approx(reach, rel=1e-3)


def test_coverage_counts_each_runs_own_band(together):
    folder, _ = together
    rows = [
        json.loads((folder / str(i) / "metrics.jsonl").read_text().splitlines()[-1])
        for i in range(3)
    ]
    # An error of 0.1 against stds of 0.05: beta 1 holds it at 2, beta 2 and 3 at 1.
    level = "coverage/out_of_distribution/1"
    assert (rows[0][level], rows[2][level]) == (0.0, pytest.approx(2 / 3))


def test_nothing_compiles_for_another_point(together, points, tmp_path):
    _, trainer = together

    def more(leaf):
        return (1.25 * leaf).astype(leaf.dtype)

    other = jax.tree.map(more, points[0])
    (programs,) = trainer._programs.values()
    before = programs.plan._cache_size(), programs.learn._cache_size()
    trainer.train(
        [seed_run(tmp_path / str(i), 5, i, other) for i in range(len(points))]
    )
    assert (programs.plan._cache_size(), programs.learn._cache_size()) == before


def test_a_resumed_point_needs_its_own_fingerprint(together, points):
    folder, trainer = together
    run = seed_run(folder / "1", 3, 1, points[1])._replace(fingerprint="other")
    with pytest.raises(CheckpointError, match="can be used"):
        trainer.train([run])


def test_an_environment_with_other_static_parts_is_no_point_of_it(points):
    short = Pendulum.from_config(max_steps=10)
    assert jax.tree.structure(short) != jax.tree.structure(points[0].env)
