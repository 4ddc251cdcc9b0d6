"""What the commands that come after a run read of its folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.configuration import ExperimentConfig, read_mapping
from experiments.grid import set_field
from safex.errors import ConfigError


def read_plain(folder: Path) -> dict[str, Any]:
    """The configuration that a run left, as nested mappings.

    Raises:
      ConfigError: it is no folder of a run.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{folder} is no folder of a run: it has no {path.name}")
    return yaml.safe_load(path.read_text())


def with_settings(plain: dict[str, Any], settings: Sequence[str]) -> ExperimentConfig:
    """A configuration with fields set by `key=value`, changed in place.

    Raises:
      ConfigError: names the field, and what would be right.
    """
    for assignment in settings:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"expected key=value, got {assignment}")
        set_field(plain, key, yaml.safe_load(value))
    return read_mapping(plain)
