"""One evaluation: samples of the averaged model, scored against real data under one protocol for every method."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from aiqn_core.code import own_instance
from aiqn_core.config import TrainConfig
from aiqn_core.data import COLUMNS, GRID, ImageData, VectorData
from aiqn_core.distances import energy_distance, mean_distance, wasserstein1
from aiqn_core.extractors import score_names
from aiqn_core.method import Measures, Pictures
from aiqn_core.parallel import ALONE, Workers
from aiqn_core.reference import cached_reference
from aiqn_core.scores import evaluate_images, frechet_to_reference
from aiqn_core.scoring import class_counts, draws, feature_extractor, proportional_labels, reference_images
from aiqn_core.training.checkpoint import Samples

CLASS_ROWS = 10  # classes in a picture of a conditional model
SAMPLE_BATCH = 256  # of a method that does not say how many it draws at once

Data = ImageData | VectorData


class DivergedError(ArithmeticError):
    """The loss or a metric is no longer a finite number: the configuration's own fault, and a result."""


class MethodError(ValueError):
    """A method that does not keep to `aiqn_core.method.Method`: what it gave, and what was expected."""


def evaluate(model: Any, config: TrainConfig, data: Data, workers: Workers = ALONE) -> tuple[dict[str, float], Samples]:
    """Scores of samples of the (averaged) model, and samples to show; the same noise and labels for every model.

    Of several workers each draws a part of the samples; the leader scores them, the others have no scores.

    Raises DivergedError where a score is not finite, MethodError for samples that are none of such data.
    """
    settings, device = config.evaluate, next(model.parameters()).device
    noise, label = evaluation_draws(config, data, model)
    rows = workers.rows(settings.samples)
    noise, label = noise[rows].to(device), None if label is None else label[rows].to(device)
    samples = workers.gather(draw(model, noise, label, data.shape), settings.samples).cpu()
    if not workers.leads:
        return {}, samples[:GRID]
    own: dict[str, float] = {}
    if isinstance(model, Pictures) and isinstance(data, ImageData):
        own |= _picture_scores(model.pictures(data, settings, noise), config, data)
    if isinstance(model, Measures):
        own |= {name: float(value) for name, value in model.measure(data, settings).items()}
    scores = score(samples, config, data, own)
    if label is None or not isinstance(data, ImageData):
        return scores, samples_to_show(samples)
    return scores, images_by_class(model, config, data)


def score(
    samples: Samples, config: TrainConfig, data: Data, own: Mapping[str, float] = MappingProxyType({})
) -> dict[str, float]:
    """Scores of samples, whoever has drawn them, with what a method has measured of itself among them.

    Raises DivergedError where one is not finite.
    """
    if isinstance(data, VectorData):
        if not bool(samples.isfinite().all()):
            raise DivergedError(f"{int((~samples.isfinite()).sum())} values of the sampled vectors are not finite")
        scores = vector_scores(samples, config, data)
    else:
        scores = _image_scores(samples, config, data)
    scores |= own
    for name, metric in zip(config.evaluate.also, config.also, strict=True):
        scores[metric.name] = float(own_instance(name, config.code)(samples, data.test))
    for name, value in scores.items():
        if not math.isfinite(value):
            raise DivergedError(f"{name} of the samples is {value}")
    return scores


def samples_to_show(samples: Samples) -> Samples:
    """Those in the picture of an evaluation: all vectors, the first images."""
    return samples if samples.is_floating_point() else samples[:GRID]


def draw(model: Any, noise: Tensor, label: Tensor | None, shape: tuple[int, ...]) -> Samples:
    """Samples at noise, as many at once as the method says; raises MethodError where they are none of such data."""
    size = getattr(model, "sample_batch", SAMPLE_BATCH) or len(noise)
    parts: list[Tensor] = []
    with torch.no_grad():
        for begin in range(0, len(noise), size):
            part = slice(begin, begin + size)
            given = noise[part], None if label is None else label[part]
            parts.append(model.sample(*given))
            _check_samples(model, parts[-1], (len(given[0]), *shape))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _check_samples(model: Any, samples: Any, shape: tuple[int, ...]) -> None:
    expected = f"{tuple(shape)} of {'torch.uint8' if len(shape) == 4 else 'torch.float32'}"
    name = f"{type(model).__name__}.sample"
    if not isinstance(samples, Tensor):
        raise MethodError(f"{name}: gave a {type(samples).__name__}, expected a tensor of shape {expected}")
    fits = samples.dtype == torch.uint8 if len(shape) == 4 else samples.is_floating_point()
    if tuple(samples.shape) != tuple(shape) or not fits:
        raise MethodError(f"{name}: gave shape {tuple(samples.shape)} of {samples.dtype}, expected {expected}")


def _image_scores(images: Tensor, config: TrainConfig, data: ImageData) -> dict[str, float]:
    settings = config.evaluate
    assert settings.splits is not None  # completed by TrainConfig
    assert settings.extrapolate is not None
    extractor = feature_extractor(settings, config.code)
    reference = cached_reference(reference_images(settings, data), extractor)
    scores = evaluate_images(images, reference, extractor, settings.splits, settings.extrapolate)
    scores["samples"] = settings.samples
    return scores


def _picture_scores(pictures: Mapping[str, Tensor], config: TrainConfig, data: ImageData) -> dict[str, float]:
    """The distances of a method's further pictures, under the words that they come with."""
    extractor = feature_extractor(config.evaluate, config.code)
    reference = cached_reference(reference_images(config.evaluate, data), extractor)
    distance = score_names(extractor.name).distance
    return {
        f"{word}_{distance}": frechet_to_reference(extractor(own).pooled, reference) for word, own in pictures.items()
    }


def images_by_class(model: Any, config: TrainConfig, data: ImageData) -> Samples:
    """Samples to show of a conditional model: a row for each of the first classes, at noise of their own."""
    label = torch.arange(min(data.num_classes, CLASS_ROWS)).repeat_interleave(COLUMNS)
    generator = torch.Generator().manual_seed(config.evaluate.seed)
    noise = torch.rand((len(label), *model.noise()), generator=generator)
    device = next(model.parameters()).device
    return draw(model, noise.to(device), label.to(device), data.shape).cpu()


def vector_scores(vectors: Float32[Tensor, "vector dim"], config: TrainConfig, data: VectorData) -> dict[str, float]:
    """The distances of vectors from the held-out ones."""
    test = data.test[: config.evaluate.reference]
    return {
        "energy_distance": energy_distance(vectors.float(), test, _mean_distance(data, len(test))),
        "wasserstein1_mean": float(wasserstein1(vectors.float(), test).mean()),
        "samples": len(vectors),
    }


_distances: dict[tuple[str, int], float] = {}


def _mean_distance(data: VectorData, count: int) -> float:
    """Of the first test vectors among themselves, which takes as long as all the rest of an evaluation."""
    key = (data.checksum, count)
    if key not in _distances:
        _distances[key] = mean_distance(data.test[:count])
    return _distances[key]


def evaluation_draws(
    config: TrainConfig, data: Data, model: Any
) -> tuple[Float[Tensor, "example *shape"], Int64[Tensor, " example"] | None]:
    """The noise, and the labels of a conditional model, drawn on the CPU: equal on all machines.

    The labels have the proportions of the training images, whatever the trial: see `proportional_labels`.
    """
    settings = config.evaluate
    noise = draws(settings, model.noise())
    if not (config.model.conditional and isinstance(data, ImageData) and data.num_classes):
        return noise, None
    return noise, proportional_labels(class_counts(data), settings.samples, settings.seed)


def protocol(config: TrainConfig, data: Data) -> dict[str, Any]:
    """All that decides the scores besides the model and its steps, as plain JSON: recorded with every training."""
    settings = config.evaluate
    common = {
        "samples": settings.samples,
        "data": f"{data.name} {data.checksum}",
        "model_weights": "averaged" if config.train.ema_decay > 0 else "last",
        "seed": settings.seed,
    }
    if config.command is not None:
        del common["model_weights"]
        common["drawn_by"] = "its command"
    if isinstance(data, VectorData):
        reference = {"reference": min(settings.reference, len(data.test)), "reference_set": "held out"}
        return common | reference | ({} if data.true_nll is None else {"true_nll": round(data.true_nll, 6)})
    reference = {"reference": min(settings.reference, len(data.train)), "reference_set": "training"}
    # Runs of older versions have no word on labels: they were uniform.
    labels = {"labels": "training proportions"} if config.model.conditional else {}
    return (
        feature_extractor(settings, config.code).describe() | {"splits": settings.splits} | common | reference | labels
    )
