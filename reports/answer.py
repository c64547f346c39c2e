"""What the numbers say in one sentence, and how far to trust it."""

from collections.abc import Sequence
from typing import NamedTuple

from reports.results import (
    Metric,
    Results,
    chosen_finals,
    last_record,
    last_value,
    ranked,
)
from reports.rounding import p_value, plus_minus, rounded, whole
from reports.scale import real_score, scale
from reports.verdict import LEVEL, Comparison, State, Verdict, compare


class Answer(NamedTuple):
    """What the numbers say, and how far to trust it."""

    sentence: str
    qualifier: str
    leader: str | None = None  # the arm that is clearly ahead, if one is


def answer(results: Results) -> Answer:
    """One sentence computed from the finals, or from the search where there are no finals."""
    found = compare(results)
    if not found.order:
        return _answer_of_search(results)
    absent = [arm for arm in results.arms if arm not in found.order]
    qualifier = [_spread(results, found)]
    if absent:
        qualifier.append(f"No completed final for {', '.join(absent)}.")
    qualifier += [*filter(None, [scale(results)]), *_second_opinions(results, found)]
    sentences = [_sentence(compare(results, metric), bool(absent)) for metric in results.metrics[: results.objectives]]
    return Answer(" ".join(sentences), " ".join(qualifier), found.leader)


def _spread(results: Results, found: Comparison) -> str:
    finals = [run for arm in found.order for run in chosen_finals(results, arm)]
    drawn = whole(last_record(run, found.metric.name).get("samples") for run in finals)
    counts = sorted({summary.seeds for summary in found.summaries.values()})
    if counts == [1]:
        return f"One seed, so nothing is known of the spread between seeds, {drawn} samples each."
    seeds = f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    return f"Mean ± s.d. over {seeds}, {drawn} samples each."


def _sentence(found: Comparison, unfinished: bool) -> str:
    name, order = found.metric.name, found.order
    shown = {arm: plus_minus(summary) for arm, summary in found.summaries.items()}
    listed = ", ".join(f"{shown[arm]} for {arm}" for arm in order)
    if len(order) == 1:
        tail = "there is no other arm to compare it with" + (" yet" if unfinished else "")
        return f"{order[0]} reaches {name} {shown[order[0]]}; {tail}."
    if found.why:
        where = "" if found.metric.comparable is False else "Not comparable: "
        why = f"{where}{found.why}."
        return why if where else f"No verdict: {why} It is {listed}."
    if not found.tested:
        return f"Not tested: {name} is {listed}. A test needs two seeds of both arms, and values that differ."
    if found.leader:
        better = "lower" if found.metric.lower_is_better else "higher"
        against = ", ".join(f"{shown[arm]} for {arm}" for arm in order[1:])
        first = f"{order[0]} reaches the {better} {name}: {shown[order[0]]}, against {against} ({_tests(found)})."
        return " ".join([first, *_apart([pair for pair in found.pairs if pair.better != order[0]])])
    if not found.of(State.BETTER):
        untested = _untested(found.pairs)
        return " ".join([f"No clear difference: {name} is {listed} ({_tests(found)}).", *untested])
    alike = [pair.worse for pair in found.of(State.ALIKE) if pair.better == order[0]]
    told = f"{order[0]} cannot be told apart from {_or(alike)}" if alike else f"{order[0]} has the best mean"
    return " ".join([f"No clear lead: {told}; {name} is {listed}.", *_apart(found.pairs), *_untested(found.pairs)])


def _tests(found: Comparison) -> str:
    """The p-values that the sentence rests on: those of the leader's pairs, or of all where none leads."""
    own = [pair for pair in found.pairs if not found.leader or pair.better == found.leader]
    ps = [pair.p for pair in own if pair.p is not None]
    if len(ps) == 1:
        return f"Welch's t-test, p = {p_value(ps[0], LEVEL)}"
    bound = f"≤ {p_value(max(ps), LEVEL)}" if found.leader else f"≥ {p_value(min(ps), LEVEL)}"
    return f"Welch's t-test, all p {bound}"


def _apart(pairs: Sequence[Verdict]) -> list[str]:
    """A sentence that names each distinguishable pair; none where there is no such pair."""
    told = [
        f"{pair.better} is better than {pair.worse} (p = {p_value(pair.p, LEVEL)})"
        for pair in pairs
        if pair.distinguishable and pair.p is not None
    ]
    return [f"Welch's t-test: {', '.join(told)}."] if told else []


def _untested(pairs: Sequence[Verdict]) -> list[str]:
    told = [f"{pair.better} against {pair.worse}" for pair in pairs if pair.state is State.UNTESTED]
    return [f"Not tested: {', '.join(told)}."] if told else []


def _or(words: Sequence[str]) -> str:
    return " or ".join([*filter(None, [", ".join(words[:-1])]), words[-1]])


def _second_opinions(results: Results, found: Comparison) -> list[str]:
    """What the other metrics say of the first two arms, each by its own test; nothing where it cannot be tested."""
    if len(found.order) < 2 or found.why:
        return []
    objections = [metric for metric in results.others if metric.objection]
    told = [_opinion(results, found, metric) for metric in [*results.metrics[results.objectives :], *objections]]
    against = [one.metric for one in told if one.against]
    said = [one.sentence for one in told if one.sentence]
    if against:
        names = " and ".join(metric.name for metric in against)
        said.append(
            f"{found.metric.name} and {names} disagree beyond their errors: they value different faults, so look at "
            "the samples before you choose."
        )
    return said


class _Opinion(NamedTuple):
    """What one other metric says of the first two arms, and whether it contradicts the objective."""

    metric: Metric
    sentence: str = ""
    against: bool = False


def _opinion(results: Results, found: Comparison, metric: Metric) -> _Opinion:
    second, (first, last) = compare(results, metric), found.order[:2]
    pair, ours = second.pair(first, last), found.pair(first, last)
    if pair is None or ours is None or ours.p is None:
        return _Opinion(metric)
    shown = ", ".join(f"{plus_minus(second.summaries[arm])} ({arm})" for arm in (first, last))
    against = pair.distinguishable and ours.distinguishable and pair.better != first
    if metric.objection and not against:
        return _Opinion(metric)
    if metric.comparable and second.why:
        return _Opinion(metric, f"{metric.name} decides nothing: {second.why}: {shown}.")
    if pair.p is None:
        return _Opinion(metric)
    if not pair.distinguishable:
        says = f"{metric.name} does not tell them apart"
    elif against:
        says = f"{metric.name} does not agree (p = {p_value(pair.p, LEVEL)})"
    elif not ours.distinguishable or (metric.up_to_real and real_score(results, metric) is None):
        # Without the score of real images nobody knows whether more is better.
        says = f"{metric.name} is {'better' if not metric.up_to_real else 'higher'} for {pair.better}"
        says += f" (p = {p_value(pair.p, LEVEL)})"
    else:
        says = f"{metric.name} ranks them the same way (p = {p_value(pair.p, LEVEL)})"
    return _Opinion(metric, f"{says}: {shown}.", against)


def _answer_of_search(results: Results) -> Answer:
    best = {arm: runs[0] for arm in results.arms if (runs := ranked(results, arm))}
    if not best:
        return Answer("No answer yet: no trial has completed.", "")
    objective = results.objective
    values = {arm: last_value(run, objective.name) or 0.0 for arm, run in best.items()}
    order = sorted(values, key=lambda arm: objective.key(values[arm]) if objective.comparable else 0.0)
    listed = ", ".join(f"{rounded(values[arm])} for {arm}" for arm in order)
    drawn = whole(last_record(run, objective.name).get("samples") for run in best.values())
    counts = ", ".join(f"{len(ranked(results, arm))} of {arm}" for arm in order)
    qualifier = (
        f"Best of the completed search trials ({counts}), one seed and {drawn} samples each: "
        "the best of many is optimistic, and this is not a significance test."
    )
    if absent := [arm for arm in results.arms if arm not in best]:
        qualifier += f" No completed trial for {', '.join(absent)}."
    if not objective.comparable and len(order) > 1:
        qualifier += f" No verdict: {objective.why}."
    return Answer(
        f"No final results{' yet' if results.top else ''}. In the search, {objective.name} is {listed}.", qualifier
    )
