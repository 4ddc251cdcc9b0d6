"""Where metrics go: local files always, wandb beside them when asked."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from safex.training.files import whole_lines, write_text

Value = float | int | None


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
            self._rows = [row for row in whole_lines(path) if row["step"] <= last_step]
        self._write()

    def log(self, metrics: Mapping[str, Value], step: int) -> None:
        """Adds a row; NaN is refused, None is an empty cell."""
        for name, value in metrics.items():
            if value is not None and not math.isfinite(value):
                raise ValueError(f"metric {name} is {value} at step {step}")
        self._rows.append({"step": step, **metrics})
        self._write()

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


class WandbLogger:
    """A wandb run; whatever goes wrong there is said once and never stops the job.

    Args:
      folder: where offline runs are kept.
      settings: `project`, `group`, `job_type`, `mode`, `name`, `id`, `config`. Runs
        that share group and job_type differ only by seed.
      warn: told once if wandb cannot be used.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], warn: Callable[[str], None]
    ) -> None:
        self._warn = warn
        self._run: Any = None
        try:
            import wandb  # noqa: PLC0415 - 1.5 s to import, and only when asked for

            folder.mkdir(parents=True, exist_ok=True)
            self._run = wandb.init(
                dir=str(folder),
                reinit="create_new",  # seeds in lockstep have a run each
                resume="allow" if settings["mode"] == "online" else None,
                settings=wandb.Settings(
                    init_timeout=30, silent=True, console="off", x_disable_stats=True
                ),
                **settings,
            )
        except Exception as error:
            self._give_up(error)

    def log(self, metrics: Mapping[str, Value], step: int) -> None:
        """Sends one row."""
        if self._run is None:
            return
        known = {name: value for name, value in metrics.items() if value is not None}
        try:
            self._run.log(known, step=step)
        except Exception as error:
            self._give_up(error)

    def close(self) -> None:
        """Ends the run."""
        if self._run is None:
            return
        try:
            self._run.finish()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        reason = str(error).strip().splitlines()
        self._warn(
            "wandb cannot be used and is left out, local files go on: "
            f"{reason[0] if reason else type(error).__name__}"
        )
