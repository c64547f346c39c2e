"""Whole sweeps through the real command: real Ray, real trainings, real kills, the real MLflow store."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import mlflow
import pytest
from measured import numbers

from orchestrator import search as search_module
from orchestrator.clusters import AUTOSCALING
from orchestrator.runs import RunFolder, RunFolderError, load_runs, read_json
from orchestrator.search import MOST_WORKERS, Room, host_and_port
from orchestrator.sections import Resources
from orchestrator.start import mark_finished, run_sweep
from orchestrator.stores import default_uri
from orchestrator.sweep import load_sweep

SWEEP = """
# Does a disturbed sweep end with the numbers of an undisturbed one?
name: study
data: digits
train: {steps: 60, batch_size: 8, ema_decay: 0.9}
evaluate: {every: 20, samples: 24, splits: 2, size: 64, reference: 100}
search: {trials: 3, sampler: random, objective: {metric: fd_lite0}, seed: 5}
arms:
  pixelcnn:
    model: {name: pixelcnn, layers: 1, planes: 6, skip_planes: 8}
    space:
      optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
  pixeliqn:
    model: {name: pixeliqn, layers: 1, planes: 8, skip_planes: 8}
    space:
      optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
      loss.kappa: [0.0, 0.002]
final: {top: 1, seeds: [0, 1], steps: 80}
"""
pytestmark = pytest.mark.slow
STARTED: list[subprocess.Popen] = []


def start(folder, *options, text=SWEEP):
    """The command as a user would type it."""
    (folder / "study.yaml").write_text(text)
    command = [sys.executable, "-m", "orchestrator.cli", "sweep", "study.yaml", *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    STARTED.append(process)
    return process


def test_rays_autoscaler_is_asked_where_it_listens_and_only_for_something_new(monkeypatch):
    asked = []
    monkeypatch.setattr(search_module, "request_resources", lambda bundles: asked.append(bundles))
    need = Resources(cpu=3, gpu=1, workers=2)
    Room(need).make(5)
    assert asked == []
    monkeypatch.setenv(AUTOSCALING, "1")
    room = Room(need)
    for trials in (5, 5, 0, MOST_WORKERS):
        room.make(trials)
    assert asked == [[{"CPU": 3, "GPU": 1}] * 10, [], [{"CPU": 3, "GPU": 1}] * MOST_WORKERS]
    Room(Resources(workers=MOST_WORKERS + 7)).make(1)  # one trial at least
    assert asked[-1] == [{"CPU": 1}] * (MOST_WORKERS + 7)


@pytest.fixture(autouse=True, scope="module")
def no_driver_is_left():
    yield
    for process in STARTED:
        process.kill()


def finish(process, code):
    output, _ = process.communicate(timeout=500)
    assert process.returncode == code, output
    return output


def wait_for(process, condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def trials_with(run, state):
    return [item for item in load_runs(run.path) if item.state == state] if run.path.exists() else []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    output = finish(start(folder), 0)
    return RunFolder(folder / "runs" / "study"), output


def test_a_sweep_file_becomes_a_report(undisturbed):
    run, output = undisturbed
    runs = load_runs(run.path)
    assert [item.id for item in runs] == [
        f"{arm}-{stage}-{number}"
        for arm in ("pixelcnn", "pixeliqn")
        for stage, count in (("search", 3), ("final", 2))
        for number in range(count)
    ]
    assert {item.state for item in runs} == {"completed"}
    assert all([step for step, _ in item.curve("fd_lite0")][-1] == item.config["train"]["steps"] for item in runs)
    page = (run.report / "index.html").read_text()
    assert "Does a disturbed sweep end with the numbers of an undisturbed one?" in page
    assert "runs/study/report/index.html" in output
    assert "pixelcnn search: 3/3 done" in output
    assert run.read_sweep()["finished"]
    assert not (run.path / ".ray").exists()


def test_mlflow_holds_every_trial_and_number(undisturbed):
    run, _ = undisturbed
    client = mlflow.MlflowClient(default_uri(run))
    experiment = client.get_experiment_by_name("study").experiment_id
    for item in load_runs(run.path):
        (mirrored,) = client.search_runs([experiment], f"tags.trial = '{item.id}'")
        assert mirrored.info.status == "FINISHED"
        history = client.get_metric_history(mirrored.info.run_id, "fd_lite0")
        assert [(point.step, point.value) for point in history] == item.curve("fd_lite0")
    pixelcnn = client.search_runs([experiment], "tags.arm = 'pixelcnn' and tags.stage = 'search'")
    assert len(pixelcnn) == 3
    (parent,) = client.search_runs([experiment], "tags.`mlflow.runName` = 'study'")
    assert parent.info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} >= {"sweep.yaml", "report"}


def test_to_run_it_again_trains_nothing_and_changes_nothing(undisturbed):
    run, _ = undisturbed
    kept = [path for path in sorted(run.path.rglob("*")) if path.is_file() and {"trials", "report"} & set(path.parts)]
    before = {path: (path.stat().st_mtime_ns if "trials" in path.parts else 0, path.read_bytes()) for path in kept}
    begin = time.perf_counter()
    finish(start(run.path.parent.parent), 0)
    print(f"a finished sweep ran again in {time.perf_counter() - begin:.1f} s")
    for path, (modified, content) in before.items():
        assert path.read_bytes() == content, path
        assert "trials" not in path.parts or path.stat().st_mtime_ns == modified


def test_a_finished_sweep_that_grows_is_not_finished(tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "runs" / "study")
    (tmp_path / "study.yaml").write_text(SWEEP)
    monkeypatch.setattr("orchestrator.search.drive", lambda *_: seen.append(run.read_sweep()["finished"]))
    monkeypatch.setattr("orchestrator.start.mirroring", lambda *_: nullcontext())
    seen = []
    for finished in (True, False):
        run_sweep(load_sweep(tmp_path / "study.yaml"), tmp_path / "runs")
        assert seen.pop() is False
        mark_finished(run, finished)


def test_a_sweep_that_is_killed_and_interrupted_loses_nothing(undisturbed, tmp_path):
    """SIGKILL of a trial's process and of the command, then Ctrl-C, each at a moment that nobody chose."""
    run = RunFolder(tmp_path / "runs" / "study")
    process = start(tmp_path)
    wait_for(process, lambda: any(item.history for item in trials_with(run, "running")))
    victim = next(item for item in trials_with(run, "running") if item.history)
    os.kill(victim.status["pid"], signal.SIGKILL)
    wait_for(process, lambda: len(trials_with(run, "completed")) >= 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process = start(tmp_path)
    wait_for(process, lambda: len(trials_with(run, "completed")) >= 5)
    process.send_signal(signal.SIGINT)
    assert "run the same command again to continue" in finish(process, 3)
    assert not run.read_sweep()["finished"]
    finish(start(tmp_path), 0)
    assert numbers(run) == numbers(undisturbed[0])
    assert read_json(run.trial(victim.id).status)["attempts"] >= 2
    client = mlflow.MlflowClient(default_uri(run))
    experiment = client.get_experiment_by_name("study").experiment_id
    mirrored = [item.data.tags["trial"] for item in client.search_runs([experiment], "tags.trial != ''")]
    assert sorted(mirrored) == sorted(item.id for item in load_runs(run.path))


def test_an_edited_file_that_contradicts_is_refused(undisturbed):
    run, _ = undisturbed
    folder = run.path.parent.parent
    output = finish(start(folder, text=SWEEP.replace("batch_size: 8", "batch_size: 9")), 2)
    assert "batch_size" in output
    assert "Traceback" not in output
    arms = json.loads(run.sweep_json.read_text())["sweep"]["arms"]
    assert {arm["train"]["batch_size"] for arm in arms.values()} == {8}


def test_a_cluster_that_is_to_be_found_and_is_not_there_is_said(monkeypatch):
    def none(named):
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(search_module, "canonicalize_bootstrap_address_or_die", none)
    with pytest.raises(RunFolderError, match=r"^RAY_ADDRESS: saw 'auto', but Could not .* unset RAY_ADDRESS"):
        host_and_port("auto")
