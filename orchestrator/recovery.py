"""What is left after a crash: a journal made usable again, and trial folders that know more than it, or less."""

import json
import os
from pathlib import Path
from typing import Any

from orchestrator.causes import RECORDED, State
from orchestrator.journal import usable
from orchestrator.runs import RunFolder, RunFolderError, TrialFolder
from orchestrator.space import Space, optuna_params


def repair(journal: Path) -> None:
    """Make a journal usable after a crash of its only writer: cut off what is torn, and a lock nobody holds.

    Only for the holder of the run folder's lock. What is cut off is kept beside the journal; the trials it spoke of are
    found again by their folders.
    """
    Path(f"{journal}.lock").unlink(missing_ok=True)
    if not journal.exists():
        return
    try:
        content = journal.read_bytes()
    except OSError as error:
        raise RunFolderError(f"{journal}: cannot be read ({error.strerror})") from error
    whole = _intact_length(content)
    if whole == len(content):
        return
    with journal.with_name(f"{journal.name}.torn").open("ab") as file:
        file.write(content[whole:] + b"\n")
    with journal.open("rb+") as file:
        file.truncate(whole)
        os.fsync(file.fileno())


def _intact_length(content: bytes) -> int:
    """How many bytes of the journal can be used. All after the first bad line goes, because later ones refer to it."""
    logs: list[dict[str, Any]] = []
    lengths: list[int] = []
    for line in content.splitlines(keepends=True):
        try:
            log = json.loads(line) if line.endswith(b"\n") else None
        except (ValueError, RecursionError):
            log = None
        if not isinstance(log, dict):
            break
        logs.append(log)
        lengths.append(len(line))
    return sum(lengths[: usable(logs)])


def intact(folder: TrialFolder, state: str, steps: int | None = None) -> bool:
    """Whether the folder of a trial that ended in `state` still holds all that it measured.

    It does not where a file was cut short or lost, or where the sweep now asks for more `steps` than were trained.
    """
    if state not in RECORDED:
        return True
    status, recorded = folder.read_status(), folder.read_config()
    if status.get("state") != state or recorded is None:
        return False
    if state in (State.PRUNED, State.PARKED):  # its process may have measured more than the driver had heard of
        return (folder.last_step() or 0) >= (status.get("step") or 0)
    asked = (recorded["config"].get("train") or {}).get("steps")
    if state == State.COMPLETED and (asked is None or (steps is not None and asked < steps)):
        return False
    return folder.last_step() == (asked if state == State.COMPLETED else status.get("step"))


def handed_out(run: RunFolder, trial: str, space: Space) -> dict[str, Any] | None:
    """What a trial's folder says it was asked to do, where the journal has forgotten it; None where it says nothing.

    The parameters are under `fixed`, in Optuna's names.
    """
    recorded = run.trial(trial).read_config()
    if recorded is None:
        return None
    try:
        return {**recorded, "fixed": optuna_params(space, recorded["params"])}
    except (KeyError, ValueError):  # of another space: the trial's own check will refuse the folder
        return None
