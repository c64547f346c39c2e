"""Your own images: a folder or an archive with a folder for each class, and splits above them where there are any."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from aiqn_core.archives import Member, members
from aiqn_core.pictures import Chunk, Place, PrepareError, Survey, decode, pictures
from aiqn_core.readers import IMAGE_SUFFIXES, is_image

TRAIN, TEST, VALIDATION = ("train", "training"), ("test", "testing"), ("validation", "valid", "val", "dev")
SPLIT_NAMES = {name: "train" if name in TRAIN else "test" for name in (*TRAIN, *TEST, *VALIDATION)}
UNREAD = (".heic", ".heif", ".jp2", ".jxl", ".svg", ".psd", ".eps", ".tga", ".ico", ".dcm", ".exr", ".pcx", ".dng")
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
        if not is_image(member):
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
        if is_image(member):
            parents.add(path.parts[:-1])
            survey.add(member.name, member.read())
        else:
            skipped[path.suffix.lower() or "no suffix"] += 1
            if path.suffix.lower() in UNREAD:
                unread.add(path.parts[:-1])
    if not parents:
        raise PrepareError(f"{source}: no images in it; expected {VALID} ending in {', '.join(IMAGE_SUFFIXES)}")
    if lost := sorted("/".join(parent) for parent in unread - parents):
        kinds = ", ".join(kind for kind in skipped if kind in UNREAD)
        raise PrepareError(
            f"{source}: saw only images of kinds that are not read ({kinds}) in {', '.join(lost[:4])}, a class that "
            f"would vanish; expected {', '.join(IMAGE_SUFFIXES)}"
        )
    depth = _depth(source, parents)
    classes = [""] if depth == 1 else sorted({parent[-1] if parent else "" for parent in parents}, key=natural)
    said = [f"Skipped: {', '.join(f'{count:,} {kind}' for kind, count in sorted(skipped.items()))}"] if skipped else []
    return Layout(classes, depth, survey.channels(channels), [*_splits(parents, depth), *survey.notes(channels), *said])


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


def _splits(parents: set[tuple[str, ...]], depth: int) -> list[str]:
    """What became of the splits that are not called train and test."""
    names = sorted({parent[-depth] for parent in parents}) if depth else []
    if {name.lower() for name in names} <= {"train", "test"}:
        return []
    parts = {split: [name for name in names if SPLIT_NAMES[name.lower()] == split] for split in ("train", "test")}
    return [f"Trained on: {', '.join(parts['train'])}; held out: {', '.join(parts['test'])}"]


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """A key to sort names by, in which numbers count as numbers."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts], name
