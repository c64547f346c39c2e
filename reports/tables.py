"""Runs to tables: what was asked, what was measured, what is missing. Nothing here draws or knows HTML."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from orchestrator.runs import FINISHED, Run, RunFolder, RunFolderError, load_runs, write_bytes

MISSING = "—"
STAGES = ("search", "final")
TOP = 5  # configurations of each arm on the page


class Metric(NamedTuple):
    """A measured quantity under the name it was recorded with, and which way is better."""

    name: str
    lower_is_better: bool

    @property
    def label(self) -> str:
        return f"{self.name} {'↓' if self.lower_is_better else '↑'}"

    def key(self, value: float) -> float:
        """A sorting key that puts the best value first."""
        return value if self.lower_is_better else -value


@dataclass(frozen=True)
class Results:
    """One sweep and all its runs, as the tables and figures read them."""

    name: str
    question: str
    command: str
    created: float | None  # unix seconds
    finished: bool
    arms: list[str]  # in the order of the sweep file
    metrics: list[Metric]  # the objective first, then the distance and the score beside it
    trials: int  # planned search trials of each arm
    top: int  # configurations of each arm that go on to the final stage
    seeds: int
    runs: list[Run]
    folder: Path

    @property
    def objective(self) -> Metric:
        return self.metrics[0]

    def planned(self, stage: str) -> int:
        """How many trials of the stage each arm gets."""
        return self.trials if stage == "search" else self.top * self.seeds

    def of(self, arm: str, stage: str) -> list[Run]:
        """The runs of one arm in one stage."""
        return [run for run in self.runs if run.arm == arm and run.stage == stage]

    @property
    def done(self) -> int:
        return sum(run.state in FINISHED for run in self.runs)

    @property
    def total(self) -> int:
        """Planned trials, or those found where there are more."""
        return sum(max(self.planned(stage), len(self.of(arm, stage))) for arm in self.arms for stage in STAGES)


def read_results(run_folder: Path | str) -> Results:
    """Everything recorded in a run folder; raises RunFolderError where it cannot be read."""
    runs = load_runs(run_folder)
    folder = RunFolder(Path(run_folder))
    recorded = folder.read_sweep()
    try:
        sweep = recorded["sweep"]
        objective, final = sweep["search"]["objective"], sweep.get("final") or {"top": 0, "seeds": []}
        arms = list(sweep["arms"])
        return Results(
            name=recorded["name"],
            question=recorded.get("question") or "",
            command=recorded.get("command") or "",
            created=recorded.get("created"),
            finished=bool(recorded.get("finished")),
            arms=arms + sorted({run.arm for run in runs} - set(arms)),
            metrics=_metrics(Metric(objective["metric"], objective["direction"] == "minimize"), runs),
            trials=sweep["search"]["trials"],
            top=final["top"],
            seeds=len(final["seeds"]),
            runs=runs,
            folder=folder.path,
        )
    except (KeyError, TypeError) as error:
        message = f"{folder.sweep_json}: damaged, {error!r} while reading it; start the sweep again to write it anew"
        raise RunFolderError(message) from error


def _metrics(objective: Metric, runs: list[Run]) -> list[Metric]:
    names = sorted({name for run in runs for record in run.history for name in record})
    distances = [Metric(name, True) for name in names if name == "fid" or name.startswith("fd_")]
    scores = [Metric(name, False) for name in names if name.startswith("is_") and name.endswith("_mean")]
    vectors = [Metric(name, True) for name in ("energy_distance", "wasserstein1_mean") if name in names]
    return [objective, *(m for m in (*distances[:1], *scores[:1], *vectors) if m.name != objective.name)]


# Numbers of runs


class Summary(NamedTuple):
    """Mean and sample standard deviation (None for one value) of the values of several seeds."""

    mean: float
    deviation: float | None
    low: float
    high: float
    seeds: int


def summarise(values: Sequence[float]) -> Summary | None:
    """The summary of finite values, or None where there are none."""
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Summary(statistics.fmean(values), deviation, min(values), max(values), len(values))


def last_record(run: Run, metric: str) -> dict[str, Any]:
    """The last record that holds the metric; empty where there is none."""
    return next((record for record in reversed(run.history) if record.get(metric) is not None), {})


def last_value(run: Run, metric: str) -> float | None:
    """The metric at its last evaluation, or None where it was not measured or is not finite."""
    return finite(last_record(run, metric).get(metric))


def finite(value: Any) -> float | None:
    """The value where it is a finite number, else None."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def ranked(results: Results, arm: str) -> list[Run]:
    """Search trials of an arm that reached their last step and have a finite objective, best first."""
    objective = results.objective
    valued = [(last_value(run, objective.name), run) for run in results.of(arm, "search") if run.state == "completed"]
    pairs = [(value, run) for value, run in valued if value is not None]
    return [run for _, run in sorted(pairs, key=lambda pair: (objective.key(pair[0]), pair[1].number))]


def final_groups(results: Results, arm: str) -> dict[int | None, list[Run]]:
    """Finals of an arm by the search trial whose configuration they train again, each by increasing seed."""
    groups: dict[int | None, list[Run]] = {}
    for run in sorted(results.of(arm, "final"), key=lambda run: (run.source is None, run.source, run.seed)):
        groups.setdefault(run.source, []).append(run)
    return groups


def chosen_finals(results: Results, arm: str) -> list[Run]:
    """Completed finals of the arm's configuration with most completed seeds, then the best mean objective."""
    objective = results.objective
    candidates: list[tuple[int, float, int, list[Run]]] = []
    for group in final_groups(results, arm).values():
        runs = [run for run in group if run.state == "completed" and last_value(run, objective.name) is not None]
        # A configuration with fewer seeds must not win by one lucky seed.
        if summary := summarise(values_of(runs, objective.name)):
            candidates.append((-summary.seeds, objective.key(summary.mean), len(candidates), runs))
    return min(candidates)[-1] if candidates else []


def values_of(runs: Iterable[Run], metric: str) -> list[float]:
    """The finite last values of a metric over runs."""
    return [value for run in runs if (value := last_value(run, metric)) is not None]


def untrained(runs: Iterable[Run], metric: str) -> list[float]:
    """The metric of the model before training (step 0), where it was recorded."""
    return [value for run in runs for step, value in run.curve(metric) if step == 0 and math.isfinite(value)]


def protocol(run: Run, metric: str) -> tuple[tuple[str, Any], ...]:
    """How the last value of a metric was measured: extractor, image size, reference and the number of samples."""
    recorded = {k: v for k, v in (run.provenance.get("protocol") or {}).items() if k != "samples"}
    return (*sorted(recorded.items()), ("samples", last_record(run, metric).get("samples")))


def differing_protocols(results: Results, stage: str) -> dict[str, set[Any]]:
    """Settings of the measurement that are not the same in all completed trials of a stage, with their values."""
    runs = [run for run in results.runs if run.stage == stage and run.state == "completed"]
    seen: dict[str, set[Any]] = {}
    for settings in {protocol(run, results.objective.name) for run in runs}:
        for key, value in settings:
            seen.setdefault(key, set()).add(value)
    return {key: values for key, values in seen.items() if len(values) > 1}


# Numbers as people read them


def rounded(value: float | None, digits: int = 4) -> str:
    """A number with `digits` significant digits; digits before the point are all kept."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value != 0 and abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    number = Decimal(repr(float(value)))
    return f"{_at(number, min(0, number.adjusted() - digits + 1) if number else 0):,f}"


def plus_minus(summary: Summary | None) -> str:
    """Mean ± s.d.: the s.d. has two significant digits and is rounded up, the mean ends at the same place."""
    if summary is None:
        return MISSING
    if not summary.deviation:
        return rounded(summary.mean) + ("" if summary.deviation is None else " ± 0")
    deviation = Decimal(repr(summary.deviation))
    place = min(0, deviation.adjusted() - 1)
    return f"{_at(Decimal(repr(float(summary.mean))), place):,f} ± {_at(deviation, place, ROUND_CEILING):,f}"


def _at(number: Decimal, place: int, rounding: str = ROUND_HALF_EVEN) -> Decimal:
    return number.quantize(Decimal(1).scaleb(place), rounding=rounding)


def whole(values: Iterable[Any]) -> str:
    """The distinct integers among values, for example "1,000" or "500, 1,000"."""
    numbers = sorted({value for value in values if isinstance(value, int)})
    return ", ".join(f"{number:,}" for number in numbers) or MISSING


def seconds(value: float | None) -> str:
    """A duration in the unit that suits it: "42 s", "12 min", "3.1 h"."""
    if value is None:
        return MISSING
    if value < 10:
        return f"{value:.1f} s"
    if value < 300:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:,.1f} h"


def parameter(value: Any) -> str:
    """A hyperparameter's value: three significant digits where it is a fraction."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return MISSING if value is None else str(value)


def configuration(params: dict[str, Any]) -> str:
    """Hyperparameters on one line, in the order they were chosen."""
    return ", ".join(f"{key} = {parameter(value)}" for key, value in params.items())


def plural(count: int, noun: str) -> str:
    """ "1 seed", "2 seeds"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


# The answer


class Answer(NamedTuple):
    """What the numbers say, and how far to trust it."""

    sentence: str
    qualifier: str
    leader: str | None = None  # the arm that is clearly ahead, if one is


def answer(results: Results) -> Answer:
    """One sentence computed from the finals, or from the search where there are no finals."""
    finals = {arm: runs for arm in results.arms if (runs := chosen_finals(results, arm))}
    if not finals:
        return _answer_of_search(results)
    objective = results.objective
    summaries = {arm: _summary(runs, objective.name) for arm, runs in finals.items()}
    order = sorted(summaries, key=lambda arm: objective.key(summaries[arm].mean))
    shown = {arm: plus_minus(summary) for arm, summary in summaries.items()}
    counts = sorted({summary.seeds for summary in summaries.values()})
    spread = (
        "One seed, so nothing is known of the spread between seeds"
        if counts == [1]
        else "Mean ± s.d. over " + (f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds")
    )
    drawn = whole(last_record(run, objective.name).get("samples") for runs in finals.values() for run in runs)
    qualifier = [f"{spread}, {drawn} samples each; this compares means, it is not a significance test."]
    if absent := [arm for arm in results.arms if arm not in finals]:
        qualifier.append(f"No completed final for {', '.join(absent)}.")
    if len(order) == 1:
        sentence = f"{order[0]} reaches {objective.name} {shown[order[0]]}; there is no other arm to compare it with"
        return Answer(f"{sentence}{' yet' if absent else ''}.", " ".join(qualifier))
    best, second = summaries[order[0]], summaries[order[1]]
    against = ", ".join(f"{shown[arm]} for {arm}" for arm in order[1:])
    overlap = best.low <= second.high and second.low <= best.high
    if differing := differing_protocols(results, "final"):
        sentence = f"Not comparable: the finals were measured with different {', '.join(sorted(differing))}."
        return Answer(sentence, " ".join(qualifier))
    qualifier.append(_second_opinion(results, finals, order))
    if overlap:
        sentence = f"No clear difference: {objective.name} is {shown[order[0]]} for {order[0]}, {against}"
        ranges = "; the ranges over seeds overlap" if counts != [1] else ""
        return Answer(f"{sentence}{ranges}.", " ".join(filter(None, qualifier)))
    better = "lower" if objective.lower_is_better else "higher"
    sentence = f"{order[0]} reaches the {better} {objective.name}: {shown[order[0]]}, against {against}."
    return Answer(sentence, " ".join(filter(None, qualifier)), order[0] if min(counts) > 1 else None)


def _summary(runs: list[Run], metric: str) -> Summary:
    summary = summarise(values_of(runs, metric))
    assert summary is not None  # chosen finals have a value of the objective
    return summary


def _second_opinion(results: Results, finals: dict[str, list[Run]], order: list[str]) -> str:
    """Whether the other metrics rank the first two arms the same way."""
    said = []
    for metric in results.metrics[1:]:
        first, second = (summarise(values_of(finals[arm], metric.name)) for arm in order[:2])
        if first and second:
            same = metric.key(first.mean) < metric.key(second.mean)
            verb = "ranks them the same way" if same else "does not agree"
            said.append(f"{metric.name} {verb}: {plus_minus(first)} ({order[0]}), {plus_minus(second)} ({order[1]}).")
    return " ".join(said)


def _answer_of_search(results: Results) -> Answer:
    best = {arm: runs[0] for arm in results.arms if (runs := ranked(results, arm))}
    if not best:
        return Answer("No answer yet: no trial has completed.", "")
    objective = results.objective
    values = {arm: last_value(run, objective.name) or 0.0 for arm, run in best.items()}
    order = sorted(values, key=lambda arm: objective.key(values[arm]))
    listed = ", ".join(f"{rounded(values[arm])} for {arm}" for arm in order)
    drawn = whole(last_record(run, objective.name).get("samples") for run in best.values())
    counts = ", ".join(f"{len(ranked(results, arm))} of {arm}" for arm in order)
    qualifier = (
        f"Best of the completed search trials ({counts}), one seed and {drawn} samples each: "
        "the best of many is optimistic, and this is not a significance test."
    )
    if absent := [arm for arm in results.arms if arm not in best]:
        qualifier += f" No completed trial for {', '.join(absent)}."
    return Answer(
        f"No final results{' yet' if results.top else ''}. In the search, {objective.name} is {listed}.", qualifier
    )


# Tables


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
        "± is the sample standard deviation over seeds, rounded up." + (" Bold: ahead on every seed." if leader else "")
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


def active_seconds(run: Run) -> float:
    """Seconds of training and evaluation, over all attempts."""
    return max((value for record in run.history if (value := finite(record.get("seconds"))) is not None), default=0.0)


def evaluation_seconds(run: Run) -> float:
    """The part of `active_seconds` that went into evaluations; records hold the sum so far."""
    values = (finite(record.get("evaluate_seconds")) for record in run.history)
    return max((value for value in values if value is not None), default=0.0)


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


# Files


def write_table(table: Table, folder: Path) -> None:
    """Write `<name>.csv` with full precision, `<name>.md` and `<name>.tex` as people read them."""
    for suffix, text in (("csv", to_csv(table)), ("md", to_markdown(table)), ("tex", to_latex(table))):
        write_bytes(folder / f"{table.name}.{suffix}", text.encode())


def _cells(table: Table, escape: Callable[[str], str], bold: Callable[[str], str]) -> list[list[str]]:
    """The text of each cell, escaped, and bold where the table says so."""
    return [
        [
            bold(escape(str(cell))) if (row, column) in table.strong else escape(str(cell))
            for column, cell in zip(table.shown.columns, cells, strict=True)
        ]
        for row, cells in enumerate(table.shown.to_numpy().tolist())
    ]


def to_csv(table: Table) -> str:
    """Comma-separated values, full precision, missing values empty."""
    return table.data.to_csv(index=False, lineterminator="\n")


def to_markdown(table: Table) -> str:
    """A pipe table with its notes below."""
    if table.shown.empty:
        return f"{table.title}: none.\n"
    columns = list(table.shown.columns)
    rule = [":--" if column in table.text else "--:" for column in columns]
    cells = _cells(table, lambda text: text.replace("|", "\\|"), lambda text: f"**{text}**")
    rows = ["| " + " | ".join(line) + " |" for line in [columns, rule, *cells]]
    return "\n".join([f"**{table.title}**", "", *rows, *(f"\n{note}" for note in table.notes)]) + "\n"


LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "—": "--", "…": r"\ldots{}",
    **{symbol: f"\\{symbol}" for symbol in "&%$#_{}"},
}  # fmt: skip


def latex(text: str) -> str:
    """Text with everything escaped that LaTeX would read as a command."""
    return "".join(LATEX.get(character, character) for character in text)


def to_latex(table: Table) -> str:
    """A booktabs tabular in a table environment."""
    if table.shown.empty:
        return f"% {table.title}: none\n"
    columns = list(table.shown.columns)
    cells = [[latex(column) for column in columns], *_cells(table, latex, lambda text: rf"\textbf{{{text}}}")]
    rows = [" & ".join(line) + r" \\" for line in cells]
    alignment = "".join("l" if column in table.text else "r" for column in columns)
    notes = "".join(f" {latex(note)}" for note in table.notes)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(table.title)}.{notes}}}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        rows[0],
        r"\midrule",
        *rows[1:],
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"
