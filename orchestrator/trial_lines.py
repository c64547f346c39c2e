"""Trials in plain lines: the log of one, as it grows; two of them compared. Only their folders are read."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aiqn_core.config import dotted, settled
from orchestrator.causes import FINISHED
from orchestrator.outcome import RequestError
from orchestrator.runs import TRIAL_ID, Run, RunFolder, TrialFolder, load_run

LOOK_SECONDS = 0.5
OF_TIME = ("time", "step")  # of a record, told apart from its scores


def log_text(trial: Path, *, follow: bool = False, sleep: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """The log of a trial, piece by piece; with `follow` also what is added, until the trial has ended.

    A trial that is to be followed may begin later. Raises RequestError where there is no such trial or log.
    """
    folder = TrialFolder(trial)
    if not trial.is_dir():
        raise RequestError(f"{trial}: no such trial; expected a folder such as runs/quickstart/trials/pixeliqn-final-0")
    if not follow and not folder.log.exists():
        raise RequestError(f"{folder.log}: no such file; the trial has not started, or --follow waits for it")
    read = 0
    while True:
        over = not follow or folder.read_status().get("state") in FINISHED  # before the log: what follows is read
        if folder.log.exists():
            with folder.log.open("rb") as file:
                file.seek(read)
                content = file.read()
            read += len(content)
            if content:
                yield content.decode(errors="replace")
        if over:
            return
        sleep(LOOK_SECONDS)


def read_trial(trial: Path) -> Run:
    """A trial as it is recorded in its folder RUN/trials/NAME; raises RequestError."""
    folder = trial.resolve()
    found = None
    if TRIAL_ID.fullmatch(folder.name) and folder.parent.name == "trials":
        found = load_run(RunFolder(folder.parent.parent), folder.name)
    if found is None:
        raise RequestError(
            f"{trial}: no such trial, or it has not started; expected a folder such as"
            " runs/quickstart/trials/pixeliqn-final-0"
        )
    return found


def diff_lines(first: Path, second: Path) -> list[str]:
    """Two trials side by side: the settings that differ first, then how they ended and their last scores."""
    trials = [read_trial(first), read_trial(second)]
    settings = [settled(one.config) for one in trials]
    keys = [key for key in {**settings[0], **settings[1]} if settings[0].get(key) != settings[1].get(key)]
    rows = [("", *names(trials))]
    written = [dict(dotted(one.config)) for one in trials]
    rows += [(key, *(_word(one.get(key)) for one in written)) for key in sorted(keys)]
    if not keys:
        rows.append(("no setting differs", "", ""))
    rows += [("", "", ""), ("state", *(" ".join(filter(None, (one.state, one.cause))) for one in trials))]
    scores = [last_scores(one) for one in trials]
    rows += [(name, *(_word(one.get(name)) for one in scores)) for name in {**scores[0], **scores[1]}]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return ["  ".join((row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2])).rstrip() for row in rows]


def names(trials: list[Run]) -> list[str]:
    """Their names, with those of their runs where these differ."""
    runs = [one.folder.parent.parent.name for one in trials]
    return [one.id if runs[0] == runs[1] else f"{run}/{one.id}" for run, one in zip(runs, trials, strict=True)]


def last_scores(trial: Run) -> dict[str, Any]:
    """The last step, and the last value of everything that was measured, in the order of the records."""
    values: dict[str, Any] = {"step": trial.history[-1]["step"] if trial.history else None}
    for record in trial.history:
        values |= {name: value for name, value in record.items() if name not in OF_TIME and value is not None}
    return values


def _word(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
