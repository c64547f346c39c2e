"""The training loop: a generator that yields what it measured; its caller logs, saves and stops."""

import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from aiqn_core import rung_scores
from aiqn_core.config import ConfigError, Problem, TrainConfig
from aiqn_core.data import ImageData, load_data
from aiqn_core.models.build import build_model
from aiqn_core.optimizers import build_optimizer
from aiqn_core.parallel import ALONE, Workers, find_meeting, joined
from aiqn_core.prepared import empty_classes
from aiqn_core.scoring import class_counts
from aiqn_core.steps import Steps
from aiqn_core.training.checkpoint import Progress, Samples, TrainState, find_checkpoint, restore, save
from aiqn_core.training.evaluation import Data, DivergedError, evaluate


def train(
    config: TrainConfig, folder: Path | str | None = None, workers: Workers = ALONE, data: Data | None = None
) -> Iterator[Progress]:
    """Train one model, yielding `Progress` at every logged step; scores are in it at evaluations.

    With a folder, every evaluation is checkpointed before it is yielded, and a folder that holds a checkpoint is
    continued: what was measured before is yielded again (same steps, numbers and times), then training goes on. On
    one machine's CPU with one thread count an interrupted training ends bit-identical to one that was not.

    Where several `workers` train one model, each iterates over its own `train`; scores, and the folder, are the
    leader's. Their losses are those of one worker, within rounding. `data` are those of the configuration where the
    caller has loaded them already.

    Raises DivergedError on a loss or score that is not finite, CheckpointError on a checkpoint of another
    configuration, ConfigError on data that cannot be loaded.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = load_data(config.data) if data is None else data
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
        cheaper = rung_scores.at_step(config, state.step)
        scores, samples = evaluate(state.ema, cheaper or config, data, workers)
        scores = rung_scores.named(scores) if cheaper else scores
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


def new_state(config: TrainConfig, data: Data, device: torch.device) -> TrainState:
    """Untrained weights drawn from the configuration's seed; leaves the global random state as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = build_model(config.model, data.shape, data.num_classes, config.given_loss).to(device)
    if device.type == "cuda":  # convolutions of bfloat16 on a GPU want planes side by side; a CPU does not care
        model = model.to(memory_format=torch.channels_last)
    ema = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = build_optimizer(config.optimizer, list(model.parameters()))
    counts = class_counts(data).tolist() if config.model.conditional and isinstance(data, ImageData) else ()
    return TrainState(model, ema, optimizer, shape=data.shape, num_classes=data.num_classes, class_counts=tuple(counts))
