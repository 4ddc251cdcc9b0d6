"""Tasks of other packages, as a configuration names them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Self

from safex.config import changed
from safex.config.suites import (
    BulletSafetyGymConfig,
    GymnasiumConfig,
    SafetyGymnasiumConfig,
    SuiteConfig,
)
from safex.envs import worker
from safex.envs.processes import FromFacts, ProcessVector
from safex.envs.suites import bullet, registered, safety_gymnasium
from safex.envs.suites.adapter import Adapted
from safex.envs.worker import Facts


@dataclasses.dataclass(frozen=True)
class ForeignTask(FromFacts):
    """A task of another package, opened once.

    Attributes:
      settings: which task, and how.
      facts: what is fixed about it.
      config_class: the dataclass of the settings.
    """

    settings: Any
    facts: Facts

    config_class: ClassVar[Any] = SuiteConfig
    _open: ClassVar[Callable[..., Adapted]]

    @classmethod
    def from_config(cls, settings: Any = None, **changes: Any) -> Self:
        """Opens the task once, to see that it keeps the contract.

        Args:
          settings: an instance of `config_class`; the defaults when None.
          **changes: fields of it to replace.

        Raises:
          ConfigError: its package is not installed, or there is no such task.
          ContractError: it says no cost, or its spaces are no vectors.
          SimulatorError: it failed otherwise.
          TypeError: a field is unknown.
          ValueError: a value is impossible.
        """
        if settings is None:
            settings = cls.config_class(**changes)
        else:
            settings = changed(settings, changes)
        return cls(settings, worker.facts(functools.partial(cls._open, settings)))

    def make_env(self, render_mode: str | None = None) -> Adapted:
        """One environment, for evaluation and videos.

        Args:
          render_mode: "rgb_array" for frames, None for none.
        """
        return type(self)._open(self.settings, render_mode=render_mode)

    def make_vector(self, num_envs: int) -> ProcessVector:
        """Environments in parallel, in `settings.workers` processes."""
        make = functools.partial(type(self)._open, self.settings)
        workers = self.settings.workers
        return ProcessVector(make, num_envs, workers=workers, facts=self.facts)

    @property
    def name(self) -> str:
        """The task's name."""
        return self.facts.name


class SafetyGymnasium(ForeignTask):
    """A task of Safety-Gymnasium."""

    config_class = SafetyGymnasiumConfig
    _open = staticmethod(safety_gymnasium.open_task)


class BulletSafetyGym(ForeignTask):
    """A task of Bullet-Safety-Gym."""

    config_class = BulletSafetyGymConfig
    _open = staticmethod(bullet.open_task)


class Gymnasium(ForeignTask):
    """An environment that some module registers with gymnasium."""

    config_class = GymnasiumConfig
    _open = staticmethod(registered.open_task)
