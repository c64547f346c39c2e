"""The row sampler: the vertical stack once for each row, the horizontal one on the whole row until nothing changes."""

from typing import cast

import torch
from torch import Tensor

from aiqn_core.cached_sampler import CachedSampler
from aiqn_core.layers import GatedBlock, Streams
from aiqn_core.levels import to_unit
from aiqn_core.method import Ordered


def update(images: Tensor, level: Tensor, mask: Tensor) -> bool:
    """Take the levels where the image is not known; whether anything changed."""
    new = torch.where(mask, images, level)
    changed = not torch.equal(new, images)
    images.copy_(new)
    return changed


class RowSampler(CachedSampler):
    """Fixed-point iteration row by row: fewer and larger products than one for each sub-pixel, but more arithmetic."""

    def __init__(self, model: Ordered) -> None:
        super().__init__(model)
        self.iterations: list[int] = []  # of each row of the last chunk
        block = cast(GatedBlock, self.network.blocks[0])
        self.unsorted = torch.argsort(torch.argsort(block.h.out_colour, stable=True))

    @torch.inference_mode()
    def fill(self, images: Tensor, tau: Tensor, label: Tensor | None, mask: Tensor) -> None:
        """Write every sub-pixel of images (batch, channel, height, width) that is not masked as known."""
        buffers, self.iterations = self.allocate(len(images), tau, label), []
        for row in range(self.height):
            self.load_row(buffers, row, images, tau, mask)
            self.begin_row(buffers)
            links = buffers.before.transpose(2, 3)[:, :, self.unsorted, None]  # (B, N, 2P, 1, W)
            here = (slice(None), slice(None), slice(row, row + 1))
            self.iterations.append(0)
            changes = True
            while changes:
                x = 2 * to_unit(images[here], tau.dtype) - 1
                output = self._forward_row(x, links, 2 * tau[here] - 1)
                changes = update(images[here], self.model.icdf(output, tau[here]), mask[here])
                self.iterations[-1] += 1
            buffers.x[:, self.taps :] = x[:, :, 0].transpose(1, 2)
            self.end_row(buffers)

    def _forward_row(self, x: Tensor, links: Tensor, tau: Tensor) -> Tensor:
        """What `forward` gives for one row, (batch, channel, outputs..., 1, width), from its links to those above."""
        h = Streams(x, x if self.streams == 2 else None)
        features = []
        with self.network.autocast():
            for block, link in zip(self.network.blocks, links, strict=True):
                assert isinstance(block, GatedBlock)
                assert block.h.bias is not None
                # the links hold the bias of the horizontal convolution already, which adds it again
                h, gated = block.horizontal(h, link - block.h.bias[:, None, None], tau)
                features.append(gated)
            output = self.network.tail([*features[:-1], h])
        return output if self.model.output_shape else output.squeeze(2)
