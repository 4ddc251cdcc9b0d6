"""The same quality for less: iCEM with warm start against CEM, with learned models.

python benchmarks/search.py            # about three quarters of an hour on 2 cores
python benchmarks/search.py --seeds 2 --episodes 3

SafeCEM on the pendulum and the cart-pole: the same ensemble, data, seeds and limit;
only the optimizer and its budget differ. Counted are imagined trajectories a decision.
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
from experiments.runtime import set_up_jax
from safex.agents.mpc import MPCAgent
from safex.agents.planners import Safe
from safex.config import (
    CalibrationConfig,
    CEMConfig,
    EnsembleConfig,
    ICEMConfig,
    TrainConfig,
)
from safex.constraints.feasible_first import FeasibleFirst
from safex.envs.cartpole import Cartpole
from safex.envs.pendulum import Pendulum
from safex.models.ensemble import probabilistic_ensemble
from safex.optimizers.cem import CEM
from safex.optimizers.icem import ICEM
from safex.training.account import load_record
from safex.training.lockstep import default_group_size
from safex.training.loggers import LocalLogger
from safex.training.loop import SeedRun, Trainer

# Candidates of the first iteration; the launcher's iCEM has 64.
SEARCHES = {"CEM": 500, "iCEM, 64": 64, "iCEM, 160": 160}
HORIZONS = {"pendulum": 20, "cart-pole": 30}


def system(name: str) -> Any:
    """The task, its limit inside."""
    return Pendulum.from_config() if name == "pendulum" else Cartpole.from_config()


def optimizer(name: str, horizon: int) -> tuple[CEM | ICEM, int]:
    """A search and the trajectories it imagines a decision."""
    if name == "CEM":
        config = CEMConfig(horizon=horizon, num_iter=10, num_samples=SEARCHES[name])
        search = CEM(1, config)
        return search, config.num_iter * config.num_samples
    small = ICEMConfig(
        horizon=horizon,
        num_iter=4,
        num_samples=SEARCHES[name],
        num_elites=10,
        init_std=5.0,
        min_std=0.02,
        alpha=0.1,
        exponent=2.0,
    )
    drawn = sum(small.population(i) for i in range(small.num_iter))
    # Kept elites are scored again only in the first iteration.
    return ICEM(1, small), drawn + small.num_kept


def run(task: str, search: str, seeds: Sequence[int], episodes: int) -> dict[str, Any]:
    """Trains all seeds; returns what each did."""
    env = system(task)
    chosen, trajectories = optimizer(search, HORIZONS[task])
    agent = MPCAgent(
        env,
        probabilistic_ensemble(
            env.obs_dim, env.action_dim, EnsembleConfig(), CalibrationConfig()
        ),
        Safe(HORIZONS[task]),
        chosen,
        FeasibleFirst(),
    )
    config = TrainConfig(num_model_updates=episodes)
    trainer = Trainer(
        env,
        agent,
        config,
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
        "trajectories": trajectories,
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
    parser.add_argument(
        "--searches", nargs="+", choices=SEARCHES, default=list(SEARCHES)
    )
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
