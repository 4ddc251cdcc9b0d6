"""Plays episodes with what a run has learned; `evaluate.py` is its command."""

import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from experiments.building import budget_of, build_agent, build_env, build_trainer
from experiments.configuration import (
    Experiment,
    ModelFreeConfig,
    fingerprint,
    read_mapping,
)
from experiments.folders import revision
from experiments.jobs import draw_seeds
from experiments.runs import read_plain, with_settings
from experiments.runtime import set_up_jax
from safex.errors import ConfigError
from safex.models.true_dynamics import TrueDynamics
from safex.training.account import EpisodeAccount, account
from safex.training.certificate import certify, over_budget
from safex.training.loop import SeedRun, Trainer
from safex.training.margins import limits_of


def evaluate(
    folder: Path,
    settings: Sequence[str],
    episodes: int,
    checkpoint: int | Literal["last", "best"] = "last",
) -> dict[str, Any]:
    """Plays so many episodes with each seed of a run; numbers ready for JSON.

    Args:
      folder: of the run.
      settings: fields to set, `key=value` each.
      episodes: of each seed.
      checkpoint: the last of each seed, that of its best evaluation, or the one of this
        number: the episode, without a model the step, that it has learned from.

    Raises:
      SafexError: no run, no checkpoint, or a setting that is refused or that the
        checkpoints do not fit.
    """
    plain = read_plain(folder)
    trained = read_mapping(copy.deepcopy(plain))
    config = with_settings(plain, settings)
    seeds = draw_seeds(trained.job.seed, trained.job.num_seeds_per_hparam)
    folders = [folder / f"seed_{index}" for index in range(len(seeds))]
    if not folders[0].is_dir():
        raise ConfigError(
            f"{folder} holds no seed_0: not a run, or a grid, of which a point is asked"
        )
    # What was trained is the unchanged configuration's.
    mark = fingerprint(trained)
    runs = [
        SeedRun(seed, index, path, lambda last: [], mark)
        for index, (seed, path) in enumerate(zip(seeds, folders, strict=True))
    ]
    set_up_jax()
    if isinstance(config, ModelFreeConfig):
        return _evaluate_model_free(config, settings, runs, episodes, checkpoint)
    if isinstance(trained, ModelFreeConfig):
        raise ConfigError("agent.kind of a trained run cannot be set")
    if checkpoint == "best":
        raise ConfigError("--best is for agents without a model")
    env = build_env(config)
    agent = build_agent(config, env)
    trainer = Trainer(
        env,
        agent,
        config.train,
        horizon=agent.planner.span,
        warn=lambda text: print(f"warning: {text}", file=sys.stderr),
        report=lambda progress: None,
    )
    beta = np.asarray(agent.beta)
    accounts: list[list[EpisodeAccount]] = [[] for _ in runs]
    number = None if checkpoint == "last" else checkpoint
    learned, played = trainer.play(runs, episodes, number)
    for run, last in zip(runs, learned, strict=True):
        if number is None and last < trained.train.num_model_updates:
            print(
                f"warning: {run.folder} has learned from {last} of "
                f"{trained.train.num_model_updates} episodes",
                file=sys.stderr,
            )
    for records in played:
        for kept, record in zip(accounts, records, strict=True):
            kept.append(account(record, beta, agent.planner.span))
    known = isinstance(agent.model, TrueDynamics)
    found = summarise(config, settings, seeds, learned, accounts, env, known=known)
    return found | {"checkpoint": checkpoint, "learned_in": "episodes"}


def _evaluate_model_free(
    config: ModelFreeConfig,
    settings: Sequence[str],
    runs: Sequence[SeedRun],
    episodes: int,
    checkpoint: int | Literal["last", "best"],
) -> dict[str, Any]:
    trainer = build_trainer(
        config,
        lambda text: print(f"warning: {text}", file=sys.stderr),
        lambda progress: None,
    )
    nothing = np.ones(trainer.vector.obs_dim)
    learned, accounts = [], []
    for run in runs:
        step, records = trainer.play(run, episodes, checkpoint)
        learned.append(step)
        accounts.append([account(record, nothing, 1) for record in records])
        if checkpoint == "last" and step < config.train.total_steps:
            print(
                f"warning: {run.folder} has learned from {step} of "
                f"{config.train.total_steps} steps",
                file=sys.stderr,
            )
    env = build_env(config)
    seeds = [run.seed for run in runs]
    found = summarise(config, settings, seeds, learned, accounts, env, known=True)
    return found | {"checkpoint": checkpoint, "learned_in": "steps"}


def summarise(
    config: Experiment,
    settings: Sequence[str],
    seeds: Sequence[int],
    learned: Sequence[int],
    accounts: Sequence[Sequence[EpisodeAccount]],
    env: Any,
    *,
    known: bool,
) -> dict[str, Any]:
    """Adds the episodes of each seed up.

    A seed's episodes are alike, for nothing is learned from them, and so its bound is
    exact; that of all is on the average over these very agents.
    """
    budget = budget_of(config, env)
    costs = np.array([[e.cost_return for e in episodes] for episodes in accounts])
    over = over_budget(costs, budget)
    return {
        "env": config.task,
        "method": config.method,
        "model": config.model_name,
        "set": list(settings),
        "revision": revision(),
        "limits": [
            {**limit._asdict(), "cost_budget": float(allowed)}
            for limit, allowed in zip(limits_of(env), budget, strict=True)
        ],
        "seeds": [
            {
                "seed": seed,
                "learned_from": learned[index],
                "returns": [e.episode_return for e in episodes],
                "costs": costs[index].tolist(),
                "episodes_over_budget": int(over[index].sum()),
                "binomial": certify(over[index : index + 1]).binomial,
                "violating_steps": sum(e.violating_steps for e in episodes),
                "worst_excess": np.max(
                    [e.worst_excess for e in episodes], axis=0
                ).tolist(),
                "infeasible_plans": sum(e.infeasible_plans for e in episodes),
                # A model that is the truth makes no claim to be covered.
                "coverage": None
                if known
                else sum(
                    (e.prequential for e in episodes[1:]), episodes[0].prequential
                ).shares(),
            }
            for index, (seed, episodes) in enumerate(zip(seeds, accounts, strict=True))
        ],
        "certificate": certify(over).plain(),
    }


def table(summary: dict[str, Any]) -> Group:
    """One row a seed, violations first; several limits have a table of their own."""
    changed = f", with {', '.join(summary['set'])}" if summary["set"] else ""
    certificate, limits = summary["certificate"], summary["limits"]
    episodes = certificate["episodes"] // len(summary["seeds"])
    planned, alone = summary["learned_in"] == "episodes", len(limits) == 1
    found = Table(
        box=box.SIMPLE_HEAD,
        title=escape(
            f"{_of_which(summary)} on {summary['env']}{changed}: "
            f"{episodes} episodes a seed"
        ),
        # All of it goes into the 80 characters of a terminal.
        padding=(0, 1 if planned else 0),
        collapse_padding=True,
        caption=f"{certificate['over_budget']} of {certificate['episodes']} episodes "
        f"broke their budget: at most {100 * certificate['binomial']:.1f} % do, on the "
        f"average over these agents, with {100 * certificate['level']:g} % confidence "
        "(binomial); bound: the same of each agent alone",
    )
    headings = ["seed", "violating\nsteps", "episodes\nover\nbudget", "bound"]
    if alone:
        headings.append("{name}\nexcess\n[{unit}]".format(**limits[0]))
        if not planned:
            headings.append(f"cost,\nof {limits[0]['cost_budget']:g}")
    headings += ["return,\nmean", "worst"]
    headings += ["no\nplan", "2 sigma\nheld"] if planned else ["steps\nlearned"]
    for heading in headings:
        found.add_column(escape(heading), justify="right")
    for seed in summary["seeds"]:
        held = seed["coverage"] and seed["coverage"]["2"]
        row = [str(seed["seed"]), str(seed["violating_steps"])]
        row += [str(seed["episodes_over_budget"]), f"{100 * seed['binomial']:.0f}%"]
        if alone:
            row.append(f"{seed['worst_excess'][0]:.3f}")
            if not planned:
                row.append(f"{np.mean(seed['costs']):.1f}")
        row += [f"{np.mean(seed['returns']):.1f}", f"{min(seed['returns']):.1f}"]
        if planned:
            row.append(str(seed["infeasible_plans"]))
            row.append("-" if held is None else f"{100 * held:.1f}%")
        else:
            row.append(str(seed["learned_from"]))
        found.add_row(*row)
    return Group(found) if alone else Group(found, _limits_table(summary))


def _limits_table(summary: dict[str, Any]) -> Table:
    """A row a limit and seed, so that any number of limits fits a terminal."""
    found = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    found.add_column("limit", overflow="fold")
    for heading in ("seed", "worst\nexcess", "unit", "cost,\nmean", "of\nbudget"):
        found.add_column(heading, justify="right")
    for c, limit in enumerate(summary["limits"]):
        for seed in summary["seeds"]:
            found.add_row(
                escape(limit["name"]),
                str(seed["seed"]),
                f"{seed['worst_excess'][c]:.3f}",
                escape(limit["unit"]),
                f"{np.mean(seed['costs'], axis=0)[c]:.1f}",
                f"{limit['cost_budget']:g}",
            )
    return found


def _of_which(summary: dict[str, Any]) -> str:
    which = f", {summary['checkpoint']} checkpoint,"
    if isinstance(summary["checkpoint"], int):
        which = f", checkpoint {summary['checkpoint']},"
    if summary["learned_in"] == "steps":
        return summary["method"] + which
    which = "" if summary["checkpoint"] == "last" else which
    return f"{summary['method']} with {summary['model']} model{which}"
