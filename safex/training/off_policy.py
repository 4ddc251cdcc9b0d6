"""Off-policy training: rounds of collecting, accounting and learning.

A round takes the same number of steps in each of N parallel environments, puts them
into the replay, accounts for every episode that ended, and then makes all gradient
updates in one compiled call. Every random key is a function of the seed and the round,
so a checkpoint after a round is all that an exact resume needs.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from safex.config import OffPolicyTrainConfig
from safex.envs.processes import ProcessVector
from safex.envs.vector import VectorEnv
from safex.errors import CheckpointError, NonFiniteError, SafexError
from safex.replay import append, make_replay
from safex.training import episodes as eps
from safex.training.account import EpisodeRecord, truncate_jsonl
from safex.training.certificate import over_budget
from safex.training.checkpoint import (
    forget_checkpoints,
    load_checkpoint,
    read_state,
    save_checkpoint,
    with_what_is_kept,
    write_state,
)
from safex.training.episodes import RANDOM, TRAIN, Episode, Running
from safex.training.loggers import Value, close_all
from safex.training.loop import SeedRun, load_exactly
from safex.types import Array, Metrics, OffPolicyAgent, PyTree, Replay, Transition

_KEPT_CHECKPOINTS = 2
_PIECE = 200_000_000  # bytes of state that are worth a round between checkpoints
BEST = "best.ckpt"
_STEP = "step"  # what the checkpoints count


class RoundProgress(NamedTuple):
    """What the loop says of itself after each round.

    Attributes:
      seed_index: which seed, from 0.
      step: environment steps done.
      episodes: that ended so far.
      episode_return: mean of those that ended in the round, None if none did.
      episode_cost: the same of their costs, C numbers.
      violating_steps: violations so far in the whole run of this seed.
      eval_return: mean of the last evaluation, None before it.
      eval_cost: the same of its costs.
    """

    seed_index: int
    step: int
    episodes: int
    episode_return: float | None
    episode_cost: tuple[float, ...] | None
    violating_steps: int
    eval_return: float | None
    eval_cost: tuple[float, ...] | None


class Counts(NamedTuple):
    """What has been counted so far, `[]` int32 each.

    Attributes:
      episodes: that ended.
      violating_steps: of all environments in training, the random phase included.
      random_violating_steps: those of the random phase.
      over_budget: episodes that began after the random phase and broke a budget; those
        that the end of the run cut off as well, if they had done so by then.
    """

    episodes: np.ndarray
    violating_steps: np.ndarray
    random_violating_steps: np.ndarray
    over_budget: np.ndarray


class Best(NamedTuple):
    """The best agent so far by evaluation: feasible first, then return.

    Attributes:
      agent: its state.
      step: `[]` int32 environment steps that it has learned from, -1 for none so far.
      excess: `[]` mean episode cost beyond the budget, added up over constraints; 0 is
        feasible.
      value: `[]` mean return.
      cost: `[C]` mean episode cost.
    """

    agent: PyTree
    step: np.ndarray
    excess: np.ndarray
    value: np.ndarray
    cost: np.ndarray


class OffPolicyState(NamedTuple):
    """Everything that the next round depends on, besides the seed.

    Attributes:
      agent: the agent's state; its multipliers and optimizers are in it.
      replay: all that it learns from.
      env: state and observations of the environments.
      running: the episodes under way.
      counts: of the account.
      best: the best agent so far.
      evaluated: `[1 + C]` mean return and costs of the last evaluation, NaN before it.
    """

    agent: PyTree
    replay: Replay
    env: tuple[Any, Array]
    running: Running
    counts: Counts
    best: Best
    evaluated: np.ndarray


class OffPolicyTrainer:
    """Trains seeds, one after another; all share the compiled programs.

    Args:
      vector: environments to train in.
      evaluation: others, to evaluate in.
      agent: the agent.
      config: how much is collected.
      cost_budget: C costs allowed in an episode, for the account and the best agent.
      fixed_length: whether the agent takes every episode to be `max_steps` long, as
        those do that hold a budget against a discounted cost.
      warn: told of anything unusual that does not stop the run.
      report: told of progress.
    """

    def __init__(
        self,
        vector: VectorEnv,
        evaluation: VectorEnv,
        agent: OffPolicyAgent,
        config: OffPolicyTrainConfig,
        *,
        cost_budget: Sequence[float],
        fixed_length: bool,
        warn: Callable[[str], None],
        report: Callable[[RoundProgress], None],
    ) -> None:
        self.vector, self.evaluation = vector, evaluation
        self.agent, self.config = agent, config
        self.cost_budget = np.asarray(cost_budget, np.float64)
        self._warn, self._report = warn, report
        self._told_of_length = not fixed_length
        steps = config.steps_per_round or vector.max_steps
        self.steps_per_round = steps
        self.round_steps, self.num_rounds = config.rounds(vector.max_steps)
        self.num_updates = max(1, round(config.updates_per_step * self.round_steps))
        # No smaller than a block.
        self.capacity = max(config.replay_capacity // config.num_envs, steps)
        self._init = jax.jit(agent.init)
        self._append = jax.jit(append, donate_argnums=0)
        self._update = jax.jit(partial(agent.update, num_updates=self.num_updates))
        self._compiled_before = False

    # Methods, so that the function in a policy is the same one in every call.

    def _random(self, agent: PyTree, key: Array, obs: Array) -> Array:
        shape = (obs.shape[0], self.vector.action_dim)
        return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)

    def _explore(self, agent: PyTree, key: Array, obs: Array) -> Array:
        return self._act(agent, key, obs, explore=True)

    def _exploit(self, agent: PyTree, key: Array, obs: Array) -> Array:
        return self._act(agent, key, obs, explore=False)

    def _act(self, agent: PyTree, key: Array, obs: Array, *, explore: bool) -> Array:
        def one(key: Array, obs: Array) -> Array:
            return self.agent.act(key, agent, obs, explore=explore)[0]

        return jax.vmap(one)(jax.random.split(key, obs.shape[0]), obs)

    def train(
        self,
        runs: Sequence[SeedRun],
        stopped: Callable[[SeedRun, SafexError], None] | None = None,
    ) -> None:
        """Trains seeds to the end, or on from their last checkpoints.

        Args:
          runs: the seeds.
          stopped: told of each seed that cannot go on, and why; the others go on.
            Without it the first such error is raised when the others are through.

        Raises:
          NonFiniteError: NaN or inf in observations, rewards, costs, losses or
            parameters; says where. All that was finished before is on disk.
          CheckpointError: there are checkpoints, but none can be used.
        """
        errors: list[SafexError] = []
        for run in runs:
            try:
                self._train(run)
            except SafexError as error:
                with_what_is_kept(error, run.folder / "checkpoints")
                if stopped:
                    stopped(run, error)
                errors.append(error)
        if errors and not stopped:
            raise errors[0]

    def play(
        self,
        run: SeedRun,
        num_episodes: int,
        checkpoint: int | Literal["last", "best"] = "last",
    ) -> tuple[int, list[EpisodeRecord]]:
        """Episodes by the deterministic policy of a checkpoint, which learns nothing.

        Only the agent is read, so episodes may be of another length than in training.

        Args:
          run: with checkpoints.
          num_episodes: how many.
          checkpoint: the last, that of the best evaluation, or the one of this step.

        Returns:
          environment steps that the agent has learned from, and the episodes.

        Raises:
          CheckpointError: there is no checkpoint that fits.
          NonFiniteError: as `train`.
        """
        folder, mark = run.folder / "checkpoints", run.fingerprint
        template = self._blank_agent()
        if checkpoint == "best":
            agent, step = read_state(folder / BEST, template, mark)
        elif checkpoint != "last":
            step = checkpoint
            agent = load_exactly(run, step, template, field="agent")
        else:
            found = load_checkpoint(folder, template, mark, self._warn, field="agent")
            if found is None:
                raise CheckpointError(f"{run.folder} has no checkpoint")
            agent, step = found
        key = jax.random.fold_in(jax.random.key(run.seed), 4)
        where = f"an episode of {run.folder}"
        return step, self._evaluate(key, agent, num_episodes, where)[0]

    def _train(self, run: SeedRun) -> None:
        root = jax.random.key(run.seed)
        run.folder.mkdir(parents=True, exist_ok=True)
        found = self._load(run)
        state, last = found or (self._start(root), -1)
        self._forget_after(run, state, last)
        if last >= self.config.total_steps:
            return
        first = max(last, 0) // self.round_steps
        loggers = run.make_loggers(last if last >= 0 else None)
        try:
            every = self._rounds_between_checkpoints(state)
            for number in range(first + 1, self.num_rounds + 1):
                key = jax.random.fold_in(jax.random.fold_in(root, 1), number)
                state, metrics = self._round(run, number, key, state)
                step = number * self.round_steps
                for logger in loggers:
                    logger.log(metrics, step)
                if number % every == 0 or number == self.num_rounds:
                    self._save(run, state, step)
        finally:
            close_all(loggers)

    def _round(
        self, run: SeedRun, number: int, key: Array, state: OffPolicyState
    ) -> tuple[OffPolicyState, dict[str, Value]]:
        """One round; returns what the next one goes on from, and a row of the log."""
        where = f"round {number} (seed {run.seed}, {run.folder})"
        collect_key, update_key, eval_key = jax.random.split(key, 3)
        before = (number - 1) * self.round_steps
        phase = RANDOM if before < self.config.random_steps else TRAIN
        clock = _Clock()
        choose = self._random if phase == RANDOM else self._explore
        env, rows, margins = self.vector.rollout(
            collect_key,
            *state.env,
            Partial(choose, state.agent),
            self.steps_per_round,
        )
        block, margin = jax.device_get((rows, margins))
        _check_block(block, margin, where, before)
        running, ended = eps.join(state.running, block, margin, before, phase)
        seconds = {"collect_seconds": clock.lap()}
        entries, counts = self._account(run, number, ended, block, phase, state.counts)
        if number == self.num_rounds:
            last = eps.cut_off(running, before + self.round_steps)
            cut = self._write(run, number, last, int(counts.episodes))
            # Whatever came next, these have cost too much already.
            over = counts.over_budget + self._over_budget(cut)
            counts = counts._replace(over_budget=np.asarray(over, np.int32))
        clock.lap()
        replay = self._append(state.replay, _on_device(rows))
        agent, metrics, compiles = state.agent, {}, False
        if phase == TRAIN:
            # Of episodes that the agent itself chose the actions of.
            costs = [
                entry["cost_return"] for entry in entries if entry["phase"] == TRAIN
            ]
            mean = np.mean(costs, 0) if costs else np.zeros(self.vector.num_constraints)
            agent, metrics = self._update(
                update_key,
                agent,
                replay,
                jnp.asarray(mean, jnp.float32),
                jnp.asarray(bool(costs)),
            )
            metrics = jax.device_get(metrics)
            compiles, self._compiled_before = not self._compiled_before, True
            _check_learned(agent, metrics, where)
        seconds["update_seconds"] = clock.lap()
        state = state._replace(
            agent=agent, replay=replay, env=env, running=running, counts=counts
        )
        row = _row(number, entries, block, counts) | _flat("train", metrics)
        if number % self.config.eval_every == 0 or number == self.num_rounds:
            state, found = self._evaluated(run, number, eval_key, state, where)
            row |= found
        seconds["eval_seconds"] = clock.lap()
        after = before + self.round_steps
        timing: dict[str, Any] = {"round": number, "step": after, **seconds}
        timing |= {"updates": self.num_updates if metrics else 0, "compiles": compiles}
        eps.append_entries(run.folder / "timing.jsonl", [timing])
        self._report(_progress(run, after, entries, state))
        return state, row

    def _account(
        self,
        run: SeedRun,
        number: int,
        ended: Sequence[Episode],
        block: Transition,
        phase: str,
        counts: Counts,
    ) -> tuple[list[dict[str, Any]], Counts]:
        """Writes the episodes that ended down, and counts every step of the round."""
        entries = self._write(run, number, ended, int(counts.episodes))
        over = self._over_budget(entries)
        # Of steps, not of episodes: one under way counts as well.
        violating = int((np.asarray(block.cost) > 0).any(-1).sum())
        added = (len(ended), violating, violating if phase == RANDOM else 0, over)
        counted = (
            np.asarray(count + more, np.int32)
            for count, more in zip(counts, added, strict=True)
        )
        lengths = [e["length"] for e in entries if e["length"] < self.vector.max_steps]
        if lengths and not self._told_of_length:
            self._told_of_length = True
            self._warn(
                f"an episode ended after {lengths[0]} of max_steps "
                f"{self.vector.max_steps}: the agent's threshold is for episodes of "
                "full length, and a shorter one may cost as much"
            )
        return entries, Counts(*counted)

    def _over_budget(self, entries: Sequence[dict[str, Any]]) -> int:
        """How many began after the random phase and broke a budget."""
        costs = [e["cost_return"] for e in entries if e["phase"] == TRAIN]
        each = np.reshape(costs, (-1, len(self.cost_budget)))
        return int(over_budget(each, self.cost_budget).sum())

    def _write(
        self, run: SeedRun, number: int, ended: Sequence[Episode], before: int
    ) -> list[dict[str, Any]]:
        """Writes episodes down, the newest of the complete ones step by step."""
        entries = [
            {
                "episode": before + i,
                "round": number,
                "step": episode.step,
                "environment": episode.environment,
                "phase": episode.phase,
                "complete": episode.complete,
                **eps.entry_of(episode.record),
            }
            for i, episode in enumerate(ended, 1)
        ]
        eps.append_entries(run.folder / "episodes.jsonl", entries)
        newest = [episode.record for episode in ended if episode.complete]
        newest = newest[-self.config.keep_episodes :]
        first = before + len(ended) - len(newest) + 1
        eps.save_newest(run.folder / "episodes", TRAIN, first, newest)
        return entries

    def _evaluated(
        self, run: SeedRun, number: int, key: Array, state: OffPolicyState, where: str
    ) -> tuple[OffPolicyState, dict[str, Value]]:
        """Evaluates, and keeps the agent if it is the best so far."""
        step = number * self.round_steps
        records, seeds = self._evaluate(
            key, state.agent, self.config.eval_episodes, f"the evaluation of {where}"
        )
        entries = [
            {
                "round": number,
                "step": step,
                "episode": i,
                "seed": seed,
                **eps.entry_of(record),
            }
            for i, (record, seed) in enumerate(zip(records, seeds, strict=True), 1)
        ]
        eps.append_entries(run.folder / "evaluations.jsonl", entries)
        kept = records[: self.config.keep_episodes]
        folder = run.folder / "episodes"
        eps.save_newest(folder, f"evaluation_{step}", 1, kept)
        value = float(np.mean([e["return"] for e in entries]))
        cost = np.mean([e["cost_return"] for e in entries], axis=0)
        best = self._better(state.best, state.agent, step, value, cost)
        state = state._replace(
            best=best, evaluated=np.asarray([value, *cost], np.float32)
        )
        row: dict[str, Value] = {
            "eval/episode/return": value,
            "eval/episode/length": float(np.mean([e["length"] for e in entries])),
            "eval/account/violating_steps": sum(e["violating_steps"] for e in entries),
            "eval/account/within_budget": int(bool((cost <= self.cost_budget).all())),
            "eval/best/return": float(best.value),
            "eval/best/within_budget": int(best.excess <= 0),
            "eval/best/step": int(best.step),
        }
        row |= _per_constraint("eval/episode/cost_return", cost.tolist())
        row |= _per_constraint("eval/best/cost_return", best.cost.tolist())
        worst = np.max([e["worst_excess"] for e in entries], axis=0)
        return state, row | _per_constraint("eval/account/worst_excess", worst.tolist())

    def _better(
        self, best: Best, agent: PyTree, step: int, value: float, cost: np.ndarray
    ) -> Best:
        """Feasible first, then return; of two that are not, the one that is nearer."""
        excess = np.maximum(cost - self.cost_budget, 0.0).sum(dtype=np.float32)
        rank = (-float(excess), np.float32(value))
        if int(best.step) >= 0 and rank <= (-float(best.excess), float(best.value)):
            return best
        return Best(
            jax.device_get(agent),
            np.asarray(step, np.int32),
            np.asarray(excess, np.float32),
            np.asarray(value, np.float32),
            np.asarray(cost, np.float32),
        )

    def _evaluate(
        self, key: Array, agent: PyTree, num_episodes: int, where: str
    ) -> tuple[list[EpisodeRecord], list[int | None]]:
        """Episodes by the deterministic policy, in environments of their own.

        Also the seeds that begin them again, None in a system, which has states.
        """
        records: list[EpisodeRecord] = []
        seeds: list[int | None] = []
        policy = Partial(self._exploit, agent)
        turns = math.ceil(num_episodes / self.evaluation.num_envs)
        for turn_key in jax.random.split(key, turns):
            reset_key, roll_key = jax.random.split(turn_key)
            state, obs = self.evaluation.reset(reset_key)
            if isinstance(self.evaluation, ProcessVector):
                seeds += self.evaluation.seeds(state)
            else:
                seeds += [None] * self.evaluation.num_envs
            _, rows, margins = self.evaluation.rollout(
                roll_key, state, obs, policy, self.evaluation.max_steps
            )
            block, margin = jax.device_get((rows, margins))
            _check_block(block, margin, where, 0)
            records += eps.first_episodes(block, margin)
        return records[:num_episodes], seeds[:num_episodes]

    def _start(self, root: Array) -> OffPolicyState:
        """Of a run that has seen nothing."""
        agent = self._init(jax.random.fold_in(root, 0))
        key = jax.random.fold_in(jax.random.fold_in(root, 2), 0)
        return self._initial(agent, self.vector.reset(key))

    def _initial(self, agent: PyTree, env: tuple[Any, Array]) -> OffPolicyState:
        vector, zero = self.vector, np.zeros((), np.int32)
        sizes = vector.obs_dim, vector.action_dim, vector.num_constraints
        nothing = np.zeros((), np.float32)
        cost = np.zeros(vector.num_constraints, np.float32)
        return OffPolicyState(
            agent=agent,
            replay=make_replay(self.capacity, self.config.num_envs, *sizes),
            env=env,
            running=eps.no_episodes(vector.max_steps, self.config.num_envs, *sizes),
            counts=Counts(zero, zero, zero, zero),
            best=Best(jax.device_get(agent), zero - 1, nothing, nothing, cost),
            evaluated=np.full(1 + vector.num_constraints, np.nan, np.float32),
        )

    def _template(self) -> OffPolicyState:
        """Zeros as a checkpoint has them."""
        return self._initial(self._blank_agent(), self.vector.blank())

    def _blank_agent(self) -> PyTree:
        return _zeros(jax.eval_shape(self.agent.init, jax.random.key(0)))

    def _load(self, run: SeedRun) -> tuple[OffPolicyState, int] | None:
        folder = run.folder / "checkpoints"
        found = load_checkpoint(folder, self._template(), run.fingerprint, self._warn)
        if found is None:
            return None
        state, step = found
        host = {
            name: jax.tree.map(np.array, getattr(state, name))
            for name in ("running", "counts", "best", "evaluated")
        }
        return state._replace(**host), step

    def _rounds_between_checkpoints(self, state: OffPolicyState) -> int:
        if self.config.checkpoint_every:
            return self.config.checkpoint_every
        size = sum(leaf.nbytes for leaf in jax.tree.leaves((state.agent, state.replay)))
        return max(1, math.ceil(size / _PIECE))

    def _save(self, run: SeedRun, state: OffPolicyState, step: int) -> None:
        """Last of a round, so that a checkpoint never claims what is not on disk."""
        folder = run.folder / "checkpoints"
        self._save_best(run, state.best)
        save_checkpoint(
            folder, state, step, run.fingerprint, _KEPT_CHECKPOINTS, name=_STEP
        )
        # Only now: a run that goes on from the checkpoint before needs the older ones.
        self._forget_records(run, state)

    def _save_best(self, run: SeedRun, best: Best) -> None:
        if int(best.step) >= 0:
            path = run.folder / "checkpoints" / BEST
            write_state(path, best.agent, int(best.step), run.fingerprint)

    def _forget_records(self, run: SeedRun, state: OffPolicyState) -> None:
        """Removes all but the newest records of training, and of the evaluations."""
        folder, last = run.folder / "episodes", int(state.counts.episodes)
        eps.forget_records(folder, TRAIN, last - self.config.keep_episodes + 1, last)
        steps = {path.name.split("_")[1] for path in folder.glob("evaluation_*_*.npz")}
        for step in sorted(steps, key=int)[:-1]:
            for path in folder.glob(f"evaluation_{step}_*.npz"):
                path.unlink(missing_ok=True)

    def _forget_after(self, run: SeedRun, state: OffPolicyState, last: int) -> None:
        """Drops what is there of rounds that will be run again, checkpoints first."""
        folder = run.folder
        forget_checkpoints(folder / "checkpoints", last)
        for name in ("episodes", "evaluations", "timing"):
            truncate_jsonl(folder / f"{name}.jsonl", last, "step")
        if int(state.best.step) < 0:
            (folder / "checkpoints" / BEST).unlink(missing_ok=True)
        self._save_best(run, state.best)
        records = folder / "episodes"
        eps.forget_records(records, TRAIN, 0, int(state.counts.episodes))
        for path in records.glob("evaluation_*_*.npz"):
            if int(path.name.split("_")[1]) > last:
                path.unlink(missing_ok=True)


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return seconds


def evaluation_records(folder: Path) -> list[Path]:
    """The records of a seed's newest evaluation, in order."""
    found = list((folder / "episodes").glob("evaluation_*_*.npz"))
    if not found:
        return []
    newest = max(int(path.name.split("_")[1]) for path in found)
    return eps.newest_records(folder / "episodes", f"evaluation_{newest}")


def _row(
    number: int,
    entries: Sequence[dict[str, Any]],
    block: Transition,
    counts: Counts,
) -> dict[str, Value]:
    """One row of the log; means are over the episodes that ended in the round."""

    def mean(name: str) -> float | None:
        return float(np.mean([e[name] for e in entries])) if entries else None

    violating = (np.asarray(block.cost) > 0).any(-1)
    num_constraints = block.cost.shape[-1]
    costs: list[float | None] = [None] * num_constraints
    worst: list[float | None] = [None] * num_constraints
    if entries:
        costs = np.mean([e["cost_return"] for e in entries], axis=0).tolist()
        worst = np.max([e["worst_excess"] for e in entries], axis=0).tolist()
    row: dict[str, Value] = {
        "train/round/number": number,
        "train/episode/number": int(counts.episodes),
        "train/episode/ended": len(entries),
        "train/episode/return": mean("return"),
        "train/episode/length": mean("length"),
        "train/account/violating_steps": int(violating.sum()),
        "train/account/violation_events": sum(e["violation_events"] for e in entries),
        "train/account/cumulative_violating_steps": int(counts.violating_steps),
        "train/account/random_violating_steps": int(counts.random_violating_steps),
        "train/account/episodes_over_budget": int(counts.over_budget),
    }
    row |= _per_constraint("train/episode/cost_return", costs)
    return row | _per_constraint("train/account/worst_excess", worst)


def _per_constraint(name: str, values: Sequence[float | None]) -> dict[str, Value]:
    """The only constraint needs no number behind its name."""
    if len(values) == 1:
        return {name: values[0]}
    return {f"{name}/{c}": value for c, value in enumerate(values)}


def _flat(phase: str, metrics: Metrics) -> dict[str, Value]:
    """The agent's own words, an entry each where there are several."""
    row: dict[str, Value] = {}
    for name, value in metrics.items():
        array = np.asarray(value)
        if array.ndim == 0:
            row[f"{phase}/{name}"] = array.item()
        elif array.size == 1:
            row[f"{phase}/{name}"] = array.reshape(()).item()
        else:
            for index, part in enumerate(array.reshape(-1)):
                row[f"{phase}/{name}/{index}"] = part.item()
    return row


def _progress(
    run: SeedRun, step: int, entries: Sequence[dict[str, Any]], state: OffPolicyState
) -> RoundProgress:
    known = not np.isnan(state.evaluated).any()
    value, *cost = state.evaluated.tolist()
    returns = [e["return"] for e in entries]
    costs = [e["cost_return"] for e in entries]
    return RoundProgress(
        run.seed_index,
        step,
        int(state.counts.episodes),
        float(np.mean(returns)) if returns else None,
        tuple(np.mean(costs, axis=0).tolist()) if costs else None,
        int(state.counts.violating_steps),
        value if known else None,
        tuple(cost) if known else None,
    )


def _check_block(
    block: Transition, margin: np.ndarray, where: str, before: int
) -> None:
    """Refuses NaN and inf in what the environments and the policy said."""
    named = {
        "the observation": block.obs,
        "the action": block.action,
        "the next observation": block.next_obs,
        "the reward": block.reward,
        "the cost": block.cost,
        "the margin": margin,
    }
    for name, values in named.items():
        bad = ~np.isfinite(np.asarray(values))
        if bad.any():
            t, n, *_ = np.argwhere(bad)[0].tolist()
            step = before + t * bad.shape[1] + n
            raise _not_finite(f"{name} of environment {n}", f"step {step} in {where}")


def _check_learned(agent: PyTree, metrics: Metrics, where: str) -> None:
    paths = jax.tree_util.tree_leaves_with_path(jax.device_get(agent))
    named = dict(metrics)
    named |= {f"parameter {jax.tree_util.keystr(p)}": leaf for p, leaf in paths}
    for name, value in named.items():
        array = np.asarray(value)
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise _not_finite(name, f"the updates of {where}")


def _not_finite(name: str, where: str) -> NonFiniteError:
    return NonFiniteError(f"{name} is not finite at {where}")


def _on_device(block: Transition) -> Transition:
    return jax.tree.map(jnp.asarray, block)


def _zeros(shapes: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
