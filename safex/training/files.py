"""Files that are whole or absent, whenever the process is killed."""

import contextlib
import errno
import hashlib
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_SEAL = "sha256"
# What numpy and zipfile raise on a damaged file; the RuntimeError is of a flag that
# says it is encrypted, or compressed in a way that nobody knows.
_BROKEN = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Writes beside the target, flushes to disk, renames, and flushes the folder.

    The last is for a machine that loses power: it makes the renaming durable.

    Args:
      path: the target; its folder is made.
      write: writes the whole content to the path it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems of a network do not know it for folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names the file in an error of the system that does not, a full disk's."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


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
    except _BROKEN as error:
        raise ValueError(str(error) or type(error).__name__) from error


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the SHA-256 of its JSON as the last entry, for `read_sealed`."""
    plain = {name: value for name, value in content.items() if name != _SEAL}
    text = json.dumps(plain, sort_keys=True)
    return plain | {_SEAL: hashlib.sha256(text.encode()).hexdigest()}


def read_sealed(path: Path) -> dict[str, Any]:
    """Reads a JSON object; one without a seal, of an earlier version, is believed.

    Raises:
      ValueError: it is missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged: it is no JSON") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object")
    if _SEAL in content and content != sealed(content):
        raise ValueError(f"{path} is damaged: it is not what was written")
    return content


def read_mapping(path: Path) -> dict[str, Any]:
    """What there is of a YAML file of keys; empty where it cannot be read."""
    import yaml  # noqa: PLC0415

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def whole_lines(path: Path, number: str | None = None) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, up to the first line that is damaged.

    Args:
      path: the file.
      number: a key that must be there, with a number.
    """
    values: list[dict[str, Any]] = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            break
        if not isinstance(value, dict):
            break
        if number and not isinstance(value.get(number), int | float):
            break
        values.append(value)
    return values
