"""Parallel environments: where episodes end, what they show, which keys are used."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from safex.config import PointGoalConfig
from safex.envs.point_goal import PointGoal
from safex.envs.vector import JaxVector
from safex.types import Step
from tests.helpers import assert_close


class Count(NamedTuple):
    t: jax.Array
    length: jax.Array
    draw: jax.Array


class Corridor:
    """Counts its steps; an episode terminates at a length drawn at its reset."""

    obs_dim, action_dim, num_constraints, max_steps = 2, 1, 1, 5
    limit_names, limit_units = ("t",), ("steps",)
    limits = jnp.array([2.0])

    def reset(self, key):
        length_key, draw_key = jax.random.split(key)
        length = jax.random.randint(length_key, (), 2, 9)
        state = Count(jnp.zeros(()), length, jax.random.uniform(draw_key))
        return state, self.observe(state)

    def observe(self, state):
        return jnp.stack([state.t, state.draw])

    def step(self, key, state, action):
        after = state._replace(t=state.t + 1)
        cost = (after.t > 2).astype(jnp.float32)[None]
        noise = jax.random.uniform(key)
        ends = after.t >= after.length
        late = after.t >= self.max_steps
        return Step(after, self.observe(after), noise, cost, ends, late)

    def margin(self, obs, action, next_obs):
        return next_obs[:1] - 2.0


def nothing(key, obs):
    return jnp.zeros((len(obs), 1))


@pytest.fixture(scope="module")
def corridor():
    vector = JaxVector(Corridor(), 3)
    state, obs = vector.reset(jax.random.key(0))
    (state, last), block, margin = vector.rollout(
        jax.random.key(1), state, obs, nothing, 40
    )
    return obs, jax.device_get(block), np.asarray(margin), np.asarray(last)


def test_an_episode_ends_with_its_real_last_observation(corridor):
    first, block, margin, last = corridor
    assert block.obs.shape == (40, 3, 2)
    assert margin.shape == block.cost.shape == (40, 3, 1)
    np.testing.assert_array_equal(block.obs[0], first)
    # Never that of the episode which begins: its counter would be 0.
    np.testing.assert_array_equal(block.next_obs[..., 0], block.obs[..., 0] + 1)
    over = block.terminated | block.truncated
    after = np.concatenate([block.obs[1:], last[None]])
    np.testing.assert_array_equal(after[over][:, 0], 0.0)
    np.testing.assert_array_equal(after[~over], block.next_obs[~over])
    assert over.sum() > 10
    np.testing.assert_array_equal(block.cost > 0, margin > 0)


def test_a_time_limit_is_no_end_of_the_task(corridor):
    _, block, _, _ = corridor
    assert block.terminated.any() and block.truncated.any()
    ends = block.next_obs[..., 0]
    assert (ends[block.truncated] == 5).all()
    alone = block.terminated & ~block.truncated
    assert (ends[alone] < 5).all()
    assert (block.truncated & ~block.terminated).any()


def test_no_key_is_used_twice(corridor):
    _, block, _, _ = corridor
    # Every step of every environment draws its reward, every episode its second entry.
    assert len(np.unique(block.reward)) == block.reward.size
    over = block.terminated | block.truncated
    drawn = block.next_obs[..., 1][over]
    assert len(np.unique(drawn)) == len(drawn)


def test_rollout_equals_stepping_one_environment_at_a_time():
    config = PointGoalConfig(process_noise_std=0.1, observation_noise_std=0.05)
    env = PointGoal.from_config(config, max_steps=7)
    vector = JaxVector(env, 2)

    def act(gain, key, obs):
        noise = jax.random.normal(key, (len(obs), 2))
        return jnp.clip(gain * obs[:, 7:9] + noise, -1.0, 1.0)

    policy = Partial(act, jnp.float32(0.3))
    root, steps = jax.random.key(3), 10
    state, obs = vector.reset(jax.random.key(2))
    carry, block, margin = vector.rollout(root, state, obs, policy, steps)
    states = [jax.tree.map(lambda leaf, n=n: leaf[n], state) for n in range(2)]
    seen = [obs[0], obs[1]]
    step_one = jax.jit(env.step)
    for t, key in enumerate(jax.random.split(root, steps)):
        act_key, step_key, reset_key = jax.random.split(key, 3)
        actions = policy(act_key, jnp.stack(seen))
        for n in range(2):
            step = step_one(jax.random.split(step_key, 2)[n], states[n], actions[n])
            row = jax.tree.map(lambda leaf, n=n, t=t: leaf[t, n], block)
            wanted = (seen[n], actions[n], step.reward, step.cost, step.obs)
            assert_close(tuple(row[:5]), wanted, rtol=1e-4, atol=1e-5)
            true = env.observe(states[n]), actions[n], env.observe(step.state)
            assert_close(margin[t, n], env.margin(*true), rtol=1e-4, atol=1e-5)
            states[n], seen[n] = step.state, step.obs
            if step.terminated or step.truncated:
                key_of = jax.random.split(reset_key, 2)[n]
                states[n], seen[n] = env.reset(key_of)
    assert_close(carry[1], jnp.stack(seen), rtol=1e-4, atol=1e-5)


def test_a_policy_of_other_arrays_is_not_compiled_anew():
    vector = JaxVector(Corridor(), 2)
    traced = []

    def act(gain, key, obs):
        traced.append(1)
        return gain * obs[:, :1]

    state, obs = vector.reset(jax.random.key(0))
    for gain in (0.1, 0.2, 0.3):
        policy = Partial(act, jnp.float32(gain))
        (state, obs), _, _ = vector.rollout(jax.random.key(1), state, obs, policy, 3)
    assert len(traced) == 1


def test_no_environment_at_all_is_refused():
    with pytest.raises(ValueError, match="num_envs must be >= 1, got 0"):
        JaxVector(Corridor(), 0)
