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
_TALL = 5  # more panels than this go into two columns


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
    count = len(obs_names) + len(limits)
    columns = 1 if count <= _TALL else 2
    rows = -(-count // columns)
    with new_figure(path, 1.4 + 4.0 * columns, 0.9 + 1.35 * rows) as figure:
        grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
        # Down the columns, so that the limits come last.
        every = list(grid.T.flat)
        panels = every[:count]
        for panel in every[count:]:
            panel.set_axis_off()
        for d, (axes, name) in enumerate(zip(panels, obs_names, strict=False)):
            band = (mean[:, d], lower[:, d], upper[:, d])
            draw_band(axes, steps, *band, label=LABEL)
            draw_actual(axes, steps, actual[:, d])
            axes.set_ylabel(pretty(name))
            axes.set_title(
                f"{inside[:, d].sum()} of {len(steps)} inside", loc="right", fontsize=8
            )
        draw_margins(panels[len(obs_names) :], steps, margins, limits, label=LABEL)
        for bottom in {min(k * rows, count) - 1 for k in range(1, columns + 1)}:
            panels[bottom].set_xlabel("environment step")
            panels[bottom].tick_params(labelbottom=True)  # also above an empty place
        integer_ticks(panels[-1].xaxis)
        shared_legend(figure, panels, columns=3 * columns, markerscale=2.0)
    return figure
