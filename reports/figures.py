"""What all figures share: colours and look."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt

from reports.drawing import drawn

WIDTH, HEIGHT = 440, 280

# Okabe and Ito's palette, readable with every common colour blindness; the second tone is for dark pages.
PALETTE = [
    ("#0072b2", "#5ab4f0"),
    ("#d55e00", "#ff9455"),
    ("#009e73", "#3fcfa3"),
    ("#b0568f", "#e79bcb"),
    ("#b58200", "#f0bd4e"),
    ("#56b4e9", "#a5d8f7"),
]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]
INK, MUTED, GRID, PAPER = "#1d2125", "#5c6570", "#e5e8eb", "#ffffff"


class Figure(NamedTuple):
    """A figure in the page and the stem of its files."""

    name: str
    title: str
    caption: str
    svg: Any  # text, or what becomes text in a page; None: nothing to draw yet


def color(index: int) -> tuple[str, str]:
    """Colours of an arm on light and on dark paper."""
    return PALETTE[index % len(PALETTE)]


def styled(chart: Any) -> Any:
    """A chart in the look of all our figures."""
    font = "Helvetica Neue, Helvetica, Arial, sans-serif"
    labels = {"labelFont": font, "labelColor": MUTED, "labelFontSize": 12}
    return (
        chart.configure(background=PAPER, padding=6)
        .configure_view(stroke=None)
        .configure_axis(
            **labels, titleFont=font, titleColor=MUTED, titleFontSize=12, titleFontWeight="normal", titlePadding=8,
            gridColor=GRID, domainColor=MUTED, domainWidth=0.8, tickColor=MUTED, tickWidth=0.8, tickSize=4,
        )
        .configure_axisY(domain=False, ticks=False, labelPadding=6)
        .configure_legend(**{**labels, "labelFontSize": 13, "labelColor": INK}, offset=6, columnPadding=18)
        .configure_title(
            font=font, fontSize=15, fontWeight="normal", color=INK, anchor="start", offset=6,
            subtitleFont=font, subtitleFontSize=12, subtitleColor=MUTED, subtitlePadding=5, frame="bounds",
        )
    )  # fmt: skip


def write_chart(chart: alt.TopLevelMixin, name: str, folder: Path) -> Any:
    """Write `<name>.svg`, `.png` and `.pdf`; returns the SVG for a page, or what becomes it. Same chart, same bytes."""
    with alt.data_transformers.enable("default", max_rows=None):
        specification = json.dumps(chart.to_dict(validate=False))  # Vega-Lite's compiler tells what is wrong, too
    return drawn(specification, name, folder)
