"""A replay of parallel environments, and n-step minibatches from it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from safex.types import Array, Replay, Transition

__all__ = ["Minibatch", "Replay", "append", "make_replay", "sample"]


class Minibatch(NamedTuple):
    """n-step transitions.

    With k <= n steps from `obs` to `next_obs`, and y the value after them, the return
    is `reward + discount y`.

    Attributes:
      obs: `[B, D]` observation that the window begins at.
      action: `[B, A]` action there.
      reward: `[B]` `sum_{i < k} gamma^i r_i`.
      cost: `[B, C]` `sum_{i < k} gamma_c^i c_i`.
      next_obs: `[B, D]` observation after the last step of the window, before a reset.
      discount: `[B]` `gamma^k`, 0 after a termination, never after a truncation.
      cost_discount: `[B]` the same of `gamma_c`.
    """

    obs: Array
    action: Array
    reward: Array
    cost: Array
    next_obs: Array
    discount: Array
    cost_discount: Array


def make_replay(
    capacity: int, num_envs: int, obs_dim: int, action_dim: int, num_constraints: int
) -> Replay:
    """An empty replay of `capacity` steps of each of `num_envs` environments.

    Raises:
      ValueError: a size is not positive.
    """
    if min(capacity, num_envs, obs_dim, action_dim) < 1 or num_constraints < 0:
        raise ValueError(
            "sizes must be >= 1 (num_constraints >= 0), got capacity "
            f"{capacity}, num_envs {num_envs}, obs_dim {obs_dim}, action_dim "
            f"{action_dim}, num_constraints {num_constraints}"
        )
    rows = (capacity, num_envs)
    # Buffers of their own: one array twice could not be donated.
    return Replay(
        Transition(
            obs=jnp.zeros((*rows, obs_dim)),
            action=jnp.zeros((*rows, action_dim)),
            reward=jnp.zeros(rows),
            cost=jnp.zeros((*rows, num_constraints)),
            next_obs=jnp.zeros((*rows, obs_dim)),
            terminated=jnp.zeros(rows, bool),
            truncated=jnp.zeros(rows, bool),
        ),
        jnp.zeros((), jnp.int32),
    )


def append(replay: Replay, block: Transition) -> Replay:
    """Writes T steps of every environment, over the oldest where the ring is full.

    Args:
      replay: is not changed.
      block: leaves `[T, N, ...]`.

    Raises:
      ValueError: T exceeds the capacity, or a shape is another than the replay's.
    """
    capacity = replay.transitions.reward.shape[0]
    steps = block.reward.shape[0]
    if steps > capacity:
        raise ValueError(f"a block of {steps} steps exceeds the capacity {capacity}")
    for name, old, new in zip(
        Transition._fields, replay.transitions, block, strict=True
    ):
        if new.shape != (steps, *old.shape[1:]):
            raise ValueError(
                f"{name} must have shape {(steps, *old.shape[1:])}, got {new.shape}"
            )
    rows = (replay.written + jnp.arange(steps)) % capacity
    written = jax.tree.map(
        lambda old, new: old.at[rows].set(new.astype(old.dtype)),
        replay.transitions,
        block,
    )
    return Replay(written, replay.written + steps)


def sample(
    key: Array,
    replay: Replay,
    batch_size: int,
    n_step: int,
    discount: float,
    cost_discount: float,
) -> Minibatch:
    """Draws windows of up to `n_step` steps, each beginning at a stored step.

    All stored steps are equally likely. A window ends early with its episode
    (terminated or truncated) and at the newest row of the ring, so that it never joins
    two episodes, nor the newest step to the oldest.

    Args:
      key: consumed.
      replay: with at least one step written.
      batch_size: B.
      n_step: n.
      discount: gamma.
      cost_discount: gamma_c.
    """
    age, env = _places(key, replay, batch_size, replay.transitions.reward.size)
    return windows(replay, age, env, n_step, discount, cost_discount)


def newest_obs(
    key: Array, replay: Replay, batch_size: int, newest: int | Array
) -> Array:
    """Draws observations `[B, D]` of the newest steps.

    Args:
      key: consumed.
      replay: with at least one step written.
      batch_size: B.
      newest: steps of all environments to draw from, shared evenly among them.
    """
    capacity = replay.transitions.reward.shape[0]
    age, env = _places(key, replay, batch_size, newest)
    return replay.transitions.obs[(replay.written - 1 - age) % capacity, env]


def _places(
    key: Array, replay: Replay, batch_size: int, newest: int | Array
) -> tuple[Array, Array]:
    """Age `[B]` and environment `[B]` of steps among the newest stored ones."""
    capacity, num_envs = replay.transitions.reward.shape
    stored = jnp.minimum(replay.written, jnp.minimum(capacity, -(-newest // num_envs)))
    time_key, env_key = jax.random.split(key)
    # Age 0 is the newest step; an empty ring gives its zeros.
    age = jax.random.randint(time_key, (batch_size,), 0, jnp.maximum(stored, 1))
    return age, jax.random.randint(env_key, (batch_size,), 0, num_envs)


def windows(
    replay: Replay,
    age: Array,
    env: Array,
    n_step: int,
    discount: float,
    cost_discount: float,
) -> Minibatch:
    """The windows that begin `age` `[B]` steps before the newest of `env` `[B]`."""
    t = replay.transitions
    capacity = t.reward.shape[0]
    first = replay.written - 1 - age
    offset = jnp.arange(n_step)
    rows = (first[:, None] + offset) % capacity
    at = (rows, env[:, None])
    ended = t.terminated[at] | t.truncated[at]
    # Step i counts if it is stored and no step before it ended the episode.
    before = jnp.cumsum(ended, axis=1) - ended
    counts = (before == 0) & (offset <= age[:, None])
    length = counts.sum(1)
    last = ((first + length - 1) % capacity, env)
    alive = ~t.terminated[last]
    weight = jnp.where(counts, discount**offset, 0.0)
    cost_weight = jnp.where(counts, cost_discount**offset, 0.0)
    start = (first % capacity, env)
    return Minibatch(
        obs=t.obs[start],
        action=t.action[start],
        reward=(weight * t.reward[at]).sum(1),
        cost=(cost_weight[..., None] * t.cost[at]).sum(1),
        next_obs=t.next_obs[last],
        discount=jnp.where(alive, discount**length, 0.0),
        cost_discount=jnp.where(alive, cost_discount**length, 0.0),
    )
