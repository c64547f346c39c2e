"""A trained model, read back from the folder of its training."""

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from aiqn_core.code import load_kept
from aiqn_core.command import WORK
from aiqn_core.config import LEAST_SIDES, ConfigError, TrainConfig
from aiqn_core.models.build import build_model
from aiqn_core.training import (
    CHECKPOINT_FORMAT,
    CheckpointError,
    kept_weights,
    previous_checkpoint,
    read_checkpoint,
)


class Trained(NamedTuple):
    """A model with its averaged weights on the CPU, ready to sample from, and where it comes from."""

    model: Any  # a Method
    config: TrainConfig  # scored at the default size where the recorded one is refused by this version
    step: int
    num_classes: int  # of the data; 0 where it has no labels
    shape: tuple[int, ...] = ()  # of one example: (channel, height, width) or (dimensions,)
    class_counts: tuple[int, ...] = ()  # training images of each class, for a conditional model; equal where unknown
    recorded: Mapping[str, Any] = MappingProxyType({})  # the configuration as it was written


def load_trained(folder: Path | str, step: int | None = None) -> Trained:
    """The newest averaged weights in a folder of a training, or those kept at a step (`evaluate.keep_weights`).

    Raises CheckpointError where there is no such folder or step, or nothing in it can be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: no such trial; expected a folder such as runs/quickstart/trials/pixeliqn-final-0"
        )
    if step is not None and step not in (kept := kept_steps(folder)):
        seen = (
            f"kept are {', '.join(map(str, kept))}" if kept else "none are kept; train with evaluate.keep_weights: true"
        )
        raise CheckpointError(f"{folder}: no weights of step {step}; {seen}")
    if (folder / WORK).is_dir():
        raise CheckpointError(
            f"{folder}: was trained by a command, whose model is its own; its samples were scored then"
        )
    newest = folder / "checkpoint.pt"
    content = _read([newest, previous_checkpoint(newest)] if step is None else [kept_weights(folder, step)])
    try:
        load_kept(folder.resolve().parent.parent, content["config"].get("code"))  # a trial lies in RUN/trials
        config = TrainConfig.from_dict(_readable(content["config"]))
    except ConfigError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    shape = tuple(content["shape"])
    model = build_model(config.model, shape, content["num_classes"], config.given_loss)
    model.load_state_dict(content["ema"])
    model.requires_grad_(False).eval()
    counts = content.get("class_counts") or (1,) * content["num_classes"]  # older versions did not record them
    return Trained(model, config, content["step"], content["num_classes"], shape, tuple(counts), content["config"])


def _readable(recorded: dict[str, Any]) -> dict[str, Any]:
    """The recorded configuration without a size of the evaluation that is refused now: the weights are still good."""
    evaluate = recorded["evaluate"]
    small = (evaluate.get("size") or math.inf) < min(LEAST_SIDES.values())
    return recorded | {"evaluate": evaluate | {"size": None}} if small else recorded


def kept_steps(folder: Path | str) -> list[int]:
    """The steps whose averaged weights are kept, in order."""
    files = kept_weights(Path(folder), 0).parent.glob("*.pt")
    return sorted(int(path.stem) for path in files if path.stem.isdigit())


def _read(candidates: list[Path]) -> dict[str, Any]:
    """The first of some files that can be read."""
    there = [path for path in candidates if path.exists()]
    if not there:
        raise CheckpointError(f"{candidates[0]}: no checkpoint yet; a trial has one from its first evaluation on")
    for path in there:
        content = read_checkpoint(path)
        if content is None:
            continue
        if content.get("format") != CHECKPOINT_FORMAT or "shape" not in content:
            raise CheckpointError(
                f"{path}: was written by another version; continue or repeat its training with this one"
            )
        return content
    raise CheckpointError(f"{there[0]}: damaged; continue the training (the same command), which replaces it")
