"""How fast our own systems are: random steps of a batch, all of them in one program.

python benchmarks/envs.py

A pendulum has no matrix products, so there are no GFLOP/s to give.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import (
    Timing,
    describe_machine,
    interleaved,
    once,
    print_table,
)
from experiments.runtime import set_up_jax
from safex.envs.pendulum import Pendulum

STEPS = 200


def episodes(batch: int, num_devices: int) -> Callable[[], Timing]:
    """A call that runs a batch of random episodes and adds up reward and cost."""
    env = Pendulum.from_config()

    def episode(key: jax.Array) -> Any:
        reset_key, run_key = jax.random.split(key)
        state, _ = env.reset(reset_key)

        def step(state: Any, key: jax.Array) -> Any:
            action_key, step_key = jax.random.split(key)
            action = jax.random.uniform(action_key, (1,), minval=-1.0)
            result = env.step(step_key, state, action)
            return result.state, (result.reward, result.cost)

        _, (reward, cost) = jax.lax.scan(step, state, jax.random.split(run_key, STEPS))
        return reward.sum(), cost.sum()

    run = jax.jit(lambda keys: jax.tree.map(jnp.sum, jax.vmap(episode)(keys)))
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()[:num_devices]), "batch")
    keys = jax.device_put(
        jax.random.split(jax.random.key(0), batch),
        NamedSharding(mesh, PartitionSpec("batch")),
    )
    jax.block_until_ready(run(keys))
    return lambda: once(lambda: run(keys))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    set_up_jax()
    print(describe_machine())
    calls = {
        f"pendulum, {count} device{'s' * (count > 1)}": episodes(arguments.batch, count)
        for count in sorted({1, jax.local_device_count()})
    }
    timings = interleaved(calls, arguments.rounds)
    print_table(
        f"{arguments.batch} episodes of {STEPS} random steps",
        timings,
        per_call=arguments.batch * STEPS,
    )


if __name__ == "__main__":
    main()
