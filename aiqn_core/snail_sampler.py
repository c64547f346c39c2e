"""The cached sampler of the snail trunk: every pixel's features, keys and values are computed when it is its turn.

The vertical stack is computed once for each row, the horizontal one once for each sub-pixel, with all its planes: those
of later colours are computed again when their turn comes.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from aiqn_core.layers import GatedBlock, MaskedConv, Streams, gate
from aiqn_core.levels import to_unit
from aiqn_core.method import Ordered
from aiqn_core.snail import Attention, SnailBlock, places


class _Folded(NamedTuple):
    """A convolution of one row with its mask applied, for one pixel: (batch, in, taps) to (batch, out)."""

    weight: Tensor  # (in * taps, out)
    own: Tensor  # (in, out): what a colour reads from itself at its own pixel
    bias: Tensor

    def __call__(self, window: Tensor, centre: Streams) -> Streams:
        """Of both streams at the last place of the window, which holds the context."""
        context = torch.addmm(self.bias, window.flatten(1), self.weight)
        if centre.query is None:
            return Streams(context)
        return Streams(context, context + (centre.query - centre.context) @ self.own)


def _fold(conv: MaskedConv) -> _Folded:
    weight = conv.masked_weight()[:, :, 0]
    own = (conv.weight[:, :, -1, -1] * conv.own_mask[:, :, -1, -1]).T.contiguous()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias
    return _Folded(weight.flatten(1).T.contiguous(), own, bias)


class _Attention(NamedTuple):
    query: _Folded
    key: _Folded
    value: _Folded
    out: _Folded


def _here(streams: Streams) -> Tensor:
    return streams.context[:, :, None]


@dataclass
class _Memory:
    """What is kept of a chunk of images while it is sampled."""

    rows: list[Tensor]  # per block (batch, in, side + 1, width): the rows its vertical convolution reads
    links: list[Tensor]  # per block (batch, planes, width): what the horizontal stack reads of this row's vertical one
    before: list[Tensor]  # per block (batch, in, side + width): this row of what its horizontal convolution reads
    keys: dict[int, Tensor]  # per block with attention (batch, heads, 1 + pixels, size)
    values: dict[int, Tensor]


class SnailSampler:
    """Folds the weights once, then fills chunk after chunk."""

    def __init__(self, model: Ordered) -> None:
        self.model, self.network, self.side = model, model.network, model.network.kernel // 2
        self.channels, self.height, self.width = self.network.image_shape
        first, *rest = self.network.blocks
        self.first, self.rest = cast(GatedBlock, first), [cast(SnailBlock, block) for block in rest]
        with torch.inference_mode():
            blocks: list[GatedBlock | SnailBlock] = [self.first, *self.rest]
            self.h = [_fold(block.h) for block in blocks]
            self.out = [_fold(self.first.res), *(_fold(block.h_out) for block in self.rest)]
            self.taus = [None if b.tau_h is None else _fold(b.tau_h) for b in blocks]
            self.attend = {
                layer: _Attention(*map(_fold, (a.query, a.key, a.value, a.out)))
                for layer, a in enumerate((block.attention for block in self.rest), 1)
                if a is not None
            }
            tail = [self.network.skip, *self.network.hidden, self.network.head]
            self.tail = [_fold(cast(MaskedConv, layer)) for layer in tail]
            self.place = places(self.height, self.width, self.network.head.weight)[0]

    @torch.inference_mode()
    def fill(self, images: Tensor, tau: Tensor, label: Tensor | None, mask: Tensor) -> None:
        """Write every sub-pixel of images (batch, channel, height, width) that is not masked as known."""
        memory, known = self._allocate(len(images), tau), mask.flatten(0, 1).all(0).tolist()
        for row in range(self.height):
            self._begin_row(memory, 2 * tau[:, :, row - 1 : row] - 1 if row else torch.zeros_like(tau[:, :, :1]), label)
            for column in range(self.width):
                levels = tau[:, :, row, column]
                for colour in range(self.channels):
                    features = self._horizontal(memory, row, column, 2 * levels - 1)
                    here = images[:, colour, row, column]
                    if not known[row][column]:
                        output = self._output(features, colour).reshape(-1, 1, *self.model.output_shape, 1, 1)
                        level = self.model.icdf(output, levels[:, colour, None, None, None])[:, 0, 0, 0]
                        here.copy_(torch.where(mask[:, colour, row, column], here, level))
                    memory.before[0][:, colour, self.side + column] = 2 * to_unit(here, tau.dtype) - 1
            memory.rows[0] = torch.cat([memory.rows[0][:, :, 1:], memory.before[0][:, :, None, self.side :]], 2)

    def _allocate(self, count: int, like: Tensor) -> _Memory:
        """Zeros: what lies outside the image is zero as a feature, as in the padding of `forward`."""
        inputs = [self.channels, *[self.network.planes] * len(self.rest)]
        attentions = {layer: cast(Attention, self.rest[layer - 1].attention) for layer in self.attend}
        size = 1 + self.height * self.width
        memory = _Memory(
            rows=[like.new_zeros(count, width, self.side + 1, self.width) for width in inputs],
            links=[],
            before=[like.new_zeros(count, width, self.side + self.width) for width in inputs],
            keys={layer: like.new_zeros(count, a.heads, size, a.size) for layer, a in attentions.items()},
            values={layer: like.new_zeros(count, a.heads, size, a.size) for layer, a in attentions.items()},
        )
        for layer, attention in attentions.items():
            memory.keys[layer][:, :, :1], memory.values[layer][:, :, :1] = attention.first
        return memory

    def _begin_row(self, memory: _Memory, tau_above: Tensor, label: Tensor | None) -> None:
        """The vertical stack of a row, its links into the horizontal one, and an empty row of that."""
        first, pad = self.first, (0, self.side)
        above = F.conv2d(memory.rows[0], first.v.masked_weight(), first.v.bias, padding=pad)
        if first.tau_v is not None:
            above = above + F.conv2d(tau_above, first.tau_v.masked_weight())
        if first.label_v is not None and label is not None:
            above = above + first.label_v(label)[:, :, None, None]
        v, links = gate(above), [first.link(above)]
        for layer, block in enumerate(self.rest, 1):
            memory.rows[layer] = torch.cat([memory.rows[layer][:, :, 1:], F.elu(v)], 2)
            above = F.conv2d(memory.rows[layer], block.v.masked_weight(), block.v.bias, padding=pad)
            if block.label_v is not None and label is not None:
                above = above + block.label_v(label)[:, :, None, None]
            v = v + F.glu(block.v_out(F.elu(above)), 1)
            links.append(block.link(F.elu(v)))
        labels = [first.label_h, *(block.label_h for block in self.rest)]
        for layer, embedding in enumerate(labels):
            if embedding is not None and label is not None:
                links[layer] = links[layer] + embedding(label)[:, :, None, None]
        memory.links = [link[:, :, 0] for link in links]
        for row in memory.before:
            row.zero_()

    def _horizontal(self, memory: _Memory, row: int, column: int, tau: Tensor) -> Streams:
        """All blocks at one pixel; returns what the skip layer reads."""
        window = slice(column, column + self.side + 1)
        x = memory.before[0][:, :, window]
        local = self.network.tau_mode == "local"
        h, features = Streams(x[:, :, -1], x[:, :, -1] if local else None), []
        for layer in range(len(self.h)):
            if layer:
                read = h.map(F.elu)
                memory.before[layer][:, :, self.side + column] = read.context
            else:
                read = h
            link, levels = memory.links[layer][:, :, column], self.taus[layer]
            before = self.h[layer](memory.before[layer][:, :, window], read).map(partial(torch.add, link))
            if levels is not None:
                before = before.plus_last(tau @ levels.weight)
            if not layer:
                gated = before.map(gate)
                h = self.out[0](_here(gated), gated)
            else:
                before = before.map(F.elu)
                gated = self.out[layer](_here(before), before).map(lambda x: F.glu(x, 1))
                h = h.plus(gated)
                if layer in self.attend:
                    seen = self._attend(memory, layer, h.context, row, column)
                    h = h.map(partial(torch.add, seen))
            features.append(gated)
        features[-1] = h
        query = torch.cat([part.last for part in features], 1) if local else None
        return Streams(torch.cat([part.context for part in features], 1), query)

    def _attend(self, memory: _Memory, layer: int, h: Tensor, row: int, column: int) -> Tensor:
        """What the pixel reads from those before it; its own key and value are kept for those after it."""
        query, key, value, out = self.attend[layer]
        keys, values, place = memory.keys[layer], memory.values[layer], row * self.width + column
        here = torch.cat([h, self.place[:, row, column].expand(len(h), -1)], 1)
        heads, size = keys.shape[1], keys.shape[3]
        asked = torch.addmm(query.bias, here, query.weight).view(len(h), self.channels, heads, size).transpose(1, 2)
        keys[:, :, place + 1] = torch.addmm(key.bias, here, key.weight).view(len(h), heads, size)
        values[:, :, place + 1] = torch.addmm(value.bias, h, value.weight).view(len(h), heads, size)
        weight = (asked @ keys[:, :, : place + 1].mT * size**-0.5).softmax(-1)
        read = (weight @ values[:, :, : place + 1]).transpose(1, 2)
        return read.reshape(len(h), -1) @ out.weight

    def _output(self, features: Streams, colour: int) -> Tensor:
        """Skip, hidden layers and head for one colour: (batch, outputs)."""
        for depth, layer in enumerate(self.tail):
            if depth:
                features = features.map(torch.relu)
            features = layer(_here(features), features)
        return features.last.view(len(features.last), self.channels, -1)[:, colour]
