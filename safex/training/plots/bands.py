"""Predicted bands beside what happened, of observations and of margins."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from safex.training.plots.style import (
    BLACK,
    BLUE,
    LIMIT,
    MARKER_LIMIT,
    finite,
    forbid,
    mark_violations,
    pretty,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from safex.training.margins import Limit, Margins


def draw_band(
    axes: "Axes",
    x: npt.NDArray[np.int_],
    mean: npt.NDArray[np.float64],
    lower: npt.NDArray[np.float64],
    upper: npt.NDArray[np.float64],
    *,
    label: str,
) -> None:
    """A predicted mean and its band, each `[T]`."""
    axes.fill_between(x, lower, upper, color=BLUE, alpha=0.25, linewidth=0, label=label)
    axes.plot(x, mean, color=BLUE, linewidth=1.2, label="predicted mean")


def draw_actual(
    axes: "Axes", x: npt.NDArray[np.int_], actual: npt.NDArray[np.float64]
) -> None:
    """What happened, `[T]`, as points: a line would hide the prediction."""
    axes.plot(
        x,
        actual,
        color=BLACK,
        linestyle="none",
        marker=".",
        markersize=3.5 if len(x) <= 2 * MARKER_LIMIT else 2.5,
        markeredgewidth=0,
        label="what happened",
    )


def draw_margins(
    panels: "Sequence[Axes]",
    x: npt.NDArray[np.int_],
    margins: "Margins",
    limits: "Sequence[Limit]",
    *,
    label: str,
) -> None:
    """One panel a constraint: the distance past its limit, forbidden above zero.

    Args:
      panels: C panels.
      x: `[T]` steps.
      margins: of these steps.
      limits: C limits.
      label: of the band.

    Raises:
      ValueError: shapes do not match or a value is not finite.
    """
    shape = (len(x), len(limits))
    actual, mean, lower, upper = (
        finite(f"margins.{name}", value, shape)
        for name, value in margins._asdict().items()
    )
    for c, (axes, limit) in enumerate(zip(panels, limits, strict=True)):
        draw_band(axes, x, mean[:, c], lower[:, c], upper[:, c], label=label)
        draw_actual(axes, x, actual[:, c])
        past = actual[:, c] > 0
        mark_violations(axes, x[past], actual[past, c], named=bool(past.any()))
        axes.axhline(0.0, color=LIMIT, linestyle="--", linewidth=1.2, label="limit")
        every = np.stack([actual[:, c], lower[:, c], upper[:, c]])
        low, high = min(0.0, every.min()), max(0.0, every.max())
        room = 0.08 * (high - low or 1.0)
        # Room above, or a run that keeps well away would show no forbidden side.
        top = max(high + room, 2.0 * room)
        forbid(axes, 0.0, top, label="past the limit")
        axes.set_ylim(low - room, top)
        axes.set_title(pretty(limit.name), loc="left")
        axes.set_ylabel(f"past limit\n[{limit.unit}]")
        axes.set_title(
            f"limit {limit.value:g} {limit.unit}", loc="right", fontsize="small"
        )
