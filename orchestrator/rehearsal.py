"""What a pruner will keep, and what a sampler will have seen, with so many trials at once: a search of made-up curves.

Nothing is trained. The curves differ in a quality of their own and approach it; what they show of it early is as much
as recorded searches of digits showed: the rank correlation (Kendall) with the end is 0.5 after 5 % of the steps, 0.6
after 10 %, 0.7 after 25 % and 0.8 after half of them.
"""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.causes import HEEDLESS
from orchestrator.replay import Curve, Replay, replayed
from orchestrator.rungs import COMPARING, inner, rungs
from orchestrator.sections import Arm, Sweep

SEEDS = (0, 1)
MOST = 500  # trials of a made-up search, which takes seconds then
EVALUATIONS = 10  # of a made-up curve, beside the rungs: more would change little, and take their time


def rehearsal_lines(sweep: Sweep, slots: int) -> list[str]:
    """In words what a pruner and a sampler will do with `slots` trials at once; one line for each of them at most."""
    search, at_once = sweep.search, max(1, slots // len(sweep.arms))  # of an arm: they take their turns
    lines = []
    arm = next(iter(sweep.arms.values()))
    found = rehearse(sweep, arm, search.pruner, at_once)
    if found:
        halving = rehearse(sweep, arm, {"name": "asha"}, at_once) if search.pruner["name"] == "hyperband" else []
        beside = f" (asha {_percent(halving)})" if halving else ""
        trials = min(search.trials, MOST)
        kept = _span([trials - one.pruned for one in found])
        of = f"{trials} trials" if trials == search.trials else f"the first {trials} trials"
        lines.append(
            f"pruner      {search.pruner['name']} would keep {kept} of {of} of an arm, and train {_percent(found)} of"
            f" their steps{beside}, with {at_once} at once and no sampler that learns"
        )
    name = search.sampler["name"]
    if name not in HEEDLESS and min(at_once, search.trials) > search.trials // 4:
        blind = min(at_once, search.trials)
        lines.append(f"sampler     {name} draws {blind} of {search.trials} trials of an arm before any has ended")
    return lines


def rehearse(sweep: Sweep, arm: Arm, pruner: Mapping[str, Any], at_once: int) -> list[Replay]:
    """The search of an arm under a pruner, once for each seed; empty for one that goes by more than rank at a step."""
    settings = dict(pruner)
    if ((inner(settings) or {}) if settings["name"] == "patient" else settings).get("name") not in COMPARING:
        return []
    every, steps = arm.base["evaluate"]["every"], arm.base["train"]["steps"]
    coarse = every * math.ceil(steps / every / EVALUATIONS)
    judged = sorted({*range(coarse, steps, coarse), *rungs(settings, every, steps), steps})
    recorded = {
        "search": {
            "objective": {"metric": "made up", "direction": "minimize"},
            "min_arrivals": sweep.search.min_arrivals,
        },
        "arms": {arm.name: {"train": {"steps": steps}, "evaluate": {"every": every}}},
    }
    return [
        replayed(curves(arm.name, judged, min(sweep.search.trials, MOST), seed), settings, recorded, at_once)
        for seed in SEEDS
    ]


def curves(arm: str, judged: Sequence[int], trials: int, seed: int) -> list[Curve]:
    """Made-up trials that are evaluated at these steps, each of a quality drawn from one normal distribution."""
    draw = random.Random(f"rehearsal/{seed}")  # noqa: S311
    found = []
    for number in range(trials):
        quality, pace = draw.gauss(0, 1), draw.uniform(0.8, 1.25)
        points: list[tuple[int, float, float | None]] = []
        for step in judged:
            done = step / judged[-1]
            # With so much noise the correlation of a step with the end is as it was recorded.
            value = quality - math.log(done) + (draw.gauss(0, 0.22) / math.sqrt(done) if done < 1 else 0.0)
            points.append((step, step * pace, value))
        found.append(Curve(arm, number, points, completed=True, cut=False))
    return found


def _percent(found: Sequence[Replay]) -> str:
    return _span([round(100 * one.share) for one in found]) + " %"


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
