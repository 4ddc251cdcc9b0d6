"""The same quality for less: iCEM with warm start against CEM, in pairs.

python benchmarks/search.py run     # about an hour on 2 cores, can be resumed
python benchmarks/search.py report  # the tables from what is there

What is compared is the search and nothing else. For each seed one ensemble learns from
a random phase and some episodes of SafeCEM, and is then frozen. With that very model
each search controls the real system from the same first states. `search_learning.py`
has every search train a model of its own instead.

Beside what the searches achieve: what they find. On stretches of observations that
these episodes visited, each search solves the same decisions, cold at the beginning and
warm at the end of a stretch, against the best that anyone finds there, a far larger CEM
included.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


from benchmarks.measuring import describe_machine
from experiments.runtime import set_up_jax
from safex.agents.mpc import MPCAgent
from safex.agents.planners import Safe
from safex.config import (
    CalibrationConfig,
    CEMConfig,
    EnsembleConfig,
    ICEMConfig,
    TrainConfig,
)
from safex.constraints.feasible_first import FeasibleFirst
from safex.envs.cartpole import Cartpole
from safex.envs.pendulum import Pendulum
from safex.models.ensemble import probabilistic_ensemble
from safex.optimizers.cem import CEM
from safex.optimizers.icem import ICEM
from safex.training.lockstep import Lockstep, default_group_size
from safex.training.statistics import interquartile_mean
from safex.types import Array, Dataset, PyTree, Transition

ROOT = Path(__file__).resolve().parents[1]
HORIZONS = {"pendulum": 20, "cart-pole": 30}
# Episodes that a model learns from, after 100 random steps; enough to solve the task.
COLLECTED = {"pendulum": 5, "cart-pole": 8}
STEPS = TrainConfig().num_rollout_steps
RANDOM_STEPS = TrainConfig().num_exploration_steps

# What all of iCEM have, as in the launcher.
_ICEM: dict[str, Any] = {"init_std": 5.0, "min_std": 0.02, "exponent": 2.0}
_EVEN: dict[str, Any] = {
    "num_iter": 8,
    "num_samples": 57,
    "num_elites": 8,
    "population_decay": 1.0,
}
CONFIGS: dict[str, CEMConfig] = {
    "CEM": CEMConfig(num_iter=10, num_samples=500),
    "iCEM": ICEMConfig(**_EVEN, **_ICEM),
    "iCEM, spread": ICEMConfig(std_spread=25.0, **_EVEN, **_ICEM),
    "iCEM, launcher": ICEMConfig(num_iter=4, num_samples=64, **_ICEM),
    "best known": CEMConfig(num_iter=10, num_samples=2000, num_elites=200),
}
BASELINE, REFERENCE = "CEM", "best known"
SEARCHES = [name for name in CONFIGS if name != REFERENCE]
CONTESTANTS = ["CEM", "iCEM", "iCEM, spread"]
# Decisions that warm a search up to the one that is judged.
STRETCH = 4
# How much worse still counts as equal, as a share of CEM's return.
TOLERANCE = 0.02


class Episode(NamedTuple):
    """An episode, leaves `[T, ...]`.

    Attributes:
      transitions: what happened.
      feasible: the plan was.
    """

    transitions: Transition
    feasible: Array


def system(task: str) -> Any:
    """The task, its limit inside."""
    return Pendulum.from_config() if task == "pendulum" else Cartpole.from_config()


def optimizer(name: str, horizon: int) -> tuple[CEM | ICEM, int]:
    """A search and the trajectories it imagines a decision."""
    config = CONFIGS[name]
    fields = {**vars(config), "horizon": horizon}
    if isinstance(config, ICEMConfig):
        return ICEM(1, ICEMConfig(**fields)), config.num_scored
    trajectories = config.num_iter * config.num_samples
    return CEM(1, CEMConfig(**fields)), trajectories


@functools.cache
def agent_of(task: str, search: str) -> MPCAgent:
    """SafeCEM with the default ensemble."""
    env = system(task)
    model = probabilistic_ensemble(
        env.obs_dim, env.action_dim, EnsembleConfig(), CalibrationConfig()
    )
    horizon = HORIZONS[task]
    return MPCAgent(
        env, model, Safe(horizon), optimizer(search, horizon)[0], FeasibleFirst()
    )


# What follows is traced: functions of one seed, `(agent, key, ...)`.


def roll(env: Any, key: Array, choose: Callable, start: PyTree, steps: int) -> Episode:
    """An episode of an agent `choose(key, state, obs) -> state, action, feasible`."""
    reset_key, step_key = jax.random.split(key)

    def one(carry: tuple, number: Array) -> tuple[tuple, Episode]:
        state, env_state, obs = carry
        act_key, env_key = jax.random.split(jax.random.fold_in(step_key, number))
        state, action, feasible = choose(act_key, state, obs)
        r = env.step(env_key, env_state, action)
        transition = Transition(
            obs, action, r.reward, r.cost, r.obs, r.terminated, r.truncated
        )
        return (state, r.state, r.obs), Episode(transition, feasible)

    carry = (start, *env.reset(reset_key))
    return jax.lax.scan(one, carry, jnp.arange(steps))[1]


def random_phase(agent: MPCAgent, key: Array) -> Episode:
    """Uniform actions."""
    shape = (agent.env.action_dim,)

    def choose(key: Array, state: tuple, obs: Array) -> tuple[tuple, Array, Array]:
        del obs
        action = jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
        return state, action, jnp.ones((), bool)

    return roll(agent.env, key, choose, (), RANDOM_STEPS)


def planned(agent: MPCAgent, key: Array, model_state: PyTree) -> Episode:
    """The real system under one search with one frozen model."""

    def choose(key: Array, state: PyTree, obs: Array) -> tuple[PyTree, Array, Array]:
        state, action, metrics = agent.act(key, state, obs)
        return state, action, metrics["plan/feasible"]

    start = agent.init(key)._replace(model_state=model_state)
    return roll(agent.env, key, choose, start, STEPS)


def init(agent: MPCAgent, key: Array) -> PyTree:
    """The state of a model that has seen nothing."""
    return agent.model.init(key)


def fit(agent: MPCAgent, key: Array, model_state: PyTree, data: Dataset) -> PyTree:
    """The model's next state."""
    return agent.model.fit(key, model_state, data)[0]


def solve(agent: MPCAgent, key: Array, model_state: PyTree, stretches: Array) -> Array:
    """Values `[P, L]` that a search finds along P stretches of L observations in a row.

    The first decision of each is cold, the others are warm; one without a feasible plan
    is worth -inf.
    """
    start = agent.init(key)._replace(model_state=model_state)

    def decide(state: PyTree, arguments: tuple) -> tuple[PyTree, Array]:
        key, obs = arguments
        state, _, metrics = agent.act(key, state, obs)
        value = metrics["plan/value"]
        return state, jnp.where(metrics["plan/feasible"], value, -jnp.inf)

    def along(arguments: tuple[Array, Array]) -> Array:
        key, observations = arguments
        keys = jax.random.split(key, observations.shape[0])
        return jax.lax.scan(decide, start, (keys, observations))[1]

    keys = jax.random.split(key, stretches.shape[0])
    return jax.lax.map(along, (keys, stretches))


# What follows runs on the host.


@functools.cache
def _program(layout: Lockstep, function: Callable, task: str, search: str) -> Callable:
    """A function of one seed as a compiled one of arrays `[rows, ...]`."""
    agent = agent_of(task, search)
    return jax.jit(layout.over_seeds(functools.partial(function, agent)))


_fold_in_all = jax.jit(jax.vmap(jax.random.fold_in))


class Group:
    """Some seeds of a task in lockstep.

    Args:
      task: name.
      seeds: one a core, so that all groups share their programs.
    """

    def __init__(self, task: str, seeds: Sequence[int]) -> None:
        self.task, self.seeds = task, seeds
        self._layout = Lockstep.of(len(seeds))
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        self._keys = jnp.concatenate([keys, keys[: self._layout.rows - len(seeds)]])

    def __call__(
        self, function: Callable, search: str, number: int, *arguments: Any
    ) -> Any:
        """Calls it with keys of each seed and `number`; host arrays `[seeds, ...]`."""
        count, rows = len(self.seeds), self._layout.rows
        keys = _fold_in_all(self._keys, jnp.full(rows, number))
        padded = jax.tree.map(
            lambda leaf: np.concatenate([leaf, leaf[: rows - count]]), arguments
        )
        program = _program(self._layout, function, self.task, search)
        found = jax.device_get(program(keys, *self._layout.place(padded)))
        return jax.tree.map(lambda leaf: leaf[:count], found)


def learned(group: Group, collectors: Sequence[str], episodes: int) -> PyTree:
    """The models that learned from a random phase and planned episodes.

    Args:
      group: the seeds.
      collectors: the searches that plan the episodes, in turn.
      episodes: how many.
    """
    model = group(init, BASELINE, 0)
    phases = [group(random_phase, BASELINE, 1)]
    for episode in range(episodes + 1):
        data = _dataset(phases, RANDOM_STEPS + episodes * STEPS)
        model = group(fit, BASELINE, 2 + 2 * episode, model, data)
        if episode < episodes:
            collector = collectors[episode % len(collectors)]
            phases.append(group(planned, collector, 3 + 2 * episode, model))
            done = " ".join(f"{r:.0f}" for r in phases[-1].transitions.reward.sum(1))
            print(f"{group.task}, learning with {collector}: {done}", flush=True)
    return model


def _dataset(phases: Sequence[Episode], capacity: int) -> Dataset:
    """All phases in a buffer of fixed size, leaves `[seeds, capacity, ...]`."""

    def join(*parts: np.ndarray) -> np.ndarray:
        rows = np.concatenate(parts, axis=1)
        rest = [(0, 0)] * rows.ndim
        rest[1] = (0, capacity - rows.shape[1])
        return np.pad(rows, rest)

    transitions = jax.tree.map(join, *(phase.transitions for phase in phases))
    count, size = transitions.obs.shape[0], sum(p.feasible.shape[1] for p in phases)
    return Dataset(transitions, jnp.full(count, size, jnp.int32))


def saved(path: Path, template: PyTree, make: Callable[[], PyTree]) -> PyTree:
    """What a file holds, or what `make` returns, which is then kept there."""
    if path.exists():
        return serialization.from_bytes(template, path.read_bytes())
    made = make()
    path.write_bytes(serialization.to_bytes(made))
    return made


class Results:
    """Lines of JSON, one a measurement, written as they come.

    Args:
      path: the file; what it holds is not measured again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lines: list[dict[str, Any]] = []
        if path.exists():
            self.lines = [json.loads(line) for line in path.read_text().splitlines()]

    def of(self, **fields: Any) -> list[dict[str, Any]]:
        """The lines that have these fields."""
        return [
            line
            for line in self.lines
            if all(line.get(name) == value for name, value in fields.items())
        ]

    def add(self, **fields: Any) -> None:
        """Writes a line."""
        self.lines.append(fields)
        with self._path.open("a") as file:
            file.write(json.dumps(fields) + "\n")


def control(
    group: Group, model: PyTree, episode: int, searches: Sequence[str], out: Results
) -> None:
    """Every search in turn controls the same episode."""
    for search in searches:
        key = {"task": group.task, "episode": episode, "search": search}
        if all(out.of(kind="control", seed=seed, **key) for seed in group.seeds):
            continue
        start = time.perf_counter()
        got = group(planned, search, 1000 + episode, model)
        seconds = (time.perf_counter() - start) / (STEPS * len(group.seeds))
        # A step violates where any constraint does.
        costs = got.transitions.cost.reshape(len(group.seeds), STEPS, -1)
        for index, seed in enumerate(group.seeds):
            out.add(
                kind="control",
                seed=seed,
                **key,
                ret=float(got.transitions.reward[index].sum()),
                violations=int((costs[index] > 0).any(-1).sum()),
                infeasible=int((~got.feasible[index]).sum()),
                seconds=seconds,
                obs=got.transitions.obs[index].round(6).tolist(),
            )
            print(*key.values(), seed, out.lines[-1]["ret"], flush=True)


def search_inside(
    group: Group, model: PyTree, points: int, searches: Sequence[str], out: Results
) -> None:
    """Every search solves the same decisions along paths of the first episode."""
    if all(out.of(kind="inside", task=group.task, seed=s) for s in group.seeds):
        return
    first = np.linspace(0, STEPS - STRETCH, points).astype(int)
    windows = first[:, None] + np.arange(STRETCH)
    parts = []
    for seed in group.seeds:
        lines = out.of(kind="control", task=group.task, seed=seed, episode=0)
        # A part of the path of every search, so that none is at home.
        paths = np.array([line["obs"] for line in lines], np.float32)
        parts.append(paths[(np.arange(points) % len(paths))[:, None], windows])
    stretches = np.stack(parts)
    ends = stretches[:, :, [0, -1]]
    found = {s: group(solve, s, 2000, model, stretches)[..., [0, -1]] for s in searches}
    # Both ends are cold for the reference.
    found[REFERENCE] = group(
        solve, REFERENCE, 2001, model, ends.reshape(len(group.seeds), 2 * points, 1, -1)
    ).reshape(len(group.seeds), points, 2)
    for index, seed in enumerate(group.seeds):
        values = {search: found[search][index].tolist() for search in found}
        out.add(kind="inside", task=group.task, seed=seed, values=values)


class Comparison(NamedTuple):
    """A search against CEM on one task.

    Attributes:
      returns: its mean return.
      violations: its violating steps in all episodes.
      difference: mean over seeds of its return minus CEM's.
      low: lower end of the 95 % interval of that, Student's t over seeds.
      high: upper end.
      middle: interquartile mean of the seeds' differences.
      worst: least difference of a seed.
      tolerated: loss that still counts as equal.
      fewer: violating steps that CEM had more.
    """

    returns: float
    violations: int
    difference: float
    low: float
    high: float
    middle: float
    worst: float
    tolerated: float
    fewer: int

    @property
    def equal(self) -> bool:
        """Whether return and violations are as good as CEM's."""
        no_worse = self.high >= 0.0 or -self.difference < self.tolerated
        return no_worse and self.fewer >= 0


def compare(results: Results, task: str, search: str) -> Comparison | None:
    """Pairs the episodes of a search with CEM's; None where there are none.

    The episodes of a seed share a model, so a seed is one observation: the mean of its
    episodes.
    """
    pairs: dict[int, list[tuple[dict, dict]]] = {}
    for line in results.of(kind="control", task=task, search=search):
        key = {"seed": line["seed"], "episode": line["episode"]}
        other = results.of(kind="control", task=task, search=BASELINE, **key)
        if other:
            pairs.setdefault(line["seed"], []).append((line, other[0]))
    if not pairs:
        return None
    own, base = (
        np.array([np.mean([p[i]["ret"] for p in seed]) for seed in pairs.values()])
        for i in (0, 1)
    )
    hurt, base_hurt = (
        sum(p[i]["violations"] for seed in pairs.values() for p in seed) for i in (0, 1)
    )
    low, high = interval(own - base)
    return Comparison(
        returns=float(own.mean()),
        violations=hurt,
        difference=float((own - base).mean()),
        low=low,
        high=high,
        middle=float(interquartile_mean(own - base)),
        worst=float((own - base).min()),
        tolerated=TOLERANCE * abs(float(base.mean())),
        fewer=base_hurt - hurt,
    )


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean, Student's t; nan for a single value."""
    if values.size < 2:
        return float("nan"), float("nan")
    error = values.std(ddof=1) / np.sqrt(values.size)
    width = float(stats.t.ppf(0.975, values.size - 1) * error)
    return float(values.mean()) - width, float(values.mean()) + width


def shares(results: Results, task: str, search: str) -> list[float]:
    """What a search finds, cold and warm, as a share of the best value known.

    1 minus the mean shortfall over the mean size of the best value, over all decisions
    where anyone found a feasible plan. A search that found none is given the worst that
    another one found.
    """
    lines = results.of(kind="inside", task=task)
    # [searches, seeds, points, 2]
    names = list(lines[0]["values"])
    values = np.array([[line["values"][name] for line in lines] for name in names])
    values = values.reshape(len(names), -1, 2)
    best = values.max(0)
    least = np.where(np.isfinite(values), values, np.inf).min(0)
    own = np.maximum(values[names.index(search)], least)
    known = np.isfinite(best)
    return [
        float(1.0 - (best - own)[k, end].sum() / np.abs(best[k, end]).sum())
        for end in (0, 1)
        for k in [known[:, end]]
    ]


def report(results: Results) -> None:
    """Prints the table as Markdown."""
    print(
        "| task | search | trajectories | return | difference to CEM, paired, 95 % | "
        "IQM, worst seed | violating steps | best value known, cold, warm | "
        "ms a decision | as good as CEM |"
    )
    print("| --- | --- | ---: | ---: | --- | --- | ---: | --- | ---: | --- |")
    for task, horizon in HORIZONS.items():
        for search in SEARCHES:
            found = compare(results, task, search)
            if found is None:
                continue
            lines = results.of(kind="control", task=task, search=search)
            inside = ""
            if results.of(kind="inside", task=task):
                inside = ", ".join(f"{s:.2%}" for s in shares(results, task, search))
            speed = 1e3 * float(np.median([line["seconds"] for line in lines]))
            paired = [""] * 3
            if search != BASELINE:
                paired = [
                    f"{found.difference:+.2f} ({found.low:+.2f} to {found.high:+.2f})",
                    f"{found.middle:+.2f}, {found.worst:+.2f}",
                    "yes" if found.equal else "no",
                ]
            print(
                f"| {task} | {search} | {optimizer(search, horizon)[1]} | "
                f"{found.returns:.1f} | {paired[0]} | {paired[1]} | "
                f"{found.violations} | {inside} | {speed:.0f} | {paired[2]} |"
            )


def run(arguments: argparse.Namespace, results: Results) -> None:
    """Measures what is not there yet, group after group."""
    size = default_group_size(arguments.seeds)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    groups = [
        Group(task, seeds[first : first + size])
        for first in range(0, len(seeds), size)
        for task in arguments.tasks
    ]

    def model_of(group: Group) -> PyTree:
        name = f"{group.task}_{'_'.join(map(str, group.seeds))}.model"
        return saved(
            arguments.out / name,
            group(init, BASELINE, 0),
            lambda: learned(group, arguments.collectors, COLLECTED[group.task]),
        )

    # All seeds before the next episode, so that a run that is stopped has many seeds.
    for episode in range(arguments.episodes):
        for group in groups:
            control(group, model_of(group), episode, arguments.searches, results)
        for group in groups if episode == 0 else []:
            search_inside(
                group, model_of(group), arguments.points, arguments.searches, results
            )


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--seeds", type=int, default=6)
    # Not those that any setting was chosen on.
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--episodes", type=int, default=3, help="of each seed")
    parser.add_argument("--points", type=int, default=6, help="stretches of each seed")
    parser.add_argument("--tasks", nargs="+", choices=HORIZONS, default=list(HORIZONS))
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=CONTESTANTS)
    parser.add_argument(
        "--collectors",
        nargs="+",
        choices=SEARCHES,
        default=["iCEM, launcher"],
        help="in turn",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "search")
    arguments = parser.parse_args()
    set_up_jax()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = Results(arguments.out / "results.jsonl")
    if arguments.what == "run":
        print(describe_machine(), flush=True)
        run(arguments, results)
    report(results)


if __name__ == "__main__":
    main()
