"""A close look at a model: what sees what, and whether its quantiles are quantiles."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int, UInt8
from torch import Tensor

from aiqn_core.data import ImageData
from aiqn_core.levels import nearest_level, to_unit
from aiqn_core.method import Ordered, Quantiles

CALIBRATION_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


class Dependencies(NamedTuple):
    """[i, j]: output i depends on input j; sub-pixels in raster order (row, column, channel)."""

    x: Bool[Tensor, "output input"]
    tau: Bool[Tensor, "output input"] | None


class TauSensitivity(NamedTuple):
    """Mean |∂Q_i/∂τ_j| relative to that of the own τ_i: over earlier j, and over later j (which must be 0)."""

    earlier: float
    later: float


@dataclass(frozen=True)
class Calibration:
    """How often an image lies below the quantile at each level: a calibrated model has below <= level <= upto.

    Pixels are discrete, so the two differ by the probability of the predicted level itself.
    """

    levels: Float64[Tensor, " level"]
    below: Float64[Tensor, " level"]  # P(x < Q(τ))
    upto: Float64[Tensor, " level"]  # P(x <= Q(τ))

    @property
    def error(self) -> float:
        """The mean distance of a level from its interval [below, upto]; 0 where all is well."""
        outside = torch.maximum(self.below - self.levels, self.levels - self.upto)
        return float(outside.clamp(min=0).mean())


def raster(x: Float[Tensor, "*batch channel height width"]) -> Float[Tensor, "*batch subpixel"]:
    """Sub-pixels in the order of generation: row, column, channel."""
    return x.movedim(-3, -1).flatten(-3)


def dependency_matrix(model: Ordered, draws: int = 5, generator: torch.Generator | None = None) -> Dependencies:
    """Which outputs have a gradient by which inputs, at any of some random images; use float64 weights.

    One draw is not enough: a ReLU that is dead at one image hides a dependency. The 256 logits of a sub-pixel are
    looked at through a random projection. Takes as many backward passes as there are sub-pixels.
    """
    dtype = next(model.network.parameters()).dtype
    shape = (draws, *model.network.image_shape)
    x, tau = (torch.rand(shape, generator=generator, dtype=dtype).requires_grad_() for _ in range(2))
    classes = model.network.num_classes
    label = torch.randint(classes, (draws,), generator=generator) if classes else None
    inputs: tuple[Tensor, ...]
    output, inputs = model.outputs(x, tau, label), (x, tau)
    if output.dim() > x.dim():  # several values for each sub-pixel, and no tau inside
        projection = torch.randn(output.shape[2], 1, 1, generator=generator, dtype=dtype)
        output, inputs = (output * projection).sum(2), (x,)
    output = raster(output)
    rows = torch.eye(output.shape[1], dtype=dtype)[:, None, :].expand(-1, draws, -1)
    gradients = torch.autograd.grad(output, inputs, rows, is_grads_batched=True)
    live = [raster(gradient != 0).any(1) for gradient in gradients]
    return Dependencies(live[0], live[1] if len(live) > 1 else None)


def tau_sensitivity(
    model: Quantiles,
    image: UInt8[Tensor, "batch channel height width"],
    generator: torch.Generator | None = None,
    label: Int[Tensor, " batch"] | None = None,
) -> TauSensitivity:
    """How much a quantile moves with the levels of other sub-pixels, which an ideal model ignores.

    One sub-pixel of each image is asked, drawn at random.
    """
    tau = torch.rand(image.shape, generator=generator).to(image.device)
    index = torch.randint(tau[0].numel(), (len(tau),), generator=generator).to(image.device)
    gradient = _quantile_gradient(model, image, tau, index, label)[1].abs()
    order = torch.arange(gradient.shape[1], device=image.device)
    own = gradient.gather(1, index[:, None]).mean()
    earlier, later = (gradient[mask].sum() / len(tau) for mask in (order < index[:, None], order > index[:, None]))
    return TauSensitivity(float(earlier / own), float(later / own))


def implied_density(
    model: Quantiles,
    image: UInt8[Tensor, "batch channel height width"],
    tau: Float[Tensor, "batch channel height width"],
    index: Int[Tensor, " batch"],
    label: Int[Tensor, " batch"] | None = None,
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """(Q, p): the τ-quantile of sub-pixel `index` (raster order) of each image, and the density there.

    p(Q(τ)) = 1 / (∂Q/∂τ), by one step of back-propagation (section 3.2); per unit of the pixel range. Negative where
    quantiles cross, infinite on a plateau.
    """
    quantile, gradient = _quantile_gradient(model, image, tau, index, label)
    return quantile, 1 / gradient.gather(1, index[:, None]).squeeze(1)


@torch.no_grad()
def calibration(
    model: Quantiles,
    image: UInt8[Tensor, "image channel height width"],
    levels: tuple[float, ...] = CALIBRATION_LEVELS,
    generator: torch.Generator | None = None,
    label: Int[Tensor, " image"] | None = None,
    batch_size: int = 256,
) -> Calibration:
    """P(x < Q(τ | x_<i)) and P(x <= Q(τ | x_<i)) over all sub-pixels of held-out images, Q on the grid of levels.

    The images are dealt out to the levels. Each asks its level at half of its sub-pixels, at random, and the others
    keep levels of their own: so most of what the network is given is drawn as in training. Of fewer images than levels
    the last levels are left out.
    """
    counts = torch.zeros(3, len(levels), dtype=torch.float64)
    for begin in range(0, len(image), batch_size):
        batch = image[begin : begin + batch_size]
        group = torch.arange(begin, begin + len(batch)) % len(levels)
        tau = torch.rand(batch.shape, generator=generator)
        asked = torch.rand(batch.shape, generator=generator) < 0.5
        level = torch.tensor(levels)[group][:, None, None, None]
        tau = torch.where(asked, level, tau).to(batch.device)
        x = to_unit(batch, next(model.network.parameters()).dtype)
        quantile = nearest_level(model(x, tau, None if label is None else label[begin : begin + len(batch)]))
        found = (batch < quantile).cpu() & asked, (batch <= quantile).cpu() & asked, asked
        counts.index_add_(1, group, torch.stack([hit.flatten(1).sum(1) for hit in found]).double())
    below, upto, asked = counts[:, counts[2] > 0]
    return Calibration(torch.tensor(levels, dtype=torch.float64)[counts[2] > 0], below / asked, upto / asked)


def calibration_scores(model: Quantiles, data: ImageData, settings: Any, *, conditional: bool) -> dict[str, float]:
    """P(x <= Q(τ)) on at most `evaluate.samples` test images at some levels, and the mean miss (see `Calibration`)."""
    device, count = next(model.network.parameters()).device, min(len(data.test), settings.samples)
    label = data.test_labels[:count].to(device) if conditional else None
    generator = torch.Generator().manual_seed(settings.seed)
    found = calibration(model, data.test[:count].to(device), generator=generator, label=label)
    named = zip(found.levels.tolist(), found.upto.tolist(), strict=True)
    return {"calibration_error": found.error} | {f"calibration_{100 * level:02.0f}": upto for level, upto in named}


@torch.no_grad()
def crossing_rate(
    model: Quantiles,
    image: UInt8[Tensor, "batch channel height width"],
    width: float = 0.02,
    generator: torch.Generator | None = None,
    label: Int[Tensor, " batch"] | None = None,
) -> float:
    """How often a quantile falls when only its own level rises by `width`; one sub-pixel of each image, at random."""
    tau = torch.rand(image.shape, generator=generator).to(image.device)
    index = torch.randint(tau[0].numel(), (len(tau),), generator=generator).to(image.device)
    x = to_unit(image, next(model.network.parameters()).dtype)
    ends = []
    start = raster(tau).gather(1, index[:, None]) * (1 - width)
    for level in (start, start + width):
        flat = raster(tau).scatter(1, index[:, None], level)
        ends.append(raster(model(x, unraster(flat, image.shape), label)).gather(1, index[:, None]))
    return float((ends[1] < ends[0]).double().mean())


def unraster(flat: Float[Tensor, "batch subpixel"], shape: torch.Size) -> Float[Tensor, "batch channel height width"]:
    """The inverse of `raster` for images of a shape."""
    batch, channel, height, width = shape
    return flat.reshape(batch, height, width, channel).movedim(-1, 1)


def _quantile_gradient(
    model: Quantiles,
    image: UInt8[Tensor, "batch channel height width"],
    tau: Float[Tensor, "batch channel height width"],
    index: Int[Tensor, " batch"],
    label: Int[Tensor, " batch"] | None,
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch subpixel"]]:
    """The quantile of one sub-pixel of each image, and its gradient by all levels of that image."""
    dtype = next(model.network.parameters()).dtype
    tau = tau.to(dtype).requires_grad_()
    quantile = raster(model(to_unit(image, dtype), tau, label)).gather(1, index[:, None]).squeeze(1)
    (gradient,) = torch.autograd.grad(quantile.sum(), tau)
    return quantile.detach(), raster(gradient)
