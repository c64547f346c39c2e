"""Where a run stands, read from its folder: no driver is asked."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from orchestrator import shapes
from orchestrator.causes import HEEDLESS, End, Stage, State
from orchestrator.runs import DAMAGED, Damage, Run, RunFolder, TrialFolder, load_runs, objectives, read_checked
from orchestrator.submit.targets import state_line

TROUBLED = (State.FAILED, State.DIVERGED, State.STOPPED)
WATCH_SECONDS = 5.0  # between two looks of somebody who watches
MOST_DAMAGED = 10  # that are listed
SHOWN = 3  # trials of each cause that are named with their logs


def status_lines(run_folder: Path | str) -> list[str]:
    """A few plain lines; raises RunFolderError where there is no run folder."""
    folder = RunFolder(Path(run_folder))
    if folder.submission.exists() and not folder.sweep_json.exists():
        return [str(state_line(folder))]  # it waits in a queue
    content = folder.read_sweep()
    runs, sweep = load_runs(folder.path), content["sweep"]
    lines = [f"{content['name']}: {'finished' if content['finished'] else 'not finished'}"]
    for arm in sweep["arms"]:
        for stage in Stage:
            own = [run for run in runs if (run.arm, run.stage) == (arm, stage)]
            if stage == Stage.SEARCH or sweep["final"] or own:
                lines.append(f"  {arm} {stage}: {_stage(own, stage, sweep)}")
    lines += [*_causes(runs, sweep), *_troubles(runs), *_damages(runs)]
    if (owner := folder.owner()) is not None:
        lines.append(f"driver: {owner}")
    if not content["finished"]:
        submitted = state_line(folder)
        lines += [submitted] if submitted is not None else []
        cluster = read_checked(folder.cluster, shapes.CLUSTER)
        lines += [str(cluster)] if isinstance(cluster, Damage) else (cluster or {}).get("notes") or []
    mirror = read_checked(folder.mirror, shapes.MIRROR)
    if owner is not None and not folder.mirrored:
        log = folder.path / "mirror.log"
        lines.append(f"MLflow: nothing sends to it now; the driver starts the mirror again (log: {log})")
    elif isinstance(mirror, Damage):
        lines.append(f"MLflow: {mirror}")
    elif mirror is not None:
        lines.append(f"MLflow: {mirror.get('records_behind') or 0} records behind" + _because(mirror))
    return lines


def status_facts(run_folder: Path | str) -> dict[str, Any]:
    """Where a run stands as plain JSON, for scripts; raises RunFolderError where there is no run folder.

    Each stage of each arm has its trials by state, how many there will be, and the best value with its trial, or null.
    """
    folder = RunFolder(Path(run_folder))
    if folder.submission.exists() and not folder.sweep_json.exists():
        return {"run": str(folder.path), "state": "waiting", "submission": state_line(folder)}
    content, owner = folder.read_sweep(), folder.owner()
    runs, sweep = load_runs(folder.path), content["sweep"]
    arms: dict[str, dict[str, Any]] = {}
    for arm in sweep["arms"]:
        for stage in Stage:
            own = [run for run in runs if (run.arm, run.stage) == (arm, stage)]
            best = _best(own, sweep)
            arms.setdefault(arm, {})[stage] = {
                "expected": expected(stage, sweep),
                "states": dict(Counter(run.state for run in own)),
                "best": None if best is None else {"value": best[0], "trial": best[1]},
            }
    troubled = [run for run in runs if run.state in TROUBLED]
    return {
        "run": str(folder.path),
        "name": content["name"],
        "state": "finished" if content["finished"] else "running" if owner is not None else "stopped",
        "driver": owner,
        "objectives": objectives(sweep),
        "arms": arms,
        "training": [
            {"trial": run.id, "step": run.history[-1]["step"] if run.history else 0, "steps": run.status.get("steps")}
            for run in runs
            if run.state == State.RUNNING
        ],
        "troubles": [
            {"trial": run.id, "state": run.state, "cause": run.cause, "log": str(log_of(run))}
            | {"message": run.status.get("message")}
            for run in troubled
        ],
    }


def looks(run_folder: Path | str, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """A turn for each look at a run, until it has finished or nobody drives it any more."""
    folder = RunFolder(Path(run_folder))
    while True:
        over = not folder.submission.exists() and folder.owner() is None  # before the look, which then shows the end
        yield
        if over or (folder.sweep_json.exists() and folder.read_sweep()["finished"]):
            return
        sleep(WATCH_SECONDS)


def expected(stage: Stage, sweep: dict) -> int:
    """How many trials of a stage each arm has."""
    final = sweep["final"]
    if stage == Stage.SEARCH:
        return int(sweep["search"]["trials"])
    return final["top"] * len(final["seeds"]) if final else 0


def _stage(runs: list[Run], stage: Stage, sweep: dict) -> str:
    counts = Counter(run.state for run in runs)
    open_ = counts[State.RUNNING] + counts[State.PARKED] + counts[DAMAGED]
    parts = [f"{sum(counts.values()) - open_}/{expected(stage, sweep)} done"]
    parts += [f"{count} {state}" for state, count in sorted(counts.items()) if state != "completed"]
    return ", ".join([*parts, *best_told(runs, sweep)])


def best_told(runs: list[Run], sweep: dict) -> list[str]:
    """The best trial so far, as a part of a line; nothing before a trial has completed."""
    best = _best(runs, sweep)
    return [] if best is None else [f"best {objectives(sweep)[0]['metric']} {best[0]:.4g} ({best[1]})"]


def _best(runs: list[Run], sweep: dict) -> tuple[float, str] | None:
    """The best last value of the objective among trials that completed, and the trial; None without any."""
    objective = objectives(sweep)[0]
    sign = 1 if objective["direction"] == "minimize" else -1
    scored = [
        (sign * run.curve(objective["metric"])[-1][1], run.id) for run in runs if _scored(run, objective["metric"])
    ]
    if not scored:
        return None
    value, trial = min(scored)
    return sign * value, trial


def _scored(run: Run, metric: str) -> bool:
    return run.state == "completed" and bool(run.curve(metric))


def _causes(runs: list[Run], sweep: dict) -> list[str]:
    """How often each cause cut off an attempt, and how often it ended a trial; what the sampler makes of that."""
    retried = Counter(cause for run in runs for cause in run.status.get("causes") or ())
    troubled = [run for run in runs if run.cause is not None and run.state in TROUBLED]
    ended = Counter(run.cause for run in troubled)
    searched = {run.cause for run in troubled if run.stage == Stage.SEARCH}
    lines = []
    for cause in sorted({*retried, *ended}):
        counts = [f"ended {ended[cause]}"] if ended[cause] else []
        counts += [f"tried again {retried[cause]}"] if retried[cause] else []
        known = cause in searched and End(State.FAILED, cause).policy.told == "PRUNED"
        lines.append(f"  {cause}: {', '.join(counts)}{_heard(sweep) if known else ''}")
    return ["causes:", *lines] if lines else []


def _heard(sweep: dict) -> str:
    sampler = sweep["search"].get("sampler")
    if not isinstance(sampler, dict):  # of an older version
        return ""
    name = sampler.get("name")
    return f" ({name} draws on regardless)" if name in HEEDLESS else f" ({name} counts it as the worst)"


def _troubles(runs: list[Run]) -> list[str]:
    """The last trials that each cause ended, with their logs."""
    by_cause: dict[tuple[str, str], list[Run]] = {}
    for run in sorted((run for run in runs if run.state in TROUBLED), key=lambda run: run.status.get("updated") or 0):
        by_cause.setdefault((run.state, run.cause or ""), []).append(run)
    lines = []
    for found in by_cause.values():
        lines += [f"  ... and {len(found) - SHOWN} more like these:"] if len(found) > SHOWN else []
        lines += [f"  {_trouble(run)}" for run in found[-SHOWN:]]
    return lines


def _damages(runs: list[Run]) -> list[str]:
    """The trials whose files cannot be used, and what to do."""
    found = [f"  {run.id} {run.damage}" for run in runs if run.damage is not None]
    if not found:
        return []
    more = [f"  ... and {len(found) - MOST_DAMAGED} more"] if len(found) > MOST_DAMAGED else []
    how = "damaged trials (delete the folder of one and run the sweep again: it is trained again):"
    return [how, *found[:MOST_DAMAGED], *more]


def _trouble(run: Run) -> str:
    ended = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.status.get("updated") or 0))
    return f"{run.id} {run.state} ({run.cause}) at {ended}: {run.status.get('message')}  log: {log_of(run)}"


def log_of(run: Run) -> Path:
    """The log of a trial where its folder lies now, which may have been moved since it was recorded."""
    return TrialFolder(run.folder).log


def _because(mirror: dict[str, Any]) -> str:
    since = mirror.get("behind_since")
    waiting = f", since {time.strftime('%H:%M:%S', time.localtime(since))}" if since else ""
    return waiting + (f" ({mirror['error']})" if mirror.get("error") else "")
