"""Samples of an autoregressive model: x_i = icdf(x_<i, tau_i), one sub-pixel after the other in raster order."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from aiqn_core.cached_sampler import CachedSampler
from aiqn_core.levels import to_unit
from aiqn_core.memory import free_bytes, out_of_memory
from aiqn_core.method import Coded, Ordered
from aiqn_core.row_sampler import RowSampler, update
from aiqn_core.snail_sampler import SnailSampler

log = logging.getLogger(__name__)

Method = Literal["cached", "row", "jacobi", "naive"]
Sampler = type["CachedSampler | SnailSampler | RowSampler | JacobiSampler | NaiveSampler"]
MEMORY_BYTES = {"cpu": 2**30, "cuda": 2**32}  # of caches or activations, which sets the default batch size


def sample(
    model: Any,
    count: int,
    *,
    tau: Float[Tensor, "count *shape"] | None = None,
    label: Int[Tensor, " count"] | None = None,
    generator: torch.Generator | None = None,
    known: UInt8[Tensor, "count channel height width"] | None = None,
    mask: Bool[Tensor, "count channel height width"] | None = None,
    method: Method = "cached",
    batch_size: int | None = None,
) -> UInt8[Tensor, "count channel height width"]:
    """Images that are a function of tau in [0, 1], drawn from `generator` where None; on the model's device.

    Inpainting: where `mask` is true the pixel is that of `known`, and sub-pixels after it are conditioned on it (those
    before it cannot be). All methods give the same images up to rounding, and in float64 the same bits: "naive" runs
    a full forward for each sub-pixel, "jacobi" on all of them until none changes (Song et al. 2021), "row" does so row
    by row, with the vertical stack computed once, and "cached" computes everything once. A snail trunk, where a row
    reads all rows before it, has no "row". A VAE has a tau for each
    value of its code; with neither labels nor an order of pixels, it takes nothing else.

    Images are filled `batch_size` at a time, as many as there is memory for where None, and fewer once it runs out.

    Raises ValueError where an argument does not fit the model or the count.
    """
    if isinstance(model, Coded):
        for name, value in {"label": label, "known": known, "mask": mask}.items():
            if value is not None:
                raise ValueError(f"{name}: seen, but a VAE draws whole images from codes; leave it out")
        if tau is None:
            device = None if generator is None else generator.device
            tau = torch.rand(count, model.latent, generator=generator, device=device)
        if len(tau) != count:
            raise ValueError(
                f"tau: saw shape {tuple(tau.shape)}, expected ({count}, {model.latent}), one for each code"
            )
        drawn: Tensor = model.sample(tau)
        return drawn
    shape = (count, *model.network.image_shape)
    _check(model, shape, tau, label, known, mask, method, batch_size)
    weight = model.network.head.weight
    if tau is None:
        tau = torch.rand(shape, generator=generator, device=None if generator is None else generator.device)
    # Left as zeros where unknown: which pixels are known is told by the mask alone, black is a colour like any other.
    images = torch.zeros(shape, dtype=torch.uint8, device=weight.device)
    if known is not None and mask is not None:
        images = torch.where(mask.to(weight.device), known.to(weight.device), images)
    else:
        mask = torch.zeros(shape, dtype=torch.bool)
    batch_size = batch_size or _default_batch_size(model.network, method, count)
    snail = model.network.trunk == "snail"
    samplers: dict[Method, Sampler] = {
        "cached": SnailSampler if snail else CachedSampler,
        "row": RowSampler,
        "jacobi": JacobiSampler,
        "naive": NaiveSampler,
    }
    fill = samplers[method](model).fill
    start = 0
    while start < count:
        part = slice(start, start + batch_size)
        if _fits(
            fill,
            images[part],
            tau[part].to(weight),
            None if label is None else label[part].to(weight.device),
            mask[part].to(weight.device),
        ):
            start += batch_size
        else:
            batch_size = -(-min(batch_size, count - start) // 2)
            log.warning("memory is short: going on with %d images at once", batch_size)
    return images


def _fits(fill: Callable[..., None], images: Tensor, *given: Tensor | None) -> bool:
    """Fill the images, or say that there is no memory for as many; raises the error where there is none for one."""
    try:
        fill(images, *given)
    except Exception as error:
        if len(images) == 1 or not out_of_memory(error):
            raise
    else:
        return True
    if images.is_cuda:  # what the attempt took; its tensors are gone with the error
        torch.cuda.empty_cache()
    return False


class NaiveSampler:
    """One full forward for each sub-pixel: slow, and right by construction."""

    def __init__(self, model: Ordered) -> None:
        self.model = model

    @torch.inference_mode()
    def fill(self, images: Tensor, tau: Tensor, label: Tensor | None, mask: Tensor) -> None:
        """Write every sub-pixel of images (batch, channel, height, width) that is not masked as known."""
        channels, height, width = images.shape[1:]
        for row, column, colour in _raster(height, width, channels):
            here = (..., slice(row, row + 1), slice(column, column + 1))
            own = slice(colour, colour + 1)
            x = to_unit(images, tau.dtype)
            output = self.model.outputs(x, tau, label)
            level = self.model.icdf(output[here][:, own], tau[here][:, own])
            images[here][:, own] = torch.where(mask[here][:, own], images[here][:, own], level)


class JacobiSampler:
    """Full forwards until nothing changes: sub-pixel i is right after at most i + 1 of them, all at once if lucky."""

    def __init__(self, model: Ordered) -> None:
        self.model, self.iterations = model, 0  # of the last chunk

    @torch.inference_mode()
    def fill(self, images: Tensor, tau: Tensor, label: Tensor | None, mask: Tensor) -> None:
        """Write every sub-pixel of images (batch, channel, height, width) that is not masked as known."""
        for self.iterations in range(1, images[0].numel() + 2):
            x = to_unit(images, tau.dtype)
            output = self.model.outputs(x, tau, label)
            if not update(images, self.model.icdf(output, tau), mask):
                return


def _raster(height: int, width: int, channels: int) -> Iterator[tuple[int, int, int]]:
    for row in range(height):
        for column in range(width):
            for colour in range(channels):
                yield row, column, colour


def _default_batch_size(network: Any, method: Method, count: int) -> int:
    """As many images as keep caches (or for naive activations) within MEMORY_BYTES and half of what is free.

    Constant while memory is not short: float32 results differ by rounding between batch sizes.
    """
    _, height, width = network.image_shape
    device = network.head.weight.device
    rows = network.kernel // 2 + 4 if method in ("cached", "row") else 8 * height  # planes kept, in rows of the image
    if network.trunk == "snail":
        rows += height  # keys and values of all pixels
    each = len(network.blocks) * network.planes * rows * width * network.trunk_dtype().itemsize
    size = min(count, max(1, MEMORY_BYTES.get(device.type, 2**30) // each))
    free = free_bytes(device)
    while free is not None and size > 1 and size * each > free / 2:
        size = -(-size // 2)
    return size


def _check(
    model: Ordered,
    shape: tuple[int, ...],
    tau: Tensor | None,
    label: Tensor | None,
    known: Tensor | None,
    mask: Tensor | None,
    method: str,
    batch_size: int | None,
) -> None:
    count, network = shape[0], model.network
    classes, snail = network.num_classes, network.trunk == "snail"
    if count < 1:
        raise ValueError(f"count: saw {count}, expected at least 1")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size: saw {batch_size}, expected at least 1, or None for one that fits the memory")
    valid = [name for name in get_args(Method) if not (snail and name == "row")]
    if method not in valid:
        which = f" for a {network.trunk} trunk" if snail else ""
        raise ValueError(f"method: saw {method!r}; valid{which}: {', '.join(valid)}")
    if (known is None) != (mask is None):
        raise ValueError("known and mask: saw only one of the two; inpainting needs both")
    expected = {"tau": (tau, "floating"), "known": (known, torch.uint8), "mask": (mask, torch.bool)}
    for name, (value, dtype) in expected.items():
        if value is None:
            continue
        fits = value.is_floating_point() if dtype == "floating" else value.dtype == dtype
        if value.shape != shape or not fits:
            raise ValueError(
                f"{name}: saw shape {tuple(value.shape)} of {value.dtype}, expected {shape} of"
                f" {'a floating type' if dtype == 'floating' else dtype}"
            )
    if tau is not None and not bool(((tau >= 0) & (tau <= 1)).all()):
        raise ValueError(f"tau: saw values from {tau.min():g} to {tau.max():g}, expected all in [0, 1]")
    if (label is None) != (classes == 0):
        raise ValueError(
            f"label: missing; give {count} labels in 0..{classes - 1}"
            if label is None
            else "label: seen, but this model is not conditional; leave it out"
        )
    if label is not None and (
        label.shape != (count,) or label.dtype != torch.long or not bool(((label >= 0) & (label < classes)).all())
    ):
        raise ValueError(
            f"label: saw shape {tuple(label.shape)} of {label.dtype}, expected ({count},) of torch.int64,"
            f" values in 0..{classes - 1}"
        )
