"""Groups of runs, each one call of a launcher, and tables of them."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run_group(label: str, launcher: str, options: Sequence[str], folder: Path) -> str:
    """Runs a launcher in a process of its own; returns a line about it.

    Args:
      label: what the line calls it.
      launcher: of which task.
      options: of its command line.
      folder: where it goes; what it prints goes beside it. The launcher goes on with
        what is there of this very run, and refuses what is there of another.
    """
    command = [
        sys.executable,
        str(ROOT / "experiments" / f"launcher_{launcher}.py"),
        "wandb.mode=disabled",
        "render=false",
        f"results_dir={folder}",
        *options,  # last, so that they may say otherwise
    ]
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    with log.open("a") as file:
        code = subprocess.run(
            command, stdout=file, stderr=file, check=False, cwd=ROOT
        ).returncode
    return f"{label}: " + ("done" if code == 0 else f"see {log}")


def print_markdown(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Prints a table under a heading."""
    print(f"\n### {title}\n")
    for line in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(line) + " |")
