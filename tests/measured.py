"""What trials measured, without the clocks: to compare a sweep that was disturbed with one that was not."""

from orchestrator.runs import load_runs

TIMED = ("time", "seconds", "evaluate_seconds")


def history(item):
    """The records of a trial without the clocks."""
    return [{key: value for key, value in record.items() if key not in TIMED} for record in item.history]


def numbers(run):
    """What every trial was asked and what it measured."""
    return {item.id: (item.params, item.seed, item.source, item.state, history(item)) for item in load_runs(run.path)}
