"""The weights of a gated network as the fast samplers use them: masks applied, cut by colour, transposed for products.

A product reads all planes up to a colour, or writes all planes from a colour on: groups are contiguous, so that both
are slices, and no arithmetic is done on weights that are masked.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from aiqn_core.gated import GatedNetwork
from aiqn_core.layers import GatedBlock, MaskedConv


@dataclass(frozen=True)
class FoldedBlock:
    """One gated block; the 2P planes before the gate are sorted by colour, a colour's signal before its switch."""

    v: Tensor  # (2P, in, rows, columns)
    v_bias: Tensor
    tau_v: Tensor | None  # (C, 2P), of the colours above
    label_v: Tensor | None  # (classes, 2P)
    link: Tensor  # (2P, 2P), (in, out) like all that follow
    bias: Tensor  # of the link and of the horizontal convolution
    label_h: Tensor | None
    left: Tensor  # (taps * in, 2P): the pixels on the left, the farthest first
    centre: list[Tensor | None]  # of each colour (what it reads of its own pixel, its planes before the gate)
    tau_h: Tensor | None  # (C, 2P)
    res: list[Tensor]  # of each colour (1 + planes up to it, its planes): the first row is the bias


@dataclass(frozen=True)
class FoldedLayer:
    """A 1×1 convolution after the blocks."""

    bias: Tensor  # (out,)
    parts: list[Tensor]  # of each colour (its inputs, outputs of this colour and those after it)
    starts: list[int]  # the first output of each colour, and their number


def fold_block(block: GatedBlock, colours: int, dtype: torch.dtype) -> FoldedBlock:
    """A block's weights in the precision of the trunk; what is added for tau stays as it is."""
    h, link, order = block.h, block.link, torch.argsort(block.h.out_colour, stable=True)
    weight = h.masked_weight()[:, :, 0]
    bias = (cast(Tensor, link.bias) + cast(Tensor, h.bias))[order]
    return FoldedBlock(
        v=block.v.masked_weight().to(dtype).contiguous(memory_format=torch.channels_last),
        v_bias=cast(Tensor, block.v.bias).to(dtype),
        tau_v=None if block.tau_v is None else _pointwise(block.tau_v),
        label_v=None if block.label_v is None else block.label_v.weight.to(dtype),
        link=_pointwise(link)[:, order].to(dtype).contiguous(),
        bias=bias.to(dtype),
        label_h=None if block.label_h is None else block.label_h.weight[:, order].to(dtype),
        left=weight[order, :, :-1].permute(2, 1, 0).flatten(0, 1).to(dtype).contiguous(),
        centre=[_rows(weight[:, :, -1], h, colour, below=block.first, dtype=dtype) for colour in range(colours)],
        tau_h=None if block.tau_h is None else _pointwise(block.tau_h)[:, order].contiguous(),
        res=[_biased_rows(block.res, colour, dtype) for colour in range(colours)],
    )


def fold_layer(conv: MaskedConv, colours: int, dtype: torch.dtype) -> FoldedLayer:
    weight = _pointwise(conv).to(dtype)
    sizes = torch.bincount(conv.out_colour, minlength=colours).tolist()
    starts = [sum(sizes[:colour]) for colour in range(colours + 1)]
    parts = [weight[conv.in_colour == colour, starts[colour] :].contiguous() for colour in range(colours)]
    return FoldedLayer(cast(Tensor, conv.bias).to(dtype), parts, starts)


def fold_tail(network: GatedNetwork, colours: int, dtype: torch.dtype) -> list[FoldedLayer]:
    """Skip, hidden layers and head; the head in its own precision."""
    trunk = [fold_layer(cast(MaskedConv, layer), colours, dtype) for layer in (network.skip, *network.hidden)]
    return [*trunk, fold_layer(network.head, colours, network.head.weight.dtype)]


def _pointwise(conv: MaskedConv) -> Tensor:
    """The weight of a 1×1 convolution as (in, out)."""
    return conv.masked_weight()[:, :, 0, 0].T


def _rows(tap: Tensor, conv: MaskedConv, colour: int, *, below: bool, dtype: torch.dtype) -> Tensor | None:
    """What one colour reads at its own pixel, (inputs up to or below it, outputs); None where there is nothing."""
    read = conv.in_colour < colour if below else conv.in_colour <= colour
    part = tap[conv.out_colour == colour][:, read].T
    return part.to(dtype).contiguous() if len(part) else None


def _biased_rows(conv: MaskedConv, colour: int, dtype: torch.dtype) -> Tensor:
    rows = _rows(conv.masked_weight()[:, :, 0, 0], conv, colour, below=False, dtype=dtype)
    bias = cast(Tensor, conv.bias)[None, conv.out_colour == colour].to(dtype)
    return torch.cat([bias, cast(Tensor, rows)]).contiguous()
