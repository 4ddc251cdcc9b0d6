"""The planner's benchmark makes a decision of the size it says."""

import pytest

from benchmarks import plan


@pytest.mark.parametrize("num_inducing", [0, 4])
def test_a_small_decision_is_timed(num_inducing, capsys):
    work = plan.Work(3, 1, (8, 8), 10, 3, 5, 2, 4)
    agent = plan.pets_agent(work, "swish", "float32", 1, num_inducing)
    timing = plan.decisions(agent)()
    assert timing.wall > 0
    assert "first decision" in capsys.readouterr().out
    # 10 x 5 trajectories, twice, of 4 steps; 4-8-8-6, two operations a weight.
    assert work.gflop == 10 * 5 * 2 * 4 * 2 * (4 * 8 + 8 * 8 + 8 * 6) / 1e9
