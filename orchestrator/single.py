"""One training outside a sweep, from a file of its configuration, in a run folder like those of sweeps."""

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aiqn_core.code import keep
from aiqn_core.command import KEYS as OF_COMMANDS
from aiqn_core.command import keep_command, read_command
from aiqn_core.config import ConfigError, TrainConfig
from orchestrator.causes import Stage
from orchestrator.document import Document, SweepError
from orchestrator.runs import FORMAT, SWEEP_NAME, RunFolder, RunFolderError, TrialFolder, write_bytes, write_json
from orchestrator.sweep import imported_code
from orchestrator.trial import Assignment, check_folder, run_trial

COMMAND = "aiqn train"


def load_config(path: Path | str, environ: Mapping[str, str] = os.environ) -> tuple[TrainConfig, str]:
    """The configuration in a YAML file and the file's text; raises SweepError with every mistake at its line."""
    document = Document(Path(path), environ)
    text = document.read()
    code = imported_code(document)
    if document.mistakes:
        raise SweepError(document.mistakes)
    values = {**document.values, "code": None if code is None else code.recorded()}
    try:
        if "command" in values:
            values = {key: value for key, value in values.items() if key not in OF_COMMANDS}
            values["command"] = read_command(document.values, (), document.source.parent)
        return TrainConfig.from_dict(values), text
    except ConfigError as error:
        for problem in error.problems:
            document.complain(*problem)
        raise SweepError(document.mistakes) from None


class SingleRun(NamedTuple):
    """One training: its folder, its configuration, and its records, which are measured while they are asked for."""

    folder: TrialFolder
    config: TrainConfig
    records: Iterator[dict[str, Any]]


def train_one(path: Path | str, runs_dir: Path | str = "runs") -> SingleRun:
    """The training of a YAML file, as the trial `<model>-search-0` of the run folder `runs_dir/<name of the file>`.

    Continues what is there. Raises SweepError, and with the first record RunFolderError where the folder holds
    something else.
    """
    config, text = load_config(path)
    name = Path(path).stem
    if not SWEEP_NAME.fullmatch(name):
        raise RunFolderError(f"{path}: saw the name {name!r}, expected letters, digits and _.- for the run folder")
    run = RunFolder(Path(runs_dir) / name)
    assignment = Assignment(config.model.name, Stage.SEARCH, 0, config.to_dict(), {}, config.seed)
    records = _records(run, assignment, config, text, Path(path))
    return SingleRun(run.trial(assignment.id), config, records)


def _records(
    run: RunFolder, assignment: Assignment, config: TrainConfig, text: str, path: Path
) -> Iterator[dict[str, Any]]:
    command = f"{COMMAND} {path}"
    with run.lock():
        _describe(run, assignment, config, text, command, finished=False)
        keep_command(assignment.config.get("command"), path.parent, run.path)
        yield from run_trial(assignment, run)
        _describe(run, assignment, config, text, command, finished=True)


def _describe(
    run: RunFolder, assignment: Assignment, config: TrainConfig, text: str, command: str, *, finished: bool
) -> None:
    """What status and report read: a sweep of one arm with one trial."""
    before = run.sweep_if_begun()
    known = (before or {}).get("command") or ""
    if before is not None and (not known.startswith(COMMAND) or assignment.arm not in before["sweep"]["arms"]):
        raise RunFolderError(f"{run.path} holds the run of {known!r}; rename the file, or give --runs")
    check_folder(run.trial(assignment.id), assignment)
    objective = {"metric": config.metrics[0].name, "direction": config.metrics[0].direction}
    sweep = {
        "name": run.path.name,
        "arms": {assignment.arm: assignment.config},
        "search": {"trials": 1, "objective": objective},
        "final": None,
        "resources": {"cpu": 1, "gpu": 0},
        "tracking": {"uri": None},
    }
    content = {
        "format": FORMAT,
        "id": (before or {}).get("id") or uuid.uuid4().hex,
        "name": run.path.name,
        "question": f"What does {config.model.name} learn of {config.data.name}?",
        "command": command,
        "created": (before or {}).get("created") or time.time(),
        "finished": finished,
        "metrics": {assignment.arm: {metric.name: metric.facts() for metric in config.metrics}},
        "sweep": sweep,
    }
    if config.code is not None:
        keep(config.code, run.path)
    write_bytes(run.sweep_yaml, text.encode())
    write_json(run.sweep_json, content)
