"""Checkpoints: one pytree of arrays a file, checked on the way back.

A file is a JSON header line (format, episode, fingerprint of the configuration, SHA-256
of the payload) and flax's msgpack bytes of the pytree. Reading it runs no code. The
newest good file wins; a damaged or foreign one is named and passed over.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization

from safex.errors import CheckpointError, NonFiniteError, SafexError
from safex.training.files import reading, write_atomically
from safex.types import PyTree

_FORMAT = "safex-checkpoint-2"
_MOST_HEADER = 4096


def save_checkpoint(
    folder: Path,
    state: PyTree,
    episode: int,
    fingerprint: str,
    keep: int = 3,
    name: str = "episode",
) -> Path:
    """Writes the state after an episode and removes all but the newest few.

    Args:
      folder: one seed's checkpoint folder.
      state: pytree of arrays.
      episode: the last episode that the state has learned from; or whatever else is
        counted.
      fingerprint: of the configuration.
      keep: files to keep; one is not enough, it may be the damaged one.
      name: of what is counted, the beginning of the file's name.
    """
    path = folder / f"{name}_{episode:04d}.ckpt"
    write_state(path, state, episode, fingerprint)
    for old in _newest_first(folder)[keep:]:
        old.unlink(missing_ok=True)
    return path


def write_state(path: Path, state: PyTree, number: int, fingerprint: str) -> None:
    """Writes one checkpoint, whole or not at all; `number` says what it is of."""
    payload = serialization.to_bytes(jax.device_get(state))
    header = {
        "format": _FORMAT,
        "episode": number,
        "fingerprint": fingerprint,
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    content = json.dumps(header).encode() + b"\n" + payload
    write_atomically(path, lambda temporary: _write_bytes(temporary, content))


def load_checkpoint(
    folder: Path,
    template: PyTree,
    fingerprint: str,
    warn: Callable[[str], None],
    at_most: int | None = None,
    field: str | None = None,
) -> tuple[PyTree, int] | None:
    """The newest good checkpoint and its episode, or None if there never was one.

    Args:
      folder: one seed's checkpoint folder.
      template: a pytree of the same structure, shapes and dtypes.
      fingerprint: of the configuration.
      warn: told of each file that is passed over, and why.
      at_most: the last episode that may be returned; None is any.
      field: as in `read_state`.

    Raises:
      CheckpointError: there are checkpoints, but none can be used.
      ResultsError: the system does not let one be read, which may be the newest good.
    """
    paths = _newest_first(folder, at_most)
    for path in paths:
        try:
            state, episode = read_state(path, template, fingerprint, field)
            # The name stands for the header, which the digest does not cover.
            if episode != _episode(path):
                raise CheckpointError(f"{path} is truncated or damaged")
            return state, episode
        except CheckpointError as error:
            warn(f"{error}; trying the checkpoint before it")
    if paths:
        raise _none_of(paths, folder)
    return None


def newest_checkpoint(folder: Path, at_most: int | None = None) -> int:
    """The episode of the newest file, none later than `at_most`; -1 without one."""
    return max(map(_episode, _newest_first(folder, at_most)), default=-1)


def newest_whole_checkpoint(folder: Path, at_most: int | None = None) -> int:
    """As `newest_checkpoint`, of the files whose header and digest are right.

    Raises:
      CheckpointError: there are checkpoints, but none is whole.
      ResultsError: the system does not let one be read.
    """
    paths = _newest_first(folder, at_most)
    for path in paths:
        with contextlib.suppress(CheckpointError):
            header, _ = _read_whole(path)
            if header["episode"] == _episode(path):
                return _episode(path)
    if paths:
        raise _none_of(paths, folder)
    return -1


def fingerprint_of(path: Path) -> str:
    """The configuration's fingerprint in a checkpoint, empty if there is none."""
    try:
        with reading(path), path.open("rb") as file:
            return str(json.loads(file.readline(_MOST_HEADER))["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def with_what_is_kept(error: SafexError, folder: Path) -> SafexError:
    """Lets the error of a seed that is not finite say what the seed has left.

    Args:
      error: that stopped the seed; others are returned as they are.
      folder: the seed's checkpoint folder.
    """
    if isinstance(error, NonFiniteError):
        there = newest_checkpoint(folder) >= 0
        kept = (
            ", the last good checkpoint is kept"
            if there
            else " before there was a checkpoint"
        )
        error.args = (f"{error}; stopped{kept}",)
    return error


def forget_checkpoints(folder: Path, last: int) -> None:
    """Removes every checkpoint of an episode after `last`."""
    for path in _newest_first(folder):
        if _episode(path) > last:
            path.unlink()


def read_state(
    path: Path, template: PyTree, fingerprint: str, field: str | None = None
) -> tuple[PyTree, int]:
    """The state of one checkpoint, and its number.

    Args:
      path: the file.
      template: a pytree of the same structure, shapes and dtypes.
      fingerprint: of the configuration.
      field: of the state, which alone is returned and `template` is of; None is all.

    Raises:
      CheckpointError: it is missing or cannot be used; says why.
      ResultsError: the system does not let it be read.
    """
    header, payload = _read_whole(path, fingerprint)
    try:
        found = serialization.msgpack_restore(payload)
        state = serialization.from_state_dict(
            template, found[field] if field else found
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} does not fit this version: {error}") from error
    for expected, got in zip(
        jax.tree.leaves(template), jax.tree.leaves(state), strict=True
    ):
        if np.shape(expected) != np.shape(got):
            raise CheckpointError(
                f"{path} does not fit this configuration: an array of shape "
                f"{np.shape(got)} stands where {np.shape(expected)} is expected"
            )
    return jax.tree.map(jax.numpy.asarray, state), header["episode"]


def _read_whole(
    path: Path, fingerprint: str | None = None
) -> tuple[dict[str, Any], bytes]:
    """Header and payload of one checkpoint, of any configuration if None is given."""
    try:
        with reading(path):
            line, _, payload = path.read_bytes().partition(b"\n")
        header: dict[str, Any] = json.loads(line)
        digest, header["episode"] = header["sha256"], int(header["episode"])
        if header["format"] != _FORMAT:
            raise CheckpointError(f"{path} has the unknown format {header['format']!r}")
        if fingerprint is not None and header["fingerprint"] != fingerprint:
            raise CheckpointError(f"{path} belongs to another configuration")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a safex checkpoint") from error
    if hashlib.sha256(payload).hexdigest() != digest:
        raise CheckpointError(f"{path} is truncated or damaged")
    return header, payload


def _none_of(paths: Sequence[Path], folder: Path) -> CheckpointError:
    return CheckpointError(
        f"none of the {len(paths)} checkpoints in {folder} can be used; "
        "remove the folder to start this seed afresh"
    )


def _newest_first(folder: Path, at_most: int | None = None) -> list[Path]:
    """Checkpoints of a folder, none later than `at_most`."""
    found: list[Path] = []
    # Not `glob`, for which a folder that cannot be read is empty.
    with contextlib.suppress(FileNotFoundError), reading(folder):
        found = [path for path in folder.iterdir() if path.match("*_*.ckpt")]
    if at_most is not None:
        found = [path for path in found if _episode(path) <= at_most]
    return sorted(found, key=_episode, reverse=True)


def _episode(path: Path) -> int:
    """The episode in a file's name, -1 if there is none."""
    number = path.stem.rpartition("_")[2]
    return int(number) if number.isdecimal() else -1


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)
