"""Live progress: seed, episode, return, violations so far, time left."""

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from safex.config import TrainConfig
from safex.training.loop import Progress


class LiveProgress:
    """A live table in a terminal, one line an episode elsewhere.

    Args:
      console: where to print.
      config: how many steps and episodes there are.
      labels: of the runs, in order: which seed, and of which point.
      quiet: print nothing but warnings.
    """

    def __init__(
        self,
        console: Console,
        config: TrainConfig,
        labels: Sequence[str],
        *,
        quiet: bool,
    ) -> None:
        self._console, self._config = console, config
        self._labels, self._num_seeds = labels, len(labels)
        self._quiet = quiet
        self._rows: dict[int, Progress] = {}
        self._start = time.monotonic()
        self._first: dict[int, Progress] = {}
        live = console.is_terminal and not quiet
        self._live = Live(console=console, refresh_per_second=4) if live else None

    def __enter__(self) -> "LiveProgress":
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.__exit__(kind, error, traceback)

    def say(self, message: str) -> None:
        """Prints a line above the table."""
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)

    def update(self, progress: Progress) -> None:
        """Takes the newest word of the loop."""
        if not self._first:
            self._start = time.monotonic()
        # What was done before a resume took none of this process's time.
        self._first.setdefault(progress.seed_index, progress)
        self._rows[progress.seed_index] = progress
        if self._live:
            self._live.update(self._table())
        elif not self._quiet and progress.step == self._length(progress.episode):
            self.say(
                f"seed {self._labels[progress.seed_index]}  "
                f"{self._episode(progress)}  return {progress.episode_return:8.1f}  "
                f"violations so far {progress.violating_steps}  "
                f"time left {self._time_left()}"
            )

    def _table(self) -> Table:
        table = Table(box=None)
        for name in ("seed", "episode", "step", "return", "last return"):
            table.add_column(name, justify="right")
        table.add_column("violations so far", justify="right")
        table.add_column("time left", justify="right")
        newest = max(self._rows)
        for index, p in self._rows.items():
            last = "" if p.last_return is None else f"{p.last_return:.1f}"
            table.add_row(
                self._labels[index],
                self._episode(p),
                f"{p.step}/{self._length(p.episode)}",
                f"{p.episode_return:.1f}",
                last,
                f"[{'red' if p.violating_steps else 'green'}]{p.violating_steps}",
                self._time_left() if index == newest else "",
            )
        return table

    def _episode(self, progress: Progress) -> str:
        if progress.episode == 0:
            return "random"
        return f"{progress.episode}/{self._config.num_model_updates}"

    def _length(self, episode: int) -> int:
        config = self._config
        return config.num_rollout_steps if episode else config.num_exploration_steps

    def _steps_done(self, p: Progress) -> int:
        """Steps up to a moment, random ones left out: they take no time."""
        done = (p.episode - 1) * self._config.num_rollout_steps + p.step
        return done if p.episode else 0

    def _time_left(self) -> str:
        reached = sum(map(self._steps_done, self._rows.values()))
        done = reached - sum(map(self._steps_done, self._first.values()))
        if done <= 0:
            return "..."
        per_seed = self._config.num_model_updates * self._config.num_rollout_steps
        # Seeds go in order: those before the first that reported were finished before.
        left = (self._num_seeds - min(self._rows)) * per_seed - reached
        seconds = left * (time.monotonic() - self._start) / done
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
