"""Tasks of other packages: which, and how they are stepped."""

import dataclasses

from safex.config.checks import require_at_least


@dataclasses.dataclass(frozen=True)
class SuiteConfig:
    """What all environments of other packages are told.

    Attributes:
      id: the task's name in its package.
      max_steps: time limit of an episode [steps]; None takes the task's own.
      costs: names in the step's info, each one constraint; "cost" is the task's own
        total.
      workers: processes that step the environments; 0 steps them in this one, None
        takes one a core.
    """

    id: str
    max_steps: int | None = None
    costs: tuple[str, ...] = ("cost",)
    workers: int | None = None

    def __post_init__(self) -> None:
        """Refuses values that mean nothing.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        if not self.id:
            raise ValueError("id must name a task, got ''")
        if self.max_steps is not None:
            require_at_least(1, self, ("max_steps",))
        if self.workers is not None:
            require_at_least(0, self, ("workers",))
        if not self.costs or len(set(self.costs)) < len(self.costs):
            raise ValueError(f"costs must be one name or more, got {self.costs}")


@dataclasses.dataclass(frozen=True)
class SafetyGymnasiumConfig(SuiteConfig):
    """A task of Safety-Gymnasium; its layout is drawn anew for each episode."""

    id: str = "SafetyPointGoal1-v0"


@dataclasses.dataclass(frozen=True)
class BulletSafetyGymConfig(SuiteConfig):
    """A task of Bullet-Safety-Gym."""

    id: str = "SafetyBallCircle-v0"


@dataclasses.dataclass(frozen=True)
class GymnasiumConfig(SuiteConfig):
    """An environment that some module of the user's own registers with gymnasium.

    Attributes:
      module: what to import, so that `id` is registered; "" if it already is.
    """

    module: str = ""
