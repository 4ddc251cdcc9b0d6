"""`launcher=ray`: units as tasks of a Ray cluster, this machine's or another."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.configuration import JobConfig
from experiments.engines import attend as attending
from experiments.engines.engine import (
    Engine,
    Running,
    check_cores,
    command_of,
    environment_of,
    import_extra,
    log_of,
)
from experiments.engines.settings import RayConfig
from experiments.runtime import num_cores
from safex.errors import ConfigError


def make(job: JobConfig, settings: RayConfig) -> Engine:
    """The engine."""
    return _Ray(job, settings)


class _Ray:
    def __init__(self, job: JobConfig, settings: RayConfig) -> None:
        self._job, self._settings = job, settings

    def check(self) -> None:
        if self._settings.address is None:
            check_cores(self._job)
        # Before it is imported: nothing is sent home, and units are no less important
        # here than with other launchers (by default Ray nices its workers by 15).
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")
        import_extra("ray", "ray")

    @contextlib.contextmanager
    def start(self, folder: Path, count: int) -> Iterator[Running]:
        ray = import_extra("ray", "ray")
        # Nodes of a cluster stand elsewhere.
        folder = folder.resolve()
        job, address = self._job, self._settings.address
        own = {"num_cpus": num_cores(), "include_dashboard": False}
        try:
            with warnings.catch_warnings():
                # JAX warns of any fork. This process computes nothing meanwhile, and
                # the children of Ray's go on to programs of their own at once.
                warnings.filterwarnings("ignore", message=r"os\.fork")
                ray.init(
                    address=address or "local",
                    log_to_driver=False,
                    logging_level="ERROR",
                    **({} if address else own),
                )
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"launcher.address {address}: {reason}") from error
        try:
            if address is None:
                _check_there(job, ray.cluster_resources())
            # Workers need nothing of this project to attend a process of it.
            ray.cloudpickle.register_pickle_by_value(attending)
            task = ray.remote(attending.attend).options(
                num_cpus=job.num_cpus,
                num_gpus=job.num_gpus,
                memory=None if job.mem is None else int(job.mem * 1024**3),
                # A unit that fails would fail again; resume.py tries it when asked.
                max_retries=0,
            )
            environment = environment_of(job)
            # Workers have an environment of their own.
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
            references = [
                task.remote(
                    command_of(folder, unit),
                    environment,
                    str(log_of(folder, unit)),
                    60.0 * job.time,
                )
                for unit in range(count)
            ]
            yield _References(ray, folder, references)
        finally:
            ray.shutdown()


def _check_there(job: JobConfig, resources: Mapping[str, float]) -> None:
    """Refuses a unit that would wait for ever.

    Raises:
      ConfigError: says how much there is.
    """
    gpus = resources.get("GPU", 0)
    if job.num_gpus > gpus:
        raise ConfigError(
            f"job.num_gpus must not exceed the {gpus:g} GPUs that Ray finds here, got "
            f"{job.num_gpus}"
        )
    memory = resources.get("memory", 0) / 1024**3
    if job.mem is not None and job.mem > memory:
        raise ConfigError(
            f"job.mem must not exceed the {memory:.1f} GB that Ray finds here, got "
            f"{job.mem:g}"
        )


class _References:
    def __init__(self, ray: Any, folder: Path, references: list[Any]) -> None:
        self._ray, self._folder, self._references = ray, folder, references
        self._ended: dict[int, str] = {}

    def ended(self) -> Mapping[int, str]:
        left = [r for i, r in enumerate(self._references) if i not in self._ended]
        done: list[Any] = []
        if left:
            done, _ = self._ray.wait(left, num_returns=len(left), timeout=0)
        for reference in done:
            unit = self._references.index(reference)
            try:
                self._ended[unit] = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                line = str(error).strip().splitlines()[0]
                self._ended[unit] = f"was ended by Ray: {line}"
        return dict(self._ended)

    def log(self, unit: int) -> Path:
        return log_of(self._folder, unit)
