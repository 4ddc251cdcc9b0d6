"""The H steps in which the last episode came closest to its limit, foretold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from safex.training.account import EpisodeRecord
from safex.training.files import read_arrays, write_atomically
from safex.types import Array, PyTree


class Forecast(NamedTuple):
    """What the planner believed would follow, and what followed.

    Row `h` is about the observation at environment step `start_step + h + 1`.

    Attributes:
      start_step: the environment step at which the plan was made.
      mean: `[H, D]` predicted mean.
      lower: `[H, D]` lower edge of the predicted band.
      upper: `[H, D]` upper edge of the predicted band.
      actual: `[H, D]` what happened.
    """

    start_step: int
    mean: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    actual: np.ndarray


def forecast_episode(
    band: Callable[..., tuple[Array, Array, Array]],
    agent_state: PyTree,
    record: EpisodeRecord,
    horizon: int,
) -> Forecast:
    """Predicts the executed actions from before the closest call on.

    Args:
      band: the agent's `band`, compiled.
      agent_state: its state before it learned from the episode.
      record: the episode.
      horizon: H.
    """
    length = len(record.cost)
    horizon = min(horizon, length)
    closest = int(np.argmax(record.margin.max(1)))
    start = int(np.clip(closest - (2 * horizon) // 3, 0, length - horizon))
    window = slice(start, start + horizon)
    mean, lower, upper = band(
        agent_state, jnp.asarray(record.obs[start]), jnp.asarray(record.action[window])
    )
    return Forecast(
        start,
        np.asarray(mean),
        np.asarray(lower),
        np.asarray(upper),
        record.next_obs[window],
    )


def save_forecast(path: Path, forecast: Forecast) -> None:
    """Writes a forecast as npz, whole or not at all."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **forecast._asdict())

    write_atomically(path, write)


def load_forecast(path: Path) -> Forecast:
    """Reads a forecast; npz without pickles runs no code.

    Raises:
      ValueError: the file is missing, broken or not a forecast.
      ResultsError: the system does not let it be read.
    """
    try:
        fields: dict[str, Any] = {**read_arrays(path)}
        return Forecast(**fields | {"start_step": int(fields["start_step"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a whole forecast: {error}") from error
