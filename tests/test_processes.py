"""Environments in worker processes: the same numbers, and no process left behind."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import foreign
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_off_policy_training as off_policy
from helpers import assert_close

from safex.envs.processes import ProcessVector, _seeds
from safex.errors import ContractError, NonFiniteError, SimulatorError

KEY = jax.random.key(0)


def drift(key, obs):
    """Pushes on, by what is seen and by chance."""
    return jnp.clip(
        0.8 + 0.1 * obs[:, :1] + 0.3 * jax.random.normal(key, (3, 1)), -1, 1
    )


def rolled(workers, steps=20, **how):
    with ProcessVector(
        functools.partial(foreign.make, **how), 3, workers=workers
    ) as vector:
        return vector.rollout(KEY, *vector.reset(KEY), drift, steps)


@pytest.fixture(scope="module")
def local():
    return rolled(workers=0)


@pytest.mark.parametrize("workers", [1, 2])
def test_numbers_do_not_depend_on_the_workers(local, workers):
    assert_close(rolled(workers), local, rtol=0, atol=0)


def test_it_equals_stepping_the_environments_one_by_one(local):
    (state, last), rows, margin = local
    assert_close(margin, rows.cost)
    for i in range(3):
        env, episode = foreign.make(), 0
        seeds = [int(_seeds(state.stream, np.full(3, e))[i]) for e in range(9)]
        obs, _ = env.reset(seed=seeds[0])
        for t in range(20):
            next_obs, reward, terminated, truncated, info = env.step(rows.action[t, i])
            assert_close(
                jax.tree.map(
                    lambda leaf, t=t, i=i: np.asarray(leaf)[t, i], rows._asdict()
                ),
                {
                    "obs": obs,
                    "action": rows.action[t, i],
                    "reward": np.float32(reward),
                    "cost": info["costs"],
                    "next_obs": next_obs,
                    "terminated": terminated,
                    "truncated": truncated,
                },
            )
            obs = next_obs
            if terminated or truncated:
                episode += 1
                obs, _ = env.reset(seed=seeds[episode])
        assert_close(last[i], obs)
        assert state.episode[i] == episode == 3


def test_episodes_differ_and_a_key_repeats_them():
    with ProcessVector(foreign.make, 3, workers=0) as vector:
        state, first = vector.reset(KEY)
        _, other = vector.reset(jax.random.key(1))
        _, repeated = vector.reset(KEY)
        assert_close(first, repeated)
        assert not np.isclose(first, other).any(0)[0]
        assert len(set(np.asarray(first)[:, 0].tolist())) == 3
        seeds = [tuple(_seeds(state.stream, np.full(3, e))) for e in range(20)]
        assert len({seed for each in seeds for seed in each}) == 60


@pytest.mark.parametrize("workers", [0, 2])
def test_a_saved_state_goes_on_as_if_never_interrupted(local, workers):
    make = foreign.make
    with ProcessVector(make, 3, workers=workers) as vector:
        whole = vector.rollout(KEY, *vector.reset(KEY), drift, 9)
        later = vector.rollout(jax.random.key(7), *whole[0], drift, 8)
    saved = jax.tree.map(jnp.asarray, whole[0])
    with ProcessVector(make, 3, workers=workers) as vector:
        vector.reset(jax.random.key(5))
        assert_close(vector.rollout(jax.random.key(7), *saved, drift, 8), later)
        # An old state too, though the environments are further on.
        assert_close(vector.rollout(jax.random.key(7), *saved, drift, 8), later)


def test_a_killed_run_goes_on_mid_episode_with_the_same_numbers(tmp_path):
    def make(report):
        made, said = off_policy.make(report=report)
        slope = functools.partial(foreign.make, max_steps=15)
        made.vector = ProcessVector(slope, 2, workers=1)
        made.evaluation = ProcessVector(slope, 2, workers=0)
        return made, said

    def kill(progress):
        assert progress.step < 80

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    make(lambda progress: None)[0].train([off_policy.run_in(whole)])
    with pytest.raises(AssertionError):
        make(kill)[0].train([off_policy.run_in(cut)])
    made, said = make(lambda progress: None)
    made.train([off_policy.run_in(cut)])
    assert said == []
    for name in ("episodes", "metrics"):
        assert off_policy.rows(cut, name) == off_policy.rows(whole, name)
    assert any(row["complete"] for row in off_policy.rows(whole, "episodes"))


def test_a_state_that_does_not_come_again_is_refused():
    with ProcessVector(foreign.make, 3, workers=0) as vector:
        state, obs = vector.reset(KEY)
        vector.reset(jax.random.key(1))
        with pytest.raises(ContractError, match="Slope does not come to the same"):
            vector.rollout(KEY, state, obs + 1, drift, 2)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("breaks", "error", "words"),
    [
        ("raise", SimulatorError, "Slope failed: RuntimeError: the spring broke .*for"),
        ("nan", NonFiniteError, "Slope: the observation of step 3 is not finite"),
    ],
)
def test_errors_of_an_environment_reach_the_caller(workers, breaks, error, words):
    vector = ProcessVector(
        functools.partial(foreign.make, breaks=breaks), 3, workers=workers
    )
    with pytest.raises(error, match=words) as caught:
        vector.rollout(KEY, *vector.reset(KEY), drift, 5)
    if workers:
        assert "foreign.py" in caught.value.__notes__[0] or breaks == "nan"
        assert "[environments 0 to 0]" in str(caught.value)
        with pytest.raises(SimulatorError, match="environments of Slope are closed"):
            vector.reset(KEY)


def test_a_missing_cost_shows_before_anything_is_computed():
    make = functools.partial(foreign.make, breaks="no cost")
    with pytest.raises(ContractError, match="Slope gives no cost"):
        ProcessVector(make, 2, workers=0)


def test_a_worker_that_dies_is_reported():
    make = functools.partial(foreign.make, breaks="die")
    with ProcessVector(
        make, 4, workers=2, facts=ProcessVector(foreign.make, 1, workers=0).facts
    ) as vector:
        start = vector.reset(KEY)
        words = "environments 0 to 1 of Slope ended by signal 9"
        with pytest.raises(SimulatorError, match=words):
            vector.rollout(KEY, *start, lambda key, obs: jnp.zeros((4, 1)), 5)


def test_actions_are_checked():
    with ProcessVector(foreign.make, 3, workers=0) as vector:
        start = vector.reset(KEY)
        with pytest.raises(NonFiniteError, match="action for environment 0 of Slope"):
            vector.rollout(KEY, *start, lambda key, obs: obs[:, :1] * jnp.nan, 1)
        with pytest.raises(ValueError, match=r"shape \(3, 1\), got \(3, 2\)"):
            vector.rollout(KEY, *start, lambda key, obs: obs, 1)


def test_what_cannot_be_made():
    with pytest.raises(SimulatorError, match=r"cannot be sent.*workers=0"):
        ProcessVector(lambda: foreign.make(six=True), 1, workers=1)
    with pytest.raises(ValueError, match="num_envs must be >= 1"):
        ProcessVector(foreign.make, 0)
    with pytest.raises(ValueError, match="workers must be >= 0"):
        ProcessVector(foreign.make, 1, workers=-1)


def test_closing_ends_the_processes():
    vector = ProcessVector(foreign.make, 2, workers=2)
    processes = [each.process for each in vector._blocks._workers]
    assert all(process.poll() is None for process in processes)
    vector.close()
    assert [process.returncode for process in processes] == [0, 0]
    vector.close()


SCRIPT = """
import sys, time
import foreign
from safex.envs.processes import ProcessVector
vector = ProcessVector(foreign.make, 2, workers=2)
print(*(each.process.pid for each in vector._blocks._workers), flush=True)
time.sleep(60)
"""


def test_workers_end_when_their_parent_is_killed():
    tests = Path(__file__).parent
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tests.parent,
        env={**os.environ, "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"},
    )
    with parent:
        workers = [int(word) for word in parent.stdout.readline().split()]
        assert len(workers) == 2
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(map(_runs, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_runs, workers))


def _runs(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
