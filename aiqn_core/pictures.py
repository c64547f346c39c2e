"""Image files from a source, decoded into arrays of one size."""

import contextlib
import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from aiqn_core.archives import Member, members

if TYPE_CHECKING:
    from PIL import Image

CHUNK = 512  # decoded images kept before they are written
LARGEST_PICTURE = 4096**2  # pixels
FORMATS = (
    "PNG",
    "JPEG",
    "BMP",
    "WEBP",
    "PPM",
    "TIFF",
    "GIF",
    "AVIF",
)  # what is in a file decides, not its name: no others are decoded
GREY = ("1", "L", "LA", "La")  # modes; and those of 16 bits
ORIENTATION = 0x0112  # the EXIF tag


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


class Facts(NamedTuple):
    """What the header of an image file says, by which decoding changes its values."""

    grey: bool
    transparent: bool
    turned: bool
    deep: bool  # 16 bits
    frames: bool  # more than one


def facts(name: str, content: bytes) -> Facts:
    """The facts of an image file; raises PrepareError for what is no image of `FORMATS`."""
    with _opened(name, content) as file:
        grey = file.mode in GREY or file.mode.startswith("I")
        if file.mode == "P":
            palette = np.array(file.getpalette("RGB") or [0]).reshape(-1, 3 if file.getpalette("RGB") else 1)
            grey = bool((palette == palette[:, :1]).all())
        turned = file.getexif().get(ORIENTATION, 1) in range(2, 9)
        transparent, deep = file.has_transparency_data, file.mode.startswith("I")
        try:
            file.seek(1)
        except EOFError:
            return Facts(grey, transparent, turned, deep, frames=False)
        return Facts(grey, transparent, turned, deep, frames=True)


def told(found: list[Facts]) -> list[str]:
    """What was done to images besides decoding them, in a sentence each."""
    count = {key: sum(getattr(one, key) for one in found) for key in Facts._fields}
    sentences = {
        "transparent": "with transparency: composed over white",
        "turned": "turned upright by their EXIF orientation",
        "deep": "of 16 bits: scaled to 8",
        "frames": "of several frames or pages: the first one is taken",
    }
    return [
        f"{count[key]:,} {'image' if count[key] == 1 else 'images'} {s}" for key, s in sentences.items() if count[key]
    ]


def decode(
    name: str,
    content: bytes,
    *,
    expect: tuple[int, int] | None = None,
    crop: int | None = None,
    size: int | None = None,
    channels: int = 3,
) -> np.ndarray:
    """An image file as (C, H, W) uint8, upright: the centre square of `crop` pixels, resized to `size` (bicubic).

    With `size` alone the largest centre square is taken; transparency is composed over white, 16 bits are scaled to 8.
    Raises PrepareError for what is no complete image, and for another (width, height) than `expect`.
    """
    from PIL import Image, ImageOps

    with _opened(name, content) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I"):
            image = _eight_bits(name, image)
        elif image.has_transparency_data:
            above = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
        image = image.convert("RGB") if image.mode not in ("L", "RGB") else image
        image = image.convert("L" if channels == 1 else "RGB")
    if expect is not None and image.size != expect:
        raise PrepareError(f"{name}: saw {image.width} x {image.height} pixels, expected {expect[0]} x {expect[1]}")
    if crop is None and size is not None:
        crop = min(image.size)
    if crop is not None:
        left, top = (image.width - crop) // 2, (image.height - crop) // 2
        image = image.crop((left, top, left + crop, top + crop))
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    array = np.asarray(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


@contextlib.contextmanager
def _opened(name: str, content: bytes) -> Iterator["Image.Image"]:
    """An image file, not yet decoded; whatever Pillow raises inside on damaged bytes is one PrepareError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as file:
            if file.width * file.height > LARGEST_PICTURE:
                raise PrepareError(f"{name}: saw {file.width} x {file.height} pixels, expected at most 4096 x 4096")
            if file.mode == "F" or (file.mode == "I" and file.format != "PNG"):  # of no known range
                raise PrepareError(f"{name}: saw 32 bits for a pixel (mode {file.mode}), expected 8 or 16")
            yield file
    except PrepareError:
        raise
    except UnidentifiedImageError:
        raise PrepareError(f"{name}: is no complete image (not an image of a known format)") from None
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error, Image.DecompressionBombError) as error:
        raise PrepareError(f"{name}: is no complete image ({error})") from None


def _eight_bits(name: str, image: "Image.Image") -> "Image.Image":
    """Values 0 to 65,535 as 0 to 255, rounded to the nearest."""
    from PIL import Image

    if image.has_transparency_data:
        raise PrepareError(f"{name}: saw 16 bits with a transparent value, expected one of the two; save it as 8 bits")
    values = np.asarray(image).astype(np.int64)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
