"""Rounds with a counting agent: what is accounted for, kept, refused and resumed."""

import dataclasses
import json
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex.config import OffPolicyTrainConfig
from safex.envs.vector import JaxVector
from safex.errors import CheckpointError, ContractError, NonFiniteError
from safex.replay import sample
from safex.training import episodes as eps
from safex.training.account import load_record
from safex.training.checkpoint import read_state
from safex.training.loggers import LocalLogger
from safex.training.loop import SeedRun
from safex.training.off_policy import (
    OffPolicyTrainer,
    evaluation_records,
)
from safex.types import Step, Transition
from tests.helpers import assert_close

CONFIG = OffPolicyTrainConfig(
    total_steps=120,
    num_envs=2,
    steps_per_round=10,
    random_steps=40,
    updates_per_step=0.2,
    replay_capacity=160,
    eval_every=2,
    eval_episodes=3,
    keep_episodes=3,
)


class Weights(NamedTuple):
    weight: jax.Array
    price: jax.Array
    updates: jax.Array
    fresh: jax.Array


@dataclasses.dataclass(frozen=True)
class Counting:
    """Heads home by a weight that follows the replay, and counts its calls."""

    def init(self, key):
        zero = jnp.zeros((), jnp.int32)
        return Weights(jax.random.normal(key, (1,)), jnp.zeros(1), zero, zero)

    def act(self, key, state, obs, *, explore):
        noise = 0.1 * jax.random.normal(key, (1,)) if explore else 0.0
        return jnp.tanh(state.weight - obs[:1] + noise), {}

    def update(self, key, state, replay, episode_cost, fresh, *, num_updates):
        def one(weight, key):
            batch = sample(key, replay, 8, 2, 0.9, 0.9)
            return weight + 0.1 * batch.action.mean(0), batch.reward.mean()

        keys = jax.random.split(key, num_updates)
        weight, reward = jax.lax.scan(one, state.weight, keys)
        updates = state.updates + num_updates
        price = jnp.where(fresh, state.price + episode_cost, state.price)
        state = Weights(weight, price, updates, state.fresh + fresh)
        return state, {"loss": reward.mean(), "price": price}


class Line:
    """A noisy walk on a line that costs beyond 0.4; 15 steps an episode."""

    obs_dim, action_dim, num_constraints, max_steps = 2, 1, 1, 15
    limit_names, limit_units, limits = ("x",), ("m",), jnp.array([0.4])

    def reset(self, key):
        state = jax.random.uniform(key), jnp.zeros((), jnp.int32)
        return state, self.observe(state)

    def observe(self, state):
        return jnp.stack([state[0], state[1] / 15.0])

    def step(self, key, state, action):
        x = state[0] + 0.1 * action[0] + 0.1 * jax.random.normal(key)
        after = x, state[1] + 1
        cost = (x > 0.4).astype(jnp.float32)[None]
        over = after[1] >= self.max_steps
        return Step(after, self.observe(after), x, cost, jnp.zeros((), bool), over)

    def margin(self, obs, action, next_obs):
        return next_obs[:1] - 0.4


def make(config=CONFIG, agent=Counting(), env=None, budget=(1.0,), **changes):
    env = Line() if env is None else env
    said = []
    trainer = OffPolicyTrainer(
        JaxVector(env, config.num_envs),
        JaxVector(env, 2),
        agent,
        config,
        cost_budget=budget,
        fixed_length=changes.pop("fixed_length", True),
        warn=said.append,
        report=changes.pop("report", lambda progress: None),
    )
    return trainer, said


def run_in(folder, seed=3):
    return SeedRun(seed, 0, folder, lambda last: [LocalLogger(folder, last)], "print")


def rows(folder, name):
    lines = (folder / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def trainer():
    """One for all tests that need the same programs."""
    return make()


class Changed:
    """A vector by the programs of another, with a change to what it reports."""

    def __init__(self, vector, change):
        self.vector, self.change = vector, change

    def __getattr__(self, name):
        return getattr(self.vector, name)

    def rollout(self, *arguments):
        carry, block, margin = self.vector.rollout(*arguments)
        return carry, self.change(block), margin


@pytest.fixture(scope="module")
def whole(trainer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "seed_0"
    trainer[0].train([run_in(folder)])
    return folder


def test_every_episode_and_every_violating_step_is_accounted_for(whole):
    episodes, metrics = rows(whole, "episodes"), rows(whole, "metrics")
    # 60 steps in each of two environments, an episode of 15 straddles the rounds of 10.
    assert [e["episode"] for e in episodes] == list(range(1, 9))
    assert all(e["complete"] and e["length"] == 15 for e in episodes)
    assert [e["step"] for e in episodes] == [30, 30, 60, 60, 90, 90, 120, 120]
    # The first 40 steps are 20 of each environment.
    assert [e["phase"] for e in episodes] == ["random"] * 4 + ["train"] * 4
    assert [m["step"] for m in metrics] == [20, 40, 60, 80, 100, 120]
    last = metrics[-1]
    total = last["train/account/cumulative_violating_steps"]
    assert total == sum(e["violating_steps"] for e in episodes) > 0
    assert total == sum(m["train/account/violating_steps"] for m in metrics)
    random = last["train/account/random_violating_steps"]
    assert random == sum(m["train/account/violating_steps"] for m in metrics[:2])
    assert last["train/episode/number"] == 8
    over = sum(e["cost_return"][0] > 1 for e in episodes if e["phase"] == "train")
    assert last["train/account/episodes_over_budget"] == over
    for entry in episodes:
        assert (entry["worst_excess"][0] > 0) == (entry["violating_steps"] > 0)
        assert entry["violation_events"] <= entry["violating_steps"]


def test_nothing_is_learned_before_the_random_steps_are_over(whole):
    metrics = rows(whole, "metrics")
    assert ["train/loss" in m for m in metrics] == [
        False,
        False,
        True,
        True,
        True,
        True,
    ]
    timing = rows(whole, "timing")
    assert [t["updates"] for t in timing] == [0, 0, 4, 4, 4, 4]
    # Of rounds at random none compiles an update.
    assert [t["compiles"] for t in timing[:2]] == [False, False]
    # A multiplier hears of episodes that the agent itself chose the actions of.
    prices = [m["train/price"] for m in metrics[2:]]
    costs = [e["cost_return"][0] for e in rows(whole, "episodes")]
    means = [0.0, 0.0, np.mean(costs[4:6]), np.mean(costs[6:8])]
    np.testing.assert_allclose(np.cumsum(means), prices, rtol=1e-5)


def test_an_episode_that_the_end_cut_off_counts_if_it_was_over_by_then(tmp_path):
    # 50 steps of each environment are three episodes and five steps.
    config = dataclasses.replace(CONFIG, total_steps=100)
    made, _ = make(config, budget=(0.5,))
    folder = tmp_path / "seed_0"
    made.train([run_in(folder)])
    found = [
        (e["cost_return"][0] > 0.5, e["complete"]) for e in rows(folder, "episodes")
    ]
    trained = [e["phase"] == "train" for e in rows(folder, "episodes")]
    cut = [over for over, complete in found if not complete]
    assert len(cut) == 2
    assert any(cut)
    over = sum(o for (o, _), known in zip(found, trained, strict=True) if known)
    assert rows(folder, "metrics")[-1]["train/account/episodes_over_budget"] == over


def test_evaluations_are_accounted_for_apart(whole):
    found = rows(whole, "evaluations")
    assert [e["step"] for e in found] == [40] * 3 + [80] * 3 + [120] * 3
    assert all(e["length"] == 15 for e in found)
    for m in rows(whole, "metrics"):
        assert ("eval/episode/return" in m) == (m["step"] % 40 == 0)
    last = rows(whole, "metrics")[-1]
    returns = [e["return"] for e in found[-3:]]
    assert last["eval/episode/return"] == pytest.approx(np.mean(returns))
    costs = [e["cost_return"] for e in found[-3:]]
    assert last["eval/episode/cost_return"] == pytest.approx(np.mean(costs))


def test_only_the_newest_episodes_are_kept_step_by_step(whole):
    names = sorted(path.name for path in (whole / "episodes").iterdir())
    assert names == [f"evaluation_120_{i:07d}.npz" for i in (1, 2, 3)] + [
        f"train_{i:07d}.npz" for i in (6, 7, 8)
    ]
    entry = rows(whole, "episodes")[-1]
    record = load_record(whole / "episodes" / "train_0000008.npz")
    assert eps.entry_of(record).items() <= entry.items()
    assert len(evaluation_records(whole)) == 3


def test_the_best_agent_is_feasible_first_then_of_the_best_return(whole, trainer):
    made, _ = trainer
    best = made._start(jax.random.key(0)).best
    seen = []
    for step, value, cost in (
        (1, 9.0, 5.0),  # nothing else yet
        (2, 1.0, 3.0),  # nearer to its budget
        (3, 8.0, 3.0),  # as near, with more return
        (4, -2.0, 1.0),  # feasible
        (5, 99.0, 1.1),
        (6, -1.0, 0.0),
        (7, -1.0, 0.0),  # no better
    ):
        agent = made.agent.init(jax.random.key(step))
        best = made._better(best, agent, step, value, np.array([cost]))
        seen.append(int(best.step))
    assert seen == [1, 2, 3, 4, 4, 6, 6]
    assert_close(best.agent, made.agent.init(jax.random.key(6)))
    template = jax.tree.map(np.asarray, made.agent.init(jax.random.key(0)))
    _, step = read_state(whole / "checkpoints" / "best.ckpt", template, "print")
    assert step == rows(whole, "metrics")[-1]["eval/best/step"]


def assert_same_files(one, other):
    names = {p.relative_to(one) for p in one.rglob("*") if p.is_file()}
    assert names == {p.relative_to(other) for p in other.rglob("*") if p.is_file()}
    for name in sorted(names):
        if name.suffix == ".npz":
            left, right = load_record(one / name), load_record(other / name)
            for a, b in zip(left, right, strict=True):
                np.testing.assert_array_equal(a, b)
        elif name.name != "timing.jsonl":
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


class KilledError(Exception):
    pass


@pytest.mark.parametrize("at", [20, 60, 100])
def test_a_run_that_was_killed_ends_with_the_very_numbers(whole, trainer, tmp_path, at):
    made, _ = trainer

    def kill(progress):
        # After a round's files were written and before its checkpoint.
        if progress.step == at:
            raise KilledError

    made._report, before = kill, made._report
    folder = tmp_path / "seed_0"
    try:
        with pytest.raises(KilledError):
            made.train([run_in(folder)])
    finally:
        made._report = before
    assert rows(folder, "timing")[-1]["step"] == at
    # What a kill in the middle of a line leaves.
    with (folder / "episodes.jsonl").open("a") as file:
        file.write('{"episode": 9')
    made.train([run_in(folder)])
    assert_same_files(whole, folder)


def test_a_damaged_checkpoint_is_passed_over(whole, trainer, tmp_path):
    made, said = trainer
    folder = shutil.copytree(whole, tmp_path / "seed_0")
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["best.ckpt", "step_0100.ckpt", "step_0120.ckpt"]
    (folder / "checkpoints" / "step_0120.ckpt").write_bytes(b"{}\n")
    made.train([run_in(folder)])
    assert any("trying the checkpoint before it" in text for text in said)
    assert_same_files(whole, folder)


def test_checkpoints_are_rarer_where_they_are_large(trainer):
    made, _ = trainer
    state = made._start(jax.random.key(0))
    assert made._rounds_between_checkpoints(state) == 1
    large = np.zeros(500_000_000, bool)
    assert made._rounds_between_checkpoints(state._replace(agent=large)) == 3
    config = dataclasses.replace(CONFIG, checkpoint_every=7)
    assert make(config)[0]._rounds_between_checkpoints(state) == 7


def test_an_agent_plays_from_its_last_and_from_its_best_checkpoint(whole, trainer):
    made, _ = trainer
    step, records = made.play(run_in(whole), 3)
    assert (step, len(records)) == (120, 3)
    best_step, best = made.play(run_in(whole), 1, "best")
    assert best_step == rows(whole, "metrics")[-1]["eval/best/step"]
    assert len(best) == 1
    missing = run_in(whole.parent / "nothing")
    for which in ("best", "last", 120):
        with pytest.raises(CheckpointError):
            made.play(missing, 1, which)


def test_nan_in_the_parameters_says_where_and_keeps_the_last_checkpoint(
    trainer, tmp_path, monkeypatch
):
    made, _ = trainer
    update = made._update

    def spoil(*arguments):
        state, metrics = update(*arguments)
        bad = state._replace(weight=np.full(1, np.nan, np.float32))
        return (bad if int(state.updates) == 8 else state), metrics

    monkeypatch.setattr(made, "_update", spoil)
    folder = tmp_path / "seed_0"
    with pytest.raises(NonFiniteError, match=r"parameter \.weight .* round 4"):
        made.train([run_in(folder)])
    assert (folder / "checkpoints" / "step_0060.ckpt").exists()
    stopped = []
    made.train([run_in(folder)], lambda run, error: stopped.append(str(error)))
    assert "the last good checkpoint is kept" in stopped[0]


@pytest.mark.parametrize(
    ("field", "name"),
    [("next_obs", "next observation"), ("cost", "cost"), ("reward", "reward")],
)
def test_nan_from_an_environment_says_which_and_when(
    trainer, tmp_path, monkeypatch, field, name
):
    made, _ = trainer

    def spoil(block):
        values = np.array(getattr(block, field))
        values[3, 1] = np.nan
        return block._replace(**{field: values})

    monkeypatch.setattr(made, "vector", Changed(made.vector, spoil))
    with pytest.raises(NonFiniteError, match=f"{name} of environment 1.* step 7 ") as e:
        made.train([run_in(tmp_path / "seed_0")])
    # In the first round.
    assert str(e.value).endswith("stopped before there was a checkpoint")


def block_of(over, cost=None):
    over = np.asarray(over, bool)
    shape = over.shape
    t = np.arange(shape[0], dtype=np.float32)[:, None] * np.ones(shape)
    cost = np.zeros((*shape, 1)) if cost is None else cost
    obs = np.stack([t, t], -1)
    return Transition(obs, obs, t, cost, obs + 1, over, np.zeros(shape, bool))


def test_episodes_are_joined_across_blocks():
    over = np.zeros((6, 2), bool)
    over[[1, 3], 0] = over[4, 1] = True
    block = block_of(over)
    running = eps.no_episodes(8, 2, 2, 2, 1)
    found = []
    for first in (0, 3):
        part = jax.tree.map(lambda leaf, f=first: leaf[f : f + 3], block)
        running, ended = eps.join(
            running, part, part.cost, 2 * first, "random" if first == 0 else "train"
        )
        found += ended
    assert [(e.environment, e.step, e.phase) for e in found] == [
        (0, 4, "random"),
        (0, 8, "random"),
        (1, 10, "random"),
    ]
    assert [e.record.reward.tolist() for e in found] == [
        [0, 1],
        [2, 3],
        [0, 1, 2, 3, 4],
    ]
    left = eps.cut_off(running, 12)
    assert [(e.record.reward.tolist(), e.phase, e.complete) for e in left] == [
        ([4, 5], "train", False),
        ([5], "train", False),
    ]


def test_an_episode_past_its_time_limit_is_refused():
    block = block_of(np.zeros((4, 1), bool))
    running = eps.no_episodes(3, 1, 2, 2, 1)
    with pytest.raises(ContractError, match="past max_steps 3"):
        eps.join(running, block, block.cost, 0, "train")
    with pytest.raises(ContractError, match="past max_steps 4"):
        eps.first_episodes(block, block.cost)


def test_of_an_evaluation_the_first_episode_of_each_environment_counts():
    over = np.zeros((4, 2), bool)
    over[[0, 1], 0] = over[3, :] = True
    block = block_of(over)
    records = eps.first_episodes(block, block.cost)
    assert [len(record.reward) for record in records] == [1, 4]


def test_what_an_episode_costs_is_added_up():
    cost = np.array([[1, 0], [0, 0], [2, 1], [1, 0]], np.float32)[:, None]
    margin = np.array([[0.5, -1], [-1, -1], [0.25, 3.0], [0.1, -1]])[:, None]
    block = block_of(np.zeros((4, 1), bool), cost)
    part = jax.tree.map(lambda leaf: leaf[:, 0], block)
    entry = eps.entry_of(eps.record_of(part, margin[:, 0]))
    assert entry["cost_return"] == [4.0, 1.0]
    assert (entry["violating_steps"], entry["violation_events"]) == (3, 2)
    assert entry["worst_excess"] == [0.5, 3.0]
    assert (entry["return"], entry["length"]) == (6.0, 4)


def test_an_agent_that_counts_on_full_episodes_is_told_once_of_a_shorter_one(
    trainer, tmp_path, monkeypatch
):
    def end(block):
        ends = np.zeros(block.reward.shape, bool)
        ends[4] = True
        return block._replace(terminated=jnp.asarray(ends))

    made, said = trainer
    monkeypatch.setattr(made, "vector", Changed(made.vector, end))
    for told in (False, True):
        said.clear()
        monkeypatch.setattr(made, "_told_of_length", told)
        made.train([run_in(tmp_path / str(told))])
        words = [text for text in said if "ended after 5 of max_steps 15" in text]
        assert len(words) == (0 if told else 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"total_steps": 0}, "total_steps must be >= 1, got 0"),
        ({"random_steps": 120}, "random_steps must be below total_steps 120"),
        ({"steps_per_round": 0}, "steps_per_round must be >= 1 or null, got 0"),
        ({"updates_per_step": 0.0}, "updates_per_step must be > 0"),
        ({"replay_capacity": 1}, "replay_capacity must hold a step of each"),
    ],
)
def test_impossible_settings_are_refused_by_name(changes, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(CONFIG, **changes)


def test_a_round_is_a_whole_episode_by_default():
    made, _ = make(dataclasses.replace(CONFIG, steps_per_round=None))
    assert (made.steps_per_round, made.round_steps, made.num_rounds) == (15, 30, 4)
    assert made.num_updates == 6
