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
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.groups import ROOT
from benchmarks.measuring import Timing, describe_machine, matmul_peak, print_table
from safex.config import TrainConfig

# Matrix products of the default job's planned episode: 200 decisions of MinMax and a
# fit, counted in docs/performance.md.
EPISODE_GFLOP = 370.0
TRAIN = TrainConfig()


def run_job(folder: Path, cache: Path, *options: str) -> Timing:
    """One launch: seconds of the clock, and of the processors by all its processes."""
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
    wall, cpu = time.perf_counter(), _children_seconds()
    subprocess.run(
        command, check=True, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL
    )
    return Timing(time.perf_counter() - wall, _children_seconds() - cpu)


def _children_seconds() -> float:
    """Processor seconds of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def report(
    title: str, jobs: dict[str, list[Timing]], seeds: int, peak: float, default: bool
) -> None:
    """A table of jobs of so many seeds each; rates if they are the default job."""
    gflop = seeds * TRAIN.num_model_updates * EPISODE_GFLOP
    print_table(
        f"the default job of the pendulum, minmax, {title}",
        jobs,
        gflop=dict.fromkeys(jobs, gflop) if default else None,
        peak=peak,
        per_call=seeds * TRAIN.num_model_updates * TRAIN.num_rollout_steps,
    )


def main() -> None:
    """Reads the command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[20])
    parser.add_argument(
        "--in-turn", type=int, default=3, help="runs of one seed, 0: no"
    )
    parser.add_argument("--options", nargs="*", default=[], help="for the launcher")
    arguments = parser.parse_args()
    peak, default = matmul_peak(), not arguments.options
    print(f"{describe_machine()}; matrix-product peak {peak:.0f} GFLOP/s")
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
            rows = {"empty cache": turns[:1]}
            if len(turns) > 1:
                rows["cache filled"] = turns[1:]
            report("one seed", rows, 1, peak, default)
        for seeds in arguments.seeds:
            job = run_job(
                folder / f"together_{seeds}",
                folder / f"cache_{seeds}",
                f"job.num_seeds_per_hparam={seeds}",
                f"job.seeds_per_process={seeds}",
                *arguments.options,
            )
            rows = {"empty cache": [job]}
            report(f"{seeds} seeds in one process", rows, seeds, peak, default)
            if len(turns) > 1:
                later = statistics.median(turn.wall for turn in turns[1:])
                in_turn = turns[0].wall + (seeds - 1) * later
                print(
                    f"{job.wall:.0f} s, {job.wall / seeds:.1f} s a seed; in turn they "
                    f"take {in_turn:.0f} s: {job.wall / in_turn:.0%}"
                )


if __name__ == "__main__":
    main()
