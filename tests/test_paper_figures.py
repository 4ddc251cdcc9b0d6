"""Figures of several runs: what they show, and whether a paper can take them."""

import errno
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from experiments import plot
from experiments.plot import main
from safex.errors import ResultsError
from safex.training import plots
from safex.training.plots.curves import Curves
from safex.training.plots.pareto import Trade, front
from safex.training.plots.style import PAGE, at_most, looks, new_figure, wrapped
from safex.training.results import paretos, read_all
from safex.training.statistics import Improvement, Profile
from tests.finished_run import seed_of, write_run

TWO = {
    "a": Curves(
        [[0, 2, 3], [1, 0, 9]], [[-4.0, -2.0], [-6.0, -1.0]], np.ones((2, 2, 1))
    ),
    "b": Curves([[0, 0, 0, 0]], [[-9.0, -8.0, -7.0]], np.zeros((1, 3, 1))),
}


def lines(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_violations_add_up_and_the_worst_seed_has_a_line(tmp_path):
    figure = plots.plot_curves(tmp_path / "c.pdf", TWO, [("|v|", 0.0)])
    left, right = figure.axes
    drawn = lines(left)
    assert drawn["a (2)"] == [[0, 0.5], [1, 1.5], [2, 7.5]]
    assert drawn["b (1)"] == [[0, 0], [1, 0], [2, 0], [3, 0]]
    (worst,) = [x for x in left.lines if x.get_linestyle() == ":"]
    assert worst.get_ydata().tolist() == [1, 1, 10]
    assert lines(right)["a (2)"] == [[1, -5.0], [2, -1.5]]
    assert "violating" in left.get_ylabel() and "return" in right.get_ylabel()


def test_costs_have_a_panel_where_there_is_a_budget(tmp_path):
    figure = plots.plot_curves(tmp_path / "c.png", TWO, [("|v|", 5.0)])
    cost = figure.axes[2]
    budget = lines(cost)["budget"]
    assert [y for _, y in budget] == [5.0, 5.0]
    # With different budgets nobody's line is drawn.
    figure = plots.plot_curves(tmp_path / "c.png", TWO, [("|v|", None)])
    assert "budget" not in lines(figure.axes[2])


@pytest.mark.parametrize(
    ("experiments", "words"),
    [
        ({}, "at least one"),
        ({"a": Curves([[0, 1]], [[1.0, 2.0]], [[[0.0], [0.0]]])}, "a: violations"),
        ({"a": Curves([[0, 1]], [[np.nan]], [[[0.0]]])}, "a: returns must be finite"),
    ],
)
def test_curves_that_do_not_fit_are_refused(tmp_path, experiments, words):
    with pytest.raises(ValueError, match=words):
        plots.plot_curves(tmp_path / "c.png", experiments, [("|v|", 0.0)])
    assert not list(tmp_path.iterdir())


def test_the_front_by_hand():
    prices = [0.0, 0.0, 1.0, 2.0, 3.0, 3.0]
    gains = [1.0, 2.0, 2.0, 5.0, 4.0, 5.0]
    assert front(prices, gains) == [1, 3]  # of equal gain the cheaper
    assert front([1.0, 1.0], [2.0, 2.0]) == [0, 1]
    assert front([5.0], [0.0]) == [0]


@pytest.mark.parametrize("most", [0.0, 7.0, 5000.0])
@pytest.mark.parametrize("least", [0.0, 3.0])
def test_every_seed_is_in_the_picture_of_the_trade(tmp_path, most, least):
    trades = {"a": Trade([least, least + most], [1.0, 2.0]), "b": Trade([least], [0.0])}
    figure = plots.plot_pareto(tmp_path / "p.png", trades, price="x", gain="y")
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    assert low < least and least + most < high


def test_a_pdf_embeds_its_font_and_an_svg_holds_text(tmp_path):
    for ending in ("pdf", "svg"):
        path = tmp_path / f"c.{ending}"
        plots.plot_curves(path, TWO, [("|v|", 0.0)], width=3.25)
        first = path.read_bytes()
        plots.plot_curves(path, TWO, [("|v|", 0.0)], width=3.25)
        assert path.read_bytes() == first  # no date, no chance
    pdf = (tmp_path / "c.pdf").read_bytes()
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        try:
            pdf += zlib.decompress(stream)
        except zlib.error:
            continue
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    (width,) = re.findall(rb"/MediaBox \[ ?0 0 ([\d.]+)", pdf)[:1]
    assert float(width) == pytest.approx(72 * 3.25)
    svg = (tmp_path / "c.svg").read_text()
    assert re.search(r"<text[^>]*>violating steps so far</text>", svg)


def test_a_narrow_figure_stacks_its_panels(tmp_path):
    figure = plots.plot_curves(tmp_path / "c.png", TWO, [("|v|", 0.0)], width=3.25)
    first, second = (axes.get_position() for axes in figure.axes)
    assert second.y1 < first.y0 and figure.get_figwidth() == 3.25


def test_figures_are_made_no_wider_than_asked(tmp_path):
    with at_most(PAGE), new_figure(tmp_path / "a.png", 13.5, 4.0) as wide:
        axes = wide.subplots()
        axes.set_xlabel("x")
        assert axes.xaxis.label.get_fontsize() > 7
    assert wide.get_size_inches().tolist() == [6.75, 2.0]
    with at_most(PAGE), new_figure(tmp_path / "a.png", 3.0, 4.0) as small:
        pass
    with new_figure(tmp_path / "a.png", 13.5, 4.0) as free:
        pass
    assert small.get_figwidth() == 3.0 and free.get_figwidth() == 13.5


def test_experiments_are_told_apart_without_colour():
    found = [(str(x["linestyle"]), x["marker"]) for x in looks(12)]
    assert len(set(found)) == 12
    assert len({x["color"] for x in looks(7)}) == 7


def test_the_command_draws_several_runs(tmp_path, capsys):
    a = write_run(
        tmp_path / "a", [seed_of(1, [0, 3], [-1.0]), seed_of(2, [0, 0], [-2.0])]
    )
    b = write_run(tmp_path / "b", [seed_of(1, [0, 0], [-3.0])], method="safe")
    out = tmp_path / "out"
    argv = [str(a), str(b), "--only-curves", "--format", "svg", "--out", str(out)]
    assert main(argv) == 0
    assert sorted(path.name for path in out.iterdir()) == ["curves.svg", "pareto.svg"]
    text = (out / "curves.svg").read_text()
    assert "minmax bnn (2)" in text and "safe bnn (1)" in text
    assert main([str(tmp_path / "none")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def limit(name, budget):
    return {"name": name, "value": 6.0, "unit": "rad/s", "cost_budget": budget}


def test_where_cost_is_allowed_its_price_is_the_final_cost(tmp_path, capsys):
    """Fewer violating steps in training are no merit of one that ends over budget."""
    limits = [limit("|omega|", 0.0), limit("|theta|", 25.0)]
    costs = [[[0.0, 40.0], [0.0, 10.0]], [[0.0, 60.0], [2.0, 30.0]]]
    seeds = [seed_of(s, [0, 3, 3], [-9.0, -s], costs[s - 1]) for s in (1, 2)]
    a = write_run(tmp_path / "a", seeds, limits=limits)
    last = seed_of(1, [0, 1, 1], [-9.0, -3.0], costs[0])
    # Without a model the final return is that of the last evaluation.
    last["evaluation"] = {"cost": [1.0, 12.5], "return": -3.0}
    b = write_run(tmp_path / "b", [last], method="cvpo", limits=limits)
    first, second = paretos(
        {r.label: [r.summary] for r in read_all([a, b], ["a", "b"])}
    )
    assert (first.name, first.budget) == ("pareto", None)
    assert first.trades == {"a": ([6, 6], [-1, -2]), "b": ([2], [-3])}
    # Only the second limit has a budget.
    assert (second.name, second.price) == (
        "pareto_cost_1",
        "final cost of an episode, |theta|",
    )
    assert second.budget == 25.0
    assert second.trades == {"a": ([10, 30], [-1, -2]), "b": ([12.5], [-3])}
    out = tmp_path / "out"
    argv = [str(a), str(b), "--only-curves", "--format", "svg", "--out", str(out)]
    assert main(argv) == 0
    made = sorted(path.name for path in out.iterdir())
    assert made == ["curves.svg", "pareto.svg", "pareto_cost_1.svg"]
    assert "final cost of an episode, |θ|" in (out / "pareto_cost_1.svg").read_text()


def test_different_budgets_are_nobodys_line(tmp_path):
    runs = [
        write_run(
            tmp_path / str(b), [seed_of(1, [0, 1], [-1.0])], limits=[limit("v", b)]
        )
        for b in (0.0, 5.0)
    ]
    results = read_all(runs, ["a", "b"])
    _, second = paretos({r.label: [r.summary] for r in results})
    assert (second.name, second.price, second.budget) == (
        "pareto_cost", "final cost of an episode", None,
    )  # fmt: skip
    del results[0].summary["seeds"][0]["episode_cost_returns"]
    with pytest.raises(ResultsError, match="episode_cost_returns"):
        paretos({r.label: [r.summary] for r in results})


@pytest.mark.parametrize("costs", [[0.0, 3.0], [30.0, 40.0], [0.0, 4000.0]])
def test_the_budget_is_in_the_picture(tmp_path, costs):
    figure = plots.plot_pareto(
        tmp_path / "p.png", {"a": Trade(costs, [1.0, 2.0])}, price="x", gain="y",
        budget=25.0,
    )  # fmt: skip
    (axes,) = figure.axes
    assert lines(axes)["budget"][0][0] == 25.0
    low, high = axes.get_xlim()
    assert low < min(*costs, 25.0) and max(*costs, 25.0) < high


def test_a_run_that_lacks_episodes_is_one_clear_line(tmp_path, capsys):
    a = write_run(tmp_path / "a", [seed_of(1, [0, 3], [-1.0])])
    (a / "config.yaml").unlink()
    assert main([str(a), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("safex: ") and "config.yaml" in line


LONG = "safe bnn (agent.pes_alpha={},constraint.kind=AugmentedLagrangian,env.mass=0.3)"


def inside(figure):
    """Whether every text of a figure lies within it, but numbers beyond an x-axis."""
    FigureCanvasAgg(figure).draw()
    whole = figure.bbox
    beyond = {label for axes in figure.axes for label in axes.get_xticklabels()}
    boxes = [
        text.get_window_extent()
        for text in figure.findobj(Text)
        if text.get_text().strip() and text not in beyond
    ]
    assert len(boxes) > 5
    return all(
        whole.x0 - 1 <= box.x0 and box.x1 <= whole.x1 + 1 and box.y0 >= whole.y0 - 1
        for box in boxes
    )


def test_names_of_a_grid_are_not_cut_off(tmp_path):
    """Four points of a grid, named after all that was set."""
    names = [LONG.format(i) for i in range(4)]
    trades = {name: Trade([0.0, 2.0], [1.0, 3.0]) for name in names}
    share = np.array([1.0, 0.5])
    profile = Profile(np.array([0.0, 1.0]), share, share, share)
    pairs = [(names[0], name, Improvement(0.5, 0.2, 0.9)) for name in names[1:]]
    figures = [
        plots.plot_pareto(tmp_path / "p.png", trades, price="x", gain="y"),
        plots.plot_profiles(tmp_path / "f.png", {"x": dict.fromkeys(names, profile)}),
        plots.plot_improvement(tmp_path / "i.png", {"x": pairs, "return": pairs}),
    ]
    assert all(map(inside, figures))
    (legend,) = figures[0].legends
    told = ["".join(text.get_text().split()) for text in legend.get_texts()]
    assert told == ["".join(name.split()) for name in names]


def test_short_names_stand_beside_each_other_and_long_ones_are_broken():
    assert wrapped("safe bnn", 2.0) == "safe bnn"
    lines = wrapped(LONG.format(1), 1.5).splitlines()
    assert len(lines) >= 4
    assert "".join(lines).replace(" ", "") == LONG.format(1).replace(" ", "")
    assert wrapped("unbreakable" * 9, 1.0) == "unbreakable" * 9


def test_a_picture_without_violations_has_no_negative_counts(tmp_path):
    trades = {"a": Trade([0.0, 0.0], [1.0, 3.0])}
    figure = plots.plot_pareto(tmp_path / "p.png", trades, price="x", gain="y")
    (axes,) = figure.axes
    FigureCanvasAgg(figure).draw()
    low, high = axes.get_xlim()
    shown = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert -0.1 < low < 0 < high
    assert shown == [0.0, 1.0]


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_a_figure_that_is_not_finished_leaves_the_one_before(
    tmp_path, monkeypatch, ending
):
    path = tmp_path / f"a.{ending}"
    with new_figure(path, 2.0, 1.0) as figure:
        pass
    before = path.read_bytes()
    assert len(before) > 100

    def torn(self, where, **_):
        Path(where).write_bytes(before[:50])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(figure), "savefig", torn)
    with pytest.raises(OSError, match="No space"), new_figure(path, 2.0, 1.0):
        pass
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_width_is_that_of_the_figures_of_several_runs(tmp_path, monkeypatch):
    def own(result, out, ending):
        with at_most(PAGE):
            path = out / f"own.{ending}"
            with new_figure(path, 5.0, 4.0):
                pass
            return [path]

    monkeypatch.setattr(plot, "_own_figures", own)
    a = write_run(tmp_path / "a", [seed_of(1, [0, 3], [-1.0])])
    b = write_run(tmp_path / "b", [seed_of(1, [0, 0], [-3.0])], method="safe")
    for width, curves in (("3.25", 650), ("5", 1000)):
        out = tmp_path / width
        argv = [str(a), str(b), "--format", "png", "--width", width, "--out", str(out)]
        assert main(argv) == 0
        # The width stands in a PNG's header, behind 16 bytes.
        pixels = {
            path.stem: int.from_bytes(path.read_bytes()[16:20])
            for path in out.rglob("*.png")
        }
        assert pixels == {"curves": curves, "pareto": 650, "own": 1000}
