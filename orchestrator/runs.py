"""The run folder: its paths, formats, atomic writers and readers. Standard library only.

runs/<sweep>/
  sweep.yaml      verbatim copy of the sweep file
  sweep.json      the sweep as resolved (overrides, environment), read by the mirror and the report
  plan.json       what it was expected to cost before it started
  study.journal   Optuna journal, the ledger of every trial
  trials/<arm>-<stage>-<number>/   config.json  metrics.jsonl  status.json  checkpoint.pt  samples/<step>.png  log.txt
  real.png        a grid of real images, to lay beside the samples
  baselines.json  what trivial generators score under each protocol of the trials
  mlflow.db  artifacts/            default tracking store
  mirror.json     what the MLflow mirror has sent, and how far it is behind
  cluster.json    the nodes, which of them are not used and why, and why trials wait
  submission.json the job that `aiqn submit` made: where, and under which name
  spent.json      hours that all starts of the sweep have taken together
  finished.json   how the folder looked when every trial had ended, by which the next start knows it without reading it
  code/<hash>/    somebody's own code, each version that trials ran with
  aside/<arm>-<n> trials that no longer count: a run folder of its own for those who read (see `orchestrator.aside`)
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from aiqn_core.metric import judged_by
from orchestrator import shapes
from orchestrator.causes import FINISHED as FINISHED
from orchestrator.causes import RECORDED, Stage, State
from orchestrator.clocks import Awake

FORMAT = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")  # of sweeps (also "-") and arms: never a path, never hidden
SWEEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
TRIAL_ID = re.compile(r"(?P<arm>[A-Za-z0-9][A-Za-z0-9_.]*)-(?P<stage>search|final)-(?P<number>\d+)")
DAMAGED = "damaged"  # shown in place of the state of a trial whose files cannot be used


class RunFolderError(Exception):
    """A run folder that is missing, damaged, of another format or in use by another driver."""


class StorageError(RunFolderError):
    """A run folder that could no longer be written: the sweep stopped, and continues when it is run again."""


NO_JSON = "it is not complete JSON"


class Damage(NamedTuple):
    """A file that is there but cannot be used, and why."""

    file: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: damaged, {self.reason}"


@dataclass(frozen=True)
class Run:
    """One trial as recorded: what it was asked to do and what it measured."""

    arm: str
    stage: Stage
    number: int
    config: dict[str, Any]  # the full resolved configuration of the training
    history: list[dict[str, Any]]  # one record per line of metrics.jsonl, by increasing step
    state: str  # of State, or "damaged", or another word where the status is of another version
    cause: str | None = None
    params: dict[str, Any] = field(default_factory=dict)  # dotted path -> value chosen by the search
    seed: int = 0
    source: int | None = None  # of a final: the number of the search trial it re-trains
    status: dict[str, Any] = field(default_factory=dict)  # status.json: attempts, message, log, host, times
    provenance: dict[str, Any] = field(default_factory=dict)  # config_hash, git, versions, device, protocol
    folder: Path = Path()
    damage: Damage | None = None  # why the state is "damaged"; the fields that its file tells are then empty

    @property
    def id(self) -> str:
        return trial_id(self.arm, self.stage, self.number)

    @property
    def span(self) -> tuple[float, float] | None:
        """When the trial began and when it last wrote its status, in unix seconds; None where that is not recorded."""
        begin, end = self.status.get("started"), self.status.get("updated")
        return None if begin is None or end is None else (begin, end)

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) of every record that holds the metric."""
        return [(record["step"], record[metric]) for record in self.history if record.get(metric) is not None]

    def judged(self, metric: str) -> list[tuple[int, float]]:
        """The same with what stands for the metric at rungs, where these are evaluated with fewer samples."""
        values = ((record["step"], judged_by(record, metric)) for record in self.history)
        return [(step, value) for step, value in values if value is not None]


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

    def read_config(self) -> dict[str, Any] | None:
        """config.json; None where there is none that can be used."""
        return read_json(self.config, shapes.CONFIG)

    def read_status(self) -> dict[str, Any]:
        """status.json; empty where there is none that can be used."""
        return read_json(self.status, shapes.STATUS) or {}

    def update_status(self, *, sync: bool = True, **changes: Any) -> None:
        write_json(self.status, {**self.read_status(), **changes, "updated": time.time()}, sync=sync)

    def read_history(self) -> list[dict[str, Any]]:
        """Records by increasing step, the first of each step; lines that cannot be used are left out."""
        return self.examine_history()[0]

    def examine_history(self) -> tuple[list[dict[str, Any]], Damage | None]:
        """`read_history`, and what is wrong with the file: not lines torn by a crash, which are measured again."""
        records: dict[int, dict[str, Any]] = {}
        damage = None
        try:
            lines = self.metrics.read_bytes().splitlines()
        except FileNotFoundError:
            lines = []
        except OSError as error:
            return [], Damage(self.metrics, f"cannot be read ({error.strerror})")
        for number, line in enumerate(lines, start=1):
            record = _record(line)
            if isinstance(record, str):
                damage = damage or Damage(self.metrics, f"line {number}: {record}")
            elif record is not None:
                records.setdefault(record["step"], record)
        return [records[step] for step in sorted(records)], damage

    def last_step(self) -> int | None:
        """The step of the last record, read from the end of the file; None where there is none."""
        try:
            with self.metrics.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
                lines = file.read().splitlines()
        except OSError:
            return None
        found = (record for line in reversed(lines) if isinstance(record := _record(line), dict))
        return next((record["step"] for record in found), None)

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
            awake = Awake()
            while not _lock(file.fileno()):
                if awake() > timeout:
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
    def baselines(self) -> Path:
        return self.path / "baselines.json"

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
    def finished(self) -> Path:
        return self.path / "finished.json"

    @property
    def code(self) -> Path:
        return self.path / "code"

    @property
    def aside(self) -> Path:
        return self.path / "aside"

    @property
    def mlflow(self) -> Path:
        """In a folder of `aside`: MLflow's runs of its trials."""
        return self.path / "mlflow.json"

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
        """sweep.json; raises RunFolderError where it is missing, damaged or of another format."""
        sweep = self.sweep_if_begun()
        if sweep is None:
            raise RunFolderError(f"{self.path}: not a run folder ({self.sweep_json.name} is missing)")
        return sweep

    def sweep_if_begun(self) -> dict[str, Any] | None:
        """sweep.json, or None where no sweep has begun in this folder.

        Raises RunFolderError where it is damaged or of another format, or where only it is missing.
        """
        found = read_checked(self.sweep_json, shapes.SWEEP)
        if isinstance(found, Damage):
            raise RunFolderError(f"{found}. {_PUT_BACK}")
        if found is None and (left := [path for path in (self.journal, self.trials) if path.exists()]):
            seen = " and ".join(path.name for path in left)
            raise RunFolderError(f"{self.sweep_json} is missing, but {seen} of a sweep are here. {_PUT_BACK}")
        return found

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

    def read_baselines(self) -> list[dict[str, Any]]:
        """Protocols and what trivial generators score under them; empty where nothing of it can be read."""
        found = (read_json(self.baselines) or {}).get("baselines")
        return [one for one in found if _is_baseline(one)] if isinstance(found, list) else []

    def baselines_of(self, protocol: Mapping[str, Any]) -> dict[str, dict[str, float]] | None:
        """Generator -> metric -> value under a trial's protocol; None where it is not known."""
        wanted = without_model(protocol)
        return next((one["scores"] for one in self.read_baselines() if one["protocol"] == wanted), None)

    def add_baselines(self, protocol: Mapping[str, Any], scores: Mapping[str, Mapping[str, float]]) -> None:
        """Record the scores of one protocol; those of others stay. Trials that end at the same time wait here."""
        with (self.path / "baselines.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            others = [one for one in self.read_baselines() if one["protocol"] != without_model(protocol)]
            added = {"protocol": without_model(protocol), "scores": scores}
            write_json(self.baselines, {"format": FORMAT, "baselines": [*others, added]})

    @contextmanager
    def mirror_lock(self) -> Iterator[None]:
        """Wait until no other mirror sends this run: two at once would create each run twice."""
        with (self.path / "mirror.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @property
    def mirrored(self) -> bool:
        """Whether a mirror is sending this run."""
        try:
            with (self.path / "mirror.lock").open("r+") as file:
                return not _lock(file.fileno())
        except OSError:
            return False

    def owner(self) -> str | None:
        """The driver that holds the run folder, in words; None where no driver runs."""
        try:
            with (self.path / "lock").open("r+") as file:
                return None if _lock(file.fileno()) else file.read().strip() or "an unknown process"
        except OSError:
            return None


def without_model(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol without what concerns only the model that is scored."""
    return {key: value for key, value in protocol.items() if key not in ("model_weights", "labels", "drawn_by")}


def _is_baseline(value: Any) -> bool:
    if not isinstance(value, dict) or not all(isinstance(value.get(key), dict) for key in ("protocol", "scores")):
        return False
    scores = value["scores"].values()
    return all(isinstance(one, dict) and all(isinstance(n, int | float) for n in one.values()) for one in scores)


_PUT_BACK = "Put back a copy of sweep.json (MLflow keeps one with the sweep), or give the sweep another name."


def objectives(sweep: Mapping[str, Any]) -> list[dict[str, str]]:
    """The objectives of a resolved sweep (metric, direction); the first decides where one is needed."""
    written = sweep["search"]["objective"]
    return written if isinstance(written, list) else [written]


def load_runs(run_folder: Path | str, state: State | None = None) -> list[Run]:
    """Every trial of a run folder, or only those of a state, ordered by arm, stage (search first) and number.

    Raises RunFolderError where the folder is missing. A trial without config.json has not started and is left out; one
    without status.json is "running"; one with a file that cannot be used is "damaged".
    """
    folder = RunFolder(Path(run_folder))
    if not folder.path.is_dir():
        raise RunFolderError(f"{folder.path}: no such run folder")
    try:
        names = [path.name for path in folder.trials.iterdir()]
    except FileNotFoundError:
        names = []
    except OSError as error:  # `glob` would pass over it: nothing would seem to have started
        raise RunFolderError(f"{folder.trials}: cannot be read ({error.strerror})") from error
    names = [name for name in names if TRIAL_ID.fullmatch(name)]
    if state is not None:  # their status alone says it, and is read in no time
        names = [name for name in names if folder.trial(name).read_status().get("state") == state]
    runs = [run for name in names if (run := load_run(folder, name)) and state in (None, run.state)]
    order = list(Stage)
    return sorted(runs, key=lambda run: (run.arm, order.index(run.stage), run.number))


def load_run(run: RunFolder, trial: str) -> Run | None:
    """One trial of a run folder, or None where it has not started."""
    folder, match = run.trial(trial), TRIAL_ID.fullmatch(trial)
    assert match is not None  # `run.trial` has looked
    recorded, status = read_checked(folder.config, shapes.CONFIG), read_checked(folder.status, shapes.STATUS)
    if recorded is None and (not isinstance(status, dict) or status.get("state") not in RECORDED):
        return None
    history, damage = folder.examine_history()
    found = {folder.config: recorded, folder.status: status, folder.metrics: damage}
    return run_of(match, {file.relative_to(run.path): one for file, one in found.items()}, history, folder.path)


def run_of(
    trial: re.Match[str],
    files: Mapping[Path, dict[str, Any] | Damage | None],
    history: list[dict[str, Any]],
    folder: Path,
) -> Run:
    """The run of a trial (a match of TRIAL_ID) from its configuration, its status and the damage of its history.

    `files` holds these, in this order, under the names by which they are told. The run is damaged where one of them
    is, where there is no configuration, or where the history ends before the step at which the trial completed.
    """
    config, status, metrics = files
    damages = [one._replace(file=name) for name, one in files.items() if isinstance(one, Damage)]
    recorded, known = ({} if isinstance(one, Damage) else one or {} for one in (files[config], files[status]))
    if files[config] is None:
        damages.append(Damage(config, "it is missing"))
    elif not damages and known.get("state") == "completed" and (last := _last(history)) < (known.get("step") or 0):
        damages.append(Damage(metrics, f"it ends at step {last}, but the trial at step {known['step']}"))
    if damages:
        known = {**known, "state": DAMAGED, "cause": damages[0].file.name, "message": str(damages[0])}
    return Run(
        arm=trial["arm"],
        stage=Stage(trial["stage"]),
        number=int(trial["number"]),
        config=recorded.get("config", {}),
        history=history,
        state=known.get("state") or "running",
        cause=known.get("cause"),
        params=recorded.get("params", {}),
        seed=recorded.get("seed", 0),
        source=recorded.get("source"),
        status=known,
        provenance=recorded.get("provenance", {}),
        folder=folder,
        damage=damages[0] if damages else None,
    )


def _last(history: list[dict[str, Any]]) -> int:
    return history[-1]["step"] if history else 0


def read_json(path: Path, shape: Any = dict) -> dict[str, Any] | None:
    """The object in a JSON file, or None where there is no such file or it is damaged, as `read_checked` says."""
    found = read_checked(path, shape)
    return None if isinstance(found, Damage) else found


def read_checked(path: Path, shape: Any) -> dict[str, Any] | Damage | None:
    """The object in a JSON file, of one of the shapes in `shapes`; what is wrong with it; None where there is no file.

    The one way in which the files of a run folder are read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        return Damage(path, f"it cannot be read ({error.strerror})")
    except ValueError:
        return Damage(path, NO_JSON)
    return checked(text, shape, path)


def checked(text: str, shape: Any, where: Path) -> dict[str, Any] | Damage:
    """The object in a JSON text, of one of the shapes in `shapes`; or what is wrong with it, said of `where`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return Damage(where, NO_JSON)
    if isinstance(value, dict) and value.get("format", FORMAT) != FORMAT:
        return Damage(where, f"saw format {str(value['format'])[:20]!s}, this version reads {FORMAT}")
    reason = shapes.wrong(value, shape)
    return Damage(where, reason) if reason else value


def _record(line: bytes) -> dict[str, Any] | str | None:
    """The record in a line of metrics.jsonl; in words what is wrong with it; None where it is torn."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return None
    return shapes.wrong_record(record) or record


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
    except OSError as error:  # the disk is full: the half that was written goes
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        error.filename = str(path)  # as the user knows it
        raise


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
