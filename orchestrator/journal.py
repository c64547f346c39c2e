"""Optuna's journal for a single writer, who says himself when its lines must have reached the disk."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._storage import JournalOperation, JournalStorageReplayResult
from optuna.trial import TrialState

from orchestrator import shapes
from orchestrator.causes import FINISHED
from orchestrator.runs import trial_id, write_bytes
from orchestrator.shapes import COUNT, TIME, Maybe, OneOrMore

OUTCOME = {"state": FINISHED, "cause": Maybe(str), "attempts": Maybe(COUNT), "causes": Maybe([str])}
ATTRIBUTES = {  # what the ledger writes for trials and studies
    "outcome": Maybe({**OUTCOME, "step": Maybe(COUNT)}),
    "attempts": Maybe([{"cause": str, "time": TIME}]),
    **dict.fromkeys(("source", "seed", "enqueued", "promoted"), Maybe(COUNT)),
    "asked": Maybe(bool),
    "earlier": Maybe(str),
    "mlflow_runs": Maybe(dict),
}
ENTRY = {  # of what Optuna itself takes without looking
    **dict.fromkeys(("study_id", "trial_id", "step"), Maybe(COUNT)),
    "study_name": Maybe(str),
    "values": Maybe(OneOrMore(float)),
    **dict.fromkeys(("intermediate_value", "param_value_internal"), Maybe(float)),
    **dict.fromkeys(("user_attr", "user_attrs"), Maybe(ATTRIBUTES)),
}


def usable(logs: Sequence[dict[str, Any]]) -> int:
    """How many entries of a journal, from the first on, Optuna and the ledger can use: later ones build on each."""
    replayed = JournalStorageReplayResult("")
    for count, log in enumerate(logs):
        try:
            replayed.apply_logs([log])
            known = "study_id" in log and log["op_code"] != JournalOperation.DELETE_STUDY
            finals = known and replayed.get_study(log["study_id"]).study_name.endswith("/final")
            if "trial_id" in log:
                replayed.get_trial(log["trial_id"])  # Optuna passes over an entry for a trial that is not there
        except Exception:  # Optuna has no type of its own for an entry that is damaged
            return count
        attributes = log.get("user_attrs") or {}
        incomplete = finals and "user_attrs" in log and not {"source", "seed"} <= attributes.keys()
        if shapes.misshapen(log, ENTRY) or incomplete:
            return count
    return len(logs)


class Journal(JournalFileBackend):
    """The same file as Optuna's own, which syncs each of the dozen lines of a trial and locks for each.

    A line is written at once, so a killed process loses nothing; `sync` is for machines that lose power. What they
    take of later lines is found again in the trials' folders.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), lock_obj=_Held(str(path)))
        self.path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with self.path.open("ab") as file:
            file.write(_lines(logs))

    def sync(self) -> None:
        """Wait until all that was written is on disk."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())


class _Held(JournalFileOpenLock):
    """The run folder's lock, which the only writer holds all the time."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        """Nothing."""


@dataclass
class Recorded:
    """A trial as a journal tells it: its study's name, its number there, whether it has ended, its user attributes."""

    study: str
    number: int
    ended: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def arm(self) -> str:
        """The arm whose study it belongs to."""
        return self.study.rpartition("/")[0]

    @property
    def stage(self) -> str:
        """The stage whose study it belongs to."""
        return self.study.rpartition("/")[2]

    @property
    def id(self) -> str:
        """The name of its folder."""
        return trial_id(self.arm, self.stage, self.number)


def recorded_trials(path: Path) -> list[Recorded]:
    """The trials of a journal in the order of their ids, without those of studies that were given up."""
    trials: list[Recorded] = []
    for _ in _entries(path, trials):
        pass
    return [trial for trial in trials if trial.study]


def reopen(path: Path, told: Mapping[str, Mapping[str, Any]], forget: bool = False) -> None:
    """Make trials of a journal, named by their ids, unfinished again, each with these user attributes.

    Optuna lets no trial go on that has ended, so the lines that ended it are left out of the file, which is replaced
    as a whole. With `forget` the values that it has reported go too. Only for the holder of the run folder's lock.
    """
    trials: list[Recorded] = []
    lines = []
    for entry in _entries(path, trials):
        code, number = entry["op_code"], entry.get("trial_id")
        chosen = number is not None and trials[number].id in told
        ends = code == JournalOperation.SET_TRIAL_STATE_VALUES and TrialState(entry["state"]).is_finished()
        reports = forget and code == JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE
        if not (chosen and (ends or reports)):
            lines.append(entry)
    for number, trial in enumerate(trials):
        for key, value in told.get(trial.id, {}).items():
            code = int(JournalOperation.SET_TRIAL_USER_ATTR)
            lines.append({"op_code": code, "worker_id": "aiqn", "trial_id": number, "user_attr": {key: value}})
    write_bytes(path, _lines(lines))


def give_up(path: Path, names: Sequence[str]) -> None:
    """Delete the studies of these names with all their trials; the next start makes them anew, without any.

    Only for the holder of the run folder's lock.
    """
    studies: list[str] = []
    entries = list(_entries(path, [], studies))
    numbers = [number for number, name in enumerate(studies) if name in names]
    code = int(JournalOperation.DELETE_STUDY)
    entries += [{"op_code": code, "worker_id": "aiqn", "study_id": number} for number in numbers]
    write_bytes(path, _lines(entries))


def _lines(entries: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries).encode()


def _entries(path: Path, trials: list[Recorded], studies: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The entries of a journal; `trials` and the names of `studies` are kept up to date with them ("": given up)."""
    studies = [] if studies is None else studies
    count: Counter[str] = Counter()
    for line in path.read_bytes().splitlines() if path.exists() else ():
        entry = json.loads(line)
        match entry["op_code"]:
            case JournalOperation.CREATE_STUDY if entry["study_name"] not in studies:
                studies.append(entry["study_name"])
            case JournalOperation.DELETE_STUDY:
                for trial in trials:
                    trial.study = trial.study if trial.study != studies[entry["study_id"]] else ""
                count[studies[entry["study_id"]]] = 0
                studies[entry["study_id"]] = ""  # its name is free
            case JournalOperation.CREATE_TRIAL:
                study = studies[entry["study_id"]]
                ended = TrialState(entry.get("state", TrialState.RUNNING)).is_finished()
                trials.append(Recorded(study, count[study], ended, dict(entry.get("user_attrs") or {})))
                count[study] += 1
            case JournalOperation.SET_TRIAL_STATE_VALUES:
                trials[entry["trial_id"]].ended = TrialState(entry["state"]).is_finished()
            case JournalOperation.SET_TRIAL_USER_ATTR:
                trials[entry["trial_id"]].attributes.update(entry["user_attr"])
        yield entry
