"""The Inception network of the published FID, inception score and KID: TensorFlow's of 2015, its weights a .pth file.

It is not torchvision's: average pools count no padding, the last block pools by maximum, there are 1008 classes, and
images are enlarged as TensorFlow 1 did. Layers are named as in both published .pth files, which are one file.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional

from aiqn_core.features import Features, check_images, folded
from aiqn_core.weights import find_inception

SIZE = 299
DIMENSION, CLASSES = 2048, 1008

# (in, out, kernel, padding) of convolutions with stride 1, and (in, out, kernel, 0, 2) with stride 2
Layer = tuple[Any, ...]
Step = str | tuple[str, ...] | Callable[[Tensor], Tensor]  # a layer, layers side by side, or a pool


def average_pool(x: Float32[Tensor, "image plane height width"]) -> Float32[Tensor, "image plane height width"]:
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def maximum_pool(x: Float32[Tensor, "image plane height width"]) -> Float32[Tensor, "image plane height width"]:
    return functional.max_pool2d(x, 3, stride=1, padding=1)


def halving_pool(x: Float32[Tensor, "image plane height width"]) -> Float32[Tensor, "image plane h2 w2"]:
    return functional.max_pool2d(x, 3, stride=2)


class Convolution(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self, planes: int, out: int, kernel: int | tuple[int, int], padding: int | tuple[int, int], stride: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(planes, out, kernel, stride, padding, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Float32[Tensor, "image plane height width"]) -> Float32[Tensor, "image out h w"]:
        return functional.relu(self.bn(self.conv(x)), inplace=True)

    def fold(self) -> None:
        """Put the batch norm into the convolution."""
        assert isinstance(self.bn, nn.BatchNorm2d)
        weight, bias = folded(self.conv, self.bn)
        self.conv.weight = nn.Parameter(weight, requires_grad=False)
        self.conv.bias = nn.Parameter(bias, requires_grad=False)
        self.bn = nn.Identity()


class Mixed(nn.Module):
    """Several paths from one input, their outputs side by side."""

    def __init__(self, layers: dict[str, Layer], paths: tuple[tuple[Step, ...], ...]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, Convolution(*layer))
        self.paths = paths

    def forward(self, x: Float32[Tensor, "image plane height width"]) -> Float32[Tensor, "image out h w"]:
        return torch.cat([self._along(path, x) for path in self.paths], 1)

    def _along(self, path: tuple[Step, ...], x: Tensor) -> Tensor:
        for step in path:
            if isinstance(step, str):
                x = self.get_submodule(step)(x)
            elif isinstance(step, tuple):
                x = torch.cat([self.get_submodule(name)(x) for name in step], 1)
            else:
                x = step(x)
        return x


WIDE, TALL = (1, 7), (7, 1)  # and their paddings
ROW, COLUMN = (0, 3), (3, 0)


def mixed_5(planes: int, pooled: int) -> Mixed:
    """Mixed_5b to 5d, 35 x 35: 64 + 64 + 96 + `pooled` planes."""
    layers: dict[str, Layer] = {
        "branch1x1": (planes, 64, 1, 0),
        "branch5x5_1": (planes, 48, 1, 0),
        "branch5x5_2": (48, 64, 5, 2),
        "branch3x3dbl_1": (planes, 64, 1, 0),
        "branch3x3dbl_2": (64, 96, 3, 1),
        "branch3x3dbl_3": (96, 96, 3, 1),
        "branch_pool": (planes, pooled, 1, 0),
    }
    double = ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
    pool = (average_pool, "branch_pool")
    return Mixed(layers, (("branch1x1",), ("branch5x5_1", "branch5x5_2"), double, pool))


def mixed_6a() -> Mixed:
    """From 35 x 35 to 17 x 17: 384 + 96 + 288 planes."""
    layers: dict[str, Layer] = {
        "branch3x3": (288, 384, 3, 0, 2),
        "branch3x3dbl_1": (288, 64, 1, 0),
        "branch3x3dbl_2": (64, 96, 3, 1),
        "branch3x3dbl_3": (96, 96, 3, 0, 2),
    }
    double = ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
    return Mixed(layers, (("branch3x3",), double, (halving_pool,)))


def mixed_6(inner: int) -> Mixed:
    """Mixed_6b to 6e, 17 x 17: four times 192 planes."""
    layers: dict[str, Layer] = {
        "branch1x1": (768, 192, 1, 0),
        "branch7x7_1": (768, inner, 1, 0),
        "branch7x7_2": (inner, inner, WIDE, ROW),
        "branch7x7_3": (inner, 192, TALL, COLUMN),
        "branch7x7dbl_1": (768, inner, 1, 0),
        "branch7x7dbl_2": (inner, inner, TALL, COLUMN),
        "branch7x7dbl_3": (inner, inner, WIDE, ROW),
        "branch7x7dbl_4": (inner, inner, TALL, COLUMN),
        "branch7x7dbl_5": (inner, 192, WIDE, ROW),
        "branch_pool": (768, 192, 1, 0),
    }
    seven = tuple(f"branch7x7_{i}" for i in (1, 2, 3))
    double = tuple(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5))
    return Mixed(layers, (("branch1x1",), seven, double, (average_pool, "branch_pool")))


def mixed_7a() -> Mixed:
    """From 17 x 17 to 8 x 8: 320 + 192 + 768 planes."""
    layers: dict[str, Layer] = {
        "branch3x3_1": (768, 192, 1, 0),
        "branch3x3_2": (192, 320, 3, 0, 2),
        "branch7x7x3_1": (768, 192, 1, 0),
        "branch7x7x3_2": (192, 192, WIDE, ROW),
        "branch7x7x3_3": (192, 192, TALL, COLUMN),
        "branch7x7x3_4": (192, 192, 3, 0, 2),
    }
    seven = tuple(f"branch7x7x3_{i}" for i in (1, 2, 3, 4))
    return Mixed(layers, (("branch3x3_1", "branch3x3_2"), seven, (halving_pool,)))


def mixed_7(planes: int, pool: Callable[[Tensor], Tensor]) -> Mixed:
    """Mixed_7b and 7c, 8 x 8: 320 + 768 + 768 + 192 planes. They differ in how they pool."""
    layers: dict[str, Layer] = {
        "branch1x1": (planes, 320, 1, 0),
        "branch3x3_1": (planes, 384, 1, 0),
        "branch3x3_2a": (384, 384, (1, 3), (0, 1)),
        "branch3x3_2b": (384, 384, (3, 1), (1, 0)),
        "branch3x3dbl_1": (planes, 448, 1, 0),
        "branch3x3dbl_2": (448, 384, 3, 1),
        "branch3x3dbl_3a": (384, 384, (1, 3), (0, 1)),
        "branch3x3dbl_3b": (384, 384, (3, 1), (1, 0)),
        "branch_pool": (planes, 192, 1, 0),
    }
    three = ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b"))
    double = ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b"))
    return Mixed(layers, (("branch1x1",), three, double, (pool, "branch_pool")))


class InceptionOutputs(NamedTuple):
    """pool3, and the logits without bias."""

    pooled: Float32[Tensor, "image 2048"]
    logits: Float32[Tensor, "image 1008"]


class InceptionNetwork(nn.Module):
    """Images of 299 x 299 pixels in [-1, 1) to `InceptionOutputs`."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, 0, 2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3, 0)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, 1)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1, 0)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3, 0)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = mixed_5(192, 32), mixed_5(256, 64), mixed_5(288, 64)
        self.Mixed_6a = mixed_6a()
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (mixed_6(inner) for inner in (128, 160, 160, 192))
        self.Mixed_7a = mixed_7a()
        # 7c pools by maximum: probably a slip in the graph of 2015, and part of the metric ever since
        self.Mixed_7b, self.Mixed_7c = mixed_7(1280, average_pool), mixed_7(2048, maximum_pool)
        self.fc = nn.Linear(DIMENSION, CLASSES)

    def forward(self, x: Float32[Tensor, "image 3 299 299"]) -> InceptionOutputs:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # (B, 64, 147, 147)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(halving_pool(x)))  # (B, 192, 71, 71)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(halving_pool(x))))  # (B, 288, 35, 35)
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))  # (B, 768, 17, 17)
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # (B, 2048, 8, 8)
        pooled = x.mean((2, 3))
        return InceptionOutputs(pooled, pooled @ self.fc.weight.T)  # the bias is not part of the published scores


class Inception:
    """The extractor of FID, IS and KID; `path` is that of the weights, else that in $AIQN_INCEPTION.

    `device` is the GPU where there is one, unless given. Raises ConfigError where the weights are missing or others.
    """

    name = "inception"

    def __init__(self, path: Path | str | None = None, device: torch.device | str | None = None) -> None:
        self.weights = find_inception(path)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._network = inception_network(self.weights.path, self.device)

    def __call__(self, images: UInt8[Tensor, "image channel height width"], batch_size: int | None = None) -> Features:
        """Features of shape (N, 2048) and (N, 1008); raises ValueError for anything but uint8 images, grey or RGB."""
        check_images(images)
        size = batch_size or (8 if self.device.type == "cpu" else 128)
        batches = [self._batch(images[begin : begin + size]) for begin in range(0, len(images), size)]
        return Features(*(torch.cat(parts) for parts in zip(*batches, strict=True)))

    def describe(self) -> dict[str, Any]:
        """All that decides the features, as plain JSON values."""
        return {
            "extractor": "inception-2015-12-05",
            "weights_sha256": self.weights.sha256,
            "size": SIZE,
            "resize": "bilinear as in TensorFlow 1: corners, not centres, of pixels meet; not antialiased",
            "normalisation": "(x - 128) / 128",
            "features": "pool3, 2048",
            "probabilities": "softmax of 1008 logits without bias",
        }

    @torch.inference_mode()
    def _batch(self, images: UInt8[Tensor, "image channel height width"]) -> Features:
        # TF32 keeps 10 bits and benchmark mode picks another algorithm each run: both would move the metric
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            outputs = self._network(inception_input(images.to(self.device)))
        return Features(outputs.pooled.cpu(), outputs.logits.softmax(1).cpu())


def inception_input(images: UInt8[Tensor, "image channel height width"]) -> Float32[Tensor, "image 3 299 299"]:
    """RGB at the size and in the range the network was trained with, (x - 128) / 128, channels last in memory."""
    x = (resize_like_tensorflow(images.float(), SIZE) - 128) / 128
    return x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def resize_like_tensorflow(
    x: Float[Tensor, "image channel height width"], size: int
) -> Float[Tensor, "image channel size size"]:
    """Bilinear interpolation as TensorFlow 1 did it: output i lies at input i * in / out, whatever the factor."""
    for axis in (3, 2):
        place = torch.arange(size, dtype=torch.float32) * np.float32(x.shape[axis] / size).item()
        lower = place.long()
        upper = (lower + 1).clamp(max=x.shape[axis] - 1)
        share = (place - lower).to(x).reshape([-1 if i == axis else 1 for i in range(4)])
        first = x.index_select(axis, lower.to(x.device))
        x = first + (x.index_select(axis, upper.to(x.device)) - first) * share
    return x


@functools.lru_cache(maxsize=2)
@torch.random.fork_rng(devices=[])  # building draws initial weights: numbers that a resumed training would miss
def inception_network(path: Path, device: torch.device) -> InceptionNetwork:
    """The network of a file of weights in evaluation mode, each batch norm folded into its convolution."""
    network = InceptionNetwork()
    load_inception(network, torch.load(path, map_location="cpu", weights_only=True))
    network.eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, Convolution):
            module.fold()
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def load_inception(network: InceptionNetwork, state: dict[str, Tensor]) -> None:
    """Load the published state dictionary, strictly; how many batches a norm has seen decides nothing."""
    counters = {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}
    network.load_state_dict({**counters, **state})
