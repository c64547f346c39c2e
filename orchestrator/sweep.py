"""The sweep file: YAML to a Sweep, with every mistake shown at its line.

`python -m orchestrator.sweep` prints the JSON Schema for editors, which is kept in sweeps/sweep.schema.json.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from aiqn_core.config import ConfigError, DataConfig, Problem, Range, TrainConfig, dotted, join, nearest, one_of, parse
from orchestrator.runs import NAME, SWEEP_NAME
from orchestrator.space import (
    SECTIONS,
    Number,
    Space,
    apply,
    combinations,
    count_combinations,
    grid,
    merge,
    parse_space,
    searchable,
    variations,
)

KEYS = ("name", *SECTIONS, "search", "arms", "final", "resources", "budget", "tracking")
ALL_COMBINATIONS = 500  # up to this many are all built before a sweep starts
LARGEST_FILE = 2**20  # bytes
LARGEST_DOCUMENT = 50_000  # values, aliases counted each time they are used
DEEPEST = 40


# --- what a sweep is -------------------------------------------------------------------------------------------------


class Section(BaseModel):
    """A section of the sweep file that is not part of a training's configuration."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Objective(Section):
    """The metric that decides which trial is better; its last value counts."""

    metric: Literal[
        "fd_lite0",
        "is_lite0_mean",
        "kd_lite0",
        "loss",
        "bits_per_dim",
        "energy_distance",
        "wasserstein1_mean",
        "test_nll",
    ] = "fd_lite0"
    direction: Literal["minimize", "maximize"] = "minimize"

    @model_validator(mode="before")
    @classmethod
    def _inception_scores_grow(cls, value: Any) -> Any:
        if isinstance(value, dict) and str(value.get("metric")).startswith("is_"):
            return {"direction": "maximize", **value}
        return value


class Search(Section):
    """How configurations are found: `trials` for every arm, since equal budgets are the point."""

    trials: Count = 20
    sampler: dict[str, Any] = Field(default_factory=lambda: {"name": "tpe"})
    pruner: dict[str, Any] = Field(default_factory=lambda: {"name": "none"})
    objective: Objective = Objective()
    seed: Seed = 0

    @field_validator("sampler", "pruner", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Final(Section):
    """The `top` configurations of each arm, trained again with each of the `seeds`, longer and measured better."""

    top: Count = 1
    seeds: Annotated[tuple[Seed, ...], Field(strict=False, min_length=1)] = (0, 1, 2)
    steps: Count | None = None  # None: those of the arm
    evaluate: dict[str, Any] = Field(default_factory=dict)

    @field_validator("seeds")
    @classmethod
    def _different(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError("seeds that differ")
        return value


class Resources(Section):
    """What one trial gets, and how often it is tried again after an infrastructure failure."""

    cpu: Annotated[float, Field(gt=0)] = 1.0
    gpu: Annotated[float, Field(ge=0)] = 0.0
    retries: Annotated[int, Field(ge=0)] = 2

    @field_validator("cpu", "gpu")
    @classmethod
    def _whole_above_one(cls, value: float) -> float:
        if value > 1 and value != int(value):  # Ray refuses these only when the first trial starts
            raise ValueError("a fraction up to 1, or a whole number")
        return value


class Budget(Section):
    """Limits of the whole sweep; None is no limit."""

    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    hours: Annotated[float, Field(gt=0)] | None = None


class Tracking(Section):
    """The MLflow server; None is a SQLite file in the run folder."""

    uri: str | None = None


class _OwnSections(Section):
    """All of a sweep file but its arms and the defaults of their trainings."""

    name: str
    search: Search = Search()
    final: Final | None = None
    resources: Resources = Resources()
    budget: Budget = Budget()
    tracking: Tracking = Tracking()

    @field_validator("name")
    @classmethod
    def _never_a_path(cls, value: str) -> str:
        if not SWEEP_NAME.fullmatch(value) or len(value) > 100:
            raise ValueError("up to 100 letters, digits, '_', '.' and '-', the first a letter or digit")
        return value


@dataclass(frozen=True)
class Arm:
    """A method: the configuration all its trials share (complete, defaults filled in) and what may vary."""

    name: str
    base: dict[str, Any]
    space: Space


@dataclass(frozen=True)
class Sweep:
    """A sweep file that has been checked: every trial it can ask for has a valid configuration."""

    path: Path
    text: str  # verbatim
    name: str
    question: str
    arms: dict[str, Arm]
    search: Search
    final: Final | None
    resources: Resources
    budget: Budget
    tracking: Tracking

    def config(self, arm: str, params: Mapping[str, Any], seed: int) -> TrainConfig:
        """The configuration of a search trial with the chosen `params` (dotted path -> value)."""
        return TrainConfig.from_dict({**apply(self.arms[arm].base, params), "seed": seed})

    def final_config(self, arm: str, params: Mapping[str, Any], seed: int) -> TrainConfig:
        """The configuration of a final: the same, with the steps and the evaluation of `final`."""
        return TrainConfig.from_dict({**_with_final(apply(self.arms[arm].base, params), self.final), "seed": seed})

    def to_dict(self) -> dict[str, Any]:
        """The resolved sweep as plain JSON, defaults filled in."""
        arms = {arm.name: {**arm.base, "space": arm.space.to_dict()} for arm in self.arms.values()}
        sections = ("search", "final", "resources", "budget", "tracking")
        own = {key: section and section.model_dump() for key in sections for section in [getattr(self, key)]}
        return json.loads(json.dumps({"name": self.name, "arms": arms, **own}))


def trial_seed(search_seed: int, arm: str, number: int) -> int:
    """The seed of a search trial, 31 bits: the same on every start, and on every machine."""
    digest = hashlib.sha256(f"{search_seed}/{arm}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Dotted keys (of two `Sweep.to_dict`) whose change would alter the meaning of trials that have finished.

    More trials, arms, finals, and seeds or steps of the finals only add; resources, budget and tracking are free.
    """
    changed = [key for key in ("name",) if old[key] != new[key]]
    changed += [f"search.{key}" for key in _changed(old["search"], new["search"]) if key != "trials"]
    if new["search"]["trials"] < old["search"]["trials"]:
        changed.append("search.trials")
    for name, arm in old["arms"].items():
        if name not in new["arms"]:
            changed.append(f"arms.{name}")
        else:
            changed += [f"arms.{name}.{key}" for key in _changed(arm, new["arms"][name])]
    return sorted(changed + _final_differences(old, new))


def _final_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    if old["final"] is None:
        return []
    if new["final"] is None:
        return ["final"]
    before, after = old["final"], new["final"]
    steps = [arm["train"]["steps"] for arm in old["arms"].values()]  # where `final` gives none
    fewer = {
        "final.top": after["top"] < before["top"],
        "final.seeds": after["seeds"][: len(before["seeds"])] != before["seeds"],
        "final.steps": before["steps"] != after["steps"]
        and (after["steps"] or min(steps)) < (before["steps"] or max(steps)),
    }
    changed = [f"final.evaluate.{key}" for key in _changed(before["evaluate"], after["evaluate"])]
    return [key for key, is_fewer in fewer.items() if is_fewer] + changed


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    absent = object()
    before, after = dict(dotted(old)), dict(dotted(new))
    return [key for key in {**before, **after} if before.get(key, absent) != after.get(key, absent)]


# --- mistakes --------------------------------------------------------------------------------------------------------


class Where(NamedTuple):
    """A place that a person can open: a line of the file, or an override; `order` sorts them."""

    order: int
    label: str


class Mistake(NamedTuple):
    """One line of a SweepError."""

    where: Where
    path: str
    message: str

    def __str__(self) -> str:
        shown = self.where.label.startswith(f"--set {self.path}=")
        text = ": ".join(filter(None, (self.where.label, "" if shown else self.path, self.message)))
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
        return text if len(text) <= 1200 else f"{text[:600]} ... {text[-600:]}"


class SweepError(Exception):
    """All mistakes of a sweep file, by line; `str()` gives one line for each."""

    def __init__(self, problems: Iterable[Mistake]) -> None:
        self.problems = list(dict.fromkeys(sorted(problems, key=lambda problem: problem.where.order)))
        super().__init__("\n".join(map(str, self.problems)))


# --- the file --------------------------------------------------------------------------------------------------------


class _Yaml12(yaml.SafeLoader):
    """Scalars as in YAML 1.2: `1e-4` is a number (PyYAML reads a string); `yes` and `1:30` are words."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own attribute)


_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
for _tag, (_pattern, _first) in _SCALARS.items():
    _Yaml12.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


class _Document:
    """Plain values of a sweep file with its overrides, where each dotted path was written, and what is wrong."""

    def __init__(self, source: Path, environ: Mapping[str, str]) -> None:
        self.source, self.environ = source, environ
        self.values: Any = None
        self.origins: dict[str, Where] = {}
        self.mistakes: list[Mistake] = []
        self._override: Where | None = None
        self._count = 0

    def complain(self, path: str, message: str) -> None:
        """Note a mistake at the place of `path`, or of the nearest key above it that was written."""
        known = next((p for p in _ancestors(path) if p in self.origins), None)
        where = self.origins[known] if known is not None else self.place(1)
        self.mistakes.append(Mistake(where, path, message))

    def place(self, line: int) -> Where:
        return self._override or Where(line, f"{self.source}:{line}")

    def refuse(self, line: int | None, message: str) -> SweepError:
        """For what leaves nothing to check: the error with this one mistake."""
        where = self._override or Where(line or 0, f"{self.source}:{line}" if line else str(self.source))
        return SweepError([*self.mistakes, Mistake(where, "", message)])

    def read(self) -> str:
        """Read the file and return its text; raises SweepError where there is no YAML mapping."""
        text = self._text()
        self.values = self._parse(text, "")
        if not isinstance(self.values, dict):
            seen = "an empty file" if self.values is None else repr(self.values)
            raise self.refuse(1, f"saw {seen}, expected a mapping with keys among: {', '.join(KEYS)}")
        return text

    def override(self, setting: str, position: int) -> None:
        """Apply one `key=value`, the value being YAML; its mistakes are shown with it instead of a line."""
        path, equals, text = setting.partition("=")
        path = path.strip()
        self._override = Where(2**31 + position, f"--set {setting}")
        try:
            if not equals or not path or "" in path.split("."):
                raise self.refuse(None, "expected key=value, for example --set search.trials=2")
            prefix = f"{path}."
            for known in [p for p in self.origins if p == path or p.startswith((prefix, f"{path}["))]:
                del self.origins[known]
            self.mistakes = [m for m in self.mistakes if m.path != path and not m.path.startswith(prefix)]
            self.origins[path] = self._override
            self._set(self.values, path, self._parse(text, path))
        except SweepError as error:
            self.mistakes = error.problems
        finally:
            self._override = None

    def _set(self, mapping: dict, path: str, value: Any, above: str = "", in_space: bool = False) -> None:
        keys = path.split(".")
        # Arms and the keys of a space have dots in their names: the longest one that is there is meant.
        known = [size for size in range(len(keys), 0, -1) if ".".join(keys[:size]) in mapping]
        size = known[0] if known else len(keys) if in_space else 1
        key, rest = ".".join(keys[:size]), ".".join(keys[size:])
        if not rest:
            mapping[key] = value
            return
        below = mapping.get(key)
        if isinstance(below, str) and (key in SECTIONS or key in ("sampler", "pruner")):
            below = {"name": below}
        if below is not None and not isinstance(below, dict):
            raise self.refuse(None, f"{join(above, key)}: saw {below!r}, which holds no keys; expected a mapping")
        mapping[key] = below or {}
        self.origins.setdefault(join(above, key), self.place(1))
        opens_space = (above.startswith("arms.") and key == "space") or (".space." in above and not in_space)
        self._set(mapping[key], rest, value, join(above, key), opens_space)

    def _text(self) -> str:
        try:
            with self.source.open("rb") as file:
                content = file.read(LARGEST_FILE + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise self.refuse(None, f"cannot be read ({reason}), expected a sweep file in YAML") from None
        if len(content) > LARGEST_FILE:
            raise self.refuse(None, f"saw more than {LARGEST_FILE} bytes, expected a sweep file")
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise self.refuse(line, f"saw byte 0x{content[error.start]:02x}, expected text in UTF-8") from None

    def _parse(self, text: str, path: str) -> Any:
        try:
            node = yaml.compose(text, _Yaml12)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            written = text.splitlines()[line - 1 : line]
            hint = '; write "${NAME}" in quotes inside { } and [ ]' if any("${" in text for text in written) else ""
            raise self.refuse(line, f"not YAML: {error.problem or error.context}{hint}") from None
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n") + 1
            raise self.refuse(line, f"saw the character {error.character:#x}, expected YAML in plain text") from None
        except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
            raise self.refuse(1, f"not YAML: {reason}") from None
        return None if node is None else self._value(node, path, 0)

    def _value(self, node: yaml.Node, path: str, depth: int) -> Any:
        line = node.start_mark.line + 1
        self.origins.setdefault(path, self.place(line))
        self._count += 1
        if self._count > LARGEST_DOCUMENT or depth > DEEPEST:
            raise self.refuse(line, f"expected at most {LARGEST_DOCUMENT} values, nested at most {DEEPEST} deep")
        if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.rpartition(":")[2] not in (*_SCALARS, *_PLAIN):
            self.complain(path, f"saw the tag {node.tag!r}, expected plain values without tags")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        for key_node, value_node in sorted(node.value, key=lambda pair: not _is_merge(pair[0])):
            line = key_node.start_mark.line + 1
            if _is_merge(key_node):
                result |= self._merged(value_node, path, depth)
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self.mistakes.append(Mistake(self.place(line), path, "saw a list or mapping as a key, expected a word"))
                continue
            key = self._scalar(key_node, path)
            if key in lines:
                message = f"saw the key twice, first at line {lines[key]}; expected it once"
                self.mistakes.append(Mistake(self.place(line), join(path, key), message))
                continue
            lines[key] = line
            self.origins[join(path, key)] = self.place(line)
            result[key] = self._value(value_node, join(path, key), depth + 1)
        return result

    def _merged(self, node: yaml.Node, path: str, depth: int) -> dict[Any, Any]:
        """What `<<: *anchor` brings along; of several anchors, the first wins."""
        value = self._value(node, path, depth + 1)
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            line = node.start_mark.line + 1
            self.mistakes.append(Mistake(self.place(line), join(path, "<<"), f"saw {value!r}, expected a mapping"))
            return {}
        return {key: value for part in reversed(parts) for key, value in part.items()}

    def _scalar(self, node: yaml.ScalarNode, path: str) -> Any:
        text, tag = node.value, node.tag
        if "${" in text:
            text = re.sub(r"\$\$\{|\$\{([^}]*)\}|\$\{", lambda match: self._variable(match, path), text)
            if node.style is None:  # `trials: ${TRIALS}` may be a number, `"${TRIALS}"` is text
                tag = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        try:
            value = _convert(tag.rpartition(":")[2], text)
        except ValueError:
            self.complain(path, f"saw {text!r}, expected {tag.rpartition(':')[2]}")
            return None
        if type(value) is int and abs(value) >= 2**63:
            self.complain(path, f"saw an integer of {len(text)} digits, expected one below 2**63")
            return None
        return value

    def _variable(self, match: re.Match[str], path: str) -> str:
        name = match[1]
        if match[0] == "$${":
            return "${"
        if name is None or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            self.complain(path, f"saw {match[0]!r}, expected ${{NAME}}, or $${{ for the two characters themselves")
        elif name not in self.environ:
            close = nearest(name, sorted(self.environ)).partition("valid:")[0].strip()
            message = f"saw ${{{name}}}, but the environment has no {name}; set it, or write $${{{name}}}"
            self.complain(path, f"{message}; {close}" if close else message)
        else:
            return self.environ[name]
        return ""


_PLAIN = ("str", "map", "seq")
_RESOLVER = _Yaml12("")


def _is_merge(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value == "<<" and node.style is None


def _convert(kind: str, text: str) -> Any:
    """The value of a YAML scalar; raises ValueError where an explicit tag does not fit."""
    if kind == "null":
        return None
    if kind == "bool":
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if kind == "int":
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
    if kind == "float":
        return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    return text


def _ancestors(path: str) -> Iterator[str]:
    """The path, then each path above it; the last is "", the whole file."""
    while path:
        yield path
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    yield ""


# --- from the file to a sweep ----------------------------------------------------------------------------------------


def load_sweep(
    path: Path | str,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] = os.environ,
    *,
    check_data: bool = True,
) -> Sweep:
    """The sweep of a YAML file; raises SweepError with every mistake in it.

    `overrides` are "search.trials=2" and the like, their values YAML; `${NAME}` is replaced from `environ`. Data that
    is not prepared on this machine is a mistake too, unless `check_data` is false.
    """
    document = _Document(Path(path), environ)
    text = document.read()
    for position, setting in enumerate(overrides):
        document.override(setting, position)
    own = _own_sections(document)
    arms = _arms(document)
    _check_search(document, own, arms)
    _check_configurations(document, own, arms)
    if check_data:
        _check_data(document, arms)
    if document.mistakes:
        raise SweepError(document.mistakes)
    sections = {name: getattr(own, name) for name in _OwnSections.model_fields}
    return Sweep(Path(path), text, question=_question(text) or own.name, arms=arms, **sections)


def _check_data(document: _Document, arms: dict[str, Arm]) -> None:
    from aiqn_core.prepared import data_problems  # NumPy: only where a sweep is loaded

    for arm in arms.values():
        with contextlib.suppress(ConfigError):  # told already
            for problem in data_problems(parse(DataConfig, arm.base["data"])):
                path = f"arms.{arm.name}.{problem.path}"
                document.complain(path if path in document.origins else problem.path, problem.message)


def _question(text: str) -> str:
    """The comment that opens the file, up to the first line that ends in "?"; "" where there is none."""
    question: list[str] = []
    for line in text.splitlines():
        comment = line.removeprefix("#").strip()
        if not line.startswith("#") and comment:
            return ""
        if comment.endswith("?"):
            return " ".join([*question, comment])
        question = [] if not comment or comment.startswith("yaml-language-server") else [*question, comment]
    return ""


def _own_sections(document: _Document) -> _OwnSections:
    """The sections besides arms and trainings; a key that is wrong has its default, so that the others are checked."""
    given = {key: value for key, value in document.values.items() if key not in (*SECTIONS, "arms")}
    given = _with_words_as_keys(document, given, "")
    try:
        return _OwnSections.model_validate(given)
    except ValidationError as error:
        good: dict[Any, Any] = {"name": "unnamed", **{k: v for k, v in given.items() if k in _OwnSections.model_fields}}
        for detail in error.errors(include_url=False):
            document.complain(_dotted_path(detail["loc"]), _message(detail))
            section, *keys = detail["loc"]
            if keys and section in good:
                good[section] = {key: value for key, value in good[section].items() if key != keys[0]}
            elif section != "name":
                good.pop(section, None)
            else:
                good["name"] = "unnamed"
        return _OwnSections.model_validate(good)


def _with_words_as_keys(document: _Document, mapping: Mapping[Any, Any], path: str) -> dict[str, Any]:
    """The mapping without keys that are numbers, dates or nothing."""
    result = {}
    for key, value in mapping.items():
        if not isinstance(key, str):
            document.complain(join(path, key), f"saw the key {key!r}, expected a word")
        else:
            result[key] = _with_words_as_keys(document, value, join(path, key)) if isinstance(value, dict) else value
    return result


def _dotted_path(location: Iterable[int | str]) -> str:
    path = ""
    for key in location:
        path = f"{path}[{key}]" if isinstance(key, int) else join(path, key)
    return path


_EXPECTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a string",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "greater_than": "a number > {gt:g}",
    "greater_than_equal": "a number >= {ge:g}",
    "less_than": "a number < {lt:g}",
    "too_short": "at least {min_length}",
}


def _message(detail: Any) -> str:
    """A pydantic error in our words."""
    kind, seen, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "missing":
        return "missing, expected a name for the sweep, for example name: quickstart"
    if kind in ("extra_forbidden", "model_type"):
        keys = _keys_at(detail["loc"][:-1] if kind == "extra_forbidden" else detail["loc"])
        if kind == "extra_forbidden":
            return f"unknown key; {nearest(detail['loc'][-1], keys)}"
        return f"saw {seen!r}, expected a mapping with keys among: {', '.join(keys)}"
    if kind == "literal_error":
        return one_of(seen, re.findall(r"'([^']*)'", context["expected"]))
    if kind == "value_error":
        return f"saw {seen!r}, expected {context['error']}"
    expected = _EXPECTED.get(kind, detail["msg"].removeprefix("Input should be ")).format(**context)
    return f"saw {seen!r}, expected {expected}"


def _keys_at(location: Iterable[int | str]) -> tuple[str, ...]:
    model: type[BaseModel] = _OwnSections
    for key in location:
        annotation = model.model_fields[str(key)].annotation
        options = [annotation, *get_args(annotation)]
        model = next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
    return KEYS if model is _OwnSections else tuple(model.model_fields)


def _arms(document: _Document) -> dict[str, Arm]:
    defaults = merge(_training_defaults(), _training_sections(document, document.values, ""))
    written = document.values.get("arms")
    if not isinstance(written, dict) or not written:
        seen = f"saw {written!r}" if "arms" in document.values else "missing"
        document.complain("arms", f"{seen}, expected at least one arm, such as pixelcnn: {{model: pixelcnn}}")
        return {"": Arm("", defaults, Space())}  # so that the trainings' sections are still checked
    return {str(name): _arm(document, name, section, defaults) for name, section in written.items()}


def _arm(document: _Document, name: Any, section: Any, defaults: dict[str, Any]) -> Arm:
    path = join("arms", name)
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > 64:
        message = f"saw the name {name!r}, expected up to 64 letters, digits, '_' and '.', the first a letter or digit"
        document.complain(path, message)
    valid = (*SECTIONS, "space")
    if not isinstance(section, dict):
        document.complain(path, f"saw {section!r}, expected a mapping with keys among: {', '.join(valid)}")
        section = {}
    for key in section:
        if key not in valid:
            document.complain(join(path, key), f"unknown key; {nearest(key, valid)}")
    space, problems = parse_space(section.get("space"), join(path, "space"))
    for problem in problems:
        document.complain(*problem)
    return Arm(str(name), merge(defaults, _training_sections(document, section, path)), space)


def _training_sections(document: _Document, mapping: Mapping[Any, Any], path: str) -> dict[str, Any]:
    """The sections of a training that stand in a mapping, without those that are none."""
    sections = merge({}, {key: mapping[key] for key in SECTIONS if key in mapping})
    for key, value in list(sections.items()):
        if not isinstance(value, dict):
            names = ", ".join(get_type_hints(get_type_hints(TrainConfig)[key]))
            document.complain(join(path, key), f"saw {value!r}, expected a mapping with keys among: {names}")
            del sections[key]
    return sections


def _training_defaults() -> dict[str, Any]:
    """The defaults as they are written in the classes, before one setting fills in another."""
    sections = {key: get_type_hints(TrainConfig)[key] for key in SECTIONS}
    return {key: {field.name: field.default for field in dataclasses.fields(kind)} for key, kind in sections.items()}


def _check_search(document: _Document, own: _OwnSections, arms: dict[str, Arm]) -> None:
    from orchestrator.samplers import pruner_problems, sampler_problems  # imports Optuna, which takes 0.4 s

    search = own.search
    problems = [*sampler_problems(search.sampler), *pruner_problems(search.pruner, search.objective.direction)]
    trials_known = not any(mistake.path.startswith("search") for mistake in document.mistakes)
    if own.final is not None and own.final.top > search.trials and trials_known:
        message = f"saw {own.final.top}, expected at most search.trials = {search.trials}"
        problems.append(Problem("final.top", message))
    for arm in arms.values() if search.sampler.get("name") == "grid" and not problems else ():
        try:
            size = len(grid(arm.space))
        except ConfigError as error:
            problems.extend(error.problems)
            continue
        if size < search.trials:
            message = f"saw {search.trials}, but the grid of arm {arm.name} has {size} points; expected at most {size}"
            problems.append(Problem("search.trials", message))
    for problem in problems:
        document.complain(*problem)


def _check_configurations(document: _Document, own: _OwnSections, arms: dict[str, Arm]) -> None:
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


def _arm_problems(document: _Document, own: _OwnSections, arm: Arm) -> list[Problem]:
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


def _final_problems(document: _Document, own: _OwnSections, arm: Arm, params: dict[str, Any]) -> Iterator[Problem]:
    if own.final is not None:
        known = _config_problems(own, apply(arm.base, params))
        for problem in _config_problems(own, _with_final(apply(arm.base, params), own.final)):
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


def _config_problems(own: _OwnSections, mapping: Mapping[str, Any]) -> list[Problem]:
    try:
        config = TrainConfig.from_dict(mapping)
    except ConfigError as error:
        return error.problems
    problems = []
    if config.evaluate.every > config.train.steps:
        message = f"saw {config.evaluate.every}, expected at most train.steps = {config.train.steps}"
        problems.append(Problem("evaluate.every", message))
    if (metric := own.search.objective.metric) not in config.metrics:
        message = f"saw {config.model.name!r}, which reports no {metric}; expected another search.objective.metric"
        problems.append(Problem("model.name", f"{message}; it reports: {', '.join(config.metrics)}"))
    return problems


def _with_final(mapping: Mapping[str, Any], final: Final | None) -> dict[str, Any]:
    if final is None:
        return dict(mapping)
    steps = {} if final.steps is None else {"steps": final.steps}
    return merge(mapping, {"train": steps, "evaluate": final.evaluate})


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
    document: _Document, arm: Arm, params: Mapping[str, Any], path: str, final: Final | None = None
) -> str:
    """Where in the file a key of the configuration was decided: the finals, the space, the arm or the defaults."""
    dimensions = {dimension.path: dimension.where for dimension in arm.space.active(params)}
    finals = {} if final is None else {"train.steps": "final.steps", **{p: f"final.{p}" for p in _ancestors(path)}}
    for known in _ancestors(path):
        for written in (finals.get(known), dimensions.get(known), f"arms.{arm.name}.{known}", known):
            if known and written in document.origins:
                return f"{written}{path[len(known) :]}"
    return f"arms.{arm.name}.{path}" if arm.name else path


# --- JSON Schema -----------------------------------------------------------------------------------------------------


def json_schema() -> dict[str, Any]:
    """What editors check a sweep file with while it is written (draft 2020-12)."""
    from orchestrator.samplers import PRUNERS, SAMPLERS

    hints = get_type_hints(TrainConfig, include_extras=True)
    sections = {key: {"$ref": f"#/$defs/{key}"} for key in SECTIONS}
    schema = _OwnSections.model_json_schema()
    definitions = schema["$defs"]
    definitions |= {key: _hint_schema(hints[key]) for key in SECTIONS}
    definitions["arm"] = _object({**sections, "space": {"$ref": "#/$defs/space"}}, "A method, and what may vary in it.")
    definitions["dimension"] = _dimension_schema()
    dimensions = {key: {"$ref": "#/$defs/dimension"} for key in searchable()}
    definitions["space"] = _object(dimensions, "What may vary: dotted keys of the configuration.")
    for key, names in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        name = {"enum": list(names)}
        with_arguments = {"type": "object", "properties": {"name": name}, "required": ["name"]}
        definitions["Search"]["properties"][key] = {"anyOf": [name, with_arguments]}
    arms = {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": f"^{NAME.pattern}$"},
        "additionalProperties": {"$ref": "#/$defs/arm"},
    }
    properties = {**schema["properties"], **sections, "arms": arms}
    properties["name"] = {"type": "string", "pattern": f"^{SWEEP_NAME.pattern}$", "maxLength": 100}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "AIQN sweep",
        **_object({key: properties[key] for key in KEYS}, "A sweep: arms that are tuned with the same budget."),
        "required": ["name", "arms"],
        "$defs": definitions,
    }


def _object(properties: dict[str, Any], description: str) -> dict[str, Any]:
    return {"type": "object", "description": description, "properties": properties, "additionalProperties": False}


def _dimension_schema() -> dict[str, Any]:
    number, choices = {"type": "number"}, {"type": "array", "minItems": 1}
    keys = {"low": number, "high": number, "log": {"type": "boolean"}, "step": {"type": ["number", "null"]}}
    bounds = {**_object(keys, "A range, both ends included."), "required": ["low", "high"]}
    below = {"anyOf": [{"$ref": "#/$defs/space"}, {"type": "null"}]}
    branches = {"type": "object", "minProperties": 1, "not": {"required": ["low"]}, "additionalProperties": below}
    return {"anyOf": [choices, bounds, branches]}


def _hint_schema(hint: Any) -> dict[str, Any]:
    """The schema of a type in aiqn_core.config."""
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint, include_extras=True)
        section = _object({key: _hint_schema(kind) for key, kind in hints.items()}, (hint.__doc__ or "").split("\n")[0])
        return {"anyOf": [section, _hint_schema(hints["name"])]} if "name" in hints else section
    if origin in (Union, types.UnionType):
        return {"anyOf": [_hint_schema(arg) for arg in args if arg is not types.NoneType] + [{"type": "null"}]}
    if origin is tuple:
        return {"type": "array", "items": _hint_schema(args[0]), "minItems": 1}
    if origin is Literal:
        return {"enum": list(args)}
    if origin is Annotated:
        return {**_hint_schema(args[0]), **_bounds_schema(args[1])}
    return {"type": {int: "integer", float: "number", str: "string", bool: "boolean"}[hint]}


def _bounds_schema(bounds: Range) -> dict[str, float]:
    ends = {
        "minimum": bounds.low,
        "exclusiveMinimum": bounds.above,
        "maximum": bounds.high,
        "exclusiveMaximum": bounds.below,
    }
    return {word: end for word, end in ends.items() if math.isfinite(end)}


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
