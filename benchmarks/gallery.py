"""The small figures of docs/gallery.md, from runs that are there.

python benchmarks/gallery.py results/study            # or `make gallery`
python benchmarks/gallery.py FOLDER --out docs/figures/gallery

FOLDER holds `<task>/<method>/`, as `python benchmarks/study.py run` leaves them, each
with the `plots/` that every run makes. They are made smaller, and the methods of each
task are set beside each other by `experiments/compare.py`. Figures of what is not there
are left alone, and named.
"""

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from PIL import Image  # noqa: E402 - after the path

from experiments.compare import main as compare  # noqa: E402

WIDTH, COLOURS = 1000, 64
PORTRAIT = "phase_portrait"


class Figure(NamedTuple):
    """A figure of the gallery.

    Attributes:
      task: of which task.
      method: of which run; empty for all of them side by side.
      plot: name in the run's `plots/`.
    """

    task: str
    method: str = ""
    plot: str = ""

    @property
    def name(self) -> str:
        """Its file."""
        parts = (self.task, self.method or "methods", self.plot)
        return "_".join(part for part in parts if part) + ".png"


FIGURES = (
    *(Figure("pendulum", method, PORTRAIT) for method in ("minmax", "unsafe")),
    *(
        Figure("pendulum", "minmax", plot)
        for plot in ("learning", "prediction", "forecast", "calibration")
    ),
    *(Figure(task, "minmax", PORTRAIT) for task in ("car_park", "pitch_control")),
    *(
        Figure(task, "safe_mean", PORTRAIT)
        for task in ("cartpole_budget", "rc_car", "point_goal")
    ),
    *(Figure(task) for task in ("pendulum", "car_park", "pitch_control")),
)


def shrink(source: Path, target: Path) -> None:
    """Writes an image no wider than `WIDTH`, with few colours.

    Args:
      source: an image.
      target: PNG to write.
    """
    with Image.open(source) as image:
        picture = image.convert("RGB")
        if picture.width > WIDTH:
            height = round(picture.height * WIDTH / picture.width)
            picture = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.quantize(COLOURS).save(target, optimize=True)


def side_by_side(folder: Path, target: Path) -> bool:
    """The figure of `compare.py` over the runs of a task, False for less than two."""
    runs = sorted(path.parent for path in folder.glob("*/summary.json"))
    if len(runs) < 2:
        return False
    with tempfile.TemporaryDirectory() as scratch:
        labels = ["--labels", *(run.name for run in runs)]
        with contextlib.redirect_stdout(io.StringIO()):
            status = compare([*map(str, runs), *labels, "--out", scratch])
        if status:
            return False
        shrink(Path(scratch) / "comparison.png", target)
    return True


def draw(figure: Figure, results: Path, out: Path) -> bool:
    """Makes one figure; False if its runs are not there."""
    target = out / figure.name
    if not figure.method:
        return side_by_side(results / figure.task, target)
    folder = results / figure.task / figure.method / "plots"
    source = folder / f"{figure.plot}.png"
    if not source.exists():
        return False
    shrink(source, target)
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Makes all figures that can be made; 1 if none can."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, nargs="?", default=Path("results/study"))
    default = ROOT / "docs" / "figures" / "gallery"
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args(argv)
    made = [draw(figure, arguments.results, arguments.out) for figure in FIGURES]
    if not any(made):
        print(
            f"safex: no run in {arguments.results}, expected <task>/<method>/plots; "
            "run `python benchmarks/study.py run` first",
            file=sys.stderr,
        )
        return 1
    for figure, found in zip(FIGURES, made, strict=True):
        print(f"{figure.name}: {'made' if found else 'no such run, left as it was'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
