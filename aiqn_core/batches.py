"""The files of CIFAR and of downsampled ImageNet: many images and their labels in one mapping, pickled or as .npz."""

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from aiqn_core.archives import DAMAGE, LARGEST_MEMBER, Member
from aiqn_core.pictures import PrepareError
from aiqn_core.unpickle import UnpickleError, read_pickle


def once(source: Path, part: str, seen: set[str]) -> None:
    """Note a part of a data set; raises PrepareError where it was there before."""
    if part in seen:
        raise PrepareError(f"{source}: saw {part} twice; give one archive or folder of the data, not both")
    seen.add(part)


def complete(source: Path, parts: Iterable[str], seen: set[str]) -> None:
    """Raises PrepareError where a part of a data set was not seen."""
    missing = [part for part in parts if part not in seen]
    if missing:
        raise PrepareError(f"{source}: {', '.join(missing)} missing of {', '.join(parts)}")


def read_batch(
    member: Member, classes: int, first: int = 0, side: int = 32, key: str = "labels"
) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, side, side) and labels from 0, of `data`, (n, 3 * side * side) uint8, and `key`, from `first`."""
    content = _arrays(member, key) if member.base.endswith(".npz") else unpickled(member)
    data, labels = (content.get(name.encode(), content.get(name)) for name in ("data", key))
    length = 3 * side * side
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != length:
        seen = f"{data.dtype} of shape {data.shape}" if isinstance(data, np.ndarray) else f"a {type(data).__name__}"
        raise PrepareError(f"{member.name}: saw data of {seen}, expected uint8 of shape (n, {length})")
    return data.reshape(-1, 3, side, side), checked_labels(member.name, labels, classes, first, len(data))


def unpickled(member: Member) -> dict[Any, Any]:
    """The mapping in a pickled file, whose keys are bytes where Python 2 wrote it; raises PrepareError."""
    try:
        content = read_pickle(member.read())
    except UnpickleError as error:
        raise PrepareError(f"{member.name}: {error}") from None
    if not isinstance(content, dict):
        raise PrepareError(f"{member.name}: saw a pickled {type(content).__name__}, expected a mapping")
    return content


def _arrays(member: Member, key: str) -> dict[Any, Any]:
    """The arrays of a .npz file: a zip of .npy files, in which NumPy is not let unpickle anything."""
    try:
        with zipfile.ZipFile(io.BytesIO(member.read())) as archive:
            parts = {name: archive.getinfo(f"{name}.npy") for name in ("data", key)}
            if sum(info.file_size for info in parts.values()) > LARGEST_MEMBER:
                raise PrepareError(f"{member.name}: unpacks to more than {LARGEST_MEMBER} bytes, expected fewer")
            return {name: np.lib.format.read_array(archive.open(info)) for name, info in parts.items()}
    except PrepareError:
        raise
    except (*DAMAGE, KeyError, ValueError, RuntimeError, MemoryError) as error:  # a password, an endless shape
        raise PrepareError(f"{member.name}: is no complete .npz file ({error})") from None


def checked_labels(name: str, labels: Any, classes: int, first: int = 0, count: int | None = None) -> np.ndarray:
    """Labels from 0 of `first` to `first + classes - 1`, a list or an array; raises PrepareError for all others."""
    # A list is looked into before it becomes an array: a hostile one may hold lists without end.
    if not isinstance(labels, np.ndarray) and not (isinstance(labels, list) and all(map(_is_integer, labels))):
        raise PrepareError(f"{name}: saw labels that are no list of integers, expected {count} integers")
    array = np.asarray(labels)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer) or (count is not None and len(array) != count):
        raise PrepareError(f"{name}: saw labels of {array.dtype} {array.shape}, expected {count} integers")
    last = first + classes - 1
    if len(array) and not (first <= array.min() and array.max() <= last):
        raise PrepareError(f"{name}: saw labels {array.min()} to {array.max()}, expected {first} to {last}")
    return array.astype(np.int64) - first


def _is_integer(label: Any) -> bool:
    return isinstance(label, int | np.integer)
