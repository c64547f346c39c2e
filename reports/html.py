"""One HTML page of a sweep: tables, figures and samples in a file that needs nothing else."""

import base64
import hashlib
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from orchestrator.runs import RunFolder, write_bytes
from reports import tables
from reports.answer import answer
from reports.browse import every_trial, size_table
from reports.comparison import comparison, published
from reports.coordinates import parallel_figures
from reports.curves import learning_figures, write_points
from reports.drawing import drawing_beside
from reports.figures import GRID, INK, MUTED, PAPER, color
from reports.formats import markdown, to_markdown, write_table
from reports.pareto import pareto_figures, pareto_table
from reports.pictures import Picture, evenly, picture
from reports.results import STAGES, Results, last_record, read_results, shown_run
from reports.rounding import plural, whole
from reports.rung_tables import loss_table, rung_settings, rung_table
from reports.scale import baseline_table
from reports.search_figures import effect_figures, search_figures
from reports.search_tables import budget_table, choice_table, importance_table, top_configurations, verdict_table
from reports.searched import space_table
from reports.tables import Table
from reports.templates import environment
from reports.terminal import terminal_text
from reports.trial_page import sample_grid, sample_steps, write_trial_pages

STRIP = 6  # sample grids of a strip over training
SCRIPTS = ("hover.js", "trials.js")
CONTENTS = {
    "comparison": "Comparison",
    "curves": "Learning curves",
    "samples": "Samples",
    "search": "The search",
    "configurations": "Best configurations",
    "trials": "Every trial",
    "cost": "Cost",
    "provenance": "Provenance",
    "reproduce": "Reproduce",
}
LONG = 12  # rows above which the list of trials that did not complete is folded


class Gallery(NamedTuple):
    """Samples of one arm: the grid to show, and grids of the same trial over training."""

    arm: str
    last: Picture | None
    strip: list[Picture]


def write_report(source: Path | str, to: Path | str | None = None, uri: str | None = None) -> Path:
    """Write the report of a run folder into its `report` folder, or into `to`; returns the path of index.html.

    `source` may also be "mlflow:EXPERIMENT" with `uri` its tracking store; then `to` is report-EXPERIMENT by default.
    Tables as CSV, Parquet, Markdown and LaTeX, figures as SVG, PNG and PDF, and curves.csv lie beside it. The same
    source gives the same bytes. Raises RunFolderError where there is no such source or it cannot be read.
    """
    if not str(source).startswith("mlflow:"):
        return write_page(read_results(source), Path(to) if to else RunFolder(Path(source)).report)
    from reports.source import read_experiment  # imports mlflow, which takes seconds

    address = str(source).removeprefix("mlflow:")
    with tempfile.TemporaryDirectory() as scratch:
        results = read_experiment(address, uri, Path(scratch))
        return write_page(results, Path(to) if to else Path(f"report-{results.name}"))


def write_page(results: Results, folder: Path) -> Path:
    """Write the report of results into a folder; returns the path of index.html."""
    with drawing_beside():
        return _write_page(results, folder)


def _write_page(results: Results, folder: Path) -> Path:
    shown = {table.name: table for table in all_tables(results)}
    for table in shown.values():
        write_table(table, folder)
    write_points(results, folder)
    page = _template().render(
        results=results,
        answer=answer(results),
        progress=progress(results),
        tables=shown,
        figures=learning_figures(results, folder),
        search=[*pareto_figures(results, folder), *(f for view in results.views for f in search_figures(view, folder))],
        parallel=[parallel_figures(view, folder) for view in results.views],
        effects=[effect_figures(view, folder) for view in results.views],
        caution=curve_caution(results),
        real=picture(results.real, "real", "held-out data"),
        galleries=[gallery(results, arm) for arm in results.arms],
        colors={arm: color(i) for i, arm in enumerate(results.arms)},
        tones={"ink": INK, "muted": MUTED, "grid": GRID, "paper": PAPER},
        pages=write_trial_pages(results, folder),
        long=LONG,
        strip=STRIP,
        contents=CONTENTS,
        every=every_trial(results),
        script=(script := page_script()),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        date=datetime.fromtimestamp(results.created, UTC).strftime("%-d %B %Y") if results.created else None,
    )
    write_bytes(folder / "index.html", page.encode(), sync=False)
    ranking = [] if shown["baselines"].shown.empty else [shown["baselines"]]
    said = [shown["comparison"], *ranking, *(shown[f"verdicts{view.suffix}"] for view in results.views)]
    write_bytes(folder / "answer.md", answer_text(results, said).encode(), sync=False)
    write_bytes(folder / "answer.txt", terminal_text(results).encode(), sync=False)
    return folder / "index.html"


def page_script() -> str:
    """The one script of the page."""
    return "".join((Path(__file__).parent / name).read_text(encoding="utf-8") for name in SCRIPTS)


def all_tables(results: Results) -> list[Table]:
    """Every table of the report, in the order of the page."""
    tops = [top_configurations(results, arm) for arm in results.arms]
    search = [table(view) for view in results.views for table in (verdict_table, budget_table)]
    search += [
        table(view, arm) for view in results.views for arm in results.arms for table in (importance_table, choice_table)
    ]
    rest = [tables.counts, tables.incidents, tables.cost, tables.plan_and_actual, tables.provenance]
    rest += [tables.reproduction, tables.trials, space_table, size_table]
    return [
        comparison(results),
        baseline_table(results),
        published(results),
        pareto_table(results),
        *search,
        *([rung_table(results), loss_table(results)] if rung_settings(results) else []),
        *tops,
        *(table(results) for table in rest),
    ]


def answer_text(results: Results, said: list[Table]) -> str:
    """The question, the answer and its tables as Markdown, for where there is no page."""
    sentence, qualifier, _ = answer(results)
    words = [markdown(text) for text in (results.question or results.name, sentence, qualifier)]
    parts = [f"# {words[0]}", *words[1:], f"_{progress(results)}_"]
    return "\n\n".join([part for part in parts if part] + [to_markdown(table) for table in said])


def progress(results: Results) -> str:
    """How much of the sweep is done: never silent about trials that are missing."""
    failed = sum(run.state in ("failed", "diverged", "stopped") for run in results.runs)
    lost = f"; {plural(failed, 'trial')} failed, diverged or stopped" if failed else ""
    lost += f"; {plural(results.damaged, 'trial')} damaged" if results.damaged else ""
    if results.finished and results.done >= results.total:
        return f"finished: {plural(results.done, 'trial')}{lost}"
    return f"unfinished: {results.done:,} of {results.total:,} trials done{lost}"


def curve_caution(results: Results) -> str:
    """What must not be compared across the lines of one figure."""
    name = results.objective.name
    samples = {
        stage: {last_record(run, name).get("samples") for run in results.runs if run.stage == stage and run.history}
        for stage in STAGES
    }
    if not samples["search"] or not samples["final"] or samples["search"] == samples["final"]:
        return ""
    search, final = (whole(samples[stage]) for stage in STAGES)
    return (
        f"Search trials are scored with {search} samples, finals with {final}: a distance estimated from fewer samples "
        "is larger, so compare faint lines with faint lines and bold with bold."
    )


def gallery(results: Results, arm: str) -> Gallery:
    """Samples by rule, never by hand: the final of the lowest seed at its largest step, else the best search trial."""
    run = shown_run(results, arm)
    steps = sample_steps(run) if run else []
    if run is None or not steps:
        return Gallery(arm, None, [])
    grids = [sample_grid(run, step) for step in steps]
    strip = [grid for grid in grids if grid]
    return Gallery(arm, strip[-1] if strip else None, evenly(strip, STRIP) if len(strip) > 1 else [])


def _template() -> jinja2.Template:
    pages = environment()
    pages.filters["rows"] = rows
    pages.filters["columns"] = columns
    pages.filters["agreed"] = agreed
    pages.filters["inline"] = Markup  # figures and our script only: nothing in them is from outside unescaped
    pages.filters["sized"] = sized
    return pages.get_template("report.html.j2")


def sized(svg: Any) -> Markup:
    """A figure that says how wide it was drawn, so that words have one size in all of them."""
    return Markup(VIEW.sub(r'style="--w:\1px" \g<0>', str(Markup(svg)), count=1))  # noqa: S704  drawn by us


VIEW = re.compile(r'viewBox="0 0 ([0-9.]+) [0-9.]+"')


def agreed(table: Table) -> dict[str, str]:
    """The settings that are the same in all of two or more rows, which a caption can say once."""
    found = {column: table.shown[column].unique() for column in table.settings}
    return {name: values[0] for name, values in found.items() if len(table.shown) > 1 and len(values) == 1}


def columns(table: Table) -> list[str]:
    """The columns that the page shows."""
    elsewhere = {table.detail, *agreed(table)}
    return [column for column in table.shown.columns if column not in elsewhere]


def rows(table: Table) -> list[dict[str, Any]]:
    """The rows of a table for the template: cells with their column, whether words and whether bold, and the detail."""
    seen = columns(table)
    return [
        {
            "cells": [
                {"column": c, "text": record[c], "words": c in table.text, "strong": (index, c) in table.strong}
                for c in seen
            ],
            "detail": record[table.detail] if table.detail else None,
        }
        for index, record in enumerate(table.shown.to_dict(orient="records"))
    ]
