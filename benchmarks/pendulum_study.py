"""The claim itself: six methods, two tasks, five seeds, cumulative violations.

python benchmarks/pendulum_study.py run     # about an hour on 2 cores, can be resumed
python benchmarks/pendulum_study.py report  # tables and figures from what is there

Each group is one call of the launcher, a core for each seed. A killed study goes on
where it was when started again. The seeds are not those of the launcher's default job,
on which the settings were found.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
METHODS = {
    "minmax": ["method=minmax"],
    "safe (mean)": ["method=safe", "model.sampling_mode=MEAN"],
    "unsafe": ["method=unsafe"],
    "safe (distribution)": [
        "method=safe",
        "model.sampling_mode=DIST",
        "model.num_particles=3",
    ],
    "pestraj": ["method=pestraj"],
    "optminmax": ["method=optminmax"],
}
TASKS = {
    "pendulum": [],
    "pendulum with process noise": ["env.process_noise_std=0.1"],
}


def folder_of(out: Path, task: str, method: str) -> Path:
    """Where a group goes; its name says method and task."""
    keep = str.maketrans({" ": "_", "(": None, ")": None})
    return out / task.translate(keep) / method.translate(keep)


def run_group(arguments: argparse.Namespace, task: str, method: str) -> str:
    """Runs one group in a process of its own; returns a line about it."""
    folder = folder_of(arguments.out, task, method)
    if (folder / "summary.json").exists():
        return f"{task}, {method}: there already"
    command = [
        sys.executable,
        str(ROOT / "experiments" / "launcher_pendulum.py"),
        *METHODS[method],
        "model=bnn",
        *TASKS[task],
        f"job.seed={arguments.seed}",
        f"job.num_seeds_per_hparam={arguments.seeds}",
        f"train.num_model_updates={arguments.episodes}",
        "wandb.mode=disabled",
        "render=false",
        f"results_dir={folder}",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    with log.open("a") as file:
        code = subprocess.run(
            command, stdout=file, stderr=file, check=False, cwd=ROOT
        ).returncode
    return f"{task}, {method}: " + ("done" if code == 0 else f"failed, see {log}")


def report(out: Path) -> None:
    """Prints the tables of all finished groups as Markdown."""
    for task in TASKS:
        print(f"\n### {task}\n")
        print(
            "| method | violating steps, each seed | sum | events | worst excess "
            "[rad/s] | final return, mean (worst) | plans without a feasible one | "
            "next episode | held out | far |"
        )
        print("| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | --- | --- |")
        for method in METHODS:
            path = folder_of(out, task, method) / "summary.json"
            if path.exists():
                print(_row(method, json.loads(path.read_text())))


def _row(method: str, summary: dict) -> str:
    seeds, aggregate = summary["seeds"], summary["aggregate"]
    after = [s["training_violating_steps"] - s["random_violating_steps"] for s in seeds]
    final = aggregate["final_return"]
    coverage = " | ".join(
        " / ".join(
            f"{100 * aggregate['coverage'][where][level]['mean']:.1f}"
            for level in "123"
        )
        for where in ("prequential", "held_out", "out_of_distribution")
    )
    return (
        f"| {method} | {', '.join(map(str, after))} | {sum(after)} | "
        f"{sum(s['training_violation_events'] for s in seeds)} | "
        f"{aggregate['worst_excess'][0]['max']:.3f} | "
        f"{final['mean']:.1f} ({final['min']:.1f}) | "
        f"{sum(s['infeasible_plans'] for s in seeds)} | {coverage} |"
    )


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "study")
    parser.add_argument("--seed", type=int, default=1, help="the seeds come from it")
    parser.add_argument("--seeds", type=int, default=5, help="how many a group")
    parser.add_argument("--episodes", type=int, default=12)
    arguments = parser.parse_args()
    if arguments.what == "run":
        for method in METHODS:
            for task in TASKS:
                print(run_group(arguments, task, method), flush=True)
    report(arguments.out)


if __name__ == "__main__":
    main()
