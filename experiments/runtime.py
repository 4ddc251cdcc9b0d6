"""How JAX is set up before its first use: one device a core, programs kept on disk."""

import hashlib
import os
import platform
from pathlib import Path

import jax

# Below this, reading a file costs about what compiling costs [s].
_MIN_COMPILE_SECONDS = 0.1


def set_up_jax(num_devices: int | None = None) -> None:
    """Makes each core a device and turns the compilation cache on.

    Call it before anything is computed. `JAX_NUM_CPU_DEVICES` decides if it is set: a
    limit that is not an affinity, as a container's, cannot be seen from here.

    Args:
      num_devices: stand for a process with so many cores, which computes the runs in
        place of this one; this one stays off the accelerators.
    """
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if num_devices is not None:
        jax.config.update("jax_platforms", "cpu")
    if not chosen and "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", num_devices or num_cores())
    _use_compilation_cache()


def num_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder.

    JAX's own variables decide if they are set: `JAX_COMPILATION_CACHE_DIR` names
    another folder, `JAX_ENABLE_COMPILATION_CACHE=false` turns the cache off. A folder
    that cannot be written costs a recompilation, never a run.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        try:
            folder = cache_folder()
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # the latter where there is no home
            return
        if not os.access(folder, os.W_OK):
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        name = "jax_persistent_cache_min_compile_time_secs"
        jax.config.update(name, _MIN_COMPILE_SECONDS)


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/safex/<machine>`, by default below `~/.cache`.

    A home folder may be shared by machines whose processors differ; code compiled for
    one of them may not run on another, so each kind has a folder of its own.
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    digest = hashlib.sha256(_processor().encode()).hexdigest()[:12]
    return Path(root) / "safex" / f"{platform.machine()}-{digest}"


def _processor() -> str:
    """What decides which instructions the processor has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(kinds)}))
