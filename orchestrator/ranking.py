"""Which search trials are best, by one objective or by several."""

from collections.abc import Sequence

from optuna.trial import FrozenTrial

from orchestrator.sections import Objective

Costs = dict[int, tuple[float, ...]]  # trial number -> its values, turned so that less is better


def ranked(trials: Sequence[FrozenTrial], objectives: Sequence[Objective]) -> list[FrozenTrial]:
    """Completed trials, best first, the earlier one of equals.

    With several objectives those come first that no other trial beats (is as good in everything, and better in
    something), then those that only the first beat, and so on; among these, by the first objective.
    """
    signs = [1 if objective.direction == "minimize" else -1 for objective in objectives]
    costs = {trial.number: tuple(s * v for s, v in zip(signs, trial.values, strict=True)) for trial in trials}
    front = dict.fromkeys(costs, 0) if len(signs) == 1 else fronts(costs)
    return sorted(trials, key=lambda trial: (front[trial.number], costs[trial.number][0], trial.number))


def fronts(costs: Costs) -> dict[int, int]:
    """The Pareto front of each trial: 0 where no trial beats it, 1 where only those of front 0 do, ..."""
    left, found, front = dict(costs), dict[int, int](), 0
    while left:
        best = [number for number, own in left.items() if not any(beats(other, own) for other in left.values())]
        found |= dict.fromkeys(best, front)
        left = {number: cost for number, cost in left.items() if number not in found}
        front += 1
    return found


def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether one is as good in everything, and better in something."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
