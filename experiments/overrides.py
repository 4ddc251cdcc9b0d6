"""A first look at the command line, before anything heavy is imported."""

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from experiments.configuration import (
    ExperimentConfig,
    ModelFreeConfig,
    kind_of_agent,
)
from experiments.registry import AGENTS, KINDS, PLANNING, settings_class
from safex.errors import ConfigError

# Sections whose fields follow from their kind.
_SECTIONS = {**KINDS, "agent": AGENTS}


class CommandLine(NamedTuple):
    """A command line that Hydra takes.

    Attributes:
      arguments: for Hydra.
      notes: what a user should know of how it was read.
    """

    arguments: list[str]
    notes: list[str]


def quote_choices(arguments: Sequence[str]) -> list[str]:
    """Writes `model=true` as `model='true'`: a file's name here, not a bool."""
    return [
        "model='true'" if argument == "model=true" else argument
        for argument in arguments
    ]


def _write_out(arguments: Sequence[str]) -> list[str]:
    """Writes `cost_budget=25` as what it stands for, `agent.cost_budget=25`.

    Raises:
      ConfigError: both are given.
    """
    short = re.compile(r"^(\+{0,2})cost_budget=")
    if any(map(short.match, arguments)) and any(
        re.match(r"^\+{0,2}agent\.cost_budget=", a) for a in arguments
    ):
        raise ConfigError(
            "cost_budget stands for agent.cost_budget: only one of them can be set"
        )
    return [short.sub(r"\1agent.cost_budget=", a) for a in arguments]


def read_command_line(
    config_dir: Path, config_name: str, arguments: Sequence[str]
) -> CommandLine:
    """Makes `key=value` arguments ones that Hydra takes.

    Every field of the dataclass that goes with a section's kind can be set, whether it
    stands in a YAML file or not. What a YAML file sets of a kind that the command line
    replaces is dropped where the new kind has no such field.

    Args:
      config_dir: folder of the configuration.
      config_name: the primary file.
      arguments: the command line; flags are left to Hydra.

    Raises:
      ConfigError: says what is wrong. Hydra would refuse it as well, but cannot say
        what was meant.
    """
    # Flags, and the values that follow some of them, are Hydra's own.
    written = _write_out(quote_choices(arguments))
    places = [i for i, a in enumerate(written) if "=" in a and not a.startswith("-")]
    try:
        parsed = OverridesParser.create().parse_overrides([written[i] for i in places])
    except HydraException as error:
        raise ConfigError(
            f"cannot read the command line: {str(error).splitlines()[0]}"
        ) from error
    groups = {path.name for path in config_dir.iterdir() if path.is_dir()}
    chosen = [override for override in parsed if _is_choice(override, groups)]
    kind_keys = [f"{section}.kind" for section in _SECTIONS]
    kinds = [override for override in parsed if override.key_or_group in kind_keys]
    if any(override.is_sweep_override() for override in [*chosen, *kinds]):
        # Each job of a sweep has fields of its own.
        return CommandLine(written, [])
    for override in chosen:
        _check_choice(config_dir, override)
    plain = _compose(config_dir, config_name, chosen)
    was, kind = _kinds(plain, parsed)
    known = list(_fields(kind))
    in_yaml = set(_full_names(plain))
    rewritten: dict[int, list[str]] = {}
    for place, override in zip(places, parsed, strict=True):
        key = override.key_or_group
        if key in groups or key.startswith("hydra."):
            continue
        if key not in known:
            raise ConfigError(_unknown(key, known, kind))
        if override.is_add() or (key not in in_yaml and not override.is_delete()):
            rewritten[place] = [f"++{written[place].lstrip('+')}"]
    notes = []
    for place, override in zip(places, parsed, strict=True):
        if override not in kinds:
            continue
        section = override.key_or_group.split(".")[0]
        dropped = _left_over(section, plain, was[section], kind[section])
        if dropped:
            # A flag may not stand between two overrides: stay beside this one.
            rewritten.setdefault(place, [written[place]]).extend(
                f"~{section}.{name}" for name in dropped
            )
            notes.append(
                f"{section}.kind {kind[section]} has no {', '.join(dropped)}, which "
                f"the YAML files set for {was[section]}: dropped"
            )
    final = [b for i, a in enumerate(written) for b in rewritten.get(i, [a])]
    return CommandLine(final, notes)


def _kinds(
    plain: Mapping[str, Any], parsed: Sequence[Override]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The kind of each section by the YAML files, and by the command line as well.

    Raises:
      ConfigError: an agent that the other sections are not for.
    """
    was = {section: _kind_in(plain.get(section)) for section in KINDS}
    was["agent"] = kind_of_agent(plain)
    kind = dict(was)
    for override in parsed:
        key, value = override.key_or_group, override.value()
        section, _, name = key.partition(".")
        if section in _SECTIONS and name == "kind":
            kind[section] = value
        elif key in _SECTIONS and isinstance(value, Mapping):
            kind[key] = _kind_in(value) or kind[key]
    settings_class("agent", kind["agent"])
    if (was["agent"] == PLANNING) != (kind["agent"] == PLANNING):
        raise ConfigError(
            f"agent.kind cannot be {kind['agent']} with method={plain.get('method')}, "
            f"whose other sections are for {was['agent']}: choose a method with it"
        )
    return was, kind


def _is_choice(override: Override, groups: set[str]) -> bool:
    """Whether it names a file, as `model=gp` does."""
    is_section = isinstance(override.value(), Mapping)
    return override.key_or_group in groups and not is_section


def _check_choice(config_dir: Path, override: Override) -> None:
    group, value = override.key_or_group, override.value()
    choice = value.text if isinstance(value, QuotedString) else str(value)
    known = sorted(path.stem for path in (config_dir / group).glob("*.yaml"))
    if choice not in known:
        raise ConfigError(f"{group} must be one of {', '.join(known)}, got {choice}")


def _compose(
    config_dir: Path, config_name: str, chosen: Sequence[Override]
) -> dict[str, Any]:
    """The YAML files that were chosen, joined."""
    overrides = [override.input_line or "" for override in chosen]
    try:
        with initialize_config_dir(str(config_dir), version_base="1.3"):
            config = compose(config_name, overrides=overrides)
        plain = OmegaConf.to_container(config, resolve=False)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(
            f"cannot read the YAML in {config_dir}: {' '.join(str(error).split())}"
        ) from error
    return typing.cast(dict[str, Any], plain)


def _kind_in(section: Any) -> Any:
    return section.get("kind") if isinstance(section, Mapping) else None


def _fields(kind: Mapping[str, Any]) -> Iterator[str]:
    """Full names of all that can be set, given the kind of each section."""
    for name, hint in typing.get_type_hints(_config_class(kind)).items():
        yield name
        if name in _SECTIONS:
            yield f"{name}.kind"
            if kind[name] is not None:
                yield from _fields_of(settings_class(name, kind[name]), name)
        else:
            yield from _fields_of(hint, name)


def _config_class(kind: Mapping[str, Any]) -> type:
    return ExperimentConfig if kind["agent"] == PLANNING else ModelFreeConfig


def _fields_of(cls: Any, path: str) -> Iterator[str]:
    """Full names of a dataclass' fields, nested ones too; none of anything else."""
    if not dataclasses.is_dataclass(cls):
        return
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name = f"{path}.{field.name}"
        yield name
        yield from _fields_of(hints[field.name], name)


def _full_names(node: Any, path: str = "") -> Iterator[str]:
    """Full names of all sections and leaves below a node."""
    if not isinstance(node, Mapping):
        return
    for key, value in node.items():
        name = f"{path}.{key}" if path else str(key)
        yield name
        yield from _full_names(value, name)


def _left_over(section: str, plain: Mapping[str, Any], was: Any, now: Any) -> list[str]:
    """What the YAML files set that one kind has as a field and another has not."""
    if was not in _SECTIONS[section]:
        return []
    had, has = (
        {field.name for field in dataclasses.fields(settings_class(section, kind))}
        for kind in (was, now)
    )
    return [name for name in plain.get(section) or () if name in had - has]


def _unknown(key: str, known: Sequence[str], kind: Mapping[str, Any]) -> str:
    """The message for a key that does not exist, with the likeliest ones that do."""
    section, _, name = key.partition(".")
    for cls in (ExperimentConfig, ModelFreeConfig):
        # A section of the other sort of agents, or a field of theirs in it.
        hints = typing.get_type_hints(cls)
        if section in hints and (
            section not in known or key in _fields_of(hints[section], section)
        ):
            what = key if section in known else section
            whose = "planners" if cls is ExperimentConfig else "model-free agents"
            return (
                f"unknown key {key}: agent.kind {kind['agent']} has no {what}, which "
                f"is for {whose}"
            )
    others = [
        other
        for other, cls in _SECTIONS.get(section, {}).items()
        if key in _fields_of(cls, section)
    ]
    if others:
        which = " or ".join(others)
        return f"unknown key {key} of {section}.kind {kind[section]}: {which} has it"
    close = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    last = name.rsplit(".", 1)[-1] or key
    close = close or [k for k in known if k.rsplit(".", 1)[-1] == last][:3]
    hint = f"did you mean {' or '.join(close)}?" if close else "see --cfg job"
    return f"unknown key {key}: {hint}"
