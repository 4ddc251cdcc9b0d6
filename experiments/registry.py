"""What each section of a configuration can be, by the name in its key `kind`.

Here are the settings, in `building` the classes that take them: a configuration is read
and refused before JAX is imported. An environment, model or optimizer of one's own
needs no entry, its kind is then `module:Class`.
"""

import dataclasses
import difflib
import importlib
from typing import Any, NamedTuple

from experiments.engines.settings import RayConfig, SlurmConfig
from safex.config import (
    ActSafeConfig,
    AugmentedLagrangianConfig,
    CarParkConfig,
    CartpoleConfig,
    CEMConfig,
    CRPOConfig,
    CVPOConfig,
    DDPGConfig,
    DDPGLagConfig,
    DropoutConfig,
    DualAscentConfig,
    EnsembleConfig,
    FSVGDConfig,
    GaussianProcessConfig,
    ICEMConfig,
    LastLayerConfig,
    LogBarrierConfig,
    MinMaxConfig,
    MPCConfig,
    MPPIConfig,
    NoSettings,
    OPAXConfig,
    OptimisticPessimisticConfig,
    PenaltyConfig,
    PendulumConfig,
    PessimisticConfig,
    PesTrajConfig,
    PIDConfig,
    PitchControlConfig,
    PointGoalConfig,
    RCCarConfig,
    SACConfig,
    SACLagConfig,
    SafeConfig,
    TD3Config,
    TD3LagConfig,
)
from safex.config.suites import (
    BulletSafetyGymConfig,
    GymnasiumConfig,
    SafetyGymnasiumConfig,
)
from safex.errors import ConfigError

KINDS: dict[str, dict[str, type]] = {
    "env": {
        "Pendulum": PendulumConfig,
        "Cartpole": CartpoleConfig,
        "PitchControl": PitchControlConfig,
        "CarPark": CarParkConfig,
        "RCCar": RCCarConfig,
        "PointGoal": PointGoalConfig,
        "SafetyGymnasium": SafetyGymnasiumConfig,
        "BulletSafetyGym": BulletSafetyGymConfig,
        "Gymnasium": GymnasiumConfig,
    },
    "model": {
        "TrueDynamics": NoSettings,
        "ProbabilisticEnsemble": EnsembleConfig,
        "DeterministicEnsemble": EnsembleConfig,
        "ProbabilisticFSVGD": FSVGDConfig,
        "DeterministicFSVGD": FSVGDConfig,
        "GaussianProcess": GaussianProcessConfig,
        "BayesianLastLayer": LastLayerConfig,
        "MCDropout": DropoutConfig,
    },
    "planner": {
        "Nominal": SafeConfig,
        "Safe": SafeConfig,
        "PesTraj": PesTrajConfig,
        "OPAX": OPAXConfig,
        "Pessimistic": PessimisticConfig,
        "ActSafe": ActSafeConfig,
        "OptimisticPessimistic": OptimisticPessimisticConfig,
    },
    "optimizer": {
        "CEM": CEMConfig,
        "ICEM": ICEMConfig,
        "MPPI": MPPIConfig,
        "MinMax": MinMaxConfig,
    },
    "constraint": {
        "Unconstrained": NoSettings,
        "FeasibleFirst": NoSettings,
        "Penalty": PenaltyConfig,
        "DualAscent": DualAscentConfig,
        "PID": PIDConfig,
        "AugmentedLagrangian": AugmentedLagrangianConfig,
        "LogBarrier": LogBarrierConfig,
        "CRPO": CRPOConfig,
    },
    "launcher": {
        "local": NoSettings,
        "local_parallel": NoSettings,
        "ray": RayConfig,
        "slurm": SlurmConfig,
    },
}
# What acts and learns: a planner in a learned model, which needs no key `kind`, or an
# agent without a model, which has no use for the sections of a planner.
AGENTS: dict[str, type] = {
    "MPC": MPCConfig,
    "SAC": SACConfig,
    "TD3": TD3Config,
    "DDPG": DDPGConfig,
    "SACLag": SACLagConfig,
    "TD3Lag": TD3LagConfig,
    "DDPGLag": DDPGLagConfig,
    "CVPO": CVPOConfig,
}
PLANNING = "MPC"
# Planners that pose a game need the optimizer that plays it, and no other does.
GAMES = ("Pessimistic", "ActSafe", "OptimisticPessimistic")
# Sections whose kind may be a class of one's own.
OPEN = ("env", "model", "optimizer")


class Choice(NamedTuple):
    """A section of the configuration: what it is, and its settings.

    Attributes:
      kind: a name in `KINDS` or `AGENTS`, or `module:Class` where one's own may be.
      settings: the dataclass that goes with it.
    """

    kind: str
    settings: Any


def settings_class(section: str, kind: Any) -> type:
    """The dataclass of settings that a kind takes.

    Raises:
      ConfigError: no such kind; says which there are. Or a class of one's own that
        cannot be imported, or does not say its settings.
    """
    known = AGENTS if section == "agent" else KINDS[section]
    if isinstance(kind, str) and kind in known:
        return known[kind]
    if section in OPEN and isinstance(kind, str) and ":" in kind:
        settings: type = import_class(section, kind).config_class
        return settings
    close = difflib.get_close_matches(str(kind), known, n=1)
    hint = f", did you mean {close[0]}?" if close else ""
    own = " or module:Class" if section in OPEN else ""
    raise ConfigError(
        f"{section}.kind must be one of {tuple(known)}{own}, got {kind!r}{hint}"
    )


def import_class(section: str, kind: str) -> Any:
    """The class that `module:Class` names.

    Raises:
      ConfigError: it cannot be imported, or says no `config_class`.
    """
    name_of = f"{section}.kind {kind}"
    module, _, name = kind.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{name_of} cannot be imported: {error}") from error
    settings = getattr(found, "config_class", None)
    if not dataclasses.is_dataclass(settings):
        raise ConfigError(
            f"{name_of} needs a class attribute config_class, the dataclass of its "
            "settings (see docs/extending.md)"
        )
    names = {field.name for field in dataclasses.fields(settings)}
    if section == "optimizer" and "horizon" not in names:
        raise ConfigError(
            f"{name_of} needs a field horizon in its config_class, which the key "
            "horizon sets"
        )
    return found
