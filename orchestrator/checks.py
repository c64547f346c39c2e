"""Checks of a whole sweep: every configuration that its spaces can ask for is built before anything starts."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from aiqn_core.config import ConfigError, DataConfig, EvaluateConfig, Problem, TrainConfig, choose, shown
from aiqn_core.settings import parse
from orchestrator.document import Document, ancestors
from orchestrator.sections import Arm, Final, OwnSections, with_final
from orchestrator.space import (
    Number,
    Space,
    apply,
    combinations,
    count_combinations,
    variations,
)

ALL_COMBINATIONS = 500  # up to this many are all built before a sweep starts


def check_weights_are_there(document: Document, own: OwnSections, arms: dict[str, Arm]) -> None:
    from aiqn_core.weights import inception_problems

    for arm in arms.values():
        with contextlib.suppress(ConfigError):  # told already
            told = inception_problems(parse(EvaluateConfig, arm.base["evaluate"]))
            for problem in told:
                path = f"arms.{arm.name}.{problem.path}"
                document.complain(path if path in document.origins else problem.path, problem.message)
            finals = parse(EvaluateConfig, with_final(arm.base, own.final)["evaluate"])
            for problem in [] if told else inception_problems(finals):
                document.complain(f"final.{problem.path}", problem.message)


def check_data_is_there(document: Document, arms: dict[str, Arm]) -> None:
    from aiqn_core.prepared import data_problems  # NumPy: only where a sweep is loaded

    for arm in arms.values():
        with contextlib.suppress(ConfigError):  # told already
            conditional = arm.base.get("model", {}).get("conditional") is True
            for problem in data_problems(choose(DataConfig, arm.base, "data"), conditional=conditional):
                path = f"arms.{arm.name}.{problem.path}"
                document.complain(path if path in document.origins else problem.path, problem.message)


def check_configurations(document: Document, own: OwnSections, arms: dict[str, Arm]) -> None:
    """Build the configurations that the spaces can ask for, and note what refuses to be built."""
    found: dict[Problem, list[str]] = {}
    for arm in arms.values():
        for problem in _arm_problems(document, own, arm):
            found.setdefault(problem, []).append(arm.name)
    for problem, names in found.items():
        in_some = not problem.path.startswith("arms.") and len(names) < len(arms)
        document.complain(
            problem.path, f"{problem.message} (in arm {', '.join(names)})" if in_some else problem.message
        )


def _arm_problems(document: Document, own: OwnSections, arm: Arm) -> list[Problem]:
    tried = [(params, _config_problems(own, apply(arm.base, params))) for params in _sampled_params(arm.space)]
    kinds = {(problem.path, _kind(problem)): None for _, problems in tried for problem in problems}
    conditions = {kind: _condition(*kind, tried) for kind in kinds}
    found: dict[tuple[str, str], Problem] = {}
    for params, problems in tried:
        for problem in problems:
            path = _written_path(document, arm, params, problem.path)
            condition = conditions[problem.path, _kind(problem)]
            message = problem.message + _advice(problem.path, condition, params)
            found.setdefault((path, condition.key if condition else message), Problem(path, message))
    return [*found.values(), *_final_problems(document, own, arm, tried[0][0])]


def _final_problems(document: Document, own: OwnSections, arm: Arm, params: dict[str, Any]) -> Iterator[Problem]:
    if own.final is not None:
        known = _config_problems(own, apply(arm.base, params))
        for problem in _config_problems(own, with_final(apply(arm.base, params), own.final)):
            path = _written_path(document, arm, params, problem.path, own.final)
            if path.startswith("final."):
                yield Problem(path, problem.message)
            elif problem not in known:
                yield Problem("final", str(problem))


def _sampled_params(space: Space) -> Iterator[dict[str, Any]]:
    """Each dimension through its choices and ends (short ranges of integers in full), then all together if few."""
    all_together = count_combinations(space) <= ALL_COMBINATIONS
    return chain(variations(space, _ends_or_all), combinations(space) if all_together else ())


def _ends_or_all(number: Number) -> Sequence[float]:
    short = number.integer and (number.high - number.low) / (number.step or 1) < 64
    return number.points() if short else number.ends()


def _config_problems(own: OwnSections, mapping: Mapping[str, Any]) -> list[Problem]:
    try:
        config = TrainConfig.from_dict(mapping)
    except ConfigError as error:
        return error.problems
    problems = []
    if config.evaluate.every > config.train.steps:
        message = f"saw {config.evaluate.every}, expected at most train.steps = {config.train.steps}"
        problems.append(Problem("evaluate.every", message))
    shared = {"train.batch_size": config.train.batch_size, "evaluate.samples": config.evaluate.samples}
    for key, count in shared.items():
        if count < own.resources.workers:
            message = f"saw {count}, expected at least one for each of resources.workers = {own.resources.workers}"
            problems.append(Problem(key, message))
    named = "model.name" if config.command is None else "command"
    if config.model.kind.one_worker and own.resources.workers > 1:
        message = f"saw {shown(config.model.name)} with resources.workers = {own.resources.workers}, expected 1 worker"
        problems.append(Problem(named, f"{message}: {config.model.kind.one_worker}"))
    reported = [metric.name for metric in config.metrics]
    for metric in (objective.metric for objective in own.search.objectives if objective.metric not in reported):
        message = f"saw {shown(config.model.name)}, which reports no {metric}; expected another search.objective.metric"
        problems.append(Problem(named, f"{message}; it reports: {', '.join(reported)}"))
    return problems


class _Condition(NamedTuple):
    """A problem that one choice decides: the key, and its values with the problem and without."""

    key: str
    bad: list[str]
    good: list[str]


def _kind(problem: Problem) -> str:
    """The message without the value seen, which differs from one end of a range to the other."""
    return problem.message.partition(", ")[2] or problem.message


def _condition(path: str, kind: str, tried: list[tuple[dict[str, Any], list[Problem]]]) -> _Condition | None:
    """The dimension whose value alone tells whether a key has this kind of problem, if there is one."""
    is_dimension = any(path in params for params, _ in tried)
    for key in dict.fromkeys(key for params, _ in tried for key in params if key != path):
        bad: dict[str, None] = {}
        good: dict[str, None] = {}
        for params, problems in tried:
            if key in params and (path in params or not is_dimension):
                here = [problem for problem in problems if problem.path == path]
                if any(_kind(problem) == kind for problem in here):
                    bad[json.dumps(params[key])] = None
                elif not here:
                    good[json.dumps(params[key])] = None
        if bad and good and not bad.keys() & good.keys():
            return _Condition(key, list(bad), list(good))
    return None


def _advice(path: str, condition: _Condition | None, params: Mapping[str, Any]) -> str:
    if condition is None:
        return ""
    if path not in params:
        return f" (when {condition.key} is {', '.join(condition.bad)})"
    inside = ", ".join(f"{good.strip(chr(34))}: {{{path}: ...}}" for good in condition.good)
    return f"; nest it inside the choices that take it: {condition.key}: {{{inside}}}"


def _written_path(
    document: Document, arm: Arm, params: Mapping[str, Any], path: str, final: Final | None = None
) -> str:
    """Where in the file a key of the configuration was decided: the finals, the space, the arm or the defaults."""
    dimensions = {dimension.path: dimension.where for dimension in arm.space.active(params)}
    finals = {} if final is None else {"train.steps": "final.steps", **{p: f"final.{p}" for p in ancestors(path)}}
    for known in ancestors(path):
        for written in (finals.get(known), dimensions.get(known), f"arms.{arm.name}.{known}", known):
            if known and written in document.origins:
                return f"{written}{path[len(known) :]}"
    return f"arms.{arm.name}.{path}" if arm.name else path
