"""How fast off-policy agents learn: updates per second, and processor time.

python benchmarks/off_policy.py           # every agent of ours
python benchmarks/off_policy.py --peers   # and FSRL's CVPO, in turn with ours

Sizes of FSRL's BallCircle: 8 observations, 2 actions, 128 x 128 ReLU, batches of 256,
two-step returns, 16 actions an observation in the E-step. Ours has twin critics of
reward and cost and solves the dual to tolerance; FSRL's runs with one critic each,
its default, against ours with one, and with twins, and takes one step on the dual.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import (
    Peer,
    Timing,
    describe_machine,
    interleaved,
    matmul_peak,
    median_cpu,
    once,
    print_table,
)
from experiments.runtime import set_up_jax
from safex import config as settings
from safex.agents.off_policy.build import build_off_policy
from safex.config import OFF_POLICY_KINDS
from safex.replay import append, make_replay
from safex.types import Replay, Transition

OBS_DIM, ACTION_DIM, MAX_STEPS = 8, 2, 250
ENVS, ROWS = 20, 500
FEATURES, BATCH, N_STEP, SAMPLES = (128, 128), 256, 2, 16


def random_replay() -> Replay:
    """Random steps in episodes of full length."""
    rows = (ROWS, ENVS)
    key = jax.random.split(jax.random.key(0), 5)
    ends = (jnp.arange(ROWS) + 1) % MAX_STEPS == 0
    block = Transition(
        obs=jax.random.normal(key[0], (*rows, OBS_DIM)),
        action=jax.random.uniform(key[1], (*rows, ACTION_DIM), minval=-1.0),
        reward=jax.random.normal(key[2], rows),
        cost=jax.random.bernoulli(key[3], 0.1, (*rows, 1)).astype(jnp.float32),
        next_obs=jax.random.normal(key[4], (*rows, OBS_DIM)),
        terminated=jnp.zeros(rows, bool),
        truncated=jnp.broadcast_to(ends[:, None], rows),
    )
    return append(make_replay(ROWS, ENVS, OBS_DIM, ACTION_DIM, 1), block)


def updates(
    kind: str, replay: Replay, num_updates: int, **changes: Any
) -> Callable[[], Timing]:
    """A call that makes a block of updates."""
    sizes = {"features": FEATURES, "batch_size": BATCH, "n_step": N_STEP, **changes}
    if kind == "CVPO":
        sizes["num_samples"] = SAMPLES
    config = getattr(settings, f"{kind}Config")(**sizes)
    task = SimpleNamespace(
        obs_dim=OBS_DIM, action_dim=ACTION_DIM, num_constraints=1, max_steps=MAX_STEPS
    )
    agent = build_off_policy(kind, config, task)
    state = jax.jit(agent.init)(jax.random.key(1))
    cost, fresh = jnp.asarray([30.0]), jnp.asarray(True)

    def call() -> Timing:
        key = jax.random.key(2)
        update = agent.update
        return once(
            lambda: update(key, state, replay, cost, fresh, num_updates=num_updates)
        )

    print(f"first updates of {kind}, compilation included: {call().wall:.1f} s")
    return call


def peer(num_updates: int, threads: int, *, double_critic: bool) -> Peer:
    """FSRL's CVPO at the same sizes."""
    work = {
        "obs_dim": OBS_DIM,
        "action_dim": ACTION_DIM,
        "max_steps": MAX_STEPS,
        "envs": ENVS,
        "rows": ROWS,
        "threads": threads,
        "num_samples": SAMPLES,
        "features": FEATURES,
        "double_critic": double_critic,
        "n_step": N_STEP,
        "updates": num_updates,
        "batch": BATCH,
    }
    return Peer("fsrl", json.dumps(work))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", action="store_true", help="also time FSRL's CVPO")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=100, help="in a call")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--threads", nargs="+", type=int, default=sorted({1, cores}), help="of FSRL"
    )
    parser.add_argument("--kinds", nargs="+", default=OFF_POLICY_KINDS)
    arguments = parser.parse_args()
    set_up_jax()
    # What is compiled here is said to be.
    jax.config.update("jax_enable_compilation_cache", False)
    peak = matmul_peak()
    print(f"{describe_machine()}; matrix-product peak {peak:.0f} GFLOP/s")
    replay = random_replay()
    calls = {kind: updates(kind, replay, arguments.updates) for kind in arguments.kinds}
    peers: dict[str, Peer] = {}
    against: dict[str, str] = {}
    if arguments.peers:
        calls["CVPO, 1 critic"] = updates(
            "CVPO", replay, arguments.updates, num_critics=1
        )
        for twins, base in ((False, "CVPO, 1 critic"), (True, "CVPO")):
            for threads in arguments.threads:
                name = f"FSRL's {base}, {threads} threads"
                peers[name] = peer(arguments.updates, threads, double_critic=twins)
                against[name] = base
        calls.update({name: worker.call for name, worker in peers.items()})
    timings = interleaved(calls, arguments.rounds)
    for name, worker in peers.items():
        worker.close()
        base = against[name]
        if base in timings:
            ratio = median_cpu(timings[name]) / median_cpu(timings[base])
            print(f"{name} / safex's {base}: {ratio:.1f} in CPU-s")
    for name, group in timings.items():
        cpu = 1000 * median_cpu(group) / arguments.updates
        print(f"{name}: {cpu:.1f} CPU-s per 1000 updates")
    print_table(
        f"{arguments.updates} updates, batch {BATCH}, {FEATURES[0]} x {FEATURES[1]}",
        timings,
        per_call=arguments.updates,
    )


if __name__ == "__main__":
    main()
