"""Image files from a source, decoded into arrays of one size."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aiqn_core.archives import Member, members

CHUNK = 512  # decoded images kept before they are written
LARGEST_PICTURE = 4096**2  # pixels
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")  # what is in a file decides, not its name: no others are decoded


class PrepareError(ValueError):
    """Data that cannot be prepared: what was seen, what was expected, what to do."""


class Chunk(NamedTuple):
    """Some images of one split."""

    split: str
    images: np.ndarray  # (n, C, H, W) uint8
    labels: np.ndarray  # (n,)


class Place(NamedTuple):
    """Where an image belongs. Two images with one key are the same one, found twice."""

    split: str
    label: int
    key: str


def pictures(
    source: Path, where: Callable[[Member], Place | None], read: Callable[[str, bytes], np.ndarray]
) -> Iterator[Chunk]:
    """Decode the image files of a source into chunks, each of one split; `where` gives None for other files."""
    waiting: dict[str, list[tuple[np.ndarray, int]]] = {"train": [], "test": []}
    first: tuple[str, tuple[int, ...]] | None = None
    seen: set[str] = set()
    for member in members(source):
        if (place := where(member)) is None:
            continue
        if place.key in seen:
            raise PrepareError(f"{source}: saw the image {member.name} twice; give it packed or unpacked, not both")
        seen.add(place.key)
        image = read(member.name, member.read())
        first = first or (member.name, image.shape)
        if image.shape != first[1]:
            sizes = [f"{shape[2]} x {shape[1]}" for shape in (image.shape, first[1])]
            raise PrepareError(
                f"{member.name}: saw {sizes[0]} pixels, expected {sizes[1]} as {first[0]}; or give --size"
            )
        part = waiting[place.split]
        part.append((image, place.label))
        if len(part) == CHUNK:
            yield _chunk(place.split, part)
    for split, part in waiting.items():
        if part:
            yield _chunk(split, part)


def _chunk(split: str, part: list[tuple[np.ndarray, int]]) -> Chunk:
    images, labels = np.stack([image for image, _ in part]), np.array([label for _, label in part])
    part.clear()
    return Chunk(split, images, labels)


def stack(name: str, images: list[np.ndarray]) -> np.ndarray:
    """Images (C, H, W) of one file as one array; raises PrepareError where their sizes differ."""
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
        with Image.open(io.BytesIO(content), formats=FORMATS) as file:
            if file.width * file.height > LARGEST_PICTURE:
                raise PrepareError(f"{name}: saw {file.width} x {file.height} pixels, expected at most 4096 x 4096")
            if file.mode[0] in "IF":  # Pillow would cut these values off at 255
                raise PrepareError(f"{name}: saw more than 8 bits for a pixel (mode {file.mode}), expected 8")
            image = file.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, PrepareError):
            raise
        reason = "not an image of a known format" if isinstance(error, UnidentifiedImageError) else error
        raise PrepareError(f"{name}: is no complete image ({reason})") from None
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
