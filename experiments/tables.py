"""The table that a run ends with."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table


def summary_table(summary: Mapping[str, Any]) -> Table:
    """One row a seed, then mean and worst; violations first."""
    limit = summary["limit"]
    seconds = summary["seconds_per_decision"]
    pace = "" if seconds is None else f", {1000 * seconds:.0f} ms a decision"
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{summary['method']} with {summary['model']} model on "
        f"{summary['env']}, {summary['episodes']} episodes{pace}",
    )
    table.caption = (
        "random: in the random phase; excess: the worst over the limit; no plan: "
        "decisions without a feasible one; 2 sigma: share of the next episode, and of "
        "states far from all data, that the band holds"
    )
    table.add_column("seed", justify="right")
    for name in (
        "violating\nsteps",
        "of them\nrandom",
        escape(f"excess\n[{limit['unit']}]"),
        "final\nreturn",
        "no\nplan",
        "2 sigma\nnext",
        "2 sigma\nfar",
    ):
        table.add_column(name, justify="right")
    for entry in summary["seeds"]:
        coverage = entry["coverage"]
        table.add_row(
            str(entry["seed"]),
            *_cells(
                entry,
                coverage["prequential"]["2"],
                coverage["out_of_distribution"]["2"],
            ),
        )
    aggregate = summary["aggregate"]
    table.add_section()
    for name, statistic, worst in (("mean", "mean", "mean"), ("worst", "max", "min")):
        values = {
            key: value[worst if key == "final_return" else statistic]
            for key, value in aggregate.items()
            if key != "coverage"
        }
        coverage = aggregate["coverage"]
        shares = [
            coverage[kind]["2"] and coverage[kind]["2"][worst]
            for kind in ("prequential", "out_of_distribution")
        ]
        table.add_row(name, *_cells(values, *shares))
    return table


def _cells(
    values: Mapping[str, Any], prequential: float | None, far: float | None
) -> list[str]:
    def share(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}%"

    return [
        f"{values['training_violating_steps']:g}",
        f"{values['random_violating_steps']:g}",
        f"{values['worst_excess']:.3f}",
        f"{values['final_return']:.1f}",
        f"{values['infeasible_plans']:g}",
        share(prequential),
        share(far),
    ]
