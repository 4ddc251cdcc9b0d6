"""Runs all seeds of one configuration into one results folder, and reports on it."""

import contextlib
import dataclasses
import fcntl
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from rich.console import Console

import safex
from experiments.configuration import (
    ExperimentConfig,
    differences,
    fingerprint,
    numbers_of,
)
from experiments.progress import LiveProgress
from experiments.tables import summary_table
from safex.agents.mpc import MPCAgent
from safex.envs.contract import check_environment
from safex.errors import ResultsError
from safex.training import report
from safex.training.files import write_text
from safex.training.lockstep import default_group_size
from safex.training.loggers import LocalLogger, Logger, WandbLogger
from safex.training.loop import SeedRun, Trainer
from safex.training.margins import limits_of
from safex.training.report import RunInfo

_ROOT = Path(__file__).resolve().parents[1]
# The study draws a job's seeds below this number.
_SEED_BOUND = 1_000_000


def run_experiment(
    config: ExperimentConfig, env: Any, agent: MPCAgent, limit_index: int
) -> Path:
    """Trains every seed, then writes summary, plots and videos, and prints the table.

    Args:
      config: the whole configuration.
      env: the system.
      agent: the agent.
      limit_index: which observation coordinate the limit is on.

    Returns:
      the results folder.

    Raises:
      SafexError: whatever a user can act on.
    """
    check_environment(env)
    console = Console(stderr=False)
    seeds = draw_seeds(config.job.seed, config.job.num_seeds_per_hparam)
    with open_results_dir(config) as folder:
        console.print(f"results in {folder}")
        _write_once(folder, config)
        with LiveProgress(
            console, config.train, len(seeds), quiet=not config.verbose
        ) as progress:

            def warn(message: str) -> None:
                progress.say(f"warning: {message}")

            trainer = Trainer(
                env,
                agent,
                config.train,
                horizon=config.horizon,
                beta=np.asarray(agent.beta),
                limit=config.constraint.speed_threshold,
                fingerprint=fingerprint(config),
                warn=warn,
                report=progress.update,
            )

            def seed_run(index: int, seed: int) -> SeedRun:
                seed_folder = folder / f"seed_{index}"

                def make_loggers(last_step: int | None) -> Sequence[Logger]:
                    local = LocalLogger(seed_folder, last_step)
                    if config.wandb.mode == "disabled":
                        return [local]
                    settings = wandb_settings(config, seed, folder.name)
                    return [local, WandbLogger(folder / "wandb", settings, warn)]

                return SeedRun(seed, index, seed_folder, make_loggers)

            runs = [seed_run(index, seed) for index, seed in enumerate(seeds)]
            size = config.job.seeds_per_process or default_group_size(len(runs))
            for first in range(0, len(runs), size):
                trainer.train(runs[first : first + size])
        info = _run_info(config, np.asarray(agent.beta), env)
        summary = report.summarise_run(folder, info, seeds)
        report.write_figures(folder, info, seeds, env, summary)
        if config.render:
            report.write_videos(folder, info, seeds, env, warn)
        # Last, because a folder with a summary is a finished run.
        text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
        write_text(folder / "summary.json", text)
        console.print(summary_table(summary))
        console.print(f"results in {folder}")
    return folder


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
    parent = Path("results", "pendulum", f"{config.method}_{config.model_name}")
    for folder in sorted(parent.glob("*"), reverse=True):
        if (folder / "summary.json").exists() or _saved_numbers(folder) is None:
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
        plain = dataclasses.asdict(config)
        write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(plain)))
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


def _run_info(config: ExperimentConfig, beta: np.ndarray, env: Any) -> RunInfo:
    return RunInfo(
        env="pendulum",
        method=config.method,
        model=config.model_name,
        revision=revision(),
        episodes=config.train.num_model_updates,
        random_steps=config.train.num_exploration_steps,
        horizon=config.horizon,
        limits=limits_of(env),
        cost_budget=np.broadcast_to(
            config.constraint.d, (env.num_constraints,)
        ).tolist(),
        beta=beta,
    )
