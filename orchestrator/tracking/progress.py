"""How much of a run folder its store lacks, and the note of it for `aiqn status`."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.moved import bring_home
from orchestrator.runs import Run, RunFolder, load_run, read_json, write_json
from orchestrator.stored import MARK, PARENT, deleted_runs
from orchestrator.stores import Store, database, default_uri, without_password
from orchestrator.tracking.mirror import Mirror, sent_as_files
from orchestrator.watch import Signature, Watch

if TYPE_CHECKING:
    from mlflow import MlflowClient

STATE_SECONDS = 5.0  # between two notes of how far the mirror is, while nothing else changes
YOUNG_SECONDS = 2.0  # of a running trial


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
