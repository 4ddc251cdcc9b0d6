"""What is paid in violations for what is gained in return."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from safex.training.plots.style import (
    COLUMN,
    GREY,
    LIMIT,
    SHADE,
    finite,
    integer_ticks,
    looks,
    new_figure,
    pretty,
    shared_legend,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Trade(NamedTuple):
    """One experiment, a number a seed.

    Attributes:
      price: `[S]` what is to be low, such as violating steps.
      gain: `[S]` what is to be high, such as the final return.
    """

    price: npt.ArrayLike
    gain: npt.ArrayLike


def front(prices: npt.ArrayLike, gains: npt.ArrayLike) -> list[int]:
    """Which points no other one beats in both, cheapest first.

    A point that another equals in one and beats in the other is not among them; of
    equal points all are.
    """
    price, gain = np.asarray(prices, float), np.asarray(gains, float)
    kept = [
        i
        for i in range(price.size)
        if not np.any(
            (price <= price[i])
            & (gain >= gain[i])
            & ((price < price[i]) | (gain > gain[i]))
        )
    ]
    return sorted(kept, key=lambda i: (price[i], gain[i]))


def plot_pareto(
    path: str | Path,
    experiments: Mapping[str, Trade],
    *,
    price: str,
    gain: str,
    budget: float | None = None,
    width: float = COLUMN,
) -> "Figure":
    """Price against gain: seeds small, means large, the front of the means a line.

    With a budget, a price beyond it is shaded.

    Args:
      path: the image to write; the ending chooses the format.
      experiments: per name its seeds.
      price: what the price is called.
      gain: what the gain is called.
      budget: of the price, None for none.
      width: of the figure [inches].

    Returns:
      The figure, already written.

    Raises:
      ValueError: no experiment, or sizes that do not match.
    """
    if not experiments:
        raise ValueError("experiments must hold at least one")
    points = {}
    for name, trade in experiments.items():
        x = finite(f"{name}: price", trade.price, (None,))
        points[name] = x, finite(f"{name}: gain", trade.gain, x.shape)
    means = np.array([(x.mean(), y.mean()) for x, y in points.values()])
    best = front(*means.T)
    height = 2.3 + 0.17 * len(points)
    with new_figure(path, width, height) as figure:
        axes = figure.subplots()
        axes.plot(
            *means[best].T, color=GREY, linewidth=1.0, linestyle="--", zorder=1,
            drawstyle="steps-post",
        )  # fmt: skip
        for look, (name, (x, y)), middle in zip(
            looks(len(points)), points.items(), means, strict=True
        ):
            colour, marker = look["color"], look["marker"]
            axes.scatter(
                x, y, s=9, color=colour, marker=marker, alpha=0.5, linewidths=0
            )
            axes.scatter(
                middle[0],
                middle[1],
                s=52,
                color=colour,
                marker=marker,
                edgecolors="white",
                linewidths=0.6,
                zorder=3,
                label=name,
            )
        # Counts of wrongs: over several powers of ten, and often 0.
        every = np.concatenate([x for x, _ in points.values()])
        if budget is not None:
            every = np.append(every, budget)
            axes.axvline(
                budget, color=LIMIT, linestyle="--", linewidth=1.2, label="budget"
            )
        # Beside a budget, what is not far beyond it has a plain scale.
        wide = every.max() > max(50.0, 20.0 * (budget or 0.0))
        if wide:
            axes.set_xscale("symlog", linthresh=1.0)
        elif not np.any(every % 1):
            integer_ticks(axes.xaxis)
        if every.max() <= 0:  # No negative counts, where nobody did anything wrong.
            axes.set_xlim(-0.08, 1.0)
        elif every.min() <= 0 or budget is not None:
            axes.set_xlim(left=-0.3 if wide else -0.04 * every.max() - 0.1)
        else:
            axes.set_xlim(0.8 * every.min(), 1.2 * every.max())
        if budget is not None:
            right = axes.get_xlim()[1]
            axes.axvspan(budget, right, color=LIMIT, alpha=SHADE, linewidth=0)
            axes.set_xlim(right=right)
        axes.set(xlabel=pretty(price), ylabel=gain)
        shared_legend(figure, [axes], columns=1 if width < 4.5 else 2)
    return figure
