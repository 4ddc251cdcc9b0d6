"""Runs what is missing or broken of jobs that were stopped, killed or damaged.

    python experiments/resume.py DIR [DIR ...]     # jobs, or folders that hold jobs
    python experiments/resume.py DIR --dry-run     # only say what would be run
    python experiments/resume.py DIR --launcher local_parallel

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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.configuration import Experiment, read_mapping
from experiments.registry import KINDS
from safex.errors import SafexError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
      0, 1 if seeds failed, 2 if a job was refused, 130 if it was stopped.
    """
    arguments = _parse(argv)
    try:
        return _resume_all(arguments)
    except KeyboardInterrupt:
        print(
            "safex: stopped; the same command goes on from the last checkpoint",
            file=sys.stderr,
        )
        return 130


def _resume_all(arguments: argparse.Namespace) -> int:
    code = 0
    for given in arguments.folders:
        jobs = list(find_jobs(given))
        if not jobs:
            text = f"safex: {given}: holds no job: there is no config.yaml in it"
            print(text, file=sys.stderr)
            code = 2
        for folder in jobs:
            try:
                _resume(folder, arguments.launcher, dry_run=arguments.dry_run)
            except (SafexError, OSError) as error:
                # JAX takes seconds to import; what needs none does not wait for it.
                from experiments.running import say_why  # noqa: PLC0415

                # The other jobs can go on.
                code = max(code, say_why(error, f"safex: {folder}"))
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
    parser.add_argument(
        "--launcher",
        choices=list(KINDS["launcher"]),
        help="in place of the one that the job was last launched with",
    )
    return parser.parse_args(argv)


def find_jobs(folder: Path) -> Iterator[Path]:
    """The jobs in a folder, itself included; points of a grid are no jobs."""
    if (folder / "config.yaml").is_file():
        yield folder
    elif folder.is_dir():
        for child in sorted(folder.iterdir()):
            yield from find_jobs(child)


def _resume(folder: Path, launcher: str | None, *, dry_run: bool) -> None:
    """Completes one job.

    Raises:
      SafexError: its configuration is refused by now, or it is being worked on.
    """
    from experiments.runs import read_plain  # noqa: PLC0415

    plain = read_plain(folder)
    # A folder that was moved is still the job's.
    plain["results_dir"] = str(folder)
    if launcher and launcher != plain.get("launcher", {}).get("kind"):
        plain["launcher"] = {"kind": launcher}
    elif isinstance(plain.get("launcher"), dict) and "dry_run" in plain["launcher"]:
        # Of the launch before; whoever resumes a job wants it run.
        plain["launcher"]["dry_run"] = False
    config = read_mapping(plain)
    from experiments.running import run_job  # noqa: PLC0415, JAX: see above
    from experiments.wholeness import goes_on_from  # noqa: PLC0415

    lost = _missing_of_all(folder, config)
    if not lost and _reported(folder, config):
        print(f"{folder}: complete")
        return
    for seed, first in lost.items():
        print(f"{seed}: {goes_on_from(seed, first - 1, config)}")
    if not lost:
        print(f"{folder}: its report")
    if not dry_run:
        # Which looks again: somebody may have worked on it until now.
        run_job(config)


def _missing_of_all(folder: Path, config: Experiment) -> dict[Path, int]:
    """`missing` of every point of a job."""
    from experiments.grid import expand  # noqa: PLC0415
    from experiments.wholeness import missing  # noqa: PLC0415

    return {
        seed: first
        for point in expand(config)
        for seed, first in missing(folder / point.name, point.config)
    }


def _reported(folder: Path, config: Experiment) -> bool:
    """Whether the job got as far as writing its numbers down, readably."""
    from experiments.grid import expand  # noqa: PLC0415
    from safex.training.files import read_sealed  # noqa: PLC0415

    try:
        for point in expand(config):
            read_sealed(folder / point.name / "summary.json")
        if config.job.grid:
            json.loads((folder / "grid.json").read_text())
    except (OSError, ValueError):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
