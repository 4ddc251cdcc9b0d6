"""A job in units: the seeds that go in lockstep through one and the same program."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.configuration import Experiment, plain_of, read_mapping
from experiments.grid import Point, expand, same_program
from safex.errors import ResultsError
from safex.training.checkpoint import newest_checkpoint
from safex.training.files import write_text

# The study draws a job's seeds below this number.
_SEED_BOUND = 1_000_000


@dataclasses.dataclass(frozen=True)
class Unit:
    """What one process trains, at once.

    Attributes:
      program: which of the job's programs; units of one share what is compiled.
      runs: of each its point and its seed, by number.
    """

    program: int
    runs: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Job:
    """A configuration with the points of its grid and its seeds.

    Attributes:
      config: of the job.
      points: every combination of the grid's values; one without a grid.
      seeds: of every point.
    """

    config: Experiment
    points: tuple[Point, ...]
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, config: Experiment) -> "Job":
        """The job that a configuration describes.

        Raises:
          ConfigError: of its grid.
        """
        seeds = draw_seeds(config.job.seed, config.job.num_seeds_per_hparam)
        return cls(config, tuple(expand(config)), tuple(seeds))

    @functools.cached_property
    def programs(self) -> list[list[Point]]:
        """The points that share a compiled program, for each of the programs."""
        return same_program(self.points)

    def units(self, size: int | None) -> list[Unit]:
        """All runs, at most `size` of one program in a unit; None is all of them."""
        units = []
        for program, points in enumerate(self.programs):
            runs = [
                (self.points.index(point), seed)
                for point in points
                for seed in range(len(self.seeds))
            ]
            step = size or len(runs)
            for first in range(0, len(runs), step):
                units.append(Unit(program, tuple(runs[first : first + step])))
        return units

    def folder_of(self, folder: Path, run: tuple[int, int]) -> Path:
        """Where the files of a run are, given the job's folder."""
        point, seed = run
        return folder / self.points[point].name / f"seed_{seed}"

    def label_of(self, run: tuple[int, int]) -> str:
        """What a run is called in the progress."""
        point, seed = run
        return f"{seed + 1}/{len(self.seeds)} {self.points[point].name}".rstrip()

    def left_of(self, folder: Path, units: Sequence[Unit]) -> list[Unit]:
        """The units with a run whose last checkpoint is not there yet."""

        def through(run: tuple[int, int]) -> bool:
            last = self.points[run[0]].config.train.last_checkpoint
            checkpoints = self.folder_of(folder, run) / "checkpoints"
            return newest_checkpoint(checkpoints) >= last

        return [unit for unit in units if not all(map(through, unit.runs))]


def draw_seeds(job_seed: int, count: int) -> list[int]:
    """The first `count` distinct seeds of a job; more seeds keep the earlier ones."""
    drawn = np.random.RandomState(job_seed).randint(0, _SEED_BOUND, size=4 * count + 16)
    return [int(seed) for seed in dict.fromkeys(drawn.tolist())][:count]


def write_launch(folder: Path, config: Experiment, units: Sequence[Unit]) -> None:
    """Writes down what processes of other engines are to do, for `read_launch`."""
    content = {
        "config": plain_of(config),
        "units": [{"program": unit.program, "runs": unit.runs} for unit in units],
    }
    write_text(folder / "launch.json", json.dumps(content, indent=1) + "\n")


def read_launch(folder: Path) -> tuple[Job, list[Unit]]:
    """The newest launch of a folder: its job, and its units.

    Raises:
      ResultsError: nothing was launched there.
      ConfigError: by another version of safex.
    """
    try:
        content: dict[str, Any] = json.loads((folder / "launch.json").read_text())
        units = [
            Unit(unit["program"], tuple((point, seed) for point, seed in unit["runs"]))
            for unit in content["units"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{folder} has no readable launch.json") from error
    # Wherever the folder is seen from here.
    config = read_mapping({**content["config"], "results_dir": str(folder)})
    return Job.of(config), units
