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
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".ppm", ".pgm", ".pbm", ".tif", ".tiff", ".gif", ".avif"),
)
ORIENTATION = 0x0112  # the EXIF tag


class PrepareError(ValueError):
    """Data that cannot be prepared: what was seen, what was expected, what to do."""


class Chunk(NamedTuple):
    """Some images of one split."""

    split: str  # train, test, or empty where it is not known
    images: np.ndarray  # (n, C, H, W) uint8
    labels: np.ndarray  # (n,)


class Place(NamedTuple):
    """Where an image belongs. Two images with one key are the same one, found twice."""

    split: str
    label: int
    key: str


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return name.lower().endswith(IMAGE_SUFFIXES)


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
    channels: int = 3,
) -> np.ndarray:
    """An image file as (C, H, W) uint8, upright: the centre square of `crop` pixels, resized to `size` (bicubic).

    With `size` alone the largest centre square is taken; transparency is composed over white, 16 bits are scaled to 8.
    Raises PrepareError for what is no complete image, and for another (width, height) than `expect`.
    """
    from PIL import Image, ImageOps

    with opened(name, content) as file:
        image = ImageOps.exif_transpose(_eight_bits(name, content, file))
        if image.has_transparency_data:
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
def opened(name: str, content: bytes) -> Iterator["Image.Image"]:
    """An image file, not yet decoded; whatever Pillow raises inside on damaged bytes is one PrepareError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as file:
            if file.width * file.height > LARGEST_PICTURE:
                raise PrepareError(f"{name}: saw {file.width} x {file.height} pixels, expected at most 4096 x 4096")
            if file.mode == "F" or (file.mode == "I" and file.format not in ("PNG", "PPM")):  # of no known range
                raise PrepareError(f"{name}: saw 32 bits for a pixel (mode {file.mode}), expected 8 or 16")
            yield file
    except PrepareError:
        raise
    except UnidentifiedImageError:
        raise PrepareError(f"{name}: is no complete image (not an image of a known format)") from None
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error, Image.DecompressionBombError) as error:
        raise PrepareError(f"{name}: is no complete image ({error})") from None


def raw_modes(file: "Image.Image") -> set[str]:
    """How Pillow is going to read the samples of a PNG or TIFF file, such as `RGB;16B`."""
    if file.format not in ("PNG", "TIFF"):
        return set()
    arguments = [tile.args for tile in getattr(file, "tile", [])]
    return {value if isinstance(value, str) else str(value[0]) for value in arguments}


def sixteen_bits(file: "Image.Image") -> bool:
    """Whether the samples of an opened image have more than 8 bits."""
    return any(";16" in raw for raw in raw_modes(file)) or (file.format == "PPM" and _ppm_range(file) > 255)


def _ppm_range(file: "Image.Image") -> int:
    arguments = file.tile[0].args  # type: ignore[attr-defined]
    return 255 if isinstance(arguments, str) else int(arguments[1])


def _eight_bits(name: str, content: bytes, file: "Image.Image") -> "Image.Image":
    """An opened image with values 0 to 255; those of 0 to 65,535 are scaled and rounded to the nearest.

    Pillow itself keeps the upper byte of a colour, which is up to 1 too low, and composes nothing.
    """
    from PIL import Image

    if not (file.mode.startswith("I") or (sixteen_bits(file) and file.format != "PPM")):
        return file
    if file.format == "TIFF" and (file.mode not in ("I;16", "I;16B") or not _plain_tiff(file)):
        seen = ", ".join(sorted(raw_modes(file)))
        raise PrepareError(f"{name}: saw a TIFF of more than 8 bits ({seen}), expected 8; save it so, or as a PNG")
    if "transparency" in file.info:
        raise PrepareError(f"{name}: saw 16 bits with a transparent value, expected one of the two; save it as 8 bits")
    values = np.asarray(file).astype(np.int64)[:, :, None] if file.mode.startswith("I") else _colours(content, file)
    if values.shape[2] in (2, 4):
        alpha = values[:, :, -1:]
        values = (values[:, :, :-1] * alpha + 65535 * (65535 - alpha) + 32767) // 65535
    eight = ((values + 128) // 257).astype(np.uint8)
    made = Image.fromarray(eight[:, :, 0] if eight.shape[2] == 1 else eight)
    made.getexif()[ORIENTATION] = file.getexif().get(ORIENTATION, 1)
    return made


def _plain_tiff(file: "Image.Image") -> bool:
    """Whether the 16 bits of a grey TIFF are all used, and black is 0."""
    black_is_zero = file.tag_v2.get(262, 1) == 1  # type: ignore[attr-defined]
    return black_is_zero and raw_modes(file) <= {"I;16", "I;16B", "I;16N"}


def _colours(content: bytes, file: "Image.Image") -> np.ndarray:
    """The values (H, W, 2, 3 or 4) of a PNG of 16 bits whose samples Pillow would cut to their upper bytes."""
    from PIL import Image

    def read(raw: str) -> np.ndarray:
        with Image.open(io.BytesIO(content), formats=FORMATS) as again:
            again.tile = [tile._replace(args=raw) for tile in again.tile]
            return np.asarray(again).astype(np.int64)

    (raw,) = raw_modes(file)
    if raw == "LA;16B":  # four bytes for a pixel, as many as RGBA has
        bytes_ = read("RGBA")
        return bytes_[:, :, ::2] * 256 + bytes_[:, :, 1::2]
    return read(raw) * 256 + read(raw.replace("16B", "16L"))  # where the order is reversed, the lower byte is kept
