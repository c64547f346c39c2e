"""Images in arrays: files of NumPy and of IDX, one or a folder of them, with labels and splits by their names."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aiqn_core.archives import ARCHIVES, Member, members
from aiqn_core.idx import parse, unpacked
from aiqn_core.pictures import Chunk, PrepareError
from aiqn_core.splits import SPLIT_NAMES, Own, check_splits, split_notes, split_word, words
from aiqn_core.survey import channel_notes, in_channels, without_colour

SUFFIXES = (".npy", ".npz")
IDX = re.compile(r"[-.]idx\d(-ubyte)?(\.gz)?$")
IMAGE_WORDS = ("x", "image", "images", "img", "imgs", "data", "arr", "samples")
MOST_CLASSES = 2**20  # ImageNet-21K has 21,841
LABEL_WORDS = ("y", "label", "labels", "target", "targets")
VALID = "x_train, train_images, images, x, data, arr_0"


class Named(NamedTuple):
    """An array and what its name says."""

    name: str  # as it is shown
    split: str  # the word for it, or empty
    rest: tuple[str, ...]  # by which labels find their images
    array: np.ndarray


def is_array(name: str) -> bool:
    """Whether a file holds arrays by its name."""
    return name.lower().endswith(SUFFIXES) or IDX.search(name.lower()) is not None


def array_images(source: Path, channels: int | None = None) -> Own:
    """All images in the arrays of a source; the chunks have no split where there is no test set.

    One channel where no image has a colour, unless `channels` says how many. Raises PrepareError for other arrays.
    """
    images: list[Named] = []
    labels: list[Named] = []
    others: list[str] = []
    for one in _arrays(source):
        role = _role(source, one)
        if role == "images":
            images.append(one._replace(array=as_images(one.name, one.array)))
        elif role == "labels":
            labels.append(one)
        else:
            others.append(one.name)
    if not images:
        seen = ", ".join(name.removeprefix(f"{source}, ") for name in others) or "none"
        raise PrepareError(f"{source}: saw arrays {seen}; expected one of {VALID}, and labels such as y_train")
    check_splits(source, {one.name: one.split for one in images})
    _once(source, images)
    split = any(SPLIT_NAMES.get(one.split) == "test" for one in images)
    plain = all(without_colour(one.array) for one in images)
    stored = all(one.array.shape[1] == 1 for one in images)
    count = channels or (1 if plain else 3)
    paired = {one.name: _labels(one, images, labels) for one in images}

    def chunks() -> Iterator[Chunk]:
        for one in images:
            where = SPLIT_NAMES[one.split] if split else ""
            yield Chunk(where, in_channels(one.array, count), _numbers(one, paired[one.name]))

    used = {one.name for one in paired.values() if one is not None}
    others += [one.name for one in labels if one.name not in used]
    shown = [name.removeprefix(f"{source}, ").removeprefix(f"{source}/") for name in others]
    sorting = [*split_notes(one.split for one in images if split), *channel_notes(plain, stored, channels)]
    return Own(chunks(), [], sorting, [f"Arrays not used: {', '.join(shown)}"] if shown else [])


def _arrays(source: Path) -> Iterator[Named]:
    """The arrays of a source; the name of a file counts only where there may be others."""
    if source.is_file() and not source.name.endswith(ARCHIVES):
        read = source if source.suffix.lower() in SUFFIXES else next(members(source)).read()
        yield from _in_file(str(source), "", read)
        return
    for member in members(source):
        if is_array(member.base):
            yield from _in_file(f"{source}/{member.name}", _without_suffix(member), member.read())


def _without_suffix(member: Member) -> str:
    return re.sub(r"\.np[yz]$", "", IDX.sub("", member.name), flags=re.IGNORECASE)


def _in_file(shown: str, scope: str, content: Path | bytes) -> Iterator[Named]:
    if IDX.search(shown.lower()):
        assert isinstance(content, bytes)
        yield _named(shown, scope, "", parse(shown, unpacked(Member(shown, lambda: content))))
        return
    try:
        loaded = np.load(io.BytesIO(content) if isinstance(content, bytes) else content, allow_pickle=False)
        found = {"": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except Exception as error:  # of damaged bytes NumPy and zipfile raise a dozen types, one of them tokenize's
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise PrepareError(f"{shown}: is no array of numbers that NumPy can read ({reason})") from None
    for key, array in found.items():
        yield _named(f"{shown}, {key}" if key else shown, scope, key, array)


def _named(shown: str, scope: str, key: str, array: np.ndarray) -> Named:
    used = (*SPLIT_NAMES, *IMAGE_WORDS, *LABEL_WORDS)
    rest = tuple(word for word in words(f"{scope}/{key}") if word not in used)
    return Named(shown, split_word(f"{scope}/{key}".strip("/")), rest, array)


def _role(source: Path, one: Named) -> str:
    """`images`, `labels` or nothing, by the last part of the name; a file that is one array may be called anything."""
    key = words(re.split(r"[,/] ?", one.name.removeprefix(str(source)))[-1])
    in_npz = ".npz, " in one.name
    if any(word in LABEL_WORDS for word in key):
        return "labels"
    if one.name == str(source) or (not in_npz and one.array.ndim >= 3):
        return "images"
    known = any(word in IMAGE_WORDS for word in key) or (bool(key) and all(word in SPLIT_NAMES for word in key))
    return "images" if known and (one.array.ndim >= 3 or "arr" not in key) else ""


def _once(source: Path, images: list[Named]) -> None:
    seen: dict[tuple[str, ...], str] = {}
    for one in images:
        if (before := seen.setdefault((one.split, *one.rest), one.name)) != one.name:
            raise PrepareError(f"{source}: saw {before} and {one.name}, expected one of the two, or names that differ")


def _labels(one: Named, images: list[Named], labels: list[Named]) -> Named | None:
    """The labels of images: those with the same name but for the word `labels`, or the only ones; None without any."""
    same = [label for label in labels if label.split == one.split]
    exact = [label for label in same if label.rest == one.rest]
    if not exact and len(same) == 1 and sum(other.split == one.split for other in images) == 1:
        exact = same
    if labels and not exact:
        raise PrepareError(f"{one.name}: saw no labels for these images, but {labels[0].name}; expected some for each")
    return exact[0] if exact else None


def _numbers(images: Named, one: Named | None) -> np.ndarray:
    """Labels (N,) from 0; all are 0 where there are none."""
    count = len(images.array)
    if one is None:
        return np.zeros(count, np.int64)
    found = one.array.reshape(-1)
    if len(found) != count or not np.issubdtype(found.dtype, np.integer) or found.min(initial=0) < 0:
        shown = f"{found.dtype} {one.array.shape}"
        raise PrepareError(f"{one.name}: saw labels of {shown}, expected {count} integers from 0")
    if found.max(initial=0) >= MOST_CLASSES:
        raise PrepareError(f"{one.name}: saw the label {found.max()}, expected numbers of classes, from 0")
    return found.astype(np.int64)


def as_images(name: str, array: np.ndarray) -> np.ndarray:
    """An array of images as (N, C, H, W) uint8; (N, H, W) and (N, H, W, C) are taken too, C being 1 or 3."""
    if array.dtype != np.uint8:
        raise PrepareError(f"{name}: saw {_values(array)}, expected uint8 of 0 to 255; {_cure(array)}")
    first, last = (array.ndim == 4 and array.shape[axis] in (1, 3) for axis in (1, 3))
    if array.ndim == 3 and array.size:
        array = array[:, None]
    elif last and not first and array.size:
        array = array.transpose(0, 3, 1, 2)
    elif not first or last or not array.size:
        expected = "(N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W)"
        raise PrepareError(f"{name}: saw the shape {array.shape}, expected {expected}")
    return np.ascontiguousarray(array)


def _values(array: np.ndarray) -> str:
    if not np.issubdtype(array.dtype, np.floating) or not array.size:
        return f"{array.dtype}"
    broken = int((~np.isfinite(array)).reshape(len(array), -1).any(1).sum()) if array.ndim else 0
    if broken:
        count = f"{len(array):,} image{'' if len(array) == 1 else 's'}"
        return f"NaN or infinity in {broken} of {count} ({array.dtype})"
    return f"{array.dtype} from {array.min():g} to {array.max():g}"


def _cure(array: np.ndarray) -> str:
    if np.issubdtype(array.dtype, np.floating) and array.size:
        if not np.isfinite(array).all():
            return "find out why the model gives such pixels"
        if array.min() >= 0 and array.max() <= 1:
            return "save np.rint(255 * images).astype(np.uint8)"
        if array.min() >= -1 and array.max() <= 1:
            return "save np.rint(127.5 * (images + 1)).astype(np.uint8)"
    if array.dtype == bool:
        return "save 255 * images.astype(np.uint8)"
    if np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating):
        return "save np.rint(images).clip(0, 255).astype(np.uint8)"
    return "save the pixels as numbers"
