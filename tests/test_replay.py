"""n-step windows against a brute-force loop over every environment's history."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex import replay as rp
from safex.types import Transition
from tests.helpers import assert_close

ENVS, STEPS, CONSTRAINTS = 3, 23, 2
GAMMA, COST_GAMMA = 0.9, 0.7


def history(seed=0):
    """23 steps of 3 environments with ends of both kinds at places of their own."""
    rng = np.random.default_rng(seed)
    rows = (STEPS, ENVS)
    end = rng.uniform(size=rows)
    return Transition(
        obs=rng.normal(size=(*rows, 2)).astype(np.float32),
        action=rng.uniform(-1, 1, (*rows, 1)).astype(np.float32),
        reward=rng.normal(size=rows).astype(np.float32),
        cost=rng.uniform(size=(*rows, CONSTRAINTS)).astype(np.float32),
        next_obs=rng.normal(size=(*rows, 2)).astype(np.float32),
        terminated=end < 0.1,
        truncated=(end > 0.85) | (end < 0.03),
    )


def filled(block, capacity, chunk):
    replay = rp.make_replay(capacity, ENVS, 2, 1, CONSTRAINTS)
    for start in range(0, STEPS, chunk):
        part = jax.tree.map(lambda x, s=start: x[s : s + chunk], block)
        replay = rp.append(replay, part)
    return replay


def brute_force(block, first, env, n_step):
    """The window by the definition: add, look whether the episode ended, go on."""
    reward, cost, k = 0.0, np.zeros(CONSTRAINTS), 0
    for t in range(first, min(first + n_step, STEPS)):
        reward += GAMMA**k * block.reward[t, env]
        cost += COST_GAMMA**k * block.cost[t, env]
        k += 1
        if block.terminated[t, env] or block.truncated[t, env]:
            break
    last = first + k - 1
    alive = not block.terminated[last, env]
    return rp.Minibatch(
        block.obs[first, env],
        block.action[first, env],
        reward,
        cost,
        block.next_obs[last, env],
        GAMMA**k * alive,
        COST_GAMMA**k * alive,
    )


@pytest.mark.parametrize("n_step", [1, 4])
@pytest.mark.parametrize(("capacity", "chunk"), [(40, 5), (10, 3), (7, 7)])
def test_windows_equal_the_brute_force_loop(n_step, capacity, chunk):
    block = history()
    replay = filled(block, capacity, chunk)
    assert int(replay.written) == STEPS
    stored = min(STEPS, capacity)
    age, env = np.meshgrid(np.arange(stored), np.arange(ENVS))
    age, env = age.ravel(), env.ravel()
    got = rp.windows(replay, jnp.asarray(age), jnp.asarray(env), n_step, 0.9, 0.7)
    expected = [
        brute_force(block, STEPS - 1 - a, e, n_step)
        for a, e in zip(age, env, strict=True)
    ]
    expected = jax.tree.map(
        lambda *x: np.stack([np.asarray(v, np.float32) for v in x]), *expected
    )
    assert_close(got, expected)


def test_a_truncation_bootstraps_and_a_termination_does_not():
    zero = jnp.zeros
    for name, expected in (("terminated", 0.0), ("truncated", GAMMA)):
        ends = {"terminated": zero((2, 1), bool), "truncated": zero((2, 1), bool)}
        ends[name] = ends[name].at[0, 0].set(True)
        block = Transition(
            zero((2, 1, 1)),
            zero((2, 1, 1)),
            jnp.asarray([[1.0], [5.0]]),
            zero((2, 1, 1)),
            jnp.asarray([[[7.0]], [[9.0]]]),
            **ends,
        )
        replay = rp.append(rp.make_replay(4, 1, 1, 1, 1), block)
        got = rp.windows(replay, jnp.asarray([1]), jnp.asarray([0]), 3, GAMMA, GAMMA)
        assert_close(got.reward, jnp.asarray([1.0]))
        assert_close(got.next_obs, jnp.asarray([[7.0]]))
        assert_close(got.discount, jnp.asarray([expected]))


def test_samples_are_stored_steps_and_cover_all_of_them():
    block = history()
    replay = filled(block, 10, 3)
    draw = jax.jit(rp.sample, static_argnums=(2, 3, 4, 5))
    batch = draw(jax.random.key(0), replay, 2000, 3, GAMMA, COST_GAMMA)
    stored = {tuple(x) for x in np.asarray(block.obs[-10:]).reshape(-1, 2).tolist()}
    drawn = {tuple(x) for x in np.asarray(batch.obs).tolist()}
    assert drawn == stored


def test_a_wrong_block_is_refused():
    replay = rp.make_replay(4, ENVS, 2, 1, CONSTRAINTS)
    with pytest.raises(ValueError, match="23 steps exceeds the capacity 4"):
        rp.append(replay, history())
    block = jax.tree.map(lambda x: x[:2], history())
    with pytest.raises(ValueError, match=r"cost must have shape \(2, 3, 2\)"):
        rp.append(replay, block._replace(cost=block.cost[..., :1]))
    with pytest.raises(ValueError, match="sizes must be >= 1"):
        rp.make_replay(0, 1, 1, 1, 1)


def test_the_newest_observations_are_of_the_newest_steps_of_all_environments():
    steps, envs = 30, 2
    replay = rp.make_replay(20, envs, 1, 1, 1)
    number = jnp.arange(steps * envs, dtype=jnp.float32).reshape(steps, envs, 1)
    none, zero = jnp.zeros((steps, envs), bool), jnp.zeros((steps, envs))
    block = Transition(number, number, zero, number, number, none, none)
    for part in (slice(0, 15), slice(15, 30)):
        replay = rp.append(
            replay, jax.tree.map(lambda leaf, part=part: leaf[part], block)
        )

    def seen(newest):
        return set(rp.newest_obs(jax.random.key(0), replay, 500, newest)[:, 0].tolist())

    # An uneven number is a step more of each; no more than there is.
    assert seen(6) == set(range(54, 60))
    assert seen(5) == set(range(54, 60))
    assert seen(1000) == set(range(20, 60))
