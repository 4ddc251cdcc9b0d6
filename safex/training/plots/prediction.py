"""One-step predictions, their errors, and the distances past the limits."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from safex.training.plots.bands import draw_actual, draw_band, draw_margins
from safex.training.plots.style import (
    BLACK,
    BLUE,
    LIMIT,
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

    from safex.training.account import EpisodeRecord
    from safex.training.margins import Limit, Margins

_RESIDUAL_WIDTHS = 2.0  # how many band widths the residual panels show
_TALL = 5  # more rows than this are drawn lower


def plot_prediction(
    path: str | Path,
    record: "EpisodeRecord",
    obs_names: Sequence[str],
    margins: "Margins",
    limits: Sequence["Limit"],
    beta: float,
) -> "Figure":
    """One-step predictions made before the model saw the data, against the data.

    The left column shows the episode with its band `mean ± beta sigma`,
    `sigma^2 = epistemic^2 + aleatoric^2`; the band is mostly too narrow to see there,
    so the right column shows the same errors in units of sigma. Errors beyond the
    panel are drawn as triangles on its edge and counted as outside. Below, one panel
    for each limit shows the distance past it.

    Args:
      path: the image to write.
      record: one episode, T >= 1 steps.
      obs_names: D names, with their units.
      margins: the distances past the limits, of the same steps.
      limits: C limits.
      beta: half width of the band, in sigma.

    Returns:
      The figure, already written.

    Raises:
      ValueError: shapes do not match, a value is not finite, a std is negative or
        `beta` is not positive.
    """
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    mean = finite("record.mean", record.mean, (None, len(obs_names)))
    actual = finite("record.next_obs", record.next_obs, mean.shape)
    epistemic = finite("record.epistemic_std", record.epistemic_std, mean.shape)
    aleatoric = finite("record.aleatoric_std", record.aleatoric_std, mean.shape)
    if np.any(epistemic < 0) or np.any(aleatoric < 0):
        raise ValueError("record.epistemic_std and aleatoric_std must be >= 0")
    sigma = np.hypot(epistemic, aleatoric)
    steps = np.arange(1, len(mean) + 1)
    label = f"± {beta:g} σ band"
    rows = len(obs_names) + len(limits)
    height = 1.35 if rows <= _TALL else 1.15
    with new_figure(path, 7.2, 0.9 + height * rows) as figure:
        grid = figure.add_gridspec(rows, 2)
        first = figure.add_subplot(grid[0, 0])
        left, right, below = [first], [], []
        for d in range(len(obs_names)):
            if d > 0:
                left.append(figure.add_subplot(grid[d, 0], sharex=first))
            right.append(figure.add_subplot(grid[d, 1], sharex=first))
        for c in range(len(limits)):
            place = grid[len(obs_names) + c, :]
            below.append(figure.add_subplot(place, sharex=first))
        for d, name in enumerate(obs_names):
            width = beta * sigma[:, d]
            lower, upper = mean[:, d] - width, mean[:, d] + width
            draw_band(left[d], steps, mean[:, d], lower, upper, label=label)
            draw_actual(left[d], steps, actual[:, d])
            left[d].set_ylabel(pretty(name))
            _residuals(right[d], steps, actual[:, d] - mean[:, d], sigma[:, d], beta)
            right[d].set_ylabel("error / σ")
        draw_margins(below, steps, margins, limits, label=label)
        first.set_title("one-step prediction", loc="left")
        right[0].set_title("its error", loc="left")
        for axes in (*left[:-1], *right[:-1], *below[:-1]):
            axes.tick_params(labelbottom=False)
        integer_ticks(first.xaxis)
        (below or left)[-1].set_xlabel("step of the episode")
        shared_legend(
            figure, (*left, *right, *below), columns=6 if below else 5, markerscale=1.6
        )
    return figure


def _residuals(
    axes: "Axes",
    steps: npt.NDArray[np.int_],
    error: npt.NDArray[np.float64],
    sigma: npt.NDArray[np.float64],
    beta: float,
) -> None:
    axes.axhspan(-beta, beta, facecolor=BLUE, alpha=0.15, linewidth=0)
    axes.axhline(0.0, color=BLUE, linewidth=0.8)
    inside = np.abs(error) <= beta * sigma
    known = sigma > 0
    scaled = error[known] / sigma[known]
    edge = _RESIDUAL_WIDTHS * beta
    beyond = np.abs(scaled) > edge
    within = ~beyond
    axes.scatter(steps[known][within], scaled[within], s=5, color=BLACK, linewidths=0)
    for sign, marker in ((1, "^"), (-1, "v")):
        out = beyond & (np.sign(scaled) == sign)
        axes.scatter(
            steps[known][out],
            np.full(out.sum(), sign * edge),
            s=16,
            marker=marker,
            color=LIMIT,
            linewidths=0,
            clip_on=False,
            zorder=3,
            label=f"beyond {edge:g} σ" if out.any() else None,
        )
    axes.set_ylim(-edge, edge)
    axes.set_yticks([-edge, -beta, 0.0, beta, edge])
    if not known.any():
        # A model that claims to be exact is off by rounding: no share makes sense.
        note(axes, f"σ = 0; largest error {np.abs(error).max():.1e}", 0.5, 0.88)
        return
    share = 100 * inside.mean()
    axes.set_title(f"{share:.1f} % inside ± {beta:g} σ", loc="right", fontsize="small")
