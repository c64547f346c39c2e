"""Which search trials are best, by one objective or by several."""

from collections.abc import Sequence

from optuna.trial import FrozenTrial

from orchestrator.fronts import fronts
from orchestrator.sections import Objective


def ranked(trials: Sequence[FrozenTrial], objectives: Sequence[Objective]) -> list[FrozenTrial]:
    """Completed trials, best first, the earlier one of equals.

    With several objectives those come first that no other trial beats (is as good in everything, and better in
    something), then those that only the first beat, and so on; among these, by the first objective.
    """
    signs = [1 if objective.direction == "minimize" else -1 for objective in objectives]
    costs = {trial.number: tuple(s * v for s, v in zip(signs, trial.values, strict=True)) for trial in trials}
    front = dict.fromkeys(costs, 0) if len(signs) == 1 else fronts(costs)
    return sorted(trials, key=lambda trial: (front[trial.number], costs[trial.number][0], trial.number))
