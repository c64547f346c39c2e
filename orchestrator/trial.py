"""One training, recorded in its folder. No Ray: `aiqn train` and the cluster call the same function."""

import json
import logging
import os
import platform
import socket
import subprocess
import time
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiqn_core.config import TrainConfig, config_hash, settled
from orchestrator.runs import (
    FORMAT,
    RunFolder,
    RunFolderError,
    TrialFolder,
    read_json,
    trial_id,
    write_bytes,
    write_json,
)

if TYPE_CHECKING:
    from aiqn_core.parallel import Workers

WORKER_LOST = "worker lost"
PACKAGES = ("aiqn", "torch", "numpy", "ray", "optuna", "mlflow")


@dataclass(frozen=True)
class Assignment:
    """What one trial is asked to do; plain values, so that it travels as JSON."""

    arm: str
    stage: str
    number: int
    config: dict[str, Any]
    params: dict[str, Any]
    seed: int
    source: int | None = None  # of a final: the search trial whose parameters it takes
    attempt: int = 1

    @property
    def id(self) -> str:
        return trial_id(self.arm, self.stage, self.number)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def run_trial(
    assignment: Assignment,
    run: RunFolder,
    threads: int | None = None,
    node: str | None = None,
    workers: "Workers | None" = None,
    gpu: float = 0,
) -> Generator[dict[str, Any], None, None]:
    """Train one trial in its folder, yielding every record of metrics.jsonl, those of earlier attempts first.

    The folder's status says how it ended, also after an exception; the exception is raised again. A caller that
    closes the generator leaves the status as it is, for only the caller knows why it stopped. `node` is Ray's name of
    the machine, `workers` the place of this process where several train the trial. `gpu` is its share of a GPU, of
    whose memory it takes no more than that; 0: there is none, or it is not shared.
    """
    folder = run.trial(assignment.id)
    with folder.claim(), logged(folder) as log:
        check_folder(folder, assignment)
        attempt = max(assignment.attempt, folder.read_status().get("attempts", 0) + 1)
        folder.update_status(
            state="running",
            cause=None,
            message=None,
            attempts=attempt,
            host=socket.gethostname(),
            node=node,
            pid=os.getpid(),
            log=str(folder.log),
            started=folder.read_status().get("started") or time.time(),
            steps=assignment.config["train"]["steps"],
        )
        try:
            yield from _recorded(assignment, run, folder, log, threads, workers, gpu)
        except Exception as error:
            state, cause = classify(error)
            if cause == WORKER_LOST:
                log.error("%s", error)
                raise  # like a process that died: the status stays "running", and the driver decides
            log.error("%s", traceback.format_exc() if state == "failed" else error)
            folder.update_status(state=state, cause=cause, message=_first_line(error))
            raise
        folder.update_status(state="completed")
        log.info("completed")


def _recorded(
    assignment: Assignment,
    run: RunFolder,
    folder: TrialFolder,
    log: logging.Logger,
    threads: int | None,
    workers: "Workers | None",
    gpu: float,
) -> Iterator[dict[str, Any]]:
    # torch takes seconds to import: only where something is trained
    import torch

    from aiqn_core.data import encode_png, load_data
    from aiqn_core.memory import cap_gpu
    from aiqn_core.parallel import ALONE
    from aiqn_core.training import protocol, train

    if threads is not None:
        torch.set_num_threads(threads)
    if gpu:
        cap_gpu(gpu)
    config = TrainConfig.from_dict(assignment.config)
    data = load_data(config.data)
    write_config(folder, assignment, device(), protocol(config, data))
    if not run.real.exists():
        write_bytes(run.real, encode_png(data.real_picture()))
    log.info("attempt on %s with %s threads, configuration %s", device(), torch.get_num_threads(), assignment.config)
    recorded = {record["step"]: record for record in folder.read_history()}
    computed = folder.read_status().get("cpu_seconds", 0.0) - time.process_time()  # of earlier attempts too
    for progress in train(config, folder.path, workers or ALONE):
        record = recorded.get(progress.step) or progress.record()
        if progress.samples is not None and not folder.samples(progress.step).exists():
            write_bytes(folder.samples(progress.step), encode_png(data.picture(progress.samples)))
        if progress.step not in recorded:
            folder.append_metrics([record])
            folder.update_status(step=progress.step, cpu_seconds=round(computed + time.process_time(), 3))
            log.info("step %d of %d: %s", progress.step, config.train.steps, progress.metrics)
        yield record


def write_config(folder: TrialFolder, assignment: Assignment, device: str, protocol: dict[str, Any]) -> None:
    """Record what the trial was asked to do, and on what it is done."""
    digest = config_hash(assignment.config)
    if (read_json(folder.config) or {}).get("provenance", {}).get("config_hash") == digest:
        return  # the first attempt's provenance stays
    provenance = {
        "config_hash": digest,
        "git": git_state(),
        "versions": versions(),
        "device": device,
        "protocol": protocol,
    }
    content = {"format": FORMAT, "trial": assignment.id, **asdict(assignment), "provenance": provenance}
    del content["attempt"]
    write_json(folder.config, content)


def check_folder(folder: TrialFolder, assignment: Assignment) -> None:
    """Raises RunFolderError where the folder holds a trial that this one does not continue."""
    before = read_json(folder.config)
    if (
        before is not None
        and settled(before["config"]) != settled(assignment.config)
        and not _extends(before["config"], assignment.config)
    ):
        raise RunFolderError(f"{folder.path} holds a trial of another configuration; delete it or rename the sweep")


def _extends(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether two configurations differ in nothing but a larger number of steps."""
    others = [settled({**config, "train": {**config["train"], "steps": None}}) for config in (before, after)]
    return others[0] == others[1] and before["train"]["steps"] < after["train"]["steps"]


def classify(error: Exception) -> tuple[str, str]:
    """The state and cause of a trial that ended in an exception."""
    import torch

    from aiqn_core.config import ConfigError
    from aiqn_core.parallel import WorkerLostError
    from aiqn_core.training import DivergedError

    match error:
        case DivergedError():
            return "diverged", "not finite"
        case torch.cuda.OutOfMemoryError():
            return "failed", "out of GPU memory"
        case MemoryError():
            return "failed", "out of memory"
        case ConfigError():
            return "failed", "configuration"
        case WorkerLostError():
            return "failed", WORKER_LOST
        case torch.AcceleratorError():
            return "failed", "GPU fault"
        case _:
            return "failed", type(error).__name__


@contextmanager
def logged(folder: TrialFolder) -> Iterator[logging.Logger]:
    """A logger that writes to the trial's log.txt and nowhere else."""
    log = logging.getLogger(f"aiqn.trial.{folder.path.name}")
    log.setLevel(logging.INFO)
    log.propagate = False
    handler = logging.FileHandler(folder.log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield log
    finally:
        log.removeHandler(handler)
        handler.close()


def device() -> str:
    """The device a trial trains on, in words."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()})"


@cache
def versions() -> dict[str, str]:
    """Python and the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # our own is not installed where it was sent along with a job
            found[name] = version(name)
    return found


@cache
def git_state() -> dict[str, Any]:
    """Commit of the code and whether files differ from it; both None where that is not known.

    Code that was sent along with a job is no checkout: there the submitter's is in AIQN_COMMIT.
    """
    if sent := os.environ.get("AIQN_COMMIT"):
        return {"commit": sent.removesuffix("-dirty"), "dirty": sent.endswith("-dirty")}
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str | None:
        result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        return result.stdout.strip() if result.returncode == 0 else None

    try:
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain")
    except FileNotFoundError:
        commit, changes = None, None
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:500]
