"""A sweep that is to run elsewhere, what the cluster knows it by, and the cluster's own commands."""

import os
import re
import shlex
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from aiqn_core.code import code_digest, code_files
from aiqn_core.command import command_files
from aiqn_core.settings import ConfigError
from orchestrator import shapes
from orchestrator.runs import RunFolder, read_json, write_json
from orchestrator.sections import Sweep
from orchestrator.stores import VARIABLE

FILE = "sweep.yaml"  # the name of the sweep file where it is sent along


class JobError(Exception):
    """A submission that cannot be made: what was seen, what was expected, what to do."""


@dataclass(frozen=True)
class Job:
    """A sweep that is to run elsewhere, with the --set overrides of the command line."""

    sweep: Sweep
    runs: Path  # absolute, as the cluster sees it
    overrides: tuple[str, ...] = ()
    yes: bool = False  # start also where the plan is above the budget

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.runs / self.sweep.name)

    @property
    def files(self) -> dict[str, str]:
        """What is sent along where the cluster does not see the sweep file: it, and the code beside it, by place."""
        return {FILE: self.sweep.text, **self._code(), **self._files_of_commands()}

    def _code(self) -> dict[str, str]:
        named = (yaml.safe_load(self.sweep.text) or {}).get("code")  # a plain word: see `orchestrator.sweep`
        if self.sweep.code is None or not isinstance(named, str):
            return {}
        path = self.sweep.path.parent / named
        if code_digest(path) != self.sweep.code.digest:
            raise JobError(f"{path} was edited while the sweep was loaded; submit again")
        parent = Path(named).parent
        return {(parent / relative).as_posix(): file.read_text(encoding="utf-8") for relative, file in code_files(path)}

    def _files_of_commands(self) -> dict[str, str]:
        commands = [arm.base["command"] for arm in self.sweep.arms.values() if arm.base.get("command")]
        found: dict[str, str] = {}
        for command in commands:
            try:
                found |= {name: data.decode() for name, data in command_files(command, self.sweep.path.parent)}
            except (ConfigError, OSError) as error:
                raise JobError(f"{error}; submit again") from error
            except UnicodeDecodeError as error:
                raise JobError(
                    "A command's files are sent along as text, and one of them is none: keep it on storage that the"
                    " cluster sees, and name it by its whole path"
                ) from error
        return found

    def command(self, python: str, file: str) -> str:
        """The shell command that runs the sweep: the same that a person would type."""
        settings = [word for setting in self.overrides for word in ("--set", setting)]
        words = [python, "-m", "orchestrator.cli", "sweep", file, "--runs", str(self.runs), *settings]
        words += ["--yes"] if self.yes else []
        return shlex.join(words)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of all processes: those of `cluster.env`, MLflow's, and those that file and overrides name."""
        text = "\n".join((self.sweep.text, *self.overrides))
        named = re.findall(r"(?<!\$)\$\{([A-Za-z_][A-Za-z0-9_]*)\}", text)
        store = [VARIABLE] if self.sweep.tracking.uri is None else []
        return {name: os.environ[name] for name in [*named, *store] if name in os.environ} | self.sweep.cluster.env


def remember(run: RunFolder, to: str, identity: str, **more: str) -> None:
    """Note in the run folder under which name the cluster knows the job, for `aiqn status` and `aiqn stop`."""
    write_json(run.submission, {"to": to, "id": identity, **more, "submitted": time.time()})


def remembered(run: RunFolder, to: str) -> str | None:
    """The identity of the job that was submitted last, where it was to this target."""
    known = read_json(run.submission, shapes.SUBMISSION) or {}
    return known["id"] if known.get("to") == to else None


def call(words: list[str], text: str | None = None) -> str:
    """The output of a cluster's own command; raises JobError with what it said."""
    try:
        result = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise JobError(
            f"{words[0]}: no such command on this machine; submit where it is, or take what --dry-run prints there"
        ) from None
    if result.returncode:
        said = (result.stderr or result.stdout).strip() or f"exit code {result.returncode}"
        raise JobError(f"{shlex.join(words)} said: {said}")
    return result.stdout.strip()
