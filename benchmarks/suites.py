"""Steps per second of foreign environments, in this process and in workers.

python benchmarks/suites.py
python benchmarks/suites.py --tasks SafetyPointGoal1-v0 --envs 8 --steps 2000

Each row is one task with so many workers (0: this process), random actions, and as many
resets as whole episodes bring. The rounds are taken in turn and the best is told.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax

from safex.envs.processes import ProcessVector
from safex.envs.suites import bullet
from safex.envs.suites.tasks import BulletSafetyGym, ForeignTask, SafetyGymnasium
from safex.types import Array

TASKS = ("SafetyPointGoal1-v0", "SafetyPointCircle1-v0", "SafetyBallCircle-v0")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--envs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=500, help="of each environment")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print("| task | workers | steps/s |\n| --- | --- | --- |")
    for name in arguments.tasks:
        vectors = [_vector(name, arguments.envs, n) for n in arguments.workers]
        best = [0.0] * len(vectors)
        for _ in range(arguments.rounds):
            for i, vector in enumerate(vectors):
                best[i] = max(best[i], _rate(vector, arguments.steps))
        for count, rate, vector in zip(arguments.workers, best, vectors, strict=True):
            vector.close()
            print(f"| {name} | {count} | {rate:.0f} |", flush=True)


def _vector(name: str, num_envs: int, workers: int) -> ProcessVector:
    kind: type[ForeignTask] = BulletSafetyGym if name in bullet.IDS else SafetyGymnasium
    return kind.from_config(id=name, workers=workers).make_vector(num_envs)


def _rate(vector: ProcessVector, steps: int) -> float:
    """Steps of all environments per second."""

    def random(key: Array, obs: Array) -> Array:
        shape = (obs.shape[0], vector.action_dim)
        return jax.random.uniform(key, shape, minval=-1.0)

    key = jax.random.key(0)
    state, obs = vector.reset(key)
    (state, obs), *_ = vector.rollout(key, state, obs, random, 5)
    start = time.perf_counter()
    vector.rollout(key, state, obs, random, steps)
    return steps * vector.num_envs / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
