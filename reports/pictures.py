"""PNG files of a run folder as images inside a page."""

import base64
from pathlib import Path
from typing import NamedTuple

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Picture(NamedTuple):
    """An image inside the page."""

    uri: str
    width: int
    height: int
    title: str
    note: str


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


def evenly(items: list[Picture], limit: int) -> list[Picture]:
    """At most `limit` of them, the first and the last included."""
    if len(items) <= limit:
        return items
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]
