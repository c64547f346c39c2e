"""Optuna's journal for a single writer, who says himself when its lines must have reached the disk."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._storage import JournalStorageReplayResult

from orchestrator import shapes
from orchestrator.causes import FINISHED
from orchestrator.shapes import COUNT, TIME, Maybe, OneOrMore

OUTCOME = {"state": FINISHED, "cause": Maybe(str), "attempts": Maybe(COUNT), "causes": Maybe([str])}
ATTRIBUTES = {  # what the ledger writes for trials and studies
    "outcome": Maybe({**OUTCOME, "step": Maybe(COUNT)}),
    "attempts": Maybe([{"cause": str, "time": TIME}]),
    **dict.fromkeys(("source", "seed", "enqueued"), Maybe(COUNT)),
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
            finals = "study_id" in log and replayed.get_study(log["study_id"]).study_name.endswith("/final")
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
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with self.path.open("ab") as file:
            file.write(text.encode())

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
