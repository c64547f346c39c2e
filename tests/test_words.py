"""The help of every command, and what the shell completes."""

import os
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.runs import RunFolder, write_json
from orchestrator.words import runs_that_begin, trials_of_run, trials_that_begin


def commands(command=None, words=()):
    """(words, command) of every command that does something, those of groups too."""
    command = command or typer.main.get_command(app)
    if not hasattr(command, "commands"):
        return [(words, command)]
    return [found for name, one in command.commands.items() for found in commands(one, (*words, name))]


ALL = commands()


def examples(command):
    return re.findall(r"(?:Example|or)\b[^\n]*?: (aiqn [^\n]+)", command.help.replace("\n    ", "\n"))


@pytest.mark.parametrize(("words", "command"), ALL, ids=[" ".join(words) for words, _ in ALL])
def test_every_command_has_help_with_an_example_that_parses(words, command):
    for option in ("-h", "--help"):
        result = CliRunner().invoke(app, [*words, option])
        assert result.exit_code == 0
        assert f"aiqn {' '.join(words)}" in " ".join(result.output.split())
    (example,) = examples(command)
    found = shlex.split(example)
    assert tuple(found[: 1 + len(words)]) == ("aiqn", *words)
    context = command.make_context(words[-1], found[1 + len(words) :])  # raises UsageError
    assert all(context.params.get(one.name) for one in command.params if one.required)


def test_an_example_that_does_not_parse_would_be_found():
    with pytest.raises(typer._click.exceptions.UsageError, match="--trails"):
        dict(ALL)[("sweep",)].make_context("sweep", ["s.yaml", "--trails", "3"])


@pytest.mark.parametrize("words", [(), ("data",)])
def test_no_sentence_of_a_list_of_commands_is_cut_off_at_80_columns(words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    usage, _, output = CliRunner().invoke(app, [*words, "-h"]).output.partition("\n")
    assert usage.endswith("[ARGS]...")
    assert "..." not in output
    assert max(map(len, output.splitlines())) <= 80
    said = " ".join(output.split())
    for found, command in ALL:
        if found[:-1] == words:
            first = " ".join(command.help.split()).partition(". ")[0].partition(" Example:")[0]
            assert f"{found[-1]} {first}" in said


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    assert CliRunner().invoke(app, ["--version"]).output.startswith(f"aiqn {version('aiqn')} (Python 3.")


@pytest.fixture
def runs(tmp_path, monkeypatch, record_trial):
    monkeypatch.chdir(tmp_path)
    run = RunFolder(tmp_path / "runs" / "quick")
    write_json(run.sweep_json, {"format": 1})
    for trial in ("cnn-search-0", "cnn-search-1", "iqn-final-0"):
        record_trial(run, trial)
    (run.trials / "no trial").mkdir()
    (tmp_path / "runs" / "other").mkdir()
    return run


def test_run_folders_and_trials_are_completed(runs):
    assert sorted(runs_that_begin("")) == [
        "runs/other/", "runs/quick",
    ]  # fmt: skip
    assert list(runs_that_begin("ru")) == ["runs/"]
    assert list(runs_that_begin("runs/q")) == ["runs/quick"]
    assert list(runs_that_begin("nowhere/x")) == []
    inside = [f"runs/quick/trials/{name}" for name in ("cnn-search-0", "cnn-search-1", "iqn-final-0")]
    assert list(trials_that_begin("runs/q")) == inside
    assert list(trials_that_begin("runs/quick/trials/cnn")) == inside[:2]


def test_trials_of_a_run_are_completed_by_name(runs):
    context = SimpleNamespace(params={"run": "runs/quick"})
    assert list(trials_of_run(context, "cnn")) == ["cnn-search-0", "cnn-search-1"]
    context.params = {"run": None}
    assert list(trials_of_run(context, "")) == []


def test_a_real_shell_asks_and_is_told(runs):
    """As bash does it: the script of `--show-completion` sets these and reads the lines."""
    asked = {"_AIQN_COMPLETE": "complete_bash", "COMP_WORDS": "aiqn stop runs/quick iqn", "COMP_CWORD": "3"}
    code = "import sys; sys.argv[0] = 'aiqn'; from orchestrator.cli import app; app(prog_name='aiqn')"
    told = subprocess.run([sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True)
    assert told.stdout.split() == ["iqn-final-0"]
