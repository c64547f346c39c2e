"""Parallel coordinates: every configuration of an arm as a line through its parameters to its score."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import altair as alt
import pandas as pd

from reports.analysis import Outcome, is_number, logarithmic, outcomes, positions
from reports.curves import LOG_RATIO
from reports.figures import GRID, HEIGHT, INK, PAPER, WIDTH, Figure, color, styled, write_chart
from reports.results import Metric, Results
from reports.rounding import configuration, parameter, rounded
from reports.searched import Scale, scales

FEWEST = 8  # trials below which nothing is drawn
MOST = 160  # lines; more cover each other
BEST = 0.1  # the share of trials drawn in the arm's colour
ABSENT = -0.13  # where a line passes a parameter that its trial does not have
WIDE = 2 * WIDTH
UNKNOWN: Mapping[str, Scale] = MappingProxyType({})  # nothing is recorded of the space


def parallel_figures(results: Results, folder: Path) -> dict[str, Figure]:
    """A figure for each arm with enough completed trials; their files are written to `folder`."""
    figures = {}
    for index, arm in enumerate(results.arms):
        found = [outcome for outcome in outcomes(results, arm) if outcome.value is not None]
        enough, known = len(found) >= FEWEST, scales(results, arm)
        chart = parallel_chart(found, results.objective, color(index)[0], known) if enough else None
        if chart is not None:
            name = f"parallel-{arm}{results.suffix}"
            figures[arm] = Figure(name, f"{arm}: configurations", caption(found), write_chart(chart, name, folder))
    return figures


def caption(found: Sequence[Outcome]) -> str:
    drawn = min(len(found), MOST)
    evenly = (
        f"{drawn} of {len(found)} completed search trials, evenly spaced by rank"
        if drawn < len(found)
        else (f"The {drawn} completed search trials")
    )
    return f"{evenly}; the best {BEST:.0%} in colour. The last axis is the score, best at the top."


def parallel_chart(found: Sequence[Outcome], metric: Metric, tone: str, known: Mapping[str, Scale] = UNKNOWN) -> Any:
    """Lines from axis to axis, the best on top; None where no parameter varies."""
    axes = axes_of(found, metric, known)
    if len(axes) < 2:
        return None
    order = sorted(range(len(found)), key=lambda i: (metric.key(found[i].value or 0.0), found[i].number))
    best = set(order[: max(1, round(BEST * len(order)))])
    if len(order) > MOST:
        order = [order[round(i * (len(order) - 1) / (MOST - 1))] for i in range(MOST)]
    rows = []
    for rank, i in enumerate(order):
        outcome = found[i]
        label = f"{outcome.run.id}: {metric.name} {rounded(outcome.value)}\n{configuration(outcome.run.params)}"
        for axis in axes:
            place = axis["positions"][i]
            line = {"axis": axis["name"], "place": ABSENT if place is None else place, "line": -rank}
            rows.append(line | {"best": i in best, "title": label})
    frame = pd.DataFrame(rows)
    names = [axis["name"] for axis in axes]
    x = alt.X(
        "axis:N", sort=names, title=None, scale=alt.Scale(type="point", padding=0.35),
        axis=alt.Axis(orient="top", labelAngle=0, grid=True, domain=False, ticks=False, labelColor=INK, labelPadding=9),
    )  # fmt: skip
    low = min(frame["place"].min(), 0.0) - 0.03
    y = alt.Y("place:Q", axis=None, scale=alt.Scale(domain=[low, 1.03], nice=False))
    base = alt.Chart(frame).encode(x=x, y=y, detail="line:Q", description="title:N")
    marks = pd.DataFrame([{"axis": a["name"], "place": p, "text": t} for a in axes for p, t in a["marks"]])
    text = alt.Chart(marks).encode(x=x, y=y, text="text:N")
    place = {"align": "left", "dx": 7, "fontSize": 12}
    # Full colours without transparency: blending hundreds of lines takes seconds in a PNG.
    layers = [
        base.transform_filter("!datum.best").mark_line(strokeWidth=0.9, color=GRID),
        base.transform_filter("datum.best").mark_line(strokeWidth=1.3, color=tone),
        text.mark_text(**place, color=PAPER, stroke=PAPER, strokeWidth=4),  # so that lines do not cross the words
        text.mark_text(**place, color=INK),
    ]
    return styled(alt.layer(*layers).properties(width=WIDE, height=HEIGHT))


def axes_of(found: Sequence[Outcome], metric: Metric, known: Mapping[str, Scale] = UNKNOWN) -> list[dict[str, Any]]:
    """The parameters that vary, then the score: name, position of each trial (None: not there), labels at positions."""
    axes = []
    for name in dict.fromkeys(name for outcome in found for name in outcome.run.params):
        values = [outcome.run.params.get(name) for outcome in found]
        there = [value for value in values if value is not None]
        if len({str(value) for value in there}) > 1:
            numbers = all(map(is_number, there))
            axis = _numbers(name, values, scale=known.get(name)) if numbers else _words(name, values)
            axes.append(axis | ({} if len(there) == len(values) else {"marks": [*axis["marks"], (ABSENT, "none")]}))
    scores = [outcome.value for outcome in found]
    score = _numbers(metric.name, scores, ratio=LOG_RATIO)
    if metric.lower_is_better:
        score["positions"] = [1 - place for place in score["positions"]]
        score["marks"] = [(1 - place, text) for place, text in score["marks"]]
    return [*axes, score]


def _numbers(
    name: str, values: Sequence[float | None], ratio: float | None = None, scale: Scale | None = None
) -> dict[str, Any]:
    known = sorted({value for value in values if value is not None})
    choices = not scale.continuous if scale is not None else len(known) <= 10
    if ratio is None and choices:  # evenly spaced, since 0 has no place on a logarithmic axis
        return _words(name, values)
    log = logarithmic(known) if ratio is None else known[0] > 0 and known[-1] > ratio * known[0]
    if scale is not None and scale.log is not None:
        log = scale.log and known[0] > 0
    middle = (known[0] * known[-1]) ** 0.5 if log else (known[0] + known[-1]) / 2
    words = parameter if ratio is None else rounded_score
    marks = [(place, words(float(value))) for place, value in ((0.0, known[0]), (0.5, middle), (1.0, known[-1]))]
    return {"name": name, "positions": positions(values, log), "marks": marks}


def rounded_score(value: float) -> str:
    """A score beside an axis: whole numbers keep their digits, "1,310" and not "1.31e+03"."""
    text = parameter(value)
    return rounded(value, 3) if "e" in text else text


def _words(name: str, values: Sequence[Any]) -> dict[str, Any]:
    known = {value for value in values if value is not None}
    order = sorted(known, key=lambda value: (not is_number(value), value if is_number(value) else str(value)))
    places = {value: i / max(len(order) - 1, 1) for i, value in enumerate(order)}
    marks = [(place, parameter(value)) for value, place in places.items()]
    return {"name": name, "positions": [places.get(value) for value in values], "marks": marks}
