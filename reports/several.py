"""One page of several sweeps: an answer and a table for each, side by side, and one figure with the curves of all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from orchestrator.runs import write_bytes
from reports.answer import answer
from reports.comparison import comparison
from reports.figures import HEIGHT, WIDTH, Figure, color, styled, write_chart
from reports.formats import write_table
from reports.html import progress
from reports.results import Metric, Results, chosen_finals, read_results
from reports.templates import environment
from reports.verdict import mean_curve


def write_several(sources: Sequence[str], folder: Path) -> Path:
    """Write the page of several run folders; returns the path of index.html. Raises RunFolderError."""
    found = [read_results(source) for source in sources]
    tables = [comparison(results) for results in found]
    for place, (results, table) in enumerate(zip(found, tables, strict=True), start=1):
        write_table(table, folder / f"{place}-{results.name}")  # two may share a name
    page = environment().get_template("several.html.j2")
    text = page.render(
        sweeps=[(one, answer(one), progress(one), table) for one, table in zip(found, tables, strict=True)],
        figures=several_figures(found, folder),
    )
    write_bytes(folder / "index.html", text.encode(), sync=False)
    return folder / "index.html"


def several_figures(found: Sequence[Results], folder: Path) -> list[Figure]:
    """For each metric that two sweeps or more have, the mean curves of the finals of all arms of all of them."""
    metrics = {metric.name: metric for results in found for metric in results.metrics}
    figures = []
    for name, metric in metrics.items():
        frame = several_frame(found, name)
        if frame["sweep"].nunique() > 1:
            title = f"{name} of the finals of {frame['sweep'].nunique()} sweeps"
            chart = _chart(frame, metric, title)
            figures.append(Figure(f"several-{name}", title, CAPTION, write_chart(chart, f"several-{name}", folder)))
    return figures


CAPTION = "Mean over seeds. Conditional models are dotted. Sweeps may differ in data and protocol: see their tables."


def several_frame(found: Sequence[Results], metric: str) -> pd.DataFrame:
    """A row for each step that all seeds of an arm's chosen configuration have."""
    rows: list[dict[str, Any]] = []
    for results in found:
        for arm in results.arms:
            runs = chosen_finals(results, arm)
            model = ((results.sweep.get("arms") or {}).get(arm) or {}).get("model") or {}
            for step, value in mean_curve(runs, metric).items():
                row = {"sweep": results.name, "line": f"{results.name}: {arm}", "conditional": _yes(model)}
                rows.append(row | {"step": step, "value": value})
    return pd.DataFrame(rows, columns=["sweep", "line", "conditional", "step", "value"])


def _yes(model: Any) -> bool:
    return isinstance(model, dict) and model.get("conditional") is True


def _chart(frame: pd.DataFrame, metric: Metric, title: str) -> Any:
    lines = frame["line"].unique().tolist()
    log = frame["value"].min() > 0 and frame["value"].max() / frame["value"].min() > 4
    scale = alt.Scale(type="log" if log else "linear", zero=False, nice=not log, padding=8)
    colors = alt.Scale(domain=lines, range=[color(i)[0] for i in range(len(lines))])
    dash = alt.StrokeDash("conditional:N", scale=alt.Scale(domain=[False, True], range=[[1, 0], [2, 3]]), legend=None)
    legend = alt.Legend(title=None, orient="top", columns=2, labelLimit=0)
    chart = alt.Chart(frame).encode(
        x=alt.X("step:Q", title="training steps", axis=alt.Axis(grid=False, tickCount=6)),
        y=alt.Y("value:Q", title=None, scale=scale, axis=alt.Axis(tickCount=6, labelOverlap="greedy")),
        color=alt.Color("line:N", scale=colors, legend=legend),
    )
    words = alt.TitleParams(title, subtitle="lower is better" if metric.lower_is_better else "higher is better")
    drawn = chart.mark_line(strokeWidth=2.2, aria=False).encode(strokeDash=dash, detail="line:N")
    return styled(drawn.properties(width=2 * WIDTH, height=HEIGHT, title=words))
