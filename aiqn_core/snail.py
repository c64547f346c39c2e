"""PixelSNAIL-style blocks (Chen et al. 2018), which the paper names as compatible: ELU, gated residuals, attention.

The two stacks, colour groups and τ are those of `layers`, and so is what an output sees; attention reads the features
of all earlier pixels at once, however far away they are.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from aiqn_core.layers import BlockOutput, MaskedConv, Sees, Streams, TauMode, convolve


class SnailBlock(nn.Module):
    """x + a ⊙ σ(b) with [a, b] = W' elu(W ∗ elu(x) + link + V s), in both stacks; then attention, where it has one."""

    def __init__(
        self,
        colour: Int[Tensor, " planes"],
        *,
        colours: int,
        kernel: int,
        heads: int | None,
        tau_mode: TauMode | None,
        num_classes: int,
    ) -> None:
        super().__init__()
        side, planes, twice = kernel // 2, len(colour), colour.repeat(2)
        self.v = MaskedConv(colour, colour, "all", (side + 1, kernel), (side, side, side, 0))
        self.v_out = MaskedConv(colour, twice, "all")
        self.link = MaskedConv(colour, colour, "all")
        self.h = MaskedConv(colour, colour, "upto", (1, side + 1), (side, 0, 0, 0))
        self.h_out = MaskedConv(colour, twice, "upto")
        self.tau_h = None
        if tau_mode is not None:
            tau_sees: dict[TauMode, Sees] = {"causal": "upto", "local": "own", "paper": "all"}
            image = torch.arange(colours)
            self.tau_h = MaskedConv(image, colour, tau_sees[tau_mode], bias=False, full_precision=True)
        self.label_v = nn.Embedding(num_classes, planes) if num_classes else None
        self.label_h = nn.Embedding(num_classes, planes) if num_classes else None
        self.attention = Attention(colour, colours, heads) if heads else None

    def forward(
        self,
        v: Float[Tensor, "batch planes height width"],
        h: Streams,
        tau: Float[Tensor, "batch colour height width"] | None,
        label: Int[Tensor, " batch"] | None,
    ) -> BlockOutput:
        """Both stacks one block further; tau in [-1, 1]."""
        above = self.v(F.elu(v))
        if self.label_v is not None and label is not None:
            above = above + self.label_v(label)[:, :, None, None]
        v = v + F.glu(self.v_out(F.elu(above)), 1)
        link = self.link(F.elu(v))
        if self.label_h is not None and label is not None:
            link = link + self.label_h(label)[:, :, None, None]
        before = convolve(self.h, h.map(F.elu)).map(lambda x: x + link)
        if self.tau_h is not None and tau is not None:
            before = before.plus_last(self.tau_h(tau))
        gated = convolve(self.h_out, before.map(F.elu)).map(lambda x: F.glu(x, 1))
        h = h.plus(gated)
        if self.attention is not None:
            # Of the context alone: where tau is local, what is read elsewhere must not depend on it.
            read = self.attention(h.context)
            h = h.map(lambda x: x + read)
        return BlockOutput(v, h, gated)


class Attention(nn.Module):
    """What the planes of each colour read from all pixels before their own, with queries that only they can see.

    Keys and values are those of whole pixels, for all colours alike. Before the first pixel is a learned one.
    """

    def __init__(self, colour: Int[Tensor, " planes"], colours: int, heads: int) -> None:
        super().__init__()
        self.colours, self.heads = colours, heads
        self.size = max(4, len(colour) // (2 * heads))
        shared = torch.zeros(heads * self.size, dtype=torch.long)
        group = torch.arange(colours).repeat_interleave(heads * self.size)
        placed = torch.cat([colour, torch.zeros(2, dtype=torch.long)])  # every colour sees where its pixel is
        self.query = MaskedConv(placed, group, "upto")
        self.key = MaskedConv(placed, shared, "all")
        self.value = MaskedConv(colour, shared, "all")
        self.out = MaskedConv(group, colour, "upto", bias=False)
        self.first = nn.Parameter(torch.zeros(2, heads, 1, self.size))  # key and value

    def forward(self, h: Float[Tensor, "batch planes height width"]) -> Float[Tensor, "batch planes height width"]:
        """What is read, in raster order of pixels: the own pixel is not."""
        batch, _, height, width = h.shape
        here = torch.cat([h, places(height, width, h).expand(batch, -1, -1, -1)], 1)
        query = self.query(here).view(batch, self.colours * self.heads, self.size, -1).mT
        # One place later: pixel p then reads up to its own place, which holds the pixel before it.
        key, value = (
            torch.cat([first.expand(batch, -1, -1, -1), x.view(batch, self.heads, self.size, -1).mT[:, :, :-1]], 2)
            for first, x in zip(self.first, (self.key(here), self.value(h)), strict=True)
        )
        key, value = (x.repeat(1, self.colours, 1, 1) for x in (key, value))
        read = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(read.mT.reshape(batch, -1, height, width))


def places(height: int, width: int, like: Tensor) -> Float[Tensor, "1 2 height width"]:
    """The row and the column of each pixel, from -1 to 1."""
    row, column = (torch.linspace(-1, 1, size, dtype=like.dtype, device=like.device) for size in (height, width))
    return torch.stack([row[:, None].expand(-1, width), column[None].expand(height, -1)])[None]
