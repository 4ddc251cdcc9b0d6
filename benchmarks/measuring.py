"""What the benchmarks share: clocks, the machine's own peak, tables, peers."""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

PEERS = Path(__file__).parent / "peers"


class Timing(NamedTuple):
    """One call: wall-clock and processor seconds of the whole process."""

    wall: float
    cpu: float


def once(call: Callable[[], Any]) -> Timing:
    """Times one call; what it returns is waited for."""
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(call())
    return Timing(time.perf_counter() - wall, time.process_time() - cpu)


def interleaved(
    calls: Mapping[str, Callable[[], Timing]], rounds: int
) -> dict[str, list[Timing]]:
    """Times several contestants in turn, so that the machine's moods hit them alike."""
    timings: dict[str, list[Timing]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            timings[name].append(call())
    return timings


def median_wall(timings: Sequence[Timing]) -> float:
    """Median wall-clock seconds."""
    return statistics.median(timing.wall for timing in timings)


def median_cpu(timings: Sequence[Timing]) -> float:
    """Median processor seconds."""
    return statistics.median(timing.cpu for timing in timings)


def matmul_peak(size: int = 1024, repeats: int = 10) -> float:
    """The machine's best GFLOP/s in a float32 product of square matrices."""
    x = jnp.ones((size, size))
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(x))
    best = min(once(lambda: product(x)).wall for _ in range(repeats))
    return 2 * size**3 / best / 1e9


def print_table(
    title: str,
    timings: Mapping[str, Sequence[Timing]],
    *,
    gflop: Mapping[str, float] | None = None,
    peak: float | None = None,
    per_call: int = 1,
) -> None:
    """Median and range of each contestant; rates where the work is known.

    Args:
      title: what was measured.
      timings: of each contestant.
      gflop: work of one call, in 10^9 floating-point operations of the matrix products.
      peak: GFLOP/s of the machine, for the share of it.
      per_call: decisions, fits or steps in a call.
    """
    table = Table(title=title)
    table.add_column("")
    for name in ("ms", "min - max", "per s", "CPU-s", "GFLOP/s", "of peak"):
        table.add_column(name, justify="right")
    for name, group in timings.items():
        wall, cpu = median_wall(group), median_cpu(group)
        walls = [timing.wall for timing in group]
        rate = gflop[name] / wall if gflop and name in gflop else None
        table.add_row(
            name,
            f"{1e3 * wall:,.1f}",
            f"{1e3 * min(walls):,.1f} - {1e3 * max(walls):,.1f}",
            f"{per_call / wall:,.4g}",
            f"{cpu:.3f}",
            f"{rate:.0f}" if rate else "",
            f"{rate / peak:.0%}" if rate and peak else "",
        )
    Console(width=110).print(table)


def describe_machine() -> str:
    """Processor, cores, versions."""
    model = platform.processor()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    devices = jax.devices()
    return (
        f"{model}, {len(devices)} x {devices[0].device_kind}, jax {jax.__version__}, "
        f"Python {platform.python_version()}"
    )


class Peer:
    """Another library, in an environment and a process of its own.

    Args:
      name: of the worker file in `peers/` and of its requirements.
      arguments: for the worker.
    """

    def __init__(self, name: str, *arguments: str) -> None:
        python = _peer_environment(name)
        worker = PEERS / f"{name}_worker.py"
        self._process = subprocess.Popen(
            [str(python), str(worker), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.call()

    def call(self) -> Timing:
        """Has the worker do its job once."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended: {self._process.wait()}")
        return Timing(**json.loads(line))

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def _peer_environment(name: str) -> Path:
    """The peer's interpreter; made at its first use, a few minutes."""
    folder = PEERS / f".{name}"
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        print(f"installing {name} into {folder} (once) ...", flush=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        requirements = PEERS / f"{name}_requirements.txt"
        no_deps = PEERS / f"{name}_no_deps.txt"
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([*pip, "-r", str(requirements)], check=True)
        subprocess.run([*pip, "--no-deps", "-r", str(no_deps)], check=True)
        (folder / ".installed").touch()
    return python
