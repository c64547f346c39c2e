"""Results to tables. Nothing here draws or knows HTML."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.runs import FINISHED, Run
from reports.answer import answer
from reports.results import (
    STAGES,
    Results,
    Summary,
    active_seconds,
    chosen_finals,
    differing_protocols,
    evaluation_seconds,
    final_groups,
    finite,
    last_record,
    last_value,
    ranked,
    summarise,
    untrained,
    values_of,
)
from reports.rounding import MISSING, configuration, parameter, plural, plus_minus, rounded, seconds, whole

TOP = 5  # configurations of each arm on the page


@dataclass(frozen=True)
class Table:
    """One table twice: full precision for programs, rounded text for people."""

    name: str  # of its files, without suffix
    title: str
    data: pd.DataFrame
    shown: pd.DataFrame  # strings only
    text: tuple[str, ...] = ()  # columns of `shown` that hold words and are aligned left
    detail: str | None = None  # a column of `shown` that the page sets as a second line
    notes: tuple[str, ...] = ()
    strong: frozenset[tuple[int, str]] = frozenset()  # (row, column) of cells in `shown` to set in bold


def comparison(results: Results) -> Table:
    """Table 1 of the sweep: a row for each arm, search and final values in columns of their own."""
    rows, shown, notes = [], [], []
    objective, leader = results.objective, answer(results).leader
    search_samples = {
        last_record(runs[0], objective.name).get("samples") for arm in results.arms if (runs := ranked(results, arm))
    }
    search_column = f"Search best {objective.label} ({whole(search_samples)} samples)"
    for arm in results.arms:
        best, finals = next(iter(ranked(results, arm)), None), chosen_finals(results, arm)
        row = _comparison_row(results, arm, best, finals)
        rows.append(row)
        summaries = {metric: summarise(values_of(finals, metric.name)) for metric in results.metrics}
        source = next((run for run in results.of(arm, "search") if finals and run.number == finals[0].source), None)
        shown.append(
            {
                "Arm": arm,
                search_column: rounded(row["search_value"]),
                **{f"Final {metric.label}": plus_minus(summary) for metric, summary in summaries.items()},
                f"Untrained {objective.name}": _untrained_text(row),
                "Seeds": f"{len(finals)} of {results.seeds}" if results.top else MISSING,
                "Steps": whole(last_record(run, objective.name).get("step") for run in finals),
                "Samples": whole(last_record(run, objective.name).get("samples") for run in finals),
                "Reference": whole((run.provenance.get("protocol") or {}).get("reference") for run in finals),
                "Time per final": seconds(row["final_seconds"]),
                "Configuration": _configuration_line(best, source),
            }
        )
        if best and source and best.number != source.number:
            notes.append(f"{arm}: {source.id} did better over its seeds than {best.id}, which led the search.")
    untrained_column = f"Untrained {objective.name}"
    if all(row[untrained_column] == MISSING for row in shown):  # scored only where evaluate.initial asks for it
        shown = [{key: text for key, text in row.items() if key != untrained_column} for row in shown]
    for stage in STAGES:
        for key, values in differing_protocols(results, stage).items():
            listed = ", ".join(sorted(map(str, values)))
            notes.append(
                f"Caution: {key} is not the same in all {stage} trials ({listed}); such values do not compare."
            )
    if results.top > 1:
        notes.append(
            f"Finals: the best of {results.top} configurations of each arm by their mean, which is a little optimistic."
        )
    notes.append(
        "Search and final values are in separate columns: they can differ in steps and in the number of samples."
    )
    notes.append(
        "± is the sample standard deviation over seeds, rounded up."
        + (" Bold: better, as tested below." if leader else "")
    )
    title = "Each arm's best search trial, and its finals as mean ± s.d. over seeds"
    return Table(
        "comparison",
        title,
        pd.DataFrame(rows),
        pd.DataFrame(shown),
        ("Arm", "Configuration"),
        "Configuration",
        tuple(notes),
        frozenset({(results.arms.index(leader), f"Final {objective.label}")} if leader else ()),
    )


def _comparison_row(results: Results, arm: str, best: Run | None, finals: list[Run]) -> dict[str, Any]:
    name = results.objective.name
    record = last_record(best, name) if best else {}
    row: dict[str, Any] = {
        "arm": arm,
        "search_trial": best.id if best else None,
        "search_value": finite(record.get(name)),
        "search_step": record.get("step"),
        "search_samples": record.get("samples"),
        "search_params": configuration(best.params) if best else None,
        "final_source": finals[0].source if finals else None,
        "final_seeds": len(finals),
    }
    for metric in results.metrics:
        summary = summarise(values_of(finals, metric.name))
        for part in ("mean", "deviation", "low", "high", "seeds"):
            row[f"final_{metric.name}_{part}"] = getattr(summary, part) if summary else None
    last = [last_record(run, name) for run in finals]
    for key in ("step", "samples"):
        row[f"final_{key}"] = (
            " ".join(str(v) for v in sorted({record[key] for record in last if key in record})) or None
        )
    # The untrained model is scored where the finals are; the search's own value stands in, with its own sample count.
    measured = finals if untrained(finals, name) else [best] if best else []
    start = summarise(untrained(measured, name))
    row |= {
        "untrained_mean": start.mean if start else None,
        "untrained_deviation": start.deviation if start else None,
        "untrained_count": start.seeds if start else 0,
        "untrained_samples": measured[0].history[0].get("samples") if start else None,
        "final_seconds": statistics.fmean(map(active_seconds, finals)) if finals else None,
    }
    return row


def _untrained_text(row: dict[str, Any]) -> str:
    if row["untrained_mean"] is None:
        return MISSING
    summary = Summary(row["untrained_mean"], row["untrained_deviation"], math.nan, math.nan, row["untrained_count"])
    other = str(row["untrained_samples"]) != str(row["final_samples"])
    return plus_minus(summary) + (
        f" ({row['untrained_samples']:,} samples)" if other and row["untrained_samples"] else ""
    )


def _configuration_line(best: Run | None, source: Run | None) -> str:
    run = source or best
    return f"{run.id}: {configuration(run.params)}" if run else "no completed search trial"


def top_configurations(results: Results, arm: str, count: int = TOP) -> Table:
    """The best search trials of one arm with their hyperparameters; pruned trials have no value at the last step."""
    runs, rows, shown = ranked(results, arm)[:count], [], []
    keys = list(dict.fromkeys(key for run in runs for key in run.params))
    sources = final_groups(results, arm)
    for rank, run in enumerate(runs, start=1):
        values = {metric: last_value(run, metric.name) for metric in results.metrics}
        rows.append(
            {
                "rank": rank,
                "trial": run.id,
                **{m.name: v for m, v in values.items()},
                **{k: run.params.get(k) for k in keys},
            }
        )
        shown.append(
            {
                "Rank": str(rank),
                "Trial": run.id,
                **{metric.label: rounded(value) for metric, value in values.items()},
                **{key: parameter(run.params.get(key)) for key in keys},
                "Time": seconds(active_seconds(run)),
                "Final": "yes" if run.number in sources else "",
            }
        )
    title = f"{arm}: best {len(runs)} of {len(ranked(results, arm))} completed search trials"
    words = tuple(key for key in keys if any(isinstance(run.params.get(key), str) for run in runs))
    return Table(f"top-{arm}", title, pd.DataFrame(rows), pd.DataFrame(shown), ("Trial", "Final", *words))


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
                        **{s: states[s] for s in (*FINISHED, "running")},
                        "waiting": waiting,
                    }
                )
    data = pd.DataFrame(rows)
    return Table("counts", "Trials by state", data, _capitalised(data.astype(str)), ("Arm", "Stage"))


def incidents(results: Results) -> Table:
    """Every trial that did not reach its last step: why, after how many attempts, and the log to open."""
    rows = [
        {
            "trial": run.id,
            "state": run.state,
            "cause": run.cause,
            "step": run.history[-1]["step"] if run.history else None,
            "attempts": run.status.get("attempts"),
            "message": run.status.get("message"),
            "log": _log(results, run),
        }
        for run in results.runs
        if run.state != "completed"
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
    )


def _word(value: Any) -> str:
    return MISSING if value in (None, "") else str(value)


def _first_line(message: Any, limit: int = 160) -> str:
    line = next(iter(str(message or "").strip().splitlines()), "")
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _log(results: Results, run: Run) -> str:
    path = Path(run.status.get("log") or run.folder / "log.txt")
    return str(path.relative_to(results.folder)) if path.is_relative_to(results.folder) else str(path)


def cost(results: Results) -> Table:
    """Seconds of training and evaluation of each arm and stage, with their sum."""
    rows: list[dict[str, Any]] = []
    for arm in results.arms:
        for stage in STAGES:
            if runs := results.of(arm, stage):
                total, scoring = sum(map(active_seconds, runs)), sum(map(evaluation_seconds, runs))
                rows.append(
                    {
                        "arm": arm,
                        "stage": stage,
                        "trials": len(runs),
                        "training": total - scoring,
                        "evaluation": scoring,
                        "total": total,
                    }
                )
    if rows:
        sums = {key: sum(row[key] for row in rows) for key in ("trials", "training", "evaluation", "total")}
        rows.append({"arm": "all", "stage": "both", **sums})
    data = pd.DataFrame(rows, columns=["arm", "stage", "trials", "training", "evaluation", "total"])
    # One unit for the whole table, so that numbers in a column can be compared by eye.
    hours = bool(len(data)) and data["total"].max() >= 2 * 3600
    text = data.astype(object)
    for column in ("training", "evaluation", "total"):
        text[column] = [f"{value / 3600:,.2f} h" if hours else f"{value:,.0f} s" for value in data[column]]
    data = data.rename(columns={key: f"{key}_seconds" for key in ("training", "evaluation", "total")})
    return Table(
        "cost",
        "Time spent in training and in evaluation, over all attempts",
        data,
        _capitalised(text.astype(str)),
        ("Arm", "Stage"),
    )


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
    return Table(
        "trials", "All trials", pd.DataFrame(rows), shown, ("trial", "arm", "stage", "state", "cause", "config_hash")
    )


def _capitalised(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.rename(columns=lambda name: str(name).capitalize())
