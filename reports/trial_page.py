"""A page for each trial worth a close look: curves, samples over training, calibration, configuration, provenance."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from orchestrator import shapes
from orchestrator.runs import Run, TrialFolder, read_json, write_bytes
from reports.figures import color
from reports.pictures import Picture, evenly, picture
from reports.results import Results, finite, ranked
from reports.rounding import parameter, rounded
from reports.templates import environment

TOP = 5  # search trials of each arm with a page; finals all have one
GRIDS = 8  # pictures of samples over training
CALIBRATION = re.compile(r"calibration_(\d\d)")
# Ends of error bars, times and counts stand beside what they belong to.
ASIDE = re.compile(r"step|time|seconds|evaluate_seconds|samples|calibration_\d\d|.*_(low|high|bias)")
WIDTH, HEIGHT, LEFT, TOP_MARGIN, BOTTOM = 300, 164, 4, 18, 30  # of a curve, and its margins, where the words are
LOCAL = "http://127.0.0.1:5000"  # where `aiqn ui` listens


class Curve(NamedTuple):
    """One metric over the steps, as a small drawing."""

    name: str
    last: str
    svg: Markup


def write_trial_pages(results: Results, folder: Path) -> dict[str, str]:
    """Write `trials/<id>.html` below the report's folder; returns trial -> address relative to it.

    For the finals and the best search trials of each arm. Drawn without Altair, which takes 50 ms for a figure.
    """
    template, pages = environment().get_template("trial.html.j2"), {}
    for position, arm in enumerate(results.arms):
        for run in (*results.of(arm, "final"), *ranked(results, arm)[:TOP]):
            pages[run.id] = f"trials/{run.id}.html"
            page = template.render(**content(results, run), tones=color(position))
            write_bytes(folder / pages[run.id], page.encode(), sync=False)
    return pages


def content(results: Results, run: Run) -> dict[str, Any]:
    """What the page of one trial shows."""
    grids = [grid for step in sample_steps(run) if (grid := sample_grid(run, step))]
    return {
        "results": results,
        "run": run,
        "curves": curves(run),
        "grids": evenly(grids, GRIDS),
        "calibration": calibration(run),
        "configuration": [(key, parameter(value)) for key, value in _leaves(run.config) if value is not None],
        "provenance": list(_leaves(run.provenance)),
        "mlflow": mlflow_address(run),
        "local": LOCAL,
    }


def curves(run: Run) -> list[Curve]:
    """Every metric that was measured more than once, in the order of its first record."""
    names = dict.fromkeys(name for record in run.history for name in record if not ASIDE.fullmatch(name))
    drawn = []
    for name in names:
        points = [(step, value) for step, value in run.curve(name) if finite(value) is not None]
        if len(points) > 1:
            drawn.append(Curve(name, rounded(points[-1][1]), curve_svg(points)))
    return drawn


def curve_svg(points: list[tuple[int, float]]) -> Markup:
    """A line with its largest and smallest value and its last step; points have titles where there are few."""
    steps, values = zip(*points, strict=True)
    low, high, end = min(values), max(values), max(steps)

    def place(step: float, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - 2 * LEFT) * step / (end or 1)
        y = TOP_MARGIN + (HEIGHT - TOP_MARGIN - BOTTOM) * ((high - value) / (high - low) if high > low else 0.5)
        return round(x, 1), round(y, 1)

    line = " ".join(f"{x},{y}" for x, y in (place(*point) for point in points))
    marks = [
        f'<circle cx="{x}" cy="{y}" r="2.5"><title>{rounded(value)} at step {step:,}</title></circle>'
        for step, value in (points if len(points) <= 30 else [])
        for x, y in [place(step, value)]
    ]
    words = [(LEFT, 10, "start", rounded(high)), (LEFT, HEIGHT - BOTTOM + 16, "start", rounded(low))]
    words.append((WIDTH - LEFT, HEIGHT - BOTTOM + 16, "end", f"step {end:,}"))
    texts = [f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>' for x, y, anchor, text in words]
    return Markup(  # noqa: S704  numbers and our own words
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}"><polyline points="{line}"/>{"".join(marks)}{"".join(texts)}</svg>'
    )


def calibration(run: Run) -> list[tuple[str, str]]:
    """(level, P(x <= Q(level))) at the last evaluation that measured it; empty for models without quantiles."""
    for record in reversed(run.history):
        found = {key: value for key, value in record.items() if CALIBRATION.fullmatch(key)}
        if found:
            return [(f"0.{key[-2:]}", rounded(found[key], 3)) for key in sorted(found)]
    return []


def sample_steps(run: Run) -> list[int]:
    """The steps at which a trial saved a grid of samples."""
    folder = TrialFolder(run.folder).samples(0).parent
    return sorted(int(path.stem) for path in folder.glob("*.png") if path.stem.isdigit())


def sample_grid(run: Run, step: int) -> Picture | None:
    """The samples of one evaluation."""
    rows = "a class in each row, " if run.config.get("model", {}).get("conditional") else ""
    return picture(TrialFolder(run.folder).samples(step), run.arm, f"{rows}{run.id}, seed {run.seed}, step {step:,}")


def mlflow_address(run: Run) -> str | None:
    """Where MLflow shows the trial, if it was sent there; of a store without a server, while `aiqn ui` runs."""
    mirror = read_json(run.folder.parent.parent / "mirror.json", shapes.MIRROR) or {}
    sent, uri = (mirror.get("runs") or {}).get(run.id), str(mirror.get("uri") or "")
    if not sent:
        return None
    base = uri.rstrip("/") if uri.startswith(("http://", "https://")) else LOCAL
    return f"{base}/#/experiments/{mirror.get('experiment')}/runs/{sent}"


def _leaves(mapping: dict[str, Any], path: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, value in mapping.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict):
            leaves += _leaves(value, name)
        else:
            leaves.append((name, json.dumps(value) if isinstance(value, list) else value))
    return leaves
