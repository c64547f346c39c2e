"""Pixels as levels 0..255 and as values in [0, 1], and the levels of a distribution at tau."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

LEVELS = 256


def to_unit(image: UInt8[Tensor, "*shape"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "*shape"]:
    """Levels 0..255 as values in [0, 1]."""
    return image.to(dtype) / (LEVELS - 1)


def nearest_level(value: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """The level nearest to a value in [0, 1]; values outside go to 0 or 255."""
    # Rounded, not truncated: 0.9999 is 255. Contexts in training are on this grid, so those in sampling must be too.
    return (value.clamp(0, 1) * (LEVELS - 1)).round().to(torch.uint8)


def softmax_icdf(logits: Float[Tensor, "*shape levels"], tau: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """The smallest level whose cumulative probability exceeds tau; tau = 1 is the last level with any probability."""
    weight = (logits - logits.amax(-1, keepdim=True)).exp().double()
    cumulative = weight.cumsum(-1)
    # Compare below the computed total rather than 1: rounding must not select a level that has no probability.
    total = cumulative[..., -1]
    threshold = torch.minimum(tau.double() * total, torch.nextafter(total, torch.zeros_like(total)))
    return (cumulative <= threshold[..., None]).sum(-1).to(torch.uint8)
