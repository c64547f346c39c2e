"""Searches drawn from recorded trials, hundreds at once: how surely rungs that promote find nearly the best.

What happened in one search may have been luck. Here each search draws as many trials of an arm as were recorded, with
replacement, and goes through the rungs as arrays. The rules are those of `promotion`; where all that were promoted end
without a result, a search is gone through one trial at a time.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.promotion import Settings
from orchestrator.replay_rungs import Curve, Search, at_once, regret_of, searched

SEARCHES = 200  # drawn from the recorded trials
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Whole = NDArray[np.int64]


class Drawn(NamedTuple):
    """What the searches came to: the mean share of their steps, and by arm how many of them found nearly the best.

    A share of an arm is None where the recorded search cut curves of it short: how good they would have become is not
    known.
    """

    steps: float
    within: dict[str, float | None]
    searches: int


class Recorded(NamedTuple):
    """The recorded trials of one arm as arrays; costs are objectives turned so that less is better, else infinite."""

    costs: Floats  # (trial, rung)
    ends: Floats  # (trial,), of those that completed
    lasts: Whole  # (trial,), the step to which each was trained
    completed: Bools  # (trial,)


def drawn_searches(
    curves: Sequence[Curve], settings: Settings, recorded: Mapping[str, Any], workers: int, regret: float
) -> Drawn:
    """Searches through rungs; within is whether the choice is at most `regret` worse than the best that was drawn.

    Where rungs do not wait until they are full the outcome depends on the number of workers; then, and only then, a
    clock runs.
    """
    if settings.asynchronous:

        def gone(search: Search) -> None:
            searched(search, workers)

        return _one_by_one(curves, settings, recorded, gone, regret)
    names = list(dict.fromkeys(curve.arm for curve in curves))
    steps, whole, within = 0.0, 0.0, dict[str, float | None]()
    for place, arm in enumerate(names):
        own = [curve for curve in curves if curve.arm == arm]
        found = _halved(own, settings, recorded, np.random.default_rng([0, place]))
        steps, whole = steps + found.steps.sum(), whole + found.whole.sum()
        with np.errstate(invalid="ignore"):  # of two infinite ones, which are not good
            good = np.isfinite(found.best) & (np.abs(found.chosen - found.best) <= regret * _size(found.best))
        within[arm] = None if any(curve.cut for curve in own) else float(good.mean())
    return Drawn(float(steps / (whole or 1.0)), within, SEARCHES)


def _size(best: Floats) -> Floats:
    return np.where(best == 0, 1.0, np.abs(best))


class Halved(NamedTuple):
    """One arm's searches, each array of (search,): costs of the choice and of the best drawn, and training steps."""

    chosen: Floats
    best: Floats
    steps: Whole
    whole: Whole  # steps of the drawn trials as they were recorded


def _halved(
    curves: Sequence[Curve], settings: Settings, recorded: Mapping[str, Any], draw: np.random.Generator
) -> Halved:
    search = Search(curves, settings, recorded)
    rungs, sign = search.contests[curves[0].arm].rungs, search.sign
    steps, free = recorded["arms"][curves[0].arm]["train"]["steps"], np.array(search.free)
    known = arrays(curves, rungs, sign)
    drawn = draw.integers(len(curves), size=(SEARCHES, len(curves)))
    costs, ends, lasts = known.costs[drawn], known.ends[drawn], known.lasts[drawn]
    alive, until = np.ones(drawn.shape, bool), np.full(drawn.shape, (*rungs, steps)[0])
    for index, after in enumerate((*rungs[1:], steps) if rungs else ()):
        alive = best_of(np.where(alive, costs[..., index], np.inf), alive.sum(1), settings.reduction_factor)
        until[alive] = after
    alive |= not rungs
    until[:, free] = steps
    chosen = np.where(alive | free, ends, np.inf).min(1)
    trained = np.minimum(until, lasts).sum(1)
    for row in np.flatnonzero(~(alive & known.completed[drawn]).any(1)):  # others took the places of all promoted ones
        gone = at_once(Search([curves[i] for i in drawn[row]], settings, recorded))
        value = gone.chosen[curves[0].arm]
        chosen[row], trained[row] = np.inf if value is None else sign * value, gone.steps
    return Halved(chosen, ends.min(1), trained, lasts.sum(1))


def arrays(curves: Sequence[Curve], rungs: Sequence[int], sign: float) -> Recorded:
    """Curves of one arm as arrays."""
    costs, ends = np.full((len(curves), len(rungs)), np.inf), np.full(len(curves), np.inf)
    for row, curve in enumerate(curves):
        for step, _, value in curve.points:
            if step in rungs and value is not None and np.isfinite(value):
                costs[row, rungs.index(step)] = sign * value
        last = curve.points[-1][2]
        if curve.completed and last is not None and np.isfinite(last):
            ends[row] = sign * last
    lasts = np.array([curve.points[-1][0] for curve in curves])
    return Recorded(costs, ends, lasts, np.array([curve.completed for curve in curves]))


def best_of(costs: Floats, contenders: Whole, factor: int) -> Bools:
    """Who goes on from a full rung: (search, trial) from costs of that shape, infinite for those that do not compete.

    One of `factor` of the (search,) contenders goes on, but never none of some; of equal trials the earlier.
    """
    rank = np.empty(costs.shape, np.int64)
    np.put_along_axis(rank, np.argsort(costs, axis=1, kind="stable"), np.arange(costs.shape[1])[None], axis=1)
    going: Bools = (rank < np.maximum(1, contenders // factor)[:, None]) & np.isfinite(costs)
    return going


def _one_by_one(
    curves: Sequence[Curve],
    settings: Settings,
    recorded: Mapping[str, Any],
    go: Callable[[Search], None],
    regret: float,
) -> Drawn:
    names, steps, whole = list(dict.fromkeys(curve.arm for curve in curves)), 0, 0
    good = dict.fromkeys(names, 0)
    for drawn in resampled(curves, SEARCHES):
        search = Search(drawn, settings, recorded)
        go(search)
        steps, whole = steps + search.gone.steps, whole + sum(curve.points[-1][0] for curve in drawn)
        for arm in names:
            lost = regret_of(search.gone.chosen[arm], [curve for curve in drawn if curve.arm == arm], search.best)
            good[arm] += lost is not None and lost <= regret
    return Drawn(steps / (whole or 1), shares(curves, good, SEARCHES), SEARCHES)


def shares(curves: Sequence[Curve], good: Mapping[str, int], searches: int) -> dict[str, float | None]:
    """Counts of searches by arm as shares of them; None where curves of the arm were cut short."""
    cut = {curve.arm for curve in curves if curve.cut}
    return {arm: None if arm in cut or not searches else count / searches for arm, count in good.items()}


def resampled(curves: Sequence[Curve], searches: int) -> Iterator[list[Curve]]:
    """So many searches: as many trials of each arm as were recorded, with replacement, the arms in their order."""
    draw = random.Random(0)  # noqa: S311 (not a secret)
    own: dict[str, list[Curve]] = {}
    for curve in curves:
        own.setdefault(curve.arm, []).append(curve)
    for _ in range(searches):
        drawn = {arm: iter(draw.choices(found, k=len(found))) for arm, found in own.items()}
        yield [next(drawn[curve.arm]) for curve in curves]
