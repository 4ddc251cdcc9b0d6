"""What the commands that come after a run read of its folder, and how they end."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from experiments.configuration import Experiment, read_mapping, set_field
from safex.errors import ConfigError, SafexError


def exit_code(run: Callable[[], None]) -> int:
    """Runs a command: 0, or 2 after a one-line error, 130 if it was stopped."""
    try:
        run()
    except SafexError as error:
        print(f"safex: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"safex: {error.strerror or error}{where}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("safex: stopped; nothing was written", file=sys.stderr)
        return 130
    return 0


def read_plain(folder: Path) -> dict[str, Any]:
    """The configuration that a run left, as nested mappings.

    Raises:
      ConfigError: it is no folder of a run, or the file is damaged.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{folder} is no folder of a run: it has no {path.name}")
    try:
        plain = _parse(path.read_text(errors="replace"))
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is damaged: it is no YAML") from error
    if not isinstance(plain, dict) or not plain:
        raise ConfigError(f"{path} is damaged: it holds no configuration")
    return plain


def with_settings(plain: dict[str, Any], settings: Sequence[str]) -> Experiment:
    """A configuration with fields set by `key=value`, changed in place.

    Raises:
      ConfigError: names the field, and what would be right.
    """
    for assignment in settings:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"expected key=value, got {assignment}")
        try:
            # Numbers as launchers read them; YAML alone takes 1e-3 for a word.
            parsed = _parse(f"value: {value}")["value"]
        except (YAMLError, OmegaConfBaseException) as error:
            raise ConfigError(f"{key} cannot be read: {value}") from error
        set_field(plain, key, parsed)
    return read_mapping(plain)


def _parse(text: str) -> Any:
    return OmegaConf.to_container(OmegaConf.create(text), resolve=True)
