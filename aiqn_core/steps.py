"""The optimiser steps of a training: on a CPU one after the other, on a GPU replayed as one CUDA graph."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from aiqn_core.config import LoopConfig, ScheduleConfig, TrainConfig
from aiqn_core.graphs import Recorder, beside, compiled, graph
from aiqn_core.optimizers import can_be_recorded, set_rate, settle
from aiqn_core.parallel import ALONE, Workers

WARM_UP = 3  # steps before one is recorded: they set up what must not be recorded, like the optimiser's state

Examples = UInt8[Tensor, "image channel height width"] | Float32[Tensor, "vector dim"]


class _Batch(NamedTuple):
    examples: Tensor
    tau: Tensor
    label: Tensor | None


class Steps:
    """Optimiser steps on random batches; step t is a function of the weights, (seed, t) and nothing else."""

    def __init__(
        self,
        model: Any,
        ema: Any,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        examples: Examples,
        labels: Int64[Tensor, " image"] | None = None,
        workers: Workers = ALONE,
        record: Recorder | None = None,
    ) -> None:
        """`record` makes a step one call; None: a CUDA graph on a GPU, plain calls elsewhere.

        Examples (and labels) stay on the device as they are; batches are drawn and read there.
        """
        self.model, self.ema, self.optimizer, self.config = model, ema, optimizer, config
        self.examples, self.labels, self.workers = examples, labels, workers
        self.generator = torch.Generator(examples.device)
        self.noise = model.noise()
        self.sampling = getattr(config.loss, "tau_sampling", None)
        # A step of several workers waits for the others on the host, and some optimisers read, or count, there.
        alone = workers.size == 1 and can_be_recorded(optimizer)
        self.record = (record or (graph if examples.is_cuda else None)) if alone else None
        self.recorded: _Recorded | None = None
        self.loss: Callable[..., Any] = compiled(model.loss) if os.environ.get("AIQN_COMPILE") == "1" else model.loss
        settle(optimizer)

    def __call__(self, step: int) -> Float[Tensor, ""]:
        """Do step number `step`; its batch's loss, on the device."""
        batch = self._draw(step)
        config = self.config
        rate = learning_rate(config.optimizer.lr, config.schedule, step, config.train.steps)
        weight = ema_weight(config.train, step)
        if self.record is None:
            set_rate(self.optimizer, rate)
            return self._apply(batch, weight)
        if self.recorded is None:
            self.recorded = _Recorded(self, batch)
        return self.recorded(batch, rate, weight)

    def _draw(self, step: int) -> _Batch:
        """The images, quantile levels and labels of a step."""
        self.generator.manual_seed(step_seed(self.config.seed, step))
        size = self.config.train.batch_size
        # Every worker draws the whole batch, so that it is the same for any number of them.
        rows = self.workers.rows(size)
        index = torch.randint(len(self.examples), (size,), generator=self.generator, device=self.examples.device)[rows]
        batch = self.examples[index]
        tau = draw_tau(self.sampling, (size, *self.noise), self.generator)
        return _Batch(batch, tau[rows], None if self.labels is None else self.labels[index])

    def _apply(self, batch: _Batch, weight: float | Tensor) -> Float[Tensor, ""]:
        """Forward, backward, optimiser, average; nothing here may read the device from the host."""
        config = self.config
        loss: Tensor = self.loss(batch.examples, batch.tau, batch.label)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        part = len(batch.examples) / config.train.batch_size
        loss = self.workers.average(loss, self.model.parameters(), part)
        if config.train.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.train.clip_norm)
        self.optimizer.step()
        update_ema(self.ema, self.model, weight)
        return loss


class _Recorded:
    """A step on fixed memory: what changes from step to step is copied into it."""

    def __init__(self, steps: Steps, like: _Batch) -> None:
        self.steps, self.done = steps, 0
        self.batch = _Batch(like.examples.clone(), like.tau.clone(), None if like.label is None else like.label.clone())
        self.rate, self.weight, self.loss = (torch.zeros((), device=like.tau.device) for _ in range(3))
        self.call: Callable[[], None] = lambda: beside(self._run)

    def __call__(self, batch: _Batch, rate: float, weight: float) -> Float[Tensor, ""]:
        for static, part in zip(self.batch, batch, strict=True):
            if static is not None and part is not None:
                static.copy_(part)
        self.rate.fill_(rate)
        self.weight.fill_(weight)
        if self.done == WARM_UP:
            assert self.steps.record is not None
            self.call = self.steps.record(self._run)
        self.call()
        self.done += 1
        return self.loss.clone()

    def _run(self) -> None:
        set_rate(self.steps.optimizer, self.rate)
        self.loss.copy_(self.steps._apply(self.batch, self.weight))


def draw_tau(sampling: str | None, shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "batch *shape"]:
    """Quantile levels of a batch, uniform at each place and independent of the images, however they are paired."""
    tau = torch.rand(shape, generator=generator, device=generator.device)
    if sampling == "stratified":
        stratum = torch.rand(shape, generator=generator, device=generator.device).argsort(0)
        return (stratum + tau) / len(tau)
    if sampling == "antithetic":
        half = len(tau) // 2
        tau[half : 2 * half] = 1 - tau[:half]
    return tau


def step_seed(seed: int, step: int) -> int:
    """The seed of one step's random numbers (splitmix64), so that any step can be drawn without those before it."""
    value = (seed * 0x9E3779B97F4A7C15 + (step + 1) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (value ^ (value >> 31)) & (2**63 - 1)


def learning_rate(lr: float, schedule: ScheduleConfig, step: int, steps: int) -> float:
    """The learning rate of one step (the first is 0) of `steps`."""
    factor: float = schedule.factor(step, steps)
    return lr * factor


def ema_weight(config: LoopConfig, step: int) -> float:
    """The decay of the averaged weights at one step, growing as (1 + t) / (10 + t) while that is the smaller."""
    return min(config.ema_decay, (1 + step) / (10 + step)) if config.ema_warmup else config.ema_decay


@torch.no_grad()
def update_ema(ema: torch.nn.Module, model: torch.nn.Module, weight: float | Tensor) -> None:
    """ema <- weight * ema + (1 - weight) * model, for every parameter (Polyak & Juditsky; paper appendix).

    Running statistics, which averaged weights rely on, are averaged with them.
    """
    averaged, current = (
        [*network.parameters(), *(buffer for buffer in network.buffers() if buffer.is_floating_point())]
        for network in (ema, model)
    )
    if not isinstance(weight, Tensor):
        torch._foreach_lerp_(averaged, current, 1 - weight)
        return
    # A weight that changes under a recorded step; torch has no fused interpolation by a tensor.
    change = torch._foreach_sub(current, averaged)
    torch._foreach_mul_(change, 1 - weight)
    torch._foreach_add_(averaged, change)
