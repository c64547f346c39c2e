"""Whether one arm is better than another: a test for each pair, and how much sooner it gets there."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from orchestrator.runs import Run
from reports.results import Metric, Results, chosen_finals, differing_protocols, summarise, values_of

LEVEL = 0.05  # of all pairs together


class Verdict(NamedTuple):
    """One pair of arms, the better mean first. Without two seeds of each there is no test: p and interval are None."""

    better: str
    worse: str
    difference: float  # of the means, in the direction of the objective: positive is better
    low: float | None  # its 95 % confidence interval, for this pair alone
    high: float | None
    p: float | None  # Welch's t-test, adjusted for the number of pairs (Holm 1979)
    distinguishable: bool
    reached_at: float | None  # steps at which `better` has the final score of `worse`, as a share of its steps


def verdicts(results: Results) -> list[Verdict]:
    """Each pair of arms with finals; empty where they were measured in different ways and cannot be compared."""
    if differing_protocols(results, "final"):
        return []
    metric = results.objective
    finals = {arm: runs for arm in results.arms if (runs := chosen_finals(results, arm))}
    pairs = [sorted(pair, key=lambda arm: _mean(finals[arm], metric)) for pair in combinations(finals, 2)]
    tests = [_welch(*(values_of(finals[arm], metric.name) for arm in pair)) for pair in pairs]
    adjusted = holm([test.p if test else None for test in tests])
    found = []
    for (better, worse), test, p in zip(pairs, tests, adjusted, strict=True):
        difference = _mean(finals[worse], metric) - _mean(finals[better], metric)
        low, high = (None, None) if test is None else (difference - test.reach, difference + test.reach)
        reached = share_of_steps(finals[better], finals[worse], metric)
        found.append(Verdict(better, worse, difference, low, high, p, p is not None and p < LEVEL, reached))
    return found


def _mean(runs: Sequence[Run], metric: Metric) -> float:
    summary = summarise(values_of(runs, metric.name))
    assert summary is not None
    return metric.key(summary.mean)


class _Test(NamedTuple):
    p: float
    reach: float  # half the width of the 95 % interval


def _welch(first: Sequence[float], second: Sequence[float]) -> _Test | None:
    """Welch's t-test of two samples with unequal variances; None with fewer than two values in either."""
    from scipy import stats

    if min(len(first), len(second)) < 2:
        return None
    parts = [np.var(values, ddof=1) / len(values) for values in (first, second)]
    error = float(np.sqrt(sum(parts)))
    if error == 0:
        return _Test(0.0 if np.mean(first) != np.mean(second) else 1.0, 0.0)
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(v) - 1) for part, v in zip(parts, (first, second), strict=True) if part
    )
    t = abs(float(np.mean(first) - np.mean(second))) / error
    return _Test(float(2 * stats.t.sf(t, freedom)), float(stats.t.ppf(0.975, freedom)) * error)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values adjusted so that the chance of any false verdict stays at the level (Holm 1979)."""
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for position, (p, index) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - position)))
        adjusted[index] = largest
    return adjusted


def share_of_steps(better: Sequence[Run], worse: Sequence[Run], metric: Metric) -> float | None:
    """When the mean of `better` is first as good as the last of `worse`, in steps over the steps of `worse`."""
    curve, other = mean_curve(better, metric.name), mean_curve(worse, metric.name)
    if not curve or not other:
        return None
    last = max(other)
    reached = [step for step, value in curve.items() if step > 0 and metric.key(value) <= metric.key(other[last])]
    return min(reached) / last if reached and last else None


def mean_curve(runs: Sequence[Run], metric: str) -> dict[int, float]:
    """The mean over seeds at the steps that all have."""
    curves = [dict(run.curve(metric)) for run in runs]
    steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    return {step: float(np.mean([curve[step] for curve in curves])) for step in steps}
