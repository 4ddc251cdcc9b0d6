"""The training loop: explore at random, then plan, account, learn, again.

One seed is one call of `train_seed`. Every random key is a function of the seed and the
episode, so a checkpoint after each episode is all that an exact resume needs.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from safex.config import TrainConfig
from safex.errors import NonFiniteError
from safex.models.calibration import Coverage, coverage
from safex.training import account as accounts
from safex.training.account import EpisodeAccount, EpisodeRecord
from safex.training.checkpoint import load_checkpoint, save_checkpoint
from safex.training.forecast import forecast_episode, save_forecast
from safex.training.loggers import Logger, Value
from safex.types import (
    Agent,
    Array,
    Dataset,
    Environment,
    Prediction,
    PyTree,
    Transition,
)

# Steps of one compiled call, at most: long enough to amortise the call, short enough
# for live progress and for an early stop on NaN.
_STEPS_PER_CALL = 25


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


class RunState(NamedTuple):
    """Everything that the next episode depends on, besides the seed.

    Attributes:
      agent: the agent's state.
      data: all experience.
      violating_steps: `[]` int32, so far.
      inside: `[levels]` int32, prequential errors inside each band so far.
      total: `[]` int32, prequential errors so far.
    """

    agent: PyTree
    data: Dataset
    violating_steps: Array
    inside: Array
    total: Array


class _Batch(NamedTuple):
    """What a compiled call hands back: transitions, true margins, the agent's words."""

    transition: Transition
    margin: Array
    metrics: dict[str, Array]


class Trainer:
    """Trains seeds one after another; compiled functions are shared by all of them.

    Args:
      env: the system.
      agent: the agent.
      config: how much is collected.
      horizon: H of the agent's plans, for predicted against actual cost.
      beta: `[D]` confidence width.
      limit: the limit, in its unit.
      fingerprint: of the configuration, written into checkpoints.
      warn: told of anything unusual that does not stop the run.
      report: told of progress.
    """

    def __init__(
        self,
        env: Environment,
        agent: Agent,
        config: TrainConfig,
        *,
        horizon: int,
        beta: np.ndarray,
        limit: float,
        fingerprint: str,
        warn: Callable[[str], None],
        report: Callable[[Progress], None],
    ) -> None:
        self.env, self.agent, self.config = env, agent, config
        self.horizon, self.beta, self.limit = horizon, np.asarray(beta), limit
        self.fingerprint, self._warn, self._report = fingerprint, warn, report
        self._reset = jax.jit(env.reset)
        self._begin = jax.jit(agent.begin_episode)
        self._update = jax.jit(agent.update)
        self._random = jax.jit(self._random_steps, static_argnames="num_steps")
        self._plan = jax.jit(self._planned_steps, static_argnames="num_steps")
        self._append = jax.jit(_append, donate_argnums=0)
        self._belief = jax.jit(jax.vmap(agent.predict, in_axes=(None, 0, 0)))
        self._far = jax.jit(self._far_transitions)
        self._planned_before = False

    def train_seed(
        self,
        seed: int,
        seed_index: int,
        folder: Path,
        make_loggers: Callable[[int | None], Sequence[Logger]],
    ) -> None:
        """Trains one seed to the end, or on from its last checkpoint.

        Args:
          seed: decides every random number.
          seed_index: for progress.
          folder: where this seed's files go.
          make_loggers: given the environment step that the run goes on from (None for
            a fresh run), returns the loggers.

        Raises:
          NonFiniteError: NaN or inf in observations, predictions, losses or parameters;
            says where. All that was finished before is on disk.
          CheckpointError: there are checkpoints, but none can be used.
        """
        root = jax.random.key(seed)
        far = self._far(jax.random.fold_in(root, 2))
        state = self._init(jax.random.fold_in(root, 0))
        checkpoints = folder / "checkpoints"
        found = load_checkpoint(checkpoints, state, self.fingerprint, self._warn)
        state, last = found if found else (state, -1)
        self._forget_after(folder, last)
        if last == self.config.num_model_updates:
            return
        loggers = make_loggers(self._steps_before(last + 1) if found else None)
        try:
            for episode in range(last + 1, self.config.num_model_updates + 1):
                key = jax.random.fold_in(jax.random.fold_in(root, 1), episode)
                state, metrics = self._run_episode(
                    key, state, seed_index, episode, folder, far
                )
                for logger in loggers:
                    logger.log(metrics, self._steps_before(episode + 1))
                # Last, so that a checkpoint never claims what is not on disk.
                save_checkpoint(checkpoints, state, episode, self.fingerprint)
        finally:
            for logger in loggers:
                logger.close()

    def _run_episode(
        self,
        key: Array,
        state: RunState,
        seed_index: int,
        episode: int,
        folder: Path,
        far: Transition,
    ) -> tuple[RunState, dict[str, Value]]:
        """Collects, accounts for and learns from one episode."""
        act_key, update_key = jax.random.split(key)
        before = state
        compiles = episode > 0 and not self._planned_before
        self._planned_before = self._planned_before or episode > 0
        agent, record, seconds = self._collect(act_key, state, seed_index, episode)
        entry = accounts.account(record, self.beta, self.horizon)
        accounts.save_record(_record_path(folder, episode), record)
        accounts.append_jsonl(
            folder / "violations.jsonl",
            accounts.violations(
                record, episode, self._steps_before(episode), self.limit
            ),
        )
        if episode == self.config.num_model_updates:
            forecast = forecast_episode(self.agent, before.agent, record, self.horizon)
            save_forecast(folder / "forecast.npz", forecast)

        columns = (
            record.obs,
            record.action,
            record.reward,
            record.cost,
            record.next_obs,
            record.terminated,
            record.truncated,
        )
        transitions = Transition(*(jnp.asarray(column) for column in columns))
        data = self._append(state.data, transitions)
        start = time.perf_counter()
        agent, fit = self._update(update_key, agent, data)
        fit = {name: np.asarray(value) for name, value in fit.items()}
        timing = {
            "episode": episode,
            "call_seconds": seconds,
            "steps_per_call": _chunk(self._length(episode)),
            "fit_seconds": time.perf_counter() - start,
            "compiles": compiles,
        }
        accounts.append_jsonl(folder / "timing.jsonl", [timing])
        where = f"the fit after episode {episode} (seed {seed_index})"
        _check_finite(fit, where)
        _check_finite(dict(enumerate(jax.tree.leaves(agent))), f"parameters, {where}")
        state = RunState(
            agent,
            data,
            state.violating_steps + entry.violating_steps,
            state.inside + entry.prequential.inside.astype(np.int32),
            state.total + entry.prequential.total,
        )
        return state, self._metrics(state, entry, fit, episode, far)

    def _collect(
        self, key: Array, state: RunState, seed_index: int, episode: int
    ) -> tuple[PyTree, EpisodeRecord, list[float]]:
        """Runs one episode in a few compiled calls, to full length."""
        reset_key, begin_key, step_key = jax.random.split(key, 3)
        env_state, obs = self._reset(reset_key)
        planned = episode > 0
        length = self._length(episode)
        agent = self._begin(begin_key, state.agent) if planned else state.agent
        size = _chunk(length)
        batches, seconds = [], []
        violations, total_return = int(state.violating_steps), 0.0
        last = self._last_return(state, episode)
        for first in range(0, length, size):
            keys = jax.vmap(jax.random.fold_in, (None, 0))(
                step_key, first + jnp.arange(size)
            )
            start = time.perf_counter()
            run = self._plan if planned else self._random
            (agent, env_state, obs), batch = run(
                keys, agent, env_state, obs, num_steps=size
            )
            batch = jax.device_get(batch)
            seconds.append(time.perf_counter() - start)
            named = {
                "the observation": batch.transition.next_obs,
                "the reward": batch.transition.reward,
                "the cost": batch.transition.cost,
                **batch.metrics,
            }
            steps = self._steps_before(episode) + first
            where = f"episode {episode} (seed {seed_index})"
            _check_finite(named, where, first_step=steps)
            batches.append(batch)
            violations += int((batch.transition.cost > 0).sum())
            total_return += float(batch.transition.reward.sum())
            self._report(
                Progress(
                    seed_index, episode, first + size, total_return, violations, last
                )
            )
        whole = jax.tree.map(lambda *parts: np.concatenate(parts), *batches)
        return agent, _to_record(whole, planned), seconds

    def _metrics(
        self,
        state: RunState,
        entry: EpisodeAccount,
        fit: dict[str, np.ndarray],
        episode: int,
        far: Transition,
    ) -> dict[str, Value]:
        metrics: dict[str, Value] = {
            "train/episode/number": episode,
            "train/episode/return": entry.episode_return,
            "train/episode/cost_return": entry.cost_return,
            "train/account/violating_steps": entry.violating_steps,
            "train/account/violation_events": entry.violation_events,
            "train/account/cumulative_violating_steps": int(state.violating_steps),
            "train/account/worst_excess": entry.worst_excess,
            "train/account/infeasible_plans": entry.infeasible_plans,
            "train/account/backup_steps": entry.backup_steps,
            "train/account/underpredicted_plans": entry.underpredicted_plans,
        }
        counts = {"prequential": entry.prequential, **self._coverage(state, far)}
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

    def _coverage(self, state: RunState, far: Transition) -> dict[str, Coverage]:
        """Coverage of rows that the model never trained or calibrated on."""
        data = state.data.transitions
        rows = np.asarray(self.agent.test_rows(state.data))
        held_out = self._belief(state.agent, data.obs, data.action)
        beyond = self._belief(state.agent, far.obs, far.action)
        everywhere = np.full(far.obs.shape[0], bool(rows.any()))

        def count(rows: Array, belief: Prediction, mask: np.ndarray) -> Coverage:
            return coverage(
                rows,
                belief.mean,
                belief.epistemic_std,
                belief.aleatoric_std,
                self.beta,
                mask,
            )

        return {
            "held_out": count(data.next_obs, held_out, rows),
            "out_of_distribution": count(far.next_obs, beyond, everywhere),
        }

    def _init(self, key: Array) -> RunState:
        capacity = self.config.capacity
        zeros = jnp.zeros(capacity)
        none = jnp.zeros(capacity, bool)
        obs = jnp.zeros((capacity, self.env.obs_dim))
        action = jnp.zeros((capacity, self.env.action_dim))
        buffers = Transition(obs, action, zeros, zeros, jnp.copy(obs), none, none)
        # Every leaf an array of its own: the buffers are donated when data are added.
        return RunState(
            agent=self.agent.init(key),
            data=Dataset(jax.tree.map(jnp.copy, buffers), jnp.zeros((), jnp.int32)),
            violating_steps=jnp.zeros((), jnp.int32),
            inside=jnp.zeros(3, jnp.int32),
            total=jnp.zeros((), jnp.int32),
        )

    def _random_steps(
        self, keys: Array, agent: PyTree, env_state: Any, obs: Array, num_steps: int
    ) -> tuple[tuple[PyTree, Any, Array], _Batch]:
        del num_steps

        def choose(key: Array, agent: PyTree, obs: Array) -> tuple:
            del obs
            shape = (self.env.action_dim,)
            action = jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
            return agent, action, {}

        return self._steps(choose, keys, agent, env_state, obs)

    def _planned_steps(
        self, keys: Array, agent: PyTree, env_state: Any, obs: Array, num_steps: int
    ) -> tuple[tuple[PyTree, Any, Array], _Batch]:
        del num_steps

        def choose(key: Array, agent: PyTree, obs: Array) -> tuple:
            agent, action, metrics = self.agent.act(key, agent, obs, explore=True)
            kept = {
                name: value
                for name, value in metrics.items()
                if name.startswith(("plan/", "prediction/"))
            }
            return agent, action, kept

        return self._steps(choose, keys, agent, env_state, obs)

    def _steps(
        self, choose: Callable, keys: Array, agent: PyTree, env_state: Any, obs: Array
    ) -> tuple[tuple[PyTree, Any, Array], _Batch]:
        def step(carry: tuple, key: Array) -> tuple[tuple, _Batch]:
            agent, env_state, obs = carry
            act_key, env_key = jax.random.split(key)
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
            batch = _Batch(transition, margin, metrics)
            return (agent, result.state, result.obs), batch

        return jax.lax.scan(step, (agent, env_state, obs), keys)

    def _far_transitions(self, key: Array) -> Transition:
        def one(key: Array) -> Transition:
            state_key, action_key, step_key = jax.random.split(key, 3)
            state = self.env.far_state(state_key)
            shape = (self.env.action_dim,)
            action = jax.random.uniform(action_key, shape, minval=-1.0, maxval=1.0)
            r = self.env.step(step_key, state, action)
            obs = self.env.observe(state)
            return Transition(
                obs, action, r.reward, r.cost, r.obs, r.terminated, r.truncated
            )

        return jax.vmap(one)(jax.random.split(key, self.config.val_buffer_size))

    def _length(self, episode: int) -> int:
        config = self.config
        return config.num_rollout_steps if episode else config.num_exploration_steps

    def _steps_before(self, episode: int) -> int:
        """Environment steps taken before an episode begins."""
        if episode == 0:
            return 0
        random = self.config.num_exploration_steps
        return random + (episode - 1) * self.config.num_rollout_steps

    def _last_return(self, state: RunState, episode: int) -> float | None:
        if episode < 2:
            return None
        start = self._steps_before(episode - 1)
        reward = state.data.transitions.reward
        return float(reward[start : start + self.config.num_rollout_steps].sum())

    def _forget_after(self, folder: Path, last: int) -> None:
        """Drops lines of episodes that will be run again, torn lines among them."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("violations.jsonl", "timing.jsonl"):
            accounts.truncate_jsonl(folder / name, last)


def _record_path(folder: Path, episode: int) -> Path:
    return folder / "episodes" / f"episode_{episode:03d}.npz"


def _chunk(length: int) -> int:
    """The largest divisor of an episode's length that is not above the limit."""
    return max(n for n in range(1, _STEPS_PER_CALL + 1) if length % n == 0)


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
    unknown, unknown_d = np.full(length, np.nan), np.full((length, dim), np.nan)
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
        predicted_cost=m.get("plan/cost", unknown),
        mean=m.get("prediction/mean", unknown_d),
        epistemic_std=m.get("prediction/epistemic_std", unknown_d),
        aleatoric_std=m.get("prediction/aleatoric_std", unknown_d),
    )


def _check_finite(
    named: dict[Any, Any], where: str, first_step: int | None = None
) -> None:
    """Raises on the first value that is not finite, naming it and its step."""
    for name, value in named.items():
        array = np.asarray(value) if not _is_key(value) else np.zeros(())
        if not np.issubdtype(array.dtype, np.floating):
            continue
        bad = ~np.isfinite(array)
        if bad.any():
            at = ""
            if first_step is not None:
                at = f" at step {first_step + int(np.argwhere(bad)[0][0])}"
            raise NonFiniteError(
                f"{name} is not finite{at} in {where}; stopped, the last good "
                "checkpoint is kept"
            )


def _is_key(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
