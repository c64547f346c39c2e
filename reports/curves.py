"""Learning curves: one Altair specification gives the figure in the page and SVG, PNG and PDF beside it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import altair as alt
import pandas as pd

from orchestrator.runs import Run, write_bytes
from reports.figures import HEIGHT, MUTED, PAPER, SHAPES, WIDTH, Figure, color, styled, write_chart
from reports.formats import csv_text, parquet_bytes
from reports.results import Metric, Results, chosen_finals, final_groups, finite, last_value
from reports.rounding import configuration, rounded
from reports.scale import levels

Axis = Literal["step", "seconds"]
AXES: dict[Axis, str] = {"step": "training steps", "seconds": "seconds of training and evaluation"}

SEARCH_LINES = 40  # of each arm; more are hard to read, and slow as PNG
LEVEL_ROOM = 15  # pixels between the names of two dashed lines
FLATTENED = 1.4  # by so much untrained scores may stretch the axis
LOG_RATIO = 4.0  # a logarithmic y axis where the largest value is more than so many times the smallest
COLUMNS = ["arm", "kind", "line", "step", "seconds", "value", "low", "high", "title", "label", "point"]


def thinned(runs: list[Run], metric: Metric, limit: int = SEARCH_LINES) -> list[Run]:
    """At most `limit` runs, evenly spaced by rank of their last value, the best and the worst included."""
    valued = [(value, run) for run in runs if (value := last_value(run, metric.name)) is not None]
    order = [run for _, run in sorted(valued, key=lambda pair: (metric.key(pair[0]), pair[1].number))]
    if len(order) <= limit:
        return order
    return [order[round(i * (len(order) - 1) / (limit - 1))] for i in range(limit)]


def curve_frame(results: Results, metric: Metric, limit: int = SEARCH_LINES) -> pd.DataFrame:
    """Points of the figure: search trials, and finals as mean, smallest and largest value over seeds."""
    rows: list[dict[str, Any]] = []
    for arm in results.arms:
        for run in thinned(results.of(arm, "search"), metric, limit):
            rows += _search_points(run, metric)
        chosen = chosen_finals(results, arm)
        for source, group in final_groups(results, arm).items():
            completed = [run for run in group if run.state == "completed"]
            best = not chosen or source == chosen[0].source
            rows += _final_points(arm, source, completed or group, metric, "final" if best else "other final")
    return pd.DataFrame(rows, columns=COLUMNS)


def points_frame(results: Results) -> pd.DataFrame:
    """Every record of every trial with all that it measured; what a record lacks, or is not finite, is missing."""
    rows: list[dict[str, Any]] = []
    for run in results.runs:
        whose = {"arm": run.arm, "stage": run.stage, "trial": run.id, "seed": run.seed}
        for record in run.history:
            found = {key: finite(value) for key, value in record.items() if key not in ("step", "time", "samples")}
            if any(value is not None for value in found.values()):
                rows.append({**whose, "step": record["step"], "samples": record.get("samples"), **found})
    first = ["arm", "stage", "trial", "seed", "step", "seconds", "samples", *(one.name for one in results.metrics)]
    others = sorted({key for row in rows for key in row} - {*first})
    data = pd.DataFrame(rows, columns=[*first, *others])
    return data.astype({"samples": "Int64"} | dict.fromkeys(("seconds", *data.columns[7:]), float))


def write_points(results: Results, folder: Path) -> None:
    """Write `points_frame` as curves.csv and curves.parquet."""
    data = points_frame(results)
    write_bytes(folder / "curves.csv", csv_text(data).encode(), sync=False)
    write_bytes(folder / "curves.parquet", parquet_bytes(data), sync=False)


def _points(run: Run, metric: Metric) -> dict[int, tuple[float, float]]:
    """step -> (active seconds, value) where both are finite."""
    points = {}
    for record in run.history:
        value, elapsed = finite(record.get(metric.name)), finite(record.get("seconds"))
        if value is not None and elapsed is not None:
            points[record["step"]] = (elapsed, value)
    return points


def _search_points(run: Run, metric: Metric) -> list[dict[str, Any]]:
    points = _points(run, metric)
    label = f"{run.id} ({run.state})\n{configuration(run.params)}"
    rows = []
    for step, (elapsed, value) in points.items():
        measured = {"step": step, "seconds": elapsed, "value": value, "low": value, "high": value}
        hover = f"{label}\n{metric.name} {rounded(value)} at step {step:,}"
        ended = step == max(points)
        rows.append(
            {
                "arm": run.arm,
                "kind": "search",
                "line": run.id,
                **measured,
                "title": label,
                "label": hover,
                "point": ended,
            }
        )
    return rows


def _final_points(arm: str, source: int | None, runs: list[Run], metric: Metric, kind: str) -> list[dict[str, Any]]:
    curves = [points for run in runs if (points := _points(run, metric))]
    # A mean over fewer seeds at some steps would jump for no reason: only steps that all seeds have.
    steps = sorted(set.intersection(*(set(points) for points in curves))) if curves else []
    line, count = f"{arm}-final of trial {source}", len(curves)
    rows = []
    for step in steps:
        elapsed, values = zip(*(points[step] for points in curves), strict=True)
        mean = sum(values) / count
        over = f"mean of {count} seeds" if count > 1 else "one seed"
        title = f"{arm}, final, {over}\n{configuration(runs[0].params)}"
        label = f"{title}\n{metric.name} {rounded(mean)} at step {step:,}"
        if count > 1:
            label += f" ({rounded(min(values))} to {rounded(max(values))})"
        measured = {
            "step": step,
            "seconds": sum(elapsed) / count,
            "value": mean,
            "low": min(values),
            "high": max(values),
        }
        rows.append({"arm": arm, "kind": kind, "line": line, **measured, "title": title, "label": label, "point": True})
    return rows


def learning_chart(
    frame: pd.DataFrame,
    metric: Metric,
    axis: Axis,
    arms: Sequence[str],
    levels: Mapping[str, float] = MappingProxyType({}),
) -> Any:
    """Search trials faint, finals bold with a band from the smallest to the largest seed; `levels` as dashed lines."""
    seen = trained_part(frame)
    low, high = min([seen["low"].min(), *levels.values()]), max([seen["high"].max(), *levels.values()])
    logarithmic = low > 0 and high / low > LOG_RATIO
    scale = alt.Scale(type="log" if logarithmic else "linear", zero=False, nice=not logarithmic, padding=8)
    cut: dict[str, Any] = {}  # lines come from beyond the axis
    if len(seen) < len(frame):
        scale.domain, cut = [low, high], {"clip": True}
    finals = bool((frame["kind"] == "final").any())
    domain = list(arms)
    base = alt.Chart(frame).encode(
        x=alt.X(f"{axis}:Q", title=AXES[axis], scale=alt.Scale(nice=False), axis=alt.Axis(grid=False, tickCount=6)),
        y=alt.Y("value:Q", title=None, scale=scale, axis=alt.Axis(tickCount=6, labelOverlap="greedy")),
        color=alt.Color(
            "arm:N",
            scale=alt.Scale(domain=domain, range=[color(i)[0] for i in range(len(domain))]),
            legend=alt.Legend(title=None, orient="top", symbolOpacity=1, symbolSize=70, symbolStrokeWidth=0),
        ),
        detail="line:N",
        description="title:N",
    )
    # On points alone: a line with a shape would get points of its own.
    point = {
        "shape": alt.Shape(
            "arm:N", scale=alt.Scale(domain=domain, range=[SHAPES[i % len(SHAPES)] for i in range(len(domain))])
        ),
        "description": "label:N",
    }
    faint = 0.36 if finals else 0.6
    search, other, final = (
        base.transform_filter(alt.datum.kind == kind) for kind in ("search", "other final", "final")
    )
    layers = [
        search.mark_line(strokeWidth=1.2, strokeOpacity=faint, **cut),
        search.transform_filter(alt.datum.point)
        .mark_point(filled=True, size=14, opacity=1, fillOpacity=faint + 0.2, **cut)
        .encode(**point),
        final.mark_area(opacity=1, fillOpacity=0.16, **cut).encode(y=alt.Y("low:Q", title=None), y2="high:Q"),
        other.mark_line(strokeWidth=1.6, opacity=0.7, **cut),
        final.mark_line(strokeWidth=2.6, **cut),
        final.mark_point(filled=True, size=46, opacity=1, **cut).encode(**point),
    ]
    if levels:
        rules, *names = level_layers(levels, low, high, logarithmic, scale)
        layers = [rules, *layers, *names]  # names on top: a curve through one makes another number of it
    better = "lower is better" if metric.lower_is_better else "higher is better"
    title = alt.TitleParams(
        f"{metric.name} by {AXES[axis]}", subtitle=better + (", logarithmic axis" if logarithmic else "")
    )
    return styled(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title))


def level_layers(
    levels: Mapping[str, float], low: float, high: float, logarithmic: bool, scale: alt.Scale
) -> list[Any]:
    """A dashed line for each level; then, with a rim of paper, the names of those that have room above them."""
    place = math.log if logarithmic else float
    room, named = LEVEL_ROOM * (place(high) - place(low)) / HEIGHT, list[float]()
    rows = []
    for name, value in levels.items():
        clear = all(abs(place(value) - other) >= room for other in named)
        named += [place(value)] if clear else []
        label = f"{name}: {rounded(value)}"
        rows.append({"value": value, "name": name if clear else "", "label": label})
    base = alt.Chart(pd.DataFrame(rows)).encode(y=alt.Y("value:Q", title=None, scale=scale), description="label:N")
    text: dict[str, Any] = {"align": "right", "baseline": "bottom", "dy": -1, "fontSize": 12}
    put: dict[str, Any] = {"x": alt.value(WIDTH), "text": "name:N"}
    return [
        base.mark_rule(strokeDash=[3, 3], strokeWidth=1, color=MUTED, opacity=0.7),
        base.mark_text(**text, color=PAPER, stroke=PAPER, strokeWidth=4, aria=False).encode(**put),
        base.mark_text(**text, color=MUTED, aria=False).encode(**put),
    ]


def trained_part(frame: pd.DataFrame) -> pd.DataFrame:
    """The points that the axis is made for: without those at step 0, where these would flatten all others."""
    rest, (low, high) = frame[frame["step"] > 0], (frame["low"].min(), frame["high"].max())
    place = math.log if low > 0 and high / low > LOG_RATIO else float
    spans = [place(part["high"].max()) - place(part["low"].min()) if len(part) else 0.0 for part in (rest, frame)]
    if len(rest) == len(frame) or rest["step"].nunique() < 2 or not spans[0] > 0 or spans[1] <= FLATTENED * spans[0]:
        return frame
    return rest


def learning_figures(results: Results, folder: Path) -> list[Figure]:
    """The curves of the distance and the score over steps and over seconds; their files are written to `folder`."""
    figures = []
    for axis, words in AXES.items():
        for metric in results.metrics:
            frame = curve_frame(results, metric)
            name = f"{metric.name}-by-{axis}"
            lines = levels(results, metric)
            chart = None if frame.empty else learning_chart(frame, metric, axis, results.arms, lines)
            svg = None if chart is None else write_chart(chart, name, folder)
            figures.append(Figure(name, f"{metric.name} by {words}", caption(results, metric, frame, lines), svg))
    return figures


def caption(results: Results, metric: Metric, frame: pd.DataFrame, lines: Mapping[str, float] | None = None) -> str:
    """What is drawn, and what was left out of the drawing."""
    if frame.empty:
        return f"No evaluation with {metric.name} is recorded yet."
    parts = []
    for arm in results.arms:
        drawn = frame[(frame["arm"] == arm) & (frame["kind"] == "search")]["line"].nunique()
        runs = results.of(arm, "search")
        measured = len(thinned(runs, metric, limit=max(len(runs), 1)))
        evenly = ", evenly spaced by rank" if drawn < measured else ""
        parts.append(f"{drawn} of {len(runs)} search trials of {arm}{evenly}")
    told = ["; ".join(parts) + "."]
    if len(trained_part(frame)) < len(frame):
        before = frame[frame["step"] == 0]["value"]
        told.append(f"Untrained ({_span(before.min(), before.max())} at step 0) is beyond the axis.")
    if lines:
        told.append(f"Dashed: {', '.join(f'{name} {rounded(value)}' for name, value in lines.items())}.")
    if not metric.comparable:
        told.append(f"Arms cannot be compared here: {metric.why}.")
    return " ".join(told)


def _span(low: float, high: float) -> str:
    first, last = rounded(low), rounded(high)
    return first if first == last else f"{first} to {last}"
