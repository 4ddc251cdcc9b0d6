"""The training loop: explore at random, then plan, account, learn, again.

Several runs go in lockstep, one program for all of them: seeds, and what else is traced
(an environment's parameters, confidence widths, budgets). Every random key is a
function of the seed and the episode, so a checkpoint after each episode is all that an
exact resume needs.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from safex.config import TrainConfig
from safex.errors import CheckpointError, NonFiniteError, SafexError
from safex.models.calibration import Coverage, coverage
from safex.models.normalizer import fit_normalizer
from safex.training import account as accounts
from safex.training.account import EpisodeAccount, EpisodeRecord
from safex.training.checkpoint import (
    forget_checkpoints,
    load_checkpoint,
    read_state,
    save_checkpoint,
    with_what_is_kept,
)
from safex.training.forecast import forecast_episode, save_forecast
from safex.training.honesty import (
    HORIZON,
    TEN_STEPS,
    Claim,
    far_paths,
    held_after,
    newest_paths,
    score_claims,
)
from safex.training.lockstep import Lockstep
from safex.training.loggers import Logger, Value, close_all
from safex.types import (
    Agent,
    Array,
    Dataset,
    Environment,
    Metrics,
    Prediction,
    PyTree,
    Transition,
)

# Steps of one compiled call, at most: long enough to amortise the call, short enough
# for live progress and for an early stop on NaN.
_STEPS_PER_CALL = 25
# Regions whose claims are those of the fit; the third is of the episode before it.
_FITTED = ("held_out", "out_of_distribution")


class Progress(NamedTuple):
    """What the loop says of itself while it runs.

    Attributes:
      seed_index: which seed, from 0.
      episode: the episode under way, 0 for the random phase.
      step: steps done in it.
      episode_return: return so far in it.
      violating_steps: violations so far in the whole run of this seed.
      last_return: return of the last finished planned episode, None before it.
    """

    seed_index: int
    episode: int
    step: int
    episode_return: float
    violating_steps: int
    last_return: float | None


class SeedRun(NamedTuple):
    """One seed of one configuration of a job.

    Attributes:
      seed: decides every random number.
      seed_index: which run of the job, from 0.
      folder: where its files go.
      make_loggers: given the environment step that the run goes on from (None for a
        fresh run), returns the loggers.
      fingerprint: of the configuration, written into checkpoints.
      traced: what tells this run from others of the same trainer besides the seed, a
        pytree of numbers that its `vary` takes.
    """

    seed: int
    seed_index: int
    folder: Path
    make_loggers: Callable[[int | None], Sequence[Logger]]
    fingerprint: str = ""
    traced: PyTree = ()


class RunState(NamedTuple):
    """Everything that the next episode depends on, besides the seed.

    Attributes:
      agent: the agent's state.
      data: all experience.
      violating_steps: `[]` int32, so far.
    """

    agent: PyTree
    data: Dataset
    violating_steps: Array


class Beliefs(NamedTuple):
    """What the fitted model believes of rows it never saw, to measure coverage.

    Attributes:
      rows: `[capacity]` bool, rows of the buffer that were held out.
      held_out: prediction for every row of the buffer.
      far: prediction for the transitions far from the data.
      unit: `[D]` std of one step's difference.
      far_held: `[]` share of ten-step bands far from the data that held.
      next_held: `[]` the same of the newest episode, before it was learned from.
    """

    rows: Array
    held_out: Prediction
    far: Prediction
    unit: Array
    far_held: Array
    next_held: Array


class _Batch(NamedTuple):
    """What a compiled call hands back: transitions, true margins, the agent's words."""

    transition: Transition
    margin: Array
    metrics: dict[str, Array]


class _Programs(NamedTuple):
    """The compiled programs of a group of seeds; all arguments are `[rows, ...]`."""

    start: Callable
    begin: Callable
    explore: Callable
    plan: Callable
    append: Callable
    learn: Callable


class Trainer:
    """Trains groups of runs; groups of equal size share their compiled programs.

    Args:
      env: the system.
      agent: the agent.
      config: how much is collected.
      horizon: steps that the costs of a plan are of, for predicted against actual cost.
      warn: told of anything unusual that does not stop the run.
      report: told of progress.
      vary: makes system and agent from a run's `traced`, which may be traced numbers;
        None where all runs have `env` and `agent`.
    """

    def __init__(
        self,
        env: Environment,
        agent: Agent,
        config: TrainConfig,
        *,
        horizon: int,
        warn: Callable[[str], None],
        report: Callable[[Progress], None],
        vary: Callable[[PyTree], tuple[Environment, Agent]] | None = None,
    ) -> None:
        self.config, self.horizon = config, horizon
        self._vary = vary or (lambda traced: (env, agent))
        self._warn, self._report = warn, report
        self._band = jax.jit(
            lambda traced, *arguments: self._vary(traced)[1].band(*arguments)
        )
        self._programs: dict[Lockstep, _Programs] = {}
        self._planned_before: set[Lockstep] = set()

    def train(
        self,
        runs: Sequence[SeedRun],
        stopped: Callable[[SeedRun, SafexError], None] | None = None,
    ) -> None:
        """Trains a group of seeds to the end, or on from their last checkpoints.

        A seed that cannot go on ends alone: the others of its group reach their end.

        Args:
          runs: the group.
          stopped: told of each seed that cannot go on, and why. Without it the first
            such error is raised when the others are through.

        Raises:
          NonFiniteError: NaN or inf in observations, predictions, losses or parameters;
            says where. All that was finished before is on disk.
          CheckpointError: there are checkpoints, but none can be used.
        """
        errors: list[SafexError] = []
        tell = stopped or (lambda run, error: errors.append(error))
        for part, states, last in self._resume(runs, tell):
            for run in part:
                self._forget_after(run.folder, last)
            if last < self.config.num_model_updates:
                self._train_part(part, states, last, tell, len(runs))
        if errors:
            raise errors[0]

    def play(
        self, runs: Sequence[SeedRun], num_episodes: int, number: int | None = None
    ) -> tuple[list[int], Iterator[list[EpisodeRecord]]]:
        """Planned episodes by the agents of checkpoints, who learn nothing.

        Every random key is a function of the seed and the episode's number, and none of
        them is one of training.

        Args:
          runs: with checkpoints.
          num_episodes: how many each.
          number: the checkpoint's, None for each run's last.

        Returns:
          the last episode that each agent learned from, and an iterator over the
          records of each run's next episode.

        Raises:
          CheckpointError: a run has no checkpoint that fits.
          NonFiniteError: as `train`.
        """
        states, learned = [], []
        for run in runs:
            if number is not None:
                states.append(load_exactly(run, number, self._template(run)))
                learned.append(number)
                continue
            try:
                state, last = self._load(run, None)
            except CheckpointError as error:
                raise CheckpointError(
                    f"no checkpoint of {run.folder} can be read by this version with "
                    "these settings; what was learned, and the size of its buffers, "
                    "must be as in training"
                ) from error
            if last < 0:
                raise CheckpointError(f"{run.folder} has no checkpoint")
            states.append(state)
            learned.append(last)
        return learned, self._play(list(runs), states, num_episodes)

    def _play(
        self, runs: list[SeedRun], states: list[RunState], num_episodes: int
    ) -> Iterator[list[EpisodeRecord]]:
        layout, traced, root, padded = self._lay_out(runs, states, len(runs))
        state = layout.place(padded)
        for episode in range(1, num_episodes + 1):
            numbers = jnp.full(layout.rows, episode)
            key = _fold_in_all(_fold_in_all(root, jnp.full_like(numbers, 3)), numbers)
            _, batch, _ = self._collect(
                traced, key, state, dict(enumerate(runs)), layout, episode, _raise
            )
            yield [
                _to_record(_row(batch, index), planned=True)
                for index in range(len(runs))
            ]

    def _lay_out(
        self, runs: Sequence[SeedRun], states: Sequence[RunState], size: int
    ) -> tuple[Lockstep, PyTree, Array, RunState]:
        """Layout, traced numbers, root keys and states of runs in lockstep.

        The layout is that of a group of so many. Padding repeats the last run; nobody
        looks at its results.
        """
        layout = Lockstep.of(size)
        missing = layout.rows - len(runs)
        padded = [*runs, *[runs[-1]] * missing]
        root = jnp.stack([jax.random.key(run.seed) for run in padded])
        traced = jax.tree.map(
            lambda *leaves: jnp.stack(leaves), *(run.traced for run in padded)
        )
        states = [*states, *[states[-1]] * missing]
        state = jax.tree.map(lambda *leaves: np.stack(leaves), *states)
        return layout, traced, root, state

    def _resume(
        self, given: Sequence[SeedRun], stopped: Callable[[SeedRun, SafexError], None]
    ) -> Iterator[tuple[list[SeedRun], list[RunState], int]]:
        """Groups the seeds by the episode they go on from; -1 is a fresh start."""
        runs, found = [], []
        for run in given:
            try:
                found.append(self._load(run, None))
                runs.append(run)
            except CheckpointError as error:
                stopped(run, error)
        if not runs:
            return
        first = min(last for _, last in found)
        if max(last for _, last in found) == first + 1:
            # Stopped between the checkpoints of one episode: all go one back, so that
            # they stay together.
            with contextlib.suppress(CheckpointError):
                back = [self._load(run, first) for run in runs]
                if all(last == first for _, last in back):
                    found = back
        for last in sorted({last for _, last in found}):
            part = [
                (run, state)
                for run, (state, reached) in zip(runs, found, strict=True)
                if reached == last
            ]
            yield [run for run, _ in part], [state for _, state in part], last

    def _template(self, run: SeedRun) -> RunState:
        """Zeros as a checkpoint has them."""
        shapes = jax.eval_shape(
            lambda key: self._traced(run.traced).init(key), jax.random.key(0)
        )
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)

    def _load(self, run: SeedRun, at_most: int | None) -> tuple[RunState, int]:
        template = self._template(run)
        found = load_checkpoint(
            run.folder / "checkpoints",
            template,
            run.fingerprint,
            self._warn,
            at_most=at_most,
        )
        return found if found else (template, -1)

    def _train_part(
        self,
        runs: list[SeedRun],
        states: list[RunState],
        last: int,
        stopped: Callable[[SeedRun, SafexError], None],
        size: int,
    ) -> None:
        """Trains seeds of a group of so many that have all learned from episode `last`.

        Fewer than the group go through its programs all the same: programs of another
        size round otherwise, and would have to be compiled. So the row of a seed that
        cannot go on stays in them, and nobody looks at its results any more.
        """
        layout, traced, root, resumed = self._lay_out(runs, states, size)
        far, state = self._compile(layout).start(traced, root)
        if last >= 0:
            state = layout.place(resumed)
        loggers = [
            run.make_loggers(self._steps_before(last + 1) if last >= 0 else None)
            for run in runs
        ]
        going = dict(enumerate(runs))

        def stop(index: int, error: SafexError) -> None:
            run = going.pop(index)
            stopped(run, with_what_is_kept(error, run.folder / "checkpoints"))

        try:
            for episode in range(last + 1, self.config.num_model_updates + 1):
                numbers = jnp.full(layout.rows, episode)
                key = _fold_in_all(_fold_in_all(root, jnp.ones_like(numbers)), numbers)
                state, metrics = self._run_episode(
                    traced, key, state, going, layout, episode, far, stop
                )
                if not going:
                    return
                host = jax.device_get(state)
                for index, run in going.items():
                    for logger in loggers[index]:
                        logger.log(metrics[index], self._steps_before(episode + 1))
                    # Last, so that a checkpoint never claims what is not on disk.
                    save_checkpoint(
                        run.folder / "checkpoints",
                        _row(host, index),
                        episode,
                        run.fingerprint,
                    )
        finally:
            close_all([logger for group in loggers for logger in group])

    def _compile(self, layout: Lockstep) -> _Programs:
        if layout not in self._programs:

            def compile(name: str, donate: int | None = None) -> Callable:
                def function(traced: PyTree, *arguments: Any) -> Any:
                    return getattr(self._traced(traced), name)(*arguments)

                # The name is what a profile and the compilation cache call it.
                function.__name__ = f"_{name}"
                donated = () if donate is None else (donate,)
                return jax.jit(layout.over_seeds(function), donate_argnums=donated)

            self._programs[layout] = _Programs(
                start=compile("start"),
                begin=compile("begin"),
                explore=compile("random_steps", donate=3),
                plan=compile("planned_steps", donate=3),
                append=jax.jit(layout.over_seeds(_append), donate_argnums=0),
                learn=compile("learn", donate=2),
            )
        return self._programs[layout]

    def _traced(self, traced: PyTree) -> "_Traced":
        return _Traced(*self._vary(traced), self.config)

    def _run_episode(
        self,
        traced: PyTree,
        key: Array,
        state: RunState,
        going: dict[int, SeedRun],
        layout: Lockstep,
        episode: int,
        far: Transition,
        stop: Callable[[int, SafexError], None],
    ) -> tuple[RunState, dict[int, dict[str, Value]]]:
        """Collects, accounts for and learns from one episode of each seed.

        `going` are the seeds by their row, and `stop` takes one out of it.
        """
        compiles = episode > 0 and layout not in self._planned_before
        if episode > 0:
            self._planned_before.add(layout)
        act_key, update_key = _split_all(key)
        last_episode = episode == self.config.num_model_updates
        before = jax.device_get(state.agent) if last_episode else None
        num_seeds = len(going)
        agent, batch, seconds = self._collect(
            traced, act_key, state, going, layout, episode, stop
        )
        if not going:
            return state, {}
        entries, records, betas = {}, {}, {}
        for index, run in going.items():
            env, described = self._vary(run.traced)
            record = _to_record(_row(batch, index), planned=episode > 0)
            records[index] = record
            betas[index] = np.asarray(described.beta)
            entries[index] = accounts.account(record, betas[index], self.horizon)
            accounts.save_record(_record_path(run.folder, episode), record)
            accounts.append_jsonl(
                run.folder / "violations.jsonl",
                accounts.violations(
                    record,
                    episode,
                    self._steps_before(episode),
                    np.asarray(env.limits).tolist(),
                ),
            )
            if last_episode:
                forecast = forecast_episode(
                    partial(self._band, run.traced),
                    _row(before, index),
                    record,
                    self.horizon,
                )
                save_forecast(run.folder / "forecast.npz", forecast)

        start = time.perf_counter()
        programs = self._compile(layout)
        data = programs.append(state.data, batch.transition)
        agent, fit, beliefs = programs.learn(traced, update_key, agent, data, far)
        fit, beliefs = jax.device_get((fit, beliefs))
        fit_seconds = time.perf_counter() - start
        paths = jax.tree_util.tree_leaves_with_path(jax.device_get(agent))
        leaves = {
            f"parameter {jax.tree_util.keystr(path)}": leaf for path, leaf in paths
        }
        metrics = {}
        pieces = _pieces(self._length(episode))
        violating_steps = np.array(state.violating_steps)
        truths = jax.device_get((data.transitions.next_obs, far.next_obs[:, :, 0]))
        for index, run in list(going.items()):
            entry = entries[index]
            timing = {
                "episode": episode,
                "call_seconds": seconds,
                "steps_per_call": pieces[0],
                "steps_of_last_call": pieces[-1],
                "fit_seconds": fit_seconds,
                "compiles": compiles,
                "seeds": num_seeds,
                "in_turn": layout.in_turn,
            }
            accounts.append_jsonl(run.folder / "timing.jsonl", [timing])
            where = f"the fit after episode {episode} (seed {run.seed}, {run.folder})"
            found = {**_row(fit, index), **_row(leaves, index)}
            if not _finite(found, where, partial(stop, index)):
                continue
            violating_steps[index] += entry.violating_steps
            beta = betas[index]
            believed, next_obs, far_next_obs = _row((beliefs, *truths), index)
            claims = _claims(believed, next_obs, far_next_obs, records[index])
            counts = {
                "prequential": entry.prequential,
                **{
                    name: coverage(*claims[name][:4], beta, claims[name].mask)
                    for name in _FITTED
                },
            }
            total = int(violating_steps[index])
            row = _metrics(entry, _row(fit, index), counts, episode, total)
            row |= _scores(claims, beta, believed, self.config)
            metrics[index] = row
        return RunState(agent, data, jnp.asarray(violating_steps)), metrics

    def _collect(
        self,
        traced: PyTree,
        key: Array,
        state: RunState,
        going: dict[int, SeedRun],
        layout: Lockstep,
        episode: int,
        stop: Callable[[int, SafexError], None],
    ) -> tuple[PyTree, _Batch, list[float]]:
        """Runs one episode of each seed in a few calls, to full length.

        Ends earlier if no seed can go on.
        """
        programs = self._compile(layout)
        step_key, agent, env_state, obs = programs.begin(
            traced, key, state.agent, jnp.full(layout.rows, episode > 0)
        )
        run_steps = programs.plan if episode > 0 else programs.explore
        violations = np.array(state.violating_steps)
        returns = np.zeros(layout.rows)
        last = self._last_returns(state, episode)
        batches, seconds = [], []
        end = 0
        for size in _pieces(self._length(episode)):
            first, end = end, end + size
            start = time.perf_counter()
            steps = np.tile(np.arange(first, end), (layout.rows, 1))
            (agent, env_state, obs), batch = run_steps(
                traced, step_key, steps, agent, env_state, obs
            )
            if len(obs.devices()) > layout.num_devices:
                # A decision shared out over devices hands its results back on all of
                # them, and the next call would compile anew for that.
                agent, env_state, obs = jax.device_get((agent, env_state, obs))
            batch = jax.device_get(batch)
            seconds.append(time.perf_counter() - start)
            batches.append(batch)
            violating = (batch.transition.cost > 0).any(-1)
            violations += violating.sum(1, dtype=violations.dtype)
            returns += batch.transition.reward.sum(1)
            for index, run in list(going.items()):
                one = _row(batch, index)
                named = {
                    "the observation": one.transition.next_obs,
                    "the reward": one.transition.reward,
                    "the cost": one.transition.cost,
                    **one.metrics,
                }
                where = f"episode {episode} (seed {run.seed}, {run.folder})"
                step = self._steps_before(episode) + first
                if not _finite(named, where, partial(stop, index), step):
                    continue
                self._report(
                    Progress(
                        run.seed_index,
                        episode,
                        end,
                        float(returns[index]),
                        int(violations[index]),
                        last[index],
                    )
                )
            if not going:
                break
        whole = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *batches)
        return agent, whole, seconds

    def _length(self, episode: int) -> int:
        config = self.config
        return config.num_rollout_steps if episode else config.num_exploration_steps

    def _steps_before(self, episode: int) -> int:
        """Environment steps taken before an episode begins."""
        if episode == 0:
            return 0
        random = self.config.num_exploration_steps
        return random + (episode - 1) * self.config.num_rollout_steps

    def _last_returns(self, state: RunState, episode: int) -> list[float | None]:
        """Return of each seed's episode before this one, None if it was random."""
        reward = np.asarray(state.data.transitions.reward)
        if episode < 2:
            return [None] * len(reward)
        start = self._steps_before(episode - 1)
        window = reward[:, start : start + self.config.num_rollout_steps]
        return [float(total) for total in window.sum(1)]

    def _forget_after(self, folder: Path, last: int) -> None:
        """Drops what is there of episodes that will be run again.

        Their checkpoints first: one that outlived its lines would claim work that is
        no longer on disk.
        """
        folder.mkdir(parents=True, exist_ok=True)
        forget_checkpoints(folder / "checkpoints", last)
        for name in ("violations.jsonl", "timing.jsonl"):
            accounts.truncate_jsonl(folder / name, last)


@dataclasses.dataclass(frozen=True)
class _Traced:
    """What is compiled: functions of one run.

    Attributes:
      env: the system.
      agent: the agent.
      config: how much is collected.
    """

    env: Environment
    agent: Agent
    config: TrainConfig

    def start(self, root: Array) -> tuple[Transition, RunState]:
        """Paths far from the data, and a state that has seen nothing."""
        number = self.config.val_buffer_size
        far = far_paths(jax.random.fold_in(root, 2), self.env, number)
        return far, self.init(jax.random.fold_in(root, 0))

    def init(self, key: Array) -> RunState:
        capacity = self.config.capacity
        zeros = jnp.zeros(capacity)
        cost = jnp.zeros((capacity, self.env.num_constraints))
        none = jnp.zeros(capacity, bool)
        obs = jnp.zeros((capacity, self.env.obs_dim))
        action = jnp.zeros((capacity, self.env.action_dim))
        return RunState(
            agent=self.agent.init(key),
            data=Dataset(
                Transition(obs, action, zeros, cost, obs, none, none),
                jnp.zeros((), jnp.int32),
            ),
            violating_steps=jnp.zeros((), jnp.int32),
        )

    def begin(
        self, key: Array, agent: PyTree, planned: Array
    ) -> tuple[Array, PyTree, Any, Array]:
        """Resets the system, and the agent for a planned episode."""
        reset_key, begin_key, step_key = jax.random.split(key, 3)
        env_state, obs = self.env.reset(reset_key)
        begun = self.agent.begin_episode(begin_key, agent)
        agent = jax.tree.map(partial(jnp.where, planned), begun, agent)
        return step_key, agent, env_state, obs

    def learn(
        self,
        key: Array,
        agent: PyTree,
        data: Dataset,
        far: Transition,
    ) -> tuple[PyTree, Metrics, Beliefs]:
        """Fits, and asks what the model now believes."""
        update_key, next_key, far_key = jax.random.split(key, 3)
        fresh = newest_paths(data, self.config.num_rollout_steps)
        next_held = held_after(next_key, self.env, self.agent, agent, fresh)
        agent, metrics = self.agent.update(update_key, agent, data)
        belief = jax.vmap(partial(self.agent.predict, agent))
        seen = data.transitions
        valid = jnp.arange(seen.reward.shape[0]) < data.size
        beliefs = Beliefs(
            self.agent.test_rows(data),
            belief(seen.obs, seen.action),
            belief(far.obs[:, 0], far.action[:, 0]),
            fit_normalizer(seen.next_obs - seen.obs, valid).std,
            held_after(far_key, self.env, self.agent, agent, far),
            next_held,
        )
        return agent, metrics, beliefs

    def random_steps(
        self, key: Array, steps: Array, agent: PyTree, env_state: Any, obs: Array
    ) -> tuple[tuple[PyTree, Any, Array], _Batch]:
        def choose(key: Array, agent: PyTree, obs: Array) -> tuple:
            del obs
            shape = (self.env.action_dim,)
            action = jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
            return agent, action, {}

        return self._steps(choose, key, steps, agent, env_state, obs)

    def planned_steps(
        self, key: Array, steps: Array, agent: PyTree, env_state: Any, obs: Array
    ) -> tuple[tuple[PyTree, Any, Array], _Batch]:
        def choose(key: Array, agent: PyTree, obs: Array) -> tuple:
            agent, action, metrics = self.agent.act(key, agent, obs, explore=True)
            kept = {
                name: value
                for name, value in metrics.items()
                if name.startswith(("plan/", "prediction/"))
            }
            return agent, action, kept

        return self._steps(choose, key, steps, agent, env_state, obs)

    def _steps(
        self,
        choose: Callable,
        key: Array,
        steps: Array,
        agent: PyTree,
        env_state: Any,
        obs: Array,
    ) -> tuple[tuple[PyTree, Any, Array], _Batch]:
        """Steps of an episode; `steps` are their numbers, `key` is the episode's."""

        def one(carry: tuple, number: Array) -> tuple[tuple, _Batch]:
            agent, env_state, obs = carry
            act_key, env_key = jax.random.split(jax.random.fold_in(key, number))
            agent, action, metrics = choose(act_key, agent, obs)
            result = self.env.step(env_key, env_state, action)
            # The excess of what really happened, not of what a noisy sensor says.
            true_obs = self.env.observe(env_state)
            true_next = self.env.observe(result.state)
            margin = self.env.margin(true_obs, action, true_next)
            transition = Transition(
                obs,
                action,
                result.reward,
                result.cost,
                result.obs,
                result.terminated,
                result.truncated,
            )
            agent = self.agent.observe(agent, transition)
            batch = _Batch(transition, margin, metrics)
            return (agent, result.state, result.obs), batch

        return jax.lax.scan(one, (agent, env_state, obs), steps)


def load_exactly(
    run: SeedRun, number: int, template: PyTree, field: str | None = None
) -> PyTree:
    """The state of the checkpoint of a run that has exactly this number.

    Args:
      run: with checkpoints.
      number: the episode, or step, that the state has learned from.
      template: a pytree of the same structure, shapes and dtypes.
      field: of the state, which alone is returned and `template` is of; None is all.

    Raises:
      CheckpointError: there is none of this number, and which there are; or it cannot
        be used, and why.
    """
    named = {
        path.stem.rpartition("_")[2]: path
        for path in (run.folder / "checkpoints").glob("*_*.ckpt")
    }
    paths = {int(name): path for name, path in named.items() if name.isdecimal()}
    if number not in paths:
        there = ", ".join(map(str, sorted(paths))) or "none"
        raise CheckpointError(
            f"{run.folder} has no checkpoint {number}; there are: {there}"
        )
    state, found = read_state(paths[number], template, run.fingerprint, field)
    # The name stands for the header, which the digest does not cover.
    if found != number:
        raise CheckpointError(f"{paths[number]} is truncated or damaged")
    return state


def _claims(
    beliefs: Beliefs, next_obs: Array, far_next_obs: Array, record: EpisodeRecord
) -> dict[str, Claim]:
    """What was said of rows that the model never trained or calibrated on.

    Nothing of a model that holds no rows out: it claims to know.
    """
    claims_any = bool(beliefs.rows.any())
    everywhere = np.full(far_next_obs.shape[0], claims_any)
    return {
        "held_out": Claim(next_obs, *beliefs.held_out, beliefs.rows),
        "out_of_distribution": Claim(far_next_obs, *beliefs.far, everywhere),
        "prequential": Claim(
            record.next_obs,
            record.mean,
            record.epistemic_std,
            record.aleatoric_std,
            record.planned & claims_any,
        ),
    }


def _scores(
    claims: dict[str, Claim], beta: np.ndarray, beliefs: Beliefs, config: TrainConfig
) -> dict[str, Value]:
    """`scores/*`: of every region at one step, and how ten-step bands held."""
    scores: dict[str, Value] = dict(score_claims(claims, beta, beliefs.unit))
    held = {"out_of_distribution": beliefs.far_held, "prequential": beliefs.next_held}
    known = {name: bool(np.any(claims[name].mask)) for name in held}
    # Too short an episode has no stretch of ten steps.
    known["prequential"] &= config.num_rollout_steps >= HORIZON
    for name, share in held.items():
        value = float(share) if known[name] else None
        scores[f"scores/{name}/{TEN_STEPS}"] = value
    return scores


def _metrics(
    entry: EpisodeAccount,
    fit: dict[str, np.ndarray],
    counts: dict[str, Coverage],
    episode: int,
    violating_steps: int,
) -> dict[str, Value]:
    """One row of the log."""
    metrics: dict[str, Value] = {
        "train/episode/number": episode,
        "train/episode/return": entry.episode_return,
        "train/account/violating_steps": entry.violating_steps,
        "train/account/violation_events": entry.violation_events,
        "train/account/cumulative_violating_steps": violating_steps,
        "train/account/infeasible_plans": entry.infeasible_plans,
        "train/account/backup_steps": entry.backup_steps,
        "train/account/feasible_share": entry.feasible_share,
        "train/account/no_plan_steps": entry.no_plan_steps,
        "train/account/budget_switch_steps": entry.budget_switch_steps,
        "train/account/underpredicted_plans": entry.underpredicted_plans,
    }
    for c in range(len(entry.cost_return)):
        # The only constraint needs no number behind its name.
        ending = f"/{c}" if len(entry.cost_return) > 1 else ""
        metrics[f"train/episode/cost_return{ending}"] = entry.cost_return[c]
        metrics[f"train/account/worst_excess{ending}"] = entry.worst_excess[c]
    for name, count in counts.items():
        for level, share in count.shares().items():
            metrics[f"coverage/{name}/{level}"] = share
    for name, value in fit.items():
        if value.ndim == 0:
            metrics[f"train/{name}"] = value.item()
        else:
            for index, part in enumerate(value):
                metrics[f"train/{name}/{index}"] = part.item()
    return metrics


def _row(tree: PyTree, index: int) -> PyTree:
    """One seed's part of a tree of host arrays `[rows, ...]`."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


_fold_in_all = jax.jit(jax.vmap(jax.random.fold_in))
_split_all = jax.jit(jax.vmap(jax.random.split, out_axes=1))


def _record_path(folder: Path, episode: int) -> Path:
    return folder / "episodes" / f"episode_{episode:03d}.npz"


def _pieces(length: int) -> list[int]:
    """Steps of each call of an episode: equal ones, unless they would be many.

    The length's largest divisor may be 1; then the last piece is shorter, which costs
    one more compilation and no number.
    """
    fewest = math.ceil(length / _STEPS_PER_CALL)
    size = max(n for n in range(1, _STEPS_PER_CALL + 1) if length % n == 0)
    if length > 2 * fewest * size:
        size = math.ceil(length / fewest)
    return [min(size, length - first) for first in range(0, length, size)]


def _append(data: Dataset, new: Transition) -> Dataset:
    """Writes a block of transitions behind the valid rows."""

    def write(buffer: Array, block: Array) -> Array:
        start = (data.size,) + (jnp.zeros((), jnp.int32),) * (buffer.ndim - 1)
        return jax.lax.dynamic_update_slice(buffer, block.astype(buffer.dtype), start)

    transitions = jax.tree.map(write, data.transitions, new)
    return Dataset(transitions, data.size + new.reward.shape[0])


def _to_record(batch: _Batch, planned: bool) -> EpisodeRecord:
    t = batch.transition
    m = {name: np.asarray(value) for name, value in batch.metrics.items()}
    length, dim = t.obs.shape
    unknown_c = np.full(t.cost.shape, np.nan)
    unknown_d = np.full((length, dim), np.nan)
    return EpisodeRecord(
        obs=np.asarray(t.obs),
        action=np.asarray(t.action),
        next_obs=np.asarray(t.next_obs),
        reward=np.asarray(t.reward),
        cost=np.asarray(t.cost),
        margin=np.asarray(batch.margin),
        terminated=np.asarray(t.terminated),
        truncated=np.asarray(t.truncated),
        planned=np.full(length, planned),
        feasible=m.get("plan/feasible", np.ones(length, bool)),
        backup=m.get("plan/backup", np.zeros(length, bool)),
        predicted_cost=m.get("plan/cost", unknown_c),
        mean=m.get("prediction/mean", unknown_d),
        epistemic_std=m.get("prediction/epistemic_std", unknown_d),
        aleatoric_std=m.get("prediction/aleatoric_std", unknown_d),
        feasible_share=m.get("plan/feasible_share"),
        backup_reason=m.get("plan/backup_reason"),
    )


def _raise(index: int, error: SafexError) -> None:
    """What stops one of the agents that play stops all."""
    raise error


def _finite(
    named: dict[str, Any],
    where: str,
    stop: Callable[[SafexError], None],
    first_step: int | None = None,
) -> bool:
    """Whether all values are finite; else `stop` hears of the first and its step."""
    for name, value in named.items():
        array = np.asarray(value) if not _is_key(value) else np.zeros(())
        if not np.issubdtype(array.dtype, np.floating):
            continue
        bad = ~np.isfinite(array)
        if bad.any():
            at = ""
            if first_step is not None:
                at = f" at step {first_step + int(np.argwhere(bad)[0][0])}"
            stop(NonFiniteError(f"{name} is not finite{at} in {where}"))
            return False
    return True


def _is_key(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
