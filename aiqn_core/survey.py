"""What is done to images besides decoding them, known before they are read for good, and their channels."""

from typing import NamedTuple

import numpy as np

from aiqn_core.pictures import ORIENTATION, decode, opened, raw_modes, sixteen_bits

GREY = ("1", "L", "LA", "La")  # modes; and those of 16 bits


class Facts(NamedTuple):
    """What the header of an image file says, by which decoding changes its values."""

    grey: bool  # by its kind; an image in colours may still have none
    transparent: bool
    turned: bool
    deep: bool  # 16 bits
    frames: bool  # more than one


def facts(name: str, content: bytes) -> Facts:
    """The facts of an image file; raises PrepareError for what is no image of `FORMATS`."""
    with opened(name, content) as file:
        grey = file.mode in GREY or file.mode.startswith("I") or "LA;16B" in raw_modes(file)
        deep = file.mode.startswith("I") or sixteen_bits(file)
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
