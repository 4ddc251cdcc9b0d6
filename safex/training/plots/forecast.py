"""A predicted path over the horizon, and what followed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from safex.training.plots.bands import draw_actual, draw_band, draw_margins
from safex.training.plots.style import (
    finite,
    integer_ticks,
    new_figure,
    pretty,
    shared_legend,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from safex.training.forecast import Forecast
    from safex.training.margins import Limit, Margins

LABEL = "predicted band"
_TALL = 4  # more observations than this go into two columns


def plot_forecast(
    path: str | Path,
    forecast: "Forecast",
    obs_names: Sequence[str],
    margins: "Margins",
    limits: Sequence["Limit"],
) -> "Figure":
    """The predicted band over the horizon against the true trajectory.

    One panel for each observation, then one for each limit with the distance past it.

    Args:
      path: the image to write.
      forecast: the prediction and what happened.
      obs_names: D names, with their units.
      margins: the distances past the limits, of the same steps.
      limits: C limits.

    Returns:
      The figure, already written.

    Raises:
      ValueError: shapes do not match, a value is not finite, or the lower edge lies
        above the upper.
    """
    mean = finite("forecast.mean", forecast.mean, (None, len(obs_names)))
    lower = finite("forecast.lower", forecast.lower, mean.shape)
    upper = finite("forecast.upper", forecast.upper, mean.shape)
    actual = finite("forecast.actual", forecast.actual, mean.shape)
    if np.any(lower > upper):
        raise ValueError("forecast.lower must not lie above forecast.upper")
    steps = forecast.start_step + 1 + np.arange(len(mean))
    inside = (lower <= actual) & (actual <= upper)
    columns = 1 if len(obs_names) <= _TALL else 2
    rows = -(-len(obs_names) // columns)
    height = 0.9 + 1.35 * (rows + len(limits))
    with new_figure(path, 1.4 + 4.0 * columns, height) as figure:
        grid = figure.add_gridspec(rows + len(limits), columns)
        # What stands alone in its row takes all of it.
        first_alone = (columns - 1) * (len(obs_names) // columns) * columns
        places = [
            (d // columns, slice(None) if d >= first_alone else d % columns)
            for d in range(len(obs_names))
        ]
        places += [(rows + c, slice(None)) for c in range(len(limits))]
        panels = [figure.add_subplot(grid[places[0]])]
        panels += [figure.add_subplot(grid[p], sharex=panels[0]) for p in places[1:]]
        halves = [row for row, column in places if column != slice(None)]
        for axes, (row, column) in zip(panels, places, strict=True):
            below = places[-1][0] if column == slice(None) else max(halves)
            axes.tick_params(labelbottom=row == below)
        for d, (axes, name) in enumerate(zip(panels, obs_names, strict=False)):
            band = (mean[:, d], lower[:, d], upper[:, d])
            draw_band(axes, steps, *band, label=LABEL)
            draw_actual(axes, steps, actual[:, d])
            axes.set_ylabel(pretty(name))
            axes.set_title(
                f"{inside[:, d].sum()} of {len(steps)} inside",
                loc="right",
                fontsize="small",
            )
        draw_margins(panels[len(obs_names) :], steps, margins, limits, label=LABEL)
        panels[-1].set_xlabel("step of the episode")
        integer_ticks(panels[-1].xaxis)
        shared_legend(figure, panels, columns=3 * columns, markerscale=1.6)
    return figure
