"""Seeds in lockstep against the same seeds alone, and stops in between."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex.agents import planners
from safex.agents.mpc import MPCAgent
from safex.config import CalibrationConfig, EnsembleConfig, ICEMConfig, TrainConfig
from safex.constraints.feasible_first import FeasibleFirst
from safex.envs.pendulum import Pendulum
from safex.errors import NonFiniteError
from safex.models.ensemble import probabilistic_ensemble
from safex.optimizers.icem import ICEM
from safex.training.account import load_record
from safex.training.checkpoint import load_checkpoint, newest_checkpoint
from safex.training.lockstep import Lockstep, default_group_size
from tests.test_loop import (
    CountingAgent,
    Killed,
    assert_same_run,
    make_trainer,
    seed_run,
)

SEEDS = (3, 8, 5)


def runs(folder, indices=(0, 1, 2)):
    return [seed_run(folder / f"seed_{i}", SEEDS[i], i) for i in indices]


@pytest.fixture(scope="module")
def trainer():
    return make_trainer()


@pytest.fixture(scope="module")
def alone(tmp_path_factory, trainer):
    folder = tmp_path_factory.mktemp("alone")
    for i in range(3):
        trainer.train(runs(folder, [i]))
    return folder


def assert_same_seeds(one, other):
    for i in range(3):
        assert_same_run(one / f"seed_{i}", other / f"seed_{i}")


def test_layouts():
    assert jax.local_device_count() == default_group_size(7) == 2
    assert Lockstep.of(1) == (1, 1, 1, False)
    assert Lockstep.of(2) == (2, 1, 2, False)
    assert Lockstep.of(3) == (2, 2, 4, False)


def test_no_device_has_nothing_but_padding(monkeypatch):
    four = jax.local_devices() * 2
    monkeypatch.setattr(jax, "local_devices", lambda: four)
    assert Lockstep.of(5) == (3, 2, 6, False)
    assert Lockstep.of(4) == (4, 1, 4, False)


@pytest.mark.parametrize(
    "layout", [(1, 6, 6, False), (2, 3, 6, False), (1, 1, 6, True)]
)
def test_every_layout_computes_the_function_of_each_seed(layout):
    def function(key, tree):
        return jax.random.normal(key) + tree["a"].sum(), tree["a"] * 2

    keys = jax.random.split(jax.random.key(0), 6)
    tree = {"a": jnp.arange(18.0).reshape(6, 3)}
    total, doubled = jax.jit(Lockstep(*layout).over_seeds(function))(keys, tree)
    for i in range(6):
        one = function(keys[i], {"a": tree["a"][i]})
        np.testing.assert_allclose(total[i], one[0], rtol=1e-6)
        np.testing.assert_array_equal(doubled[i], one[1])


def test_three_seeds_together_are_the_three_seeds_alone(alone, trainer, tmp_path):
    trainer.train(runs(tmp_path))
    assert_same_seeds(alone, tmp_path)


def test_a_seed_far_behind_goes_through_the_programs_of_its_group(alone, tmp_path):
    """Programs of another size round otherwise, and are another compilation."""
    make_trainer().train(runs(tmp_path))
    for path in (tmp_path / "seed_1" / "checkpoints").iterdir():
        path.unlink()
    again = make_trainer()
    again.train(runs(tmp_path))
    assert set(again._programs) == {Lockstep.of(3)}
    assert_same_seeds(alone, tmp_path)


def test_each_is_told_apart_in_the_progress(trainer, tmp_path, monkeypatch):
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_report", seen.append)
        trainer.train(runs(tmp_path))
    assert {p.seed_index for p in seen} == {0, 1, 2}
    for i in range(3):
        last = [p for p in seen if p.seed_index == i][-1]
        record = load_record(tmp_path / f"seed_{i}" / "episodes" / "episode_002.npz")
        assert last.episode_return == pytest.approx(record.reward.sum())
        assert (last.episode, last.step) == (2, 30)


@pytest.mark.parametrize("call", (1, 3, 5, 8))
def test_killed_between_checkpoints_it_ends_with_the_same_numbers(
    alone, trainer, tmp_path, monkeypatch, call
):
    """Nine checkpoints are written, three an episode; it dies after one of them."""
    module = "safex.training.loop.save_checkpoint"
    from safex.training import loop

    original, calls = loop.save_checkpoint, []

    def dying(*args, **kwargs):
        original(*args, **kwargs)
        calls.append(None)
        if len(calls) == call:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, dying)
        trainer.train(runs(tmp_path))
    trainer.train(runs(tmp_path))
    assert_same_seeds(alone, tmp_path)


def test_a_checkpoint_never_outlives_its_lines(alone, trainer, tmp_path, monkeypatch):
    """Killed twice in a row, then each seed alone: no episode may lack its lines."""
    from safex.training import loop

    original, calls = loop.save_checkpoint, []

    def dying(*args, **kwargs):
        # After seed 0 alone has reached the end.
        if len(calls) == 7:
            raise Killed
        calls.append(None)
        original(*args, **kwargs)

    def dead(*args, **kwargs):
        raise Killed

    for name, function in (("save_checkpoint", dying), ("Trainer._collect", dead)):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(f"safex.training.loop.{name}", function)
            trainer.train(runs(tmp_path))
    for index in range(3):
        trainer.train(runs(tmp_path, [index]))
        lines = (tmp_path / f"seed_{index}" / "timing.jsonl").read_text().splitlines()
        assert [json.loads(line)["episode"] for line in lines] == [0, 1, 2]
    assert_same_seeds(alone, tmp_path)


def test_a_good_checkpoint_is_used_though_an_older_one_is_damaged(
    alone, trainer, tmp_path
):
    trainer.train(runs(tmp_path))
    for seed, episodes in ((0, [2]), (1, [1, 2]), (2, [2])):
        for episode in episodes:
            folder = tmp_path / f"seed_{seed}" / "checkpoints"
            (folder / f"episode_{episode:04d}.ckpt").unlink()
    for name in ("0000", "0001"):
        damaged = tmp_path / "seed_2" / "checkpoints" / f"episode_{name}.ckpt"
        damaged.write_bytes(damaged.read_bytes()[: 400 if name == "0000" else None])
    trainer.train(runs(tmp_path))
    assert_same_seeds(alone, tmp_path)


def test_seeds_in_one_batch_are_the_seeds_alone(alone, tmp_path, monkeypatch):
    """The accelerator's layout, on a CPU."""
    monkeypatch.setattr(Lockstep, "of", lambda count: Lockstep(1, 1, count, True))
    make_trainer().train(runs(tmp_path))
    for i in range(3):
        for episode in range(3):
            name = f"seed_{i}/episodes/episode_00{episode}.npz"
            one, other = load_record(alone / name), load_record(tmp_path / name)
            np.testing.assert_allclose(one.obs, other.obs, rtol=1e-3, atol=1e-4)
            np.testing.assert_array_equal(one.feasible, other.feasible)


def test_every_program_compiles_once(tmp_path, caplog):
    """Over calls, episodes, resumes and further groups of seeds."""
    fresh = make_trainer()
    with jax.log_compiles():
        fresh.train(runs(tmp_path / "one"))
        newest = tmp_path / "one" / "seed_0" / "checkpoints" / "episode_0002.ckpt"
        newest.unlink()
        fresh.train(runs(tmp_path / "one"))
        fresh.train(runs(tmp_path / "other"))
    found = re.findall(r"Finished XLA compilation of jit\((_[a-z]\w+)\)", caplog.text)
    assert {name: found.count(name) for name in PROGRAMS} == PROGRAMS


# The random phase appends another number of rows than an episode.
PROGRAMS = {
    "_start": 1,
    "_begin": 1,
    "_random_steps": 1,
    "_planned_steps": 1,
    "_append": 2,
    "_learn": 1,
}


@pytest.fixture(scope="module")
def fragile():
    """A trainer whose agents predict or learn NaN when a run's two numbers say so."""
    env = Pendulum.from_config()
    return make_trainer(vary=lambda at: (env, CountingAgent(at[0], at[1])))


def fragile_runs(folder, second):
    return [
        run._replace(traced=second if i == 1 else (np.int32(-1), np.int32(-1)))
        for i, run in enumerate(runs(folder))
    ]


@pytest.fixture(scope="module")
def unbroken(fragile, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    fragile.train(fragile_runs(folder, (np.int32(-1), np.int32(-1))))
    return folder


@pytest.mark.parametrize(
    ("where", "words"),
    [((35, -1), "prediction/mean is not finite"), ((-1, 1), "loss is not finite")],
)
def test_a_seed_that_turns_nan_ends_alone(fragile, unbroken, tmp_path, where, words):
    told = []
    damaged = fragile_runs(tmp_path, tuple(map(np.int32, where)))
    fragile.train(damaged, lambda run, error: told.append((run.seed_index, str(error))))
    ((index, text),) = told
    assert index == 1
    assert words in text
    for i in (0, 2):
        assert_same_run(unbroken / f"seed_{i}", tmp_path / f"seed_{i}")
    # What it had finished is kept, and nothing of it claims more.
    kept = newest_checkpoint(tmp_path / "seed_1" / "checkpoints", 9)
    assert kept == (1 if where[0] > 0 else 0)
    with pytest.raises(NonFiniteError, match=words):
        fragile.train(damaged)


def test_a_seed_without_a_usable_checkpoint_ends_alone(alone, trainer, tmp_path):
    trainer.train(runs(tmp_path))
    for path in (tmp_path / "seed_2" / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    for i in (0, 1):
        (tmp_path / f"seed_{i}" / "checkpoints" / "episode_0002.ckpt").unlink()
    told = []
    trainer.train(runs(tmp_path), lambda run, error: told.append((run, str(error))))
    assert [run.seed_index for run, _ in told] == [2]
    assert "none of the 3 checkpoints" in told[0][1]
    assert_same_seeds(alone, tmp_path)


def test_when_no_seed_can_go_on_it_ends(fragile, tmp_path):
    told = []
    bad = (np.int32(3), np.int32(-1))
    group = [run._replace(traced=bad) for run in runs(tmp_path)]
    fragile.train(group, lambda run, error: told.append(run.seed_index))
    assert told == [0, 1, 2]


def test_what_one_seed_did_before_is_not_done_again(alone, trainer, tmp_path):
    trainer.train(runs(tmp_path, [1]))
    timing = (tmp_path / "seed_1" / "timing.jsonl").read_text()
    trainer.train(runs(tmp_path))
    assert (tmp_path / "seed_1" / "timing.jsonl").read_text() == timing
    assert_same_seeds(alone, tmp_path)


@pytest.mark.parametrize("batched", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_learning_agent_in_lockstep_matches_the_same_agent_alone(
    tmp_path, monkeypatch, batched
):
    """Fits and plans for real; rounding may differ, and grows with every step."""
    env = Pendulum.from_config()
    model = probabilistic_ensemble(
        3,
        1,
        EnsembleConfig(features=(8,), num_training_steps=40, eval_frequency=20),
        CalibrationConfig(),
    )
    agent = MPCAgent(
        env,
        model,
        planners.Safe(4),
        ICEM(1, ICEMConfig(horizon=4, num_iter=2, num_samples=12, num_elites=3)),
        FeasibleFirst(),
    )
    config = TrainConfig(
        num_model_updates=1,
        num_rollout_steps=20,
        num_exploration_steps=50,
        val_buffer_size=8,
    )
    learner = make_trainer(agent=agent, env=env, config=config)
    with monkeypatch.context() as patch:
        if batched:  # As on an accelerator.
            patch.setattr(Lockstep, "of", lambda count: Lockstep(1, 1, count, True))
        learner.train(runs(tmp_path / "together"))
    # Alone, the candidates of a decision are shared out instead.
    shared = dataclasses.replace(agent.optimizer, num_devices=2)
    agent = dataclasses.replace(agent, optimizer=shared)
    learner = make_trainer(agent=agent, env=env, config=config)
    learner.train(runs(tmp_path / "alone", [2]))
    assert learner._programs[Lockstep.of(1)].plan._cache_size() == 1
    template = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(learner._traced(()).init, jax.random.key(0)),
    )
    states = [
        load_checkpoint(
            tmp_path / where / "seed_2" / "checkpoints", template, "f", print
        )
        for where in ("together", "alone")
    ]
    for one, other in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
    records = [
        load_record(tmp_path / where / "seed_2" / "episodes" / "episode_001.npz")
        for where in ("together", "alone")
    ]
    np.testing.assert_allclose(records[0].obs, records[1].obs, rtol=1e-3, atol=1e-3)
