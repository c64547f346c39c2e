"""Rungs that promote: which trials go on from a rung, which are parked there, which are audited.

Every trial trains to the first rung and is parked; the best of a rung go on to the next, and so to the end. Nothing
here knows Optuna, files or clocks: the ledger, the replay and the report ask the same rules.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

from orchestrator.rungs import before_last
from orchestrator.seeds import trial_seed

NAME = "promote"
FIRST_AUDITED = 10  # the first trial of an arm that is audited is one of so many, so that small searches have one


@dataclass(frozen=True)
class Settings:
    """The arguments of `pruner: promote`; raises ValueError for values that make no rungs."""

    reduction_factor: int = 3  # one of so many goes on from a rung
    first: float = 0.1  # where the first rung lies, as a share of the steps
    asynchronous: bool = False  # a rung is judged whenever a worker is free, not only once it is full
    audit: float = 0.04  # the share of trials that is trained to the end whatever it scores

    def __post_init__(self) -> None:
        if self.reduction_factor < 2:
            raise ValueError(f"reduction_factor: saw {self.reduction_factor}, expected at least 2")
        if not 0 < self.first < 1:
            raise ValueError(f"first: saw {self.first:g}, expected a share of the steps between 0 and 1")
        if not 0 <= self.audit <= 1:
            raise ValueError(f"audit: saw {self.audit:g}, expected a share of the trials from 0 to 1")


def settings_of(pruner: Mapping[str, Any]) -> Settings | None:
    """The settings of a sweep's pruner where it promotes; None for any other."""
    if pruner.get("name") != NAME:
        return None
    return Settings(**{key: value for key, value in pruner.items() if key != "name"})


def rungs_of(base: Mapping[str, Any], settings: Settings | None) -> tuple[int, ...]:
    """The steps at which trials of an arm are parked, the last step left out; `base` holds train and evaluate.

    Rungs lie at evaluations: the first at or after `first` of the steps, then the first at or after
    `reduction_factor` times the rung before.
    """
    if settings is None:
        return ()
    found: list[int] = []
    wanted = settings.first * base["train"]["steps"] * (1 - 1e-9)  # 0.07 * 100 is above 7
    for step in evaluations(base)[:-1]:
        if step >= wanted:
            found.append(step)
            wanted = step * settings.reduction_factor
    return tuple(found)


def evaluations(base: Mapping[str, Any]) -> list[int]:
    """The steps at which a trial is evaluated, up to its last; an untrained model is not one."""
    steps, every, at = base["train"]["steps"], base["evaluate"]["every"], base["evaluate"].get("at") or ()
    return [*before_last(every, steps, at), steps]


def audited(settings: Settings | None, seed: int, arm: str, ordinal: int) -> bool:
    """Whether the trial that is so many-th of its arm (from 0) is trained to the end whatever it scores.

    One of each 1 / audit trials is, drawn by the sweep's seed: known at its birth, and the same however far the search
    has grown. Of the first it is one of the first ten.
    """
    if settings is None or not settings.audit:
        return False
    share = Fraction(settings.audit).limit_denominator(10**6)
    block = math.floor(ordinal * share)
    begin, end = math.ceil(block / share), math.ceil((block + 1) / share)
    end = min(end, FIRST_AUDITED) if block == 0 else end
    return ordinal == begin + trial_seed(seed, f"{arm}/audit", block) % (end - begin)


def ladder(trials: int, rungs: int, factor: int) -> list[int]:
    """How many trials train up to the first rung, from it to the second, ..., from the last to the end."""
    counts = [trials]
    for _ in range(rungs):
        counts.append(places(counts[-1], factor))
    return counts


def places(contenders: int, factor: int) -> int:
    """How many go on from a full rung: one of `factor`, but never none of some."""
    return max(1, contenders // factor) if contenders else 0


def stays(trials: int, rungs: tuple[int, ...], settings: Settings) -> list[float]:
    """How many trials are expected in each part between rungs, those included that only the audit keeps."""
    counts = ladder(trials, len(rungs), settings.reduction_factor)
    kept = settings.audit * trials
    return [count + kept * (1 - count / trials) for count in counts]


def expected_steps(trials: int, rungs: tuple[int, ...], steps: int, settings: Settings) -> float:
    """Training steps of all trials of an arm together, where none diverges."""
    ends = (*rungs, steps)
    parts = [end - begin for begin, end in zip((0, *rungs), ends, strict=True)]
    return sum(count * part for count, part in zip(stays(trials, rungs, settings), parts, strict=True))


@dataclass
class Contestant:
    """What the rungs know of a trial."""

    number: int
    free: bool = False  # never parked: it is audited, or somebody asked for it
    costs: dict[int, float] = field(default_factory=dict)  # at each rung it came to, less is better
    passed: int = 0  # how many rungs it was promoted from
    parked: int | None = None  # the step at which it waits; None while it trains, and after its end
    ended: bool = False  # it will come to no rung any more
    lost: bool = False  # it ended without a result, for example because it diverged


class Judged(NamedTuple):
    """One rung: who competes there, whether all of them have come or ended, and who is chosen, best first."""

    contenders: frozenset[int]
    full: bool
    chosen: tuple[int, ...]


class Due(NamedTuple):
    """A parked trial that is to go on, and how many rungs it has then passed."""

    number: int
    passed: int


class Contest:
    """The rungs of one arm. With no rungs at all nobody is ever parked.

    All trials compete at the first rung, and at each other those that were chosen at the one before: by their
    objective there, then by their number. Should all that were chosen end without a result, the next best take their
    places. Audited trials compete like all others where they are chosen, and elsewhere
    train on outside of the contest, so they take nobody's place and the choice is the one that there were without them.
    """

    def __init__(self, rungs: Iterable[int], factor: int, trials: int, asynchronous: bool = False) -> None:
        self.rungs, self.factor, self.trials, self.asynchronous = tuple(rungs), factor, trials, asynchronous
        self.contestants: dict[int, Contestant] = {}
        self._judged: list[Judged] | None = None

    # ---- what happens -------------------------------------------------------------------------------------------

    def enter(self, number: int, free: bool = False) -> Contestant:
        """A trial begins, or is known already."""
        self._judged = None
        return self.contestants.setdefault(number, Contestant(number, free))

    def reached(self, number: int, step: int, cost: float | None) -> None:
        """A trial was evaluated; of no interest unless that is at a rung. Nothing, and what is not finite, is worst."""
        if step in self.rungs:
            self._judged = None
            one = self.contestants[number]
            one.costs.setdefault(step, cost if cost is not None and math.isfinite(cost) else math.inf)
            if not one.free:  # it could come here only by being promoted, should the journal have forgotten it
                one.passed = max(one.passed, self.rungs.index(step))

    def parks(self, number: int, step: int) -> bool:
        """Whether a trial is to wait at this step."""
        one = self.contestants.get(number)
        return one is not None and step in self.rungs and not one.free and one.passed <= self.rungs.index(step)

    def park(self, number: int, step: int) -> None:
        """A trial waits: it has come to all rungs up to this step."""
        for rung in self.rungs:
            if rung <= step:
                self.reached(number, rung, None)  # unless a value is known
        self.contestants[number].parked, self._judged = step, None

    def promote(self, number: int, passed: int) -> None:
        """A trial goes on."""
        one, self._judged = self.contestants[number], None
        one.passed, one.parked = max(one.passed, passed), None

    def end(self, number: int, completed: bool) -> None:
        """A trial has ended; one that did not complete is the worst at every rung it has not come to."""
        one, self._judged = self.contestants[number], None
        one.ended, one.parked, one.lost = True, None, not completed
        if completed and not one.free:
            one.passed = len(self.rungs)

    # ---- what follows -------------------------------------------------------------------------------------------

    def judged(self) -> list[Judged]:
        """Every rung as it stands, from the first on."""
        if self._judged is None:
            self._judged = self._judge()
        return self._judged

    def _judge(self) -> list[Judged]:
        found = []
        contenders, full = list(self.contestants.values()), len(self.contestants) >= self.trials
        for index, step in enumerate(self.rungs):
            full = full and all(step in one.costs or one.ended for one in contenders)
            chosen: list[Contestant] = []
            if full or self.asynchronous:
                here = [one for one in contenders if one.costs.get(step, math.inf) < math.inf]
                here.sort(key=lambda one: (one.costs[step], one.number))
                seen = sum(step in one.costs for one in contenders)
                chosen = _first(here, places(len(contenders), self.factor) if full else seen // self.factor)
            found.append(Judged(frozenset(one.number for one in contenders), full, tuple(one.number for one in chosen)))
            names = set(found[-1].chosen)
            contenders = [one for one in contenders if one.number in names or one.passed > index]
        return found

    def due(self) -> list[Due]:
        """The parked trials that are to go on now: those furthest on first, of these the best."""
        if not self.rungs:
            return []
        waiting = {one.number: self._level(one) for one in self.contestants.values() if one.parked is not None}
        if not waiting:
            return []
        known = (self.contestants[number] for number in waiting)
        found = [Due(one.number, one.passed) for one in known if one.free or one.passed >= waiting[one.number]]
        for level, rung in reversed(list(enumerate(self.judged(), start=1))):
            told = {one.number for one in found}
            found += [Due(n, level) for n in rung.chosen if waiting.get(n) == level and n not in told]
        return found

    def claims(self) -> list[Due]:
        """The free trials that have earned a place at a next rung and are not known to have; they train anyway."""
        rungs = enumerate(self.judged(), start=1)
        return [
            Due(n, level)
            for level, rung in rungs
            for n in rung.chosen
            if self.contestants[n].free and self.contestants[n].passed < level
        ]

    def _level(self, one: Contestant) -> int:
        """How many rungs a parked trial has come to."""
        return sum(rung <= (one.parked or 0) for rung in self.rungs)

    def steps_done(self, steps: int) -> int:
        """Training steps up to the last rung that each trial has come to, or all `steps` of those that went through."""
        done = 0
        for one in self.contestants.values():
            through = one.ended and self.rungs and self.rungs[-1] in one.costs
            done += steps if through else max(one.costs, default=0)
        return done


def _first(ranked: list[Contestant], count: int) -> list[Contestant]:
    """The first so many; while all of them have ended without a result, so many more."""
    taken = count
    while count and taken < len(ranked) and all(one.lost for one in ranked[:taken]):
        taken += count
    return ranked[:taken]
