"""How near vectors are to real vectors: energy distance and one-dimensional Wasserstein distances, in float64."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

ROWS = 1024  # of a distance matrix held at once


def energy_distance(
    x: Float[Tensor, "count1 dim"], y: Float[Tensor, "count2 dim"], within_y: float | None = None
) -> float:
    """2 E|X − Y| − E|X − X'| − E|Y − Y'|, unbiased, so that it may be below 0 (Székely & Rizzo 2013).

    It is 0 only for equal distributions; in one dimension it is 2 ∫ (F − G)². `within_y` is `mean_distance(y)` where
    that is known. Raises ValueError for fewer than two vectors, values that are not finite and unequal dimensions.
    """
    x, y = _checked(x), _checked(y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"saw {x.shape[1]} and {y.shape[1]} dimensions, expected the same for both")
    across = _sum(x, y) / (len(x) * len(y))
    return 2 * across - mean_distance(x) - (mean_distance(y) if within_y is None else within_y)


def mean_distance(x: Float[Tensor, "count dim"]) -> float:
    """Mean Euclidean distance over all pairs of different rows."""
    x = _checked(x)
    return _sum(x, x) / (len(x) * (len(x) - 1))


def wasserstein1(x: Float[Tensor, "count1 dim"], y: Float[Tensor, "count2 dim"]) -> Float[Tensor, " dim"]:
    """∫ |F − G| of each dimension alone, exact for the two samples; blind to how dimensions depend on each other.

    Two samples of one distribution are a positive distance apart, which falls as 1/√count. Raises ValueError as
    `energy_distance`.
    """
    x, y = _checked(x), _checked(y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"saw {x.shape[1]} and {y.shape[1]} dimensions, expected the same for both")
    x, y = x.T.contiguous().sort().values, y.T.contiguous().sort().values
    points = torch.cat([x, y], 1).sort().values
    left, width = points[:, :-1].contiguous(), points.diff()
    below_x = torch.searchsorted(x, left, right=True).double() / x.shape[1]
    below_y = torch.searchsorted(y, left, right=True).double() / y.shape[1]
    return ((below_x - below_y).abs() * width).sum(1)


def _sum(x: Tensor, y: Tensor) -> float:
    # Not by matrix product, which loses the small distances to cancellation.
    blocks = (x[begin : begin + ROWS] for begin in range(0, len(x), ROWS))
    return math.fsum(float(torch.cdist(rows, y, compute_mode="donot_use_mm_for_euclid_dist").sum()) for rows in blocks)


def _checked(x: Tensor) -> Tensor:
    if x.dim() != 2 or len(x) < 2:
        raise ValueError(f"saw shape {tuple(x.shape)}, expected (count, dimensions) with at least 2 vectors")
    if not bool(x.isfinite().all()):
        raise ValueError(f"saw {int((~x.isfinite()).sum())} values that are not finite, expected none")
    return x.detach().double()
