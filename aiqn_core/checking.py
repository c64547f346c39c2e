"""Whether a method keeps its promises, shown in a few steps: resumable, reproducible, in shape."""

import itertools
import math
import random
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aiqn_core.command import keep_command
from aiqn_core.config import ConfigError, TrainConfig
from aiqn_core.data import ImageData, load_data
from aiqn_core.settings import one_line
from aiqn_core.steps import step_seed
from aiqn_core.training import (
    CheckpointError,
    CommandError,
    CommandKilledError,
    DivergedError,
    MethodError,
    Place,
    Progress,
    draw,
    evaluation_draws,
    new_state,
    read_checkpoint,
    train,
    train_by_command,
)

STEPS, CUT, BATCH, SAMPLES, REFERENCE = 4, 2, 5, 12, 64
COMMAND_SECONDS = 120.0  # that a command may take for these few steps


class _Broken(Exception):
    """A promise that is not kept, as a sentence."""


class _Diverged(_Broken):
    """A loss or score that is not finite, which may be the fault of a setting."""


def method_problems(config: TrainConfig, *, may_diverge: bool = False) -> list[str]:
    """What is wrong with the method of a configuration, one sentence each; empty where nothing was found.

    A part that cannot be tried, because one before it does not work, is left out. `may_diverge`: that the training
    ends with numbers that are not finite says nothing against the method, as its settings were drawn at random.
    """
    found: list[str] = []
    short = _short(config)
    try:
        data = load_data(config.data)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        state = _tried(config, "__init__", lambda: new_state(short, data, device))
        _keeps_generators(config, "noise", lambda: _tried(config, "noise", state.model.noise))
        _check_noise(state.model)
        for part in (_loss_problems, _sample_problems):
            found += part(state.model if part is _loss_problems else state.ema, short, data, device)
        if not found:
            found += _training_problems(short)
    except _Broken as broken:
        if not (may_diverge and isinstance(broken, _Diverged)):
            found.append(str(broken))
    except ConfigError as error:
        found += [str(problem) for problem in error.problems]
    return list(dict.fromkeys(found))


def command_problems(config: TrainConfig, source: Path, seconds: float = COMMAND_SECONDS) -> list[str]:
    """What is wrong with the command of a configuration, whose files lie in `source`; empty where nothing was found.

    It is started for a few steps, ended after its first evaluation and started again in the same folder.
    """
    short = _short(config)
    assert short.command is not None
    try:
        data = load_data(config.data)
        with tempfile.TemporaryDirectory() as folder:
            keep_command(short.to_dict()["command"], source, Path(folder))
            place = Place(Path(folder), Path(folder) / "trial", seconds=seconds)
            first = train_by_command(short, data, place, ())
            past: list[Progress] = []
            while not past or past[-1].step < CUT:
                past.append(next(first))  # it ends with an error, or comes to its last step
            first.close()
            list(train_by_command(short, data, place, past))
    except (ConfigError, CommandError, CommandKilledError, DivergedError) as error:
        return str(error).splitlines()
    return []


def _short(config: TrainConfig) -> TrainConfig:
    """The same training in a few small steps, with two evaluations of a few samples."""
    mapping = config.to_dict()
    mapping["train"] |= {"steps": STEPS} if config.command else {"steps": STEPS, "batch_size": BATCH, "log_every": 1}
    evaluate = mapping["evaluate"]
    evaluate |= {"every": CUT, "at": None, "samples": SAMPLES, "initial": False, "keep_weights": False}
    evaluate |= {"reference": min(REFERENCE, evaluate["reference"])}
    if evaluate["splits"]:
        evaluate["splits"] = min(evaluate["splits"], SAMPLES)
    return TrainConfig.from_dict(mapping)


def _check_noise(model: Any) -> None:
    shape = model.noise()
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise _Broken(f"{_named(model)}.noise: gave {shape!r}, expected a tuple of integers")


def _loss_problems(model: Any, config: TrainConfig, data: Any, device: torch.device) -> Iterator[str]:
    generator = torch.Generator().manual_seed(step_seed(config.seed, 0))
    noise = torch.rand((BATCH, *model.noise()), generator=generator).to(device)
    label = data.train_labels[:BATCH].to(device) if config.model.conditional and isinstance(data, ImageData) else None
    x = data.train[:BATCH].to(device)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    kept = x.clone(), noise.clone()
    loss = _keeps_generators(config, "loss", lambda: _tried(config, "loss", lambda: model.loss(x, noise, label)))
    name = f"{_named(model)}.loss"
    if not isinstance(loss, Tensor) or loss.shape != () or not loss.is_floating_point():
        seen = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise _Broken(f"{name}: gave {seen}, expected a scalar tensor, the mean over the batch")
    if not math.isfinite(float(loss.detach())):
        yield f"{name}: gave {float(loss.detach())} at the first step of fresh weights, expected a finite number"
    if not loss.requires_grad:
        raise _Broken(f"{name}: gave a number without a gradient, expected one that depends on the parameters")
    if not (torch.equal(x, kept[0]) and torch.equal(noise, kept[1])):
        yield f"{name}: changed its argument in place, expected the data and the noise to be left alone"
    _tried(config, "loss", loss.backward)
    if not any(p.grad is not None and bool(p.grad.any()) for p in model.parameters()):
        yield f"{name}: gave a loss that no parameter has a gradient by, expected at least one"
    model.zero_grad(set_to_none=True)
    model.load_state_dict(before)
    attributes = _attributes(model)
    again = float(_tried(config, "loss", lambda: model.loss(x, noise, label)).detach())
    if again != float(loss.detach()):
        told = f"gave {float(loss.detach()):.6g} and then {again:.6g} for the same weights, data and noise"
        yield f"{name}: {told}; {_reason(attributes, _attributes(model))}"


def _sample_problems(model: Any, config: TrainConfig, data: Any, device: torch.device) -> Iterator[str]:
    noise, label = evaluation_draws(config, data, model)
    noise, label = noise.to(device), None if label is None else label.to(device)
    kept = noise.clone()

    def drawn(at: Tensor) -> Tensor:
        try:
            return draw(model, at, label, data.shape)
        except MethodError as error:
            raise _Broken(str(error)) from None

    first = _keeps_generators(config, "sample", lambda: _tried(config, "sample", lambda: drawn(noise)))
    name = f"{_named(model)}.sample"
    if not torch.equal(noise, kept):
        yield f"{name}: changed its argument in place, expected the noise to be left alone"
    if first.is_floating_point() and not bool(first.isfinite().all()):
        yield f"{name}: gave NaN or infinity from fresh weights, expected finite numbers"
    attributes = _attributes(model)
    if not torch.equal(first, drawn(kept)):
        told = "gave other samples for the same noise, expected a function of the noise and nothing else"
        yield f"{name}: {told}; {_reason(attributes, _attributes(model))}"
    other = torch.rand(kept.shape, generator=torch.Generator().manual_seed(config.seed + 1)).to(device)
    elsewhere = drawn(other)
    fresh = torch.equal(first, elsewhere)
    if fresh and _after_steps(config, data, device, noise, other):
        yield f"{name}: gave the same samples for other noise, expected a function of the noise"


def _attributes(model: Any) -> dict[str, str]:
    """What each module holds beside its parameters, buffers and parts, as text that changes where it does."""
    return {
        f"{path}.{key}".lstrip("."): repr(value.tolist() if isinstance(value, Tensor) else value)
        for path, module in model.named_modules()
        for key, value in vars(module).items()
        if key not in ("_parameters", "_buffers", "_modules")
    }


def _reason(before: dict[str, str], after: dict[str, str]) -> str:
    """Why a second call may have given something else, and what to do."""
    changed = [key for key, value in after.items() if before.get(key) != value]
    if changed:
        return f"it changes {changed[0]}, which no checkpoint holds: make it a buffer (register_buffer)"
    return "draw nothing at random in it, but use its argument noise, and ask for more in noise()"


def _after_steps(config: TrainConfig, data: Any, device: torch.device, one: Tensor, other: Tensor) -> bool:
    """Whether samples ignore the noise also after random changes of the weights: fresh ones may be constant."""
    state = new_state(config, data, device)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        for parameter in state.ema.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)
    label = evaluation_draws(config, data, state.ema)[1]
    label = None if label is None else label.to(device)
    return torch.equal(draw(state.ema, one, label, data.shape), draw(state.ema, other, label, data.shape))


def _training_problems(config: TrainConfig) -> Iterator[str]:
    """Trains twice, once cut off after the first evaluation; both must end with the same bits and numbers."""
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        expected = _keeps_generators(
            config, "training", lambda: _tried(config, "training", lambda: list(train(config, whole)))
        )
        interrupted: Any = train(config, cut)
        list(itertools.islice(interrupted, CUT))
        interrupted.close()
        # Whoever draws from the global generator would draw other numbers after an interruption.
        with torch.random.fork_rng():
            torch.manual_seed(config.seed + 1)
            found = _trained(config, cut)
        numbers = [
            {k: v for k, v in one.metrics.items() if not k.endswith("seconds")} for one in (expected[-1], found[-1])
        ]
        contents = [read_checkpoint(path / "checkpoint.pt") for path in (whole, cut)]
    name = config.model.name
    differing = [key for key in numbers[0] if numbers[0][key] != numbers[1].get(key)]
    weights = [content["model"] if content else {} for content in contents]
    moved = [key for key in weights[0] if not torch.equal(weights[0][key], weights[1].get(key, torch.zeros(())))]
    if moved or differing:
        told = f"the weights {moved[0]}" if moved else f"the number {differing[0]}"
        yield (
            f"{name}: a training that was cut off and continued ended with other {told.removeprefix('the ')} than one"
            " that was not; keep everything it learns in parameters and buffers, and draw nothing outside noise()"
        )
    reported = {metric.name for metric in config.metrics}
    for missing in sorted(reported - numbers[0].keys()):
        yield f"{name}: declares the metric {missing} but measure() does not give it; it gives: {', '.join(numbers[0])}"
    for metric in config.metrics:
        value = numbers[0].get(metric.name)
        if value is not None and not metric.low <= value <= metric.high:
            yield f"{name}: {metric.name} is {value:g}, outside of its range from {metric.low:g} to {metric.high:g}"


def _trained(config: TrainConfig, folder: Path) -> list[Progress]:
    found: list[Progress] = _tried(config, "training", lambda: list(train(config, folder)))
    return found


def _named(model: Any) -> str:
    return type(model).__name__


def _tried(config: TrainConfig, what: str, call: Callable[[], Any]) -> Any:
    """What a call gives; whatever it raises is a sentence with the last line of code that raised it."""
    try:
        return call()
    except (_Broken, ConfigError):
        raise
    except DivergedError as error:
        raise _Diverged(f"{config.model.name}: {error} within {STEPS} steps; expected finite numbers") from None
    except (MethodError, CheckpointError) as error:
        raise _Broken(f"{config.model.name}: {error}") from None
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if config.code is not None and _is_own(frame.filename, config)] or frames[-1:]
        where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
        raise _Broken(f"{config.model.name}: {what} raised {one_line(error)}{where}") from None


def _is_own(file: str, config: TrainConfig) -> bool:
    assert config.code is not None
    return Path(file) == config.code.path or config.code.path in Path(file).parents


def _keeps_generators(config: TrainConfig, what: str, call: Callable[[], Any]) -> Any:
    """What a call gives; raises _Broken where it has drawn from a global generator."""
    before = _generators()
    given = call()
    after = _generators()
    used = [
        name
        for name, one, other in zip(("torch", "NumPy", "Python"), before, after, strict=True)
        if not (torch.equal(one, other) if isinstance(one, Tensor) else one == other)
    ]
    if used:
        raise _Broken(
            f"{config.model.name}: {what} drew from the global generator of {used[0]}, so that it cannot be"
            f" {'resumed' if what == 'loss' else 'reproduced'}; use its argument noise, and ask for more in noise()"
        )
    return given


def _generators() -> tuple[Any, ...]:
    """The states of the global generators of torch, NumPy and Python."""
    numpy: Any = np.random.get_state()  # noqa: NPY002 (the global one is what is asked about)
    return torch.get_rng_state(), numpy[1].tobytes() + bytes(str(numpy[2:]), "ascii"), random.getstate()
