"""The table that a run ends with."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.markup import escape
from rich.table import Table

from safex.training.page import certified, certified_without_model
from safex.training.plots.style import pretty

# With more columns than this they go closer together, to fit 80 characters.
_COMFORTABLE = 8


class _Column(NamedTuple):
    """A heading, and the cell that a seed's or the aggregate's values make."""

    heading: str
    cell: Callable[[Mapping[str, Any]], str]


def summary_table(summary: Mapping[str, Any]) -> Table:
    """One row a seed, then mean and worst; violations first.

    Each limit has a column for its excess, and one for the costliest planned episode
    where any episode is allowed to cost anything.
    """
    limits = summary["limits"]
    allowed = any(limit["cost_budget"] > 0 for limit in limits)
    columns = [_Column("seed", lambda values: values["seed"])]
    columns += _columns(limits, allowed)
    seconds = summary["seconds_per_decision"]
    pace = "" if seconds is None else f", {1000 * seconds:.0f} ms a decision"
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{summary['method']} with {summary['model']} model on "
        f"{summary['env']}, {summary['episodes']} episodes{pace}",
        caption=_caption(len(limits) > 1, allowed, summary["certificate"]),
        collapse_padding=len(columns) > _COMFORTABLE,
    )
    for column in columns:
        table.add_column(escape(column.heading), justify="right")
    rows = [{**entry, "seed": str(entry["seed"])} for entry in summary["seeds"]]
    rows += [_row(summary["aggregate"], name) for name in ("mean", "worst")]
    for index, row in enumerate(rows):
        if index == len(summary["seeds"]):
            table.add_section()
        table.add_row(*(column.cell(row) for column in columns))
    return table


def model_free_table(summary: Mapping[str, Any]) -> Table:
    """The same of agents without a model, with the last evaluation and the best."""
    limits = summary["limits"]
    several = len(limits) > 1
    columns = [
        _Column("seed", lambda values: values["seed"]),
        _number("violating\nsteps", "training_violating_steps"),
        _number("of them\nrandom", "random_violating_steps"),
    ]
    for c, limit in enumerate(limits):
        about = f"{pretty(limit['name'])}\n" if several else ""
        heading = f"{about}excess\n[{limit['unit']}]"
        columns.append(_number(heading, "worst_excess", c, spec=".3f"))
    columns.append(_number("over\nbudget", "episodes_over_budget"))
    for c, limit in enumerate(limits):
        about = f"{pretty(limit['name'])}\n" if several else ""
        heading = f"{about}final cost\nof {limit['cost_budget']:g}"
        columns.append(_number(heading, "evaluation_cost", c, spec=".1f"))
    columns.append(_number("final\nreturn", "final_return", spec=".1f"))
    columns.append(_Column("best\nwithin", _best))
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{summary['method']} on {summary['env']}, "
        f"{summary['total_steps']} steps",
        caption=f"{certified_without_model(summary)}\n"
        "random: in the random phase; excess: the worst over the limit; over "
        "budget: episodes of training; final: mean of the last evaluation by the "
        "deterministic policy; best within: return of the best agent that an "
        "evaluation found within its budget",
        collapse_padding=True,
    )
    for column in columns:
        table.add_column(escape(column.heading), justify="right")
    rows = [
        {
            **entry,
            "seed": str(entry["seed"]),
            "evaluation_cost": entry["evaluation"]["cost"],
        }
        for entry in summary["seeds"]
    ]
    rows += [_row(summary["aggregate"], name) for name in ("mean", "worst")]
    for index, row in enumerate(rows):
        if index == len(summary["seeds"]):
            table.add_section()
        table.add_row(*(column.cell(row) for column in columns))
    return table


def _best(values: Mapping[str, Any]) -> str:
    best = values.get("best")
    if best is None:
        return ""
    return f"{best['return']:z.1f}" if best["within_budget"] else "none"


def _columns(limits: Sequence[Mapping[str, Any]], allowed: bool) -> list[_Column]:
    several = len(limits) > 1
    sigma = "2 σ" if several else "2 sigma"
    columns = [_number("violating\nsteps", "training_violating_steps")]
    if not (several and allowed):  # else there is no room for it
        columns.append(_number("of them\nrandom", "random_violating_steps"))
    for c, limit in enumerate(limits):
        about = f"{pretty(limit['name'])}\n" if several else ""
        heading = f"{about}excess\n[{limit['unit']}]"
        columns.append(_number(heading, "worst_excess", c, spec=".3f"))
    for c, limit in enumerate(limits if allowed else ()):
        about = f"{pretty(limit['name'])}\n" if several else ""
        heading = f"{about}cost\nof {limit['cost_budget']:g}"
        columns.append(_number(heading, "worst_episode_cost", c))
    return [
        *columns,
        _number("final\nreturn", "final_return", spec=".1f"),
        _number("no\nplan", "infeasible_plans"),
        _share(f"{sigma}\nnext", "prequential"),
        _share(f"{sigma}\nfar", "out_of_distribution"),
    ]


def _number(heading: str, *keys: str | int, spec: str = "g") -> _Column:
    def cell(values: Any) -> str:
        for key in keys:
            values = values[key]
        return format(values, f"z{spec}")

    return _Column(heading, cell)


def _share(heading: str, kind: str) -> _Column:
    def cell(values: Mapping[str, Any]) -> str:
        share = values["coverage"][kind]["2"]
        return "-" if share is None else f"{100 * share:.1f}%"

    return _Column(heading, cell)


def _row(aggregate: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The row of the mean, or of the worst seed by each quantity."""

    def pick(value: Any, statistic: str) -> Any:
        if isinstance(value, list):
            return [part[statistic] for part in value]
        return value and value[statistic]

    high, low = ("mean", "mean") if name == "mean" else ("max", "min")
    row = {
        key: pick(value, low if key == "final_return" else high)
        for key, value in aggregate.items()
        if key not in ("coverage", "scores")
    }
    if "coverage" not in aggregate:
        return {"seed": name, **row}
    coverage = {
        kind: {level: pick(value, low) for level, value in levels.items()}
        for kind, levels in aggregate["coverage"].items()
    }
    return {"seed": name, **row, "coverage": coverage}


def _caption(several: bool, allowed: bool, certificate: Mapping[str, Any]) -> str:
    words = {
        "random": "in the random phase",
        "excess": "the worst over the limit",
        "cost of N": "of the costliest planned episode, N allowed",
        "no plan": "decisions without a feasible one",
        "2 σ" if several else "2 sigma": "share of the next episode, and of states "
        "far from all data, that the band holds",
    }
    if not allowed:
        del words["cost of N"]
    elif several:
        del words["random"]
    glossary = "; ".join(f"{word}: {meaning}" for word, meaning in words.items())
    return f"{certified(certificate)}\n{glossary}"
