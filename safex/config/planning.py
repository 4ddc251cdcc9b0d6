"""Problems that a decision poses, and the agent that solves them."""

import dataclasses

from safex.config.checks import require_at_least

BACKUPS = ("least_margin", "policy")
COST_RISKS = ("mean", "max", "cvar", "ucb", "members")
EXPLORATION_OBJECTIVES = ("reward", "information_gain", "epistemic_std")
SAMPLING_MODES = ("MEAN", "NOISY_MEAN", "DIST", "TS1", "TSInf")
SCHEDULE_KINDS = ("constant", "linear", "sigmoid")
STDS_ALONG = ("plan", "attack")
TERMINAL_VALUES = ("none", "backup", "hold", "env")


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """A width that changes from episode to episode.

    Attributes:
      kind: `constant`, `linear` or `sigmoid`.
      final: value that a linear or sigmoid schedule tends to.
      num_episodes: episodes after which a linear schedule has arrived.
      scale: steepness of a sigmoid [1/episode].
      midpoint: episode at which a sigmoid is half-way.
    """

    kind: str = "constant"
    final: float = 1.0
    num_episodes: int = 10
    scale: float = 0.25
    midpoint: float = 10.0

    def __post_init__(self) -> None:
        """Refuses an unknown kind and a schedule that never arrives.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        if self.kind not in SCHEDULE_KINDS:
            raise ValueError(f"kind must be one of {SCHEDULE_KINDS}, got {self.kind!r}")
        if self.num_episodes < 1:
            raise ValueError(f"num_episodes must be >= 1, got {self.num_episodes}")
        if self.final < 0:
            raise ValueError(f"final must be >= 0, got {self.final}")


@dataclasses.dataclass(frozen=True)
class NoSettings:
    """Of a component that has none."""


@dataclasses.dataclass(frozen=True)
class RiskConfig:
    """What the costs of several particles come to.

    Attributes:
      kind: `mean`, `max`, `cvar` (mean of the worst share), `ucb` (mean + kappa std) or
        `members` (the worst ensemble member's mean, so that a feasible plan is feasible
        for every member; needs the sampling mode TSInf and a particle a member).
      level: of `cvar`, in [0, 1]: 0 is the mean and 1 the maximum.
      kappa: of `ucb`.
    """

    kind: str = "mean"
    level: float = 0.9
    kappa: float = 1.0

    def __post_init__(self) -> None:
        """Refuses an unknown kind and a level that is no share.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        if self.kind not in COST_RISKS:
            raise ValueError(f"kind must be one of {COST_RISKS}, got {self.kind!r}")
        if not 0.0 <= self.level <= 1.0:
            raise ValueError(f"level must lie in [0, 1], got {self.level}")
        require_at_least(0, self, ("kappa",))


def require_members_apart(risk: RiskConfig, sampling_mode: str) -> None:
    """Raises ValueError on a risk of members whose particles do not keep to one."""
    if risk.kind == "members" and sampling_mode != "TSInf":
        raise ValueError(
            "risk 'members' needs sampling_mode 'TSInf', whose particles keep to one "
            f"member, got {sampling_mode!r}"
        )


@dataclasses.dataclass(frozen=True)
class TerminalConfig:
    """What is asked of the state that a plan ends in.

    Attributes:
      steps: K, steps of the environment's backup behind the plan that must keep the
        thresholds with it [steps]; 0 is off.
      value: what they add to the value: `none`, `backup` (their discounted reward),
        `hold` (that, and the last one's for ever after, for a backup that comes to
        rest) or `env` (the environment's `terminal_value` of the state the plan ends
        in).
      discount: per step of the backup's reward, in (0, 1]; below 1 for `hold`.
    """

    steps: int = 0
    value: str = "none"
    discount: float = 0.99

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        require_at_least(0, self, ("steps",))
        if self.value not in TERMINAL_VALUES:
            raise ValueError(
                f"value must be one of {TERMINAL_VALUES}, got {self.value!r}"
            )
        if self.value in ("backup", "hold") and not self.steps:
            raise ValueError(f"value {self.value!r} needs steps >= 1, got 0")
        if not 0.0 < self.discount <= 1.0:
            raise ValueError(f"discount must lie in (0, 1], got {self.discount}")
        if self.value == "hold" and self.discount == 1.0:
            raise ValueError("value 'hold' needs a discount below 1, got 1.0")


@dataclasses.dataclass(frozen=True)
class ExplorationConfig:
    """What a planner maximises in place of the reward, and for how long.

    Attributes:
      objective: `reward`, `information_gain` or `epistemic_std`.
      episodes: planned episodes that maximise it, after which the reward counts; 0 is
        all of them.
    """

    objective: str = "reward"
    episodes: int = 0

    def __post_init__(self) -> None:
        """Refuses an unknown objective.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        if self.objective not in EXPLORATION_OBJECTIVES:
            raise ValueError(
                f"objective must be one of {EXPLORATION_OBJECTIVES}, got "
                f"{self.objective!r}"
            )
        require_at_least(0, self, ("episodes",))


@dataclasses.dataclass(frozen=True)
class SampledConfig:
    """How a planner samples nominal rollouts.

    Attributes:
      sampling_mode: one of `SAMPLING_MODES`.
      num_particles: P rollouts per candidate; the mode MEAN needs only one.
      terminal: what is asked of the state that a plan ends in.
      exploration: what is maximised in place of the reward, and for how long.
    """

    sampling_mode: str = "MEAN"
    num_particles: int = 1
    terminal: TerminalConfig = TerminalConfig()
    exploration: ExplorationConfig = ExplorationConfig()

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        if self.sampling_mode not in SAMPLING_MODES:
            raise ValueError(
                f"sampling_mode must be one of {SAMPLING_MODES}, got "
                f"{self.sampling_mode!r}"
            )
        require_at_least(1, self, ("num_particles",))


@dataclasses.dataclass(frozen=True)
class SafeConfig(SampledConfig):
    """How a planner samples rollouts, and what their costs come to.

    Attributes:
      risk: of the particles' costs.
      separate: the cost has particles of its own, drawn apart from the reward's.
    """

    risk: RiskConfig = RiskConfig()
    separate: bool = False

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
        require_members_apart(self.risk, self.sampling_mode)


@dataclasses.dataclass(frozen=True)
class PesTrajConfig(SafeConfig):
    """`SafeConfig` of the worst of particles drawn apart."""

    risk: RiskConfig = RiskConfig("max")
    separate: bool = True


@dataclasses.dataclass(frozen=True)
class OPAXConfig(SafeConfig):
    """`SafeConfig` of a planner that gathers information."""

    exploration: ExplorationConfig = ExplorationConfig("information_gain")


@dataclasses.dataclass(frozen=True)
class PessimisticConfig(SampledConfig):
    """How a planner samples the reward, and how it judges an adversary's rollout.

    Attributes:
      noise_alpha: aleatoric stds by which each imagined state is judged.
      std_along: whose stds the adversary pushes by, one of `STDS_ALONG`: of the plan
        as it is without one, or of the states that the attack has pushed to.
    """

    noise_alpha: float = 3.0
    std_along: str = "plan"

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
        _require_attack(self)


@dataclasses.dataclass(frozen=True)
class ActSafeConfig(PessimisticConfig):
    """`PessimisticConfig` of a planner that first explores."""

    exploration: ExplorationConfig = ExplorationConfig("epistemic_std", episodes=5)


@dataclasses.dataclass(frozen=True)
class OptimisticPessimisticConfig:
    """How a planner judges an adversary's rollout; the reward needs no sampling.

    Attributes:
      noise_alpha: aleatoric stds by which each imagined state is judged.
      std_along: as in `PessimisticConfig`.
      terminal: what is asked of the state that a plan ends in.
      exploration: what is maximised in place of the reward, and for how long.
    """

    noise_alpha: float = 3.0
    std_along: str = "plan"
    terminal: TerminalConfig = TerminalConfig()
    exploration: ExplorationConfig = ExplorationConfig()

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        _require_attack(self)


def _require_attack(config: PessimisticConfig | OptimisticPessimisticConfig) -> None:
    """Refuses impossible settings of an adversary's rollout."""
    require_at_least(0, config, ("noise_alpha",))
    if config.std_along not in STDS_ALONG:
        raise ValueError(
            f"std_along must be one of {STDS_ALONG}, got {config.std_along!r}"
        )


@dataclasses.dataclass(frozen=True)
class MPCConfig:
    """Confidence widths of the planner, and what an episode may cost.

    Attributes:
      beta: confidence width, one number or one per observation dimension: the model
        claims that the truth lies within `beta` calibrated epistemic stds.
      pes_alpha: the adversary's multiple of `beta` stds, before its schedule.
      pes_steps: steps of a plan in which the adversary may push as far as that, or
        weaker in more of them, the sum of squares being the same; None is in all. With
        one error a step, as independent of the others as Gaussian noise, 1 is exact,
        and an error that lasts n steps asks for n.
      opt_alpha: the optimistic agent's multiple of `beta` stds, before its schedule.
      pes_schedule: how `pes_alpha` changes over episodes.
      opt_schedule: how `opt_alpha` changes over episodes.
      cost_budget: allowed cost of an episode, one number or one per constraint.
      episode_steps: steps over which the budget is spread evenly; None is the time
        limit of the system.
      backup: what acts without a feasible plan: `least_margin`, the candidate of least
        predicted margin, or `policy`, the environment's own backup.
      budget_switch: plans may use all of the budget that is left, whenever they like,
        and the backup policy takes over before it could run out; needs `policy`.
      switch_noise_alpha: multiple of the aleatoric std by which that forecast judges
        each state.
    """

    beta: tuple[float, ...] = (1.0,)
    pes_alpha: float = 2.0
    pes_steps: float | None = 2.0
    opt_alpha: float = 0.3
    pes_schedule: ScheduleConfig = ScheduleConfig()
    opt_schedule: ScheduleConfig = ScheduleConfig()
    cost_budget: tuple[float, ...] = (0.0,)
    episode_steps: int | None = None
    backup: str = "least_margin"
    budget_switch: bool = False
    switch_noise_alpha: float = 3.0

    def __post_init__(self) -> None:
        """Refuses negative widths and budgets.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        if not self.beta or min(self.beta) < 0:
            raise ValueError(f"beta must be >= 0, got {self.beta}")
        if not self.cost_budget or not min(self.cost_budget) >= 0:
            raise ValueError(f"cost_budget must be >= 0, got {self.cost_budget}")
        if self.backup not in BACKUPS:
            raise ValueError(f"backup must be one of {BACKUPS}, got {self.backup!r}")
        if self.budget_switch and self.backup != "policy":
            raise ValueError(f"budget_switch needs backup 'policy', got {self.backup}")
        require_at_least(0, self, ("pes_alpha", "opt_alpha", "switch_noise_alpha"))
        if self.pes_steps is not None:
            require_at_least(1, self, ("pes_steps",))
        if self.episode_steps is not None:
            require_at_least(1, self, ("episode_steps",))
