"""A normalising flow as an arm: RealNVP (Dinh et al. 2017), with fully connected couplings, of small images."""

import math

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from aiqn_core.metric import Metric

EDGE = 0.05  # pixels lie in [EDGE, 1 - EDGE] before their logit is taken, so that it is finite
HELD_OUT = 256  # test images that the likelihood is measured on


class RealNVP(nn.Module):
    """log p(x) = log N(f(x); 0, 1) + log |det df/dx|, f a chain of invertible couplings after a logit."""

    class Settings(BaseModel):
        couplings: int = 6
        """Couplings of one half of the pixels by the other."""
        width: int = 128
        """Width of both hidden layers in a coupling."""

    data = "images"
    loss_unit = "nats per sub-pixel"
    metrics = (Metric("bits_per_dim", "minimize", unit="bits per sub-pixel"),)  # an upper bound: pixels are dequantised

    def __init__(self, settings, shape, num_classes):
        super().__init__()
        self.shape, self.dimensions = shape, math.prod(shape)
        parity = torch.arange(self.dimensions) % 2  # of an even width: columns in turn
        masks = torch.stack([parity if i % 2 else 1 - parity for i in range(settings.couplings)])
        self.register_buffer("masks", masks.float())
        self.nets = nn.ModuleList(coupling(self.dimensions, settings.width) for _ in range(settings.couplings))

    def noise(self):
        return self.shape

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Latents z (B, D) of y in [0, 1] (B, D), and log |det dz/dy| (B,)."""
        p = EDGE + (1 - 2 * EDGE) * y
        z = torch.logit(p)
        log_det = self.dimensions * math.log(1 - 2 * EDGE) - (logsigmoid(z) + logsigmoid(-z)).sum(1)
        for mask, net in zip(self.masks, self.nets, strict=True):
            log_scale, shift = scale_and_shift(net, mask, z)
            z = z * log_scale.exp() + shift
            log_det = log_det + log_scale.sum(1)
        return z, log_det

    def loss(self, x, noise, label):
        y = (x.flatten(1) + noise.flatten(1)) / 256  # uniform dequantisation
        z, log_det = self(y)
        log_normal = -(z.square() / 2 + math.log(2 * math.pi) / 2).sum(1)
        # (log_normal + log_det) is a density of y; per grey level instead of per unit it is 1 / 256 as high.
        return (math.log(256) - (log_normal + log_det) / self.dimensions).mean()

    def sample(self, noise, label=None):
        z = torch.special.ndtri(noise.flatten(1).clamp(1e-6, 1 - 1e-6))
        for mask, net in zip(self.masks.flip(0), reversed(self.nets), strict=True):
            log_scale, shift = scale_and_shift(net, mask, z)  # of the half that the coupling left as it was
            z = (z - shift) * (-log_scale).exp()
        y = (torch.sigmoid(z) - EDGE) / (1 - 2 * EDGE)
        return (256 * y).floor().clamp(0, 255).to(torch.uint8).unflatten(1, self.shape)

    def measure(self, data, settings):
        x = data.test[:HELD_OUT]
        noise = torch.rand((len(x), *self.shape), generator=torch.Generator().manual_seed(settings.seed))
        with torch.no_grad():
            loss = self.loss(x.to(self.masks.device), noise.to(self.masks.device), None)
        return {"bits_per_dim": float(loss) / math.log(2)}


def coupling(dimensions: int, width: int) -> nn.Sequential:
    """Fully connected layers from one half of the pixels to log-scale and shift of the other; the identity at first."""
    last = nn.Linear(width, 2 * dimensions)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(dimensions, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), last)


def scale_and_shift(net: nn.Module, mask: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Log-scale and shift, both (B, D), from the half where `mask` is 1, and 0 there."""
    log_scale, shift = net(z * mask).chunk(2, dim=1)
    return torch.tanh(log_scale) * (1 - mask), shift * (1 - mask)
