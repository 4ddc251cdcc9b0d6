"""Finished runs as they lie on disk, for whoever compares them."""

import functools
import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from safex.config import NO_NUMBERS, SHARES
from safex.errors import ResultsError
from safex.training.files import read_mapping, read_sealed, whole_lines
from safex.training.plots.curves import Curves
from safex.training.plots.pareto import Trade

# Full names; whatever is below one counts as well.
_NO_NUMBERS = (*NO_NUMBERS, *(f"job.{name}" for name in SHARES))

Price = Callable[[Mapping[str, Any]], float]

MODEL_FREE = "model_free"  # stands where others name their model


class Results(NamedTuple):
    """One finished run: a configuration with all its seeds.

    Attributes:
      label: its name among others.
      folder: where it lies.
      summary: of `summary.json`.
      config: of `config.yaml`, by full name; empty where that cannot be read.
      curves: how its seeds went over training.
    """

    label: str
    folder: Path
    summary: Mapping[str, Any]
    config: Mapping[str, Any]
    curves: Curves


def find_results(folder: Path) -> list[Path]:
    """The finished runs that a folder stands for.

    Itself, or the points of its grid, or of the runs in it the latest.

    Raises:
      ResultsError: no finished run is there.
    """
    if not folder.is_dir():
        raise ResultsError(f"{folder} is not a folder")
    if (folder / "summary.json").is_file():
        return [folder]
    below = [path.parent for path in sorted(folder.glob("*/summary.json"))]
    if (folder / "config.yaml").is_file() and below:
        return below
    # The parent of jobs; the latest of them may be a grid.
    jobs = below + [path.parent for path in sorted(folder.glob("*/grid.json"))]
    if not jobs:
        raise ResultsError(
            f"{folder} holds no finished run: no summary.json in it nor one level "
            f"below; how far it is says: python experiments/watch.py {folder}"
        )
    return find_results(max(jobs, key=lambda job: (_finished(job), job)))


def _finished(job: Path) -> int:
    names = (job / "summary.json", job / "grid.json")
    return max(path.stat().st_mtime_ns for path in names if path.is_file())


def read_all(folders: Sequence[Path], labels: Sequence[str] | None) -> list[Results]:
    """Reads the runs of several folders, named apart.

    Args:
      folders: as `find_results` takes them.
      labels: one a folder, for those that stand for one run; None for names made of
        method, model and whatever tells the runs apart.

    Raises:
      ResultsError: a folder holds no run, a file is damaged, or labels do not match.
    """
    found = [find_results(folder) for folder in folders]
    if labels is not None:
        if len(labels) != len(folders):
            raise ResultsError(f"{len(labels)} labels for {len(folders)} folders")
        if len(set(labels)) < len(labels):
            raise ResultsError("labels must differ: each run has a place of its own")
        names = [
            label if len(runs) == 1 else f"{label} {run.name}"
            for label, runs in zip(labels, found, strict=True)
            for run in runs
        ]
        return [
            read_results(run, name)
            for run, name in zip(
                (r for runs in found for r in runs), names, strict=True
            )
        ]
    runs = list(dict.fromkeys(run.resolve() for runs in found for run in runs))
    read = [read_results(run, "") for run in runs]
    names = names_apart([name_of(r.summary) for r in read], runs)
    return [r._replace(label=name) for r, name in zip(read, names, strict=True)]


def names_apart(names: Sequence[str], runs: Sequence[Path]) -> list[str]:
    """Names of runs, those that are equal with the name or the path of the folder."""
    found = list(names)
    for tell_apart in (lambda path: path.name, str):
        counts = Counter(found)
        found = [
            f"{name} ({tell_apart(run)})" if counts[name] > 1 else name
            for name, run in zip(found, runs, strict=True)
        ]
    return found


def name_of(summary: Mapping[str, Any]) -> str:
    """Method and model, where there is one."""
    alone = summary["model"] == MODEL_FREE
    return summary["method"] if alone else f"{summary['method']} {summary['model']}"


def read_summary(folder: Path) -> dict[str, Any]:
    """A run's `summary.json`, with the keys that every command needs.

    Raises:
      ResultsError: it is damaged, or lacks one.
    """
    path = folder / "summary.json"
    try:
        summary = read_sealed(path)
    except ValueError as error:
        raise ResultsError(
            f"{error}; python experiments/resume.py {folder} writes it again"
        ) from error
    try:
        for key in ("env", "method", "model"):
            if not isinstance(summary[key], str):
                raise TypeError(f"{key} must be a word, got {summary[key]!r}")
        seeds = summary["seeds"]
        if not isinstance(seeds, list) or not all(isinstance(x, dict) for x in seeds):
            raise TypeError(f"seeds must be a list of seeds, got {seeds!r}")
        if len(seeds) != summary["num_seeds"]:
            count = summary["num_seeds"]
            raise ValueError(f"num_seeds is {count}, seeds holds {len(seeds)}")
        if not seeds:
            raise ValueError("it holds no seed")
        _check_limits(summary["limits"])
    except (KeyError, TypeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ResultsError(f"{path} is no summary of a run: {what}") from error
    return summary


def read_results(folder: Path, label: str) -> Results:
    """Reads a finished run.

    Raises:
      ResultsError: says which file lacks what.
    """
    path = folder / "summary.json"
    summary = read_summary(folder)
    try:
        limits, seeds = summary["limits"], summary["seeds"]
        curves = Curves(
            _numbers(seeds, "episode_violating_steps", 2),
            _numbers(seeds, "episode_returns", 2),
            _numbers(seeds, "episode_cost_returns", 3),
        )
        for key in ("final_return", "training_violating_steps"):
            for seed in seeds:
                _check_number(seed[key], key)
        if np.shape(curves.costs)[2] != len(limits):
            raise ValueError("episode_cost_returns has not one number for each limit")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ResultsError(f"{path} is no summary of a run: {what}") from error
    # A page can do without a configuration.
    config = flat(read_mapping(folder / "config.yaml"))
    return Results(label, folder, summary, config, curves)


def _check_limits(limits: Any) -> None:
    if not isinstance(limits, list) or not limits:
        raise ValueError(f"limits must be a list, not empty, got {limits!r}")
    for limit in limits:
        if not all(isinstance(limit[key], str) for key in ("name", "unit")):
            raise ValueError(f"a limit must have a name and a unit, got {limit!r}")
        if not all(math.isfinite(limit[key]) for key in ("value", "cost_budget")):
            raise ValueError(f"a limit must have a value and a budget, got {limit!r}")


def _check_number(value: Any, key: str) -> None:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{key} must be a finite number, got {value!r}")


def _numbers(seeds: Any, key: str, dimensions: int) -> np.ndarray:
    values = np.array([seed[key] for seed in seeds], dtype=np.float64)
    if values.ndim != dimensions or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"{key} must be numbers, as many for each seed")
    return values


def flat(nested: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by their full names."""
    leaves: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, name)
        else:
            leaves[name] = value
    return leaves


def config_differences(
    results: Sequence[Results],
) -> dict[str, tuple[Any, ...]]:
    """Settings in which runs differ, by full name; None where one has no such setting.

    Those that decide no number of a run are left out.
    """
    found = {}
    for name in dict.fromkeys(name for result in results for name in result.config):
        values = tuple(result.config.get(name) for result in results)
        decides = not any(f"{name}.".startswith(f"{no}.") for no in _NO_NUMBERS)
        if decides and any(value != values[0] for value in values):
            found[name] = values
    return found


def common_limits(results: Sequence[Results]) -> list[tuple[str, float | None]]:
    """Name and cost budget of each limit, None for a budget that differs.

    Raises:
      ResultsError: the runs are of different tasks.
    """
    check_one_task({r.folder: r.summary for r in results})
    limits = []
    for c, limit in enumerate(results[0].summary["limits"]):
        budgets = {r.summary["limits"][c]["cost_budget"] for r in results}
        limits.append((limit["name"], budgets.pop() if len(budgets) == 1 else None))
    return limits


def check_one_task(summaries: Mapping[Path, Mapping[str, Any]]) -> None:
    """Refuses runs of different systems, or with limits on different things.

    Raises:
      ResultsError: names the tasks and a folder of each.
    """
    tasks = {
        summary["env"]
        + "".join(f", {x['name']} [{x['unit']}]" for x in summary["limits"]): folder
        for folder, summary in summaries.items()
    }
    if len(tasks) > 1:
        found = "; ".join(f"{task} in {folder}" for task, folder in tasks.items())
        raise ResultsError(f"runs of different tasks cannot be compared: {found}")


class Pareto(NamedTuple):
    """What is paid for the final return, of each experiment's seeds.

    Attributes:
      name: of its file, without an ending.
      price: what the price is called.
      budget: of the price; None where there is none, or experiments have several.
      trades: by label.
    """

    name: str
    price: str
    budget: float | None
    trades: dict[str, Trade]


GAIN = "final return"


def paretos(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Pareto]:
    """Violating steps of training against return; final cost where it has a budget.

    A step that costs is no wrong where an episode may cost something, and steps may
    cost more or less: then the cost of the episodes that the final return is of says
    what was paid for it.

    Args:
      groups: by label the summaries whose seeds are taken together; all of them have
        limits on the same things.

    Raises:
      ResultsError: a summary lacks a number.
    """

    def trade(summaries: Sequence[Mapping[str, Any]], price: Price) -> Trade:
        seeds = [seed for summary in summaries for seed in summary["seeds"]]
        try:
            return Trade(
                [price(seed) for seed in seeds],
                [seed["final_return"] for seed in seeds],
            )
        except (KeyError, IndexError, TypeError) as error:
            raise ResultsError(f"a summary.json has no {error} of a seed") from error

    def made(name: str, words: str, budget: float | None, price: Price) -> Pareto:
        trades = {label: trade(group, price) for label, group in groups.items()}
        return Pareto(name, words, budget, trades)

    steps = operator.itemgetter("training_violating_steps")
    found = [made("pareto", "violating steps of training", None, steps)]
    limits = [summary["limits"] for group in groups.values() for summary in group]
    for c, limit in enumerate(limits[0]):
        budgets = {each[c]["cost_budget"] for each in limits}
        if max(budgets) > 0:
            several = len(limits[0]) > 1
            words = "final cost of an episode"
            words += f", {limit['name']}" if several else ""
            name = f"pareto_cost_{c}" if several else "pareto_cost"
            only = budgets.pop() if len(budgets) == 1 else None
            found.append(made(name, words, only, functools.partial(_final_cost, c=c)))
    return found


def _final_cost(seed: Mapping[str, Any], c: int) -> float:
    """Of the episodes that a seed's final return is of."""
    # Without a model the return is that of the last evaluation.
    if "evaluation" in seed:
        return float(seed["evaluation"]["cost"][c])
    return float(seed["episode_cost_returns"][-1][c])


def violation_ledger(result: Results) -> list[dict[str, Any]]:
    """Every violating step of a run in the order of its seeds, as far as readable."""
    entries = []
    for index, seed in enumerate(result.summary["seeds"]):
        path = result.folder / f"seed_{index}" / "violations.jsonl"
        try:
            lines = whole_lines(path)
        except OSError:
            continue
        entries += [
            {"seed": seed.get("seed", index), **line}
            for line in lines
            if isinstance(line, dict)
        ]
    return entries
