"""Every hyper-parameter of the package, in frozen dataclasses that check themselves.

This file imports nothing but the standard library: a launcher reads and refuses a
configuration before it waits for JAX. What the settings do is in the classes that take
them. The tuples name the choices that those classes offer.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

BACKUPS = ("least_margin", "policy")
COST_RISKS = ("mean", "max", "cvar", "ucb", "members")
EXPLORATION_OBJECTIVES = ("reward", "information_gain", "epistemic_std")
TERMINAL_VALUES = ("none", "backup", "env")
ACTIVATIONS = ("algebraic_swish", "swish", "tanh", "relu")
CALIBRATION_METHODS = ("none", "kuleshov", "conformal")
CONFIDENCES = ("constant", "information_gain")
KERNELS = ("rbf", "matern52")
MINMAX_MODES = ("worst_case", "mean")
PLAN_DTYPES = ("float32", "bfloat16")
PENALTIES = ("relu", "huber", "quadratic", "exponential")
SAMPLING_MODES = ("MEAN", "NOISY_MEAN", "DIST", "TS1", "TSInf")
SCHEDULE_KINDS = ("constant", "linear", "sigmoid")
SUBSETS = ("none", "newest", "farthest")
# Sections of an experiment that decide no number of it: where its files go and who
# watches it. So does, but for rounding, how `job` shares the machine.
NO_NUMBERS = (
    "launcher",
    "results_dir",
    "wandb",
    "tensorboard",
    "render",
    "verbose",
)
SHARES = (
    "seeds_per_process",
    "cores_per_decision",
    "num_cpus",
    "num_gpus",
    "mem",
    "time",
)


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


def _require_below_bound(config: object, name: str, bound: str) -> None:
    """Raises ValueError on a field above the field that bounds it; NaN is above."""
    if not getattr(config, name) <= getattr(config, bound):
        raise ValueError(
            f"{name} must not exceed {bound}, got {getattr(config, name)} with "
            f"{bound} {getattr(config, bound)}"
        )


def _require_noise(config: Any, obs_dim: int) -> None:
    """Raises ValueError unless `observation_noise_std` is one number >= 0 or D such."""
    std = config.observation_noise_std
    each = std if isinstance(std, tuple) else (std,) * obs_dim
    if len(each) != obs_dim or not all(value >= 0 for value in each):
        raise ValueError(
            f"observation_noise_std must be one number >= 0 or {obs_dim}, got {std}"
        )


def changed(config: Any, changes: Mapping[str, object]) -> Any:
    """A copy of a dataclass with some fields replaced, and checked again.

    Raises:
      TypeError: names the fields that it does not have.
      ValueError: a value is impossible.
    """
    allowed = [field.name for field in dataclasses.fields(config)]
    unknown = sorted(set(changes) - set(allowed))
    if unknown:
        raise TypeError(f"unknown arguments {unknown}, allowed: {allowed}")
    return dataclasses.replace(config, **changes)


@dataclasses.dataclass(frozen=True)
class PendulumConfig:
    """Task and physics of the pendulum, as written in the YAML.

    Attributes:
      speed_threshold: largest |omega| that costs nothing [rad/s].
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

    speed_threshold: float = 6.0
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
        require_positive(
            self,
            ("speed_threshold", "mass", "length", "dt", "max_torque", "max_speed"),
        )
        require_at_least(
            0, self, ("process_noise_std", "observation_noise_std", "action_cost")
        )
        require_at_least(1, self, ("max_steps", "stability_duration"))


@dataclasses.dataclass(frozen=True)
class CartpoleConfig:
    """Task and physics of the cart-pole.

    Attributes:
      slider_limit: largest |x| that costs nothing [m].
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

    slider_limit: float = 0.5
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
            self,
            ("slider_limit", "rail", "dt", "cart_mass", "pole_mass", "pole_length"),
        )
        require_positive(self, ("max_force",))
        require_at_least(
            0, self, ("process_noise_std", "observation_noise_std", "gravity")
        )
        require_at_least(1, self, ("max_steps", "substeps"))


@dataclasses.dataclass(frozen=True)
class PitchControlConfig:
    """Task and physics of the aircraft's pitch.

    The stability derivatives are named `x_y`: what a unit of y adds to the rate of x,
    of the angle of attack alpha [rad], the pitch rate q, the pitch angle theta [rad]
    and the elevator u [rad]. q is in units in which theta changes by `theta_q` q a
    second.

    Attributes:
      max_angle: largest theta that costs nothing [rad].
      target_angle: theta to be reached [rad], at most `max_angle`.
      start_angle: theta at the start [rad].
      angle_cost: weight of the squared error of theta in the reward [1/rad^2].
      action_cost: weight of the squared elevator angle in the reward [1/rad^2].
      angle_tolerance: error of theta that counts as there [rad].
      stability_duration: consecutive steps there that end the task.
      max_steps: time limit of an episode [steps].
      dt: control step [s].
      max_elevator: elevator angle at action 1 [rad].
      alpha_alpha: [1/s].
      alpha_q: [1/s].
      alpha_u: [1/s].
      q_alpha: [1/s].
      q_q: [1/s].
      q_u: [1/s].
      theta_q: [1/s].
      process_noise_std: std of the Gaussian disturbance of q per step.
      observation_noise_std: std of the Gaussian noise on each observation.
    """

    max_angle: float = 0.0
    target_angle: float = 0.0
    start_angle: float = -0.2
    angle_cost: float = 2.0
    action_cost: float = 0.02
    angle_tolerance: float = 0.025
    stability_duration: int = 20
    max_steps: int = 200
    dt: float = 0.05
    max_elevator: float = 1.4
    alpha_alpha: float = -0.313
    alpha_q: float = 56.7
    alpha_u: float = 0.232
    q_alpha: float = -0.0139
    q_q: float = -0.426
    q_u: float = 0.0203
    theta_q: float = 56.7
    process_noise_std: float = 0.0
    observation_noise_std: float = 0.0

    def __post_init__(self) -> None:
        """Refuses values no such task can have.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        require_positive(self, ("dt", "max_elevator", "angle_tolerance"))
        require_at_least(
            0,
            self,
            (
                "process_noise_std",
                "observation_noise_std",
                "angle_cost",
                "action_cost",
            ),
        )
        require_at_least(1, self, ("max_steps", "stability_duration"))
        for name in ("target_angle", "start_angle"):
            if not getattr(self, name) <= self.max_angle:
                raise ValueError(
                    f"{name} must be <= max_angle {self.max_angle}, "
                    f"got {getattr(self, name)}"
                )


@dataclasses.dataclass(frozen=True)
class CarParkConfig:
    """Task and physics of the car that parks in front of a wall.

    Attributes:
      max_position: largest position that costs nothing [m].
      goal: position to stop at [m].
      goal_tolerance: distance from the goal that counts as there [m].
      stability_duration: consecutive steps there that end the task.
      max_steps: time limit of an episode [steps].
      dt: control step [s].
      mass: [kg].
      gravity: gravitational acceleration [m/s^2].
      static_friction: coefficient that holds the car at rest.
      kinetic_friction: coefficient that slows it, at most the static one.
      max_force: force at action 1 [N].
      road: |position| where the car stops dead [m].
      process_noise_std: std of the Gaussian disturbance of the speed per step [m/s].
      observation_noise_std: std of the Gaussian noise on each observation.
    """

    max_position: float = 3.05
    goal: float = 3.0
    goal_tolerance: float = 0.05
    stability_duration: int = 10
    max_steps: int = 200
    dt: float = 0.05
    mass: float = 1.0
    gravity: float = 9.81
    static_friction: float = 0.4
    kinetic_friction: float = 0.2
    max_force: float = 6.0
    road: float = 5.0
    process_noise_std: float = 0.0
    observation_noise_std: float = 0.0

    def __post_init__(self) -> None:
        """Refuses values no car can have.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        require_positive(
            self, ("max_position", "goal_tolerance", "dt", "mass", "max_force", "road")
        )
        require_at_least(
            0,
            self,
            (
                "process_noise_std",
                "observation_noise_std",
                "gravity",
                "kinetic_friction",
            ),
        )
        require_at_least(1, self, ("max_steps", "stability_duration"))
        if not self.static_friction >= self.kinetic_friction:
            raise ValueError(
                f"static_friction must be >= kinetic_friction {self.kinetic_friction}, "
                f"got {self.static_friction}"
            )
        if not self.goal <= self.max_position <= self.road:
            raise ValueError(
                f"max_position must be between goal {self.goal} and road {self.road}, "
                f"got {self.max_position}"
            )


@dataclasses.dataclass(frozen=True)
class RCCarConfig:
    """Task and physics of the remote-controlled car.

    `RC_CAR_ON_TYRES` is a preset of a car that slips.

    Attributes:
      x_low: left end of the box that costs nothing [m].
      x_high: right end of it [m].
      y_low: lower end of it [m].
      y_high: upper end of it [m].
      start: x [m], y [m] and heading [rad] about which an episode begins.
      goal: x [m], y [m] and heading [rad] to stop at.
      action_cost: weight of the squared action in the reward.
      max_steps: time limit of an episode [steps].
      dt: control step [s].
      substeps: integration steps in a control step.
      tyres: blend the tyre forces in; without, the car never slips.
      gravity: gravitational acceleration [m/s^2].
      mass: [kg].
      inertia: of yaw [kg m^2].
      front_length: from the centre of mass to the front axle [m].
      rear_length: from the centre of mass to the rear axle [m].
      max_steer: steering angle at action 1 [rad].
      motor_gain: force of the motor at throttle 1 [N].
      motor_damping: its square is the loss of that force with speed [N s/m].
      drag: its square is the loss with squared speed [N s^2/m^2].
      slip_lag: time in which a rolling car follows its steering [s].
      front_b: stiffness of the front tyres [1/rad].
      front_c: shape of the front tyres.
      front_d: peak force of the front tyres, over gravity [kg].
      rear_b: stiffness of the rear tyres [1/rad].
      rear_c: shape of the rear tyres.
      rear_d: peak force of the rear tyres, over gravity [kg].
      blend_start: forward speed from which on tyre forces enter [m/s].
      blend_end: forward speed from which on they alone count [m/s].
      process_noise_std: std of the Gaussian disturbance of the velocities and of the
        yaw rate per control step [m/s and rad/s].
      observation_noise_std: std of the Gaussian noise on each observation; one number
        or one for each of the seven, as in `RC_CAR_SENSORS`.
    """

    x_low: float = -0.25
    x_high: float = 1.62
    y_low: float = -1.22
    y_high: float = 0.25
    start: tuple[float, float, float] = (1.42, -1.02, 3.141592653589793)
    goal: tuple[float, float, float] = (0.0, 0.0, 0.0)
    action_cost: float = 0.005
    max_steps: int = 200
    dt: float = 1.0 / 15.0
    substeps: int = 8
    tyres: bool = False
    gravity: float = 9.81
    mass: float = 1.65
    inertia: float = 0.01
    front_length: float = 0.13
    rear_length: float = 0.17
    max_steer: float = 0.6
    motor_gain: float = 8.0
    motor_damping: float = 1.5
    drag: float = 0.0
    slip_lag: float = 1.0 / 90.0
    front_b: float = 2.58
    front_c: float = 1.2
    front_d: float = 0.02
    rear_b: float = 5.0
    rear_c: float = 1.27
    rear_d: float = 0.017
    blend_start: float = 0.1
    blend_end: float = 0.3
    process_noise_std: float = 0.0
    observation_noise_std: float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        """Refuses values no car can have.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        require_positive(
            self,
            (
                "dt",
                "mass",
                "inertia",
                "front_length",
                "rear_length",
                "max_steer",
                "motor_gain",
                "slip_lag",
                "blend_start",
            ),
        )
        require_at_least(
            0, self, ("process_noise_std", "action_cost", "motor_damping", "drag")
        )
        require_at_least(1, self, ("max_steps", "substeps"))
        _require_noise(self, 7)
        for name, least in (
            ("x_high", self.x_low),
            ("y_high", self.y_low),
            ("blend_end", self.blend_start),
        ):
            if not getattr(self, name) > least:
                raise ValueError(f"{name} must be > {least}, got {getattr(self, name)}")
        for name in ("start", "goal"):
            x, y, _ = getattr(self, name)
            inside = self.x_low <= x <= self.x_high and self.y_low <= y <= self.y_high
            if not inside:
                raise ValueError(
                    f"{name} must be inside of the box, got {getattr(self, name)}"
                )


# The study's table of a more realistic car (number 2): tyres that slip.
RC_CAR_ON_TYRES = RCCarConfig(
    tyres=True,
    inertia=0.06,
    motor_gain=8.2,
    motor_damping=1.25,
    front_b=2.75,
    front_c=1.45,
    front_d=0.4,
    rear_b=5.0,
    rear_c=1.3,
    rear_d=0.3,
)
# The study's sensors, 0.1 exp(-4.5, -4.5, -4, -2.5, -2.5, -1) for x, y, theta, vx, vy
# and omega, in the order of the observation.
RC_CAR_SENSORS = (0.0011, 0.0011, 0.0018, 0.0018, 0.0082, 0.0082, 0.0368)


@dataclasses.dataclass(frozen=True)
class PointGoalConfig:
    """Task and physics of the robot among hazards.

    Attributes:
      num_hazards: discs that cost.
      hazard_radius: [m].
      layout_seed: seed of the map, which is drawn once and known to every planner.
      arena: half-width of the square in which hazards and goals lie [m].
      start: x [m] and y [m] about which an episode begins.
      goal: x [m] and y [m] of the goal.
      random_goal: draw the goal anew at each reset.
      goal_radius: [m].
      goal_bonus: reward of each step inside of the goal.
      max_steps: time limit of an episode [steps].
      dt: control step [s].
      substeps: integration steps in a control step.
      mass: [kg].
      drag: force against a speed of 1 m/s [N].
      max_force: force along the heading at action 1 [N].
      max_turn: yaw rate that action 1 asks for [rad/s].
      turn_lag: time in which the yaw rate follows [s].
      lidar: observe the closeness of hazards and goal in bins around the robot.
      lidar_bins: bins of each of the two.
      lidar_range: distance at which closeness is 0 [m].
      process_noise_std: std of the Gaussian disturbance of the velocities and of the
        yaw rate per control step [m/s and rad/s].
      observation_noise_std: std of the Gaussian noise on each observation.
    """

    num_hazards: int = 8
    hazard_radius: float = 0.2
    layout_seed: int = 0
    arena: float = 1.5
    start: tuple[float, float] = (-1.2, -1.2)
    goal: tuple[float, float] = (1.2, 1.2)
    random_goal: bool = False
    goal_radius: float = 0.3
    goal_bonus: float = 0.1
    max_steps: int = 100
    dt: float = 0.1
    substeps: int = 4
    mass: float = 1.0
    drag: float = 1.0
    max_force: float = 1.5
    max_turn: float = 3.0
    turn_lag: float = 0.2
    lidar: bool = False
    lidar_bins: int = 16
    lidar_range: float = 3.0
    process_noise_std: float = 0.0
    observation_noise_std: float = 0.0

    def __post_init__(self) -> None:
        """Refuses values no such task can have.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        require_positive(
            self,
            (
                "hazard_radius",
                "arena",
                "goal_radius",
                "dt",
                "mass",
                "max_force",
                "max_turn",
                "turn_lag",
                "lidar_range",
            ),
        )
        require_at_least(
            0,
            self,
            (
                "layout_seed",
                "goal_bonus",
                "drag",
                "process_noise_std",
                "observation_noise_std",
            ),
        )
        require_at_least(1, self, ("num_hazards", "max_steps", "substeps"))
        require_at_least(3, self, ("lidar_bins",))
        for name in ("start", "goal"):
            if not all(abs(value) <= self.arena for value in getattr(self, name)):
                raise ValueError(
                    f"{name} must be within ±arena {self.arena}, "
                    f"got {getattr(self, name)}"
                )


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """Which rows a learned model is trained on, and how many judge it.

    Attributes:
      train_share: share of the data that is trained on; half of the rest stops early
        and calibrates, the other half measures coverage.
      eval_batch_size: most held-out rows used to evaluate and to calibrate.
    """

    train_share: float = 0.8
    eval_batch_size: int = 512

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        if not 0.0 < self.train_share < 1.0:
            raise ValueError(f"train_share must lie in (0, 1), got {self.train_share}")
        require_at_least(1, self, ("eval_batch_size",))


@dataclasses.dataclass(frozen=True)
class NetworkConfig(SplitConfig):
    """Architecture and training of the networks of a learned model.

    Attributes:
      features: widths of the hidden layers.
      activation: one of `ACTIVATIONS`.
      min_std: smallest learned noise std, in units of the std of the targets.
      num_training_steps: most minibatch steps per fit.
      batch_size: rows per minibatch and member.
      lr_rate: peak learning rate of Adam, decayed to 5 % over the fit by a cosine.
      weight_decay: precision of the Gaussian prior on the weights, as a multiple of
        their fan-in; its share in the loss falls as data come in, and where noise is
        small the likelihood outweighs it. It keeps extrapolation smooth; too much of
        it, and what takes many weights to say is called noise.
      nll_beta: where the noise is learned, each output's likelihood is weighted by
        `std^(2 beta)` in training, so that outputs known early do not drown the others;
        0 is plain likelihood. The weight prior then weighs the more the less noise
        there is, by `1 / std^(2 beta)`.
      eval_frequency: steps between held-out evaluations.
      patience: evaluations without improvement that end a fit; 0 never ends it early.
      return_best_model: keep the parameters of the best held-out likelihood instead of
        the last ones.
      plan_dtype: `float32`, or `bfloat16` for the products and activations of the
        hidden layers in every prediction, calibration and coverage included; training
        stays in float32.
    """

    features: tuple[int, ...] = (64, 64)
    activation: str = "algebraic_swish"
    min_std: float = 1e-2
    num_training_steps: int = 2000
    batch_size: int = 64
    lr_rate: float = 5e-3
    weight_decay: float = 0.02
    nll_beta: float = 0.5
    eval_frequency: int = 100
    patience: int = 10
    return_best_model: bool = True
    plan_dtype: str = "float32"

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
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
        require_at_least(
            1, self, ("num_training_steps", "batch_size", "eval_frequency")
        )
        require_positive(self, ("lr_rate", "min_std"))
        require_at_least(0, self, ("weight_decay", "patience", "nll_beta"))


@dataclasses.dataclass(frozen=True)
class EnsembleConfig(NetworkConfig):
    """What an ensemble has beyond its networks.

    Attributes:
      num_ensembles: E, number of members.
      output_stds: fixed noise std of a deterministic ensemble, in the unit of each
        output; one number or one per output.
      prior_scale: scale of a fixed random function added to each member, in units of
        the std of the targets (randomised priors, Osband et al. 2018,
        arXiv 1806.03335). It keeps members apart where there is no data; 0 is off.
    """

    num_ensembles: int = 5
    output_stds: tuple[float, ...] = (1e-2,)
    prior_scale: float = 0.0

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
        if self.num_ensembles < 2:
            raise ValueError(
                "num_ensembles must be >= 2, a single member has no epistemic std; "
                f"got {self.num_ensembles}"
            )
        if not self.output_stds or min(self.output_stds) <= 0:
            raise ValueError(f"output_stds must be > 0, got {self.output_stds}")
        require_at_least(0, self, ("prior_scale",))


@dataclasses.dataclass(frozen=True)
class FSVGDConfig(EnsembleConfig):
    """What functional SVGD has beyond an ensemble.

    Attributes:
      weight_decay: as of an ensemble; 0, because the function prior is in its place.
      nll_beta: 0, members follow a posterior, which has no weights.
      num_measurements: M, points at which members are compared, uniform around and
        beyond the data, drawn anew every `eval_frequency` steps.
      measurement_margin: how far beyond the range of the inputs these points lie, as a
        share of that range, on either side.
      prior_lengthscale: of the Gaussian process that is the prior over functions, in
        stds of the inputs, for distances per dimension.
      prior_std: of that process, in stds of the targets.
      prior_weight: multiple of the prior's log density; 0 switches it off.
      prior_jitter: share of white noise in the prior.
      bandwidth: of the repulsion, as a multiple of the median heuristic.
    """

    weight_decay: float = 0.0
    nll_beta: float = 0.0
    num_measurements: int = 32
    measurement_margin: float = 0.5
    prior_lengthscale: float = 0.5
    prior_std: float = 1.0
    prior_weight: float = 1.0
    prior_jitter: float = 1e-2
    bandwidth: float = 1.0

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
        if self.nll_beta != 0:
            raise ValueError(
                "nll_beta must be 0, the members of FSVGD follow a posterior; "
                f"got {self.nll_beta}"
            )
        require_at_least(1, self, ("num_measurements",))
        require_at_least(0, self, ("measurement_margin", "prior_weight"))
        require_positive(
            self, ("prior_lengthscale", "prior_std", "prior_jitter", "bandwidth")
        )


@dataclasses.dataclass(frozen=True)
class GaussianProcessConfig(SplitConfig):
    """Kernel, training and size of an exact Gaussian process.

    Attributes:
      kernel: one of `KERNELS`, with a lengthscale for every input.
      noise_std: where the training of the noise std starts, and what it is drawn to
        while data are few, in stds of the targets.
      min_std: smallest noise std, in stds of the targets. It also keeps the kernel
        matrix invertible: below 0.01 the digits of float32 may not do.
      num_training_steps: steps of Adam on the marginal likelihood per fit.
      lr_rate: peak learning rate of Adam, decayed to 5 % over the fit by a cosine.
      num_hyper_rows: most rows, drawn at random, that hyper-parameters are trained on.
      max_data: M, most rows that are conditioned on; a fit costs M^3, a prediction M^2.
      subset: which rows, if there are more: `newest`, `farthest` (that cover all), or
        `none` to refuse such a run before it starts.
      confidence: `constant`, one posterior std is one epistemic std; or
        `information_gain`, the epistemic std is the width of the band that holds the
        truth with probability `1 - delta`.
      f_norm_bound: bound on the norm of the true function in the kernel's space, in
        stds of the targets, for `information_gain`.
      delta: probability that the truth leaves that band anywhere, at any time.
    """

    kernel: str = "rbf"
    noise_std: float = 0.1
    min_std: float = 1e-2
    num_training_steps: int = 100
    lr_rate: float = 0.1
    num_hyper_rows: int = 256
    max_data: int = 1500
    subset: str = "none"
    confidence: str = "constant"
    f_norm_bound: float = 1.0
    delta: float = 0.1

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
        for name, choices in (
            ("kernel", KERNELS),
            ("subset", SUBSETS),
            ("confidence", CONFIDENCES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {choices}, got {getattr(self, name)!r}"
                )
        require_positive(self, ("noise_std", "min_std", "lr_rate"))
        require_at_least(1, self, ("num_training_steps", "num_hyper_rows", "max_data"))
        require_at_least(0, self, ("f_norm_bound",))
        if not 0.0 < self.delta < 1.0:
            raise ValueError(f"delta must lie in (0, 1), got {self.delta}")


@dataclasses.dataclass(frozen=True)
class LastLayerConfig(NetworkConfig):
    """What a Bayesian last layer has beyond its network.

    Attributes:
      num_samples: E, weights drawn from the posterior at each fit; they are the members
        that the sampling modes `TS1` and `TSInf` ask.
      num_evidence_steps: fixed-point steps of the prior precision.
    """

    num_samples: int = 10
    num_evidence_steps: int = 30

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
        require_at_least(1, self, ("num_samples", "num_evidence_steps"))


@dataclasses.dataclass(frozen=True)
class DropoutConfig(NetworkConfig):
    """What a network with dropout has beyond its layers.

    Attributes:
      dropout_rate: share of hidden units that a mask switches off.
      num_masks: E, masks drawn once and kept; they are the members.
    """

    dropout_rate: float = 0.1
    num_masks: int = 10

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
        if not 0.0 < self.dropout_rate < 1.0:
            raise ValueError(
                f"dropout_rate must lie in (0, 1), got {self.dropout_rate}"
            )
        require_at_least(2, self, ("num_masks",))


@dataclasses.dataclass(frozen=True)
class CalibrationConfig:
    """How the stds are rescaled after each fit.

    Attributes:
      method: `none`, `kuleshov` (match the predicted CDF) or `conformal` (meet a
        target coverage).
      target_coverage: share of errors that the conformal band must hold, two-sided.
      min_scale: smallest scale allowed; 1 means that calibration may only widen.
      max_scale: largest scale and largest stretch allowed.
      num_calibration_ps: CDF levels matched by `kuleshov`.
      num_test_alphas: candidate scales tried by `kuleshov`, evenly in (0, max_scale].
      num_inducing: size M of the smooth second opinion that tells new inputs from known
        ones and widens the band at the new ones; 0 is off, no input counts as new.
      prequential: also calibrate on each new episode before it is learned: stretch the
        band at known and at new inputs, each by what was missed there. A held-out part
        of old data says nothing of where the agent goes next.
      prequential_rate: by how much the logarithm of the stretch rises for an episode
        that misses the band entirely; it falls by `1 - target_coverage` of that for one
        that misses nowhere.
    """

    method: str = "conformal"
    target_coverage: float = 0.95
    min_scale: float = 0.05
    max_scale: float = 10.0
    num_calibration_ps: int = 20
    num_test_alphas: int = 100
    num_inducing: int = 64
    prequential: bool = True
    prequential_rate: float = 3.0

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
        if self.max_scale < 1.0:
            raise ValueError(f"max_scale must be >= 1, got {self.max_scale}")
        require_positive(self, ("prequential_rate",))
        require_at_least(0, self, ("num_inducing",))
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
        _require_below_bound(self, "init_multiplier", "max_multiplier")


@dataclasses.dataclass(frozen=True)
class PIDConfig:
    """Gains of the controller of the multipliers.

    Attributes:
      k_p: multiplier per unit of the last excess.
      k_i: multiplier per unit of the added excess.
      k_d: multiplier per unit of a rise in cost from one episode to the next.
      smoothing: share of the older episodes in the running averages, in [0, 1).
      max_multiplier: bound.
    """

    k_p: float = 0.1
    k_i: float = 0.01
    k_d: float = 0.01
    smoothing: float = 0.0
    max_multiplier: float = 1000.0

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
        _require_below_bound(self, "init_multiplier", "max_multiplier")
        _require_below_bound(self, "init_penalty", "max_penalty")


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
        _require_below_bound(self, "min_eta", "init_eta")
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
      value: what they add to the value: `none`, `backup` (their discounted reward) or
        `env` (the environment's `terminal_value` of the state the plan ends in).
      discount: per step of the backup's reward, in (0, 1].
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
        if self.value == "backup" and not self.steps:
            raise ValueError("value 'backup' needs steps >= 1, got 0")
        if not 0.0 < self.discount <= 1.0:
            raise ValueError(f"discount must lie in (0, 1], got {self.discount}")


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
    """

    noise_alpha: float = 3.0

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
        require_at_least(0, self, ("noise_alpha",))


@dataclasses.dataclass(frozen=True)
class ActSafeConfig(PessimisticConfig):
    """`PessimisticConfig` of a planner that first explores."""

    exploration: ExplorationConfig = ExplorationConfig("epistemic_std", episodes=5)


@dataclasses.dataclass(frozen=True)
class OptimisticPessimisticConfig:
    """How a planner judges an adversary's rollout; the reward needs no sampling.

    Attributes:
      noise_alpha: aleatoric stds by which each imagined state is judged.
      terminal: what is asked of the state that a plan ends in.
      exploration: what is maximised in place of the reward, and for how long.
    """

    noise_alpha: float = 3.0
    terminal: TerminalConfig = TerminalConfig()
    exploration: ExplorationConfig = ExplorationConfig()

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        require_at_least(0, self, ("noise_alpha",))


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
