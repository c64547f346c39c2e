"""Failed is not final: trials that ended without a result are handed out again, under their numbers."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from orchestrator.causes import RECORDED, End, State
from orchestrator.journal import Recorded, recorded_trials, reopen
from orchestrator.recovery import repair
from orchestrator.runs import Run, RunFolder, RunFolderError, load_runs, write_json

RETRIED = (State.FAILED, State.DIVERGED, State.STOPPED)


def retry(
    run_folder: Path | str, trials: Sequence[str] = (), cause: str | None = None, *, parked: bool = False
) -> list[str]:
    """Hand trials of a run out again with its next start; says in lines which, and how to go on.

    Those named, or those that ended of `cause`, or else all that failed through no fault of their configuration. With
    `parked` those that wait at a rung, which then train to their end. Each keeps its number, folder, parameters and
    attempts, and goes on from its checkpoint. Raises RunFolderError where there is no such trial, or a driver runs.
    """
    run = RunFolder(Path(run_folder))
    sweep = run.read_sweep()
    if not run.journal.exists():
        raise RunFolderError(f"{run.path} has no ledger of trials: run the same command again ({sweep['command']})")
    with run.lock():
        repair(run.journal)
        runs = load_runs(run.path)
        if parked:
            chosen = _chosen_parked(run, runs, trials, cause)
            free(run, [found.id for found in chosen])
        else:
            chosen = _chosen(run, runs, trials, cause)
            hand_back(run, [found.id for found in chosen])
        write_json(run.sweep_json, {**run.read_sweep(), "finished": False})
    lines = [f"{found.id} ({found.cause or found.state}) is handed out again" for found in chosen]
    left = Counter(str(found.cause) for found in runs if found.state == State.FAILED and found not in chosen)
    lines += [f"{count} that failed of {why!r} stay: --cause {why!r}" for why, count in sorted(left.items())]
    return [*lines, f"by the next start: {sweep['command']}"]


def _chosen(run: RunFolder, runs: Sequence[Run], trials: Sequence[str], cause: str | None) -> list[Run]:
    ended = [found for found in runs if found.state in RETRIED and (cause is None or found.cause == cause)]
    causes = sorted({str(found.cause) for found in runs if found.state in RETRIED})
    if trials:
        if unknown := sorted(set(trials) - {found.id for found in ended}):
            listed = ", ".join(found.id for found in ended) or "none"
            raise RunFolderError(f"saw {', '.join(unknown)}, expected trials that ended without a result: {listed}")
        return [found for found in ended if found.id in trials]
    if cause is None:
        ended = [
            each for each in ended if each.state == State.FAILED and not End(State.FAILED, each.cause).policy.own_fault
        ]
    if not ended:
        what = "has no trial that failed" if cause is None else f"has no trial that ended of {cause!r}"
        found = f"; ends without a result: {', '.join(causes)} (choose by --cause)" if causes else ""
        raise RunFolderError(f"{run.path} {what}{found}")
    return ended


def _chosen_parked(run: RunFolder, runs: Sequence[Run], trials: Sequence[str], cause: str | None) -> list[Run]:
    if cause is not None:
        raise RunFolderError(f"saw --cause {cause!r} with --parked, but a parked trial has no cause; leave one out")
    parked = [found for found in runs if found.state == State.PARKED]
    if unknown := sorted(set(trials) - {found.id for found in parked}):
        listed = ", ".join(found.id for found in parked) or "none"
        raise RunFolderError(f"saw {', '.join(unknown)}, expected trials that are parked: {listed}")
    if not parked:
        raise RunFolderError(f"{run.path} has no trial that is parked at a rung")
    return [found for found in parked if found.id in trials or not trials]


def free(run: RunFolder, trials: Iterable[str]) -> None:
    """Let parked trials train to their end, in the journal; for the holder of the run folder's lock."""
    wanted = set(trials)
    chosen = [one for one in recorded_trials(run.journal) if one.id in wanted]
    reopen(run.journal, {one.id: {"asked": True} for one in chosen})


def hand_back(run: RunFolder, trials: Iterable[str]) -> None:
    """Make ended trials unfinished, in the journal and in their folders; for the holder of the run folder's lock."""
    known = {recorded.id: recorded for recorded in recorded_trials(run.journal)}
    chosen = [(known[trial], run.trial(trial)) for trial in trials if trial in known and known[trial].ended]
    for forget in (False, True):  # what was measured is known as long as its folder is there
        group = [each for each, folder in chosen if folder.path.is_dir() != forget]
        if group:
            reopen(run.journal, {each.id: {"attempts": _attempts(each)} for each in group}, forget)
    for recorded, folder in chosen:
        if folder.path.is_dir():
            causes = [attempt["cause"] for attempt in _attempts(recorded)]
            folder.update_status(state=State.RUNNING, cause=None, causes=causes, message=None)


def hand_back_lost(run: RunFolder) -> None:
    """The same for trials that ended without a result, and whose folders were deleted."""
    lost = [trial.id for trial in recorded_trials(run.journal) if trial.ended and _is_lost(run, trial)]
    if lost:  # hardly ever: the journal, which takes a second per ten thousand trials, is not read again for nothing
        hand_back(run, lost)


def _is_lost(run: RunFolder, trial: Recorded) -> bool:
    outcome = trial.attributes.get("outcome")
    return outcome is not None and outcome["state"] not in RECORDED and not run.trial(trial.id).path.is_dir()


def _attempts(trial: Recorded) -> list[dict[str, Any]]:
    """The attempts of a trial with the one that ended it, which somebody asked to follow: retries count anew."""
    cause = (trial.attributes.get("outcome") or {}).get("cause")
    return [*trial.attributes.get("attempts", []), {"cause": cause, "time": time.time(), "asked": True}]
