"""Makes a run's figures anew from its files, and learning curves of several in one.

    python experiments/plot.py DIR                          # all figures of a run
    python experiments/plot.py DIR DIR ... --format pdf     # and the runs side by side
    python experiments/plot.py DIR DIR --only-curves --width 3.25

DIR is a finished run, a job with a grid (every point of it), or the parent of runs, of
which the latest is taken. `curves` and `pareto` have the width of a paper's text (6.75
inches) or column (3.25), a run's own figures each its own. All have letters of 8 to 9
points that stay letters, colours that the colour-blind tell apart, and lines and
markers that differ without colour.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safex.errors import ResultsError, SafexError

if TYPE_CHECKING:
    from safex.training.results import Results


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 after a one-line error."""
    arguments = _parse(argv)
    try:
        made = plot(
            arguments.folders,
            arguments.labels,
            arguments.out,
            arguments.format,
            arguments.width,
            own=not arguments.only_curves,
        )
    except (SafexError, OSError) as error:
        print(f"safex: {error}", file=sys.stderr)
        return 2
    for path in made:
        print(path)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="plot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--format", choices=("pdf", "svg", "png"), default="pdf")
    parser.add_argument(
        "--out", type=Path, default=Path("figures"), help="default: ./figures"
    )
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help="one name per DIR")
    parser.add_argument(
        "--width",
        type=float,
        default=6.75,
        help="inches of curves and pareto (at most 3.25), not of the runs' own figures "
        "(default: 6.75)",
    )
    parser.add_argument(
        "--only-curves", action="store_true", help="not the runs' own figures"
    )
    arguments = parser.parse_args(argv)
    if not 2.0 <= arguments.width <= 20.0:
        parser.error(f"--width must lie in [2, 20] inches, got {arguments.width:g}")
    return arguments


def plot(
    folders: Sequence[Path],
    labels: Sequence[str] | None,
    out: Path,
    ending: str,
    width: float,
    *,
    own: bool,
) -> list[Path]:
    """Draws everything; returns the files.

    Raises:
      SafexError: a folder holds no finished run, files are damaged or of different
        tasks.
    """
    from safex.training import plots  # noqa: PLC0415, after --help
    from safex.training.results import (  # noqa: PLC0415
        GAIN,
        common_limits,
        paretos,
        read_all,
    )

    results = read_all(folders, labels)
    limits = common_limits(results)
    curves = {result.label: result.curves for result in results}
    made = [out / f"curves.{ending}"]
    plots.plot_curves(made[0], curves, limits, width=width)
    if len(results) > 1:
        groups = {result.label: [result.summary] for result in results}
        for name, price, budget, trades in paretos(groups):
            made.append(out / f"{name}.{ending}")
            plots.plot_pareto(
                made[-1],
                trades,
                price=price,
                gain=GAIN,
                budget=budget,
                width=min(width, 3.25),
            )
    if own:
        for result in results:
            below = out / _file_name(result.label) if len(results) > 1 else out
            made += _own_figures(result, below, ending)
    return made


def _own_figures(result: "Results", out: Path, ending: str) -> list[Path]:
    """The figures that a run ends with; they need its system, and so JAX."""
    from experiments.building import build_agent, build_env  # noqa: PLC0415
    from experiments.configuration import (  # noqa: PLC0415
        ModelFreeConfig,
        read_mapping,
    )
    from experiments.running import model_free_info, run_info  # noqa: PLC0415
    from experiments.runs import read_plain  # noqa: PLC0415
    from experiments.runtime import set_up_jax  # noqa: PLC0415
    from safex.training import model_free_report  # noqa: PLC0415
    from safex.training.plots.style import PAGE, at_most  # noqa: PLC0415
    from safex.training.report import write_figures  # noqa: PLC0415

    config = read_mapping(read_plain(result.folder))
    set_up_jax()
    env = build_env(config)
    seeds = [seed["seed"] for seed in result.summary["seeds"]]
    try:
        with at_most(PAGE):
            if isinstance(config, ModelFreeConfig):
                told = model_free_info(config, env, result.folder)
                return model_free_report.write_figures(
                    result.folder, told, seeds, env, out=out, ending=ending
                )
            agent = build_agent(config, env, check=False)
            info = run_info(config, agent, env, result.folder)
            return write_figures(
                result.folder, info, seeds, env, result.summary, out=out, ending=ending
            )
    except (OSError, ValueError, KeyError) as error:
        raise ResultsError(
            f"{result.folder} lacks what its figures show: {error}; "
            f"python experiments/resume.py {result.folder} repeats what is damaged"
        ) from error


def _file_name(label: str) -> str:
    return "".join(c if c.isalnum() or c in "-+=.,_" else "_" for c in label)


if __name__ == "__main__":
    sys.exit(main())
