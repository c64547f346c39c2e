import json

import pytest

from orchestrator.runs import FORMAT, RunFolder, RunFolderError, write_json
from orchestrator.status import looks, status_facts, status_lines


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "study")
    run.path.mkdir()
    search = {"trials": 4, "objective": {"metric": "fd_lite0", "direction": "minimize"}}
    sweep = {"arms": {"cnn": {}, "iqn": {}}, "search": search, "final": {"top": 1, "seeds": [0, 1, 2]}}
    write_json(run.sweep_json, {"format": FORMAT, "name": "study", "finished": False, "sweep": sweep})
    return run


def test_trials_by_state_best_so_far_and_each_trouble_with_its_log(run, record_trial):
    record_trial(run, "cnn-search-0", steps=(2, 5))
    record_trial(run, "cnn-search-1", steps=(2,))
    record_trial(run, "cnn-search-2", "running", steps=(2,))
    elsewhere = "/where/it/was/trials/iqn-search-0/log.txt"  # before the run folder was moved
    record_trial(run, "iqn-search-0", "failed", cause="exception", message="boom", log=elsewhere)
    write_json(run.mirror, {"records_behind": 11, "error": "connection refused", "runs": {}})
    lines = status_lines(run.path)
    assert lines[:3] == [
        "study: not finished",
        "  cnn search: 2/4 done, 1 running, best fd_lite0 20 (cnn-search-0)",  # 100 / step, at its last step
        "  cnn final: 0/3 done",
    ]
    assert "  iqn search: 1/4 done, 1 failed" in lines
    (trouble,) = [line for line in lines if "boom" in line]
    assert trouble.startswith("  iqn-search-0 failed (exception)")
    assert trouble.endswith(f"log: {run.trial('iqn-search-0').log}")
    assert lines[-1] == "MLflow: 11 records behind (connection refused)"


def test_no_run_folder_is_one_clear_error(tmp_path):
    with pytest.raises(RunFolderError, match=r"nowhere"):
        status_lines(tmp_path / "nowhere")


def test_a_job_in_a_queue_and_what_the_cluster_says(run, tmp_path):
    waiting = RunFolder(tmp_path / "waiting")
    write_json(waiting.submission, {"to": "kuberay", "id": "aiqn-study"})
    line = "submitted to kuberay as aiqn-study: see kubectl get rayjob aiqn-study"
    assert status_lines(waiting.path) == [line]
    write_json(run.submission, {"to": "kuberay", "id": "aiqn-study"})
    write_json(run.cluster, {"nodes": [], "notes": ["node n7 is avoided: 2 trials in a row"]})
    assert status_lines(run.path)[-2:] == [line, "node n7 is avoided: 2 trials in a row"]
    write_json(run.sweep_json, {**run.read_sweep(), "finished": True})
    assert not {line, "node n7 is avoided: 2 trials in a row"} & set(status_lines(run.path))


def test_trials_that_wait_at_a_rung_are_not_done_and_no_trouble(run, record_trial):
    record_trial(run, "cnn-search-0", steps=(2, 5))
    record_trial(run, "cnn-search-1", "parked", steps=(2,))
    record_trial(run, "cnn-search-2", "parked", steps=(2,))
    lines = status_lines(run.path)
    assert "  cnn search: 1/4 done, 2 parked, best fd_lite0 20 (cnn-search-0)" in lines
    assert not any("causes" in line for line in lines)


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        ("gp", "ended 2 (gp counts it as the worst)"),
        ("random", "ended 2 (random draws on regardless)"),
        (None, "ended 2"),
    ],
)
def test_what_the_sampler_in_use_makes_of_a_divergence(run, record_trial, sampler, words):
    content = run.read_sweep()
    content["sweep"]["search"] |= {"sampler": {"name": sampler}} if sampler else {}
    write_json(run.sweep_json, content)
    for trial in ("cnn-search-0", "cnn-search-1"):
        record_trial(run, trial, "diverged", cause="not finite")
    record_trial(run, "cnn-search-2", "failed", cause="process killed")  # nobody's fault: no sampler is told
    record_trial(run, "iqn-final-0", "failed", cause="out of memory")  # what a final does is no matter of the search
    lines = status_lines(run.path)
    assert [line for line in lines if line.startswith("  not finite: ")] == [f"  not finite: {words}"]
    assert {"  process killed: ended 1", "  out of memory: ended 1"} <= set(lines)


def test_the_same_for_scripts(run, record_trial):
    record_trial(run, "cnn-search-0", steps=(2, 5))
    record_trial(run, "cnn-search-1", "running", steps=(2,))
    record_trial(run, "iqn-search-0", "failed", cause="exception", message="boom")
    facts = json.loads(json.dumps(status_facts(run.path)))
    assert (facts["name"], facts["state"], facts["driver"]) == ("study", "stopped", None)
    best = {"value": 20.0, "trial": "cnn-search-0"}  # 100 / step, at its last step
    assert facts["arms"]["cnn"] == {
        "search": {"expected": 4, "states": {"completed": 1, "running": 1}, "best": best},
        "final": {"expected": 3, "states": {}, "best": None},
    }
    assert [(one["trial"], one["step"]) for one in facts["training"]] == [("cnn-search-1", 2)]
    (trouble,) = facts["troubles"]
    assert (trouble["trial"], trouble["cause"], trouble["message"]) == ("iqn-search-0", "exception", "boom")
    with run.lock():
        assert status_facts(run.path)["state"] == "running"


def test_who_watches_looks_until_the_end(run):
    turns = []

    def sleep(seconds):
        turns.append(seconds)
        if len(turns) == 2:
            write_json(run.sweep_json, {**run.read_sweep(), "finished": True})

    with run.lock():
        assert len(list(looks(run.path, sleep))) == 3
    assert len(list(looks(run.path, sleep))) == 1  # nobody drives it
