"""Which seeds of a job are whole: every file that its report needs can be read."""

import collections
import csv
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.configuration import Experiment, ModelFreeConfig
from safex.errors import CheckpointError
from safex.training.account import EpisodeRecord, load_record, violations
from safex.training.checkpoint import (
    forget_checkpoints,
    newest_checkpoint,
    newest_whole_checkpoint,
)
from safex.training.episodes import read_episodes, read_evaluations
from safex.training.files import SEAL, reading, whole_lines
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
    """The first episode, or step, of a seed that is not whole; None if all are.

    Raises:
      ResultsError: the system does not let a file be read; it may be whole.
    """
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

    Raises:
      ResultsError: as `first_missing`; nothing is removed then.
    """
    first = first_missing(seed, config)
    if first is None:
        return ""
    checkpoints = seed / "checkpoints"
    if newest_checkpoint(checkpoints, first - 1) == newest_checkpoint(checkpoints):
        return ""
    text = goes_on_from(seed, first - 1, config)
    forget_checkpoints(checkpoints, first - 1)
    return f"{seed}: not all of it is whole; {text}"


def goes_on_from(seed: Path, at_most: int, config: Experiment) -> str:
    """Says what a seed goes on from: its newest checkpoint that is whole.

    Args:
      seed: its folder.
      at_most: the last episode, or step, whose checkpoint may be taken.
      config: of its point.

    Raises:
      ResultsError: the system does not let a checkpoint be read.
    """
    try:
        last = newest_whole_checkpoint(seed / "checkpoints", at_most)
    except CheckpointError as error:
        return str(error)
    return f"from {what_counts(config)} {last + 1} on"


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
    finished = len(metrics) >= episodes
    whole = min(
        len(records),
        len(metrics),
        len(_whole_rows(seed / "timing.jsonl", "episode", _TIMED)),
        _first_other_row(seed / "metrics.csv", metrics, finished=finished),
        _first_other_violation(seed / "violations.jsonl", records),
    )
    try:
        load_forecast(seed / "forecast.npz")
    except ValueError:
        whole = min(whole, episodes - 1)
    return min(whole, episodes)


def _first_broken_step(seed: Path, config: ModelFreeConfig) -> int | None:
    """The first step of a round of which a file cannot be read, None if all can."""
    total_steps = config.train.total_steps
    rows = _lines(seed / "metrics.jsonl", "step")
    timing = _lines(seed / "timing.jsonl", "step")
    # A table is right as far as it says the same, as with episodes.
    finished = bool(rows) and rows[-1]["step"] >= total_steps
    rows = rows[: _first_other_row(seed / "metrics.csv", rows, finished=finished)]
    episodes, evaluations = read_episodes(seed), read_evaluations(seed)
    told = [entry["episode"] for entry in episodes]
    before = last = 0
    for number, row in enumerate(rows, 1):
        step = row["step"]
        complete = [e for e in episodes if e["step"] <= step and e["complete"]]
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
        before, last = step, before
    if before < total_steps or not evaluations:
        return int(before) + 1
    # Each step is of one episode.
    violating = rows[-1].get("train/account/cumulative_violating_steps")
    steps = sum(e["length"] for e in episodes)
    if (steps, sum(e["violating_steps"] for e in episodes)) == (before, violating):
        return None
    # Where all have a seal, none can lack but those that the end of the run cut off.
    return int(last) + 1 if all(SEAL in e for e in episodes) else 0


def _lines(path: Path, number: str) -> list[dict[str, Any]]:
    """As `whole_lines`, none if there is no such file."""
    try:
        return whole_lines(path, number)
    except FileNotFoundError:
        return []


def _whole_rows(
    path: Path, number: str, needed: frozenset[str] = frozenset()
) -> list[dict[str, Any]]:
    """Rows from the start on that can be read, one an episode, which `number` names.

    None of `needed` may be missing that another row has.
    """
    rows = _lines(path, number)
    needed = needed & {name for row in rows for name in row}
    whole = itertools.takewhile(
        lambda pair: pair[0] == pair[1][number] and needed <= pair[1].keys(),
        enumerate(rows),
    )
    return [row for _, row in whole]


def _first_other_row(
    path: Path, rows: Sequence[dict[str, Any]], *, finished: bool
) -> int:
    """The first episode of which the table says something else than `metrics.jsonl`.

    Which of the two is right, nobody knows. A table that merely lacks rows is written
    again with the last episode. One that has more, as a kill between the two leaves it,
    is right as far as the rows go, unless they are all that there will be: it is
    written again with the next.
    """
    try:
        with reading(path):
            text = path.read_text(errors="replace")
    except FileNotFoundError:
        text = ""
    whole = text[: text.rfind("\n") + 1]
    table: list[dict[str, Any]] = []
    try:
        for told in csv.DictReader(io.StringIO(whole)):
            table.append(told)
    except csv.Error:
        # A row that agrees with none.
        table.append({})
    for episode, (row, told) in enumerate(zip(rows, table, strict=False)):
        # An empty cell is a name that the row need not have, but not the reverse.
        cells = {name: _cell(row.get(name)) for name in told}
        if cells != told or not row.keys() <= told.keys():
            return episode
    right = len(table) == len(rows) and whole == text
    if right or (len(table) > len(rows) and not finished):
        return len(rows)
    return max(len(rows) - 1, 0)


def _cell(value: Any) -> str:
    """As `csv` writes it."""
    return "" if value is None else str(value)


def _first_other_violation(path: Path, records: Sequence[EpisodeRecord]) -> int:
    """The first episode of whose violations the record knows otherwise.

    A line that is lost is one of them; of an episode without a record it says nothing.
    """
    found = _lines(path, "episode")
    # A wrong bit in those of one line is that line's.
    limits = collections.Counter(json.dumps(entry.get("limits", ())) for entry in found)
    common = json.loads(max(limits, key=lambda text: limits[text], default="[]"))
    first_step = 0
    for episode, record in enumerate(records):
        told = [entry for entry in found if entry["episode"] == episode]
        known = violations(record, episode, first_step, common)
        if len(told) != len(known) or not all(map(_agree, told, known)):
            return episode
        first_step += len(record.reward)
    # Without a violation as well the file is there, for whoever reads it.
    return len(records) if path.exists() else max(len(records) - 1, 0)


def _agree(told: dict[str, Any], known: dict[str, Any]) -> bool:
    """Whether an entry says nothing else; one of an earlier version may say less."""
    return all(
        name in known and json.dumps(value) == json.dumps(known[name])
        for name, value in told.items()
    )
