"""Samples from anywhere scored by the code that scores trainings: a trial, or images in any form we read.

Only which images there are decides their scores, not their order, names or container: see `in_fixed_order`.
"""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from aiqn_core.archives import ArchiveError, members
from aiqn_core.config import BUNDLED_DATA, DataConfig, EvaluateConfig, TrainConfig
from aiqn_core.data import ImageData, image_checksum, load_data
from aiqn_core.folders import kind, skipped_note
from aiqn_core.metrics import SUBSETS, subset_size
from aiqn_core.own import EXPECTED, PICTURES, form_of, own_images
from aiqn_core.pictures import PrepareError, decode, is_image, stack
from aiqn_core.reference import cached_reference
from aiqn_core.scores import evaluate_images
from aiqn_core.survey import Survey
from aiqn_core.trained import load_trained
from aiqn_core.training import draw, evaluate, evaluation_draws, feature_extractor, protocol, reference_images

Images = UInt8[Tensor, "image channel height width"]


class SamplesError(ValueError):
    """Images that cannot be scored: what was seen, what was expected, what to do."""


class Scored(NamedTuple):
    """Scores, and all that decides them besides the samples."""

    scores: dict[str, float]
    protocol: dict[str, Any]
    notes: tuple[str, ...] = ()  # what was done to the images, or left out


class Read(NamedTuple):
    """The images of a source, and what was done to them or left out, in sentences."""

    images: Images
    notes: list[str]


def is_trial(source: Path) -> bool:
    """Whether a folder is that of a training."""
    return any((source / name).exists() for name in ("checkpoint.pt", "config.json"))


def evaluate_files(source: Path, against: str | None, **settings: Any) -> Scored:
    """Scores of the images of a source, see `read_images`; `settings` are those of an evaluation.

    Raises SamplesError for what holds no such images, ConfigError for settings or data that are wrong.
    """
    if against is None:
        raise SamplesError(f"{source}: saw no trial and no --against; expected the data set or folder to compare with")
    read = read_images(source)
    images = in_fixed_order(read.images)
    least = settings.get("samples", 3)
    if len(images) < least:
        raise SamplesError(f"{source}: saw {_counted(len(images))}, expected at least {least:,}")
    images = images[: settings.get("samples")]
    config = TrainConfig.from_dict({"evaluate": {"splits": min(10, len(images)), **settings, "samples": len(images)}})
    scored = _scored(images, against, config.evaluate)
    return scored._replace(notes=(*(f"{source.name}: {note}" for note in read.notes), *scored.notes))


def evaluate_trial(folder: Path, against: str | None = None, **settings: Any) -> Scored:
    """Scores of new samples of a trial's newest averaged weights, by default exactly as its own evaluations.

    `settings` replace those the trial was evaluated with; `against` its data. Raises CheckpointError where there is no
    such trial, ConfigError for settings or data that are wrong.
    """
    trained = load_trained(folder)
    recorded = {**trained.recorded, "evaluate": dict(trained.recorded["evaluate"])}
    if settings.get("features", recorded["evaluate"]["features"]) != recorded["evaluate"]["features"]:
        recorded["evaluate"] |= {"size": None, "inception": None}  # of the other features
    config = TrainConfig.from_dict({**recorded, "evaluate": {**recorded["evaluate"], **settings}})
    data = load_data(config.data)
    model = trained.model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if against is None:
        return Scored(evaluate(model, config, data)[0], {**protocol(config, data), "step": trained.step})
    if not isinstance(data, ImageData):
        raise SamplesError(f"{folder}: saw a model of vectors, scored with its own data alone; leave out --against")
    tau, label = evaluation_draws(config, data, model)
    device = next(model.parameters()).device
    images = draw(model, tau.to(device), None if label is None else label.to(device), data.shape).cpu()
    scored = _scored(images, against, config.evaluate)
    weights = protocol(config, data)["model_weights"]
    return scored._replace(protocol={**scored.protocol, "model_weights": weights, "step": trained.step})


def _scored(images: Images, against: str, settings: EvaluateConfig) -> Scored:
    assert settings.splits is not None  # completed by TrainConfig
    real, about, notes = _real_images(against, settings)
    extractor = feature_extractor(settings)
    scores = evaluate_images(images, cached_reference(real, extractor), extractor, settings.splits, extrapolate=True)
    subsets = f"{SUBSETS} of {subset_size(len(images)):,} samples and {subset_size(len(real)):,} real images"
    measured = {"splits": settings.splits, "kernel_subsets": subsets, "samples": len(images)}
    return Scored(scores, {**extractor.describe(), **measured, **about}, notes)


def _real_images(against: str, settings: EvaluateConfig) -> tuple[Images, dict[str, Any], tuple[str, ...]]:
    """The images to compare with: the training images of a data set, or all of a source; what they are, and notes."""
    if against not in BUNDLED_DATA and Path(against).exists():
        read = read_images(Path(against))
        images = in_fixed_order(read.images)[: settings.reference]
        if len(images) < 2:
            raise SamplesError(f"{against}: saw {_counted(len(images))}, expected at least 2 real ones")
        origin = f"{Path(against).name} {image_checksum(images)}"
        notes = tuple(f"{Path(against).name}: {note}" for note in read.notes)
        return images, {"data": origin, "reference": len(images), "reference_set": "folder"}, notes
    data = load_data(DataConfig(against))
    if not isinstance(data, ImageData):
        raise SamplesError(f"{against}: saw data of vectors, expected images: a data set or a folder")
    images = reference_images(settings, data)
    about: dict[str, Any] = {
        "data": f"{data.name} {data.checksum}",
        "reference": len(images),
        "reference_set": "training",
    }
    return images, {**about, "seed": settings.seed}, ()


def read_images(source: Path) -> Read:
    """The images of a source in any form `own` knows; raises SamplesError where there are none.

    All are taken, whatever their split; image files may lie in any folders.
    """
    try:
        if form_of(source) == PICTURES:
            return _pictures(source)
        own = own_images(source)
        images = [image for chunk in own.chunks for image in chunk.images]
        return Read(torch.from_numpy(stack(str(source), images)), own.notes)
    except (ArchiveError, PrepareError) as error:
        raise SamplesError(str(error)) from None


def _pictures(source: Path) -> Read:
    files, skipped = [], Counter[str]()
    survey = Survey()
    for member in members(source):
        if is_image(member.base):
            files.append((f"{source}/{member.name}", member.read()))
            survey.add(*files[-1])
        else:
            skipped[kind(member)] += 1
    if not files:
        raise SamplesError(f"{source}: saw no images in it, expected {EXPECTED}")
    images = [decode(*file, channels=survey.channels(None)) for file in files]
    return Read(torch.from_numpy(stack(str(source), images).copy()), [*survey.notes(), *skipped_note(skipped)])


def in_fixed_order(images: Images) -> Images:
    """The images in an order that follows from what they are, whose first N are a fair sample of them.

    Grey images stored as RGB, as a folder gives them, come out with one channel, like those of an array.
    """
    if images.shape[1] == 3 and bool((images == images[:, :1]).all()):
        images = images[:, :1]
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images.numpy()]
    by_content = np.array(sorted(range(len(images)), key=digests.__getitem__), dtype=np.int64)
    # By their digests alone, repeated images would be neighbours: the parts of an inception score would see few each.
    order = by_content[np.random.RandomState(0).permutation(len(images))]
    return images[torch.from_numpy(order)]


def scored_lines(scored: Scored) -> list[str]:
    """The scores with their error bars, and the protocol, as a person reads them."""
    scores, lines = scored.scores, []
    for name, value in scores.items():
        if not name.endswith(("_low", "_high")):
            low, high = (scores.get(f"{name.removesuffix('_mean')}{end}") for end in ("_low", "_high"))
            interval = "" if low is None or high is None else f"   {low:.4g} to {high:.4g}"
            lines.append(f"{name:<{max(map(len, scores))}}  {value:<10.6g}{interval}".rstrip())
    return [*lines, "", *(f"{key}: {value}" for key, value in scored.protocol.items()), *scored.notes]


def _counted(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"
