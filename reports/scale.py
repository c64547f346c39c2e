"""What trivial generators score beside the arms: how good a number is, under the protocol that it was measured with."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from orchestrator.runs import Run, without_model
from reports.results import (
    Metric,
    Results,
    chosen_finals,
    finite,
    last_record,
    last_value,
    ranked,
    summarise,
    values_of,
)
from reports.rounding import MISSING, listed, plus_minus, rounded, whole, with_interval
from reports.tables import Table

REAL = "real"
NAMES = {
    REAL: "Real images",
    "gaussian": "One Gaussian per class",
    "histograms": "Each pixel by itself",
    "shifted": "Training images, shifted",
    "repeated": "Ten training images",
    "left": "Table of left neighbours",
    "upper": "Table of upper neighbours",
}
OF_VECTORS = {
    REAL: "Real vectors",
    "gaussian": "One Gaussian",
    "histograms": "Each dimension by itself",
    "repeated": "Ten training vectors",
}
MEANING = (
    "Trivial generators, scored as the arms are: real images that the reference does not hold, one Gaussian for the "
    "pixels of each class, each pixel drawn by itself, training images shifted by one pixel, ten of them repeated; for "
    "bits per dimension, tables of what follows the left or the upper neighbour."
)
MEANING_OF_VECTORS = (
    "Trivial generators, scored as the arms are: real vectors that are not held out, one Gaussian, each dimension "
    "drawn by itself, ten training vectors repeated."
)


class Scored(NamedTuple):
    """A value with the ends of its error bar, where it has one."""

    value: float
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        if self.low is None or self.high is None:
            return rounded(self.value)
        return with_interval(self.value, self.low, self.high).value


def baselines(results: Results) -> dict[str, Mapping[str, float]]:
    """Generator -> metric -> value under the protocol of the finals, or of the best trials where there are none.

    Empty where it was not recorded, and where arms were measured in different ways.
    """
    finals = [run for arm in results.arms for run in chosen_finals(results, arm)]
    runs = finals or [run for arm in results.arms for run in ranked(results, arm)[:1]]
    wanted: list[dict[str, Any]] = []
    for run in runs:
        protocol = without_model(run.provenance.get("protocol") or {})
        if protocol not in wanted:
            wanted.append(protocol)
    found = [one["scores"] for one in results.baselines if [one["protocol"]] == wanted]
    return dict(found[0]) if found else {}


def scored(scores: Mapping[str, float], metric: str) -> Scored | None:
    """One value of a generator; None where it was not measured."""
    value = finite(scores.get(metric))
    ends = (finite(scores.get(f"{metric.removesuffix('_mean')}_{end}")) for end in ("low", "high"))
    return None if value is None else Scored(value, *ends)


def real_score(results: Results, metric: Metric) -> Scored | None:
    """What real images score; None where it is not known."""
    return scored(baselines(results).get(REAL, {}), metric.name)


def worded(name: str, of_vectors: bool) -> str:
    """The name of a generator for people."""
    return (OF_VECTORS if of_vectors else NAMES).get(name, name)


def of_vectors(found: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether these are generators of vectors: only those of images have a table of neighbours."""
    return "left" not in found


def baseline_table(results: Results) -> Table:
    """Arms and trivial generators in one ranking by the objective; empty where nothing of the latter is recorded."""
    found = baselines(results)
    metrics = [metric for metric in results.known if any(scored(one, metric.name) for one in found.values())]
    rows = [*_arm_rows(results, metrics), *_generator_rows(found, metrics)] if metrics else []
    first = metrics[0].name if metrics else ""
    rows.sort(key=lambda row: (row.place is None, metrics[0].key(row.place) if row.place is not None else 0.0))
    notes = [MEANING_OF_VECTORS if of_vectors(found) else MEANING]
    few, drawn = found.get(REAL, {}).get("samples"), [one.get("samples", 0) for one in found.values()]
    if few is not None and few < max(drawn):
        kind = "vectors" if of_vectors(found) else "images"
        notes.append(f"There are only {few:,} real {kind} beside the reference; a distance of fewer samples is larger.")
    return Table(
        "baselines",
        "What trivial generators score" + (f", with the arms by {first}" if first else ""),
        pd.DataFrame(
            [row.data for row in rows],
            columns=["generator", "samples", *(m.name for m in metrics or [results.objective])],
        ),
        pd.DataFrame([row.shown for row in rows]),
        ("Arm",),
        notes=tuple(notes) if rows else (),
    )


class _Row(NamedTuple):
    place: float | None  # its value of the first metric
    data: dict[str, Any]
    shown: dict[str, str]


def _arm_rows(results: Results, metrics: Sequence[Metric]) -> list[_Row]:
    rows = []
    for arm in results.arms:
        runs = chosen_finals(results, arm) or ranked(results, arm)[:1]
        if not runs:
            continue
        summaries = {metric: summarise(values_of(runs, metric.name)) for metric in metrics}
        means = {metric.name: summary.mean if summary else None for metric, summary in summaries.items()}
        counts = [last_record(run, metrics[0].name).get("samples") for run in runs]
        shown = {"Arm": arm, "Samples": whole(counts)}
        shown |= {metric.label: _measured(runs, metric) for metric in metrics}
        rows.append(_Row(means[metrics[0].name], {"generator": arm, "samples": counts[0], **means}, shown))
    return rows


def _measured(runs: Sequence[Run], metric: Metric) -> str:
    if len(runs) > 1:
        return plus_minus(summarise(values_of(runs, metric.name)))
    return rounded(last_value(runs[0], metric.name))


def _generator_rows(found: Mapping[str, Mapping[str, float]], metrics: Sequence[Metric]) -> list[_Row]:
    rows = []
    for name, scores in found.items():
        values = {metric: scored(scores, metric.name) for metric in metrics}
        numbers = {metric.name: value.value if value else None for metric, value in values.items()}
        count = scores.get("samples")
        shown = {"Arm": worded(name, of_vectors(found)), "Samples": whole([count])}
        shown |= {metric.label: value.text if value else MISSING for metric, value in values.items()}
        rows.append(_Row(numbers[metrics[0].name], {"generator": name, "samples": count, **numbers}, shown))
    return rows


def scale(results: Results) -> str:
    """One sentence that says how good the arms are: what real images and the best trivial generator score."""
    metric, found = results.objective, baselines(results)
    values = {name: value for name, one in found.items() if (value := scored(one, metric.name))}
    trivial = sorted((name for name in values if name != REAL), key=lambda name: metric.key(values[name].value))
    if not trivial:
        return ""
    best, of = trivial[0], of_vectors(found)
    told = [f"{_lower(worded(name, of))} {values[name].text}" for name in (REAL, best) if name in values]
    arms = {arm: summarise(values_of(chosen_finals(results, arm), metric.name)) for arm in results.arms}
    beaten = [arm for arm, one in arms.items() if one and metric.key(one.mean) >= metric.key(values[best].value)]
    says = f"For scale, {metric.name} of {', of '.join(told)}"
    return f"{says}, which {listed(beaten)} {'does' if len(beaten) == 1 else 'do'} not beat." if beaten else f"{says}."


def levels(results: Results, metric: Metric) -> dict[str, float]:
    """Name for people -> value of the generators that have the metric, real data first: lines to draw in a figure."""
    found = baselines(results)
    values = {name: value.value for name, one in found.items() if (value := scored(one, metric.name))}
    order = sorted(values, key=lambda name: (name != REAL, metric.key(values[name])))
    return {_lower(worded(name, of_vectors(found))): values[name] for name in order}


def _lower(words: str) -> str:
    return words[:1].lower() + words[1:]
