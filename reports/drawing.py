"""From a Vega-Lite specification to files and to the page, by a process beside.

The library that draws lets no other thread of its process work, and half of a report's time is drawing.
"""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import vl_convert

from orchestrator.runs import write_bytes

PPI = 200


class Artist:
    """A process that draws one figure after the other."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "reports.drawing"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=Path(__file__).parent.parent)

    def draw(self, specification: str, name: str, folder: Path) -> "Drawing":
        """Have a figure drawn; it is there once it is asked for."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps([specification, name, str(folder.absolute())]).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # it has ended: what it said stands above, and `finish` raises
            self.finish()
        return Drawing(self, folder / f"{name}.svg")

    def finish(self) -> None:
        """Wait until everything is drawn; raises OSError where something could not be."""
        with self.process:  # closes its input, and waits
            pass
        if self.process.returncode:
            raise OSError(f"figures could not be drawn (code {self.process.returncode}); the reason is above")


class Drawing:
    """The SVG of a figure for a page, which waits for it: to be asked for when all figures were given to the artist."""

    def __init__(self, artist: Artist, path: Path) -> None:
        self.artist, self.path = artist, path

    def __html__(self) -> str:
        self.artist.finish()
        return SIZE.sub("<svg", self.path.read_text(encoding="utf-8"), count=1)


_artist: ContextVar[Artist | None] = ContextVar("artist", default=None)


@contextmanager
def drawing_beside() -> Iterator[None]:
    """Let the figures of the block be drawn by a process beside; all are there at its end."""
    artist = Artist()
    before = _artist.set(artist)
    try:
        yield
        artist.finish()
    except BaseException:
        artist.process.kill()
        raise
    finally:
        _artist.reset(before)
        artist.process.wait()


def drawn(specification: str, name: str, folder: Path) -> Any:
    """Write `<name>.svg`, `.png` and `.pdf`, beside or here; gives the SVG for a page, or what becomes it."""
    artist = _artist.get()
    return draw(specification, name, folder) if artist is None else artist.draw(specification, name, folder)


SIZE = re.compile('<svg xmlns="http://www.w3.org/2000/svg" width="[^"]*" height="[^"]*"')


def draw(specification: str, name: str, folder: Path) -> str:
    """Write `<name>.svg`, `.png` and `.pdf`; returns the SVG for a page. Same specification, same bytes."""
    svg = vl_convert.vegalite_to_svg(specification)
    root = _titled(svg, name)
    inline = ElementTree.tostring(root, encoding="unicode")
    width, height = root.attrib["viewBox"].split()[2:]
    attributes = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    write_bytes(folder / f"{name}.svg", inline.replace("<svg", attributes, 1).encode(), sync=False)
    write_bytes(folder / f"{name}.png", vl_convert.svg_to_png(svg, scale=PPI / 72), sync=False)
    write_bytes(folder / f"{name}.pdf", _sorted_resources(vl_convert.svg_to_pdf(svg)), sync=False)
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
    for element in root.iter():
        _compact(element)
    return root


INHERITED = ("fill", "stroke", "stroke-width", "fill-opacity", "stroke-opacity")  # from a group to what is in it


def _compact(element: ElementTree.Element) -> None:
    """Say once what all marks of a group share, and places to a hundredth of a pixel: hundreds of points are drawn."""
    for key in ("transform", "d"):
        if key in element.attrib:
            element.attrib[key] = PLACES.sub(
                lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), element.attrib[key]
            )
    if element.attrib.get("opacity") == "1":
        del element.attrib["opacity"]
    if element.tag != "g" or len(element) < 2 or any(child.tag != "path" for child in element):
        return
    for key in INHERITED:
        values = {child.attrib.get(key) for child in element}
        if len(values) == 1 and None not in values and key not in element.attrib:
            element.attrib[key] = str(values.pop())
            for child in element:
                del child.attrib[key]


PLACES = re.compile(r"-?\d+\.\d{3,}(?:e-?\d+)?")


def _sorted_resources(pdf: bytes) -> bytes:
    """The PDF with the entries of each dictionary of resources in order: the writer's order is random."""
    entry = rb"(?: +/[A-Za-z]+\d+ \d+ 0 R\n)"
    return re.sub(entry + b"{2,}", lambda match: b"".join(sorted(match[0].splitlines(keepends=True))), pdf)


def main() -> None:
    """The process beside: `python -m reports.drawing`, which reads a figure from each line."""
    for line in sys.stdin.buffer:
        specification, name, folder = json.loads(line)
        draw(specification, name, Path(folder))


if __name__ == "__main__":
    main()
