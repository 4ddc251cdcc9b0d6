"""The one look of all figures, and what they share."""
# matplotlib is imported where it is used: it costs half a second.
# ruff: noqa: PLC0415

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito (2008). Vermillion is kept for limits and violations.
BLUE, GREEN, ORANGE, PURPLE = "#0072B2", "#009E73", "#E69F00", "#CC79A7"
LIMIT, BLACK, GREY = "#D55E00", "#222222", "#8A8A8A"
SHADE = 0.13  # opacity of what is forbidden
DPI = 200
MARKER_LIMIT = 30  # more points than this on a line, and markers become a smear
STYLE: dict[Any, Any] = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.7,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 1.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    # Or the outermost tick labels of neighbouring panels run together.
    "figure.constrained_layout.wspace": 0.05,
    "savefig.dpi": DPI,
    "pdf.fonttype": 42,
}


@contextlib.contextmanager
def new_figure(path: str | Path, width: float, height: float) -> Iterator["Figure"]:
    """A figure [inches] in the common look, written to `path` when it is complete."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def shared_legend(
    figure: "Figure",
    panels: Iterable["Axes"],
    columns: int = 4,
    markerscale: float = 1.0,
) -> None:
    """One legend below all panels, each label once."""
    entries: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=columns,
        markerscale=markerscale,
    )


def note(axes: "Axes", text: str, x: float, y: float) -> None:
    """Writes a line at a place in units of the panel."""
    axes.text(
        x,
        y,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center",
        fontsize=8,
        color=BLACK,
        zorder=5,
    )


def integer_ticks(axis: Any) -> None:
    """Puts ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))


def sequential() -> Any:
    """Viridis without its yellow end, which vanishes on white."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    return ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, 256)))


def pretty(name: str) -> str:
    """A name with its Greek letters."""
    for word, letter in (("theta", "θ"), ("omega", "ω")):
        name = name.replace(word, letter)
    return name


def finite(
    name: str, x: npt.ArrayLike, shape: tuple[int | None, ...]
) -> npt.NDArray[np.float64]:
    """Checks `x` against a shape in which None is any size of at least 1."""
    values = np.asarray(x, dtype=np.float64)
    fits = values.ndim == len(shape) and all(
        size == wanted if wanted is not None else size > 0
        for size, wanted in zip(values.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must have shape [{wanted}], got {values.shape}")
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{name} must be finite, it holds nan or inf")
    return values


def forbid(axes: "Axes", low: float, high: float, label: str | None = None) -> None:
    """Shades a band of heights as forbidden."""
    axes.axhspan(low, high, facecolor=LIMIT, alpha=SHADE, linewidth=0, label=label)


def mark_violations(
    axes: "Axes", x: npt.ArrayLike, y: npt.ArrayLike, *, named: bool = True
) -> None:
    """Crosses where a limit was passed; in the legend only if `named`."""
    axes.scatter(
        x,
        y,
        marker="x",
        s=16,
        color=LIMIT,
        linewidths=1.1,
        label="violating step" if named else None,
        zorder=4,
    )
