"""Your own images: a folder or an archive with a folder for each class, and splits above them where there are any."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from aiqn_core.archives import Member, members
from aiqn_core.pictures import IMAGE_SUFFIXES, Chunk, Place, PrepareError, decode, is_image, pictures
from aiqn_core.splits import SPLIT_NAMES, split_notes
from aiqn_core.survey import Survey

UNREAD = (".heic", ".heif", ".jp2", ".jxl", ".svg", ".psd", ".eps", ".tga", ".ico", ".dcm", ".exr", ".pcx", ".dng")
SUFFIXES = ", ".join(IMAGE_SUFFIXES)
VALID = "<class>/<image>, or train/<class>/<image> and test/<class>/<image>"


class Layout(NamedTuple):
    """How the images of a folder are sorted, and what is to be told of them."""

    classes: list[str]  # in natural order: 2 before 10
    depth: int  # of the split above an image: 0 none, 1 its folder, 2 the folder of its class
    channels: int
    notes: list[str]


def read_folder(source: Path, size: int | None, layout: Layout) -> Iterator[Chunk]:
    """Images in one folder for each class; below their splits, or else about one in ten is held out, by name.

    Which ones: those whose <class>/<file> has a SHA-256 that begins with a byte below 26.
    """

    def where(member: Member) -> Place | None:
        if not is_image(member.base):
            return None
        parts = PurePosixPath(member.name).parts
        label = layout.classes.index(parts[-2] if len(parts) > 1 and layout.depth != 1 else "")
        if layout.depth:
            return Place(SPLIT_NAMES[parts[-1 - layout.depth].lower()], label, member.name)
        held_out = hashlib.sha256("/".join(parts[-2:]).encode()).digest()[0] < 26  # of 256
        return Place("test" if held_out else "train", label, member.name)

    def read(name: str, content: bytes) -> np.ndarray:
        return decode(name, content, size=size, channels=layout.channels)

    yield from pictures(source, where, read)


def folder_layout(source: Path, channels: int | None = None) -> Layout:
    """How a source of images is sorted; raises PrepareError where there are none, or where they are sorted otherwise.

    A guess would be worse than an error: a class that cannot be read would vanish from the data. One channel where no
    image has a colour, unless `channels` says how many.
    """
    parents: set[tuple[str, ...]] = set()
    unread: set[tuple[str, ...]] = set()
    skipped: Counter[str] = Counter()
    survey = Survey()
    for member in members(source):
        path = PurePosixPath(member.name)
        if is_image(member.base):
            parents.add(path.parts[:-1])
            survey.add(member.name, member.read())
        else:
            skipped[kind(member)] += 1
            if kind(member) in UNREAD:
                unread.add(path.parts[:-1])
    if not parents:
        raise PrepareError(
            f"{source}: no images in it; expected {VALID} ending in {SUFFIXES}, or .npy, .npz, .parquet or IDX files"
        )
    if lost := sorted("/".join(parent) for parent in unread - parents):
        kinds = ", ".join(one for one in skipped if one in UNREAD)
        raise PrepareError(
            f"{source}: saw only images of kinds that are not read ({kinds}) in {', '.join(lost[:4])}, a class that "
            f"would vanish; expected {SUFFIXES}"
        )
    depth = _depth(source, parents)
    classes = [""] if depth == 1 else sorted({parent[-1] if parent else "" for parent in parents}, key=natural)
    notes = [*split_notes(parent[-depth] for parent in parents if depth), *survey.notes()]
    notes += [*survey.channel_notes(channels), *skipped_note(skipped)]
    return Layout(classes, depth, survey.channels(channels), notes)


def kind(member: Member) -> str:
    """What a file is by its name: its suffix, in lower case."""
    return PurePosixPath(member.name).suffix.lower() or "no suffix"


def skipped_note(skipped: Counter[str]) -> list[str]:
    """What is said of the files that are no images, by their kinds."""
    return [f"Skipped: {', '.join(f'{count:,} {one}' for one, count in sorted(skipped.items()))}"] if skipped else []


def _depth(source: Path, parents: set[tuple[str, ...]]) -> int:
    for depth in (1, 2):
        names = {parent[-depth].lower() if len(parent) >= depth else "" for parent in parents}
        above = {parent[:-depth] for parent in parents}
        if names <= set(SPLIT_NAMES) and {SPLIT_NAMES[name] for name in names} == {"train", "test"} and len(above) == 1:
            return depth
    is_split = any(name.lower() in SPLIT_NAMES for parent in parents for name in parent[-2:])
    if parents == {()} or (not is_split and () not in parents and len({parent[:-1] for parent in parents}) == 1):
        return 0
    seen = ", ".join(sorted("/".join((*parent, "<image>")) for parent in parents)[:4])
    raise PrepareError(f"{source}: saw {seen}{', ...' if len(parents) > 4 else ''}; expected {VALID}")


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """A key to sort names by, in which numbers count as numbers."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts], name
