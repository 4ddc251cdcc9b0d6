"""The page of a run: what it says, that all is escaped, and how a browser sees it."""

import base64
import html.parser
import json

import numpy as np
import pytest

from experiments.report import main
from experiments.tables import _number as _column
from safex.errors import ResultsError
from safex.training.certificate import certify
from safex.training.model_free_report import _Seed, _training_certificate
from safex.training.page import _number, tag, write_page
from safex.training.results import config_differences, read_all, read_results
from safex.training.video import write_video
from tests.browser import opened
from tests.finished_run import seed_of, write_run

EVIL = "</td><script>alert(1)</script><img src=x onerror=alert(2)>&\"'"


class Reader(html.parser.HTMLParser):
    """Elements, the rows of tables, and all text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.rows, self.text = [], [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag == "table":
            self.rows.append([])

    def handle_data(self, data):
        self.text += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data

    def of(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]

    def row(self, first, number=0):
        return [row for row in self.rows if row and row[0] == first][number]


def picture(path):
    from safex.training.plots.style import new_figure

    with new_figure(path, 2.0, 1.0) as figure:
        figure.subplots().plot([0, 1])


def film(path, size=64):
    frames = np.random.default_rng(0).integers(0, 255, (10, size, size, 3), np.uint8)
    write_video(path, frames, fps=10.0)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run with violations, a figure and a video, and one without all of it."""
    folder = tmp_path_factory.mktemp("runs")
    seeds = [seed_of(11, [1, 3, 0], [-9.0, -5.5]), seed_of(22, [0, 0, 7], [-8.0, -4.0])]
    a = write_run(folder / "a", seeds)
    picture(a / "plots" / "learning.png")
    film(a / "videos" / "seed_0.mp4")
    quiet = [seed_of(11, [0, 0, 0], [-20.0, -10.0])]
    config = {"method": "safe", "planner": {"kind": "Safe"}, "horizon": 30}
    b = write_run(folder / "b", quiet, method="safe", config=config)
    return a, b


def test_a_run_on_a_page(two, tmp_path):
    a, _ = two
    write_page(tmp_path / "report.html", read_all([a], None))
    page = Reader(tmp_path / "report.html")
    assert page.row("seed")[1] == "violating steps"
    assert page.row("11")[1:3] == ["4", "1"]
    assert page.row("mean")[1] == "5.5" and page.row("worst")[1] == "7"
    column = page.row("seed").index("final return")
    assert page.row("mean")[column] == "-4.8"  # of -5.5 and -4
    assert page.row("worst")[column] == "-5.5"
    assert "2 of 4 planned episodes broke their budget" in page.text
    # The ledger: of the random phase last.
    assert "Ledger of 11 violating steps" in page.text
    assert page.row("11", 3)[:4] == ["11", "1", "0", "0.75"]
    assert page.row("11", 3)[-2:] == ["no", "no"]
    random = [row for row in page.rows if row and row[-2:-1] == ["random"]]
    assert [row[:2] for row in random] == [["11", "0"]]
    assert page.row("horizon") == ["horizon", "20"]
    (image,), (video,) = page.of("img"), page.of("video")
    for source, kind, file in (
        (image["src"], "image/png", "plots/learning.png"),
        (video["src"], "video/mp4", "videos/seed_0.mp4"),
    ):
        head, data = source.split(",")
        assert head == f"data:{kind};base64"
        assert base64.b64decode(data) == (a / file).read_bytes()


def test_several_runs_are_compared(two, tmp_path, capsys):
    out = tmp_path / "all.html"
    labels = ["--labels", EVIL, "safe"]
    assert main([*map(str, two), *labels, "--out", str(out)]) == 0
    page = Reader(out)
    assert page.row(EVIL)[1:4] == ["2", "5.5", "7"]
    assert page.row("safe")[1:4] == ["1", "0", "0"]
    assert page.row("horizon")[1:] == ["20", "30"]
    assert page.row("method")[1:] == ["minmax", "safe"]
    assert page.row("planner.kind")[1:] == ["-", "Safe"]
    assert "train.num_model_updates" not in [
        row[0] for row in page.rows if len(row) == 3 and row[1] == row[2]
    ]
    kinds = [attrs["src"].split(";")[0] for attrs in page.of("img")]
    assert kinds == ["data:image/svg+xml"] * 2 + ["data:image/png"]
    assert not page.of("script") and "alert(1)" in page.text


def test_costs_that_are_allowed_are_drawn_against_return(tmp_path):
    limits = [{"name": "|v|", "value": 1.0, "unit": "m/s", "cost_budget": 5.0}]
    runs = [
        write_run(tmp_path / name, [seed_of(1, [0, 3], [-1.0])], limits=limits)
        for name in "ab"
    ]
    out = tmp_path / "all.html"
    write_page(out, read_all(runs, ["a", "b"]))
    page = Reader(out)
    kinds = [attrs["src"].split(";")[0] for attrs in page.of("img")]
    # Curves, violating steps, costs.
    assert kinds == ["data:image/svg+xml"] * 3
    assert "final cost of an episode" in page.text
    assert "beyond the budget is shaded" in page.text


def test_what_files_say_is_text(tmp_path):
    evil = {EVIL: {"key": EVIL}, "list": [EVIL, 1.5]}
    limits = [{"name": EVIL, "value": 1.0, "unit": EVIL, "cost_budget": 0.0}]
    seed = seed_of(EVIL, [1, 2], [-1.0])
    run = write_run(tmp_path / "a", [seed], config=evil, limits=limits, env=EVIL)
    entry = {"episode": EVIL, "step_in_episode": [EVIL], "excess": EVIL}
    ledger = json.dumps(entry) + "\n[]\ntorn {"
    (run / "seed_0" / "violations.jsonl").write_text(ledger)
    write_page(run / "report.html", [read_results(run, EVIL)])
    page = Reader(run / "report.html")
    assert not page.of("script") and not page.of("img")
    assert page.text.count("onerror") > 5


def test_what_rounds_to_zero_has_no_sign():
    assert (_number(-0.04), _number(-0.06), _number(3)) == ("0", "-0.1", "3")
    column = _column("return", "final_return", spec=".1f")
    assert column.cell({"final_return": -0.04}) == "0.0"
    assert _column("seed", "steps").cell({"steps": 3}) == "3"


def test_elements_escape_all_but_elements():
    inner = tag("b", "<", class_='"')
    assert inner == '<b class="&quot;">&lt;</b>'
    assert tag("p", inner, "&", None, open=True, id=None) == f"<p open>{inner}&amp;</p>"


def test_a_video_without_room_is_a_link(two, tmp_path):
    a, _ = two
    (tmp_path / "below").mkdir()
    out = tmp_path / "below" / "report.html"
    write_page(out, read_all([a], None), video_bytes=10)
    page = Reader(out)
    assert not page.of("video")
    (link,) = page.of("a")
    assert (out.parent / link["href"]).resolve() == a / "videos" / "seed_0.mp4"


def test_damage_is_one_clear_line(two, tmp_path, capsys):
    def refused(argv, *parts):
        assert main([str(arg) for arg in argv]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("safex: ")
        for part in parts:
            assert str(part) in line

    a, b = two
    refused([tmp_path / "none"], "is not a folder")
    refused([tmp_path], "no finished run", "watch.py")
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "summary.json").write_text('{"env": ')
    refused([torn], torn / "summary.json", "is damaged")
    for change in (
        {"limits": []},
        {"seeds": []},
        {"seeds": [{}]},
        {"env": 3},
        {"seeds": [seed_of(1, [0, 1], [float("nan")])]},
        {"seeds": [seed_of(1, [0, 1], [0.0]) | {"final_return": "3"}]},
        {"seeds": [seed_of(1, [0, 1], [0.0]) | {"final_return": float("nan")}]},
    ):
        broken = json.loads((b / "summary.json").read_text()) | change
        (torn / "summary.json").write_text(json.dumps(broken))
        refused([torn], torn / "summary.json", "no summary of a run")
    other = [{"name": "x", "value": 1.0, "unit": "m", "cost_budget": 0.0}]
    c = write_run(tmp_path / "c", [seed_of(1, [0, 0], [0.0])], limits=other)
    refused([a, c], "different tasks", "x [m]")
    refused([a, b, "--labels", "x", "x"], "labels must differ")
    refused([a, b, "--labels", "x"], "1 labels for 2 folders")


def test_where_a_run_was_launched_is_no_difference(tmp_path):
    for name, launcher, more in (
        ("a", {"kind": "local"}, {"mem": None, "time": 5}),
        ("b", {"kind": "slurm", "wait": True}, {"mem": 2.0, "time": 9}),
    ):
        config = {"launcher": launcher, "launchers": name, "job": {"seed": 1} | more}
        write_run(tmp_path / name, [seed_of(1, [0, 0], [0.0])], config=config)
    found = read_all([tmp_path / "a", tmp_path / "b"], None)
    assert config_differences(found) == {"launchers": ("a", "b")}


def test_points_of_a_grid_are_runs_of_their_own(tmp_path):
    job = tmp_path / "job"
    for value in (1, 2):
        write_run(job / f"agent.pes_alpha={value}", [seed_of(1, [0, 0], [0.0])])
    (job / "config.yaml").write_text("method: minmax\n")
    found = read_all([job], None)
    names = [f"minmax bnn (agent.pes_alpha={value})" for value in (1, 2)]
    assert [result.label for result in found] == names
    assert config_differences(found) == {}
    (job / "grid.json").write_text("[]")
    assert len(read_all([tmp_path], None)) == 2  # as the latest job below


def test_older_runs_without_a_certificate_get_theirs(tmp_path):
    run = write_run(tmp_path / "a", [seed_of(1, [0, 2, 0], [0.0, 1.0])])
    summary = json.loads((run / "summary.json").read_text())
    del summary["certificate"]
    (run / "summary.json").write_text(json.dumps(summary))
    write_page(run / "report.html", read_all([run], None))
    text = Reader(run / "report.html").text
    assert "1 of 2 planned episodes broke their budget" in text


def test_training_without_a_model_has_a_certificate_of_its_own(tmp_path):
    """In the order in which episodes ended, whatever the number of each seed's."""

    def seed(*costs):
        episodes = [
            {"phase": phase, "complete": complete, "cost_return": [cost]}
            for phase, complete, cost in costs
        ]
        return _Seed([], episodes, [], [])

    class Info:
        cost_budget = (4.0,)

    read = [
        seed(
            ("random", True, 9.0),
            ("train", True, 4.0),
            ("train", True, 5.0),
            ("train", False, 9.0),
        ),
        seed(("train", True, 6.0)),
    ]
    training = _training_certificate(read, Info)
    assert training == certify([[False, True], [True]]).plain()
    assert _training_certificate([seed(("random", True, 9.0))], Info) is None

    best = {"return": 1.0, "within_budget": True}
    costs = {"evaluation": {"cost": [0.0]}, "best": best}
    entry = seed_of(1, [0, 2, 0], [0.0, 1.0]) | costs
    changes = {"model": "model_free", "method": "sac_lag", "total_steps": 9}
    evaluation = certify([[False] * 5]).plain()
    run = write_run(tmp_path / "a", [entry], **changes)
    summary = json.loads((run / "summary.json").read_text())
    summary |= {"certificate": evaluation, "training_certificate": training}
    (run / "summary.json").write_text(json.dumps(summary))
    write_page(run / "report.html", read_all([run], None))
    text = Reader(run / "report.html").text
    assert "0 of 5 episodes of the last evaluations broke their budget" in text
    assert "2 of 3 training episodes broke their budget" in text
    assert f"{100 * training['sequence'][-1]:.1f} % on average" in text
    # Side by side it is training that counts, as of those with a model.
    write_page(tmp_path / "all.html", read_all([run, _planned(tmp_path)], None))
    assert "2 of 3" in Reader(tmp_path / "all.html").row("sac_lag")


def _planned(folder):
    return write_run(folder / "b", [seed_of(1, [0, 1, 0], [0.0, 1.0])])


def test_a_run_is_refused_that_lacks_its_seeds(tmp_path):
    run = write_run(tmp_path / "a", [seed_of(1, [0, 2, 0], [0.0, 1.0])])
    (run / "summary.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ResultsError, match="is damaged"):
        read_results(run, "a")


@pytest.mark.browser
def test_a_browser_shows_it_without_asking_for_anything(two, tmp_path):
    out = tmp_path / "all.html"
    write_page(out, read_all(two, [EVIL, "safe"]))
    with opened(out.as_uri()) as page:
        widths = page.evaluate("[...document.images].map(i => i.naturalWidth)")
        assert len(widths) == 3 and min(widths) > 0
        page.evaluate(
            "document.querySelectorAll('details').forEach(d => d.open = true)"
        )
        played = page.evaluate(
            "(async () => { const v = document.querySelector('video');"
            " await v.play(); return [v.videoWidth, v.duration, v.error]; })()"
        )
        assert played == [64, pytest.approx(1.0, abs=0.2), None]
        # A phone: nothing is wider than the page but what scrolls by itself.
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=390, height=800, deviceScaleFactor=2, mobile=True,
        )  # fmt: skip
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        colours = [page.evaluate("getComputedStyle(document.body).backgroundColor")]
        for scheme in ("light", "dark"):
            media = [{"name": "prefers-color-scheme", "value": scheme}]
            page.call("Emulation.setEmulatedMedia", features=media)
            look = "getComputedStyle(document.body).backgroundColor"
            colours.append(page.evaluate(look))
        assert colours[1] != colours[2]
        assert page.errors == []
        fetched = [url for url in page.requests if not url.startswith("data:")]
        assert fetched == [out.as_uri()]
