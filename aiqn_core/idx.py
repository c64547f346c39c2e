"""The IDX files of MNIST and of the data sets that follow it, gzipped or not: a header, then bytes."""

import gzip
import hashlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from aiqn_core.archives import LARGEST_MEMBER, Member, members
from aiqn_core.pictures import Chunk, PrepareError

PARTS = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")}
PARTS["test"] = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
NAMES = tuple(name for pair in PARTS.values() for name in pair)


def read_idx(source: Path) -> Iterator[Chunk]:
    """The four files of a folder or an archive as images (n, 1, H, W) and labels, the training images first."""
    found: dict[str, np.ndarray] = {}
    for member in members(source):
        name = idx_name(member.base)
        if name not in NAMES:
            continue
        if name in found:
            raise PrepareError(f"{source}: saw {name} twice; give it packed or unpacked, not both")
        found[name] = parse(member.name, unpacked(member))
    if missing := [name for name in NAMES if name not in found]:
        raise PrepareError(f"{source}: {', '.join(missing)} missing of {', '.join(NAMES)}")
    for split, (images, labels) in PARTS.items():
        if found[images].ndim != 3 or found[labels].shape != found[images].shape[:1]:
            raise PrepareError(
                f"{source}: saw {images} of shape {found[images].shape} and {labels} of {found[labels].shape}, "
                "expected (n, height, width) and (n,)"
            )
        if len(found[labels]) and found[labels].max() > 9:
            raise PrepareError(f"{source}: saw the label {found[labels].max()} in {labels}, expected 0 to 9")
        yield Chunk(split, found[images][:, None], found[labels].astype(np.int64))


def idx_name(base: str) -> str:
    """The published name of a file, which torchvision writes as it is and others with a dot before `idx`."""
    return base.removesuffix(".gz").replace(".idx", "-idx")


def unpacked(member: Member) -> bytes:
    """The content of a file, unpacked where it is gzipped; raises PrepareError where that is damaged or endless."""
    content = member.read()
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        with gzip.open(io.BytesIO(content)) as file:
            result = file.read(LARGEST_MEMBER + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise PrepareError(f"{member.name}: is damaged or incomplete ({error}); fetch it again") from None
    if len(result) > LARGEST_MEMBER:
        raise PrepareError(f"{member.name}: unpacks to more than {LARGEST_MEMBER} bytes, expected fewer")
    return result


def parse(name: str, content: bytes) -> np.ndarray:
    """The uint8 array of an IDX file: two zeros, type 8, the number of axes, the axes as big-endian int32."""
    if len(content) < 4 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise PrepareError(f"{name}: begins with {content[:4].hex()}, expected 000008 and a header of IDX")
    axes = content[3]
    shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    count = int(np.prod(shape, dtype=object))
    if (seen := len(content) - 4 - 4 * axes) != count:
        raise PrepareError(f"{name}: saw {seen} values, expected {count} of shape {shape}; it is incomplete")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def verify_idx(source: Path, checksums: dict[str, str]) -> list[str]:
    """The files whose unpacked content has the published MD5; raises PrepareError where one has another."""
    verified = []
    for member in members(source):
        if (name := idx_name(member.base)) in checksums:
            seen = hashlib.md5(unpacked(member), usedforsecurity=False).hexdigest()
            if seen != checksums[name]:
                raise PrepareError(
                    f"{member.name}: saw the MD5 {seen} of its unpacked content, expected {checksums[name]} as "
                    "published: it is altered, or of another data set. Take it knowingly with --unverified"
                )
            verified.append(name)
    return verified
