"""Trains one unit of a job that was launched; engines call it, one process a unit.

    python experiments/work.py DIR 3          # the fourth unit of the newest launch
    python experiments/work.py DIR --report   # report on what is complete

DIR is the job's folder, with the `launch.json` that says what the units are.
"""

import argparse
import os
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safex.errors import SafexError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, 1 if seeds failed, 2 if it was refused."""
    arguments = _parse(argv)
    if arguments.attached:
        threading.Thread(target=_end_with_launch, daemon=True).start()
    if arguments.cores:
        _stay_on([int(core) for core in arguments.cores.split(",")])
    try:
        if arguments.report:
            return _report(arguments.folder)
        return _work(arguments.folder, arguments.unit)
    except SafexError as error:
        print(f"safex: {error}", file=sys.stderr)
        return 2


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="work",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("unit", type=int, nargs="?", metavar="UNIT")
    what.add_argument("--report", action="store_true")
    parser.add_argument(
        "--attached", action="store_true", help="end when standard input is closed"
    )
    parser.add_argument("--cores", default="", help="stay on these, e.g. 0,1")
    return parser.parse_args(argv)


def _end_with_launch() -> None:
    """Ends this process when the one that holds its standard input is gone."""
    # Not by way of `sys.stdin`, whose lock this thread would keep to the very end.
    while os.read(0, 1):
        pass
    # At any moment, as a kill would: what is on disk is whole.
    os._exit(3)


def _stay_on(cores: Sequence[int]) -> None:
    """Before JAX is imported, which makes threads for the cores it may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def _work(folder: Path, number: int) -> int:
    # After the cores were chosen.
    from rich.console import Console  # noqa: PLC0415

    from experiments.jobs import read_launch  # noqa: PLC0415
    from experiments.progress import make_display  # noqa: PLC0415
    from experiments.runtime import set_up_jax  # noqa: PLC0415
    from experiments.training import ERROR_FILE, train_units  # noqa: PLC0415

    set_up_jax()
    job, units = read_launch(folder)
    unit = units[number]
    console = Console(width=200)
    labels = [job.label_of(run) for run in unit.runs]
    quiet = not job.config.verbose
    with make_display(console, job.config.train, labels, quiet=quiet) as progress:
        where = f"{socket.gethostname()}, process {os.getpid()}"
        progress.say(f"seeds {', '.join(labels)} start on {where}")
        train_units(job, folder, [unit], progress)
    seeds = [job.folder_of(folder, run) for run in unit.runs]
    return int(any((seed / ERROR_FILE).exists() for seed in seeds))


def _report(folder: Path) -> int:
    from rich.console import Console  # noqa: PLC0415

    from experiments.folders import lock_job  # noqa: PLC0415
    from experiments.jobs import read_launch  # noqa: PLC0415
    from experiments.running import finish, say_why  # noqa: PLC0415
    from experiments.runtime import set_up_jax  # noqa: PLC0415
    from safex.errors import ResultsError  # noqa: PLC0415

    job, _ = read_launch(folder)
    set_up_jax(job.config.job.num_cpus)
    with lock_job(folder) as holder:
        if holder:
            raise ResultsError(f"{holder} in {folder}")
        try:
            finish(job, folder, Console(width=100))
        except SafexError as error:
            return say_why(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
