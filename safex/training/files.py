"""Files that are whole or absent, whenever the process is killed."""

import contextlib
import errno
import hashlib
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from safex.errors import ResultsError

SEAL = "sha256"
# What numpy and zipfile raise on a damaged file; the RuntimeError is of a flag that
# says it is encrypted, or compressed in a way that nobody knows.
_BROKEN = (
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


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Tells a file that is not there from one that cannot be read now.

    The latter (no permission, a disk that fails, too many open files) may be whole, and
    nothing may be made anew in its place.

    Raises:
      FileNotFoundError: it is not there.
      ResultsError: any other error of the system; names the file.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise ResultsError(f"{path} cannot be read: {reason}") from error


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads an npz file whole; without pickles it runs no code.

    Raises:
      ValueError: it is missing or broken.
      ResultsError: the system does not let it be read.
    """
    try:
        # Apart from the rest: what numpy says of a broken file may look like an error
        # of the system.
        with reading(path):
            content = path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError("it is missing") from error
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, *_BROKEN) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the SHA-256 of its JSON as the last entry, for `read_sealed`."""
    plain = {name: value for name, value in content.items() if name != SEAL}
    text = json.dumps(plain, sort_keys=True)
    return plain | {SEAL: hashlib.sha256(text.encode()).hexdigest()}


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
    if not _unbroken(content):
        raise ValueError(f"{path} is damaged: it is not what was written")
    return content


def _unbroken(content: dict[str, Any]) -> bool:
    """Whether it has the seal that it must have, or none."""
    return SEAL not in content or content == sealed(content)


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

    Lines may be `sealed`. One without a seal is of an earlier version, and cannot stand
    behind one with it.

    Args:
      path: the file.
      number: a key that must be there, with a number.

    Raises:
      FileNotFoundError: it is missing.
      ResultsError: the system does not let it be read.
    """
    values: list[dict[str, Any]] = []
    for line in split_lines(path):
        value = whole_line(line, number)
        if value is None or (values and SEAL in values[-1] and SEAL not in value):
            break
        values.append(value)
    return values


def split_lines(path: Path) -> list[str]:
    """The lines of a text file, raising as `whole_lines`."""
    with reading(path):
        text = path.read_text(errors="replace")
    # Not `splitlines`, to which a wrong bit can make another character end a line.
    return text.removesuffix("\n").split("\n") if text else []


def whole_line(line: str, number: str | None = None) -> dict[str, Any] | None:
    """The object in a line of JSON, None if it is damaged; `number` as above."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not _unbroken(value):
        return None
    if number and not isinstance(value.get(number), int | float):
        return None
    return value
