"""Runs a job, every seed of every point of its grid, and reports on it."""

import contextlib
import fcntl
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from rich.console import Console

import safex
from experiments.building import build_agent, build_env
from experiments.configuration import (
    ExperimentConfig,
    differences,
    fingerprint,
    numbers_of,
    plain_of,
)
from experiments.grid import Point, Traced, expand, rebuild, same_program, traced_of
from experiments.progress import LiveProgress
from experiments.runtime import set_up_jax
from experiments.tables import summary_table
from experiments.tracking import check_tracking, open_loggers
from safex.agents.mpc import MPCAgent
from safex.envs.contract import check_environment
from safex.errors import ResultsError
from safex.training import report
from safex.training.files import write_text
from safex.training.lockstep import default_group_size
from safex.training.loggers import Logger
from safex.training.loop import SeedRun, Trainer
from safex.training.margins import limits_of
from safex.training.page import write_page
from safex.training.report import RunInfo
from safex.training.results import read_all

_ROOT = Path(__file__).resolve().parents[1]
# The study draws a job's seeds below this number.
_SEED_BOUND = 1_000_000


def run_job(
    config: ExperimentConfig, prepare: Callable[[], None] | None = None
) -> Path:
    """Trains every seed of every point, then reports on each point.

    Points whose configurations differ in traced numbers alone go through the same
    compiled programs, in lockstep with each other's seeds.

    Args:
      config: of the job.
      prepare: called when nothing has been refused and nobody else can work in the
        folder, before anything is run.

    Returns:
      the results folder.

    Raises:
      SafexError: whatever a user can act on.
    """
    check_tracking(config)
    set_up_jax()
    points = expand(config)
    for point in points:
        # Before anything is written or computed.
        env = build_env(point.config)
        check_environment(env)
        build_agent(point.config, env)
    console = Console(stderr=False)
    with open_results_dir(config) as folder:
        console.print(f"results in {folder}")
        if prepare:
            prepare()
        _write_once(folder, config)
        for point in points:
            if point.name:
                # Before it is trained, so that what there is of it can be read.
                _write_once(folder / point.name, point.config)
        seeds = draw_seeds(config.job.seed, config.job.num_seeds_per_hparam)
        if any(folder.rglob("*.ckpt")):
            console.print("going on from the last checkpoints there")
        groups = same_program(points)
        names = [point.name for group in groups for point in group for _ in seeds]
        with LiveProgress(
            console, config.train, names, quiet=not config.verbose
        ) as progress:
            index = 0
            for group in groups:
                _train(group, folder, seeds, index, progress)
                index += len(group) * len(seeds)
        summaries = [_report(point, folder, seeds, console) for point in points]
        if config.job.grid:
            # Last, because a folder that has it is a finished job.
            listed = [
                {"folder": point.name, "set": point.settings, **summary["aggregate"]}
                for point, summary in zip(points, summaries, strict=True)
            ]
            text = json.dumps(listed, indent=2, allow_nan=False) + "\n"
            write_text(folder / "grid.json", text)
            write_report(folder, console)
        console.print(f"results in {folder}")
    return folder


def _train(
    points: Sequence[Point],
    folder: Path,
    seeds: Sequence[int],
    first_index: int,
    progress: LiveProgress,
) -> None:
    """Trains all seeds of points that share their programs."""

    def warn(message: str) -> None:
        progress.say(f"warning: {message}")

    config = points[0].config
    env = build_env(config)
    several = len(points) > 1

    def vary(traced: Traced) -> tuple[Any, Any]:
        agent = build_agent(config, traced.env, check=False)
        return traced.env, rebuild(agent, traced)

    agent = build_agent(config, env, check=False)
    trainer = Trainer(
        env,
        agent,
        config.train,
        horizon=agent.planner.span,
        warn=warn,
        report=progress.update,
        vary=vary if several else None,
    )
    pairs = [(point, i) for point in points for i in range(len(seeds))]

    def seed_run(index: int, point: Point, i: int) -> SeedRun:
        seed_folder = folder / point.name / f"seed_{i}"

        def make_loggers(last_step: int | None) -> Sequence[Logger]:
            name = f"{folder.name}-{point.name}" if point.name else folder.name
            settings = wandb_settings(point.config, seeds[i], name)
            return open_loggers(
                config, seed_folder, folder / "wandb", settings, last_step, warn
            )

        return SeedRun(
            seeds[i],
            index,
            seed_folder,
            make_loggers,
            fingerprint(point.config),
            traced_of(point.config) if several else (),
        )

    runs = [
        seed_run(first_index + index, point, i)
        for index, (point, i) in enumerate(pairs)
    ]
    size = config.job.seeds_per_process or default_group_size(len(runs))
    for first in range(0, len(runs), size):
        trainer.train(runs[first : first + size])


def _report(
    point: Point, folder: Path, seeds: Sequence[int], console: Console
) -> dict[str, Any]:
    """Summary, plots, videos and table of one point; returns the summary."""
    env = build_env(point.config)
    agent = build_agent(point.config, env, check=False)
    info = run_info(point.config, agent, env)
    folder = folder / point.name
    summary = report.summarise_run(folder, info, seeds)
    report.write_figures(folder, info, seeds, env, summary)
    if point.config.render:
        report.write_videos(
            folder, info, seeds, env, lambda text: console.print(f"warning: {text}")
        )
    # Last, because a folder with a summary is a finished run.
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    write_text(folder / "summary.json", text)
    write_report(folder, console)
    if point.name:
        console.print(", ".join(f"{k}={v}" for k, v in point.settings.items()))
    console.print(summary_table(summary))
    return summary


def write_report(folder: Path, console: Console) -> None:
    """Writes `report.html`; without it a finished run is still whole."""
    try:
        write_page(folder / "report.html", read_all([folder], None))
    except Exception as error:
        console.print(f"warning: no report.html: {error}", markup=False)


def draw_seeds(job_seed: int, count: int) -> list[int]:
    """The first `count` distinct seeds of a job; more seeds keep the earlier ones."""
    drawn = np.random.RandomState(job_seed).randint(0, _SEED_BOUND, size=4 * count + 16)
    return [int(seed) for seed in dict.fromkeys(drawn.tolist())][:count]


def wandb_settings(
    config: ExperimentConfig, seed: int, run_name: str
) -> dict[str, Any]:
    """Arguments of `wandb.init`; group and job_type are the same for all seeds."""
    numbers = numbers_of(config)
    return {
        "mode": config.wandb.mode,
        "project": config.wandb.project_name,
        "group": config.wandb.group_name,
        "job_type": config.wandb.job_name,
        "name": f"{config.wandb.job_name}_seed_{seed}",
        # The same run after a resume, another one in another folder.
        "id": f"{config.wandb.job_name}-{run_name}-{seed}",
        "config": {**numbers, "seed": seed},
    }


@contextlib.contextmanager
def open_results_dir(config: ExperimentConfig) -> Iterator[Path]:
    """The folder of this run, locked for as long as the process lives.

    With `results_dir` given it is that folder. Without, it is an unfinished run of this
    very configuration if there is one that nobody works on, else a new folder.

    Raises:
      ResultsError: the folder holds another configuration's run, something that is no
        run at all, or another process works in it.
    """
    if config.results_dir is not None:
        folder = Path(config.results_dir)
        _check_same_run(folder, config)
        with _lock(folder) as free:
            if not free:
                raise ResultsError(
                    f"another process is working in results_dir {folder}"
                )
            yield folder
        return
    parent = Path("results", config.task, f"{config.method}_{config.model_name}")
    for folder in sorted(parent.glob("*"), reverse=True):
        finished = (folder / name for name in ("summary.json", "grid.json"))
        if any(path.exists() for path in finished) or _saved_numbers(folder) is None:
            continue
        if _saved_numbers(folder) == numbers_of(config):
            with _lock(folder) as free:
                if free:
                    yield folder
                    return
    folder = parent / time.strftime("%Y-%m-%d_%H-%M-%S")
    # Two launches within a second.
    number = 1
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{folder.name.split('.')[0]}.{number}")
    with _lock(folder):
        yield folder


def _check_same_run(folder: Path, config: ExperimentConfig) -> None:
    if folder.exists() and not folder.is_dir():
        raise ResultsError(f"results_dir {folder} is not a folder")
    if not folder.exists() or not any(
        child for child in folder.iterdir() if child.name != ".lock"
    ):
        return
    saved = _saved_numbers(folder)
    if saved is None:
        raise ResultsError(
            f"results_dir {folder} is not empty and has no readable config.json of a "
            "safex run; choose another folder"
        )
    different = differences(saved, numbers_of(config))
    if different:
        # The method explains most of the others.
        different.sort(key=lambda line: not line.startswith(("method:", "model_name:")))
        shown = "; ".join(different[:5])
        more = f" and {len(different) - 5} more" if len(different) > 5 else ""
        raise ResultsError(
            f"results_dir {folder} holds another configuration's run ({shown}{more}); "
            "choose another folder, or set these back to go on with that run"
        )


def _saved_numbers(folder: Path) -> dict[str, Any] | None:
    """The number-deciding part of a folder's config, None if it cannot be read."""
    try:
        return json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Whether the folder could be locked; the lock dies with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _write_once(folder: Path, config: ExperimentConfig) -> None:
    """Writes configuration and revision at a run's first start."""
    if not (folder / "config.yaml").exists():
        plain = OmegaConf.create(plain_of(config))
        write_text(folder / "config.yaml", OmegaConf.to_yaml(plain))
        write_text(folder / "revision.txt", revision() + "\n")
    write_text(folder / "config.json", json.dumps(numbers_of(config), indent=2) + "\n")


def revision() -> str:
    """Git commit of the code, marked if the tree has changes; else the version."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_ROOT), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return f"safex-{safex.__version__}"


def run_info(config: ExperimentConfig, agent: MPCAgent, env: Any) -> RunInfo:
    """What a summary and the figures say of the run as a whole."""
    return RunInfo(
        env=config.task,
        method=config.method,
        model=config.model_name,
        revision=revision(),
        episodes=config.train.num_model_updates,
        random_steps=config.train.num_exploration_steps,
        horizon=agent.planner.span,
        limits=limits_of(env),
        cost_budget=tuple(
            np.broadcast_to(config.agent.cost_budget, env.num_constraints).tolist()
        ),
        beta=np.asarray(agent.beta),
    )
