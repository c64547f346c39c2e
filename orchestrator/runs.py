"""The run folder: its paths, formats, atomic writers and readers. Standard library only.

runs/<sweep>/
  sweep.yaml      verbatim copy of the sweep file
  sweep.json      the sweep as resolved (overrides, environment), read by the mirror and the report
  plan.json       what it was expected to cost before it started
  study.journal   Optuna journal, the ledger of every trial
  trials/<arm>-<stage>-<number>/   config.json  metrics.jsonl  status.json  checkpoint.pt  samples/<step>.png  log.txt
  real.png        a grid of real images, to lay beside the samples
  mlflow.db  artifacts/            default tracking store
  mirror.json     what the MLflow mirror has sent, and how far it is behind
  cluster.json    the nodes, which of them are not used and why, and why trials wait
  submission.json the job that `aiqn submit` made: where, and under which name
  spent.json      hours that all starts of the sweep have taken together
  control/        requests from outside, polled by the driver
  report/
"""

import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.causes import FINISHED as FINISHED
from orchestrator.causes import Stage

FORMAT = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")  # of sweeps (also "-") and arms: never a path, never hidden
SWEEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
TRIAL_ID = re.compile(r"(?P<arm>[A-Za-z0-9][A-Za-z0-9_.]*)-(?P<stage>search|final)-(?P<number>\d+)")


class RunFolderError(Exception):
    """A run folder that is missing, damaged, of another format or in use by another driver."""


class StorageError(RunFolderError):
    """A run folder that could no longer be written: the sweep stopped, and continues when it is run again."""


@dataclass(frozen=True)
class Run:
    """One trial as recorded: what it was asked to do and what it measured."""

    arm: str
    stage: Stage
    number: int
    config: dict[str, Any]  # the full resolved configuration of the training
    history: list[dict[str, Any]]  # one record per line of metrics.jsonl, by increasing step
    state: str  # of State, or another word where the status is of another version
    cause: str | None = None
    params: dict[str, Any] = field(default_factory=dict)  # dotted path -> value chosen by the search
    seed: int = 0
    source: int | None = None  # of a final: the number of the search trial it re-trains
    status: dict[str, Any] = field(default_factory=dict)  # status.json: attempts, message, log, host, times
    provenance: dict[str, Any] = field(default_factory=dict)  # config_hash, git, versions, device, protocol
    folder: Path = Path()

    @property
    def id(self) -> str:
        return trial_id(self.arm, self.stage, self.number)

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) of every record that holds the metric."""
        return [(record["step"], record[metric]) for record in self.history if record.get(metric) is not None]


def trial_id(arm: str, stage: str, number: int) -> str:
    return f"{arm}-{stage}-{number}"


@dataclass(frozen=True)
class TrialFolder:
    """One trial's folder. Only the process that runs the trial writes here, the driver only when there is none."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    def samples(self, step: int) -> Path:
        return self.path / "samples" / f"{step}.png"

    def read_status(self) -> dict[str, Any]:
        return read_json(self.status) or {}

    def update_status(self, *, sync: bool = True, **changes: Any) -> None:
        write_json(self.status, {**self.read_status(), **changes, "updated": time.time()}, sync=sync)

    def read_history(self) -> list[dict[str, Any]]:
        """Records by increasing step, the first of each step; a torn last line is left out."""
        records: dict[int, dict[str, Any]] = {}
        for record in read_lines(self.metrics):
            records.setdefault(record["step"], record)
        return [records[step] for step in sorted(records)]

    def last_step(self) -> int | None:
        """The step of the last record, read from the end of the file; None where there is none."""
        try:
            with self.metrics.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
                lines = file.read().splitlines()
        except OSError:
            return None
        return next((record["step"] for line in reversed(lines) if (record := _record(line))), None)

    def last_sign(self) -> float:
        """When the trial last wrote anything, in seconds of unix time; 0 where it has not."""
        return max((path.stat().st_mtime for path in (self.metrics, self.status) if path.exists()), default=0.0)

    def append_metrics(self, records: list[Mapping[str, Any]], *, sync: bool = True) -> None:
        """Append records in one write; a line torn by an earlier crash is ended first."""
        text = "".join(json.dumps(dict(record)) + "\n" for record in records)
        with self.metrics.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    text = "\n" + text
            file.write(text.encode())
            file.flush()
            if sync:
                os.fsync(file.fileno())

    @contextmanager
    def claim(self, timeout: float = 60.0) -> Iterator[None]:
        """Hold the folder alone: a second attempt waits here until the process of the first is gone.

        Raises RunFolderError after `timeout` seconds.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a") as file:
            deadline = time.monotonic() + timeout
            while not _lock(file.fileno()):
                if time.monotonic() > deadline:
                    raise RunFolderError(f"{self.path}: another process still runs this trial after {timeout:.0f} s")
                time.sleep(0.1)
            yield


@dataclass(frozen=True)
class RunFolder:
    """Where everything of one sweep is kept."""

    path: Path

    @property
    def sweep_yaml(self) -> Path:
        return self.path / "sweep.yaml"

    @property
    def sweep_json(self) -> Path:
        return self.path / "sweep.json"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def journal(self) -> Path:
        return self.path / "study.journal"

    @property
    def trials(self) -> Path:
        return self.path / "trials"

    @property
    def real(self) -> Path:
        return self.path / "real.png"

    @property
    def mirror(self) -> Path:
        return self.path / "mirror.json"

    @property
    def cluster(self) -> Path:
        return self.path / "cluster.json"

    @property
    def submission(self) -> Path:
        return self.path / "submission.json"

    @property
    def spent(self) -> Path:
        return self.path / "spent.json"

    @property
    def control(self) -> Path:
        return self.path / "control"

    @property
    def report(self) -> Path:
        return self.path / "report"

    def trial(self, trial: str) -> TrialFolder:
        """The folder of `<arm>-<stage>-<number>`; raises ValueError for anything else."""
        if not TRIAL_ID.fullmatch(trial):
            raise ValueError(f"saw {trial!r}, expected <arm>-<stage>-<number>, for example pixelcnn-search-0")
        return TrialFolder(self.trials / trial)

    def read_sweep(self) -> dict[str, Any]:
        """sweep.json; raises RunFolderError where it is missing or of another format."""
        sweep = read_json(self.sweep_json)
        if sweep is None:
            raise RunFolderError(f"{self.path}: not a run folder ({self.sweep_json.name} is missing or damaged)")
        if sweep.get("format") != FORMAT:
            raise RunFolderError(f"{self.sweep_json}: saw format {sweep.get('format')!r}, this version reads {FORMAT}")
        return sweep

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run folder as its only driver; raises RunFolderError naming the one that holds it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / "lock").open("a+")
        except OSError as error:
            raise RunFolderError(f"{self.path}: cannot be written ({error.strerror}); choose another") from error
        with file:
            if not _lock(file.fileno()):
                file.seek(0)
                owner = file.read().strip() or "an unknown process"
                raise RunFolderError(f"{self.path} is in use by {owner}. Wait for it, or stop it, then run again.")
            file.truncate(0)
            file.write(f"pid {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield

    @contextmanager
    def mirror_lock(self) -> Iterator[None]:
        """Wait until no other mirror sends this run: two at once would create each run twice."""
        with (self.path / "mirror.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def owner(self) -> str | None:
        """The driver that holds the run folder, in words; None where no driver runs."""
        try:
            with (self.path / "lock").open("r+") as file:
                return None if _lock(file.fileno()) else file.read().strip() or "an unknown process"
        except OSError:
            return None


def objectives(sweep: Mapping[str, Any]) -> list[dict[str, str]]:
    """The objectives of a resolved sweep (metric, direction); the first decides where one is needed."""
    written = sweep["search"]["objective"]
    return written if isinstance(written, list) else [written]


def load_runs(run_folder: Path | str) -> list[Run]:
    """Every trial of a run folder, ordered by arm, stage (search first) and number.

    Raises RunFolderError where the folder is missing. A trial without a readable config.json has not started and is
    left out; one without status.json is "running".
    """
    folder = RunFolder(Path(run_folder))
    if not folder.path.is_dir():
        raise RunFolderError(f"{folder.path}: no such run folder")
    runs = [load_run(folder, path.name) for path in folder.trials.glob("*") if TRIAL_ID.fullmatch(path.name)]
    order = list(Stage)
    return sorted((run for run in runs if run), key=lambda run: (run.arm, order.index(run.stage), run.number))


def load_run(run: RunFolder, trial: str) -> Run | None:
    """One trial of a run folder, or None where it has not started."""
    folder, match = run.trial(trial), TRIAL_ID.fullmatch(trial)
    recorded = read_json(folder.config)
    if recorded is None or match is None:
        return None
    if recorded.get("format") != FORMAT:
        raise RunFolderError(f"{folder.config}: saw format {recorded.get('format')!r}, this version reads {FORMAT}")
    status = folder.read_status()
    return Run(
        arm=match["arm"],
        stage=Stage(match["stage"]),
        number=int(match["number"]),
        config=recorded["config"],
        history=folder.read_history(),
        state=status.get("state", "running"),
        cause=status.get("cause"),
        params=recorded["params"],
        seed=recorded["seed"],
        source=recorded["source"],
        status=status,
        provenance=recorded["provenance"],
        folder=folder.path,
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None where there is no such file or it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file that can be read; lines torn by a crash are skipped."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    yield from filter(None, map(_record, lines))


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def write_json(path: Path, value: Mapping[str, Any], *, sync: bool = True) -> None:
    """Write atomically: readers see the old text or the new one, never half of it."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode(), sync=sync)


def write_bytes(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write to a temporary name beside `path`, sync, rename; what can be made again at any time needs no sync."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:  # the disk is full: the half that was written goes
        temporary.unlink(missing_ok=True)
        raise


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
