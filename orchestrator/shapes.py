"""What the JSON files of a run folder hold, and the first thing wrong with one, in words. Standard library only.

A shape is a type, a tuple of the words that are valid, a pattern, a list of one shape, a mapping from keys to shapes
(more keys may be there), or one of the classes below. Every value is checked to be one that all readers can use: no
number that is infinite or beyond 64 bits, no broken text, no endless nesting.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.causes import Stage, State

DEEPEST = 40  # levels of a document
LONGEST = 60  # characters of a wrong value that are shown
LARGEST = 2**63


@dataclass(frozen=True)
class Maybe:
    """A key that may be missing or null."""

    shape: Any


@dataclass(frozen=True)
class OrNull:
    """A key that must be there, and may be null."""

    shape: Any


@dataclass(frozen=True)
class Each:
    """A mapping of names to values of one shape; `names` is what a name must look like."""

    shape: Any = object
    names: re.Pattern[str] = re.compile(r".*", re.DOTALL)


@dataclass(frozen=True)
class OneOrMore:
    """One value of a shape, or a list of at least one."""

    shape: Any


@dataclass(frozen=True)
class Within:
    """A number in a range, both ends included."""

    low: float
    high: float = LARGEST
    whole: bool = False

    def __str__(self) -> str:
        return f"{'an integer' if self.whole else 'a number'} from {self.low:g} to {self.high:g}"


COUNT, TIME = Within(0, whole=True), Within(0, 1e11)  # seconds of unix time up to the year 5138
ARM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]{0,63}")
METRIC = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,99}")  # becomes part of file names
SCALAR = (str, int, float, bool, type(None))

# ---- the files ----------------------------------------------------------------------------------------------------

MODEL = {"name": Maybe(str), "conditional": Maybe(bool)}  # the other keys are those of anybody's method
TRAINING = {
    "model": Maybe(MODEL),
    "data": Maybe({"name": str, "path": Maybe(str)}),
    "optimizer": Maybe(dict),
    "command": Maybe({"line": [str], "files": [str], "hash": str, "values": dict}),
    "train": Maybe({"steps": Maybe(COUNT), "batch_size": Maybe(COUNT)}),
    "evaluate": Maybe({"every": Maybe(Within(1, whole=True)), "features": Maybe(str)}),
}
PROVENANCE = {
    "config_hash": Maybe(str),
    "git": Maybe({"commit": Maybe(str), "dirty": Maybe(bool)}),
    "versions": Maybe(Each(Maybe(str))),
    "device": Maybe(str),
    "protocol": Maybe(Each(SCALAR)),
}
CONFIG = {
    "format": int,
    "config": TRAINING,
    "params": Each(),
    "seed": COUNT,
    "source": OrNull(COUNT),
    "provenance": PROVENANCE,
}
RECORDED = {key: shape for key, shape in CONFIG.items() if key != "format"}  # the same in MLflow
STATUS = {
    "state": Maybe(tuple(State)),
    **dict.fromkeys(("cause", "message", "host", "node", "log"), Maybe(str)),
    "causes": Maybe([str]),
    **dict.fromkeys(("attempts", "pid", "steps", "step"), Maybe(COUNT)),
    **dict.fromkeys(("started", "updated", "cpu_seconds"), Maybe(TIME)),
}
MIRRORED = {**STATUS, "state": Maybe((*State, "damaged"))}  # the same in MLflow
FACTS = {
    "name": METRIC,
    "direction": ("minimize", "maximize"),
    "unit": Maybe(str),
    "across_arms": Maybe(bool),
    "low": Maybe(float),
    "high": Maybe(float),
    "beside": Maybe(bool),
    "objection": Maybe(bool),
    "up_to_real": Maybe(bool),
}
SEARCH = {
    "trials": COUNT,
    "objective": OneOrMore({"metric": METRIC, "direction": ("minimize", "maximize")}),
    "min_arrivals": Maybe(COUNT),
    "enqueue": Maybe(Each([dict])),
}
FINAL = {"top": COUNT, "seeds": [COUNT], "steps": Maybe(COUNT), "evaluate": Maybe(dict)}
SWEEP = {
    "format": int,
    "id": Maybe(re.compile(r"[A-Za-z0-9]{1,64}")),
    "name": re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}"),
    "question": Maybe(str),
    "command": Maybe(str),
    "created": Maybe(TIME),
    "finished": bool,
    "metrics": Maybe(Each(Each(FACTS), ARM)),
    "data": Maybe(Each(str)),
    "store": Maybe({"uri": OrNull(str), "source": str}),
    "sweep": {
        "arms": Each(TRAINING, ARM),
        "search": SEARCH,
        "final": OrNull(FINAL),
        "resources": Maybe(Each(Maybe(Within(0)))),
        "tracking": Maybe({"uri": OrNull(str)}),
    },
}
EVALUATIONS = {"every": Within(1, whole=True), "at": Maybe([COUNT])}
STEPS = {"train": {"steps": Within(1, whole=True)}, "evaluate": EVALUATIONS}
RESUMED = {"name": str, "arms": Each(STEPS), "final": OrNull({**FINAL, "steps": OrNull(COUNT), "evaluate": dict})}
RATES = {
    "step": Within(0),
    "evaluation": Each([[Within(0)]]),
    **dict.fromkeys(("trial", "disk"), Within(0)),
    **dict.fromkeys(("memory", "gpu_memory"), Maybe(Within(0))),
}
LINE = {"arm": str, "stage": tuple(Stage), "trials": COUNT, "steps": COUNT, "seconds": OrNull(Within(0))}
PLAN = {
    "basis": Maybe(str),
    "lines": Maybe([LINE]),
    "rates": Maybe(Each(RATES)),
    "wall_seconds": Maybe(Within(0)),
    "upper_bound": Maybe(bool),
    "extended": Maybe(bool),
}
MIRROR = {
    "uri": Maybe(str),
    "error": Maybe(str),
    "records_behind": Maybe(COUNT),
    "behind_since": Maybe(TIME),
    "experiment": Maybe(str),
    "parent": Maybe(str),
    "runs": Maybe(Each(str)),
    "deleted": Maybe([str]),
    "whole": Maybe(str),
}
FINISHED = {"looks": str}
CLUSTER = {"notes": Maybe([str])}
SPENT = dict.fromkeys(("seconds", "trial_seconds"), Maybe(Within(0)))
SUBMISSION = {"to": ("ray", "slurm", "kuberay"), "id": str, "address": Maybe(str)}
RECORD = {"step": COUNT, **dict.fromkeys(("time", "seconds", "evaluate_seconds"), Maybe(TIME)), "samples": Maybe(COUNT)}


# ---- checks -------------------------------------------------------------------------------------------------------


def wrong(value: Any, shape: Any, where: str = "") -> str:
    """The first thing that keeps a value from having a shape, in words with its place; "" where there is none."""
    return next(_unusable(value, where), "") or next(_problems(value, shape, where), "")


def misshapen(value: Any, shape: Any) -> str:
    """The same without a look at what the shape does not name: numbers there may be infinite, for example."""
    return next(_problems(value, shape, ""), "")


def wrong_record(record: Mapping[str, Any]) -> str:
    """The same for a line of metrics.jsonl, whose numbers may be NaN or infinite: a loss can be."""
    for name, value in record.items():
        if not (value is None or type(value) is float or (type(value) is int and abs(value) < LARGEST)):
            return _said(_shown(name), value, "a number")
    return next(_problems(record, RECORD, ""), "")


def _unusable(value: Any, where: str, depth: int = 0) -> Iterator[str]:
    if depth > DEEPEST:
        yield f"{where}: saw values nested more than {DEEPEST} deep"
    elif isinstance(value, str):
        if not _is_text(value):
            yield f"{where or 'the text'}: saw characters that are no text"
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not _is_text(key):
                yield f"{where}: saw a name that is no text"
            yield from _unusable(inner, _join(where, key), depth + 1)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _unusable(inner, f"{where}[{i}]", depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        yield _said(where, value, "a finite number")
    elif isinstance(value, int) and abs(value) >= LARGEST:
        yield f"{where}: saw an integer beyond 64 bits"


def _is_text(value: str) -> bool:
    if value.isascii():
        return "\0" not in value
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def _problems(value: Any, shape: Any, where: str) -> Iterator[str]:
    match shape:
        case Maybe() | OrNull():
            if value is not None:
                yield from _problems(value, shape.shape, where)
        case Within():
            kinds = (int,) if shape.whole else (int, float)
            if type(value) not in kinds or not shape.low <= value <= shape.high:
                yield _said(where, value, str(shape))
        case re.Pattern():
            if not isinstance(value, str) or not shape.fullmatch(value):
                yield _said(where, value, "a name")
        case OneOrMore():
            yield from _problems(value if isinstance(value, list) and value else [value], [shape.shape], where)
        case Each() | dict():
            if not isinstance(value, dict):
                yield _said(where, value, "a mapping")
            else:
                yield from _of_mapping(value, shape, where)
        case list():
            if not isinstance(value, list):
                yield _said(where, value, "a list")
            else:
                for i, inner in enumerate(value):
                    yield from _problems(inner, shape[0], f"{where}[{i}]")
        case tuple() if all(isinstance(word, str) for word in shape):
            if value not in shape:
                yield _said(where, value, " or ".join(shape))
        case _:
            yield from _of_kind(value, shape, where)


def _of_mapping(value: dict[str, Any], shape: "Each | dict[str, Any]", where: str) -> Iterator[str]:
    if isinstance(shape, Each):
        for key, inner in value.items():
            if not shape.names.fullmatch(key):
                yield _said(where, key, "a name")
            yield from _problems(inner, shape.shape, _join(where, key))
        return
    for key, below in shape.items():
        if key in value or isinstance(below, Maybe):
            yield from _problems(value.get(key), below, _join(where, key))
        else:
            yield f"{_join(where, key)} is missing"


KINDS = {str: "a text", int: "an integer", float: "a number", bool: "true or false", dict: "a mapping"}


def _of_kind(value: Any, kind: Any, where: str) -> Iterator[str]:
    """The problem of a value that is not of a type, or of one of several types; an integer is a number too."""
    kinds = kind if isinstance(kind, tuple) else (int, float) if kind is float else (kind,)
    if object not in kinds and type(value) not in kinds:
        yield _said(where, value, KINDS.get(kind, "a plain value"))


def _join(where: str, key: str) -> str:
    return f"{where}.{_shown(key)}" if where else _shown(key)


def _shown(text: str) -> str:
    """A text in one short line, whatever it holds."""
    plain = text if text.isprintable() else ascii(text)[1:-1]
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}..."


def _said(where: str, value: Any, expected: str) -> str:
    return f"{where}{': ' if where else ''}saw {_shown(ascii(value))}, expected {expected}"
