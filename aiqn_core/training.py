"""The training loop: a generator that yields what it measured; its caller logs, saves and stops."""

import copy
import errno
import functools
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from aiqn_core.config import ConfigError, EvaluateConfig, Problem, TrainConfig, settled
from aiqn_core.data import COLUMNS, GRID, ImageData, VectorData, load_data, load_vectors
from aiqn_core.diagnostics import calibration, code_scores
from aiqn_core.distances import energy_distance, mean_distance, wasserstein1
from aiqn_core.features import Extractor, Lite0
from aiqn_core.inception import Inception
from aiqn_core.losses import bits_per_dim
from aiqn_core.models import ImageModel, Model, PixelCNN, PixelIQN, build_model, tau_shape
from aiqn_core.optimizers import build_optimizer
from aiqn_core.parallel import ALONE, Workers, find_meeting, joined
from aiqn_core.prepared import empty_classes
from aiqn_core.reference import cached_reference
from aiqn_core.sampling import sample
from aiqn_core.scores import evaluate_images
from aiqn_core.steps import Steps
from aiqn_core.vae import VAE
from aiqn_core.vectors import AIQN, MADE, sample_vectors

CHECKPOINT_FORMAT = 1
CLASS_ROWS = 10  # classes in a picture of a conditional model

Data = ImageData | VectorData
Samples = UInt8[Tensor, "image channel height width"] | Float32[Tensor, "vector dim"]


class DivergedError(ArithmeticError):
    """The loss or a metric is no longer a finite number: the configuration's own fault, and a result."""


class CheckpointError(ValueError):
    """A checkpoint of another configuration or format."""


@dataclass(frozen=True)
class Progress:
    """What was measured at one step; `metrics` also holds the times in seconds."""

    step: int
    metrics: dict[str, float]
    time: float  # unix time of the measurement, kept when it is told again after an interruption
    samples: Samples | None = None  # of images the first 64, or some of each class

    def record(self) -> dict[str, float]:
        return {"step": self.step, "time": self.time, **self.metrics}


@dataclass
class TrainState:
    """All that a checkpoint holds. Batches and tau are functions of (seed, step), so no generator needs saving."""

    model: Model
    ema: Model
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    evaluate_seconds: float = 0.0
    history: list[Progress] = field(default_factory=list)
    shape: tuple[int, ...] = ()  # of the data, like the number of classes: who reads the weights need not have it
    num_classes: int = 0
    class_counts: tuple[int, ...] = ()  # training images of each class, for a conditional model


def train(config: TrainConfig, folder: Path | str | None = None, workers: Workers = ALONE) -> Iterator[Progress]:
    """Train one model, yielding `Progress` at every logged step; scores are in it at evaluations.

    With a folder, every evaluation is checkpointed before it is yielded, and a folder that holds a checkpoint is
    continued: what was measured before is yielded again (same steps, numbers and times), then training goes on. On
    one machine's CPU with one thread count an interrupted training ends bit-identical to one that was not.

    Where several `workers` train one model, each iterates over its own `train`; scores, and the folder, are the
    leader's. Their losses are those of one worker, within rounding.

    Raises DivergedError on a loss or score that is not finite, CheckpointError on a checkpoint of another
    configuration, ConfigError on data that cannot be loaded.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = load_data(config.data)
    if problems := class_problems(config, data):
        raise ConfigError(problems)
    checkpoint = Path(folder) / "checkpoint.pt" if folder is not None else None
    state = new_state(config, data, device)
    content = workers.share(None if checkpoint is None else find_checkpoint(checkpoint, config))
    if content is not None:
        restore(state, content)
        yield from state.history

    examples = data.train.to(device)
    labels = data.train_labels.to(device) if isinstance(data, ImageData) and config.model.conditional else None
    log_every = config.train.log_every or max(1, config.train.steps // 100)
    steps = steps_of(state, config, examples, labels, workers)
    losses: list[Tensor] = []
    started = time.perf_counter()

    def measured(scores: dict[str, float], samples: Tensor | None) -> Progress:
        nonlocal started
        state.seconds += time.perf_counter() - started
        started = time.perf_counter()
        metrics = {**mean_loss(losses, state.step), **scores}
        losses.clear()
        metrics |= {"seconds": state.seconds, "evaluate_seconds": state.evaluate_seconds}
        state.history.append(Progress(state.step, metrics, time.time(), samples))
        return state.history[-1]

    def evaluated() -> Progress:
        begin = time.perf_counter()
        mean_loss(losses, state.step)  # a diverged model is not sampled from
        scores, samples = evaluate(state.ema, config, data, workers)
        state.evaluate_seconds += time.perf_counter() - begin
        progress = measured(scores, samples)
        if checkpoint is not None:
            save(checkpoint, state, config)
        return progress

    if config.evaluate.initial and not state.history:
        yield evaluated()
    while state.step < config.train.steps:
        losses.append(steps(state.step))
        state.step += 1
        if is_evaluated(config, state.step):
            yield evaluated()
        elif state.step % log_every == 0:
            yield measured({}, None)


def class_problems(config: TrainConfig, data: Data) -> list[Problem]:
    """What keeps a conditional model from learning the classes of the data; empty where nothing does."""
    if not (config.model.conditional and isinstance(data, ImageData)):
        return []
    return empty_classes(data.train_labels.numpy(), data.num_classes, data.name)


def follow(config: TrainConfig, host: str, port: int, rank: int, size: int) -> None:
    """Train as one of the workers that do not lead, until the training ends or this process does."""
    with joined(find_meeting(host, port), rank, size) as workers:
        for _ in train(config, workers=workers):
            pass


def is_evaluated(config: TrainConfig, step: int) -> bool:
    """Whether the model is scored after this many steps (at least one)."""
    settings = config.evaluate
    return step % settings.every == 0 or step in (settings.at or ()) or step == config.train.steps


def train_step(
    state: TrainState,
    config: TrainConfig,
    examples: Samples,
    labels: Int64[Tensor, " image"] | None,
    losses: list[Tensor],
) -> None:
    """One optimiser step by itself; appends the batch's loss (a scalar on the device) to `losses`."""
    losses.append(steps_of(state, config, examples, labels)(state.step))
    state.step += 1


def steps_of(
    state: TrainState,
    config: TrainConfig,
    examples: Samples,
    labels: Int64[Tensor, " image"] | None,
    workers: Workers = ALONE,
) -> Steps:
    """The optimiser steps of a training, to be called with their numbers; examples and labels on its device."""
    return Steps(state.model, state.ema, state.optimizer, config, examples, labels, workers)


def mean_loss(losses: list[Tensor], step: int) -> dict[str, float]:
    """The mean of the losses since the last measurement, if any; raises DivergedError where it is not finite."""
    if not losses:
        return {}
    loss = float(torch.stack(losses).double().mean())
    if not math.isfinite(loss):
        raise DivergedError(f"the loss is {loss} between steps {step - len(losses)} and {step}")
    return {"loss": loss}


def evaluate(
    model: Model, config: TrainConfig, data: Data, workers: Workers = ALONE
) -> tuple[dict[str, float], Samples]:
    """Scores of samples of the (averaged) model, and samples to show; the same tau and labels for every model.

    Of several workers each draws a part of the samples; the leader scores them, the others have no scores.

    Raises DivergedError where a score is not finite.
    """
    if isinstance(data, VectorData):
        assert isinstance(model, AIQN | MADE)  # TrainConfig refuses other pairs
        scores, samples = _evaluate_vectors(model, config, data, workers)
    else:
        assert not isinstance(model, AIQN | MADE)
        scores, samples = _evaluate_images(model, config, data, workers)
    for name, value in scores.items():
        if not math.isfinite(value):
            raise DivergedError(f"{name} of the samples is {value}")
    return scores, samples


def _evaluate_images(
    model: ImageModel, config: TrainConfig, data: ImageData, workers: Workers
) -> tuple[dict[str, float], UInt8[Tensor, "image channel height width"]]:
    settings, device = config.evaluate, next(model.parameters()).device
    assert settings.splits is not None  # completed by TrainConfig
    assert settings.extrapolate is not None
    tau, label = evaluation_draws(config, data)
    rows = workers.rows(settings.samples)
    tau, label = tau[rows].to(device), None if label is None else label[rows].to(device)
    images = workers.gather(sample(model, len(tau), tau=tau, label=label), settings.samples).cpu()
    if not workers.leads:
        return {}, images[:GRID]
    extractor = feature_extractor(settings)
    reference = cached_reference(reference_images(settings, data), extractor)
    scores = evaluate_images(images, reference, extractor, settings.splits, settings.extrapolate)
    scores["samples"] = settings.samples
    match model:
        case PixelCNN():
            scores["bits_per_dim"] = bits_per_dim(test_loss(model, config, data))
        case PixelIQN():
            scores |= calibration_scores(model, config, data)
        case VAE():
            scores |= code_scores(model, data.test[: settings.samples], tau, extractor, reference)
    return scores, images[:GRID] if label is None else images_by_class(model, config, data)


def images_by_class(
    model: ImageModel, config: TrainConfig, data: ImageData
) -> UInt8[Tensor, "image channel height width"]:
    """Samples to show of a conditional model: a row for each of the first classes, at tau of their own."""
    label = torch.arange(min(data.num_classes, CLASS_ROWS)).repeat_interleave(COLUMNS)
    generator = torch.Generator().manual_seed(config.evaluate.seed)
    tau = torch.rand(len(label), *data.shape, generator=generator)
    device = next(model.parameters()).device
    return sample(model, len(label), tau=tau.to(device), label=label.to(device)).cpu()


def _evaluate_vectors(
    model: AIQN | MADE, config: TrainConfig, data: VectorData, workers: Workers
) -> tuple[dict[str, float], Float32[Tensor, "vector dim"]]:
    settings = config.evaluate
    tau, _ = evaluation_draws(config, data)
    tau = tau[workers.rows(settings.samples)]
    vectors = workers.gather(sample_vectors(model, len(tau), tau=tau), settings.samples).cpu()
    if not workers.leads:
        return {}, vectors
    if not bool(vectors.isfinite().all()):
        raise DivergedError(f"{int((~vectors.isfinite()).sum())} values of the sampled vectors are not finite")
    scores = vector_scores(vectors, config, data)
    if isinstance(model, MADE):
        with torch.inference_mode():
            scores["test_nll"] = float(model.loss(data.test.to(next(model.parameters()).device)))
    return scores, vectors


def vector_scores(vectors: Float32[Tensor, "vector dim"], config: TrainConfig, data: VectorData) -> dict[str, float]:
    """The distances of vectors from the held-out ones."""
    test = data.test[: config.evaluate.reference]
    return {
        "energy_distance": energy_distance(vectors, test, _mean_distance(data.name, len(test))),
        "wasserstein1_mean": float(wasserstein1(vectors, test).mean()),
        "samples": len(vectors),
    }


@functools.lru_cache(maxsize=4)
def _mean_distance(name: str, count: int) -> float:
    """Of the first test vectors among themselves, which takes as long as all the rest of an evaluation."""
    return mean_distance(load_vectors(name).test[:count])


def evaluation_draws(
    config: TrainConfig, data: Data
) -> tuple[Float[Tensor, "example *shape"], Int64[Tensor, " example"] | None]:
    """The quantile levels, and the labels of a conditional model, drawn on the CPU: equal on all machines.

    The labels have the proportions of the training images, whatever the trial: see `proportional_labels`.
    """
    settings = config.evaluate
    generator = torch.Generator().manual_seed(settings.seed)
    tau = torch.rand((settings.samples, *tau_shape(config.model, data.shape)), generator=generator)
    if not (config.model.conditional and isinstance(data, ImageData) and data.num_classes):
        return tau, None
    return tau, proportional_labels(class_counts(data), settings.samples, settings.seed)


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


@torch.inference_mode()
def test_loss(model: PixelCNN, config: TrainConfig, data: ImageData) -> float:
    """Mean nats per sub-pixel of at most `evaluate.samples` test images."""
    device, count = next(model.parameters()).device, min(len(data.test), config.evaluate.samples)
    total = 0.0
    for begin in range(0, count, 256):
        batch = data.test[begin : min(begin + 256, count)].to(device)
        label = data.test_labels[begin : begin + len(batch)].to(device) if config.model.conditional else None
        total += len(batch) * float(model.loss(batch, None, label))
    return total / count


def calibration_scores(model: PixelIQN, config: TrainConfig, data: ImageData) -> dict[str, float]:
    """P(x <= Q(τ)) on at most `evaluate.samples` test images at some levels, and the mean miss (see `Calibration`)."""
    device, count = next(model.parameters()).device, min(len(data.test), config.evaluate.samples)
    label = data.test_labels[:count].to(device) if config.model.conditional else None
    generator = torch.Generator().manual_seed(config.evaluate.seed)
    found = calibration(model, data.test[:count].to(device), generator=generator, label=label)
    named = zip(found.levels.tolist(), found.upto.tolist(), strict=True)
    return {"calibration_error": found.error} | {f"calibration_{100 * level:02.0f}": upto for level, upto in named}


def protocol(config: TrainConfig, data: Data) -> dict[str, Any]:
    """All that decides the scores besides the model and its steps, as plain JSON: recorded with every training."""
    settings = config.evaluate
    common = {
        "samples": settings.samples,
        "data": f"{data.name} {data.checksum}",
        "model_weights": "averaged" if config.train.ema_decay > 0 else "last",
        "seed": settings.seed,
    }
    if isinstance(data, VectorData):
        reference = {"reference": min(settings.reference, len(data.test)), "reference_set": "held out"}
        return common | reference | {"true_nll": round(data.true_nll, 6)}
    reference = {"reference": min(settings.reference, len(data.train)), "reference_set": "training"}
    # Runs of older versions have no word on labels: they were uniform.
    labels = {"labels": "training proportions"} if config.model.conditional else {}
    return feature_extractor(settings).describe() | {"splits": settings.splits} | common | reference | labels


def feature_extractor(settings: EvaluateConfig) -> Extractor:
    """The feature extractor of an evaluation of images; one process keeps it between trainings."""
    assert settings.features is not None  # completed by TrainConfig for images
    assert settings.size is not None
    return _extractor(settings.features, settings.size, settings.inception)


@functools.lru_cache(maxsize=4)
def _extractor(features: str, size: int, inception: str | None) -> Extractor:
    return Inception(inception) if features == "inception" else Lite0(size)


def new_state(config: TrainConfig, data: Data, device: torch.device) -> TrainState:
    """Untrained weights drawn from the configuration's seed; leaves the global random state as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = build_model(config.model, data.shape, data.num_classes).to(device)
    if device.type == "cuda":  # convolutions of bfloat16 on a GPU want planes side by side; a CPU does not care
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # undeclared, documented
    ema = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = build_optimizer(config.optimizer, list(model.parameters()))
    counts = class_counts(data).tolist() if config.model.conditional and isinstance(data, ImageData) else ()
    return TrainState(model, ema, optimizer, shape=data.shape, num_classes=data.num_classes, class_counts=tuple(counts))


def save(path: Path, state: TrainState, config: TrainConfig) -> None:
    """Replace the checkpoint; the one before stays as `checkpoint.previous.pt` until the new one was read back."""
    averaged = {
        "format": CHECKPOINT_FORMAT,
        "config": config.to_dict(),
        "shape": state.shape,
        "num_classes": state.num_classes,
        "class_counts": state.class_counts,
        "ema": state.ema.state_dict(),
        "step": state.step,
    }
    if config.evaluate.keep_weights:  # before the checkpoint: none is missing after an interruption
        kept = kept_weights(path.parent, state.step)
        _write(averaged, kept).replace(kept)
    content = {
        **averaged,
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "seconds": state.seconds,
        "evaluate_seconds": state.evaluate_seconds,
        "history": [(progress.step, progress.metrics, progress.time) for progress in state.history],
        "samples": state.history[-1].samples if state.history else None,
    }
    temporary, previous = _write(content, path), previous_checkpoint(path)
    if path.exists():
        path.replace(previous)
    temporary.replace(path)
    if read_checkpoint(path) is not None:
        previous.unlink(missing_ok=True)


def _write(content: dict[str, Any], path: Path) -> Path:
    """Write under a temporary name beside `path`, which is returned, and sync."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def kept_weights(folder: Path, step: int) -> Path:
    """Where the averaged weights of one evaluation are kept, if they are."""
    return folder / "weights" / f"{step}.pt"


def find_checkpoint(path: Path, config: TrainConfig) -> dict[str, Any] | None:
    """The content of the newest checkpoint that can be read, or None.

    Raises CheckpointError where it belongs to another configuration.
    """
    for candidate in (path, previous_checkpoint(path)):
        content = read_checkpoint(candidate)
        if content is None:
            continue
        if content["format"] != CHECKPOINT_FORMAT:
            raise CheckpointError(f"{candidate}: saw format {content['format']}, expected {CHECKPOINT_FORMAT}")
        if settled(resumable(content["config"])) != settled(resumable(config.to_dict())):
            raise CheckpointError(f"{candidate} is of another configuration; choose another folder or delete it")
        return content
    return None


def restore(state: TrainState, content: dict[str, Any]) -> None:
    """Continue from the content of a checkpoint."""
    state.model.load_state_dict(content["model"])
    state.ema.load_state_dict(content["ema"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.step, state.seconds = content["step"], content["seconds"]
    state.evaluate_seconds = content["evaluate_seconds"]
    state.history = [Progress(*past) for past in content["history"]]
    if state.history:
        last = state.history.pop()
        state.history.append(Progress(last.step, last.metrics, last.time, content["samples"]))


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The content of a checkpoint on the CPU, or None where there is none or it is damaged.

    Raises OSError where the storage fails to give what may well be there: nobody must start anew for that.
    """
    try:
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except MemoryError:
        raise
    except OSError as error:
        if error.errno == errno.EINVAL:  # damaged bytes can point to before the start of the file
            return None
        raise
    except Exception:  # of damaged bytes torch raises RuntimeError, UnpicklingError, EOFError, KeyError, ...
        return None


def previous_checkpoint(path: Path) -> Path:
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def resumable(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that a checkpoint fixes: a longer training continues from it.

    Not so where the schedule follows the number of steps: then a longer training differs from the start.
    """
    schedule = config["schedule"]
    relative = schedule["name"] == "decay" and schedule["boundaries"] is None
    return config | {"train": config["train"] | ({} if relative else {"steps": None})}
