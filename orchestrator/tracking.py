"""The MLflow mirror: a process beside the driver that reads the run folder and sends what is new. The only writer.

Sending again is harmless: every point keeps the time it was measured at, runs are found again by their tags, and a
server that is away is waited for. Nothing here can reach, slow or stop a trial.
"""

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from aiqn_core.config import dotted
from orchestrator.bulk import Parcel, writer_for
from orchestrator.lifeline import answers
from orchestrator.moved import bring_home, home
from orchestrator.runs import Run, RunFolder, RunFolderError, load_run, objectives, read_json, write_json
from orchestrator.stores import OUTDATED, Store, kept, plain, store_of_run, without_password
from orchestrator.watch import Signature, Watch

if TYPE_CHECKING:
    from mlflow import MlflowClient

# What a report needs besides metrics, as JSON. MLflow's pages hide tags that begin with "mlflow."
RECORDED_TAG = "mlflow.aiqn.recorded"  # config.json
STATUS_TAG = "mlflow.aiqn.status"  # status.json
REPLACED_TAG = "mlflow.aiqn.replaced"  # of a run that the mirror deleted because there is another in its place
LONGEST_TAG = 8000  # MLflow's limit; it cuts what is longer in silence
POLL_SECONDS = 1.0
ANSWER_SECONDS = 1.0  # in which a server on this machine answers
STATE_SECONDS = 5.0  # between two notes of how far the mirror is, while nothing else changes
PATIENCE_SECONDS = 60.0  # how long the end of a sweep waits for a server that is away
YOUNG_SECONDS = 2.0  # of a running trial
NICENESS = 5  # trials go first
STATUS = {
    "running": "RUNNING",
    "completed": "FINISHED",
    "pruned": "FINISHED",
    "parked": "FINISHED",  # and RUNNING again, should it be promoted
    "diverged": "FAILED",
    "failed": "FAILED",
    "stopped": "KILLED",
}
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a request that is sent twice may create two runs
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
PARENT, MARK = "sweep", "mirrored_all"  # the parent run's tag `role`, and the tag that names what the store holds
STORE_LOST = 75  # the exit code where the store's file was deleted under us


def default_uri(run: RunFolder) -> str:
    """The tracking store used where the sweep file names none: SQLite inside the run folder."""
    path = str(run.path.resolve() / "mlflow.db")
    if "%" not in path and "?" not in path:
        return f"sqlite:///{path}"
    # SQLAlchemy reads the path as part of a URL; where no driver is named, MLflow makes a folder of the quoted name.
    return f"sqlite+pysqlite:///{quote(path)}"


@dataclass
class Sent:
    """What the store holds of one trial."""

    run_id: str
    records: int = 0
    state: str = ""
    status: str = "RUNNING"  # MLflow's
    images: set[int] = field(default_factory=set)
    described: bool = True  # whether its parameters are there
    config_hash: str = ""


class Mirror:
    """Sends the difference between a run folder and its MLflow experiment."""

    def __init__(self, run: RunFolder, client: "MlflowClient") -> None:
        self.run, self.client, self.writer = run, client, writer_for(client)
        self.sweep = run.read_sweep()
        self.experiment = self._experiment()
        self.sent: dict[str, Sent] = {}
        self.deleted: set[str] = set()  # the experiment's deleted runs, as far as they are known
        self.attached: dict[str, int] = {}  # files of the whole sweep, by the time of their last change when sent
        self.parent = ""
        for known in found_runs(client, self.experiment, f"tags.run_folder = '{self.sweep['id']}'"):
            self._take_up(known)
        self.gone = self._look_for_deleted() - self.sent.keys()  # trials whose runs somebody deleted: they stay so
        if not self.parent:
            self.parent = self._create_parent()
        else:
            self.client.update_run(self.parent, "RUNNING")

    def _take_up(self, known: Any) -> None:
        """Take note of a run in the store; of two for one trial (a lost answer to a request) the emptier one goes."""
        tags = known.data.tags
        if "trial" not in tags:
            self.parent = known.info.run_id
            return
        records, described = int(tags.get("mirrored", 0)), bool(known.data.params)
        digest, state = tags.get("config_hash", ""), tags.get("state", "")
        if known.info.status == "RUNNING" and STATUS.get(state, "RUNNING") != "RUNNING":  # cut off while it was sent
            records, described = 0, False
        sent = Sent(known.info.run_id, records, state, known.info.status, described=described, config_hash=digest)
        other = self.sent.get(tags["trial"], sent)
        self.sent[tags["trial"]] = max(other, sent, key=lambda one: one.records)
        if other is not sent:
            self._replace(min(other, sent, key=lambda one: one.records))

    def _look_for_deleted(self) -> set[str]:
        """Take note of all deleted runs of the experiment; the trials of those that were not deleted by a mirror."""
        found = deleted_runs(self.client, self.experiment)
        self.deleted = {run.info.run_id for run in found}
        own = [run.data.tags for run in found if run.data.tags.get("run_folder") == self.sweep["id"]]
        return {tags["trial"] for tags in own if "trial" in tags and REPLACED_TAG not in tags}

    def _replace(self, sent: Sent) -> None:
        """Delete a run in whose place there is another."""
        self.client.set_tag(sent.run_id, REPLACED_TAG, "true")
        self.client.delete_run(sent.run_id)

    def is_behind(self, trial: str, records: int, state: str) -> bool:
        """Whether the store lacks something of a trial that has so many records and this state."""
        if trial in self.gone:
            return False
        sent = self.sent.get(trial)
        return sent is None or sent.records < records or (sent.state, sent.status) != (state, STATUS[state])

    def sync(self, runs: Iterable[Run]) -> None:
        """Bring the store up to date with the runs; raises whatever the store raises."""
        self._attach()
        behind = (run for run in runs if self.is_behind(run.id, len(run.history), run.state))
        while together := list(islice(behind, self.writer.together)):
            self._send(together)

    def _send(self, runs: list[Run]) -> None:
        parcels = [self._parcel(run) for run in runs]
        self.writer.write(self.experiment, parcels)
        for run, parcel in zip(runs, parcels, strict=True):
            sent = self.sent.setdefault(run.id, Sent(parcel.run_id, config_hash=run.provenance.get("config_hash", "")))
            self._send_images(run, sent)
        # The status goes last. A run that still runs, though its tags say that it has ended, is sent again from the
        # beginning (see `_take_up`); everything in it is stored once all the same.
        self.writer.end(parcels)
        for run in runs:
            sent = self.sent[run.id]
            sent.records, sent.state, sent.status = max(sent.records, len(run.history)), run.state, STATUS[run.state]
            sent.described = True

    def _parcel(self, run: Run) -> Parcel:
        """What the store lacks of a trial."""
        from mlflow.entities import Metric

        sent, digest = self.sent.get(run.id), run.provenance.get("config_hash", "")
        if sent is not None and sent.config_hash != digest:  # a final that is longer now, and may have begun anew
            self._replace(sent)
            del self.sent[run.id]
            sent = None
        metrics = [
            Metric(key, float(value), int((record.get("time") or 0) * 1000), record["step"])
            for record in run.history[sent.records if sent else 0 :]
            for key, value in record.items()
            if key not in ("step", "time") and isinstance(value, (int, float)) and math.isfinite(value)
        ]
        described = sent is not None and sent.described
        params = {} if described else {key: str(value) for key, value in dotted(run.config) if value is not None}
        status, note = STATUS[run.state], {"mirrored": str(len(run.history))}
        tags = {"state": run.state, "cause": run.cause or "", STATUS_TAG: told(run.status)}
        created = self._tags_of(run) | tags | (note if status != "RUNNING" else {})
        changed = status != (sent.status if sent else "RUNNING")
        return Parcel(
            sent.run_id if sent else "",
            run.id,
            milliseconds(run.status.get("started", time.time())),
            created,
            metrics,
            params,
            tags | note if sent else {key: value for key, value in note.items() if key not in created},
            status if changed else None,
            milliseconds(run.status.get("updated", time.time())) if status != "RUNNING" else None,
        )

    def _attach(self) -> None:
        """Attach the files of the whole sweep to the parent run, each when it has changed."""
        for path in attachments(self.run):
            if path.exists() and (changed := path.stat().st_mtime_ns) != self.attached.get(path.name):
                self.client.log_artifact(self.parent, str(path))
                self.attached[path.name] = changed

    def finish(self, mark: str = "") -> None:
        """Attach the report and the sweep's state to the parent run, whose description is the answer.

        No run stays RUNNING that nobody trains.
        """
        left, now = [sent for sent in self.sent.values() if sent.status == "RUNNING"], milliseconds(time.time())
        self.writer.end([Parcel(sent.run_id, "", 0, {}, status="KILLED", ended=now) for sent in left])
        for sent in left:
            sent.status = "KILLED"
        if self.run.report.is_dir():
            self.client.log_artifacts(self.parent, str(self.run.report), "report")
        if (answer := self.run.report / "answer.md").exists():
            self.client.set_tag(self.parent, "mlflow.note.content", answer.read_text())
        finished = bool(self.run.read_sweep().get("finished"))
        self._attach()
        self.client.set_terminated(self.parent, "FINISHED" if finished else "KILLED")
        self.client.set_tag(self.parent, MARK, mark)
        self._look_for_deleted()

    def _send_images(self, run: Run, sent: Sent) -> None:
        from PIL import Image

        times = {record["step"]: record["time"] for record in run.history}
        steps = {int(path.stem) for path in (run.folder / "samples").glob("*.png") if path.stem.isdigit()}
        new = sorted((steps & times.keys()) - sent.images)
        if not new:
            return
        if not sent.images:  # this process has sent none: an earlier one may have
            names = [Path(file.path).name for file in self.client.list_artifacts(sent.run_id, "images")]
            sent.images = {int(name.split("+")[2]) for name in names if name.startswith("samples+step+")}
            if sent.images:  # MLflow's own mark of a run with images, for which an earlier process may not have lived
                self.client.set_tag(sent.run_id, "mlflow.loggedImages", True)
        for step in new:
            if step not in sent.images:
                with Image.open(run.folder / "samples" / f"{step}.png") as image:
                    stamp = int(times[step] * 1000)
                    self.client.log_image(sent.run_id, image.copy(), key="samples", step=step, timestamp=stamp)
                sent.images.add(step)

    def _tags_of(self, run: Run) -> dict[str, str]:
        """The tags of a trial's run that never change."""
        git = run.provenance.get("git", {})
        own = {
            "arm": run.arm,
            "stage": run.stage,
            "trial": run.id,
            "seed": str(run.seed),
            "config_hash": run.provenance.get("config_hash", ""),
            "git_commit": git.get("commit") or "",
            "mlflow.parentRunId": self.parent,
            RECORDED_TAG: recorded(run),
        }
        source = {} if run.source is None else {"source": f"{run.arm}-search-{run.source}"}
        return self._common_tags() | own | source

    def _common_tags(self) -> dict[str, str]:
        """The tags of every run of the sweep."""
        return {"sweep": self.sweep["name"], "run_folder": self.sweep["id"], "mlflow.source.name": "aiqn sweep"}

    def _create_parent(self) -> str:
        tags, started = self._common_tags() | {"role": PARENT}, milliseconds(self.sweep["created"])
        run = self.client.create_run(self.experiment, started, tags, self.sweep["name"])
        run_id: str = run.info.run_id
        return run_id

    def _experiment(self) -> str:
        name, local = self.sweep["name"], not kept(self.sweep).served
        known = self.client.get_experiment_by_name(name)
        if known is not None:
            if known.lifecycle_stage == "deleted":
                self._restore(known.experiment_id)
            return known.experiment_id
        location = home(self.run) if local else None  # a database alone would take the folder it is written from
        # The kind opens MLflow's page of training runs rather than that of language models.
        return self.client.create_experiment(
            name, artifact_location=location, tags={"mlflow.experimentKind": "custom_model_development"}
        )

    def _restore(self, experiment: str) -> None:
        """Restore an experiment; runs that had been deleted before it, which MLflow restores too, are deleted again."""
        before = set((read_json(self.run.mirror) or {}).get("deleted", []))
        replaced = {run.info.run_id for run in deleted_runs(self.client, experiment) if REPLACED_TAG in run.data.tags}
        self.client.restore_experiment(experiment)
        for run in sorted(before | replaced):
            with suppress(Exception):  # gone for good, or deleted still
                self.client.delete_run(run)


def milliseconds(seconds: float) -> int:
    """Of unix time, as MLflow counts it."""
    return int(seconds * 1000)


def found_runs(client: "MlflowClient", experiment: str, where: str, view: int = 1) -> Iterator[Any]:
    """Every run of an experiment that a filter finds, page by page; `view` is MLflow's, 1 for those not deleted."""
    token = None
    while True:
        page = client.search_runs([experiment], where, view, 1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def deleted_runs(client: "MlflowClient", experiment: str) -> list[Any]:
    """Every deleted run of an experiment."""
    from mlflow.entities import ViewType

    return list(found_runs(client, experiment, "", ViewType.DELETED_ONLY))


def attachments(run: RunFolder) -> tuple[Path, ...]:
    """The files of the whole sweep that the parent run holds."""
    return (run.sweep_yaml, run.sweep_json, run.plan, run.real, run.baselines)


def sent_as_files(run: RunFolder) -> tuple[Path, ...]:
    """The files whose changes say that there is something to send beside the trials."""
    return (*attachments(run), run.report / "index.html")


def recorded(run: Run) -> str:
    """What config.json holds, as JSON; without the configuration where that is too long for a tag."""
    content = {
        "config": run.config,
        "params": run.params,
        "seed": run.seed,
        "source": run.source,
        "provenance": run.provenance,
    }
    text = json.dumps(content)
    return text if len(text) <= LONGEST_TAG else json.dumps({**content, "config": {}})


def told(status: Mapping[str, Any]) -> str:
    """What status.json holds, as JSON; with less of its message and causes where that is too long for a tag."""
    text = json.dumps(status)
    if len(text) <= LONGEST_TAG:
        return text
    return json.dumps({**status, "message": str(status.get("message"))[:600], "causes": status.get("causes", [])[-9:]})


def mirrored_already(run: RunFolder, client: "MlflowClient", mark: str) -> str | None:
    """The experiment whose parent run says that it holds just this; None where there is none, or the store was lost."""
    sweep = run.read_sweep()
    experiment = client.get_experiment_by_name(sweep["name"])
    if experiment is None:
        return None
    where = f"tags.run_folder = '{sweep['id']}' and tags.role = '{PARENT}'"
    runs = client.search_runs([experiment.experiment_id], where)
    return experiment.experiment_id if any(found.data.tags.get(MARK) == mark for found in runs) else None


def fingerprint(run: RunFolder, uri: str, signatures: Mapping[str, Signature]) -> str | None:
    """A name for a run folder and the file of its store as they are now; None for a store that is not one file.

    `signatures` are those of the trials' files as they were when they were read.
    """
    store = database(run, uri)
    if store is None or not store.exists() or Path(f"{store}-wal").exists():
        return None
    others = [(path.name, path.stat().st_mtime_ns) for path in sent_as_files(run) if path.exists()]
    about = store.stat()
    content = [sorted(signatures.items()), others, about.st_ino, about.st_size, about.st_mtime_ns]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def nothing_to_send(run: RunFolder, uri: str | None, signatures: Mapping[str, Signature]) -> bool:
    """Whether a mirror has sent all of a run folder to a file of ours, and neither was touched since.

    Known without MLflow, which takes seconds to import.
    """
    whole = (read_json(run.mirror) or {}).get("whole")
    return whole is not None and whole == fingerprint(run, uri or default_uri(run), signatures)


class Progress:
    """What the run folder holds and how much of it the store lacks."""

    def __init__(self, run: RunFolder, uri: str) -> None:
        self.run, self.uri, self.watch = run, uri, Watch(run)
        self.recorded: dict[str, tuple[int, str]] = {}  # trial -> its records and state
        self.target: Mirror | None = None
        self.deleted: list[str] | None = None  # where the store holds everything: its deleted runs
        self.behind_since: float | None = None
        self.at_home = False  # whether the addresses in the store were looked at
        self._written: dict[str, Any] = {}
        self._when = 0.0

    def look(self) -> None:
        """Take note of what has changed in the run folder."""
        for run in self.watch.changed():
            self.recorded[run.id] = (len(run.history), run.state)

    def mark(self) -> str:
        """A name for all that there is to send."""
        changed = [path.stat().st_mtime_ns for path in sent_as_files(self.run) if path.exists()]
        content = [sorted(self.recorded.items()), changed, self.run.read_sweep()["finished"]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def waiting(self) -> list[str]:
        """The trials of which the store lacks something, as far as is known."""
        target = self.target
        return [trial for trial, known in self.recorded.items() if target is None or target.is_behind(trial, *known)]

    def lacking(self, trial: str) -> int:
        """How many records the store lacks of a trial."""
        sent = self.target.sent.get(trial) if self.target else None
        return max(0, self.recorded[trial][0] - (sent.records if sent else 0))

    def send(self, client: "MlflowClient", last: bool) -> None:
        """Send what is missing; raises whatever the store raises, after which the store is asked anew what it holds."""
        if not self.at_home and not Store(self.uri, "").served:
            bring_home(self.run, self.uri, own=self.uri == default_uri(self.run))
        self.at_home = True
        mark = self.mark() if last else ""
        if last and self.target is None and (experiment := mirrored_already(self.run, client, mark)) is not None:
            self.deleted = sorted(run.info.run_id for run in deleted_runs(client, experiment))
            return
        try:
            self.target = self.target or Mirror(self.run, client)
            self.target.sync(self._unsent(last))
            if last:
                self.target.finish(mark)
        except Exception:
            self.target = None
            raise

    def _unsent(self, last: bool) -> Iterator[Run]:
        for trial in self.waiting():
            self.note("", last=False)  # while much is sent, how far it is
            run = load_run(self.run, trial)
            if run is None or run.damage is not None:
                continue
            young = run.state == "running" and time.time() - run.status.get("started", 0.0) < YOUNG_SECONDS
            if last or not young:  # many end at once, and then are sent once
                yield run

    def note(self, error: str, last: bool) -> None:
        """Record what was sent, for `aiqn status` and the ledger; now and then, unless something has changed."""
        known = self._written.get("error", "") == (error or None)
        if known and not last and time.monotonic() < self._when + STATE_SECONDS:
            return
        behind = [] if last and not error else self.waiting()
        self.behind_since = (self.behind_since or time.time()) if behind else None
        state: dict[str, Any] = {
            "uri": without_password(self.uri),
            "error": error or None,
            "records_behind": sum(map(self.lacking, behind)),
            "behind_since": self.behind_since,
            "whole": fingerprint(self.run, self.uri, self.watch.seen) if last and not error else None,
        }
        if self.target is not None:
            runs = {trial: sent.run_id for trial, sent in self.target.sent.items()}
            state |= {"experiment": self.target.experiment, "parent": self.target.parent, "runs": runs}
            state |= {"deleted": sorted(self.target.deleted)}
        elif self.deleted is not None:
            state |= {"deleted": self.deleted}
        if state != self._written:
            kept = read_json(self.run.mirror) or {"runs": {}}
            write_json(self.run.mirror, {**kept, **state, "updated": time.time()}, sync=False)
        self._written, self._when = state, time.monotonic()


def client(uri: str) -> "MlflowClient":
    """Of a store; imported only now, so that the first trials have the machine to themselves as they start."""
    from mlflow import MlflowClient

    return MlflowClient(uri)


def database(run: RunFolder, uri: str) -> Path | None:
    """The file of a store of SQLite; None for a server or another database."""
    if uri == default_uri(run):
        return run.path / "mlflow.db"
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def opened(run: RunFolder, uri: str) -> "MlflowClient":
    """A client of a store. A new one of SQLite is made whole or not at all: MLflow never mends one half made."""
    file = database(run, uri)
    if file is not None and file.parent.is_dir() and not file.exists() and "?" not in uri:
        ending = f".{uuid.uuid4().hex[:8]}.new"  # never one that MLflow has seen: it keeps what it has opened
        new = file.with_name(file.name + ending)
        try:
            client(uri + ending).search_experiments()
            if not file.exists():  # another process may have made it meanwhile
                new.rename(file)
        finally:
            new.unlink(missing_ok=True)
    return client(uri)


def mirror(run: RunFolder, uri: str, last_round: threading.Event) -> bool:
    """Keep the store up to date until `last_round` is set and everything is sent; False where patience ended first."""
    progress, deadline = Progress(run, uri), math.inf
    file = database(run, uri)
    identity: int | None = None
    while True:
        last = last_round.is_set()  # read before the folder, so that nothing written before it is missed
        if last and deadline == math.inf:
            deadline = time.monotonic() + PATIENCE_SECONDS
        begin, error, hopeless = time.monotonic(), "", False
        progress.look()
        looked = time.monotonic() - begin
        try:
            if progress.recorded or last:
                progress.send(opened(run, uri), last)
        except Exception as reason:  # whatever a store or the way to it may raise: wait, and try again
            error = str(reason) if isinstance(reason, RunFolderError) else plain(reason, uri)
            hopeless = isinstance(reason, RunFolderError) or OUTDATED in str(reason)
        progress.note(error, last)
        if last and (not error or hopeless or time.monotonic() > deadline):
            return not error
        if file is not None:  # one that was deleted takes what is written to it along
            found = file.stat().st_ino if file.exists() else None
            if identity is not None and identity != found:
                raise SystemExit(STORE_LOST)
            identity = found
        last_round.wait(max(POLL_SECONDS, 10 * looked) * (5 if error else 1))


class Mirroring:
    """The mirror as a process of its own, which is started again should it die."""

    def __init__(self, run: RunFolder, uri: str | None) -> None:
        self.run, self.uri = run, uri or default_uri(run)
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "orchestrator.tracking", str(self.run.path), "--uri", self.uri]
        with (self.run.path / "mirror.log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **QUIET},
                start_new_session=True,
            )

    def revive(self) -> None:
        """Start the mirror again where it has died."""
        if self.process.poll() is not None:
            self.process = self._start()

    def close(self) -> None:
        """Tell the mirror that this was all."""
        if self.process.stdin:
            self.process.stdin.close()

    def catch_up(self) -> None:
        """Let the mirror send what is left, and wait for it, as long as it gets on."""
        for _ in range(2):  # should it have died, then once more
            self.close()
            noted, deadline = 0.0, time.monotonic() + 2 * PATIENCE_SECONDS
            while self.process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
                if self.run.mirror.exists() and (written := self.run.mirror.stat().st_mtime) != noted:
                    noted, deadline = written, time.monotonic() + 2 * PATIENCE_SECONDS
            if self.process.poll() is None:
                self.process.kill()
                return
            if self.process.returncode in (0, 1):
                return
            self.process = self._start()


@contextmanager
def mirroring(run: RunFolder, uri: str | None) -> Iterator[Mirroring]:
    """Run the mirror while the block runs, then let it catch up.

    The mirror ends when its standard input closes, so it also ends, with everything sent, when the driver is killed.
    """
    beside = Mirroring(run, uri)
    try:
        yield beside
    except BaseException:
        beside.close()  # nobody waits for what is left; the next start sends it
        raise
    beside.catch_up()


def serve(run_folder: Path | str, host: str, port: int) -> None:
    """Serve the MLflow UI on a run's own store until interrupted; raises RunFolderError where it has none."""
    run = RunFolder(Path(run_folder))
    store = store_of_run(run, os.environ)
    if store.served:
        raise RunFolderError(f"{run.path} is tracked at {store.uri}: open that address")
    uri = store.uri or default_uri(run)
    os.environ.update(QUIET)
    try:
        opened(run, uri)
        bring_home(run, uri, own=not store.uri)
    except RunFolderError:
        raise
    except Exception as reason:
        raise RunFolderError(f"{without_password(uri)}: {plain(reason, uri)}") from reason
    if answers(f"{host}:{port}", ANSWER_SECONDS):
        raise RunFolderError(f"{host}:{port} is taken by another program: name another --port")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--workers", "1"]
    with ending_with_us([*command, "--host", host, "--port", str(port)]) as server:
        while server.poll() is None and not answers(f"{host}:{port}", ANSWER_SECONDS):
            time.sleep(0.1)
        if server.poll() is None:
            print(f"the trials, best first: {address(run, host, port)}", flush=True)
        if code := server.wait():
            raise RunFolderError(f"MLflow's server has ended with code {code}; what it said stands above")


# Ends a group of processes once its standard input closes, which it does however its writer ends.
GUARD = "import os, signal, sys; sys.stdin.read(); os.killpg(int(sys.argv[1]), signal.SIGKILL)"


@contextmanager
def ending_with_us(command: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command that starts processes of its own; all of them end with the block, and with this process.

    What it prints goes to standard error: standard output is ours.
    """
    server = subprocess.Popen(command, start_new_session=True, stdout=2)
    watch = [sys.executable, "-c", GUARD, str(server.pid)]
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(watch, stdin=subprocess.PIPE, stderr=nowhere, start_new_session=True) as guard:
        try:
            yield server
        except KeyboardInterrupt:
            pass
        finally:
            assert guard.stdin is not None
            guard.stdin.close()


def address(run: RunFolder, host: str, port: int) -> str:
    """The page of MLflow's UI that charts the trials of a run, best first.

    Sorted by a metric, since MLflow folds children into their parent, which has no charts, in any other order.
    """
    experiment = (read_json(run.mirror) or {}).get("experiment") or "0"
    objective = objectives(run.read_sweep()["sweep"])[0]
    query = {
        "searchFilter": "tags.stage = 'search' and tags.state = 'completed'",
        "orderByKey": f"metrics.`{objective['metric']}`",
        "orderByAsc": str(objective["direction"] == "minimize").lower(),
        "compareRunsMode": "CHART",
    }
    return f"http://{host}:{port}/#/experiments/{experiment}/runs?{urlencode(query, quote_via=quote)}"


def main() -> None:
    """The mirror process: `python -m orchestrator.tracking RUN --uri URI`, until standard input closes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--uri", required=True)
    arguments = parser.parse_args()
    os.environ.update(QUIET)
    os.nice(NICENESS)
    with suppress(OSError):  # where the kernel shares by sessions, niceness counts only within one
        Path("/proc/self/autogroup").write_text(str(NICENESS))
    closed = threading.Event()

    def wait_for_the_end() -> None:
        while os.read(0, 1024):  # not through sys.stdin, whose lock Python wants at its end
            pass
        closed.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    run = RunFolder(arguments.run)
    with run.mirror_lock():  # of a killed driver, whose mirror may still send
        sent = mirror(run, arguments.uri, closed)
    sys.exit(0 if sent else 1)


if __name__ == "__main__":
    main()
