"""Several objectives: the search trials that no other trial of their arm beats in all of them, as table and figure."""

from itertools import combinations
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from orchestrator.fronts import fronts
from reports.figures import HEIGHT, SHAPES, WIDTH, Figure, color, styled, write_chart
from reports.results import Results, last_value, objective_costs
from reports.rounding import configuration, rounded
from reports.tables import Table

CAPTION = (
    "Every search trial that reached its last step; large and joined: the Pareto front of each arm, "
    "trials that no other trial of the arm beats in all objectives."
)


def front_frame(results: Results) -> pd.DataFrame:
    """A row for each completed search trial with its objectives, and whether it is on the front of its arm."""
    rows = []
    for arm in results.arms:
        front = fronts(objective_costs(results, arm))
        for run in results.of(arm, "search"):
            if run.number in front:
                values = {m.name: last_value(run, m.name) for m in results.metrics[: results.objectives]}
                row = {"trial": run.id, "arm": arm, "on_front": front[run.number] == 0, **values}
                rows.append(row | {"configuration": configuration(run.params)})
    names = [metric.name for metric in results.metrics[: results.objectives]]
    return pd.DataFrame(rows, columns=["trial", "arm", "on_front", *names, "configuration"])


def pareto_table(results: Results) -> Table:
    """The Pareto front of each arm, ordered by the first objective; empty with a single objective."""
    metrics = results.metrics[: results.objectives]
    frame = front_frame(results) if results.objectives > 1 else front_frame(results).iloc[:0]
    frame = frame[frame["on_front"].astype(bool)].drop(columns="on_front")
    order = frame[metrics[0].name].map(metrics[0].key).sort_values(kind="stable").index
    frame = frame.loc[order].sort_values("arm", key=lambda arms: arms.map(results.arms.index), kind="stable")
    frame = frame.reset_index(drop=True)
    shown = pd.DataFrame(
        {
            "Trial": frame["trial"],
            "Arm": frame["arm"],
            **{metric.label: [rounded(value) for value in frame[metric.name]] for metric in metrics},
            "Configuration": frame["configuration"],
        }
    )
    words = ("Trial", "Arm", "Configuration")
    return Table("pareto", "Pareto front of each arm's search", frame, shown, words, notes=(chosen_note(results),))


def chosen_note(results: Results) -> str:
    """How the configurations of the finals were chosen among several objectives."""
    names = [metric.name for metric in results.metrics[: results.objectives]]
    how = f"the Pareto front over {' and '.join(names)} first, in it by {names[0]}"
    if not results.top:
        return f"Trials are ordered by {how}."
    return f"Finals train the first {results.top} of each arm in this order: {how}."


def pareto_figures(results: Results, folder: Path) -> list[Figure]:
    """A figure for each pair of objectives; none with a single objective. Their files are written to `folder`."""
    figures = []
    frame = front_frame(results)
    for first, second in combinations(results.metrics[: results.objectives], 2):
        name, title = f"pareto-{first.name}-{second.name}", f"{first.name} against {second.name}"
        if frame.empty:
            figures.append(Figure(name, title, f"{title}: no search trial has completed yet.", None))
            continue
        chart = _chart(results, frame, first.name, second.name).properties(width=WIDTH, height=HEIGHT, title=title)
        figures.append(Figure(name, title, CAPTION, write_chart(styled(chart), name, folder)))
    return figures


def _chart(results: Results, frame: pd.DataFrame, first: str, second: str) -> Any:
    metrics = {metric.name: metric for metric in results.metrics}
    x = alt.X(f"{first}:Q", title=metrics[first].label, scale=alt.Scale(zero=False))
    y = alt.Y(f"{second}:Q", title=metrics[second].label, scale=alt.Scale(zero=False))
    arms = alt.Scale(domain=results.arms, range=[color(i)[0] for i in range(len(results.arms))])
    shapes = alt.Scale(domain=results.arms, range=[SHAPES[i % len(SHAPES)] for i in range(len(results.arms))])
    legend = alt.Legend(orient="top", title=None)
    encoding = {"color": alt.Color("arm:N", scale=arms, legend=legend), "shape": alt.Shape("arm:N", scale=shapes)}
    front = frame[frame["on_front"].astype(bool)].sort_values(first)
    points = alt.Chart(frame).mark_point(filled=True, opacity=0.35, size=25).encode(x=x, y=y, **encoding)
    best = alt.Chart(front).mark_point(filled=True, size=90).encode(x=x, y=y, **encoding)
    line = alt.Chart(front).mark_line(opacity=0.6).encode(x=x, y=y, color=encoding["color"])
    return alt.layer(line, points, best)
