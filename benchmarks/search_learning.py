"""iCEM with warm start against CEM, each training a model of its own.

python benchmarks/search_learning.py   # about three quarters of an hour on 2 cores
python benchmarks/search_learning.py --seeds 2 --episodes 3

SafeCEM on the pendulum and the cart-pole: the same ensemble, budget of steps, seeds and
limit; only the search differs. What it then learns from differs as well, which hides
how good the search is: `search.py` compares them with one model. Counted are imagined
trajectories a decision.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import describe_machine
from benchmarks.search import CONTESTANTS, HORIZONS, SEARCHES, agent_of, optimizer
from experiments.runtime import set_up_jax
from safex.config import TrainConfig
from safex.training.account import load_record
from safex.training.lockstep import default_group_size
from safex.training.loggers import LocalLogger
from safex.training.loop import SeedRun, Trainer


def run(task: str, search: str, seeds: Sequence[int], episodes: int) -> dict[str, Any]:
    """Trains all seeds; returns what each did."""
    agent = agent_of(task, search)
    trainer = Trainer(
        agent.env,
        agent,
        TrainConfig(num_model_updates=episodes),
        horizon=HORIZONS[task],
        warn=print,
        report=lambda progress: None,
    )
    with tempfile.TemporaryDirectory() as scratch:

        def seed_run(index: int, seed: int) -> SeedRun:
            folder = Path(scratch) / str(index)
            return SeedRun(
                seed, index, folder, lambda last: [LocalLogger(folder, last)]
            )

        runs = [seed_run(index, seed) for index, seed in enumerate(seeds)]
        size = default_group_size(len(runs))
        start = time.perf_counter()
        for first in range(0, len(runs), size):
            trainer.train(runs[first : first + size])
        seconds = time.perf_counter() - start
        records = [
            [
                load_record(r.folder / "episodes" / f"episode_{e:03d}.npz")
                for e in range(1, episodes + 1)
            ]
            for r in runs
        ]
    return {
        "trajectories": optimizer(search, HORIZONS[task])[1],
        "seconds": seconds,
        "returns": [float(seed[-1].reward.sum()) for seed in records],
        "violations": [
            int(sum((e.cost > 0).any(1).sum() for e in seed)) for seed in records
        ],
    }


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--tasks", nargs="+", choices=HORIZONS, default=list(HORIZONS))
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=CONTESTANTS)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    arguments = parser.parse_args()
    set_up_jax()
    print(describe_machine(), flush=True)
    table = Table(
        title=f"SafeCEM, {arguments.seeds} seeds, {arguments.episodes} episodes"
    )
    for name in (
        "task",
        "search",
        "trajectories a decision",
        "final return, each seed",
        "violating steps, each seed",
        "s",
    ):
        table.add_column(name, justify="right")
    results = {}
    for task in arguments.tasks:
        for search in arguments.searches:
            found = run(task, search, range(arguments.seeds), arguments.episodes)
            results[f"{task}, {search}"] = found
            table.add_row(
                task,
                search,
                str(found["trajectories"]),
                ", ".join(f"{value:.0f}" for value in found["returns"]),
                ", ".join(map(str, found["violations"])),
                f"{found['seconds']:.0f}",
            )
            print(task, search, json.dumps(found), flush=True)
    Console(width=110).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
