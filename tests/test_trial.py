import math
import time

import pytest
import torch

from aiqn_core import baselines, memory, training
from aiqn_core.config import TrainConfig, config_hash
from orchestrator.causes import Stage
from orchestrator.runs import RunFolder, RunFolderError, load_runs, read_json, write_json
from orchestrator.trial import Assignment, check_folder, run_trial


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "study")


def assignment(number=0, steps=4, seed=5, **optimizer):
    config = TrainConfig.from_dict(
        {
            "model": {"name": "pixeliqn", "layers": 1, "planes": 6, "skip_planes": 8, "kernel": 3},
            "optimizer": {"name": "adam", "lr": 0.01, **optimizer},
            "train": {"steps": steps, "batch_size": 3},
            "evaluate": {"every": 2, "samples": 14, "splits": 2, "size": 64, "reference": 50},
            "seed": seed,
        }
    ).to_dict()
    return Assignment("pixeliqn", Stage.SEARCH, number, config, {"optimizer.lr": 0.01}, seed)


def test_a_trial_leaves_a_complete_folder(run):
    task = assignment()
    begin = time.process_time()
    records = list(run_trial(task, run, threads=1))
    (recorded,) = load_runs(run.path)
    assert 0 < recorded.status["cpu_seconds"] <= time.process_time() - begin
    assert recorded.history == records
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert [step for step, _ in recorded.curve("fd_lite0")] == [2, 4]
    assert (recorded.state, recorded.cause, recorded.seed) == ("completed", None, 5)
    assert recorded.config == task.config
    assert recorded.provenance["config_hash"] == config_hash(task.config)
    assert recorded.provenance["protocol"]["samples"] == 14
    assert recorded.provenance["protocol"]["reference"] == 50
    assert recorded.provenance["versions"]["torch"] == torch.__version__
    assert recorded.status["attempts"] == 1
    folder = run.trial(task.id)
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "checkpoint.pt",
        "config.json",
        "lock",
        "log.txt",
        "metrics.jsonl",
        "samples",
        "status.json",
    ]
    assert sorted(path.name for path in (folder.path / "samples").iterdir()) == ["2.png", "4.png"]
    assert run.real.read_bytes().startswith(b"\x89PNG")
    assert "step 4 of 4" in folder.log.read_text()
    assert Assignment.from_json(task.to_json()) == task


def test_the_first_trial_of_a_protocol_records_what_trivial_generators_score(run, monkeypatch):
    list(run_trial(assignment(0), run, threads=1))
    protocol = load_runs(run.path)[0].provenance["protocol"]
    scores = run.baselines_of(protocol)
    assert scores["real"]["fd_lite0"] < scores["histograms"]["fd_lite0"]
    written = run.baselines.read_bytes()
    monkeypatch.setattr(baselines, "baseline_scores", lambda *_: pytest.fail("computed again"))
    list(run_trial(assignment(1), run, threads=1))
    assert run.baselines.read_bytes() == written


def test_a_trial_completes_where_they_cannot_be_recorded(run, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(baselines, "baseline_scores", fail)
    list(run_trial(assignment(0), run, threads=1))
    (recorded,) = load_runs(run.path)
    assert recorded.state == "completed"
    assert "trivial generators" in run.trial(recorded.id).log.read_text()
    assert not run.baselines.exists()


def test_an_attempt_that_is_cut_off_is_continued(run):
    whole = list(run_trial(assignment(0), run, threads=1))
    first = run_trial(assignment(1), run, threads=1)
    assert next(first)["step"] == 1
    assert next(first)["step"] == 2
    first.close()
    folder = run.trial(assignment(1).id)
    assert folder.read_status()["state"] == "running"
    with folder.metrics.open("ab") as file:
        file.write(b'{"step": 3, "ti')
    resumed = list(run_trial(assignment(1), run, threads=1))

    def measured(records):
        return [{k: v for k, v in r.items() if k not in ("time", "seconds", "evaluate_seconds")} for r in records]

    assert measured(resumed) == measured(whole)
    assert folder.read_status()["attempts"] == 2
    assert folder.read_history() == resumed


def test_metrics_lost_with_their_file_come_back_from_the_checkpoint(run):
    records = list(run_trial(assignment(), run, threads=1))
    folder = run.trial(assignment().id)
    folder.metrics.write_bytes(folder.metrics.read_bytes()[:150])
    folder.samples(4).unlink()
    assert list(run_trial(assignment(), run, threads=1)) == records
    assert folder.read_history() == records
    assert folder.samples(4).exists()


def test_divergence_is_a_result_with_a_cause(run, monkeypatch):
    monkeypatch.setattr("aiqn_core.training.loop.mean_loss", lambda losses, step: _diverge())
    with pytest.raises(training.DivergedError):
        list(run_trial(assignment(), run))
    (recorded,) = load_runs(run.path)
    assert (recorded.state, recorded.cause) == ("diverged", "not finite")


def _diverge():
    raise training.DivergedError(f"the loss is {math.nan}")


def test_an_exception_is_recorded_with_its_log_and_raised(run, monkeypatch):
    def broken(*arguments):
        raise OSError("disk on fire")

    monkeypatch.setattr("aiqn_core.training.loop.evaluate", broken)
    with pytest.raises(OSError, match="disk on fire"):
        list(run_trial(assignment(), run))
    (recorded,) = load_runs(run.path)
    assert (recorded.state, recorded.cause, recorded.status["message"]) == ("failed", "OSError", "disk on fire")
    assert "Traceback" in run.trial(recorded.id).log.read_text()


def test_a_folder_of_another_configuration_is_not_touched(run):
    list(run_trial(assignment(), run))
    folder = run.trial(assignment().id)
    before = read_json(folder.config), folder.read_status()
    with pytest.raises(RunFolderError, match="another configuration"):
        list(run_trial(assignment(lr=0.02), run))
    assert (read_json(folder.config), folder.read_status()) == before


def test_a_longer_final_continues_in_its_folder(run):
    list(run_trial(assignment(), run, threads=1))
    records = list(run_trial(assignment(steps=6), run, threads=1))
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    (recorded,) = load_runs(run.path)
    assert recorded.config["train"]["steps"] == 6
    assert recorded.state == "completed"


def test_a_trial_keeps_to_its_share_of_a_gpu(run, monkeypatch):
    shares = []
    monkeypatch.setattr(memory, "cap_gpu", shares.append)
    list(run_trial(assignment(steps=2), run, gpu=0.25))
    assert shares == [0.25]


def written_by_an_earlier_version(folder, task):
    """The recorded configuration without a setting that the version of then did not know."""
    config = {**task.config, "evaluate": {k: v for k, v in task.config["evaluate"].items() if k != "keep_weights"}}
    recorded = {"format": 1, "params": task.params, "seed": task.seed, "source": None, "provenance": {}}
    write_json(folder.config, {**recorded, "config": config})


@pytest.mark.parametrize(("before", "after"), [(4, 1000), (1000, 1007)])  # 1000 steps are the default
def test_a_longer_training_of_an_earlier_version_keeps_what_it_has(run, before, after):
    folder = run.trial(assignment().id)
    folder.path.mkdir(parents=True)
    written_by_an_earlier_version(folder, assignment(steps=before))
    folder.checkpoint.write_bytes(b"weights")
    folder.append_metrics([{"step": 2, "time": 1.0}])
    check_folder(folder, assignment(steps=after))
    assert folder.checkpoint.read_bytes() == b"weights"
    assert folder.read_history() == [{"step": 2, "time": 1.0}]
    with pytest.raises(RunFolderError, match="another configuration"):
        check_folder(folder, assignment(steps=before - 1))
