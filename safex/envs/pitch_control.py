"""An aircraft's pitch that must reach its target without overshoot.

The longitudinal motion about a steady cruise, linear in the angle of attack alpha, the
pitch rate q and the pitch angle theta (the aircraft pitch example of the Control
Tutorials for MATLAB and Simulink, University of Michigan):

    alpha' = -0.313 alpha + 56.7 q + 0.232 u
    q'     = -0.0139 alpha - 0.426 q + 0.0203 u
    theta' = 56.7 q

The elevator u is constant within a step, which the matrix exponential solves exactly.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from safex.config import PitchControlConfig
from safex.envs.system import System
from safex.types import Array, Step

# Linear-quadratic feedback of (alpha, q, theta - reference) for the default aircraft:
# the discrete regulator with weights (0, 1e4, 1) on the state and 1 on the elevator.
_BACKUP_GAIN = (-0.4755, 89.07, 0.9563)
_BACKUP_DEPTH = 0.2  # where the backup goes, below the limit [rad]


class PitchControlState(NamedTuple):
    """Physical state and the counters that end an episode.

    Attributes:
      alpha: `[]` angle of attack [rad].
      q: `[]` pitch rate, in units in which theta changes by `theta_q` q a second.
      theta: `[]` pitch angle [rad].
      t: `[]` int32 steps taken.
      stable_steps: `[]` int32 consecutive steps within the angle tolerance.
    """

    alpha: Array
    q: Array
    theta: Array
    t: Array
    stable_steps: Array


class PitchControlParams(struct.PyTreeNode):
    """Everything about the aircraft that may be varied, batched or differentiated.

    Meaning and units as in `PitchControlConfig`.
    """

    max_angle: Array
    target_angle: Array
    start_angle: Array
    angle_cost: Array
    action_cost: Array
    angle_tolerance: Array
    stability_duration: Array
    dt: Array
    max_elevator: Array
    alpha_alpha: Array
    alpha_q: Array
    alpha_u: Array
    q_alpha: Array
    q_q: Array
    q_u: Array
    theta_q: Array
    process_noise_std: Array
    observation_noise_std: Array


class PitchControl(System):
    """The pitch of an aircraft; observation `(alpha, q, theta)`."""

    params: PitchControlParams

    config_class = PitchControlConfig
    params_class = PitchControlParams
    obs_dim = 3
    action_dim = 1
    obs_names = ("alpha [rad]", "q", "theta [rad]")
    state_names = ("alpha", "q", "theta")
    limit_names = ("theta",)
    limit_units = ("rad",)
    portrait = ("theta", "q")
    portrait_labels = ("theta [rad]", "q")

    @property
    def limits(self) -> Array:
        """`[1]` the limit of theta [rad]."""
        return self.params.max_angle[None]

    @property
    def noise_std(self) -> Array:
        """`[3]` std of the next observation."""
        p = self.params
        process = p.process_noise_std * jnp.array([0.0, 1.0, 0.0])
        return jnp.sqrt(process**2 + p.observation_noise_std**2)

    def obs_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest observation, `[D]` each; nothing is bounded."""
        high = np.full(3, np.inf, np.float32)
        return -high, high

    def reset(self, key: Array) -> tuple[PitchControlState, Array]:
        """Each number within U(±0.001) of level flight at the start angle."""
        state_key, noise_key = jax.random.split(key)
        alpha, q, theta = jax.random.uniform(
            state_key, (3,), minval=-0.001, maxval=0.001
        )
        state = self.state_at(alpha, q, self.params.start_angle + theta)
        return state, self._measure(noise_key, state)

    def state_at(
        self, alpha: Array | float, q: Array | float, theta: Array | float
    ) -> PitchControlState:
        """The state of an episode that begins there; units as in the state."""
        zero = jnp.zeros((), jnp.int32)
        alpha, q, theta = (jnp.asarray(z, jnp.float32) for z in (alpha, q, theta))
        return PitchControlState(alpha, q, theta, zero, zero)

    def state_from_obs(self, obs: Array) -> PitchControlState:
        """The state that an observation `[3]` shows, as of an episode that begins."""
        return self.state_at(obs[0], obs[1], obs[2])

    def far_state(self, key: Array) -> PitchControlState:
        """A state up to 0.5 rad above the limit, at any usual alpha and q."""
        alpha, q, excess = jax.random.uniform(key, (3,), minval=-1.0, maxval=1.0)
        theta = self.params.max_angle + 0.5 * jnp.abs(excess)
        return self.state_at(0.5 * alpha, 0.02 * q, theta)

    def observe(self, state: PitchControlState) -> Array:
        """Noise-free observation `[3]` of a state."""
        return jnp.stack([state.alpha, state.q, state.theta])

    def step(self, key: Array, state: PitchControlState, action: Array) -> Step:
        """Advances one step; noise is added to the pitch rate at its end."""
        p = self.params
        process_key, noise_key = jax.random.split(key)
        alpha, q, theta = self.dynamics(self.observe(state), action)
        q = q + p.process_noise_std * jax.random.normal(process_key)
        there = jnp.abs(theta - p.target_angle) < p.angle_tolerance
        stable_steps = jnp.where(there, state.stable_steps + 1, 0)
        next_state = PitchControlState(alpha, q, theta, state.t + 1, stable_steps)
        terminated = stable_steps >= p.stability_duration
        return self._outcome(noise_key, state, action, next_state, terminated)

    def dynamics(self, obs: Array, action: Array) -> Array:
        """Noise-free next observation `[3]` of `obs` `[3]` under `action` `[1]`."""
        propagator = self._propagator()
        return propagator[:3, :3] @ obs + propagator[:3, 3] * self._elevator(action)

    def reward(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """`-(angle_cost (theta - target)^2 + action_cost u^2)` before the step."""
        del next_obs
        p = self.params
        error = obs[2] - p.target_angle
        return -(p.angle_cost * error**2 + p.action_cost * self._elevator(action) ** 2)

    def margin(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """`[1]` next theta minus the limit [rad]; > 0 violates."""
        del obs, action
        return next_obs[2:3] - self.limits

    def project(self, obs: Array) -> Array:
        """Every observation is possible."""
        return obs

    def backup(self, obs: Array) -> Array:
        """Levels off 0.2 rad below the limit, by a linear-quadratic regulator."""
        p = self.params
        reference = jnp.stack([0.0, 0.0, p.max_angle - _BACKUP_DEPTH])
        elevator = -jnp.asarray(_BACKUP_GAIN) @ (obs - reference)
        return jnp.clip(elevator / p.max_elevator, -1.0, 1.0)[None]

    def _elevator(self, action: Array) -> Array:
        return self.params.max_elevator * jnp.clip(action[0], -1.0, 1.0)

    def _propagator(self) -> Array:
        """`[4, 4]` map of `(alpha, q, theta, u)` over a step, u constant."""
        p = self.params
        zero = jnp.zeros_like(p.theta_q)
        rates = jnp.stack(
            [
                jnp.stack([p.alpha_alpha, p.alpha_q, zero, p.alpha_u]),
                jnp.stack([p.q_alpha, p.q_q, zero, p.q_u]),
                jnp.stack([zero, p.theta_q, zero, zero]),
                jnp.stack([zero, zero, zero, zero]),
            ]
        )
        return jax.scipy.linalg.expm(rates * p.dt)
