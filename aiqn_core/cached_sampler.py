"""The cached sampler: what `forward` computes, once for each row and once for each sub-pixel.

The vertical stack is computed once for each row, the horizontal stack once for each sub-pixel and only the planes of
its colour. Memory holds the few rows and columns that later ones read. Every buffer stays where it is, so that a row
is the same sequence of operations on the same memory for all rows: on a GPU it is one CUDA graph.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from aiqn_core.folded import FoldedBlock, fold_block, fold_tail
from aiqn_core.graphs import Recorder, graph
from aiqn_core.layers import GatedBlock, colour_groups, gate
from aiqn_core.levels import to_unit
from aiqn_core.method import Ordered


class _Step(NamedTuple):
    """One block for one colour of one pixel: views of the buffers, and weights."""

    context: Tensor  # (R, in): its inputs at this pixel, of colours up to this one
    centre: Tensor | None
    before: Tensor  # (R, 2 planes), what is added so far; the gate's input
    signal: Tensor  # its two halves
    switch: Tensor
    gated: Tensor  # (R, planes)
    upto: Tensor  # (R, 1 + planes up to this colour): ones, and gated features
    res: Tensor
    own: Tensor | None  # (R, planes) of the block before; the first has no residual
    h: Tensor  # (R, planes), the output


@dataclass(frozen=True)
class Buffers:
    """What is kept of a chunk of N images while it is sampled; B blocks of P planes, R = streams * N."""

    images: Tensor  # (N, C, W) levels of this row
    mask: Tensor  # (N, C, W), true where they are known
    tau: Tensor  # (N, C, W) of this row
    tau_above: Tensor
    label: Tensor | None
    rows: list[Tensor]  # per block (N, in, rows, W): the rows its vertical convolution reads
    before: Tensor  # (B, N, W, 2P): what this row's horizontal stack adds before its gates
    x: Tensor  # (N, taps + W, C): this row of the image in [-1, 1], after the zero padding
    h: Tensor  # (B - 1, N, taps + W, P): this row after each block that another one follows
    now_x: Tensor  # (R, C) of this pixel, like all that follow
    now_h: Tensor  # (B - 1, R, P)
    now: Tensor  # (B, R, 2P), before the gates
    # (B + 1, R, 1 + P): ones, and what the skip layer reads, which is h instead of the gated features of the last
    # block; those come after it.
    gated: Tensor
    sums: list[Tensor]  # of each layer after the blocks (R, out)
    steps: list[list[_Step]]  # of each colour, of each block


class CachedSampler:
    """Folds the weights once, then fills chunk after chunk."""

    def __init__(self, model: Ordered, record: Recorder | None = None) -> None:
        """`record` makes the filling of a row one call; None: a CUDA graph on a GPU, plain calls elsewhere."""
        network = model.network
        self.model, self.network, self.taps = model, network, network.kernel // 2
        self.record = record or (graph if network.head.weight.is_cuda else None)
        self.channels, self.height, self.width = network.image_shape
        self.streams = 2 if network.tau_mode == "local" else 1
        self.planes, self.dtype = network.planes, network.trunk_dtype()
        sizes = torch.bincount(colour_groups(network.planes, self.channels)).tolist()
        self.starts = [sum(sizes[:colour]) for colour in range(self.channels + 1)]
        with torch.inference_mode():
            folded = [fold_block(cast(GatedBlock, block), self.channels, self.dtype) for block in network.blocks]
            self.blocks: list[FoldedBlock] = folded
            # (B - 1, taps * P, 2P) and (B, C, 2P): one product for all blocks
            self.left = torch.stack([block.left for block in folded[1:]]) if len(folded) > 1 else None
            taus = [block.tau_h for block in folded if block.tau_h is not None]
            self.tau_h = torch.stack(taus) if taus else None
            self.tail = fold_tail(network, self.channels, self.dtype)

    @torch.inference_mode()
    def fill(self, images: Tensor, tau: Tensor, label: Tensor | None, mask: Tensor) -> None:
        """Write every sub-pixel of images (batch, channel, height, width) that is not masked as known."""
        buffers = self.allocate(len(images), tau, label)
        # Pixels known in all images need no output; a recorded row leaves none out, for it serves all rows.
        known = mask.flatten(0, 1).all(0) & (self.record is None)
        recorded: Callable[[], None] | None = None
        for number, skipped in enumerate(known.tolist()):
            self.load_row(buffers, number, images, tau, mask)
            if number == 1 and self.record is not None:  # the first row has warmed up what must not be recorded
                recorded = self.record(lambda: self._fill_row(buffers, [False] * self.width))
            if recorded is None:
                self._fill_row(buffers, skipped)
            else:
                recorded()
            images[:, :, number] = buffers.images

    def allocate(self, count: int, like: Tensor, label: Tensor | None) -> Buffers:
        """Zeros: what lies outside the image is zero as a feature, as in the padding of `forward`."""
        blocks, planes, wide = len(self.blocks), self.planes, self.taps + self.width
        row, streams = (count, self.channels, self.width), self.streams * count

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=self.dtype, device=like.device)

        gated = zeros(blocks + 1, streams, 1 + planes)
        gated[:, :, 0] = 1
        reads = [zeros(count, block.v.shape[1], self.taps + 1, self.width) for block in self.blocks]
        now_x, now_h = zeros(streams, self.channels), zeros(blocks - 1, streams, planes)
        now = zeros(blocks, streams, 2 * planes)
        return Buffers(
            images=torch.zeros(row, dtype=torch.uint8, device=like.device),
            mask=torch.zeros(row, dtype=torch.bool, device=like.device),
            tau=like.new_zeros(row),
            tau_above=like.new_zeros(row),
            label=label,
            rows=[rows.contiguous(memory_format=torch.channels_last) for rows in reads],
            before=zeros(blocks, count, self.width, 2 * planes),
            x=zeros(count, wide, self.channels),
            h=zeros(blocks - 1, count, wide, planes),
            now_x=now_x,
            now_h=now_h,
            now=now,
            gated=gated,
            sums=[layer.bias.new_zeros(streams, len(layer.bias)) for layer in self.tail],
            steps=[self._steps(colour, now_x, now_h, now, gated) for colour in range(self.channels)],
        )

    def _steps(self, colour: int, now_x: Tensor, now_h: Tensor, now: Tensor, gated: Tensor) -> list[_Step]:
        """The views that one colour of a pixel works on, block by block; making them takes longer than using them."""
        start, end = self.starts[colour], self.starts[colour + 1]
        last, steps = len(self.blocks) - 1, []
        for layer, block in enumerate(self.blocks):
            inputs = now_h[layer - 1, :, :end] if layer else now_x[:, :colour]
            output = gated[layer, :, 1:] if layer == last else now_h[layer]
            features = gated[last + 1 if layer == last else layer]
            before = now[layer, :, 2 * start : 2 * end]
            signal, switch = before.chunk(2, dim=1)
            steps.append(
                _Step(
                    context=inputs,
                    centre=block.centre[colour],
                    before=before,
                    signal=signal,
                    switch=switch,
                    gated=features[:, 1 + start : 1 + end],
                    upto=features[:, : 1 + end],
                    res=block.res[colour],
                    own=now_h[layer - 1, :, start:end] if layer else None,
                    h=output[:, start:end],
                )
            )
        return steps

    def load_row(self, buffers: Buffers, number: int, images: Tensor, tau: Tensor, mask: Tensor) -> None:
        """Copy a row of what was given into the buffers."""
        buffers.images.copy_(images[:, :, number])
        buffers.mask.copy_(mask[:, :, number])
        buffers.tau.copy_(tau[:, :, number])
        if number:
            buffers.tau_above.copy_(tau[:, :, number - 1])
        else:
            buffers.tau_above.fill_(0.5)  # above the image the map of tau in [-1, 1] is zero

    def _fill_row(self, buffers: Buffers, skipped: list[bool]) -> None:
        count = len(buffers.x)
        self.begin_row(buffers)
        for column in range(self.width):
            self._begin_pixel(buffers, column)
            for colour in range(self.channels):
                self._horizontal(buffers, colour)
                if not skipped[column]:
                    self._choose_level(buffers, column, colour)
                self._share_context(buffers, colour)
                value = 2 * to_unit(buffers.images[:, colour, column], buffers.tau.dtype) - 1
                buffers.now_x[:, colour].view(self.streams, count).copy_(value)
            buffers.x[:, self.taps + column] = buffers.now_x[:count]
            buffers.h[:, :, self.taps + column] = buffers.now_h[:, :count]
        self.end_row(buffers)

    def begin_row(self, buffers: Buffers) -> None:
        """The vertical stack of a row, and its links into the horizontal one."""
        for layer, block in enumerate(self.blocks):
            above = F.conv2d(buffers.rows[layer], block.v, block.v_bias, padding=(0, self.taps))
            pixels = above[:, :, 0].transpose(1, 2)  # (N, W, 2P)
            if block.tau_v is not None:
                pixels += torch.matmul((2 * buffers.tau_above - 1).transpose(1, 2), block.tau_v)
            if block.label_v is not None:
                pixels += block.label_v[buffers.label][:, None]
            flat = buffers.before[layer].flatten(0, 1)
            torch.addmm(block.bias, pixels.reshape(flat.shape), block.link, out=flat)
            if block.label_h is not None:
                buffers.before[layer] += block.label_h[buffers.label][:, None]
            if layer + 1 < len(self.blocks):
                _push(buffers.rows[layer + 1], gate(above)[:, :, 0])

    def end_row(self, buffers: Buffers) -> None:
        """The first block reads rows strictly above: the row joins its rows when it is complete."""
        _push(buffers.rows[0], buffers.x[:, self.taps :].transpose(1, 2))

    def _begin_pixel(self, buffers: Buffers, column: int) -> None:
        """What all blocks add before their gates, but for what they read of this pixel; one product for all."""
        count, left = len(buffers.x), slice(column, column + self.taps)
        now = buffers.now[:, :count]
        now.copy_(buffers.before[:, :, column])
        now[0].addmm_(buffers.x[:, left].flatten(1), self.blocks[0].left)
        if self.left is not None:
            now[1:].baddbmm_(buffers.h[:, :, left].flatten(2), self.left)
        if self.streams == 2:
            buffers.now[:, count:] = now
        if self.tau_h is not None:  # of two streams only the second sees the own tau
            buffers.now[:, -count:] += torch.matmul(2 * buffers.tau[:, :, column] - 1, self.tau_h)
        for sums, layer in zip(buffers.sums, self.tail, strict=True):
            sums.copy_(layer.bias)

    def _horizontal(self, buffers: Buffers, colour: int) -> None:
        """All blocks for one colour of one pixel."""
        for step in buffers.steps[colour]:
            if step.centre is not None:
                step.before.addmm_(step.context, step.centre)
            torch.mul(step.signal.tanh_(), step.switch.sigmoid_(), out=step.gated)
            if step.own is None:
                torch.mm(step.upto, step.res, out=step.h)
            else:
                torch.addmm(step.own, step.upto, step.res, out=step.h)

    def _choose_level(self, buffers: Buffers, column: int, colour: int) -> None:
        """Skip, hidden layers and head for one colour of one pixel, and the level at tau where it is not known."""
        count, planes = len(buffers.images), slice(1 + self.starts[colour], 1 + self.starts[colour + 1])
        features = buffers.gated[:-1, :, planes].transpose(0, 1).flatten(1)
        for sums, layer in zip(buffers.sums, self.tail, strict=True):
            start, end = layer.starts[colour : colour + 2]
            if sums is not buffers.sums[0]:
                features = torch.relu(features)
            sums[:, start:].addmm_(features.to(sums.dtype), layer.parts[colour])
            features = sums[:, start:end]
        output = features[-count:].reshape(-1, 1, *self.model.output_shape, 1, 1)
        level = self.model.icdf(output, buffers.tau[:, colour, column, None, None, None])[:, 0, 0, 0]
        here = buffers.images[:, colour, column]
        here.copy_(torch.where(buffers.mask[:, colour, column], here, level))

    def _share_context(self, buffers: Buffers, colour: int) -> None:
        """Of two streams, later colours read the first alone: it takes the place of what the second has so far."""
        if self.streams == 1:
            return
        count, planes = len(buffers.x), slice(self.starts[colour], self.starts[colour + 1])
        shared = [buffers.now_h[:, :, planes], buffers.gated[:, :, 1:][:, :, planes]]
        for sums, layer in zip(buffers.sums, self.tail, strict=True):
            shared.append(sums[None, :, layer.starts[colour + 1] :])
        for both in shared:
            both[:, count:] = both[:, :count]


def _push(rows: Tensor, row: Tensor) -> None:
    """Move rows (N, in, rows, W) up by one and put a new one (N, in, W) below."""
    rows[:, :, :-1] = rows[:, :, 1:].clone()
    rows[:, :, -1] = row
