"""Figures of a run and of several runs, in one colour-blind-safe look.

Every function writes one file and returns the figure. Figures are made without
pyplot: no global state, no display, safe in threads and under `jit` callbacks.
"""
# matplotlib is imported where it is used: it costs half a second.
# ruff: noqa: PLC0415

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from safex.training.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from safex.training.account import EpisodeRecord

# The palette of Okabe and Ito (2008). Vermillion is kept for limits and violations.
BLUE, GREEN, ORANGE, PURPLE = "#0072B2", "#009E73", "#E69F00", "#CC79A7"
LIMIT, BLACK, GREY = "#D55E00", "#222222", "#8A8A8A"
DPI = 200
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
MARKER_LIMIT = 30  # more points than this on a line, and markers become a smear
RESIDUAL_WIDTHS = 2.0  # how many band widths the residual panels show


class Forecast(NamedTuple):
    """What the planner believed would follow, and what followed.

    Row `h` is about the observation at environment step `start_step + h + 1`.

    Attributes:
      start_step: the environment step at which the plan was made.
      mean: `[H, D]` predicted mean.
      lower: `[H, D]` lower edge of the predicted band.
      upper: `[H, D]` upper edge of the predicted band.
      actual: `[H, D]` what happened.
    """

    start_step: int
    mean: npt.NDArray[np.floating]
    lower: npt.NDArray[np.floating]
    upper: npt.NDArray[np.floating]
    actual: npt.NDArray[np.floating]


def plot_learning(
    path: str | Path,
    returns: npt.ArrayLike,
    violations: npt.ArrayLike,
    cost_budget: float,
) -> "Figure":
    """Return per episode, and violating steps cumulated over all of training.

    Args:
      path: the image to write.
      returns: `[S, E]` return of the planned episodes, one row per seed.
      violations: `[S, E + 1]` violating steps, the random phase first.
      cost_budget: violating steps allowed per planned episode; the random phase has
        no allowance, so `e * cost_budget` are allowed up to episode `e`.

    Returns:
      The figure, already written.

    Raises:
      ValueError: shapes do not match or a value is not finite.
    """
    y = _finite("returns", returns, (None, None))
    seeds, episodes = y.shape
    counts = _finite("violations", violations, (seeds, episodes + 1))
    total = np.cumsum(counts, axis=1)
    index = np.arange(episodes + 1)
    with _figure(path, 7.2, 3.0) as figure:
        left, right = figure.subplots(1, 2)
        _seed_curves(left, index[1:], y)
        left.set(xlabel="episode", ylabel="episode return")
        _seed_curves(right, index, total)
        right.set(
            xlabel="episode (0 = random phase)",
            ylabel="violating steps so far",
        )
        right.plot(
            index,
            cost_budget * index,
            color=LIMIT,
            linestyle="--",
            linewidth=1.2,
            label=f"budget: {cost_budget:g} per episode",
        )
        top = max(1.0, total.max(), cost_budget * episodes)
        right.set_ylim(-0.06 * top, 1.12 * top)
        if not total.any():
            _note(right, "no violating step in any seed", 0.5, 0.5)
        for axes in (left, right):
            _integer_ticks(axes.xaxis)
        _integer_ticks(right.yaxis)
        handles, labels = right.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def plot_forecast(
    path: str | Path,
    forecast: Forecast,
    obs_names: Sequence[str],
    limit: float | None,
    *,
    limit_index: int = -1,
) -> "Figure":
    """The predicted band over the horizon against the true trajectory.

    Args:
      path: the image to write.
      forecast: the prediction and what happened.
      obs_names: D names, with their units.
      limit: limit on the size of one coordinate, in its unit; None draws none.
      limit_index: the coordinate it limits.

    Returns:
      The figure, already written.

    Raises:
      ValueError: shapes do not match, a value is not finite, or the lower edge lies
        above the upper.
    """
    mean = _finite("forecast.mean", forecast.mean, (None, len(obs_names)))
    lower = _finite("forecast.lower", forecast.lower, mean.shape)
    upper = _finite("forecast.upper", forecast.upper, mean.shape)
    actual = _finite("forecast.actual", forecast.actual, mean.shape)
    if np.any(lower > upper):
        raise ValueError("forecast.lower must not lie above forecast.upper")
    steps = forecast.start_step + 1 + np.arange(len(mean))
    inside = (lower <= actual) & (actual <= upper)
    with _figure(path, 5.4, 0.9 + 1.35 * len(obs_names)) as figure:
        panels = figure.subplots(len(obs_names), 1, sharex=True, squeeze=False)[:, 0]
        for d, (axes, name) in enumerate(zip(panels, obs_names, strict=True)):
            band = (mean[:, d], lower[:, d], upper[:, d])
            _band(axes, steps, *band, label="predicted band")
            _actual(axes, steps, actual[:, d])
            axes.set_ylabel(_pretty(name))
            axes.set_title(
                f"{inside[:, d].sum()} of {len(steps)} inside", loc="right", fontsize=8
            )
        if limit is not None:
            _limit_lines(panels[limit_index], limit)
        panels[-1].set_xlabel("environment step")
        _integer_ticks(panels[-1].xaxis)
        _shared_legend(figure, panels, markerscale=2.0)
    return figure


def plot_prediction(
    path: str | Path,
    record: "EpisodeRecord",
    obs_names: Sequence[str],
    limit: float | None,
    beta: float,
    *,
    limit_index: int = -1,
) -> "Figure":
    """One-step predictions made before the model saw the data, against the data.

    The left column shows the episode with its band `mean ± beta sigma`,
    `sigma^2 = epistemic^2 + aleatoric^2`; the band is mostly too narrow to see there,
    so the right column shows the same errors in units of sigma. Errors beyond the
    panel are drawn as triangles on its edge and counted as outside.

    Args:
      path: the image to write.
      record: one episode, T >= 1 steps.
      obs_names: D names, with their units.
      limit: limit on the size of one coordinate, in its unit; None draws none.
      beta: half width of the band, in sigma.
      limit_index: the coordinate it limits.

    Returns:
      The figure, already written.

    Raises:
      ValueError: shapes do not match, a value is not finite, a std is negative or
        `beta` is not positive.
    """
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    mean = _finite("record.mean", record.mean, (None, len(obs_names)))
    actual = _finite("record.next_obs", record.next_obs, mean.shape)
    epistemic = _finite("record.epistemic_std", record.epistemic_std, mean.shape)
    aleatoric = _finite("record.aleatoric_std", record.aleatoric_std, mean.shape)
    if np.any(epistemic < 0) or np.any(aleatoric < 0):
        raise ValueError("record.epistemic_std and aleatoric_std must be >= 0")
    sigma = np.hypot(epistemic, aleatoric)
    steps = np.arange(1, len(mean) + 1)
    with _figure(path, 7.2, 0.9 + 1.35 * len(obs_names)) as figure:
        panels = figure.subplots(
            len(obs_names), 2, sharex=True, squeeze=False, width_ratios=(1.0, 1.0)
        )
        for d, name in enumerate(obs_names):
            value, scaled = panels[d]
            width = beta * sigma[:, d]
            lower, upper = mean[:, d] - width, mean[:, d] + width
            _band(value, steps, mean[:, d], lower, upper, label=f"± {beta:g} σ band")
            _actual(value, steps, actual[:, d])
            value.set_ylabel(_pretty(name))
            _residuals(scaled, steps, actual[:, d] - mean[:, d], sigma[:, d], beta)
            scaled.set_ylabel("error / σ")
        if limit is not None:
            _limit_lines(panels[limit_index, 0], limit)
        panels[0, 0].set_title("one-step prediction", loc="left")
        panels[0, 1].set_title("its error", loc="left")
        for axes in panels[-1]:
            axes.set_xlabel("step of the episode")
            _integer_ticks(axes.xaxis)
        _shared_legend(figure, panels.flat, columns=5, markerscale=2.0)
    return figure


def plot_phase_portrait(
    path: str | Path,
    records_by_seed: Sequence[Sequence["EpisodeRecord"]],
    limit_value: float,
    *,
    seeds: Sequence[int] | None = None,
) -> "Figure":
    """Every step of training in the plane of angle and speed, one panel per seed.

    Args:
      path: the image to write.
      records_by_seed: per seed its episodes, the random phase first; observations are
        `(cos theta, sin theta, omega)`.
      limit_value: speed limit [rad/s]; beyond it the plane is shaded.
      seeds: the seeds' names; their place in the list when None.

    Returns:
      The figure, already written.

    Raises:
      ValueError: no seed or no episode, shapes that do not match, a value that is not
        finite, or a limit that is not positive.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm
    from matplotlib.ticker import MaxNLocator

    if not limit_value > 0:
        raise ValueError(f"limit_value must be > 0, got {limit_value}")
    if len(records_by_seed) == 0 or any(len(r) == 0 for r in records_by_seed):
        raise ValueError("records_by_seed must hold an episode for at least one seed")
    names = list(range(len(records_by_seed)) if seeds is None else seeds)
    if len(names) != len(records_by_seed):
        raise ValueError(
            f"{len(names)} seeds named, records of {len(records_by_seed)} given"
        )
    paths = [
        [_phase_path(f"records_by_seed[{s}][{e}]", r) for e, r in enumerate(records)]
        for s, records in enumerate(records_by_seed)
    ]
    speeds = [np.abs(p.omega).max() for seed in paths for p in seed if p.omega.size]
    top = max(1.3 * limit_value, *(1.05 * speed for speed in speeds))
    episodes = max(len(records) for records in records_by_seed)
    colours = _sequential()
    norm = BoundaryNorm(np.arange(episodes + 1) - 0.5, colours.N)
    shades = [colours(norm(episode)) for episode in range(episodes)]
    columns = min(3, len(paths))
    rows = -(-len(paths) // columns)
    width = {1: 4.6, 2: 7.0, 3: 9.0}[columns]
    with _figure(path, width, 0.9 + 2.7 * rows) as figure:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        panels = list(grid.flat)
        for panel in panels[len(paths) :]:
            panel.set_axis_off()
        for panel, seed_paths, name in zip(panels, paths, names, strict=False):
            _phase_panel(panel, seed_paths, limit_value, top, shades)
            panel.set_title(f"seed {name}", loc="left")
        for row in grid:
            row[0].set_ylabel("ω [rad/s]")
        for panel in panels[max(0, len(paths) - columns) : len(paths)]:
            panel.set_xlabel("θ [rad], 0 = upright")
            panel.tick_params(labelbottom=True)  # also above an empty place
        bar = figure.colorbar(
            ScalarMappable(norm, colours),
            ax=panels,
            label="episode (0 = random phase)",
            aspect=30,
            pad=0.015,
            spacing="proportional",
        )
        bar.minorticks_off()
        ticks = MaxNLocator(8, integer=True, steps=[1, 2, 5, 10])
        shown = ticks.tick_values(0, max(1, episodes - 1))
        bar.set_ticks([tick for tick in shown if 0 <= tick < episodes])
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


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
    nominal = _finite("levels", levels, (None,))
    if not coverage:
        raise ValueError("coverage must hold at least one curve")
    curves = {
        name: _finite(f"coverage[{name!r}]", share, nominal.shape)
        for name, share in coverage.items()
    }
    for name, share in {"levels": nominal, **curves}.items():
        if np.any(share < 0) or np.any(share > 1):
            raise ValueError(f"{name} must lie in [0, 1], got {share.tolist()}")
    order = np.argsort(nominal)
    colours = itertools.cycle((BLUE, ORANGE, GREEN, PURPLE))
    markers = itertools.cycle("os^Dv")
    with _figure(path, 4.0, 4.2) as figure:
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
    nominal = _finite("levels", levels, (None,))
    if not curves or set(curves) != set(coverage):
        raise ValueError("curves and coverage must name the same regions, at least one")
    away = _finite("distance", distance, (None,))
    rows = {
        "error": _finite("error", error, away.shape),
        "predicted std": _finite("std", std, away.shape),
    }
    bins = np.array_split(np.argsort(away), min(12, away.size))
    with _figure(path, 9.0, 3.2) as figure:
        left, middle, right = figure.subplots(1, 3)
        left.plot([0, 1], [0, 1], color=GREY, linewidth=1.0)
        expected = [math.erf(width / math.sqrt(2.0)) for width in (1, 2, 3)]
        for width, share in enumerate(expected):
            middle.plot([width - 0.4, width + 0.4], [share, share], color=BLACK)
        for index, (name, curve) in enumerate(curves.items()):
            look = {"color": (BLUE, ORANGE, GREEN, PURPLE)[index % 4]}
            label = name.replace("_", " ")
            left.plot(nominal, _finite(name, curve, nominal.shape), label=label, **look)
            inside = _finite(f"coverage[{name!r}]", coverage[name], (3,))
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


def plot_comparison(
    path: str | Path, table: Mapping[str, Mapping[str, Estimate | None]]
) -> "Figure":
    """Experiments side by side, one panel per quantity.

    Args:
      path: the image to write; the ending chooses the format.
      table: per experiment its quantities, the same ones for all; None where an
        experiment has no such quantity.

    Returns:
      The figure, already written.

    Raises:
      ValueError: no experiment or no quantity, or experiments that differ in them.
    """
    names = list(table)
    metrics = list(table[names[0]]) if names else []
    if not metrics:
        raise ValueError("table must hold at least one experiment and one quantity")
    for name in names:
        if list(table[name]) != metrics:
            raise ValueError(
                f"{name} has {list(table[name])}, {names[0]} has {metrics}"
            )
    wide = len(metrics) >= 3
    width = max(4.2, 1.6 + 2.1 * len(metrics))
    height = (1.15 if wide else 1.35) + 0.42 * len(names)
    with _figure(path, width, height) as figure:
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for panel, metric in zip(panels, metrics, strict=True):
            for row, name in enumerate(names):
                _estimate_row(panel, row, table[name][metric])
            panel.set_title(metric)
            panel.locator_params(axis="x", nbins=4)
            panel.grid(visible=False, axis="y")
            panel.tick_params(axis="y", length=0)
            panel.margins(x=0.08)
            if np.ptp(panel.dataLim.intervalx) == 0:  # e.g. no violation anywhere
                panel.set_xlim(panel.dataLim.x0 - 0.08, panel.dataLim.x0 + 1.0)
        panels[0].set_yticks(range(len(names)), names)
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        _shared_legend(figure, panels, columns=4 if wide else 2)
    return figure


def _estimate_row(axes: "Axes", row: int, estimate: Estimate | None) -> None:
    if estimate is None:
        axes.annotate(
            "-",
            (0.5, row),
            xycoords=("axes fraction", "data"),
            ha="center",
            va="center",
            color=GREY,
            fontsize=11,
        )
        return
    axes.plot(
        [estimate.low, estimate.high],
        [row, row],
        color=BLUE,
        linewidth=5,
        alpha=0.35,
        label="bootstrap interval",
        solid_capstyle="butt",
    )
    axes.scatter(
        estimate.values,
        [row] * len(estimate.values),
        s=9,
        color=GREY,
        linewidths=0,
        label="seed",
        zorder=3,
    )
    axes.scatter(
        estimate.worst,
        row,
        s=34,
        facecolors="none",
        edgecolors=LIMIT,
        linewidths=1.2,
        label="worst seed",
        zorder=4,
    )
    axes.plot(
        estimate.iqm,
        row,
        color=BLUE,
        marker="|",
        markersize=11,
        markeredgewidth=2,
        linestyle="none",
        label="interquartile mean",
    )


class _PhasePath(NamedTuple):
    """An episode in the phase plane.

    Attributes:
      theta: `[T, 2]` angle before and after each step [rad], not wrapped after it.
      omega: `[T, 2]` speed before and after each step [rad/s].
      violating: `[T]` bool.
    """

    theta: npt.NDArray[np.float64]
    omega: npt.NDArray[np.float64]
    violating: npt.NDArray[np.bool_]


def _phase_path(name: str, record: "EpisodeRecord") -> _PhasePath:
    obs = _finite(f"{name}.obs", record.obs, (None, 3))
    next_obs = _finite(f"{name}.next_obs", record.next_obs, obs.shape)
    margin = _finite(f"{name}.margin", record.margin, (len(obs),))
    before = np.arctan2(obs[:, 1], obs[:, 0])
    after = np.arctan2(next_obs[:, 1], next_obs[:, 0])
    # The short way round: a step over the seam at ±pi leaves the panel, not crosses it.
    after = before + np.mod(after - before + np.pi, 2 * np.pi) - np.pi
    return _PhasePath(
        theta=np.stack([before, after], axis=1),
        omega=np.stack([obs[:, 2], next_obs[:, 2]], axis=1),
        violating=margin > 0,
    )


def _phase_panel(
    axes: "Axes",
    paths: Sequence[_PhasePath],
    limit: float,
    top: float,
    colours: Sequence[Any],
) -> None:
    from matplotlib.collections import LineCollection

    for sign in (-1, 1):
        axes.axhspan(
            sign * limit,
            sign * top,
            facecolor=LIMIT,
            alpha=0.13,
            linewidth=0,
            label=f"forbidden: |ω| > {limit:g} rad/s" if sign == 1 else None,
        )
        axes.axhline(sign * limit, color=LIMIT, linestyle="--", linewidth=1.0)
    count = 0
    for episode, path in enumerate(paths):
        # A step over the seam is drawn once more from the other side.
        crossed = np.abs(path.theta[:, 1]) > np.pi
        turn = 2 * np.pi * np.sign(path.theta[crossed, 1:])
        theta = np.concatenate([path.theta, path.theta[crossed] - turn])
        omega = np.concatenate([path.omega, path.omega[crossed]])
        axes.add_collection(
            LineCollection(
                list(np.stack([theta, omega], axis=-1)),
                colors=[colours[episode]],
                linewidths=0.9,
                capstyle="round",
            ),
            autolim=False,
        )
        angle, speed = path.theta[path.violating, 1], path.omega[path.violating, 1]
        angle = np.mod(angle + np.pi, 2 * np.pi) - np.pi
        axes.scatter(
            angle,
            speed,
            marker="x",
            s=16,
            color=LIMIT,
            linewidths=1.1,
            label="violating step" if episode == 0 else None,
            zorder=4,
        )
        count += len(angle)
    _note(axes, f"{count} violating step{'' if count == 1 else 's'}", 0.5, 0.955)
    axes.set_xticks(
        [-np.pi, -np.pi / 2, 0, np.pi / 2, np.pi], ["−π", "−π/2", "0", "π/2", "π"]
    )
    axes.set(xlim=(-np.pi, np.pi), ylim=(-top, top))


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
    edge = RESIDUAL_WIDTHS * beta
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
    if not known.any():
        # A model that claims to be exact is off by rounding: no share makes sense.
        _note(axes, f"σ = 0; largest error {np.abs(error).max():.1e}", 0.5, 0.88)
        return
    share = 100 * inside.mean()
    axes.set_title(f"{share:.1f} % inside ± {beta:g} σ", loc="right", fontsize=8)


def _seed_curves(
    axes: "Axes", x: npt.NDArray[np.int_], curves: npt.NDArray[np.float64]
) -> None:
    """Mean over seeds `[S, n]`, the band of all seeds and a thin line for each."""
    seeds = len(curves)
    marker = "o" if len(x) <= MARKER_LIMIT else None
    if seeds > 1:
        axes.fill_between(
            x,
            curves.min(axis=0),
            curves.max(axis=0),
            color=BLUE,
            alpha=0.15,
            linewidth=0,
            label="lowest to highest seed",
        )
        for s, curve in enumerate(curves):
            label = "one seed" if s == 0 else None
            axes.plot(x, curve, color=BLUE, alpha=0.4, linewidth=0.6, label=label)
    axes.plot(
        x,
        curves.mean(axis=0),
        color=BLUE,
        marker=marker,
        markersize=3,
        label=f"mean of {seeds} seeds" if seeds > 1 else "the only seed",
    )


def _band(
    axes: "Axes",
    x: npt.NDArray[np.int_],
    mean: npt.NDArray[np.float64],
    lower: npt.NDArray[np.float64],
    upper: npt.NDArray[np.float64],
    *,
    label: str,
) -> None:
    axes.fill_between(x, lower, upper, color=BLUE, alpha=0.25, linewidth=0, label=label)
    axes.plot(x, mean, color=BLUE, linewidth=1.2, label="predicted mean")


def _actual(
    axes: "Axes", x: npt.NDArray[np.int_], actual: npt.NDArray[np.float64]
) -> None:
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


def _limit_lines(axes: "Axes", limit: float) -> None:
    for value, label in ((limit, f"limit ±{limit:g}"), (-limit, None)):
        axes.axhline(value, color=LIMIT, linestyle="--", linewidth=1.2, label=label)


def _shared_legend(
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


def _note(axes: "Axes", text: str, x: float, y: float) -> None:
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


def _integer_ticks(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))


def _sequential() -> Any:
    """Viridis without its yellow end, which vanishes on white."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    return ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, 256)))


def _pretty(name: str) -> str:
    for word, letter in (("theta", "θ"), ("omega", "ω")):
        name = name.replace(word, letter)
    return name


@contextlib.contextmanager
def _figure(path: str | Path, width: float, height: float) -> Iterator["Figure"]:
    """A figure [inches] in the common look, written to `path` when it is complete."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def _finite(
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
