"""Stand-ins for systems of a given size, where only the work counts."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp

from safex.types import Array, Dataset, Transition


@dataclasses.dataclass
class Sizes:
    """The task side of a system, which is all that a planner asks of it."""

    obs_dim: int
    action_dim: int
    num_constraints: int = 1
    max_steps: int = 200

    def reward(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """`-|next_obs|^2`."""
        del obs, action
        return -jnp.sum(next_obs**2)

    def cost(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """None."""
        del obs, action, next_obs
        return jnp.zeros(self.num_constraints)

    def margin(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """Always far from the limits."""
        del obs, action, next_obs
        return -jnp.ones(self.num_constraints)

    def project(self, obs: Array) -> Array:
        """Everything is possible."""
        return obs


def random_data(key: Array, size: int, obs_dim: int, action_dim: int) -> Dataset:
    """Rows of a stable linear system with noise."""
    obs_key, action_key, noise_key = jax.random.split(key, 3)
    obs = jax.random.normal(obs_key, (size, obs_dim))
    action = jax.random.uniform(action_key, (size, action_dim), minval=-1.0)
    noise = 0.1 * jax.random.normal(noise_key, (size, obs_dim))
    none = jnp.zeros(size, bool)
    reward, cost = jnp.zeros(size), jnp.zeros((size, 1))
    next_obs = 0.9 * obs + noise
    transitions = Transition(obs, action, reward, cost, next_obs, none, none)
    return Dataset(transitions, jnp.asarray(size))


def layer_flop(obs_dim: int, action_dim: int, features: tuple[int, ...]) -> int:
    """Floating-point operations of the products of one network, mean and std out."""
    widths = (obs_dim + action_dim, *features, 2 * obs_dim)
    return sum(2 * a * b for a, b in itertools.pairwise(widths))
