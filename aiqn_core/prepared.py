"""One format for the images on the user's disk: uint8 arrays that trainers map into memory, labels and a small JSON.

    <folder>/dataset.json  train.npy  train_labels.npy  test.npy  test_labels.npy

Arrays are (N, C, H, W) uint8 and (N,) int64, in an order whose first n images are a fair sample.
"""

import contextlib
import hashlib
import json
import os
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
BLOCK = 4096  # images copied at once


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
    """The dataset.json of a folder; raises PreparedError where there is none that we can read."""
    try:
        about = json.loads((folder / "dataset.json").read_text())
    except FileNotFoundError:
        raise PreparedError(f"no dataset.json in {folder}") from None
    except (OSError, ValueError) as error:
        raise PreparedError(f"{folder / 'dataset.json'} cannot be read ({error}); prepare the data again") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise PreparedError(f"{folder / 'dataset.json'} is not of format {FORMAT}; prepare the data again")
    return about


def read_prepared(folder: Path) -> Prepared:
    """Map the arrays of a folder; raises PreparedError where they are not those that dataset.json tells of.

    Shapes and sizes are compared, not the checksum: that would read all of it at every start.
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
        arrays[key] = array
    return Prepared(arrays, about)


def data_problems(config: DataConfig) -> list[Problem]:
    """What keeps the images of a configuration from being loaded, without reading them; empty where nothing does."""
    if config.name in BUNDLED_DATA:
        return []
    folder = prepared_folder(config.name, config.path)
    try:
        read_prepared(folder)
    except PreparedError as error:
        place = "" if config.path is None and "AIQN_DATA" not in os.environ else f" --to {folder}"
        command = f"aiqn data prepare {config.name} --from <archive or folder>{place}"
        valid = f"; {nearest(config.name, BUNDLED_DATA)}, or prepared data" if config.path is None else ""
        return [Problem("data.name", f"saw {config.name!r}{valid}, but {error}; run: {command}")]
    return []


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
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    writer = Writer(temporary)
    try:
        yield writer
        writer.close()
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
        if folder.exists():  # asked for by the caller; the old data is gone only once the new is complete
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            folder.replace(old)
            temporary.replace(folder)
            shutil.rmtree(old)
        else:
            temporary.replace(folder)
    finally:
        for file in writer.files.values():
            file.close()
        shutil.rmtree(temporary, ignore_errors=True)


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
