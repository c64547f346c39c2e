"""Every trial as a row of the page, to be searched, sorted and filtered there; and what a model of each arm takes."""

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from orchestrator.runs import Run
from reports.results import STAGES, Results, active_seconds, evaluation_seconds, last_record, last_value
from reports.rounding import MISSING, parameter, rounded, seconds, whole
from reports.tables import Table, last_step

FILTERS = ("Arm", "Stage", "State")  # the columns that the page offers a choice for


class Browse(NamedTuple):
    """The trials' table of the page: rounded text, a row for each trial, and which columns hold words."""

    columns: tuple[str, ...]
    words: frozenset[int]  # places of columns that are aligned left
    rows: list[tuple[str, ...]]  # the trial's name first


def every_trial(results: Results) -> Browse:
    """Each trial with its last scores and its parameters; what is the same in none is left to trials.csv."""
    keys = list(dict.fromkeys(key for run in results.runs for key in run.params))
    scores = [metric.name for metric in results.metrics]
    columns = ("Trial", *FILTERS, "Seed", "Steps", "Time", *(metric.label for metric in results.metrics), *keys)
    rows = [
        (
            *(run.id, run.arm, str(run.stage), f"{run.state} ({run.cause})" if run.cause else str(run.state)),
            *(str(run.seed), whole([last_step(run)]), seconds(active_seconds(run))),
            *(rounded(last_value(run, name)) for name in scores),
            *(parameter(run.params.get(key)) for key in keys),
        )
        for run in results.runs
    ]
    named = [i for i, key in enumerate(keys, len(columns) - len(keys)) if _words(results, key)]
    return Browse(columns, frozenset([*range(1 + len(FILTERS)), *named]), rows)


def size_table(results: Results) -> Table:
    """What one model of each arm takes: parameters where recorded, time for a step and for an evaluation (medians)."""
    rows: list[dict[str, Any]] = []
    for arm in results.arms:
        for stage in STAGES:
            runs = [run for run in results.of(arm, stage) if last_step(run)]
            if runs:
                row: dict[str, Any] = {
                    "arm": arm,
                    "stage": stage,
                    "trials": len(runs),
                    "parameters": _median(runs, _parameters),
                }
                row |= {"seconds_per_step": _median(runs, _step), "seconds_per_evaluation": _median(runs, _evaluation)}
                rows.append(row | {"samples": _samples(results, runs)})
    columns = ["arm", "stage", "trials", "parameters", "seconds_per_step", "seconds_per_evaluation", "samples"]
    data = pd.DataFrame(rows, columns=columns)
    counted = data["parameters"].notna().any()
    shown = [
        {
            "Arm": row["arm"],
            "Stage": row["stage"],
            "Trials": f"{row['trials']:,}",
            **({"Parameters": whole([row["parameters"]])} if counted else {}),
            "Time per step": _short(row["seconds_per_step"]),
            "Time per evaluation": _short(row["seconds_per_evaluation"]),
            "Samples": row["samples"],
        }
        for row in rows
    ]
    notes = ("Medians over the trials of each arm and stage, of time as recorded, other work on the machine included.",)
    frame, why = pd.DataFrame(shown), "no trial has recorded a step yet"
    return Table("sizes", "What one model takes", data, frame, ("Arm", "Stage"), notes=notes, empty=why)


def _words(results: Results, key: str) -> bool:
    return any(isinstance(run.params.get(key), str) for run in results.runs)


def _median(runs: list[Run], read: Callable[[Run], float | None]) -> float | None:
    values = [value for run in runs if (value := read(run)) is not None]
    middle = statistics.median(values) if values else None
    return int(middle) if middle is not None and all(isinstance(value, int) for value in values) else middle


def _parameters(run: Run) -> int | None:
    value = run.provenance.get("parameters")
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _step(run: Run) -> float | None:
    training = active_seconds(run) - evaluation_seconds(run)
    return training / last_step(run) if training > 0 else None


def _evaluation(run: Run) -> float | None:
    count, spent = sum("samples" in record for record in run.history), evaluation_seconds(run)
    return spent / count if count and spent > 0 else None


def _samples(results: Results, runs: list[Run]) -> str:
    return whole(last_record(run, results.objective.name).get("samples") for run in runs)


def _short(value: float | None) -> str:
    """A duration from milliseconds on."""
    if value is None:
        return MISSING
    return f"{rounded(1000 * value, 3)} ms" if value < 1 else seconds(value)
