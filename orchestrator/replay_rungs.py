"""Rungs that promote, on recorded curves: what `pruner: promote` would have trained and found. Nothing is trained."""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from orchestrator.promotion import Contest, Settings, audited, rungs_of


@dataclass(frozen=True)
class Curve:
    """A recorded trial: (step, seconds since its start, objective or None) at each evaluation, and how it ended."""

    arm: str
    number: int
    points: list[tuple[int, float, float | None]]
    completed: bool
    cut: bool  # it would have gone on; how, nobody knows


class Stay(NamedTuple):
    """A trial with a worker: its place among all, its curve, and its points from `begin` to where it leaves or ends."""

    place: int
    curve: Curve
    begin: int
    last: int

    @property
    def seconds(self) -> float:
        """How long it takes."""
        before = self.curve.points[self.begin - 1][1] if self.begin else 0.0
        return self.curve.points[self.last][1] - before


@dataclass
class Gone:
    """A search as it went: training steps, seconds until its end, and what became of its trials by arm."""

    steps: int = 0
    clock: float = 0.0
    parked: int = 0
    chosen: dict[str, float | None] = field(default_factory=dict)  # the best objective that was trained to its end
    beyond: dict[str, int] = field(default_factory=dict)  # curves that would have gone on where they were cut short


class Search:
    """The rungs of every arm over a list of curves, in the order in which the trials begin."""

    def __init__(self, curves: Sequence[Curve], settings: Settings, recorded: Mapping[str, Any]) -> None:
        written = recorded["search"]["objective"]
        direction = (written[0] if isinstance(written, list) else written)["direction"]
        self.sign = 1.0 if direction == "minimize" else -1.0
        self.best: Callable[..., float] = min if direction == "minimize" else max
        self.curves = list(curves)
        self.names = list(dict.fromkeys(curve.arm for curve in curves))
        self.contests: dict[str, Contest] = {}
        for arm in self.names:
            own = [curve for curve in curves if curve.arm == arm]
            steps = recorded["arms"][arm]["train"]["steps"]
            at = {step for curve in own for step, _, value in curve.points if value is not None}
            rungs = rungs_of({"train": {"steps": steps}, "evaluate": {"every": steps, "at": at}}, settings)
            self.contests[arm] = Contest(rungs, settings.reduction_factor, len(own), settings.asynchronous)
        count: dict[str, int] = {}
        self.free: list[bool] = []
        for curve in self.curves:
            ordinal = count[curve.arm] = count.get(curve.arm, -1) + 1
            self.free.append(audited(settings, recorded["search"].get("seed") or 0, curve.arm, ordinal))
        self.begun = 0
        self.at: dict[int, int] = {}  # the point at which a parked trial waits
        self.gone = Gone(chosen=dict.fromkeys(self.names), beyond=dict.fromkeys(self.names, 0))

    def take(self) -> Stay | None:
        """What a free worker trains next."""
        for arm, contest in self.contests.items():
            for number, passed in contest.claims():
                contest.promote(number, passed)
            while due := contest.due():
                number, passed = due[0]
                contest.promote(number, passed)
                self.gone.parked -= 1
                if (stay := self._stay(number, self.at.pop(number) + 1)) is not None:
                    return stay
                self.gone.beyond[arm] += 1  # the recorded search has left it where it is
                contest.end(number, completed=False)
        if self.begun == len(self.curves):
            return None
        place, self.begun = self.begun, self.begun + 1
        self.contests[self.curves[place].arm].enter(place, self.free[place])
        return self._stay(place, 0)

    def _stay(self, place: int, begin: int) -> Stay | None:
        """From a point of a curve to the next at which its trial is parked, or to its end; None beyond that."""
        curve = self.curves[place]
        if begin >= len(curve.points):
            return None
        contest = self.contests[curve.arm]
        points = enumerate(curve.points[begin:], start=begin)
        stop = next((i for i, (step, _, _) in points if contest.parks(place, step)), len(curve.points) - 1)
        begun_at = curve.points[begin - 1][0] if begin else 0
        self.gone.steps += curve.points[stop][0] - begun_at
        return Stay(place, curve, begin, stop)

    def leave(self, stay: Stay) -> None:
        """A trial comes to the end of its stay."""
        place, curve, index = stay.place, stay.curve, stay.last
        contest, (step, _, last) = self.contests[curve.arm], curve.points[index]
        for rung, _, value in curve.points[: index + 1]:
            contest.reached(place, rung, None if value is None else self.sign * value)
        if contest.parks(place, step):
            contest.park(place, step)
            self.at[place] = index
            self.gone.parked += 1
            return
        contest.end(place, curve.completed)
        self.gone.beyond[curve.arm] += curve.cut
        if curve.completed and last is not None:
            known = [value for value in (self.gone.chosen[curve.arm], last) if value is not None]
            self.gone.chosen[curve.arm] = min(known, key=lambda value: self.sign * value)


def searched(search: Search, workers: int) -> Gone:
    """The search with so many workers under a virtual clock."""
    clock, order, idle = 0.0, 0, workers
    events: list[tuple[float, int, Stay]] = []
    while True:
        while idle:
            stay = search.take()
            if stay is None:
                break
            heapq.heappush(events, (clock + stay.seconds, order, stay))
            order, idle = order + 1, idle - 1
        if not events:
            search.gone.clock = clock
            return search.gone
        clock, _, stay = heapq.heappop(events)
        search.leave(stay)
        idle += 1


def at_once(search: Search) -> Gone:
    """The same without a clock, for rungs that wait until they are full: the outcome does not depend on the order."""
    while (stay := search.take()) is not None:
        search.leave(stay)
    return search.gone


def regret_of(value: float | None, curves: Sequence[Curve], best: Callable[..., float]) -> float | None:
    """How much worse a value is than the best of the completed curves, as a share of it; None where there is none."""
    known = [v for curve in curves if curve.completed and (v := curve.points[-1][2]) is not None and math.isfinite(v)]
    if not known or value is None:
        return None
    return abs(value - best(known)) / (abs(best(known)) or 1.0)
