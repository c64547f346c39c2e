"""Whether a sweep may go on in a run folder: asked by its start, and by what only says what a start would do."""

from typing import Any, NamedTuple

from orchestrator.data_checks import run_data
from orchestrator.runs import RunFolder, RunFolderError
from orchestrator.sections import Sweep, differences


class Continued(NamedTuple):
    """What stands in the run folder's sweep.json (None: nothing yet), and the data of its arms with their checksums."""

    before: dict[str, Any] | None
    data: dict[str, str]


def check_continues(run: RunFolder, sweep: Sweep) -> Continued:
    """Raises RunFolderError where the run folder holds trials of another question, or of other data."""
    before = run.read_sweep() if run.sweep_json.exists() else None
    if before is not None and (changed := differences(before["sweep"], sweep.to_dict())):
        raise RunFolderError(
            f"{run.path} holds trials of a sweep that differs in: {', '.join(changed)}\n"
            "More trials, arms, seeds and longer finals continue a sweep; anything else would mix two questions.\n"
            f"Undo the change, or give the sweep another name than {sweep.name!r}."
        )
    return Continued(before, run_data(run, sweep, before))
