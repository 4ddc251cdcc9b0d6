import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.contour import ContourSet
from matplotlib.image import imread

from safex.envs.cartpole import Cartpole
from safex.envs.pendulum import Pendulum
from safex.training import plots
from safex.training.account import EpisodeRecord
from safex.training.forecast import Forecast
from safex.training.margins import (
    Limit,
    Margins,
    forecast_margins,
    limits_of,
    prediction_margins,
)
from safex.training.plots.style import DPI
from safex.training.portrait import phase_portrait
from safex.training.statistics import Estimate, estimate
from tests.systems import Slider

NAMES = ("cos theta", "sin theta", "omega [rad/s]")
LIMITS = (Limit("|omega|", 6.0, "rad/s"),)
PENDULUM = Pendulum.from_config()


def record_of(obs, margin, error=0.0, sigma=0.1, action_dim=1):
    """An episode of observations `[T + 1, D]` with margins `[T, C]`."""
    steps = len(obs) - 1
    no = np.zeros(steps, bool)
    return EpisodeRecord(
        obs=obs[:-1],
        action=np.zeros((steps, action_dim)),
        next_obs=obs[1:],
        reward=np.zeros(steps),
        cost=(margin > 0).astype(float),
        margin=margin,
        terminated=no,
        truncated=no,
        planned=~no,
        feasible=~no,
        backup=no,
        predicted_cost=np.zeros(margin.shape),
        mean=obs[1:] - error,
        epistemic_std=np.full(obs[1:].shape, 0.6 * sigma),
        aleatoric_std=np.full(obs[1:].shape, 0.8 * sigma),
    )


def episode(theta, omega, **kwargs):
    """A pendulum's episode through the given angles and speeds, `[T + 1]` each."""
    obs = np.stack([np.cos(theta), np.sin(theta), omega], axis=1)
    return record_of(obs, np.abs(obs[1:, 2:]) - 6.0, **kwargs)


def swing(steps=30, top=5.0, **kwargs):
    time = np.linspace(0.0, 2 * np.pi, steps + 1)
    return episode(np.pi + np.sin(time), top * np.cos(time), **kwargs)


def slide(x, y, v, **kwargs):
    """An episode of the slider, `[T + 1]` each."""
    env = Slider.from_config()
    obs = np.stack([x, y, v], axis=1).astype(np.float32)
    margin = jax.vmap(env.margin)(obs[1:], np.zeros((len(obs) - 1, 2)), obs[1:])
    return record_of(obs, np.asarray(margin), action_dim=2, **kwargs)


@pytest.fixture
def unwritten(monkeypatch):
    """For tests of what a figure holds: layout and writing are most of the time."""
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda _, path, **__: path.touch()
    )


def curve(axes, label):
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())


def dashed(axes):
    """Heights of the limit lines."""
    levels = [line.get_ydata() for line in axes.lines if line.get_linestyle() == "--"]
    return sorted(float(level[0]) for level in levels)


def texts(axes):
    return " ".join(text.get_text() for text in axes.texts)


def violating(axes):
    """Places of the crosses, `[n, 2]`."""
    return np.concatenate(
        [
            np.asarray(points.get_offsets())
            for points in axes.collections
            if isinstance(points, PathCollection) and points.get_sizes()[0] == 16
        ]
    )


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def assert_png(path, figure):
    width, height = figure.get_size_inches() * DPI
    image = imread(path)
    assert image.shape[:2] == (round(height), round(width))
    assert np.ptp(image[..., :3]) > 0.5


def test_learning_shows_mean_seeds_and_cumulated_violations(tmp_path):
    returns = np.array([[-9.0, -5.0, -1.0], [-7.0, -5.0, -5.0]])
    violations = np.array([[2, 0, 3, 0], [0, 0, 1, 4]])
    path = tmp_path / "plots" / "learning.png"
    figure = plots.plot_learning(
        path, returns, violations, violations[:, 1:, None], [0.0], ["|omega|"]
    )
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
    _, y = curve(right, "budget: 0 per episode")
    np.testing.assert_array_equal(y, [0, 0, 0, 0])
    assert "lowest to highest seed" in legend(figure)


def test_learning_shows_costs_against_each_budget(tmp_path, unwritten):
    returns, violations = np.zeros((2, 3)), np.array([[2, 0, 3, 0], [0, 0, 1, 4]])
    costs = np.array([[[0, 1], [3, 0], [0, 2]], [[0, 0], [1, 4], [4, 8]]])
    budgets, names = (0.0, 1.5), ("|x|", "|omega|")
    figure = plots.plot_learning(
        tmp_path / "a.png", returns, violations, costs, budgets, names
    )
    _, steps, x, omega = figure.axes
    assert [axes.get_title() for axes in (x, omega)] == [
        "|x|, budget 0",
        "|ω|, budget 1.5",
    ]
    np.testing.assert_array_equal(curve(steps, "budget")[1], [0, 1.5, 3, 4.5])
    np.testing.assert_array_equal(curve(x, "budget"), [[1, 2, 3], [0, 0, 0]])
    np.testing.assert_array_equal(curve(omega, "budget")[1], [1.5, 1.5, 1.5])
    np.testing.assert_array_equal(curve(x, "mean of 2 seeds")[1], [0, 2, 2])
    np.testing.assert_array_equal(curve(omega, "mean of 2 seeds")[1], [0.5, 2, 5])
    assert omega.get_ylim()[1] > 8  # the worst seed is in the panel
    assert legend(figure).count("budget") == 1


def test_learning_with_one_budget_above_0(tmp_path, unwritten):
    figure = plots.plot_learning(
        tmp_path / "a.png", [[0.0]], [[0, 3]], [[[3.0]]], [5.0], ["|x|"]
    )
    cost = figure.axes[2]
    assert cost.get_title() == "|x|, budget 5"
    assert cost.get_ylim()[1] > 5  # the budget is in the panel


def test_learning_of_one_safe_seed_says_so(tmp_path, unwritten):
    figure = plots.plot_learning(
        tmp_path / "a.png", [[-1.0, -2.0]], [[0, 0, 0]], np.zeros((1, 2, 1)), [0], ["a"]
    )
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
        plots.plot_learning(
            tmp_path / "a.png", returns, violations, np.zeros((1, 2, 1)), [0.0], ["a"]
        )
    assert list(tmp_path.iterdir()) == []


def test_learning_refuses_costs_of_other_constraints(tmp_path):
    for costs, budget, message in (
        (np.zeros((1, 2, 2)), [0.0], r"costs must have shape \[1, 2, 1\]"),
        (np.zeros((1, 2, 1)), [0.0, 1.0], r"cost_budget must have shape \[1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            plots.plot_learning(
                tmp_path / "a.png", [[1.0, 2.0]], [[0, 0, 0]], costs, budget, ["a"]
            )


def forecast(**changes):
    mean = np.tile(np.linspace(0.0, 1.0, 5)[:, None], (1, 3))
    actual = mean.copy()
    actual[3:, 1] += 0.5
    given = {"mean": mean, "lower": mean - 0.2, "upper": mean + 0.2, "actual": actual}
    return Forecast(start_step=10, **(given | changes))


def flat_margins(steps, *heights, half=0.5):
    """Margins that stay where they are, one constraint for each height."""
    mean = np.tile(np.array(heights), (steps, 1))
    return Margins(mean + 0.1, mean, mean - half, mean + half)


def test_forecast_shows_the_margin_and_counts_what_is_inside(tmp_path):
    path = tmp_path / "forecast.png"
    margins = flat_margins(5, -2.0)
    figure = plots.plot_forecast(path, forecast(), NAMES, margins, LIMITS)
    assert_png(path, figure)
    x, y = curve(figure.axes[1], "what happened")
    np.testing.assert_array_equal(x, [11, 12, 13, 14, 15])
    np.testing.assert_array_equal(y, forecast().actual[:, 1])
    assert [dashed(axes) for axes in figure.axes] == [[], [], [], [0.0]]
    titles = [axes.get_title(loc="right") for axes in figure.axes]
    assert titles == [
        "5 of 5 inside",
        "3 of 5 inside",
        "5 of 5 inside",
        "limit 6 rad/s",
    ]
    shown = [axes.xaxis.get_tick_params()["labelbottom"] for axes in figure.axes]
    assert shown == [False, False, False, True]
    limit = figure.axes[3]
    assert limit.get_title(loc="left") == "|ω|"
    assert limit.get_ylabel() == "past limit\n[rad/s]"
    np.testing.assert_array_equal(curve(limit, "what happened")[1], [-1.9] * 5)
    np.testing.assert_array_equal(curve(limit, "predicted mean")[1], [-2.0] * 5)
    assert limit.get_ylim()[1] > 0  # the forbidden side is in sight
    labels = [axes.get_ylabel() for axes in figure.axes[:3]]
    assert labels == ["cos θ", "sin θ", "ω [rad/s]"]
    assert {"limit", "past the limit"} <= set(legend(figure))


def test_forecast_of_many_observations_and_two_limits(tmp_path, unwritten):
    wide = Forecast(10, *(np.tile(x, (1, 3))[:, :7] for x in forecast()[1:]))
    names = [f"ray {d} [m]" for d in range(7)]
    limits = (Limit("|x|", 2.0, "m"), Limit("|v|", 1.0, "m/s"))
    margins = flat_margins(5, -1.0, 0.7)
    figure = plots.plot_forecast(tmp_path / "a.png", wide, names, margins, limits)
    assert [axes.get_ylabel() for axes in figure.axes[:7]] == names
    safe, broken = figure.axes[7:]
    marked = violating(broken)
    np.testing.assert_allclose(marked[:, 1], [0.8] * 5)
    assert len(violating(safe)) == 0
    # All panels of a column but its last leave the ticks to that one.
    shown = [axes.xaxis.get_tick_params()["labelbottom"] for axes in figure.axes]
    assert shown == [*[False] * 4, True, True, False, False, True]
    assert figure.axes[-1].get_xlabel() == "step of the episode"


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
        plots.plot_forecast(
            tmp_path / "a.png",
            forecast(**changes),
            NAMES,
            flat_margins(5, -1.0),
            LIMITS,
        )


def test_forecast_refuses_margins_of_other_steps(tmp_path):
    with pytest.raises(ValueError, match=r"margins.actual must have shape \[5, 1\]"):
        plots.plot_forecast(
            tmp_path / "a.png", forecast(), NAMES, flat_margins(4, -1.0), LIMITS
        )


def predict(path, record, beta=2.0):
    margins = prediction_margins(PENDULUM, record, beta)
    return plots.plot_prediction(path, record, NAMES, margins, LIMITS, beta)


def panel(figure, label):
    (found,) = [axes for axes in figure.axes if axes.get_ylabel() == label]
    return found


def test_prediction_shows_the_error_in_sigma(tmp_path):
    record = swing(steps=20, sigma=0.1, error=0.0)
    record.mean[4] -= 0.15  # 1.5 sigma
    record.mean[7] -= 0.25  # 2.5 sigma, outside the band
    record.mean[9] += 0.70  # -7 sigma, beyond the panel
    path = tmp_path / "prediction.png"
    figure = predict(path, record)
    assert_png(path, figure)
    value, scaled = panel(figure, "ω [rad/s]"), figure.axes[5]
    limit = figure.axes[6]
    assert dashed(limit) == [0.0]
    assert not any(dashed(axes) for axes in figure.axes if axes is not limit)
    _, margin = curve(limit, "what happened")
    np.testing.assert_allclose(margin, np.abs(record.next_obs[:, 2]) - 6.0)
    _, margin = curve(limit, "predicted mean")
    np.testing.assert_allclose(margin, np.abs(record.mean[:, 2]) - 6.0, atol=1e-6)
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
    figure = predict(tmp_path / "a.png", record)
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
    record = swing(steps=20)._replace(**{name: value})
    margins = flat_margins(20, -1.0)
    with pytest.raises(ValueError, match=message):
        plots.plot_prediction(tmp_path / "a.png", record, NAMES, margins, LIMITS, 2.0)


def test_prediction_refuses_an_empty_band(tmp_path):
    with pytest.raises(ValueError, match="beta must be > 0"):
        predict(tmp_path / "a.png", swing(), beta=0.0)


def test_margin_of_a_prediction_propagates_its_error():
    """The slider's two constraints by hand: |v|, and the distance to a disc."""
    env = Slider.from_config()
    record = slide([0.0, 0.5, 0.0], [0.0, 0.0, 1.0], [0.0, -2.0, 0.5], sigma=0.1)
    margins = prediction_margins(env, record, 3.0)
    np.testing.assert_array_equal(margins.actual, record.margin)
    np.testing.assert_allclose(margins.mean[:, 0], [1.0, -0.5], atol=1e-6)
    np.testing.assert_allclose(margins.mean[:, 1], [0.5 - 1.5, 0.5 - 5**0.5], atol=1e-6)
    # Both have a gradient of length 1, and all stds are alike.
    np.testing.assert_allclose(margins.upper - margins.mean, 0.3, atol=1e-6)
    np.testing.assert_allclose(margins.mean - margins.lower, 0.3, atol=1e-6)


def test_margin_of_a_forecast_is_that_of_its_box():
    record = swing(steps=13)
    window = slice(1, 6)
    mean = record.next_obs[window] * 0.9
    forecast = Forecast(1, mean, mean - 0.2, mean + 0.5, record.next_obs[window])
    margins = forecast_margins(PENDULUM, record, forecast)
    np.testing.assert_array_equal(margins.actual, record.margin[window])
    speed = mean[:, 2]
    np.testing.assert_allclose(margins.mean[:, 0], np.abs(speed) - 6.0, atol=1e-6)
    assert len(set(np.sign(speed))) == 2  # both signs occur
    ends = np.abs([forecast.lower[:, 2], forecast.upper[:, 2]])
    straddles = forecast.lower[:, 2] * forecast.upper[:, 2] < 0
    least = np.where(straddles, 0.0, ends.min(0))
    np.testing.assert_allclose(margins.upper[:, 0], ends.max(0) - 6.0, atol=1e-5)
    np.testing.assert_allclose(margins.lower[:, 0], least - 6.0, atol=0.02)


def test_a_band_on_both_sides_of_zero_is_as_wide_as_its_farther_side():
    # Linearised at the mean, |x| would seem to fall where the band grows most.
    record = swing(steps=13)
    mean = np.zeros((5, 3))
    mean[:, 2] = [-0.1, 0.1, 0.0, 2.0, -2.0]
    low, high = np.array([0.1, 0.1, 3.0]), np.array([0.1, 0.1, 8.0])
    forecast = Forecast(0, mean, mean - low, mean + high, record.next_obs[:5])
    margins = forecast_margins(PENDULUM, record, forecast)
    farthest = np.maximum(np.abs(mean[:, 2] - 3.0), np.abs(mean[:, 2] + 8.0))
    np.testing.assert_allclose(margins.upper[:, 0], farthest - 6.0, atol=1e-5)
    assert np.all(margins.lower >= -6.0)


def test_limits_are_named_with_value_and_unit():
    assert limits_of(Pendulum.from_config(speed_threshold=5.0)) == (
        Limit("|omega|", 5.0, "rad/s"),
    )
    assert [limit.name for limit in limits_of(Slider.from_config())] == ["|v|", "disc"]


def boundary(axes):
    """Points of the dashed boundary of what is forbidden, `[n, 2]`."""
    shapes = [c for c in axes.collections if isinstance(c, ContourSet) and not c.filled]
    return np.concatenate([path.vertices for c in shapes for path in c.get_paths()])


def test_phase_portrait_marks_violations_and_the_limit(tmp_path):
    safe, broken = swing(top=5.0), swing(top=6.5)
    path = tmp_path / "phase.png"
    portrait = phase_portrait(PENDULUM, [[safe, broken, safe], [safe]])
    figure = plots.plot_phase_portrait(path, portrait, seeds=[123, 7])
    assert_png(path, figure)
    first, second, bar = figure.axes
    for axes in (first, second):
        edge = boundary(axes)
        np.testing.assert_allclose(np.abs(edge[:, 1]), 6.0, atol=1e-5)
        assert {-1.0, 1.0} == set(np.sign(edge[:, 1]))
        np.testing.assert_allclose(axes.get_ylim(), [-7.8, 7.8], atol=1e-4)
        np.testing.assert_allclose(axes.get_xlim(), [-np.pi, np.pi])
    assert first.get_title(loc="left") == "seed 123"
    assert first.get_xlabel() == "θ [rad], 0 = upright"
    assert first.get_ylabel() == "ω [rad/s]"
    assert [tick.get_text() for tick in first.get_xticklabels()] == [
        "−π",
        "−π/2",
        "0",
        "π/2",
        "π",
    ]
    marked = violating(first)
    bad = broken.next_obs[broken.margin[:, 0] > 0]
    assert 0 < len(bad) < 30
    np.testing.assert_allclose(np.cos(marked[:, 0]), bad[:, 0], atol=1e-6)
    np.testing.assert_allclose(marked[:, 1], bad[:, 2], atol=1e-6)
    assert f"{len(bad)} violating steps" in texts(first)
    assert "0 violating steps" in texts(second)
    assert "forbidden: |ω| > 6 rad/s" in legend(figure)
    assert bar.get_ylabel() == "episode (0 = random phase)"
    assert [int(tick) for tick in bar.get_yticks()] == [0, 1, 2]
    lines = [c for c in first.collections if isinstance(c, LineCollection)]
    lines = [line for line in lines if len(line.get_segments()) >= 30]
    assert len({tuple(line.get_colors()[0]) for line in lines}) == 3


def test_phase_portrait_has_no_line_across_the_seam(tmp_path, unwritten):
    theta = np.array([2.9, 3.1, 3.3, 3.1])  # over pi and back
    record = episode(theta, np.array([4.0, 4.0, 4.0, -4.0]))
    portrait = phase_portrait(PENDULUM, [[record]])
    figure = plots.plot_phase_portrait(tmp_path / "a.png", portrait)
    (lines,) = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    segments = np.asarray(lines.get_segments())
    assert np.abs(np.diff(segments[..., 0], axis=1)).max() < 0.21
    starts = np.sort(segments[:, 0, 0])
    # Three steps, and the two over the seam once more from the other side.
    expected = np.sort([2.9, 3.1, 3.3 - 2 * np.pi, 3.1 - 2 * np.pi, 3.3])
    np.testing.assert_allclose(starts, expected, atol=1e-6)


def test_phase_portrait_wraps_whichever_axis_is_an_angle(tmp_path, unwritten):
    """The cart-pole's angle stands on the second axis, its limit across the first."""
    env = Cartpole.from_config()
    theta, x = np.array([2.9, 3.1, 3.3]), np.array([0.1, 0.2, 0.3])
    zero = np.zeros(3)
    obs = np.stack([x, zero, np.cos(theta), np.sin(theta), zero], axis=1)
    record = record_of(obs, np.abs(obs[1:, :1]) - env.params.slider_limit)
    portrait = phase_portrait(env, [[record]])
    axes = plots.plot_phase_portrait(tmp_path / "a.png", portrait).axes[0]
    (lines,) = [c for c in axes.collections if isinstance(c, LineCollection)]
    ends = np.sort(np.asarray(lines.get_segments())[:, 1], axis=0)
    np.testing.assert_allclose(ends[:, 0], [0.2, 0.3, 0.3], atol=1e-6)
    np.testing.assert_allclose(ends[:, 1], [3.3 - 2 * np.pi, 3.1, 3.3], atol=1e-6)
    limit = float(env.params.slider_limit)
    np.testing.assert_allclose(np.abs(boundary(axes)[:, 0]), limit, atol=1e-5)
    np.testing.assert_allclose(axes.get_xlim(), [-1.3 * limit, 1.3 * limit], atol=1e-4)
    np.testing.assert_allclose(axes.get_ylim(), [-np.pi, np.pi])


def test_phase_portrait_shows_speeds_far_past_the_limit(tmp_path, unwritten):
    portrait = phase_portrait(PENDULUM, [[swing(top=11.0)]])
    figure = plots.plot_phase_portrait(tmp_path / "a.png", portrait)
    assert figure.axes[0].get_ylim()[1] > 11.0


def test_phase_portrait_shades_only_what_its_plane_tells(tmp_path, unwritten):
    """A disc in the plane of x and y is drawn to scale; a speed limit is not."""
    env = Slider.from_config()
    time = np.linspace(0.0, 1.0, 21)
    fast = slide(4.0 * time, 0.3 * time, np.full(21, 1.5))
    portrait = phase_portrait(env, [[fast]])
    figure = plots.plot_phase_portrait(tmp_path / "a.png", portrait)
    axes = figure.axes[0]
    assert legend(figure) == ["forbidden: disc, limit 0.5 m", "violating step"]
    away = np.linalg.norm(boundary(axes) - [2.0, 0.0], axis=1)
    np.testing.assert_allclose(away, 0.5, atol=1e-3)
    assert axes.get_aspect() == 1.0
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x [m]", "y [m]")
    # Too fast at every step, wherever it is.
    assert len(violating(axes)) == 20
    assert axes.get_title(loc="right") == "20 violating steps"
    low, high = axes.get_xlim()
    assert low < 0.0 and 4.0 < high < 5.0


def test_phase_portrait_without_anything_to_shade(tmp_path, unwritten):
    """A constraint on something else than the plane's coordinates."""

    class Turned(Slider):
        portrait = ("x", "v")

        def margin(self, obs, action, next_obs):
            return jnp.stack([next_obs[1] - 0.1, obs[1] - 0.1])

    time = np.linspace(0.0, 1.0, 21)
    record = slide(time, 0.2 * time, time)
    portrait = phase_portrait(Turned.from_config(), [[record]])
    assert portrait.margin is None and portrait.forbidden == ()
    figure = plots.plot_phase_portrait(tmp_path / "a.png", portrait)
    assert legend(figure) == ["violating step"]
    assert figure.axes[0].get_aspect() == "auto"  # metres against metres a second


def test_phase_portrait_refuses(tmp_path):
    record = swing()
    with pytest.raises(ValueError, match="must hold an episode"):
        phase_portrait(PENDULUM, [[]])
    for name in ("obs", "next_obs", "margin"):
        bad = record._replace(**{name: getattr(record, name) * np.nan})
        message = rf"records_by_seed\[0\]\[0\]\.{name} must be fin"
        with pytest.raises(ValueError, match=message):
            phase_portrait(PENDULUM, [[bad]])
    portrait = phase_portrait(PENDULUM, [[record]])
    with pytest.raises(ValueError, match="2 seeds named, paths of 1 given"):
        plots.plot_phase_portrait(tmp_path / "a.png", portrait, seeds=[1, 2])


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
        plots.plot_learning(
            tmp_path / "a.png", [[1.0]], [[0, 0]], [[[0.0]]], [0.0], ["a"]
        )
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
