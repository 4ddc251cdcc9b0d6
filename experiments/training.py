"""Trains units of a job in this process; what goes wrong with a seed ends no other."""

import contextlib
import dataclasses
import itertools
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.building import build_agent, build_env, build_trainer
from experiments.configuration import (
    Experiment,
    ExperimentConfig,
    ModelFreeConfig,
    fingerprint,
    numbers_of,
)
from experiments.folders import lock_seeds
from experiments.grid import Traced, rebuild, traced_of
from experiments.jobs import Job, Unit
from experiments.progress import Display
from experiments.tracking import open_loggers
from experiments.wholeness import forget_broken
from safex.training.files import write_text
from safex.training.loggers import Logger
from safex.training.loop import SeedRun, Trainer
from safex.training.off_policy import OffPolicyTrainer

# Beside a seed's other files where the last attempt at it failed.
ERROR_FILE = "error.txt"


def train_units(
    job: Job, folder: Path, units: Sequence[Unit], progress: Display
) -> None:
    """Trains units one after another; their runs are numbered through, from 0.

    A seed that fails has an `error.txt` beside it afterwards.

    Raises:
      ResultsError: another process works on one of the seeds.
    """
    index = 0
    for program, group in itertools.groupby(units, key=lambda unit: unit.program):
        making = _Making(job, folder, program, progress)
        trainer = None
        for unit in group:
            runs = [making.seed_run(index + i, run) for i, run in enumerate(unit.runs)]
            index += len(runs)
            with lock_seeds([run.folder for run in runs]):
                for (point, _), run in zip(unit.runs, runs, strict=True):
                    (run.folder / ERROR_FILE).unlink(missing_ok=True)
                    # A unit that is queued again starts without its launch's look.
                    text = forget_broken(run.folder, job.points[point].config)
                    if text:
                        progress.say(text)
                trainer = trainer or making.trainer()
                _train(trainer, runs, progress)


def _train(
    trainer: Trainer | OffPolicyTrainer, runs: Sequence[SeedRun], progress: Display
) -> None:
    """Trains a group of seeds.

    Where an error says nothing of whose it is, an exception in a system for instance,
    each seed goes on alone.
    """

    def failed(run: SeedRun, error: Exception) -> None:
        line = describe(error)
        text = "".join(traceback.format_exception(error))
        # Where the disk is full, that is the error; it is said below.
        with contextlib.suppress(OSError):
            write_text(run.folder / ERROR_FILE, f"{line}\n\n{text}")
        progress.say(f"failed: {run.folder}: {line}")

    try:
        trainer.train(runs, failed)
    except Exception as error:
        if len(runs) == 1:
            failed(runs[0], error)
            return
        progress.say(
            f"warning: {describe(error)}; the {len(runs)} seeds that went in lockstep "
            "go on one by one"
        )
        for run in runs:
            if not (run.folder / ERROR_FILE).exists():
                _train(trainer, [run], progress)


def describe(error: BaseException) -> str:
    """An exception in a line."""
    name, lines = type(error).__name__, str(error).strip().splitlines()
    if not lines:
        return name
    # What a compiled program called back ends with what went wrong there.
    line = lines[-1] if "Traceback (most recent call last)" in lines[0] else lines[0]
    return f"{name}: {line}"


@dataclasses.dataclass(frozen=True)
class _Making:
    """Makes what trains the runs of one program.

    Attributes:
      job: the job.
      folder: its folder.
      program: which of its programs.
      progress: what the training says of itself.
    """

    job: Job
    folder: Path
    program: int
    progress: Display

    @property
    def several(self) -> bool:
        """Whether points share the program, so that it takes their numbers."""
        return len(self.job.programs[self.program]) > 1

    def warn(self, message: str) -> None:
        self.progress.say(f"warning: {message}")

    def trainer(self) -> Trainer | OffPolicyTrainer:
        """With the program's first point for all that its points have in common."""
        config = self.job.programs[self.program][0].config
        if isinstance(config, ModelFreeConfig):
            return build_trainer(config, self.warn, self.progress.update)
        return self._planning(config)

    def _planning(self, config: ExperimentConfig) -> Trainer:
        env = build_env(config)
        agent = build_agent(config, env, check=False)

        def vary(traced: Traced) -> tuple[Any, Any]:
            described = build_agent(config, traced.env, check=False)
            return traced.env, rebuild(described, traced)

        return Trainer(
            env,
            agent,
            config.train,
            horizon=agent.planner.span,
            warn=self.warn,
            report=self.progress.update,
            vary=vary if self.several else None,
        )

    def seed_run(self, index: int, run: tuple[int, int]) -> SeedRun:
        """A run of the job as the trainer takes it."""
        point = self.job.points[run[0]]
        seed = self.job.seeds[run[1]]
        seed_folder = self.job.folder_of(self.folder, run)

        traced: Any = ()
        if self.several and isinstance(point.config, ExperimentConfig):
            traced = traced_of(point.config)

        def make_loggers(last_step: int | None) -> Sequence[Logger]:
            name = self.folder.name
            if point.name:
                name = f"{name}-{point.name}"
            settings = wandb_settings(point.config, seed, name)
            return open_loggers(
                point.config,
                seed_folder,
                self.folder / "wandb",
                settings,
                last_step,
                self.warn,
            )

        return SeedRun(
            seed,
            index,
            seed_folder,
            make_loggers,
            fingerprint(point.config),
            traced,
        )


def wandb_settings(config: Experiment, seed: int, run_name: str) -> dict[str, Any]:
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
