"""The readers of ImageNet at 32 and 64 pixels and of CelebA.

A reader yields (split, images (n, C, H, W) uint8, labels (n,)) in the order of the source.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from aiqn_core.archives import Member, members
from aiqn_core.batches import complete, once, read_batch
from aiqn_core.pictures import Chunk, Place, PrepareError, decode, is_image, pictures

CELEBA_TRAIN = 162_770  # images 1 to this are the published training split
IMAGENET_BATCHES = (*(f"train_data_batch_{i}" for i in range(1, 11)), "val_data")


def read_imagenet(source: Path, side: int) -> Iterator[Chunk]:
    """The PNG folders such as train_64x64 and valid_64x64 (no classes), or the batch files of downsampled ImageNet."""
    splits = {f"train_{side}x{side}": "train", f"valid_{side}x{side}": "test"}

    def where(member: Member) -> Place | None:
        folders = PurePosixPath(member.name).parts[:-1]
        split = splits.get(folders[-1]) if folders and is_image(member.base) else None
        return Place(split, 0, f"{split}/{member.base}") if split else None

    seen: set[str] = set()
    has_pictures = False
    for member in members(source):
        part = member.base.removesuffix(".pickle").removesuffix(".npz")
        if part in IMAGENET_BATCHES:
            once(source, part, seen)
            yield Chunk("test" if part == "val_data" else "train", *read_batch(member, 1000, 1, side))
        has_pictures = has_pictures or where(member) is not None
    if seen and has_pictures:
        raise PrepareError(f"{source}: saw batches and folders of images, which hold the same; give one of them")
    if seen:
        complete(source, IMAGENET_BATCHES, seen)
    else:
        yield from pictures(source, where, lambda name, content: decode(name, content, expect=(side, side)))


def read_celeba(source: Path) -> Iterator[Chunk]:
    """The aligned 178 x 218 JPEGs: their 108 x 108 centre, resized to 64 x 64; held out are validation and test.

    The centre's upper left corner is 35 pixels from the left and 55 from the top; the filter is Pillow's bicubic,
    which averages. The split is that of list_eval_partition.txt, or where there is none the same by number: images
    000001 to 162770 train. One class: CelebA's attributes are not read.
    """
    partition = _partition(source)

    def where(member: Member) -> Place | None:
        match = re.fullmatch(r"(\d{6})\.(jpg|png)", member.base)
        if match is None:
            return None
        if partition is not None and match[1] not in partition:
            raise PrepareError(f"{source}: {member.base} is not in list_eval_partition.txt; complete it or remove it")
        train = int(match[1]) <= CELEBA_TRAIN if partition is None else partition[match[1]] == 0
        return Place("train" if train else "test", 0, match[1])

    def face(name: str, content: bytes) -> np.ndarray:
        return decode(name, content, expect=(178, 218), crop=108, size=64)

    yield from pictures(source, where, face)


def _partition(source: Path) -> dict[str, int] | None:
    """Image number -> 0 training, 1 validation, 2 test, of list_eval_partition.txt; None where there is none."""
    for member in members(source):
        if member.base == "list_eval_partition.txt":
            return dict(_partition_lines(member.name, member.read().decode("latin1")))
    return None


def _partition_lines(name: str, text: str) -> Iterator[tuple[str, int]]:
    for number, line in enumerate(text.splitlines(), 1):
        match = re.fullmatch(r"(\d{6})\.(?:jpg|png)\s+([012])\s*", line)
        if match is not None:
            yield match[1], int(match[2])
        elif line.strip():
            raise PrepareError(f"{name}, line {number}: saw {line[:50]!r}, expected such as '000001.jpg 0'")
