"""What scores need besides a model: the extractor, which real images, the draws of samples and of labels."""

import functools
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from aiqn_core.code import Code, own_instance
from aiqn_core.config import EvaluateConfig
from aiqn_core.data import ImageData
from aiqn_core.extractors import EXTRACTORS
from aiqn_core.features import Extractor


def feature_extractor(settings: EvaluateConfig, code: Code | None = None) -> Extractor:
    """The feature extractor of an evaluation of images; one process keeps it between trainings."""
    assert settings.features is not None  # completed by TrainConfig for images
    return _extractor(settings.features, settings.size, settings.inception, code)


@functools.lru_cache(maxsize=4)
def _extractor(features: str, size: int | None, inception: str | None, code: Code | None) -> Any:
    known = EXTRACTORS.get(features)
    return own_instance(features, code) if known is None else known.load(size or known.side, inception)


def draws(settings: EvaluateConfig, shape: tuple[int, ...]) -> Float[Tensor, "sample *shape"]:
    """The noise of the samples of an evaluation, drawn on the CPU: equal on all machines, and for all trials."""
    generator = torch.Generator().manual_seed(settings.seed)
    return torch.rand((settings.samples, *shape), generator=generator)


def class_counts(data: ImageData) -> Int64[Tensor, " class"]:
    """How many training images each class has."""
    return torch.bincount(data.train_labels, minlength=data.num_classes)


def proportional_labels(counts: Int64[Tensor, " class"], samples: int, seed: int) -> Int64[Tensor, " sample"]:
    """Labels in the proportions of `counts`, each class as often as its share of `samples` rounded up or down.

    They are in a random order that the seed alone decides.
    """
    # Stratified, not independent: chance in the labels would move all distances, and 90:10 could become 85:15. One
    # draw places an even grid on the cumulative shares, so that classes with a share below 1 are drawn fairly too.
    random = np.random.RandomState(seed % 2**32)  # NumPy keeps the stream of this legacy generator frozen
    grid = (torch.arange(samples, dtype=torch.float64) + random.random_sample()) / samples
    cumulative = counts.cumsum(0)
    label = torch.searchsorted(cumulative.double(), grid * int(cumulative[-1]), right=True)
    return label[torch.from_numpy(random.permutation(samples))]


def reference_images(settings: EvaluateConfig, data: ImageData) -> UInt8[Tensor, "image channel height width"]:
    """The training images that samples are compared with (paper appendix: 10,000 training data points)."""
    return data.train[reference_rows(settings, data)]


def reference_rows(settings: EvaluateConfig, data: ImageData) -> Int64[Tensor, " row"]:
    """Which of the training images these are, in increasing order."""
    generator = torch.Generator().manual_seed(settings.seed)
    return torch.randperm(len(data.train), generator=generator)[: settings.reference].sort().values
