"""The table that answers the question: each arm's best search trial and its finals, and the paper's numbers."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from orchestrator.objectives import least_side
from orchestrator.runs import Run
from reports.pareto import chosen_note
from reports.protocols import labels, separated
from reports.results import (
    STAGES,
    Metric,
    Results,
    Summary,
    active_seconds,
    chosen_finals,
    device_hours,
    differing_protocols,
    finite,
    last_record,
    last_value,
    ranked,
    summarise,
    untrained,
    values_of,
)
from reports.rounding import MISSING, configuration, plus_minus, rounded, seconds, whole, with_interval
from reports.tables import Table
from reports.verdict import compare

CONFIDENCE = 0.95
ENOUGH = 1000  # samples from which a distance less its bias is near to that of infinitely many
TOO_FEW = f" Of fewer than {ENOUGH:,} samples, as here, it is still too large."
HOW = ("final_source", "final_seeds", "final_step", "final_samples", "final_seconds")  # of finals, not measured by them


def comparison(results: Results) -> Table:
    """Table 1 of the sweep: a row for each arm, search and final values in columns of their own."""
    rows, shown, notes = [], [], []
    found, objective = compare(results), results.objective
    others = results.metrics[1 : results.objectives]
    leaders = {metric: compare(results, metric).leader for metric in results.metrics[: results.objectives]}
    infinite = f"Of ∞ samples {objective.label}"
    any_infinite = any(extrapolated(chosen_finals(results, arm), objective.name) for arm in results.arms)
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
                **{
                    f"Search {m.label}, same trial": rounded(last_value(best, m.name) if best else None) for m in others
                },
                f"Final {objective.label}": plus_minus(summaries[objective]),
                "95 % interval": _interval_text(summaries[objective], objective),
                **({infinite: plus_minus(extrapolated(finals, objective.name))} if any_infinite else {}),
                **{f"Final {metric.label}": plus_minus(summaries[metric]) for metric in results.metrics[1:]},
                f"Untrained {objective.name}": _untrained_text(row),
                "Seeds": f"{len(finals)} of {results.seeds}" if results.top else MISSING,
                "Steps": whole(last_record(run, objective.name).get("step") for run in finals),
                "Samples": whole(last_record(run, objective.name).get("samples") for run in finals),
                "Reference": whole((run.provenance.get("protocol") or {}).get("reference") for run in finals),
                "Time per final": seconds(row["final_seconds"]),
                results.hours_unit: rounded(row["hours"], 3),
                "Configuration": _configuration_line(best, source),
            }
        )
        if best and source and best.number != source.number:
            notes.append(f"{arm}: {source.id} did better over its seeds than {best.id}, which led the search.")
    rows, shown = _by_protocol(results, rows, shown)
    untrained_column = f"Untrained {objective.name}"
    if all(row[untrained_column] == MISSING for row in shown):  # scored only where evaluate.initial asks for it
        shown = [{key: text for key, text in row.items() if key != untrained_column} for row in shown]
    for stage in STAGES:
        for key, values in differing_protocols(results, stage).items():
            listed = ", ".join(sorted(map(str, values)))
            notes.append(f"Not in one column and not compared: {key} is not the same in all {stage} trials ({listed}).")
    if results.top > 1:
        notes.append(
            f"Finals: the best of {results.top} configurations of each arm by their mean, which is a little optimistic."
        )
    notes.append(
        "Search and final values are in separate columns: they can differ in steps and in the number of samples."
    )
    if any_infinite:
        notes.append(
            "A distance of few samples is too large; that of ∞ is less by the bias that the jackknife finds."
            + (TOO_FEW if _few_samples(results) else "")
        )
    notes.append(
        f"± is the sample standard deviation over seeds, rounded up; the interval is that of the mean (Student's t). "
        f"{results.hours_unit}: search and finals together."
        + (" Bold: better, as tested below." if any(leaders.values()) else "")
    )
    notes += [chosen_note(results)] if others else []
    notes += [*_cut_note(results), *_size_notes(results)]
    if not objective.comparable and len(found.order) > 1:
        notes.append(f"No verdict: {found.why}.")
    title = "Each arm's best search trial, and its finals as mean ± s.d. over seeds"
    return Table(
        "comparison",
        title,
        pd.DataFrame(rows),
        pd.DataFrame(shown),
        ("Arm", "Configuration"),
        "Configuration",
        ("Seeds", "Steps", "Samples", "Reference"),
        tuple(notes),
        frozenset((results.arms.index(arm), f"Final {metric.label}") for metric, arm in leaders.items() if arm),
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
    endless = extrapolated(finals, name)
    row |= {"final_infinite_mean": endless and endless.mean, "final_infinite_deviation": endless and endless.deviation}
    low, high = interval(summarise(values_of(finals, name)), results.objective)
    row |= {f"final_{name}_interval_low": low, f"final_{name}_interval_high": high}
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
        "hours": device_hours(results, sum(active_seconds(run) for run in results.runs if run.arm == arm)),
        "hours_unit": results.hours_unit,
    }
    return row


def _by_protocol(
    results: Results, rows: list[dict[str, Any]], shown: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Columns of their own for values that were measured in different ways; a mean over such is not shown at all."""
    name = results.objective.name
    search = labels([ranked(results, arm)[:1] for arm in results.arms], name)
    finals = labels([chosen_finals(results, arm) for arm in results.arms], name)
    rows = separated(rows, search, lambda column: column == "search_value", None)
    rows = separated(rows, finals, lambda column: column.startswith("final_") and column not in HOW, None)
    shown = separated(shown, search, lambda column: column.startswith("Search best"), MISSING)
    measured = ("Final ", "95 %", "Of ∞")
    return rows, separated(shown, finals, lambda column: column.startswith(measured), MISSING)


def extrapolated(finals: Sequence[Run], name: str) -> Summary | None:
    """The finals' distances less their bias, that is of infinitely many samples, where finals are extrapolated."""
    records = [last_record(run, name) for run in finals]
    pairs = [(finite(one[name]), finite(one.get(f"{name}_bias"))) for one in records if f"{name}_infinite" in one]
    return summarise([value - bias for value, bias in pairs if value is not None and bias is not None])


def interval(summary: Summary | None, metric: Metric) -> tuple[float | None, float | None]:
    """Student's confidence interval of a mean over seeds, cut where the metric's range ends.

    (None, None) for fewer than two seeds.
    """
    from scipy import stats

    if summary is None or summary.deviation is None:
        return None, None
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, summary.seeds - 1)) * summary.deviation / math.sqrt(summary.seeds)
    return max(summary.mean - reach, metric.low), min(summary.mean + reach, metric.high)


def _interval_text(summary: Summary | None, metric: Metric) -> str:
    low, high = interval(summary, metric)
    if summary is None or low is None or high is None:
        return MISSING
    return with_interval(summary.mean, low, high).interval


def _cut_note(results: Results) -> list[str]:
    """Where intervals were cut, and why; empty where none was."""
    metric = results.objective
    ends = [interval(summarise(values_of(chosen_finals(results, arm), metric.name)), metric) for arm in results.arms]
    found = {f"{end:g}" for pair in ends for end in pair if end is not None and end in (metric.low, metric.high)}
    return [f"Intervals are cut at {' and '.join(sorted(found))}, where {metric.name} ends."] if found else []


def _few_samples(results: Results) -> bool:
    """Whether finals have so few samples that the correction of their distances is too small."""
    finals = [run for arm in results.arms for run in chosen_finals(results, arm)]
    counts = [finite(last_record(run, results.objective.name).get("samples")) for run in finals]
    return any(count is not None and count < ENOUGH for count in counts)


def _size_notes(results: Results) -> list[str]:
    """A warning where images were scored at a size that is too small for the network that sees them."""
    notes = {}
    for run in results.runs:
        seen = run.provenance.get("protocol") or {}
        least, size = least_side(seen), seen.get("size")
        if least is not None and isinstance(size, int) and size < least:
            notes[size] = (
                f"Images were scored at {size} pixels a side, where nearly all features of {seen['extractor']} are 0: "
                f"scores at fewer than {least} pixels say little, inception scores nothing."
            )
    return list(notes.values())


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


class Published(NamedTuple):
    """Two numbers of the paper."""

    inception: float
    fid: float


# Table 1 of the paper, and section 4.2 for the small PixelCNN on ImageNet: (data, model, blocks, conditional).
PAPER = {
    ("cifar10", "pixelcnn", 15, False): Published(4.60, 65.93),
    ("cifar10", "pixeliqn", 15, False): Published(5.29, 49.46),
    ("imagenet32", "pixelcnn", 20, False): Published(7.16, 40.51),
    ("imagenet32", "pixeliqn", 20, False): Published(8.68, 26.56),
    ("imagenet32", "pixelcnn", 15, False): Published(5.1, 66.4),
    ("imagenet32", "pixeliqn", 15, False): Published(7.29, 37.62),
    ("imagenet32", "pixelcnn", 20, True): Published(8.33, 33.27),
    ("imagenet32", "pixeliqn", 20, True): Published(10.18, 22.99),
}
PAPER_PLANES = {15: 128, 20: 256}
PAPER_MODEL = {"trunk": "gated", "kernel": 5, "skip_planes": 1024}
PAPER_SAMPLES = PAPER_REFERENCE = 10_000


def published(results: Results) -> Table:
    """The paper's numbers beside ours for the arms whose data, model and protocol are the paper's; else empty."""
    rows: list[dict[str, Any]] = []
    shown: list[dict[str, str]] = []
    for arm in results.arms:
        finals = chosen_finals(results, arm)
        scores = papers(results.data.get(arm, ""), finals)
        if scores is None:
            continue
        fid, score = (summarise(values_of(finals, name)) for name in ("fid", "is_mean"))
        rows.append({"arm": arm, "fid": fid and fid.mean, "paper_fid": scores.fid})
        rows[-1] |= {"is_mean": score and score.mean, "paper_is": scores.inception}
        text = {"Arm": arm, "FID ↓ (ours)": plus_minus(fid), "FID ↓ (paper)": f"{scores.fid:g}"}
        text |= {"IS ↑ (ours)": plus_minus(score), "IS ↑ (paper)": f"{scores.inception:g}"}
        shown.append(text | {"Steps (ours)": whole(last_record(run, "fid").get("step") for run in finals)})
    notes = (
        "The paper's Table 1: one run each, 300K steps on CIFAR-10, 400K on small ImageNet; FID of 10,000 samples "
        "against 10,000 training images, as ours. It does not say how the Inception score was split.",
    )
    data = pd.DataFrame(rows, columns=["arm", "fid", "paper_fid", "is_mean", "paper_is"])
    return Table("published", "Beside the paper", data, pd.DataFrame(shown), ("Arm",), notes=notes if rows else ())


def papers(data: str, finals: Sequence[Run]) -> Published | None:
    """The paper's numbers of these finals; None where anything that decides them differs."""
    found = set()
    for run in finals:
        model, record = run.config.get("model") or {}, last_record(run, "fid")
        written = model.get("layers")
        layers: int = written if isinstance(written, int) else 0  # of somebody's method it may be a list
        protocol = run.provenance.get("protocol") or {}
        same = (
            bool(record)
            and record.get("samples") == PAPER_SAMPLES
            and protocol.get("reference") == PAPER_REFERENCE
            and model.get("planes") == PAPER_PLANES.get(layers)
            and all(model.get(key, value) in (None, value) for key, value in PAPER_MODEL.items())
            and protocol.get("model_weights") == "averaged"
        )
        key = (data, str(model.get("name")), layers, bool(model.get("conditional")))
        found.add(PAPER.get(key) if same else None)
    return found.pop() if len(found) == 1 else None
