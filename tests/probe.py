"""A constrained task with a known optimum, and a loop that learns it.

At each of 20 steps an action (a, b) earns `a - b^2` and costs `((1 + a) / 2)^2`; no
step bears on the next. Without a constraint (1, 0) is best, at a cost of 20. A budget
of 7.2 is met by a = 0.2 at every step, and that is best: the reward is concave, the
cost convex. The early probe earns and costs in its first 5 steps alone, a quarter.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from safex.agents.off_policy.build import build_off_policy
from safex.agents.off_policy.critics import CriticsState, Values
from safex.config import (
    CVPOConfig,
    DDPGConfig,
    DDPGLagConfig,
    PIDConfig,
    SACConfig,
    SACLagConfig,
    TD3Config,
    TD3LagConfig,
)
from safex.replay import append, make_replay
from safex.types import Transition

BUDGET, BEST_ACTION, ENVS = 7.2, 0.2, 8
# At 0.8 the discounted sum of 20 steps is that of all but for 1 %.
_COMMON = {
    "cost_budget": (BUDGET,),
    "discount": 0.8,
    "cost_discount": 0.8,
    "batch_size": 64,
    "features": (32, 32),
    "actor_lr_rate": 1e-3,
    "critic_lr_rate": 3e-3,
    "tau": 0.05,
}
_SOFT = {"temperature_lr_rate": 1e-2, "init_temperature": 0.02, "target_entropy": -3.0}
# An actor that follows its price in a round or two bears gains that are not small.
_PID = {"pid": PIDConfig(k_p=0.5, k_i=0.2, k_d=0.0, relative=True)}
CONFIGS = {
    "SAC": SACConfig(**_COMMON, **_SOFT),
    "TD3": TD3Config(**_COMMON),
    "DDPG": DDPGConfig(**_COMMON),
    "SACLag": SACLagConfig(**_COMMON, **_SOFT, **_PID),
    "TD3Lag": TD3LagConfig(**_COMMON, **_PID),
    "DDPGLag": DDPGLagConfig(**_COMMON, **_PID),
    "CVPO": CVPOConfig(
        **_COMMON, estep_kl=0.1, mstep_kl_mean=0.05, mstep_kl_std=0.005, min_std=0.05
    ),
}


class Probe(NamedTuple):
    """Its sizes, and in how many steps it earns and costs."""

    obs_dim: int = 2
    action_dim: int = 2
    num_constraints: int = 1
    max_steps: int = 20
    first: int = 20


PROBE = Probe()


def reward(action):
    return action[..., 0] - action[..., 1] ** 2


def cost(action):
    return (0.5 * (1 + action[..., :1])) ** 2


class Known:
    """In place of critics: what an action earns and costs, and what is added to costs.

    So an actor is tested without the learning of critics; parameters are the addition.
    """

    def values(self, params, obs, action):
        """What critics would say if they knew."""
        del obs
        return Values(reward(action), cost(action) + params)


def improve(policy, added, *, steps, multiplier=()):
    """So many steps of a policy on `Known`; its mean action, and the last metrics."""
    keys = jax.random.split(jax.random.key(0), 3)
    obs = jax.random.uniform(keys[0], (16, 2), minval=-1.0)
    critics = CriticsState(added, added, ())

    def step(state, now):
        key, count = now
        return policy.improve(key, state, critics, obs, jnp.asarray(multiplier), count)

    each = jax.random.split(keys[1], steps), jnp.arange(steps)
    state, metrics = jax.lax.scan(step, policy.init(keys[2]), each)
    act = partial(policy.act, keys[2], state, explore=False)
    return jax.vmap(act)(obs).mean(0), jax.tree.map(lambda x: x[-1], metrics)


class Outcome(NamedTuple):
    """What came of it: mean costs of episodes that explore and that do not."""

    train_cost: float
    cost: float
    action: jax.Array
    state: object
    metrics: dict


def learn(agent, *, rounds, num_updates, seed=0, task=PROBE):
    """Episodes of all environments, then updates, again and again.

    The first observation is random, but where the steps are not alike the time.
    """

    @partial(jax.jit, static_argnames=("explore",))
    def episode(key, state, explore=True):
        obs_key, act_key = jax.random.split(key)
        rows = (task.max_steps, ENVS)
        obs = jax.random.uniform(
            obs_key, (task.max_steps + 1, ENVS, task.obs_dim), minval=-1.0
        )
        if task.first < task.max_steps:
            time = jnp.linspace(-1.0, 1.0, task.max_steps + 1)
            obs = obs.at[..., 0].set(time[:, None])
        counts = (jnp.arange(task.max_steps) < task.first)[:, None]
        keys = jax.random.split(act_key, rows)
        act = partial(agent.act, explore=explore)
        act = jax.vmap(jax.vmap(act, (0, None, 0)), (0, None, 0))
        action, _ = act(keys, state, obs[:-1])
        last = jnp.arange(task.max_steps) == task.max_steps - 1
        return Transition(
            obs[:-1],
            action,
            counts * reward(action),
            counts[..., None] * cost(action),
            obs[1:],
            jnp.zeros(rows, bool),
            jnp.broadcast_to(last[:, None], rows),
        )

    state = jax.jit(agent.init)(jax.random.key(seed))
    replay = make_replay(50 * task.max_steps, ENVS, task.obs_dim, task.action_dim, 1)
    store = jax.jit(append)
    train_costs = []
    for key in jax.random.split(jax.random.key(seed + 1), rounds):
        act_key, update_key = jax.random.split(key)
        block = episode(act_key, state)
        replay = store(replay, block)
        cost_return = block.cost.sum(0).mean(0)
        train_costs.append(float(cost_return[0]))
        state, metrics = agent.update(
            update_key,
            state,
            replay,
            cost_return,
            jnp.asarray(True),
            num_updates=num_updates,
        )
    final = episode(jax.random.key(99), state, explore=False)
    late = train_costs[-rounds // 5 :]
    return Outcome(
        sum(late) / len(late),
        float(final.cost.sum(0).mean()),
        final.action[: task.first].mean((0, 1)),
        state,
        metrics,
    )


def agent_of(kind, **changes):
    """An agent of the probe."""
    config = CONFIGS[kind]
    if changes:
        config = type(config)(**{**vars(config), **changes})
    return build_off_policy(kind, config, Probe())
