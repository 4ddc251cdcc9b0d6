"""What SLURM still has of a job, asked of SLURM itself.

A job's folder holds the name that its SLURM jobs go by from before the first of them is
submitted until it was reported on. So a crash leaves nothing behind that says otherwise
than the queue.
"""

import os
import shutil
import subprocess
import uuid
from pathlib import Path

from experiments.locks import submitted_file
from safex.errors import ResultsError
from safex.training.files import write_text


def scripts_folder(folder: Path) -> Path:
    """Where batch scripts and logs of a job's SLURM jobs are."""
    return folder / "slurm"


def new_queue_name(folder: Path) -> str:
    """A name for a job's SLURM jobs, written down before any can be submitted."""
    name = f"safex-{uuid.uuid4().hex[:12]}"
    write_text(submitted_file(folder), f"{name}\n")
    return name


def forget_queue_name(folder: Path) -> None:
    """Nothing is left in the queue that anyone need ask for."""
    submitted_file(folder).unlink(missing_ok=True)


def queued_jobs(folder: Path) -> list[str]:
    """Ids of SLURM jobs of this folder that wait or run, but for the calling one.

    Raises:
      ResultsError: there may be some, and SLURM cannot be asked.
    """
    try:
        name = submitted_file(folder).read_text().strip()
    except OSError:
        return []
    try:
        # What is being cleaned up after does no work any more.
        found = unfinished_jobs(name, "%F")
    except ResultsError as error:
        raise ResultsError(
            f"{folder} was handed to SLURM, and whether its jobs are through cannot be "
            f"told: {error}. Ask where SLURM is, or if they are, remove "
            f"{submitted_file(folder)}"
        ) from error
    ids = {job for job, state in found if state != "COMPLETING"}
    return sorted(ids - {os.environ.get("SLURM_JOB_ID", "")})


def unfinished_jobs(name: str, form: str) -> list[tuple[str, str]]:
    """What `squeue` shows in a format of a name's jobs, and the state of each.

    Raises:
      ResultsError: it is not there or fails.
    """
    if shutil.which("squeue") is None:
        raise ResultsError("there is no squeue on this machine")
    command = ["squeue", "--noheader", "--array", "--name", name]
    command += ["--format", f"{form} %T"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        raise ResultsError(f"squeue: {found.stderr.strip() or 'failed'}")
    lines = (line.split() for line in found.stdout.splitlines())
    return [(job, state) for job, state in lines]
