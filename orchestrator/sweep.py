"""The sweep file: YAML to a Sweep, with every mistake shown at its line."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aiqn_core.code import Code, load_code
from aiqn_core.command import KEYS as OF_COMMANDS
from aiqn_core.command import program_of, program_problem, read_command
from aiqn_core.config import (
    BESIDE_COMMAND,
    NAMED,
    PLAIN,
    SECTIONS,
    ConfigError,
    all_keys,
    command_problems,
    join,
    key_types,
    loss_keys,
    nearest,
    section_defaults,
    shown,
)
from aiqn_core.settings import fields, message
from orchestrator.checks import check_configurations, check_data_is_there, check_weights_are_there
from orchestrator.document import KEYS, Document, SweepError
from orchestrator.objectives import with_objectives
from orchestrator.runs import NAME
from orchestrator.search_checks import check_search
from orchestrator.sections import Arm, OwnSections, Sweep
from orchestrator.space import RANGE_KEYS, Choice, Space, merge, parse_space


def load_sweep(
    path: Path | str,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] = os.environ,
    *,
    check_data: bool = True,
) -> Sweep:
    """The sweep of a YAML file; raises SweepError with every mistake in it.

    `overrides` are "search.trials=2" and the like, their values YAML; `${NAME}` is replaced from `environ`. Data that
    is not prepared on this machine is a mistake too, and so are missing weights, unless `check_data` is false.
    """
    document = Document(Path(path), environ)
    text = document.read()
    for position, setting in enumerate(overrides):
        document.override(setting, position)
    code = imported_code(document)
    arms = _arms(document, code)
    own = _own_sections(document, arms)
    check_search(document, own, arms)
    check_configurations(document, own, arms)
    if check_data:
        check_data_is_there(document, arms)
        check_programs_are_there(document, arms)
        check_weights_are_there(document, own, arms)
    if document.mistakes:
        raise SweepError(document.mistakes)
    sections = {name: getattr(own, name) for name in OwnSections.model_fields}
    return Sweep(Path(path), text, question=_question(text) or own.name, arms=arms, code=code, **sections)


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


def _own_sections(document: Document, arms: dict[str, Arm]) -> OwnSections:
    """The sections besides arms and trainings; a key that is wrong has its default, so that the others are checked."""
    given = {key: value for key, value in document.values.items() if key not in (*SECTIONS, "arms", "code")}
    given = with_objectives(document, _with_words_as_keys(document, given, ""), arms)
    try:
        return OwnSections.model_validate(given)
    except ValidationError as error:
        good: dict[Any, Any] = {"name": "unnamed", **{k: v for k, v in given.items() if k in OwnSections.model_fields}}
        for detail in error.errors(include_url=False):
            path = _dotted_path(detail["loc"], given)
            if all(mistake.path != path for mistake in document.mistakes):  # such as a variable that is not there
                document.complain(path, _message(detail))
            section, *keys = detail["loc"]
            if keys and isinstance(good.get(section), dict):
                good[section] = {key: value for key, value in good[section].items() if key != keys[0]}
            elif section != "name":
                good.pop(section, None)
            else:
                good["name"] = "unnamed"
        return OwnSections.model_validate(good)


def _with_words_as_keys(document: Document, mapping: Mapping[Any, Any], path: str) -> dict[str, Any]:
    """The mapping without keys that are numbers, dates or nothing."""
    result = {}
    for key, value in mapping.items():
        if not isinstance(key, str):
            document.complain(join(path, key), f"saw the key {key!r}, expected a word")
        else:
            result[key] = _with_words_as_keys(document, value, join(path, key)) if isinstance(value, dict) else value
    return result


def _dotted_path(location: Iterable[int | str], given: Any) -> str:
    """The location as it is written in the file: a mapping that stands for a list of one has no index."""
    path = ""
    for key in location:
        if key == "[key]":  # pydantic's word for: the key itself, and not what stands there
            continue
        if not isinstance(key, int):
            path = join(path, key)
            given = given.get(key) if isinstance(given, dict) else None
        elif isinstance(given, list):
            path, given = f"{path}[{key}]", given[key]
    return path


def _message(detail: Any) -> str:
    """A pydantic error in our words."""
    if detail["type"] == "missing" and detail["loc"] == ("name",):
        return "missing, expected a name for the sweep, for example name: quickstart"
    if detail["type"] == "extra_forbidden" and len(detail["loc"]) == 1:
        return f"unknown key; {nearest(detail['loc'][0], KEYS)}"
    return message(OwnSections, detail)


def imported_code(document: Document) -> Code | None:
    """The file or folder beside the sweep file that `code` names, imported; notes what is wrong with it."""
    named = document.values.get("code")
    if named is None:
        return None
    if not isinstance(named, str) or not named or Path(named).is_absolute() or ".." in Path(named).parts:
        document.complain("code", f"saw {shown(named)}, expected a Python file or package folder beside this file")
        return None
    try:
        return load_code(document.source.parent / named)
    except ConfigError as error:
        for problem in error.problems:
            document.complain(*problem)
        return None


def _arms(document: Document, code: Code | None) -> dict[str, Arm]:
    defaults = merge(section_defaults(), _training_sections(document, document.values, "", code))
    keys, written = key_types(code), document.values.get("arms")
    if not isinstance(written, dict) or not written:
        seen = f"saw {shown(written)}" if "arms" in document.values else "missing"
        document.complain("arms", f"{seen}, expected at least one arm, such as pixelcnn: {{model: pixelcnn}}")
        return {"": Arm("", defaults, Space())}  # so that the trainings' sections are still checked
    return {str(name): _arm(document, name, section, defaults, code, keys) for name, section in written.items()}


def _arm(
    document: Document, name: Any, section: Any, defaults: dict[str, Any], code: Code | None, keys: Mapping[str, Any]
) -> Arm:
    path = join("arms", name)
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > 64:
        message = f"saw the name {name!r}, expected up to 64 letters, digits, '_' and '.', the first a letter or digit"
        document.complain(path, message)
    valid = (*SECTIONS, "space", *OF_COMMANDS)
    if not isinstance(section, dict):
        document.complain(path, f"saw {shown(section)}, expected a mapping with keys among: {', '.join(valid)}")
        section = {}
    for key in section:
        if key not in valid:
            document.complain(join(path, key), f"unknown key; {nearest(key, valid)}")
    if "command" in section:
        return _command_arm(document, str(name), section, defaults, code)
    for key in OF_COMMANDS:
        if key in section:
            document.complain(join(path, key), f"saw {key} without a command, expected both or neither")
    space, problems = parse_space(section.get("space"), join(path, "space"), keys)
    for problem in problems:
        document.complain(*problem)
    base = merge(defaults, _training_sections(document, section, path, code))
    if code is not None and _reaches(code, base, space):
        base["code"] = code.recorded()
    return Arm(str(name), base, space)


def _command_arm(
    document: Document, name: str, section: dict[str, Any], defaults: dict[str, Any], code: Code | None
) -> Arm:
    """An arm that is a command: the sections at the top of the file are those of all arms as far as it knows them."""
    path = join("arms", name)
    for problem in command_problems(section, (*BESIDE_COMMAND, "space", *OF_COMMANDS)):
        document.complain(join(path, problem.path), problem.message)
    own = {key: value for key, value in section.items() if key in BESIDE_COMMAND}
    beside = {key: defaults[key] for key in BESIDE_COMMAND} | {"train": {"steps": defaults["train"].get("steps")}}
    base = merge(beside, _training_sections(document, own, path, code))
    base["train"] = {"steps": base["train"].get("steps")}
    kinds = _kinds_of_values(section.get("space"))
    space, problems = parse_space(section.get("space"), join(path, "space"), kinds)
    for problem in problems:
        document.complain(*problem)
    if code is not None and _reaches(code, base, space):
        base["code"] = code.recorded()
    try:
        base["command"] = read_command(section, list(kinds), document.source.parent)
    except ConfigError as error:
        for problem in error.problems:
            document.complain(_in_space(space, join(path, problem.path)), problem.message)
        base["command"] = {"line": ["false"], "values": {}, "files": [], "hash": ""}  # so that the rest is checked
    return Arm(name, base, space)


def _in_space(space: Space, path: str) -> str:
    """Where a key of a space stands that may stand in a branch of it."""
    found = (one.where for one in space.every() if one.where.endswith(f".{path.rpartition('.')[2]}"))
    return next(found, path) if ".space." in path else path


def _kinds_of_values(mapping: object) -> dict[str, Any]:
    """The names in the space of a command with their types: a range of integers is one of integers, lists are words."""
    found: dict[str, Any] = {}
    for key, value in mapping.items() if isinstance(mapping, dict) else ():
        if isinstance(value, dict) and any(word in value for word in RANGE_KEYS):
            whole = all(type(value.get(word, 0)) in (int, type(None)) for word in ("low", "high", "step"))
            found[str(key)] = int if whole else float
        else:
            found[str(key)] = object
            for below in value.values() if isinstance(value, dict) else ():
                found |= _kinds_of_values(below)
    return found


def check_programs_are_there(document: Document, arms: dict[str, Arm]) -> None:
    """Note the commands whose program is not on this machine."""
    for arm in arms.values():
        command = arm.base.get("command")
        if command is not None and (told := program_problem(program_of(command, document.source.parent))):
            document.complain(f"arms.{arm.name}.command", told)


def _reaches(code: Code, base: Mapping[str, Any], space: Space) -> bool:
    """Whether an arm names anything of the code: only then is its hash part of what was trained."""
    choices = [list(one.values) for one in space.every() if isinstance(one, Choice)]
    return any(text.startswith(f"{code.name}.") for text in _texts([base, choices]))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _training_sections(document: Document, mapping: Mapping[Any, Any], path: str, code: Code | None) -> dict[str, Any]:
    """The sections of a training that stand in a mapping, without those that are none."""
    sections = merge({}, {key: mapping[key] for key in SECTIONS if key in mapping})
    for key, value in list(sections.items()):
        if not isinstance(value, dict):
            names = ", ".join(_keys_of(key, code))
            document.complain(join(path, key), f"saw {shown(value)}, expected a mapping with keys among: {names}")
            del sections[key]
    return sections


def _keys_of(section: str, code: Code | None) -> list[str]:
    if section in NAMED:
        return ["name", *all_keys(NAMED[section], code)]
    return list(fields(PLAIN[section]) if section in PLAIN else loss_keys(code))
