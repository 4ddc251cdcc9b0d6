"""Compares finished runs: one table and one figure, violations first.

    python experiments/compare.py DIR DIR ... [--labels a b] [--out FOLDER] [--level L]

Each DIR is a finished run, a job with a grid (every point of it is a row), or the
parent of runs, of which the latest is taken. Every run is a row; runs of one and the
same experiment that are given the same label are pooled into one. Writes
`comparison.csv`, `comparison.md` and as png and pdf the figures `comparison` (means,
intervals, worst seeds), `pareto` (violations against return), where a budget is above 0
`pareto_cost` (final cost against return), and `profiles` (the share of seeds beyond
each value); of several rows also `improvement`, how probably a seed of one is better
than a seed of the other, with its numbers in `improvement.csv`.
"""

import argparse
import csv
import dataclasses
import itertools
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safex.errors import ResultsError, SafexError

if TYPE_CHECKING:
    from safex.training.statistics import Estimate, Improvement

SAME_EXPERIMENT = ("env", "method", "model", "episodes", "random_steps", "limits")
MISSING = "-"


class Metric(NamedTuple):
    """One compared quantity.

    Attributes:
      name: its column in the csv file.
      keys: where it stands in a seed's entry of `summary.json`.
      title: its heading.
      worst: which extreme is the bad one.
      decimals: digits shown after the point.
      worst_only: the mean says little, so the tables show the worst seed alone.
      shown: in the tables and the figure; else in the csv file only.
    """

    name: str
    keys: tuple[str | int, ...]
    title: str
    worst: Literal["min", "max"]
    decimals: int
    worst_only: bool = False
    shown: bool = True


def _metrics(runs: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[Metric, ...]:
    """What is compared between runs under limits on the same things, given for each.

    What an episode cost at worst is shown where any run was allowed any cost.
    """
    excess, cost = [], []
    allowed = any(limit["cost_budget"] > 0 for limits in runs for limit in limits)
    several = len(runs[0]) > 1
    for c, limit in enumerate(runs[0]):
        about, number = (f"{limit['name']} ", f"_{c}") if several else ("", "")
        title = f"worst {about}excess [{limit['unit']}]"
        name, keys = f"worst_excess{number}", ("worst_excess", c)
        excess.append(Metric(name, keys, title, "max", 3, True))
        budgets = {limits[c]["cost_budget"] for limits in runs}
        of = f" (of {budgets.pop():g})" if len(budgets) == 1 else ""
        title = f"worst episode {about}cost{of}"
        name, keys = f"worst_episode_cost{number}", ("worst_episode_cost", c)
        cost.append(Metric(name, keys, title, "max", 1, True, allowed))
    return (
        _plain("training_violating_steps", "training violations [steps]", "max"),
        *excess,
        *cost,
        _plain("final_return", "final return", "min"),
        _plain("infeasible_plans", "infeasible plans", "max"),
        Metric(
            "prequential_coverage_2",
            ("coverage", "prequential", "2"),
            "prequential coverage at 2",
            "min",
            3,
        ),
        # Before any plan, so no merit of the method; for whoever reads the csv.
        _plain(
            "random_violating_steps",
            "random-phase violations [steps]",
            "max",
            shown=False,
        ),
    )


def _plain(
    name: str, title: str, worst: Literal["min", "max"], *, shown: bool = True
) -> Metric:
    return Metric(name, (name,), title, worst, 1, shown=shown)


@dataclasses.dataclass(frozen=True)
class Run:
    """One results folder.

    Attributes:
      folder: where it lies.
      summary: what stands in it.
      values: per metric name one value per seed, None where a seed has none.
    """

    folder: Path
    summary: Mapping[str, Any]
    values: Mapping[str, tuple[float | None, ...]]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: a run, or several runs of one experiment.

    Attributes:
      label: its name.
      runs: the runs pooled in it.
      num_seeds: of all its runs.
      estimates: per metric name, None where a seed lacks the quantity.
    """

    label: str
    runs: tuple[Run, ...]
    num_seeds: int
    estimates: Mapping[str, "Estimate | None"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 after a one-line error."""
    args = _parse(argv)
    try:
        if not 0.0 < args.level < 1.0:
            raise ResultsError(f"--level must be in (0, 1), got {args.level:g}")
        runs, labels = _find(args.folders, args.labels)
        _check_comparable(runs)
        _write(_rows(runs, labels, args.level), args.out, args.level)
    except (SafexError, OSError) as error:
        print(f"safex: {error}", file=sys.stderr)
        return 2
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="LABEL",
        help="one name per DIR; a name given twice pools the seeds of both",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("comparison"),
        metavar="FOLDER",
        help="where the files go (default: ./comparison)",
    )
    parser.add_argument(
        "--level",
        type=float,
        default=0.95,
        help="nominal coverage of the bootstrap intervals (default: 0.95)",
    )
    return parser.parse_args(argv)


def _find(
    folders: Sequence[Path], given: Sequence[str] | None
) -> tuple[list[Run], list[str]]:
    """The runs that folders stand for, and a label for each."""
    from safex.training.results import (  # noqa: PLC0415, after --help
        find_results,
        name_of,
        names_apart,
    )

    if given is not None and len(given) != len(folders):
        raise ResultsError(f"{len(given)} labels for {len(folders)} folders")
    found = [find_results(folder) for folder in folders]
    for folder, runs in zip(folders, found, strict=True):
        jobs = [*folder.glob("*/summary.json"), *folder.glob("*/grid.json")]
        is_one = (folder / "config.yaml").is_file() or runs[0] == folder
        if len(jobs) > 1 and not is_one:
            latest = runs[0].relative_to(folder).parts[0]
            print(
                f"safex: {folder} holds {len(jobs)} runs, taking the latest, {latest}",
                file=sys.stderr,
            )
    read = [_read(run) for runs in found for run in runs]
    if given is None:
        names = [name_of(run.summary) for run in read]
        return read, names_apart(names, [run.folder.resolve() for run in read])
    return read, [
        label if len(runs) == 1 else f"{label} {run.name}"
        for label, runs in zip(given, found, strict=True)
        for run in runs
    ]


def _read(folder: Path) -> Run:
    from safex.training.results import read_summary  # noqa: PLC0415, after --help

    path, summary = folder / "summary.json", read_summary(folder)
    for key in SAME_EXPERIMENT:
        _get(path, summary, (key,))
    count = len(summary["seeds"])
    for s in range(count):
        _get(path, summary, ("seeds", s, "seed"))
    values = {
        metric.name: tuple(
            _number(path, summary, ("seeds", s, *metric.keys)) for s in range(count)
        )
        for metric in _metrics([summary["limits"]])
    }
    return Run(folder, summary, values)


def _get(path: Path, summary: Any, keys: tuple[str | int, ...]) -> Any:
    value = summary
    for depth, key in enumerate(keys):
        # A whole section that is null stands for every quantity in it.
        if value is None and depth > 2:
            return None
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise ResultsError(f"{path} has no key {_dotted(keys)}") from None
    return value


def _number(path: Path, summary: Any, keys: tuple[str | int, ...]) -> float | None:
    value = _get(path, summary, keys)
    if value is None:
        return None
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ResultsError(f"{path}: {_dotted(keys)} must be a number, got {value!r}")
    return float(value)


def _dotted(keys: Sequence[str | int]) -> str:
    return ".".join(str(key) for key in keys)


def _check_comparable(runs: Sequence[Run]) -> None:
    from safex.training.results import check_one_task  # noqa: PLC0415, after --help

    check_one_task({run.folder: run.summary for run in runs})
    for key, what in (("value", "limits"), ("cost_budget", "cost budgets")):
        values = sorted({_listed(run.summary["limits"], key) for run in runs})
        if len(values) > 1:
            print(
                f"safex: the runs have different {what}: {', '.join(values)}",
                file=sys.stderr,
            )


def _listed(limits: Sequence[Mapping[str, Any]], key: str) -> str:
    return " and ".join(f"{limit[key]:g}" for limit in limits)


def _rows(runs: Sequence[Run], labels: Sequence[str], level: float) -> list[Row]:
    groups: dict[str, list[Run]] = {}
    for run, label in zip(runs, labels, strict=True):
        groups.setdefault(label, []).append(run)
    for label, group in groups.items():
        _check_poolable(label, group)
    return [_row(label, tuple(group), level) for label, group in groups.items()]


def _check_poolable(label: str, group: Sequence[Run]) -> None:
    first = group[0]
    for run in group[1:]:
        for key in SAME_EXPERIMENT:
            here, there = run.summary[key], first.summary[key]
            if here != there:
                raise ResultsError(
                    f"label {label!r} pools different experiments: {key} is {there} in "
                    f"{first.folder}, {here} in {run.folder}"
                )
    counts = Counter(entry["seed"] for run in group for entry in run.summary["seeds"])
    twice = sorted(str(seed) for seed, count in counts.items() if count > 1)
    if twice:
        raise ResultsError(f"label {label!r} counts seed {', '.join(twice)} twice")


def _row(label: str, group: tuple[Run, ...], level: float) -> Row:
    from safex.training.statistics import estimate  # noqa: PLC0415, after --help

    estimates: dict[str, Estimate | None] = {}
    num_seeds = 0
    for metric in _metrics([group[0].summary["limits"]]):
        values = [value for run in group for value in run.values[metric.name]]
        known = [value for value in values if value is not None]
        num_seeds = len(values)
        # A mean over some seeds only would look like one over all.
        complete = len(known) == num_seeds
        estimates[metric.name] = (
            estimate(known, worst=metric.worst, level=level) if complete else None
        )
    return Row(label, group, num_seeds, estimates)


def _write(rows: Sequence[Row], out: Path, level: float) -> None:
    from rich.console import Console  # noqa: PLC0415, after --help
    from rich.measure import Measurement  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from safex.training.plots import plot_comparison  # noqa: PLC0415

    metrics = _metrics([run.summary["limits"] for row in rows for run in row.runs])
    env = rows[0].runs[0].summary["env"]
    titles = {metric: metric.title for metric in metrics if metric.shown}
    caption = (
        f"Interquartile mean over seeds [{100 * level:g}% stratified bootstrap "
        "interval] and the worst seed."
    )
    out.mkdir(parents=True, exist_ok=True)
    _write_csv(out / "comparison.csv", rows, metrics)
    pairs = _improvements(rows, level)
    text = f"# {env}\n\n{_markdown(rows, titles)}\n\n{caption}\n"
    if pairs:
        text += f"\n{_improvement_markdown(pairs, level)}\n"
        _write_improvements(out / "improvement.csv", pairs)
    (out / "comparison.md").write_text(text, encoding="utf-8")
    panels = {
        row.label: {
            _broken(title): row.estimates[metric.name]
            for metric, title in titles.items()
        }
        for row in rows
    }
    for ending in ("png", "pdf"):
        plot_comparison(out / f"comparison.{ending}", panels)
        _draw_more(rows, pairs, level, out, ending)

    table = Table(title=Text(env), caption=Text(caption), show_lines=True)
    table.add_column("experiment", no_wrap=True)
    for title in (*titles.values(), "seeds"):
        heading = Text(title.replace(" ", "\n"))
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        cells = [_stacked(row.estimates[metric.name], metric) for metric in titles]
        # Text, or rich reads an interval in brackets as markup.
        table.add_row(*(Text(c) for c in (row.label, *cells, str(row.num_seeds))))
    console = Console()
    # Lines that a narrow terminal wraps are better than numbers cut short.
    options = console.options.update(width=10_000)
    width = Measurement.get(console, options, table).maximum
    console.width = max(console.width, width)
    console.print(table)
    console.print(Text(f"written to {out}"))


# What a run is judged by: its name, the good end, and its words.
_JUDGED: tuple[tuple[str, Literal["low", "high"], str], ...] = (
    ("training_violating_steps", "low", "violating steps of training"),
    ("final_return", "high", "final return"),
)


class Pair(NamedTuple):
    """How probably one row does better than another in one quantity.

    Attributes:
      quantity: its words.
      one: label of the one.
      other: label of the other.
      found: the probability and its interval.
    """

    quantity: str
    one: str
    other: str
    found: "Improvement"


def _improvements(rows: Sequence[Row], level: float) -> list[Pair]:
    """Every pair of rows once, in each quantity that a run is judged by."""
    from safex.training.statistics import (  # noqa: PLC0415, after --help
        probability_of_improvement,
    )

    pairs = []
    for name, better, words in _JUDGED:
        for one, other in itertools.combinations(rows, 2):
            values = [_values(row, name) for row in (one, other)]
            found = probability_of_improvement(*values, better=better, level=level)
            pairs.append(Pair(words, one.label, other.label, found))
    return pairs


def _values(row: Row, name: str) -> tuple[float, ...]:
    found = row.estimates[name]
    if found is None:
        raise ResultsError(f"{row.label} lacks {name} of a seed")
    return found.values


def _draw_more(
    rows: Sequence[Row], pairs: Sequence[Pair], level: float, out: Path, ending: str
) -> None:
    from safex.training import plots  # noqa: PLC0415, after --help
    from safex.training.results import GAIN, paretos  # noqa: PLC0415
    from safex.training.statistics import performance_profile  # noqa: PLC0415

    prices, gains = (
        {row.label: _values(row, name) for row in rows} for name, _, _ in _JUDGED
    )
    for name, price, budget, trades in paretos(
        {row.label: [run.summary for run in row.runs] for row in rows}
    ):
        path = out / f"{name}.{ending}"
        plots.plot_pareto(path, trades, price=price, gain=GAIN, budget=budget)
    panels = {}
    for words, values in zip(_words(), (prices, gains), strict=True):
        every = sorted({value for group in values.values() for value in group})
        room = 0.05 * (every[-1] - every[0]) or 1.0
        # A share changes where a run is and nowhere else.
        thresholds = [every[0] - room, *every, every[-1] + room]
        panels[words] = {
            label: performance_profile(group, thresholds, level=level)
            for label, group in values.items()
        }
    plots.plot_profiles(out / f"profiles.{ending}", panels)
    if pairs:
        shown = {
            words: [p[1:] for p in pairs if p.quantity == words] for words in _words()
        }
        plots.plot_improvement(out / f"improvement.{ending}", shown)


def _words() -> list[str]:
    return [words for _, _, words in _JUDGED]


def _improvement_markdown(pairs: Sequence[Pair], level: float) -> str:
    lines = [
        f"Probability of improvement [{100 * level:g}% bootstrap interval]: how "
        "probably a seed of the one is better than a seed of the other, a draw counted "
        "half.",
        "",
        "| better in | one | other | probability |",
        "| --- | --- | --- | ---: |",
    ]
    for quantity, one, other, found in pairs:
        interval = f"[{found.low:.2f}, {found.high:.2f}]"
        if math.isnan(found.low):
            interval = f"[{MISSING}]"
        cells = [quantity, one, other, f"{found.probability:.2f} {interval}"]
        escaped = (cell.replace("|", "\\|") for cell in cells)
        lines.append("| " + " | ".join(escaped) + " |")
    return "\n".join(lines)


def _write_improvements(path: Path, pairs: Sequence[Pair]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["quantity", "one", "other", "probability", "low", "high"])
        for quantity, one, other, found in pairs:
            numbers = ["" if math.isnan(x) else x for x in found]
            writer.writerow([quantity, one, other, *numbers])


def _parts(estimate: "Estimate", metric: Metric) -> tuple[str, str, str]:
    """The mean, its interval and the worst seed, as text."""

    def text(value: float) -> str:
        return f"{value:.{metric.decimals}f}".removesuffix(".0")

    interval = f"[{text(estimate.low)}, {text(estimate.high)}]"
    if math.isnan(estimate.low):
        interval = f"[{MISSING}]"  # one seed has no interval
    return text(estimate.iqm), interval, text(estimate.worst)


def _stacked(estimate: "Estimate | None", metric: Metric) -> str:
    """A cell of the printed table, in lines so that the table stays narrow."""
    if estimate is None:
        return MISSING
    mean, interval, worst = _parts(estimate, metric)
    return worst if metric.worst_only else f"{mean}\n{interval}\nworst {worst}"


def _markdown(rows: Sequence[Row], titles: Mapping[Metric, str]) -> str:
    head = ["experiment"]
    for metric, title in titles.items():
        head += [title] if metric.worst_only else [title, "worst seed"]
    head.append("seeds")
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        line = [row.label]
        for metric in titles:
            estimate = row.estimates[metric.name]
            cells = [MISSING, MISSING]
            if estimate is not None:
                mean, interval, worst = _parts(estimate, metric)
                cells = [f"{mean} {interval}", worst]
            line += cells[1:] if metric.worst_only else cells
        lines.append([*line, str(row.num_seeds)])
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
        for line in lines
    )


def _broken(title: str) -> str:
    """Breaks a heading over two lines for a narrow panel."""
    words = title.split(" ")
    half = (len(words) + 1) // 2
    return " ".join(words[:half]) + "\n" + " ".join(words[half:])


def _write_csv(path: Path, rows: Sequence[Row], metrics: Sequence[Metric]) -> None:
    """One line per row; a quantity that is missing is an empty field."""
    head = ["label", "env", "method", "model", "episodes"]
    head += ["limits", "cost_budgets", "num_seeds"]
    for metric in metrics:
        head += [f"{metric.name}_{part}" for part in ("iqm", "low", "high", "worst")]
    head += ["revisions", "folders"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        for row in rows:
            first = row.runs[0].summary
            line: list[Any] = [row.label]
            line += [first[key] for key in ("env", "method", "model", "episodes")]
            line += [_listed(first["limits"], k) for k in ("value", "cost_budget")]
            line.append(row.num_seeds)
            for metric in metrics:
                found = row.estimates[metric.name]
                parts = (math.nan,) * 4 if found is None else found[:4]
                line += ["" if math.isnan(part) else part for part in parts]
            revisions = {str(run.summary.get("revision", "")): None for run in row.runs}
            line.append(" ".join(revisions))
            line.append(" ".join(str(run.folder) for run in row.runs))
            writer.writerow(line)


if __name__ == "__main__":
    sys.exit(main())
