"""A first look at the command line, before anything heavy is imported."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError


def quote_choices(arguments: Sequence[str]) -> list[str]:
    """Writes `model=true` as `model='true'`: a file's name here, not a bool."""
    return [
        "model='true'" if argument == "model=true" else argument
        for argument in arguments
    ]


def check_overrides(
    config_dir: Path, config_name: str, arguments: Sequence[str]
) -> str | None:
    """Says what is wrong with `key=value` arguments, or None.

    Hydra would refuse them as well, but cannot say what was meant.

    Args:
      config_dir: folder of the configuration.
      config_name: the primary file.
      arguments: the command line; flags are left to Hydra.
    """
    # Flags, and the values that follow some of them, are Hydra's own.
    overrides = [a for a in arguments if "=" in a and not a.startswith("-")]
    overrides = quote_choices(overrides)
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        return f"cannot read the command line: {str(error).splitlines()[0]}"
    groups = {path.name for path in config_dir.iterdir() if path.is_dir()}
    chosen = []
    for override in parsed:
        key, value = override.key_or_group, override.value()
        if key in groups and not isinstance(value, Mapping):
            if override.is_sweep_override():
                return None
            choice = value.text if isinstance(value, QuotedString) else str(value)
            known = sorted(path.stem for path in (config_dir / key).glob("*.yaml"))
            if choice not in known:
                return f"{key} must be one of {', '.join(known)}, got {choice}"
            chosen.append(override.input_line or f"{key}={choice}")
    try:
        with initialize_config_dir(str(config_dir), version_base="1.3"):
            config = compose(config_name, overrides=chosen)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        return f"cannot read the YAML in {config_dir}: {' '.join(str(error).split())}"
    known_keys = list(_full_names(OmegaConf.to_container(config, resolve=False)))
    for override in parsed:
        key = override.key_or_group
        if key in groups or key.startswith("hydra.") or key in known_keys:
            continue
        if any(name.startswith(f"{key}.") for name in known_keys):
            continue
        close = difflib.get_close_matches(key, known_keys, n=3, cutoff=0.6)
        last = key.rsplit(".", 1)[-1]
        close = close or [k for k in known_keys if k.rsplit(".", 1)[-1] == last][:3]
        hint = f"did you mean {' or '.join(close)}?" if close else "see --cfg job"
        return f"unknown key {key}: {hint}"
    return None


def _full_names(node: Any, path: str = "") -> Iterator[str]:
    """Full names of all sections and leaves below a node."""
    if not isinstance(node, Mapping):
        return
    for key, value in node.items():
        name = f"{path}.{key}" if path else str(key)
        yield name
        yield from _full_names(value, name)
