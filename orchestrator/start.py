"""What a start of a sweep does, from the lock on its run folder to its report.

Ray and Optuna, which take seconds to import, come in only where there is something to train.
"""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from aiqn_core.code import keep
from aiqn_core.command import keep_command
from orchestrator import shapes
from orchestrator.continuing import check_continues
from orchestrator.control import note_stop, take_requests
from orchestrator.live import Unfailing, View
from orchestrator.objectives import recorded_facts
from orchestrator.outcome import SweepFailedError
from orchestrator.plan import plan_at_start
from orchestrator.runs import FORMAT, Run, RunFolder, load_runs, read_json, write_bytes, write_json
from orchestrator.sections import Sweep
from orchestrator.signals import Interrupt
from orchestrator.stores import Store, choose, note
from orchestrator.tracking.process import Mirroring, mirroring
from orchestrator.tracking.progress import nothing_to_send
from orchestrator.watch import Signature, Watch, signature

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger

NOTHING_TO_TRAIN = "Nothing to train: every trial has ended."


def run_sweep(sweep: Sweep, runs_dir: Path | str = "runs", view: View | None = None) -> list[Run]:
    """Run a sweep, or continue it, until every arm has its trials and finals; then write its report.

    Everything is kept in `runs_dir/<sweep.name>`; see `orchestrator.runs`. Stops early on SIGINT or SIGTERM, after
    the evaluations in progress. Raises RunFolderError where another driver holds the run folder, where it cannot be
    written, or where it belongs to a sweep of another meaning; SweepFailedError where its first trials fail alike.
    """
    train(sweep, runs_dir, view)
    return load_runs(Path(runs_dir) / sweep.name)


def train(sweep: Sweep, runs_dir: Path | str, view: View | None = None) -> None:
    """`run_sweep` for those who look into the run folder themselves: to read thousands of trials takes a second."""
    run, view = RunFolder(Path(runs_dir) / sweep.name), Unfailing(view or View())
    try:
        with run.lock(), Interrupt() as interrupt:
            conduct(run, sweep, view, interrupt)
    except OSError as error:
        from orchestrator.driver import storage_error

        raise storage_error(run.path, error) from error


def conduct(run: RunFolder, sweep: Sweep, view: View, interrupt: Interrupt) -> None:
    """`run_sweep` for the holder of the run folder's lock."""
    store = open_run(run, sweep)
    if said := note(store, os.environ):
        view.say(said)
    plan_at_start(run, sweep)
    take_requests(run)  # of an earlier driver
    signatures = Watch(run).signatures()
    # The ledger of thousands of trials takes seconds to read, and so does what MLflow holds of them.
    if told := run.report.is_dir() and looks_finished(run, signatures):
        view.say(NOTHING_TO_TRAIN)
        if nothing_to_send(run, store.uri, signatures):
            return
    from orchestrator.ledger import Ledger  # and Optuna with it

    ledger = Ledger(run, sweep)
    mark_finished(run, ledger.complete)  # not any more, where the sweep has grown
    reported, alike = ledger.complete and run.report.is_dir(), ""
    if ledger.complete and not told:
        view.say(NOTHING_TO_TRAIN)
    with mirroring(run, store.uri) as mirror:
        if not ledger.complete:
            alike = train_what_is_left(ledger, view, interrupt, mirror)
        mark_finished(run, ledger.complete)
        if not reported:
            write_report(run)
    ledger.remember_runs((read_json(run.mirror, shapes.MIRROR) or {}).get("runs") or {})
    if ledger.complete:
        write_json(run.finished, {"looks": looks(run, Watch(run).signatures())})
    if alike:
        raise SweepFailedError(alike)


def looks(run: RunFolder, signatures: Mapping[str, Signature]) -> str:
    """A name for the sweep, its journal and its trials as they are on disk: sizes and times, not what is in them."""
    files = [signature(path) for path in (run.sweep_json, run.journal)]
    return hashlib.sha256(json.dumps([files, sorted(signatures.items())]).encode()).hexdigest()


def looks_finished(run: RunFolder, signatures: Mapping[str, Signature]) -> bool:
    """Whether every trial had ended at the end of an earlier start, and nothing was touched since."""
    known = read_json(run.finished, shapes.FINISHED)
    return known is not None and run.read_sweep()["finished"] is True and known["looks"] == looks(run, signatures)


def train_what_is_left(ledger: "Ledger", view: View, interrupt: Interrupt, mirror: Mirroring) -> str:
    """Train until every trial has ended, or the sweep is told to stop; gives what stops one whose trials fail alike."""
    from orchestrator.driver import Spent

    if over := Spent(ledger).over_budget():
        note_stop(ledger.run, over)
        view.say(over)
        return ""

    from orchestrator.search import drive  # and Ray with it

    return drive(ledger, view, interrupt, mirror)


def open_run(run: RunFolder, sweep: Sweep) -> Store:
    """Write the run folder's copy of the sweep; its MLflow store.

    Raises RunFolderError where the folder holds trials of another meaning.
    """
    before, data = check_continues(run, sweep)
    store = choose(sweep.tracking.uri, before, os.environ)
    content = {
        "format": FORMAT,
        "id": (before or {}).get("id") or uuid.uuid4().hex,
        "name": sweep.name,
        "question": sweep.question,
        "command": f"aiqn sweep {sweep.path}",
        "created": (before or {}).get("created") or time.time(),
        "finished": bool(before and before["finished"]),
        "metrics": recorded_facts(sweep.arms),
        "sweep": sweep.to_dict(),
        "data": data,
        "store": store.recorded(),
    }
    if sweep.code is not None:
        keep(sweep.code, run.path)
    for arm in sweep.arms.values():
        keep_command(arm.base.get("command"), sweep.path.parent, run.path)
    if content != before:
        write_bytes(run.sweep_yaml, sweep.text.encode())
        write_json(run.sweep_json, content)
    return store


def mark_finished(run: RunFolder, finished: bool) -> None:
    """Record in sweep.json whether every trial has ended."""
    content = run.read_sweep()
    if content["finished"] != finished:
        write_json(run.sweep_json, {**content, "finished": finished})


def write_report(run: RunFolder) -> None:
    """Write the report, unless there is nothing to report on yet."""
    from reports.html import write_report as write  # pandas and Altair take a second to import

    if load_runs(run.path):
        write(run.path)
