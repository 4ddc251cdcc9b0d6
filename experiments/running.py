"""Runs a job, every seed of every point of its grid, and reports on it."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.building import (
    budget_of,
    build_agent,
    build_env,
    build_model_free,
)
from experiments.configuration import Experiment, ExperimentConfig, ModelFreeConfig
from experiments.engines.engine import Engine, log_of, make_engine
from experiments.engines.follow import follow, sizes_of
from experiments.engines.queue import forget_queue_name
from experiments.folders import open_results_dir, revision_of, write_config
from experiments.grid import Point
from experiments.jobs import Job, Unit, write_launch
from experiments.progress import make_display
from experiments.runtime import set_up_jax
from experiments.tables import model_free_table, summary_table
from experiments.tracking import check_tracking
from experiments.training import ERROR_FILE, train_units
from experiments.wholeness import forget_broken, missing, what_counts
from safex.agents.mpc import MPCAgent
from safex.envs.contract import check_environment
from safex.errors import ConfigError, UnfinishedError
from safex.training import model_free_report, report
from safex.training.files import sealed, write_text
from safex.training.lockstep import default_group_size
from safex.training.margins import limits_of
from safex.training.model_free_report import ModelFreeInfo
from safex.training.page import write_page
from safex.training.report import RunInfo
from safex.training.results import read_all


def run_job(config: Experiment) -> Path:
    """Trains every seed of every point, then reports on each point.

    Points whose configurations differ in traced numbers alone go through the same
    compiled programs, in lockstep with each other's seeds.

    Args:
      config: of the job.

    Returns:
      the results folder.

    Raises:
      UnfinishedError: seeds failed, after all others are through and every point that
        is complete has been reported on.
      SafexError: whatever else a user can act on.
    """
    check_tracking(config)
    engine = make_engine(config)
    if engine is None:
        set_up_jax()
    else:
        engine.check()
        set_up_jax(config.job.num_cpus)
    job = Job.of(config)
    for point in job.points:
        # Before anything is written or computed.
        _check_parts(point.config)
    console = Console(stderr=False)
    with open_results_dir(config) as folder:
        console.print(f"results in {folder}")
        if not getattr(config.launcher.settings, "dry_run", False):
            _forget_broken(job, folder, console)
        write_config(folder, config)
        for point in job.points:
            if point.name:
                # Before it is trained, so that what there is of it can be read.
                write_config(folder / point.name, point.config)
        if any(folder.rglob("*.ckpt")):
            console.print("going on from the last checkpoints there")
        units = job.left_of(folder, job.units(_unit_size(job)))
        if engine is None:
            _train_here(job, folder, units, console)
            finish(job, folder, console)
        elif not units:
            finish(job, folder, console)
        else:
            write_launch(folder, config, units)
            ended = _hand_over(job, folder, units, engine, console)
            if ended is not None:
                finish(job, folder, console, ended)
    return folder


def _forget_broken(job: Job, folder: Path, console: Console) -> None:
    """Looks for damage before it is seen which seeds are through."""
    for point in job.points:
        for index in range(len(job.seeds)):
            seed = folder / point.name / f"seed_{index}"
            text = forget_broken(seed, point.config)
            if text:
                console.print(text, highlight=False, markup=False, soft_wrap=True)


def _check_parts(config: Experiment) -> None:
    """Refuses what does not go together.

    Raises:
      ConfigError: parts that do not fit.
      ContractError: a system that does not keep its protocol.
    """
    env = build_env(config)
    if not hasattr(env, "make_vector"):
        check_environment(env)
    elif isinstance(config, ExperimentConfig):
        raise ConfigError(
            f"env.kind {config.env.kind} is no system that a planner can imagine: "
            "choose a method without a model, for instance method=cvpo"
        )
    if isinstance(config, ModelFreeConfig):
        build_model_free(config, env)
    else:
        build_agent(config, env)


def _unit_size(job: Job) -> int | None:
    """Runs in a unit, at most; None is all that share a program."""
    settings = job.config.job
    if settings.seeds_per_process is not None:
        return settings.seeds_per_process
    if job.config.launcher.kind == "local":
        return default_group_size(len(job.points) * len(job.seeds))
    return None if settings.num_gpus else settings.num_cpus


def _train_here(
    job: Job, folder: Path, units: Sequence[Unit], console: Console
) -> None:
    labels = [job.label_of(run) for unit in units for run in unit.runs]
    quiet = not job.config.verbose
    with make_display(console, job.config.train, labels, quiet=quiet) as progress:
        train_units(job, folder, units, progress)


def _hand_over(
    job: Job, folder: Path, units: Sequence[Unit], engine: Engine, console: Console
) -> dict[Path, str] | None:
    """Lets an engine train the units.

    Returns:
      of each seed how its process ended, and where that printed; None if the engine
      goes on without this process.
    """
    before = sizes_of(log_of(folder, unit) for unit in range(len(units)))
    with engine.start(folder, len(units)) as running:
        if running is None:
            return None
        names = [
            f"unit {i + 1}/{len(units)}" if len(units) > 1 else "unit"
            for i in range(len(units))
        ]

        def say(line: str) -> None:
            console.print(line, highlight=False, markup=False, soft_wrap=True)

        ended = follow(running, names, say, before)
        return {
            job.folder_of(folder, run): f"its process {ended[i] or 'ended'}, what it "
            f"printed is in {running.log(i)} and the file beside it"
            for i, unit in enumerate(units)
            for run in unit.runs
        }


def finish(
    job: Job,
    folder: Path,
    console: Console,
    ended: Mapping[Path, str] | None = None,
) -> None:
    """Reports on the points that are complete.

    Args:
      job: the job.
      folder: its folder.
      console: for the tables.
      ended: what is known of how the seeds' processes ended.

    Raises:
      UnfinishedError: there are seeds that are not finished, and why.
    """
    lost: list[str] = []
    summaries = []
    for point in job.points:
        found = list(missing(folder / point.name, point.config))
        what = what_counts(point.config)
        lost += [
            _why(seed, f"{what} {first}", folder, ended or {}) for seed, first in found
        ]
        if not found:
            summaries.append((point, _report(point, folder, job.seeds, console)))
    if job.config.job.grid and not lost:
        # Last, because a folder that has it is a finished job.
        listed = [
            {"folder": point.name, "set": point.settings, **summary["aggregate"]}
            for point, summary in summaries
        ]
        text = json.dumps(listed, indent=2, allow_nan=False) + "\n"
        write_text(folder / "grid.json", text)
        write_report(folder, console)
    forget_queue_name(folder)
    console.print(f"results in {folder}")
    if lost:
        total = len(job.points) * len(job.seeds)
        lines = "".join(f"\n  {line}" for line in lost)
        raise UnfinishedError(
            f"{len(lost)} of {total} seeds are not finished; `python "
            f"experiments/resume.py {folder}` runs what is missing{lines}"
        )


def _why(seed: Path, first: str, folder: Path, ended: Mapping[Path, str]) -> str:
    """A line on a seed that is not finished."""
    name = seed.relative_to(folder)
    try:
        reason = (seed / ERROR_FILE).read_text().splitlines()[0]
        return f"{name}: {reason} ({seed / ERROR_FILE})"
    except (OSError, IndexError):
        how = ended.get(seed, "")
        return f"{name}: lacks {first}" + (f"; {how}" if how else "")


def _report(
    point: Point, folder: Path, seeds: Sequence[int], console: Console
) -> dict[str, Any]:
    """Summary, plots, videos and table of one point; returns the summary."""
    env = build_env(point.config)
    folder = folder / point.name
    reporting = _reporting(point.config, env, folder, seeds)
    summary = reporting.summary
    with _missed("figures", console):
        reporting.figures()
    if point.config.render:
        with _missed("videos", console):
            reporting.videos(
                lambda text: console.print(f"warning: {text}", markup=False)
            )
    # Last, because a folder with a summary is a finished run.
    text = json.dumps(sealed(summary), indent=2, allow_nan=False) + "\n"
    write_text(folder / "summary.json", text)
    write_report(folder, console)
    if point.name:
        console.print(", ".join(f"{k}={v}" for k, v in point.settings.items()))
    console.print(reporting.table(summary))
    return summary


class _Reporting(NamedTuple):
    """A finished point's summary, and what makes the rest of its report."""

    summary: dict[str, Any]
    figures: Callable[[], Any]
    videos: Callable[[Callable[[str], None]], Any]
    table: Callable[[Mapping[str, Any]], Table]


def _reporting(
    config: Experiment, env: Any, folder: Path, seeds: Sequence[int]
) -> _Reporting:
    if isinstance(config, ModelFreeConfig):
        told = model_free_info(config, env, folder)
        return _Reporting(
            model_free_report.summarise_run(folder, told, seeds),
            lambda: model_free_report.write_figures(folder, told, seeds, env),
            lambda warn: model_free_report.write_videos(folder, told, seeds, env, warn),
            model_free_table,
        )
    info = run_info(config, build_agent(config, env, check=False), env, folder)
    summary = report.summarise_run(folder, info, seeds)
    return _Reporting(
        summary,
        lambda: report.write_figures(folder, info, seeds, env, summary),
        lambda warn: report.write_videos(folder, info, seeds, env, warn),
        summary_table,
    )


def say_why(error: Exception, prefix: str = "safex") -> int:
    """Prints an error that a user can act on; returns the code to end with."""
    text = str(error)
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        text = (
            f"{error.strerror or error}{where}; what was computed so far is whole, and "
            "the same command goes on from it when this is mended"
        )
    print(f"{prefix}: {text}", file=sys.stderr)
    return 1 if isinstance(error, UnfinishedError) else 2


def write_report(folder: Path, console: Console) -> None:
    """Writes `report.html`; without it a finished run is still whole."""
    with _missed("report.html", console):
        write_page(folder / "report.html", read_all([folder], None))


@contextlib.contextmanager
def _missed(what: str, console: Console) -> Iterator[None]:
    """Warns of an error; what is there to look at costs no number."""
    try:
        yield
    except Exception as error:
        why = str(error) or type(error).__name__
        console.print(f"warning: no {what}: {why}", markup=False)


def run_info(
    config: ExperimentConfig, agent: MPCAgent, env: Any, folder: Path
) -> RunInfo:
    """What a summary and the figures say of the run as a whole."""
    return RunInfo(
        env=config.task,
        method=config.method,
        model=config.model_name,
        revision=revision_of(folder),
        episodes=config.train.num_model_updates,
        random_steps=config.train.num_exploration_steps,
        horizon=agent.planner.span,
        limits=limits_of(env),
        cost_budget=budget_of(config, env),
        beta=np.asarray(agent.beta),
    )


def model_free_info(config: ModelFreeConfig, env: Any, folder: Path) -> ModelFreeInfo:
    """The same of agents without a model."""
    return ModelFreeInfo(
        env=config.task,
        method=config.method,
        model=config.model_name,
        agent=config.agent.kind,
        revision=revision_of(folder),
        total_steps=config.train.total_steps,
        random_steps=config.train.random_steps,
        limits=limits_of(env),
        cost_budget=budget_of(config, env),
    )
