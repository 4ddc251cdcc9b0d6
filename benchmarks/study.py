"""The claim itself: every task, every method, cumulative violations first.

python benchmarks/study.py run               # everything; can be stopped and resumed
python benchmarks/study.py run --tasks pendulum car_park --methods minmax unsafe
python benchmarks/study.py run --ablations   # minmax without its parts
python benchmarks/study.py report            # tables from what is there
python benchmarks/study.py keep              # add what is there to docs/study.jsonl
python benchmarks/study.py report --kept     # tables from that file

Each group is one call of a launcher, a core for each seed. A killed study goes on where
it was when started again. The seeds are not those of the launchers' default jobs, on
which settings were found. All of it takes a day on two cores, so that what has finished
is kept, a line a group with its revision and options, and the rest can be run later.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.groups import ROOT, print_markdown, run_group


class Task(NamedTuple):
    """A variant of a task.

    Attributes:
      launcher: of which task.
      options: what makes the variant.
    """

    launcher: str
    options: tuple[str, ...] = ()


TASKS = {
    "pendulum": Task("pendulum"),
    "pendulum_noisy": Task("pendulum", ("env.process_noise_std=0.1",)),
    "cartpole": Task("cartpole"),
    # A tenth of the steps, as in the Real-World RL Suite (100 of 1000).
    "cartpole_budget": Task("cartpole", ("agent.cost_budget=20",)),
    "cartpole_noisy": Task("cartpole", ("env.process_noise_std=0.05",)),
    "pitch_control": Task("pitch_control"),
    "pitch_control_noisy": Task("pitch_control", ("env.process_noise_std=0.0005",)),
    "car_park": Task("car_park"),
    "car_park_noisy": Task("car_park", ("env.process_noise_std=0.02",)),
    "rc_car": Task("rc_car"),
    "rc_car_noisy": Task("rc_car", ("env.process_noise_std=0.02",)),
    "point_goal": Task("point_goal"),
    "point_goal_noisy": Task("point_goal", ("env.process_noise_std=0.02",)),
}
METHODS = {
    "minmax": ("method=minmax",),
    "safe (mean)": ("method=safe",),
    "unsafe": ("method=unsafe",),
    "safe (distribution)": ("method=safe_distribution",),
    "pestraj": ("method=pestraj",),
    "optminmax": ("method=optminmax",),
    "actsafe": ("method=actsafe",),
    "oracle": ("method=safe", "model=true"),
}
ABLATIONS = {
    "minmax": ("method=minmax",),
    "calibration off": ("method=minmax", "calibration.method=none"),
    "pessimism off": ("method=minmax", "agent.pes_alpha=0"),
    "stds along the attack": ("method=minmax", "planner.std_along=attack"),
    "mean over adversaries": ("method=minmax", "optimizer.mode=mean"),
    "random elites": ("method=minmax", "optimizer.random_elites=true"),
}


class Group(NamedTuple):
    """All seeds of one method on one task."""

    task: str
    method: str
    options: tuple[str, ...]

    def folder(self, out: Path) -> Path:
        """Where it goes; the name says method and task."""
        keep = str.maketrans({" ": "_", "(": None, ")": None})
        return out / self.task / self.method.translate(keep)

    def summary(self, out: Path) -> dict[str, Any] | None:
        """What came out, None before it has finished."""
        path = self.folder(out) / "summary.json"
        return json.loads(path.read_text()) if path.exists() else None


KEPT = ROOT / "docs" / "study.jsonl"


def kept() -> dict[tuple[str, str], dict[str, Any]]:
    """What the file of finished groups has, by task and method."""
    if not KEPT.exists():
        return {}
    lines = [json.loads(line) for line in KEPT.read_text().splitlines()]
    return {(line["task"], line["method"]): line for line in lines}


def keep(arguments: argparse.Namespace) -> None:
    """Puts the finished groups into that file, in the place of older ones."""
    lines = kept()
    for group in groups(arguments):
        if summary := group.summary(arguments.out):
            lines[group.task, group.method] = {
                "task": group.task,
                "method": group.method,
                "options": arguments.options,
                "summary": _short(summary),
            }
    KEPT.write_text("".join(json.dumps(line) + "\n" for line in lines.values()))


def _short(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary without what no table of the study shows."""
    names = ("revision", "episodes", "random_steps", "seconds_per_decision", "limits")
    seeds = [
        {name: value for name, value in seed.items() if name != "scores"}
        for seed in summary["seeds"]
    ]
    aggregate = {"coverage": summary["aggregate"]["coverage"]}
    short = {name: summary[name] for name in names}
    return short | {"seeds": seeds, "aggregate": aggregate}


def groups(arguments: argparse.Namespace) -> Iterator[Group]:
    """The groups asked for, method by method, so that every task comes early."""
    methods = ABLATIONS if arguments.ablations else METHODS
    for method in arguments.methods or methods:
        for task in arguments.tasks:
            yield Group(task, method, (*TASKS[task].options, *methods[method]))


def run(arguments: argparse.Namespace, group: Group) -> str:
    """Runs one group; returns a line about it."""
    options = (
        *group.options,
        f"job.seed={arguments.seed}",
        f"job.num_seeds_per_hparam={arguments.seeds}",
        f"train.num_model_updates={arguments.episodes}",
        *arguments.options,
    )
    label, launcher = f"{group.task}, {group.method}", TASKS[group.task].launcher
    return run_group(label, launcher, options, group.folder(arguments.out))


HEAD = (
    "method",
    "seeds, episodes, revision",
    "violating steps, IQM [95 %]",
    "each seed",
    "events",
    "worst excess",
    "worst episode's cost",
    "final return, IQM [95 %] (worst)",
    "no plan",
    "next episode",
    "held out",
    "far",
)


def report(arguments: argparse.Namespace) -> None:
    """Prints a table of each task as Markdown, and one of what they come to."""
    lines = kept() if arguments.kept else {}
    claims = []
    for task in arguments.tasks:
        found: dict[str, dict[str, Any]] = {}
        for group in groups(arguments):
            if arguments.kept:
                summary = lines.get((group.task, group.method), {}).get("summary")
            else:
                summary = group.summary(arguments.out)
            if group.task == task and summary:
                found[group.method] = summary
        if found:
            rows = [_row(*item) for item in found.items()]
            print_markdown(task.replace("_", " "), HEAD, rows)
            claims += _claims(task.replace("_", " "), found)
    if claims:
        print_markdown("What they come to", CLAIMS, claims)


CLAIMS = (
    "task",
    "method",
    "violating steps",
    "of unsafe's",
    "of safe (mean)'s",
    "behind the oracle's return, mean (worst seed)",
    "episodes over budget",
    "two stds: next, held out, far",
)


def _claims(task: str, found: dict[str, dict[str, Any]]) -> list[list[str]]:
    """What a method with an adversary is held to, beside those it is compared with.

    Violating steps are those after the random phase, in all seeds; only groups of the
    same seeds are compared.
    """
    violations = {method: sum(_after_random(found[method])) for method in found}
    return [
        [
            task,
            method,
            str(violations[method]),
            *(
                _share(violations[method], violations[other])
                if other in found and _seeds(found[other]) == _seeds(summary)
                else "-"
                for other in ("unsafe", "safe (mean)")
            ),
            _behind(summary, found.get("oracle")),
            str(sum(seed["episodes_over_budget"] for seed in summary["seeds"])),
            ", ".join(_shares(summary, region).get("2", "-") for region in REGIONS),
        ]
        for method, summary in found.items()
        if method not in ("unsafe", "safe (mean)", "oracle")
    ]


def _share(part: int, of: int) -> str:
    return f"{part / of:.0%} of {of}" if of else "of 0"


def _behind(summary: dict[str, Any], oracle: dict[str, Any] | None) -> str:
    """How far a final return is below the oracle's, in shares of its size."""
    if oracle is None or _seeds(oracle) != _seeds(summary):
        return "-"
    best = fmean([seed["final_return"] for seed in oracle["seeds"]])
    final = [seed["final_return"] for seed in summary["seeds"]]
    mean, worst = ((best - value) / abs(best) for value in (fmean(final), min(final)))
    return f"{mean:.1%} ({worst:.1%})"


def _seeds(summary: dict[str, Any]) -> list[int]:
    return [seed["seed"] for seed in summary["seeds"]]


def _after_random(summary: dict[str, Any]) -> list[int]:
    """Violating steps of each seed after its random phase."""
    return [
        seed["training_violating_steps"] - seed["random_violating_steps"]
        for seed in summary["seeds"]
    ]


REGIONS = ("prequential", "held_out", "out_of_distribution")


def _shares(summary: dict[str, Any], region: str) -> dict[str, str]:
    """Coverage in per cent at one, two and three stds; empty if nothing is claimed."""
    levels = summary["aggregate"]["coverage"][region]
    if levels["1"] is None:
        return {}
    return {level: f"{100 * levels[level]['mean']:.0f}" for level in "123"}


def _row(method: str, summary: dict[str, Any]) -> list[str]:
    from safex.training.statistics import estimate  # noqa: PLC0415, imports SciPy

    seeds = summary["seeds"]
    after = _after_random(summary)
    violations = estimate(after, worst="max")
    final = estimate([s["final_return"] for s in seeds], worst="min")
    shares = [
        " / ".join(_shares(summary, region).values()) or "-" for region in REGIONS
    ]
    return [
        method,
        f"{len(seeds)}, {summary['episodes']}, `{summary['revision'][:7]}`",
        f"{violations.iqm:.1f} [{violations.low:.1f}, {violations.high:.1f}]",
        ", ".join(map(str, after)),
        str(sum(s["training_violation_events"] for s in seeds)),
        _largest(s["worst_excess"] for s in seeds),
        _largest(s["worst_episode_cost"] for s in seeds),
        f"{final.iqm:.1f} [{final.low:.1f}, {final.high:.1f}] ({final.worst:.1f})",
        str(sum(s["infeasible_plans"] for s in seeds)),
        *shares,
    ]


def _largest(per_seed: Iterator[Sequence[float]]) -> str:
    """The largest over seeds, for each constraint."""
    return ", ".join(f"{max(values):.3g}" for values in zip(*per_seed, strict=True))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "report", "keep"])
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "study")
    parser.add_argument("--seed", type=int, default=1, help="the seeds come from it")
    parser.add_argument("--seeds", type=int, default=5, help="how many a group")
    parser.add_argument("--episodes", type=int, default=12)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", help="all of them if not given")
    parser.add_argument(
        "--ablations", action="store_true", help="minmax without its parts"
    )
    parser.add_argument("--options", nargs="*", default=[], help="for every launcher")
    parser.add_argument(
        "--kept", action="store_true", help="report what docs/study.jsonl has"
    )
    arguments = parser.parse_args()
    known = ABLATIONS if arguments.ablations else METHODS
    for method in arguments.methods or ():
        if method not in known:
            parser.error(f"--methods must be among {', '.join(known)}, got {method}")
    if arguments.ablations:
        arguments.out = arguments.out / "ablations"
    if arguments.what == "run":
        for group in groups(arguments):
            print(run(arguments, group), flush=True)
    if arguments.what == "keep":
        keep(arguments)
    report(arguments)


if __name__ == "__main__":
    main()
