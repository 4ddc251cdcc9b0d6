"""From what the seeds left on disk: summary, table, plots and videos."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from safex.models.calibration import COVERAGE_LEVELS, Coverage
from safex.training import plots
from safex.training.account import EpisodeRecord, account, load_record
from safex.training.certificate import certify, over_budget
from safex.training.forecast import load_forecast
from safex.training.honesty import SCORES_OF
from safex.training.margins import (
    Limit,
    forecast_margins,
    prediction_margins,
)
from safex.training.portrait import phase_portrait
from safex.training.statistics import nominal_coverage, summarise
from safex.training.video import episode_video

_COVERAGES = ("held_out", "out_of_distribution", "prequential")
_PLOTTED_WIDTH = 2.0
_QUANTITIES = (
    "final_return",
    "training_violating_steps",
    "random_violating_steps",
    "training_violation_events",
    "infeasible_plans",
    "backup_steps",
    "underpredicted_plans",
    "episodes_over_budget",
)
_QUANTITIES_PER_LIMIT = ("worst_excess", "worst_episode_cost")


class RunInfo(NamedTuple):
    """What the summary says of the run as a whole.

    Attributes:
      env: name of the task.
      method: name of the method.
      model: name of the model.
      revision: of the code.
      episodes: planned episodes.
      random_steps: steps of the random phase.
      horizon: steps that the costs of a plan are of, H and what the backup adds.
      limits: what each constraint is about.
      cost_budget: allowed cost of an episode under each constraint.
      beta: `[D]` confidence width.
    """

    env: str
    method: str
    model: str
    revision: str
    episodes: int
    random_steps: int
    horizon: int
    limits: tuple[Limit, ...]
    cost_budget: tuple[float, ...]
    beta: np.ndarray


def summarise_run(
    results_dir: Path, info: RunInfo, seeds: Sequence[int]
) -> dict[str, Any]:
    """Adds up all seeds, ready for JSON.

    `seconds` is the time spent collecting and fitting over all seeds, however often the
    run was stopped and resumed; `seconds_per_decision` the median over planned steps.
    """
    entries = [
        _summarise_seed(results_dir / f"seed_{index}", seed, info)
        for index, seed in enumerate(seeds)
    ]
    timings = [_timings(results_dir / f"seed_{i}") for i in range(len(seeds))]
    return {
        "env": info.env,
        "method": info.method,
        "model": info.model,
        "num_seeds": len(seeds),
        "episodes": info.episodes,
        "random_steps": info.random_steps,
        "revision": info.revision,
        "seconds": sum(seconds for seconds, _ in timings),
        "seconds_per_decision": _median([d for _, group in timings for d in group]),
        "limits": [
            {**limit._asdict(), "cost_budget": budget}
            for limit, budget in zip(info.limits, info.cost_budget, strict=True)
        ],
        "seeds": entries,
        "aggregate": _aggregate(entries),
        "certificate": _certificate(entries, info),
    }


def write_figures(
    results_dir: Path,
    info: RunInfo,
    seeds: Sequence[int],
    env: Any,
    summary: Mapping[str, Any],
    *,
    out: Path | None = None,
    ending: str = "png",
) -> list[Path]:
    """Draws every plot of the run; returns the files.

    Args:
      results_dir: folder of the run.
      info: of the run.
      seeds: of the run.
      env: its system.
      summary: of `summarise_run`.
      out: where the files go; None for the run's own `plots`.
      ending: of the files, `png`, `pdf` or `svg`.
    """
    folder = results_dir / "plots" if out is None else out
    records = [_records(results_dir / f"seed_{i}", info) for i in range(len(seeds))]
    planned = [seed_records[1:] for seed_records in records]
    made = [
        folder / f"{name}.{ending}"
        for name in ("learning", "phase_portrait", "prediction", "forecast")
    ]
    plots.plot_learning(
        made[0],
        np.array([[r.reward.sum() for r in episodes] for episodes in planned]),
        np.array([[(r.cost > 0).any(1).sum() for r in seed] for seed in records]),
        np.array([[r.cost.sum(0) for r in episodes] for episodes in planned]),
        info.cost_budget,
        [limit.name for limit in info.limits],
    )
    portrait = phase_portrait(env, records)
    plots.plot_phase_portrait(made[1], portrait, seeds=list(seeds))
    # The band of the plots is the one that coverage counts: two beta-sigma.
    last = planned[0][-1]
    last = last._replace(epistemic_std=last.epistemic_std * info.beta)
    margins = prediction_margins(env, last, _PLOTTED_WIDTH)
    plots.plot_prediction(
        made[2], last, env.obs_names, margins, info.limits, _PLOTTED_WIDTH
    )
    forecast = load_forecast(results_dir / "seed_0" / "forecast.npz")
    margins = forecast_margins(env, last, forecast)
    plots.plot_forecast(made[3], forecast, env.obs_names, margins, info.limits)
    shares = _mean_coverage(summary)
    if shares:
        made.append(folder / f"calibration.{ending}")
        levels = [nominal_coverage(level) for level in COVERAGE_LEVELS]
        plots.plot_calibration(made[-1], levels, shares)
    return made


def write_videos(
    results_dir: Path,
    info: RunInfo,
    seeds: Sequence[int],
    env: Any,
    warn: Callable[[str], None],
) -> list[Path]:
    """Films the last episode of each seed; returns the files.

    A system that nobody drew has no video: `warn` is told once.
    """
    made = []
    for index, seed in enumerate(seeds):
        record = _records(results_dir / f"seed_{index}", info)[-1]
        path = results_dir / "videos" / f"seed_{index}.mp4"
        lines = (
            f"{info.method} with {info.model} model",
            f"seed {seed}, episode {info.episodes}",
        )
        try:
            episode_video(path, record, env, lines=lines)
        except NotImplementedError as error:
            warn(f"no videos: {error}")
            break
        made.append(path)
    return made


def _records(folder: Path, info: RunInfo) -> list[EpisodeRecord]:
    return [
        load_record(folder / "episodes" / f"episode_{episode:03d}.npz")
        for episode in range(info.episodes + 1)
    ]


def _rows(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def _summarise_seed(folder: Path, seed: int, info: RunInfo) -> dict[str, Any]:
    entries = [account(r, info.beta, info.horizon) for r in _records(folder, info)]
    planned = entries[1:]
    pooled = sum((e.prequential for e in planned[1:]), start=planned[0].prequential)
    rows = _rows(folder)
    last = rows[-1]
    costs = np.array([e.cost_return for e in planned])
    levels = [f"{level:g}" for level in COVERAGE_LEVELS]
    known = last["coverage/held_out/1"] is not None
    coverages: dict[str, dict[str, float | None]] = {
        name: {level: last[f"coverage/{name}/{level}"] for level in levels}
        for name in _COVERAGES
    }
    # A model that is the truth makes no claim to be covered.
    nothing = Coverage(np.zeros(len(levels), int), 0)
    coverages["prequential"] = (pooled if known else nothing).shares()
    # As with coverage: of the last fit, and of every planned episode.
    kept = {name: rows[-1:] for name in SCORES_OF} | {"prequential": rows[1:]}
    scores = {
        region: {
            # Runs of before they were kept have none.
            name: _mean_known(
                [row.get(f"scores/{region}/{name}") for row in kept[region]]
            )
            for name in names
        }
        for region, names in SCORES_OF.items()
    }
    return {
        "seed": seed,
        "final_return": planned[-1].episode_return,
        "training_violating_steps": sum(e.violating_steps for e in entries),
        "random_violating_steps": entries[0].violating_steps,
        "training_violation_events": sum(e.violation_events for e in entries),
        "worst_excess": np.max([e.worst_excess for e in entries], axis=0).tolist(),
        "infeasible_plans": sum(e.infeasible_plans for e in planned),
        "backup_steps": sum(e.backup_steps for e in planned),
        "underpredicted_plans": sum(e.underpredicted_plans for e in planned),
        "worst_episode_cost": costs.max(axis=0).tolist(),
        "episodes_over_budget": int(over_budget(costs, info.cost_budget).sum()),
        "episode_returns": [e.episode_return for e in planned],
        "episode_cost_returns": costs.tolist(),
        "episode_violating_steps": [e.violating_steps for e in entries],
        "coverage": coverages,
        "scores": scores,
    }


def _certificate(entries: Sequence[Mapping[str, Any]], info: RunInfo) -> dict[str, Any]:
    """How often an episode breaks its budget, ready for JSON."""
    costs = np.array([entry["episode_cost_returns"] for entry in entries])
    return certify(over_budget(costs, info.cost_budget)).plain()


def _aggregate(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    aggregate: dict[str, Any] = {
        name: summarise([entry[name] for entry in entries]) for name in _QUANTITIES
    }
    for name in _QUANTITIES_PER_LIMIT:
        by_limit = zip(*(entry[name] for entry in entries), strict=True)
        aggregate[name] = [summarise(values) for values in by_limit]
    aggregate["coverage"] = {
        name: {
            level: _summarise_known([e["coverage"][name][level] for e in entries])
            for level in entries[0]["coverage"][name]
        }
        for name in _COVERAGES
    }
    aggregate["scores"] = {
        region: {
            name: _summarise_known([e["scores"][region][name] for e in entries])
            for name in names
        }
        for region, names in SCORES_OF.items()
    }
    return aggregate


def _mean_known(values: Sequence[float | None]) -> float | None:
    """Their mean, None if any is not known."""
    found = _summarise_known(values)
    return found["mean"] if found else None


def _summarise_known(values: Sequence[float | None]) -> dict[str, float | None] | None:
    known = [value for value in values if value is not None]
    return summarise(known) if len(known) == len(values) else None


def _median(values: Sequence[float]) -> float | None:
    """None where nothing was measured: the only call of a short run compiles."""
    return float(np.median(values)) if values else None


def _timings(folder: Path) -> tuple[float, list[float]]:
    """A seed's share of all seconds, and the seconds of each planned decision.

    The calls that compile are left out of the decisions: the first of a process, and
    the last of its episode where that is a shorter one.
    """
    total = 0.0
    decisions: list[float] = []
    for line in (folder / "timing.jsonl").read_text().splitlines():
        entry = json.loads(line)
        seconds = sum(entry["call_seconds"]) + entry["fit_seconds"]
        total += seconds / entry["seeds"]
        if entry["episode"] > 0:
            steps = np.full(len(entry["call_seconds"]), entry["steps_per_call"])
            # Files of before have none, and their calls are equal.
            steps[-1] = last = entry.get("steps_of_last_call", steps[0])
            calls = np.asarray(entry["call_seconds"]) / (steps * entry["in_turn"])
            if entry["compiles"]:
                calls = calls[1 : None if last == steps[0] else -1]
            decisions += calls.tolist()
    return total, decisions


def _mean_coverage(summary: Mapping[str, Any]) -> dict[str, list[float]]:
    """Coverage by name and level, without what no seed could measure."""
    shares = {}
    for name, levels in summary["aggregate"]["coverage"].items():
        if all(levels[level] is not None for level in levels):
            shares[name] = [levels[level]["mean"] for level in levels]
    return shares
