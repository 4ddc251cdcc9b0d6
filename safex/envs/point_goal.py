"""A robot that must reach a goal without crossing hazards.

A light stand-in for the task PointGoal1 of Safety-Gymnasium (Ji et al. 2023, arXiv
2310.12567; Ray et al. 2019, Benchmarking Safe Exploration in Deep Reinforcement
Learning): eight hazards of radius 0.2 m in a square of 3 m, a goal of radius 0.3 m, a
cost of 1 within any hazard, a robot with a heading. The map is known to every planner,
the robot's dynamics are not: it slides, since only drag takes its sideways speed.
"""

import math
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from safex.config import PointGoalConfig, changed
from safex.envs import plane
from safex.envs.angles import to_unit_circle, wrap
from safex.envs.system import System
from safex.types import Array, Step

_START_SPREAD = 0.1  # of x and y at a reset [m]
_START_KEEPOUT = 0.4  # hazards' centres from the start [m]
_GOAL_KEEPOUT = 0.5  # hazards' centres from the goal, which so stays free [m]
_GAP = 0.15  # between the rims of two hazards: the robot can pass [m]
_GOAL_DISTANCE = 1.0  # a random goal's from the start, at least [m]
_GOAL_TRIES = 64


class PointGoalState(NamedTuple):
    """Physical state, the goal, and the step counter.

    Attributes:
      x: `[]` position [m].
      y: `[]` position [m].
      theta: `[]` heading [rad], wrapped to [-pi, pi).
      vx: `[]` velocity along x, in the frame of the ground [m/s].
      vy: `[]` velocity along y, in the frame of the ground [m/s].
      omega: `[]` yaw rate [rad/s].
      goal_x: `[]` position of the goal [m].
      goal_y: `[]` position of the goal [m].
      t: `[]` int32 steps taken.
    """

    x: Array
    y: Array
    theta: Array
    vx: Array
    vy: Array
    omega: Array
    goal_x: Array
    goal_y: Array
    t: Array


class PointGoalParams(struct.PyTreeNode):
    """Everything that may be varied, batched or differentiated.

    Units as in `PointGoalConfig`; `hazards` `[N, 2]` are the centres of the map.
    """

    hazards: Array
    hazard_radius: Array
    arena: Array
    start: Array
    goal: Array
    goal_radius: Array
    goal_bonus: Array
    dt: Array
    mass: Array
    drag: Array
    max_force: Array
    max_turn: Array
    turn_lag: Array
    lidar_range: Array
    process_noise_std: Array
    observation_noise_std: Array


class PointGoal(System):
    """The robot; observation `(x, y, cos, sin, vx, vy, omega, goal - (x, y))`.

    With `lidar` the closeness of the hazards and that of the goal follow, in bins that
    begin at the heading and go counter-clockwise.

    Attributes:
      substeps: integration steps (Runge-Kutta 4) in a control step.
      random_goal: draw the goal anew at each reset.
      lidar: observe the closeness of hazards and goal.
      lidar_bins: bins of each.
    """

    params: PointGoalParams
    max_steps: int = struct.field(pytree_node=False, default=100)
    substeps: int = struct.field(pytree_node=False, default=4)
    random_goal: bool = struct.field(pytree_node=False, default=False)
    lidar: bool = struct.field(pytree_node=False, default=False)
    lidar_bins: int = struct.field(pytree_node=False, default=16)

    config_class = PointGoalConfig
    params_class = PointGoalParams
    action_dim = 2
    state_names = ("x", "y", "theta", "vx", "vy", "omega", "goal_x", "goal_y")
    limit_names = ("depth in a hazard",)
    limit_units = ("m",)
    angle_names = ("theta",)
    portrait = ("x", "y")
    portrait_labels = ("x [m]", "y [m]")

    @classmethod
    def from_config(cls, config: Any = None, **changes: Any) -> Self:
        """Draws the map and builds the system.

        Args:
          config: task and physics; the defaults when None.
          **changes: fields of it to replace.

        Raises:
          TypeError: a field is unknown.
          ValueError: a value is impossible, or the map has no room for the hazards.
        """
        config = changed(config or PointGoalConfig(), changes)
        return cls._built(config, hazards=draw_hazards(config))

    @property
    def obs_dim(self) -> int:
        """D."""
        return len(self.obs_names)

    @property
    def obs_names(self) -> tuple[str, ...]:
        """What each observation is."""
        names = ["x [m]", "y [m]", "cos theta", "sin theta", "vx [m/s]", "vy [m/s]"]
        names += ["omega [rad/s]", "goal - x [m]", "goal - y [m]"]
        if self.lidar:
            bins = range(self.lidar_bins)
            names += [f"{of} lidar {i}" for of in ("hazard", "goal") for i in bins]
        return tuple(names)

    @property
    def limits(self) -> Array:
        """`[1]` zero: no depth in a hazard is allowed [m]."""
        return jnp.zeros_like(self.params.hazard_radius)[None]

    @property
    def noise_std(self) -> Array:
        """`[D]` std of the next observation; lidar carries the sensors' noise alone."""
        p = self.params
        moving = jnp.zeros(self.obs_dim).at[4:7].set(1.0)
        return jnp.sqrt(
            (p.process_noise_std * moving) ** 2 + p.observation_noise_std**2
        )

    def obs_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest observation, `[D]` each."""
        high = np.full(self.obs_dim, np.inf, np.float32)
        low = -high
        if not self.params.observation_noise_std > 0:
            low[2:4], high[2:4] = -1.0, 1.0
            low[9:], high[9:] = 0.0, 1.0
        return low, high

    def reset(self, key: Array) -> tuple[PointGoalState, Array]:
        """At rest within 0.1 m of the start's x and y, with any heading."""
        place_key, angle_key, goal_key, noise_key = jax.random.split(key, 4)
        spread = jax.random.uniform(place_key, (2,), minval=-1.0, maxval=1.0)
        x, y = self.params.start + _START_SPREAD * spread
        theta = jax.random.uniform(angle_key, (), minval=-jnp.pi, maxval=jnp.pi)
        goal = self._draw_goal(goal_key) if self.random_goal else self.params.goal
        state = self.state_at(x, y, theta, 0.0, 0.0, 0.0, goal[0], goal[1])
        return state, self._measure(noise_key, state)

    def state_at(
        self,
        x: Array | float,
        y: Array | float,
        theta: Array | float,
        vx: Array | float,
        vy: Array | float,
        omega: Array | float,
        goal_x: Array | float,
        goal_y: Array | float,
    ) -> PointGoalState:
        """The state of an episode that begins there; units as in `PointGoalState`."""
        x, y, theta, vx, vy, omega, goal_x, goal_y = (
            jnp.asarray(z, jnp.float32)
            for z in (x, y, theta, vx, vy, omega, goal_x, goal_y)
        )
        zero = jnp.zeros((), jnp.int32)
        return PointGoalState(x, y, wrap(theta), vx, vy, omega, goal_x, goal_y, zero)

    def state_from_obs(self, obs: Array) -> PointGoalState:
        """The state that an observation `[D]` shows, as of an episode that begins."""
        x, y, cos, sin, vx, vy, omega, ahead, aside = obs[:9]
        theta = jnp.arctan2(sin, cos)
        return self.state_at(x, y, theta, vx, vy, omega, x + ahead, y + aside)

    def far_state(self, key: Array) -> PointGoalState:
        """A state within a hazard, at any heading, up to 2 m/s in any direction."""
        which, where, speed, yaw = jax.random.split(key, 4)
        p = self.params
        centre = p.hazards[jax.random.randint(which, (), 0, p.hazards.shape[0])]
        depth, side, theta, course = jax.random.uniform(where, (4,))
        # Not quite to the rim, where rounding could put the state outside.
        radius = 0.99 * p.hazard_radius * jnp.sqrt(depth)
        x, y = centre + radius * _direction(2 * jnp.pi * side)
        vx, vy = 2.0 * jax.random.uniform(speed, ()) * _direction(2 * jnp.pi * course)
        omega = p.max_turn * jax.random.uniform(yaw, (), minval=-1.0)
        heading = 2 * jnp.pi * theta
        return self.state_at(x, y, heading, vx, vy, omega, p.goal[0], p.goal[1])

    def observe(self, state: PointGoalState) -> Array:
        """Noise-free observation `[D]` of a state."""
        goal = jnp.stack([state.goal_x - state.x, state.goal_y - state.y])
        pose = jnp.stack([state.x, state.y, *_direction(state.theta)])
        return self._with_lidar(jnp.concatenate([pose, jnp.stack(state[3:6]), goal]))

    def step(self, key: Array, state: PointGoalState, action: Array) -> Step:
        """Advances one control step; noise is added to all speeds at its end."""
        process_key, noise_key = jax.random.split(key)
        x, y, theta, *speeds = self._integrate(jnp.stack(state[:6]), action)
        noise = self.params.process_noise_std * jax.random.normal(process_key, (3,))
        vx, vy, omega = jnp.stack(speeds) + noise
        next_state = PointGoalState(
            x, y, wrap(theta), vx, vy, omega, state.goal_x, state.goal_y, state.t + 1
        )
        return self._outcome(noise_key, state, action, next_state)

    def dynamics(self, obs: Array, action: Array) -> Array:
        """Noise-free next observation `[D]` of `obs` `[D]` under `action` `[2]`."""
        theta = jnp.arctan2(obs[3], obs[2])
        start = jnp.stack([obs[0], obs[1], theta, *obs[4:7]])
        x, y, theta, *speeds = self._integrate(start, action)
        goal = obs[:2] + obs[7:9] - jnp.stack([x, y])
        pose = jnp.stack([x, y, *_direction(theta)])
        return self._with_lidar(jnp.concatenate([pose, jnp.stack(speeds), goal]))

    def reward(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """Metres come closer to the goal, and the bonus where the robot is inside."""
        del action
        before, after = _length(obs[7:9]), _length(next_obs[7:9])
        inside = after < self.params.goal_radius
        return before - after + self.params.goal_bonus * inside

    def margin(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """`[1]` how deep the next position is in the nearest hazard [m]."""
        del obs, action
        away = next_obs[:2] - self.params.hazards
        nearest = jnp.sqrt(jnp.min(jnp.sum(away**2, 1)))
        return (self.params.hazard_radius - nearest)[None]

    def project(self, obs: Array) -> Array:
        """Makes the observation one of a single place.

        `(cos, sin)` goes to the unit circle. What follows from the pose and the map is
        recomputed: the way to a goal that never moves, and the lidar.
        """
        goal = obs[7:9] if self.random_goal else self.params.goal - obs[:2]
        pair = to_unit_circle(obs[2:4])
        return self._with_lidar(jnp.concatenate([obs[:2], pair, obs[4:7], goal]))

    def to_frame(self, origin: Array, obs: Array) -> Array:
        """An observation as seen from the robot of another, `[D], [D] -> [D]`.

        The way to the goal turns with the robot; the lidar does already.
        """
        return plane.seen_from(origin, obs, (4, 7))

    def from_frame(self, origin: Array, seen: Array) -> Array:
        """Inverse of `to_frame`."""
        return plane.placed_at(origin, seen, (4, 7))

    def backup(self, obs: Array) -> Array:
        """Brakes along the heading, and turns it into line with the motion.

        Within a hazard it leaves by the shortest way, at 0.3 m/s, forwards or
        backwards, whichever leads out.
        """
        heading, velocity = obs[2:4], obs[4:6]
        away = obs[:2] - self.params.hazards
        away = away[jnp.argmin(jnp.sum(away**2, axis=1))]
        distance = _length(away)
        inside = distance < self.params.hazard_radius
        # Its very centre is as far from the rim on all sides.
        outward = jnp.where(distance > 0, away / jnp.maximum(distance, 1e-6), heading)
        line = jnp.where(inside, outward, velocity)
        ahead, left = heading @ line, heading[0] * line[1] - heading[1] * line[0]
        sign = jnp.where(ahead < 0, -1.0, 1.0)
        wanted = jnp.where(inside, 0.3 * sign, 0.0)
        force = 4.0 * (wanted - velocity @ heading)
        return jnp.clip(jnp.stack([force, 4.0 * left * sign]), -1.0, 1.0)

    def _with_lidar(self, obs: Array) -> Array:
        """`[D]` from the first nine numbers of an observation."""
        if not self.lidar:
            return obs
        arrays = self.params.hazards - obs[:2], obs[None, 7:9]
        lidars = [self._closeness(objects, obs[2:4]) for objects in arrays]
        return jnp.concatenate([obs, *lidars])

    def _closeness(self, objects: Array, heading: Array) -> Array:
        """`[K]` closeness of the nearest of `objects` `[N, 2]` in each bin.

        1 at the robot and 0 from `lidar_range` on. As in Safety-Gymnasium, an object
        also shows in the two bins beside its own, the more the closer it is to them.
        """
        cos, sin = heading
        ahead = objects[:, 0] * cos + objects[:, 1] * sin
        left = objects[:, 1] * cos - objects[:, 0] * sin
        distance = jnp.hypot(ahead, left)
        closeness = jnp.maximum(1.0 - distance / self.params.lidar_range, 0.0)
        turn = jnp.arctan2(left, ahead) / (2.0 * jnp.pi) * self.lidar_bins
        own = jnp.floor(turn)
        share = turn - own
        index = jnp.mod(own.astype(jnp.int32), self.lidar_bins)
        shown = jnp.zeros(self.lidar_bins).at[index].max(closeness)
        after, before = ((index + d) % self.lidar_bins for d in (1, -1))
        shown = shown.at[after].max(share * closeness)
        return shown.at[before].max((1.0 - share) * closeness)

    def _draw_goal(self, key: Array) -> Array:
        """`[2]` a place clear of hazards and of the start; the usual one if none is."""
        p = self.params
        shape = (_GOAL_TRIES, 2)
        places = jax.random.uniform(key, shape, minval=-p.arena, maxval=p.arena)
        away = jnp.linalg.norm(places[:, None] - p.hazards, axis=-1).min(1)
        keepout = _GOAL_KEEPOUT - 0.2 + p.hazard_radius
        far = jnp.linalg.norm(places - p.start, axis=-1) > _GOAL_DISTANCE
        fits = (away > keepout) & far
        return jnp.where(fits.any(), places[jnp.argmax(fits)], p.goal)

    def _integrate(self, z: Array, action: Array) -> Array:
        """`[6]` physical state after a control step of constant action."""
        h = self.params.dt / self.substeps
        action = jnp.clip(action, -1.0, 1.0)

        def substep(z: Array, _: None) -> tuple[Array, None]:
            k1 = self._derivative(z, action)
            k2 = self._derivative(z + 0.5 * h * k1, action)
            k3 = self._derivative(z + 0.5 * h * k2, action)
            k4 = self._derivative(z + h * k3, action)
            return z + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4), None

        return jax.lax.scan(substep, z, None, length=self.substeps)[0]

    def _derivative(self, z: Array, action: Array) -> Array:
        """`m v' = F heading - drag v`, `lag omega' = turn - omega`."""
        p = self.params
        velocity, omega = z[3:5], z[5]
        force = p.max_force * action[0] * _direction(z[2])
        push = (force - p.drag * velocity) / p.mass
        spin = (p.max_turn * action[1] - omega) / p.turn_lag
        return jnp.concatenate([velocity, omega[None], push, spin[None]])


def draw_hazards(config: PointGoalConfig) -> np.ndarray:
    """The map: `[N, 2]` centres of hazards, the same for the same seed.

    The first lies on the straight way from start to goal, in its middle third, so that
    who heeds no cost pays some. The others are uniform, clear of start and goal, and
    far enough apart to pass between any two.

    Raises:
      ValueError: no such map was found.
    """
    rng = np.random.default_rng(config.layout_seed)
    start, goal = np.asarray(config.start), np.asarray(config.goal)
    gap = 2 * config.hazard_radius + _GAP
    more = config.hazard_radius - 0.2  # the keep-outs are those of a radius of 0.2 m
    keepouts = ((start, _START_KEEPOUT + more), (goal, _GOAL_KEEPOUT + more))
    for _ in range(100):
        places = rng.uniform(-config.arena, config.arena, (400, 2))
        places[0] = start + rng.uniform(1 / 3, 2 / 3) * (goal - start)
        hazards: list[np.ndarray] = []
        for place in places:
            free = all(math.dist(place, other) >= gap for other in hazards)
            if free and all(math.dist(place, spot) >= d for spot, d in keepouts):
                hazards.append(place)
        if len(hazards) >= config.num_hazards and np.all(hazards[0] == places[0]):
            return np.stack(hazards[: config.num_hazards])
    raise ValueError(
        f"found no room for num_hazards {config.num_hazards} of radius "
        f"{config.hazard_radius} in an arena of {config.arena}: take fewer, smaller "
        "ones, or move start and goal apart"
    )


def _direction(angle: Array) -> Array:
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def _length(vector: Array) -> Array:
    """Euclidean length; its gradient is 0 at 0 instead of NaN."""
    squared = jnp.sum(vector**2)
    known = squared > 0
    return jnp.where(known, jnp.sqrt(jnp.where(known, squared, 1.0)), 0.0)
