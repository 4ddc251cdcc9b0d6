"""The loop with a counting agent, NaN from everywhere, and resume = uninterrupted."""

import dataclasses
import importlib
import itertools
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex.config import PendulumConfig, TrainConfig
from safex.envs.contract import check_environment
from safex.envs.pendulum import Pendulum
from safex.errors import ContractError, NonFiniteError
from safex.training import loop
from safex.training.account import load_record
from safex.training.checkpoint import load_checkpoint
from safex.training.loggers import LocalLogger, SideLogger
from safex.training.loop import SeedRun, Trainer
from safex.training.manual import ManualLoop
from safex.types import Prediction
from tests.helpers import assert_close

CONFIG = TrainConfig(
    num_model_updates=2,
    num_rollout_steps=30,
    num_exploration_steps=50,
    val_buffer_size=8,
)


class Counts(NamedTuple):
    acted: jax.Array
    observed: jax.Array
    spent: jax.Array
    begun: jax.Array
    updated: jax.Array
    rows: jax.Array
    weight: jax.Array


@dataclasses.dataclass(frozen=True)
class CountingAgent:
    """Pushes one way, predicts that nothing changes, and counts its calls."""

    bad_prediction_at: int = -1
    bad_fit_at: int = -1
    num_constraints: int = 1

    @property
    def beta(self):
        return jnp.ones(3)

    def init(self, key):
        zero = jnp.zeros((), jnp.int32)
        spent = jnp.zeros(self.num_constraints)
        return Counts(zero, zero, spent, zero, zero, zero, jax.random.normal(key))

    def begin_episode(self, key, state):
        return state._replace(begun=state.begun + 1)

    def act(self, key, state, obs, *, explore):
        action = jnp.tanh(state.weight + jax.random.normal(key, (1,)))
        mean = jnp.where(state.acted == self.bad_prediction_at, jnp.nan, obs)
        info = {
            "plan/value": jnp.zeros(()),
            "plan/cost": jnp.zeros(self.num_constraints),
            "plan/margin": jnp.zeros(self.num_constraints),
            "plan/feasible": state.acted % 10 != 0,
            "plan/backup": state.acted % 10 == 0,
            "prediction/mean": mean,
            "prediction/epistemic_std": jnp.full(3, 100.0),
            "prediction/aleatoric_std": jnp.zeros(3),
        }
        return state._replace(acted=state.acted + 1), action, info

    def observe(self, state, transition):
        return state._replace(
            observed=state.observed + 1, spent=state.spent + transition.cost
        )

    def update(self, key, state, data):
        bad = state.updated == self.bad_fit_at
        loss = jnp.where(bad, jnp.inf, 0.0)
        used = jnp.arange(data.transitions.reward.size) < data.size
        weight = state.weight + jnp.mean(data.transitions.reward, where=used)
        state = state._replace(
            updated=state.updated + 1, rows=data.size, weight=jnp.tanh(weight)
        )
        return state, {"loss": loss}

    def predict(self, state, obs, action):
        return Prediction(obs, jnp.full(3, 100.0), jnp.zeros(3))

    def band(self, state, obs, actions):
        path = jnp.broadcast_to(obs, (actions.shape[0], 3))
        return path, path - 1, path + 1

    def test_rows(self, data):
        return jnp.arange(data.transitions.reward.size) < data.size


def make_trainer(
    agent=None, env=None, said=None, report=None, config=CONFIG, vary=None
):
    return Trainer(
        env or Pendulum.from_config(),
        agent or CountingAgent(),
        config,
        horizon=5,
        warn=(said if said is not None else []).append,
        report=report or (lambda _: None),
        vary=vary,
    )


def seed_run(folder, seed, index=0, traced=()):
    make_loggers = lambda last: [LocalLogger(folder, last)]  # noqa: E731
    return SeedRun(seed, index, folder, make_loggers, "f", traced)


def train(folder, trainer=None, seed=3):
    (trainer or make_trainer()).train([seed_run(folder, seed)])


def rows_of(folder):
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def shared():
    """One trainer for all tests, because it is compiling that takes the time."""
    seen, said = [], []
    return make_trainer(report=seen.append, said=said), seen, said


@pytest.fixture(scope="module")
def finished(tmp_path_factory, shared):
    trainer, seen, _ = shared
    folder = tmp_path_factory.mktemp("finished")
    train(folder, trainer)
    return folder, list(seen)


def test_episodes_records_and_rows(finished):
    folder, seen = finished
    rows = rows_of(folder)
    assert [row["step"] for row in rows] == [50, 80, 110]
    assert [row["train/account/infeasible_plans"] for row in rows] == [0, 3, 3]
    assert rows[1]["coverage/prequential/1"] == 1.0
    assert rows[0]["coverage/prequential/1"] is None
    assert rows[2]["coverage/out_of_distribution/3"] == 1.0
    # Stds of 100 hold everything; a random episode was foretold by nobody.
    for region in ("held_out", "out_of_distribution", "prequential"):
        assert rows[2][f"scores/{region}/nominal"] == 1.0
        assert rows[2][f"scores/{region}/calibration_error"] > 0.45
    for name in ("prequential", "out_of_distribution"):
        assert rows[2][f"scores/{name}/ten_steps"] == 1.0
    assert rows[0]["scores/prequential/crps"] is None
    assert rows[0]["scores/prequential/ten_steps"] is None
    random, first, second = (
        load_record(folder / "episodes" / f"episode_00{e}.npz") for e in range(3)
    )
    assert not random.planned.any()
    assert np.isnan(random.mean).all()
    assert first.planned.all()
    assert len(first.reward) == len(second.reward) == 30
    for record, row in zip((random, first, second), rows, strict=True):
        assert record.reward.sum() == pytest.approx(row["train/episode/return"])
    # The chain of observations is unbroken within an episode.
    np.testing.assert_array_equal(first.next_obs[:-1], first.obs[1:])
    assert not np.array_equal(first.action, second.action)
    assert seen[-1].episode == 2
    assert seen[-1].step == 30
    assert [p.step for p in seen if p.episode == 0] == [25, 50]


def test_the_agent_is_asked_when_it_should_be(finished, shared):
    (folder, _), (trainer, _, _) = finished, shared
    template = trainer._traced(()).init(jax.random.key(0))
    state, episode = load_checkpoint(folder / "checkpoints", template, "f", print)
    assert episode == 2
    counts = state.agent
    assert int(counts.acted) == 60
    # The random phase is told of as well.
    assert int(counts.observed) == 110
    np.testing.assert_allclose(counts.spent, state.data.transitions.cost.sum(0))
    assert int(counts.begun) == 2
    assert int(counts.updated) == 3
    assert int(counts.rows) == int(state.data.size) == 110
    whole = np.concatenate(
        [
            load_record(folder / "episodes" / f"episode_00{e}.npz").next_obs
            for e in range(3)
        ]
    )
    np.testing.assert_array_equal(state.data.transitions.next_obs, whole)


def by_hand(env, loop):
    """The episodes of CONFIG; the system has the keys that the Trainer gives it."""
    state, paths = loop.init(3), []
    reset, system_step = jax.jit(env.reset), jax.jit(env.step)
    for episode in range(CONFIG.num_model_updates + 1):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 1), episode)
        reset_key, _, step_key = jax.random.split(jax.random.split(key)[0], 3)
        env_state, obs = reset(reset_key)
        if episode > 0:
            state = loop.begin(state)
        length = CONFIG.num_rollout_steps if episode else CONFIG.num_exploration_steps
        path = []
        for t in range(length):
            if episode:
                state, action, _ = loop.act(state, obs)
            else:
                action = loop.explore(state)
            _, env_key = jax.random.split(jax.random.fold_in(step_key, t))
            step = system_step(env_key, env_state, action)
            env_state = step.state
            state = loop.observe(
                state,
                obs=obs,
                action=action,
                reward=step.reward,
                cost=step.cost,
                next_obs=step.obs,
                terminated=step.terminated,
                truncated=step.truncated,
            )
            obs = step.obs
            path.append(np.concatenate([action, obs]))
        paths.append(np.stack(path))
        state, _ = loop.update(state)
    return state, paths


def test_a_loop_turned_by_hand_is_the_run_of_the_trainer(finished, shared):
    (folder, _), (trainer, _, _) = finished, shared
    env = Pendulum.from_config()
    loop = ManualLoop(env, CountingAgent(), capacity=CONFIG.capacity)
    state, paths = by_hand(env, loop)
    for episode, path in enumerate(paths):
        record = load_record(folder / "episodes" / f"episode_00{episode}.npz")
        expected = np.concatenate([record.action, record.next_obs], axis=1)
        np.testing.assert_allclose(path, expected, rtol=1e-4, atol=1e-5)
    template = trainer._traced(()).init(jax.random.key(0))
    learned, _ = load_checkpoint(folder / "checkpoints", template, "f", print)
    assert_close(state.agent, learned.agent, rtol=1e-4)
    assert_close(state.data, learned.data, rtol=1e-4, atol=1e-5)
    assert loop.violating_steps(state) == int(learned.violating_steps)


def files_of(folder):
    names = ("metrics.csv", "metrics.jsonl", "violations.jsonl")
    texts = {name: (folder / name).read_text() for name in names}
    arrays = {
        path.name: load_record(path) for path in sorted(folder.glob("episodes/*"))
    }
    return texts, arrays


def assert_same_run(one, other):
    (texts, arrays), (texts_2, arrays_2) = files_of(one), files_of(other)
    assert texts == texts_2
    assert arrays.keys() == arrays_2.keys()
    for name, record in arrays.items():
        for ours, theirs in zip(record, arrays_2[name], strict=True):
            np.testing.assert_array_equal(ours, theirs)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the code under test runs after it."""


STAGES = (
    "safex.training.loop.Trainer._collect",
    "safex.training.account.save_record",
    "safex.training.account.append_jsonl",
    "safex.training.loggers.LocalLogger.log",
    "safex.training.loop.save_checkpoint",
)


@pytest.mark.parametrize(("stage", "call"), list(itertools.product(STAGES, (1, 2))))
def test_killed_anywhere_it_ends_with_the_same_numbers(
    finished, shared, tmp_path, monkeypatch, stage, call
):
    """Dies just before the given call of each stage, then starts again."""
    module, _, name = stage.rpartition(".")
    if module.endswith(("Trainer", "LocalLogger")):
        parent, _, cls = module.rpartition(".")
        owner = getattr(importlib.import_module(parent), cls)
    else:
        owner = importlib.import_module(module)
    original, calls = getattr(owner, name), []

    def dying(*args, **kwargs):
        calls.append(None)
        if len(calls) == call + 1:
            raise Killed
        return original(*args, **kwargs)

    trainer, _, _ = shared
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, dying)
        train(tmp_path, trainer)
    train(tmp_path, trainer)
    assert_same_run(finished[0], tmp_path)


def test_a_damaged_checkpoint_costs_one_episode(finished, shared, tmp_path):
    trainer, _, said = shared
    train(tmp_path, trainer)
    newest = tmp_path / "checkpoints" / "episode_0002.ckpt"
    newest.write_bytes(newest.read_bytes()[:-50])
    train(tmp_path, trainer)
    assert len(said) == 1
    assert "truncated or damaged" in said[0]
    assert_same_run(finished[0], tmp_path)


def test_a_finished_seed_is_left_alone(finished, shared):
    (folder, _), (trainer, _, _) = finished, shared
    before = (folder / "timing.jsonl").read_text()
    train(folder, trainer)
    assert (folder / "timing.jsonl").read_text() == before


def test_seeds_differ_and_one_seed_twice_is_identical(finished, shared, tmp_path):
    trainer, _, _ = shared
    train(tmp_path / "same", trainer)
    train(tmp_path / "other", trainer, seed=4)
    assert_same_run(finished[0], tmp_path / "same")
    assert rows_of(tmp_path / "same") != rows_of(tmp_path / "other")


def test_nan_in_a_prediction_stops_and_names_the_step(tmp_path):
    with pytest.raises(
        NonFiniteError,
        match=r"prediction/mean is not finite at step 57 .*good checkpoint is kept",
    ):
        train(tmp_path, make_trainer(CountingAgent(bad_prediction_at=7)))
    # What was finished is there, and a checkpoint to go on from.
    assert [row["step"] for row in rows_of(tmp_path)] == [50]
    assert (tmp_path / "checkpoints" / "episode_0000.ckpt").exists()


def test_nan_in_a_fit_stops_and_names_the_loss(tmp_path):
    with pytest.raises(NonFiniteError, match="loss is not finite in the fit after epi"):
        train(tmp_path, make_trainer(CountingAgent(bad_fit_at=1)))


class BrokenPendulum(Pendulum):
    """Its sensor fails at some time."""

    def step(self, key, state, action):
        result = super().step(key, state, action)
        bad = jnp.where(result.state.t == 31, jnp.nan, 1.0)
        return result._replace(obs=result.obs * bad)


def test_nan_from_the_environment_stops_and_names_the_step(tmp_path):
    env = BrokenPendulum.from_config()
    with pytest.raises(
        NonFiniteError, match=r"observation is not finite at step 30"
    ) as caught:
        train(tmp_path, make_trainer(env=env))
    # In the very first episode.
    assert str(caught.value).endswith("stopped before there was a checkpoint")


class FreePendulum(Pendulum):
    """Forgets its cost."""

    def step(self, key, state, action):
        return super().step(key, state, action)._replace(cost=None)


class WidePendulum(Pendulum):
    """Gives a cost a dimension too many."""

    def cost(self, obs, action, next_obs):
        return super().cost(obs, action, next_obs)[None]


def test_a_missing_cost_is_an_error():
    check_environment(Pendulum.from_config())
    with pytest.raises(ContractError, match="FreePendulum gives no cost"):
        check_environment(FreePendulum.from_config())
    with pytest.raises(ContractError, match=r"WidePendulum.*cost.*shape \(1,\)"):
        check_environment(WidePendulum.from_config())


class Careless(Pendulum):
    """Forgets to return its margin, of which a step makes the cost."""

    def margin(self, obs, action, next_obs):
        super().margin(obs, action, next_obs)


def test_a_margin_or_a_time_limit_that_is_none_is_an_error():
    with pytest.raises(ContractError, match="Careless gives no margin"):
        check_environment(Careless.from_config())
    with pytest.raises(ContractError, match=r"max_steps must be >= 1, got -5"):
        check_environment(Pendulum.from_config().replace(max_steps=-5))


def test_violations_reach_the_account(tmp_path):
    """A limit below any motion makes every step a violation."""
    env = Pendulum.from_config(PendulumConfig(), speed_threshold=1e-6)
    train(tmp_path, make_trainer(env=env))
    rows = rows_of(tmp_path)
    assert rows[-1]["train/account/cumulative_violating_steps"] == 110
    lines = (tmp_path / "violations.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(110))
    assert rows[-1]["train/account/violation_events"] == 1


class TwiceLimited(Pendulum):
    """A second limit, on the first coordinate, that hanging down never passes."""

    limit_names = ("|omega|", "cos theta")
    limit_units = ("rad/s", "1")

    @property
    def limits(self):
        return jnp.stack([self.params.speed_threshold, jnp.float32(0.99)])

    def margin(self, obs, action, next_obs):
        return jnp.stack([jnp.abs(next_obs[2]), next_obs[0]]) - self.limits


def test_each_constraint_has_its_own_account(tmp_path):
    env = TwiceLimited.from_config(PendulumConfig(), speed_threshold=1e-6)
    train(tmp_path, make_trainer(CountingAgent(num_constraints=2), env=env))
    for row, length in zip(rows_of(tmp_path), (50, 30, 30), strict=True):
        assert row["train/episode/cost_return/0"] == length
        assert row["train/episode/cost_return/1"] == 0
        assert row["train/account/worst_excess/0"] > 0.0
        assert row["train/account/worst_excess/1"] == 0.0
        # Steps are counted once, whichever constraint they break.
        assert row["train/account/violating_steps"] == length
        assert "train/episode/cost_return" not in row
    record = load_record(tmp_path / "episodes" / "episode_001.npz")
    for name in ("cost", "margin", "predicted_cost"):
        assert getattr(record, name).shape == (30, 2)
    lines = (tmp_path / "violations.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["limits"] == pytest.approx([1e-6, 0.99])
    assert json.loads(lines[0])["cost"] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("num_model_updates", 0, ">= 1"),
        ("num_exploration_steps", 49, ">= 50"),
        ("buffer_size", 10, "1700 transitions"),
    ],
)
def test_impossible_settings_are_refused(field, value, words):
    with pytest.raises(ValueError, match=f"{field}.*{words}"):
        dataclasses.replace(TrainConfig(), **{field: value})


@pytest.mark.parametrize(
    ("length", "pieces"),
    [
        (200, 8 * [25]),
        (38, 2 * [19]),
        (7, [7]),
        (199, [*7 * [25], 24]),
        (26, 2 * [13]),
        (58, [20, 20, 18]),
    ],
)
def test_an_episode_of_any_length_takes_few_calls(length, pieces):
    assert loop._pieces(length) == pieces


def test_how_an_episode_is_cut_changes_no_number(tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, num_rollout_steps=19, num_exploration_steps=53)
    monkeypatch.setattr(loop, "_STEPS_PER_CALL", 5)
    assert loop._pieces(19) == [5, 5, 5, 4]
    train(tmp_path / "cut", make_trainer(config=config))
    monkeypatch.setattr(loop, "_pieces", lambda length: [1] * length)
    train(tmp_path / "single", make_trainer(config=config))
    assert_same_run(tmp_path / "cut", tmp_path / "single")
    last = json.loads((tmp_path / "cut" / "timing.jsonl").read_text().splitlines()[-1])
    assert (last["steps_per_call"], last["steps_of_last_call"]) == (5, 4)
    assert len(last["call_seconds"]) == 4


def test_the_end_of_all_loggers_is_said_before_any_is_waited_for(tmp_path):
    said = []

    class Noted(SideLogger):
        def end(self):
            said.append("end")
            super().end()

        def close(self):
            said.append("close")
            super().close()

    class Nothing:
        def log(self, metrics, step):
            pass

        def close(self):
            pass

    def run(index):
        folder = tmp_path / str(index)
        make = lambda last: [Noted("board", Nothing, said.append)]  # noqa: E731
        return SeedRun(index, index, folder, make, "f")

    config = dataclasses.replace(CONFIG, num_model_updates=1)
    make_trainer(config=config).train([run(0), run(1)])
    assert said[:3] == ["end", "end", "close"]
