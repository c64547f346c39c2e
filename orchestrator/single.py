"""One training outside a sweep, from a file of its configuration, in a run folder like those of sweeps."""

import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aiqn_core.code import FOLDER, keep, load_kept
from aiqn_core.command import KEYS as OF_COMMANDS
from aiqn_core.command import keep_command, read_command
from aiqn_core.config import ConfigError, TrainConfig
from orchestrator.causes import Stage
from orchestrator.document import Document, SweepError
from orchestrator.runs import FORMAT, SWEEP_NAME, RunFolder, RunFolderError, TrialFolder, write_bytes, write_json
from orchestrator.sweep import imported_code, load_sweep
from orchestrator.trial import Assignment, check_folder, run_trial

COMMAND = "aiqn train"


def load_config(
    path: Path | str, environ: Mapping[str, str] = os.environ, overrides: Sequence[str] = ()
) -> tuple[TrainConfig, str]:
    """The configuration in a YAML file and the file's text; raises SweepError with every mistake at its line.

    The file may also be the config.json of a trial. `overrides` are "train.steps=5000" and the like.
    """
    document = Document(Path(path), environ)
    text = document.read()
    if recorded := is_of_trial(document.values):
        document.values = document.values["config"]
        document.origins = {at.removeprefix("config."): where for at, where in document.origins.items()}
        load_kept(Path(path).resolve().parent.parent.parent, document.values.get("code"))
    for position, setting in enumerate(overrides):
        document.override(setting, position)
    code = None if recorded else imported_code(document)
    if document.mistakes:
        raise SweepError(document.mistakes)
    values = document.values if recorded else {**document.values, "code": None if code is None else code.recorded()}
    try:
        if "command" in values and not recorded:
            values = {key: value for key, value in values.items() if key not in OF_COMMANDS}
            values["command"] = read_command(document.values, (), document.source.parent)
        return TrainConfig.from_dict(values), text
    except ConfigError as error:
        for problem in error.problems:
            document.complain(*problem)
        raise SweepError(document.mistakes) from None


def is_of_trial(values: Mapping[str, Any]) -> bool:
    """Whether a file holds what a trial recorded of itself, its configuration among it."""
    return isinstance(values.get("config"), dict) and "trial" in values


class Start(NamedTuple):
    """What a training begins with: its configuration, the text in which that stands, and a name for its run folder."""

    config: TrainConfig
    text: str
    name: str
    files: Path  # where those of a command lie


def start_of(path: Path, overrides: Sequence[str] = (), arm: str | None = None) -> Start:
    """The start that a path names: a YAML file, a trial's folder or its config.json, or with `arm` a sweep file.

    Raises SweepError, and RunFolderError where there is no such trial or arm.
    """
    if arm is not None:
        sweep = load_sweep(path, overrides)
        if arm not in sweep.arms:
            raise RunFolderError(f"--arm: saw {arm!r}, expected an arm of {path}: {', '.join(sweep.arms)}")
        return Start(TrainConfig.from_dict(sweep.arms[arm].base), sweep.text, f"{sweep.name}-{arm}", path.parent)
    if path.is_dir():
        path = path / "config.json"
        if not path.exists():
            raise RunFolderError(
                f"{path}: no such file; expected a YAML file, or the folder of a trial such as"
                " runs/quickstart/trials/pixeliqn-search-4"
            )
    config, text = load_config(path, overrides=overrides)
    trial = path.resolve().parent
    of_trial = path.name == "config.json" and trial.parent.name == "trials"
    if not of_trial:
        return Start(config, text, path.stem, path.parent)
    run = trial.parent.parent
    kept = run / FOLDER / (config.to_dict().get("command") or {}).get("hash", "")
    return Start(config, text, f"{run.name}-{trial.name}", kept)


class SingleRun(NamedTuple):
    """One training: its folder, its configuration, and its records, which are measured while they are asked for."""

    folder: TrialFolder
    config: TrainConfig
    records: Iterator[dict[str, Any]]


def train_one(
    path: Path | str,
    runs_dir: Path | str = "runs",
    overrides: Sequence[str] = (),
    arm: str | None = None,
    name: str | None = None,
) -> SingleRun:
    """The training of a start (see `start_of`), as the trial `<model>-search-0` of the run folder `runs_dir/<name>`.

    Continues what is there. Raises SweepError, and with the first record RunFolderError where the folder holds
    something else.
    """
    config, text, usual, files = start_of(Path(path), overrides, arm)
    name = name or usual
    if not SWEEP_NAME.fullmatch(name):
        raise RunFolderError(f"{path}: saw the name {name!r}, expected letters, digits and _.- for the run folder")
    run = RunFolder(Path(runs_dir) / name)
    assignment = Assignment(config.model.name, Stage.SEARCH, 0, config.to_dict(), {}, config.seed)
    command = " ".join(
        [f"{COMMAND} {path}", *([f"--arm {arm}"] if arm else []), *(f"--set {one}" for one in overrides)]
    )
    records = _records(run, assignment, config, text, command, files)
    return SingleRun(run.trial(assignment.id), config, records)


def _records(
    run: RunFolder, assignment: Assignment, config: TrainConfig, text: str, command: str, files: Path
) -> Iterator[dict[str, Any]]:
    with run.lock():
        _describe(run, assignment, config, text, command, finished=False)
        keep_command(assignment.config.get("command"), files, run.path)
        yield from run_trial(assignment, run)
        _describe(run, assignment, config, text, command, finished=True)


def _describe(
    run: RunFolder, assignment: Assignment, config: TrainConfig, text: str, command: str, *, finished: bool
) -> None:
    """What status and report read: a sweep of one arm with one trial."""
    before = run.sweep_if_begun()
    known = (before or {}).get("command") or ""
    if before is not None and (not known.startswith(COMMAND) or assignment.arm not in before["sweep"]["arms"]):
        raise RunFolderError(f"{run.path} holds the run of {known!r}; give this one a --name, or --runs")
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
