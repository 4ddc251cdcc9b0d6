"""Who works in a folder: locks that die with their process, and what SLURM was given.

Imports the standard library alone: `watch.py` looks every two seconds.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

LOCK = ".lock"
# Looking whether a lock is held may hold it for a moment.
_PATIENCE = 2.0
_SECONDS = 0.1


def submitted_file(folder: Path) -> Path:
    """Has the name of a job's SLURM jobs until they were reported on."""
    return folder / "slurm" / "submitted"


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[bool]:
    """Whether the folder could be locked; the lock dies with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        deadline = time.monotonic() + _PATIENCE
        while not _taken(file.fileno()):
            if time.monotonic() >= deadline:
                yield False
                return
            time.sleep(_SECONDS)
        yield True


def _taken(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_holder(path: Path) -> tuple[bool, int | None]:
    """Whether a process holds a folder's lock, and which, where the system tells."""
    try:
        with path.open("rb") as file:
            if pid := _pid_of_lock(os.fstat(file.fileno())):
                return True, pid
            # Not in the list of this machine's locks: held from another one, or free.
            # A shared lock for a moment is all that tells.
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True, None
            fcntl.flock(file, fcntl.LOCK_UN)
    except OSError:
        pass
    return False, None


def _pid_of_lock(status: os.stat_result) -> int | None:
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    wanted = f"{device}:{status.st_ino}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split()
        # WRITE: a shared one is of somebody who looks as well.
        if len(words) > 5 and words[1] == "FLOCK" and words[5] == wanted:
            if words[3] == "WRITE" and words[4].isdigit():
                return int(words[4])
    return None
