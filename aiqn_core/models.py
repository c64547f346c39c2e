"""Gated PixelCNN and PixelIQN (section 4): one network, two heads. Both sample as x_i = icdf(x_<i, tau_i)."""

import contextlib
import math
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from aiqn_core.config import KAPPA, VECTOR_MODELS, ModelConfig
from aiqn_core.layers import GatedBlock, MaskedConv, Streams, TauMode, colour_groups, convolve
from aiqn_core.levels import LEVELS, nearest_level, softmax_icdf, to_unit
from aiqn_core.losses import categorical_nll, huber_quantile_loss
from aiqn_core.snail import SnailBlock
from aiqn_core.vae import AIQNVAE, VAE
from aiqn_core.vectors import AIQN, MADE

ImageModel: TypeAlias = "PixelCNN | PixelIQN | VAE | AIQNVAE"
Model: TypeAlias = "ImageModel | MADE | AIQN"


def build_model(config: ModelConfig, shape: tuple[int, ...], num_classes: int = 0) -> Model:
    """The model of a configuration for data of one shape, with fresh weights.

    The shape is (channel, height, width) of images, (dimensions,) of vectors. `num_classes` is how many labels the
    data has; it is read only where `conditional` is true. Raises ValueError for another shape, for `conditional`
    without at least two classes and for fewer planes than channels, or a layer narrower than the vectors.
    """
    if config.name in VECTOR_MODELS:
        if len(shape) != 1 or shape[0] < 1:
            raise ValueError(f"shape: saw {shape}, but {config.name} models vectors; expected (dimensions,), as (2,)")
        return (AIQN if config.name == "aiqn" else MADE)(config, shape[0])
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"image_shape: saw {shape}, expected (channel, height, width), for example (3, 32, 32)")
    if config.conditional and num_classes < 2:  # all images of one class: the label would tell nothing
        raise ValueError(
            f"conditional: saw true with {num_classes} classes; use data that has labels, or set conditional to false"
        )
    if config.name in ("vae", "aiqn_vae"):
        return (AIQNVAE if config.name == "aiqn_vae" else VAE)(config, shape)
    models: dict[str, type[PixelCNN | PixelIQN]] = {"pixelcnn": PixelCNN, "pixeliqn": PixelIQN}
    return models[config.name](config, shape, num_classes if config.conditional else 0)


def tau_shape(config: ModelConfig, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one example's quantile levels: one for each value of its code where it has one, else of itself."""
    return shape if config.latent is None else (config.latent,)


class GatedNetwork(nn.Module):
    """The gated blocks, skip connections into one wide layer, and the head; `outputs` values for each sub-pixel."""

    def __init__(
        self,
        config: ModelConfig,
        image_shape: tuple[int, int, int],
        *,
        outputs: int,
        tau_mode: TauMode | None,
        num_classes: int,
    ) -> None:
        super().__init__()
        # Completed by ModelConfig for every model of images.
        assert config.planes is not None
        assert config.layers is not None
        assert config.kernel is not None
        assert config.skip_planes is not None
        assert config.out_hidden is not None
        self.image_shape, self.outputs, self.num_classes = image_shape, outputs, num_classes
        self.kernel, self.planes = config.kernel, config.planes
        self.tau_mode, self.trunk = tau_mode, config.trunk
        self.low_precision: bool | None = None  # None: where it is fast
        colours = image_shape[0]
        image, colour = torch.arange(colours), colour_groups(config.planes, colours)
        wide = colour_groups(config.skip_planes, colours)
        options: dict[str, Any] = {"colours": colours, "kernel": config.kernel, "tau_mode": tau_mode}
        options["num_classes"] = num_classes
        self.blocks = nn.ModuleList([GatedBlock(image, colour, first=True, **options)])
        for layer in range(1, config.layers):
            if config.trunk == "snail":
                assert config.attention is not None  # completed by ModelConfig
                heads = config.heads if layer % config.attention == 0 else None
                self.blocks.append(SnailBlock(colour, heads=heads, **options))
            else:
                self.blocks.append(GatedBlock(colour, colour, first=False, **options))
        # One 1×1 convolution of all blocks' features equals the sum of one for each block, without the partial sums.
        self.skip = MaskedConv(colour.repeat(config.layers), wide, "upto")
        self.hidden = nn.ModuleList(MaskedConv(wide, wide, "upto") for _ in range(config.out_hidden))
        self.head = MaskedConv(wide, image.repeat_interleave(outputs), "upto", full_precision=True)
        nn.init.zeros_(self.head.weight)

    def forward(
        self,
        x: Float[Tensor, "batch channel height width"],
        tau: Float[Tensor, "batch channel height width"] | None = None,
        label: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channel outputs height width"]:
        """The outputs of all sub-pixels at once; x and tau in [0, 1].

        Raises ValueError where a shape is wrong, or the label is missing or not expected.
        """
        self._check(x, tau, label)
        v = 2 * x - 1
        if x.is_cuda:
            v = v.contiguous(memory_format=torch.channels_last)
        h = Streams(v, v if self.tau_mode == "local" else None)
        tau = None if tau is None else 2 * tau - 1
        features = []
        with self.autocast():
            for block in self.blocks:
                v, h, gated = block(v, h, tau, label)
                features.append(gated)
            # The last skip reads h itself, of equal width: the last block's 1×1 would otherwise lead nowhere.
            return self.tail([*features[:-1], h])

    def trunk_dtype(self) -> torch.dtype:
        """In what blocks and skip layers compute: bfloat16 for float32 weights on a GPU that has it.

        The terms of tau and the head keep the weights' own: bfloat16 has one value for each grey level below 1.
        """
        weight = self.head.weight
        low = self.low_precision
        if low is None:
            low = weight.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if low and weight.dtype == torch.float32 else weight.dtype

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context in which blocks and skip layers compute."""
        dtype, weight = self.trunk_dtype(), self.head.weight
        if dtype == weight.dtype:
            return contextlib.nullcontext()
        # Without the cache of converted weights: it would outlive a step that is recorded as a CUDA graph.
        return torch.autocast(weight.device.type, dtype, cache_enabled=False)

    def tail(self, features: list[Streams]) -> Float[Tensor, "batch channel outputs height width"]:
        """Skip connections, hidden layers and head: from the features of all blocks to the outputs."""
        query = torch.cat([part.last for part in features], 1) if features[0].query is not None else None
        out = convolve(self.skip, Streams(torch.cat([part.context for part in features], 1), query))
        for layer in [*self.hidden, self.head]:
            out = convolve(layer, out.map(torch.relu))
        return out.last.reshape(len(out.last), self.image_shape[0], self.outputs, *out.last.shape[2:])

    def _check(self, x: Tensor, tau: Tensor | None, label: Tensor | None) -> None:
        if x.dim() != 4 or x.shape[1:] != self.image_shape:
            raise ValueError(
                f"x: saw shape {tuple(x.shape)}, expected (batch, {', '.join(map(str, self.image_shape))})"
            )
        if tau is not None and tau.shape != x.shape:
            raise ValueError(f"tau: saw shape {tuple(tau.shape)}, expected that of x, {tuple(x.shape)}")
        if self.num_classes and label is None:
            raise ValueError(f"label: missing; this model is conditional on {self.num_classes} classes")
        if label is not None and not self.num_classes:
            raise ValueError("label: seen, but this model is not conditional; leave it out or set conditional to true")
        if label is not None and label.shape != x.shape[:1]:
            raise ValueError(f"label: saw shape {tuple(label.shape)}, expected ({len(x)},), one for each image")


class PixelCNN(nn.Module):
    """Gated PixelCNN: the logits of 256 levels for each sub-pixel, trained by likelihood. It has no tau inside."""

    output_shape = (LEVELS,)  # of one sub-pixel

    def __init__(self, config: ModelConfig, image_shape: tuple[int, int, int], num_classes: int = 0) -> None:
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
        kappa: float | None = None,
    ) -> Float[Tensor, ""]:
        """Mean nats per sub-pixel; tau and kappa are not used, so that both models are trained by one call."""
        return categorical_nll(self(to_unit(image, self.network.head.weight.dtype), label), image).mean()

    def icdf(
        self, output: Float[Tensor, "batch channel 256 height width"], tau: Float[Tensor, "batch channel height width"]
    ) -> UInt8[Tensor, "batch channel height width"]:
        """The levels at tau of the distributions that `forward` gave."""
        return softmax_icdf(output.movedim(2, -1), tau)


class PixelIQN(nn.Module):
    """PixelIQN: the tau-quantile of each sub-pixel, in units of [0, 1], trained by the Huber quantile loss."""

    output_shape = ()  # of one sub-pixel

    def __init__(self, config: ModelConfig, image_shape: tuple[int, int, int], num_classes: int = 0) -> None:
        super().__init__()
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

        kappa is a fraction of the pixel range, the paper's 0.002 where None. Raises ValueError where tau is missing.
        """
        if tau is None:
            raise ValueError("tau: missing; draw it from U(0, 1) in the shape of the image, afresh at every step")
        x = to_unit(image, self.network.head.weight.dtype)
        kappa = KAPPA if kappa is None else kappa
        return huber_quantile_loss(self(x, tau, label), x, tau.to(x.dtype), kappa).mean()

    def icdf(
        self, output: Float[Tensor, "batch channel height width"], tau: Float[Tensor, "batch channel height width"]
    ) -> UInt8[Tensor, "batch channel height width"]:
        """The levels nearest to the quantiles that `forward` gave at tau."""
        return nearest_level(output)
