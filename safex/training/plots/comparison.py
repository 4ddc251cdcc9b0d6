"""Experiments side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from safex.training.plots.style import (
    BLUE,
    GREY,
    LIMIT,
    new_figure,
    shared_legend,
    wrapped,
)
from safex.training.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_comparison(
    path: str | Path, table: Mapping[str, Mapping[str, Estimate | None]]
) -> "Figure":
    """Experiments side by side, one panel per quantity.

    Args:
      path: the image to write; the ending chooses the format.
      table: per experiment its quantities, the same ones for all; None where an
        experiment has no such quantity.

    Returns:
      The figure, already written.

    Raises:
      ValueError: no experiment or no quantity, or experiments that differ in them.
    """
    names = list(table)
    metrics = list(table[names[0]]) if names else []
    if not metrics:
        raise ValueError("table must hold at least one experiment and one quantity")
    for name in names:
        if list(table[name]) != metrics:
            raise ValueError(
                f"{name} has {list(table[name])}, {names[0]} has {metrics}"
            )
    wide = len(metrics) >= 3
    width = max(4.2, 1.6 + 2.1 * len(metrics))
    height = (1.15 if wide else 1.35) + 0.42 * len(names)
    with new_figure(path, width, height) as figure:
        rows = [wrapped(name, 0.3 * figure.get_figwidth()) for name in names]
        lines = max(row.count("\n") + 1 for row in rows)
        # Three lines have room.
        figure.set_figheight(height + 0.15 * max(0, lines - 3) * len(names))
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for panel, metric in zip(panels, metrics, strict=True):
            for row, name in enumerate(names):
                _estimate_row(panel, row, table[name][metric])
            panel.set_title(metric)
            panel.locator_params(axis="x", nbins=4)
            panel.grid(visible=False, axis="y")
            panel.tick_params(axis="y", length=0)
            panel.margins(x=0.08)
            if np.ptp(panel.dataLim.intervalx) == 0:  # e.g. no violation anywhere
                panel.set_xlim(panel.dataLim.x0 - 0.08, panel.dataLim.x0 + 1.0)
        panels[0].set_yticks(range(len(names)), rows)
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        shared_legend(figure, panels, columns=4 if wide else 2)
    return figure


def _estimate_row(axes: "Axes", row: int, estimate: Estimate | None) -> None:
    if estimate is None:
        axes.annotate(
            "-",
            (0.5, row),
            xycoords=("axes fraction", "data"),
            ha="center",
            va="center",
            color=GREY,
            fontsize=11,
        )
        return
    axes.plot(
        [estimate.low, estimate.high],
        [row, row],
        color=BLUE,
        linewidth=5,
        alpha=0.35,
        label="bootstrap interval",
        solid_capstyle="butt",
    )
    axes.scatter(
        estimate.values,
        [row] * len(estimate.values),
        s=9,
        color=GREY,
        linewidths=0,
        label="seed",
        zorder=3,
    )
    axes.scatter(
        estimate.worst,
        row,
        s=34,
        facecolors="none",
        edgecolors=LIMIT,
        linewidths=1.2,
        label="worst seed",
        zorder=4,
    )
    axes.plot(
        estimate.iqm,
        row,
        color=BLUE,
        marker="|",
        markersize=11,
        markeredgewidth=2,
        linestyle="none",
        label="interquartile mean",
    )
