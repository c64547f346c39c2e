"""What a sweep file asks for without effect: samplers that cannot learn in so few trials, pruners that stop nothing.

Nothing here is wrong enough to refuse: the search runs, but is another one than its file seems to say.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.branches import branches, branches_off
from orchestrator.rungs import COMPARING, HALVING, before_last, completed, evaluations_at, fewest_arrivals, inner
from orchestrator.samplers import argument
from orchestrator.sections import Arm, Search, Sweep
from orchestrator.space import Choice, Number, Space


def notes(sweep: Sweep) -> list[str]:
    """Sentences on the parts of a search that do nothing, or not what their names say; empty where all take effect."""
    found = dict.fromkeys(_about_arrivals(sweep.search))
    for arm in sweep.arms.values():
        found |= dict.fromkeys([*_about_sampler(sweep.search, arm), *_about_pruner(sweep.search, arm)])
    return [f"note: {sentence}" for sentence in found]


def _about_sampler(search: Search, arm: Arm) -> Iterator[str]:
    name = search.sampler["name"]
    draws = f"{name} draws {{}} at random"
    ways = {"tpe": (_startup, draws, "n_startup_trials"), "gp": (_startup, draws, "n_startup_trials")}
    ways |= {"cmaes": (_population, "cmaes learns nothing from {}", "n_startup_trials, popsize")}
    ways |= dict.fromkeys(("nsga2", "nsga3"), (_generation, draws, "population_size"))
    if name not in ways:
        return
    count, words, setting = ways[name]
    parts = [] if name == "tpe" else branches(arm.space)
    first = max([count(search, open_there) for _, open_there in parts or [("", [])]])
    several = f"each of the {len(parts)} branches of arm {arm.name}"
    chosen_at_random = argument({"name": "tpe"}, "n_startup_trials")  # of the branches, which tpe chooses
    if len(parts) > 1 and max(first, chosen_at_random) < search.trials <= first * len(parts) and not search.earlier:
        yield (
            f"{words.format(f'the first {first} trials of {several}')} ({setting}), and search.trials is"
            f" {search.trials}: it learns in few of them, or in none."
        )
    elif search.trials <= first and not search.earlier:
        end = "it never learns" if name == "cmaes" else "this is a random search"
        yield f"{words.format(f'its first {first} trials')} ({setting}), and search.trials is {search.trials}: {end}."
    elif name in ("nsga2", "nsga3") and all(_all_mutated(search, open_there) for _, open_there in parts):
        end = "all but the branch, which tpe chooses, is at random" if len(parts) > 1 else "this is a random search"
        yield f"{name} mutates every parameter of arm {arm.name}, and draws a mutated one at random: {end}."
    elif chosen := _chosen_by_tpe(arm.space, numbers_only=name == "cmaes") if parts else []:
        rest = f"all else, in {several} from its trials alone" if len(parts) > 1 else "the ranges"
        yield f"tpe chooses {', '.join(chosen)} of arm {arm.name}, and {name} {rest}."


def _startup(search: Search, dimensions: Sequence[Number | Choice]) -> int:
    return int(argument(search.sampler, "n_startup_trials"))


def _population(search: Search, dimensions: Sequence[Number | Choice]) -> int:
    count = sum(_varies(one) for one in dimensions if isinstance(one, Number))
    size = argument(search.sampler, "popsize") or 4 + math.floor(3 * math.log(count))
    return int(argument(search.sampler, "n_startup_trials") + size)


def _generation(search: Search, dimensions: Sequence[Number | Choice]) -> int:
    return int(argument(search.sampler, "population_size"))


def _all_mutated(search: Search, dimensions: Sequence[Number | Choice]) -> bool:
    given = argument(search.sampler, "mutation_prob")
    return bool((1 / max(1, sum(map(_varies, dimensions))) if given is None else given) >= 1)


def _varies(dimension: Number | Choice) -> bool:
    return dimension.low < dimension.high if isinstance(dimension, Number) else len(dimension.values) > 1


def _chosen_by_tpe(space: Space, *, numbers_only: bool) -> list[str]:
    """The choices that tpe makes for another sampler: those that open others, and all where it takes numbers only."""
    choices = (one for one in space.every() if isinstance(one, Choice))
    return list(dict.fromkeys(one.path for one in choices if branches_off(one) or (numbers_only and _varies(one))))


def _about_pruner(search: Search, arm: Arm) -> Iterator[str]:
    evaluate, steps = arm.base["evaluate"], arm.base["train"]["steps"]
    every = evaluate["every"]
    settings = completed(search.pruner, every, steps)
    extra = evaluations_at(search.pruner, every, steps, evaluate.get("at") and tuple(evaluate["at"])) or ()
    judged = before_last(every, steps, extra)
    reason = never_stops(settings, judged, search.trials, fewest_arrivals(search.pruner, search.min_arrivals))
    if reason is not None:
        yield f"{settings['name']} stops nothing in arm {arm.name}: {reason}."
    elif settings["name"] == "patient" and inner(settings) is None:
        yield (
            "patient without a wrapped_pruner stops a trial that has become worse than it was, never one that stays as"
            " it is: a plateau goes on to the end."
        )


def never_stops(settings: Mapping[str, Any], judged: Sequence[int], trials: int, fewest: int) -> str | None:
    """Why a pruner can stop no trial, or None where it can.

    `judged` are the steps of the evaluations before the last, rising; `fewest` is how many of the `trials` must have
    come to a step before one is stopped there.
    """
    name = settings["name"]
    if name == "none":
        return None
    if not judged:
        return "no evaluation comes before the last step"
    if name == "patient":
        needed = settings["patience"] + 2
        if len(judged) < needed:
            return f"patience {needed - 2} needs {needed} evaluations before the last, of which there are {len(judged)}"
        wrapped = inner(settings)
        return None if wrapped is None else never_stops(wrapped, judged, trials, fewest)
    if name in ("median", "percentile", "threshold") and judged[-1] < (warmup := argument(settings, "n_warmup_steps")):
        return f"n_warmup_steps is {warmup}, and the last evaluation that it judges is at step {judged[-1]}"
    if name == "wilcoxon" and len(judged) < (needed := max(2, argument(settings, "n_startup_steps"))):
        return f"it needs {needed} evaluations before the last, of which there are {len(judged)}"
    return _too_few_trials(settings, trials, fewest)


def _too_few_trials(settings: Mapping[str, Any], trials: int, fewest: int) -> str | None:
    name, have = settings["name"], f"and search.trials is {trials}"
    if name in ("median", "percentile") and trials <= (needed := waits_for(settings)):
        return f"it waits for {needed} completed trials (n_startup_trials, n_min_trials), {have}"
    if name in COMPARING and trials < fewest:
        return f"{fewest} trials must have come to a step before one is stopped there (min_arrivals), {have}"
    alone = name in HALVING and argument(settings, "bootstrap_count") > 0  # stops the first that come to a rung
    if name in (*COMPARING, "wilcoxon") and trials < 2 and not alone:
        return f"it compares trials, {have}"
    return None


def waits_for(settings: Mapping[str, Any]) -> int:
    """How many trials must have completed before a median or percentile pruner stops one."""
    return max(1, argument(settings, "n_startup_trials"), argument(settings, "n_min_trials"))


def _about_arrivals(search: Search) -> Iterator[str]:
    given, settings = search.min_arrivals, search.pruner
    if given is None:
        return
    if settings["name"] == "patient":
        settings = inner(settings) or settings
    name = settings["name"]
    if name not in COMPARING:
        yield f"min_arrivals does nothing with pruner {name}, which does not compare trials at a step."
    elif name not in HALVING:
        needed = waits_for(settings)
        if max(given, fewest_arrivals(settings, None)) <= needed + 1:  # else it is in place of the usual number
            yield (
                f"min_arrivals {given} does nothing: {name} itself waits for {needed} completed trials"
                " (n_startup_trials, n_min_trials), which have come to every step."
            )
