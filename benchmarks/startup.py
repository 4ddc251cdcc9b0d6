"""How long a user waits before anything happens.

python benchmarks/startup.py

Each line is a fresh process, median of the rounds; the first decision is MinMax's on
the pendulum at its default size, once with an empty compilation cache, then with it
filled.
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
LAUNCHER = str(ROOT / "experiments" / "launcher_pendulum.py")
DECISION = """
import jax, jax.numpy as jnp
from experiments.runtime import set_up_jax
set_up_jax()
from benchmarks.plan import minmax_agent
agent = minmax_agent(1)
state = jax.jit(agent.init)(jax.random.key(0))
jax.block_until_ready(jax.jit(agent.act)(jax.random.key(1), state, jnp.ones(3)))
"""


def seconds(*arguments: str, cache: str = "") -> float:
    """Wall-clock seconds of one fresh process."""
    environment = os.environ | ({"JAX_COMPILATION_CACHE_DIR": cache} if cache else {})
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return time.perf_counter() - start


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = range(parser.parse_args().rounds)
    commands = {
        "launcher --help": (LAUNCHER, "--help"),
        "launcher, a value refused": (LAUNCHER, "model.num_ensembles=0"),
        "import jax": ("-c", "import jax"),
        "import safex": ("-c", "import safex"),
        "import safex.agents.mpc": ("-c", "import safex.agents.mpc"),
    }
    times = {
        name: [seconds(*command) for _ in rounds] for name, command in commands.items()
    }
    with tempfile.TemporaryDirectory() as cache:
        times["first decision, cold"] = [seconds("-c", DECISION, cache=cache)]
        times["first decision, cache filled"] = [
            seconds("-c", DECISION, cache=cache) for _ in rounds
        ]
    table = Table("", "median [s]", "min - max", title="fresh processes")
    for name, group in times.items():
        low, high = min(group), max(group)
        table.add_row(
            name, f"{statistics.median(group):.2f}", f"{low:.2f} - {high:.2f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
