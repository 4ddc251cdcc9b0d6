"""Rules that the costs of a plan count by."""

import dataclasses

from safex.config.checks import require_at_least, require_below_bound, require_positive

PENALTIES = ("relu", "huber", "quadratic", "exponential")


@dataclasses.dataclass(frozen=True)
class DualAscentConfig:
    """Dual ascent on the multipliers.

    Attributes:
      lr_rate: step of a multiplier for each unit of an episode's excess cost.
      init_multiplier: before the first episode, in value per unit of horizon cost.
      max_multiplier: bound, so that a budget that cannot be kept does not drive the
        multiplier out of reach.
    """

    lr_rate: float = 0.1
    init_multiplier: float = 0.0
    max_multiplier: float = 1000.0

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        require_positive(self, ("lr_rate", "max_multiplier"))
        require_at_least(0, self, ("init_multiplier",))
        require_below_bound(self, "init_multiplier", "max_multiplier")


@dataclasses.dataclass(frozen=True)
class PIDConfig:
    """Gains of the controller of the multipliers.

    Attributes:
      k_p: multiplier per unit of the last excess.
      k_i: multiplier per unit of the added excess.
      k_d: multiplier per unit of a rise in cost from one episode to the next.
      smoothing: share of the older episodes in the running averages, in [0, 1).
      max_multiplier: bound.
      relative: costs are counted in budgets, where a budget is not 0, and an excess is
        at most one: the same gains for budgets of any size.
    """

    k_p: float = 0.1
    k_i: float = 0.01
    k_d: float = 0.01
    smoothing: float = 0.0
    max_multiplier: float = 1000.0
    relative: bool = False

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        require_at_least(0, self, ("k_p", "k_i", "k_d"))
        require_positive(self, ("max_multiplier",))
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"smoothing must lie in [0, 1), got {self.smoothing}")


@dataclasses.dataclass(frozen=True)
class AugmentedLagrangianConfig:
    """Multipliers with a growing quadratic penalty.

    Attributes:
      init_multiplier: before the first episode, in value per unit of horizon cost.
      init_penalty: mu before the first episode.
      penalty_growth: factor of mu after each episode.
      max_penalty: largest mu.
      step: share of `mu excess` that a multiplier moves by; the excess is that of an
        episode, so the horizon over the episode length is the textbook's step.
      max_multiplier: bound.
    """

    init_multiplier: float = 0.0
    init_penalty: float = 0.1
    penalty_growth: float = 1.1
    max_penalty: float = 10.0
    step: float = 1.0
    max_multiplier: float = 1000.0

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        require_positive(self, ("init_penalty", "step", "max_multiplier"))
        require_at_least(1, self, ("penalty_growth",))
        require_at_least(0, self, ("init_multiplier",))
        require_below_bound(self, "init_multiplier", "max_multiplier")
        require_below_bound(self, "init_penalty", "max_penalty")


@dataclasses.dataclass(frozen=True)
class LogBarrierConfig:
    """Weight of the barrier.

    Attributes:
      init_eta: before the first episode, in value.
      decay: factor of eta after an episode that kept its budgets, in (0, 1].
      min_eta: least eta.
    """

    init_eta: float = 0.1
    decay: float = 0.9
    min_eta: float = 1e-4

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        require_positive(self, ("min_eta",))
        require_below_bound(self, "min_eta", "init_eta")
        if not 0.0 < self.decay <= 1.0:
            raise ValueError(f"decay must lie in (0, 1], got {self.decay}")


@dataclasses.dataclass(frozen=True)
class CRPOConfig:
    """When cost comes before reward.

    Attributes:
      tolerance: excess cost that is let pass.
      memory: share of the earlier excess that counts on, in [0, 1]; 0 looks at the last
        episode alone, 1 at the sum of all.
    """

    tolerance: float = 0.0
    memory: float = 0.0

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        require_at_least(0, self, ("tolerance",))
        if not 0.0 <= self.memory <= 1.0:
            raise ValueError(f"memory must lie in [0, 1], got {self.memory}")


@dataclasses.dataclass(frozen=True)
class PenaltyConfig:
    """A fixed weight on what passes the threshold.

    Attributes:
      lmbda: weight of the penalty.
      barrierfn: its shape, one of `PENALTIES`.
    """

    lmbda: float = 1.0
    barrierfn: str = "relu"

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        if self.barrierfn not in PENALTIES:
            raise ValueError(
                f"barrierfn must be one of {PENALTIES}, got {self.barrierfn!r}"
            )
        require_at_least(0, self, ("lmbda",))
