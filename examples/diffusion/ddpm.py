"""A diffusion model as an arm: DDPM (Ho et al. 2020) with the cosine noise schedule, for small images.

Its averaged weights are the product's (`train.ema_decay`): samples are drawn with them.
"""

import math

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.functional import mse_loss, silu


class DDPM(nn.Module):
    """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps, of which a network learns eps; drawn backwards from t = T."""

    class Settings(BaseModel):
        timesteps: int = 50
        """T, the noise levels, and steps of the network for each sample."""
        offset: float = 0.008
        """s of the cosine schedule (Nichol and Dhariwal 2021)."""
        width: int = 32
        """Planes of each block."""
        blocks: int = 3
        """Residual blocks."""

    data = "images"
    loss_unit = "squared error of the noise"

    def __init__(self, settings, shape, num_classes):
        super().__init__()
        self.shape, self.timesteps = shape, settings.timesteps
        self.register_buffer("a", cosine_schedule(settings.timesteps, settings.offset))  # (T + 1,), a[0] = 1
        self.network = Denoiser(shape[0], settings.width, settings.blocks)

    def noise(self):
        # Of one sample: x_T, and the fresh noise of each of the T steps. A step of training needs eps and t alone, and
        # takes them from the first two.
        return (self.timesteps + 1, *self.shape)

    def loss(self, x, noise, label):
        x0 = x / 127.5 - 1
        eps = gaussian(noise[:, 0])
        t = 1 + (noise[:, 1].flatten(1)[:, 0] * self.timesteps).long()  # (B,), uniform in 1..T
        a = self.a[t].view(-1, 1, 1, 1)
        return mse_loss(self.network(a.sqrt() * x0 + (1 - a).sqrt() * eps, t / self.timesteps), eps)

    def sample(self, noise, label=None):
        x = gaussian(noise[:, 0])
        for t in range(self.timesteps, 0, -1):
            a, before = self.a[t], self.a[t - 1]
            eps = self.network(x, torch.full((len(x),), t / self.timesteps, device=x.device))
            x0 = ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
            beta = 1 - a / before
            mean = (before.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - before) * x) / (1 - a)
            deviation = (beta * (1 - before) / (1 - a)).sqrt()  # 0 at t = 1, for a[0] = 1
            x = mean + deviation * gaussian(noise[:, t])
        return (127.5 * (x + 1)).round().clamp(0, 255).to(torch.uint8)


def cosine_schedule(timesteps: int, offset: float) -> Tensor:
    """a_t, the share of the image's variance that is left after t steps, (T + 1,) from 1 to nearly 0."""
    t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    f = torch.cos((t + offset) / (1 + offset) * math.pi / 2).square()
    return (f / f[0]).clamp(min=1e-4).float()


def gaussian(uniform: Tensor) -> Tensor:
    """Standard normal numbers of uniform ones, of the same shape."""
    return torch.special.ndtri(uniform.clamp(1e-6, 1 - 1e-6))


class Denoiser(nn.Module):
    """The noise in images (B, C, H, W) at times (B,) in [0, 1]: residual blocks that are told the time."""

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.times = nn.ModuleList(nn.Linear(16, width) for _ in range(blocks))
        self.middle = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2 * blocks))
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        waves = time[:, None] * math.pi * 2.0 ** torch.arange(8, device=x.device)
        embedded = torch.cat([waves.sin(), waves.cos()], 1)  # (B, 16)
        h = self.first(x)
        for i, told in enumerate(self.times):
            inner = self.middle[2 * i](silu(h)) + told(embedded)[:, :, None, None]
            h = h + self.middle[2 * i + 1](silu(inner))
        return self.last(silu(h))
