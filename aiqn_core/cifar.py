"""CIFAR-10 and CIFAR-100: the binary files, the pickled ones or Parquet files, whichever are there."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aiqn_core.archives import Member, members
from aiqn_core.batches import checked_labels, complete, once, read_batch, unpickled
from aiqn_core.parquet import named_classes, read_table
from aiqn_core.pictures import Chunk, PrepareError


class Kind(NamedTuple):
    """What tells one CIFAR from the other."""

    parts: dict[str, str]  # the files by their names without suffix, and the split of each
    classes: int
    leading: int  # bytes before an image in the binary form; the last of them is its class
    key: str  # of the classes in the pickled form
    columns: tuple[str, ...]  # of the classes in the Parquet form


CIFAR10 = Kind({**{f"data_batch_{i}": "train" for i in range(1, 6)}, "test_batch": "test"}, 10, 1, "labels", ("label",))
CIFAR100 = Kind({"train": "train", "test": "test"}, 100, 2, "fine_labels", ("fine_label", "label"))


def _read(kind: Kind, source: Path) -> Iterator[Chunk]:
    seen: set[str] = set()
    tables: set[str] = set()
    for member in members(source):
        stem, _, suffix = member.base.partition(".")
        if stem in kind.parts and suffix in ("", "bin"):
            once(source, stem, seen)
            yield Chunk(kind.parts[stem], *(_binary(kind, member) if suffix else _pickled(kind, member)))
        elif suffix == "parquet" and (split := stem.partition("-")[0]) in ("train", "test"):
            once(source, stem, tables)
            for images, labels in read_table(member, kind.columns):
                yield Chunk(split, images, checked_labels(member.name, labels, kind.classes, 0, len(images)))
    if seen and tables:
        raise PrepareError(f"{source}: saw batches and Parquet files, which hold the same images; give one of them")
    if seen:
        complete(source, kind.parts, seen)


read_cifar10, read_cifar100 = partial(_read, CIFAR10), partial(_read, CIFAR100)


def _binary(kind: Kind, member: Member) -> tuple[np.ndarray, np.ndarray]:
    """Records of one or two bytes for the classes and 3 x 32 x 32 for the image."""
    content, length = np.frombuffer(member.read(), np.uint8), kind.leading + 3072
    if not len(content) or len(content) % length:
        raise PrepareError(
            f"{member.name}: saw {len(content)} bytes, expected a multiple of {length}; it is incomplete"
        )
    records = content.reshape(-1, length)
    labels = checked_labels(member.name, records[:, kind.leading - 1], kind.classes)
    return records[:, kind.leading :].reshape(-1, 3, 32, 32), labels


def _pickled(kind: Kind, member: Member) -> tuple[np.ndarray, np.ndarray]:
    return read_batch(member, kind.classes, key=kind.key)


def cifar100_classes(source: Path) -> list[str]:
    """The names of the 100 classes, of `meta`, `fine_label_names.txt` or a Parquet file; empty where there are none."""
    for member in members(source):
        names: list[str] = []
        if member.base == "fine_label_names.txt":
            names = member.read().decode("latin1").split()
        elif member.base == "meta":
            content = unpickled(member)
            found = content.get(b"fine_label_names", content.get("fine_label_names"))
            names = [_text(name) for name in found] if isinstance(found, list) else []
        elif member.base.endswith(".parquet"):
            names = named_classes(member, CIFAR100.columns)
        if len(names) == CIFAR100.classes:
            return names
    return []


def _text(name: object) -> str:
    return name.decode("latin1") if isinstance(name, bytes) else str(name)
