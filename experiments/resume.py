"""Runs what is missing or broken of jobs that were stopped, killed or damaged.

    python experiments/resume.py DIR [DIR ...]     # jobs, or folders that hold jobs
    python experiments/resume.py DIR --dry-run     # only say what would be run

A job's own configuration is what is run, whatever the files in `experiments/config` say
by now; a version of safex that has other settings refuses it. Every file that its
report needs is read first: an episode that cannot be read is run again from the
checkpoint before it, or its seed from the start, and ends with the same numbers. A job
that is complete, or that another process works on, is left alone.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.configuration import ExperimentConfig, read_mapping
from experiments.grid import expand
from experiments.running import run_job
from experiments.runs import read_plain
from safex.errors import SafexError
from safex.training.account import load_record
from safex.training.checkpoint import forget_checkpoints, newest_checkpoint
from safex.training.files import whole_lines
from safex.training.forecast import load_forecast


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 if a job could not be completed."""
    arguments = _parse(argv)
    code = 0
    for given in arguments.folders:
        jobs = list(find_jobs(given))
        if not jobs:
            code = _fail(given, "holds no job: there is no config.yaml in it")
        for folder in jobs:
            try:
                _resume(folder, dry_run=arguments.dry_run)
            except SafexError as error:
                # The other jobs can go on.
                code = _fail(folder, str(error))
    return code


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="resume",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--dry-run", action="store_true")
    return parser.parse_args(argv)


def _fail(folder: Path, reason: str) -> int:
    print(f"safex: {folder}: {reason}", file=sys.stderr)
    return 2


def find_jobs(folder: Path) -> Iterator[Path]:
    """The jobs in a folder, itself included; points of a grid are no jobs."""
    if (folder / "config.yaml").is_file():
        yield folder
    elif folder.is_dir():
        for child in sorted(folder.iterdir()):
            yield from find_jobs(child)


def _resume(folder: Path, *, dry_run: bool) -> None:
    """Completes one job.

    Raises:
      SafexError: its configuration is refused by now, or it is being worked on.
    """
    plain = read_plain(folder)
    # A folder that was moved is still the job's.
    plain["results_dir"] = str(folder)
    config = read_mapping(plain)
    missing = _missing_of_all(folder, config)
    if not missing and _reported(folder, config):
        print(f"{folder}: complete")
        return
    for seed, first in missing.items():
        restart = newest_checkpoint(seed / "checkpoints", first - 1) + 1
        print(f"{seed}: from episode {restart} on")
    if not missing:
        print(f"{folder}: its report")
    if dry_run:
        return

    def prepare() -> None:
        # Looked at again: somebody may have worked on it until now.
        for seed, first in _missing_of_all(folder, config).items():
            forget_checkpoints(seed / "checkpoints", first - 1)

    run_job(config, prepare)


def _missing_of_all(folder: Path, config: ExperimentConfig) -> dict[Path, int]:
    """`_missing` of every point of a job."""
    return {
        seed: first
        for point in expand(config)
        for seed, first in _missing(folder / point.name, point.config)
    }


def _missing(folder: Path, config: ExperimentConfig) -> Iterator[tuple[Path, int]]:
    """Seeds of one point that are not whole, and their first episode that is not."""
    episodes = config.train.num_model_updates + 1
    for index in range(config.job.num_seeds_per_hparam):
        seed = folder / f"seed_{index}"
        first = _first_broken(seed, episodes)
        if first < episodes:
            yield seed, first


def _first_broken(seed: Path, episodes: int) -> int:
    """The first episode of which a file cannot be read, `episodes` if none."""
    for episode in range(episodes):
        try:
            load_record(seed / "episodes" / f"episode_{episode:03d}.npz")
        except ValueError:
            return episode
    whole = min(
        len(_whole_rows(seed / name)) for name in ("metrics.jsonl", "timing.jsonl")
    )
    whole = min(whole, _first_lost_violation(seed / "violations.jsonl", episodes))
    try:
        load_forecast(seed / "forecast.npz")
    except ValueError:
        whole = min(whole, episodes - 1)
    return min(whole, episodes)


def _whole_rows(path: Path) -> list[Any]:
    """Rows from the start on that can be read, one an episode."""
    try:
        return whole_lines(path)
    except OSError:
        return []


def _first_lost_violation(path: Path, episodes: int) -> int:
    """The first episode whose violations cannot all be read, `episodes` if none."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return 0
    found = whole_lines(path)
    if len(found) == len(text.splitlines()):
        return episodes
    return found[-1]["episode"] if found else 0


def _reported(folder: Path, config: ExperimentConfig) -> bool:
    """Whether the job got as far as writing its numbers down, readably."""
    name = "grid.json" if config.job.grid else "summary.json"
    try:
        json.loads((folder / name).read_text())
    except (OSError, ValueError):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
