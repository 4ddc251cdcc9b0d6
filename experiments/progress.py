"""Live progress: seed, episode, return, violations so far, time left."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from safex.config import OffPolicyTrainConfig, TrainConfig
from safex.training.loop import Progress
from safex.training.off_policy import RoundProgress


class Display:
    """A live table in a terminal, lines elsewhere.

    Args:
      console: where to print.
      labels: of the runs, in order: which seed, and of which point.
      quiet: print nothing but warnings.
    """

    def __init__(self, console: Console, labels: Sequence[str], *, quiet: bool) -> None:
        self._console = console
        self._labels, self._num_seeds = labels, len(labels)
        self._quiet = quiet
        self._start = time.monotonic()
        live = console.is_terminal and not quiet
        self._live = Live(console=console, refresh_per_second=4) if live else None

    def __enter__(self) -> "Display":
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

    def update(self, progress: Any) -> None:
        """Takes the newest word of the loop."""
        raise NotImplementedError

    def _left(self, done: int, left: int) -> str:
        """The time for what is left, at the pace of what this process did."""
        if done <= 0:
            return "..."
        seconds = left * (time.monotonic() - self._start) / done
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def make_display(
    console: Console,
    config: TrainConfig | OffPolicyTrainConfig,
    labels: Sequence[str],
    *,
    quiet: bool,
) -> Display:
    """What shows the progress of runs of a kind; arguments as of `LiveProgress`."""
    if isinstance(config, OffPolicyTrainConfig):
        return RoundsDisplay(console, config, labels, quiet=quiet)
    return LiveProgress(console, config, labels, quiet=quiet)


class LiveProgress(Display):
    """Episode after episode of agents that plan.

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
        super().__init__(console, labels, quiet=quiet)
        self._config = config
        self._rows: dict[int, Progress] = {}
        self._first: dict[int, Progress] = {}

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
        per_seed = self._config.num_model_updates * self._config.num_rollout_steps
        # Seeds go in order: those before the first that reported were finished before.
        left = (self._num_seeds - min(self._rows)) * per_seed - reached
        return self._left(done, left)


class RoundsDisplay(Display):
    """Round after round of agents without a model; arguments as of `LiveProgress`."""

    def __init__(
        self,
        console: Console,
        config: OffPolicyTrainConfig,
        labels: Sequence[str],
        *,
        quiet: bool,
    ) -> None:
        super().__init__(console, labels, quiet=quiet)
        self._config = config
        self._rows: dict[int, RoundProgress] = {}
        self._first: dict[int, int] = {}
        self._said = 0.0

    def update(self, progress: RoundProgress) -> None:
        """Takes the newest word of the loop; says no more than a line in 5 s."""
        if not self._first:
            self._start = time.monotonic()
        self._first.setdefault(progress.seed_index, progress.step)
        self._rows[progress.seed_index] = progress
        over = progress.step >= self._config.total_steps
        if self._live:
            self._live.update(self._table())
        elif not self._quiet and (over or time.monotonic() - self._said > 5.0):
            self._said = time.monotonic()
            said = zip(_HEADINGS, self._cells(progress), strict=True)
            text = "  ".join(f"{name} {cell}" for name, cell in said)
            self.say(f"{text}  time left {self._time_left()}")

    def _table(self) -> Table:
        table = Table(box=None)
        for name in (*_HEADINGS, "time left"):
            table.add_column(name, justify="right")
        newest = max(self._rows)
        for index, progress in self._rows.items():
            left = self._time_left() if index == newest else ""
            table.add_row(*self._cells(progress), left)
        return table

    def _cells(self, p: RoundProgress) -> list[str]:
        return [
            self._labels[p.seed_index],
            f"{p.step}/{self._config.total_steps}",
            _mean(p.episode_return),
            _means(p.episode_cost),
            f"{_mean(p.eval_return)} at cost {_means(p.eval_cost)}",
            str(p.violating_steps),
        ]

    def _time_left(self) -> str:
        done = sum(p.step - self._first[i] for i, p in self._rows.items())
        reached = sum(p.step for p in self._rows.values())
        seeds = self._num_seeds - min(self._rows)
        return self._left(done, max(0, seeds * self._config.total_steps - reached))


_HEADINGS = ("seed", "step", "return", "cost", "evaluated", "violations so far")


def _mean(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _means(values: Sequence[float] | None) -> str:
    return "-" if values is None else ", ".join(map(_mean, values))
