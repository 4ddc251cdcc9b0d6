"""Which seeds of a job are whole: every file that its report needs can be read."""

import csv
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.configuration import Experiment, ModelFreeConfig
from safex.training.account import EpisodeRecord, load_record, violations
from safex.training.checkpoint import forget_checkpoints, newest_checkpoint
from safex.training.episodes import read_entries
from safex.training.files import whole_lines
from safex.training.forecast import load_forecast

# What the report reads of `timing.jsonl`.
_TIMED = frozenset(
    ("call_seconds", "fit_seconds", "seeds", "steps_per_call", "in_turn", "compiles")
)

_TIMED_ROUND = frozenset(
    ("collect_seconds", "update_seconds", "eval_seconds", "updates", "compiles")
)


def missing(folder: Path, config: Experiment) -> Iterator[tuple[Path, int]]:
    """Seeds of one point that are not whole, and their first episode that is not.

    Of agents without a model, which count steps, the first step.
    """
    for index in range(config.job.num_seeds_per_hparam):
        seed = folder / f"seed_{index}"
        first = first_missing(seed, config)
        if first is not None:
            yield seed, first


def first_missing(seed: Path, config: Experiment) -> int | None:
    """The first episode, or step, of a seed that is not whole; None if all are."""
    if isinstance(config, ModelFreeConfig):
        return _first_broken_step(seed, config)
    episodes = config.train.num_model_updates + 1
    first = _first_broken(seed, episodes)
    return first if first < episodes else None


def forget_broken(seed: Path, config: Experiment) -> str:
    """Makes a seed go on from before the first of its files that is not whole.

    The last checkpoint alone says nothing of the files beside it: numbers that damage
    changed would otherwise stand beside right ones, and nobody could tell any more.
    Nobody else may work on the seed meanwhile.

    Returns:
      what is to be said of it; nothing if the last checkpoint stays.
    """
    first = first_missing(seed, config)
    if first is None:
        return ""
    checkpoints = seed / "checkpoints"
    before = newest_checkpoint(checkpoints)
    forget_checkpoints(checkpoints, first - 1)
    restart = newest_checkpoint(checkpoints)
    if restart == before:
        return ""
    return (
        f"{seed}: not all of it is whole; from {what_counts(config)} {restart + 1} on"
    )


def what_counts(config: Experiment) -> str:
    """What the checkpoints of a run are numbered by."""
    return "step" if isinstance(config, ModelFreeConfig) else "episode"


def _first_broken(seed: Path, episodes: int) -> int:
    """The first episode of which a file cannot be read, `episodes` if none."""
    records = []
    for episode in range(episodes):
        try:
            path = seed / "episodes" / f"episode_{episode:03d}.npz"
            records.append(load_record(path))
        except ValueError:
            # What stands before it must be whole all the same.
            break
    metrics = _whole_rows(seed / "metrics.jsonl", "train/episode/number")
    whole = min(
        len(records),
        len(metrics),
        len(_whole_rows(seed / "timing.jsonl", "episode", _TIMED)),
        _first_other_row(seed / "metrics.csv", metrics),
        _first_lost_violation(seed / "violations.jsonl", episodes),
        _first_other_violation(seed / "violations.jsonl", records),
    )
    try:
        load_forecast(seed / "forecast.npz")
    except ValueError:
        whole = min(whole, episodes - 1)
    return min(whole, episodes)


def _first_broken_step(seed: Path, config: ModelFreeConfig) -> int | None:
    """The first step of a round of which a file cannot be read, None if all can."""
    try:
        rows = whole_lines(seed / "metrics.jsonl", "step")
        timing = whole_lines(seed / "timing.jsonl", "step")
    except OSError:
        return 0
    # A table is right as far as it says the same, as with episodes.
    rows = rows[: _first_other_row(seed / "metrics.csv", rows)]
    episodes = read_entries(seed / "episodes.jsonl")
    evaluations = read_entries(seed / "evaluations.jsonl")
    told = [entry["episode"] for entry in episodes]
    before = 0
    for number, row in enumerate(rows, 1):
        step = row["step"]
        complete = [e for e in episodes if e["step"] <= step and e.get("complete")]
        evaluated = [e for e in evaluations if e["step"] == step]
        whole = (
            row.get("train/round/number") == number
            and len(timing) >= number
            and timing[number - 1]["step"] == step
            and _TIMED_ROUND <= timing[number - 1].keys()
            and len(complete) == row.get("train/episode/number")
            and told[: len(complete)] == list(range(1, len(complete) + 1))
            and bool(evaluated) == ("eval/episode/return" in row)
            and len(evaluated) in (0, config.train.eval_episodes)
        )
        if not whole:
            return int(before) + 1
        before = step
    if before < config.train.total_steps or not evaluations:
        return int(before) + 1
    total = rows[-1]["train/account/cumulative_violating_steps"]
    if sum(e["violating_steps"] for e in episodes) != total:
        return 0
    return None


def _whole_rows(
    path: Path, number: str, needed: frozenset[str] = frozenset()
) -> list[dict[str, Any]]:
    """Rows from the start on that can be read, one an episode, which `number` names.

    None of `needed` may be missing that another row has.
    """
    try:
        rows = whole_lines(path, number)
    except OSError:
        return []
    needed = needed & {name for row in rows for name in row}
    whole = itertools.takewhile(
        lambda pair: pair[0] == pair[1][number] and needed <= pair[1].keys(),
        enumerate(rows),
    )
    return [row for _, row in whole]


def _first_other_row(path: Path, rows: Sequence[dict[str, Any]]) -> int:
    """The first episode of which the table says something else than `metrics.jsonl`.

    Which of the two is right, nobody knows. A table that merely lacks rows is written
    again with the last episode.
    """
    try:
        text = path.read_text(errors="replace")
    except OSError:
        text = ""
    whole = text[: text.rfind("\n") + 1]
    table = list(csv.DictReader(whole.splitlines()))
    for episode, (row, told) in enumerate(zip(rows, table, strict=False)):
        # An empty cell is a name that the row need not have, but not the reverse.
        cells = {name: _cell(row.get(name)) for name in told}
        if cells != told or not row.keys() <= told.keys():
            return episode
    return (
        len(rows)
        if whole == text and len(table) == len(rows)
        else max(len(rows) - 1, 0)
    )


def _cell(value: Any) -> str:
    """As `csv` writes it."""
    return "" if value is None else str(value)


def _first_lost_violation(path: Path, episodes: int) -> int:
    """The first episode whose violations cannot all be read, `episodes` if none."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return 0
    found = whole_lines(path, "episode")
    if len(found) == len(text.splitlines()):
        return episodes
    return int(found[-1]["episode"]) if found else 0


def _first_other_violation(path: Path, records: Sequence[EpisodeRecord]) -> int:
    """The first episode of whose violations the record knows otherwise."""
    try:
        found = whole_lines(path, "episode")
    except OSError:
        return 0
    limits = found[-1].get("limits", ()) if found else ()
    first_step = 0
    for episode, record in enumerate(records):
        told = [entry for entry in found if entry["episode"] == episode]
        known = violations(record, episode, first_step, limits)
        if len(told) != len(known) or not all(map(_agree, told, known)):
            return episode
        first_step += len(record.reward)
    return len(records)


def _agree(told: dict[str, Any], known: dict[str, Any]) -> bool:
    """Whether an entry says nothing else; one of an earlier version may say less."""
    return all(
        name in known and json.dumps(value) == json.dumps(known[name])
        for name, value in told.items()
    )
