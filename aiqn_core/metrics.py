"""How near samples are to real images: Fréchet distance, inception score, kernel distance.

Named by the extractor they are computed with. They are FID, IS and KID only with the Inception network of those papers.
All is computed in float64; see `features` for the extractor and `cached_reference` for the real images.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, UInt8
from torch import Tensor

from aiqn_core.data import image_checksum
from aiqn_core.features import Extractor, check_images

CACHE_FORMAT = 1  # part of the key of a cached reference: raise it when its contents change
KERNEL_ROWS = 1024  # rows of a kernel matrix held at once


@dataclass(frozen=True)
class Reference:
    """Features of N real images as the distances need them, computed once.

    The covariance (divisor N - 1) is factor @ factor.T; `kernel` is the mean kernel between different images.
    """

    mean: Float64[Tensor, " feature"]
    factor: Float64[Tensor, "feature rank"]  # rank = min(N, feature)
    trace: float
    count: int
    features: Float32[Tensor, "image feature"]
    kernel: float


def frechet_distance(
    mean1: Float[Tensor, " feature"],
    cov1: Float[Tensor, "feature feature"],
    mean2: Float[Tensor, " feature"],
    cov2: Float[Tensor, "feature feature"],
) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), the Fréchet distance of two Gaussians (Dowson and Landau 1982).

    Raises ValueError for shapes that do not fit, values that are not finite, and matrices that are no covariances.
    """
    mean1, cov1 = _gaussian(mean1, cov1, "1")
    mean2, cov2 = _gaussian(mean2, cov2, "2")
    if mean1.shape != mean2.shape:
        raise ValueError(f"saw {len(mean1)} and {len(mean2)} dimensions, expected the same features for both")
    # With C2 = R R^T, C1 C2 and R^T C1 R have the same eigenvalues, but the second is symmetric: they come out real,
    # and nothing need be added to the diagonal of a singular covariance, as with a matrix square root.
    values, vectors = torch.linalg.eigh(cov2)
    root = vectors * values.clamp(min=0).sqrt()
    cross = torch.linalg.eigvalsh(root.T @ cov1 @ root).clamp(min=0).sqrt().sum()
    return _distance(mean1 - mean2, float(cov1.trace()), float(cov2.trace()), float(cross))


def reference_statistics(features: Float[Tensor, "image feature"]) -> Reference:
    """What the distances need of the features of real images; ValueError for fewer than two and for non-finite ones."""
    x = _checked(features, "features")
    mean, centred = x.mean(0), x - x.mean(0)
    # QR gives a factor of the covariance without squaring its condition number, for N < d as for N > d
    factor = torch.linalg.qr(centred, mode="r").R.T / math.sqrt(len(x) - 1)
    return Reference(
        mean=mean,
        factor=factor.contiguous(),
        trace=float(factor.square().sum()),
        count=len(x),
        features=features.detach().float().cpu(),
        kernel=_kernel_within(x),
    )


def frechet_to_reference(features: Float[Tensor, "image feature"], reference: Reference) -> float:
    """Fréchet distance between Gaussians fitted to the features of samples and of real images.

    tr(C1 C2)^(1/2) is the nuclear norm of X R / sqrt(N - 1), with X the centred features and C2 = R R^T: right for
    any N, and fast where there are fewer samples than dimensions. Depends on N (the bias falls as 1/N): compare
    distances of equal N only. Raises ValueError as `reference_statistics`, and for features of another width.
    """
    x = _checked(features, "features", width=len(reference.mean))
    mean, scale = x.mean(0), math.sqrt(len(x) - 1)
    centred = (x - mean) / scale
    cross = torch.linalg.svdvals(centred @ reference.factor).sum()
    return _distance(mean - reference.mean, float(centred.square().sum()), reference.trace, float(cross))


def inception_score(probabilities: Float[Tensor, "image class"], splits: int = 10) -> tuple[float, float]:
    """exp of the mean KL(p(y|x) || p(y)): mean and deviation (divisor `splits`) over parts (Salimans et al. 2016).

    Each is between 1 and the number of classes. The parts are taken in order, so shuffle samples sorted by class.
    Raises ValueError for rows that are no probabilities and for fewer images than parts.
    """
    p = _checked(probabilities, "probabilities")
    if bool((p < 0).any()) or bool(((p.sum(1) - 1).abs() > 1e-3).any()):
        low, high = float(p.sum(1).min()), float(p.sum(1).max())
        raise ValueError(
            f"probabilities: saw a smallest entry of {float(p.min()):g} and rows that sum to {low:g}..{high:g}, "
            "expected entries of at least 0 and sums of 1 (apply softmax to logits)"
        )
    if not 1 <= splits <= len(p):
        raise ValueError(f"splits: saw {splits}, expected 1 to {len(p)}, the number of images")
    scores = torch.stack([_part_score(part) for part in p.tensor_split(splits)])
    return float(scores.mean()), float(scores.std(correction=0))


def kernel_distance(features1: Float[Tensor, "image1 feature"], features2: Float[Tensor, "image2 feature"]) -> float:
    """Unbiased squared maximum mean discrepancy with kernel (x . y / d + 1)^3 (Binkowski et al. 2018); may be below 0.

    Raises ValueError for fewer than two images, non-finite values and unequal widths.
    """
    x = _checked(features1, "features1")
    y = _checked(features2, "features2", width=x.shape[1])
    return _kernel_within(x) + _kernel_within(y) - 2 * _kernel_sum(x, y) / (len(x) * len(y))


def kernel_to_reference(features: Float[Tensor, "image feature"], reference: Reference) -> float:
    """`kernel_distance` to real images, whose own kernel matrix is summed already."""
    x = _checked(features, "features", width=len(reference.mean))
    y = reference.features.to(x)
    return _kernel_within(x) + reference.kernel - 2 * _kernel_sum(x, y) / (len(x) * len(y))


def evaluate_images(
    images: UInt8[Tensor, "image channel height width"], reference: Reference, extractor: Extractor, splits: int = 10
) -> dict[str, float]:
    """Scores of samples against real images: `fd_`, `is_..._mean`, `is_..._std` and `kd_` with the extractor's name.

    Raises ValueError for fewer than two images, images that are not uint8, and more splits than images.
    """
    _check_count(len(images), "images")
    features = extractor(images)
    mean, deviation = inception_score(features.probabilities, splits)
    return {
        f"fd_{extractor.name}": frechet_to_reference(features.pooled, reference),
        f"is_{extractor.name}_mean": mean,
        f"is_{extractor.name}_std": deviation,
        f"kd_{extractor.name}": kernel_to_reference(features.pooled, reference),
    }


def cached_reference(
    images: UInt8[Tensor, "image channel height width"], extractor: Extractor, cache_dir: Path | str | None = None
) -> Reference:
    """`reference_statistics` of images, kept on disk under a key of their pixels and the extractor's description.

    The folder is `cache_dir`, or else $AIQN_CACHE, or else ~/.cache/aiqn. Several processes compute a reference once;
    a damaged file is computed again. Raises OSError where the folder cannot be written, ValueError for wrong images.
    """
    check_images(images)
    _check_count(len(images), "images")
    path = reference_path(images, extractor, cache_dir)
    reference = _read_reference(path)
    if reference is None:
        with _locked(path.with_suffix(".lock")):
            reference = _read_reference(path)  # another process may have written it while this one waited
            if reference is None:
                reference = reference_statistics(extractor(images).pooled)
                _write_reference(path, reference)
    return reference


def reference_path(images: Tensor, extractor: Extractor, cache_dir: Path | str | None = None) -> Path:
    """The file that holds the reference of these images."""
    folder = Path(cache_dir or os.environ.get("AIQN_CACHE") or Path.home() / ".cache" / "aiqn")
    key = {
        "format": CACHE_FORMAT,
        "images": image_checksum(images),
        "count": len(images),
        "extractor": extractor.describe(),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    return folder / f"reference-{extractor.name}-{digest}.npz"


def _gaussian(mean: Tensor, cov: Tensor, name: str) -> tuple[Tensor, Tensor]:
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        shapes = f"{tuple(mean.shape)} and {tuple(cov.shape)}"
        raise ValueError(f"mean{name} and cov{name}: saw shapes {shapes}, expected (d,) and (d, d)")
    mean, cov = mean.detach().double(), cov.detach().double()
    if not bool(mean.isfinite().all() and cov.isfinite().all()):
        raise ValueError(f"mean{name} or cov{name} holds NaN or infinity, expected finite numbers")
    size = float(cov.abs().max())
    if float((cov - cov.T).abs().max()) > 1e-6 * size or float(cov.diagonal().min()) < 0:
        raise ValueError(f"cov{name}: saw a matrix that is not symmetric or has a negative variance; not a covariance")
    return mean, (cov + cov.T) / 2


def _distance(difference: Tensor, trace1: float, trace2: float, cross: float) -> float:
    # rounding leaves +-1e-13 or so where the distance is zero, and a square is never negative
    return max(0.0, float(difference.square().sum()) + trace1 + trace2 - 2 * cross)


def _checked(values: Tensor, name: str, width: int | None = None) -> Float64[Tensor, "image feature"]:
    if values.ndim != 2 or values.shape[1] == 0 or (width is not None and values.shape[1] != width):
        expected = f"(N, {width or 'd'})"
        raise ValueError(f"{name}: saw shape {tuple(values.shape)}, expected {expected}, a row for each image")
    _check_count(len(values), name)
    bad = int((~values.isfinite()).any(1).sum())
    if bad:
        raise ValueError(f"{name}: saw NaN or infinity in {bad} of {len(values)} rows, expected finite numbers")
    return values.detach().double()


def _check_count(count: int, name: str) -> None:
    if count < 2:
        raise ValueError(f"{name}: saw {count}, expected at least 2 images; one has no covariance")


def _part_score(p: Float64[Tensor, "image class"]) -> Float64[Tensor, ""]:
    divergence = torch.xlogy(p, p) - torch.xlogy(p, p.mean(0))  # xlogy: 0 log 0 is 0
    return divergence.sum(1).mean().exp()


def _kernel_sum(x: Float64[Tensor, "image1 feature"], y: Float64[Tensor, "image2 feature"]) -> float:
    """Sum of (x_i . y_j / d + 1)^3 over all pairs."""
    blocks = (x[begin : begin + KERNEL_ROWS] @ y.T for begin in range(0, len(x), KERNEL_ROWS))
    return math.fsum(float((block / x.shape[1] + 1).pow(3).sum()) for block in blocks)


def _kernel_within(x: Float64[Tensor, "image feature"]) -> float:
    """Mean of the kernel over all pairs of different rows."""
    same = float((x.square().sum(1) / x.shape[1] + 1).pow(3).sum())
    return (_kernel_sum(x, x) - same) / (len(x) * (len(x) - 1))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file alone, waiting for any process that holds it; the system frees it when a process dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        message = f"{path.parent}: reference statistics cannot be kept here ({error.strerror})"
        raise OSError(f"{message}; set AIQN_CACHE to a folder that can be written") from error
    with file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield


def _write_reference(path: Path, reference: Reference) -> None:
    arrays = {field.name: np.asarray(getattr(reference, field.name)) for field in dataclasses.fields(reference)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
            )
    except FileNotFoundError:
        return None
    except Exception:  # a damaged file can make zipfile and NumPy raise nearly anything; each entry has a checksum
        return None
