"""FSRL at the work of benchmarks/off_policy.py, once for each line it reads.

Runs in its own environment. Prints `{"wall": s, "cpu": s}` after each call.
"""

import json
import os
import sys
import time
from types import SimpleNamespace

os.environ.setdefault("WANDB_MODE", "disabled")

import gymnasium
import numpy as np
from fsrl.agent import CVPOAgent
from tianshou.data import Batch, VectorReplayBuffer


class Sizes(gymnasium.Env):
    """Only the spaces of a task, and the length of its episodes."""

    def __init__(self, obs_dim, action_dim, max_steps):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (obs_dim,))
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (action_dim,))
        self.spec = SimpleNamespace(max_episode_steps=max_steps)


def filled(s):
    """A replay of random steps, in episodes of full length."""
    rng = np.random.default_rng(0)
    envs, rows = s["envs"], s["rows"]
    buffer = VectorReplayBuffer(envs * rows, envs)
    for step in range(rows):
        ends = np.full(envs, (step + 1) % s["max_steps"] == 0)
        buffer.add(
            Batch(
                obs=rng.normal(size=(envs, s["obs_dim"])).astype(np.float32),
                act=rng.uniform(-1, 1, (envs, s["action_dim"])).astype(np.float32),
                rew=rng.normal(size=envs),
                terminated=np.zeros(envs, bool),
                truncated=ends,
                done=ends,
                obs_next=rng.normal(size=(envs, s["obs_dim"])).astype(np.float32),
                info=Batch(cost=rng.uniform(size=envs) < 0.1),
            )
        )
    return buffer


def updates(s):
    """A block of updates, as its trainer makes them after a collection."""
    agent = CVPOAgent(
        Sizes(s["obs_dim"], s["action_dim"], s["max_steps"]),
        thread=s["threads"],
        sample_act_num=s["num_samples"],
        hidden_sizes=tuple(s["features"]),
        double_critic=s["double_critic"],
        n_step=s["n_step"],
    )
    policy, buffer = agent.policy, filled(s)
    policy.train()

    def call():
        policy.pre_update_fn()
        for _ in range(s["updates"]):
            policy.update(s["batch"], buffer)
        policy.post_update_fn()

    return call


def main():
    """Reads the work from the command line and `go` from standard input."""
    call = updates(json.loads(sys.argv[1]))
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        timing = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(timing), flush=True)


if __name__ == "__main__":
    main()
