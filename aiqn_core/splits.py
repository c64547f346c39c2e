"""Which of your own images are held out: what their files say, or else about one in ten, by its content."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from aiqn_core.pictures import Chunk, PrepareError

TRAIN, TEST, VALIDATION = ("train", "training"), ("test", "testing", "t10k"), ("validation", "valid", "val", "dev")
SPLIT_NAMES = {name: "train" if name in TRAIN else "test" for name in (*TRAIN, *TEST, *VALIDATION)}


class Own(NamedTuple):
    """Your own images, and what is to be said of them."""

    chunks: Iterator[Chunk]  # of no split where about one in ten is still to be held out, see `divided`
    classes: list[str]  # empty where they have no names
    sorting: list[str]  # what was done with splits, channels and columns, in sentences
    notes: list[str]  # what was done to the images, and what was left out


def words(text: str) -> list[str]:
    """The words and numbers of a name, in lower case: `x_train.npy` has x, train and npy."""
    return re.findall(r"[a-z0-9]+", text.lower())


def split_word(name: str) -> str:
    """The word that names the split of a file, in its own name or in those of its folders; empty where none does."""
    parts = reversed(PurePosixPath(name).parts)
    return next((word for part in parts for word in words(part) if word in SPLIT_NAMES), "")


def check_splits(source: Path, found: dict[str, str]) -> None:
    """Raises PrepareError where some of the names have a word for their split and others have none."""
    without = [name for name, word in found.items() if not word]
    if without and len(without) < len(found):
        others = ", ".join(sorted({word for word in found.values() if word}))
        raise PrepareError(
            f"{source}: saw {without[0]} beside {others}; expected train, test or validation in each name, or in none"
        )


def split_notes(found: Iterable[str]) -> list[str]:
    """What became of the splits that are not called train and test."""
    names = sorted(set(found) - {""})
    if {name.lower() for name in names} <= {"train", "test"}:
        return []
    parts = {split: [name for name in names if SPLIT_NAMES[name.lower()] == split] for split in ("train", "test")}
    return [f"Trained on: {', '.join(parts['train'])}; held out: {', '.join(parts['test'])}"]


def divided(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """The chunks, those of no split in two: images whose SHA-256 begins with a byte below 26, of 256, are held out."""
    for split, images, labels in chunks:
        if split:
            yield Chunk(split, images, labels)
            continue
        held_out = np.array([hashlib.sha256(image.tobytes()).digest()[0] < 26 for image in images], bool)
        for part, chosen in (("train", ~held_out), ("test", held_out)):
            if chosen.any():
                yield Chunk(part, images[chosen], labels[chosen])
