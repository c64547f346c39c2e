"""A method that is a command: its words, the values in them, and the files that it brings along. No torch.

The words go to the operating system one by one: there is no shell. `{lr}` in a word is a value of the trial.
"""

import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from aiqn_core.code import FILES, FOLDER, IGNORED, LARGEST, files_digest, keep_files
from aiqn_core.method import Kind
from aiqn_core.metric import loss_metric
from aiqn_core.settings import ConfigError, Problem, Settings, nearest, parse, shown

KEYS = ("command", "values", "files")  # of an arm, beside its sections and its space
WORK = "work"  # the folder of a command in that of its trial
PYTHON = ("python", "python3")  # the interpreter of whoever starts the command
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Command(Settings):
    """A program of your own, in any language, that is started once for each trial and reports what it has learned."""

    line: Annotated[tuple[str, ...], Field(min_length=1)]
    """The program and its words; {name} is replaced by a value of the trial, {{ and }} are braces."""
    values: dict[str, Any] = Field(default_factory=dict)
    """Values that are the same in all trials of the arm; those of the space join them."""
    files: tuple[str, ...] = ()
    """Files beside the sweep file that are kept with the run, their places relative to it."""
    hash: str = ""
    """The SHA-256 over these files, twelve digits; empty without any."""

    def filled(self) -> list[str]:
        """The words with the values in their places."""
        return [_PART.sub(lambda part: _put(part, self.values), word) for word in self.line]


KIND = Kind(
    "command",
    Command,
    lambda: None,
    lambda *_: (loss_metric(None),),
    one_worker="a command is one process, and may start others itself",
)


def _put(part: re.Match[str], values: Mapping[str, Any]) -> str:
    if part[1] is None:
        return part[0][0]  # of {{ or }}
    value = values[part[1]]
    return value if isinstance(value, str) else json.dumps(value)


def read_command(written: Mapping[str, Any], varied: Sequence[str], folder: Path) -> dict[str, Any]:
    """The section `command` of a configuration, from the keys KEYS of an arm; raises ConfigError with all problems.

    `varied` are the names in the arm's space, `folder` is where the sweep file lies.
    """
    given = {"line": written["command"], "values": written.get("values"), "files": written.get("files")}
    if not isinstance(given["line"], list) or not given["line"] or not all(isinstance(w, str) for w in given["line"]):
        told = f'saw {shown(given["line"])}, expected a list of words such as [python, train.py, --lr, "{{lr}}"]'
        raise ConfigError([Problem("command", f"{told}; a number among them stands in quotes")])
    try:
        command = parse(Command, given)
    except ConfigError as error:
        raise ConfigError([Problem(p.path.replace("line", "command", 1), p.message) for p in error.problems]) from None
    problems = list(_word_problems(command, varied))
    files: list[tuple[str, bytes]] = []
    try:
        files = _found_files(command, folder)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    names = tuple(relative for relative, _ in files)
    return command.changed(files=names, hash=files_digest(files) if files else "").model_dump(mode="json")


def _word_problems(command: Command, varied: Sequence[str]) -> Iterator[Problem]:
    """What is wrong with the braces of a command, and with the names in them."""
    known = [*varied, *command.values]
    used: list[str] = []
    for i, word in enumerate(command.line):
        for part in _PART.finditer(word):
            name = part[1]
            if part[0] in ("{", "}"):
                yield Problem(
                    f"command[{i}]", f"saw {word!r}, expected {{name}}, or {2 * part[0]} for {part[0]} itself"
                )
            elif name is not None and name not in known:
                yield Problem(
                    f"command[{i}]", f"saw {part[0]}, which is no key of space or values; {_near(name, known)}"
                )
            used += [] if name is None else [name]
        if _PART.search(word) and i in _program(command.line):
            message = f"saw {word!r}, expected the name of a program or file as it is: values may be set from elsewhere"
            yield Problem(f"command[{i}]", message)
    for where, names in (("space", varied), ("values", list(command.values))):
        for name in names:
            if not NAME.fullmatch(name):
                yield Problem(f"{where}.{name}", f"saw {name!r}, expected a word of letters, digits and _")
            elif where == "values" and name in varied:
                yield Problem(f"{where}.{name}", "is also a key of the space, expected it in one of them")
            elif name not in used:
                yield Problem(f"{where}.{name}", f"no word of the command has {{{name}}}; {_near(name, used)}")


def _near(name: str, valid: Sequence[str]) -> str:
    return nearest(name, dict.fromkeys(valid))


def _program(line: Sequence[str]) -> list[int]:
    """The words that say what is run: the program, and of Python its first file."""
    if line[0] not in PYTHON:
        return [0]
    script = next((i for i, word in enumerate(line[1:], 1) if not word.startswith("-")), None)
    return [0] if script is None else [0, script]


def _script(line: Sequence[str]) -> int | None:
    """Where the file stands that Python runs; None of another program, and where Python runs a module or a text."""
    words = _program(line)
    return words[1] if len(words) > 1 and line[words[1] - 1] not in ("-m", "-c") else None


def _found_files(command: Command, folder: Path) -> list[tuple[str, bytes]]:
    """What is kept with a run: words that are files beside the sweep file, and `files`, folders with all in them."""
    problems: list[Problem] = []
    chosen: dict[str, Path] = {}
    script = _script(command.line)
    for i, word in enumerate(command.line):
        if _is_beside(word) and (folder / word).is_file():
            chosen[Path(word).as_posix()] = folder / word
        elif i == script and not (Path(word).is_absolute() and Path(word).is_file()):
            message = f"saw {word!r}, which is no file beside the sweep file ({folder.absolute()})"
            problems.append(Problem(f"command[{i}]", message))
    for i, name in enumerate(command.files):
        if not _is_beside(name) or not (folder / name).exists():
            message = f"saw {name!r}, expected a file or folder beside the sweep file ({folder.absolute()})"
            problems.append(Problem(f"files[{i}]", message))
            continue
        for file in [folder / name] if (folder / name).is_file() else sorted((folder / name).rglob("*")):
            if file.is_file() and not set(IGNORED) & set(file.parts):
                chosen[file.relative_to(folder).as_posix()] = file
    if len(chosen) > FILES or sum(file.stat().st_size for file in chosen.values()) > LARGEST:
        message = f"saw {len(chosen)} files of a command, expected at most {FILES}, of {LARGEST} bytes together"
        problems.append(Problem("files" if command.files else "command", message))
    if problems:
        raise ConfigError(problems)
    return [(relative, chosen[relative].read_bytes()) for relative in sorted(chosen)]


def _is_beside(name: str) -> bool:
    return bool(name) and not Path(name).is_absolute() and ".." not in Path(name).parts


def keep_command(recorded: Mapping[str, Any] | None, source: Path, run: Path) -> None:
    """Copy the files of a command (of a configuration) from beside the sweep file into a run folder, under their hash.

    Raises ConfigError where they were edited since they were read.
    """
    if recorded is None or not recorded["hash"] or (run / FOLDER / recorded["hash"]).is_dir():
        return
    files = command_files(recorded, source)
    folder = run / FOLDER / recorded["hash"]
    keep_files(folder, files)
    for relative, _ in files:
        (folder / relative).chmod(stat.S_IMODE((source / relative).stat().st_mode) | stat.S_IRUSR)


def command_files(recorded: Mapping[str, Any], source: Path) -> list[tuple[str, bytes]]:
    """The files of a command (of a configuration) from beside the sweep file, each with its place relative to it.

    Raises ConfigError where they were edited since they were read.
    """
    files = [(relative, (source / relative).read_bytes()) for relative in recorded["files"]]
    if files and files_digest(files) != recorded["hash"]:
        raise _wrong(f"its files in {source.absolute()} were edited while the sweep was loaded; start it again")
    return files


def words(command: Command, run: Path) -> list[str]:
    """What the operating system is given: values filled in, files from the run folder, the program's full path.

    Raises ConfigError where a file of the run folder is not what it was, or there is no such program.
    """
    kept = run.absolute() / FOLDER / command.hash
    if command.files:
        try:
            seen = files_digest([(relative, (kept / relative).read_bytes()) for relative in command.files])
        except OSError as error:
            raise _wrong(
                f"{error.filename}: its file cannot be read ({error.strerror}); start the sweep again"
            ) from None
        if seen != command.hash:
            raise _wrong(f"saw files with hash {seen} in {kept}, expected {command.hash}: they are not what ran before")
    files = {Path(name).as_posix() for name in command.files}
    found = [
        str(kept / word) if Path(literal).as_posix() in files and literal else word
        for literal, word in zip(command.line, command.filled(), strict=True)
    ]
    if command.line[0] in PYTHON:
        return [sys.executable, *found[1:]]
    if problem := program_problem(found[0]):
        raise _wrong(problem)
    return [shutil.which(found[0]) or found[0], *found[1:]]


def program_problem(program: str | Path) -> str:
    """What keeps a program from being started on this machine, as a sentence; "" where nothing does."""
    name = str(program)
    if name in PYTHON or shutil.which(name) is not None:
        return ""
    if Path(name).is_file() and not os.access(name, os.X_OK):
        return f"saw {name!r}, a file that cannot be executed: chmod +x it, or begin the command with its interpreter"
    return (
        f"saw the program {name!r}, which is not on this machine ({os.uname().nodename}): install it, or correct PATH"
    )


def program_of(recorded: Mapping[str, Any], source: Path) -> str | Path:
    """The program of a configuration's command: a path where it is one of the files beside the sweep file."""
    name: str = recorded["line"][0]
    return source / name if Path(name).as_posix() in recorded["files"] else name


def _wrong(message: str) -> ConfigError:
    return ConfigError([Problem("command", message)])
