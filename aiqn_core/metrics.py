"""Distances and scores as formulas: Fréchet distance, inception score, kernel distance, in float64.

They are FID, IS and KID only on features of the Inception network of those papers: see `scores` for their names.
"""

import itertools
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

KERNEL_ROWS = 1024  # rows of a kernel matrix held at once
SUBSETS, SUBSET_SIZE = 100, 1000  # whose spread is told with a kernel distance (Binkowski et al. 2018)


class InceptionScore(NamedTuple):
    """Mean and deviation over parts."""

    mean: float
    deviation: float


class KernelSums(NamedTuple):
    """Of the kernel between images x and y: over all y for each x, and over all pairs of each pair of subsets."""

    rows: Float64[Tensor, " image1"]
    subsets: Float64[Tensor, " subset"]


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
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross
    return max(0.0, float(distance))  # rounding leaves +-1e-13 or so where the distance is zero


def inception_score(probabilities: Float[Tensor, "image class"], splits: int = 10) -> InceptionScore:
    """exp of the mean KL(p(y|x) || p(y)): mean and deviation (divisor `splits`) over parts (Salimans et al. 2016).

    Each is between 1 and the number of classes. The parts are taken in order, so shuffle samples sorted by class.
    Raises ValueError for rows that are no probabilities and for fewer images than parts.
    """
    p = checked(probabilities, "probabilities")
    if bool((p < 0).any()) or bool(((p.sum(1) - 1).abs() > 1e-3).any()):
        low, high = float(p.sum(1).min()), float(p.sum(1).max())
        raise ValueError(
            f"probabilities: saw a smallest entry of {float(p.min()):g} and rows that sum to {low:g}..{high:g}, "
            "expected entries of at least 0 and sums of 1 (apply softmax to logits)"
        )
    if not 1 <= splits <= len(p):
        raise ValueError(f"splits: saw {splits}, expected 1 to {len(p)}, the number of images")
    scores = torch.stack([_part_score(part) for part in split_parts(p, splits)])
    return InceptionScore(float(scores.mean()), float(scores.std(correction=0)))


def split_parts(rows: Tensor, splits: int) -> list[Tensor]:
    """The rows in `splits` parts: part i is from i * N // splits on, where the code of Salimans et al. cuts them."""
    # Not tensor_split: where N is not divisible it makes the first parts the longer ones.
    ends = [index * len(rows) // splits for index in range(splits + 1)]
    return [rows[begin:end] for begin, end in itertools.pairwise(ends)]


def kernel_distance(features1: Float[Tensor, "image1 feature"], features2: Float[Tensor, "image2 feature"]) -> float:
    """Unbiased squared maximum mean discrepancy with kernel (x . y / d + 1)^3 (Binkowski et al. 2018); may be below 0.

    Raises ValueError for fewer than two images, non-finite values and unequal widths.
    """
    x = checked(features1, "features1")
    y = checked(features2, "features2", width=x.shape[1])
    n, m = len(x), len(y)
    within = [kernel_within(a).rows.sum() / (len(a) * (len(a) - 1)) for a in (x, y)]
    return float(within[0] + within[1] - 2 * kernel_sums(x, y).rows.sum() / (n * m))


def kernel_sums(
    x: Float64[Tensor, "image1 feature"],
    y: Float64[Tensor, "image2 feature"],
    picked: tuple[Float64[Tensor, "subset image1"], Float64[Tensor, "subset image2"]] | None = None,
) -> KernelSums:
    """Sums of (x_i . y_j / d + 1)^3; `picked` marks the members of subsets by ones."""
    ones, others = picked or (x.new_zeros(0, len(x)), y.new_zeros(0, len(y)))
    rows, subsets = x.new_empty(len(x)), x.new_zeros(len(ones))
    for begin in range(0, len(x), KERNEL_ROWS):
        part = slice(begin, begin + KERNEL_ROWS)
        block = (x[part] @ y.T).div_(x.shape[1]).add_(1).pow_(3)
        rows[part] = block.sum(1)
        subsets += ((ones[:, part] @ block) * others).sum(1)
    return KernelSums(rows, subsets)


def kernel_within(
    x: Float64[Tensor, "image feature"], picked: Float64[Tensor, "subset image"] | None = None
) -> KernelSums:
    """`kernel_sums` of images with each other, without the pairs of an image with itself."""
    rows, subsets = kernel_sums(x, x, None if picked is None else (picked, picked))
    same = (x.square().sum(1) / x.shape[1] + 1).pow(3)
    return KernelSums(rows - same, subsets if picked is None else subsets - picked @ same)


def random_subsets(count: int, seed: int) -> Float64[Tensor, "subset image"]:
    """SUBSETS rows of zeros with ones at the members of a random subset: always the same of `count` images.

    The sizes of the subsets are those of `subset_size`.
    """
    random = np.random.RandomState(seed)  # NumPy keeps the stream of this legacy generator frozen
    picked = torch.zeros(SUBSETS, count, dtype=torch.float64)
    for row in picked:
        row[torch.from_numpy(random.permutation(count)[: subset_size(count)])] = 1
    return picked


def subset_size(count: int) -> int:
    """How many of `count` images are in a random subset: SUBSET_SIZE as published, or half of fewer images.

    From SUBSET_SIZE images on these are the subsets of torch-fidelity, which refuses fewer images. A subset of all
    images is always the same: the spread at exactly SUBSET_SIZE samples is that of the subsets of real images alone.
    """
    return SUBSET_SIZE if count >= SUBSET_SIZE else max(2, count // 2)


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


def checked(values: Tensor, name: str, width: int | None = None) -> Float64[Tensor, "image feature"]:
    """Features in float64; raises ValueError for another shape, too few images and values that are not finite."""
    if values.ndim != 2 or values.shape[1] == 0 or (width is not None and values.shape[1] != width):
        expected = f"(N, {width or 'd'})"
        raise ValueError(f"{name}: saw shape {tuple(values.shape)}, expected {expected}, a row for each image")
    check_count(len(values), name)
    bad = int((~values.isfinite()).any(1).sum())
    if bad:
        raise ValueError(f"{name}: saw NaN or infinity in {bad} of {len(values)} rows, expected finite numbers")
    return values.detach().double()


def check_count(count: int, name: str, least: int = 2) -> None:
    """Raises ValueError for too few images: one has no covariance."""
    if count < least:
        raise ValueError(f"{name}: saw {count}, expected at least {least} images")


def _part_score(p: Float64[Tensor, "image class"]) -> Float64[Tensor, ""]:
    divergence = torch.xlogy(p, p) - torch.xlogy(p, p.mean(0))  # xlogy: 0 log 0 is 0
    return divergence.sum(1).mean().exp()
