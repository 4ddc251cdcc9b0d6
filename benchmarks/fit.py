"""How fast a fit is.

python benchmarks/fit.py           # ours, with both activations
python benchmarks/fit.py --peers   # and mbrl-lib's trainer, in turn with ours

GFLOP counts the products of forward and backward passes of all members, three times the
forward's. Early stopping is off; the held-out evaluations are in our times, mbrl-lib
runs without any.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import jax

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
from benchmarks.systems import layer_flop, random_data
from experiments.runtime import set_up_jax
from safex.config import CalibrationConfig, EnsembleConfig
from safex.models.ensemble import probabilistic_ensemble

OBS_DIM, ACTION_DIM, MEMBERS, BATCH, STEPS = 3, 1, 5, 64, 1000
FEATURES = (64,) * 3
# Rows of a run after five episodes, and an epoch of the peer.
ROWS = 1280


def fits(activation: str, rows: int, capacity: int) -> Callable[[], Timing]:
    """A call that fits once, from scratch."""
    config = EnsembleConfig(
        features=FEATURES,
        activation=activation,
        num_ensembles=MEMBERS,
        num_training_steps=STEPS,
        batch_size=BATCH,
        patience=0,
    )
    model = probabilistic_ensemble(OBS_DIM, ACTION_DIM, config, CalibrationConfig())
    data = random_data(jax.random.key(0), capacity, OBS_DIM, ACTION_DIM)
    data = data._replace(size=jax.numpy.asarray(rows))
    state = jax.jit(model.init)(jax.random.key(1))
    fit = jax.jit(model.fit)

    def call() -> Timing:
        return once(lambda: fit(jax.random.key(2), state, data))

    print(f"first fit, compilation included: {call().wall:.1f} s")
    return call


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", action="store_true", help="also time mbrl-lib")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    set_up_jax()
    # What is compiled here is said to be.
    jax.config.update("jax_enable_compilation_cache", False)
    peak = matmul_peak()
    print(f"{describe_machine()}; matrix-product peak {peak:.0f} GFLOP/s")
    calls = {
        "safex, swish": fits("swish", ROWS, ROWS),
        "safex, algebraic swish": fits("algebraic_swish", ROWS, ROWS),
        "the same in a buffer of 10000": fits("algebraic_swish", ROWS, 10_000),
    }
    if arguments.peers:
        work = {
            "obs_dim": OBS_DIM,
            "action_dim": ACTION_DIM,
            "features": FEATURES,
            "members": MEMBERS,
            "batch": BATCH,
            "steps": STEPS,
            "steps_per_epoch": ROWS // BATCH,
        }
        threads = str(len(os.sched_getaffinity(0)))
        peer = Peer("mbrl", "fit", json.dumps(work), threads)
        calls["mbrl-lib"] = peer.call
    timings = interleaved(calls, arguments.rounds)
    if arguments.peers:
        peer.close()
        ratio = median_cpu(timings["mbrl-lib"]) / median_cpu(timings["safex, swish"])
        print(f"mbrl-lib / safex with swish: {ratio:.1f} in CPU-s")
    forward = layer_flop(OBS_DIM, ACTION_DIM, FEATURES)
    gflop = 3 * forward * MEMBERS * BATCH * STEPS / 1e9
    print_table(
        f"{STEPS} steps of batch {BATCH}, 5 x [64]x3: {gflop:.1f} GFLOP a fit",
        timings,
        gflop=dict.fromkeys(timings, gflop),
        peak=peak,
    )


if __name__ == "__main__":
    main()
