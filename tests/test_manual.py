"""A loop turned by hand gives what the Trainer gives, and refuses what is not whole."""

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import safex.envs  # noqa: F401, registers the systems
from safex.envs.pendulum import Pendulum
from safex.errors import ContractError, NonFiniteError, SafexError
from safex.training.account import load_record
from safex.training.checkpoint import load_checkpoint, save_checkpoint
from safex.training.manual import ManualLoop
from tests.helpers import assert_close
from tests.test_loop import CONFIG, CountingAgent, make_trainer, seed_run

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
        weight = state.weight + 0.1 * jax.random.normal(key)
        return state._replace(weight=weight), metrics


# One for most tests, because it is compiling that takes the time.
LOOP = ManualLoop(ENV, KeyedAgent(), capacity=CONFIG.capacity)
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


def by_hand(loop, state):
    """The episodes of CONFIG; the system has the keys that the Trainer gives it."""
    reset, system_step = jax.jit(ENV.reset), jax.jit(ENV.step)
    paths = []
    for episode in range(CONFIG.num_model_updates + 1):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(SEED), 1), episode)
        reset_key, _, step_key = jax.random.split(jax.random.split(key)[0], 3)
        env_state, obs = reset(reset_key)
        if episode > 0:
            state = loop.begin(state)
        length = CONFIG.num_rollout_steps if episode else CONFIG.num_exploration_steps
        path = []
        for t in range(length):
            if episode:
                state, action, _ = loop.act(state, obs)
            else:
                action = loop.explore(state)
            _, env_key = jax.random.split(jax.random.fold_in(step_key, t))
            step = system_step(env_key, env_state, action)
            env_state = step.state
            state = loop.observe(
                state,
                obs=obs,
                action=action,
                reward=step.reward,
                cost=step.cost,
                next_obs=step.obs,
                terminated=step.terminated,
                truncated=step.truncated,
            )
            obs = step.obs
            path.append(np.concatenate([action, obs]))
        paths.append(np.stack(path))
        state, _ = loop.update(state)
    return state, paths


@pytest.fixture(scope="module")
def turned():
    return by_hand(LOOP, LOOP.init(SEED))


def test_by_hand_it_is_the_run_of_the_trainer(turned, tmp_path):
    state, paths = turned
    trainer = make_trainer(KeyedAgent())
    trainer.train([seed_run(tmp_path, SEED)])
    for episode, path in enumerate(paths):
        record = load_record(tmp_path / "episodes" / f"episode_00{episode}.npz")
        expected = np.concatenate([record.action, record.next_obs], axis=1)
        np.testing.assert_allclose(path, expected, rtol=1e-4, atol=1e-5)
    template = trainer._traced(()).init(jax.random.key(0))
    learned, _ = load_checkpoint(tmp_path / "checkpoints", template, "f", print)
    assert_close(state.agent, learned.agent, rtol=1e-4)
    assert_close(state.data, learned.data, rtol=1e-4, atol=1e-5)
    assert LOOP.violating_steps(state) == int(learned.violating_steps)


def test_a_checkpoint_goes_on_as_if_nothing_had_been(turned, tmp_path):
    state, _ = turned
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
