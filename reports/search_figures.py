"""Figures of the search: best so far, best of a smaller budget, robustness, and the effect of each parameter."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from reports.analysis import ROUND, Outcome, best_of, best_so_far, is_number, logarithmic, outcomes
from reports.figures import HEIGHT, MUTED, WIDTH, Figure, color, styled, write_chart
from reports.results import Metric, Results
from reports.rounding import configuration, parameter, rounded
from reports.searched import Scale, scales

LOG_RATIO = 4.0
MOST_BUDGETS = 60  # points of the best-of-n curve
BINS = 8  # of a parameter's values, for the median in each
MOST_UPRIGHT = 5  # labels beside each other
FEWEST = 8  # trials below which a parameter's effect is not drawn
COLUMNS = 3  # of small figures; as wide together as parallel coordinates


def search_figures(results: Results, folder: Path) -> list[Figure]:
    """Figures of the search over all arms; their files are written to `folder`."""
    metric, found = results.objective, {arm: outcomes(results, arm) for arm in results.arms}
    makers = [
        ("search-order", f"{metric.name} of every search trial in order", order_chart, ORDER),
        ("search-budget", f"Best {metric.name} of a smaller budget", budget_chart, BUDGET),
        ("search-robustness", f"{metric.name} over all configurations", robustness_chart, ROBUSTNESS),
    ]
    drawings = [(name, title, make(found, metric, title), caption) for name, title, make, caption in makers]
    return [
        Figure(name + results.suffix, title, caption, write_chart(chart, name + results.suffix, folder))
        if chart is not None
        else Figure(name + results.suffix, title, f"{title}: no search trial has completed yet.", None)
        for name, title, chart, caption in drawings
    ]


ORDER = "A point for each search trial that reached its last step, and the best so far."
BUDGET = "The best of n trials drawn from those that were run: median, and the band of 10 % to 90 % of all draws."
ROBUSTNESS = (
    "Share of all search trials that are at least as good; a curve that ends below 1 has trials that were "
    "pruned, diverged or failed."
)


def effect_figures(results: Results, folder: Path) -> dict[str, Figure]:
    """For each arm the objective against each parameter that varies; their files are written to `folder`."""
    figures = {}
    for index, arm in enumerate(results.arms):
        found = [outcome for outcome in outcomes(results, arm) if outcome.value is not None]
        chart = (
            effect_chart(found, results.objective, color(index)[0], scales(results, arm))
            if len(found) >= FEWEST
            else None
        )
        if chart is not None:
            name = f"effects-{arm}{results.suffix}"
            title = f"{arm}: effect of each parameter" + (f" on {results.objective.name}" if results.suffix else "")
            figures[arm] = Figure(name, title, EFFECTS, write_chart(chart, name, folder))
    return figures


EFFECTS = (
    "A point for each completed search trial; bars are medians. Other parameters vary too, so this is "
    "no controlled comparison."
)


def order_chart(found: dict[str, list[Outcome]], metric: Metric, title: str) -> Any:
    """Values in the order of the trials, with the best so far as a step line; None where there is no value."""
    rows: list[dict[str, Any]] = []
    for arm, trials in found.items():
        best = best_so_far([trial.value for trial in trials], metric)
        for trial, so_far in zip(trials, best, strict=True):
            label = f"{trial.run.id}\n{configuration(trial.run.params)}"
            value = {"value": trial.value, "label": f"{label}\n{metric.name} {rounded(trial.value)}"}
            rows.append({"arm": arm, "number": trial.number + 1, "best": so_far, **value})
    frame = pd.DataFrame(rows)
    if frame.empty or frame["value"].isna().all():
        return None
    last = int(frame["number"].max())
    step = next(step for step in ROUND if last <= 6 * step)
    ticks = sorted({1, *range(step, last + 1, step)})
    x = alt.X("number:Q", scale=alt.Scale(nice=False), axis=_axis("search trial", values=ticks, format=",d"))
    base = alt.Chart(frame).encode(x=x, color=_colors(list(found)))
    points = base.transform_filter("isValid(datum.value)").mark_point(filled=True, size=22, opacity=1, fillOpacity=0.5)
    line = base.transform_filter("isValid(datum.best)").mark_line(interpolate="step-after", strokeWidth=2.2, aria=False)
    y = _y("value:Q", frame["value"])
    return _drawn(
        [line.encode(y=_y("best:Q", frame["value"])), points.encode(y=y, description="label:N")], metric, title
    )


def budget_chart(found: dict[str, list[Outcome]], metric: Metric, title: str) -> Any:
    """Median and band of the best of n; None where there is no value."""
    rows: list[dict[str, Any]] = []
    for arm, trials in found.items():
        values = [trial.value for trial in trials]
        for count in budgets(len(values)):
            low, middle, high = best_of(values, metric, count, (0.1, 0.5, 0.9))
            worst = high if high is not None else middle  # more than one draw in ten finds nothing: no upper end
            label = f"{arm}: best of {count} is {rounded(middle)} ({rounded(low)} to {rounded(high)})"
            rows.append({"arm": arm, "n": count, "low": low, "median": middle, "high": worst, "label": label})
    frame = pd.DataFrame(rows).dropna(subset=["median"]) if rows else pd.DataFrame()
    if frame.empty:
        return None
    ticks = [budget for budget in ROUND if budget <= frame["n"].max()]
    x = alt.X("n:Q", scale=alt.Scale(type="log", nice=False), axis=_axis("search trials", values=ticks, format=",d"))
    base = alt.Chart(frame).encode(x=x, color=_colors(list(found)))
    both = pd.concat([frame["low"], frame["high"]])
    layers = [
        base.mark_area(opacity=1, fillOpacity=0.15, aria=False).encode(y=_y("low:Q", both), y2="high:Q"),
        base.mark_line(strokeWidth=2.2, aria=False).encode(y=_y("median:Q", both)),
        base.mark_point(filled=True, size=16, opacity=1).encode(y=_y("median:Q", both), description="label:N"),
    ]
    return _drawn(layers, metric, title)


def budgets(total: int) -> list[int]:
    """Numbers of trials to look at: all up to MOST_BUDGETS, else evenly spaced on a logarithmic axis."""
    if total <= MOST_BUDGETS:
        return list(range(1, total + 1))
    return sorted({round(total ** (i / (MOST_BUDGETS - 1))) for i in range(MOST_BUDGETS)})


def robustness_chart(found: dict[str, list[Outcome]], metric: Metric, title: str) -> Any:
    """The share of trials at least as good as each value; None where there is no value."""
    rows: list[dict[str, Any]] = []
    for arm, trials in found.items():
        valued = sorted((metric.key(trial.value), trial.number, trial) for trial in trials if trial.value is not None)
        for rank, (_, _, trial) in enumerate(valued, start=1):
            label = f"{trial.run.id}, {rank} of {len(trials)}\n{metric.name} {rounded(trial.value)}"
            rows.append({"arm": arm, "value": trial.value, "share": rank / len(trials), "label": label})
    frame = pd.DataFrame(rows)
    if frame.empty:
        return None
    chart = alt.Chart(frame)
    line = chart.mark_line(interpolate="step-after", strokeWidth=2.2, aria=False)
    points = chart.mark_point(filled=True, size=12, opacity=1).encode(description="label:N")
    y = alt.Y("share:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%", tickCount=5))
    scale = _scale(frame["value"], reverse=not metric.lower_is_better)
    x = alt.X("value:Q", scale=scale, axis=_axis(metric.label, labelOverlap="greedy", format="~r"))
    return _drawn([layer.encode(x=x, y=y, color=_colors(list(found))) for layer in (line, points)], metric, title)


def effect_chart(found: Sequence[Outcome], metric: Metric, tone: str, known: Mapping[str, Scale]) -> Any:
    """Small figures side by side, the objective against one parameter each; None where nothing varies.

    `known` is what the space says of the parameters; of another, few values are choices and many are a range.
    """
    names = dict.fromkeys(name for outcome in found for name in outcome.run.params)
    small = [chart for name in names if (chart := _effect(name, found, metric, tone, known.get(name))) is not None]
    if not small:
        return None
    return styled(alt.concat(*small, columns=COLUMNS, spacing=28))


def _effect(name: str, found: Sequence[Outcome], metric: Metric, tone: str, scale: Scale | None) -> Any:
    rows = []
    for outcome in found:
        if name in outcome.run.params:
            label = f"{outcome.run.id}\n{name} = {parameter(outcome.run.params[name])}"
            label += f"\n{metric.name} {rounded(outcome.value)}"
            rows.append({"x": outcome.run.params[name], "value": outcome.value, "label": label})
    frame = pd.DataFrame(rows)
    if frame.empty or frame["x"].astype(str).nunique() < 2:
        return None
    numbers = all(map(is_number, frame["x"]))
    continuous = scale.continuous if scale is not None else frame["x"].astype(str).nunique() > BINS
    choices = not (continuous and numbers)
    if choices:
        order = sorted(
            frame["x"].unique(), key=lambda value: (not is_number(value), value if is_number(value) else str(value))
        )
        words = [parameter(value) for value in order]
        frame["x"] = frame["x"].map(dict(zip(order, words, strict=True)))
        x: Any = alt.X(
            "x:N",
            sort=words,
            title=name,
            axis=alt.Axis(labelAngle=0 if len(words) <= MOST_UPRIGHT else -40, grid=False),
        )
        medians = frame.groupby("x", sort=False)["value"].median().reset_index()
        bars = alt.Chart(medians).mark_tick(thickness=2.4, size=26, color=tone, aria=False).encode(x=x)
    else:
        values = frame["x"].tolist()
        log = logarithmic(values) if scale is None or scale.log is None else scale.log and min(values) > 0
        axis = alt.Scale(type="log" if log else "linear", zero=False, nice=False, padding=6)
        x = alt.X("x:Q", title=name, scale=axis, axis=alt.Axis(grid=False, tickCount=4, format="~g"))
        bins = pd.qcut(frame["x"], max(1, min(BINS, len(frame) // 4)), duplicates="drop")
        groups = frame.groupby(bins, observed=True)
        medians = pd.DataFrame({"x": groups["x"].min(), "x2": groups["x"].max(), "value": groups["value"].median()})
        bars = alt.Chart(medians).mark_rule(strokeWidth=2.4, color=tone, aria=False).encode(x=x, x2="x2:Q")
    y = _y("value:Q", frame["value"])
    points = alt.Chart(frame).mark_point(filled=True, size=16, opacity=1, fillOpacity=0.45, color=tone)
    layers = alt.layer(points.encode(x=x, y=y, description="label:N"), bars.encode(y=y))
    return layers.properties(width=WIDTH * 0.62, height=HEIGHT * 0.7)


def _drawn(layers: list[Any], metric: Metric, words: str) -> Any:
    subtitle = "lower is better" if metric.lower_is_better else "higher is better"
    title = alt.TitleParams(words, subtitle=subtitle)
    return styled(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title))


def _axis(title: str, **changes: Any) -> Any:
    return alt.Axis(title=title, grid=False, tickCount=6, titleColor=MUTED, **changes)


def _y(field: str, values: pd.Series) -> Any:
    axis = alt.Axis(tickCount=6, labelOverlap="greedy")
    return alt.Y(field, title=None, scale=_scale(values), axis=axis)


def _scale(values: pd.Series, reverse: bool = False) -> Any:
    low, high = values.min(), values.max()
    log = low > 0 and high / low > LOG_RATIO
    return alt.Scale(type="log" if log else "linear", zero=False, nice=not log, padding=8, reverse=reverse)


def _colors(arms: list[str]) -> Any:
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1, symbolSize=70, symbolStrokeWidth=3)
    scale = alt.Scale(domain=arms, range=[color(i)[0] for i in range(len(arms))])
    return alt.Color("arm:N", scale=scale, legend=legend)
