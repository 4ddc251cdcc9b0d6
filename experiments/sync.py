"""Uploads the offline wandb runs of a folder to the server that one is logged in to.

    python experiments/sync.py DIR --dry-run     # say what would be uploaded
    python experiments/sync.py DIR

DIR is a job or a folder of jobs. A job that was resumed has several offline runs of one
id, the newest of which is whole; that one is uploaded. What was uploaded before is left
alone, as is what still runs, nothing is removed, and the command can be given again
after any failure.
"""

import argparse
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.locks import LOCK, lock_holder
from safex.errors import SafexError

_START = 60.0  # seconds that wandb may take to start
_ANSWER = 10.0  # seconds that the server may take to say anything
_PATIENCE = 900.0  # seconds that an upload may take


class SyncError(SafexError):
    """Nothing can be uploaded; the message says what to do."""


class Offline(NamedTuple):
    """A wandb run on disk.

    Attributes:
      path: its `.wandb` file.
      run_id: under which it belongs on the server.
      state: `new`, `uploaded` before, `replaced` by a newer one of its id, `online`,
        which uploaded itself while it ran, or `running`, which has more to come.
    """

    path: Path
    run_id: str
    state: str


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 if something was not uploaded."""
    arguments = _parse(argv)
    folder = arguments.folder
    if not folder.is_dir():
        return _fail(f"{folder} is not a folder")
    runs = find_runs(folder)
    new = [run for run in runs if run.state == "new"]
    for run in runs:
        if run.state != "new":
            print(f"{_name(run, folder)}: {_WORDS[run.state]}")
    if not new:
        print(f"nothing to upload: {len(runs)} wandb runs in {folder}")
        return 0
    if arguments.dry_run:
        for run in new:
            print(f"{_name(run, folder)}: would be uploaded as {run.run_id}")
        return 0
    try:
        url = check_server()
    except SyncError as error:
        return _fail(f"{error}; nothing was uploaded and nothing is lost: {_left(new)}")
    failed = []
    for run in new:
        if reason := upload(run):
            failed.append(run)
            print(f"{_name(run, folder)}: not uploaded: {reason}", file=sys.stderr)
        else:
            print(
                f"{_name(run, folder)}: uploaded to {url} as {run.run_id}", flush=True
            )
    if failed:
        return _fail(f"{len(failed)} of {len(new)} not uploaded: {_left(failed)}")
    return 0


_WORDS = {
    "uploaded": "already uploaded",
    "replaced": "replaced by a newer run of its id, which holds all of it",
    "online": "left alone, it was uploaded while it ran",
    "running": "left for later, its job is running",
}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="sync",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--dry-run", action="store_true")
    return parser.parse_args(argv)


def _fail(reason: str) -> int:
    print(f"safex: {reason}", file=sys.stderr)
    return 2


def _left(runs: Sequence[Offline]) -> str:
    return f"{len(runs)} run{'' if len(runs) == 1 else 's'} can be uploaded later"


def _name(run: Offline, folder: Path) -> str:
    return str(run.path.parent.relative_to(folder.resolve()))


def find_runs(folder: Path) -> list[Offline]:
    """Every wandb run below a folder, the older ones of an id first."""
    # Ends the id of a run that was to be online, safex.training.loggers.KEPT_OFFLINE;
    # not imported, for that loads NumPy.
    kept_offline = "-offline"
    # wandb's own link to the newest run would show it twice.
    found = {path.resolve() for path in folder.rglob("*run-*/run-*.wandb")}
    by_id: dict[tuple[Path, str], list[Path]] = {}
    for path in found:
        run_id = path.stem.removeprefix("run-").removesuffix(kept_offline)
        # Jobs in other folders are other runs, though a copy may have the same id.
        by_id.setdefault((path.parents[1], run_id), []).append(path)
    runs = []
    for (_, run_id), paths in sorted(by_id.items()):
        # The name of the folder has the time of its start in it.
        paths.sort(key=lambda path: path.parent.name.removeprefix("offline-"))
        for path in paths:
            newest = path == paths[-1]
            if _is_uploaded(path):
                state = "uploaded"
            elif not newest:
                state = "replaced"
            elif not path.parent.name.startswith("offline-"):
                state = "online"
            elif any(lock_holder(parent / LOCK)[0] for parent in path.parents):
                state = "running"
            else:
                state = "new"
            runs.append(Offline(path, run_id, state))
    return runs


def _is_uploaded(path: Path) -> bool:
    """Whether wandb's mark is there, and no row came after it."""
    try:
        uploaded = path.with_suffix(".wandb.synced").stat().st_mtime_ns
        return uploaded >= path.stat().st_mtime_ns
    except OSError:
        return False


def check_server() -> str:
    """The server's address, when it answers and somebody is logged in to it.

    Raises:
      SyncError: wandb is missing, nobody answers, or nobody is logged in.
    """
    # Asked in a process without a terminal, where wandb cannot prompt.
    code = (
        "import wandb; print('url', wandb.setup().settings.base_url, flush=True); "
        "print('key', bool(wandb.api.api_key))"
    )
    try:
        done = _python("-c", code, timeout=_START)
    except subprocess.TimeoutExpired as error:
        raise SyncError(f"wandb does not start within {_START:g} s") from error
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    if "url" not in said:
        raise SyncError("wandb cannot be used: " + _last_line(done.stderr))
    url = said["url"]
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER):
            pass
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise SyncError(f"{url} cannot be reached ({reason})") from error
    if said.get("key") != "True":
        raise SyncError(
            f"not logged in to {url}: run `wandb login`, or set WANDB_API_KEY"
        )
    return url


def upload(run: Offline) -> str | None:
    """Uploads a run with wandb's own command; returns why not, None if it did."""
    command = ["-m", "wandb", "sync", "--id", run.run_id, str(run.path)]
    # A mark from before rows were added says nothing of this upload.
    run.path.with_suffix(".wandb.synced").unlink(missing_ok=True)
    try:
        done = _python(*command, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        return f"no end after {_PATIENCE:g} s"
    # wandb marks what it has uploaded; its exit code is 0 in other cases too.
    if _is_uploaded(run.path):
        return None
    return (
        _last_line(done.stderr + done.stdout) or f"wandb sync ended {done.returncode}"
    )


def _python(*arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


if __name__ == "__main__":
    sys.exit(main())
