"""A sweep gone through in this process, one trial after the other, without Ray."""

from orchestrator.ledger import Ledger
from orchestrator.runs import load_runs
from orchestrator.trial import run_trial


def go_through(sweep, run):
    """Train every trial and final of a sweep in a run folder that is made here; gives the recorded runs."""
    run.path.mkdir()
    ledger = Ledger(run, sweep)
    while not ledger.complete:
        assignment = ledger.next()
        for record in run_trial(assignment, run, 1):
            ledger.report(assignment.id, record)
        ledger.close(assignment.id)
    return load_runs(run.path)
