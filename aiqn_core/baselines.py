"""What trivial generators score: the scale on which the scores of trained models are read.

Each is scored as trained models are: same reference, number of samples, extractor, splits. Held-out real images are
the floor: nothing that is not a copy of the reference does better than chance allows. Kept on disk like the reference.
"""

import hashlib
import json
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import Tensor

from aiqn_core.cache import locked, write_whole
from aiqn_core.config import TrainConfig
from aiqn_core.data import ImageData, VectorData
from aiqn_core.reference import cached_reference, reference_path
from aiqn_core.scores import evaluate_images
from aiqn_core.scoring import class_counts, feature_extractor, proportional_labels, reference_rows
from aiqn_core.training import vector_scores

FORMAT = 1  # part of the key of cached scores: raise it when a generator changes
SEED = 0
REPEATED = 10  # examples that "repeated" knows
FITTED = 1000  # images of each class that a Gaussian is fitted to, at most
KNOWN = 10_000  # training images that the other generators know, at most: the first, which are a fair sample
LEVELS = 256

Generator = Callable[[ImageData, int, np.random.RandomState], UInt8[Tensor, "image channel height width"]]
Scores = dict[str, dict[str, float]]


def baseline_scores(config: TrainConfig, data: ImageData | VectorData, cache_dir: Path | None = None) -> Scores:
    """Generator -> metric -> value, under the protocol of `config`; generators that know nothing of a metric lack it.

    Raises CacheError where the cache of the references cannot be written.
    """
    if isinstance(data, VectorData):
        return _of_vectors(config, data)
    settings, extractor = config.evaluate, feature_extractor(config.evaluate, config.code)
    real = data.train[reference_rows(settings, data)]
    key = [FORMAT, data.checksum, settings.samples, settings.splits, settings.extrapolate, settings.seed]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    near = reference_path(real, extractor, cache_dir)
    path = near.with_name(f"{near.stem.replace('reference', 'baselines', 1)}-{digest}.json")
    with locked(path.with_suffix(".lock")):
        with suppress(OSError, ValueError):
            found: Scores = json.loads(path.read_text(encoding="utf-8"))
            return found
        reference = cached_reference(real, extractor, cache_dir)
        assert settings.splits is not None  # completed by TrainConfig, as is the other
        assert settings.extrapolate is not None
        scores: Scores = {}
        for name, images in trivial_images(config, data).items():
            scores[name] = evaluate_images(images, reference, extractor, settings.splits, settings.extrapolate)
            scores[name]["samples"] = len(images)
        for name, bits in table_bits(data.train[:KNOWN], data.test[: settings.samples]).items():
            scores.setdefault(name, {})["bits_per_dim"] = bits
        write_whole(path, json.dumps(scores).encode())
    return scores


def trivial_images(config: TrainConfig, data: ImageData) -> dict[str, UInt8[Tensor, "image channel height width"]]:
    """The samples of each generator, `evaluate.samples` of them; real images are fewer where there are no more."""
    count = config.evaluate.samples
    made = {name: make(data, count, np.random.RandomState(SEED)) for name, make in GENERATORS.items()}
    return {"real": unseen_images(config, data)} | made


def unseen_images(config: TrainConfig, data: ImageData) -> UInt8[Tensor, "image channel height width"]:
    """Held-out images, then training images that the reference does not hold: `evaluate.samples`, or all there are."""
    other = torch.ones(len(data.train), dtype=torch.bool)
    other[reference_rows(config.evaluate, data)] = False
    count = config.evaluate.samples
    rest = other.nonzero().flatten()[: max(0, count - len(data.test))]
    return torch.cat([data.test[:count], data.train[rest]])


def _gaussians(data: ImageData, count: int, random: np.random.RandomState) -> Tensor:
    """One Gaussian per class in pixel space, with the mean and the covariance of the class's training images.

    With deviations d_i from the mean of n images, sum_i z_i d_i / sqrt(n - 1) has their covariance where the z_i are
    independent standard normals: no matrix of pixels by pixels is needed.
    """
    labels = proportional_labels(class_counts(data), count, SEED)
    images = torch.empty((count, *data.shape), dtype=torch.uint8)
    for label in sorted(set(labels.tolist())):
        wanted = (labels == label).nonzero().flatten()
        rows = (data.train_labels == label).nonzero().flatten()[:FITTED]
        known = data.train[rows].double().flatten(1)
        z = torch.from_numpy(random.standard_normal((len(wanted), len(known))))
        drawn = known.mean(0) + z @ (known - known.mean(0)) / math.sqrt(max(len(known) - 1, 1))
        images[wanted] = drawn.round().clamp(0, 255).byte().view(-1, *data.shape)
    return images


def _histograms(data: ImageData, count: int, random: np.random.RandomState) -> Tensor:
    """Every sub-pixel drawn by itself from the values that it has in the training images."""
    pixels = data.train[:KNOWN].flatten(1)
    rows = torch.from_numpy(random.randint(len(pixels), size=(count, pixels.shape[1])))
    return pixels.gather(0, rows).view(-1, *data.shape)


def _shifted(data: ImageData, count: int, random: np.random.RandomState) -> Tensor:
    """Training images moved by one pixel in one of eight directions, the edge repeated: memory with jitter."""
    height, width = data.shape[1:]
    moves = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right]
    rows, chosen = random.randint(min(KNOWN, len(data.train)), size=count), random.randint(len(moves), size=count)
    images = []
    for row, move in zip(rows, chosen, strict=True):
        down, right = moves[move]
        vertical = (torch.arange(height) - down).clamp(0, height - 1)
        horizontal = (torch.arange(width) - right).clamp(0, width - 1)
        images.append(data.train[int(row)][:, vertical][:, :, horizontal])
    return torch.stack(images)


def _repeated(data: ImageData, count: int, random: np.random.RandomState) -> Tensor:
    """Ten training images again and again: perfect, and all alike."""
    return data.train[torch.arange(count) % min(REPEATED, len(data.train))]


GENERATORS: dict[str, Generator] = {
    "gaussian": _gaussians,
    "histograms": _histograms,
    "shifted": _shifted,
    "repeated": _repeated,
}


# Bits per dimension


def table_bits(
    train: UInt8[Tensor, "train channel height width"], test: UInt8[Tensor, "test channel height width"]
) -> dict[str, float]:
    """Bits per sub-pixel of tables of counts: each pixel's own histogram, and the values after a left or upper one.

    A table gives p(x | c) = (n(c, x) + p(x)) / (n(c) + 1), with p(x) of all pixels of the channel, of which every value
    was seen once more than it was. Pixels without that neighbour are coded with p(x).
    """
    train, test = train.long(), test.long()
    plain = torch.stack([torch.bincount(channel.flatten(), minlength=LEVELS) for channel in train.unbind(1)]).double()
    plain = (plain + 1) / (plain + 1).sum(1, keepdim=True)
    bits = {"histograms": _histogram_bits(train, test, plain)}
    for name, dim in (("left", 3), ("upper", 2)):
        size = train.shape[dim]
        before, after = (images.narrow(dim, 0, size - 1) for images in (train, test))
        counts = torch.stack(
            [
                torch.bincount((old * LEVELS + new).flatten(), minlength=LEVELS**2).view(LEVELS, LEVELS)
                for old, new in zip(before.unbind(1), train.narrow(dim, 1, size - 1).unbind(1), strict=True)
            ]
        ).double()
        table = (counts + plain[:, None]) / (counts.sum(2, keepdim=True) + 1)
        channel = torch.arange(train.shape[1])[:, None, None]
        first = plain[channel, test.narrow(dim, 0, 1)].log2().sum()
        others = table[channel, after, test.narrow(dim, 1, size - 1)].log2().sum()
        bits[name] = -float(first + others) / test.numel()
    return bits


def _histogram_bits(
    train: Int64[Tensor, "train channel height width"],
    test: Int64[Tensor, "test channel height width"],
    plain: Float64[Tensor, "channel level"],
) -> float:
    shape = train.shape[1:]
    place = torch.arange(math.prod(shape))
    counts = torch.bincount((train.flatten(1) + place * LEVELS).flatten(), minlength=len(place) * LEVELS)
    prior = plain.repeat_interleave(shape[1] * shape[2], 0)
    table = (counts.view(-1, LEVELS) + prior) / (len(train) + 1)
    return -float(table[place, test.flatten(1)].log2().mean())


# Vectors


def _of_vectors(config: TrainConfig, data: VectorData) -> Scores:
    """The same for vectors, which takes about a second: nothing is kept."""
    scores = {name: vector_scores(vectors, config, data) for name, vectors in trivial_vectors(config, data).items()}
    scores["gaussian"]["test_nll"] = _gaussian_nll(data.train.double(), data.test.double())
    return scores


def trivial_vectors(config: TrainConfig, data: VectorData) -> dict[str, Float32[Tensor, "vector dim"]]:
    """Training vectors, which are as good as held-out ones; one Gaussian; each dimension by itself; ten repeated."""
    count, random = config.evaluate.samples, np.random.RandomState(SEED)
    known = data.train.double()
    z = torch.from_numpy(random.standard_normal((count, known.shape[1])))
    rows = torch.from_numpy(random.randint(len(known), size=(count, known.shape[1])))
    return {
        "real": data.train[:count],
        "gaussian": (known.mean(0) + z @ torch.linalg.cholesky(torch.cov(known.T)).T).float(),
        "histograms": data.train.gather(0, rows),
        "repeated": data.train[torch.arange(count) % REPEATED],
    }


def _gaussian_nll(train: Float64[Tensor, "train dim"], test: Float64[Tensor, "test dim"]) -> float:
    """Mean nats per dimension of the test set under the Gaussian that was fitted to the training set."""
    factor = torch.linalg.cholesky(torch.cov(train.T))
    z = torch.linalg.solve_triangular(factor, (test - train.mean(0)).T, upper=False)
    volume = factor.diagonal().log().mean() + math.log(2 * math.pi) / 2
    return float(z.square().mean() / 2 + volume)
