"""Statistics of real images: computed once, kept on disk, shared by all trials."""

import dataclasses
import hashlib
import io
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, UInt8
from torch import Tensor

from aiqn_core.cache import cache_folder, locked, write_whole
from aiqn_core.coverage import neighbour_radii
from aiqn_core.data import image_checksum
from aiqn_core.features import Extractor, check_images
from aiqn_core.metrics import check_count, checked, kernel_within, random_subsets, subset_size

CACHE_FORMAT = 4  # part of the key of a cached reference: raise it when its contents change
SEEN_AT_ONCE = 256  # real images between two words of progress
REAL = 1  # the seed of the subsets of real images; those of samples have another


@dataclass(frozen=True)
class Reference:
    """Features of N real images as the distances need them, computed once.

    The covariance (divisor N - 1) is factor @ factor.T. `kernel` is the mean kernel between different images,
    `kernel_subsets` the same within each random subset, `radii` the `neighbour_radii` of their coverage.
    """

    mean: Float64[Tensor, " feature"]
    factor: Float64[Tensor, "feature rank"]  # rank = min(N, feature)
    trace: float
    count: int
    features: Float32[Tensor, "image feature"]
    kernel: float
    kernel_subsets: Float64[Tensor, " subset"]
    radii: Float64[Tensor, " image"]


def reference_statistics(features: Float[Tensor, "image feature"]) -> Reference:
    """What the distances need of the features of real images; ValueError for fewer than two and for non-finite ones."""
    x = checked(features, "features")
    mean, centred = x.mean(0), x - x.mean(0)
    # QR gives a factor of the covariance without squaring its condition number, for N < d as for N > d
    factor = torch.linalg.qr(centred, mode="r").R.T / math.sqrt(len(x) - 1)
    sums, size = kernel_within(x, random_subsets(len(x), REAL)), subset_size(len(x))
    return Reference(
        mean=mean,
        factor=factor.contiguous(),
        trace=float(factor.square().sum()),
        count=len(x),
        features=features.detach().float().cpu(),
        kernel=float(sums.rows.sum()) / (len(x) * (len(x) - 1)),
        kernel_subsets=sums.subsets / (size * (size - 1)),
        radii=neighbour_radii(x),
    )


def bar(done: int, total: int) -> None:
    """A line in the terminal that says how many real images were seen; nothing where there is no terminal."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\rstatistics of real images: {done:,} of {total:,}", end=end, file=sys.stderr, flush=True)


def cached_reference(
    images: UInt8[Tensor, "image channel height width"],
    extractor: Extractor,
    cache_dir: Path | str | None = None,
    progress: Callable[[int, int], None] = bar,
) -> Reference:
    """`reference_statistics` of images, kept on disk under a key of their pixels and the extractor's description.

    The folder is `cache_dir`, or else $AIQN_CACHE, or else ~/.cache/aiqn. Several processes compute a reference once;
    a damaged file is computed again. `progress` is told how many of how many images were seen. Raises CacheError where
    the folder cannot be written, ValueError for wrong images.
    """
    check_images(images)
    check_count(len(images), "images")
    path = reference_path(images, extractor, cache_dir)
    reference = _read_reference(path)
    if reference is None:
        with locked(path.with_suffix(".lock")):
            reference = _read_reference(path)  # another process may have written it while this one waited
            if reference is None:
                reference = reference_statistics(_pooled(images, extractor, progress))
                _write_reference(path, reference)
    return reference


def _pooled(images: Tensor, extractor: Extractor, progress: Callable[[int, int], None]) -> Tensor:
    parts = []
    for begin in range(0, len(images), SEEN_AT_ONCE):
        progress(begin, len(images))
        parts.append(extractor(images[begin : begin + SEEN_AT_ONCE]).pooled)
    progress(len(images), len(images))
    return torch.cat(parts)


def reference_path(images: Tensor, extractor: Extractor, cache_dir: Path | str | None = None) -> Path:
    """The file that holds the reference of these images."""
    key = {
        "format": CACHE_FORMAT,
        "images": image_checksum(images),
        "count": len(images),
        "extractor": extractor.describe(),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    return cache_folder(cache_dir) / f"reference-{extractor.name}-{digest}.npz"


def _write_reference(path: Path, reference: Reference) -> None:
    arrays = {field.name: np.asarray(getattr(reference, field.name)) for field in dataclasses.fields(reference)}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_whole(path, content.getvalue())


def _read_reference(path: Path) -> Reference | None:
    """The reference in a file, or None where there is none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Reference(
                mean=torch.from_numpy(arrays["mean"]),
                factor=torch.from_numpy(arrays["factor"]),
                trace=float(arrays["trace"]),
                count=int(arrays["count"]),
                features=torch.from_numpy(arrays["features"]),
                kernel=float(arrays["kernel"]),
                kernel_subsets=torch.from_numpy(arrays["kernel_subsets"]),
                radii=torch.from_numpy(arrays["radii"]),
            )
    except FileNotFoundError:
        return None
    except Exception:  # a damaged file can make zipfile and NumPy raise nearly anything; each entry has a checksum
        return None
