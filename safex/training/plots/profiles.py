"""What share of the runs does how well, and which experiment does better how often."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from safex.training.plots.style import (
    BLUE,
    GREY,
    PAGE,
    looks,
    new_figure,
    shared_legend,
    wrapped,
)
from safex.training.statistics import Improvement, Profile

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_profiles(
    path: str | Path,
    panels: Mapping[str, Mapping[str, Profile]],
    *,
    width: float = PAGE,
) -> "Figure":
    """Performance profiles: the share of runs beyond each value, with its band.

    Args:
      path: the image to write; the ending chooses the format.
      panels: per quantity, and in it per experiment, the profile.
      width: of the figure [inches].

    Returns:
      The figure, already written.

    Raises:
      ValueError: no quantity or no experiment.
    """
    if not panels or not all(panels.values()):
        raise ValueError("panels must hold at least one quantity and one experiment")
    number = len(next(iter(panels.values())))
    stacked = width < 4.5
    rows, columns = (len(panels), 1) if stacked else (1, len(panels))
    height = 0.4 + 0.17 * number + 2.1 * rows
    with new_figure(path, width, height) as figure:
        every = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, (quantity, profiles) in zip(every, panels.items(), strict=True):
            for look, (name, profile) in zip(
                looks(number), profiles.items(), strict=True
            ):
                x: npt.NDArray[np.float64] = np.asarray(profile.thresholds)
                axes.fill_between(
                    x,
                    profile.low,
                    profile.high,
                    color=look["color"],
                    alpha=0.12,
                    linewidth=0,
                    step="post",
                )
                axes.plot(
                    x,
                    profile.share,
                    color=look["color"],
                    linestyle=look["linestyle"],
                    drawstyle="steps-post",
                    label=name,
                )
            axes.set(
                xlabel=f"{quantity}, τ", ylabel="share of runs > τ", ylim=(-0.04, 1.04)
            )
        shared_legend(figure, every, columns=1 if stacked else 3)
    return figure


def plot_improvement(
    path: str | Path,
    panels: Mapping[str, Sequence[tuple[str, str, Improvement]]],
    *,
    width: float = PAGE,
) -> "Figure":
    """How probably a run of one experiment is better than one of another.

    Args:
      path: the image to write; the ending chooses the format.
      panels: per quantity the pairs: this one, the other one, the probability.
      width: of the figure [inches].

    Returns:
      The figure, already written.

    Raises:
      ValueError: no quantity, or no pair in one.
    """
    if not panels or not all(panels.values()):
        raise ValueError("panels must hold at least one quantity and one pair")
    pairs = next(iter(panels.values()))
    with new_figure(path, width, 1.0) as figure:
        room = 0.4 * figure.get_figwidth()
        names = [
            f"{wrapped(one, room)}\n{wrapped(f'over {other}', room)}"
            for one, other, _ in pairs
        ]
        lines = max(name.count("\n") + 1 for name in names)
        figure.set_figheight(0.9 + 0.18 * lines * len(pairs))
        every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (quantity, found) in zip(every, panels.items(), strict=True):
            axes.axvline(0.5, color=GREY, linewidth=1.0, linestyle="--")
            for row, (_, _, value) in enumerate(found):
                axes.plot(
                    [value.low, value.high],
                    [row, row],
                    color=BLUE,
                    linewidth=5,
                    alpha=0.35,
                    solid_capstyle="butt",
                )
                axes.plot(
                    value.probability, row, color=BLUE, marker="|", markersize=10,
                    markeredgewidth=2,
                )  # fmt: skip
            axes.set(xlim=(-0.03, 1.03), title=quantity)
            axes.grid(visible=False, axis="y")
            axes.tick_params(axis="y", length=0)
        every[0].set_yticks(range(len(names)), names)
        every[0].set_ylim(len(names) - 0.5, -0.5)
        figure.supxlabel("probability of improvement", fontsize=8.5)
    return figure
