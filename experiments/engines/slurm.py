"""`launcher=slurm`: units as an array of SLURM jobs, submitted by submitit."""

import contextlib
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.configuration import JobConfig
from experiments.engines.engine import Engine, Running, environment_of, import_extra
from experiments.engines.queue import (
    new_queue_name,
    scripts_folder,
    unfinished_jobs,
)
from experiments.engines.settings import SlurmConfig
from experiments.engines.slurm_task import ReportTask, UnitTask
from safex.errors import ConfigError, ResultsError
from safex.training.files import write_text

_ROOT = Path(__file__).resolve().parents[2]
# Between two questions to the controller, which others ask as well.
_SECONDS = 2.0


def make(job: JobConfig, settings: SlurmConfig) -> Engine:
    """The engine."""
    return _Slurm(job, settings)


class _Slurm:
    def __init__(self, job: JobConfig, settings: SlurmConfig) -> None:
        self._job, self._settings = job, settings

    def check(self) -> None:
        import_extra("submitit", "slurm")
        on_cluster = self._settings.cluster == "slurm" and not self._settings.dry_run
        if on_cluster and not (shutil.which("sbatch") and shutil.which("srun")):
            raise ConfigError(
                "launcher=slurm needs sbatch and srun, which are not on this machine; "
                "launcher.dry_run=true only writes the scripts, launcher.cluster=local "
                "runs processes of this machine"
            )

    @contextlib.contextmanager
    def start(self, folder: Path, count: int) -> Iterator[Running | None]:
        folder = folder.resolve()
        if self._settings.dry_run:
            self._write_scripts(folder, count)
            yield None
        elif self._settings.cluster == "local":
            with _cancelled(self._submit_local(folder, count)) as jobs:
                yield _Local(jobs)
        else:
            name = new_queue_name(folder)
            with _refusals():
                jobs = _submit_all(self._executor(folder, name), folder, count)
            first = jobs[0].job_id.split("_")[0]
            if self._settings.wait:
                with _cancelled(jobs):
                    yield _Queued(name, jobs)
                return
            with _cancelled(jobs), _refusals():
                reporter = self._reporter(folder, name, f"afterany:{first}")
                report = reporter.submit(ReportTask(), str(folder))
            print(
                f"SLURM has {count} units as job {first} and their report as job "
                f"{report.job_id}; what they print goes to {scripts_folder(folder)}"
            )
            yield None

    def _parameters(self, name: str) -> dict[str, Any]:
        """Options of sbatch that all jobs share."""
        settings = self._settings
        given = {
            "partition": settings.partition,
            "account": settings.account,
            "qos": settings.qos,
        }
        return {
            "job_name": name,
            "time": self._job.time,
            "setup": self._setup(),
            **{key: value for key, value in given.items() if value is not None},
        }

    def _setup(self) -> list[str]:
        """Shell lines before each unit."""
        path = os.pathsep.join(
            filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")])
        )
        environment = environment_of(self._job)
        return [
            *self._settings.setup,
            *(f"export {k}={shlex.quote(v)}" for k, v in environment.items()),
            # Ahead of what the lines above have set.
            f"export PYTHONPATH={shlex.quote(path)}${{PYTHONPATH:+:$PYTHONPATH}}",
        ]

    def _executor(self, folder: Path, name: str) -> Any:
        """Submits units."""
        job, settings = self._job, self._settings
        more: dict[str, Any] = {
            "cpus_per_task": job.num_cpus,
            "gpus_per_node": job.num_gpus or None,
            "mem": None if job.mem is None else f"{int(job.mem * 1024)}M",
            "constraint": settings.constraint,
        }
        more = {key: value for key, value in more.items() if value is not None}
        # Since SLURM 22.05 a step does not inherit this from its job.
        more["srun_args"] = [f"--cpus-per-task={job.num_cpus}"]
        executor = self._new_executor(folder)
        executor.update_parameters(
            **self._parameters(name), **more, array_parallelism=settings.max_parallel
        )
        return executor

    def _reporter(self, folder: Path, name: str, dependency: str) -> Any:
        """Submits the report of what others did."""
        executor = self._new_executor(folder)
        executor.update_parameters(
            **self._parameters(name), cpus_per_task=1, dependency=dependency
        )
        return executor

    def _new_executor(self, folder: Path) -> Any:
        submitit = import_extra("submitit", "slurm")
        cls = submitit.SlurmExecutor
        if self._settings.dry_run:
            # Scripts can be written where there is no SLURM.
            cls = type("DryExecutor", (cls,), {"affinity": classmethod(lambda cls: 1)})
        return cls(scripts_folder(folder), max_num_timeout=self._settings.max_requeues)

    def _submit_local(self, folder: Path, count: int) -> Sequence[Any]:
        submitit = import_extra("submitit", "slurm")
        executor = submitit.LocalExecutor(scripts_folder(folder))
        executor.update_parameters(
            timeout_min=self._job.time,
            gpus_per_node=self._job.num_gpus,
            setup=self._setup(),
        )
        return _submit_all(executor, folder, count)

    def _write_scripts(self, folder: Path, count: int) -> None:
        """What would be submitted, but for the number that SLURM gives to the array."""
        units = self._executor(folder, "safex-dry-run")
        if count > 1:
            units.parameters["map_count"] = count
        report = self._reporter(folder, "safex-dry-run", "afterany:UNITS")
        for executor, name in ((units, "units"), (report, "report")):
            # submitit has no public way to a script that is not submitted.
            text = executor._make_submission_file_text(
                executor._submitit_command_str, name
            )
            path = scripts_folder(folder) / f"{name}.sh"
            write_text(path, text)
            print(f"== {path}\n{text}")


def _submit_all(executor: Any, folder: Path, count: int) -> Sequence[Any]:
    """One array of jobs, a unit each."""
    jobs: Sequence[Any] = executor.map_array(
        UnitTask(), [str(folder)] * count, range(count)
    )
    return jobs


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Repeats in a line what sbatch says against a job."""
    errors = import_extra("submitit", "slurm").core.utils
    try:
        yield
    except (errors.FailedJobError, errors.FailedSubmissionError) as error:
        lines = str(error).strip().splitlines() or ["failed"]
        raise ConfigError(f"SLURM takes no job: {lines[-1]}") from error


@contextlib.contextmanager
def _cancelled(jobs: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Takes jobs back if the context is left by an error or by Ctrl-C."""
    try:
        yield jobs
    except BaseException:
        for job in jobs:
            job.cancel(check=False)
        raise


class _Queued:
    """Jobs in SLURM's queue.

    submitit would ask `sacct`, which knows nothing where no accounting is set up.
    """

    def __init__(self, name: str, jobs: Sequence[Any]) -> None:
        self._name, self._jobs = name, jobs
        self._asked = -_SECONDS
        self._ended: dict[int, str] = {}

    def ended(self) -> Mapping[int, str]:
        if time.monotonic() - self._asked >= _SECONDS:
            self._asked = time.monotonic()
            # A controller that is busy answers the next time.
            with contextlib.suppress(ResultsError):
                # One that is queued again is COMPLETING before it is PENDING.
                left = {job for job, _ in unfinished_jobs(self._name, "%i")}
                self._ended = {
                    unit: ""
                    for unit, job in enumerate(self._jobs)
                    if job.job_id not in left
                }
        return self._ended

    def log(self, unit: int) -> Path:
        return Path(self._jobs[unit].paths.stdout)


class _Local:
    """Processes of submitit's on this machine."""

    def __init__(self, jobs: Sequence[Any]) -> None:
        self._jobs = jobs

    def ended(self) -> Mapping[int, str]:
        return {unit: "" for unit, job in enumerate(self._jobs) if job.done()}

    def log(self, unit: int) -> Path:
        return Path(self._jobs[unit].paths.stdout)
