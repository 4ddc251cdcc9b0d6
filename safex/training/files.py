"""Files that are whole or absent, whenever the process is killed."""

import json
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Writes beside the target, flushes to disk, then renames.

    Args:
      path: the target; its folder is made.
      write: writes the whole content to the path it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads an npz file whole; without pickles it runs no code.

    Raises:
      ValueError: it is missing or broken.
    """
    try:
        # Opened here: on a broken file numpy leaves its own handle open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(str(error)) from error


def whole_lines(path: Path) -> list[Any]:
    """The values of a file of JSON lines, up to the first line that is damaged."""
    values = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return values
