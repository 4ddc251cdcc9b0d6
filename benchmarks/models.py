"""What a prediction costs, for each model, as a planner asks for it: vmapped.

python benchmarks/models.py [--rows 4096] [--rounds 5]

Every model holds 2000 rows of a system with 3 observations and 1 action. Fits are cut
short: what a prediction costs does not depend on how good it is.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from benchmarks.measuring import (
    Timing,
    describe_machine,
    interleaved,
    median_cpu,
    median_wall,
    once,
)
from benchmarks.systems import random_data
from experiments.building import MODELS
from experiments.registry import KINDS
from experiments.runtime import set_up_jax
from safex.config import CalibrationConfig

OBS_DIM, ACTION_DIM, DATA = 3, 1, 2000
SHORT: dict[str, Any] = {"num_training_steps": 1}
# Rows kept by the process: all that 2500 rows leave to train on, and a part of them.
PROCESSES: dict[str, dict[str, Any]] = {
    "GaussianProcess, 2000 rows": {"max_data": DATA},
    "GaussianProcess, farthest 300": {"max_data": 300, "subset": "farthest"},
}


def prediction(kind: str, settings: dict[str, Any], rows: int) -> Callable[[], Timing]:
    """A call that predicts `rows` rows."""
    config = KINDS["model"][kind](**settings)
    model = MODELS[kind](OBS_DIM, ACTION_DIM, config, CalibrationConfig())
    data = random_data(jax.random.key(0), DATA * 5 // 4, OBS_DIM, ACTION_DIM)
    start = jax.jit(model.init)(jax.random.key(1))
    state, _ = jax.jit(model.fit)(jax.random.key(2), start, data)
    keys = jax.random.split(jax.random.key(3))
    obs = jax.random.normal(keys[0], (rows, OBS_DIM))
    action = jax.random.uniform(keys[1], (rows, ACTION_DIM), minval=-1.0)
    predict = jax.jit(jax.vmap(model.predict, (None, 0, 0)))
    jax.block_until_ready(predict(state, obs, action))
    return lambda: once(lambda: predict(state, obs, action))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    set_up_jax()
    contestants: dict[str, tuple[str, dict[str, Any]]] = {
        kind: (kind, SHORT) for kind in ("ProbabilisticEnsemble", "ProbabilisticFSVGD")
    }
    for name, settings in PROCESSES.items():
        contestants[name] = ("GaussianProcess", SHORT | settings)
    for kind in ("BayesianLastLayer", "MCDropout"):
        contestants[kind] = (kind, SHORT)
    calls = {
        name: prediction(kind, settings, arguments.rows)
        for name, (kind, settings) in contestants.items()
    }
    timings = interleaved(calls, arguments.rounds)
    table = Table(title=f"a prediction, {arguments.rows} at once, {DATA} rows of data")
    table.add_column("model")
    for column in ("us a row", "CPU-us a row"):
        table.add_column(column, justify="right")
    for name, measured in timings.items():
        per_row = 1e6 / arguments.rows
        table.add_row(
            name,
            f"{per_row * median_wall(measured):.2f}",
            f"{per_row * median_cpu(measured):.2f}",
        )
    print(describe_machine())
    Console().print(table)


if __name__ == "__main__":
    main()
