"""The checkpoint of a training: written whole or not at all, and read back from whatever a crash has left."""

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from aiqn_core.code import loaded
from aiqn_core.config import ConfigError, ScheduleConfig, TrainConfig, settled

CHECKPOINT_FORMAT = 1

Samples = UInt8[Tensor, "image channel height width"] | Float32[Tensor, "vector dim"]


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
    """All that a checkpoint holds. Batches and noise are functions of (seed, step), so no generator needs saving."""

    model: Any  # a Method
    ema: Any
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    evaluate_seconds: float = 0.0
    history: list[Progress] = field(default_factory=list)
    shape: tuple[int, ...] = ()  # of the data, like the number of classes: who reads the weights need not have it
    num_classes: int = 0
    class_counts: tuple[int, ...] = ()  # training images of each class, for a conditional model


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
    if "command" in config:  # whether its own checkpoint fits more steps is its own affair
        return config | {"train": {"steps": None}}
    recorded = config.get("code") or {}
    try:
        follows = ScheduleConfig(code=loaded(recorded.get("hash")), **config["schedule"]).follows_steps
    except ConfigError:  # of a version that knew other schedules
        follows = True
    return config | {"train": config["train"] | ({} if follows else {"steps": None})}
