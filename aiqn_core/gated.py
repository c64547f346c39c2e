"""The gated network of PixelCNN and PixelIQN (section 4): stacks of masked convolutions, an output for each colour."""

import contextlib
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aiqn_core.layers import GatedBlock, MaskedConv, Streams, TauMode, colour_groups, convolve
from aiqn_core.models.settings import PixelSettings
from aiqn_core.snail import SnailBlock


class GatedNetwork(nn.Module):
    """The gated blocks, skip connections into one wide layer, and the head; `outputs` values for each sub-pixel."""

    def __init__(
        self,
        config: PixelSettings,
        image_shape: tuple[int, int, int],
        *,
        outputs: int,
        tau_mode: TauMode | None,
        num_classes: int,
    ) -> None:
        super().__init__()
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
                assert config.attention is not None  # completed for this trunk
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
