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
GREY = ("1", "L", "LA", "La")  # modes; and those of 16 bits
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


class Facts(NamedTuple):
    """What the header of an image file says, by which decoding changes its values."""

    grey: bool  # by its kind; an image in colours may still have none
    transparent: bool
    turned: bool
    deep: bool  # 16 bits
    frames: bool  # more than one


def facts(name: str, content: bytes) -> Facts:
    """The facts of an image file; raises PrepareError for what is no image of `FORMATS`."""
    with _opened(name, content) as file:
        grey = file.mode in GREY or file.mode.startswith("I") or "LA;16B" in _raw_modes(file)
        deep = file.mode.startswith("I") or _sixteen_bits(file)
        if file.mode == "P":
            palette = np.array(file.getpalette("RGB") or [0]).reshape(-1, 3 if file.getpalette("RGB") else 1)
            grey = bool((palette == palette[:, :1]).all())
        transparent = file.has_transparency_data
        turned = file.getexif().get(ORIENTATION, 1) in range(2, 9)
        try:
            file.seek(1)
        except EOFError:
            return Facts(grey, transparent, turned, deep, frames=False)
        return Facts(grey, transparent, turned, deep, frames=True)


class Survey:
    """What is known of some image files before they are read for good; each is to be added once."""

    def __init__(self) -> None:
        self.found: list[Facts] = []
        self.plain = True  # whether no image has shown a colour so far

    def add(self, name: str, content: bytes) -> None:
        """Look at an image; it is decoded only where it might be the first one with a colour."""
        one = facts(name, content)
        self.found.append(one)
        self.plain = self.plain and (one.grey or without_colour(decode(name, content)[None]))

    def channels(self, asked: int | None) -> int:
        """1 where no image has a colour, else 3, unless one of them was asked for."""
        return asked or (1 if self.plain else 3)

    def notes(self) -> list[str]:
        """What is done to the images besides decoding them, in a sentence each."""
        return told(self.found)

    def channel_notes(self, asked: int | None) -> list[str]:
        """What is said of the channels."""
        return channel_notes(self.plain, all(one.grey for one in self.found), asked)


def channel_notes(plain: bool, stored: bool, asked: int | None) -> list[str]:
    """What is said of the channels: `plain` where no image has a colour, `stored` where they are stored so too."""
    if asked is None and plain and stored:
        return ["All images are grey: one channel (--channels 3 repeats it)"]
    if asked is None and plain:
        return ["All images are grey, with three equal channels: one is kept (--channels 3 keeps three)"]
    return ["Colours were made grey (--channels 1)"] if asked == 1 and not plain else []


def without_colour(images: np.ndarray) -> bool:
    """Whether images (N, C, H, W) have one channel, or three equal ones."""
    return images.shape[1] == 1 or bool((images == images[:, :1]).all())


def in_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Images (N, 1 or 3, H, W) with that many channels: one is repeated, three become grey as Pillow makes it."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.repeat(3, 1)
    weights = np.array([19595, 38470, 7471], np.uint32)  # of 65,536: the luma of ITU-R 601
    return ((np.einsum("nchw,c->nhw", images.astype(np.uint32), weights) + 32768) >> 16)[:, None].astype(np.uint8)


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
def _opened(name: str, content: bytes) -> Iterator["Image.Image"]:
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


def _raw_modes(file: "Image.Image") -> set[str]:
    """How Pillow is going to read the samples of a PNG or TIFF file, such as `RGB;16B`."""
    if file.format not in ("PNG", "TIFF"):
        return set()
    arguments = [tile.args for tile in getattr(file, "tile", [])]
    return {value if isinstance(value, str) else str(value[0]) for value in arguments}


def _sixteen_bits(file: "Image.Image") -> bool:
    return any(";16" in raw for raw in _raw_modes(file)) or (file.format == "PPM" and _ppm_range(file) > 255)


def _ppm_range(file: "Image.Image") -> int:
    arguments = file.tile[0].args  # type: ignore[attr-defined]
    return 255 if isinstance(arguments, str) else int(arguments[1])


def _eight_bits(name: str, content: bytes, file: "Image.Image") -> "Image.Image":
    """An opened image with values 0 to 255; those of 0 to 65,535 are scaled and rounded to the nearest.

    Pillow itself keeps the upper byte of a colour, which is up to 1 too low, and composes nothing.
    """
    from PIL import Image

    if not (file.mode.startswith("I") or (_sixteen_bits(file) and file.format != "PPM")):
        return file
    if file.format == "TIFF" and (file.mode not in ("I;16", "I;16B") or not _plain_tiff(file)):
        seen = ", ".join(sorted(_raw_modes(file)))
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
    return black_is_zero and _raw_modes(file) <= {"I;16", "I;16B", "I;16N"}


def _colours(content: bytes, file: "Image.Image") -> np.ndarray:
    """The values (H, W, 2, 3 or 4) of a PNG of 16 bits whose samples Pillow would cut to their upper bytes."""
    from PIL import Image

    def read(raw: str) -> np.ndarray:
        with Image.open(io.BytesIO(content), formats=FORMATS) as again:
            again.tile = [tile._replace(args=raw) for tile in again.tile]
            return np.asarray(again).astype(np.int64)

    (raw,) = _raw_modes(file)
    if raw == "LA;16B":  # four bytes for a pixel, as many as RGBA has
        bytes_ = read("RGBA")
        return bytes_[:, :, ::2] * 256 + bytes_[:, :, 1::2]
    return read(raw) * 256 + read(raw.replace("16B", "16L"))  # where the order is reversed, the lower byte is kept
