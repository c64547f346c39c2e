"""What a step and an evaluation of a configuration cost on this machine, alone and beside others like it."""

import dataclasses
import statistics
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import multiprocessing as processes

from aiqn_core.config import TrainConfig
from aiqn_core.data import ImageData, load_data
from aiqn_core.memory import cap_gpu, out_of_memory
from aiqn_core.training import evaluate, new_state, steps_of

SCORED = 64  # samples of a calibrating evaluation
WARM_UP = 5  # steps, the last of which is a recorded one on a GPU
PATIENCE_SECONDS = 600.0  # for all processes to be ready
GAIN = 0.05  # a trial more on the device must be worth this much more throughput


class Cost(NamedTuple):
    """Seconds on this machine's device with nothing beside it."""

    step_seconds: float
    evaluate_seconds: float


class Packing(NamedTuple):
    """Throughput of some trials at once on one device, added up; 0 where they do not fit in its memory."""

    trials: int
    steps_per_second: float


def measure_cost(config: TrainConfig, steps: int = 5) -> Cost:
    """The median time of a step, and the time of an evaluation.

    The evaluation is done with a few samples and multiplied, once what is computed once for a sweep is there. Raises
    ConfigError on data that cannot be loaded.
    """
    step = _Stepper(config)
    times = [step.timed() for _ in range(WARM_UP + steps)]
    settings = config.evaluate
    few = min(settings.samples, max(SCORED, settings.splits or 0))
    short = dataclasses.replace(config, evaluate=settings.changed(samples=few))
    evaluate(step.state.ema, short, step.data)  # the features of the reference images are kept from now on
    begin = time.perf_counter()
    evaluate(step.state.ema, short, step.data)
    seconds = time.perf_counter() - begin
    return Cost(statistics.median(times[WARM_UP:]), seconds * settings.samples / few)


def measure_packing(
    config: TrainConfig, counts: Sequence[int] = (1, 2, 3, 4), seconds: float = 10.0, threads: int | None = None
) -> list[Packing]:
    """Throughput with each number of trials at once, each in a process of its own.

    On a GPU each has its share of the memory; on a CPU its share of `threads` (all that torch uses, where None).
    Raises ConfigError on data that cannot be loaded.
    """
    load_data(config.data)  # a mistake is told here, rather than by every process
    threads = threads or torch.get_num_threads()
    return [Packing(count, _together(config, count, seconds, max(1, threads // count))) for count in counts]


def recommend(measured: Sequence[Packing]) -> Packing:
    """The fewest trials for each device whose throughput is within a few per cent of the best."""
    best = max(packing.steps_per_second for packing in measured)
    enough = [packing for packing in measured if packing.steps_per_second * (1 + GAIN) >= best]
    return min(enough, key=lambda packing: packing.trials)


def describe(measured: Sequence[Packing]) -> str:
    """The throughput curve and the recommendation, as lines to print."""
    chosen, alone = recommend(measured), min(measured, key=lambda packing: packing.trials)
    lines = [
        f"{packing.trials} at once: "
        + (f"{packing.steps_per_second:.3g} steps/s together" if packing.steps_per_second else "do not fit")
        for packing in measured
    ]
    gain = chosen.steps_per_second / alone.steps_per_second if alone.steps_per_second else float("inf")
    if torch.cuda.is_available():
        return "\n".join([*lines, f"recommended: resources.gpu: {1 / chosen.trials:.2g} ({gain:.2f}× of one alone)"])
    return "\n".join([*lines, f"recommended: {chosen.trials} trials at once ({gain:.2f}× of one alone)"])


class _Stepper:
    """A training of its own that can be stepped on."""

    def __init__(self, config: TrainConfig) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.data = load_data(config.data)
        self.state = new_state(config, self.data, device)
        labelled = self.data.train_labels if isinstance(self.data, ImageData) and config.model.conditional else None
        labels = None if labelled is None else labelled.to(device)
        self.steps, self.done = steps_of(self.state, config, self.data.train.to(device), labels), 0

    def timed(self) -> float:
        """Seconds of one step, until the device is done with it."""
        begin = time.perf_counter()
        float(self.steps(self.done))
        self.done += 1
        return time.perf_counter() - begin


def _together(config: TrainConfig, count: int, seconds: float, threads: int) -> float:
    context = processes.get_context("spawn")  # CUDA does not survive a fork
    ready, told = context.Barrier(count), context.SimpleQueue()
    arguments = (config.to_dict(), count, threads, seconds, ready, told)
    workers = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rates = []
    while not told.empty():
        rates.append(told.get())
    if any(worker.exitcode == 1 for worker in workers):
        raise RuntimeError(f"one of {count} trials at once failed; its error is above")
    # A process that was killed for memory told nothing; one that ran out of it told None.
    return sum(rates) if len(rates) == count and None not in rates else 0.0


def _work(config: dict[str, Any], count: int, threads: int, seconds: float, ready: Any, told: Any) -> None:
    """One of several trials: tells its steps a second, from when all are warm, or None where memory is short."""
    torch.set_num_threads(threads)
    cap_gpu(1 / count)
    try:
        step = _Stepper(TrainConfig.from_dict(config))
        for _ in range(WARM_UP):
            step.timed()
        ready.wait(PATIENCE_SECONDS)
        begin, steps = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            step.timed()
            steps += 1
        told.put(steps / (time.perf_counter() - begin))
    except threading.BrokenBarrierError:
        told.put(None)  # another one does not come
    except Exception as error:
        ready.abort()
        if not out_of_memory(error):
            raise
        told.put(None)
