"""Plays episodes with what a run has learned, and learns nothing from them.

    python experiments/evaluate.py DIR                           # as it was trained
    python experiments/evaluate.py DIR env.mass=1.2              # another system
    python experiments/evaluate.py DIR env.process_noise_std=0.1 --episodes 50
    python experiments/evaluate.py DIR agent.pes_alpha=3         # a warier planner
    python experiments/evaluate.py DIR --checkpoint 8            # an earlier one
    python experiments/evaluate.py DIR --best                    # without a model

DIR is a folder that a launcher made, or a point of its grid. Every seed goes on from
its last checkpoint, or with --checkpoint from that of this number (the episode, without
a model the step), or with --best from that of its best evaluation; without a model by
the deterministic policy. What follows as `key=value` sets fields by their full names: a
learned model knows nothing of a changed system but its limits, reward and costs.
Prints a table (violations first) with an exact bound on how often an episode breaks its
budget, and writes `evaluation.json`; what was set and which checkpoint was chosen stand
in that file's name, as in `evaluation_env.mass=1.2_checkpoint_8.json`.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.runs import exit_code, read_plain, with_settings
from safex.errors import ResultsError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 after a one-line error, 130 if stopped."""
    arguments = _parse(argv)
    return exit_code(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    out = arguments.out or arguments.run / _file_name(arguments)
    with_settings(read_plain(arguments.run), arguments.set)
    # JAX takes seconds to import; a mistake that was seen above did not wait.
    from rich.console import Console  # noqa: PLC0415

    from experiments.evaluating import evaluate, table  # noqa: PLC0415
    from safex.training.files import write_text  # noqa: PLC0415

    summary = evaluate(
        arguments.run, arguments.set, arguments.episodes, _checkpoint(arguments)
    )
    # First, so that what was played is not lost with a file that cannot be written.
    Console().print(table(summary))
    try:
        write_text(out, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise ResultsError(
            f"{out} cannot be written: {error.strerror or error}; --out FILE names "
            "another place"
        ) from error
    print(f"written to {out}")


def _checkpoint(arguments: argparse.Namespace) -> Any:
    if arguments.checkpoint is not None:
        return arguments.checkpoint
    return "best" if arguments.best else "last"


def _file_name(arguments: argparse.Namespace) -> str:
    """Says what was set and chosen, so that no evaluation replaces another one's."""
    parts = ["evaluation", *arguments.set]
    if arguments.best:
        parts.append("best")
    if arguments.checkpoint is not None:
        parts.append(f"checkpoint_{arguments.checkpoint}")
    wanted = "_".join(parts)
    name = re.sub(r"[^\w.,=+-]", "-", wanted, flags=re.ASCII)[:100]
    if name != wanted:
        name += f"_{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"
    return f"{name}.json"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("set", nargs="*", metavar="key=value", help="fields to set")
    parser.add_argument("--episodes", type=int, default=10, help="of each seed")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--best", action="store_true", help="the best checkpoint, feasible ones first"
    )
    which.add_argument(
        "--checkpoint",
        type=int,
        metavar="N",
        help="that of this number, as in episode_000N.ckpt (default: the last)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="default: DIR/evaluation.json, with what is set and chosen in its name",
    )
    arguments = parser.parse_intermixed_args(argv)
    if arguments.episodes < 1:
        parser.error(f"--episodes must be >= 1, got {arguments.episodes}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
