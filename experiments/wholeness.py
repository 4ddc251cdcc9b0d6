"""Which seeds of a job are whole: every file that its report needs can be read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.configuration import ExperimentConfig
from safex.training.account import load_record
from safex.training.files import whole_lines
from safex.training.forecast import load_forecast


def missing(folder: Path, config: ExperimentConfig) -> Iterator[tuple[Path, int]]:
    """Seeds of one point that are not whole, and their first episode that is not."""
    episodes = config.train.num_model_updates + 1
    for index in range(config.job.num_seeds_per_hparam):
        seed = folder / f"seed_{index}"
        first = _first_broken(seed, episodes)
        if first < episodes:
            yield seed, first


def _first_broken(seed: Path, episodes: int) -> int:
    """The first episode of which a file cannot be read, `episodes` if none."""
    for episode in range(episodes):
        try:
            load_record(seed / "episodes" / f"episode_{episode:03d}.npz")
        except ValueError:
            return episode
    whole = min(
        len(_whole_rows(seed / name)) for name in ("metrics.jsonl", "timing.jsonl")
    )
    whole = min(whole, _first_lost_violation(seed / "violations.jsonl", episodes))
    try:
        load_forecast(seed / "forecast.npz")
    except ValueError:
        whole = min(whole, episodes - 1)
    return min(whole, episodes)


def _whole_rows(path: Path) -> list[Any]:
    """Rows from the start on that can be read, one an episode."""
    try:
        return whole_lines(path)
    except OSError:
        return []


def _first_lost_violation(path: Path, episodes: int) -> int:
    """The first episode whose violations cannot all be read, `episodes` if none."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return 0
    found = whole_lines(path)
    if len(found) == len(text.splitlines()):
        return episodes
    return found[-1]["episode"] if found else 0
