"""How fast a decision is.

python benchmarks/plan.py            # every case
python benchmarks/plan.py --peers    # and mbrl-lib's PETS planner, in turn with ours

GFLOP counts the matrix products of the ensemble alone; the peak is that of a large
product, measured in the same run.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

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
    median_wall,
    once,
    print_table,
)
from benchmarks.systems import Sizes, layer_flop
from experiments.runtime import set_up_jax
from safex.agents import planners
from safex.agents.mpc import MPCAgent
from safex.config import (
    CalibrationConfig,
    CEMConfig,
    EnsembleConfig,
    MinMaxConfig,
    TerminalConfig,
)
from safex.constraints.feasible_first import FeasibleFirst
from safex.constraints.unconstrained import Unconstrained
from safex.envs.pendulum import Pendulum
from safex.models.ensemble import probabilistic_ensemble
from safex.optimizers.cem import CEM
from safex.optimizers.minmax import MinMax
from safex.optimizers.spread import replicate
from safex.types import Environment


@dataclasses.dataclass(frozen=True)
class Work:
    """One decision of PETS: an ensemble, TS-infinity particles and CEM."""

    obs_dim: int
    action_dim: int
    features: tuple[int, ...]
    samples: int
    elites: int
    particles: int
    iterations: int
    horizon: int
    members: int = 5

    @property
    def gflop(self) -> float:
        """Of all matrix products, each particle through one member."""
        evaluations = self.samples * self.particles * self.iterations * self.horizon
        flop = layer_flop(self.obs_dim, self.action_dim, self.features)
        return evaluations * flop / 1e9


PETS = Work(4, 1, (200,) * 4, 350, 35, 20, 5, 15)
SMALL = Work(3, 1, (64,) * 3, 500, 50, 10, 5, 20)
# 1040 imagined trajectories of 35 steps by five members, and the second opinion of the
# 148 that no adversary pushes; counted in docs/performance.md.
MINMAX_GFLOP = 1040 * 35 * 5 * 9472e-9 + 0.05


def pets_agent(
    work: Work, activation: str, dtype: str, num_devices: int, num_inducing: int = 0
) -> MPCAgent:
    """The agent that does a piece of work.

    By default without a second opinion on new inputs, which PETS and the peer do not
    have.
    """
    ensemble = EnsembleConfig(
        features=work.features,
        activation=activation,
        num_ensembles=work.members,
        plan_dtype=dtype,
    )
    search = CEMConfig(
        horizon=work.horizon,
        num_iter=work.iterations,
        num_elites=work.elites,
        num_samples=work.samples,
        init_std=0.5,
        alpha=0.1,
    )
    env = cast(Environment, Sizes(work.obs_dim, work.action_dim))
    return MPCAgent(
        env,
        probabilistic_ensemble(
            work.obs_dim,
            work.action_dim,
            ensemble,
            CalibrationConfig(num_inducing=num_inducing),
        ),
        planners.Nominal(work.horizon, "TSInf", work.particles),
        CEM(work.action_dim, search, num_devices),
        Unconstrained(),
    )


def minmax_agent(num_devices: int) -> MPCAgent:
    """The launcher's default: MinMax on the pendulum."""
    env = Pendulum.from_config()
    search = MinMaxConfig()
    return MPCAgent(
        env,
        probabilistic_ensemble(3, 1, EnsembleConfig(), CalibrationConfig()),
        planners.Pessimistic(
            search.horizon, noise_alpha=3.0, terminal=TerminalConfig(steps=15)
        ),
        MinMax(1, 3, search, num_devices),
        FeasibleFirst(),
    )


def decisions(agent: MPCAgent) -> Callable[[], Timing]:
    """A call that makes one decision and goes on from its warm start."""
    act = jax.jit(agent.act)
    state, obs = replicate(
        (jax.jit(agent.init)(jax.random.key(0)), jnp.full(agent.env.obs_dim, 0.1)),
        agent.optimizer.num_devices,
    )
    carry: dict[str, Any] = {"state": state, "count": 0}

    def decide() -> Any:
        key = jax.random.fold_in(jax.random.key(1), carry["count"])
        carry["state"], action, _ = act(key, carry["state"], obs)
        carry["count"] += 1
        return action

    compiled = once(decide)
    print(f"first decision, compilation included: {compiled.wall:.1f} s")
    decide()
    decide()
    # The method is not in JAX's type stubs.
    assert act._cache_size() == 1, "a later decision compiled anew"  # type: ignore[attr-defined]
    return lambda: once(decide)


def compare(title: str, work: Work, rounds: int, peers: bool, peak: float) -> None:
    """Times our variants, and the peer where asked, in turn."""
    cores = jax.local_device_count()
    variants: dict[str, tuple[Any, ...]] = {
        "safex, swish": ("swish", "float32", cores),
        "safex, swish, one device": ("swish", "float32", 1),
        "safex, algebraic swish": ("algebraic_swish", "float32", cores),
        "safex, swish, bfloat16": ("swish", "bfloat16", cores),
        "safex, algebraic swish, second opinion": (
            "algebraic_swish",
            "float32",
            cores,
            CalibrationConfig().num_inducing,
        ),
    }
    calls = {
        name: decisions(pets_agent(work, *variant))
        for name, variant in variants.items()
    }
    if peers:
        threads = str(len(os.sched_getaffinity(0)))
        peer = Peer("mbrl", "plan", json.dumps(dataclasses.asdict(work)), threads)
        calls["mbrl-lib"] = peer.call
    timings = interleaved(calls, rounds)
    if peers:
        peer.close()
        ratio = median_wall(timings["mbrl-lib"]) / median_wall(timings["safex, swish"])
        cpu = median_cpu(timings["mbrl-lib"]) / median_cpu(timings["safex, swish"])
        print(f"mbrl-lib / safex with swish: {ratio:.2f} wall, {cpu:.2f} CPU")
    gflop = dict.fromkeys(timings, work.gflop)
    print_table(
        f"{title}: {work.gflop:.1f} GFLOP a decision", timings, gflop=gflop, peak=peak
    )


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", action="store_true", help="also time mbrl-lib")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", choices=["pets", "small", "minmax"])
    arguments = parser.parse_args()
    set_up_jax()
    # What is compiled here is said to be.
    jax.config.update("jax_enable_compilation_cache", False)
    peak = matmul_peak()
    print(f"{describe_machine()}; matrix-product peak {peak:.0f} GFLOP/s")
    rounds = arguments.rounds
    if arguments.only in (None, "pets"):
        title = "PETS cart-pole budget, 5 x [200]x4"
        compare(title, PETS, rounds, arguments.peers, peak)
    if arguments.only in (None, "small"):
        compare("5 x [64]x3", SMALL, 3 * rounds, arguments.peers, peak)
    if arguments.only in (None, "minmax"):
        calls = {
            "safex": decisions(minmax_agent(jax.local_device_count())),
            "safex, one device": decisions(minmax_agent(1)),
        }
        timings = interleaved(calls, 10 * rounds)
        gflop = dict.fromkeys(calls, MINMAX_GFLOP)
        title = f"MinMax on the pendulum, default size: {MINMAX_GFLOP:.2f} GFLOP"
        print_table(title, timings, gflop=gflop, peak=peak)
    print(f"matrix-product peak at the end {matmul_peak():.0f} GFLOP/s")


if __name__ == "__main__":
    main()
