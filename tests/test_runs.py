import json
import multiprocessing
import os
import signal
import time

import pytest

from orchestrator.runs import (
    RunFolder,
    RunFolderError,
    load_runs,
    read_json,
    trial_id,
    write_bytes,
    write_json,
)


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "study")


def test_what_is_written_is_read_back_in_order(run, record_trial):
    record_trial(run, "pixeliqn-search-11")
    record_trial(run, "pixelcnn-final-0", state="running")
    record_trial(run, "pixelcnn-search-7", state="failed")
    record_trial(run, "pixelcnn-search-2")
    runs = load_runs(run.path)
    assert [item.id for item in runs] == [
        "pixelcnn-search-2",
        "pixelcnn-search-7",
        "pixelcnn-final-0",
        "pixeliqn-search-11",
    ]
    assert [item.state for item in runs] == ["completed", "failed", "running", "completed"]
    assert runs[0].curve("loss") == [(2, 0.5), (4, 0.25)]
    assert runs[0].curve("is_lite0_mean") == []
    assert (runs[0].seed, runs[0].params) == (5, {"optimizer.lr": 0.1})


@pytest.mark.parametrize("torn", [b'{"step": 6, "ti', b'{"step": 6', b"\xff\xfe", b"[1]\n", b'{"step": "6"}\n'])
def test_a_torn_line_is_left_out_and_the_next_append_mends_the_file(run, record_trial, torn):
    folder = record_trial(run, "pixelcnn-search-0")
    with folder.metrics.open("ab") as file:
        file.write(torn)
    assert [record["step"] for record in folder.read_history()] == [2, 4]
    folder.append_metrics([{"step": 6, "time": 9.0}])
    assert [record["step"] for record in folder.read_history()] == [2, 4, 6]


def test_a_step_told_twice_counts_once(run, record_trial):
    folder = record_trial(run, "pixelcnn-search-0", steps=(4, 2, 4))
    folder.append_metrics([{"step": 2, "time": 99.0, "loss": 99.0}])
    assert [(record["step"], record["loss"]) for record in folder.read_history()] == [(2, 0.5), (4, 0.25)]


def test_a_trial_that_has_not_started_is_no_run(run):
    run.trial("pixelcnn-search-0").path.mkdir(parents=True)
    (run.trials / "notes").mkdir()
    assert load_runs(run.path) == []


def test_a_missing_folder_and_a_foreign_format_are_named(run):
    with pytest.raises(RunFolderError, match="study: no such run folder"):
        load_runs(run.path)
    with pytest.raises(RunFolderError, match="not a run folder"):
        run.read_sweep()
    write_json(run.sweep_json, {"format": 99})
    with pytest.raises(RunFolderError, match="saw format 99, this version reads 1"):
        run.read_sweep()


@pytest.mark.parametrize("name", ["../escape-search-0", "a-search-0/../..", "a-search-", "a-b-0", "", ".a-search-1"])
def test_only_trial_names_become_paths(run, name):
    with pytest.raises(ValueError, match="expected <arm>-<stage>-<number>"):
        run.trial(name)


def test_trial_ids_name_arm_stage_and_number():
    assert trial_id("pixelcnn", "final", 7) == "pixelcnn-final-7"


def test_writing_replaces_the_whole_file_or_nothing(tmp_path):
    path = tmp_path / "deep" / "value.json"
    write_json(path, {"a": 1})
    write_json(path, {"b": [2, 3]})
    assert json.loads(path.read_text()) == {"b": [2, 3]}
    write_bytes(path, b"{")
    assert read_json(path) is None
    assert [item.name for item in path.parent.iterdir()] == ["value.json"]


def _hold(run, ready):
    with run.lock():
        ready.set()
        time.sleep(60)


def test_a_second_driver_is_refused_until_the_first_is_dead(run):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    first = context.Process(target=_hold, args=(run, ready), daemon=True)
    first.start()
    assert ready.wait(20)
    with pytest.raises(RunFolderError, match=f"in use by pid {first.pid} on"), run.lock():
        pass
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    with run.lock():
        assert str(os.getpid()) in (run.path / "lock").read_text()


def test_a_second_attempt_waits_for_the_first(run):
    folder = run.trial("pixelcnn-search-0")
    with folder.claim(), pytest.raises(RunFolderError, match="still runs this trial"), folder.claim(timeout=0.2):
        pass
    with folder.claim(timeout=0.2):
        pass
