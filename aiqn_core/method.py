"""What a method has to be, ours and anybody's: a class that satisfies `Method`, without a base class or a registry.

What only some methods can do are protocols of their own; who needs them asks for them, never for a name or a class.
This file needs no torch.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel

from aiqn_core.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor

DataKind = Literal["images", "vectors"]


class Method(Protocol):
    """A generative model with its loss, as a `torch.nn.Module`.

    Beside the methods below, its class has `Settings`, a pydantic class of what may be set; `metrics`, a tuple of
    `Metric` with what `measure` returns; and where it likes
    - `loss_unit`: what one unit of its loss is, in words; without it no two arms are compared by the loss,
    - `data`: "images" or "vectors", where it can do only one,
    - `Loss`: a pydantic class of the section `loss:`, given to the constructor as `loss=`,
    - `one_worker`: why several workers cannot share a step (as it normalises over the batch),
    - `sample_batch`: how many samples are drawn in one call, 256 unless said; None: all at once.

    A key `conditional` in its settings says whether it is told the class of each image.
    """

    def __init__(self, settings: Any, shape: tuple[int, ...], num_classes: int) -> None:
        """Fresh weights, from torch's global generator. Shape (C, H, W) of images or (D,) of vectors; 0: no labels."""

    def noise(self) -> tuple[int, ...]:
        """The shape of the uniform numbers in [0, 1) that one example, or one sample, needs."""

    def loss(self, x: "Tensor", noise: "Tensor", label: "Tensor | None") -> "Tensor":
        """The mean loss, a scalar, of uint8 images (B, C, H, W) or float vectors (B, D), at noise (B, *noise())."""

    def sample(self, noise: "Tensor", label: "Tensor | None" = None) -> "Tensor":
        """uint8 images or float vectors, a function of the noise (B, *noise()) and nothing else."""


@runtime_checkable
class Measures(Protocol):
    """A method with numbers of its own at every evaluation."""

    def measure(self, data: Any, settings: Any) -> dict[str, float]:
        """The values of `metrics` (and details of them) on `data.test`; `settings` are those of the evaluation."""


@runtime_checkable
class Pictures(Protocol):
    """A method of images with further pictures that are scored as samples are, such as reconstructions."""

    def pictures(self, data: Any, settings: Any, noise: "Tensor") -> "dict[str, Tensor]":
        """uint8 images by the word that begins the name of their distance; `noise` is that of the samples."""


@runtime_checkable
class Ordered(Protocol):
    """A method that fills sub-pixels one after the other: x_i = icdf(x_<i, tau_i). It can complete images."""

    network: Any
    output_shape: Any  # of what the network says of one sub-pixel

    def outputs(self, x: "Tensor", tau: "Tensor", label: "Tensor | None" = None) -> "Tensor":
        """What the network says of all sub-pixels at once, for x and tau in [0, 1]."""

    def icdf(self, output: "Tensor", tau: "Tensor") -> "Tensor":
        """The levels at tau of what `outputs` gave."""


class Quantiles(Ordered, Protocol):
    """An ordered method whose outputs are quantiles at tau: it can be calibrated, and has an implied density."""

    def __call__(self, x: "Tensor", tau: "Tensor", label: "Tensor | None" = None) -> "Tensor":
        """Q(tau_i | x_<i) of each sub-pixel."""


@runtime_checkable
class Coded(Protocol):
    """A method that draws whole examples from codes: nothing of one can be given beforehand."""

    latent: int

    def sample(self, noise: "Tensor", label: "Tensor | None" = None) -> "Tensor":
        """Samples at noise, as of every method."""


Metrics = Callable[[BaseModel, BaseModel | None, Metric], tuple[Metric, ...]]


@dataclass(frozen=True)
class Kind:
    """What is known of a method before its class is needed: enough to check a sweep file and to name its numbers."""

    name: str
    settings: type[BaseModel]
    load: Callable[[], Any]  # its class
    metrics: Metrics  # of its settings, those of its loss, and the distance that samples are scored by
    loss: type[BaseModel] | None = None  # the settings of the section `loss`
    data: DataKind | None = None  # None: both
    one_worker: str = ""
    distribution: str = ""  # the installed package that an entry point comes from


def lazily(module: str, name: str) -> Callable[[], Any]:
    """The class of that name, imported when it is asked for."""
    return lambda: getattr(importlib.import_module(module), name)
