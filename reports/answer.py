"""What the numbers say in one sentence, and how far to trust it."""

from typing import NamedTuple

from orchestrator.runs import Run
from reports.results import (
    Results,
    Summary,
    chosen_finals,
    differing_protocols,
    last_record,
    last_value,
    ranked,
    summarise,
    values_of,
)
from reports.rounding import plus_minus, rounded, whole
from reports.verdict import verdicts


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
    qualifier = [f"{spread}, {drawn} samples each."]
    if absent := [arm for arm in results.arms if arm not in finals]:
        qualifier.append(f"No completed final for {', '.join(absent)}.")
    if differing := differing_protocols(results, "final"):
        sentence = f"Not comparable: the finals were measured with different {', '.join(sorted(differing))}."
        return Answer(sentence, " ".join(qualifier))
    if len(order) == 1:
        sentence = f"{order[0]} reaches {objective.name} {shown[order[0]]}; there is no other arm to compare it with"
        return Answer(f"{sentence}{' yet' if absent else ''}.", " ".join(qualifier))
    qualifier.append(_second_opinion(results, finals, order))
    against = ", ".join(f"{shown[arm]} for {arm}" for arm in order[1:])
    own = [verdict for verdict in verdicts(results) if order[0] in (verdict.better, verdict.worse)]
    ps = [verdict.p for verdict in own if verdict.p is not None]
    bound = "p =" if len(own) == 1 else "all p ≤"
    untested = "no test is possible with one seed"
    tested = f"Welch's t-test, {bound} {max(ps):.2g}" if len(ps) == len(own) else untested
    clear = all(verdict.distinguishable for verdict in own)
    better = "lower" if objective.lower_is_better else "higher"
    if clear:
        sentence = f"{order[0]} reaches the {better} {objective.name}: {shown[order[0]]}, against {against} ({tested})."
    else:
        apart = [verdict.worse for verdict in own if verdict.distinguishable]
        tested += f"; distinguishable from {', '.join(apart)} alone" if apart else ""
        sentence = f"No clear difference: {objective.name} is {shown[order[0]]} for {order[0]}, {against} ({tested})."
    return Answer(sentence, " ".join(filter(None, qualifier)), order[0] if clear else None)


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
            verb = "ranks them the same way" if same else "does not agree" if first != second else "is equal"
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
