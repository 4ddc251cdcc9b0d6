"""Every step of training in a plane of two coordinates, the forbidden region shaded."""
# matplotlib is imported where it is used: it costs half a second.
# ruff: noqa: PLC0415

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from safex.training.plots.style import (
    LIMIT,
    SHADE,
    mark_violations,
    new_figure,
    note,
    pretty,
    sequential,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from safex.training import portrait as portraits
    from safex.training.portrait import Portrait

_WIDTHS = {1: 4.6, 2: 7.0, 3: 9.0}  # of the figure, by columns
_PANEL_WIDTHS = {1: 3.4, 2: 2.7, 3: 2.5}
_HEIGHT = 2.7  # of a row, title and axis included


def plot_phase_portrait(
    path: str | Path,
    portrait: "Portrait",
    *,
    seeds: Sequence[int] | None = None,
    what: str = "",
) -> "Figure":
    """Every step of training in the portrait's plane, one panel per seed.

    Args:
      path: the image to write.
      portrait: what to draw.
      seeds: the seeds' names; their place in the list when None.
      what: the episodes are, which then are numbered from 1; else they are those of
        training, the random phase first.

    Returns:
      The figure, already written.

    Raises:
      ValueError: the number of seeds named is not that of the portrait's.
    """
    paths = portrait.paths
    names = list(range(len(paths)) if seeds is None else seeds)
    if len(names) != len(paths):
        raise ValueError(f"{len(names)} seeds named, paths of {len(paths)} given")
    episodes = max(len(seed_paths) for seed_paths in paths)
    colours, norm = _episode_colours(episodes)
    shades = [colours(norm(episode)) for episode in range(episodes)]
    columns = min(3, len(paths))
    rows = -(-len(paths) // columns)
    height = 0.9 + _row_height(portrait, columns) * rows
    with new_figure(path, _WIDTHS[columns], height) as figure:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        panels = list(grid.flat)
        for panel in panels[len(paths) :]:
            panel.set_axis_off()
        for panel, seed_paths, name in zip(panels, paths, names, strict=False):
            _forbidden(panel, portrait)
            _panel(panel, portrait, seed_paths, shades, narrow=columns > 2)
            panel.set_title(f"seed {name}", loc="left")
        for row in grid:
            row[0].set_ylabel(pretty(portrait.labels[1]))
        for panel in panels[max(0, len(paths) - columns) : len(paths)]:
            panel.set_xlabel(pretty(portrait.labels[0]))
            panel.tick_params(labelbottom=True)  # also above an empty place
        _episode_bar(figure, panels, colours, norm, episodes, what)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _row_height(portrait: "Portrait", columns: int) -> float:
    if not portrait.isometric:
        return _HEIGHT
    (left, right), (bottom, top) = portrait.window
    panel = _PANEL_WIDTHS[columns] * (top - bottom) / (right - left)
    return min(max(panel, 1.0), 4.5) + 0.5


def _forbidden(axes: "Axes", portrait: "Portrait") -> None:
    if portrait.margin is None:
        return
    shaded = (*portrait.grid, portrait.margin)
    top = [0.0, portrait.margin.max()]
    axes.contourf(*shaded, levels=top, colors=[LIMIT], alpha=SHADE)
    if portrait.margin.min() < 0:
        axes.contour(
            *shaded, levels=[0.0], colors=[LIMIT], linestyles="--", linewidths=1.0
        )
    # Contours have no entry of their own in a legend.
    words = "forbidden: " + " or ".join(map(pretty, portrait.forbidden))
    axes.fill([], [], facecolor=LIMIT, alpha=SHADE, linewidth=0, label=words)


def _panel(
    axes: "Axes",
    portrait: "Portrait",
    paths: "Sequence[portraits.Path]",
    colours: Sequence[Any],
    *,
    narrow: bool,
) -> None:
    from matplotlib.collections import LineCollection

    count = 0
    for episode, path in enumerate(paths):
        axes.add_collection(
            LineCollection(
                list(_unrolled(path.points, portrait.angles)),
                colors=[colours[episode]],
                linewidths=0.9,
                capstyle="round",
            ),
            autolim=False,
        )
        marked = path.points[path.violating, 1]
        wrapped = np.mod(marked + np.pi, 2 * np.pi) - np.pi
        x, y = np.where(portrait.angles, wrapped, marked).T
        mark_violations(axes, x, y, named=episode == 0)
        count += len(marked)
    text = f"{count} violating step{'' if count == 1 else 's'}"
    if portrait.bounded[1]:
        note(axes, text, 0.5, 0.955)  # in the forbidden band at the top
    else:
        # Beside the seed's name there is room for one word of the last line.
        axes.set_title(
            text.replace("g s", "g\ns") if narrow else text,
            loc="right",
            fontsize="small",
        )
    for axis, angle in zip((axes.xaxis, axes.yaxis), portrait.angles, strict=True):
        if angle:
            ticks = np.linspace(-np.pi, np.pi, 5)
            axis.set_ticks(ticks.tolist(), ["−π", "−π/2", "0", "π/2", "π"])
    axes.set(xlim=portrait.window[0], ylim=portrait.window[1])
    if portrait.isometric:
        axes.set_aspect("equal")


def _unrolled(points: np.ndarray, angles: Sequence[bool]) -> np.ndarray:
    """Segments `[T, 2, 2]`, and those over a seam once more from the other side."""
    for axis in np.flatnonzero(angles):
        crossed = points[np.abs(points[:, 1, axis]) > np.pi]
        turn = np.zeros_like(crossed[:, 1:])
        turn[..., axis] = 2 * np.pi * np.sign(crossed[:, 1:, axis])
        points = np.concatenate([points, crossed - turn])
    return points


def _episode_colours(episodes: int) -> tuple[Any, Any]:
    from matplotlib.colors import BoundaryNorm

    colours = sequential()
    return colours, BoundaryNorm(np.arange(episodes + 1) - 0.5, colours.N)


def _episode_bar(
    figure: "Figure",
    panels: Sequence["Axes"],
    colours: Any,
    norm: Any,
    episodes: int,
    what: str,
) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import MaxNLocator

    bar = figure.colorbar(
        ScalarMappable(norm, colours),
        ax=panels,
        label=what or "episode (0 = random phase)",
        aspect=30,
        pad=0.015,
        spacing="proportional",
    )
    bar.minorticks_off()
    ticks = MaxNLocator(8, integer=True, steps=[1, 2, 5, 10])
    shown = ticks.tick_values(0, max(1, episodes - 1))
    places = [int(tick) for tick in shown if 0 <= tick < episodes]
    bar.set_ticks(places, labels=[str(place + 1) for place in places] if what else None)
