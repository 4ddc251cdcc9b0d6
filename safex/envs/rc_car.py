"""A remote-controlled car that must turn round in a small box and stop at a pose.

A bicycle model of a small car in the plane: kinematic, or blended with tyres of the
Magic Formula (Pacejka 2012, Tire and Vehicle Dynamics) as speed grows, in the manner of
Kabzan et al. 2020 (AMZ Driverless, arXiv 1905.05150). The width and the height of the
box are constraints of their own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from safex.config import RCCarConfig
from safex.envs import plane
from safex.envs.angles import to_unit_circle, wrap
from safex.envs.system import System
from safex.types import Array, Step


class RCCarState(NamedTuple):
    """Physical state and the step counter.

    Attributes:
      x: `[]` position of the centre of mass [m].
      y: `[]` position of the centre of mass [m].
      theta: `[]` heading [rad], wrapped to [-pi, pi).
      vx: `[]` velocity along x, in the frame of the ground [m/s].
      vy: `[]` velocity along y, in the frame of the ground [m/s].
      omega: `[]` yaw rate [rad/s].
      t: `[]` int32 steps taken.
    """

    x: Array
    y: Array
    theta: Array
    vx: Array
    vy: Array
    omega: Array
    t: Array


class RCCarParams(struct.PyTreeNode):
    """Everything about the car that may be varied, batched or differentiated.

    Meaning and units as in `RCCarConfig`.
    """

    x_low: Array
    x_high: Array
    y_low: Array
    y_high: Array
    start: Array
    goal: Array
    action_cost: Array
    dt: Array
    gravity: Array
    mass: Array
    inertia: Array
    front_length: Array
    rear_length: Array
    max_steer: Array
    motor_gain: Array
    motor_damping: Array
    drag: Array
    slip_lag: Array
    front_b: Array
    front_c: Array
    front_d: Array
    rear_b: Array
    rear_c: Array
    rear_d: Array
    blend_start: Array
    blend_end: Array
    process_noise_std: Array
    observation_noise_std: Array


class RCCar(System):
    """The car; observation `(x, y, cos theta, sin theta, vx, vy, omega)`.

    Attributes:
      substeps: integration steps (Runge-Kutta 4) in a control step.
      tyres: blend the tyre forces in; without, the car never slips.
    """

    params: RCCarParams
    substeps: int = struct.field(pytree_node=False, default=8)
    tyres: bool = struct.field(pytree_node=False, default=False)

    config_class = RCCarConfig
    params_class = RCCarParams
    obs_dim = 7
    action_dim = 2
    obs_names = (
        "x [m]",
        "y [m]",
        "cos theta",
        "sin theta",
        "vx [m/s]",
        "vy [m/s]",
        "omega [rad/s]",
    )
    state_names = ("x", "y", "theta", "vx", "vy", "omega")
    limit_names = ("x", "y")
    limit_units = ("m", "m")
    angle_names = ("theta",)
    portrait = ("x", "y")
    portrait_labels = ("x [m]", "y [m]")

    @property
    def limits(self) -> Array:
        """`[2]` half the width and half the height of the box [m]."""
        p = self.params
        return 0.5 * jnp.stack([p.x_high - p.x_low, p.y_high - p.y_low])

    @property
    def noise_std(self) -> Array:
        """`[7]` std of the next observation."""
        p = self.params
        moving = jnp.array([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
        return jnp.sqrt(
            (p.process_noise_std * moving) ** 2 + p.observation_noise_std**2
        )

    def obs_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest observation, `[D]` each; only a direction is bounded."""
        high = np.array([np.inf, np.inf, 1.0, 1.0, np.inf, np.inf, np.inf], np.float32)
        if np.any(self.params.observation_noise_std > 0):
            high[:] = np.inf
        return -high, high

    def reset(self, key: Array) -> tuple[RCCarState, Array]:
        """About the start pose: ±0.05 m, ±0.01 pi rad, all but at rest."""
        pose_key, speed_key, noise_key = jax.random.split(key, 3)
        spread = jnp.array([0.05, 0.05, 0.01 * jnp.pi])
        pose = jax.random.uniform(pose_key, (3,), minval=-spread, maxval=spread)
        speed = jnp.array([0.005, 0.005, 0.02]) * jax.random.normal(speed_key, (3,))
        state = self.state_at(*(self.params.start + pose), *speed)
        return state, self._measure(noise_key, state)

    def state_at(
        self,
        x: Array | float,
        y: Array | float,
        theta: Array | float,
        vx: Array | float,
        vy: Array | float,
        omega: Array | float,
    ) -> RCCarState:
        """The state of an episode that begins there; units as in `RCCarState`."""
        x, y, theta, vx, vy, omega = (
            jnp.asarray(z, jnp.float32) for z in (x, y, theta, vx, vy, omega)
        )
        zero = jnp.zeros((), jnp.int32)
        return RCCarState(x, y, wrap(theta), vx, vy, omega, zero)

    def state_from_obs(self, obs: Array) -> RCCarState:
        """The state that an observation `[7]` shows, as of an episode that begins."""
        return self.state_at(obs[0], obs[1], jnp.arctan2(obs[3], obs[2]), *obs[4:])

    def far_state(self, key: Array) -> RCCarState:
        """A state up to 1 m outside of the box, at any heading, up to 3 m/s."""
        side_key, out_key, along_key, angle_key, speed_key, yaw_key = jax.random.split(
            key, 6
        )
        side = jax.random.randint(side_key, (), 0, 4)
        out = jax.random.uniform(out_key, ()) * jnp.where(side % 2 == 0, 1.0, -1.0)
        past = out + jnp.sign(out) * self.limits
        within = self.limits * jax.random.uniform(along_key, (), minval=-1.0)
        x, y = self._middle + jnp.where(jnp.arange(2) == side // 2, past, within)
        theta = jax.random.uniform(angle_key, (), minval=-jnp.pi, maxval=jnp.pi)
        speed = jax.random.uniform(speed_key, (), minval=-3.0, maxval=3.0)
        omega = jax.random.uniform(yaw_key, (), minval=-3.0, maxval=3.0)
        vx, vy = speed * jnp.cos(theta), speed * jnp.sin(theta)
        return self.state_at(x, y, theta, vx, vy, omega)

    def observe(self, state: RCCarState) -> Array:
        """Noise-free observation `[7]` of a state."""
        cos, sin = jnp.cos(state.theta), jnp.sin(state.theta)
        return jnp.stack([state.x, state.y, cos, sin, *state[3:6]])

    def step(self, key: Array, state: RCCarState, action: Array) -> Step:
        """Advances one control step; noise is added to all speeds at its end."""
        process_key, noise_key = jax.random.split(key)
        x, y, theta, *speeds = self._integrate(jnp.stack(state[:6]), action)
        noise = self.params.process_noise_std * jax.random.normal(process_key, (3,))
        vx, vy, omega = jnp.stack(speeds) + noise
        next_state = RCCarState(x, y, wrap(theta), vx, vy, omega, state.t + 1)
        return self._outcome(noise_key, state, action, next_state)

    def dynamics(self, obs: Array, action: Array) -> Array:
        """Noise-free next observation `[7]` of `obs` `[7]` under `action` `[2]`."""
        theta = jnp.arctan2(obs[3], obs[2])
        start = jnp.stack([obs[0], obs[1], theta, *obs[4:]])
        x, y, theta, *speeds = self._integrate(start, action)
        return jnp.stack([x, y, jnp.cos(theta), jnp.sin(theta), *speeds])

    def reward(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """Closeness to the goal pose at the next state, less `action_cost |a|^2`.

        With D the length of (position error [m], heading error [rad]): 1 within 0.1,
        else `1 / (1 + 9 (D - 0.1)^2)`.
        """
        del obs
        x, y, heading = self.params.goal
        cos, sin = jnp.cos(heading), jnp.sin(heading)
        # The heading error from the pair as it is, which is cheaper than two wraps.
        error = jnp.arctan2(
            next_obs[3] * cos - next_obs[2] * sin, next_obs[2] * cos + next_obs[3] * sin
        )
        squared = (next_obs[0] - x) ** 2 + (next_obs[1] - y) ** 2 + error**2
        distance = jnp.sqrt(jnp.maximum(squared, 1e-12))
        outside = jnp.maximum(distance - 0.1, 0.0)
        effort = jnp.sum(jnp.clip(action, -1.0, 1.0) ** 2)
        return 1.0 / (1.0 + 9.0 * outside**2) - self.params.action_cost * effort

    def margin(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """`[2]` how far the next x and y are outside of the box [m]; > 0 violates."""
        del obs, action
        return jnp.abs(next_obs[:2] - self._middle) - self.limits

    def project(self, obs: Array) -> Array:
        """Brings `(cos, sin)` back to the unit circle."""
        return obs.at[2:4].set(to_unit_circle(obs[2:4]))

    def to_frame(self, origin: Array, obs: Array) -> Array:
        """An observation as seen from the car of another, `[7], [7] -> [7]`."""
        return plane.seen_from(origin, obs, (4,))

    def from_frame(self, origin: Array, seen: Array) -> Array:
        """Inverse of `to_frame`."""
        return plane.placed_at(origin, seen, (4,))

    def backup(self, obs: Array) -> Array:
        """Wheels straight and throttle against the speed; outside it drives back in.

        At 0.5 m/s towards the middle of the box, forwards or backwards.
        """
        heading, velocity = obs[2:4], obs[4:6]
        inward = self._middle - obs[:2]
        outside = jnp.any(jnp.abs(inward) > self.limits)
        ahead = heading @ inward
        left = heading[0] * inward[1] - heading[1] * inward[0]
        steer = jnp.where(outside, 4.0 * left, 0.0)
        wanted = jnp.where(outside, jnp.where(ahead < 0, -0.5, 0.5), 0.0)
        throttle = 2.0 * (wanted - velocity @ heading)
        return jnp.clip(jnp.stack([steer, throttle]), -1.0, 1.0)

    @property
    def _middle(self) -> Array:
        """`[2]` of the box."""
        p = self.params
        return 0.5 * jnp.stack([p.x_low + p.x_high, p.y_low + p.y_high])

    def _integrate(self, z: Array, action: Array) -> Array:
        """`[6]` physical state after a control step of constant action.

        The speeds are turned into the frame of the car and back, so that the equations
        hold at every stage of the integration.
        """
        h = self.params.dt / self.substeps
        action = jnp.clip(action, -1.0, 1.0)

        def substep(z: Array, _: None) -> tuple[Array, None]:
            k1 = self._derivative(z, action)
            k2 = self._derivative(z + 0.5 * h * k1, action)
            k3 = self._derivative(z + 0.5 * h * k2, action)
            k4 = self._derivative(z + h * k3, action)
            return z + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4), None

        body = z.at[3:5].set(_turn(z[3:5], -z[2]))
        body = jax.lax.scan(substep, body, None, length=self.substeps)[0]
        return body.at[3:5].set(_turn(body[3:5], body[2]))

    def _derivative(self, z: Array, action: Array) -> Array:
        """Rates of `(x, y, theta, u, w, omega)`, u ahead and w to the left."""
        p = self.params
        _, _, theta, ahead, left, omega = z
        steer = p.max_steer * action[0]
        force = (
            p.motor_gain * action[1]
            - p.motor_damping**2 * ahead
            - p.drag**2 * ahead * jnp.abs(ahead)
        )
        speeds = self._rolling(ahead, left, omega, steer, force)
        if self.tyres:
            slipping = self._slipping(ahead, left, omega, steer, force)
            share = (ahead - p.blend_start) / (p.blend_end - p.blend_start)
            share = jnp.clip(share, 0.0, 1.0)
            speeds = (1.0 - share) * speeds + share * slipping
        cos, sin = jnp.cos(theta), jnp.sin(theta)
        place = jnp.stack([ahead * cos - left * sin, ahead * sin + left * cos, omega])
        return jnp.concatenate([place, speeds])

    def _rolling(
        self, ahead: Array, left: Array, omega: Array, steer: Array, force: Array
    ) -> Array:
        """Accelerations of a car whose wheels roll without slip.

        Its yaw rate and sideways speed follow what the steering asks for with a short
        lag.
        """
        p = self.params
        yaw = ahead * jnp.tan(steer) / (p.front_length + p.rear_length)
        return jnp.stack(
            [
                force / p.mass,
                (p.rear_length * yaw - left) / p.slip_lag,
                (yaw - omega) / p.slip_lag,
            ]
        )

    def _slipping(
        self, ahead: Array, left: Array, omega: Array, steer: Array, force: Array
    ) -> Array:
        """Accelerations of a car on tyres, `F = D g sin(C atan(B slip))`."""
        p = self.params
        # Below the speed where the blend begins these are never used.
        rolling = jnp.maximum(ahead, p.blend_start)
        front_slip = steer - jnp.arctan((left + p.front_length * omega) / rolling)
        rear_slip = -jnp.arctan((left - p.rear_length * omega) / rolling)
        front = jnp.sin(p.front_c * jnp.arctan(p.front_b * front_slip))
        rear = jnp.sin(p.rear_c * jnp.arctan(p.rear_b * rear_slip))
        front, rear = p.gravity * p.front_d * front, p.gravity * p.rear_d * rear
        cos, sin = jnp.cos(steer), jnp.sin(steer)
        return jnp.stack(
            [
                (force - front * sin) / p.mass + left * omega,
                (rear + front * cos) / p.mass - ahead * omega,
                (p.front_length * front * cos - p.rear_length * rear) / p.inertia,
            ]
        )


def _turn(vector: Array, angle: Array) -> Array:
    """A vector `[2]` turned counter-clockwise by an angle."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack(
        [cos * vector[0] - sin * vector[1], sin * vector[0] + cos * vector[1]]
    )
