"""Which rungs to search with next time: of all settings of `pruner: promote` the cheapest that is sure enough."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.promotion import NAME, Settings, rungs_of
from orchestrator.replay import REGRET, recorded_curves
from orchestrator.replay_rungs import Curve
from orchestrator.resampling import Drawn, drawn_searches

SURE = 0.9  # the share of drawn searches of each arm that must find nearly the best
FACTORS = (2, 3, 4, 5)


class Tried(NamedTuple):
    """Settings of the rungs, and what the drawn searches came to with them."""

    settings: Settings
    drawn: Drawn

    @property
    def surest(self) -> float:
        """The share of the searches that found nearly the best, in the arm where it is lowest."""
        return min(share for share in self.drawn.within.values() if share is not None)


def propose(run_folder: Path | str) -> list[Tried]:
    """Every setting of the rungs that the recorded evaluations allow, the cheapest first.

    Empty where no evaluation lies before the end, or where a curve was cut short: then nobody knows what it would have
    become. Raises RunFolderError for a run without ended search trials.
    """
    curves, recorded = recorded_curves(run_folder)
    if any(curve.cut for curve in curves):
        return []
    found = [Tried(one, drawn_searches(curves, one, recorded, 1, REGRET)) for one in candidates(curves, recorded)]
    return sorted(found, key=lambda tried: tried.drawn.steps)


def candidates(curves: Sequence[Curve], recorded: Mapping[str, Any]) -> Iterator[Settings]:
    """The settings whose rungs differ: each evaluation of the first arm before its end may be the first rung."""
    arm = curves[0].arm
    steps = recorded["arms"][arm]["train"]["steps"]
    at = sorted({step for curve in curves if curve.arm == arm for step, _, value in curve.points if value is not None})
    base = {"train": {"steps": steps}, "evaluate": {"every": steps, "at": at}}
    known = set()
    for before, step in zip((0, *at), at, strict=False):
        for factor in FACTORS if step < steps else ():
            settings = Settings(factor, share_of(before, step, steps))
            if (key := (factor, rungs_of(base, settings))) not in known:
                known.add(key)
                yield settings


def share_of(before: int, step: int, steps: int) -> float:
    """A share of the steps, as short as can be, at or after which `step` is the first evaluation, `before` the last."""
    for digits in range(2, 9):
        share = int(step / steps * 10**digits + 1e-9) / 10**digits
        if share * steps > before:
            return share
    return step / steps


def proposal_line(tried: Sequence[Tried]) -> str:
    """The proposal in one sentence."""
    if not tried:
        return "Which rungs to promote at cannot be told: curves were cut short, or measured only at their end."
    sure = next((one for one in tried if one.surest >= SURE), None)
    one = sure or max(tried, key=lambda tried: tried.surest)
    shares = ", ".join(f"{share:.0%} in {arm}" for arm, share in one.drawn.within.items())
    cost = (
        f"takes {one.drawn.steps:.0%} of the steps, and of {one.drawn.searches} searches drawn from the recorded trials"
    )
    told = f"{written(one.settings)} {cost} {shares} choose within {REGRET:.0%} of their best."
    if sure is not None:
        return f"Proposed: {told}"
    return f"Nothing is proposed, for no rungs are sure enough ({SURE:.0%} of the searches): the surest, {told}"


def written(settings: Settings) -> str:
    """The settings as they stand in a sweep file."""
    return (
        f"pruner: {{name: {NAME}, reduction_factor: {settings.reduction_factor}, first: {settings.first:g},"
        f" audit: {settings.audit:g}}}"
    )
