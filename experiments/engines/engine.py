"""What an engine is: it runs the units of a launch, each in a process of its own."""

import contextlib
import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from experiments.configuration import Experiment, JobConfig
from experiments.runtime import num_cores
from safex.errors import ConfigError

_WORKER = Path(__file__).resolve().parents[1] / "work.py"


class Running(Protocol):
    """Units that an engine has taken."""

    def ended(self) -> Mapping[int, str]:
        """Of each unit that has ended how it did; nothing if it ended well."""
        ...

    def log(self, unit: int) -> Path:
        """The file for what a unit prints, once it does."""
        ...


class Engine(Protocol):
    """Somebody else's way to run processes."""

    def check(self) -> None:
        """Refuses what cannot work, before anything is written.

        Raises:
          ConfigError: the engine is not installed, or a unit needs more than there is.
        """
        ...

    def start(
        self, folder: Path, count: int
    ) -> contextlib.AbstractContextManager[Running | None]:
        """Hands the first `count` units of a folder's launch over.

        What still runs when the context is left is stopped. None is an engine that
        goes on by itself, or has nothing to run.
        """
        ...


def make_engine(config: Experiment) -> Engine | None:
    """The engine of a configuration's launcher; None where this process does it all."""
    kind, settings = config.launcher
    if kind == "local":
        return None
    # Each imports what it is about, and only one is needed.
    name = {"local_parallel": "processes", "ray": "ray_cluster", "slurm": "slurm"}[kind]
    module = importlib.import_module(f"experiments.engines.{name}")
    engine: Engine = module.make(config.job, settings)
    return engine


def import_extra(module: str, extra: str) -> Any:
    """A package that not everyone has installed.

    Raises:
      ConfigError: it is not there; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"launcher={extra} needs the package {module}: pip install -e '.[{extra}]'"
        ) from error


def command_of(folder: Path, unit: int) -> list[str]:
    """What runs a unit, and ends if whoever started it is gone."""
    return [sys.executable, str(_WORKER), str(folder), str(unit), "--attached"]


def log_of(folder: Path, unit: int) -> Path:
    """Where a unit of this machine's engines prints."""
    return folder / "logs" / f"unit_{unit:03d}.log"


def environment_of(job: JobConfig) -> dict[str, str]:
    """What tells JAX in a unit's process of its share."""
    found = {} if job.num_gpus else {"JAX_PLATFORMS": "cpu"}
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        found["JAX_NUM_CPU_DEVICES"] = str(job.num_cpus)
    return found


def check_cores(job: JobConfig) -> None:
    """Refuses a unit that needs more cores than this process may use.

    Raises:
      ConfigError: says how many there are.
    """
    if job.num_cpus > num_cores():
        raise ConfigError(
            f"job.num_cpus must not exceed the {num_cores()} cores of this machine, "
            f"got {job.num_cpus}"
        )
