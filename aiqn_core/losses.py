"""The losses of the paper, elementwise: quantile and Huber quantile (eq. 2), categorical likelihood."""

import math
from typing import TypeVar

from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

Number = TypeVar("Number", float, Tensor)


def quantile_loss(
    prediction: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"], tau: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """ρ_τ(u) = (τ − 1{u ≤ 0}) u of the error u = target − prediction (section 2.2).

    Raises ValueError unless the three shapes are equal.
    """
    _check_shapes(prediction, target, tau)
    return _weight(target - prediction, tau) * (target - prediction).abs()


def huber_quantile_loss(
    prediction: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"], tau: Float[Tensor, "*shape"], kappa: float
) -> Float[Tensor, "*shape"]:
    """ρ^κ_τ(u) of eq. (2): |τ − 1{u ≤ 0}| · (u²/2κ if |u| ≤ κ, else |u| − κ/2); kappa = 0 is `quantile_loss`.

    kappa is in the units of prediction and target: a fraction of the pixel range where these are in [0, 1].
    Raises ValueError unless the three shapes are equal and kappa is at least 0.
    """
    if not 0 <= kappa < math.inf:
        raise ValueError(f"kappa: saw {kappa}, expected a number >= 0, for example 0.002")
    if kappa == 0:
        return quantile_loss(prediction, target, tau)
    _check_shapes(prediction, target, tau)
    error = target - prediction
    # torch's huber_loss is kappa times larger: eq. (2) divides by kappa, and at 0.002 that is a factor of 500.
    return _weight(error, tau) * F.huber_loss(prediction, target, reduction="none", delta=kappa) / kappa


def categorical_nll(
    logits: Float[Tensor, "batch channel levels height width"], target: UInt8[Tensor, "batch channel height width"]
) -> Float[Tensor, "batch channel height width"]:
    """−log p(target) in nats of each sub-pixel, levels on axis 2; raises ValueError unless the shapes agree."""
    if logits.dim() != 5 or logits.shape[:2] + logits.shape[3:] != target.shape:
        raise ValueError(
            f"saw logits {tuple(logits.shape)} and target {tuple(target.shape)}, expected"
            " (batch, channel, levels, height, width) and (batch, channel, height, width)"
        )
    return F.cross_entropy(logits.movedim(2, 1), target.long(), reduction="none")


def bits_per_dim(nats: Number) -> Number:
    """Mean nats per sub-pixel as bits."""
    return nats / math.log(2)


def _weight(error: Tensor, tau: Tensor) -> Tensor:
    return (tau - (error <= 0).to(tau.dtype)).abs()


def _check_shapes(prediction: Tensor, target: Tensor, tau: Tensor) -> None:
    # Equal shapes are required, not broadcast: (B,) against (B, 1) would average B * B wrong pairs in silence.
    if not prediction.shape == target.shape == tau.shape:
        raise ValueError(
            f"shapes must be equal: prediction {tuple(prediction.shape)}, target {tuple(target.shape)},"
            f" tau {tuple(tau.shape)}"
        )
