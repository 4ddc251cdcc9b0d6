"""Fits a model to episodes and scores its stds; `calibrate.py` is its command."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.building import build_env, build_model
from experiments.configuration import ExperimentConfig
from experiments.runtime import set_up_jax
from safex.errors import ConfigError, ResultsError
from safex.models import calibration_report as report
from safex.training.account import load_record
from safex.training.files import write_text
from safex.training.honesty import HORIZON, far_paths, random_path
from safex.training.plots import plot_uncertainty
from safex.types import Array, Dataset, DynamicsModel, Environment, PyTree, Transition

STRIDE = 10
NUM_FAR = 500
WIDTH = 120  # of the table, in characters
REGIONS = ("held_out", "next", "far")


class Rows(NamedTuple):
    """Transitions without what the model does not see, arrays of NumPy or JAX.

    Attributes:
      obs: `[T, D]`.
      action: `[T, A]`.
      next_obs: `[T, D]`.
    """

    obs: Any
    action: Any
    next_obs: Any


class Fit(NamedTuple):
    """What one fit is worth.

    Attributes:
      episode: the last episode that it learned from, 0 is the random one.
      one_step: error and std `[B, D]` by region; no `next` after the last episode.
      many_steps: errors and stds after `HORIZON` steps, by region but held out.
      band: share within the particles' 95 % band after `HORIZON` steps, by region.
      distance: `[B]` of the far and held-out rows to the nearest row learned from, in
        stds of the inputs.
      unit: `[D]` std of one step's difference.
    """

    episode: int
    one_step: dict[str, tuple[np.ndarray, np.ndarray]]
    many_steps: dict[str, tuple[np.ndarray, np.ndarray]]
    band: dict[str, float]
    distance: dict[str, np.ndarray]
    unit: np.ndarray


def load_episodes(folder: Path) -> list[list[Rows]]:
    """Episodes of each seed of a run, as many as the shortest has.

    Raises:
      ConfigError: there are none.
      ResultsError: a file is damaged.
    """
    seeds = []
    for seed in sorted(folder.glob("seed_*")):
        paths = sorted((seed / "episodes").glob("episode_*.npz"))
        try:
            records = [load_record(path) for path in paths]
        except ValueError as error:
            raise ResultsError(
                f"{error}; python experiments/resume.py {folder} repeats what is "
                "damaged"
            ) from error
        seeds.append([Rows(r.obs, r.action, r.next_obs) for r in records])
    if not seeds or min(len(seed) for seed in seeds) < 2:
        raise ConfigError(f"{folder} holds no seed_*/episodes of two episodes or more")
    common = min(len(seed) for seed in seeds)
    return [seed[:common] for seed in seeds]


def collect_random(key: Array, env: Environment, num_episodes: int) -> list[Rows]:
    """Episodes of uniformly random actions."""

    def episode(key: Array) -> Rows:
        reset_key, key = jax.random.split(key)
        path = random_path(key, env, *env.reset(reset_key), env.max_steps)
        return Rows(path.obs, path.action, path.next_obs)

    rows = jax.device_get(
        jax.jit(jax.vmap(episode))(jax.random.split(key, num_episodes))
    )
    return [Rows(*(leaf[i] for leaf in rows)) for i in range(num_episodes)]


def collect_far(key: Array, env: Environment) -> Rows:
    """Random paths `[NUM_FAR, HORIZON]` from states far from the data."""
    paths = jax.device_get(jax.jit(lambda key: far_paths(key, env, NUM_FAR))(key))
    return Rows(paths.obs, paths.action, paths.next_obs)


def replay(
    key: Array,
    env: Environment,
    model: DynamicsModel,
    episodes: Sequence[Rows],
    far: Rows,
    imagine: bool,
) -> list[Fit]:
    """Learns one episode after the other, as the run did, and scores every fit."""
    init_key, far_key, key = jax.random.split(key, 3)
    capacity = sum(len(episode.obs) for episode in episodes)
    fit = jax.jit(model.fit)
    state, fits = model.init(init_key), []
    for number in range(len(episodes)):
        seen = Rows(*map(np.concatenate, zip(*episodes[: number + 1], strict=True)))
        data = _dataset(seen, capacity)
        state, _ = fit(jax.random.fold_in(key, number), state, data)
        test = np.asarray(model.test_rows(data))[: len(seen.obs)]
        regions = {
            "held_out": Rows(*(leaf[test] for leaf in seen)),
            "far": Rows(*(leaf[:, 0] for leaf in far)),
        }
        paths = {"far": Rows(*(leaf[:100] for leaf in far))}
        if number + 1 < len(episodes):
            fresh = regions["next"] = episodes[number + 1]
            rows = report.windows(len(fresh.obs), HORIZON, STRIDE)
            paths["next"] = Rows(*(leaf[rows] for leaf in fresh))
        one_step = {
            name: _one_step(model, state, rows, capacity)
            for name, rows in regions.items()
        }
        many_steps, band = {}, {}
        for name, path in paths.items() if imagine else ():
            found = report.imagine(
                far_key, model, state, env, path.obs[:, 0], path.action
            )
            last = path.next_obs[:, -1]
            many_steps[name] = (last - found.mean[:, -1], found.std[:, -1])
            band[name] = float(report.held(path.next_obs, found)[-1].mean())
        distance = {
            name: _distance(seen, ~test, regions[name]) for name in ("held_out", "far")
        }
        unit = np.std(seen.next_obs - seen.obs, axis=0)
        fits.append(Fit(number, one_step, many_steps, band, distance, unit))
    return fits


def summarise(
    runs: Sequence[Sequence[Fit]], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Scores of each fit by its episode, averaged over seeds, and every seed's own."""
    entries = []
    for fits in zip(*runs, strict=True):
        entry: dict[str, Any] = {"episode": fits[0].episode}
        for kind in ("one_step", "many_steps"):
            entry[kind] = {}
            for region in REGIONS:
                pairs = [(getattr(fit, kind), fit.unit) for fit in fits]
                scored = [
                    report.score(found[region][0], found[region][1], unit)
                    for found, unit in pairs
                    if region in found
                ]
                seeds = [report.summarise(scores, names) for scores in scored]
                if seeds:
                    entry[kind][region] = {"mean": _mean(seeds), "seeds": seeds}
        entry["band"] = _mean([fit.band for fit in fits])
        entries.append(entry)
    return entries


def table(entries: Sequence[dict[str, Any]], title: str) -> Table:
    """One row an episode: what of the nominal 95 % and of 1, 2, 3 stds was held."""
    found = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True)
    found.add_column("after\nepisode", justify="right")
    for name in ("held out", "next episode", "far"):
        found.add_column(f"{name}\n95 %", justify="right")
        found.add_column("1, 2, 3\nstds", justify="right", no_wrap=True)
    for name in (
        "next 10\nsteps, 95 %",
        "far 10\nsteps, 95 %",
        "held out\nCRPS",
        "NLL",
    ):
        found.add_column(name, justify="right")
    for entry in entries:
        cells = [str(entry["episode"])]
        for region in REGIONS:
            scores = entry["one_step"].get(region)
            if scores is None:
                cells += ["-", "-"]
                continue
            mean = scores["mean"]
            cells.append(f"{100 * mean['nominal']:.1f}")
            cells.append(" ".join(f"{100 * x:.0f}" for x in mean["coverage"].values()))
        for region in ("next", "far"):
            share = entry["band"].get(region)
            cells.append("-" if share is None else f"{100 * share:.0f}")
        held = entry["one_step"]["held_out"]["mean"]
        cells += [f"{held['crps']:.4f}", f"{held['nll']:.2f}"]
        found.add_row(*cells)
    return found


def draw(path: Path, runs: Sequence[Sequence[Fit]]) -> None:
    """Reliability, coverage, and std against error by distance, of the last fits."""
    curves, coverage = {}, {}
    for region in REGIONS:
        scores = [
            report.score(*fit.one_step[region], fit.unit)
            for fits in runs
            for fit in fits[-2:]
            if region in fit.one_step
        ]
        curves[region] = np.mean([s.curve for s in scores], axis=0)
        coverage[region] = np.mean([s.coverage.mean(1) for s in scores], axis=0)
    distance, error, std = [], [], []
    for fits in runs:
        for region in ("held_out", "far"):
            e, s = fits[-1].one_step[region]
            distance.append(fits[-1].distance[region])
            error.append(np.sqrt(np.mean((e / fits[-1].unit) ** 2, axis=1)))
            std.append(np.sqrt(np.mean((s / fits[-1].unit) ** 2, axis=1)))
    plot_uncertainty(
        path,
        report.LEVELS,
        curves,
        coverage,
        *map(np.concatenate, (distance, error, std)),
    )


def calibrate(
    config: ExperimentConfig,
    run: Path | None,
    out: Path,
    *,
    fresh: tuple[int, int],
    imagine: bool,
) -> None:
    """Scores the fits to all episodes of a run, prints and writes what comes of it.

    Args:
      config: of the run, or of what fresh episodes are collected from.
      run: its folder, None for fresh episodes.
      out: folder for the files.
      fresh: number of seeds and of episodes of each, without a run.
      imagine: whether many steps are imagined as well.

    Raises:
      SafexError: no episodes, or they cannot be read, or nothing can be written.
    """
    seeds = load_episodes(run) if run else None
    set_up_jax()
    env = build_env(config)
    model = build_model(config, env)
    root = jax.random.key(0)
    if seeds is None:
        seeds = [
            collect_random(jax.random.fold_in(root, seed), env, fresh[1])
            for seed in range(fresh[0])
        ]
    runs = []
    for seed, episodes in enumerate(seeds):
        key, far_key = jax.random.split(jax.random.fold_in(root, 1000 + seed))
        far = collect_far(far_key, env)
        runs.append(replay(key, env, model, episodes, far, imagine))
        print(f"seed {seed}: {len(episodes)} fits", flush=True)
    entries = summarise(runs, env.obs_names)
    title = f"{config.model_name} on {config.task}"
    text = {
        "task": config.task,
        "model": config.model_name,
        "seeds": len(runs),
        "fits": entries,
    }
    # First, so that the fits are not lost with a file that cannot be written.
    Console(width=WIDTH).print(table(entries, f"{title}, {len(runs)} seeds"))
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "calibration.json", json.dumps(text, indent=2) + "\n")
        draw(out / "calibration.png", runs)
    except OSError as error:
        raise ResultsError(
            f"{out} cannot be written to: {error.strerror or error}; --out FOLDER "
            "names another place"
        ) from error
    print(f"written to {out}")


def _dataset(rows: Rows, capacity: int) -> Dataset:
    """Rows in a buffer of a fixed size, without reward and cost."""
    size = len(rows.obs)
    padded = Rows(
        *(
            np.pad(leaf, [(0, capacity - size), (0, 0)])
            for leaf in map(np.float32, rows)
        )
    )
    zero, false = jnp.zeros(capacity), jnp.zeros(capacity, bool)
    transitions = Transition(
        padded.obs, padded.action, zero, zero, padded.next_obs, false, false
    )
    return Dataset(transitions, jnp.asarray(size, jnp.int32))


def _one_step(
    model: DynamicsModel, state: PyTree, rows: Rows, capacity: int
) -> tuple[np.ndarray, np.ndarray]:
    """Errors and stds, by way of one shape for all regions: one compilation."""
    size, most = len(rows.obs), max(capacity, NUM_FAR)
    padded = [np.pad(leaf, [(0, most - size), (0, 0)]) for leaf in rows]
    error, std = report.one_step(model, state, *padded)
    return error[:size], std[:size]


def _distance(seen: Rows, learned: np.ndarray, rows: Rows) -> np.ndarray:
    """Of each row to the nearest row learned from, in stds of the inputs, `[B]`."""
    known = np.concatenate([seen.obs, seen.action], axis=1)[learned]
    unit = np.maximum(known.std(0), 1e-6)
    asked = np.concatenate([rows.obs, rows.action], axis=1)
    return np.array([np.linalg.norm((known - x) / unit, axis=1).min() for x in asked])


def _mean(trees: Sequence[Any]) -> Any:
    """Mean of equal trees of numbers."""
    return jax.tree.map(lambda *leaves: float(np.mean(leaves)), *trees)
