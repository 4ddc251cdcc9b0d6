"""The safety account: what every episode cost, and what the planner said beforehand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from safex.models.calibration import Coverage, coverage
from safex.training.files import (
    naming,
    read_arrays,
    split_lines,
    whole_line,
    write_atomically,
    write_text,
)


class EpisodeRecord(NamedTuple):
    """One episode, step by step, as numpy arrays.

    The prediction is the planner's one-step belief at the time of the decision, before
    the model saw the outcome. A random episode has no plans: `planned` is all false and
    the plan and prediction fields are NaN (`feasible` true, `backup` false).

    Attributes:
      obs: `[T, D]` observation before the step.
      action: `[T, A]`.
      next_obs: `[T, D]` observation after the step.
      reward: `[T]`.
      cost: `[T, C]`.
      margin: `[T, C]` signed distance past each limit, in its unit; > 0 violates.
      terminated: `[T]` bool, the task's own end; episodes are run on to full length.
      truncated: `[T]` bool, the time limit's end.
      planned: `[T]` bool, a planner chose the action.
      feasible: `[T]` bool, the plan met the budget.
      backup: `[T]` bool, the backup acted.
      predicted_cost: `[T, C]` costs over the horizon that the plan was judged by.
      mean: `[T, D]` predicted next observation.
      epistemic_std: `[T, D]` calibrated.
      aleatoric_std: `[T, D]`.
      feasible_share: `[T]` of the candidates of the search's last iteration; None of a
        random episode, and in records of before it was kept.
      backup_reason: `[T]` int32, 0 where the plan acted, 1 for want of a feasible plan,
        2 where the budget was about to run out; None likewise.
    """

    obs: np.ndarray
    action: np.ndarray
    next_obs: np.ndarray
    reward: np.ndarray
    cost: np.ndarray
    margin: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    planned: np.ndarray
    feasible: np.ndarray
    backup: np.ndarray
    predicted_cost: np.ndarray
    mean: np.ndarray
    epistemic_std: np.ndarray
    aleatoric_std: np.ndarray
    feasible_share: np.ndarray | None = None
    backup_reason: np.ndarray | None = None


class EpisodeAccount(NamedTuple):
    """What is kept of an episode.

    Attributes:
      episode_return: sum of rewards.
      cost_return: sum of costs under each constraint.
      violating_steps: steps with a cost under any constraint.
      violation_events: uninterrupted runs of violating steps.
      worst_excess: largest distance past each limit, in its unit, 0 if never past.
      infeasible_plans: planned steps whose plan missed the budget.
      backup_steps: steps on which the backup acted.
      underpredicted_plans: planned steps after which more cost came within the horizon,
        under any constraint, than the plan had predicted.
      prequential: coverage of this episode by the model that had not seen it.
      feasible_share: mean share of feasible candidates over the steps, None if there
        were no plans.
      no_plan_steps: steps on which the backup acted for want of a feasible plan.
      budget_switch_steps: steps on which it acted to save the budget.
    """

    episode_return: float
    cost_return: tuple[float, ...]
    violating_steps: int
    violation_events: int
    worst_excess: tuple[float, ...]
    infeasible_plans: int
    backup_steps: int
    underpredicted_plans: int
    prequential: Coverage
    feasible_share: float | None = None
    no_plan_steps: int = 0
    budget_switch_steps: int = 0


def count_events(violating: np.ndarray) -> int:
    """Uninterrupted runs of true in `[T]`."""
    before = np.concatenate([[False], violating[:-1]])
    return int((violating & ~before).sum())


def worst_excess(record: EpisodeRecord) -> list[float]:
    """Largest distance past each of C limits where it costs, 0 if never past."""
    excess = np.where(record.cost > 0, np.maximum(record.margin, 0.0), 0.0)
    worst: list[float] = excess.max(0).tolist()
    return worst


def account(record: EpisodeRecord, beta: np.ndarray, horizon: int) -> EpisodeAccount:
    """Adds up an episode.

    Args:
      record: the episode.
      beta: `[D]` confidence width.
      horizon: steps that the costs of a plan are of, for predicted against actual cost.
    """
    violating = np.any(record.cost > 0, axis=1)
    # Cost of the next H steps from each step on, shorter at the end of the episode.
    total = np.concatenate([np.zeros_like(record.cost[:1]), record.cost.cumsum(0)])
    steps = np.arange(len(record.cost))
    ahead = total[np.minimum(steps + horizon, len(steps))] - total[steps]
    with np.errstate(invalid="ignore"):
        over = (ahead > record.predicted_cost + 1e-4).any(1)
    under = record.planned & over
    share, reason = record.feasible_share, record.backup_reason
    # A record of before the reason was kept is of one that had no budget switch.
    reason = record.backup.astype(int) if reason is None else reason
    return EpisodeAccount(
        episode_return=float(record.reward.sum()),
        cost_return=tuple(record.cost.sum(0).tolist()),
        violating_steps=int(violating.sum()),
        violation_events=count_events(violating),
        worst_excess=tuple(worst_excess(record)),
        infeasible_plans=int((record.planned & ~record.feasible).sum()),
        backup_steps=int(record.backup.sum()),
        underpredicted_plans=int(under.sum()),
        prequential=coverage(
            record.next_obs,
            record.mean,
            record.epistemic_std,
            record.aleatoric_std,
            beta,
            record.planned,
        ),
        feasible_share=None if share is None else float(share.mean()),
        no_plan_steps=int((reason == 1).sum()),
        budget_switch_steps=int((reason == 2).sum()),
    )


def violations(
    record: EpisodeRecord, episode: int, first_step: int, limits: Sequence[float]
) -> list[dict[str, Any]]:
    """One entry for each violating step, ready for JSON.

    Args:
      record: the episode.
      episode: its number, 0 for the random phase.
      first_step: environment steps taken before it.
      limits: each limit, in its unit.
    """
    return [
        {
            "step": int(first_step + t),
            "episode": episode,
            "step_in_episode": int(t),
            "state": [float(x) for x in record.next_obs[t]],
            "action": [float(x) for x in record.action[t]],
            "cost": record.cost[t].tolist(),
            "limits": list(limits),
            "excess": record.margin[t].tolist(),
            "predicted_cost": (
                record.predicted_cost[t].tolist() if record.planned[t] else None
            ),
            "plan_feasible": bool(record.feasible[t]) if record.planned[t] else None,
            "backup": bool(record.backup[t]),
        }
        for t in np.flatnonzero((record.cost > 0).any(1))
    ]


def save_record(path: Path, record: EpisodeRecord) -> None:
    """Writes a record as npz, whole or not at all."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            fields = record._asdict().items()
            known = {name: value for name, value in fields if value is not None}
            np.savez_compressed(file, **known)

    write_atomically(path, write)


def load_record(path: Path) -> EpisodeRecord:
    """Reads a record; npz without pickles runs no code.

    Raises:
      ValueError: the file is missing, broken or not a record.
      ResultsError: the system does not let it be read.
    """
    try:
        return EpisodeRecord(**read_arrays(path))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a whole episode record: {error}") from error


def append_jsonl(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    """Appends entries, one JSON object a line."""
    with naming(path), path.open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)


def truncate_jsonl(path: Path, last: int, key: str = "episode") -> None:
    """Keeps only whole lines whose `key` is not above the last one given.

    A torn last line can only belong to an episode that is run again.
    """
    kept = []
    try:
        lines = split_lines(path)
    except FileNotFoundError:
        return
    for line in lines:
        value = whole_line(line, key)
        if value is not None and value[key] <= last:
            kept.append(line + "\n")
    write_text(path, "".join(kept))
