"""A sweep that has ended is known at once: nothing heavy is loaded, and whatever was touched is looked at again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.ledger import Ledger
from orchestrator.runs import FORMAT, RunFolder, load_runs, read_json, write_json
from orchestrator.start import looks, looks_finished, mark_finished, open_run
from orchestrator.sweep import load_sweep
from orchestrator.tracking.progress import nothing_to_send
from orchestrator.watch import Watch

ROOT = Path(__file__).parent.parent
SWEEP = """
name: study
data: digits
train: {steps: 5, batch_size: 8}
evaluate: {every: 5, samples: 11, splits: 2, size: 64, reference: 50}
search: {trials: 7, sampler: random, objective: {metric: fd_lite0}}
arms:
  only: {model: {name: pixelcnn, layers: 1, planes: 6, skip_planes: 8}, space: {optimizer.lr: [1.0e-4, 1.0e-2]}}
"""
START = """
import sys
from orchestrator.live import View
from orchestrator.start import train
from orchestrator.sweep import load_sweep

class Says(View):
    def say(self, line):
        print(line)

train(load_sweep("study.yaml"), "runs", Says())
print(*{name.split(".")[0] for name in sys.modules})
"""


def start(folder):
    """What a start says, and the modules that it has loaded by its end."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", START]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    *lines, modules = done.stdout.splitlines()
    return lines, set(modules.split())


@pytest.fixture
def ended(tmp_path, with_store, monkeypatch):
    """A run folder as a sweep leaves it whose trials have all ended, with a report, before it is started again."""
    (tmp_path / "study.yaml").write_text(SWEEP)
    sweep, run = load_sweep(tmp_path / "study.yaml"), with_store(RunFolder(tmp_path / "runs" / "study"))
    monkeypatch.chdir(tmp_path)
    open_run(run, load_sweep("study.yaml"))
    ledger = Ledger(run, sweep)
    while (assignment := ledger.next()) is not None:
        trial = run.trial(assignment.id)
        content = {"config": assignment.config, "params": assignment.params, "seed": assignment.seed, "source": None}
        write_json(trial.config, {"format": FORMAT, **content, "provenance": {}})
        record = {"step": 5, "time": 1005.0, "samples": 11, "fd_lite0": 7.0, "loss": 2.0}
        trial.append_metrics([record])
        trial.update_status(state="completed", attempts=1, started=1000.0, step=5)
        ledger.report(assignment.id, record)
        ledger.close(assignment.id)
    mark_finished(run, ledger.complete)
    run.report.mkdir()
    (run.report / "index.html").write_text("<p>report</p>")
    return run


def test_a_second_start_of_a_sweep_that_has_ended_loads_nothing_heavy(ended, tmp_path):
    first, _ = start(tmp_path)
    second, loaded = start(tmp_path)
    assert first == second == ["Nothing to train: every trial has ended."]
    assert not {"ray", "torch", "mlflow", "sqlalchemy", "pandas", "altair"} & loaded
    signatures = Watch(ended).signatures()
    assert len(signatures) == 7
    assert looks_finished(ended, signatures)
    assert nothing_to_send(ended, None, signatures)


def test_whatever_was_touched_is_looked_at_again(ended, tmp_path):
    start(tmp_path)
    mlflow = pytest.importorskip("mlflow")
    trial = ended.trial("only-search-3")
    kept = {path: path.read_bytes() for path in (trial.metrics, trial.config, trial.status, ended.journal)}
    for path, content in kept.items():
        modified = path.stat()
        path.write_bytes(content[:-3])
        os.utime(path, ns=(modified.st_atime_ns, modified.st_mtime_ns))
        assert not looks_finished(ended, Watch(ended).signatures()), path
        path.write_bytes(content)
        os.utime(path, ns=(modified.st_atime_ns, modified.st_mtime_ns))
        assert looks_finished(ended, Watch(ended).signatures()), path
    client = mlflow.MlflowClient(f"sqlite:///{ended.path / 'mlflow.db'}")
    gone = read_json(ended.mirror)["runs"]["only-search-3"]
    client.delete_run(gone)  # which is to be noted, so that it stays deleted
    assert not nothing_to_send(ended, None, Watch(ended).signatures())
    start(tmp_path)
    assert gone in read_json(ended.mirror)["deleted"]
    assert nothing_to_send(ended, None, Watch(ended).signatures())
    (ended.path / "mlflow.db").unlink()
    assert not nothing_to_send(ended, None, Watch(ended).signatures())


def test_a_sweep_that_grows_is_not_finished(ended, tmp_path):
    write_json(ended.finished, {"looks": looks(ended, Watch(ended).signatures())})
    open_run(ended, load_sweep("study.yaml"))  # as it is: nothing is written
    assert looks_finished(ended, Watch(ended).signatures())
    (tmp_path / "study.yaml").write_text(SWEEP.replace("trials: 7", "trials: 9"))
    open_run(ended, load_sweep("study.yaml"))
    assert not looks_finished(ended, Watch(ended).signatures())


def test_only_the_trials_of_a_state_are_read(ended):
    ended.trial("only-search-5").update_status(state="failed", cause="OSError")
    assert [run.id for run in load_runs(ended.path, "failed")] == ["only-search-5"]
    assert len(load_runs(ended.path)) == 7
