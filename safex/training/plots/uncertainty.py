"""What a model's stds are worth: reliability, coverage, and growth with distance."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from safex.training.plots.style import (
    BLACK,
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


def plot_uncertainty(
    path: str | Path,
    levels: npt.ArrayLike,
    curves: Mapping[str, npt.ArrayLike],
    coverage: Mapping[str, npt.ArrayLike],
    distance: npt.ArrayLike,
    error: npt.ArrayLike,
    std: npt.ArrayLike,
) -> "Figure":
    """Three views of one model: reliability, coverage at 1, 2, 3 stds, and distance.

    In the last panel rows are put into bins of equal size by their distance from the
    data; a model that knows what it does not know has its std follow its error.

    Args:
      path: the image to write.
      levels: `[L]` nominal coverage in [0, 1].
      curves: per region `[L]` observed coverage.
      coverage: per region `[3]` share within 1, 2 and 3 stds.
      distance: `[B]` of each row from the data.
      error: `[B]` root mean squared error of each row.
      std: `[B]` root mean squared predicted std of each row.

    Returns:
      The figure, already written.

    Raises:
      ValueError: nothing to draw, or shapes that do not match.
    """
    nominal = finite("levels", levels, (None,))
    if not curves or set(curves) != set(coverage):
        raise ValueError("curves and coverage must name the same regions, at least one")
    away = finite("distance", distance, (None,))
    rows = {
        "error": finite("error", error, away.shape),
        "predicted std": finite("std", std, away.shape),
    }
    bins = np.array_split(np.argsort(away), min(12, away.size))
    with new_figure(path, 9.0, 3.2) as figure:
        left, middle, right = figure.subplots(1, 3)
        left.plot([0, 1], [0, 1], color=GREY, linewidth=1.0)
        expected = [math.erf(width / math.sqrt(2.0)) for width in (1, 2, 3)]
        for width, share in enumerate(expected):
            middle.plot([width - 0.4, width + 0.4], [share, share], color=BLACK)
        for index, (name, curve) in enumerate(curves.items()):
            look = {"color": (BLUE, ORANGE, GREEN, PURPLE)[index % 4]}
            label = name.replace("_", " ")
            left.plot(nominal, finite(name, curve, nominal.shape), label=label, **look)
            inside = finite(f"coverage[{name!r}]", coverage[name], (3,))
            middle.bar(np.arange(3) + 0.25 * (index - 1), inside, 0.22, **look)
        for (name, values), colour in zip(rows.items(), (LIMIT, BLUE), strict=True):
            right.plot(
                [np.median(away[members]) for members in bins],
                [np.sqrt(np.mean(values[members] ** 2)) for members in bins],
                color=colour,
                marker="o",
                markersize=3.5,
                label=name,
            )
        left.set(xlabel="nominal coverage", ylabel="observed coverage", aspect="equal")
        middle.set(xlabel="width [predicted stds]", ylabel="observed coverage")
        middle.set_xticks(range(3), ["1", "2", "3"])
        right.set(xlabel="distance from the data [stds]", ylabel="[stds of a step]")
        right.set(yscale="log")
        left.legend(loc="upper left")
        right.legend(loc="upper left")
    return figure
