"""One self-contained HTML page of a run, or of several side by side.

Violations come first, the worst seed stands beside the mean. Figures and videos are in
the file itself, so that it can be sent and kept; nothing is fetched and no script runs.
Whatever is read from files is escaped.
"""

import base64
import contextlib
import html
import json
import os
import tempfile
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from safex.training.certificate import certify, over_budget
from safex.training.files import write_text
from safex.training.plots import plot_curves, plot_pareto
from safex.training.plots.style import pretty
from safex.training.results import (
    GAIN,
    MODEL_FREE,
    Results,
    common_limits,
    config_differences,
    paretos,
    violation_ledger,
)

VIDEO_BYTES = 16_000_000  # of all videos in a page; the others are links
_LEDGER_ROWS = 200
_FIGURES = {
    "training": "Violating steps so far, and mean return and cost of the episodes of "
    "each stretch of training; in green the evaluations by the deterministic policy. "
    "The random phase is shaded.",
    "evaluation": "Every step of the last evaluation's episodes; what is forbidden is "
    "shaded.",
    "learned": "What the agents said of their updates, a line for each seed.",
    "learning": "Return and violating steps so far, each seed and their mean.",
    "phase_portrait": "Every step of training; what is forbidden is shaded.",
    "prediction": "One-step predictions of the first seed's last episode, made before "
    "the model saw it, and their errors.",
    "forecast": "The band predicted for a horizon around the closest call of the first "
    "seed's last episode, and what happened.",
    "calibration": "How often a claimed band held; below the line is over-confident.",
}
_STYLE = """
:root{color-scheme:light dark;--bg:#fbfbf9;--fg:#1b1d1f;--soft:#5d6468;--line:#dcdedb;
--card:#fff;--bad:#b84300;--badbg:#fdeee4;--good:#00694c;--goodbg:#e5f4ee;--link:#005c92}
@media(prefers-color-scheme:dark){:root{--bg:#14171a;--fg:#e8e9e7;--soft:#a2a9ad;
--line:#343a3f;--card:#1c2125;--bad:#ff9a5c;--badbg:#3a2416;--good:#5fd3a9;
--goodbg:#12322a;--link:#7cc4f5}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:72rem;padding:1rem clamp(.8rem,3vw,2.2rem) 4rem;
background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.55rem;line-height:1.2;margin:1rem 0 .3rem}
h2{font-size:1.2rem;margin:2.2rem 0 .6rem}
h3{font-size:1rem;margin:1.4rem 0 .4rem}
p{margin:.4rem 0;max-width:46rem}
.soft{color:var(--soft);font-size:.88rem}
a{color:var(--link)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.6rem;
margin:1rem 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:.5rem;
padding:.6rem .8rem}
.tile b{display:block;font-size:1.5rem;line-height:1.25;
font-variant-numeric:tabular-nums}
.tile span{display:block;font-size:.82rem;color:var(--soft)}
.bad{color:var(--bad)}.good{color:var(--good)}
.tile.bad{background:var(--badbg)}.tile.good{background:var(--goodbg)}
.wide{overflow-x:auto;border:1px solid var(--line);border-radius:.5rem;
background:var(--card);margin:.6rem 0}
table{border-collapse:collapse;width:100%;font-size:.86rem;
font-variant-numeric:tabular-nums}
th,td{padding:.32rem .6rem;text-align:right;border-bottom:1px solid var(--line);
white-space:nowrap}
th{color:var(--soft);font-weight:600;vertical-align:bottom;white-space:normal;
line-height:1.25}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;
background:var(--card)}
tr:last-child td{border-bottom:0}
tr.sum td{font-weight:600;border-top:2px solid var(--line)}
table.text td,table.text th{text-align:left;white-space:normal;overflow-wrap:anywhere}
table.text td:first-child{overflow-wrap:normal}
td.bad{background:var(--badbg)}
figure{margin:.8rem 0;background:#fff;border:1px solid var(--line);border-radius:.5rem;
padding:.6rem}
figure img{display:block;width:100%;height:auto;max-width:56rem;margin:0 auto}
figure.small img{max-width:26rem}
figcaption{color:#4d5458;font-size:.85rem;padding:.4rem .2rem 0}
.videos{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:.6rem}
video{width:100%;height:auto;display:block;border-radius:.4rem;background:#000}
details{margin:.7rem 0;border-top:1px solid var(--line);padding-top:.5rem}
summary{cursor:pointer;font-weight:600}
section>details>summary{font-size:1.05rem}
"""
_POLICY = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
)


class Html(str):
    """Text that is HTML already; all other text is escaped where it is put in."""

    __slots__ = ()


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element; children that are no `Html` are escaped, attributes always.

    Args:
      name: of the element.
      *children: put in one after another; None is nothing.
      **attributes: True is an attribute without a value, None is no attribute; a
        trailing `_` in a name is dropped.
    """
    shown = "".join(
        f" {key.rstrip('_')}"
        + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None
    )
    if name in ("meta", "img"):
        return Html(f"<{name}{shown}>")
    return Html(f"<{name}{shown}>{_joined(children)}</{name}>")


def _joined(children: Iterable[Any]) -> Html:
    return Html(
        "".join(
            child if isinstance(child, Html) else html.escape(str(child))
            for child in children
            if child is not None
        )
    )


def write_page(
    path: Path, results: Sequence[Results], *, video_bytes: int = VIDEO_BYTES
) -> None:
    """Writes a page about finished runs, whole or not at all.

    Args:
      path: the file; videos that have no room are linked relative to it.
      results: one run, or several of one task to be compared.
      video_bytes: what all videos in the page may take.

    Raises:
      ResultsError: the runs are of different tasks.
    """
    limits = common_limits(results)
    title = _title(results)
    left = _Room(video_bytes)
    parts: list[Html] = [tag("h1", title)]
    if len(results) > 1:
        parts += _comparison(results, limits)
        for result in results:
            body = _run(result, path, left)
            details = tag("details", tag("summary", result.label), *body)
            parts.append(tag("section", details))
    else:
        parts += _run(results[0], path, left)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # Nothing is fetched, and nothing that a file smuggled in would run.
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        tag("title", f"safex: {title}"),
        tag("style", Html(_STYLE)),
    )
    page = tag("html", head, tag("body", *parts), lang="en")
    write_text(path, f"<!doctype html>\n{page}\n")


def certified(certificate: Mapping[str, Any], which: str = "planned") -> str:
    """How often an episode breaks its budget, in words."""
    return (
        f"{certificate['over_budget']} of {certificate['episodes']} {which} episodes "
        f"broke their budget. With {100 * certificate['level']:g} % confidence an "
        f"episode does so at most {100 * certificate['binomial']:.1f} % of the time if "
        f"all are alike (exact binomial), {100 * certificate['sequence'][-1]:.1f} % on "
        "average over these whatever they are (confidence sequence)."
    )


def certified_without_model(summary: Mapping[str, Any]) -> str:
    """The same of agents without a model: of their last evaluations, and of training.

    Runs of before there was one have no certificate of training.
    """
    training = summary.get("training_certificate")
    words = _certified_evaluation(summary["certificate"])
    if training is None:
        return words
    return f"{words} {certified(training, 'training')}"


def _certified_evaluation(certificate: Mapping[str, Any]) -> str:
    """Of the last evaluations, whose episodes are alike for each agent."""
    return (
        f"{certificate['over_budget']} of {certificate['episodes']} episodes of the "
        "last evaluations broke their budget. With "
        f"{100 * certificate['level']:g} % confidence an episode of these agents does "
        f"so at most {100 * certificate['binomial']:.1f} % of the time, on the average "
        "over them (exact binomial). What these agents hold is the budget of a mean "
        "episode: single ones may cost more."
    )


def _model_free(summary: Mapping[str, Any]) -> bool:
    return bool(summary["model"] == MODEL_FREE)


class _Room:
    """What is left of a number of bytes."""

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, size: int) -> bool:
        """Whether so many bytes fit, which are then gone."""
        if size > self.left:
            return False
        self.left -= size
        return True


def _title(results: Sequence[Results]) -> str:
    first = results[0].summary
    if len(results) > 1:
        return f"{len(results)} experiments on {first['env']}"
    if _model_free(first):
        return f"{first['method']} on {first['env']}"
    return f"{first['method']} with {first['model']} model on {first['env']}"


def _run(result: Results, page: Path, room: _Room) -> list[Html]:
    summary = result.summary
    parts = [
        tag("p", _about(summary), class_="soft"),
        _tiles(result),
        tag("h3", "Each seed"),
        _seeds(summary),
    ]
    parts.append(tag("h3", "How often an episode breaks its budget"))
    with_model = certified(_certificate(result))
    words = certified_without_model(summary) if _model_free(summary) else with_model
    parts.append(tag("p", words))
    parts += [*_figures(result), *_videos(result, page, room)]
    parts.append(_episodes(result))
    if ledger := _ledger(result):
        parts.append(ledger)
    if result.config:
        rows = [[name, _plain(value)] for name, value in result.config.items()]
        table = _table(["setting", "value"], rows, text=True)
        parts.append(tag("details", tag("summary", "Configuration"), table))
    return parts


def _about(summary: Mapping[str, Any]) -> str:
    limits = "; ".join(
        f"{pretty(limit['name'])} limit {limit['value']:g} {limit['unit']}, "
        f"budget {limit['cost_budget']:g} an episode"
        for limit in summary["limits"]
    )
    seeds = len(summary["seeds"])
    collected = (
        f"{summary.get('random_steps', '?')} random steps, then "
        f"{summary.get('episodes', '?')} planned episodes"
    )
    if _model_free(summary):
        collected = (
            f"{summary.get('agent', '?')}, {summary.get('total_steps', '?')} "
            f"environment steps, the first {summary.get('random_steps', '?')} at random"
        )
    said = [
        f"{seeds} seed{'' if seeds == 1 else 's'}",
        collected,
        limits,
        f"code {summary.get('revision', '?')}",
    ]
    if isinstance(seconds := summary.get("seconds"), int | float):
        said.append(f"{seconds / 60:.0f} min of computing")
    if isinstance(pace := summary.get("seconds_per_decision"), int | float):
        said.append(f"{1000 * pace:.1f} ms a decision")
    if isinstance(pace := summary.get("updates_per_second"), int | float):
        said.append(f"{pace:.0f} updates a second")
    return ". ".join(said) + "."


def _values(summary: Mapping[str, Any], *keys: str | int) -> list[float]:
    """One number a seed, as far as the seeds have it."""
    found = []
    for seed in summary["seeds"]:
        value: Any = seed
        try:
            for key in keys:
                value = value[key]
        except (KeyError, IndexError, TypeError):
            continue
        if isinstance(value, int | float) and np.isfinite(value):
            found.append(float(value))
    return found if len(found) == len(summary["seeds"]) else []


def _tiles(result: Results) -> Html:
    summary = result.summary
    steps = _values(summary, "training_violating_steps")
    returns = _values(summary, "final_return")
    tiles = [
        _tile(
            _number(sum(steps)),
            "violating steps in all of training",
            f"worst seed {_number(max(steps))}, mean {_number(np.mean(steps))}",
            bad=sum(steps) > 0,
        )
    ]
    for c, limit in enumerate(summary["limits"]):
        if excess := _values(summary, "worst_excess", c):
            tiles.append(
                _tile(
                    f"{max(excess):.3g} {limit['unit']}",
                    f"farthest past {pretty(limit['name'])}",
                    f"mean of the seeds' worst {np.mean(excess):.3g}",
                    bad=max(excess) > 0,
                )
            )
    if _model_free(summary):
        return tag("div", *tiles, *_evaluation_tiles(summary), class_="tiles")
    certificate = _certificate(result)
    over = certificate["over_budget"]
    tiles += [
        _tile(
            f"{over} of {certificate['episodes']}",
            "planned episodes over budget",
            f"at most {100 * certificate['binomial']:.1f} % at "
            f"{100 * certificate['level']:g} % confidence",
            bad=over > 0,
        ),
        _tile(
            _number(min(returns)),
            "final return of the worst seed",
            f"mean {_number(np.mean(returns))}",
        ),
    ]
    return tag("div", *tiles, class_="tiles")


def _evaluation_tiles(summary: Mapping[str, Any]) -> list[Html]:
    """What the last evaluation cost and brought, and the best agent."""
    tiles = []
    for c, limit in enumerate(summary["limits"]):
        if costs := _values(summary, "evaluation", "cost", c):
            tiles.append(
                _tile(
                    f"{_number(max(costs))} of {limit['cost_budget']:g}",
                    f"final cost of an episode, {pretty(limit['name'])}, worst seed",
                    f"mean {_number(np.mean(costs))}",
                    bad=max(costs) > limit["cost_budget"],
                )
            )
    returns = _values(summary, "final_return")
    tiles.append(
        _tile(
            _number(min(returns)),
            "final return of the worst seed",
            f"mean {_number(np.mean(returns))}",
        )
    )
    best = [seed.get("best") or {} for seed in summary["seeds"]]
    held = [b["return"] for b in best if b.get("within_budget")]
    tiles.append(
        _tile(
            f"{len(held)} of {len(best)}",
            "seeds with an agent that met the budget in an evaluation",
            f"best return {_number(max(held))}" if held else "no return within it",
            bad=len(held) < len(best),
        )
    )
    return tiles


def _tile(value: str, what: str, beside: str, *, bad: bool | None = None) -> Html:
    look = {None: "tile", True: "tile bad", False: "tile good"}[bad]
    return tag(
        "div", tag("b", value), tag("span", what), tag("span", beside), class_=look
    )


# Heading, place in a seed's entry, how it is written, whether much is bad.
_Column = tuple[str, tuple[str | int, ...], Callable[[float], str], bool]


def _columns(summary: Mapping[str, Any]) -> list[_Column]:
    def three(value: float) -> str:
        return f"{value:.3f}"

    def share(value: float) -> str:
        return f"{100 * value:.1f} %"

    columns: list[_Column] = [
        ("violating steps", ("training_violating_steps",), _number, True),
        ("of them random", ("random_violating_steps",), _number, True),
        ("events", ("training_violation_events",), _number, True),
    ]
    for c, limit in enumerate(summary["limits"]):
        name = pretty(limit["name"])
        heading = f"worst {name} excess [{limit['unit']}]"
        columns.append((heading, ("worst_excess", c), three, True))
        if limit["cost_budget"] > 0:
            heading = f"worst {name} cost of {limit['cost_budget']:g}"
            columns.append((heading, ("worst_episode_cost", c), _number, True))
    if _model_free(summary):
        for c, limit in enumerate(summary["limits"]):
            heading = f"final {pretty(limit['name'])} cost of {limit['cost_budget']:g}"
            columns.append((heading, ("evaluation", "cost", c), _number, True))
        return [
            *columns,
            ("final return", ("final_return",), _number, False),
            ("best return", ("best", "return"), _number, False),
            ("best within budget", ("best", "within_budget"), _yes, False),
            ("episodes", ("training_episodes",), _number, False),
            ("of them over budget", ("episodes_over_budget",), _number, True),
        ]
    return [
        *columns,
        ("episodes over budget", ("episodes_over_budget",), _number, True),
        ("final return", ("final_return",), _number, False),
        ("no plan", ("infeasible_plans",), _number, True),
        ("backup steps", ("backup_steps",), _number, True),
        ("2 σ held, next", ("coverage", "prequential", "2"), share, False),
        ("2 σ held, far", ("coverage", "out_of_distribution", "2"), share, False),
    ]


def _seeds(summary: Mapping[str, Any]) -> Html:
    rows: list[list[Any]] = [[seed.get("seed", "?")] for seed in summary["seeds"]]
    mean, worst = ["mean"], ["worst"]
    headings = ["seed"]
    for heading, keys, written, much_is_bad in _columns(summary):
        values = _values(summary, *keys)
        headings.append(heading)
        if not values:
            for row in (*rows, mean, worst):
                row.append("-")
            continue
        limit = _most_allowed(summary, keys)
        for row, value in zip(rows, values, strict=True):
            bad = limit is not None and value > limit
            row.append(tag("td", written(value), class_="bad" if bad else None))
        mean.append(written(float(np.mean(values))))
        worst.append(written(max(values) if much_is_bad else min(values)))
    return _table(headings, rows, sums=[mean, worst])


def _most_allowed(
    summary: Mapping[str, Any], keys: tuple[str | int, ...]
) -> float | None:
    """Above which a value is wrong; None where none is."""
    if keys[0] == "training_violating_steps":
        return 0.0
    if keys[0] == "episodes_over_budget":
        # Agents without a model hold the budget of a mean episode.
        return None if _model_free(summary) else 0.0
    if keys[:2] == ("evaluation", "cost"):
        budget: float = summary["limits"][keys[2]]["cost_budget"]
        return budget
    return None


def _yes(value: float) -> str:
    return "yes" if value == 1 else "no" if value == 0 else f"{100 * value:.0f} %"


def _certificate(result: Results) -> Mapping[str, Any]:
    """Of training, as the summary has it; older runs get theirs here."""
    summary = result.summary
    found = summary.get("training_certificate") or summary.get("certificate")
    if isinstance(found, Mapping):
        with contextlib.suppress(KeyError, IndexError, TypeError, ValueError):
            certified(found)
            return found
    budgets = [limit["cost_budget"] for limit in result.summary["limits"]]
    return certify(over_budget(result.curves.costs, budgets)).plain()


def _figures(result: Results) -> list[Html]:
    folder = result.folder / "plots"
    there = {path.stem: path for path in sorted(folder.glob("*.png"))}
    shown = [name for name in _FIGURES if name in there]
    shown += [name for name in there if name not in _FIGURES]
    if not shown:
        return [tag("p", f"There are no figures in {folder}.", class_="soft")]
    figures = []
    for name in shown:
        source = _data("image/png", there[name].read_bytes())
        figures.append(
            _figure(source, _FIGURES.get(name, name), small=name == "calibration")
        )
    return [tag("h3", "Figures"), *figures]


def _figure(source: str, caption: str, *, small: bool = False) -> Html:
    image = tag("img", src=source, alt=caption)
    look = "small" if small else None
    return tag("figure", image, tag("figcaption", caption), class_=look)


def _data(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _videos(result: Results, page: Path, room: _Room) -> list[Html]:
    items, links = [], []
    for index, seed in enumerate(result.summary["seeds"]):
        path = result.folder / "videos" / f"seed_{index}.mp4"
        if not path.is_file():
            continue
        name = f"seed {seed.get('seed', index)}"
        if room.take(path.stat().st_size):
            source = _data("video/mp4", path.read_bytes())
            video = tag(
                "video",
                src=source,
                controls=True,
                muted=True,
                loop=True,
                playsinline=True,
                preload="metadata",
            )
            items.append(tag("div", video, tag("span", name, class_="soft")))
        else:
            relative = os.path.relpath(path.resolve(), page.resolve().parent)
            links.append(tag("a", name, href=urllib.parse.quote(relative)))
    if not items and not links:
        return []
    parts = [tag("h3", "The last episode"), tag("div", *items, class_="videos")]
    if links:
        listed = [part for link in links for part in (", ", link)][1:]
        parts.append(tag("p", "Too large for this page: ", *listed, class_="soft"))
    return parts


def _episodes(result: Results) -> Html:
    """Violating steps and returns of each seed in each episode."""
    steps = np.asarray(result.curves.violations)
    returns = np.asarray(result.curves.returns)
    names = [seed.get("seed", "?") for seed in result.summary["seeds"]]
    counts = [
        [
            name,
            *(
                tag("td", _number(count), class_="bad" if count else None)
                for count in row
            ),
        ]
        for name, row in zip(names, steps, strict=True)
    ]
    gained = [
        [name, "", *map(_number, row)] for name, row in zip(names, returns, strict=True)
    ]
    headings = ["seed", "random", *map(str, range(1, returns.shape[1] + 1))]
    what = "Account of each episode"
    if _model_free(result.summary):
        what = "Account over training"
        steps_at = result.summary.get("point_steps", ())
        headings[2:] = [f"to {step}" for step in steps_at] or headings[2:]
    return tag(
        "details",
        tag("summary", what),
        tag("h3", "Violating steps"),
        _table(headings, counts),
        tag("h3", "Return"),
        _table(headings, gained),
    )


def _ledger(result: Results) -> Html | None:
    """Every violating step: how far, and what was known beforehand."""
    entries = violation_ledger(result)
    if not entries:
        return None
    # Of the random phase no plan is to blame.
    entries.sort(key=lambda entry: entry.get("episode") == 0)
    units = ", ".join(limit["unit"] for limit in result.summary["limits"])
    headings = ["seed", "episode", "step in it", f"past the limit [{units}]"]
    headings += ["cost predicted", "plan feasible", "backup"]
    rows = [
        [
            entry.get("seed", "?"),
            entry.get("episode", "?"),
            entry.get("step_in_episode", "?"),
            _plain(entry.get("excess")),
            _plain(entry.get("predicted_cost")),
            {True: "yes", False: "no", None: "random"}.get(
                entry.get("plan_feasible"), "?"
            ),
            "yes" if entry.get("backup") else "no",
        ]
        for entry in entries[:_LEDGER_ROWS]
    ]
    more = len(entries) - len(rows)
    return tag(
        "details",
        tag("summary", f"Ledger of {len(entries)} violating steps"),
        _table(headings, rows),
        tag("p", f"{more} more are in seed_*/violations.jsonl.") if more else None,
    )


def _comparison(
    results: Sequence[Results], limits: Sequence[tuple[str, float | None]]
) -> list[Html]:
    summaries = [result.summary for result in results]
    headings = ["experiment", "seeds", "violating steps, mean", "worst seed"]
    for limit in summaries[0]["limits"]:
        # A word joiner: a browser would break |a| after its first bar.
        name = pretty(limit["name"]).replace("|", "|\u2060", 1)
        headings.append(f"worst {name} excess [{limit['unit']}]")
    headings += ["episodes over budget", "at most", "final return, mean", "worst seed"]
    headings += ["no plan, mean"]
    rows = []
    for result, summary in zip(results, summaries, strict=True):
        steps = _values(summary, "training_violating_steps")
        returns = _values(summary, "final_return")
        plans = _values(summary, "infeasible_plans")
        look = "bad" if max(steps) > 0 else None
        row: list[Any] = [result.label, len(summary["seeds"])]
        row += [_number(np.mean(steps)), tag("td", _number(max(steps)), class_=look)]
        for c in range(len(summary["limits"])):
            excess = _values(summary, "worst_excess", c)
            row.append(f"{max(excess):.3f}" if excess else "-")
        certificate = _certificate(result)
        row.append(f"{certificate['over_budget']} of {certificate['episodes']}")
        row.append(f"{100 * certificate['binomial']:.1f} %")
        row += [_number(np.mean(returns)), _number(min(returns))]
        rows.append([*row, _number(np.mean(plans)) if plans else "-"])
    curves = {result.label: result.curves for result in results}
    with tempfile.TemporaryDirectory() as made:
        drawn = Path(made)
        plot_curves(drawn / "curves.svg", curves, limits)
        pictures = paretos({result.label: [result.summary] for result in results})
        for name, price, budget, trades in pictures:
            path = drawn / f"{name}.svg"
            plot_pareto(path, trades, price=price, gain=GAIN, budget=budget)
        sources = [
            _data("image/svg+xml", (drawn / f"{name}.svg").read_bytes())
            for name in ("curves", *(picture.name for picture in pictures))
        ]
    curves_caption = (
        "Mean over seeds, band from the lowest to the highest, dotted the worst seed."
    )
    captions = [
        f"Against return the {pretty(picture.price)}: seeds small, means large, the "
        "line joins the means that no other beats in both"
        + ("." if picture.budget is None else "; what is beyond the budget is shaded.")
        for picture in pictures
    ]
    parts = [
        _table(headings, rows),
        tag(
            "p",
            "At most: 95 % confidence bound on how often an episode breaks its budget, "
            "if all are alike (exact binomial).",
            class_="soft",
        ),
        _figure(sources[0], curves_caption),
        *(
            _figure(source, caption, small=True)
            for source, caption in zip(sources[1:], captions, strict=True)
        ),
        tag("h2", "What was set differently"),
    ]
    found = config_differences(results)
    names = ["setting", *(result.label for result in results)]
    of_all: list[list[str]] = []
    of_some: list[list[str]] = []
    for name, values in found.items():
        everywhere = all(name in result.config for result in results)
        row = [name, *map(_plain, values)]
        (of_all if everywhere else of_some).append(row)
    if of_all:
        parts.append(_table(names, of_all, text=True))
    if of_some:
        heading = tag("summary", f"{len(of_some)} settings that only some of them have")
        parts.append(tag("details", heading, _table(names, of_some, text=True)))
    if not found:
        parts.append(tag("p", "Nothing that decides a number.", class_="soft"))
    lacking = [result.label for result in results if not result.config]
    if lacking:
        text = f"No readable config.yaml: {', '.join(lacking)}."
        parts.append(tag("p", text, class_="bad"))
    return [*parts, tag("h2", "Each experiment")]


def _table(
    headings: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    sums: Iterable[Sequence[Any]] = (),
    text: bool = False,
) -> Html:
    def line(cells: Sequence[Any], look: str | None = None) -> Html:
        made = [
            cell
            if isinstance(cell, Html) and cell.startswith("<td")
            else tag("td", cell)
            for cell in cells
        ]
        return tag("tr", *made, class_=look)

    head = tag("tr", *(tag("th", heading) for heading in headings))
    body = [line(row) for row in rows] + [line(row, "sum") for row in sums]
    look = "text" if text else None
    table = tag("table", tag("thead", head), tag("tbody", *body), class_=look)
    return tag("div", table, class_="wide")


def _number(value: Any) -> str:
    return f"{value:z.1f}".removesuffix(".0")


def _plain(value: Any) -> str:
    """A value of a file, short."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return value if isinstance(value, str) else json.dumps(value, default=str)
