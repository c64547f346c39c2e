"""The accounts of a sweep as tables: states, incidents, cost, plan, provenance, all trials. Nothing here draws."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from orchestrator.causes import State
from orchestrator.runs import DAMAGED, FINISHED, Run
from reports.results import (
    STAGES,
    Results,
    active_seconds,
    chosen_finals,
    device_hours,
    evaluation_seconds,
    last_record,
    last_value,
    ranked,
)
from reports.rounding import MISSING, parameter, plural, rounded, seconds, whole


@dataclass(frozen=True)
class Table:
    """One table twice: full precision for programs, rounded text for people."""

    name: str  # of its files, without suffix
    title: str
    data: pd.DataFrame  # with its columns also where it has no rows
    shown: pd.DataFrame  # strings only
    text: tuple[str, ...] = ()  # columns of `shown` that hold words and are aligned left
    detail: str | None = None  # a column of `shown` that the page sets as a second line
    settings: tuple[str, ...] = ()  # columns of `shown` that the page says once where all rows agree
    notes: tuple[str, ...] = ()
    strong: frozenset[tuple[int, str]] = frozenset()  # (row, column) of cells in `shown` to set in bold
    empty: str = "none"  # why it has no rows, where it has none


def counts(results: Results) -> Table:
    """Trials of each arm and stage by state; those that have not started are counted too."""
    rows = []
    for arm in results.arms:
        for stage in STAGES:
            runs = results.of(arm, stage)
            states = Counter(run.state for run in runs)
            planned = results.planned(stage)
            if planned or runs:
                waiting = max(0, planned - len(runs))
                rows.append(
                    {
                        "arm": arm,
                        "stage": stage,
                        "planned": planned,
                        **{state: states[state] for state in (*shown_states(results), "running")},
                        "waiting": waiting,
                    }
                )
    data = pd.DataFrame(rows)
    return Table("counts", "Trials by state", data, _capitalised(data.astype(str)), ("Arm", "Stage"))


def shown_states(results: Results) -> list[str]:
    """The states that get a column: parked and damaged only where a trial is."""
    seen = {run.state for run in results.runs}
    return [*(s for s in FINISHED if s != State.PARKED or s in seen), *([DAMAGED] if results.damaged else ())]


def incidents(results: Results) -> Table:
    """Every trial that did not reach its last step: why, after how many attempts, and the log to open.

    Those that wait at a rung are left out: nothing has happened to them.
    """
    rows = [
        {
            "trial": run.id,
            "state": run.state,
            "cause": run.cause,
            "step": run.history[-1]["step"] if run.history else None,
            "attempts": run.status.get("attempts"),
            "message": run.status.get("message"),
            "log": _log(run),
        }
        for run in results.runs
        if run.state not in (State.COMPLETED, State.PARKED)
    ]
    columns = ["trial", "state", "cause", "step", "attempts", "message", "log"]
    data = pd.DataFrame(rows, columns=columns)
    shown = [{**row, "step": whole([row["step"]]), "message": _first_line(row["message"])} for row in rows]
    frame = pd.DataFrame([{key: _word(value) for key, value in row.items()} for row in shown], columns=columns)
    return Table(
        "incidents",
        "Trials that did not complete",
        data,
        _capitalised(frame),
        ("Trial", "State", "Cause", "Message", "Log"),
        empty="all so far reached their last step" if results.runs else "no trial has started yet",
    )


def _word(value: Any) -> str:
    return MISSING if value in (None, "") else str(value)


def _first_line(message: Any, limit: int = 160) -> str:
    line = next(iter(str(message or "").strip().splitlines()), "")
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _log(run: Run) -> str:
    """The log inside the run folder, wherever that was when the trial ran."""
    inside = f"trials/{run.id}/log.txt"
    recorded = str(run.status.get("log") or inside)
    return inside if recorded.endswith(inside) else recorded


def cost(results: Results) -> Table:
    """Seconds of training and evaluation of each arm and stage with their sum, and hours of the device."""
    rows: list[dict[str, Any]] = []
    for arm in results.arms:
        for stage in STAGES:
            if runs := results.of(arm, stage):
                total, scoring = sum(map(active_seconds, runs)), sum(map(evaluation_seconds, runs))
                row = {"arm": arm, "stage": stage, "trials": len(runs), "steps": sum(map(last_step, runs))}
                rows.append(row | {"training": total - scoring, "evaluation": scoring, "total": total})
    if rows:
        sums = {key: sum(row[key] for row in rows) for key in ("trials", "steps", "training", "evaluation", "total")}
        rows.append({"arm": "all", "stage": "both", **sums})
    data = pd.DataFrame(rows, columns=["arm", "stage", "trials", "steps", "training", "evaluation", "total"])
    # One unit for the whole table, so that numbers in a column can be compared by eye.
    hours = bool(len(data)) and data["total"].max() >= 2 * 3600
    text = data.astype(object)
    text["steps"] = [f"{value:,}" for value in data["steps"]]
    for column in ("training", "evaluation", "total"):
        text[column] = [f"{value / 3600:,.2f} h" if hours else f"{value:,.0f} s" for value in data[column]]
    unit = results.hours_unit
    data[unit.lower()] = [device_hours(results, value) for value in data["total"]]
    text[unit] = [rounded(value, 3) for value in data[unit.lower()]]
    data = data.rename(columns={key: f"{key}_seconds" for key in ("training", "evaluation", "total")})
    title = "Time spent in training and in evaluation, over all attempts"
    words = ("Arm", "Stage")
    return Table("cost", title, data, _capitalised(text.astype(str)), words, empty="no trial has started yet")


def last_step(run: Run) -> int:
    """The last step that was recorded."""
    return int(run.history[-1]["step"]) if run.history else 0


def plan_and_actual(results: Results) -> Table:
    """What was planned before the sweep started against what it took; empty where no plan is recorded."""
    rows: list[tuple[str, str, float | None, float | None]] = []
    lines = results.plan.get("lines") or []
    for line in lines:
        runs = results.of(line["arm"], line["stage"])
        where = f"{line['arm']} {line['stage']}"
        rows.append((f"{where}: trials", "count", line["trials"], len(runs)))
        rows.append((f"{where}: steps", "count", line["trials"] * line["steps"], sum(map(last_step, runs))))
        if line["seconds"] is not None:
            planned = line["trials"] * line["seconds"]
            rows.append((f"{where}: time", "seconds", planned, sum(map(occupied_seconds, runs))))
    if lines and all(line["seconds"] is not None for line in lines):
        planned = sum(line["trials"] * line["seconds"] for line in lines)
        actual = sum(map(occupied_seconds, results.runs))
        rows.append(("all trials: time", "seconds", planned, actual))
        pair = (device_hours(results, planned), device_hours(results, actual))
        rows.append((f"all trials: {results.hours_unit}", "hours", *pair))
        computed = [seconds for run in results.runs if (seconds := run.status.get("cpu_seconds")) is not None]
        if computed and results.resources.get("cpu") == 1 and not results.resources.get("gpu"):
            rows.append(("all trials: time on the CPU", "seconds", planned, sum(computed)))
        rows.append(("wall clock", "seconds", results.plan.get("wall_seconds"), wall_seconds(results)))
    columns = ["quantity", "unit", "planned", "actual"]
    data = pd.DataFrame(rows, columns=columns)
    ratios = [a / p if a is not None and p else None for _, _, p, a in rows]
    data["ratio"] = ratios
    shown = [
        {"Quantity": name, "Planned": _in(unit, planned), "Actual": _in(unit, actual), "Actual / planned": ratio}
        for (name, unit, planned, actual), ratio in zip(rows, map(_ratio, ratios), strict=True)
    ]
    notes = [f"Planned from {results.plan['basis']}."] if results.plan.get("basis") else []
    if results.plan.get("upper_bound"):
        notes.append("The plan is an upper bound: it lets no trial be stopped early.")
    if results.plan.get("extended"):
        notes.append(
            "The sweep was extended after its trials had started: the plan is that of the sweep as it is now, "
            "and the wall clock counts the time between the starts too."
        )
    if not results.finished:
        notes.append("The sweep is unfinished, so the actual numbers still grow.")
    if rows and rows[-1][0] == "wall clock":
        notes.append("Time is that of the trials' processes; wall clock goes from the first start to the last end.")
    if any(name == "all trials: time on the CPU" for name, *_ in rows):
        notes.append("Where other work shares the machine, time grows and time on the CPU hardly does.")
    return Table("plan", "Planned and actual", data, pd.DataFrame(shown), ("Quantity",), notes=tuple(notes))


def _in(unit: str, value: float | None) -> str:
    if value is None:
        return MISSING
    return {"count": f"{value:,.0f}", "seconds": seconds(value), "hours": rounded(value, 3)}[unit]


def _ratio(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def occupied_seconds(run: Run) -> float:
    """How long a trial held its worker; for one with several attempts, its training and evaluation."""
    if run.status.get("attempts") != 1 or run.span is None:
        return active_seconds(run)
    begin, end = run.span
    return float(max(active_seconds(run), end - begin))


def wall_seconds(results: Results) -> float | None:
    """From the first start of a trial to the last end."""
    starts = [run.span[0] for run in results.runs if run.span]
    ends = [run.span[1] for run in results.runs if run.state in FINISHED and run.span]
    return float(max(ends) - min(starts)) if starts and ends else None


def reproduction(results: Results) -> Table:
    """For each row of the comparison the trials behind it: their configurations, seeds, commit and device."""
    rows: list[dict[str, Any]] = []
    for arm in results.arms:
        best = next(iter(ranked(results, arm)), None)
        for run in [best, *chosen_finals(results, arm)]:
            if run is not None:
                git = run.provenance.get("git") or {}
                row: dict[str, Any] = {
                    "row": f"{arm}, {'best of the search' if run is best else 'final'}",
                    "trial": run.id,
                }
                row |= {"seed": run.seed, "step": last_record(run, results.objective.name).get("step")}
                row |= {results.objective.name: last_value(run, results.objective.name)}
                row |= {"configuration": f"trials/{run.id}/config.json"}
                row |= {"config_hash": run.provenance.get("config_hash"), "commit": (git.get("commit") or "")[:12]}
                rows.append(row)
    columns = ["row", "trial", "seed", "step", results.objective.name, "configuration", "config_hash", "commit"]
    data = pd.DataFrame(rows, columns=columns)
    shown = [
        {
            "Row": row["row"],
            "Configuration": row["configuration"],
            "Hash": _word(row["config_hash"]),
            "Seed": str(row["seed"]),
            "Steps": whole([row["step"]]),
            "Commit": _word(row["commit"]),
            results.objective.label: rounded(row[results.objective.name]),
        }
        for row in rows
    ]
    note = (
        "Each configuration is complete and holds its seed; trained again on one CPU of the same kind, with as many "
        "threads and the same versions, it gives the same numbers bit for bit."
    )
    words = ("Row", "Configuration", "Hash", "Commit")
    return Table("reproduction", "Which trials stand behind each row", data, pd.DataFrame(shown), words, notes=(note,))


def provenance(results: Results) -> Table:
    """Where the numbers come from: code, versions, devices, hosts, and how quality was measured."""
    created = (
        datetime.fromtimestamp(results.created, UTC).strftime("%Y-%m-%d %H:%M UTC") if results.created else MISSING
    )
    rows = [("Sweep", results.name), ("Created", created)]
    fields: list[tuple[str, Callable[[Run], Any]]] = [
        ("Git commit", _commit),
        ("Device", lambda run: run.provenance.get("device")),
    ]
    fields.append(("Host", lambda run: run.status.get("host")))
    rows += [(name, _distinct(map(read, results.runs))) for name, read in fields]
    for section, title in (("versions", "Version of"), ("protocol", "Protocol:")):
        keys = dict.fromkeys(key for run in results.runs for key in run.provenance.get(section) or {})
        for key in keys:
            values = ((run.provenance.get(section) or {}).get(key) for run in results.runs)
            rows.append((f"{title} {key}", _distinct(values)))
    frame = pd.DataFrame(rows, columns=["Item", "Value"])
    return Table("provenance", "As recorded with the trials", frame, frame, ("Item", "Value"))


def _commit(run: Run) -> str | None:
    git = run.provenance.get("git") or {}
    return f"{git['commit']}{', with uncommitted changes' if git.get('dirty') else ''}" if git.get("commit") else None


def _distinct(values: Iterable[Any]) -> str:
    """The distinct values, with the number of trials where there are several."""
    found = Counter(MISSING if value is None else str(value) for value in values)
    if len(found) <= 1:
        return next(iter(found), MISSING)
    return "; ".join(f"{value} ({plural(count, 'trial')})" for value, count in sorted(found.items()))


def trials(results: Results) -> Table:
    """Every trial with its last values and hyperparameters."""
    keys = list(dict.fromkeys(key for run in results.runs for key in run.params))
    rows = []
    for run in results.runs:
        record = last_record(run, results.objective.name)
        row = {
            "trial": run.id,
            "arm": run.arm,
            "stage": run.stage,
            "number": run.number,
            "state": run.state,
            "cause": run.cause,
        }
        row |= {"seed": run.seed, "source": run.source, "config_hash": run.provenance.get("config_hash")}
        row |= {"step": record.get("step"), "samples": record.get("samples"), "seconds": active_seconds(run)}
        row |= {metric.name: last_value(run, metric.name) for metric in results.metrics}
        rows.append(row | {key: run.params.get(key) for key in keys})
    shown = pd.DataFrame([{key: parameter(value) for key, value in row.items()} for row in rows])
    columns = ["trial", "arm", "stage", "number", "state", "cause", "seed", "source", "config_hash", "step", "samples"]
    data = pd.DataFrame(rows, columns=[*columns, "seconds", *(metric.name for metric in results.metrics), *keys])
    return Table("trials", "All trials", data, shown, ("trial", "arm", "stage", "state", "cause", "config_hash"))


def _capitalised(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.rename(columns=lambda name: str(name).capitalize())
