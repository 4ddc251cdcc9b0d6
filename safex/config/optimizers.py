"""Searches for the best plan."""

import dataclasses

from safex.config.checks import require_at_least, require_positive

MINMAX_MODES = ("worst_case", "mean")


@dataclasses.dataclass(frozen=True)
class CEMConfig:
    """Budget of a cross-entropy search in the box [-1, 1].

    Attributes:
      horizon: H [steps].
      num_iter: iterations.
      num_elites: K.
      num_samples: N candidates per iteration.
      init_std: std of the first iteration; 5 begins bang-bang, since most samples fall
        outside the box and are clipped.
      min_std: floor of the std.
      alpha: momentum of mean and std, in [0, 1).
    """

    horizon: int = 20
    num_iter: int = 10
    num_elites: int = 50
    num_samples: int = 500
    init_std: float = 5.0
    min_std: float = 1e-6
    alpha: float = 0.0

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        require_at_least(1, self, ("horizon", "num_iter", "num_elites", "num_samples"))
        if self.num_elites > self.num_samples:
            raise ValueError(
                f"num_elites must not exceed num_samples, got {self.num_elites} elites "
                f"of {self.num_samples} samples"
            )
        require_positive(self, ("init_std", "min_std"))
        if not 0.0 <= self.alpha < 1.0:
            raise ValueError(f"alpha must lie in [0, 1), got {self.alpha}")


@dataclasses.dataclass(frozen=True)
class ICEMConfig(CEMConfig):
    """Budget and tricks of iCEM.

    Attributes:
      exponent: of the noise spectrum `1 / f^exponent` along time; 0 is white.
      keep_fraction: share of the elites kept to the next iteration, and shifted to the
        next decision.
      population_decay: the population shrinks by this factor every iteration, down to
        twice the elites; 1 keeps its size, which also compiles faster.
      std_spread: the candidates of the first iteration are drawn with stds from
        `init_std` down to `init_std / std_spread`, evenly in the logarithm, so that one
        decision both looks far away and refines the warm start; 1 draws all alike.
    """

    num_iter: int = 5
    num_elites: int = 10
    num_samples: int = 100
    init_std: float = 0.5
    min_std: float = 1e-3
    alpha: float = 0.1
    exponent: float = 2.0
    keep_fraction: float = 0.3
    population_decay: float = 1.25
    std_spread: float = 1.0

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
        if self.exponent < 0:
            raise ValueError(f"exponent must be >= 0, got {self.exponent}")
        if not 0.0 <= self.keep_fraction <= 1.0:
            raise ValueError(
                f"keep_fraction must lie in [0, 1], got {self.keep_fraction}"
            )
        require_at_least(1, self, ("population_decay", "std_spread"))

    @property
    def num_kept(self) -> int:
        """Elites kept from iteration to iteration."""
        return int(self.keep_fraction * self.num_elites)

    @property
    def num_scored(self) -> int:
        """Candidates scored in a decision, kept ones each time."""
        drawn = sum(self.population(i) for i in range(self.num_iter))
        return drawn + self.num_iter * self.num_kept

    def population(self, iteration: int) -> int:
        """Candidates drawn in an iteration: `max(2 K, N / decay^i)`, never above N."""
        shrunk = int(self.num_samples / self.population_decay**iteration)
        return min(self.num_samples, max(2 * self.num_elites, shrunk))


@dataclasses.dataclass(frozen=True)
class MinMaxConfig:
    """Budget of both players; `_x` is the agent, `_y` the adversary.

    Attributes:
      iterations: outer iterations, each a y-step and an x-step.
      horizon: H of both players [steps].
      num_iter_x: refits per x-step.
      num_iter_y: refits per y-step.
      num_samples_x: candidates per refit.
      num_samples_y: candidates per refit.
      num_elites_x: candidates refitted to.
      num_elites_y: candidates refitted to.
      num_fixed_elites_x: agents that each y-step attacks.
      num_fixed_elites_y: E, adversaries that each x-step must withstand.
      exponent_x: of the noise spectrum along time; 0 is white.
      exponent_y: the same for the adversary; a model's error lasts, so red noise.
      init_std_x: std of the first refit of a decision.
      init_std_y: std of the first refit of every y-step.
      std_spread_x: the candidates of an x-step's first refit are drawn with stds from
        its own down to that divided by `std_spread_x`, evenly in the logarithm. Where
        little is known only gentle plans are feasible, and wide noise proposes none.
      std_decay: the x-step of outer iteration k starts at init_std_x std_decay^k.
      min_std: floor of both stds.
      mode: `worst_case` (max over the E adversaries) or `mean` (their average, as the
        reference study has it).
      corners: also try adversaries at the corners of [-1, 1]^D, for one step, a
        quarter of the horizon and all of it.
      verify: attack the final candidates once more and choose among them by what the
        attack found.
      gradient_steps: steps of signed gradient ascent that end every y-step, from the
        worst adversary of each agent and constraint, through the model; 0 is off.
      gradient_step_size: length of such a step in the box [-1, 1].
      random_elites: refit both players to candidates drawn at random; an ablation.
    """

    iterations: int = 2
    horizon: int = 20
    num_iter_x: int = 2
    num_iter_y: int = 2
    num_samples_x: int = 32
    num_samples_y: int = 16
    num_elites_x: int = 6
    num_elites_y: int = 5
    num_fixed_elites_x: int = 2
    num_fixed_elites_y: int = 3
    exponent_x: float = 2.0
    exponent_y: float = 2.0
    init_std_x: float = 5.0
    init_std_y: float = 1.0
    std_spread_x: float = 50.0
    std_decay: float = 0.5
    min_std: float = 0.02
    mode: str = "worst_case"
    corners: bool = True
    verify: bool = True
    gradient_steps: int = 0
    gradient_step_size: float = 0.5
    random_elites: bool = False

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        if self.mode not in MINMAX_MODES:
            raise ValueError(f"mode must be one of {MINMAX_MODES}, got {self.mode!r}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "gradient_steps" else 1
            if field.type is int and not value >= least:
                raise ValueError(f"{field.name} must be >= {least}, got {value}")
        for player in "xy":
            num_samples = getattr(self, f"num_samples_{player}")
            for name in (f"num_elites_{player}", f"num_fixed_elites_{player}"):
                if getattr(self, name) > num_samples:
                    raise ValueError(
                        f"{name} must not exceed num_samples_{player}, got "
                        f"{getattr(self, name)} of {num_samples} samples"
                    )
            if getattr(self, f"exponent_{player}") < 0:
                raise ValueError(
                    f"exponent_{player} must be >= 0, got "
                    f"{getattr(self, f'exponent_{player}')}"
                )
        require_positive(self, ("init_std_x", "init_std_y", "min_std", "std_decay"))
        require_at_least(1, self, ("std_spread_x",))
        require_positive(self, ("gradient_step_size",))


@dataclasses.dataclass(frozen=True)
class MPPIConfig(CEMConfig):
    """Budget of path-integral control.

    Attributes:
      temperature: of the weights `exp(value / temperature)` of the elites, in the unit
        of the value (mean reward per step).
      exponent: of the noise spectrum `1 / f^exponent` along time; 0 is white.
    """

    num_iter: int = 6
    num_elites: int = 64
    num_samples: int = 512
    init_std: float = 1.0
    min_std: float = 0.05
    alpha: float = 0.1
    temperature: float = 0.5
    exponent: float = 0.0

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
        require_positive(self, ("temperature",))
        require_at_least(0, self, ("exponent",))
