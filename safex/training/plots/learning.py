"""How returns, violations and costs went over training."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from safex.training.plots.style import (
    BLUE,
    LIMIT,
    MARKER_LIMIT,
    finite,
    integer_ticks,
    new_figure,
    note,
    pretty,
    shared_legend,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_learning(
    path: str | Path,
    returns: npt.ArrayLike,
    violations: npt.ArrayLike,
    costs: npt.ArrayLike,
    cost_budget: Sequence[float],
    limit_names: Sequence[str],
) -> "Figure":
    """Return per episode, and violating steps cumulated over all of training.

    With a budget above 0, or several of them, a panel for each constraint shows what
    each planned episode cost against what it was allowed.

    Args:
      path: the image to write.
      returns: `[S, E]` return of the planned episodes, one row per seed.
      violations: `[S, E + 1]` violating steps, the random phase first.
      costs: `[S, E, C]` cost return of the planned episodes under each constraint.
      cost_budget: C costs allowed per planned episode; the random phase has no
        allowance, so `e` times their sum is allowed up to episode `e`.
      limit_names: C names of what is limited.

    Returns:
      The figure, already written.

    Raises:
      ValueError: shapes do not match or a value is not finite.
    """
    y = finite("returns", returns, (None, None))
    seeds, episodes = y.shape
    counts = finite("violations", violations, (seeds, episodes + 1))
    budgets = finite("cost_budget", cost_budget, (len(limit_names),))
    spent = finite("costs", costs, (seeds, episodes, len(budgets)))
    index = np.arange(episodes + 1)
    shown = len(budgets) if len(budgets) > 1 or budgets.any() else 0
    columns = {2: 2, 4: 2}.get(2 + shown, 3)
    rows = -(-(2 + shown) // columns)
    with new_figure(path, 3.6 * columns, 0.5 + 2.5 * rows) as figure:
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for panel in panels[2 + shown :]:
            panel.set_axis_off()
        _seed_curves(panels[0], index[1:], y)
        panels[0].set(xlabel="episode", ylabel="episode return")
        # The panels of the costs say each budget.
        label = "budget" if shown else f"budget: {budgets[0]:g} per episode"
        _violations(panels[1], counts, budgets, label)
        for c in range(shown):
            panel = panels[2 + c]
            _seed_curves(panel, index[1:], spent[:, :, c])
            _budget(panel, index[1:], np.full(episodes, budgets[c]), "budget")
            _heights_from_0(panel, max(spent[:, :, c].max(), budgets[c]))
            panel.set(xlabel="episode", ylabel="episode cost")
            if not np.any(spent[:, :, c] % 1):
                integer_ticks(panel.yaxis)
            panel.set_title(f"{pretty(limit_names[c])}, budget {budgets[c]:g}")
        for panel in panels[: 2 + shown]:
            integer_ticks(panel.xaxis)
        shared_legend(figure, panels[: 2 + shown])
    return figure


def _violations(
    axes: "Axes",
    counts: npt.NDArray[np.float64],
    budgets: npt.NDArray[np.float64],
    label: str,
) -> None:
    """Violating steps `[S, E + 1]` so far, against what the budgets allow in all."""
    total = np.cumsum(counts, axis=1)
    index = np.arange(total.shape[1])
    _seed_curves(axes, index, total)
    axes.set(xlabel="episode (0 = random phase)", ylabel="violating steps so far")
    allowed = budgets.sum() * index
    _budget(axes, index, allowed, label)
    _heights_from_0(axes, max(total.max(), allowed.max()))
    if not total.any():
        note(axes, "no violating step in any seed", 0.5, 0.5)
    integer_ticks(axes.yaxis)


def _budget(
    axes: "Axes",
    x: npt.NDArray[np.int_],
    allowed: npt.NDArray[np.float64],
    label: str,
) -> None:
    axes.plot(x, allowed, color=LIMIT, linestyle="--", linewidth=1.2, label=label)


def _heights_from_0(axes: "Axes", highest: float) -> None:
    """Room for counts up to `highest`, and an axis where there are none."""
    top = max(1.0, highest)
    axes.set_ylim(-0.06 * top, 1.12 * top)


def _seed_curves(
    axes: "Axes", x: npt.NDArray[np.int_], curves: npt.NDArray[np.float64]
) -> None:
    """Mean over seeds `[S, n]`, the band of all seeds and a thin line for each."""
    seeds = len(curves)
    marker = "o" if len(x) <= MARKER_LIMIT else None
    if seeds > 1:
        axes.fill_between(
            x,
            curves.min(axis=0),
            curves.max(axis=0),
            color=BLUE,
            alpha=0.15,
            linewidth=0,
            label="lowest to highest seed",
        )
        for s, curve in enumerate(curves):
            label = "one seed" if s == 0 else None
            axes.plot(x, curve, color=BLUE, alpha=0.4, linewidth=0.6, label=label)
    axes.plot(
        x,
        curves.mean(axis=0),
        color=BLUE,
        marker=marker,
        markersize=3,
        label=f"mean of {seeds} seeds" if seeds > 1 else "the only seed",
    )
