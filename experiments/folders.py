"""A job's results folder: whose it is, who works in it, what is written there first."""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import safex
from experiments.configuration import (
    Experiment,
    differences,
    fingerprint,
    numbers_of,
    plain_of,
)
from experiments.engines.queue import queued_jobs
from experiments.locks import LOCK, lock, lock_holder
from safex.errors import ResultsError
from safex.training.checkpoint import fingerprint_of
from safex.training.files import write_text

_ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def open_results_dir(config: Experiment) -> Iterator[Path]:
    """The folder of this run, locked for as long as the process lives.

    With `results_dir` given it is that folder. Without, it is an unfinished run of this
    very configuration if there is one that nobody works on, else a new folder.

    Raises:
      ResultsError: the folder holds another configuration's run, something that is no
        run at all, or somebody else works in it.
    """
    if config.results_dir is not None:
        folder = Path(config.results_dir)
        _check_same_run(folder, config)
        with lock_job(folder) as holder:
            if holder:
                raise ResultsError(f"{holder} in results_dir {folder}")
            yield folder
        return
    parent = Path("results", config.task, f"{config.method}_{config.model_name}")
    for folder in sorted(parent.glob("*"), reverse=True):
        finished = (folder / name for name in ("summary.json", "grid.json"))
        if any(path.exists() for path in finished) or _saved_numbers(folder) is None:
            continue
        if _saved_numbers(folder) != numbers_of(config):
            continue
        with contextlib.ExitStack() as stack:
            try:
                holder = stack.enter_context(lock_job(folder))
            except ResultsError:
                # Not where this can be told.
                continue
            if not holder:
                yield folder
                return
    folder = _new_folder(parent)
    with lock_job(folder) as holder:
        if holder:
            raise ResultsError(f"{holder} in {folder}")
        yield folder


def _new_folder(parent: Path) -> Path:
    """A folder named by the time of day that nobody else has been given."""
    parent.mkdir(parents=True, exist_ok=True)
    name = time.strftime("%Y-%m-%d_%H-%M-%S")
    folder, number = parent / name, 1
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            # Several launches within a second.
            number += 1
            folder = parent / f"{name}.{number}"


def _check_same_run(folder: Path, config: Experiment) -> None:
    if folder.exists() and not folder.is_dir():
        raise ResultsError(f"results_dir {folder} is not a folder")
    # A launch that was killed right at its start leaves no more than hidden files.
    if not folder.exists() or all(
        child.name.startswith(".") for child in folder.iterdir()
    ):
        return
    saved = _saved_numbers(folder)
    if saved is None and _of_its_checkpoints(folder, config):
        return
    if saved is None:
        raise ResultsError(
            f"results_dir {folder} is not empty and has no readable config.json of a "
            "safex run; choose another folder"
        )
    different = differences(saved, numbers_of(config))
    if different:
        # The method explains most of the others.
        different.sort(key=lambda line: not line.startswith(("method:", "model_name:")))
        shown = "; ".join(different[:5])
        more = f" and {len(different) - 5} more" if len(different) > 5 else ""
        raise ResultsError(
            f"results_dir {folder} holds another configuration's run ({shown}{more}); "
            "choose another folder, or set these back to go on with that run"
        )


def _of_its_checkpoints(folder: Path, config: Experiment) -> bool:
    """Whether every checkpoint in a folder, of which there are some, is of this run.

    Each has the fingerprint of its configuration, so a damaged `config.json` can be
    written again.
    """
    from experiments.grid import expand  # noqa: PLC0415 - imports JAX

    ours = {folder / point.name: fingerprint(point.config) for point in expand(config)}
    found = list(folder.rglob("seed_*/checkpoints/*.ckpt"))
    return bool(found) and all(
        fingerprint_of(path) == ours.get(path.parents[2]) for path in found
    )


def _saved_numbers(folder: Path) -> dict[str, Any] | None:
    """The number-deciding part of a folder's config, None if it cannot be read."""
    try:
        saved = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None
    return saved if isinstance(saved, dict) else None


@contextlib.contextmanager
def lock_job(folder: Path) -> Iterator[str]:
    """Says who else works on a job; nobody, and the lock is held until the exit.

    Three things tell: the launch, which holds the job's lock; processes that outlived
    their launch, which hold those of their seeds; and what SLURM has not run yet,
    which no process can hold a lock for.

    Raises:
      ResultsError: SLURM should be asked, and is not here.
    """
    with lock(folder) as free:
        if not free:
            yield "another process is working"
            return
        # Asked before the seeds' locks are looked at, which units are about to take.
        queued = queued_jobs(folder)
        if queued:
            yield f"SLURM has jobs {', '.join(queued)} queued or running"
            return
        for path in sorted(folder.rglob(f"seed_*/{LOCK}")):
            if lock_holder(path)[0]:
                yield f"another process is working on {path.parent.name}"
                return
        yield ""


@contextlib.contextmanager
def lock_seeds(folders: Sequence[Path]) -> Iterator[None]:
    """Holds the locks of seeds while they are trained.

    Raises:
      ResultsError: another process works on one of them.
    """
    with contextlib.ExitStack() as stack:
        for folder in folders:
            if not stack.enter_context(lock(folder)):
                raise ResultsError(f"another process is working on {folder}")
        yield


def write_config(folder: Path, config: Experiment) -> None:
    """Writes the configuration of a launch, and the revision of the first.

    In this order: the first file tells whose folder it is, the last that all are there.
    """
    write_text(folder / "config.json", json.dumps(numbers_of(config), indent=2) + "\n")
    if not (folder / "config.yaml").exists():
        write_text(folder / "revision.txt", revision() + "\n")
    # Anew each time: launcher and shares may be others than before.
    plain = OmegaConf.create(plain_of(config))
    write_text(folder / "config.yaml", OmegaConf.to_yaml(plain))


def revision_of(folder: Path) -> str:
    """The revision that a run was begun with, that of now if it does not say."""
    try:
        return (folder / "revision.txt").read_text().strip()
    except OSError:
        return revision()


def revision() -> str:
    """Git commit of the code, marked if the tree has changes; else the version."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_ROOT), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return f"safex-{safex.__version__}"
