"""All sweeps of a folder, one line each."""

from collections import Counter
from pathlib import Path

from orchestrator.causes import State
from orchestrator.runs import FINISHED, RunFolder, RunFolderError, load_runs, objectives


def run_folders(folder: Path) -> list[RunFolder]:
    """The run folders directly below a folder, by name; none where it is itself one, or no folder."""
    if not folder.is_dir() or RunFolder(folder).sweep_json.exists():
        return []
    return [RunFolder(path) for path in sorted(folder.iterdir()) if RunFolder(path).sweep_json.is_file()]


def overview_lines(folder: Path) -> list[str]:
    """A line for each sweep: its name, how far it is, what went wrong, and its best score; what is damaged says so."""
    lines = []
    for run in run_folders(folder):
        try:
            lines.append(f"{run.path.name}: {_line(run)}")
        except RunFolderError as error:
            lines.append(f"{run.path.name}: {error}")
    return lines


def _line(run: RunFolder) -> str:
    content, runs = run.read_sweep(), load_runs(run.path)
    sweep, counts = content["sweep"], Counter(str(one.state) for one in runs)
    final = sweep["final"] or {"top": 0, "seeds": []}
    planned = len(sweep["arms"]) * (sweep["search"]["trials"] + final["top"] * len(final["seeds"]))
    ended = sum(counts[state] for state in FINISHED if state != State.PARKED)
    state = "finished" if content["finished"] else "running" if run.owner() is not None else "not finished"
    parts = [state, f"{ended}/{max(planned, ended)} trials done"]
    parts += [f"{count} {name}" for name, count in sorted(counts.items()) if name != "completed"]
    objective = objectives(sweep)[0]
    sign = 1 if objective["direction"] == "minimize" else -1
    known = [
        (sign * one.curve(objective["metric"])[-1][1], one.id)
        for one in runs
        if one.state == "completed" and one.curve(objective["metric"])
    ]
    if known:
        value, trial = min(known)
        parts.append(f"best {objective['metric']} {sign * value:.4g} ({trial})")
    return ", ".join(parts)
