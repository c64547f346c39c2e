"""Masked convolutions over colour groups, and the gated block of van den Oord et al. (2016b), Figure 2.

The planes of every layer are cut in contiguous groups, one for each colour: group g of pixel (row, column) may depend
on all pixels before it in raster order and, at the pixel itself, on colours below g.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

Sees = Literal["before", "upto", "own", "all"]  # colours of the own pixel that an output plane reads
TauMode = Literal["causal", "local", "paper"]


def colour_groups(planes: int, colours: int) -> Int[Tensor, " planes"]:
    """The colour of each plane: contiguous groups, sizes differing by at most one, larger ones first.

    Raises ValueError where there are fewer planes than colours.
    """
    if planes < colours:
        raise ValueError(f"saw {planes} planes for {colours} colours, expected at least one plane for each colour")
    sizes = [planes // colours + (colour < planes % colours) for colour in range(colours)]
    return torch.repeat_interleave(torch.arange(colours), torch.tensor(sizes), output_size=planes)


def colour_mask(out_colour: Int[Tensor, " out"], in_colour: Int[Tensor, " inp"], sees: Sees) -> Bool[Tensor, "out inp"]:
    """Which inputs an output reads at its own pixel: colours before its own (type A), up to it (type B), own, all."""
    out, inp = out_colour[:, None], in_colour[None, :]
    return {"before": inp < out, "upto": inp <= out, "own": inp == out, "all": (inp == out) | True}[sees]


def gate(x: Float[Tensor, "batch twice_planes *space"]) -> Float[Tensor, "batch planes *space"]:
    """tanh of the first half of the planes times the sigmoid of the second."""
    signal, switch = x.chunk(2, dim=1)
    return torch.tanh(signal) * torch.sigmoid(switch)


class MaskedConv(nn.Module):
    """A convolution whose last tap (the own pixel, for cropped causal kernels) reads only some of the colours.

    The mask multiplies the weight in every forward, so neither decay, momentum nor averaging can undo it.
    `padding` is (left, right, top, bottom), negative to crop. `full_precision` computes outside autocast.
    """

    mask: Tensor
    own_mask: Tensor
    out_colour: Tensor
    in_colour: Tensor

    def __init__(
        self,
        in_colour: Int[Tensor, " inp"],
        out_colour: Int[Tensor, " out"],
        sees: Sees,
        kernel: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        *,
        bias: bool = True,
        gain: float = 1.0,
        full_precision: bool = False,
    ) -> None:
        super().__init__()
        self.padding, self.full_precision = padding, full_precision
        mask = torch.ones(len(out_colour), len(in_colour), *kernel, dtype=torch.bool)
        mask[:, :, -1, -1] = colour_mask(out_colour, in_colour, sees)
        own = mask[:, :, -1:, -1:] & colour_mask(out_colour, in_colour, "own")[:, :, None, None]
        for name, value in {"mask": mask, "own_mask": own, "out_colour": out_colour, "in_colour": in_colour}.items():
            self.register_buffer(name, value, persistent=False)
        # Fan-in counts the taps that are read: by the whole kernel, the colours would start at different scales.
        fan_in = mask.flatten(1).sum(1).clamp(min=1)[:, None, None, None]
        self.weight = nn.Parameter(torch.randn(mask.shape) * mask * gain / fan_in.sqrt())
        self.bias = nn.Parameter(torch.zeros(len(out_colour))) if bias else None

    def masked_weight(self) -> Float[Tensor, "out inp height width"]:
        """The weight that is used: zero where masked."""
        return self.weight * self.mask

    def forward(self, x: Float[Tensor, "batch inp height width"]) -> Float[Tensor, "batch out height width"]:
        if any(self.padding):
            x = F.pad(x, self.padding)
        return self._convolve(x, self.masked_weight(), self.bias)

    def own(self, x: Float[Tensor, "batch inp height width"]) -> Float[Tensor, "batch out height width"]:
        """The part of the output that each colour reads from itself at its own pixel, without bias."""
        return self._convolve(x, self.weight[:, :, -1:, -1:] * self.own_mask, None)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.full_precision:
            return F.conv2d(x, weight, bias)
        with torch.autocast(x.device.type, enabled=False):
            return (pointwise if x.is_cuda else F.conv2d)(x.to(weight.dtype), weight, bias)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1×1 convolution as a matrix product: a GPU rounds the factors of float32 convolutions, but not of these."""
    return F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)


class Streams(NamedTuple):
    """The horizontal stack: what later sub-pixels read and, where tau is local, what only the own output reads."""

    context: Float[Tensor, "batch planes height width"]
    query: Float[Tensor, "batch planes height width"] | None = None

    @property
    def last(self) -> Tensor:
        """The stream that sees the own tau."""
        return self.context if self.query is None else self.query

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The function of each stream."""
        return type(self)(function(self.context), None if self.query is None else function(self.query))

    def plus(self, other: "Streams") -> Self:
        """The sum, stream by stream."""
        both = None if self.query is None or other.query is None else self.query + other.query
        return type(self)(self.context + other.context, both)

    def plus_last(self, value: Tensor) -> Self:
        """With a value added to the stream that sees the own tau."""
        return (
            self._replace(context=self.context + value)
            if self.query is None
            else self._replace(query=self.query + value)
        )


def convolve(conv: MaskedConv, streams: Streams) -> Streams:
    """Apply a convolution to both streams: the query reads itself on its own colour, the context everywhere else."""
    context = conv(streams.context)
    if streams.query is None:
        return Streams(context)
    return Streams(context, context + conv.own(streams.query - streams.context))


class BlockOutput(NamedTuple):
    """What one block hands on: the two stacks, and the gated horizontal features."""

    v: Float[Tensor, "batch planes height width"]
    h: Streams
    gated: Streams


class GatedBlock(nn.Module):
    """y = tanh(W_f ∗ x + V_f ∗ s) ⊙ σ(W_g ∗ x + V_g ∗ s) in a vertical and a horizontal stack (section 4, Figure 2).

    v sees whole rows above only: the first block reads rows strictly above, later ones rows of v up to their own.
    So its link into h needs no mask and no shift, and it comes before the gate.
    """

    def __init__(
        self,
        in_colour: Int[Tensor, " inp"],
        colour: Int[Tensor, " planes"],
        *,
        colours: int,
        kernel: int,
        first: bool,
        tau_mode: TauMode | None,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.first = first
        side, planes, twice = kernel // 2, len(colour), colour.repeat(2)
        rows = (side + 1, -1) if first else (side, 0)  # one row down in the first block: strictly above from there on
        # A gate halves small signals (tanh(a) σ(0) = a/2) and v has no residual: without the 2 it fades with depth.
        self.v = MaskedConv(
            in_colour, twice, "all", (side + 1, kernel), (side, side, *rows), gain=1.0 if first else 2.0
        )
        self.link = MaskedConv(twice, twice, "all")
        self.h = MaskedConv(in_colour, twice, "before" if first else "upto", (1, side + 1), (side, 0, 0, 0))
        self.res = MaskedConv(colour, colour, "upto")
        tau_sees: dict[TauMode, Sees] = {"causal": "upto", "local": "own", "paper": "all"}
        self.tau_h = self.tau_v = None
        if tau_mode is not None:
            image = torch.arange(colours)
            self.tau_h = MaskedConv(image, twice, tau_sees[tau_mode], bias=False, full_precision=True)
            if tau_mode == "paper":
                # One row down, like the image: v(row) is spread sideways, and would carry this row's later tau.
                self.tau_v = MaskedConv(image, twice, "all", padding=(0, 0, 1, -1), bias=False, full_precision=True)
        self.label_v = nn.Embedding(num_classes, 2 * planes) if num_classes else None
        self.label_h = nn.Embedding(num_classes, 2 * planes) if num_classes else None

    def forward(
        self,
        v: Float[Tensor, "batch inp height width"],
        h: Streams,
        tau: Float[Tensor, "batch colour height width"] | None,
        label: Int[Tensor, " batch"] | None,
    ) -> BlockOutput:
        """Both stacks one block further; tau in [-1, 1]."""
        above = self.v(v)
        if self.tau_v is not None and tau is not None:
            above = above + self.tau_v(tau)
        if self.label_v is not None and label is not None:
            above = above + self.label_v(label)[:, :, None, None]
        link = self.link(above)
        if self.label_h is not None and label is not None:
            link = link + self.label_h(label)[:, :, None, None]
        h, gated = self.horizontal(h, link, tau)
        return BlockOutput(gate(above), h, gated)

    def horizontal(
        self,
        h: Streams,
        link: Float[Tensor, "batch twice_planes height width"],
        tau: Float[Tensor, "batch colour height width"] | None,
    ) -> tuple[Streams, Streams]:
        """The horizontal stack one block further, and its gated features; `link` is what it reads of the rows above."""
        before = convolve(self.h, h).map(lambda x: x + link)
        if self.tau_h is not None and tau is not None:
            before = before.plus_last(self.tau_h(tau))
        gated = before.map(gate)
        residual = convolve(self.res, gated)
        # No residual around the first block: its input is the image itself, which the own output must not see.
        return residual if self.first else h.plus(residual), gated
