"""One format for the images on the user's disk: uint8 arrays that trainers map into memory, labels and a small JSON.

    <folder>/dataset.json  train.npy  train_labels.npy  test.npy  test_labels.npy

Arrays are (N, C, H, W) uint8 and (N,) int64, in an order whose first n images are a fair sample.
"""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from aiqn_core.config import BUNDLED_DATA, DataConfig, Problem, nearest

FORMAT = 1
SPLITS = ("train", "test")
ARRAYS = ("train", "train_labels", "test", "test_labels")
BLOCK = 4096  # images copied at once
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
PUBLISHED = {  # what people fetch, and from where
    "cifar10": "cifar-10-binary.tar.gz or cifar-10-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html, "
    "unpacked or not, or its Parquet files",
    "cifar100": "cifar-100-binary.tar.gz or cifar-100-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html, "
    "unpacked or not, or its Parquet files",
    "mnist": "the four files train-images-idx3-ubyte to t10k-labels-idx1-ubyte of MNIST, gzipped or not, in a folder",
    "fashion-mnist": "the four files train-images-idx3-ubyte to t10k-labels-idx1-ubyte of "
    "https://github.com/zalandoresearch/fashion-mnist or Debian's dataset-fashion-mnist, gzipped or not, in a folder",
    "imagenet32": "the folder of train_32x32.tar and valid_32x32.tar (small ImageNet, without classes), or of "
    "Imagenet32_train.zip and Imagenet32_val.zip or their _npz.zip (downsampled ImageNet, https://image-net.org), "
    "unpacked or not",
    "imagenet64": "the folder of train_64x64.tar and valid_64x64.tar (small ImageNet, without classes), or of "
    "Imagenet64_train_part1.zip, _part2.zip and Imagenet64_val.zip or their _npz.zip (downsampled ImageNet, "
    "https://image-net.org), unpacked or not",
    "celeba": "img_align_celeba.zip of https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, unpacked or not",
}


class PreparedError(ValueError):
    """A prepared folder that is missing, damaged or of another format."""


def prepared_folder(name: str, path: str | Path | None = None) -> Path:
    """Where prepared data is: `path`, else $AIQN_DATA/<name>, else ~/.cache/aiqn/data/<name>."""
    if path is not None:
        return Path(path).expanduser()
    home = os.environ.get("AIQN_DATA")
    return (Path(home).expanduser() if home else Path.home() / ".cache" / "aiqn" / "data") / name


@dataclass(frozen=True)
class Prepared:
    """The arrays of a prepared folder, mapped into memory, and its dataset.json."""

    arrays: dict[str, np.ndarray]
    about: dict[str, Any]


def read_about(folder: Path) -> dict[str, Any]:
    """The dataset.json of a folder, with all its keys; raises PreparedError where there is none that we can read."""
    try:
        about = json.loads((folder / "dataset.json").read_text())
    except FileNotFoundError:
        raise PreparedError(f"no dataset.json in {folder}") from None
    except (OSError, ValueError) as error:
        raise PreparedError(f"{folder / 'dataset.json'} cannot be read ({error}); prepare the data again") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise PreparedError(f"{folder / 'dataset.json'} is not of format {FORMAT}; prepare the data again")
    kinds = {"name": str, "num_classes": int, "shapes": dict, "checksum": str}
    wrong = [key for key, kind in kinds.items() if type(about.get(key)) is not kind]
    if not wrong and not _consistent(about["shapes"]):
        wrong = ["shapes"]
    if wrong:
        raise PreparedError(f"{folder / 'dataset.json'} lacks a valid {', '.join(wrong)}; prepare the data again")
    return about


def _consistent(shapes: dict[str, Any]) -> bool:
    """Whether these are images of one size in two sets, at least one in each, and a label for each."""
    lists = all(isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape) for shape in shapes.values())
    if set(shapes) != set(ARRAYS) or not lists:
        return False
    train, test = shapes["train"], shapes["test"]
    labels = all(shapes[f"{split}_labels"] == shapes[split][:1] for split in SPLITS)
    return len(train) == len(test) == 4 and train[1:] == test[1:] and labels


def read_prepared(folder: Path) -> Prepared:
    """Map the arrays of a folder; raises PreparedError where they are not those that dataset.json tells of.

    Shapes, sizes and the range of the labels are compared, not the checksum: that would read all of the images at
    every start.
    """
    about = read_about(folder)
    arrays = {}
    for key, shape in about["shapes"].items():
        file = folder / f"{key}.npy"
        try:
            array = np.load(file, mmap_mode="c", allow_pickle=False)  # copy-on-write: nobody changes the file
        except (OSError, ValueError, EOFError) as error:
            raise PreparedError(f"{file} cannot be read ({error}); prepare the data again") from None
        kind = np.int64 if key.endswith("labels") else np.uint8
        if array.shape != tuple(shape) or array.dtype != kind:
            raise PreparedError(f"{file} has {array.dtype} {array.shape}, expected {kind.__name__} {tuple(shape)}")
        if (size := file.stat().st_size) != array.offset + array.nbytes:
            raise PreparedError(f"{file} has {size} bytes, expected {array.offset + array.nbytes}; prepare it again")
        if key.endswith("labels") and not 0 <= array.min() <= array.max() < about["num_classes"]:
            last = about["num_classes"] - 1
            raise PreparedError(f"{file} has labels {array.min()} to {array.max()}, expected 0 to {last}")
        arrays[key] = array
    return Prepared(arrays, about)


def data_problems(config: DataConfig, *, conditional: bool = False) -> list[Problem]:
    """What keeps the images of a configuration from being used, without reading them; empty where nothing does.

    `conditional`: whether the model is told the class, which the images of small ImageNet do not have.
    """
    if not config.is_prepared:
        return []
    if not NAME.fullmatch(config.name):
        return [Problem("data.name", f"saw {config.name!r}; {nearest(config.name, KNOWN)}, or prepared data")]
    folder = prepared_folder(config.name, config.path)
    try:
        prepared = read_prepared(folder)
    except PreparedError as error:
        return [Problem("data.name", f"{_saw(config)}, but {error}; run: {_command(config, folder)}")]
    about = prepared.about
    if (found := about["name"]) != config.name:
        message = f"saw {str(folder)!r}, which holds {found}, expected {config.name}; change data.path or data.name"
        return [Problem("data.path" if config.path is not None else "data.name", message)]
    if conditional and about["num_classes"] < 2:
        message = f"saw true, but the images in {folder} have no classes; run: {_command(config, folder)}, or say false"
        return [Problem("model.conditional", message)]
    return empty_classes(prepared.arrays["train_labels"], about["num_classes"], config.name) if conditional else []


def empty_classes(labels: np.ndarray, num_classes: int, name: str) -> list[Problem]:
    """The problem of a conditional model where a class has no training image, if one has none."""
    counts = np.bincount(labels, minlength=num_classes)
    if num_classes == 0 or counts.all():
        return []
    empty = np.flatnonzero(counts == 0)
    seen = (
        f"class{'' if len(empty) == 1 else 'es'} {', '.join(map(str, empty[:10]))}{', ...' if len(empty) > 10 else ''}"
    )
    message = (
        f"saw true, but {name} has no training image of {seen}; prepare it with images of every class, or say false"
    )
    return [Problem("model.conditional", message)]


KNOWN = (*BUNDLED_DATA, *PUBLISHED)


def _saw(config: DataConfig) -> str:
    # whoever wrote a path, or the name of a published data set, made no typing error
    known = config.path is not None or config.name in PUBLISHED
    return f"saw {config.name!r}" + ("" if known else f"; {nearest(config.name, KNOWN)}, or prepared data")


def _command(config: DataConfig, folder: Path) -> str:
    """What prepares the data of a configuration, and where the archive is to be had."""
    usual = config.path is None and "AIQN_DATA" not in os.environ
    place = "" if usual else f" --to {shlex.quote(str(folder))}"
    force = " --force" if folder.exists() else ""
    where = f" (it is read from {PUBLISHED[config.name]})" if config.name in PUBLISHED else ""
    return f"aiqn data prepare {config.name} --from <archive or folder>{place}{force}{where}"


@dataclass
class Writer:
    """Collects images into a prepared folder; counts and shapes are known at its end."""

    folder: Path
    files: dict[str, BinaryIO] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    num_classes: int = 0

    def append(self, split: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Add images (n, C, H, W) uint8 with labels (n,); raises ValueError where shapes differ from those before."""
        for key, array in ((split, np.ascontiguousarray(images)), (f"{split}_labels", labels.astype(np.int64))):
            before = self.shapes.get(key, (0, *array.shape[1:]))
            if before[1:] != array.shape[1:]:
                raise ValueError(f"saw images of shape {array.shape[1:]}, expected {before[1:]} as the ones before")
            if key not in self.files:
                self.files[key] = (self.folder / f"{key}.npy").open("w+b")
                _header(self.files[key], array.dtype, (0, *array.shape[1:]))
            array.tofile(self.files[key])
            self.shapes[key] = (before[0] + len(array), *before[1:])
        self.num_classes = max(self.num_classes, int(labels.max(initial=-1)) + 1)

    def close(self) -> None:
        """Write the final headers and bring the files to the disk."""
        for key, file in self.files.items():
            begin = _header(file, np.dtype(np.int64 if key.endswith("labels") else np.uint8), self.shapes[key])
            expected = np.prod(self.shapes[key]) * (8 if key.endswith("labels") else 1)
            assert file.seek(0, os.SEEK_END) == begin + expected
            os.fsync(file.fileno())
            file.close()

    def shuffle(self) -> None:
        """Put each split in a fixed random order: sources sorted by class would give unfair first images."""
        for key, shape in self.shapes.items():
            order = np.random.RandomState(0).permutation(shape[0])
            file = self.folder / f"{key}.npy"
            source = np.load(file, mmap_mode="r")
            target = np.lib.format.open_memmap(file.with_suffix(".tmp"), "w+", source.dtype, shape)
            for begin in range(0, shape[0], BLOCK):
                target[begin : begin + BLOCK] = source[order[begin : begin + BLOCK]]
            target.flush()
            del source, target
            file.with_suffix(".tmp").replace(file)


@contextlib.contextmanager
def writing(folder: Path, about: dict[str, Any], *, shuffle: bool) -> Iterator[Writer]:
    """A Writer whose images become `folder` at the end of the block, all at once; nothing is left after an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _partial(folder) as temporary:
        writer = Writer(temporary)
        try:
            yield writer
            writer.close()
        finally:
            for file in writer.files.values():
                file.close()
        if shuffle:
            writer.shuffle()
        shapes = {key: list(shape) for key, shape in writer.shapes.items()}
        known = {"num_classes": max(writer.num_classes, len(about["classes"])), "shapes": shapes}
        content = {"format": FORMAT, **about, **known, "checksum": _checksum(temporary, shapes)}
        with (temporary / "dataset.json").open("w") as text:
            json.dump(content, text, indent=2)
            text.flush()
            os.fsync(text.fileno())
        temporary.chmod(0o755)
        _sync(temporary)
        if folder.exists():  # asked for by the caller; the old data is gone only once the new is complete
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.aiqn-old-", dir=folder.parent))
            folder.replace(old)
            try:
                temporary.replace(folder)
            except BaseException:
                old.replace(folder)
                raise
            shutil.rmtree(old)
        else:
            temporary.replace(folder)
        _sync(folder.parent)


@contextlib.contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, removed at the end; those of processes that were killed are removed first."""
    prefix = f".{folder.name}.aiqn-partial-"
    for left in folder.parent.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(OSError), _locked(left):
            shutil.rmtree(left)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # a file system without locks: then nothing is ever removed for others
            stack.enter_context(_locked(temporary))
        yield temporary


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder; raises BlockingIOError where a process holds it. The system frees it when a process dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _header(file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> int:
    """Write the header of a .npy file, as long for any number of images; returns where the data begins."""
    file.seek(0)
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)
    return file.tell()


def _checksum(folder: Path, shapes: dict[str, list[int]]) -> str:
    digest = hashlib.sha256()
    for key, shape in sorted(shapes.items()):
        digest.update(f"{key} {shape}\n".encode())
        array = np.load(folder / f"{key}.npy", mmap_mode="r")
        for begin in range(0, len(array), BLOCK):
            digest.update(np.ascontiguousarray(array[begin : begin + BLOCK]).tobytes())
    return digest.hexdigest()[:16]
