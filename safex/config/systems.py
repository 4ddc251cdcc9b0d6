"""Tasks and physics of the systems."""

import dataclasses

from safex.config.checks import require_at_least, require_noise, require_positive


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
        require_noise(self, 7)
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
