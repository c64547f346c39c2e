"""A convolutional VAE, whose codes are drawn from its prior or from an AIQN trained beside it (appendix, "AIQN-VAE").

Where the paper leaves a choice, we read it so:
- The standard loss is the squared error of the image in [-1, 1] plus `kl_weight` times the divergence of the encoder's
  Gaussian from N(0, 1), both summed: 2 is the likelihood bound of unit variance, and what the paper's base used; its
  "KL-term weight 0.5" takes the place of that 2.
- "Latent dimension variance 0.1" is the variance of the noise in the code, z = e(x) + σ(x) ε. As the prior's
  variance it would be a change of units that the decoder undoes, with prior samples as good as before; the paper says
  that they are poor.
- Whether the quantile loss reaches the encoder is a setting, `detach`. By default it does not, so that the codes are
  those of the VAE alone; else the encoder can also lower the loss by codes that are easier to predict.
- Everything is averaged as in all models here, the paper's "AIQN weights" and the rest.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from aiqn_core.levels import nearest_level, to_unit
from aiqn_core.models.settings import OVER_BATCH, AIQNSettings, AIQNVAESettings, QuantileLoss, VAESettings
from aiqn_core.models.vectors import AIQN, sample_vectors

SMALLEST_SPREAD = 1e-3  # of a latent dimension that codes nothing, in the encoder's units
BATCH = 256  # held-out images at once
MEMORY = 0.01  # weight of a batch in the running mean and square of the codes


class Code(NamedTuple):
    """The Gaussian that the encoder gives for each image."""

    mean: Float[Tensor, "batch latent"]
    log_variance: Float[Tensor, "batch latent"]


class VAE(nn.Module):
    """Strided convolutions to a Gaussian code, transposed ones back; images of any size."""

    Settings = VAESettings
    one_worker = OVER_BATCH
    sample_batch = None

    def __init__(self, config: VAESettings, image_shape: tuple[int, int, int], num_classes: int = 0) -> None:
        super().__init__()
        self.image_shape, self.latent = image_shape, config.latent
        self.deviation, self.kl_weight = math.sqrt(config.latent_variance), config.kl_weight
        channels, height, width = image_shape
        planes = [channels, *(config.planes * 2**layer for layer in range(config.layers))]
        sizes = [(-(-height // 2**layer), -(-width // 2**layer)) for layer in range(config.layers + 1)]
        pad, inner = config.kernel // 2, planes[-1] * math.prod(sizes[-1])
        encoder: list[nn.Module] = []
        decoder: list[nn.Module] = []
        for layer in range(config.layers):
            few, many = planes[layer], planes[layer + 1]
            odd = [size % 2 for size in sizes[layer]]
            encoder += [nn.Conv2d(few, many, config.kernel, 2, pad), nn.BatchNorm2d(many), nn.LeakyReLU(0.2)]
            # Twice the size, or one less: what halving rounded up.
            up = nn.ConvTranspose2d(many, few, config.kernel, 2, pad, output_padding=(1 - odd[0], 1 - odd[1]))
            decoder = [up, *([nn.BatchNorm2d(few), nn.ReLU()] if layer else [nn.Tanh()]), *decoder]
        self.encoder = nn.Sequential(*encoder, nn.Flatten(), nn.Linear(inner, 2 * config.latent))
        opened = [nn.Linear(config.latent, inner), nn.Unflatten(1, (planes[-1], *sizes[-1])), nn.ReLU()]
        self.decoder = nn.Sequential(*opened, *decoder)

    def encode(self, x: Float[Tensor, "batch channel height width"]) -> Code:
        """The codes of images in [-1, 1]; raises ValueError where the shape is wrong."""
        if x.dim() != 4 or x.shape[1:] != self.image_shape:
            raise ValueError(
                f"x: saw shape {tuple(x.shape)}, expected (batch, {', '.join(map(str, self.image_shape))})"
            )
        return Code(*self.encoder(x).chunk(2, 1))

    def decode(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channel height width"]:
        """The mean image of a code, in [-1, 1]."""
        return self.decoder(z)

    def forward(
        self, x: Float[Tensor, "batch channel height width"], tau: Float[Tensor, "batch latent"]
    ) -> tuple[Float[Tensor, "batch channel height width"], Code]:
        """Reconstructions from noisy codes, and the codes; the noise is normal, at its quantile levels tau."""
        code = self.encode(x)
        return self.decode(code.mean + self.deviation * (code.log_variance / 2).exp() * normal(tau)), code

    def loss(
        self,
        image: UInt8[Tensor, "batch channel height width"],
        tau: Float[Tensor, "batch latent"],
        label: None = None,
    ) -> Float[Tensor, ""]:
        """The mean of both terms over the batch, divided by the number of sub-pixels."""
        return self._bound(image, tau)[0] / image[0].numel()

    def _bound(self, image: Tensor, tau: Tensor) -> tuple[Tensor, Code]:
        x = self.scaled(image)
        decoded, code = self(x, tau)
        error = (decoded - x).square().flatten(1).sum(1)
        return (error + self.kl_weight * divergence(code)).mean(), code

    def scaled(self, image: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Levels as values in [-1, 1], as the encoder reads them."""
        return 2 * to_unit(image, next(self.parameters()).dtype) - 1

    def prior(self, tau: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """The codes at tau under N(0, 1)."""
        return normal(tau)

    def code(self, tau: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """The codes that samples are decoded from: here the prior's."""
        return self.prior(tau)

    def images(self, z: Float[Tensor, "batch latent"]) -> UInt8[Tensor, "batch channel height width"]:
        """What codes stand for: the mean image, without the noise that the likelihood would add."""
        return nearest_level((self.decode(z) + 1) / 2)

    def noise(self) -> tuple[int]:
        """One quantile level for each dimension of the code."""
        return (self.latent,)

    def sample(
        self, noise: Float[Tensor, "batch latent"], label: None = None
    ) -> UInt8[Tensor, "batch channel height width"]:
        """Images decoded from codes at quantile levels."""
        return sample_codes(self, len(noise), tau=noise)

    @torch.inference_mode()
    def measure(self, data: Any, settings: Any) -> dict[str, float]:
        """How well held-out images survive the code.

        `squared_error` is the mean per sub-pixel in units of [0, 1], `kl` the mean in nats per image.
        """
        test, error, kl = data.test[: settings.samples], 0.0, 0.0
        for batch in torch.split(test, BATCH):
            x = self.scaled(batch.to(next(self.parameters()).device))
            code = self.encode(x)
            error += float((self.decode(code.mean) - x).square().sum()) / 4
            kl += float(divergence(code).sum())
        return {"squared_error": error / test.numel(), "kl": kl / len(test)}

    @torch.inference_mode()
    def pictures(self, data: Any, settings: Any, noise: Float[Tensor, "sample latent"]) -> dict[str, Tensor]:
        """Decoded means of held-out images: what samples would reach whose codes are drawn perfectly."""
        device = next(self.parameters()).device
        batches = torch.split(data.test[: settings.samples], BATCH)
        decoded = [self.images(self.encode(self.scaled(batch.to(device))).mean).cpu() for batch in batches]
        return {"reconstruction": torch.cat(decoded)}


class AIQNVAE(VAE):
    """L(x) = L_VAE(x) + E_τ ρ^κ_τ(e(x) − Q_τ): codes are drawn as Q_τ, from the law of the encoder's means."""

    centre: Tensor
    square: Tensor

    Settings = AIQNVAESettings
    Loss = QuantileLoss

    def __init__(
        self,
        config: AIQNVAESettings,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        loss: QuantileLoss | None = None,
    ) -> None:
        super().__init__(config, image_shape)
        self.kappa = (loss or QuantileLoss()).kappa
        self.aiqn = AIQN(AIQNSettings(hidden=config.hidden, tau_mode=config.tau_mode), self.latent)
        self.detach = config.detach
        # Of the codes, running: kappa and the first weights of the network are for values of about 1.
        self.register_buffer("centre", torch.zeros(self.latent))
        self.register_buffer("square", torch.ones(self.latent))

    def loss(
        self,
        image: UInt8[Tensor, "batch channel height width"],
        tau: Float[Tensor, "batch latent"],
        label: None = None,
        kappa: float | None = None,
    ) -> Float[Tensor, ""]:
        """The VAE's loss plus the quantile loss of the codes' means, in their standard deviations, summed over them.

        One draw of tau serves both: the sum of two expectations needs no independence between its terms.
        """
        bound, code = self._bound(image, tau)
        mean = code.mean.detach() if self.detach else code.mean
        if self.training:
            self._remember(code.mean.detach())
        quantile = self.aiqn.loss((mean - self.centre) / self.spread, tau, kappa=self.kappa if kappa is None else kappa)
        return (bound + self.latent * quantile) / image[0].numel()

    @property
    def spread(self) -> Float[Tensor, " latent"]:
        """The running standard deviation of each latent dimension over images."""
        return (self.square - self.centre.square()).clamp(min=SMALLEST_SPREAD**2).sqrt()

    @torch.no_grad()
    def _remember(self, mean: Float[Tensor, "batch latent"]) -> None:
        self.centre.lerp_(mean.mean(0), MEMORY)
        self.square.lerp_(mean.square().mean(0), MEMORY)

    def code(self, tau: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """The codes that samples are decoded from: the AIQN's quantiles at tau, one dimension after the other."""
        return self.centre + self.spread * sample_vectors(self.aiqn, len(tau), tau=tau)

    def pictures(self, data: Any, settings: Any, noise: Float[Tensor, "sample latent"]) -> dict[str, Tensor]:
        """The same, and samples at the same tau whose codes are the prior's."""
        prior = sample_codes(self, len(noise), tau=noise, prior=True).cpu()
        return {**super().pictures(data, settings, noise), "prior": prior}


def normal(tau: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The quantiles of N(0, 1) at tau, finite at 0 and 1 too."""
    return torch.special.ndtri(tau.double().clamp(1e-12, 1 - 1e-12)).to(tau.dtype)


def divergence(code: Code) -> Float[Tensor, " batch"]:
    """KL(N(mean, variance) ‖ N(0, 1)) of each image's code in nats."""
    return (code.mean.square() + code.log_variance.exp() - 1 - code.log_variance).sum(1) / 2


@torch.inference_mode()
def sample_codes(
    model: VAE,
    count: int,
    *,
    tau: Float[Tensor, "count latent"] | None = None,
    generator: torch.Generator | None = None,
    prior: bool = False,
    batch_size: int = 256,
) -> UInt8[Tensor, "count channel height width"]:
    """Images decoded from codes at tau, drawn from `generator` where None; `prior`: from N(0, 1) also with an AIQN.

    Raises ValueError where tau has another shape or values outside [0, 1].
    """
    if tau is None:
        tau = torch.rand(
            count, model.latent, generator=generator, device=None if generator is None else generator.device
        )
    if tau.shape != (count, model.latent):
        raise ValueError(f"tau: saw shape {tuple(tau.shape)}, expected ({count}, {model.latent}), one for each code")
    if not bool(((tau >= 0) & (tau <= 1)).all()):
        raise ValueError(f"tau: saw values from {tau.min():g} to {tau.max():g}, expected all in [0, 1]")
    draw, tau = (model.prior if prior else model.code), tau.to(next(model.parameters()))
    return torch.cat([model.images(draw(part)) for part in torch.split(tau, batch_size)])
