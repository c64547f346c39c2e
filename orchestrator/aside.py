"""Trials that no longer count: an arm that starts anew, and attempts that ran with code which was edited since.

They are kept in RUN/aside/<arm>-<n>, which is a run folder of its own for everybody who only reads: `aiqn report` and
`aiqn status` take it, and what was trained there can be sampled from.
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator import shapes
from orchestrator.causes import Stage, State
from orchestrator.journal import give_up, recorded_trials, reopen
from orchestrator.recovery import repair
from orchestrator.runs import TRIAL_ID, RunFolder, RunFolderError, load_runs, read_json, write_json
from orchestrator.sections import Sweep

COUNTED = (State.COMPLETED, State.PRUNED, State.PARKED)  # their numbers stand for the code that they ran with


def start_anew(run_folder: Path | str, arm: str) -> list[str]:
    """Put all trials of an arm aside and forget them, so that the next start trains it from its first trial.

    Says in lines what was done, and how to go on. Raises RunFolderError where there is no such arm, or a driver runs.
    """
    run = RunFolder(Path(run_folder))
    arms = run.read_sweep()["sweep"]["arms"]
    if arm not in arms:
        raise RunFolderError(f"--arm: saw {arm!r}, which is no arm of {run.path}; valid: {', '.join(arms)}")
    with run.lock():
        repair(run.journal)
        # The journal first: should this be cut off, the folders that are left still say which code they ran with.
        give_up(run.journal, [f"{arm}/{stage}" for stage in Stage])
        names = sorted(path.name for path in run.trials.glob("*"))
        own = [name for name in names if (found := TRIAL_ID.fullmatch(name)) and found["arm"] == arm]
        sweep = run.read_sweep()
        if not own:
            return [f"no trial of {arm} has begun; it begins with the next start: {sweep['command']}"]
        folder = put_aside(run, arm, own)
        write_json(run.sweep_json, {**sweep, "finished": False})
    count = f"{len(own)} trial{'s' if len(own) > 1 else ''}"
    return [
        f"{count} of {arm} {'are' if len(own) > 1 else 'is'} kept in {folder} (aiqn report {folder})",
        f"{arm} starts anew with the next start: {sweep['command']}",
    ]


def put_aside(run: RunFolder, arm: str, trials: Iterable[str]) -> Path:
    """Move trials of an arm to a new folder, which gets copies of what belongs to all trials; returns it."""
    number = 1
    while (folder := run.aside / f"{arm}-{number}").exists():
        number += 1
    kept = RunFolder(folder)
    kept.trials.mkdir(parents=True)
    for path in (run.sweep_yaml, run.real, run.baselines):
        if path.exists():
            shutil.copy2(path, kept.path)
    if run.code.is_dir():
        shutil.copytree(run.code, kept.code)
    content = run.read_sweep()
    own = {**content["sweep"], "arms": {arm: content["sweep"]["arms"][arm]}}
    write_json(kept.sweep_json, {**content, "sweep": own})
    mirror, moved = read_json(run.mirror, shapes.MIRROR) or {}, list(trials)
    known = mirror.get("runs") or {}
    write_json(kept.mlflow, {"runs": {trial: known[trial] for trial in moved if trial in known}})
    if known:
        write_json(run.mirror, {**mirror, "runs": {key: known[key] for key in known if key not in moved}})
    for trial in moved:
        run.trial(trial).path.rename(kept.trial(trial).path)
    return folder


def with_other_code(run: RunFolder, sweep: Sweep, arm: str) -> list[str]:
    """The trials of an arm whose numbers count, and that ran with other code than the sweep has now."""
    now = code_hash(sweep.arms[arm].base)
    return [
        found.id
        for found in load_runs(run.path)
        if found.arm == arm and found.state in COUNTED and code_hash(found.config) != now
    ]


def renew_edited(run: RunFolder, sweep: Sweep) -> None:
    """Let unfinished trials that began with other code begin anew; for the holder of the run folder's lock."""
    if sweep.code is None:
        return
    chosen: dict[str, list[str]] = {}
    for one in recorded_trials(run.journal):
        if one.ended or one.arm not in sweep.arms:
            continue
        recorded = run.trial(one.id).read_config()
        if recorded is not None and code_hash(recorded["config"]) != code_hash(sweep.arms[one.arm].base):
            chosen.setdefault(one.arm, []).append(one.id)
    for arm, trials in chosen.items():
        put_aside(run, arm, trials)
        reopen(run.journal, {trial: {} for trial in trials}, forget=True)


def code_hash(config: Mapping[str, Any]) -> str | None:
    """The hash of somebody's own code in a configuration; None where it has none."""
    hash_: str | None = (config.get("code") or {}).get("hash")
    return hash_
