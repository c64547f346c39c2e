"""Several completions of images whose pixels are partly given (sections 4.3 and appendix, Figures 6 and 12)."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from aiqn_core.data import image_grid
from aiqn_core.method import Ordered
from aiqn_core.sampling import sample

GREY = 128  # of what is not given, in a picture
HALVES = ("top", "bottom", "left", "right")


@dataclass(frozen=True)
class Completions:
    """Images, and what a model made of them when only the masked pixels were given."""

    images: UInt8[Tensor, "image channel height width"]
    given: Bool[Tensor, "height width"]
    completed: UInt8[Tensor, "image completion channel height width"]

    @property
    def diversity(self) -> float:
        """How far two completions of one image are apart, in levels for each free sub-pixel; the mean over pairs."""
        pairs = list(combinations(range(self.completed.shape[1]), 2))
        return _mean([self._apart(self.completed[:, i], self.completed[:, j]) for i, j in pairs])

    @property
    def variety(self) -> float:
        """The same between the images themselves: what two completions would differ by that ignored what is given."""
        others = [self.images.roll(shift, 0) for shift in range(1, len(self.images))]
        return _mean([self._apart(self.images, other) for other in others])

    def _apart(self, a: Tensor, b: Tensor) -> float:
        return float((a.float() - b.float()).abs()[..., ~self.given].mean())

    def picture(self) -> np.ndarray:
        """A row for each image: what is given, the completions, the image itself. (H, W, C) uint8."""
        shown = torch.where(self.given, self.images, torch.full_like(self.images, GREY))
        rows = torch.cat([shown[:, None], self.completed, self.images[:, None]], 1)
        return image_grid(rows.flatten(0, 1), rows.shape[1])


def complete(
    model: Ordered,
    images: UInt8[Tensor, "image channel height width"],
    given: Bool[Tensor, "height width"],
    count: int,
    *,
    label: Int[Tensor, " image"] | None = None,
    generator: torch.Generator | None = None,
) -> Completions:
    """Fill what is not given `count` times with fresh tau, conditioned on the given pixels that come before.

    Those after a pixel in raster order cannot be seen. Each completion's tau is the same for all images.
    """
    shape = images.shape[1:]
    tau = torch.rand(count, *shape, generator=generator)
    known = images.repeat_interleave(count, 0)
    completed = sample(
        model,
        len(known),
        tau=tau.repeat(len(images), 1, 1, 1),
        label=None if label is None else label.repeat_interleave(count),
        known=known,
        mask=given.expand(len(known), *shape),
    )
    return Completions(images, given, completed.cpu().view(len(images), count, *shape))


def half(side: str, height: int, width: int) -> Bool[Tensor, "height width"]:
    """The mask that gives one half of an image: "top", "bottom", "left" or "right"."""
    row, column = torch.arange(height)[:, None], torch.arange(width)[None, :]
    masks = {
        "top": row < (height + 1) // 2,
        "bottom": row >= height // 2,
        "left": column < (width + 1) // 2,
        "right": column >= width // 2,
    }
    return masks[side].expand(height, width)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
