"""One HTML page of a sweep: tables, figures and samples in a file that needs nothing else."""

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from orchestrator.runs import Run, RunFolder, TrialFolder, write_bytes
from reports import tables
from reports.answer import answer
from reports.curves import learning_figures
from reports.figures import GRID, INK, MUTED, PAPER, color
from reports.formats import write_table
from reports.results import STAGES, Results, chosen_finals, last_record, ranked, read_results
from reports.rounding import plural, whole
from reports.search_figures import effect_figures, search_figures
from reports.search_tables import budget_table, importance_table, verdict_table
from reports.tables import Table

STRIP = 6  # sample grids of a strip over training
LONG = 12  # rows above which the list of trials that did not complete is folded
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Picture(NamedTuple):
    """An image inside the page."""

    uri: str
    width: int
    height: int
    title: str
    note: str


class Gallery(NamedTuple):
    """Samples of one arm: the grid to show, and grids of the same trial over training."""

    arm: str
    last: Picture | None
    strip: list[Picture]


def write_report(run_folder: Path | str) -> Path:
    """Write the report of a run folder into its `report` folder; returns the path of index.html.

    Tables as CSV, Markdown and LaTeX and figures as SVG, PNG and PDF lie beside it. The same run folder gives the same
    bytes. Raises RunFolderError where there is no run folder or it cannot be read.
    """
    results = read_results(run_folder)
    folder = RunFolder(Path(run_folder)).report
    shown = {table.name: table for table in all_tables(results)}
    for table in shown.values():
        write_table(table, folder)
    page = _template().render(
        results=results,
        answer=answer(results),
        progress=progress(results),
        tables=shown,
        figures=learning_figures(results, folder),
        search=search_figures(results, folder),
        effects=effect_figures(results, folder),
        caution=curve_caution(results),
        real=picture(results.folder / "real.png", "real", "held-out data"),
        galleries=[gallery(results, arm) for arm in results.arms],
        colors={arm: color(i) for i, arm in enumerate(results.arms)},
        tones={"ink": INK, "muted": MUTED, "grid": GRID, "paper": PAPER},
        long=LONG,
        strip=STRIP,
        date=datetime.fromtimestamp(results.created, UTC).strftime("%-d %B %Y") if results.created else None,
    )
    write_bytes(folder / "index.html", page.encode())
    return folder / "index.html"


def all_tables(results: Results) -> list[Table]:
    """Every table of the report, in the order of the page."""
    tops = [tables.top_configurations(results, arm) for arm in results.arms]
    search = [verdict_table(results), budget_table(results)]
    search += [importance_table(results, arm) for arm in results.arms]
    rest = (tables.counts, tables.incidents, tables.cost, tables.provenance, tables.trials)
    return [tables.comparison(results), *search, *tops, *(table(results) for table in rest)]


def progress(results: Results) -> str:
    """How much of the sweep is done: never silent about trials that are missing."""
    failed = sum(run.state in ("failed", "diverged", "stopped") for run in results.runs)
    lost = f"; {plural(failed, 'trial')} failed, diverged or stopped" if failed else ""
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
    finals, search = chosen_finals(results, arm), ranked(results, arm)
    run = min(finals, key=lambda run: run.seed) if finals else next(iter(search), None)
    steps = sample_steps(run) if run else []
    if run is None or not steps:
        return Gallery(arm, None, [])
    grids = [_grid(run, step) for step in steps]
    strip = [grid for grid in grids if grid]
    return Gallery(arm, strip[-1] if strip else None, _evenly(strip, STRIP) if len(strip) > 1 else [])


def sample_steps(run: Run) -> list[int]:
    """The steps at which a trial saved a grid of samples."""
    folder = TrialFolder(run.folder).samples(0).parent
    return sorted(int(path.stem) for path in folder.glob("*.png") if path.stem.isdigit())


def _grid(run: Run, step: int) -> Picture | None:
    return picture(TrialFolder(run.folder).samples(step), run.arm, f"{run.id}, seed {run.seed}, step {step:,}")


def _evenly(items: list[Picture], limit: int) -> list[Picture]:
    if len(items) <= limit:
        return items
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def picture(path: Path, title: str, note: str) -> Picture | None:
    """A PNG file as a data URI with its size in pixels, or None where there is none or it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if not content.startswith(PNG_SIGNATURE) or not content.rstrip(b"\0").endswith(b"IEND\xaeB`\x82"):
        return None
    width, height = (int.from_bytes(content[start : start + 4], "big") for start in (16, 20))
    return Picture("data:image/png;base64," + base64.b64encode(content).decode(), width, height, title, note)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["rows"] = rows
    environment.filters["inline"] = Markup  # figures only: we drew them
    return environment.get_template("report.html.j2")


def rows(table: Table) -> list[dict[str, Any]]:
    """The rows of a table for the template: cells with their column, whether words and whether bold, and the detail."""
    columns = [column for column in table.shown.columns if column != table.detail]
    return [
        {
            "cells": [
                {"column": c, "text": record[c], "words": c in table.text, "strong": (index, c) in table.strong}
                for c in columns
            ],
            "detail": record[table.detail] if table.detail else None,
        }
        for index, record in enumerate(table.shown.to_dict(orient="records"))
    ]
