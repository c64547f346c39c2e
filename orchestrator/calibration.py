"""Rates of a sweep's arms from about 30 seconds of real, shortened trials, as many at once as will run at once."""

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiqn_core.command import keep_command
from aiqn_core.config import ConfigError, Problem, TrainConfig
from orchestrator.causes import Stage
from orchestrator.plan import MIRRORED, Points, Rates, along, room
from orchestrator.runs import RunFolder
from orchestrator.sections import Arm, Final, Sweep, with_final
from orchestrator.space import Number, apply, variations
from orchestrator.trial import Assignment, run_trial

SECONDS = 30.0
PACKING_SECONDS = 3.0  # for each number of trials at once
KINDS = 4  # configurations of each arm that are tried
FEW = 32  # samples of the small evaluation
REFERENCE = 2048  # real images at most, the widest features: with more of them a distance hardly costs more
HANDOVER = 0.25  # seconds between two trials of a worker, as seen on two cores


def calibrate(sweep: Sweep, seconds: float = SECONDS) -> dict[str, Rates]:
    """The rates of each arm on this machine; raises ConfigError where a trial needs a GPU and there is none.

    Trials at once compete for memory, caches and clock, so as many are measured at once as one GPU, or the CPU, holds.
    """
    workers = sweep.resources.workers
    slots = room(sweep, 1 if sweep.resources.gpu else None)[0] * (1 if sweep.resources.gpu else workers)
    if sweep.resources.gpu and not _gpu_here():
        message = f"saw {sweep.resources.gpu:g}, but this machine has no GPU to calibrate on; plan with --from RUN"
        raise ConfigError([Problem("resources.gpu", message)])
    work = {name: [_stages(config, sweep.final) for config in kinds(arm)] for name, arm in sweep.arms.items()}
    order = {"work": work, "seconds": seconds, "threads": max(1, int(sweep.resources.cpu))}
    order["folder"] = str(sweep.path.parent.absolute())
    command = [sys.executable, "-m", "orchestrator.calibration"]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(slots)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(json.dumps(order))
        process.stdin.close()
    answers = [json.loads(process.stdout.read()) for process in processes if process.stdout is not None]
    if any(process.wait() for process in processes):
        raise RuntimeError("a calibration process failed; what it said is above")
    return {name: _shared(_mean([Rates(**answer[name]) for answer in answers]), workers) for name in work}


def packing_advice(sweep: Sweep) -> str:
    """How many trials at once a GPU is worth, measured with the first arm; "" where trials use no GPU."""
    if not sweep.resources.gpu:
        return ""
    from aiqn_core.calibrate import describe, measure_packing

    arm = next(iter(sweep.arms.values()))
    return f"{arm.name} on one GPU\n{describe(measure_packing(kinds(arm)[0], seconds=PACKING_SECONDS))}"


def _stages(config: TrainConfig, final: Final | None) -> dict[str, Any]:
    """A configuration of the search, and the same as a final."""
    mapping = config.to_dict()
    return {"search": mapping} if final is None else {"search": mapping, "final": with_final(mapping, final)}


def _shared(rates: Rates, workers: int) -> Rates:
    """What was measured alone, as if so many workers were so many times as fast."""
    points = {
        stage: [(samples, seconds / workers) for samples, seconds in own] for stage, own in rates.evaluation.items()
    }
    return replace(rates, step=rates.step / workers, evaluation=points)


def _gpu_here() -> bool:
    import torch

    return torch.cuda.is_available()


def kinds(arm: Arm) -> list[TrainConfig]:
    """At most KINDS configurations of an arm that differ in what costs time: model, batch, optimiser."""
    found: dict[str, TrainConfig] = {}
    for params in variations(arm.space, _middle):
        config = TrainConfig.from_dict(apply(arm.base, params))
        found.setdefault(repr((config.model, config.train.batch_size, config.optimizer.name)), config)
    configs = list(found.values())
    if len(configs) <= KINDS:
        return configs
    return [configs[round(i * (len(configs) - 1) / (KINDS - 1))] for i in range(KINDS)]


def _middle(number: Number) -> list[float]:
    """The middle of a range, so that nothing diverges at an end; of whole numbers and steps both ends."""
    if number.integer or number.step is not None:
        return number.ends()
    return [(number.low * number.high) ** 0.5 if number.log else (number.low + number.high) / 2]


def _mean(rates: Sequence[Rates]) -> Rates:
    """Of configurations, or processes, that measured the same; None where one of them has none."""

    def mean(values: Sequence[Any]) -> Any:
        first = values[0]
        if None in values:
            return None
        if isinstance(first, Mapping):
            return {key: mean([value[key] for value in values]) for key in first}
        if isinstance(first, Sequence):
            return [mean(parts) for parts in zip(*values, strict=True)]
        return statistics.fmean(values)

    return Rates(**{name: mean([getattr(one, name) for one in rates]) for name in vars(rates[0])})


# ---- in the worker's process --------------------------------------------------------------------------------------


def measure(configs: Sequence[Mapping[str, TrainConfig]], seconds: float, threads: int, folder: Path = Path()) -> Rates:
    """The mean rates of some configurations (by stage) of one arm, in about so many seconds.

    `folder` is where the files of a command lie.
    """
    found = []
    for stages in configs:
        with contextlib.suppress(ArithmeticError):  # diverged: another configuration will do
            found.append(_measure_one(stages, seconds / len(configs), threads, folder))
    if not found:
        raise ArithmeticError(f"all of {len(configs)} configurations diverged within seconds")
    return _mean(found)


def _measure_one(stages: Mapping[str, TrainConfig], seconds: float, threads: int, folder: Path) -> Rates:
    """A few steps and samples to warm up, then shortened trials: few samples, and as many as there is time for."""
    search, final = stages["search"], stages.get("final")
    _shortened(search, 2, FEW, threads, folder)
    first = _shortened(search, 4, FEW, threads, folder)
    share = max(0.0, seconds - 2 * first["wall"]) / (2 if final is None else 3)
    steps = _between(4, share / first["step"], search.train.steps)
    second = _shortened(search, steps, _affordable(search, share, first), threads, folder)
    points = {"search": _both(first, second, search)}
    if final is not None:
        longer = _shortened(final, 4, _affordable(final, share, first), threads, folder)
        points["final"] = _both(first, longer, final)
    return Rates(
        step=second["step"],
        evaluation=points,
        trial=second["rest"] + HANDOVER,
        disk=second["disk"] * MIRRORED,
        memory=float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024),
        gpu_memory=_gpu_memory(),
    )


def _affordable(config: TrainConfig, seconds: float, first: Mapping[str, float]) -> int:
    """As many samples of an evaluation as there is time for, going by the first one."""
    return _between(2 * FEW, FEW * seconds / first["evaluation"], max(config.evaluate.samples, 2 * FEW))


def _both(small: Mapping[str, float], large: Mapping[str, float], config: TrainConfig) -> Points:
    """Two evaluations as points, the larger one with as many samples as the trials of a stage have."""
    few, many = ((int(trial["samples"]), trial["evaluation"]) for trial in (small, large))
    samples = max(config.evaluate.samples, 2 * FEW)
    return [few, (samples, along([few, many], samples))]


def _between(low: int, value: float, high: int) -> int:
    return max(low, min(int(value), high))


def _gpu_memory() -> float | None:
    import torch

    return float(torch.cuda.max_memory_reserved()) if torch.cuda.is_available() else None


def _shortened(config: TrainConfig, steps: int, samples: int, threads: int, folder: Path) -> dict[str, float]:
    """A real trial with other numbers of steps and samples: seconds of its parts, bytes on disk."""
    mapping = config.to_dict()
    mapping["train"] |= {"steps": steps}
    mapping["evaluate"] |= {"every": steps, "samples": samples, "initial": False}
    if mapping["evaluate"].get("splits"):
        mapping["evaluate"] |= {
            "splits": min(mapping["evaluate"]["splits"], samples),
            "reference": min(mapping["evaluate"]["reference"], REFERENCE),
        }
    with tempfile.TemporaryDirectory() as temporary:
        run, assignment = RunFolder(Path(temporary)), Assignment("arm", Stage.SEARCH, 0, mapping, {}, 0)
        keep_command(mapping.get("command"), folder, run.path)
        begin = time.perf_counter()
        for last in run_trial(assignment, run, threads):
            kept = time.time() - last["time"]  # its checkpoint and its picture
        wall = time.perf_counter() - begin
        disk = sum(path.stat().st_size for path in run.trial(assignment.id).path.rglob("*") if path.is_file())
    scoring = last["evaluate_seconds"]
    training = last["seconds"] - scoring
    return {
        "wall": wall,
        "step": training / steps,
        "samples": samples,
        "evaluation": scoring + kept,
        "rest": wall - last["seconds"] - kept,
        "disk": float(disk),
    }


def main() -> None:
    """Read the work from standard input, write rates by arm to standard output."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    order = json.loads(sys.stdin.read())
    share = order["seconds"] / len(order["work"])
    answer = {}
    for arm, configs in order["work"].items():
        stages = [{stage: TrainConfig.from_dict(one) for stage, one in config.items()} for config in configs]
        rates = measure(stages, share, order["threads"], Path(order["folder"]))
        answer[arm] = vars(rates)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
