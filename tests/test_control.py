import os

import pytest

from orchestrator.control import ask_to_stop, take_requests
from orchestrator.runs import FORMAT, RunFolder, RunFolderError, write_json

SEARCH = {"trials": 9, "objective": {"metric": "fd_lite0", "direction": "minimize"}}
SWEEP = {"arms": {"cnn": {}}, "search": SEARCH, "final": None}


@pytest.fixture
def run(tmp_path, record_trial):
    folder = RunFolder(tmp_path / "study")
    write_json(folder.sweep_json, {"format": FORMAT, "name": "study", "finished": False, "sweep": SWEEP})
    record_trial(folder, "cnn-search-0")
    record_trial(folder, "cnn-search-7", state="running")
    return folder


def test_a_request_reaches_the_driver_once(run):
    with run.lock():
        said = ask_to_stop(run.path)
        assert f"pid {os.getpid()}" in said
        ask_to_stop(run.path, "cnn-search-7")
        assert take_requests(run) == (True, ["cnn-search-7"])
        assert take_requests(run) == (False, [])


@pytest.mark.parametrize("trial", ["cnn-search-0", "cnn-search-8", "../../etc/passwd", ""])
def test_only_running_trials_can_be_stopped(run, trial):
    with run.lock(), pytest.raises(RunFolderError, match=r"expected a trial that is running: cnn-search-7"):
        ask_to_stop(run.path, trial)
    assert take_requests(run) == (False, [])


def test_without_a_driver_there_is_nothing_to_stop(run, tmp_path):
    with pytest.raises(RunFolderError, match="not running"):
        ask_to_stop(run.path)
    with pytest.raises(RunFolderError, match="not a run folder"):
        ask_to_stop(tmp_path / "nowhere")


def test_other_files_are_no_requests(run):
    write_json(run.control / "stop.etc", {})
    write_json(run.control / "stop.cnn-search-7", {})
    assert take_requests(run) == (False, ["cnn-search-7"])
    assert list(run.control.iterdir()) == []
