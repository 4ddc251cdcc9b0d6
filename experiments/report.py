"""Writes one self-contained page about a run, or about several side by side.

    python experiments/report.py DIR                    # DIR/report.html
    python experiments/report.py DIR DIR --out all.html # a comparison

DIR is a finished run, a job with a grid (all its points are compared), or the parent of
runs, of which the latest is taken. The page holds tables, figures and videos itself,
violations first, and what was set differently; a launcher writes one at its end.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safex.errors import SafexError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 after a one-line error."""
    arguments = _parse(argv)
    out = arguments.out
    if out is None:
        one = len(arguments.folders) == 1
        out = arguments.folders[0] / "report.html" if one else Path("report.html")
    try:
        from safex.training.results import read_all  # noqa: PLC0415, after --help

        results = read_all(arguments.folders, arguments.labels)
        # Takes seconds to import; a wrong folder does not wait for it.
        from safex.training.page import write_page  # noqa: PLC0415

        write_page(out, results, video_bytes=int(1e6 * arguments.video_mb))
    except (SafexError, OSError) as error:
        print(f"safex: {error}", file=sys.stderr)
        return 2
    print(f"written to {out}")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help="one name per DIR")
    parser.add_argument(
        "--out", type=Path, help="default: DIR/report.html, of several ./report.html"
    )
    parser.add_argument(
        "--video-mb",
        type=float,
        default=16.0,
        metavar="MB",
        help="of videos in the page, the others are links (default: 16)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
