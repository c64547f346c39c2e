"""Images in NumPy's files: one array, or the named arrays of a .npz with labels and splits."""

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from aiqn_core.pictures import Chunk, PrepareError, channel_notes, in_channels, without_colour

SUFFIXES = (".npy", ".npz")
IMAGES = {
    "train": ("x_train", "train_images", "images", "x", "data", "arr_0"),
    "test": ("x_test", "test_images", "x_val", "val_images"),
}
LABELS = {
    "train": ("y_train", "train_labels", "labels", "y", "label"),
    "test": ("y_test", "test_labels", "y_val", "val_labels"),
}


def read_arrays(source: Path, channels: int | None, notes: list[str]) -> Iterator[Chunk]:
    """The images of a .npy or .npz file; without a test set about one in ten is held out, by its content.

    One channel where no image has a colour, unless `channels` says how many; what was done is added to `notes`.
    """
    arrays = _load(source)
    found = {split: next((key for key in keys if key in arrays), None) for split, keys in IMAGES.items()}
    if found["train"] is None:
        raise PrepareError(f"{source}: saw arrays {', '.join(arrays)}; expected one of {', '.join(IMAGES['train'])}")
    images = {split: as_images(f"{source}, {key}", arrays[key]) for split, key in found.items() if key is not None}
    plain = all(map(without_colour, images.values()))
    notes += channel_notes(plain, all(one.shape[1] == 1 for one in images.values()), channels)
    for split, part in images.items():
        yield from _chunks(source, split, in_channels(part, channels or (1 if plain else 3)), arrays, len(images) == 1)


def _chunks(
    source: Path, split: str, images: np.ndarray, arrays: dict[str, np.ndarray], hold_out: bool
) -> Iterator[Chunk]:
    name = next((key for key in LABELS[split] if key in arrays), None)
    labels = np.zeros(len(images), np.int64) if name is None else arrays[name].reshape(-1)
    if len(labels) != len(images) or not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
        raise PrepareError(
            f"{source}: saw labels {name} of {labels.dtype} {labels.shape}, expected {len(images)} integers from 0"
        )
    labels = labels.astype(np.int64)
    if not hold_out:
        yield Chunk(split, images, labels)
        return
    held_out = np.array([hashlib.sha256(image.tobytes()).digest()[0] < 26 for image in images], bool)
    yield Chunk("train", images[~held_out], labels[~held_out])
    yield Chunk("test", images[held_out], labels[held_out])


def as_images(name: str, array: np.ndarray) -> np.ndarray:
    """An array of images as (N, C, H, W) uint8; (N, H, W) and (N, H, W, C) are taken too, C being 1 or 3."""
    if array.dtype != np.uint8:
        raise PrepareError(f"{name}: saw {array.dtype}, expected uint8 of 0 to 255")
    first, last = (array.ndim == 4 and array.shape[axis] in (1, 3) for axis in (1, 3))
    if array.ndim == 3:
        array = array[:, None]
    elif last and not first:
        array = array.transpose(0, 3, 1, 2)
    elif not first or last:
        raise PrepareError(
            f"{name}: saw the shape {array.shape}, expected (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W)"
        )
    return np.ascontiguousarray(array)


def _load(source: Path) -> dict[str, np.ndarray]:
    try:
        content = np.load(source, allow_pickle=False)
        return {"arr_0": content} if isinstance(content, np.ndarray) else dict(content)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise PrepareError(f"{source}: is no complete file of arrays that NumPy can read ({error})") from None
