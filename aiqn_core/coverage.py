"""How much of the real images samples cover: a number for diversity beside the distances (Naeem et al. 2020).

A real image is covered where a sample lies no further from it, in the features' space, than its fifth nearest other
real image. Samples that are all alike cover few of them, however good each one is. Of M samples as good as N real
images 1 - (N / (N + M))^5 is covered, or nearly: 0.97 where M = N, 0.38 of 1,000 samples against 10,000 images. So it
compares only at equal numbers of both, and what held-out real images cover is the most that there is to reach.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

NEIGHBOURS = 5
ROWS = 1024  # rows of a matrix of distances held at once
ROUNDING = 1e-9  # of a squared length: the same image has not quite the same features in another batch


class Covered(NamedTuple):
    """The share of the real images that some samples cover, and the same without each of the samples."""

    share: float
    without: Float64[Tensor, " sample"]


def neighbour_radii(real: Float64[Tensor, "image feature"]) -> Float64[Tensor, " image"]:
    """The squared distance of each image to its fifth nearest other one; of five or fewer images, to the furthest."""
    nearest = min(NEIGHBOURS, len(real) - 1)
    radii = []
    for begin, block in _squared_distances(real, real):
        rows = torch.arange(len(block))
        block[rows, begin + rows] = -1.0  # itself, first whatever else lies at the same place
        radii.append(block.kthvalue(nearest + 1, dim=1).values)
    return torch.cat(radii)


def covered(
    samples: Float64[Tensor, "sample feature"],
    real: Float64[Tensor, "image feature"],
    radii: Float64[Tensor, " image"],
) -> Covered:
    """The coverage of samples; `radii` are the `neighbour_radii` of the real images."""
    reach = radii + ROUNDING * real.square().sum(1)
    counts, numbers = torch.zeros_like(radii), torch.zeros_like(radii)
    for begin, block in _squared_distances(samples, real):
        inside = (block <= reach).double()
        counts += inside.sum(0)
        numbers += torch.arange(begin, begin + len(block), dtype=torch.float64) @ inside
    # An image that one sample alone covers is lost without that sample, whose number is then the sum of all numbers.
    alone = torch.bincount(numbers[counts == 1].long(), minlength=len(samples))
    share = (counts > 0).double().mean()
    return Covered(float(share), share - alone.double() / len(real))


def _squared_distances(
    x: Float64[Tensor, "image1 feature"], y: Float64[Tensor, "image2 feature"]
) -> Iterator[tuple[int, Float64[Tensor, "row image2"]]]:
    """Blocks of rows of |x_i - y_j|^2, each with the number of its first row."""
    lengths = y.square().sum(1)
    for begin in range(0, len(x), ROWS):
        part = x[begin : begin + ROWS]
        block = (part @ y.T).mul_(-2).add_(lengths).add_(part.square().sum(1, keepdim=True))
        yield begin, block.clamp_(min=0)
