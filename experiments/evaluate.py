"""Plays episodes with what a run has learned, and learns nothing from them.

    python experiments/evaluate.py DIR                           # as it was trained
    python experiments/evaluate.py DIR env.mass=1.2              # another system
    python experiments/evaluate.py DIR env.process_noise_std=0.1 --episodes 50
    python experiments/evaluate.py DIR agent.pes_alpha=3         # a warier planner
    python experiments/evaluate.py DIR --best                    # without a model

DIR is a folder that a launcher made, or a point of its grid. Every seed goes on from
its last checkpoint, or with --best from that of its best evaluation, by the
deterministic policy. What follows as `key=value` sets fields by their full names: a
learned model knows nothing of a changed system but its limits, reward and costs.
Prints a table (violations first) with an exact bound on how often an episode breaks its
budget, and writes `evaluation.json`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.runs import read_plain, with_settings
from safex.errors import SafexError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 after a one-line error, 130 if stopped."""
    arguments = _parse(argv)
    try:
        # JAX takes seconds to import; a mistake that can be seen here does not wait.
        with_settings(read_plain(arguments.run), arguments.set)
        _run(arguments)
    except SafexError as error:
        print(f"safex: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("safex: stopped; nothing was written", file=sys.stderr)
        return 130
    return 0


def _run(arguments: argparse.Namespace) -> None:
    # Imported late, or a refusal would wait for JAX, see above.
    from rich.console import Console  # noqa: PLC0415

    from experiments.evaluating import evaluate, table  # noqa: PLC0415
    from safex.training.files import write_text  # noqa: PLC0415

    summary = evaluate(
        arguments.run, arguments.set, arguments.episodes, best=arguments.best
    )
    out = arguments.out or arguments.run / "evaluation.json"
    write_text(out, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    Console().print(table(summary))
    print(f"written to {out}")


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
    parser.add_argument(
        "--best", action="store_true", help="the best checkpoint, feasible ones first"
    )
    parser.add_argument("--out", type=Path, help="default: DIR/evaluation.json")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.episodes < 1:
        parser.error(f"--episodes must be >= 1, got {arguments.episodes}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
