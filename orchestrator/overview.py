"""All sweeps of a folder, one line each."""

from collections import Counter
from pathlib import Path

from orchestrator.causes import Stage, State
from orchestrator.runs import FINISHED, Run, RunFolder, RunFolderError, load_runs
from orchestrator.status import best_told, expected


def run_folders(folder: Path) -> list[RunFolder]:
    """The run folders directly below a folder, by name; none where it is itself one, or no folder."""
    if not folder.is_dir() or RunFolder(folder).sweep_json.exists():
        return []
    return [RunFolder(path) for path in sorted(folder.iterdir()) if RunFolder(path).sweep_json.is_file()]


def overview_lines(folder: Path) -> list[str]:
    """A line for each sweep of a folder; none where it is itself a run folder."""
    return [overview_line(run) for run in run_folders(folder)]


def overview_line(run: RunFolder, runs: list[Run] | None = None) -> str:
    """A sweep's name, how far it is, what went wrong, and its best score; what is damaged says so.

    `runs` are the trials of the folder where they were read already.
    """
    try:
        told = _told(run, load_runs(run.path) if runs is None else runs)
    except RunFolderError as error:
        told = str(error)
    return f"{run.path.name}: {told}"


def _told(run: RunFolder, runs: list[Run]) -> str:
    content, counts = run.read_sweep(), Counter(str(one.state) for one in runs)
    sweep = content["sweep"]
    planned = len(sweep["arms"]) * sum(expected(stage, sweep) for stage in Stage)
    ended = sum(counts[state] for state in FINISHED if state != State.PARKED)
    state = "finished" if content["finished"] else "running" if run.owner() is not None else "not finished"
    parts = [state, f"{ended}/{max(planned, ended)} trials done"]
    parts += [f"{count} {name}" for name, count in sorted(counts.items()) if name != "completed"]
    return ", ".join([*parts, *best_told(runs, sweep)])
