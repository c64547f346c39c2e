"""Which arms the finals can tell apart: one comparison that feeds the sentence, the tables and what is bold."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from typing import NamedTuple

import numpy as np

from orchestrator.runs import Run
from reports.results import Metric, Results, Summary, chosen_finals, differing_protocols, summarise, values_of
from reports.rounding import listed
from reports.scale import real_score

LEVEL = 0.05  # of all pairs together
NOISE = 1e-12  # of the values' size: smaller differences and spreads are those of floating point


class State(StrEnum):
    """What the finals say of two arms."""

    BETTER = "better"
    ALIKE = "not distinguishable"
    UNTESTED = "not tested"
    INCOMPARABLE = "not comparable"


class Verdict(NamedTuple):
    """One pair of arms, the better mean first; in the order of the sweep where they are not comparable.

    Where they are not, there is no difference and no share of steps; where they were not tested, no interval and no p.
    """

    better: str
    worse: str
    state: State
    difference: float | None  # of the means, in the direction of the metric: never negative
    low: float | None  # its confidence interval, which holds for all tested pairs together
    high: float | None
    p: float | None  # Welch's t-test, times the number of tested pairs (Bonferroni)
    reached_at: float | None  # steps at which `better` has the final score of `worse`, as a share of its steps
    reached_time: float | None = None  # the same as a share of its seconds of training and evaluation

    @property
    def distinguishable(self) -> bool:
        return self.state is State.BETTER


@dataclass(frozen=True)
class Comparison:
    """The arms by one metric, the best mean first, and what is known of each pair of them."""

    metric: Metric
    summaries: Mapping[str, Summary]  # of the finals that have the metric, by rank; in the sweep's order if `why`
    pairs: tuple[Verdict, ...]
    why: str = ""  # the reason why the arms cannot be compared at all

    @property
    def order(self) -> list[str]:
        return list(self.summaries)

    @property
    def leader(self) -> str | None:
        """The arm that is distinguishably better than each of the others; None where there is none, or no other."""
        own = [pair for pair in self.pairs if self.order[0] in (pair.better, pair.worse)]
        return self.order[0] if own and all(pair.distinguishable for pair in own) else None

    def of(self, state: State) -> list[Verdict]:
        return [pair for pair in self.pairs if pair.state is state]

    def pair(self, first: str, second: str) -> Verdict | None:
        """The verdict of two arms, in either order."""
        return next((pair for pair in self.pairs if {pair.better, pair.worse} == {first, second}), None)

    @property
    def tested(self) -> int:
        return sum(pair.p is not None for pair in self.pairs)


def compare(results: Results, metric: Metric | None = None) -> Comparison:
    """The finals of all arms that have the metric (the objective unless given), each pair tested.

    The p of Welch's t-test is multiplied by the number of tested pairs and the level of the intervals is divided by
    it (Bonferroni), so that an interval leaves out 0 exactly where p is below the level. Holm's p would be smaller
    for some pairs, but no intervals of use belong to it.
    """
    metric = metric or results.objective
    found = {arm: values for arm in results.arms if (values := values_of(chosen_finals(results, arm), metric.name))}
    summaries = {arm: summary for arm, values in found.items() if (summary := summarise(values))}
    if why := _incomparable(results, metric, summaries):
        pairs = tuple(
            Verdict(first, second, State.INCOMPARABLE, None, None, None, None, None)
            for first, second in combinations(found, 2)
        )
        return Comparison(metric, summaries, pairs, why)
    order = sorted(found, key=lambda arm: metric.key(summaries[arm].mean))
    tests = {pair: _welch(found[pair[0]], found[pair[1]]) for pair in combinations(order, 2)}
    count = sum(test is not None for test in tests.values())
    pairs = tuple(_verdict(results, metric, found, pair, test, count) for pair, test in tests.items())
    return Comparison(metric, {arm: summaries[arm] for arm in order}, pairs)


def verdicts(results: Results) -> list[Verdict]:
    """What is known of each pair of arms with finals, by the objective."""
    return list(compare(results).pairs)


def _incomparable(results: Results, metric: Metric, summaries: Mapping[str, Summary]) -> str:
    if not metric.comparable:
        return metric.why or f"{metric.name} is not in the same unit for all arms: it cannot be compared"
    if differing := differing_protocols(results, "final"):
        return f"the finals were measured with different {', '.join(sorted(differing))}"
    real = real_score(results, metric) if metric.up_to_real else None
    beyond = [arm for arm, one in summaries.items() if real and metric.key(one.mean) < metric.key(real.value)]
    if real is None or not beyond:
        return ""
    more = "less" if metric.lower_is_better else "more"
    return f"{metric.name} of real images is {real.text}, that of {listed(beyond)} {more}, which damage does too"


def _verdict(
    results: Results,
    metric: Metric,
    found: Mapping[str, Sequence[float]],
    pair: tuple[str, str],
    test: "_Test | None",
    count: int,
) -> Verdict:
    better, worse = pair
    means = [statistics.fmean(found[arm]) for arm in pair]
    difference = abs(means[0] - means[1])
    if difference <= NOISE * max(map(abs, means)):
        difference = 0.0
    finals = chosen_finals(results, better), chosen_finals(results, worse)
    reached, sooner = share_of_steps(*finals, metric), share_of_time(*finals, metric)
    if test is None:
        return Verdict(better, worse, State.UNTESTED, difference, None, None, None, reached, sooner)
    reach, most = test.reach(count), metric.high - metric.low  # no two values are further apart
    low, high = max(difference - reach, -most), min(difference + reach, most)
    p = min(1.0, count * test.p)
    # One number decides: p and the interval are the same statement but for the last digit of floating point.
    state = State.BETTER if low > 0 else State.ALIKE
    p = min(p, math.nextafter(LEVEL, 0)) if low > 0 else max(p, LEVEL)
    return Verdict(better, worse, state, difference, low, high, p, reached, sooner)


class _Test(NamedTuple):
    p: float  # of this pair alone
    error: float  # standard error of the difference of the means
    freedom: float

    def reach(self, count: int) -> float:
        """Half the width of this pair's interval where it is one of `count` that are to hold together."""
        from scipy import stats

        return float(stats.t.isf(LEVEL / (2 * count), self.freedom)) * self.error


def _welch(first: Sequence[float], second: Sequence[float]) -> _Test | None:
    """Welch's t-test of two samples with unequal variances.

    None with fewer than two values in either, and where neither sample varies: nothing is known of the spread then.
    """
    from scipy import stats

    if min(len(first), len(second)) < 2:
        return None
    size = max(abs(value) for value in (*first, *second))
    parts = [statistics.variance(values) / len(values) for values in (first, second)]
    error = math.sqrt(sum(parts))
    if error <= NOISE * size:
        return None
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(v) - 1) for part, v in zip(parts, (first, second), strict=True) if part
    )
    t = abs(statistics.fmean(first) - statistics.fmean(second)) / error
    return _Test(float(2 * stats.t.sf(t, freedom)), error, freedom)


def share_of_steps(better: Sequence[Run], worse: Sequence[Run], metric: Metric) -> float | None:
    """When the mean of `better` is first as good as the last of `worse`, in steps over the steps of `worse`."""
    step, last = _reached(better, worse, metric)
    return step / last if step and last else None


def share_of_time(better: Sequence[Run], worse: Sequence[Run], metric: Metric) -> float | None:
    """The same in seconds of training and evaluation, as recorded at these two evaluations."""
    step, last = _reached(better, worse, metric)
    if not step or not last:
        return None
    clocks = mean_curve(better, "seconds").get(step), mean_curve(worse, "seconds").get(last)
    if any(clock is None or not math.isfinite(clock) for clock in clocks) or not clocks[1]:
        return None
    return float(clocks[0] or 0.0) / clocks[1]


def _reached(better: Sequence[Run], worse: Sequence[Run], metric: Metric) -> tuple[int | None, int | None]:
    """The first trained step at which `better` is as good as `worse` at its last, and that last step."""
    curve, other = mean_curve(better, metric.name), mean_curve(worse, metric.name)
    if not curve or not other:
        return None, None
    last = max(other)
    reached = [step for step, value in curve.items() if step > 0 and metric.key(value) <= metric.key(other[last])]
    return min(reached, default=None), last


def mean_curve(runs: Sequence[Run], metric: str) -> dict[int, float]:
    """The mean over seeds at the steps that all have."""
    curves = [dict(run.curve(metric)) for run in runs]
    steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    return {step: float(np.mean([curve[step] for curve in curves])) for step in steps}
