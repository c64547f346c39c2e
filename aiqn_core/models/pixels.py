"""Gated PixelCNN and PixelIQN (section 4): one network, two heads. Both sample as x_i = icdf(x_<i, tau_i)."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from aiqn_core.gated import GatedNetwork
from aiqn_core.levels import LEVELS, nearest_level, softmax_icdf, to_unit
from aiqn_core.losses import bits_per_dim, categorical_nll, huber_quantile_loss
from aiqn_core.models.settings import PixelSettings, QuantileLoss


class _Pixels(nn.Module):
    """What both have: a network over all sub-pixels, whose samples follow from one quantile level for each."""

    Settings = PixelSettings
    sample_batch = None  # the sampler knows what the memory holds
    network: GatedNetwork

    @property
    def conditional(self) -> bool:
        """Whether the model is told the class of each image."""
        return self.network.num_classes > 0

    def noise(self) -> tuple[int, int, int]:
        """One quantile level for each sub-pixel."""
        return self.network.image_shape

    def sample(
        self, noise: Float[Tensor, "batch channel height width"], label: Int[Tensor, " batch"] | None = None
    ) -> UInt8[Tensor, "batch channel height width"]:
        """Images at quantile levels, by the sampler that computes everything once."""
        from aiqn_core.sampling import sample  # which is for all ordered models

        return sample(self, len(noise), tau=noise, label=label)


class PixelCNN(_Pixels):
    """Gated PixelCNN: the logits of 256 levels for each sub-pixel, trained by likelihood. It has no tau inside."""

    output_shape = (LEVELS,)  # of one sub-pixel

    def __init__(self, config: PixelSettings, image_shape: tuple[int, int, int], num_classes: int = 0) -> None:
        super().__init__()
        self.network = GatedNetwork(
            config, image_shape, outputs=math.prod(self.output_shape), tau_mode=None, num_classes=num_classes
        )

    def forward(
        self, x: Float[Tensor, "batch channel height width"], label: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch channel 256 height width"]:
        """Logits of the level of each sub-pixel given those before it; x in [0, 1]."""
        return self.network(x, None, label)

    def loss(
        self,
        image: UInt8[Tensor, "batch channel height width"],
        tau: Float[Tensor, "batch channel height width"] | None = None,
        label: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean nats per sub-pixel; tau is not used."""
        return categorical_nll(self(to_unit(image, self.network.head.weight.dtype), label), image).mean()

    def icdf(
        self, output: Float[Tensor, "batch channel 256 height width"], tau: Float[Tensor, "batch channel height width"]
    ) -> UInt8[Tensor, "batch channel height width"]:
        """The levels at tau of the distributions that `forward` gave."""
        return softmax_icdf(output.movedim(2, -1), tau)

    def outputs(
        self,
        x: Float[Tensor, "batch channel height width"],
        tau: Float[Tensor, "batch channel height width"],
        label: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channel 256 height width"]:
        """The logits, which have no tau inside."""
        return self(x, label)

    @torch.inference_mode()
    def measure(self, data: Any, settings: Any) -> dict[str, float]:
        """Bits per sub-pixel of at most as many test images as there are samples."""
        return {"bits_per_dim": bits_per_dim(mean_loss(self, data, settings.samples))}


class PixelIQN(_Pixels):
    """PixelIQN: the tau-quantile of each sub-pixel, in units of [0, 1], trained by the Huber quantile loss."""

    Loss = QuantileLoss
    output_shape = ()  # of one sub-pixel

    def __init__(
        self,
        config: PixelSettings,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        loss: QuantileLoss | None = None,
    ) -> None:
        super().__init__()
        self.kappa = (loss or QuantileLoss()).kappa
        self.network = GatedNetwork(
            config, image_shape, outputs=math.prod(self.output_shape), tau_mode=config.tau_mode, num_classes=num_classes
        )
        assert self.network.head.bias is not None
        nn.init.constant_(self.network.head.bias, 0.5)

    def forward(
        self,
        x: Float[Tensor, "batch channel height width"],
        tau: Float[Tensor, "batch channel height width"],
        label: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channel height width"]:
        """Q(τ_i | x_<i) of each sub-pixel; x and tau in [0, 1]. Not clamped: a tail may lie outside."""
        return self.network(x, tau, label).squeeze(2)

    def loss(
        self,
        image: UInt8[Tensor, "batch channel height width"],
        tau: Float[Tensor, "batch channel height width"] | None,
        label: Int[Tensor, " batch"] | None = None,
        kappa: float | None = None,
    ) -> Float[Tensor, ""]:
        """Mean Huber quantile loss per sub-pixel; tau must be drawn afresh, independent of the image.

        kappa is a fraction of the pixel range, that of the settings where None. Raises ValueError where tau is missing.
        """
        if tau is None:
            raise ValueError("tau: missing; draw it from U(0, 1) in the shape of the image, afresh at every step")
        x = to_unit(image, self.network.head.weight.dtype)
        kappa = self.kappa if kappa is None else kappa
        return huber_quantile_loss(self(x, tau, label), x, tau.to(x.dtype), kappa).mean()

    def icdf(
        self, output: Float[Tensor, "batch channel height width"], tau: Float[Tensor, "batch channel height width"]
    ) -> UInt8[Tensor, "batch channel height width"]:
        """The levels nearest to the quantiles that `forward` gave at tau."""
        return nearest_level(output)

    def outputs(
        self,
        x: Float[Tensor, "batch channel height width"],
        tau: Float[Tensor, "batch channel height width"],
        label: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channel height width"]:
        """The quantiles at tau."""
        return self(x, tau, label)

    def measure(self, data: Any, settings: Any) -> dict[str, float]:
        """P(x <= Q(τ)) on test images at some levels, and the mean miss: see `aiqn_core.diagnostics.Calibration`."""
        from aiqn_core.diagnostics import calibration_scores  # which is for all quantile models

        return calibration_scores(self, data, settings, conditional=self.conditional)


def mean_loss(model: PixelCNN, data: Any, samples: int) -> float:
    """Mean nats per sub-pixel of at most so many test images."""
    device, count = next(model.parameters()).device, min(len(data.test), samples)
    total = 0.0
    for begin in range(0, count, 256):
        batch = data.test[begin : min(begin + 256, count)].to(device)
        label = data.test_labels[begin : begin + len(batch)].to(device) if model.conditional else None
        total += len(batch) * float(model.loss(batch, None, label))
    return total / count
