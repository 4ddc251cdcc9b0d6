"""The account of time, costs and limits, by hand."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from experiments.tables import summary_table
from safex.training import plots
from safex.training.account import EpisodeRecord, save_record
from safex.training.certificate import binomial_bound, confidence_sequence
from safex.training.forecast import Forecast, save_forecast
from safex.training.honesty import SCORES_OF
from safex.training.margins import limits_of
from safex.training.report import (
    RunInfo,
    _median,
    _timings,
    summarise_run,
    write_figures,
    write_videos,
)
from tests.systems import Slider

ENV = Slider.from_config()
STEPS = 20
# Per seed and planned episode: steps too fast, steps in the disc.
COSTS = ([(3, 0), (5, 1), (0, 0)], [(0, 2), (5, 0), (6, 2)])
BUDGET = (5.0, 0.0)


def entry(episode, calls, *, compiles=False, seeds=1, in_turn=1):
    return {
        "episode": episode,
        "call_seconds": calls,
        "steps_per_call": 10,
        "fit_seconds": 4.0,
        "compiles": compiles,
        "seeds": seeds,
        "in_turn": in_turn,
    }


def timings(folder, *entries):
    (folder / "timing.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))
    return _timings(folder)


def test_a_shorter_last_call_is_of_its_own_steps_and_compiles_too(tmp_path):
    short = {"steps_of_last_call": 5}
    _, decisions = timings(
        tmp_path,
        entry(1, [9.0, 2.0, 8.0], compiles=True) | short,
        entry(2, [3.0, 2.0, 1.0]) | short,
    )
    assert decisions == pytest.approx([0.2, 0.3, 0.2, 0.2])


def test_the_random_phase_and_the_compiling_call_are_no_decisions(tmp_path):
    total, decisions = timings(
        tmp_path,
        entry(0, [1.0]),
        entry(1, [9.0, 2.0], compiles=True),
        entry(2, [3.0, 2.0]),
    )
    assert total == pytest.approx(1 + 11 + 5 + 3 * 4)
    assert decisions == pytest.approx([0.2, 0.3, 0.2])
    assert _median(decisions) == pytest.approx(0.2)


def test_seeds_in_lockstep_share_the_seconds_and_wait_their_turn(tmp_path):
    """Six seeds on two cores: each core takes three, one after another."""
    total, decisions = timings(tmp_path, entry(1, [6.0], seeds=6, in_turn=3))
    assert total == pytest.approx((6 + 4) / 6)
    assert decisions == pytest.approx([0.2])


def test_a_run_whose_only_call_compiles_has_no_pace(tmp_path):
    _, decisions = timings(tmp_path, entry(1, [6.0], compiles=True))
    assert _median(decisions) is None


def test_scores_are_of_the_last_fit_and_of_all_planned_episodes(finished):
    _, _, summary = finished
    scores = summary["seeds"][0]["scores"]
    assert scores["held_out"]["crps"] == scores["out_of_distribution"]["crps"] == 3.0
    assert scores["prequential"]["crps"] == 2.0
    assert scores["prequential"]["ten_steps"] == pytest.approx(0.2)
    # Runs of before they were kept have none.
    assert scores["held_out"]["nll"] is None
    assert summary["aggregate"]["scores"]["held_out"]["nll"] is None
    assert summary["aggregate"]["scores"]["prequential"]["crps"]["mean"] == 2.0


def slide(fast, inside, *, planned=True):
    """An episode with so many steps past each limit, by 0.25 and by 0.5."""
    steps = np.arange(STEPS + 1, dtype=np.float32) / STEPS
    obs = np.stack([steps, 0.1 * steps, np.full(STEPS + 1, 0.5)], axis=1)
    obs = obs.astype(np.float32)
    obs[1 : 1 + fast, 2] = 1.25
    margin = np.full((STEPS, 2), -0.5)
    margin[:fast, 0], margin[STEPS - inside :, 1] = 0.25, 0.5
    yes, no = np.ones(STEPS, bool), np.zeros(STEPS, bool)
    nothing = np.full((STEPS, 3), np.nan)
    return EpisodeRecord(
        obs=obs[:-1],
        action=np.zeros((STEPS, 2), np.float32),
        next_obs=obs[1:],
        reward=np.full(STEPS, 0.5),
        cost=(margin > 0).astype(np.float32),
        margin=margin,
        terminated=no,
        truncated=no,
        planned=yes if planned else no,
        feasible=yes,
        backup=no,
        predicted_cost=np.zeros((STEPS, 2)),
        mean=obs[1:] + 0.01 if planned else nothing,
        epistemic_std=np.full((STEPS, 3), 0.02) if planned else nothing,
        aleatoric_std=np.full((STEPS, 3), 0.01) if planned else nothing,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of two seeds: its folder, what it was and its summary."""
    folder = tmp_path_factory.mktemp("run")
    for s, costs in enumerate(COSTS):
        seed = folder / f"seed_{s}"
        (seed / "episodes").mkdir(parents=True)
        # The random phase breaks both limits at once and counts against no budget.
        records = [slide(STEPS, STEPS, planned=False)]
        records += [slide(*counts) for counts in costs]
        for e, record in enumerate(records):
            save_record(seed / "episodes" / f"episode_{e:03d}.npz", record)
        shares = {
            f"coverage/{kind}/{level}": 0.9
            for kind in ("held_out", "out_of_distribution")
            for level in (1, 2, 3)
        }
        row = shares | {f"coverage/prequential/{level}": 0.9 for level in (1, 2, 3)}
        # A score that is the episode's number, and one that the first cannot have.
        rows = [
            row
            | {f"scores/{region}/crps": e for region in SCORES_OF}
            | {"scores/prequential/ten_steps": None if e == 0 else 0.1 * e}
            for e in range(len(records))
        ]
        (seed / "metrics.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )
        (seed / "timing.jsonl").write_text(json.dumps(entry(1, [1.0])) + "\n")
        last = records[-1]
        window = slice(3, 8)
        band = [last.mean[window] + shift for shift in (0.0, -0.1, 0.1)]
        save_forecast(seed / "forecast.npz", Forecast(3, *band, last.next_obs[window]))
    info = RunInfo(
        env="slider",
        method="minmax",
        model="bnn",
        revision="abc",
        episodes=3,
        random_steps=STEPS,
        horizon=5,
        limits=limits_of(ENV),
        cost_budget=BUDGET,
        beta=np.ones(3),
    )
    return folder, info, summarise_run(folder, info, [11, 22])


def test_the_summary_counts_costs_under_each_limit(finished):
    _, _, summary = finished
    json.dumps(summary, allow_nan=False)  # nothing that JSON has no word for
    assert summary["limits"] == [
        {"name": "|v|", "value": 1.0, "unit": "m/s", "cost_budget": 5.0},
        {"name": "disc", "value": 0.5, "unit": "m", "cost_budget": 0.0},
    ]
    one, two = summary["seeds"]
    assert one["episode_cost_returns"] == [[3, 0], [5, 1], [0, 0]]
    assert one["worst_episode_cost"] == [5, 1]
    assert one["episodes_over_budget"] == 1  # 5 of 5 is within
    assert two["worst_episode_cost"] == [6, 2]
    assert two["episodes_over_budget"] == 2  # once over both budgets
    assert one["worst_excess"] == two["worst_excess"] == [0.25, 0.5]
    assert one["episode_violating_steps"] == [20, 3, 6, 0]
    assert one["training_violating_steps"] == 29
    total = summary["aggregate"]
    assert [part["max"] for part in total["worst_episode_cost"]] == [6, 2]
    assert [part["mean"] for part in total["worst_episode_cost"]] == [5.5, 1.5]
    assert [part["min"] for part in total["worst_excess"]] == [0.25, 0.5]
    assert total["episodes_over_budget"]["mean"] == 1.5


def test_the_figures_get_costs_and_limits(finished, monkeypatch):
    folder, info, summary = finished
    drawn = {}
    for name in plots.__all__:
        monkeypatch.setattr(
            plots, name, lambda *args, name=name, **kwargs: drawn.update({name: args})
        )
    made = write_figures(folder, info, [11, 22], ENV, summary)
    names = ["learning", "phase_portrait", "prediction", "forecast", "calibration"]
    assert [path.stem for path in made] == names
    _, returns, violations, costs, budget, limits = drawn["plot_learning"]
    np.testing.assert_allclose(returns, 10.0)
    np.testing.assert_array_equal(violations, [[20, 3, 6, 0], [20, 2, 5, 8]])
    np.testing.assert_array_equal(costs, COSTS)
    assert budget == BUDGET and limits == ["|v|", "disc"]
    margins = drawn["plot_prediction"][3]
    assert margins.actual.shape == (STEPS, 2)
    # Two sigma, and one of them is 5^0.5 / 100.
    half = (margins.upper - margins.mean)[:, 0]
    np.testing.assert_allclose(half, 2 * 0.05**0.5 / 10, rtol=1e-4)
    margins = drawn["plot_forecast"][3]
    np.testing.assert_allclose((margins.upper - margins.mean)[:, 0], 0.1, rtol=1e-4)


def test_a_system_without_a_drawing_has_one_warning(finished):
    folder, info, _ = finished
    said = []
    assert write_videos(folder, info, [11, 22], ENV, said.append) == []
    (message,) = said
    assert message.startswith("no videos: no drawing of Slider")


def printed(summary, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(summary_table(summary))
    return console.export_text()


def test_the_table_shows_each_limit_within_80_columns(finished):
    text = printed(finished[2])
    assert "…" not in text
    lines = [line.split() for line in text.splitlines()]
    (worst,) = [line for line in lines if line[:1] == ["worst"]]
    assert worst[1:6] == ["35", "0.250", "0.500", "6", "2"]
    for word in ("|v|", "disc", "[m/s]", "of 5", "of 0"):
        assert word in text
    said = " ".join(text.split())
    assert "3 of 6 planned episodes broke their budget" in said
    assert f"{100 * binomial_bound(3, 6):.1f} % of the time" in said


def test_the_certificate_is_about_budgets_and_ready_for_json(finished):
    found = json.loads(json.dumps(finished[2]["certificate"]))
    # The second seed's first episode first of all, then the first seed's second.
    in_order = [False, True, True, False, False, True]
    assert found["sequence"] == confidence_sequence(in_order).tolist()
    assert (found["episodes"], found["over_budget"]) == (6, 3)


@pytest.mark.parametrize("budget", [0.0, 25.0])
def test_the_table_of_one_limit_fits_80_columns(finished, budget):
    """Long numbers, and the whole headings of before."""
    summary = json.loads(json.dumps(finished[2]))
    limit = {"name": "|v|", "value": 1.0, "unit": "rad/s", "cost_budget": budget}
    summary["limits"] = [limit]
    for seed in summary["seeds"]:
        seed |= {"seed": 999_999, "final_return": -1234.56, "infeasible_plans": 1600}
    text = printed(summary)
    assert "…" not in text
    for word in ("violating", "of them", "random", "[rad/s]", "2 sigma", "-1234.6"):
        assert word in text
    assert ("of 25" in text) == (budget > 0)
