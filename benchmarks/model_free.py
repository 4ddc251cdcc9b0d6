"""Agents without a model, all on one task: training and evaluation against the budget.

python benchmarks/model_free.py run                      # all; can be stopped, resumed
python benchmarks/model_free.py run --tasks ball_circle --methods cvpo sac_lag
python benchmarks/model_free.py run --options train.updates_per_step=0.5 --out FOLDER
python benchmarks/model_free.py report                   # tables of what is there

`ball_circle` and `point_circle` need the safety suites (`make install-suites`). Each
group is one call of a launcher, its seeds one after another.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.groups import ROOT, print_markdown, run_group

METHODS = ("cvpo", "sac_lag", "td3_lag", "ddpg_lag", "sac", "td3", "ddpg")


class Task(NamedTuple):
    """What all methods have in common on a task.

    Attributes:
      launcher: of which task.
      options: settings for every method.
    """

    launcher: str
    options: tuple[str, ...]


TASKS = {
    "point_goal": Task(
        "point_goal",
        (
            "cost_budget=2",
            "train.total_steps=40000",
            "train.random_steps=2400",
            "train.updates_per_step=0.5",
            "agent.features=[64,64]",
            "agent.batch_size=128",
            "agent.discount=0.97",
            "agent.cost_discount=0.97",
        ),
    ),
    "ball_circle": Task(
        "bullet",
        (
            "task=SafetyBallCircle-v0",
            "cost_budget=10",
            "env.workers=0",
            "train.total_steps=160000",
            "train.random_steps=4800",
            "agent.discount=0.97",
            "agent.cost_discount=0.97",
            "agent.tau=0.02",
        ),
    ),
    "point_circle": Task(
        "safety_gymnasium",
        (
            "task=SafetyPointCircle1-v0",
            "cost_budget=25",
            "env.workers=0",
            "train.total_steps=160000",
            "train.num_envs=4",
            "agent.tau=0.02",
        ),
    ),
}
HEAD = (
    "method",
    "violating steps in training, each seed",
    "episodes over budget",
    "training cost, last tenth",
    "cost of the last evaluation, each seed",
    "return of the last evaluation, each seed",
    "best return within the budget",
    "minutes a seed",
)


def folder_of(arguments: argparse.Namespace, task: str, method: str) -> Path:
    """Where a group goes."""
    return Path(arguments.out) / task / method


def run(arguments: argparse.Namespace, task: str, method: str) -> str:
    """Runs one group; returns a line about it."""
    launcher, options = TASKS[task]
    options = (
        f"method={method}",
        *options,
        f"job.seed={arguments.seed}",
        f"job.num_seeds_per_hparam={arguments.seeds}",
        *arguments.options,
    )
    folder = folder_of(arguments, task, method)
    return run_group(f"{task}, {method}", launcher, options, folder)


def report(arguments: argparse.Namespace) -> None:
    """Prints a table of each task as Markdown, from the finished groups."""
    for task in arguments.tasks:
        rows = []
        for method in arguments.methods:
            path = folder_of(arguments, task, method) / "summary.json"
            if path.exists():
                rows.append(_row(method, json.loads(path.read_text()), path.parent))
        if rows:
            print_markdown(task.replace("_", " "), HEAD, rows)


def _row(method: str, summary: dict[str, Any], folder: Path) -> list[str]:
    seeds = summary["seeds"]
    best = [
        seed["best"]["return"] if seed["best"]["within_budget"] else None
        for seed in seeds
    ]
    return [
        method,
        ", ".join(str(seed["training_violating_steps"]) for seed in seeds),
        ", ".join(str(seed["episodes_over_budget"]) for seed in seeds),
        ", ".join(f"{_late_cost(folder / f'seed_{i}'):.1f}" for i in range(len(seeds))),
        ", ".join(f"{sum(seed['evaluation']['cost']):.1f}" for seed in seeds),
        ", ".join(f"{seed['final_return']:.1f}" for seed in seeds),
        ", ".join("-" if value is None else f"{value:.1f}" for value in best),
        f"{summary['seconds'] / 60 / len(seeds):.1f}",
    ]


def _late_cost(seed: Path) -> float:
    """Mean cost of the last tenth of a seed's training episodes."""
    lines = (seed / "episodes.jsonl").read_text().splitlines()
    costs = [sum(json.loads(line)["cost_return"]) for line in lines]
    return float(np.mean(costs[-max(1, len(costs) // 10) :]))


def main() -> None:
    """Reads the command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "model_free")
    parser.add_argument("--seed", type=int, default=8, help="the seeds come from it")
    parser.add_argument("--seeds", type=int, default=3, help="how many a group")
    parser.add_argument("--options", nargs="*", default=[], help="for every launcher")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args()
    if arguments.what == "run":
        for task in arguments.tasks:
            for method in arguments.methods:
                print(run(arguments, task, method), flush=True)
    report(arguments)


if __name__ == "__main__":
    main()
