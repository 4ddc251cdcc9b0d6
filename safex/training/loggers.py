"""Where metrics go: local files always, wandb and TensorBoard beside them when asked.

Only the local files may stop a run: what they cannot take is lost. The others stand
behind a `SideLogger`, which keeps whatever they do (a dead network, a full disk, a
service that hangs) off the loop.
"""

import csv
import io
import json
import math
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from safex.training.files import whole_lines, write_text

Value = float | int | None

# Ends the id of an offline run that was to be online.
KEPT_OFFLINE = "-offline"
_ANSWER = 20  # seconds that wandb may take to answer
_RETRIES = 4
_WANDB_LOCK = threading.Lock()


class Logger(Protocol):
    """Takes named numbers; names are `phase/component/quantity`."""

    def log(self, metrics: Mapping[str, Value], step: int) -> None:
        """Writes one row at an environment step."""
        ...

    def close(self) -> None:
        """Finishes writing."""
        ...


class LocalLogger:
    """`metrics.csv` and `metrics.jsonl`, rewritten whole so that no row is ever torn.

    Args:
      folder: where the files stand.
      last_step: rows beyond this step are dropped: they belong to work that will be
        done again after a resume.
    """

    def __init__(self, folder: Path, last_step: int | None) -> None:
        self._folder = folder
        self._rows: list[dict[str, Value]] = []
        path = folder / "metrics.jsonl"
        if last_step is not None and path.exists():
            rows = whole_lines(path, "step")
            self._rows = [row for row in rows if row["step"] <= last_step]
        self._write()

    def log(self, metrics: Mapping[str, Value], step: int) -> None:
        """Adds a row; NaN is refused, None is an empty cell."""
        for name, value in metrics.items():
            if value is not None and not math.isfinite(value):
                raise ValueError(f"metric {name} is {value} at step {step}")
        self._rows.append({"step": step, **metrics})
        self._write()

    @property
    def rows(self) -> list[dict[str, Value]]:
        """Every row there is, with its `step`, those from before a resume first."""
        return [dict(row) for row in self._rows]

    def close(self) -> None:
        """Nothing is open."""

    def _write(self) -> None:
        if not self._rows:
            return
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        table = io.StringIO()
        writer = csv.DictWriter(table, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        lines = [json.dumps(row) + "\n" for row in self._rows]
        write_text(self._folder / "metrics.csv", table.getvalue())
        write_text(self._folder / "metrics.jsonl", "".join(lines))


def close_all(loggers: Sequence[Logger]) -> None:
    """Closes loggers; any number that hang hold a run up for one patience in all."""
    for logger in loggers:
        if isinstance(logger, SideLogger):
            logger.end()
    for logger in loggers:
        logger.close()


class SideLogger:
    """A logger beside the local files, on a thread of its own.

    `log`, `end` and `close` never raise, and only `close` waits. What the logger raises
    is told once, and it is left out from then on.

    Args:
      name: of what is logged to, for the warning.
      make: opens the logger; also called on the thread, since that may take long.
      warn: told once if it cannot be used.
      patience: seconds from `end` that `close` waits for what is left to be written;
        a process must end though a server does not answer.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Logger],
        warn: Callable[[str], None],
        patience: float = 60.0,
    ) -> None:
        self._name, self._make, self._warn = name, make, warn
        self._patience = patience
        self._deadline: float | None = None
        self._rows: queue.SimpleQueue[tuple[dict[str, Value], int] | None]
        self._rows = queue.SimpleQueue()
        self._failed = threading.Event()
        # A daemon, or a server that hangs would keep the process from ending.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def log(self, metrics: Mapping[str, Value], step: int) -> None:
        """Hands one row over."""
        if not self._failed.is_set():
            self._rows.put((dict(metrics), step))

    def end(self) -> None:
        """Says that no more rows come; its patience begins."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._patience
            self._rows.put(None)

    def close(self) -> None:
        """Waits for what was handed over, but no longer than its patience."""
        self.end()
        self._thread.join(max(0.0, (self._deadline or 0.0) - time.monotonic()))
        if self._thread.is_alive() and not self._failed.is_set():
            self._failed.set()
            self._warn(
                f"{self._name} has not answered for {self._patience:g} s and is left "
                "to itself; the local files are whole"
            )

    def _work(self) -> None:
        try:
            logger = self._make()
            while (row := self._rows.get()) is not None:
                logger.log(*row)
            logger.close()
        except Exception as error:
            if self._failed.is_set():
                return
            self._failed.set()
            reason = str(error).strip().splitlines()
            self._warn(
                f"{self._name} cannot be used and is left out, local files go on: "
                f"{reason[0] if reason else type(error).__name__}"
            )


class TensorBoardLogger:
    """One event file, made anew from the local rows at a resume: no step twice.

    Args:
      folder: where the event file goes; those that are there are replaced.
      history: rows from before, as `LocalLogger.rows`.
    """

    def __init__(self, folder: Path, history: Sequence[Mapping[str, Value]]) -> None:
        from tensorboardX.event_file_writer import EventsWriter  # noqa: PLC0415
        from tensorboardX.proto.event_pb2 import Event  # noqa: PLC0415
        from tensorboardX.summary import scalar  # noqa: PLC0415

        self._event, self._scalar = Event, scalar
        folder.mkdir(parents=True, exist_ok=True)
        before = list(folder.glob("events.out.tfevents.*"))
        # The file name has no more than the second in it.
        suffix = f".{uuid.uuid4().hex[:8]}"
        # Not its SummaryWriter: that writes on a thread whose errors nobody hears.
        self._writer = EventsWriter(str(folder / "events"), suffix)
        for row in history:
            self._write(row, int(row["step"] or 0))
        self._writer.flush()
        for path in before:
            path.unlink(missing_ok=True)

    def log(self, metrics: Mapping[str, Value], step: int) -> None:
        """Writes one row to disk."""
        self._write(metrics, step)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _write(self, metrics: Mapping[str, Value], step: int) -> None:
        for name, value in metrics.items():
            if value is not None and name != "step":
                event = self._event(
                    wall_time=time.time(),
                    step=step,
                    summary=self._scalar(name, value),
                )
                self._writer.write_event(event)


class WandbLogger:
    """A wandb run that holds every row of the local files, those from before as well.

    An offline run is written anew at a resume, under the same id, so that the newest
    folder of an id is all of it; an online run goes on behind its last step. A server
    that cannot be reached leaves an offline run, for `experiments/sync.py`.

    Args:
      folder: where runs are kept.
      settings: `project`, `group`, `job_type`, `mode`, `name`, `id`, `config`. Runs
        that share group and job_type differ only by seed.
      warn: told if the server cannot be reached.
      history: rows from before, as `LocalLogger.rows`.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        warn: Callable[[str], None],
        history: Sequence[Mapping[str, Value]] = (),
    ) -> None:
        import wandb  # noqa: PLC0415 - 1.5 s to import, and only when asked for

        folder.mkdir(parents=True, exist_ok=True)

        def init(**changes: Any) -> Any:
            given = {**settings, **changes}
            return wandb.init(
                dir=str(folder),
                reinit="create_new",  # seeds in lockstep have a run each
                resume="allow" if given["mode"] == "online" else None,
                settings=wandb.Settings(
                    init_timeout=_ANSWER,
                    # Who is not logged in is asked on a terminal.
                    login_timeout=_ANSWER,
                    silent=True,
                    console="off",
                    x_disable_stats=True,
                    # By default it tries for days, and a process would not end.
                    x_file_stream_retry_max=_RETRIES,
                    x_file_transfer_retry_max=_RETRIES,
                    x_graphql_retry_max=_RETRIES,
                ),
                **given,
            )

        # Its first call sets things up that all runs of a process share.
        with _WANDB_LOCK:
            try:
                self._run = init()
                if self._run.disabled:
                    raise ConnectionError("not logged in")
            except Exception as error:
                if settings["mode"] != "online":
                    raise
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                warn(
                    "wandb cannot be reached; the run is kept offline, and "
                    f"experiments/sync.py uploads it later: {reason}"
                )
                # The service keeps the id of the one that failed for itself.
                self._run = init(mode="offline", id=settings["id"] + KEPT_OFFLINE)
        first = self._run.step if self._run.resumed else 0
        for row in history:
            if (step := int(row["step"] or 0)) >= first:
                values = {name: row[name] for name in row if name != "step"}
                self.log(values, step)

    def log(self, metrics: Mapping[str, Value], step: int) -> None:
        """Sends one row."""
        known = {name: value for name, value in metrics.items() if value is not None}
        self._run.log(known, step=step)

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()
