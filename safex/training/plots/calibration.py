"""Nominal against empirical coverage of a model's bands."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from safex.training.plots.style import (
    BLUE,
    GREEN,
    GREY,
    LIMIT,
    ORANGE,
    PURPLE,
    finite,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_calibration(
    path: str | Path,
    levels: npt.ArrayLike,
    coverage: Mapping[str, npt.ArrayLike],
) -> "Figure":
    """Nominal against empirical coverage; a calibrated model follows the diagonal.

    Args:
      path: the image to write.
      levels: `[L]` nominal coverage of the bands, probabilities in (0, 1); see
        `statistics.nominal_coverage` for bands given in sigma.
      coverage: per name (`held_out`, `prequential`, ...) `[L]` the share inside.

    Returns:
      The figure, already written.

    Raises:
      ValueError: no level, nothing to draw, shapes that do not match, or a value
        outside [0, 1].
    """
    nominal = finite("levels", levels, (None,))
    if not coverage:
        raise ValueError("coverage must hold at least one curve")
    curves = {
        name: finite(f"coverage[{name!r}]", share, nominal.shape)
        for name, share in coverage.items()
    }
    for name, share in {"levels": nominal, **curves}.items():
        if np.any(share < 0) or np.any(share > 1):
            raise ValueError(f"{name} must lie in [0, 1], got {share.tolist()}")
    order = np.argsort(nominal)
    colours = itertools.cycle((BLUE, ORANGE, GREEN, PURPLE))
    markers = itertools.cycle("os^Dv")
    with new_figure(path, 4.0, 4.2) as figure:
        axes = figure.subplots()
        axes.fill_between([0, 1], [0, 1], [0, 0], color=LIMIT, alpha=0.07, linewidth=0)
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1.0, label="calibrated")
        axes.text(0.97, 0.03, "over-confident", color=LIMIT, ha="right")
        axes.text(0.03, 0.94, "cautious", color=GREY)
        for name, share in curves.items():
            axes.plot(
                nominal[order],
                share[order],
                color=next(colours),
                marker=next(markers),
                markersize=5,
                markeredgecolor="white",
                markeredgewidth=0.5,
                label=name.replace("_", " "),
                clip_on=False,
                zorder=3,
            )
        axes.set(
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
            xlabel="nominal coverage",
            ylabel="empirical coverage",
        )
        figure.legend(loc="outside lower center", ncols=2)
    return figure
