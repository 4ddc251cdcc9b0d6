"""Every hyper-parameter of the package, in frozen dataclasses that check themselves.

This file imports nothing but the standard library: a launcher reads and refuses a
configuration before it waits for JAX. What the settings do is in the classes that take
them. The tuples name the choices that those classes offer.
"""

import dataclasses
from collections.abc import Iterable

ACTIVATIONS = ("algebraic_swish", "swish", "tanh", "relu")
CALIBRATION_METHODS = ("none", "kuleshov", "conformal")
MINMAX_MODES = ("worst_case", "mean")
PLAN_DTYPES = ("float32", "bfloat16")
PENALTIES = ("relu", "huber", "quadratic", "exponential")
SAMPLING_MODES = ("MEAN", "NOISY_MEAN", "DIST", "TS1", "TSInf")
SCHEDULE_KINDS = ("constant", "linear", "sigmoid")


def require_at_least(least: int, config: object, names: Iterable[str]) -> None:
    """Raises ValueError on the first named field below `least`; NaN is below."""
    for name in names:
        if not getattr(config, name) >= least:
            raise ValueError(f"{name} must be >= {least}, got {getattr(config, name)}")


def require_positive(config: object, names: Iterable[str]) -> None:
    """Raises ValueError on the first named field that is not above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be > 0, got {getattr(config, name)}")


@dataclasses.dataclass(frozen=True)
class PendulumConfig:
    """Task and physics of the pendulum, as written in the YAML.

    Attributes:
      action_cost: weight of the squared torque in the reward [1/(N m)^2].
      angle_tolerance: |theta| counted as upright [rad].
      stability_duration: consecutive upright steps that end the task.
      max_steps: time limit of an episode [steps].
      max_speed: physical speed clip of the simulator [rad/s].
      gravity: gravitational acceleration [m/s^2].
      mass: mass of the rod [kg].
      length: length of the rod [m].
      dt: integration step [s].
      max_torque: torque at action 1 [N m].
      process_noise_std: std of the Gaussian speed disturbance per step [rad/s].
      observation_noise_std: std of the Gaussian noise on each observation.
    """

    action_cost: float = 0.001
    angle_tolerance: float = 0.1
    stability_duration: int = 10
    max_steps: int = 200
    max_speed: float = 12.0
    gravity: float = 10.0
    mass: float = 1.0
    length: float = 1.0
    dt: float = 0.05
    max_torque: float = 2.0
    process_noise_std: float = 0.0
    observation_noise_std: float = 0.0

    def __post_init__(self) -> None:
        """Refuses values no pendulum can have.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        require_positive(self, ("mass", "length", "dt", "max_torque", "max_speed"))
        require_at_least(
            0, self, ("process_noise_std", "observation_noise_std", "action_cost")
        )
        require_at_least(1, self, ("max_steps", "stability_duration"))


@dataclasses.dataclass(frozen=True)
class CartpoleConfig:
    """Task and physics of the cart-pole.

    Attributes:
      sparse: reward only near upright and at the centre.
      max_steps: time limit of an episode [steps].
      dt: control step [s].
      substeps: integration steps in a control step.
      gravity: gravitational acceleration [m/s^2].
      cart_mass: [kg].
      pole_mass: of a uniform rod [kg].
      pole_length: [m].
      max_force: force at action 1 [N].
      rail: half-length of the track, where the cart stops dead [m].
      process_noise_std: std of the Gaussian disturbance of both speeds per control
        step [m/s and rad/s].
      observation_noise_std: std of the Gaussian noise on each observation.
    """

    sparse: bool = False
    max_steps: int = 200
    dt: float = 0.05
    substeps: int = 5
    gravity: float = 9.81
    cart_mass: float = 1.0
    pole_mass: float = 0.1
    pole_length: float = 1.0
    max_force: float = 10.0
    rail: float = 1.8
    process_noise_std: float = 0.0
    observation_noise_std: float = 0.0

    def __post_init__(self) -> None:
        """Refuses values no cart-pole can have.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        require_positive(
            self, ("dt", "cart_mass", "pole_mass", "pole_length", "max_force")
        )
        if not self.rail > 0:
            raise ValueError(f"rail must be > 0, got {self.rail}")
        require_at_least(
            0, self, ("process_noise_std", "observation_noise_std", "gravity")
        )
        require_at_least(1, self, ("max_steps", "substeps"))


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """Architecture and training of an ensemble.

    Attributes:
      features: widths of the hidden layers.
      activation: one of `ACTIVATIONS`.
      num_ensembles: E, number of members.
      output_stds: fixed noise std of a deterministic ensemble, in the unit of each
        output; one number or one per output.
      min_std: smallest learned noise std of a probabilistic ensemble, in units of the
        std of the targets.
      num_training_steps: most minibatch steps per fit.
      batch_size: rows per minibatch and member.
      lr_rate: peak learning rate of Adam, decayed to 5 % over the fit by a cosine.
      weight_decay: precision of the Gaussian prior on the weights, as a multiple of
        their fan-in; its share in the loss falls as data come in, and where noise is
        small the likelihood outweighs it. It keeps extrapolation smooth.
      train_share: share of the data that is trained on; half of the rest stops early
        and calibrates, the other half measures coverage.
      eval_frequency: steps between held-out evaluations.
      eval_batch_size: most held-out rows used to evaluate and to calibrate.
      patience: evaluations without improvement that end a fit; 0 never ends it early.
      return_best_model: keep the parameters of the best held-out likelihood instead of
        the last ones.
      plan_dtype: `float32`, or `bfloat16` for the products and activations of the
        hidden layers in every prediction, calibration and coverage included; training
        stays in float32.
      prior_scale: scale of a fixed random function added to each member, in units of
        the std of the targets (randomised priors, Osband et al. 2018,
        arXiv 1806.03335). It keeps members apart where there is no data; 0 is off.
    """

    features: tuple[int, ...] = (64, 64)
    activation: str = "algebraic_swish"
    num_ensembles: int = 5
    output_stds: tuple[float, ...] = (1e-2,)
    min_std: float = 1e-2
    num_training_steps: int = 2000
    batch_size: int = 64
    lr_rate: float = 5e-3
    weight_decay: float = 0.2
    train_share: float = 0.8
    eval_frequency: int = 100
    eval_batch_size: int = 512
    patience: int = 10
    return_best_model: bool = True
    plan_dtype: str = "float32"
    prior_scale: float = 0.0

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        if not self.features or min(self.features) < 1:
            raise ValueError(f"features must be positive widths, got {self.features}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {ACTIVATIONS}, got {self.activation!r}"
            )
        if self.plan_dtype not in PLAN_DTYPES:
            raise ValueError(
                f"plan_dtype must be one of {PLAN_DTYPES}, got {self.plan_dtype!r}"
            )
        if self.num_ensembles < 2:
            raise ValueError(
                "num_ensembles must be >= 2, a single member has no epistemic std; "
                f"got {self.num_ensembles}"
            )
        if not self.output_stds or min(self.output_stds) <= 0:
            raise ValueError(f"output_stds must be > 0, got {self.output_stds}")
        if not 0.0 < self.train_share < 1.0:
            raise ValueError(f"train_share must lie in (0, 1), got {self.train_share}")
        require_at_least(
            1,
            self,
            (
                "num_training_steps",
                "batch_size",
                "eval_frequency",
                "eval_batch_size",
            ),
        )
        require_positive(self, ("lr_rate", "min_std"))
        require_at_least(0, self, ("weight_decay", "prior_scale", "patience"))


@dataclasses.dataclass(frozen=True)
class CalibrationConfig:
    """How the stds are rescaled after each fit.

    Attributes:
      method: `none`, `kuleshov` (match the predicted CDF) or `conformal` (meet a
        target coverage).
      target_coverage: share of errors that the conformal band must hold, two-sided.
      min_scale: smallest scale allowed; 1 means that calibration may only widen.
      max_scale: largest scale allowed.
      num_calibration_ps: CDF levels matched by `kuleshov`.
      num_test_alphas: candidate scales tried by `kuleshov`, evenly in (0, max_scale].
      prequential: also calibrate on each new episode before it is learned, and take
        the larger scale. A held-out part of old data says nothing of where the agent
        goes next; the last episode's surprises do.
      prequential_memory: share of an older surprise that is left after each fit.
    """

    method: str = "conformal"
    target_coverage: float = 0.95
    min_scale: float = 1.0
    max_scale: float = 10.0
    num_calibration_ps: int = 20
    num_test_alphas: int = 100
    prequential: bool = True
    prequential_memory: float = 0.7

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        if self.method not in CALIBRATION_METHODS:
            raise ValueError(
                f"method must be one of {CALIBRATION_METHODS}, got {self.method!r}"
            )
        if not 0.0 < self.target_coverage < 1.0:
            raise ValueError(
                f"target_coverage must lie in (0, 1), got {self.target_coverage}"
            )
        if not 0.0 <= self.min_scale <= self.max_scale:
            raise ValueError(
                "min_scale must lie in [0, max_scale], got "
                f"{self.min_scale} with max_scale {self.max_scale}"
            )
        if not 0.0 <= self.prequential_memory <= 1.0:
            raise ValueError(
                f"prequential_memory must lie in [0, 1], got {self.prequential_memory}"
            )
        require_at_least(2, self, ("num_calibration_ps", "num_test_alphas"))


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
      horizon_x: H [steps].
      horizon_y: H of the adversary, the same.
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
      std_decay: the x-step of outer iteration k starts at init_std_x std_decay^k.
      min_std: floor of both stds.
      mode: `worst_case` (max over the E adversaries) or `mean` (their average, as the
        reference study has it).
      corners: also try adversaries that are constant in time at the corners of
        [-1, 1]^D.
      verify: attack the final candidates once more and choose among them by what the
        attack found.
    """

    iterations: int = 2
    horizon_x: int = 20
    horizon_y: int = 20
    num_iter_x: int = 2
    num_iter_y: int = 2
    num_samples_x: int = 40
    num_samples_y: int = 24
    num_elites_x: int = 6
    num_elites_y: int = 5
    num_fixed_elites_x: int = 2
    num_fixed_elites_y: int = 3
    exponent_x: float = 2.0
    exponent_y: float = 2.0
    init_std_x: float = 5.0
    init_std_y: float = 1.0
    std_decay: float = 0.5
    min_std: float = 0.02
    mode: str = "worst_case"
    corners: bool = True
    verify: bool = True

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        if self.mode not in MINMAX_MODES:
            raise ValueError(f"mode must be one of {MINMAX_MODES}, got {self.mode!r}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and not value >= 1:
                raise ValueError(f"{field.name} must be >= 1, got {value}")
        if self.horizon_x != self.horizon_y:
            raise ValueError(
                "horizon_x and horizon_y must be equal, the adversary acts at every "
                f"step; got {self.horizon_x} and {self.horizon_y}"
            )
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
    final: float = 3.0
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
class MPCConfig:
    """Confidence widths of the planner.

    Attributes:
      beta: confidence width, one number or one per observation dimension: the model
        claims that the truth lies within `beta` calibrated epistemic stds.
      pes_alpha: the adversary's multiple of `beta` stds, before its schedule.
      opt_alpha: the optimistic agent's multiple of `beta` stds, before its schedule.
      pes_schedule: how `pes_alpha` changes over episodes.
      opt_schedule: how `opt_alpha` changes over episodes.
    """

    beta: tuple[float, ...] = (1.0,)
    pes_alpha: float = 2.0
    opt_alpha: float = 1.0
    pes_schedule: ScheduleConfig = ScheduleConfig()
    opt_schedule: ScheduleConfig = ScheduleConfig()

    def __post_init__(self) -> None:
        """Refuses negative widths.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        if not self.beta or min(self.beta) < 0:
            raise ValueError(f"beta must be >= 0, got {self.beta}")
        require_at_least(0, self, ("pes_alpha", "opt_alpha"))


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How much is collected.

    Attributes:
      num_model_updates: planned episodes; the model is fitted after each.
      num_rollout_steps: steps of a planned episode.
      num_exploration_steps: random steps before the first fit.
      buffer_size: most transitions kept; must hold the whole run.
      val_buffer_size: transitions far from the data on which out-of-distribution
        coverage is measured; the model never sees them.
    """

    num_model_updates: int = 8
    num_rollout_steps: int = 200
    num_exploration_steps: int = 100
    buffer_size: int = 30000
    val_buffer_size: int = 500

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(
                    f"{field.name} must be >= 1, got {getattr(self, field.name)}"
                )
        if self.num_exploration_steps < 50:
            raise ValueError(
                "num_exploration_steps must be >= 50, so that every part of the first "
                f"train, calibrate and test split has data; got "
                f"{self.num_exploration_steps}"
            )
        if self.capacity > self.buffer_size:
            raise ValueError(
                f"buffer_size must hold the whole run of {self.capacity} transitions, "
                f"got {self.buffer_size}"
            )

    @property
    def capacity(self) -> int:
        """Transitions of the whole run."""
        planned = self.num_model_updates * self.num_rollout_steps
        return self.num_exploration_steps + planned
