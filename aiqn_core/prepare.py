"""From the archives that data sets are published in to the one format of `prepared`.

A reader yields (split, images (n, C, H, W) uint8, labels (n,)) in the order of the archive.
"""

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from aiqn_core.archives import ArchiveError, Member, md5, members
from aiqn_core.config import BUNDLED_DATA
from aiqn_core.prepared import PreparedError, prepared_folder, read_about, writing
from aiqn_core.unpickle import UnpickleError, read_pickle

CHUNK = 512  # decoded images kept before they are written
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CELEBA_TRAIN = 162_770  # images 1 to this are the published training split

Progress = Callable[[int, int | None], None]  # images done, and of how many where that is known


class PrepareError(ValueError):
    """Data that cannot be prepared: what was seen, what was expected, what to do."""


class Chunk(NamedTuple):
    """Some images of one split."""

    split: str
    images: np.ndarray  # (n, C, H, W) uint8
    labels: np.ndarray  # (n,)


@dataclass(frozen=True)
class Dataset:
    """What is known of a published data set."""

    read: Callable[[Path, int | None], Iterator[Chunk]]
    where: str  # what people fetch, and from where
    counts: tuple[int, int] | None = None  # training and test images as published
    shape: tuple[int, int, int] | None = None
    classes: tuple[str, ...] = ()
    shuffle: bool = False
    checksums: dict[str, str] | None = None  # MD5 of archives by their published names


def prepare(
    name: str,
    source: Path | str,
    to: Path | str | None = None,
    *,
    size: int | None = None,
    unverified: bool = False,
    force: bool = False,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Prepare the data set `name` from the archive or folder `source`; returns the folder that was written.

    `to` is where, see `prepared_folder`; what is there already is kept unless `force`. `size` crops and resizes the
    images of a folder to a square. `unverified` takes archives with another checksum and other numbers of images than
    the published ones. Raises PrepareError for wrong or damaged input, and then leaves nothing behind.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise PrepareError(f"saw the name {name!r}, expected up to 64 letters, digits, '_', '.' and '-'")
    source, folder = Path(source).expanduser(), prepared_folder(name, to)
    dataset = DATASETS.get(name, FOLDER)
    if size is not None and dataset is not FOLDER:
        raise PrepareError(f"size: saw {size}, but {name} has its own size; leave it out")
    if name in BUNDLED_DATA:
        raise PrepareError(f"saw the name {name!r}, which is bundled and needs no preparing; choose another name")
    if not force and folder.exists():
        return _existing(folder)
    if not source.exists():
        raise PrepareError(f"{source}: no such file or folder; {name} is read from {dataset.where}")
    if not unverified:
        _verify(source, dataset)
    try:
        classes = folder_classes(source) if dataset is FOLDER else dataset.classes
        about = {"name": name, "source": source.name, "classes": classes}
        with writing(folder, about, shuffle=dataset.shuffle) as writer:
            done = 0
            for chunk in dataset.read(source, size):
                writer.append(*chunk)
                done += len(chunk.images)
                progress(done, sum(dataset.counts) if dataset.counts else None)
            _complete(name, source, dataset, {key: shape[0] for key, shape in writer.shapes.items()}, unverified)
    except (ArchiveError, UnpickleError) as error:
        raise PrepareError(str(error)) from None
    except OSError as error:
        raise PrepareError(f"{folder}: cannot be written ({error})") from None
    except ValueError as error:
        raise error if isinstance(error, PrepareError) else PrepareError(f"{source}: {error}") from None
    return folder


def _existing(folder: Path) -> Path:
    try:
        read_about(folder)
    except PreparedError as error:
        raise PrepareError(
            f"{folder} exists but is no prepared data ({error}); choose another --to, or --force"
        ) from None
    return folder


def _verify(source: Path, dataset: Dataset) -> None:
    expected = (dataset.checksums or {}).get(source.name)
    if expected is not None and source.is_file() and (seen := md5(source)) != expected:
        raise PrepareError(
            f"{source}: saw the MD5 {seen}, expected {expected} as published: it is incomplete or altered. "
            "Fetch it again, or take it knowingly with --unverified"
        )


def _complete(name: str, source: Path, dataset: Dataset, found: dict[str, int], unverified: bool) -> None:
    seen = (found.get("train", 0), found.get("test", 0))
    if not all(seen):
        raise PrepareError(
            f"{source}: saw {seen[0]} training and {seen[1]} test images; {name} is read from {dataset.where}"
        )
    if dataset.counts and not unverified and seen != dataset.counts:
        raise PrepareError(
            f"{source}: saw {seen[0]} training and {seen[1]} test images, expected {dataset.counts[0]} and "
            f"{dataset.counts[1]}: a part is missing. Complete it, or take it knowingly with --unverified"
        )


# --- CIFAR-10 --------------------------------------------------------------------------------------------------------

CIFAR_BATCHES = {**{f"data_batch_{i}": "train" for i in range(1, 6)}, "test_batch": "test"}


def read_cifar10(source: Path, size: int | None) -> Iterator[Chunk]:
    """The binary batches, the pickled ones or Parquet files, whichever are there."""
    seen = set()
    for member in members(source):
        stem, _, suffix = member.base.partition(".")
        if stem in CIFAR_BATCHES and suffix in ("", "bin"):
            read = _cifar_binary if suffix else _batch
            if stem in seen:
                raise PrepareError(f"{source}: saw {stem} twice; give one of the archives, not both")
            seen.add(stem)
            yield Chunk(CIFAR_BATCHES[stem], *read(member, 10, 0))
        elif suffix == "parquet" and (match := re.match(r"(train|test)-", stem)):
            seen |= set(CIFAR_BATCHES)
            yield from _parquet(member, match[1])
    missing = sorted(set(CIFAR_BATCHES) - seen)
    if seen and missing:
        raise PrepareError(f"{source}: {', '.join(missing)} missing of {', '.join(sorted(CIFAR_BATCHES))}")


def _cifar_binary(member: Member, classes: int, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Records of one byte for the class and 3 x 32 x 32 for the image."""
    content = np.frombuffer(member.read(), np.uint8)
    if not len(content) or len(content) % 3073:
        raise PrepareError(f"{member.name}: saw {len(content)} bytes, expected a multiple of 3073; it is incomplete")
    records = content.reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32), _labels(member, records[:, 0], classes, first)


def _batch(member: Member, classes: int, first: int) -> tuple[np.ndarray, np.ndarray]:
    """A pickled mapping with `data`, (n, 3072) uint8, and `labels`, the first class being `first`."""
    try:
        content = read_pickle(member.read())
    except UnpickleError as error:
        raise PrepareError(f"{member.name}: {error}") from None
    if not isinstance(content, dict):
        raise PrepareError(f"{member.name}: saw a pickled {type(content).__name__}, expected a mapping")
    values = {key.decode() if isinstance(key, bytes) else str(key): value for key, value in content.items()}
    data, labels = values.get("data"), values.get("labels")
    shape = getattr(data, "shape", None)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or len(data.shape) != 2 or data.shape[1] != 3072:
        seen = f"{data.dtype} of shape {shape}" if isinstance(data, np.ndarray) else f"a {type(data).__name__}"
        raise PrepareError(f"{member.name}: saw data of {seen}, expected uint8 of shape (n, 3072)")
    return data.reshape(-1, 3, 32, 32), _labels(member, labels, classes, first, len(data))


def _labels(member: Member, labels: Any, classes: int, first: int, count: int | None = None) -> np.ndarray:
    array = np.asarray([] if labels is None else labels)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer) or (count is not None and len(array) != count):
        raise PrepareError(f"{member.name}: saw labels of {array.dtype} {array.shape}, expected {count} integers")
    last = first + classes - 1
    if len(array) and not (first <= array.min() and array.max() <= last):
        raise PrepareError(f"{member.name}: saw labels {array.min()} to {array.max()}, expected {first} to {last}")
    return array.astype(np.int64) - first


def _parquet(member: Member, split: str) -> Iterator[Chunk]:
    """Columns `img` (or `image`) with the bytes of a PNG, and `label`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(member.read()))
    except (pa.ArrowException, OSError) as error:
        raise PrepareError(f"{member.name}: is no complete Parquet file ({error})") from None
    column = next((name for name in ("img", "image") if name in table.column_names), None)
    if column is None or "label" not in table.column_names:
        raise PrepareError(f"{member.name}: saw columns {', '.join(table.column_names)}, expected img and label")
    rows = table.column(column).to_pylist()
    labels = _labels(member, table.column("label").to_pylist(), 10, 0, len(rows))
    for begin in range(0, len(rows), CHUNK):
        part = [
            decode(f"{member.name}, row {begin + i}", row["bytes"]) for i, row in enumerate(rows[begin : begin + CHUNK])
        ]
        yield Chunk(split, _stack(member.name, part), labels[begin : begin + CHUNK])


# --- ImageNet 32x32, CelebA, folders ---------------------------------------------------------------------------------

IMAGENET_PARTS = re.compile(r"(train_data_batch_([1-9]|10)|val_data)(?:\.pickle)?")


def read_imagenet32(source: Path, size: int | None) -> Iterator[Chunk]:
    """The PNG folders train_32x32 and valid_32x32 (no classes), or the batch files of downsampled ImageNet."""

    def split(member: Member) -> str | None:
        folders = PurePosixPath(member.name).parts[:-1]
        return {"train_32x32": "train", "valid_32x32": "test"}.get(folders[-1]) if folders else None

    batches = False
    for member in members(source):
        if IMAGENET_PARTS.fullmatch(member.base):
            batches = True
            yield Chunk("test" if member.base.startswith("val") else "train", *_batch(member, 1000, 1))
    if not batches:
        yield from _pictures(source, lambda member: (split(member), 0) if split(member) else None, decode)


def read_celeba(source: Path, size: int | None) -> Iterator[Chunk]:
    """The aligned 178 x 218 JPEGs: their 108 x 108 centre, resized to 64 x 64; held out are validation and test.

    One class: CelebA's attributes are not read.
    """

    def split(member: Member) -> tuple[str | None, int] | None:
        match = re.fullmatch(r"(\d{6})\.(jpg|png)", member.base)
        return (("train" if int(match[1]) <= CELEBA_TRAIN else "test"), 0) if match else None

    def face(name: str, content: bytes) -> np.ndarray:
        return decode(name, content, expect=(178, 218), crop=108, size=64)

    yield from _pictures(source, split, face)


def read_folder(source: Path, size: int | None) -> Iterator[Chunk]:
    """Images in one folder for each class; below `train` and `test`, or else about one in ten is held out, by name."""
    classes = folder_classes(source)
    tops = {top for member in members(source) if _is_image(member) for top in PurePosixPath(member.name).parts[:-2]}
    given = {"train", "test"} <= tops

    def split(member: Member) -> tuple[str | None, int] | None:
        parts = PurePosixPath(member.name).parts
        if not _is_image(member):
            return None
        label = classes.index(parts[-2] if len(parts) > 1 else "")
        if given:
            return next((top for top in parts[:-2] if top in ("train", "test")), None), label
        held_out = hashlib.sha256("/".join(parts[-2:]).encode()).digest()[0] < 26  # of 256
        return ("test" if held_out else "train"), label

    yield from _pictures(source, split, lambda name, content: decode(name, content, size=size))


def folder_classes(source: Path) -> list[str]:
    """The names of the folders that hold images, sorted; raises PrepareError where there are no images."""
    parts = [PurePosixPath(member.name).parts for member in members(source) if _is_image(member)]
    if not parts:
        raise PrepareError(f"{source}: no images in it; expected <class>/<image> ending in {', '.join(IMAGE_SUFFIXES)}")
    return sorted({names[-2] if len(names) > 1 else "" for names in parts})


def _is_image(member: Member) -> bool:
    return member.base.lower().endswith(IMAGE_SUFFIXES)


def _pictures(
    source: Path,
    where: Callable[[Member], tuple[str | None, int] | None],
    read: Callable[[str, bytes], np.ndarray],
) -> Iterator[Chunk]:
    """Decode the image files of a source into chunks, each of one split."""
    waiting: dict[str, list[tuple[np.ndarray, int]]] = {"train": [], "test": []}
    first: tuple[str, tuple[int, ...]] | None = None
    for member in members(source):
        if (found := where(member)) is None or found[0] is None:
            continue
        image = read(member.name, member.read())
        first = first or (member.name, image.shape)
        if image.shape != first[1]:
            sizes = [f"{shape[2]} x {shape[1]}" for shape in (image.shape, first[1])]
            raise PrepareError(
                f"{member.name}: saw {sizes[0]} pixels, expected {sizes[1]} as {first[0]}; or give --size"
            )
        part = waiting[found[0]]
        part.append((image, found[1]))
        if len(part) == CHUNK:
            yield _chunk(found[0], part)
    for split, part in waiting.items():
        if part:
            yield _chunk(split, part)


def _chunk(split: str, part: list[tuple[np.ndarray, int]]) -> Chunk:
    images, labels = np.stack([image for image, _ in part]), np.array([label for _, label in part])
    part.clear()
    return Chunk(split, images, labels)


def _stack(name: str, images: list[np.ndarray]) -> np.ndarray:
    if len({image.shape for image in images}) > 1:
        raise PrepareError(f"{name}: saw images of several sizes, expected one")
    return np.stack(images)


def decode(
    name: str,
    content: bytes,
    *,
    expect: tuple[int, int] | None = None,
    crop: int | None = None,
    size: int | None = None,
) -> np.ndarray:
    """An image file as RGB (3, H, W) uint8: cut to the centre square of `crop` pixels, resized to `size` (bicubic).

    With `size` alone the largest centre square is taken. Raises PrepareError for what is no complete image, and for
    another (width, height) than `expect`.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as file:
            if file.width * file.height > 2**24:
                raise PrepareError(f"{name}: saw {file.width} x {file.height} pixels, expected at most 4096 x 4096")
            image = file.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, PrepareError):
            raise
        raise PrepareError(f"{name}: is no complete image ({error})") from None
    if expect is not None and image.size != expect:
        raise PrepareError(f"{name}: saw {image.width} x {image.height} pixels, expected {expect[0]} x {expect[1]}")
    if crop is None and size is not None:
        crop = min(image.size)
    if crop is not None:
        left, top = (image.width - crop) // 2, (image.height - crop) // 2
        image = image.crop((left, top, left + crop, top + crop))
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


FOLDER = Dataset(read_folder, "a folder or archive with <class>/<image> files", shuffle=True)
DATASETS = {
    "cifar10": Dataset(
        read_cifar10,
        "cifar-10-binary.tar.gz or cifar-10-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html, unpacked or "
        "not, or its Parquet files",
        counts=(50_000, 10_000),
        shape=(3, 32, 32),
        classes=CIFAR_CLASSES,
        checksums={
            "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
            "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
        },
    ),
    "imagenet32": Dataset(
        read_imagenet32,
        "the folder of train_32x32.tar and valid_32x32.tar (small ImageNet), or of Imagenet32_train.zip and "
        "Imagenet32_val.zip (downsampled ImageNet, https://image-net.org), unpacked or not",
        shape=(3, 32, 32),
        shuffle=True,
    ),
    "celeba": Dataset(
        read_celeba,
        "img_align_celeba.zip of https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, unpacked or not",
        counts=(162_770, 39_829),
        shape=(3, 64, 64),
    ),
}
