"""The one language of settings: pydantic classes, and all that is wrong with a mapping in plain words.

Ours and everybody's classes are read by the same function, so that a mistake in either is told alike. No torch.
"""

import difflib
import json
import math
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

M = TypeVar("M", bound=BaseModel)
LONGEST_VALUE = 200  # characters of a value in a message


class Problem(NamedTuple):
    """One mistake in a mapping: the dotted path of the key, and what was seen, what is valid."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(ValueError):
    """All mistakes of one configuration at once."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


class Expected(ValueError):
    """Raised in a validator with what is valid, as it follows the word "expected"."""


class Settings(BaseModel):
    """What all our own classes of settings have in common: no unknown key, no guessed type, no change afterwards."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def changed(self, **values: Any) -> Self:
        """The same settings with some other values, checked again."""
        return type(self)(**{**{key: getattr(self, key) for key in type(self).model_fields}, **values})


Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def parse(kind: type[M], mapping: object, path: str = "") -> M:
    """An instance of a class of settings; raises ConfigError with all problems, each with its dotted path."""
    problems: list[Problem] = []
    if not isinstance(mapping, Mapping):
        raise ConfigError([Problem(path, f"saw {shown(mapping)}, expected a mapping{_keys_of(kind)}")])
    known, given = fields(kind), {}
    for key, value in mapping.items():
        if key not in known:
            problems.append(Problem(join(path, key), f"unknown key; {nearest(key, known)}"))
        elif value is not None or _takes_none(known[key]):  # null is "left out" everywhere
            given[key] = value
    try:
        # Through JSON: a list is then a tuple where one is asked for, and nothing else is converted.
        found = kind.model_validate_json(json.dumps(given, default=str), strict=True)
    except ValidationError as error:
        problems += problems_of(kind, error, path)
    if problems:
        raise ConfigError(problems)
    return found


def problems_of(kind: type[BaseModel], error: ValidationError, path: str = "") -> list[Problem]:
    """What pydantic found wrong, in our words, each with its dotted path; several of one value are one."""
    found: dict[str, Problem] = {}
    for detail in error.errors(include_url=False):
        for problem in _problems(kind, detail, path):
            found.setdefault(problem.path, problem)
    return list(found.values())


def _problems(kind: type[BaseModel], detail: Any, path: str) -> Iterator[Problem]:
    cause = (detail.get("ctx") or {}).get("error")
    where = place(kind, detail["loc"], path)
    if isinstance(cause, ConfigError):
        yield from (
            Problem(join(where, problem.path) if problem.path else where, problem.message) for problem in cause.problems
        )
    else:
        yield Problem(where, message(kind, detail))


def place(kind: type[BaseModel], location: Iterable[int | str], path: str = "") -> str:
    """The dotted path of a place that pydantic names, without what it adds for unions."""
    hint: Any = kind
    for key in location:
        below = _below(hint, key)
        if isinstance(key, int):
            path, hint = f"{path}[{key}]", below
        elif below is not None and key != "[key]":
            path, hint = join(path, key), below
        elif _is_model(hint):
            path = join(path, key)  # a key that is none
    return path


def message(kind: type[BaseModel], detail: Any) -> str:
    """One error of pydantic in our words: what was seen, what is valid, and the nearest name."""
    hint: Any = kind
    for key in detail["loc"]:
        below = _below(hint, key)
        above, hint = hint, hint if below is None else below
    seen, context = detail["input"], detail.get("ctx") or {}
    match detail["type"]:
        case "missing":
            return f"missing, expected {described(hint)}"
        case "extra_forbidden":
            return f"unknown key; {nearest(detail['loc'][-1], fields(_model_in(above) or kind))}"
        case "value_error" | "assertion_error" | "custom_error":
            cause = context.get("error", detail["msg"])
            return (
                f"saw {shown(seen)}, expected {cause}" if isinstance(cause, Expected) else f"saw {shown(seen)}: {cause}"
            )
        case "string_pattern_mismatch":
            return f"saw {shown(seen)}, expected one word of letters, digits and _.,:/@+=-"
        case "too_short":
            return f"saw {shown(seen)}, expected at least {context['min_length']}"
    words = words_of(hint)
    if words and detail["type"] in ("literal_error", "enum"):
        return one_of(seen, words)
    return f"saw {shown(seen)}, expected {described(hint) or detail['msg'].removeprefix('Input should be ')}"


def fields(kind: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys of a class of settings as they are written in a file."""
    return {field.alias or name: field for name, field in kind.model_fields.items()}


def hint_of(field: FieldInfo) -> Any:
    """The type of a key with its bounds."""
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def plain(hint: Any) -> Any:
    """A type without its bounds, and without None beside it."""
    while True:
        origin = get_origin(hint)
        if origin is Annotated:
            hint = get_args(hint)[0]
        elif origin in (Union, types.UnionType):
            others = [arg for arg in get_args(hint) if arg is not type(None)]
            if len(others) > 1:
                return hint
            hint = others[0]
        else:
            return hint


def words_of(hint: Any) -> tuple[str, ...]:
    """The words of a choice; () where the type is another."""
    hint = plain(hint)
    return tuple(map(str, get_args(hint))) if get_origin(hint) is Literal else ()


def described(hint: Any) -> str:
    """What values of a type look like, in words; "" where there are none for it."""
    kind = plain(hint)
    if words := words_of(hint):
        return ", ".join(words)
    if get_origin(kind) in (tuple, list, set, frozenset):
        return f"a list of {described(get_args(kind)[0])}" if get_args(kind) else "a list"
    if _is_model(kind):
        return f"a mapping{_keys_of(kind)}"
    names = {int: "an integer", float: "a number", str: "a string", bool: "true or false", dict: "a mapping"}
    name = names.get(get_origin(kind) or kind, "") if isinstance(get_origin(kind) or kind, type) else ""
    return f"{name} {_bounds(hint)}".strip() if name else ""


def bounds_of(hint: Any) -> dict[str, float]:
    """The ends of a range of numbers: "ge", "gt", "le" and "lt" where there are any."""
    if get_origin(hint) in (Union, types.UnionType):
        return bounds_of(next(arg for arg in get_args(hint) if arg is not type(None)))
    if get_origin(hint) is not Annotated:
        return {}
    inner, *marks = get_args(hint)
    found = bounds_of(inner)
    for mark in marks:
        for one in mark.metadata if isinstance(mark, FieldInfo) else [mark]:
            found |= {word: getattr(one, word) for word in ("ge", "gt", "le", "lt") if hasattr(one, word)}
    return found


def _bounds(hint: Any) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    return " and ".join(f"{signs[word]} {end:g}" for word, end in bounds_of(hint).items())


def _takes_none(field: FieldInfo) -> bool:
    return type(None) in get_args(field.annotation)


def _is_model(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, BaseModel)


def _model_in(hint: Any) -> type[BaseModel] | None:
    hint = plain(hint)
    return hint if _is_model(hint) else None


def _below(hint: Any, key: int | str) -> Any:
    """The type of what stands below a key or an index; None where the key is none."""
    hint = plain(hint)
    if _is_model(hint):
        field = fields(hint).get(str(key)) or hint.model_fields.get(str(key))
        return None if field is None else hint_of(field)
    if isinstance(key, int):
        return next(iter(get_args(hint)), Any)
    if get_origin(hint) is dict and key != "[key]":
        return get_args(hint)[1]
    options = [arg for arg in get_args(hint) if arg is not type(None)]
    return next((below for option in options if (below := _below(option, key)) is not None), None) if options else None


def _keys_of(kind: Any) -> str:
    return f" with keys among: {', '.join(fields(kind))}" if fields(kind) else " without keys"


def one_line(error: BaseException) -> str:
    """An exception with its type, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def shown(value: object) -> str:
    """A value as a message shows it: of one that is long the beginning and the end."""
    text = repr(value)
    half = LONGEST_VALUE // 2
    return text if len(text) <= LONGEST_VALUE else f"{text[:half]} ... {text[-half:]}"


def nearest(word: object, valid: Iterable[str]) -> str:
    """ "did you mean ...?" where something is close, then all that is valid."""
    names = [str(name) for name in valid]
    close = difflib.get_close_matches(str(word), names, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + (
        f"valid: {', '.join(names)}" if names else "none is valid"
    )


def one_of(value: object, valid: Iterable[str]) -> str:
    """The message for a word that is not among the valid ones."""
    return f"saw {shown(value)}; {nearest(value, valid)}"


def join(path: str, key: object) -> str:
    """The dotted path of a key below `path`."""
    return f"{path}.{key}" if path else str(key)


def dotted(mapping: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested mapping as (dotted path, value)."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from dotted(value, join(path, key))
        else:
            yield join(path, key), value


def written(settings: BaseModel) -> dict[str, Any]:
    """Settings as plain JSON values, under the keys that a file has."""
    return settings.model_dump(mode="json", by_alias=True)


def finite(value: float) -> float | None:
    """A number as JSON has it: null for infinity."""
    return value if math.isfinite(value) else None
