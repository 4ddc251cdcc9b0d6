"""Cart-pole swing-up with a bound on the slider.

The task of the DeepMind Control Suite (Tassa et al. 2018, arXiv 1801.00690) with the
slider constraint `|x| <= slider_limit` of the Real-World RL Suite (Dulac-Arnold et al.
2020, arXiv 2003.11881). The rod is uniform and the hinge has no friction (Florian 2007,
Correct equations for the dynamics of the cart-pole system, Eqs. 23 and 24).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from safex.config import CartpoleConfig
from safex.envs.angles import to_unit_circle, wrap
from safex.envs.system import System
from safex.types import Array, Step


class CartpoleState(NamedTuple):
    """Physical state and the step counter.

    Attributes:
      x: `[]` position of the cart [m].
      v: `[]` its speed [m/s].
      theta: `[]` angle of the pole from upright [rad], wrapped to [-pi, pi).
      omega: `[]` its angular speed [rad/s].
      t: `[]` int32 steps taken.
    """

    x: Array
    v: Array
    theta: Array
    omega: Array
    t: Array


class CartpoleParams(struct.PyTreeNode):
    """Everything about the cart-pole that may be varied, batched or differentiated.

    Meaning and units as in `CartpoleConfig`.
    """

    slider_limit: Array
    dt: Array
    gravity: Array
    cart_mass: Array
    pole_mass: Array
    pole_length: Array
    max_force: Array
    rail: Array
    process_noise_std: Array
    observation_noise_std: Array


class Cartpole(System):
    """The constrained cart-pole; observation `(x, v, cos theta, sin theta, omega)`.

    Attributes:
      substeps: integration steps (Runge-Kutta 4) in a control step.
      sparse: reward only near upright and at the centre.
    """

    params: CartpoleParams
    substeps: int = struct.field(pytree_node=False, default=5)
    sparse: bool = struct.field(pytree_node=False, default=False)

    config_class = CartpoleConfig
    params_class = CartpoleParams
    obs_dim = 5
    action_dim = 1
    obs_names = ("x [m]", "v [m/s]", "cos theta", "sin theta", "omega [rad/s]")
    state_names = ("x", "v", "theta", "omega")
    limit_names = ("|x|",)
    limit_units = ("m",)
    angle_names = ("theta",)
    portrait = ("x", "theta")
    portrait_labels = ("x [m]", "theta [rad], 0 = upright")

    @property
    def noise_std(self) -> Array:
        """`[5]` std of the next observation, to first order in the noise."""
        p = self.params
        one = jnp.ones(())
        process = p.process_noise_std * jnp.stack([0 * one, one, 0 * one, 0 * one, one])
        return jnp.sqrt(process**2 + p.observation_noise_std**2)

    @property
    def limits(self) -> Array:
        """`[1]` the limit of |x| [m]."""
        return self.params.slider_limit[None]

    def obs_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest observation, `[D]` each; speeds are not bounded."""
        high = np.array([self.params.rail, np.inf, 1.0, 1.0, np.inf], np.float32)
        if self.params.observation_noise_std > 0:
            high[:] = np.inf
        return -high, high

    def reset(self, key: Array) -> tuple[CartpoleState, Array]:
        """The pole hangs, all four numbers within 0.01 N(0, 1) of rest."""
        state_key, noise_key = jax.random.split(key)
        x, v, theta, omega = 0.01 * jax.random.normal(state_key, (4,))
        state = self.state_at(x, v, jnp.pi + theta, omega)
        return state, self._measure(noise_key, state)

    def state_at(
        self,
        x: Array | float,
        v: Array | float,
        theta: Array | float,
        omega: Array | float,
    ) -> CartpoleState:
        """The state of an episode that begins there; units as in `CartpoleState`."""
        x, v, theta, omega = (jnp.asarray(z, jnp.float32) for z in (x, v, theta, omega))
        return CartpoleState(x, v, wrap(theta), omega, jnp.zeros((), jnp.int32))

    def far_state(self, key: Array) -> CartpoleState:
        """A state beyond the slider limit, at any angle, up to 10 rad/s."""
        x_key, sign_key, v_key, angle_key, omega_key = jax.random.split(key, 5)
        low = jnp.minimum(self.params.slider_limit, self.params.rail)
        x = jax.random.uniform(x_key, (), minval=low, maxval=self.params.rail)
        v = jax.random.uniform(v_key, (), minval=-3.0, maxval=3.0)
        theta = jax.random.uniform(angle_key, (), minval=-jnp.pi, maxval=jnp.pi)
        omega = jax.random.uniform(omega_key, (), minval=-10.0, maxval=10.0)
        return self.state_at(x * jax.random.rademacher(sign_key, ()), v, theta, omega)

    def state_from_obs(self, obs: Array) -> CartpoleState:
        """The state that an observation `[5]` shows, as of an episode that begins."""
        return self.state_at(obs[0], obs[1], jnp.arctan2(obs[3], obs[2]), obs[4])

    def observe(self, state: CartpoleState) -> Array:
        """Noise-free observation `[5]` of a state."""
        cos, sin = jnp.cos(state.theta), jnp.sin(state.theta)
        return jnp.stack([state.x, state.v, cos, sin, state.omega])

    def step(self, key: Array, state: CartpoleState, action: Array) -> Step:
        """Advances one control step; noise is added to both speeds at its end."""
        p = self.params
        process_key, noise_key = jax.random.split(key)
        x, v, theta, omega = self._integrate(jnp.stack(state[:4]), action)
        noise = p.process_noise_std * jax.random.normal(process_key, (2,))
        next_state = CartpoleState(
            x, v + noise[0], wrap(theta), omega + noise[1], state.t + 1
        )
        return self._outcome(noise_key, state, action, next_state)

    def dynamics(self, obs: Array, action: Array) -> Array:
        """Noise-free next observation `[5]` of `obs` `[5]` under `action` `[1]`."""
        theta = jnp.arctan2(obs[3], obs[2])
        start = jnp.stack([obs[0], obs[1], theta, obs[4]])
        x, v, theta, omega = self._integrate(start, action)
        return jnp.stack([x, v, jnp.cos(theta), jnp.sin(theta), omega])

    def reward(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """In [0, 1]: upright, centred, with little force and speed, at the next state.

        The product of the Control Suite's four terms; with `sparse` 1 within
        cos theta > 0.995 and |x| < 0.25 m, else 0, as there.
        """
        del obs
        x, _, cos, _, omega = next_obs
        if self.sparse:
            return ((cos > 0.995) & (jnp.abs(x) < 0.25)).astype(jnp.float32)
        effort = jnp.clip(action[0], -1.0, 1.0) ** 2
        slow = 0.5 * (1.0 + _bell(omega / 5.0))
        upright = 0.5 * (1.0 + cos)
        centred = 0.5 * (1.0 + _bell(x / 2.0))
        return upright * centred * slow * (4.0 + 1.0 - effort) / 5.0

    def margin(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """`[1]` next |x| minus the limit [m]; > 0 violates."""
        del obs, action
        return jnp.abs(next_obs[:1]) - self.limits

    def project(self, obs: Array) -> Array:
        """Brings `(cos, sin)` to the unit circle and the cart onto its rail."""
        cos, sin = to_unit_circle(obs[2:4])
        x = jnp.clip(obs[0], -self.params.rail, self.params.rail)
        return jnp.stack([x, obs[1], cos, sin, obs[4]])

    def backup(self, obs: Array) -> Array:
        """Draws the cart to the centre, well damped, and lets the pole fall."""
        return -jnp.clip(obs[0:1] + obs[1:2], -1.0, 1.0)

    def _integrate(self, z: Array, action: Array) -> Array:
        """`[4]` physical state after a control step of constant force."""
        p = self.params
        force = p.max_force * jnp.clip(action[0], -1.0, 1.0)
        h = p.dt / self.substeps

        def substep(z: Array, _: None) -> tuple[Array, None]:
            k1 = self._derivative(z, force)
            k2 = self._derivative(z + 0.5 * h * k1, force)
            k3 = self._derivative(z + 0.5 * h * k2, force)
            k4 = self._derivative(z + h * k3, force)
            z = z + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
            # The end of the rail takes the cart's speed.
            inside = jnp.clip(z[0], -p.rail, p.rail)
            v = jnp.where(inside == z[0], z[1], 0.0)
            return jnp.stack([inside, v, z[2], z[3]]), None

        return jax.lax.scan(substep, z, None, length=self.substeps)[0]

    def _derivative(self, z: Array, force: Array) -> Array:
        p = self.params
        _, v, theta, omega = z
        half = 0.5 * p.pole_length
        mass = p.cart_mass + p.pole_mass
        cos, sin = jnp.cos(theta), jnp.sin(theta)
        push = (force + p.pole_mass * half * omega**2 * sin) / mass
        spin = (p.gravity * sin - cos * push) / (
            half * (4.0 / 3.0 - p.pole_mass * cos**2 / mass)
        )
        return jnp.stack(
            [v, push - p.pole_mass * half * spin * cos / mass, omega, spin]
        )


def _bell(z: Array) -> Array:
    """1 at 0, 0.1 at |z| = 1 (the Control Suite's Gaussian tolerance)."""
    return jnp.exp(jnp.log(0.1) * z**2)
