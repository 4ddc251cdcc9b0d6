"""Which loggers a run has."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from experiments.configuration import Experiment
from safex.errors import ConfigError
from safex.training.loggers import (
    LocalLogger,
    Logger,
    SideLogger,
    TensorBoardLogger,
    WandbLogger,
)


def check_tracking(config: Experiment) -> None:
    """Refuses a logger whose package is missing, before anything is computed.

    Raises:
      ConfigError: names the extra that brings it.
    """
    if config.tensorboard and find_spec("tensorboardX") is None:
        raise ConfigError(
            "tensorboard: true needs a package that is not installed: pip install "
            "'safex[tensorboard]' (or tensorboard=false)"
        )


def open_loggers(
    config: Experiment,
    seed_folder: Path,
    wandb_folder: Path,
    wandb_settings: Mapping[str, Any],
    last_step: int | None,
    warn: Callable[[str], None],
) -> list[Logger]:
    """The loggers of one seed, the local files first.

    Args:
      config: of the job.
      seed_folder: of the seed.
      wandb_folder: of all wandb runs of the job.
      wandb_settings: arguments of `wandb.init`.
      last_step: environment step that the run goes on from, None for a fresh run.
      warn: told once of each other logger that cannot be used.
    """
    local = LocalLogger(seed_folder, last_step)
    history = local.rows
    loggers: list[Logger] = [local]
    if config.tensorboard:
        folder = seed_folder / "tensorboard"
        loggers.append(
            SideLogger("TensorBoard", lambda: TensorBoardLogger(folder, history), warn)
        )
    if config.wandb.mode != "disabled":
        loggers.append(
            SideLogger(
                "wandb",
                lambda: WandbLogger(wandb_folder, wandb_settings, warn, history),
                warn,
            )
        )
    return loggers
