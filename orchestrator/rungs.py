"""At which steps a pruner decides: its own arguments completed from the training, and the evaluations it needs.

Successive halving compares trials at its rungs. A trial that is not evaluated there is compared by a later, better
value than its rivals, so every rung becomes an evaluation.
"""

from collections.abc import Iterable, Mapping
from typing import Any

HALVING = ("asha", "successive_halving", "hyperband")
DEFAULT_FACTOR = {"asha": 4, "successive_halving": 4, "hyperband": 3}  # Optuna's own
COMPARING = (*HALVING, "median", "percentile")  # judge a trial by others at the same step
FEWEST_ARRIVALS = 4  # of the pruners that have no reduction factor


def completed(settings: Mapping[str, Any], every: int, steps: int) -> dict[str, Any]:
    """A pruner's settings with resources in training steps: the first rung is the first evaluation, if not given.

    Optuna's "auto" guesses them from the first trial that completes, and decides nothing, or otherwise, before.
    """
    result = dict(settings)
    if settings.get("name") == "patient":
        wrapped = inner(settings)
        return result | ({} if wrapped is None else {"wrapped_pruner": completed(wrapped, every, steps)})
    if settings.get("name") in HALVING and result.get("min_resource", "auto") == "auto":
        result["min_resource"] = min(every, steps)
    if settings.get("name") == "hyperband" and result.get("max_resource", "auto") == "auto":
        result["max_resource"] = steps
    return result


def rungs(settings: Mapping[str, Any], every: int, steps: int) -> list[int]:
    """The steps at which a pruner of successive halving decides, the last step left out."""
    settings = completed(settings, every, steps)
    name = settings.get("name", "")
    if name == "patient":
        wrapped = inner(settings)
        return [] if wrapped is None else rungs(wrapped, every, steps)
    if name not in HALVING:
        return []
    factor = settings.get("reduction_factor", DEFAULT_FACTOR[name])
    step = settings["min_resource"] * factor ** settings.get("min_early_stopping_rate", 0)
    found = []
    while step < steps:
        found.append(step)
        step *= factor
    return found


def before_last(every: int, steps: int, at: Iterable[int]) -> list[int]:
    """The steps of the evaluations before the last one, rising; `at` are those besides every `every` steps."""
    return sorted({*range(every, steps, every), *(step for step in at if 0 < step < steps)})


def evaluations_at(settings: Mapping[str, Any], every: int, steps: int, at: tuple[int, ...] | None) -> list[int] | None:
    """`evaluate.at` with the rungs that `evaluate.every` does not hit; None where nothing is to be added."""
    extra = [step for step in rungs(settings, every, steps) if step % every]
    return sorted({*extra, *(at or ())}) or None


def fewest_arrivals(settings: Mapping[str, Any], given: int | None) -> int:
    """How many trials must have come to a step, the one in question among them, before one may be stopped there."""
    wrapped = inner(settings)
    if settings.get("name") == "patient" and wrapped is not None:
        return fewest_arrivals(wrapped, given)
    name = settings.get("name", "")
    if name not in COMPARING:
        return 1
    factor = settings.get("reduction_factor", DEFAULT_FACTOR[name]) if name in HALVING else FEWEST_ARRIVALS
    return given if given is not None else factor


def inner(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings of the pruner that a patient one asks, or None where it has none."""
    wrapped = settings.get("wrapped_pruner")
    return {"name": wrapped} if isinstance(wrapped, str) else None if wrapped is None else dict(wrapped)
