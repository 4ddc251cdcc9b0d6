"""Whole episodes from the blocks of parallel environments, and what they cost.

An episode that lies across two blocks is joined here; nothing is read from a replay,
which forgets.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from safex.errors import ContractError
from safex.training.account import (
    EpisodeRecord,
    append_jsonl,
    count_events,
    save_record,
    worst_excess,
)
from safex.training.files import sealed, whole_lines
from safex.types import Transition

RANDOM, TRAIN = "random", "train"
# What is read of every entry, and of one of training.
_NEEDED = frozenset(
    ("length", "return", "cost_return", "violating_steps", "worst_excess")
)
_NEEDED_IN_TRAINING = _NEEDED | {"episode", "phase", "complete", "violation_events"}


class Running(NamedTuple):
    """The episodes under way, on the host.

    Attributes:
      steps: transitions `[max_steps, N, ...]`, rows from `length` on are padding.
      margin: `[max_steps, N, C]` signed distances past the limits.
      length: `[N]` int32 steps so far.
      random: `[N]` bool, the episode began in the random phase.
    """

    steps: Transition
    margin: np.ndarray
    length: np.ndarray
    random: np.ndarray


class Episode(NamedTuple):
    """One episode of training.

    Attributes:
      record: step by step.
      environment: which of the N.
      step: environment steps, of all, until it ended.
      phase: `random` if it began in the random phase, else `train`.
      complete: whether it ended by itself, and not with the run.
    """

    record: EpisodeRecord
    environment: int
    step: int
    phase: str
    complete: bool


def no_episodes(
    max_steps: int, num_envs: int, obs_dim: int, action_dim: int, num_constraints: int
) -> Running:
    """Nothing under way."""
    rows = (max_steps, num_envs)

    def zeros(*more: int, dtype: Any = np.float32) -> Any:
        return np.zeros((*rows, *more), dtype)

    steps = Transition(
        zeros(obs_dim),
        zeros(action_dim),
        zeros(),
        zeros(num_constraints),
        zeros(obs_dim),
        zeros(dtype=bool),
        zeros(dtype=bool),
    )
    length = np.zeros(num_envs, np.int32)
    return Running(steps, zeros(num_constraints), length, np.ones(num_envs, bool))


def join(
    running: Running, block: Transition, margin: np.ndarray, before: int, phase: str
) -> tuple[Running, list[Episode]]:
    """Adds a block to the episodes under way, and takes out those that ended.

    Args:
      running: is not changed.
      block: `[T, N, ...]` on the host.
      margin: `[T, N, C]`.
      before: environment steps, of all, before the block.
      phase: of the block.

    Returns:
      what is under way now, and the episodes in the order in which they ended.

    Raises:
      ContractError: an episode went on past `max_steps`.
    """
    running = jax.tree.map(np.array, running)
    over = np.asarray(block.terminated | block.truncated)
    num_steps, num_envs = over.shape
    ended: list[tuple[int, Episode]] = []
    for n in range(num_envs):
        first = 0
        for last in [*np.flatnonzero(over[:, n]).tolist(), None]:
            end = num_steps if last is None else last + 1
            _extend(running, block, margin, n, first, end, phase)
            if last is not None:
                step = before + end * num_envs
                ended.append((last, _take(running, n, step, complete=True)))
            first = end
    # Stable, so that those of one step come in the order of their environments.
    ended.sort(key=lambda pair: pair[0])
    return running, [episode for _, episode in ended]


def cut_off(running: Running, step: int) -> list[Episode]:
    """What the end of a run leaves under way."""
    running = jax.tree.map(np.array, running)
    return [
        _take(running, n, step, complete=False)
        for n in np.flatnonzero(running.length).tolist()
    ]


def _extend(
    running: Running,
    block: Transition,
    margin: np.ndarray,
    n: int,
    first: int,
    end: int,
    phase: str,
) -> None:
    """Copies rows of a block behind the episode of environment n, in place."""
    count, start = end - first, int(running.length[n])
    if count == 0:
        return
    if start + count > len(running.margin):
        raise ContractError(
            f"an episode of environment {n} goes on past max_steps "
            f"{len(running.margin)}: it must be truncated there"
        )
    if start == 0:
        running.random[n] = phase == RANDOM
    rows = slice(start, start + count)
    for buffer, values in zip(running.steps, block, strict=True):
        np.asarray(buffer)[rows, n] = values[first:end, n]
    running.margin[rows, n] = margin[first:end, n]
    running.length[n] += count


def _take(running: Running, n: int, step: int, *, complete: bool) -> Episode:
    """Takes the episode of environment n out, in place."""
    length = int(running.length[n])
    parts = jax.tree.map(lambda buffer: buffer[:length, n].copy(), running.steps)
    record = record_of(parts, running.margin[:length, n].copy())
    running.length[n] = 0
    phase = RANDOM if running.random[n] else TRAIN
    return Episode(record, n, step, phase, complete)


def first_episodes(block: Transition, margin: np.ndarray) -> list[EpisodeRecord]:
    """Of each environment in a block `[T, N, ...]` the first episode.

    The first, and not all that fit: of these, short ones are more.

    Raises:
      ContractError: it does not end within the block.
    """
    over = np.asarray(block.terminated | block.truncated)
    records = []
    for n in range(over.shape[1]):
        ends = np.flatnonzero(over[:, n])
        if not ends.size:
            raise ContractError(
                f"an episode of environment {n} goes on past max_steps {len(over)}: it "
                "must be truncated there"
            )
        rows = slice(0, int(ends[0]) + 1)
        part = jax.tree.map(lambda leaf, n=n, rows=rows: leaf[rows, n], block)
        records.append(record_of(part, margin[rows, n]))
    return records


def record_of(steps: Transition, margin: np.ndarray) -> EpisodeRecord:
    """Of transitions `[T, ...]` that nobody planned or predicted."""
    obs, cost = np.asarray(steps.obs), np.asarray(steps.cost)
    length = len(obs)
    unknown = np.full(obs.shape, np.nan, np.float32)
    return EpisodeRecord(
        obs=obs,
        action=np.asarray(steps.action),
        next_obs=np.asarray(steps.next_obs),
        reward=np.asarray(steps.reward),
        cost=cost,
        margin=np.asarray(margin),
        terminated=np.asarray(steps.terminated),
        truncated=np.asarray(steps.truncated),
        planned=np.zeros(length, bool),
        feasible=np.ones(length, bool),
        backup=np.zeros(length, bool),
        predicted_cost=np.full(cost.shape, np.nan, np.float32),
        mean=unknown,
        epistemic_std=unknown,
        aleatoric_std=unknown,
    )


def entry_of(record: EpisodeRecord) -> dict[str, Any]:
    """What is kept of every episode, ready for JSON."""
    violating = np.any(record.cost > 0, axis=1)
    return {
        "length": len(record.reward),
        "return": float(record.reward.sum(dtype=np.float64)),
        "cost_return": record.cost.sum(0, dtype=np.float64).tolist(),
        "violating_steps": int(violating.sum()),
        "violation_events": count_events(violating),
        "worst_excess": worst_excess(record),
        "terminated": bool(record.terminated[-1]),
    }


def append_entries(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    """Appends lines each of which has a seal: no other file vouches for them."""
    append_jsonl(path, [sealed(entry) for entry in entries])


def read_episodes(folder: Path) -> list[dict[str, Any]]:
    """The lines of a seed's `episodes.jsonl`, up to the first that is damaged."""
    return _read_entries(folder / "episodes.jsonl", _NEEDED_IN_TRAINING)


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """The same of its `evaluations.jsonl`."""
    return _read_entries(folder / "evaluations.jsonl", _NEEDED)


def _read_entries(path: Path, needed: frozenset[str]) -> list[dict[str, Any]]:
    try:
        lines = whole_lines(path, "step")
    except FileNotFoundError:
        return []
    return list(itertools.takewhile(lambda line: needed <= line.keys(), lines))


def save_newest(folder: Path, name: str, first: int, records: Sequence[Any]) -> None:
    """Writes records as `<name>_<number>.npz`, numbered on from `first`."""
    for number, record in enumerate(records, first):
        save_record(folder / f"{name}_{number:07d}.npz", record)


def newest_records(folder: Path, name: str) -> list[Path]:
    """The files of `save_newest`, the oldest first."""
    return sorted(folder.glob(f"{name}_*.npz"), key=_number)


def forget_records(folder: Path, name: str, first: int, last: int) -> None:
    """Removes the records before `first` and after `last`."""
    for path in newest_records(folder, name):
        if not first <= _number(path) <= last:
            path.unlink(missing_ok=True)


def _number(path: Path) -> int:
    number = path.stem.rpartition("_")[2]
    return int(number) if number.isdecimal() else -1
