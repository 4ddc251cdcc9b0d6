from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.image import imread

from safex.training import plots
from safex.training.statistics import Estimate, estimate

NAMES = ("cos theta", "sin theta", "omega [rad/s]")


def episode(theta, omega, limit=6.0, error=0.0, sigma=0.1):
    """An episode that visits the given angles and speeds, `[T + 1]` each."""
    obs = np.stack([np.cos(theta), np.sin(theta), omega], axis=1)
    next_obs = obs[1:]
    return SimpleNamespace(
        obs=obs[:-1],
        next_obs=next_obs,
        margin=np.abs(next_obs[:, 2]) - limit,
        mean=next_obs - error,
        epistemic_std=np.full(next_obs.shape, 0.6 * sigma),
        aleatoric_std=np.full(next_obs.shape, 0.8 * sigma),
    )


def swing(steps=30, top=5.0, **kwargs):
    time = np.linspace(0.0, 2 * np.pi, steps + 1)
    return episode(np.pi + np.sin(time), top * np.cos(time), **kwargs)


@pytest.fixture
def unwritten(monkeypatch):
    """For tests of what a figure holds: layout and writing are most of the time."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_: None)


def curve(axes, label):
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())


def dashed(axes):
    """Heights of the limit lines."""
    levels = [line.get_ydata() for line in axes.lines if line.get_linestyle() == "--"]
    return sorted(float(level[0]) for level in levels)


def texts(axes):
    return " ".join(text.get_text() for text in axes.texts)


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def assert_png(path, figure):
    width, height = figure.get_size_inches() * plots.DPI
    image = imread(path)
    assert image.shape[:2] == (round(height), round(width))
    assert np.ptp(image[..., :3]) > 0.5


def test_learning_shows_mean_seeds_and_cumulated_violations(tmp_path):
    returns = np.array([[-9.0, -5.0, -1.0], [-7.0, -5.0, -5.0]])
    violations = np.array([[2, 0, 3, 0], [0, 0, 1, 4]])
    path = tmp_path / "plots" / "learning.png"
    figure = plots.plot_learning(path, returns, violations, cost_budget=1.0)
    assert_png(path, figure)
    left, right = figure.axes
    x, y = curve(left, "mean of 2 seeds")
    np.testing.assert_array_equal(x, [1, 2, 3])
    np.testing.assert_array_equal(y, [-8.0, -5.0, -3.0])
    x, y = curve(right, "mean of 2 seeds")
    np.testing.assert_array_equal(x, [0, 1, 2, 3])
    np.testing.assert_array_equal(y, [1.0, 1.0, 3.0, 5.0])
    thin = [line.get_ydata() for line in right.lines if line.get_linewidth() < 1]
    np.testing.assert_array_equal(thin, [[2, 2, 5, 5], [0, 0, 1, 5]])
    _, y = curve(right, "budget: 1 per episode")
    np.testing.assert_array_equal(y, [0, 1, 2, 3])
    assert "lowest to highest seed" in legend(figure)


def test_learning_of_one_safe_seed_says_so(tmp_path, unwritten):
    figure = plots.plot_learning(tmp_path / "a.png", [[-1.0, -2.0]], [[0, 0, 0]], 0.0)
    left, right = figure.axes
    assert legend(figure) == ["the only seed", "budget: 0 per episode"]
    assert "no violating step" in texts(right)
    assert len(left.collections) == 0  # no band around one seed
    assert right.get_ylim()[1] > 1


@pytest.mark.parametrize(
    ("returns", "violations", "message"),
    [
        ([[1.0, 2.0]], [[0, 0]], r"violations must have shape \[1, 3\], got \(1, 2\)"),
        ([1.0, 2.0], [[0, 0, 0]], r"returns must have shape \[any, any\]"),
        ([[1.0, np.nan]], [[0, 0, 0]], "returns must be finite"),
        (np.zeros((0, 2)), np.zeros((0, 3)), "returns must have shape"),
    ],
)
def test_learning_refuses(tmp_path, returns, violations, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_learning(tmp_path / "a.png", returns, violations, 0.0)
    assert list(tmp_path.iterdir()) == []


def forecast(**changes):
    mean = np.tile(np.linspace(0.0, 1.0, 5)[:, None], (1, 3))
    actual = mean.copy()
    actual[3:, 1] += 0.5
    given = {"mean": mean, "lower": mean - 0.2, "upper": mean + 0.2, "actual": actual}
    return plots.Forecast(start_step=10, **(given | changes))


def test_forecast_shows_the_limit_and_counts_what_is_inside(tmp_path):
    path = tmp_path / "forecast.png"
    figure = plots.plot_forecast(path, forecast(), NAMES, limit=6.0, limit_index=2)
    assert_png(path, figure)
    x, y = curve(figure.axes[1], "what happened")
    np.testing.assert_array_equal(x, [11, 12, 13, 14, 15])
    np.testing.assert_array_equal(y, forecast().actual[:, 1])
    assert [dashed(axes) for axes in figure.axes] == [[], [], [-6.0, 6.0]]
    titles = [axes.get_title(loc="right") for axes in figure.axes]
    assert titles == ["5 of 5 inside", "3 of 5 inside", "5 of 5 inside"]
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "cos θ",
        "sin θ",
        "ω [rad/s]",
    ]
    assert "limit ±6" in legend(figure)


def test_forecast_without_a_limit(tmp_path, unwritten):
    figure = plots.plot_forecast(tmp_path / "a.png", forecast(), NAMES, None)
    assert not any(dashed(axes) for axes in figure.axes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lower": np.zeros((4, 3))}, r"forecast.lower must have shape \[5, 3\]"),
        ({"mean": np.full((5, 3), np.nan)}, "forecast.mean must be finite"),
        ({"mean": np.zeros((5, 2))}, r"forecast.mean must have shape \[any, 3\]"),
        ({"lower": np.ones((5, 3)) * 9}, "lower must not lie above"),
    ],
)
def test_forecast_refuses(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_forecast(tmp_path / "a.png", forecast(**changes), NAMES, 6.0)


def test_prediction_shows_the_error_in_sigma(tmp_path):
    record = swing(steps=20, sigma=0.1, error=0.0)
    record.mean[4] -= 0.15  # 1.5 sigma
    record.mean[7] -= 0.25  # 2.5 sigma, outside the band
    record.mean[9] += 0.70  # -7 sigma, beyond the panel
    path = tmp_path / "prediction.png"
    figure = plots.plot_prediction(path, record, NAMES, 6.0, beta=2.0)
    assert_png(path, figure)
    value, scaled = figure.axes[4], figure.axes[5]
    assert dashed(value) == [-6.0, 6.0]
    assert not any(dashed(axes) for axes in figure.axes if axes is not value)
    band = value.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx((record.mean[:, 2] + 0.2).max())
    dots, above, below = [
        points.get_offsets()
        for points in scaled.collections
        if isinstance(points, PathCollection)
    ]
    heights = dict(np.asarray(dots))
    assert heights[5] == pytest.approx(1.5) and heights[8] == pytest.approx(2.5)
    assert len(dots) == 19 and len(above) == 0
    np.testing.assert_allclose(below, [[10, -4]])
    assert scaled.get_title(loc="right") == "90.0 % inside ± 2 σ"
    assert "± 2 σ band" in legend(figure) and "beyond 4 σ" in legend(figure)


def test_prediction_of_an_exact_model_divides_by_nothing(tmp_path, unwritten):
    record = swing(steps=20, sigma=0.0, error=1e-7)
    figure = plots.plot_prediction(tmp_path / "a.png", record, NAMES, 6.0, beta=2.0)
    assert texts(figure.axes[5]) == "σ = 0; largest error 1.0e-07"
    assert figure.axes[5].get_title(loc="right") == ""


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mean", np.zeros((19, 3)), r"next_obs must have shape \[19, 3\]"),
        ("mean", np.full((20, 3), np.nan), "record.mean must be finite"),
        ("epistemic_std", -np.ones((20, 3)), "must be >= 0"),
        ("aleatoric_std", np.ones(20), "record.aleatoric_std must have shape"),
    ],
)
def test_prediction_refuses(tmp_path, name, value, message):
    record = swing(steps=20)
    setattr(record, name, value)
    with pytest.raises(ValueError, match=message):
        plots.plot_prediction(tmp_path / "a.png", record, NAMES, 6.0, beta=2.0)


def test_prediction_refuses_an_empty_band(tmp_path):
    with pytest.raises(ValueError, match="beta must be > 0"):
        plots.plot_prediction(tmp_path / "a.png", swing(), NAMES, 6.0, beta=0.0)


def test_phase_portrait_marks_violations_and_the_limit(tmp_path):
    safe, broken = swing(top=5.0), swing(top=6.5)
    path = tmp_path / "phase.png"
    records = [[safe, broken, safe], [safe]]
    figure = plots.plot_phase_portrait(path, records, 6.0, seeds=[123, 7])
    assert_png(path, figure)
    first, second, bar = figure.axes
    assert dashed(first) == dashed(second) == [-6.0, 6.0]
    assert first.get_title(loc="left") == "seed 123"
    marked = np.concatenate(
        [
            np.asarray(points.get_offsets())
            for points in first.collections
            if isinstance(points, PathCollection)
        ]
    )
    bad = broken.next_obs[broken.margin > 0]
    assert 0 < len(bad) < 30
    np.testing.assert_allclose(np.cos(marked[:, 0]), bad[:, 0], atol=1e-12)
    np.testing.assert_array_equal(marked[:, 1], bad[:, 2])
    assert f"{len(bad)} violating steps" in texts(first)
    assert "0 violating steps" in texts(second)
    assert "forbidden: |ω| > 6 rad/s" in legend(figure)
    assert bar.get_ylabel() == "episode (0 = random phase)"
    assert [int(tick) for tick in bar.get_yticks()] == [0, 1, 2]
    lines = [c for c in first.collections if isinstance(c, LineCollection)]
    assert len({tuple(line.get_colors()[0]) for line in lines}) == 3


def test_phase_portrait_has_no_line_across_the_seam(tmp_path, unwritten):
    theta = np.array([2.9, 3.1, 3.3, 3.1])  # over pi and back
    record = episode(theta, np.array([4.0, 4.0, 4.0, -4.0]))
    figure = plots.plot_phase_portrait(tmp_path / "a.png", [[record]], 6.0)
    (lines,) = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    segments = np.asarray(lines.get_segments())
    assert np.abs(np.diff(segments[..., 0], axis=1)).max() < 0.21
    starts = np.sort(segments[:, 0, 0])
    # Three steps, and the two over the seam once more from the other side.
    np.testing.assert_allclose(
        starts, np.sort([2.9, 3.1, 3.3 - 2 * np.pi, 3.1 - 2 * np.pi, 3.3])
    )


def test_phase_portrait_shows_speeds_far_past_the_limit(tmp_path, unwritten):
    record = swing(top=11.0)
    figure = plots.plot_phase_portrait(tmp_path / "a.png", [[record]], 6.0)
    assert figure.axes[0].get_ylim()[1] > 11.0


def test_phase_portrait_refuses(tmp_path):
    path, record = tmp_path / "a.png", swing()
    with pytest.raises(ValueError, match="limit_value must be > 0"):
        plots.plot_phase_portrait(path, [[record]], 0.0)
    with pytest.raises(ValueError, match="must hold an episode"):
        plots.plot_phase_portrait(path, [[]], 6.0)
    with pytest.raises(ValueError, match="2 seeds named, records of 1 given"):
        plots.plot_phase_portrait(path, [[record]], 6.0, seeds=[1, 2])
    record.obs = record.obs * np.nan
    with pytest.raises(ValueError, match=r"records_by_seed\[0\]\[0\]\.obs must be fin"):
        plots.plot_phase_portrait(path, [[record]], 6.0)


def test_calibration_shows_each_curve_and_the_diagonal(tmp_path):
    path = tmp_path / "calibration.png"
    coverage = {"held_out": [0.95, 0.7], "prequential": [0.9, 0.5]}
    figure = plots.plot_calibration(path, [0.95, 0.68], coverage)
    assert_png(path, figure)
    (axes,) = figure.axes
    x, y = curve(axes, "calibrated")
    np.testing.assert_array_equal(x, y)
    x, y = curve(axes, "held out")
    np.testing.assert_array_equal((x, y), ([0.68, 0.95], [0.7, 0.95]))  # in order
    assert legend(figure) == ["calibrated", "held out", "prequential"]


@pytest.mark.parametrize(
    ("levels", "coverage", "message"),
    [
        ([1.0, 2.0], {"a": [0.5, 0.9]}, r"levels must lie in \[0, 1\]"),
        ([0.5], {"a": [1.5]}, r"a must lie in \[0, 1\], got \[1.5\]"),
        ([0.5], {"a": [np.nan]}, r"coverage\['a'\] must be finite"),
        ([0.5], {"a": [0.5, 0.6]}, r"coverage\['a'\] must have shape \[1\]"),
        ([0.5], {}, "at least one curve"),
        ([], {"a": []}, "levels must have shape"),
    ],
)
def test_calibration_refuses(tmp_path, levels, coverage, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_calibration(tmp_path / "a.png", levels, coverage)


def test_comparison_shows_estimates_and_what_is_missing(tmp_path):
    best = Estimate(iqm=2.0, low=1.0, high=3.5, worst=9.0, values=(1.0, 2.0, 9.0))
    table = {
        "minmax": {"violations": best, "coverage": None},
        "cem": {
            "violations": estimate([4.0], worst="max"),
            "coverage": estimate([0.9, 0.8], worst="min"),
        },
    }
    path = tmp_path / "comparison.png"
    figure = plots.plot_comparison(path, table)
    assert_png(path, figure)
    violations, coverage = figure.axes
    assert [label.get_text() for label in violations.get_yticklabels()] == [*table]
    interval = violations.lines[0]
    np.testing.assert_array_equal(interval.get_xydata(), [[1.0, 0], [3.5, 0]])
    np.testing.assert_array_equal(violations.lines[1].get_xydata(), [[2.0, 0]])
    _, worst = [c.get_offsets() for c in violations.collections][:2]
    np.testing.assert_array_equal(worst, [[9.0, 0]])
    assert texts(coverage) == "-"
    assert violations.get_ylim() == (1.5, -0.5)  # the first experiment on top


def test_comparison_where_nobody_violates(tmp_path, unwritten):
    table = {"a": {"violations": estimate([0.0, 0.0], worst="max")}}
    figure = plots.plot_comparison(tmp_path / "a.png", table)
    low, high = figure.axes[0].get_xlim()
    assert -0.1 < low < 0 < high  # not an axis of negative counts


def test_comparison_refuses(tmp_path):
    one = estimate([1.0], worst="max")
    with pytest.raises(ValueError, match="at least one experiment"):
        plots.plot_comparison(tmp_path / "a.png", {})
    with pytest.raises(ValueError, match="b has"):
        plots.plot_comparison(tmp_path / "a.png", {"a": {"x": one}, "b": {"y": one}})


def test_figures_leave_the_global_style_alone(tmp_path, unwritten):
    import matplotlib

    # A style of the caller's own, whatever earlier tests have left.
    with matplotlib.rc_context({"font.size": 3.0, "savefig.dpi": 77}):
        before = dict(matplotlib.rcParams)
        plots.plot_learning(tmp_path / "a.png", [[1.0]], [[0, 0]], 0.0)
        assert dict(matplotlib.rcParams) == before


def test_importing_the_module_costs_no_matplotlib():
    import subprocess
    import sys

    code = (
        "import sys, safex.training.plots, safex.training.video\n"
        "print({'matplotlib', 'imageio_ffmpeg', 'pygame', 'jax'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
