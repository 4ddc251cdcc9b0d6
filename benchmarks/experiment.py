"""How long a whole job takes with many seeds in one process.

python benchmarks/experiment.py --seeds 20           # against runs of one seed in turn
python benchmarks/experiment.py --seeds 1 8 64 512   # on an accelerator

Every job is the launcher's default one, without wandb and videos, from importing to
the figures. The compilation cache starts empty for each number of seeds; runs in turn
share one, as they would on a user's machine. Only `--in-turn` of them are run: the
first, which compiles, and some more, whose median stands for all others.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]


def run_job(folder: Path, cache: Path, *options: str) -> float:
    """Seconds of one launch."""
    command = [
        sys.executable,
        str(ROOT / "experiments" / "launcher_pendulum.py"),
        "wandb.mode=disabled",
        "render=false",
        "verbose=false",
        f"results_dir={folder}",
        *options,
    ]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    start = time.perf_counter()
    subprocess.run(
        command, check=True, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[20])
    parser.add_argument(
        "--in-turn", type=int, default=3, help="runs of one seed, 0: no"
    )
    parser.add_argument("--options", nargs="*", default=[], help="for the launcher")
    arguments = parser.parse_args()
    table = Table(title="the default job of the pendulum, minmax")
    for name in ("seeds", "in one process [s]", "s a seed", "in turn [s]", "share"):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        turns = [
            run_job(
                folder / f"turn_{i}",
                folder / "cache_turn",
                "job.num_seeds_per_hparam=1",
                f"job.seed={i}",
                *arguments.options,
            )
            for i in range(arguments.in_turn)
        ]
        if turns:
            print("runs of one seed:", ", ".join(f"{t:.1f} s" for t in turns))
        for seeds in arguments.seeds:
            seconds = run_job(
                folder / f"together_{seeds}",
                folder / f"cache_{seeds}",
                f"job.num_seeds_per_hparam={seeds}",
                f"job.seeds_per_process={seeds}",
                *arguments.options,
            )
            row = [str(seeds), f"{seconds:.1f}", f"{seconds / seeds:.1f}"]
            if len(turns) > 1:
                in_turn = turns[0] + (seeds - 1) * statistics.median(turns[1:])
                row += [f"{in_turn:.1f}", f"{seconds / in_turn:.0%}"]
            table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
