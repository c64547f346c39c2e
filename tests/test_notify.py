import sys

import pytest

from orchestrator.notify import end_of, notify
from orchestrator.outcome import DONE, INTERRUPTED, TRIALS_FAILED, WRONG_INPUT
from orchestrator.runs import FORMAT, RunFolder, write_json

CONTENT = {"arms": {"cnn": {}}, "search": {"trials": 1, "objective": {"metric": "loss", "direction": "minimize"}}}
CONTENT |= {"final": None}
SHOW = """
import os, sys
with open(sys.argv[1], "a") as file:
    file.write("|".join(os.environ["AIQN_" + key] for key in ("RUN", "STATE", "ANSWER")))
"""


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "study")
    write_json(run.sweep_json, {"format": FORMAT, "name": "study", "finished": False, "sweep": CONTENT})
    return run


def finish(run):
    write_json(run.sweep_json, {**run.read_sweep(), "finished": True})


def test_the_command_gets_the_answer_the_state_and_the_run(run, tmp_path):
    told = tmp_path / "told"
    command = [sys.executable, "-c", SHOW, str(told)]
    assert notify(command, run, "stopped") == ""
    assert told.read_text() == f"{run.path}|stopped|"
    run.report.mkdir()
    (run.report / "answer.txt").write_text("a wins; $(b) does not.\n")
    told.unlink()
    assert notify(command, run, "finished") == ""
    assert told.read_text() == f"{run.path}|finished|a wins; $(b) does not."
    told.unlink()
    assert notify(command, run, "") == notify([], run, "finished") == ""
    assert not told.exists()


def test_a_command_that_fails_or_hangs_or_is_not_there_is_one_line(run):
    assert notify([sys.executable, "-c", "exit(7)"], run, "stopped") == f"notify: {sys.executable} ended with code 7"
    assert notify(["/nowhere/mail"], run, "stopped") == (
        "notify: /nowhere/mail could not be run (No such file or directory)"
    )
    hangs = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert notify(hangs, run, "stopped", 0.1) == f"notify: {sys.executable} was ended, as it took more than 0.1 s"


def test_how_a_start_ended(run, record_trial):
    assert end_of(run, INTERRUPTED, finished_before=False) == "stopped"
    assert end_of(run, TRIALS_FAILED, finished_before=False) == "stopped"  # the first trials failed alike
    assert end_of(run, WRONG_INPUT, finished_before=False) == ""
    finish(run)
    assert end_of(run, DONE, finished_before=False) == "finished"
    assert end_of(run, DONE, finished_before=True) == ""  # nothing was trained
    record_trial(run, "cnn-search-0", "failed")
    assert end_of(run, TRIALS_FAILED, finished_before=False) == "failed"


SWEEP = "name: s\ndata: banana2d\narms: {a: {model: aiqn}}\n"


def test_it_stands_in_the_file_alone(load, mistakes):
    assert load(SWEEP).notify == ()
    assert load(SWEEP + "notify: [mail, -s, done, me]\n").notify == ("mail", "-s", "done", "me")
    assert mistakes(SWEEP, ["notify=[rm]"]) == [
        "--set notify=[rm]: notify says what code is run, and is set in the file alone; write it there"
    ]
    (line,) = mistakes(SWEEP + 'notify: ["${HOME}/x"]\n', environ={"HOME": "/h"})
    assert line.startswith("s.yaml:4: notify[0]: saw '${HOME}/x', which says what code is run")
    (line,) = mistakes(SWEEP + "notify: mail me\n")
    assert line.startswith("s.yaml:4: notify: saw 'mail me'")
