"""Your own images in Parquet files: their columns, splits, classes and channels."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aiqn_core.archives import Member, members
from aiqn_core.folders import natural
from aiqn_core.parquet import Columns, find_columns, image_bytes, named_classes, opened, read_table
from aiqn_core.pictures import CHUNK, Chunk, PrepareError
from aiqn_core.splits import SPLIT_NAMES, Own, check_splits, split_notes, split_word
from aiqn_core.survey import Survey

MOST_CLASSES = 65_536


class _Seen(NamedTuple):
    """What a first reading of all files finds."""

    survey: Survey
    labels: set[Any]  # all different ones; None where there are none
    columns: dict[str, Columns]  # by file
    names: list[str]  # of the classes, where a file tells them


def table_images(source: Path, size: int | None = None, channels: int | None = None) -> Own:
    """The images of all Parquet files of a source, split by the names of the files.

    Labels are integers from 0, or text, whose classes are in natural order. Raises PrepareError for other files.
    """
    seen = _first_reading(source)
    single = source.is_file() and is_table(source.name)
    splits = {name: "" if single else split_word(name) for name in seen.columns}
    check_splits(source, splits)
    known = {word: SPLIT_NAMES[word] for word in splits.values() if word}
    numbers, classes = _numbers(source, seen)
    count = seen.survey.channels(channels)

    def chunks() -> Iterator[Chunk]:
        for member in tables(source):
            for images, given in read_table(member, channels=count, size=size):
                labels = np.array([numbers[label] for label in given], np.int64)
                yield Chunk(known[splits[member.name]] if "test" in known.values() else "", images, labels)

    sorting = [*split_notes(splits.values() if "test" in known.values() else ()), *_told(seen)]
    return Own(chunks(), classes, [*sorting, *seen.survey.channel_notes(channels)], seen.survey.notes())


def is_table(name: str) -> bool:
    """Whether a file is a Parquet file by its name."""
    return name.lower().endswith(".parquet")


def tables(source: Path) -> Iterator[Member]:
    """The Parquet files of a source."""
    return (member for member in members(source) if is_table(member.base))


def _first_reading(source: Path) -> _Seen:
    seen = _Seen(Survey(), set(), {}, [])
    for member in tables(source):
        member = Member(member.name, functools.partial(bytes, member.read()))
        with opened(member) as file:
            columns = find_columns(member.name, file.schema_arrow)
            row = 0
            for batch in file.iter_batches(CHUNK, columns=[name for name in columns[:2] if name is not None]):
                for cell in batch.column(columns.image).to_pylist():
                    name = f"{member.name}, row {row}"
                    seen.survey.add(name, image_bytes(name, cell))
                    row += 1
                seen.labels.update([None] if columns.label is None else _plain(member, batch.column(columns.label)))
        seen.columns[member.name] = columns
        seen.names[:] = seen.names or named_classes(member)
    return seen


def _plain(member: Member, column: Any) -> list[Any]:
    values = column.unique().to_pylist()
    wrong = next((value for value in values if not isinstance(value, int | str) or isinstance(value, bool)), 0)
    if wrong != 0:
        raise PrepareError(f"{member.name}: saw the label {wrong!r:.50}, expected integers from 0, or text")
    return values


def _numbers(source: Path, seen: _Seen) -> tuple[dict[Any, int], list[str]]:
    """The number of each label, and the names of the classes."""
    kinds = {type(label) for label in seen.labels}
    if len(kinds) > 1:
        raise PrepareError(f"{source}: saw labels of several kinds, or missing ones; expected integers, or text")
    if kinds <= {type(None)}:
        return {None: 0}, []
    if kinds == {str}:
        classes = sorted(seen.labels, key=natural)
        return {label: number for number, label in enumerate(classes)}, classes
    first, last = min(seen.labels), max(seen.labels)
    if first < 0 or last >= MOST_CLASSES:
        raise PrepareError(f"{source}: saw labels {first} to {last}, expected integers from 0 to {MOST_CLASSES - 1}")
    return {label: label for label in seen.labels}, seen.names if last < len(seen.names) else []


def _told(seen: _Seen) -> list[str]:
    """Which columns are read, in a sentence for each way the files have them."""
    sentences = []
    for columns in dict.fromkeys((one.image, one.label, *one.unused) for one in seen.columns.values()):
        image, label, *unused = columns
        labels = f"labels from {label}" if label else "no labels"
        left = f"; not used: {', '.join(str(name) for name in unused)}" if unused else ""
        sentences.append(f"Columns: images from {image}, {labels}{left}")
    return sentences
