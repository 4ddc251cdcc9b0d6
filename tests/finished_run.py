"""A finished run as a launcher leaves it, without having been run."""

import json

import numpy as np
import yaml

from safex.training.certificate import certify, over_budget


def seed_of(number, violations, returns, costs=None):
    """An entry of a summary; violations begin with the random phase."""
    costs = [[float(v)] for v in violations[1:]] if costs is None else costs
    shares = {"1": 0.7, "2": 0.95, "3": 0.99}
    return {
        "seed": number,
        "final_return": returns[-1],
        "training_violating_steps": sum(violations),
        "random_violating_steps": violations[0],
        "training_violation_events": min(1, sum(violations)),
        "worst_excess": [0.25 * max(violations)],
        "worst_episode_cost": np.max(costs, axis=0).tolist(),
        "episodes_over_budget": sum(any(cost) for cost in costs),
        "infeasible_plans": 3,
        "backup_steps": 1,
        "episode_returns": returns,
        "episode_cost_returns": costs,
        "episode_violating_steps": violations,
        "coverage": {"prequential": shares, "out_of_distribution": shares},
    }


def write_run(folder, seeds, *, config=None, **changes):
    """Writes summary, configuration and ledger; returns the folder."""
    folder.mkdir(parents=True)
    limits = [{"name": "|omega|", "value": 6.0, "unit": "rad/s", "cost_budget": 0.0}]
    summary = {
        "env": "pendulum",
        "method": "minmax",
        "model": "bnn",
        "num_seeds": len(seeds),
        "episodes": len(seeds[0]["episode_returns"]),
        "random_steps": 100,
        "revision": "abc",
        "seconds": 60.0,
        "seconds_per_decision": 0.01,
        "limits": limits,
        "seeds": seeds,
    } | changes
    costs = np.array([seed["episode_cost_returns"] for seed in seeds])
    budgets = [limit["cost_budget"] for limit in summary["limits"]]
    summary["certificate"] = certify(over_budget(costs, budgets)).plain()
    (folder / "summary.json").write_text(json.dumps(summary))
    if config is None:
        config = {
            "method": summary["method"],
            "horizon": 20,
            "train": {"num_model_updates": summary["episodes"]},
            "job": {"num_seeds_per_hparam": len(seeds), "grid": None},
            "results_dir": str(folder),
        }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for index, seed in enumerate(seeds):
        below = folder / f"seed_{index}"
        below.mkdir()
        lines, rows, total = [], [], 0
        for episode, count in enumerate(seed["episode_violating_steps"]):
            total += count
            rows.append(
                {
                    "step": 100 + 200 * episode,
                    "train/episode/number": episode,
                    "train/episode/return": [-9.0, *seed["episode_returns"]][episode],
                    "train/account/cumulative_violating_steps": total,
                }
            )
            lines += [
                {
                    "step": 7,
                    "episode": episode,
                    "step_in_episode": step,
                    "excess": [0.25 * count],
                    "predicted_cost": [0.0] if episode else None,
                    "plan_feasible": bool(step % 2) if episode else None,
                    "backup": False,
                }
                for step in range(count)
            ]
        for name, entries in (("violations", lines), ("metrics", rows)):
            text = "".join(json.dumps(entry) + "\n" for entry in entries)
            (below / f"{name}.jsonl").write_text(text)
    return folder
