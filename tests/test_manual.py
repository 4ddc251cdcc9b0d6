"""A loop turned by hand: its keys, its memory, and that it refuses what is not whole.

That it gives what the Trainer gives is in `test_loop`, where a trained run is at hand.
"""

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import safex.envs  # noqa: F401, registers the systems
from safex.envs.pendulum import Pendulum
from safex.errors import ContractError, NonFiniteError, SafexError
from safex.training.checkpoint import load_checkpoint, save_checkpoint
from safex.training.manual import ManualLoop
from tests.helpers import assert_close
from tests.test_loop import CountingAgent

ENV = Pendulum.from_config()
SEED = 3


@dataclasses.dataclass(frozen=True)
class KeyedAgent(CountingAgent):
    """Random in all that it does, so that each key shows."""

    def begin_episode(self, key, state):
        begun = super().begin_episode(key, state)
        return begun._replace(weight=state.weight + 0.1 * jax.random.normal(key))

    def update(self, key, state, data):
        state, metrics = super().update(key, state, data)
        return state, metrics | {"drawn": jax.random.normal(key)}


# One for most tests, because it is compiling that takes the time.
LOOP = ManualLoop(ENV, KeyedAgent(), capacity=20)
OBS = np.array([-1.0, 0.0, 0.0])


def a_step(**changes):
    return {
        "obs": OBS,
        "action": np.zeros(1),
        "reward": -1.0,
        "cost": 0.0,
        "next_obs": OBS + 0.1,
        **changes,
    }


def test_a_checkpoint_goes_on_as_if_nothing_had_been(tmp_path):
    state = LOOP.observe(LOOP.begin(LOOP.init(SEED)), **a_step())
    state, _ = LOOP.update(state)
    save_checkpoint(tmp_path, jax.device_get(state), 0, "mine")
    back, _ = load_checkpoint(tmp_path, LOOP.init(0), "mine", print)
    actions = [LOOP.act(LOOP.begin(one), OBS)[1] for one in (state, back)]
    np.testing.assert_array_equal(*actions)


def test_no_random_number_is_used_twice():
    loop, actions = LOOP, []
    state = loop.init(0)
    for _ in range(2):  # two episodes without an update between them, then one with
        state = loop.begin(state)
        for _ in range(3):
            actions.append(float(loop.explore(state)[0]))
            state = loop.observe(state, **a_step())
    state, _ = loop.update(state)
    actions.append(float(loop.explore(state)[0]))  # goes on within the episode
    assert len(set(actions)) == 7
    assert int(state.data.size) == 6
    assert int(state.agent.begun) == 2
    # Nothing is mutated: the same state gives the same.
    assert float(loop.explore(state)[0]) == actions[-1]


def test_beginning_and_learning_have_the_keys_of_a_trainer():
    state = LOOP.observe(LOOP.begin(LOOP.init(SEED)), **a_step())
    for episode in range(2):
        root = jax.random.fold_in(jax.random.key(SEED), 1)
        act_key, learn_key = jax.random.split(jax.random.fold_in(root, episode))
        begin_key = jax.random.split(act_key, 3)[1]
        begun = LOOP.begin(state)
        if episode:
            moved = begun.agent.weight - state.agent.weight
            assert_close(moved, 0.1 * jax.random.normal(begin_key), atol=1e-5)
        state, metrics = LOOP.update(state)
        update_key = jax.random.split(learn_key, 3)[0]
        assert_close(metrics["drawn"], jax.random.normal(update_key))


def test_what_is_observed_is_what_was_executed():
    loop = LOOP
    state = loop.begin(loop.init(0))
    state, action, _ = loop.act(state, OBS)
    override = np.full(1, 0.25, np.float32)
    assert not np.array_equal(action, override)
    state = loop.observe(state, **a_step(action=override, cost=[1.0]))
    assert state.data.transitions.action[0, 0] == 0.25
    assert loop.violating_steps(state) == 1
    assert float(state.agent.spent[0]) == 1.0


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"cost": None}, ContractError, "no cost.*never taken for zero"),
        ({"cost": [0.0, 1.0]}, ContractError, r"cost must have shape \(1,\), got"),
        ({"next_obs": np.zeros(2)}, ContractError, r"next_obs must have shape \(3,\)"),
        ({"reward": np.nan}, NonFiniteError, "reward is not finite"),
    ],
)
def test_a_step_that_is_not_whole_is_refused(changes, error, words):
    loop = LOOP
    state = loop.init(0)
    with pytest.raises(error, match=words):
        loop.observe(state, **a_step(**changes))


def test_an_observation_of_another_size_and_a_bad_action_are_refused():
    loop = ManualLoop(ENV, CountingAgent(bad_fit_at=0), capacity=2)
    state = loop.init(0)
    with pytest.raises(ContractError, match=r"obs must have shape \(3,\), got \(2,\)"):
        loop.act(state, np.zeros(2))
    with pytest.raises(SafexError, match="nothing to learn from"):
        loop.update(state)
    state = loop.observe(state, **a_step())
    with pytest.raises(NonFiniteError, match="metrics/loss is not finite"):
        loop.update(state)
    assert int(state.agent.updated) == 0


def test_the_memory_is_as_large_as_it_was_made():
    loop = ManualLoop(ENV, KeyedAgent(), capacity=2)
    state = loop.init(0)
    for _ in range(2):
        state = loop.observe(state, **a_step())
    with pytest.raises(SafexError, match="memory of 2 transitions is full"):
        loop.observe(state, **a_step())
    with pytest.raises(ValueError, match="capacity must be >= 1, got 0"):
        ManualLoop(ENV, KeyedAgent(), capacity=0)


def test_an_agent_of_a_gymnasium_loop():
    env = gymnasium.make("safex/Pendulum-v0", speed_threshold=1e-6)
    loop = LOOP
    state = loop.begin(loop.init(1))
    obs, _ = env.reset(seed=0)
    for _ in range(5):
        state, action, _ = loop.act(state, obs)
        next_obs, reward, terminated, truncated, info = env.step(action)
        state = loop.observe(
            state,
            obs=obs,
            action=action,
            reward=reward,
            cost=info["costs"],
            next_obs=next_obs,
            terminated=terminated,
            truncated=truncated,
        )
        obs = next_obs
    assert loop.violating_steps(state) == 5
    np.testing.assert_array_equal(
        state.data.transitions.obs[1:5], state.data.transitions.next_obs[:4]
    )
    assert not jnp.any(state.data.transitions.terminated[:5])
