"""`launcher=local_parallel`: processes of this machine, by the standard library's pool.

The pool's threads attend a process each, so one that is killed is that one's end alone.
"""

import contextlib
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from experiments.configuration import JobConfig
from experiments.engines.attend import attend
from experiments.engines.engine import (
    Engine,
    Running,
    check_cores,
    command_of,
    environment_of,
    log_of,
)
from experiments.runtime import num_cores
from safex.errors import ConfigError


class _Share(NamedTuple):
    """The part of the machine that one process gets."""

    cores: tuple[int, ...]
    gpus: tuple[str, ...]


def make(job: JobConfig, settings: Any) -> Engine:
    """The engine; it has no settings of its own."""
    del settings
    return _Processes(job)


class _Processes:
    def __init__(self, job: JobConfig) -> None:
        self._job = job

    def check(self) -> None:
        self._shares()

    def _shares(self) -> list[_Share]:
        """As many parts as the scarcest of cores, GPUs and memory allows.

        Raises:
          ConfigError: not even one.
        """
        job = self._job
        check_cores(job)
        cores, gpus = _cores(), _gpus() if job.num_gpus else []
        number = len(cores) // job.num_cpus
        if job.num_gpus:
            if job.num_gpus > len(gpus):
                raise ConfigError(
                    f"job.num_gpus must not exceed the {len(gpus)} GPUs of this "
                    f"machine, got {job.num_gpus}"
                )
            number = min(number, len(gpus) // job.num_gpus)
        if job.mem is not None:
            there = _memory()
            if job.mem > there:
                raise ConfigError(
                    f"job.mem must not exceed the {there:.1f} GB of this machine, got "
                    f"{job.mem:g}"
                )
            number = min(number, int(there // job.mem))
        return [
            _Share(
                tuple(cores[i * job.num_cpus : (i + 1) * job.num_cpus]),
                tuple(gpus[i * job.num_gpus : (i + 1) * job.num_gpus]),
            )
            for i in range(number)
        ]

    @contextlib.contextmanager
    def start(self, folder: Path, count: int) -> Iterator[Running]:
        shares = self._shares()
        free: queue.SimpleQueue[_Share] = queue.SimpleQueue()
        for share in shares:
            free.put(share)
        processes: list[subprocess.Popen] = []
        stopping = threading.Event()
        pool = ThreadPoolExecutor(len(shares))

        def started(process: subprocess.Popen) -> None:
            processes.append(process)
            if stopping.is_set():
                process.terminate()

        def run(unit: int) -> str:
            # There are as many threads as shares.
            share = free.get()
            command = command_of(folder, unit)
            command += ["--cores", ",".join(map(str, share.cores))]
            environment = environment_of(self._job)
            if share.gpus:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(share.gpus)
            log, seconds = str(log_of(folder, unit)), 60.0 * self._job.time
            try:
                return attend(command, environment, log, seconds, started)
            except OSError as error:
                # No process or no log of this one; the others go on.
                return f"could not be started: {error}"
            finally:
                free.put(share)

        try:
            yield _Futures(folder, [pool.submit(run, unit) for unit in range(count)])
        finally:
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(processes):
                process.terminate()
            pool.shutdown()


class _Futures:
    def __init__(self, folder: Path, futures: list[Future[str]]) -> None:
        self._folder, self._futures = folder, futures

    def ended(self) -> Mapping[int, str]:
        return {
            unit: future.result()
            for unit, future in enumerate(self._futures)
            if future.done() and not future.cancelled()
        }

    def log(self, unit: int) -> Path:
        return log_of(self._folder, unit)


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(num_cores()))


def _gpus() -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` calls the GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(
        ["nvidia-smi", "-L"], capture_output=True, text=True, check=False
    ).stdout
    return [str(i) for i, _ in enumerate(listed.splitlines())]


def _memory() -> float:
    """Memory that this process may use [GB]: the machine's, or less by its cgroups."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([there, *_cgroup_limits(Path("/"))]) / 1024**3


def _cgroup_limits(root: Path) -> Iterator[int]:
    """Limits [bytes] of the groups that this process is in, as far as they are told."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        # Version 2 has one hierarchy, version 1 one for each kind of limit.
        _, kinds, group = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        mount, name = "sys/fs/cgroup", "memory.max"
        if kinds:
            mount, name = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        path = Path(group.lstrip("/"))
        for above in (path, *path.parents):
            try:
                # `max` is no limit.
                yield int((root / mount / above / name).read_text())
            except (OSError, ValueError):
                continue
