"""What the arms of a sweep measure, and which of it decides: the facts of metrics from load to record and back.

Nothing here knows a metric by its name: all facts are those of `aiqn_core.metric`.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from aiqn_core.config import (
    BUNDLED_DATA,
    LEAST_SIDES,
    MODELS,
    ConfigError,
    Problem,
    TrainConfig,
    join,
    one_of,
    shown,
)
from aiqn_core.extractors import EXTRACTORS
from aiqn_core.metric import Metric, metric_of, shared
from orchestrator.document import Document
from orchestrator.sections import Arm, OwnSections
from orchestrator.space import Number, apply, parse_space, variations

Facts = dict[str, Metric]  # by name, in the order of the table: the distance first


def known_metrics() -> Facts:
    """Every metric that any model reports, on any data, with any features."""
    found: Facts = {}
    for model in MODELS:
        for data in BUNDLED_DATA:
            for features in EXTRACTORS:
                found |= {metric.name: metric for metric in _configured(model, data, features)}
    return found


def _configured(model: str, data: str, features: str) -> tuple[Metric, ...]:
    for evaluate in ({"features": features}, {}):
        try:
            return TrainConfig.from_dict({"model": model, "data": data, "evaluate": evaluate}).metrics
        except ConfigError:  # a model that is not made for these data
            continue
    return ()


def arm_metrics(arm: Arm) -> Facts:
    """What the arm reports over its whole space; empty where its configuration is wrong, which is told elsewhere.

    A metric has no unit where the space changes what it means.
    """
    found: dict[str, list[Metric]] = {}
    for _, metrics in _varied(arm):
        for name, metric in metrics.items():
            found.setdefault(name, []).append(metric)
    return {name: shared(several) for name, several in found.items()}


def _varied(arm: Arm) -> Iterator[tuple[dict[str, Any], Facts]]:
    """Each dimension of the space through its choices and ends, with what is then reported."""
    for params in variations(arm.space, Number.ends):
        try:
            config = TrainConfig.from_dict(apply(arm.base, params))
        except ConfigError:
            continue
        yield params, {metric.name: metric for metric in config.metrics}


def with_objectives(document: Document, given: dict[str, Any], arms: dict[str, Arm]) -> dict[str, Any]:
    """The sections with every objective as a mapping of metric and direction; notes what is wrong with them.

    A name alone is enough. Left out, it is the distance that the first arm is scored with.
    """
    search = given.get("search", {})
    if not isinstance(search, dict):
        return given
    facts: Facts = {}
    for arm in arms.values():
        facts = arm_metrics(arm) | facts
    facts = facts or known_metrics()
    path, written = "search.objective", search.get("objective", {})
    if isinstance(written, list | tuple):
        objective: Any = [_objective(document, one, f"{path}[{i}]", facts) for i, one in enumerate(written)]
    else:
        objective = _objective(document, written, path, facts)
    return {**given, "search": {**search, "objective": objective}}


def _objective(document: Document, written: Any, path: str, facts: Facts) -> Any:
    alone = isinstance(written, str)
    named = {"metric": written} if alone else written
    if not isinstance(named, dict):
        return written  # no mapping: told with its keys
    named = {"metric": next(iter(facts)), **named}
    name = named["metric"]
    metric = (facts.get(name) or known_metrics().get(name)) if isinstance(name, str) else None
    if metric is None:
        document.complain(path if alone else join(path, "metric"), one_of(name, facts))
        return {**named, "metric": next(iter(facts)), "direction": next(iter(facts.values())).direction}
    if named.get("direction", metric.direction) != metric.direction:
        better = "smaller" if metric.direction == "minimize" else "larger"
        message = f"saw {shown(named['direction'])}, but {metric.name} is better when {better}; leave the direction out"
        document.complain(join(path, "direction"), message)
    return {**named, "direction": metric.direction}


def objective_problems(own: OwnSections, arm: Arm) -> Iterator[Problem]:
    """Keys of the space that change what an objective means: no search can choose their values by it."""
    varied = list(_varied(arm))
    for objective in own.search.objectives:
        for where, key, units in _meanings(arm, varied, objective.metric):
            message = f"{key} changes what the objective {objective.metric} means in arm {arm.name}: {units}"
            yield Problem(where, f"{message}; expected one value of it, or an objective that it leaves alone")


def _meanings(arm: Arm, varied: list[tuple[dict[str, Any], Facts]], metric: str) -> Iterator[tuple[str, str, str]]:
    """Where a key stands that changes the unit of a metric, the key, and two units that it leads to.

    A key is to blame where it alone differs; where a branch also opens or closes others, the choice that opens it.
    """
    units = [(params, facts[metric].unit) for params, facts in varied if metric in facts]
    pairs = [(one, other) for one, other in combinations(units, 2) if one[1] != other[1]]
    told: set[str] = set()
    for same_keys in (True, False):
        for (params, unit), (others, other) in pairs:
            differing = [key for key in params if key in others and params[key] != others[key]]
            if (params.keys() == others.keys()) is same_keys and len(differing) == 1 and not told & set(differing):
                told.update(differing)
                where = {dimension.path: dimension.where for dimension in arm.space.active(params)}
                yield where[differing[0]], differing[0], f"{unit} or {other}"
        if told:
            return


def recorded_facts(arms: Mapping[str, Arm]) -> dict[str, dict[str, dict[str, Any]]]:
    """What sweep.json holds of the metrics: arm -> name -> facts."""
    return {name: {m.name: m.facts() for m in arm_metrics(arm).values()} for name, arm in arms.items()}


def facts_of(recorded: Mapping[str, Any]) -> dict[str, Facts]:
    """The facts of each arm's metrics in a sweep.json.

    What an earlier version did not record is what this one knows of the metric, or of the arm's configuration.
    """
    if "metrics" in recorded:
        known = {name: metric.facts() for name, metric in known_metrics().items()}
        return {
            arm: {name: metric_of({**known.get(name, {}), **facts}) for name, facts in metrics.items()}
            for arm, metrics in recorded["metrics"].items()
        }
    return {name: arm_metrics(_recorded_arm(name, base)) for name, base in recorded["sweep"]["arms"].items()}


def _recorded_arm(name: str, recorded: Mapping[str, Any]) -> Arm:
    """An arm as an earlier version recorded it, less the settings of its evaluation: this version may refuse those."""
    base = {key: value for key, value in recorded.items() if key != "space"}
    features = (base.get("evaluate") or {}).get("features")
    base["evaluate"] = {} if features is None else {"features": features}
    space, _ = parse_space(recorded.get("space"), "space")
    return Arm(name, base, space)


def least_side(protocol: Mapping[str, Any]) -> int | None:
    """The fewest pixels a side at which the network of a recorded protocol sees much; None where it is not known."""
    return LEAST_SIDES.get(str(protocol.get("extractor")))
