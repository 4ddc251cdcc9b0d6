"""Shows how far a running job is, from its files alone.

    python experiments/watch.py DIR             # a live table, while any runs
    python experiments/watch.py DIR --once      # print it once

DIR is a job, with or without a grid, or a folder that holds jobs. For each seed: the
last episode that it learned from, that episode's return, violating steps so far, how
long ago a file of it changed, and whether the process that works in the job's folder
lives. It reads what it can of half-written or damaged files and changes nothing.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.locks import LOCK, lock_holder, submitted_file

if TYPE_CHECKING:
    from rich.table import Table

_DEPTH = 6  # folders below the one given
_EPISODE = "train/episode/number"
_RETURN = "train/episode/return"
_VIOLATIONS = "train/account/cumulative_violating_steps"


class Seed(NamedTuple):
    """How far one seed is; None is what its files do not say.

    Attributes:
      number: which seed of its run.
      episode: the last one that was learned from, 0 for the random phase; of an agent
        without a model the steps taken.
      last_return: of that episode.
      violating_steps: so far.
      age: seconds since any of its files changed.
      damaged: whether a file has lines that cannot be read.
      held: whether a process holds the seed's own lock, as workers of a job do.
      pid: of that process, where the system tells.
      error: why it failed, the first line that its process left; None if it did not.
    """

    number: int
    episode: int | None
    last_return: float | None
    violating_steps: int | None
    age: float | None
    damaged: bool
    held: bool
    pid: int | None
    error: str | None


class Watched(NamedTuple):
    """One run, a configuration with its seeds.

    Attributes:
      folder: where it lies.
      counted: what its seeds count, `episode` or `step`.
      episodes: planned ones, or the steps of an agent without a model; None where the
        configuration cannot be read.
      state: `done`, `running`, `queued` by SLURM, `stopped` or `waiting`.
      pid: of the process that works in it, where the system tells.
      seeds: of the run.
    """

    folder: Path
    counted: str
    episodes: int | None
    state: str
    pid: int | None
    seeds: list[Seed]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 after a one-line error."""
    arguments = _parse(argv)
    root = arguments.folder
    if not root.is_dir() or not (found := watch(root)):
        what = "holds no job" if root.is_dir() else "is not a folder"
        print(f"safex: {root} {what}: no config.yaml in it or below", file=sys.stderr)
        return 2
    from rich.console import Console  # noqa: PLC0415, after --help
    from rich.live import Live  # noqa: PLC0415

    console = Console()
    if arguments.once:
        console.print(table(found, root))
        return 0
    try:
        with Live(table(found, root), console=console, auto_refresh=False) as live:
            while any(run.state in ("running", "queued") for run in found):
                time.sleep(arguments.interval)
                found = watch(root)
                live.update(table(found, root), refresh=True)
    except KeyboardInterrupt:
        pass
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="watch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--once", action="store_true", help="print it and end")
    parser.add_argument(
        "--interval", type=float, default=2.0, help="seconds between looks (default: 2)"
    )
    arguments = parser.parse_args(argv)
    if not 0.1 <= arguments.interval <= 3600:
        parser.error(f"--interval must lie in [0.1, 3600], got {arguments.interval:g}")
    return arguments


def watch(root: Path) -> list[Watched]:
    """Looks at every run in a folder."""
    return [_look(folder) for folder in _runs(root, _DEPTH)]


def _runs(folder: Path, depth: int) -> Iterator[Path]:
    """Folders of runs; a job with a grid stands for its points."""
    try:
        below = sorted(child for child in folder.iterdir() if child.is_dir())
    except OSError:
        return
    is_run = (folder / "config.yaml").is_file()
    points = [child for child in below if (child / "config.yaml").is_file()]
    if is_run and not points:
        yield folder
    elif depth:
        for child in points if is_run else below:
            yield from _runs(child, depth - 1)


def _look(folder: Path) -> Watched:
    # NumPy comes with it, for which `--help` does not wait.
    from safex.training.files import read_mapping  # noqa: PLC0415

    config = read_mapping(folder / "config.yaml")
    episodes = _whole(config.get("train"), "num_model_updates")
    steps = _whole(config.get("train"), "total_steps", most=10**12)
    there = [path for path in folder.glob("seed_*") if path.name[5:].isdigit()]
    indices = {int(path.name[5:]) for path in there}
    expected = _whole(config.get("job"), "num_seeds_per_hparam") or 0
    counted = _EPISODE if steps is None else "step"
    seeds = [_seed(folder, i, counted) for i in sorted(indices | set(range(expected)))]
    # A grid's points are worked on under the job's lock.
    jobs = [folder]
    if (folder.parent / "config.yaml").is_file():
        jobs.append(folder.parent)
    holders = (lock_holder(job / LOCK) for job in jobs)
    held, pid = next((found for found in holders if found[0]), (False, None))
    if (folder / "summary.json").is_file():
        state = "done"
    elif held or any(seed.held for seed in seeds):
        state = "running"
    elif any(submitted_file(job).is_file() for job in jobs):
        state = "queued"
    else:
        state = "stopped" if indices else "waiting"
    pid = pid if state == "running" else None
    counts = "episode" if steps is None else "step"
    return Watched(folder, counts, steps or episodes, state, pid, seeds)


def _whole(section: Any, key: str, most: int = 1_000_000) -> int | None:
    value = section.get(key) if isinstance(section, dict) else None
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= most else None


def _seed(run: Path, index: int, counted: str) -> Seed:
    folder = run / f"seed_{index}"
    rows, torn = _lines(folder / "metrics.jsonl")
    last = rows[-1] if rows else {}
    violations, torn_too = _lines(folder / "violations.jsonl")
    episode = _number(last, counted)
    told = _number(last, _VIOLATIONS)
    # An episode's violations are written before it is learned from.
    counts = [int(told)] if told is not None else []
    counts += [len(violations)] if violations else []
    held, pid = lock_holder(folder / LOCK)
    return Seed(
        index,
        None if episode is None else int(episode),
        _last_known(rows, _RETURN),
        max(counts) if counts else None,
        _age(folder),
        torn or torn_too,
        held,
        pid,
        None if held else _error(folder / "error.txt"),
    )


def _error(path: Path) -> str | None:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return (lines[0] if lines else "failed")[:200]


def _number(row: dict[str, Any], key: str) -> float | None:
    value = row.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if math.isfinite(value) else None


def _last_known(rows: Sequence[dict[str, Any]], key: str) -> float | None:
    """Of the last row; of a round in which no episode ended, of the one before."""
    for row in reversed(rows):
        if key in row and row[key] is not None:
            return _number(row, key)
    return None


def _lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The objects of a file of JSON lines that can be read, and whether some cannot."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return [], False
    found, torn = [], False
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            found.append(value)
        else:
            torn = True
    return found, torn


def _age(folder: Path) -> float | None:
    """Seconds since a file in a folder, or in one below it, was changed."""
    newest = None
    for below in ("", "episodes", "checkpoints"):
        try:
            with os.scandir(folder / below) as entries:
                for entry in entries:
                    if entry.is_file(follow_symlinks=False):
                        changed = entry.stat(follow_symlinks=False).st_mtime
                        newest = max(newest or changed, changed)
        except OSError:
            continue
    return None if newest is None else max(0.0, time.time() - newest)


def table(runs: Sequence[Watched], root: Path) -> "Table":
    """One line a seed, violations in red."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    made = Table(
        box=box.SIMPLE_HEAD, title=Text(f"{root}, {time.strftime('%H:%M:%S')}")
    )
    several = len(runs) > 1
    if several:
        made.add_column("run", overflow="fold")
    # Those of a planner first, where there are both.
    counted = "\nor ".join(sorted({run.counted for run in runs})) or "episode"
    for heading in ("seed", counted, "return", "violations\nso far", "last\nchange"):
        made.add_column(heading, justify="right")
    made.add_column("state")
    for run in runs:
        for place, seed in enumerate(run.seeds):
            cells = [_name(run.folder, root) if place == 0 else ""] if several else []
            violations = seed.violating_steps
            red = "red" if violations else "green"
            made.add_row(
                *(Text(cell) for cell in cells),
                str(seed.number),
                _episode(seed.episode, run.episodes),
                "-" if seed.last_return is None else f"{seed.last_return:.1f}",
                Text("-") if violations is None else Text(str(violations), red),
                "-" if seed.age is None else _duration(seed.age),
                Text(_state(run, seed)),
            )
        if not run.seeds:
            cells = [_name(run.folder, root)] if several else []
            made.add_row(*map(Text, cells), "-", "-", "-", "-", "-", run.state)
        made.add_section()
    done = sum(run.state == "done" for run in runs)
    if several:
        made.caption = f"{done} of {len(runs)} runs done"
    return made


def _name(folder: Path, root: Path) -> str:
    return str(folder.relative_to(root)) if folder != root else folder.name


def _episode(episode: int | None, episodes: int | None) -> str:
    if episode is None:
        return "-"
    shown = "random" if episode == 0 else str(episode)
    return f"{shown}/{episodes}" if episodes and episode else shown


def _state(run: Watched, seed: Seed) -> str:
    words, pid = run.state, seed.pid or run.pid
    if run.state != "done" and seed.error is not None:
        words = f"failed: {seed.error}"
    elif (
        run.state == "running" and run.episodes and (seed.episode or 0) >= run.episodes
    ):
        words = "this seed done"
    elif run.state == "running" and pid:
        words += f", process {pid}"
    return f"{words}, lines damaged" if seed.damaged else words


def _duration(seconds: float) -> str:
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name} ago"
    return f"{seconds:.0f} s ago"


if __name__ == "__main__":
    sys.exit(main())
