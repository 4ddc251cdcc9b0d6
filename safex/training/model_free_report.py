"""Summary, figures and videos of agents without a model, from what seeds left on disk.

Such a run has thousands of episodes. In its curves a point stands for a stretch of
training, of which there are at most 60: the mean return and the mean costs of the
episodes that ended in it, and all of its violating steps.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from safex.errors import ConfigError, ContractError, ResultsError
from safex.training import plots
from safex.training.account import load_record
from safex.training.certificate import certify, over_budget
from safex.training.episodes import TRAIN, read_episodes, read_evaluations
from safex.training.files import whole_lines
from safex.training.margins import Limit
from safex.training.off_policy import evaluation_records
from safex.training.plots.training import Stretch
from safex.training.portrait import phase_portrait
from safex.training.statistics import summarise
from safex.training.video import episode_video, repeated_video

_POINTS = 60
_QUANTITIES = (
    "final_return",
    "training_violating_steps",
    "random_violating_steps",
    "training_violation_events",
    "episodes_over_budget",
    "training_episodes",
)
_QUANTITIES_PER_LIMIT = ("worst_excess", "worst_episode_cost")
# What the log says of the account, and not of the agent.
_NOT_LEARNING = ("train/round", "train/episode", "train/account", "eval", "step")


class ModelFreeInfo(NamedTuple):
    """What the summary says of the run as a whole.

    Attributes:
      env: name of the task.
      method: name of the method.
      model: what stands where others name their model.
      agent: its kind.
      revision: of the code.
      total_steps: environment steps.
      random_steps: of them random.
      limits: what each constraint is about.
      cost_budget: allowed cost of an episode under each constraint.
    """

    env: str
    method: str
    model: str
    agent: str
    revision: str
    total_steps: int
    random_steps: int
    limits: tuple[Limit, ...]
    cost_budget: tuple[float, ...]


class _Seed(NamedTuple):
    """What a seed left on disk."""

    rows: list[dict[str, Any]]
    episodes: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    timing: list[dict[str, Any]]


def read_seed(folder: Path) -> _Seed:
    """Everything but the records."""
    rows, timing = (
        whole_lines(folder / f"{name}.jsonl", "step") for name in ("metrics", "timing")
    )
    return _Seed(rows, read_episodes(folder), read_evaluations(folder), timing)


def summarise_run(
    results_dir: Path, info: ModelFreeInfo, seeds: Sequence[int]
) -> dict[str, Any]:
    """Adds up all seeds, ready for JSON; with the keys that any summary has.

    What is about plans and predictions is null.
    """
    read = [read_seed(results_dir / f"seed_{i}") for i in range(len(seeds))]
    entries = [
        _summarise_seed(found, seed, info)
        for found, seed in zip(read, seeds, strict=True)
    ]
    timing = [line for found in read for line in found.timing]
    collected = sum(line["collect_seconds"] for line in timing)
    seconds = {
        name: sum(line[f"{name}_seconds"] for line in timing)
        for name in ("collect", "update", "eval")
    }
    steps = sum(found.rows[-1]["step"] for found in read)
    return {
        "env": info.env,
        "method": info.method,
        "model": info.model,
        "agent": info.agent,
        "num_seeds": len(seeds),
        "episodes": len(entries[0]["episode_returns"]),
        "point_steps": entries[0].pop("point_steps"),
        "total_steps": info.total_steps,
        "random_steps": info.random_steps,
        "revision": info.revision,
        "seconds": sum(seconds.values()),
        "seconds_of": seconds,
        "seconds_per_decision": None,
        "steps_per_second": steps / collected if collected > 0 else None,
        "updates_per_second": _updates_per_second(timing),
        "limits": [
            {**limit._asdict(), "cost_budget": budget}
            for limit, budget in zip(info.limits, info.cost_budget, strict=True)
        ],
        "seeds": [_without(entry, "point_steps") for entry in entries],
        "aggregate": _aggregate(entries),
        "certificate": _certificate(read, info),
        "training_certificate": _training_certificate(read, info),
    }


def write_figures(
    results_dir: Path,
    info: ModelFreeInfo,
    seeds: Sequence[int],
    env: Any,
    *,
    out: Path | None = None,
    ending: str = "png",
) -> list[Path]:
    """Draws every figure of the run; returns the files.

    Args:
      results_dir: folder of the run.
      info: of the run.
      seeds: of the run.
      env: its task; the plane of a phase portrait is a system's own.
      out: where the files go; None for the run's own `plots`.
      ending: of the files, `png`, `pdf` or `svg`.
    """
    folder = results_dir / "plots" if out is None else out
    read = [read_seed(results_dir / f"seed_{i}") for i in range(len(seeds))]
    curves = [_stretches(found, info, _POINTS) for found in read]
    made = [folder / f"training.{ending}"]
    plots.plot_training(
        made[0],
        curves,
        [_evaluated(found) for found in read],
        info.cost_budget,
        [limit.name for limit in info.limits],
        random_steps=_random_steps(read[0]),
    )
    learned = _learned(read)
    if learned:
        made.append(folder / f"learned.{ending}")
        plots.plot_learned(made[-1], learned)
    records = [
        [load_record(path) for path in evaluation_records(results_dir / f"seed_{i}")]
        for i in range(len(seeds))
    ]
    if getattr(env, "portrait", None) and all(records):
        made.append(folder / f"evaluation.{ending}")
        portrait = phase_portrait(env, records)
        plots.plot_phase_portrait(
            made[-1], portrait, seeds=list(seeds), what="episode of the last evaluation"
        )
    return made


def write_videos(
    results_dir: Path,
    info: ModelFreeInfo,
    seeds: Sequence[int],
    env: Any,
    warn: Callable[[str], None],
) -> list[Path]:
    """Films the first episode of each seed's last evaluation; returns the files.

    A task of another package draws itself, where this machine can. One that nobody drew
    has no video: `warn` is told once.
    """
    made: list[Path] = []
    for index, seed in enumerate(seeds):
        records = evaluation_records(results_dir / f"seed_{index}")
        path = results_dir / "videos" / f"seed_{index}.mp4"
        lines = (info.method, f"seed {seed}, after {info.total_steps} steps")
        try:
            record = load_record(records[0])
            if hasattr(env, "make_env"):
                evaluated = read_seed(results_dir / f"seed_{index}").evaluations
                last = evaluated[-1]["step"]
                first = next(e for e in evaluated if e["step"] == last)
                repeated_video(path, record, env, first["seed"])
            elif hasattr(env, "state_from_obs"):
                episode_video(path, record, env, lines=lines)
            else:
                name = type(env).__name__
                raise NotImplementedError(f"nobody has drawn the task {name}")
        except (NotImplementedError, ConfigError, ContractError) as error:
            warn(f"no videos: {error}")
            break
        made.append(path)
    return made


def _summarise_seed(found: _Seed, seed: int, info: ModelFreeInfo) -> dict[str, Any]:
    last = found.rows[-1]
    stretches = _stretches(found, info, _POINTS)
    trained = [e for e in found.episodes if e["phase"] == TRAIN and e["complete"]]
    costs = np.array([e["cost_return"] for e in trained or found.evaluations])
    final = _evaluated(found)[-1]
    best_cost = _constraint_values(last, "eval/best/cost_return", info)
    return {
        "seed": seed,
        "final_return": final.value,
        "training_episodes": len([e for e in found.episodes if e["complete"]]),
        "training_violating_steps": last["train/account/cumulative_violating_steps"],
        "random_violating_steps": last["train/account/random_violating_steps"],
        "training_violation_events": sum(e["violation_events"] for e in found.episodes),
        "worst_excess": np.max(
            [e["worst_excess"] for e in found.episodes], axis=0
        ).tolist(),
        "worst_episode_cost": costs.max(axis=0).tolist(),
        "episodes_over_budget": last["train/account/episodes_over_budget"],
        "infeasible_plans": None,
        "backup_steps": None,
        "underpredicted_plans": None,
        "coverage": None,
        "scores": None,
        "evaluation": {
            "step": final.step,
            "return": final.value,
            "cost": list(final.cost),
            "within_budget": bool(last["eval/account/within_budget"]),
        },
        "best": {
            "step": last["eval/best/step"],
            "return": last["eval/best/return"],
            "cost": best_cost,
            "within_budget": bool(last["eval/best/within_budget"]),
        },
        "episode_returns": [s.value for s in stretches[1:]],
        "episode_cost_returns": [list(s.cost) for s in stretches[1:]],
        "episode_violating_steps": [s.violating_steps for s in stretches],
        "point_steps": [s.step for s in stretches[1:]],
    }


def _stretches(found: _Seed, info: ModelFreeInfo, points: int) -> list[Stretch]:
    """The random phase, and then at most so many equal parts of training.

    A part in which no episode ended repeats the one before it, the first the next.
    """
    steps = [row["step"] for row in found.rows]
    random = [s for s, line in zip(steps, found.timing, strict=True) if _random(line)]
    rest = steps[len(random) :]
    parts = [part.tolist() for part in np.array_split(rest, min(points, len(rest)))]
    violating = {
        row["step"]: row["train/account/violating_steps"] for row in found.rows
    }
    complete = [e for e in found.episodes if e["complete"]]
    made = [_stretch(random, 0, complete, violating)]
    first = random[-1] if random else 0
    for part in parts:
        made.append(_stretch(part, first, complete, violating))
        first = part[-1]
    made[1:] = _filled(made[1:])
    if made[1].value is None:
        # No episode ended at all: only the evaluation tells.
        last = _evaluated(found)[-1]
        made[1:] = [s._replace(value=last.value, cost=last.cost) for s in made[1:]]
    return made


def _random(line: Mapping[str, Any]) -> bool:
    return bool(line["updates"] == 0)


def _random_steps(found: _Seed) -> int:
    """Steps of the random phase, which is of whole rounds."""
    random = [line["step"] for line in found.timing if _random(line)]
    return random[-1] if random else 0


def _stretch(
    steps: Sequence[int],
    first: int,
    episodes: Sequence[dict[str, Any]],
    violating: Mapping[int, int],
) -> Stretch:
    last = steps[-1] if steps else first
    inside = [e for e in episodes if first < e["step"] <= last]
    total = sum(violating[step] for step in steps)
    if not inside:
        return Stretch(last, None, (), total)
    cost = np.mean([e["cost_return"] for e in inside], axis=0).tolist()
    return Stretch(
        last, float(np.mean([e["return"] for e in inside])), tuple(cost), total
    )


def _filled(stretches: list[Stretch]) -> list[Stretch]:
    known = next((s for s in stretches if s.value is not None), None)
    made = []
    for stretch in stretches:
        known = stretch if stretch.value is not None else known
        if known:
            made.append(stretch._replace(value=known.value, cost=known.cost))
        else:
            made.append(stretch)
    return made


def _evaluated(found: _Seed) -> list[Stretch]:
    """The mean of each evaluation.

    Raises:
      ResultsError: there is none.
    """
    made = []
    for step, group in itertools.groupby(found.evaluations, key=lambda e: e["step"]):
        episodes = list(group)
        cost = np.mean([e["cost_return"] for e in episodes], axis=0).tolist()
        value = float(np.mean([e["return"] for e in episodes]))
        violating = sum(e["violating_steps"] for e in episodes)
        made.append(Stretch(step, value, tuple(cost), violating))
    if not made:
        raise ResultsError("evaluations.jsonl holds no evaluation")
    return made


def _learned(read: Sequence[_Seed]) -> dict[str, list[tuple[list[int], list[float]]]]:
    """What the agents said of their updates: by name, of each seed steps and values."""
    names = dict.fromkeys(
        name
        for found in read
        for row in found.rows
        for name in row
        if not name.startswith(_NOT_LEARNING)
    )
    made: dict[str, list[tuple[list[int], list[float]]]] = {}
    for name in names:
        curves = []
        for found in read:
            known = [row for row in found.rows if row.get(name) is not None]
            curves.append(
                ([row["step"] for row in known], [row[name] for row in known])
            )
        made[name.removeprefix("train/")] = curves
    return made


def _constraint_values(
    row: Mapping[str, Any], name: str, info: ModelFreeInfo
) -> list[float]:
    count = len(info.cost_budget)
    names = [name] if count == 1 else [f"{name}/{c}" for c in range(count)]
    return [row[name] for name in names]


def _updates_per_second(timing: Sequence[Mapping[str, Any]]) -> float | None:
    """Of rounds that compiled nothing; None of a run too short to have one."""
    rates = [
        line["updates"] / line["update_seconds"]
        for line in timing
        if line["updates"] and not line["compiles"] and line["update_seconds"] > 0
    ]
    return float(np.median(rates)) if rates else None


def _certificate(read: Sequence[_Seed], info: ModelFreeInfo) -> dict[str, Any]:
    """How often an episode of the last evaluations breaks its budget."""
    final = []
    for found in read:
        last = found.evaluations[-1]["step"]
        final.append([e["cost_return"] for e in found.evaluations if e["step"] == last])
    return certify(over_budget(np.array(final), info.cost_budget)).plain()


def _training_certificate(
    read: Sequence[_Seed], info: ModelFreeInfo
) -> dict[str, Any] | None:
    """How often an episode begun after the random phase does; None if none ended."""
    over = []
    for found in read:
        costs = [
            e["cost_return"]
            for e in found.episodes
            if e["phase"] == TRAIN and e["complete"]
        ]
        shaped = np.reshape(costs, (len(costs), len(info.cost_budget)))
        over.append(over_budget(shaped, info.cost_budget))
    return certify(over).plain() if sum(map(len, over)) else None


def _aggregate(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    aggregate: dict[str, Any] = {
        name: summarise([entry[name] for entry in entries]) for name in _QUANTITIES
    }
    for name in _QUANTITIES_PER_LIMIT:
        by_limit = zip(*(entry[name] for entry in entries), strict=True)
        aggregate[name] = [summarise(values) for values in by_limit]
    by_limit = zip(*(entry["evaluation"]["cost"] for entry in entries), strict=True)
    aggregate["evaluation_cost"] = [summarise(values) for values in by_limit]
    aggregate["best_return"] = summarise([e["best"]["return"] for e in entries])
    return aggregate


def _without(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != name}
