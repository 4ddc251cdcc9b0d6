"""The one look of all figures, and what they share."""
# matplotlib is imported where it is used: it costs half a second.
# ruff: noqa: PLC0415

import contextlib
import contextvars
import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from safex.training.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito (2008). Vermillion is kept for limits and violations.
BLUE, GREEN, ORANGE, PURPLE = "#0072B2", "#009E73", "#E69F00", "#CC79A7"
LIMIT, BLACK, GREY = "#D55E00", "#222222", "#8A8A8A"
SKY, BROWN = "#56B4E9", "#7F5539"
COLUMN, PAGE = 3.25, 6.75  # widths of a paper's column and of its text [inches]
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
    # Letters stay letters: a font in the PDF, text in the SVG, for who edits them.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "safex",
}
_SIZES = ("font.size", "axes.titlesize", "axes.labelsize", "legend.fontsize")
_SMALLER = 0.88  # letters of a figure that was made narrower: 7.5 points
_LINE = 1.35  # height of a line of text, in font sizes
_BREAKS = re.compile(r"(?<=[ ,=/._)-])(?=.)")
# Of files that are equal where the numbers are.
_NO_DATE: dict[str, Any] = {
    ".pdf": {"metadata": {"CreationDate": None}},
    ".svg": {"metadata": {"Date": None}},
}
_WIDEST: contextvars.ContextVar[float | None] = contextvars.ContextVar(
    "_WIDEST", default=None
)


@contextlib.contextmanager
def at_most(width: float) -> Iterator[None]:
    """Figures made in here are no wider [inches], their letters a little smaller."""
    token = _WIDEST.set(width)
    try:
        yield
    finally:
        _WIDEST.reset(token)


def looks(number: int) -> list[dict[str, Any]]:
    """Colour, marker and line of so many experiments, told apart without colour too."""
    colours = (BLUE, ORANGE, GREEN, PURPLE, SKY, BLACK, BROWN)
    lines = ("-", "--", "-.", (0, (3, 1, 1, 1, 1, 1)))
    markers = "osD^vPX"
    return [
        {
            "color": colours[i % len(colours)],
            "marker": markers[i % len(markers)],
            "linestyle": lines[(i + 2 * (i // len(colours))) % len(lines)],
        }
        for i in range(number)
    ]


@contextlib.contextmanager
def new_figure(path: str | Path, width: float, height: float) -> Iterator["Figure"]:
    """A figure [inches] in the common look, written to `path` when it is complete."""
    import matplotlib
    from matplotlib.figure import Figure

    scale = min(1.0, (_WIDEST.get() or width) / width)
    width, height = scale * width, scale * height
    letters = 1.0 if scale == 1.0 else _SMALLER
    style = STYLE | {name: letters * STYLE[name] for name in _SIZES}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        kind = Path(path).suffix
        options = {"format": kind.removeprefix(".")} | _NO_DATE.get(kind, {})
        write_atomically(Path(path), lambda part: figure.savefig(part, **options))


def wrapped(text: str, width: float, size: float | None = None) -> str:
    """A text in lines no wider than `width` [inches], where it can be broken so.

    Lines end after a space or what joins words in names of settings and folders.

    Args:
      text: without line breaks.
      width: of a line.
      size: of the letters [points]; that of tick labels by default.
    """
    import matplotlib as mpl
    from matplotlib.font_manager import FontProperties

    size = size or FontProperties(size=mpl.rcParams["ytick.labelsize"]).get_size()
    lines = [""]
    for word in _BREAKS.split(text):
        if lines[-1] and _inches((lines[-1] + word).rstrip(), size) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(line.rstrip() for line in lines)


@functools.lru_cache(maxsize=4096)
def _inches(text: str, size: float) -> float:
    """How wide a line is."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    path = TextPath((0, 0), text, prop=FontProperties(size=size), usetex=False)
    return float(path.get_extents().width) / 72 if len(path.vertices) else 0.0


def shared_legend(
    figure: "Figure",
    panels: Iterable["Axes"],
    columns: int = 4,
    markerscale: float = 1.0,
) -> None:
    """One legend below all panels, each label once, in no more columns than fit.

    A label that is too long for one column is broken, and the figure is made higher by
    the lines that `columns` columns would not have needed.
    """
    import matplotlib as mpl

    entries: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if not entries:
        return
    size = float(mpl.rcParams["legend.fontsize"])
    beside = (
        size
        / 72
        * (mpl.rcParams["legend.handlelength"] + mpl.rcParams["legend.handletextpad"])
    )
    between = size / 72 * mpl.rcParams["legend.columnspacing"]
    room = figure.get_figwidth() - 2 * size / 72
    wanted = min(columns, len(entries))
    widths = [beside + _inches(label, size) for label in entries]
    for number in range(wanted, 0, -1):
        # As matplotlib fills the columns: one after the other.
        filled = np.array_split(widths, number)
        if sum(max(column) + between for column in filled) - between <= room:
            break
    labels = [wrapped(label, room - beside, size) for label in entries]
    lines = max(
        sum(label.count("\n") + 1 for label in column)
        for column in np.array_split(np.array(labels, dtype=object), number)
    )
    more = lines - -(-len(entries) // wanted)
    figure.set_figheight(figure.get_figheight() + more * _LINE * size / 72)
    figure.legend(
        list(entries.values()),
        labels,
        loc="outside lower center",
        ncols=number,
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
        fontsize="small",
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
