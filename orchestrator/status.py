"""Where a run stands, read from its folder: no driver is asked."""

import time
from collections import Counter
from pathlib import Path

from orchestrator.jobs import state_line
from orchestrator.runs import Run, RunFolder, load_runs, read_json


def status_lines(run_folder: Path | str) -> list[str]:
    """A few plain lines; raises RunFolderError where there is no run folder."""
    folder = RunFolder(Path(run_folder))
    if folder.submission.exists() and not folder.sweep_json.exists():
        return [str(state_line(folder))]  # it waits in a queue
    content = folder.read_sweep()
    runs, sweep = load_runs(folder.path), content["sweep"]
    lines = [f"{content['name']}: {'finished' if content['finished'] else 'not finished'}"]
    for arm in sweep["arms"]:
        for stage in ("search", "final"):
            own = [run for run in runs if (run.arm, run.stage) == (arm, stage)]
            if stage == "search" or sweep["final"]:
                lines.append(f"  {arm} {stage}: {_stage(own, stage, sweep)}")
    lines += [f"  {_trouble(run)}" for run in runs if run.state in ("failed", "diverged", "stopped")]
    if not content["finished"]:
        submitted = state_line(folder)
        lines += [submitted] if submitted is not None else []
        lines += (read_json(folder.cluster) or {}).get("notes", [])
    mirror = read_json(folder.mirror)
    if mirror is not None:
        lines.append(f"MLflow: {mirror['records_behind']} records behind" + _because(mirror["error"]))
    return lines


def _stage(runs: list[Run], stage: str, sweep: dict) -> str:
    final = sweep["final"]
    expected = sweep["search"]["trials"] if stage == "search" else final["top"] * len(final["seeds"])
    counts = Counter(run.state for run in runs)
    parts = [f"{sum(counts.values()) - counts['running']}/{expected} done"]
    parts += [f"{count} {state}" for state, count in sorted(counts.items()) if state != "completed"]
    objective = sweep["search"]["objective"]
    sign = 1 if objective["direction"] == "minimize" else -1
    scored = [
        (sign * run.curve(objective["metric"])[-1][1], run.id) for run in runs if _scored(run, objective["metric"])
    ]
    if scored:
        value, trial = min(scored)
        parts.append(f"best {objective['metric']} {sign * value:.4g} ({trial})")
    return ", ".join(parts)


def _scored(run: Run, metric: str) -> bool:
    return run.state == "completed" and bool(run.curve(metric))


def _trouble(run: Run) -> str:
    ended = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.status.get("updated", 0)))
    return f"{run.id} {run.state} ({run.cause}) at {ended}: {run.status.get('message')}  log: {run.status.get('log')}"


def _because(error: str | None) -> str:
    return f" ({error})" if error else ""
