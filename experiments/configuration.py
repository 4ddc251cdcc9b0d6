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

from safex.config import (
    CALIBRATION_METHODS,
    PENALTIES,
    SAMPLING_MODES,
    CalibrationConfig,
    CEMConfig,
    EnsembleConfig,
    ICEMConfig,
    MinMaxConfig,
    MPCConfig,
    PendulumConfig,
    ScheduleConfig,
    TrainConfig,
    require_at_least,
)
from safex.errors import ConfigError

DYNAMICS = ("TRUE", "BNN")
BNN_TYPES = ("DeterministicEnsemble", "ProbabilisticEnsemble")
ELITES = ("feasible_first", "penalty")
WANDB_MODES = ("offline", "online", "disabled")
# Which optimizers can solve the problem that an agent poses.
OPTIMIZERS_OF = {
    "CEM": ("CEM", "ICEM"),
    "SafeCEM": ("CEM", "ICEM"),
    "PesTraj": ("CEM", "ICEM"),
    "MinMax": ("MinMax",),
    "OptMinMax": ("MinMax",),
}
# Where the files of a run go and who watches it changes no number of it.
_NOT_IN_FINGERPRINT = ("results_dir", "wandb", "render", "verbose")


def _one_of(name: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {tuple(allowed)}, got {value!r}")


@dataclasses.dataclass(frozen=True)
class ConstraintConfig:
    """The limit and how candidates are ordered under it.

    Attributes:
      speed_threshold: speed limit [rad/s].
      lmbda: weight of the penalty, with `elites: penalty`.
      d: budget of the summed cost over the planning horizon.
      barrierfn: penalty function, with `elites: penalty`.
      elites: `feasible_first` or `penalty`.
    """

    speed_threshold: float = 6.0
    lmbda: float = 1.0
    d: float = 0.0
    barrierfn: str = "relu"
    elites: str = "feasible_first"

    def __post_init__(self) -> None:
        """Refuses impossible settings."""
        _one_of("barrierfn", self.barrierfn, PENALTIES)
        _one_of("elites", self.elites, ELITES)
        require_at_least(0, self, ("lmbda", "d"))
        if not self.speed_threshold > 0:
            raise ValueError(f"speed_threshold must be > 0, got {self.speed_threshold}")


@dataclasses.dataclass(frozen=True)
class MinMaxSection(MinMaxConfig):
    """The `minmax` section: the search, and how wide its players' reach is.

    Attributes:
      pes_alpha: the adversary's reach, in beta calibrated epistemic stds.
      opt_alpha: the same of the optimistic agent.
      noise_alpha: aleatoric stds by which each imagined state is judged.
      pes_schedule: how pes_alpha changes over episodes.
      opt_schedule: how opt_alpha changes over episodes.
    """

    pes_alpha: float = 2.0
    opt_alpha: float = 1.0
    noise_alpha: float = 3.0
    pes_schedule: ScheduleConfig = ScheduleConfig()
    opt_schedule: ScheduleConfig = ScheduleConfig()

    def __post_init__(self) -> None:
        """Refuses impossible settings."""
        super().__post_init__()
        require_at_least(0, self, ("pes_alpha", "opt_alpha", "noise_alpha"))


@dataclasses.dataclass(frozen=True)
class ModelSection(EnsembleConfig):
    """The `model` section: dynamics, agent, optimizer, calibration.

    Attributes:
      dynamics: `TRUE` or `BNN`.
      bnn_type: kind of ensemble.
      agent: `CEM` (unsafe), `SafeCEM`, `PesTraj`, `MinMax` or `OptMinMax`.
      optimizer: `CEM`, `ICEM` or `MinMax`.
      sampling_mode: how nominal rollouts are sampled.
      num_particles: rollouts per candidate.
      beta: confidence width, one number or one per observation dimension.
      calibration: `none`, `kuleshov` or `conformal`.
      target_coverage: of the conformal scale.
      min_calibration_scale: smallest scale.
      max_calibration_scale: largest scale.
      num_calibration_ps: CDF levels that `kuleshov` matches.
      num_test_alphas: scales that `kuleshov` tries.
      prequential_calibration: also calibrate on each new episode before learning it.
      prequential_rate: how fast a surprising episode stretches what is claimed of new
        inputs.
      num_inducing: size of the second opinion that finds new inputs; 0 is off.
    """

    dynamics: str = "BNN"
    bnn_type: str = "ProbabilisticEnsemble"
    agent: str = "MinMax"
    optimizer: str = "MinMax"
    sampling_mode: str = "MEAN"
    num_particles: int = 1
    beta: tuple[float, ...] = (1.0,)
    calibration: str = "conformal"
    target_coverage: float = 0.95
    min_calibration_scale: float = 0.05
    max_calibration_scale: float = 10.0
    num_calibration_ps: int = 20
    num_test_alphas: int = 100
    prequential_calibration: bool = True
    prequential_rate: float = 3.0
    num_inducing: int = 64

    def __post_init__(self) -> None:
        """Refuses impossible settings."""
        super().__post_init__()
        _one_of("dynamics", self.dynamics, DYNAMICS)
        _one_of("bnn_type", self.bnn_type, BNN_TYPES)
        _one_of("agent", self.agent, OPTIMIZERS_OF)
        _one_of("optimizer", self.optimizer, ("CEM", "ICEM", "MinMax"))
        _one_of("sampling_mode", self.sampling_mode, SAMPLING_MODES)
        _one_of("calibration", self.calibration, CALIBRATION_METHODS)
        if not self.beta or min(self.beta) < 0:
            raise ValueError(f"beta must be >= 0, got {self.beta}")
        if self.num_particles < 1:
            raise ValueError(f"num_particles must be >= 1, got {self.num_particles}")
        if self.optimizer not in OPTIMIZERS_OF[self.agent]:
            raise ValueError(
                f"agent {self.agent} needs optimizer "
                f"{' or '.join(OPTIMIZERS_OF[self.agent])}, got {self.optimizer}"
            )
        self.calibration_config()

    def calibration_config(self) -> CalibrationConfig:
        """The calibration part on its own."""
        return CalibrationConfig(
            method=self.calibration,
            target_coverage=self.target_coverage,
            min_scale=self.min_calibration_scale,
            max_scale=self.max_calibration_scale,
            num_calibration_ps=self.num_calibration_ps,
            num_test_alphas=self.num_test_alphas,
            prequential=self.prequential_calibration,
            prequential_rate=self.prequential_rate,
            num_inducing=self.num_inducing,
        )


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
        _one_of("mode", self.mode, WANDB_MODES)


@dataclasses.dataclass(frozen=True)
class JobConfig:
    """How many seeds, drawn from which.

    Attributes:
      seed: the job seed that the seeds are drawn from.
      num_seeds_per_hparam: seeds of this configuration.
      seeds_per_process: seeds that go in lockstep; None is one a core, or all of them
        on an accelerator. The launcher runs the groups one after another.
      cores_per_decision: cores that share out the candidates of a decision; more than
        one needs `seeds_per_process: 1`. It pays from about a thousand rollouts on.
    """

    seed: int = 15063
    num_seeds_per_hparam: int = 2
    seeds_per_process: int | None = None
    cores_per_decision: int = 1

    def __post_init__(self) -> None:
        """Refuses a job without seeds."""
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
    """One experiment, whole.

    Attributes:
      method: name of the method, for folders and tables.
      model_name: name of the model, for folders and tables.
      env: task and physics.
      constraint: the limit.
      model: dynamics model, agent, optimizer.
      train: how much is collected.
      wandb: tracking.
      job: seeds.
      cem: budget, where the optimizer is CEM.
      icem: budget, where the optimizer is ICEM.
      minmax: budget and widths, where the optimizer is MinMax.
      results_dir: where the run goes; None makes a new folder by the time of day, or
        goes on with an unfinished run of this very configuration.
      render: also film the last episode of each seed.
      verbose: live progress; a line an episode where there is no terminal.
    """

    method: str
    model_name: str
    env: PendulumConfig
    constraint: ConstraintConfig
    model: ModelSection
    train: TrainConfig
    wandb: WandbConfig
    job: JobConfig
    cem: CEMConfig | None = None
    icem: ICEMConfig | None = None
    minmax: MinMaxSection | None = None
    results_dir: str | None = None
    render: bool = True
    verbose: bool = True

    def __post_init__(self) -> None:
        """Refuses an optimizer without its budget."""
        section = self.model.optimizer.lower()
        if getattr(self, section) is None:
            raise ValueError(
                f"model.optimizer is {self.model.optimizer}, but there is no section "
                f"{section} that gives its budget"
            )

    @property
    def horizon(self) -> int:
        """H of the plans."""
        if self.model.optimizer == "MinMax":
            assert self.minmax is not None
            return self.minmax.horizon_x
        section = self.cem if self.model.optimizer == "CEM" else self.icem
        assert section is not None
        return section.horizon

    def mpc_config(self) -> MPCConfig:
        """Confidence widths of the agent; without MinMax nothing uses the alphas."""
        if self.minmax is None:
            return MPCConfig(beta=self.model.beta)
        return MPCConfig(
            beta=self.model.beta,
            pes_alpha=self.minmax.pes_alpha,
            opt_alpha=self.minmax.opt_alpha,
            pes_schedule=self.minmax.pes_schedule,
            opt_schedule=self.minmax.opt_schedule,
        )


def read_config(node: DictConfig) -> ExperimentConfig:
    """Turns the composed YAML into dataclasses.

    Raises:
      ConfigError: names the key and what would be right.
    """
    try:
        plain = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    return from_mapping(ExperimentConfig, cast(dict[str, Any], plain))


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
            raise ConfigError(unknown_key(_join(path, str(key)), str(key), fields))
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


def unknown_key(full_name: str, key: str, known: Iterable[str]) -> str:
    """The message for a key that does not exist, with the likeliest ones that do."""
    known = list(known)
    close = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    hint = (
        f"did you mean {' or '.join(close)}?"
        if close
        else f"known here: {', '.join(sorted(known))}"
    )
    return f"unknown key {full_name}: {hint}"


def fingerprint(config: ExperimentConfig) -> str:
    """SHA-256 of everything in a configuration that decides its numbers."""
    text = json.dumps(numbers_of(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def numbers_of(config: ExperimentConfig) -> dict[str, Any]:
    """The part of a configuration that decides its numbers, as plain values."""
    plain = json.loads(json.dumps(dataclasses.asdict(config)))
    # How the cores are shared changes a seed's numbers by rounding alone.
    for name in ("seeds_per_process", "cores_per_decision"):
        del plain["job"][name]
    return {key: plain[key] for key in plain if key not in _NOT_IN_FINGERPRINT}


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
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        (hint,) = (arg for arg in typing.get_args(hint) if arg is not type(None))
        return _convert(hint, value, path)
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return from_mapping(hint, value, path)
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        # One number stands for a list of one, as in `beta: 1.0`.
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_convert(inner, x, f"{path}[{i}]") for i, x in enumerate(items))
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
