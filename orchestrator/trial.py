"""One training, recorded in its folder. No Ray: `aiqn train` and the cluster call the same function."""

import json
import logging
import math
import os
import platform
import shutil
import socket
import subprocess
import time
import traceback
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiqn_core.code import load_kept
from aiqn_core.config import ConfigError, TrainConfig, config_hash, settled
from orchestrator import packages
from orchestrator.causes import Cause, Stage, State, ending
from orchestrator.data_checks import check_trial_data
from orchestrator.places import places
from orchestrator.runs import (
    FORMAT,
    RunFolder,
    RunFolderError,
    TrialFolder,
    trial_id,
    write_bytes,
    write_json,
)
from orchestrator.silence import watched

if TYPE_CHECKING:
    from aiqn_core.parallel import Workers

STATUS_SECONDS = 1.0  # between two notes of how far a trial is, but for the last


@dataclass(frozen=True)
class Assignment:
    """What one trial is asked to do; plain values, so that it travels as JSON."""

    arm: str
    stage: Stage
    number: int
    config: dict[str, Any]
    params: dict[str, Any]
    seed: int
    source: int | None = None  # of a final: the search trial whose parameters it takes
    causes: list[str] = field(default_factory=list)  # why earlier attempts were cut off

    @classmethod
    def from_json(cls, text: str) -> "Assignment":
        """The assignment that `to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "stage": Stage(values["stage"])})

    @property
    def id(self) -> str:
        return trial_id(self.arm, self.stage, self.number)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class DataMissingError(Exception):
    """The data of a trial cannot be read where it was to be trained."""


def run_trial(
    assignment: Assignment,
    run: RunFolder,
    threads: int | None = None,
    node: str | None = None,
    workers: "Workers | None" = None,
    gpu: float = 0,
    silent_seconds: float | None = None,
) -> Generator[dict[str, Any], None, None]:
    """Train one trial in its folder, yielding every record of metrics.jsonl, those of earlier attempts first.

    The folder's status says how it ended, also after an exception; the exception is raised again. A caller that
    closes the generator leaves the status as it is, for only the caller knows why it stopped. `node` is Ray's name of
    the machine, `workers` the place of this process where several train the trial. `gpu` is its share of a GPU, of
    whose memory it takes no more than that; 0: there is none, or it is not shared. Where nothing is measured for
    `silent_seconds` the process ends, with the stacks of all its threads in the log.
    """
    folder = run.trial(assignment.id)
    with folder.claim(), logged(folder) as log:
        check_folder(folder, assignment)
        folder.update_status(
            state=State.RUNNING,
            cause=None,
            causes=assignment.causes,
            message=None,
            attempts=(folder.read_status().get("attempts") or 0) + 1,
            loaded=False,  # until then nobody counts its silence
            host=socket.gethostname(),
            node=node,
            pid=os.getpid(),
            log=str(folder.log),
            started=folder.read_status().get("started") or time.time(),
            steps=assignment.config["train"]["steps"],
        )
        step = None
        try:
            write_config(folder, assignment, device(), {})  # a trial that fails while it loads is one too
            check_trial_data(run, folder, assignment.config["data"])
            with closing(_recorded(assignment, run, folder, log, threads, workers, gpu, silent_seconds)) as records:
                for record in records:
                    step = record["step"]
                    yield record
        except Exception as error:
            end = ending({}, error, places=places(run.path, assignment.config))
            with suppress(OSError):  # where the disk is full, the exception itself must do
                if end.cause == Cause.WORKER_LOST:
                    log.error("%s", error)
                    raise  # like a process that died: the status stays "running", and the driver decides
                log.error("%s", traceback.format_exc() if end.state == State.FAILED else error)
                step = folder.last_step()
                folder.update_status(state=end.state, cause=end.recorded, message=end.message, step=step)
            raise
        folder.update_status(state=State.COMPLETED, step=step)
        log.info("completed")


def _recorded(
    assignment: Assignment,
    run: RunFolder,
    folder: TrialFolder,
    log: logging.Logger,
    threads: int | None,
    workers: "Workers | None",
    gpu: float,
    silent_seconds: float | None,
) -> Generator[dict[str, Any], None, None]:
    # torch takes seconds to import: only where something is trained
    import torch

    from aiqn_core.baselines import baseline_scores
    from aiqn_core.data import encode_png, load_data
    from aiqn_core.memory import cap_gpu
    from aiqn_core.parallel import ALONE
    from aiqn_core.training import Place, Progress, protocol, train, train_by_command

    if threads is not None:
        torch.set_num_threads(threads)
    if gpu:
        cap_gpu(gpu)
    load_kept(run.path, assignment.config.get("code"))
    config = TrainConfig.from_dict(assignment.config)
    try:
        data = load_data(config.data)
    except (ConfigError, OSError) as error:
        raise DataMissingError(f"{socket.gethostname()}: {error}") from error
    measured = protocol(config, data)
    write_config(folder, assignment, device(), measured)
    if not run.real.exists():
        write_bytes(run.real, encode_png(data.real_picture()))
    log.info("attempt on %s with %s threads, configuration %s", device(), torch.get_num_threads(), assignment.config)
    recorded = {record["step"]: record for record in folder.read_history()}
    computed: float | None
    computed = (folder.read_status().get("cpu_seconds") or 0.0) - time.process_time()  # of earlier attempts too
    told = -math.inf  # when the status was last written
    if config.command is None:
        measuring = train(config, folder.path, workers or ALONE, data)
    else:
        past = [Progress(one["step"], _metrics(one), one.get("time") or 0.0) for one in recorded.values()]
        measuring = train_by_command(config, data, Place(run.path, folder.path, threads, gpu), past)
        computed = None  # what a command computes, in processes of its own, is not counted
    for progress in watched(measuring, folder, silent_seconds, loads=config.command is None):
        record = recorded.get(progress.step) or progress.record()
        if progress.samples is not None and not folder.samples(progress.step).exists():
            write_bytes(folder.samples(progress.step), encode_png(data.picture(progress.samples)))
        if progress.step not in recorded:
            # Only evaluations are synced: their checkpoint is, and gives back what a crash takes of the others.
            evaluated = is_evaluation(record)
            folder.append_metrics([record], sync=evaluated)
            last = progress.step == config.train.steps
            if evaluated and (last or time.monotonic() - told > STATUS_SECONDS):
                told = time.monotonic()
                counted = {} if computed is None else {"cpu_seconds": round(computed + time.process_time(), 3)}
                folder.update_status(step=progress.step, **counted, sync=False)
            log.info("step %d of %d: %s", progress.step, config.train.steps, progress.metrics)
        yield record
    if run.baselines_of(measured) is None:
        try:
            run.add_baselines(measured, baseline_scores(config, data))
        except Exception as error:  # the trial is done, and its page is only less useful without them
            log.warning("what trivial generators score could not be recorded: %r", error)


def _metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """The measured numbers of a record."""
    return {name: value for name, value in record.items() if name not in ("step", "time")}


def is_evaluation(record: Mapping[str, Any]) -> bool:
    """Whether a record of metrics.jsonl holds scores of samples, not only the loss."""
    return "samples" in record


def write_config(folder: TrialFolder, assignment: Assignment, device: str, protocol: dict[str, Any]) -> None:
    """Record what the trial was asked to do, and on what it is done; `protocol` is {} until its data are loaded."""
    digest = config_hash(assignment.config)
    known = (folder.read_config() or {}).get("provenance") or {}
    if known.get("config_hash") == digest and (known.get("protocol") or not protocol):
        return  # the first attempt's provenance stays
    provenance = {
        "config_hash": digest,
        "git": git_state(),
        "versions": packages.recorded(assignment.config),
        "device": device,
        "protocol": protocol,
    }
    content = {"format": FORMAT, "trial": assignment.id, **asdict(assignment), "provenance": provenance}
    del content["causes"]
    write_json(folder.config, content)


def check_folder(folder: TrialFolder, assignment: Assignment) -> None:
    """Raises RunFolderError where the folder holds a trial that this one does not continue.

    Where a longer training differs from its start (a schedule in proportion to the steps), the shorter one is removed.
    """
    recorded = folder.read_config()
    if recorded is None:
        return
    before, after = settled(recorded["config"]), settled(assignment.config)
    changed = {key for key in {**before, **after} if before.get(key) != after.get(key)}
    if not changed:
        return
    trained, asked = (recorded["config"].get("train") or {}).get("steps"), assignment.config["train"]["steps"]
    if changed != {"train.steps"} or trained is None or trained > asked:
        raise RunFolderError(f"{folder.path} holds a trial of another configuration; delete it or rename the sweep")
    from aiqn_core.training import previous_checkpoint, resumable

    if settled(resumable(recorded["config"])) != settled(resumable(assignment.config)):
        for path in (folder.checkpoint, previous_checkpoint(folder.checkpoint), folder.metrics):
            path.unlink(missing_ok=True)
        shutil.rmtree(folder.samples(0).parent, ignore_errors=True)


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
