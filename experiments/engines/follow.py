"""Watches units until the last has ended: what they print, and how they end."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from experiments.engines.engine import Running

_SECONDS = 0.5
# submitit's own words, which it prints among those of the unit.
_NOISE = ("submitit ",)


def follow(
    running: Running,
    names: Sequence[str],
    say: Callable[[str], None],
    sizes: Mapping[Path, int] = MappingProxyType({}),
) -> Mapping[int, str]:
    """Repeats what units print, one line at a time; returns how each ended.

    Args:
      running: the units.
      names: of the units, to tell their lines apart.
      say: takes a line.
      sizes: bytes that logs had before; they are not repeated.
    """
    read = {
        unit: sizes.get(running.log(unit).resolve(), 0) for unit in range(len(names))
    }
    over: set[int] = set()
    while True:
        # Asked first, so that what is read then is all of those that have ended.
        ended = running.ended()
        for unit, name in enumerate(names):
            lines, read[unit] = _new_lines(running.log(unit), read[unit])
            for line in lines:
                if not line.startswith(_NOISE):
                    say(f"{name}: {line}")
        for unit in sorted(set(ended) - over):
            say(f"{names[unit]}: {ended[unit] or 'ended'}")
            over.add(unit)
        if len(over) == len(names):
            return ended
        time.sleep(_SECONDS)


def sizes_of(logs: Iterable[Path]) -> dict[Path, int]:
    """Bytes of the logs that are there, for `follow`."""
    return {log.resolve(): log.stat().st_size for log in logs if log.is_file()}


def _new_lines(path: Path, start: int) -> tuple[list[str], int]:
    """Whole lines of a file from a byte on, and the byte after them."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            content = file.read()
    except OSError:
        return [], start
    whole = content[: content.rfind(b"\n") + 1]
    return whole.decode(errors="replace").splitlines(), start + len(whole)
