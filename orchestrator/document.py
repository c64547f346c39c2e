"""A YAML file whose every value knows its line, with its overrides and all that is wrong with it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from aiqn_core.config import NAMED, SECTIONS, join, nearest, shown

KEYS = ("name", "code", *SECTIONS, "search", "arms", "final", "resources", "budget", "tracking", "cluster", "notify")
LARGEST_FILE = 2**20  # bytes
LARGEST_DOCUMENT = 50_000  # values, aliases counted each time they are used
DEEPEST = 40
MOST_PROBLEMS = 20  # that a message lists


class Where(NamedTuple):
    """A place that a person can open: a line of the file, or an override; `order` sorts them."""

    order: int
    label: str

    @property
    def file(self) -> str:
        """The file of a line; of an override the option itself."""
        return self.label if self.label.startswith("--set ") else re.sub(r":\d+$", "", self.label)


class Mistake(NamedTuple):
    """One line of a SweepError."""

    where: Where
    path: str
    message: str

    def __str__(self) -> str:
        shown_already = self.where.label.startswith(f"--set {self.path}=")
        text = ": ".join(filter(None, (self.where.label, "" if shown_already else self.path, self.message)))
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
        return text if len(text) <= 1200 else f"{text[:600]} ... {text[-600:]}"


class SweepError(Exception):
    """All mistakes of a sweep file, by line; `str()` gives one line for each."""

    def __init__(self, problems: Iterable[Mistake]) -> None:
        self.problems = list(dict.fromkeys(sorted(problems, key=lambda problem: problem.where.order)))
        told = [str(problem) for problem in self.problems[:MOST_PROBLEMS]]
        if more := len(self.problems) - MOST_PROBLEMS:
            told += [f"{self.problems[0].where.file}: and {more:,} more"] if more > 0 else []
        super().__init__("\n".join(told))


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


class Document:
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
        known = next((p for p in ancestors(path) if p in self.origins), None)
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
            if runs_code(path):
                raise self.refuse(None, f"{path} says what code is run, and is set in the file alone; write it there")
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
        if isinstance(below, str) and (key in NAMED or key in ("sampler", "pruner")):
            below = {"name": below}
        if below is not None and not isinstance(below, dict):
            raise self.refuse(None, f"{join(above, key)}: saw {shown(below)}, which holds no keys; expected a mapping")
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
            self.mistakes.append(Mistake(self.place(line), join(path, "<<"), f"saw {shown(value)}, expected a mapping"))
            return {}
        return {key: value for part in reversed(parts) for key, value in part.items()}

    def _scalar(self, node: yaml.ScalarNode, path: str) -> Any:
        text, tag = node.value, node.tag
        if "${" in text and runs_code(path):
            self.complain(path, f"saw {shown(text)}, which says what code is run; expected it without ${{ }}")
            return None
        if "${" in text:
            text = re.sub(r"\$\$\{|\$\{([^}]*)\}|\$\{", lambda match: self._variable(match, path), text)
            if node.style is None:  # `trials: ${TRIALS}` may be a number, `"${TRIALS}"` is text
                tag = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        try:
            value = _convert(tag.rpartition(":")[2], text)
        except ValueError:
            self.complain(path, f"saw {shown(text)}, expected {tag.rpartition(':')[2]}")
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
            self.complain(path, f"saw {shown(match[0])}, expected ${{NAME}}, or $${{ for the two characters themselves")
        elif name not in self.environ:
            close = nearest(name, sorted(self.environ)).partition("valid:")[0].strip()
            message = f"saw ${{{name}}}, but the environment has no {name}; set it, or write $${{{name}}}"
            self.complain(path, f"{message}; {close}" if close else message)
        else:
            return self.environ[name]
        return ""


_PLAIN = ("str", "map", "seq")
_RESOLVER = _Yaml12("")


def runs_code(path: str) -> bool:
    """Whether a key names code or a command that is run: never from the environment, or the command line."""
    return re.match(r"(code|notify)\b|(arms\..*\.)?command\b", path) is not None


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


def ancestors(path: str) -> Iterator[str]:
    """The path, then each path above it; the last is "", the whole file."""
    while path:
        yield path
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    yield ""
