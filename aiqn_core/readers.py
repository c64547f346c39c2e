"""The readers of the published data sets and of your own folders.

A reader yields (split, images (n, C, H, W) uint8, labels (n,)) in the order of the source.
"""

import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from aiqn_core.archives import DAMAGE, LARGEST_MEMBER, Member, members
from aiqn_core.pictures import CHUNK, Chunk, Place, PrepareError, decode, pictures, stack
from aiqn_core.unpickle import UnpickleError, read_pickle

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".ppm", ".pgm", ".pbm", ".tif", ".tiff", ".gif", ".avif"),
)  # see `pictures.FORMATS`
CELEBA_TRAIN = 162_770  # images 1 to this are the published training split

# --- CIFAR-10 --------------------------------------------------------------------------------------------------------

CIFAR_BATCHES = {**{f"data_batch_{i}": "train" for i in range(1, 6)}, "test_batch": "test"}


def read_cifar10(source: Path, size: int | None) -> Iterator[Chunk]:
    """The binary batches, the pickled ones or Parquet files, whichever are there."""
    seen: set[str] = set()
    for member in members(source):
        stem, _, suffix = member.base.partition(".")
        if stem in CIFAR_BATCHES and suffix in ("", "bin"):
            _once(source, stem, seen)
            yield Chunk(CIFAR_BATCHES[stem], *(_cifar_binary if suffix else _batch)(member, 10, 0))
        elif suffix == "parquet" and (match := re.match(r"(train|test)-", stem)):
            _once(source, stem, seen)
            yield from _parquet(member, match[1])
    forms = [seen & set(CIFAR_BATCHES), seen - set(CIFAR_BATCHES)]
    if all(forms):
        raise PrepareError(f"{source}: saw batches and Parquet files, which hold the same images; give one of them")
    if forms[0]:
        _all(source, CIFAR_BATCHES, seen)


def _once(source: Path, part: str, seen: set[str]) -> None:
    if part in seen:
        raise PrepareError(f"{source}: saw {part} twice; give one archive or folder of the data, not both")
    seen.add(part)


def _all(source: Path, parts: Iterable[str], seen: set[str]) -> None:
    missing = [part for part in parts if part not in seen]
    if missing:
        raise PrepareError(f"{source}: {', '.join(missing)} missing of {', '.join(parts)}")


def _cifar_binary(member: Member, classes: int, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Records of one byte for the class and 3 x 32 x 32 for the image."""
    content = np.frombuffer(member.read(), np.uint8)
    if not len(content) or len(content) % 3073:
        raise PrepareError(f"{member.name}: saw {len(content)} bytes, expected a multiple of 3073; it is incomplete")
    records = content.reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32), _labels(member, records[:, 0], classes, first)


def _batch(member: Member, classes: int, first: int) -> tuple[np.ndarray, np.ndarray]:
    """A mapping with `data`, (n, 3072) uint8, and `labels`, the first class being `first`; pickled, or as .npz."""
    content = _arrays(member) if member.base.endswith(".npz") else _unpickled(member)
    data, labels = (content.get(key.encode(), content.get(key)) for key in ("data", "labels"))
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        seen = f"{data.dtype} of shape {data.shape}" if isinstance(data, np.ndarray) else f"a {type(data).__name__}"
        raise PrepareError(f"{member.name}: saw data of {seen}, expected uint8 of shape (n, 3072)")
    return data.reshape(-1, 3, 32, 32), _labels(member, labels, classes, first, len(data))


def _unpickled(member: Member) -> dict[Any, Any]:
    try:
        content = read_pickle(member.read())
    except UnpickleError as error:
        raise PrepareError(f"{member.name}: {error}") from None
    if not isinstance(content, dict):
        raise PrepareError(f"{member.name}: saw a pickled {type(content).__name__}, expected a mapping")
    return content


def _arrays(member: Member) -> dict[Any, Any]:
    """The arrays of a .npz file: a zip of .npy files, in which NumPy is not let unpickle anything."""
    try:
        with zipfile.ZipFile(io.BytesIO(member.read())) as archive:
            parts = {key: archive.getinfo(f"{key}.npy") for key in ("data", "labels")}
            if sum(info.file_size for info in parts.values()) > LARGEST_MEMBER:
                raise PrepareError(f"{member.name}: unpacks to more than {LARGEST_MEMBER} bytes, expected fewer")
            return {key: np.lib.format.read_array(archive.open(info)) for key, info in parts.items()}
    except PrepareError:
        raise
    except (*DAMAGE, KeyError, ValueError, RuntimeError, MemoryError) as error:  # a password, an endless shape
        raise PrepareError(f"{member.name}: is no complete .npz file ({error})") from None


def _labels(member: Member, labels: Any, classes: int, first: int, count: int | None = None) -> np.ndarray:
    # A list is looked into before it becomes an array: a hostile one may hold lists without end.
    if not isinstance(labels, np.ndarray) and not (isinstance(labels, list) and all(map(_is_integer, labels))):
        raise PrepareError(f"{member.name}: saw labels that are no list of integers, expected {count} integers")
    array = np.asarray(labels)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer) or (count is not None and len(array) != count):
        raise PrepareError(f"{member.name}: saw labels of {array.dtype} {array.shape}, expected {count} integers")
    last = first + classes - 1
    if len(array) and not (first <= array.min() and array.max() <= last):
        raise PrepareError(f"{member.name}: saw labels {array.min()} to {array.max()}, expected {first} to {last}")
    return array.astype(np.int64) - first


def _is_integer(label: Any) -> bool:
    return isinstance(label, int | np.integer)


def _parquet(member: Member, split: str) -> Iterator[Chunk]:
    """Columns `img` (or `image`) with the bytes of a PNG, and `label`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(member.read()))
        names = file.schema_arrow.names
        column = next((name for name in ("img", "image") if name in names), None)
        if column is None or "label" not in names:
            raise PrepareError(f"{member.name}: saw columns {', '.join(names)}, expected img and label")
        begin = 0
        for batch in file.iter_batches(CHUNK, columns=[column, "label"]):
            cells = enumerate(batch.column(column).to_pylist(), begin)
            images = [_parquet_image(f"{member.name}, row {row}", cell) for row, cell in cells]
            labels = _labels(member, batch.column("label").to_pylist(), 10, 0, len(images))
            yield Chunk(split, stack(member.name, images), labels)
            begin += len(images)
    except (pa.ArrowException, OSError) as error:
        raise PrepareError(f"{member.name}: is no complete Parquet file ({error})") from None


def _parquet_image(name: str, cell: Any) -> np.ndarray:
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes):
        raise PrepareError(f"{name}: saw {type(content).__name__}, expected the bytes of a PNG")
    return decode(name, content)


# --- ImageNet 32x32, CelebA, folders ---------------------------------------------------------------------------------

IMAGENET_BATCHES = (*(f"train_data_batch_{i}" for i in range(1, 11)), "val_data")
IMAGENET_FOLDERS = {"train_32x32": "train", "valid_32x32": "test"}


def read_imagenet32(source: Path, size: int | None) -> Iterator[Chunk]:
    """The PNG folders train_32x32 and valid_32x32 (no classes), or the batch files of downsampled ImageNet."""

    def where(member: Member) -> Place | None:
        folders = PurePosixPath(member.name).parts[:-1]
        split = IMAGENET_FOLDERS.get(folders[-1]) if folders and is_image(member) else None
        return Place(split, 0, f"{split}/{member.base}") if split else None

    seen: set[str] = set()
    has_pictures = False
    for member in members(source):
        part = member.base.removesuffix(".pickle").removesuffix(".npz")
        if part in IMAGENET_BATCHES:
            _once(source, part, seen)
            yield Chunk("test" if part == "val_data" else "train", *_batch(member, 1000, 1))
        has_pictures = has_pictures or where(member) is not None
    if seen and has_pictures:
        raise PrepareError(f"{source}: saw batches and folders of images, which hold the same; give one of them")
    if seen:
        _all(source, IMAGENET_BATCHES, seen)
    else:
        yield from pictures(source, where, lambda name, content: decode(name, content, expect=(32, 32)))


def read_celeba(source: Path, size: int | None) -> Iterator[Chunk]:
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


def is_image(member: Member) -> bool:
    """Whether a file is an image by its name."""
    return member.base.lower().endswith(IMAGE_SUFFIXES)
