"""The search space of an arm: from YAML to Optuna's suggest calls, and from chosen values to a configuration.

A list is a choice; a mapping with `low` and `high` is a range; any other mapping is a choice whose values have a space
of their own:

    optimizer.name:
      adam: {optimizer.lr: {low: 1e-4, high: 1e-2, log: true}}
      sgd:  {optimizer.lr: {low: 1e-2, high: 1.0, log: true}, optimizer.momentum: {low: 0.0, high: 0.99}}
"""

import dataclasses
import difflib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, partial
from random import Random
from typing import TYPE_CHECKING, Any

from aiqn_core.config import NAMED, SECTIONS, ConfigError, Problem, join, key_types, nearest, shown

if TYPE_CHECKING:  # importing Optuna takes 0.4 s, and `aiqn --help` does not need it
    from optuna.trial import BaseTrial

Keys = Mapping[str, Any]  # every dotted key of a configuration -> its type, as `key_types` gives them
RULER = ("data", "evaluate")  # what all trials are measured by
LARGEST_GRID = 10_000
RANGE_KEYS = ("low", "high", "log", "step")


@dataclass(frozen=True)
class Number:
    """A range of numbers, both ends included; `where` is the place in the sweep file, `name` what Optuna calls it."""

    path: str
    where: str
    name: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    integer: bool = False

    def ends(self) -> list[float]:
        return [self.low] if self.low == self.high else [self.low, self.high]

    def points(self) -> list[float]:
        """All values of a range with steps; raises ConfigError for one that is continuous or too long."""
        step = self.step if self.step is not None else 1 if self.integer else None
        if step is None:
            message = f"saw a continuous range from {self.low:g} to {self.high:g}, expected a step or a list of values"
            raise ConfigError([Problem(self.where, message)])
        count = int((Decimal(str(self.high)) - Decimal(str(self.low))) / Decimal(str(step))) + 1
        if count > LARGEST_GRID:
            raise ConfigError([Problem(self.where, f"saw {count} values, expected at most {LARGEST_GRID} in a grid")])
        kind = int if self.integer else float
        return [kind(Decimal(str(self.low)) + i * Decimal(str(step))) for i in range(count)]


@dataclass(frozen=True)
class Choice:
    """One of some values, each with a space of its own (often empty)."""

    path: str
    where: str
    name: str
    values: tuple[Any, ...]
    branches: tuple["Space", ...]

    def encoded(self) -> list[Any]:
        """The values as Optuna stores them: plain scalars as they are, others as JSON."""
        return [_encode(value) for value in self.values]

    def index(self, encoded: Any) -> int:
        """The position of a stored value; raises ValueError for one that is none of them."""
        for i, value in enumerate(self.encoded()):
            if value == encoded and isinstance(value, bool) == isinstance(encoded, bool):
                return i
        raise ValueError(f"{self.name}: saw {shown(encoded)}, expected one of {self.encoded()}")


@dataclass(frozen=True)
class Space:
    """What may vary between the trials of an arm."""

    dimensions: tuple[Number | Choice, ...] = ()

    @classmethod
    def from_dict(cls, mapping: object, path: str = "space", keys: Keys | None = None) -> "Space":
        """The space of a mapping; raises ConfigError with every problem, its path below `path`."""
        space, problems = parse_space(mapping, path, keys)
        if problems:
            raise ConfigError(problems)
        return space

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON in which the order of choices shows, since Optuna tells them apart by position."""
        return {dimension.path: _dimension_dict(dimension) for dimension in self.dimensions}

    def every(self) -> Iterator[Number | Choice]:
        """All dimensions, those inside of branches included, each choice before what it opens."""
        for dimension in self.dimensions:
            yield dimension
            for branch in dimension.branches if isinstance(dimension, Choice) else ():
                yield from branch.every()

    def active(self, params: Mapping[str, Any]) -> Iterator[Number | Choice]:
        """The dimensions that are open as far as `params` (dotted path -> value) are chosen.

        Raises ValueError for a value that is no choice.
        """
        for dimension in self.dimensions:
            yield dimension
            if isinstance(dimension, Choice) and dimension.path in params:
                yield from dimension.branches[dimension.index(_encode(params[dimension.path]))].active(params)


def parse_space(mapping: object, path: str, keys: Keys | None = None) -> tuple[Space, list[Problem]]:
    """The space of the dimensions that could be read, and what is wrong with the others.

    `keys` are those that the arm's configuration can have; None: those of what comes with this package.
    """
    problems: list[Problem] = []
    space = _parse_space(mapping, path, "", problems, own_keys() if keys is None else keys)
    overlaps: list[Problem] = []
    _find_overlaps(space, overlaps)
    problems.extend(overlaps)
    return _without(space, {problem.path for problem in overlaps}), problems


def _without(space: Space, places: set[str]) -> Space:
    """A space without the dimensions that stand at some places of the file: of two for one key only one is left."""
    left = []
    for dimension in (one for one in space.dimensions if one.where not in places):
        if isinstance(dimension, Choice):
            branches = tuple(_without(branch, places) for branch in dimension.branches)
            dimension = dataclasses.replace(dimension, branches=branches)
        left.append(dimension)
    return Space(tuple(left))


def suggest(trial: "BaseTrial", space: Space) -> dict[str, Any]:
    """Ask an Optuna trial for one value of every dimension that is open: dotted path -> value."""
    params: dict[str, Any] = {}
    for dimension in space.dimensions:
        if isinstance(dimension, Number):
            params[dimension.path] = _suggest_number(trial, dimension)
        else:
            index = dimension.index(trial.suggest_categorical(dimension.name, dimension.encoded()))
            params[dimension.path] = dimension.values[index]
            params |= suggest(trial, dimension.branches[index])
    return params


def optuna_params(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `suggest`: Optuna's names and stored values, as `study.enqueue_trial` takes them.

    Raises ValueError where a value is missing, left over, or outside its dimension.
    """
    chosen = partial_params(space, params)
    missing = [repr(dimension.path) for dimension in space.active(params) if dimension.path not in params]
    if missing:
        raise ValueError(f"saw no value for {', '.join(missing)}, expected one for each dimension that is open")
    return chosen


def partial_params(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """`optuna_params` of some of the dimensions that are open, the others left to a sampler.

    Raises ValueError where a value is left over, or outside its dimension.
    """
    dimensions = list(space.active(params))
    if unused := sorted(map(str, set(params) - {dimension.path for dimension in dimensions})):
        known = ", ".join(dimension.path for dimension in dimensions) or "none"
        raise ValueError(f"saw {', '.join(unused)}, expected only: {known}")
    return {d.name: _stored(d, params[d.path]) for d in dimensions if d.path in params}


def _stored(dimension: Number | Choice, value: Any) -> Any:
    if isinstance(dimension, Choice):
        return _encode(value)
    expected = f"{'an integer' if dimension.integer else 'a number'} from {dimension.low:g} to {dimension.high:g}"
    if not _is_number(value, int if dimension.integer else float) or not dimension.low <= value <= dimension.high:
        raise ValueError(f"{dimension.path}: saw {shown(value)}, expected {expected}")
    if dimension.step is not None:
        steps = (value - dimension.low) / dimension.step
        if abs(steps - round(steps)) > 1e-6:  # 0.3 is not three times 0.1
            raise ValueError(f"{dimension.path}: saw {value!r}, expected {expected} in steps of {dimension.step:g}")
    return value


def apply(base: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """A new nested configuration: `base` with each dotted path of `params` set; sections are merged, not replaced.

    Those of a command are its values.
    """
    result = merge({}, base)
    if (command := base.get("command")) is not None:
        return {**result, "command": {**command, "values": {**(command.get("values") or {}), **params}}}
    for path in sorted(params, key=lambda path: path.count(".")):  # a whole section before its keys
        section, _, key = path.partition(".")
        result = merge(result, {section: {key: params[path]} if key else params[path]})
    return result


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A new mapping of configuration sections, those of `over` merged into those of `base`.

    A section may be a name: `schedule: decay` sets the name and leaves the other keys as they are.
    """
    result = {key: _section(key, value) for key, value in base.items()}
    for key, value in over.items():
        old, new = result.get(key), _section(key, value)
        result[key] = {**old, **new} if isinstance(old, dict) and isinstance(new, dict) else new
    return result


def combinations(space: Space, points: Callable[[Number], Sequence[float]] = Number.ends) -> Iterator[dict[str, Any]]:
    """Every combination of choices and of `points` of the ranges, as params."""
    options = [list(_options(dimension, points, combinations)) for dimension in space.dimensions]
    for parts in itertools.product(*options):
        yield {path: value for part in parts for path, value in part.items()}


def variations(space: Space, points: Callable[[Number], Sequence[float]] = Number.ends) -> Iterator[dict[str, Any]]:
    """One dimension after another through all its values, the others at their first: linear in the space's size."""
    options = [list(_options(dimension, points, variations)) for dimension in space.dimensions]
    first = [option[0] for option in options]
    yield {path: value for part in first for path, value in part.items()}
    for i, option in enumerate(options):
        for part in option[1:]:
            yield {path: value for other in (*first[:i], part, *first[i + 1 :]) for path, value in other.items()}


def covering(space: Space, random: Random) -> list[dict[str, Any]]:
    """Few configurations in which each choice is made at least once, also those of branches; numbers are random."""
    columns: list[list[Callable[[], dict[str, Any]]]] = []
    for dimension in space.dimensions:
        if isinstance(dimension, Number):
            columns.append([partial(_drawn, dimension, random)])
        else:
            columns.append(
                [
                    partial(dict, {dimension.path: value, **below})
                    for value, branch in zip(dimension.values, dimension.branches, strict=True)
                    for below in covering(branch, random)
                ]
            )
    rounds = max(map(len, columns), default=1)
    return [{k: v for column in columns for k, v in column[i % len(column)]().items()} for i in range(rounds)]


def _drawn(number: Number, random: Random) -> dict[str, Any]:
    """A random value of a range."""
    if number.step is not None or (number.integer and not number.log):
        low, step = Decimal(str(number.low)), Decimal(str(number.step or 1))
        value = low + random.randrange(int((Decimal(str(number.high)) - low) / step) + 1) * step
        return {number.path: int(value) if number.integer else float(value)}
    ends = (math.log(number.low), math.log(number.high)) if number.log else (number.low, number.high)
    drawn = random.uniform(*ends)
    inside = min(max(math.exp(drawn) if number.log else drawn, number.low), number.high)
    return {number.path: round(inside) if number.integer else inside}


def count_combinations(space: Space, points: Callable[[Number], Sequence[float]] = Number.ends) -> int:
    """How many `combinations` there are, without making them."""
    sizes = (
        len(points(dimension))
        if isinstance(dimension, Number)
        else sum(count_combinations(branch, points) for branch in dimension.branches)
        for dimension in space.dimensions
    )
    return math.prod(sizes)


def grid(space: Space) -> list[dict[str, Any]]:
    """Every configuration of a space without continuous ranges, in Optuna's names; raises ConfigError for others.

    Optuna's GridSampler multiplies branches that exclude each other; here each configuration stands once.
    """
    count = count_combinations(space, Number.points)
    if count > LARGEST_GRID:
        where = space.dimensions[0].where
        raise ConfigError([Problem(where, f"saw {count} combinations, expected at most {LARGEST_GRID} in a grid")])
    return [optuna_params(space, params) for params in combinations(space, Number.points)]


@cache
def own_keys() -> Keys:
    """The keys of everything that comes with this package."""
    return key_types()


def searchable(keys: Keys | None = None) -> tuple[str, ...]:
    """All dotted paths that a space may vary: sections and their keys."""
    known = own_keys() if keys is None else keys
    return tuple(path for path in known if path != "seed" and path.partition(".")[0] not in RULER)


def _options(dimension: Number | Choice, points: Any, below: Any) -> Iterator[dict[str, Any]]:
    if isinstance(dimension, Number):
        yield from ({dimension.path: value} for value in points(dimension))
    else:
        for value, branch in zip(dimension.values, dimension.branches, strict=True):
            yield from ({dimension.path: value, **params} for params in below(branch, points))


def _suggest_number(trial: "BaseTrial", number: Number) -> float:
    if number.integer:
        low, high, step = int(number.low), int(number.high), int(number.step or 1)
        return trial.suggest_int(number.name, low, high, step=step, log=number.log)
    return trial.suggest_float(number.name, number.low, number.high, step=number.step, log=number.log)


def _encode(value: Any) -> Any:
    scalar = value is None or isinstance(value, (str, int, float))
    try:
        return value if scalar else json.dumps(value, sort_keys=True)
    except TypeError:  # keys that are words and numbers
        raise ValueError(f"saw {shown(value)}, expected plain values with words as keys") from None


def _is_json(value: Any) -> bool:
    """Whether a choice can be stored: not NaN, and no mixture of words and numbers as keys."""
    try:
        json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _section(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return {"name": value} if isinstance(value, str) and key in NAMED else value


def _dimension_dict(dimension: Number | Choice) -> Any:
    if isinstance(dimension, Number):
        return {key: getattr(dimension, key) for key in RANGE_KEYS}
    if not any(branch.dimensions for branch in dimension.branches):
        return list(dimension.values)
    branches = zip(dimension.values, dimension.branches, strict=True)
    return {"choices": list(dimension.values), "spaces": {_text(value): branch.to_dict() for value, branch in branches}}


def _parse_space(mapping: object, where: str, branch: str, problems: list[Problem], keys: Keys) -> Space:
    if mapping is None:
        return Space()
    if not isinstance(mapping, Mapping):
        message = (
            f"saw {shown(mapping)}, expected a mapping such as {{optimizer.lr: {{low: 1e-4, high: 1e-2, log: true}}}}"
        )
        problems.append(Problem(where, message))
        return Space()
    parsed = [_parse_dimension(key, value, join(where, key), branch, problems, keys) for key, value in mapping.items()]
    return Space(tuple(dimension for dimension in parsed if dimension))


def _parse_dimension(
    key: Any, value: Any, where: str, branch: str, problems: list[Problem], keys: Keys
) -> Number | Choice | None:
    if key not in searchable(keys):
        problems.append(Problem(where, _not_searchable(key, keys)))
        return None
    name = key + branch
    if isinstance(value, Mapping) and any(word in value for word in RANGE_KEYS):
        return _parse_number(key, value, where, name, problems, keys[key])
    if isinstance(value, list) and value and all(map(_is_json, value)):
        values, branches = value, [Space()] * len(value)
    elif isinstance(value, Mapping) and value and all(map(_is_json, value)):
        if flat := {k: v for k, v in value.items() if not (v is None or isinstance(v, Mapping))}:
            message = f"saw {shown(flat)}, expected a space of its own for each choice, or {{low: ..., high: ...}}"
            problems.append(Problem(where, message))
            return None
        values = list(value)
        contexts = [f"{branch} | {key}={_text(choice)}" for choice in values]
        branches = [
            _parse_space(below, join(where, choice), context, problems, keys)
            for (choice, below), context in zip(value.items(), contexts, strict=True)
        ]
    else:
        message = f"saw {shown(value)}, expected a list of choices, {{low: ..., high: ...}}, or a mapping of choices"
        problems.append(Problem(where, message))
        return None
    if keys[key] is float:
        values = [float(v) if type(v) is int else v for v in values]
    texts = [_text(v) for v in values]
    if repeated := sorted({text for text in texts if texts.count(text) > 1}):
        problems.append(Problem(where, f"saw {', '.join(repeated)} more than once, expected each choice once"))
        return None
    return Choice(key, where, name, tuple(values), tuple(branches))


def _parse_number(key: str, value: Mapping, where: str, name: str, problems: list[Problem], kind: Any) -> Number | None:
    found = list(_number_problems(key, value, where, kind))
    problems.extend(found)
    if found:
        return None
    low, high = kind(value["low"]), kind(value["high"])
    step = None if value.get("step") is None else kind(value["step"])
    return Number(key, where, name, low, high, value.get("log", False), step, kind is int)


def _number_problems(key: str, value: Mapping, where: str, kind: Any) -> Iterator[Problem]:
    if kind not in (int, float):
        yield Problem(where, f"saw a range, but {key} is not a number; expected a list of choices")
        return
    unknown = [word for word in value if word not in RANGE_KEYS]
    yield from (Problem(join(where, word), f"unknown key; {nearest(word, RANGE_KEYS)}") for word in unknown)
    expected = "an integer" if kind is int else "a number"
    wrong = False
    for word in ("low", "high", "step"):
        if word != "step" and word not in value:
            wrong = True
            if not unknown:  # which may be the one that is missing
                yield Problem(where, f"{word} is missing, expected both low and high")
        elif not _is_number(value.get(word), kind) and not (word == "step" and value.get(word) is None):
            yield Problem(join(where, word), f"saw {shown(value[word])}, expected {expected}")
            wrong = True
    log = value.get("log", False)
    if not isinstance(log, bool):
        yield Problem(join(where, "log"), f"saw {shown(log)}, expected true or false")
    if not wrong:
        yield from _range_problems(value["low"], value["high"], value.get("step"), log is True, where)


def _range_problems(low: float, high: float, step: float | None, log: bool, where: str) -> Iterator[Problem]:
    if low > high:
        yield Problem(where, f"saw an empty range, low {low!r} above high {high!r}, expected low <= high")
    elif log and low <= 0:
        yield Problem(join(where, "low"), f"saw {low!r}, expected a number > 0 in a logarithmic range")
    elif log and step is not None:
        yield Problem(join(where, "step"), f"saw {shown(step)}, expected none in a logarithmic range")
    elif step is not None and step <= 0:
        yield Problem(join(where, "step"), f"saw {shown(step)}, expected a number > 0")
    elif step is not None:
        low_, high_, step_ = (Decimal(str(number)) for number in (low, high, step))
        steps = (high_ - low_) / step_
        if steps < 10**15 and (high_ - low_) % step_ != 0:
            last = low_ + int(steps) * step_
            yield Problem(join(where, "high"), f"saw {high!r}, which no step reaches; expected {last:f}, the last one")
        elif steps >= 10**15:
            yield Problem(join(where, "step"), f"saw {step!r}, expected fewer than 1e15 steps from low to high")


def _is_number(value: Any, kind: type) -> bool:
    return type(value) is int or (kind is float and type(value) is float and math.isfinite(value))


def _not_searchable(key: object, keys: Keys) -> str:
    valid = searchable(keys)
    if key == "seed":
        return "seeds are given to trials, not searched; expected another key, or search.seed for other trials"
    if str(key).partition(".")[0] in RULER and str(key) in keys:
        return f"all trials of a sweep share one data and evaluate section; expected one of: {', '.join(valid)}"
    close = difflib.get_close_matches(str(key), valid, n=1)
    last = {path.rpartition(".")[2]: path for path in reversed(valid)}  # `lr` for `optimizer.lr`
    close = close or [last[word] for word in difflib.get_close_matches(str(key).rpartition(".")[2], last, n=1)]
    section = (close or [str(key)])[0].partition(".")[0]
    of_section = [path for path in valid if path.partition(".")[0] == section]
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"names no key of the configuration; {guess}valid: {', '.join(of_section or valid)}"


Places = dict[str, list[str]]  # key -> where it is set: once, or once in each of some branches


def _find_overlaps(space: Space, problems: list[Problem]) -> Places:
    """Two dimensions that set one key at the same time; gives where each key is set."""
    set_at: Places = {}
    for dimension in space.dimensions:
        above: Places = {key: [dimension.where] for key in _sets(dimension)}
        own = {**above}
        for branch in dimension.branches if isinstance(dimension, Choice) else ():
            below = _find_overlaps(branch, problems)
            problems.extend(_overlaps(below, above))
            own |= {key: [*own.get(key, []), *places] for key, places in below.items()}
        problems.extend(_overlaps(own, set_at))
        set_at = {**own, **set_at}
    return set_at


def _overlaps(own: Places, known: Places) -> list[Problem]:
    """The dimensions of `own` that set a key which is set already, each with the first such key."""
    again: dict[str, str] = {}
    for key in (key for key in own if key in known):
        for where in own[key]:
            again.setdefault(where, key)
    expected = "expected one dimension for each key"
    return [Problem(where, f"{key} is already set by {known[key][0]}, {expected}") for where, key in again.items()]


def _sets(dimension: Number | Choice) -> list[str]:
    if isinstance(dimension, Number) or dimension.path not in SECTIONS:
        return [dimension.path]
    sections = [_section(dimension.path, value) for value in dimension.values]
    keys = {join(dimension.path, key) for value in sections if isinstance(value, dict) for key in value}
    return [dimension.path, *sorted(keys)]
