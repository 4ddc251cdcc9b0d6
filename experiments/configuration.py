"""From YAML to frozen dataclasses, once, at the top of a launcher.

Unknown keys, wrong types and impossible combinations are refused here, by the key's
full name and with what would be right.
"""

import dataclasses
import difflib
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.registry import GAMES, KINDS, PLANNING, Choice, settings_class
from safex.config import (
    NO_NUMBERS,
    SHARES,
    CalibrationConfig,
    MPCConfig,
    NoSettings,
    OffPolicyTrainConfig,
    TrainConfig,
    require_at_least,
)
from safex.config.suites import SuiteConfig
from safex.errors import ConfigError

WANDB_MODES = ("offline", "online", "disabled")


@dataclasses.dataclass(frozen=True)
class WandbConfig:
    """Tracking beside the local files.

    Attributes:
      mode: `offline`, `online` or `disabled`.
      project_name: wandb project.
      group_name: wandb group; runs of one group and job_name differ only by seed.
      job_name: wandb job_type.
    """

    mode: str = "offline"
    project_name: str = "safex-pendulum"
    group_name: str = "pendulum"
    job_name: str = "minmax_bnn"

    def __post_init__(self) -> None:
        """Refuses an unknown mode."""
        if self.mode not in WANDB_MODES:
            raise ValueError(f"mode must be one of {WANDB_MODES}, got {self.mode!r}")


@dataclasses.dataclass(frozen=True)
class JobConfig:
    """How many seeds, drawn from which, and what their processes need.

    The last four are of one unit: the seeds that go in lockstep in a process of their
    own. The launcher `local` has one process and takes what that may use.

    Attributes:
      seed: the job seed that the seeds are drawn from.
      num_seeds_per_hparam: seeds of this configuration.
      seeds_per_process: seeds that go in lockstep; None is one a core, or all of them
        on an accelerator.
      cores_per_decision: cores that share out the candidates of a decision; more than
        one needs `seeds_per_process: 1`. It pays from about a thousand rollouts on.
      grid: full names of fields to lists of values, every combination is run; None for
        the configuration as it is.
      num_cpus: cores.
      num_gpus: GPUs; with none, JAX is kept off them.
      mem: memory [GB]; None is as much as there is, or a cluster's default.
      time: after so long a unit is stopped [minutes].
    """

    seed: int = 15063
    num_seeds_per_hparam: int = 2
    seeds_per_process: int | None = None
    cores_per_decision: int = 1
    grid: dict[str, list[Any]] | None = None
    num_cpus: int = 1
    num_gpus: int = 0
    mem: float | None = None
    time: int = 1440

    def __post_init__(self) -> None:
        """Refuses a job without seeds, and a process without cores."""
        require_at_least(1, self, ("num_cpus", "time"))
        require_at_least(0, self, ("num_gpus",))
        if self.mem is not None and not self.mem > 0:
            raise ValueError(f"mem must be > 0 or null, got {self.mem}")
        if not 1 <= self.num_seeds_per_hparam <= 1000:
            raise ValueError(
                "num_seeds_per_hparam must lie in [1, 1000], got "
                f"{self.num_seeds_per_hparam}"
            )
        if self.seeds_per_process is not None and self.seeds_per_process < 1:
            raise ValueError(
                f"seeds_per_process must be >= 1 or null, got {self.seeds_per_process}"
            )
        if self.cores_per_decision < 1:
            raise ValueError(
                f"cores_per_decision must be >= 1, got {self.cores_per_decision}"
            )
        if self.cores_per_decision > 1 and self.seeds_per_process != 1:
            raise ValueError(
                "cores_per_decision above 1 needs job.seeds_per_process=1, since seeds "
                f"in lockstep have a core each; got {self.seeds_per_process or 'null'}"
            )
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """One experiment of an agent that plans, whole.

    Attributes:
      task: name of the task, for folders and tables.
      method: name of the method, for folders and tables.
      model_name: name of the model, for folders and tables.
      horizon: H of the plans [steps].
      env: the system, its limits and its noise.
      model: dynamics model.
      calibration: how its stds are rescaled.
      agent: confidence widths and the cost budget of an episode.
      planner: which problem a decision solves.
      optimizer: what solves it.
      constraint: how the costs count.
      train: how much is collected.
      wandb: tracking.
      job: seeds and grid, and what a process of it needs.
      launcher: what runs it, and where.
      results_dir: where the run goes; None makes a new folder by the time of day, or
        goes on with an unfinished run of this very configuration.
      render: also film the last episode of each seed.
      verbose: live progress; a line an episode where there is no terminal.
      tensorboard: also write TensorBoard's files, into each seed's folder.
    """

    task: str
    method: str
    model_name: str
    horizon: int
    env: Choice
    model: Choice
    calibration: CalibrationConfig
    agent: MPCConfig
    planner: Choice
    optimizer: Choice
    constraint: Choice
    train: TrainConfig
    wandb: WandbConfig
    job: JobConfig
    launcher: Choice = Choice("local", NoSettings())
    results_dir: str | None = None
    render: bool = True
    verbose: bool = True
    tensorboard: bool = False

    def __post_init__(self) -> None:
        """Refuses parts that do not go together."""
        if self.horizon < 1:
            raise ValueError(f"horizon must be >= 1, got {self.horizon}")
        game = self.planner.kind in GAMES
        if game != (self.optimizer.kind == "MinMax"):
            others = [kind for kind in KINDS["optimizer"] if kind != "MinMax"]
            right = ["MinMax"] if game else others
            raise ValueError(
                f"planner.kind {self.planner.kind} needs optimizer.kind "
                f"{' or '.join(right)}, got {self.optimizer.kind}"
            )
        if self.launcher.kind != "local":
            cores, shared = self.job.num_cpus, self.job.cores_per_decision
            if shared > cores:
                raise ValueError(
                    f"job.cores_per_decision must not exceed job.num_cpus {cores} with "
                    f"launcher={self.launcher.kind}, got {shared}"
                )


@dataclasses.dataclass(frozen=True)
class ModelFreeConfig:
    """One experiment of an agent without a model, whole.

    Attributes:
      task: name of the task, for folders and tables.
      method: name of the method, for folders and tables.
      env: the system, its limits and its noise.
      agent: what acts and learns.
      train: how much is collected.
      wandb: tracking.
      job: seeds and grid, and what a process of it needs.
      model_name: stands where planners name their model.
      launcher: what runs it, and where.
      results_dir: as in `ExperimentConfig`.
      render: also film an episode of each seed.
      verbose: live progress; a line a round where there is no terminal.
      tensorboard: also write TensorBoard's files, into each seed's folder.
    """

    task: str
    method: str
    env: Choice
    agent: Choice
    train: OffPolicyTrainConfig
    wandb: WandbConfig
    job: JobConfig
    model_name: str = "model_free"
    launcher: Choice = Choice("local", NoSettings())
    results_dir: str | None = None
    render: bool = True
    verbose: bool = True
    tensorboard: bool = False

    def __post_init__(self) -> None:
        """Refuses parts that do not go together."""
        if self.job.cores_per_decision > 1:
            raise ValueError(
                "job.cores_per_decision must be 1 with agent.kind "
                f"{self.agent.kind}, which makes no plans; got "
                f"{self.job.cores_per_decision}"
            )


Experiment = ExperimentConfig | ModelFreeConfig


def read_config(node: DictConfig) -> Experiment:
    """Turns the composed YAML into dataclasses.

    Raises:
      ConfigError: names the key and what would be right.
    """
    try:
        plain = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    return read_mapping(cast(dict[str, Any], plain))


def read_mapping(plain: Mapping[str, Any]) -> Experiment:
    """The same from plain nested mappings, as `plain_of` writes them.

    Raises:
      ConfigError: names the key and what would be right.
    """
    plain = dict(plain)
    kind = kind_of_agent(plain)
    settings_class("agent", kind)
    if kind != PLANNING:
        return _read_model_free(plain, kind)
    if isinstance(plain.get("agent"), Mapping):
        plain["agent"] = {k: v for k, v in plain["agent"].items() if k != "kind"}
    if "model" in plain and plain["model"] is None:
        raise ConfigError(
            f"model is null, and method {plain.get('method')} plans in a model: choose "
            "one, for instance model=bnn"
        )
    for section in KINDS:
        if section in plain:
            plain[section] = _read_choice(section, plain[section])
    config: ExperimentConfig = from_mapping(ExperimentConfig, plain)
    # One horizon for all parts.
    settings = dataclasses.replace(config.optimizer.settings, horizon=config.horizon)
    optimizer = config.optimizer._replace(settings=settings)
    return dataclasses.replace(config, optimizer=optimizer)


def kind_of_agent(plain: Mapping[str, Any]) -> Any:
    """Which agent a configuration is of; the planners' need not say so."""
    agent = plain.get("agent")
    return agent.get("kind", PLANNING) if isinstance(agent, Mapping) else PLANNING


def require_planning(config: Experiment, command: str) -> ExperimentConfig:
    """The configuration, if it is one of an agent that plans.

    Raises:
      ConfigError: it is not; names what asks for one.
    """
    if isinstance(config, ModelFreeConfig):
        raise ConfigError(
            f"{command} is about a model and its plans, and agent.kind "
            f"{config.agent.kind} has none"
        )
    return config


def _read_model_free(plain: dict[str, Any], kind: str) -> ModelFreeConfig:
    """Strict as well: what belongs to a planner is refused.

    null alone is no setting: the YAML files of these agents take away with it what
    others set for planners.
    """
    own = {field.name for field in dataclasses.fields(ModelFreeConfig)}
    for field in dataclasses.fields(ExperimentConfig):
        if field.name in own or field.name not in plain:
            continue
        if plain.pop(field.name) is not None:
            raise ConfigError(
                f"{field.name} cannot be set with agent.kind {kind}, which has no use "
                "for it; methods that plan have"
            )
    for section, planned, cls in (
        ("agent", MPCConfig, settings_class("agent", kind)),
        ("train", TrainConfig, OffPolicyTrainConfig),
    ):
        if isinstance(plain.get(section), Mapping):
            plain[section] = _without_nulls(plain[section], planned, cls)
    for section in ("env", "launcher", "agent"):
        if section in plain:
            plain[section] = _read_choice(section, plain[section])
    config: ModelFreeConfig = from_mapping(ModelFreeConfig, plain)
    return config


def _without_nulls(
    settings: Mapping[str, Any], planned: type, cls: type
) -> dict[str, Any]:
    """Without what is null and a field of planners alone."""
    theirs, own = (
        {field.name for field in dataclasses.fields(kind)} for kind in (planned, cls)
    )
    return {
        name: value
        for name, value in settings.items()
        if value is not None or name not in theirs - own
    }


def _read_choice(section: str, mapping: Any) -> Choice:
    if not isinstance(mapping, Mapping):
        raise ConfigError(
            f"{section} must be a section of keys, got {type(mapping).__name__}"
        )
    settings = dict(mapping)
    if "kind" not in settings:
        raise ConfigError(f"{section}.kind is missing")
    kind = settings.pop("kind")
    if section == "optimizer" and "horizon" in settings:
        raise ConfigError(
            "optimizer.horizon cannot be set: the key horizon is that of all parts"
        )
    cls = settings_class(section, kind)
    try:
        return Choice(kind, from_mapping(cls, settings, section))
    except ConfigError as error:
        raise ConfigError(f"{error} ({section}.kind {kind})") from error


def plain_of(config: Any) -> Any:
    """A configuration as plain values, as it is written in YAML."""
    if isinstance(config, Choice):
        settings = plain_of(config.settings)
        settings.pop("horizon", None)
        return {"kind": config.kind, **settings}
    if dataclasses.is_dataclass(config):
        names = [field.name for field in dataclasses.fields(config)]
        return {name: plain_of(getattr(config, name)) for name in names}
    if isinstance(config, tuple):
        return [plain_of(item) for item in config]
    return config


def from_mapping(
    cls: type, mapping: Mapping[str, Any], path: str = "", source: str = ""
) -> Any:
    """Builds a dataclass from nested mappings, strictly.

    Args:
      cls: a dataclass.
      mapping: keys to values, nested where fields are dataclasses.
      path: full name of the mapping itself, for messages.
      source: where it was read from, for messages.

    Raises:
      ConfigError: an unknown or missing key, a wrong type, an impossible value; by full
        name, with what would be right.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(
            f"{path} must be a section of keys, got {type(mapping).__name__}"
        )
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in mapping:
        if key not in fields:
            raise ConfigError(unknown_key(_join(path, str(key)), path, fields))
    values = {}
    for name, field in fields.items():
        if name in mapping:
            values[name] = _convert(hints[name], mapping[name], _join(path, name))
        elif (
            field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ):
            raise ConfigError(f"{_join(path, name)} is missing{source}")
    try:
        return cls(**values)
    except ValueError as error:
        prefix = f"{path}." if path else ""
        raise ConfigError(f"{prefix}{error}") from error


def set_field(plain: dict[str, Any], full_name: str, value: Any) -> None:
    """Sets an existing field of nested mappings by its full name.

    Raises:
      ConfigError: there is no such field; says which there are.
    """
    node: Any = plain
    path = ""
    *sections, last = full_name.split(".")
    for section in [*sections, last]:
        if not isinstance(node, dict) or section not in node:
            known = node if isinstance(node, dict) else {}
            raise ConfigError(unknown_key(full_name, path, known))
        if section is not last:
            node, path = node[section], _join(path, section)
    node[last] = value


def unknown_key(full_name: str, path: str, known: Iterable[str]) -> str:
    """The message for a key that does not exist, with the likeliest ones that do.

    Args:
      full_name: as it was given.
      path: the section in which it was looked for, empty for the outermost.
      known: the names in that section.
    """
    known = list(known)
    key = full_name[len(path) + 1 if path else 0 :].partition(".")[0]
    close = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    hint = (
        f"did you mean {' or '.join(_join(path, name) for name in close)}?"
        if close
        else f"known here: {', '.join(sorted(known))}"
    )
    return f"unknown key {full_name}: {hint}"


def fingerprint(config: Experiment) -> str:
    """SHA-256 of everything in a configuration that decides its numbers."""
    text = json.dumps(numbers_of(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def numbers_of(config: Experiment) -> dict[str, Any]:
    """The part of a configuration that decides its numbers, as plain values."""
    plain = json.loads(json.dumps(plain_of(config)))
    for name in SHARES:
        del plain["job"][name]
    if isinstance(config.env.settings, SuiteConfig):
        del plain["env"]["workers"]  # nor does which process steps an environment
    return {key: plain[key] for key in plain if key not in NO_NUMBERS}


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Full names of the leaves in which two mappings differ, with both values."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = sorted(set(one) | set(other))
        return [
            line
            for key in keys
            for line in differences(one.get(key), other.get(key), _join(path, key))
        ]
    if isinstance(one, Mapping) or isinstance(other, Mapping):
        return [f"{path}: a section {'here' if one is None else 'there'} alone"]
    return [] if one == other else [f"{path}: {one} there, {other} here"]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union) and value is not None:
        kinds = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        # Of a number or a list of them, the list if it is one.
        is_list = isinstance(value, list | tuple)
        lists = [kind for kind in kinds if typing.get_origin(kind) is tuple]
        return _convert(lists[0] if is_list and lists else kinds[0], value, path)
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return from_mapping(hint, value, path)
    if (value is None and origin in (types.UnionType, typing.Union)) or hint is Choice:
        return value
    if origin is dict:
        return _convert_grid(value, path)
    if origin is tuple:
        # One number stands for a list of one, as in `beta: 1.0`.
        items = value if isinstance(value, list | tuple) else [value]
        inner = typing.get_args(hint)
        if inner[-1] is Ellipsis:
            inner = inner[:1] * len(items)
        if len(items) != len(inner):
            raise ConfigError(f"{path} needs {len(inner)} entries, got {value!r}")
        parts = enumerate(zip(inner, items, strict=True))
        return tuple(_convert(kind, x, f"{path}[{i}]") for i, (kind, x) in parts)
    return _convert_plain(hint, value, path)


def _convert_plain(hint: Any, value: Any, path: str) -> Any:
    """A bool, number or string."""
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, bool):
        raise ConfigError(f"{path} must be an int, got the bool {value}")
    if not isinstance(value, hint):
        name = {"int": "an int", "str": "a string"}.get(
            hint.__name__, f"a {hint.__name__}"
        )
        raise ConfigError(f"{path} must be {name}, got {value!r}")
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"{path} must be a finite number, got {value}")
    return value


def _convert_grid(value: Any, path: str) -> dict[str, list[Any]]:
    """Full names of fields to what each is to be, not empty."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path} must map full names to lists, got {value!r}")
    for name, values in value.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(
                f"{path}: {name} must be a list of at least one value, got {values!r}"
            )
    return {str(name): list(values) for name, values in value.items()}
