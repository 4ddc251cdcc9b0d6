"""Training without a model against environment steps, with its evaluations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from safex.training.plots.style import (
    BLUE,
    GREEN,
    GREY,
    LIMIT,
    MARKER_LIMIT,
    integer_ticks,
    new_figure,
    note,
    pretty,
    shared_legend,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEARNED = 12  # panels at most


class Stretch(NamedTuple):
    """A part of training, or an evaluation.

    Attributes:
      step: environment steps at its end.
      value: mean return of its episodes; None if none ended in it.
      cost: C mean costs of its episodes; empty likewise.
      violating_steps: in it.
    """

    step: int
    value: float | None
    cost: tuple[float, ...]
    violating_steps: int


def plot_training(
    path: str | Path,
    training: Sequence[Sequence[Stretch]],
    evaluations: Sequence[Sequence[Stretch]],
    cost_budget: Sequence[float],
    limit_names: Sequence[str],
    *,
    random_steps: int,
) -> "Figure":
    """Violating steps so far, return, and the cost of an episode against its budget.

    Args:
      path: the image to write.
      training: of each seed the random phase and then its stretches.
      evaluations: of each seed its evaluations.
      cost_budget: C costs allowed in an episode.
      limit_names: C names of what is limited.
      random_steps: where the random phase ends.

    Returns:
      The figure, already written.

    Raises:
      ValueError: no seed.
    """
    if not training:
        raise ValueError("training must hold at least one seed")
    count = 2 + len(cost_budget)
    columns = {2: 2, 4: 2}.get(count, 3)
    rows = -(-count // columns)
    with new_figure(path, 3.4 * columns, 0.6 + 2.5 * rows) as figure:
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for panel in panels[count:]:
            panel.set_axis_off()
        panels = panels[:count]
        total = np.cumsum([[s.violating_steps for s in seed] for seed in training], 1)
        steps = _steps(training)
        _seeds(panels[0], np.r_[0, steps], np.c_[0 * total[:, :1], total], "training")
        panels[0].set(ylabel="violating steps so far", ylim=(0, None))
        if not total.any():
            note(panels[0], "no violating step in any seed", 0.5, 0.5)
            panels[0].set_ylim(-0.06, 1.12)
        rest, marks = steps[1:], _steps(evaluations)
        _seeds(panels[1], rest, _values(training, 1), "training")
        _seeds(panels[1], marks, _values(evaluations, 0), "evaluation", GREEN)
        panels[1].set_ylabel("episode return")
        for c, panel in enumerate(panels[2:]):
            _seeds(panel, rest, _costs(training, 1, c), "training")
            _seeds(panel, marks, _costs(evaluations, 0, c), "evaluation", GREEN)
            panel.axhline(
                cost_budget[c],
                color=LIMIT,
                linestyle="--",
                linewidth=1.2,
                label="budget",
            )
            top = max(1.0, panel.get_ylim()[1], 1.15 * cost_budget[c])
            panel.set(ylabel="episode cost", ylim=(-0.04 * top, top))
            panel.set_title(f"{pretty(limit_names[c])}, budget {cost_budget[c]:g}")
        for panel in panels:
            if random_steps:
                panel.axvspan(
                    0, random_steps, color=GREY, alpha=0.15, lw=0, label="random phase"
                )
            panel.set(xlabel="environment steps", xlim=(0, steps[-1]))
            _thousands(panel)
        integer_ticks(panels[0].yaxis)
        shared_legend(figure, panels, columns=5)
    return figure


def plot_learned(
    path: str | Path,
    curves: Mapping[str, Sequence[tuple[Sequence[int], Sequence[float]]]],
) -> "Figure":
    """What the agents said of their updates, a panel for each name.

    Args:
      path: the image to write.
      curves: by name, of each seed steps and values; what concerns multipliers and KL
        comes first if there is no room for all.

    Returns:
      The figure, already written.

    Raises:
      ValueError: nothing to draw.
    """
    if not curves:
        raise ValueError("curves must hold at least one")
    names = sorted(curves, key=lambda name: not _telling(name))[:_LEARNED]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    with new_figure(path, 2.6 * columns, 0.4 + 1.75 * rows) as figure:
        panels = list(figure.subplots(rows, columns, squeeze=False, sharex=True).flat)
        for panel in panels[len(names) :]:
            panel.set_axis_off()
        for i, (panel, name) in enumerate(zip(panels, names, strict=False)):
            for steps, values in curves[name]:
                panel.plot(steps, values, color=BLUE, alpha=0.8, linewidth=0.9)
            panel.set_title(name, fontsize="small")
            _thousands(panel)
            if i + columns >= len(names):
                panel.set_xlabel("environment steps")
                panel.tick_params(labelbottom=True)
    return figure


def _telling(name: str) -> bool:
    return any(word in name for word in ("multiplier", "kl", "temperature", "price"))


def _steps(seeds: Sequence[Sequence[Stretch]]) -> npt.NDArray[np.int_]:
    return np.array([s.step for s in seeds[0]], dtype=int)


def _values(seeds: Sequence[Sequence[Stretch]], first: int) -> npt.NDArray[np.float64]:
    return np.array([[s.value for s in seed[first:]] for seed in seeds], float)


def _costs(
    seeds: Sequence[Sequence[Stretch]], first: int, c: int
) -> npt.NDArray[np.float64]:
    return np.array([[s.cost[c] for s in seed[first:]] for seed in seeds], float)


def _seeds(
    axes: "Axes",
    x: npt.NDArray[np.int_],
    curves: npt.NDArray[np.float64],
    label: str,
    color: str = BLUE,
) -> None:
    """Mean over seeds `[S, n]`, the band from the lowest to the highest."""
    several = len(curves) > 1
    if several:
        low, high = curves.min(axis=0), curves.max(axis=0)
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    marker = "o" if label == "evaluation" and len(x) <= MARKER_LIMIT else None
    what = f"{label}, mean of {len(curves)} seeds" if several else label
    axes.plot(
        x, curves.mean(axis=0), color=color, marker=marker, markersize=3, label=what
    )


def _thousands(axes: "Axes") -> None:
    """Steps as 20k."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: PLC0415

    def show(value: float, place: int | None = None) -> str:
        del place
        return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"

    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(show))
