"""The fast samplers: what `forward` computes, once for each row and each sub-pixel.

The vertical stack is computed once for each row. The cached sampler computes the horizontal stack once for each
sub-pixel, only the planes of its colour; the row sampler computes that of the whole row until nothing changes.
Memory holds the few rows and columns that later ones read.
"""

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from aiqn_core.layers import GatedBlock, MaskedConv, Streams, colour_groups, gate
from aiqn_core.levels import to_unit
from aiqn_core.models import PixelCNN, PixelIQN


class _ColourPart(NamedTuple):
    """One colour's rows of a masked convolution's own-pixel tap, transposed: `lower` and `own` are (in, out)."""

    lower: Tensor  # reads the lower colours, one after the other
    own: Tensor
    bias: Tensor


def _split(conv: MaskedConv, colours: int) -> list[_ColourPart]:
    """The own-pixel tap of a convolution, colour by colour."""
    tap = conv.masked_weight()[:, :, -1, -1]
    parts = []
    for colour in range(colours):
        rows = tap[conv.out_colour == colour]
        lower = [rows[:, conv.in_colour == below] for below in range(colour)]
        bias = tap.new_zeros(len(rows)) if conv.bias is None else conv.bias[conv.out_colour == colour]
        parts.append(
            _ColourPart(
                torch.cat([*lower, rows[:, :0]], 1).T.contiguous(),
                rows[:, conv.in_colour == colour].T.contiguous(),
                bias.contiguous(),
            )
        )
    return parts


def _apply(part: _ColourPart, context: Tensor, own: Tensor) -> Tensor:
    """One colour's output (streams * batch, out) of all lower colours (batch, in) and its own (streams * batch, in)."""
    if not len(part.lower):
        return torch.addmm(part.bias, own, part.own)
    below = torch.addmm(part.bias, context[:, : len(part.lower)], part.lower)
    return torch.addmm(below.repeat(len(own) // len(below), 1), own, part.own)


@dataclass(frozen=True)
class _Block:
    """The weights of one gated block as the sampler uses them; planes before the gate are sorted by colour."""

    v: Tensor  # (2P, in, rows, columns)
    v_bias: Tensor
    tau_v: Tensor | None  # (2P, C, 1, 1)
    label_v: Tensor | None  # (classes, 2P)
    link: Tensor  # (2P, 2P), transposed like all that follow
    bias: Tensor  # of the link and of the horizontal convolution
    label_h: Tensor | None
    left: Tensor  # (taps, in, 2P): the columns left of the pixel
    centre: list[_ColourPart]
    tau_h: Tensor | None  # (C, 2P)
    res: list[_ColourPart]


def _fold(block: GatedBlock, colours: int) -> _Block:
    """The weights of a block with masks applied."""
    order = torch.argsort(block.h.out_colour, stable=True)
    h, link = block.h.masked_weight()[order, :, 0], block.link.masked_weight()[order, :, 0, 0]
    assert block.v.bias is not None
    assert block.link.bias is not None
    assert block.h.bias is not None
    return _Block(
        v=block.v.masked_weight(),
        v_bias=block.v.bias,
        tau_v=None if block.tau_v is None else block.tau_v.masked_weight(),
        label_v=None if block.label_v is None else block.label_v.weight,
        link=link.T.contiguous(),
        bias=(block.link.bias + block.h.bias)[order],
        label_h=None if block.label_h is None else block.label_h.weight[:, order],
        left=h[:, :, :-1].permute(2, 1, 0).contiguous(),
        centre=_split(block.h, colours),
        tau_h=None if block.tau_h is None else block.tau_h.masked_weight()[order, :, 0, 0].T.contiguous(),
        res=_split(block.res, colours),
    )


class _Buffers(NamedTuple):
    """What is kept of a chunk of N images while it is sampled; B blocks of P planes."""

    v: list[Tensor]  # per block (N, in, rows, W): the rows its vertical convolution reads
    before: Tensor  # (W, B, N, 2P): what this row's horizontal stack adds before its gates
    x: Tensor  # (taps + W, N, C): this row of the image in [-1, 1], after the zero padding
    h: Tensor  # (taps + W, B, N, P): this row after each block
    gated: Tensor  # (B, N, P): of this pixel
    features: list[Tensor]  # this pixel's inputs of skip, hidden layers and head, sorted by colour


class CachedSampler:
    """Folds the weights once, then fills chunk after chunk."""

    def __init__(self, model: PixelCNN | PixelIQN) -> None:
        network = model.network
        self.model, self.network, self.taps = model, network, network.kernel // 2
        self.channels, self.height, self.width = network.image_shape
        self.streams = 2 if network.tau_mode == "local" else 1
        self.planes = network.planes
        sizes = torch.bincount(colour_groups(network.planes, self.channels)).tolist()
        self.ends = [sum(sizes[: colour + 1]) for colour in range(self.channels)]
        self.starts = [0, *self.ends[:-1]]
        with torch.inference_mode():
            self.blocks = [_fold(cast(GatedBlock, block), self.channels) for block in network.blocks]
            self.left = torch.stack([b.left for b in self.blocks[1:]], 1) if len(self.blocks) > 1 else None
            # (blocks, C, 2P), so that one product gives the tau term of every block
            taus = [block.tau_h for block in self.blocks if block.tau_h is not None]
            self.tau_h = torch.stack(taus) if taus else None
            self.tail = [_split(layer, self.channels) for layer in (network.skip, *network.hidden, network.head)]

    @torch.inference_mode()
    def fill(self, images: Tensor, tau: Tensor, label: Tensor | None, mask: Tensor) -> None:
        """Write every sub-pixel of images (batch, channel, height, width) that is not masked as known."""
        buffers = self._allocate(len(images), tau)
        known = mask.flatten(0, 1).all(0).tolist()
        for row in range(self.height):
            self._begin_row(buffers, tau[:, :, row - 1 : row] if row else torch.full_like(tau[:, :, :1], 0.5), label)
            for column in range(self.width):
                pixel_tau = tau[:, :, row, column]
                extra = self._begin_pixel(buffers, column, pixel_tau)
                for colour in range(self.channels):
                    features = self._horizontal(buffers, column, colour, extra)
                    if not known[row][column]:
                        output = self._output(buffers, colour, features)
                        output = output.reshape(-1, 1, *self.model.output_shape, 1, 1)
                        level = self.model.icdf(output, pixel_tau[:, colour, None, None, None])[:, 0, 0, 0]
                        here = images[:, colour, row, column]
                        here.copy_(torch.where(mask[:, colour, row, column], here, level))
                    value = to_unit(images[:, colour, row, column], tau.dtype)
                    buffers.x[self.taps + column, :, colour] = 2 * value - 1
            self._end_row(buffers)

    def _allocate(self, count: int, like: Tensor) -> _Buffers:
        """Zeros: what lies outside the image is zero as a feature, as in the padding of `forward`."""
        layers, planes, wide = len(self.blocks), self.planes, self.taps + self.width
        inputs = [sum(len(part.own) for part in parts) for parts in self.tail]
        return _Buffers(
            v=[like.new_zeros(count, block.v.shape[1], self.taps + 1, self.width) for block in self.blocks],
            before=like.new_zeros(self.width, layers, count, 2 * planes),
            x=like.new_zeros(wide, count, self.channels),
            h=like.new_zeros(wide, layers, count, planes),
            gated=like.new_zeros(layers, count, planes),
            features=[like.new_zeros(count, size) for size in inputs],
        )

    def _begin_row(self, buffers: _Buffers, tau_above: Tensor, label: Tensor | None) -> None:
        """The vertical stack of a row, and its links into the horizontal one."""
        for layer, block in enumerate(self.blocks):
            above = F.conv2d(buffers.v[layer], block.v, block.v_bias, padding=(0, self.taps))
            if block.tau_v is not None:
                above += F.conv2d(2 * tau_above - 1, block.tau_v)
            bias = block.bias
            if block.label_v is not None and block.label_h is not None:
                above += block.label_v[label][:, :, None, None]
                bias = bias + block.label_h[label]
            torch.matmul(above[:, :, 0].permute(2, 0, 1), block.link, out=buffers.before[:, layer])
            buffers.before[:, layer] += bias
            if layer + 1 < len(self.blocks):
                buffers.v[layer + 1] = torch.cat([buffers.v[layer + 1][:, :, 1:], gate(above)], 2)

    def _end_row(self, buffers: _Buffers) -> None:
        """The first block reads rows strictly above: the row joins its rows when it is complete."""
        row = buffers.x[self.taps :].permute(1, 2, 0)[:, :, None]
        buffers.v[0] = torch.cat([buffers.v[0][:, :, 1:], row], 2)

    def _begin_pixel(self, buffers: _Buffers, column: int, tau: Tensor) -> Tensor | None:
        """Add what all blocks read from the left; returns the tau terms (blocks, batch, 2P) if kept apart."""
        before = buffers.before[column]
        for tap in range(self.taps):
            before[0].addmm_(buffers.x[column + tap], self.blocks[0].left[tap])
            if self.left is not None:
                before[1:].baddbmm_(buffers.h[column + tap, :-1], self.left[tap])
        if self.tau_h is None:
            return None
        extra = torch.matmul(2 * tau - 1, self.tau_h)
        if self.streams == 2:
            return extra
        before += extra
        return None

    def _horizontal(self, buffers: _Buffers, column: int, colour: int, extra: Tensor | None) -> Tensor:
        """All blocks for one colour of one pixel; returns what the skip layer reads, (streams * batch, in)."""
        planes, features = slice(self.starts[colour], self.ends[colour]), []
        twice = slice(2 * planes.start, 2 * planes.stop)
        here, count = self.taps + column, buffers.gated.shape[1]
        own = buffers.x[here, :, :0]
        for layer, block in enumerate(self.blocks):
            before, centre = buffers.before[column, layer, :, twice], block.centre[colour]
            context = buffers.h[here, layer - 1] if layer else buffers.x[here]
            if colour:
                before = torch.addmm(before, context[:, : len(centre.lower)], centre.lower)
            if extra is not None:
                before = torch.cat([before, before + extra[layer, :, twice]])
            if layer:  # the first block never reads the own colour
                before = torch.addmm(before, own, centre.own)
            gated = gate(before)
            residual = _apply(block.res[colour], buffers.gated[layer], gated)
            own = own + residual if layer else residual
            buffers.gated[layer, :, planes] = gated[:count]
            buffers.h[here, layer, :, planes] = own[:count]
            features.append(gated)
        features[-1] = own
        return torch.cat(features, 1)

    def _output(self, buffers: _Buffers, colour: int, features: Tensor) -> Tensor:
        """Skip, hidden layers and head for one colour of one pixel: (batch, outputs)."""
        count = len(buffers.features[0])
        for depth, (parts, inputs) in enumerate(zip(self.tail, buffers.features, strict=True)):
            if depth:
                features = torch.relu(features)
            start = sum(len(part.own) for part in parts[:colour])
            inputs[:, start : start + features.shape[1]] = features[:count]
            features = _apply(parts[colour], inputs, features)
        return features[-count:]


def update(images: Tensor, level: Tensor, mask: Tensor) -> bool:
    """Take the levels where the image is not known; whether anything changed."""
    new = torch.where(mask, images, level)
    changed = not torch.equal(new, images)
    images.copy_(new)
    return changed


class RowSampler(CachedSampler):
    """The vertical stack once for each row, the horizontal stack on the whole row until nothing changes."""

    def __init__(self, model: PixelCNN | PixelIQN) -> None:
        super().__init__(model)
        self.iterations: list[int] = []  # of each row of the last chunk
        block = cast(GatedBlock, self.network.blocks[0])
        self.unsorted = torch.argsort(torch.argsort(block.h.out_colour, stable=True))

    @torch.inference_mode()
    def fill(self, images: Tensor, tau: Tensor, label: Tensor | None, mask: Tensor) -> None:
        """Write every sub-pixel of images (batch, channel, height, width) that is not masked as known."""
        buffers, self.iterations = self._allocate(len(images), tau), []
        for row in range(self.height):
            self._begin_row(buffers, tau[:, :, row - 1 : row] if row else torch.full_like(tau[:, :, :1], 0.5), label)
            links = buffers.before.permute(1, 2, 3, 0)[:, :, self.unsorted, None]
            here = (slice(None), slice(None), slice(row, row + 1))
            self.iterations.append(0)
            changes = True
            while changes:
                x = 2 * to_unit(images[here], tau.dtype) - 1
                output = self._forward_row(x, links, 2 * tau[here] - 1)
                changes = update(images[here], self.model.icdf(output, tau[here]), mask[here])
                self.iterations[-1] += 1
            buffers.x[self.taps :] = x[:, :, 0].permute(2, 0, 1)
            self._end_row(buffers)

    def _forward_row(self, x: Tensor, links: Tensor, tau: Tensor) -> Tensor:
        """What `forward` gives for one row, (batch, channel, outputs..., 1, width), from its links to those above."""
        h = Streams(x, x if self.streams == 2 else None)
        features = []
        for block, link in zip(self.network.blocks, links, strict=True):
            assert isinstance(block, GatedBlock)
            assert block.h.bias is not None
            # the links hold the bias of the horizontal convolution already, which adds it again
            h, gated = block.horizontal(h, link - block.h.bias[:, None, None], tau)
            features.append(gated)
        output = self.network.tail([*features[:-1], h])
        return output if self.model.output_shape else output.squeeze(2)
