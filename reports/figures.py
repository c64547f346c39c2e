"""What all figures share: colours, look, and the way from an Altair specification to files and to the page."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
import vl_convert

from orchestrator.runs import write_bytes

WIDTH, HEIGHT, PPI = 440, 280, 200

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
    svg: str | None  # None: nothing to draw yet


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


def write_chart(chart: alt.TopLevelMixin, name: str, folder: Path) -> str:
    """Write `<name>.svg`, `.png` and `.pdf`; returns the SVG for a page. Same chart, same bytes."""
    with alt.data_transformers.enable("default", max_rows=None):
        specification = json.dumps(chart.to_dict(validate=False))  # Vega-Lite's compiler tells what is wrong, too
    drawn = vl_convert.vegalite_to_svg(specification)
    root = _titled(drawn, name)
    inline = ElementTree.tostring(root, encoding="unicode")
    width, height = root.attrib["viewBox"].split()[2:]
    attributes = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    write_bytes(folder / f"{name}.svg", inline.replace("<svg", attributes, 1).encode(), sync=False)
    write_bytes(folder / f"{name}.png", vl_convert.svg_to_png(drawn, scale=PPI / 72), sync=False)
    write_bytes(folder / f"{name}.pdf", _sorted_resources(vl_convert.svg_to_pdf(drawn)), sync=False)
    return inline


def _titled(svg: str, name: str) -> ElementTree.Element:
    """The SVG with marks' descriptions as <title>, which browsers show on hover, and ids that are unique in a page."""
    root = ElementTree.fromstring(svg)  # noqa: S314  written by ourselves a line earlier
    ids: dict[str, str] = {}
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        label, kind = element.attrib.get("aria-label"), element.attrib.get("aria-roledescription", "")
        for key in [
            key for key in element.attrib if key.startswith("aria-") or key in ("role", "class", "pointer-events")
        ]:
            del element.attrib[key]
        if label and (kind == "point" or kind.endswith("mark")):
            title = ElementTree.SubElement(element, "title")
            title.text = label
        if "id" in element.attrib:  # Vega counts on from figure to figure
            ids.setdefault(element.attrib["id"], f"{name}-{len(ids)}")
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.attrib[key] = ids[value]
            elif reference := re.fullmatch(r"url\(#(.+)\)", value):
                element.attrib[key] = f"url(#{ids[reference[1]]})"
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    return root


def _sorted_resources(pdf: bytes) -> bytes:
    """The PDF with the entries of each dictionary of resources in order: the writer's order is random."""
    entry = rb"(?: +/[A-Za-z]+\d+ \d+ 0 R\n)"
    return re.sub(entry + b"{2,}", lambda match: b"".join(sorted(match[0].splitlines(keepends=True))), pdf)
