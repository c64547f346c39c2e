"""Checks of how a sweep searches: samplers, pruners, objectives and spaces that do not go together are refused."""

import math
from collections.abc import Iterator
from fractions import Fraction

from aiqn_core.config import ConfigError, Problem, nearest, shown
from orchestrator.branches import branches
from orchestrator.document import Document
from orchestrator.objectives import objective_problems
from orchestrator.promotion import NAME as PROMOTE
from orchestrator.promotion import ladder, rungs_of, settings_of
from orchestrator.rungs import COMPARING, HALVING, completed, inner, rungs
from orchestrator.sections import Arm, OwnSections, Search
from orchestrator.space import Number, grid, partial_params

LEARNING = ("tpe", "gp")  # samplers that read trials they did not propose
SEVERAL = ("random", "grid", "qmc", "tpe", "gp", "nsga2", "nsga3")  # that take several objectives


def check_search(document: Document, own: OwnSections, arms: dict[str, Arm]) -> None:
    from orchestrator.samplers import pruner_problems, sampler_problems  # imports Optuna, which takes 0.4 s

    search = own.search
    problems = [*sampler_problems(search.sampler), *pruner_problems(search.pruner, search.objective.direction)]
    trials_known = not any(mistake.path.startswith("search") for mistake in document.mistakes)
    if own.final is not None and own.final.top > search.trials and trials_known:
        message = f"saw {own.final.top}, expected at most search.trials = {search.trials}"
        problems.append(Problem("final.top", message))
    if own.budget.gpu_hours is not None and own.resources.gpu == 0:
        message = f"saw {own.budget.gpu_hours:g}, but resources.gpu is 0: nothing would ever be spent"
        problems.append(Problem("budget.gpu_hours", f"{message}; expected budget.hours, or trials with a GPU"))
    if not problems:
        problems += _objective_problems(search)
        for arm in arms.values():
            problems += [*_sampler_and_space(search, arm), *_pruner_and_steps(search, arm)]
            problems += objective_problems(own, arm)
        problems += _promotion_problems(own, arms)
        problems += _enqueue_problems(search, arms)
    for problem in problems:
        document.complain(*problem)


def _objective_problems(search: Search) -> Iterator[Problem]:
    sampler, pruner, count = search.sampler["name"], search.pruner["name"], len(search.objectives)
    if count > 1 and pruner == PROMOTE:
        message = f"saw promote with {count} objectives, but a rung ranks trials by one only; expected none, or one"
        yield Problem("search.pruner", f"{message} objective (the others are measured all the same)")
    elif count > 1 and pruner != "none":
        message = (
            f"saw {shown(pruner)} with {count} objectives, but a trial can be stopped early by one only; expected none"
        )
        yield Problem("search.pruner", message)
    if count > 1 and sampler not in SEVERAL:
        yield Problem("search.sampler", f"saw {shown(sampler)} with {count} objectives; valid: {', '.join(SEVERAL)}")
    if count == 1 and sampler == "nsga3":
        message = "saw 'nsga3' with one objective; expected several, or nsga2, which takes one"
        yield Problem("search.sampler", message)
    if search.earlier is not None and sampler not in LEARNING:
        message = f"saw {shown(search.earlier)}, but {sampler} learns nothing from earlier trials"
        yield Problem("search.from", f"{message}; expected a sampler among: {', '.join(LEARNING)}")


def _sampler_and_space(search: Search, arm: Arm) -> Iterator[Problem]:
    sampler = search.sampler["name"]
    if sampler == "grid":
        try:
            size = len(grid(arm.space))
        except ConfigError as error:
            yield from error.problems
            return
        if size < search.trials:
            message = f"saw {search.trials}, but the grid of arm {arm.name} has {size} points; expected at most {size}"
            yield Problem("search.trials", message)
    if sampler == "cmaes":
        for branch, open_there in branches(arm.space):
            count = sum(isinstance(one, Number) and one.low < one.high for one in open_there)
            if count < 2:
                where = f"arm {arm.name} with {branch}" if branch else f"arm {arm.name}"
                message = f"saw 'cmaes', which searches ranges, of which {where} has {count}"
                yield Problem("search.sampler", f"{message}; expected at least 2, or tpe")
                return


def _pruner_and_steps(search: Search, arm: Arm) -> Iterator[Problem]:
    every, steps = arm.base["evaluate"]["every"], arm.base["train"]["steps"]
    if type(every) is not int or type(steps) is not int or every < 1 or steps < 1:
        return  # told already
    settings = completed(search.pruner, every, steps)
    settings = (inner(settings) or settings) if settings["name"] == "patient" else settings
    name, evaluations = settings["name"], math.ceil(steps / every)
    never = name in HALVING and not rungs(settings, every, steps)
    if never or (name in COMPARING and settings.get("n_warmup_steps", 0) >= steps):
        message = f"saw {name}, which decides nothing before step {steps}, the last of arm {arm.name}"
        yield Problem("search.pruner", f"{message}; expected evaluations, and decisions, before it")
    if name == "hyperband" and settings["max_resource"] < settings["min_resource"]:
        message = f"saw max_resource {settings['max_resource']}, expected at least {settings['min_resource']}"
        yield Problem("search.pruner", message)
    if name == "wilcoxon":
        needed = math.ceil(math.log2(1 / max(settings.get("p_threshold", 0.1), 1e-9)))
        if evaluations <= needed:
            message = f"saw wilcoxon, whose test needs more than {needed} evaluations to stop anything"
            yield Problem("search.pruner", f"{message}, but a trial of arm {arm.name} has {evaluations}")


def _promotion_problems(own: OwnSections, arms: dict[str, Arm]) -> Iterator[Problem]:
    """Rungs that decide nothing, that are not those of all trials and arms, or that leave too few for the finals."""
    settings = settings_of(own.search.pruner)
    for arm in arms.values() if settings is not None else ():
        for dimension in arm.space.every():
            if dimension.path in ("train.steps", "evaluate.every", "evaluate.at", "train", "evaluate"):
                message = f"{dimension.path} varies in arm {arm.name}, so its trials have no rungs in common"
                yield Problem(dimension.where, f"{message}; expected one value of it, or another search.pruner")
                return
    shares: dict[str, tuple[Fraction, ...]] = {}
    for arm in arms.values() if settings is not None else ():
        every, steps = arm.base["evaluate"]["every"], arm.base["train"]["steps"]
        if type(every) is not int or type(steps) is not int or every < 1 or steps < 1:
            return  # told already
        found = rungs_of(arm.base, settings)
        shares[arm.name] = tuple(Fraction(rung, steps) for rung in found)
        if not found:
            message = f"saw promote, whose first rung would be the last step of arm {arm.name} ({steps})"
            yield Problem("search.pruner", f"{message}; expected an evaluation before it (evaluate.every is {every})")
            return
        through = ladder(own.search.trials, len(found), settings.reduction_factor if settings else 1)[-1]
        if own.final is not None and through < own.final.top:
            message = f"saw {own.final.top}, but of {own.search.trials} trials promote trains {through} to the end"
            yield Problem("final.top", f"{message}; expected at most {through}, or more trials, or a later first rung")
            return
    if len(set(shares.values())) > 1:
        told = "; ".join(f"{name} at {', '.join(map(str, found))} of its steps" for name, found in shares.items())
        message = f"saw promote with rungs that differ between arms: {told}"
        yield Problem("search.pruner", f"{message}; expected the same steps and evaluations: equal budgets")


def _enqueue_problems(search: Search, arms: dict[str, Arm]) -> Iterator[Problem]:
    for name, configurations in (search.enqueue or {}).items():
        if name not in arms:
            yield Problem(f"search.enqueue.{name}", f"names no arm; {nearest(name, list(arms))}")
            continue
        if len(configurations) > search.trials:
            message = f"saw {len(configurations)} configurations, expected at most search.trials = {search.trials}"
            yield Problem(f"search.enqueue.{name}", message)
        for i, params in enumerate(configurations):
            try:
                partial_params(arms[name].space, params)
            except ValueError as error:
                yield Problem(f"search.enqueue.{name}[{i}]", str(error))
