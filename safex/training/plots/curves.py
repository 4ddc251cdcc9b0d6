"""How several experiments went over training, in one picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from safex.training.plots.style import (
    LIMIT,
    MARKER_LIMIT,
    PAGE,
    finite,
    integer_ticks,
    looks,
    new_figure,
    note,
    pretty,
    shared_legend,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NARROW = 4.5  # a figure narrower than this has its panels below each other


class Curves(NamedTuple):
    """What the seeds of one experiment did, one row a seed.

    Attributes:
      violations: `[S, E + 1]` violating steps, the random phase first.
      returns: `[S, E]` return of the planned episodes.
      costs: `[S, E, C]` cost return of the planned episodes under each constraint.
    """

    violations: npt.ArrayLike
    returns: npt.ArrayLike
    costs: npt.ArrayLike


def plot_curves(
    path: str | Path,
    experiments: Mapping[str, Curves],
    limits: Sequence[tuple[str, float | None]],
    *,
    width: float = PAGE,
) -> "Figure":
    """Violating steps so far, return, and cost against budget of several experiments.

    The line is the mean over seeds, the band reaches from the lowest to the highest
    seed, and the thin line of the first panel is the worst seed: a mean hides the one
    seed that broke the system.

    Args:
      path: the image to write; the ending chooses the format.
      experiments: per name its curves; they may differ in seeds and episodes.
      limits: C names and cost budgets of an episode; None where the experiments have
        different ones. The costs have a panel for each budget that is not 0.
      width: of the figure [inches].

    Returns:
      The figure, already written.

    Raises:
      ValueError: no experiment, shapes that do not match, or a value is not finite.
    """
    if not experiments:
        raise ValueError("experiments must hold at least one")
    checked = {
        name: _checked(name, curves, len(limits))
        for name, curves in experiments.items()
    }
    shown = [c for c, (_, budget) in enumerate(limits) if budget != 0]
    count = 2 + len(shown)
    columns = 1 if width < _NARROW else {1: 1, 2: 2, 4: 2}.get(count, 3)
    rows = -(-count // columns)
    height = 0.35 + 0.17 * len(checked) + (1.9 if columns == 1 else 2.1) * rows
    with new_figure(path, width, height) as figure:
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for panel in panels[count:]:
            panel.set_axis_off()
        panels = panels[:count]
        for look, (name, (violations, returns, costs)) in zip(
            looks(len(checked)), checked.items(), strict=True
        ):
            total = np.cumsum(violations, axis=1)
            label = f"{name} ({len(total)})"
            _curve(panels[0], np.arange(total.shape[1]), total, look, label)
            if len(total) > 1:
                worst = total[np.argmax(total[:, -1])]
                panels[0].plot(worst, color=look["color"], linewidth=0.7, linestyle=":")
            index = np.arange(1, returns.shape[1] + 1)
            _curve(panels[1], index, returns, look, label)
            for panel, c in zip(panels[2:], shown, strict=True):
                _curve(panel, index, costs[:, :, c], look, label)
        every = [curves[0] for curves in checked.values()]
        _from_zero(panels[0], max(float(x.sum(1).max()) for x in every))
        if not any(x.any() for x in every):
            note(panels[0], "no violating step anywhere", 0.5, 0.5)
        panels[0].set(xlabel="episode (0: random)", ylabel="violating steps so far")
        panels[1].set(xlabel="episode", ylabel="episode return")
        for panel, c in zip(panels[2:], shown, strict=True):
            name, budget = limits[c]
            highest = max(
                float(costs[..., c].max()) for _, _, costs in checked.values()
            )
            if budget is not None:
                panel.axhline(
                    budget, color=LIMIT, linestyle="--", linewidth=1.2, label="budget"
                )
            _from_zero(panel, max(highest, budget or 0.0))
            panel.set(xlabel="episode", ylabel="episode cost", title=pretty(name))
        for panel in panels:
            integer_ticks(panel.xaxis)
        shared_legend(figure, panels, columns=1 if columns == 1 else min(3, count))
    return figure


def _checked(name: str, curves: Curves, constraints: int) -> tuple:
    returns = finite(f"{name}: returns", curves.returns, (None, None))
    seeds, episodes = returns.shape
    return (
        finite(f"{name}: violations", curves.violations, (seeds, episodes + 1)),
        returns,
        finite(f"{name}: costs", curves.costs, (seeds, episodes, constraints)),
    )


def _curve(
    axes: "Axes",
    x: npt.NDArray[np.int_],
    curves: npt.NDArray[np.float64],
    look: Mapping[str, Any],
    label: str,
) -> None:
    if len(curves) > 1:
        low, high = curves.min(axis=0), curves.max(axis=0)
        axes.fill_between(x, low, high, color=look["color"], alpha=0.12, linewidth=0)
    few = len(x) <= MARKER_LIMIT
    axes.plot(
        x,
        curves.mean(axis=0),
        color=look["color"],
        linestyle=look["linestyle"],
        marker=look["marker"] if few else None,
        markersize=3,
        linewidth=1.3,
        label=label,
    )


def _from_zero(axes: "Axes", highest: float) -> None:
    top = max(1.0, highest)
    axes.set_ylim(-0.05 * top, 1.08 * top)
