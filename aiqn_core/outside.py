"""Samples from anywhere scored by the code that scores trainings: a trial, a folder of images, a NumPy file.

Only which images there are decides their scores, not their order, names or container: see `in_fixed_order`.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from aiqn_core.archives import ArchiveError, members
from aiqn_core.arrays import read_arrays
from aiqn_core.config import BUNDLED_DATA, DataConfig, EvaluateConfig, TrainConfig
from aiqn_core.data import ImageData, image_checksum, load_data
from aiqn_core.metrics import SUBSETS, subset_size
from aiqn_core.pictures import decode, facts, stack
from aiqn_core.readers import IMAGE_SUFFIXES
from aiqn_core.reference import cached_reference
from aiqn_core.sampling import sample
from aiqn_core.scores import evaluate_images
from aiqn_core.trained import load_trained
from aiqn_core.training import evaluate, evaluation_draws, feature_extractor, protocol, reference_images
from aiqn_core.vectors import AIQN, MADE

Images = UInt8[Tensor, "image channel height width"]


class SamplesError(ValueError):
    """Images that cannot be scored: what was seen, what was expected, what to do."""


class Scored(NamedTuple):
    """Scores, and all that decides them besides the samples."""

    scores: dict[str, float]
    protocol: dict[str, Any]


def is_trial(source: Path) -> bool:
    """Whether a folder is that of a training."""
    return any((source / name).exists() for name in ("checkpoint.pt", "config.json"))


def evaluate_files(source: Path, against: str | None, **settings: Any) -> Scored:
    """Scores of the images in a folder, an archive or a .npy file; `settings` are those of an evaluation.

    Raises SamplesError for what holds no such images, ConfigError for settings or data that are wrong.
    """
    if against is None:
        raise SamplesError(f"{source}: saw no trial and no --against; expected the data set or folder to compare with")
    images = in_fixed_order(read_images(source))
    least = settings.get("samples", 3)
    if len(images) < least:
        raise SamplesError(f"{source}: saw {_counted(len(images))}, expected at least {least:,}")
    images = images[: settings.get("samples")]
    config = TrainConfig.from_dict({"evaluate": {"splits": min(10, len(images)), **settings, "samples": len(images)}})
    return _scored(images, against, config.evaluate)


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
    if not isinstance(data, ImageData) or isinstance(model, AIQN | MADE):
        raise SamplesError(f"{folder}: saw a model of vectors, scored with its own data alone; leave out --against")
    tau, label = evaluation_draws(config, data)
    device = next(model.parameters()).device
    images = sample(model, len(tau), tau=tau.to(device), label=None if label is None else label.to(device)).cpu()
    scored = _scored(images, against, config.evaluate)
    weights = protocol(config, data)["model_weights"]
    return Scored(scored.scores, {**scored.protocol, "model_weights": weights, "step": trained.step})


def _scored(images: Images, against: str, settings: EvaluateConfig) -> Scored:
    assert settings.splits is not None  # completed by TrainConfig
    real, about = _real_images(against, settings)
    extractor = feature_extractor(settings)
    scores = evaluate_images(images, cached_reference(real, extractor), extractor, settings.splits, extrapolate=True)
    subsets = f"{SUBSETS} of {subset_size(len(images)):,} samples and {subset_size(len(real)):,} real images"
    measured = {"splits": settings.splits, "kernel_subsets": subsets, "samples": len(images)}
    return Scored(scores, {**extractor.describe(), **measured, **about})


def _real_images(against: str, settings: EvaluateConfig) -> tuple[Images, dict[str, Any]]:
    """The images to compare with: the training images of a data set, or all in a folder; and what they are."""
    if against not in BUNDLED_DATA and Path(against).exists():
        images = in_fixed_order(read_images(Path(against)))[: settings.reference]
        if len(images) < 2:
            raise SamplesError(f"{against}: saw {_counted(len(images))}, expected at least 2 real ones")
        origin = f"{Path(against).name} {image_checksum(images)}"
        return images, {"data": origin, "reference": len(images), "reference_set": "folder"}
    data = load_data(DataConfig(against))
    if not isinstance(data, ImageData):
        raise SamplesError(f"{against}: saw data of vectors, expected images: a data set or a folder")
    images = reference_images(settings, data)
    about: dict[str, Any] = {
        "data": f"{data.name} {data.checksum}",
        "reference": len(images),
        "reference_set": "training",
    }
    return images, {**about, "seed": settings.seed}


def read_images(source: Path) -> Images:
    """The images of a folder or an archive (by name), or of a .npy file; raises SamplesError where there are none."""
    if source.suffix == ".npy":
        return torch.from_numpy(_read_array(source))
    if source.suffix == ".npz":
        try:
            return torch.from_numpy(np.concatenate([chunk.images for chunk in read_arrays(source)]))
        except ValueError as error:
            raise SamplesError(str(error)) from None
    try:
        files = [(m.name, m.read()) for m in members(source) if m.base.lower().endswith(IMAGE_SUFFIXES)]
    except ArchiveError as error:
        raise SamplesError(str(error)) from None
    if not files:
        expected = f"files ending in {', '.join(IMAGE_SUFFIXES)}"
        raise SamplesError(f"{source}: saw no images in it, expected {expected}, or a .npy file")
    named = [(f"{source}/{name}", content) for name, content in files]
    channels = 1 if all(facts(*file).grey for file in named) else 3
    images = [decode(*file, channels=channels) for file in named]
    return torch.from_numpy(stack(str(source), images).copy())


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


def _read_array(file: Path) -> np.ndarray:
    """An array of images as (N, C, H, W) uint8; (N, H, W) and (N, H, W, C) are taken too."""
    try:
        array = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise SamplesError(f"{file}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise SamplesError(f"{file}: is no array of numbers that NumPy can read ({error})") from None
    if array.dtype != np.uint8:
        raise SamplesError(f"{file}: saw {_values(array)}, expected uint8 of 0 to 255; {_cure(array)}")
    first, last = (array.ndim == 4 and array.shape[axis] in (1, 3) for axis in (1, 3))
    if array.ndim == 3:
        array = array[:, None]
    elif last and not first:
        array = array.transpose(0, 3, 1, 2)
    elif not first or last or not array.size:
        expected = "(N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W)"
        raise SamplesError(f"{file}: saw the shape {array.shape}, expected {expected}")
    return np.ascontiguousarray(array)


def _values(array: np.ndarray) -> str:
    if not np.issubdtype(array.dtype, np.floating) or not array.size:
        return f"{array.dtype}"
    broken = int((~np.isfinite(array)).reshape(len(array), -1).any(1).sum()) if array.ndim else 0
    if broken:
        return f"NaN or infinity in {broken} of {_counted(len(array))} ({array.dtype})"
    return f"{array.dtype} from {array.min():g} to {array.max():g}"


def _cure(array: np.ndarray) -> str:
    if np.issubdtype(array.dtype, np.floating) and array.size:
        if not np.isfinite(array).all():
            return "find out why the model gives such pixels"
        if array.min() >= 0 and array.max() <= 1:
            return "save np.rint(255 * images).astype(np.uint8)"
        if array.min() >= -1 and array.max() <= 1:
            return "save np.rint(127.5 * (images + 1)).astype(np.uint8)"
    return "save np.rint(images).clip(0, 255).astype(np.uint8)"


def scored_lines(scored: Scored) -> list[str]:
    """The scores with their error bars, and the protocol, as a person reads them."""
    scores, lines = scored.scores, []
    for name, value in scores.items():
        if not name.endswith(("_low", "_high")):
            low, high = (scores.get(f"{name.removesuffix('_mean')}{end}") for end in ("_low", "_high"))
            interval = "" if low is None or high is None else f"   {low:.4g} to {high:.4g}"
            lines.append(f"{name:<{max(map(len, scores))}}  {value:<10.6g}{interval}".rstrip())
    return [*lines, "", *(f"{key}: {value}" for key, value in scored.protocol.items())]


def _counted(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"
