"""What the chaos tests share: a sweep of 40 trials, its driver as a process, and what every trial measured."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import optuna

from orchestrator.runs import RunFolder, load_runs

ROOT = Path(__file__).parent.parent
SWEEP = """
# Does a disturbed sweep end with the numbers of an undisturbed one?
name: study
data: digits
train: {steps: 60, batch_size: 8, ema_decay: 0.9}
evaluate: {every: 20, samples: 11, splits: 2, size: 64, reference: 50}
search: {trials: TRIALS, sampler: random, objective: {metric: fd_lite0}, seed: 5}
resources: {retries: 20}
arms:
  pixelcnn:
    model: {name: pixelcnn, layers: 1, planes: 6, skip_planes: 8}
    space:
      optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
  pixeliqn:
    model: {name: pixeliqn, layers: 1, planes: 8, skip_planes: 8}
    space:
      optimizer.name:
        adam: {optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}}
        sgd: {optimizer.lr: {low: 1.0e-2, high: 1.0, log: true}}
      loss.kappa: [0.0, 0.002]
FINAL
"""
FINAL = "final: {top: 1, seeds: [0, 1, 7], steps: 80}"
PATIENCE = 1200.0  # seconds that anything may take on a machine with much else to do


def sweep_text(trials=17, final=FINAL, more=""):
    """The sweep file: `trials` for each of two arms, and with finals three more for each: 2 x (17 + 3) = 40."""
    return SWEEP.replace("TRIALS", str(trials)).replace("FINAL", final) + more


class Driver:
    """`aiqn sweep` as a user starts it; killed at the end of the block if it still runs."""

    def __init__(self, folder, text, *options, **variables):
        (folder / "study.yaml").write_text(text)
        self.output = folder / "output.txt"
        command = [sys.executable, "-m", "orchestrator.cli", "sweep", "study.yaml", *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)

    def __enter__(self):
        return self

    def __exit__(self, *reason):
        self.kill()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def wait_for(self, condition):
        """Until the condition holds; fails where the driver ends first."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.05)

    def finish(self, code=0):
        """Wait for its end; gives what it printed."""
        assert self.process.wait(PATIENCE) == code, self.output.read_text()
        text = self.output.read_text()
        assert "Traceback" not in text, text
        return text


KINDS = {
    "gcs": "gcs_server",
    "raylet": "raylet/raylet",
    "workers": "ray::ResourceTrainable",
    "agents": "Agent",
    "monitors": "monitor.py",
    "driver": "orchestrator.cli sweep",
}


def below(process):
    """The processes that a process has started, and those that these have."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    found, more = set(), {process}
    while more:
        more = {child for child, parent in parents.items() if parent in more} - found
        found |= more
    return found


def of_kind(process, kind):
    """Those of `below` that are Ray's processes of a kind."""
    found = []
    for child in below(process):
        with suppress(OSError):
            if KINDS[kind] in Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode():
                found.append(child)
    return found


def ended(run):
    """How many trials have ended."""
    return sum(item.state != "running" for item in load_runs(run.path)) if run.trials.exists() else 0


def in_training(run):
    """Trials that have measured something and not ended."""
    return [item for item in load_runs(run.path) if item.state == "running"] if run.trials.exists() else []


def check_ledger(run, trials=17, finals=3):
    """Every trial is in the journal once, as complete, with the value that its folder holds."""
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(run.journal)))
    recorded = {item.id: item for item in load_runs(run.path)}
    for summary in optuna.get_all_study_summaries(storage):
        study = optuna.load_study(study_name=summary.study_name, storage=storage)
        arm, stage = summary.study_name.split("/")
        assert len(study.trials) == (trials if stage == "search" else finals)
        for trial in study.trials:
            assert trial.state.name == "COMPLETE"
            assert trial.value == recorded[f"{arm}-{stage}-{trial.number}"].curve("fd_lite0")[-1][1]


def check_store(client, run):
    """Every trial is one run in MLflow with its end and every point of its objective once, at the original time."""
    experiment = client.get_experiment_by_name("study").experiment_id
    runs = client.search_runs([experiment], max_results=1000)
    mirrored = {item.data.tags["trial"]: item for item in runs if "trial" in item.data.tags}
    recorded = {item.id: item for item in load_runs(run.path)}
    assert mirrored.keys() == recorded.keys()
    assert len(runs) == len(recorded) + 1  # and the parent
    for trial, item in recorded.items():
        assert mirrored[trial].info.status == "FINISHED"
        history = client.get_metric_history(mirrored[trial].info.run_id, "fd_lite0")
        expected = [(r["step"], r["fd_lite0"], int(r["time"] * 1000)) for r in item.history if "fd_lite0" in r]
        assert [(point.step, point.value, point.timestamp) for point in history] == expected


def journal_lines(run):
    return [json.loads(line) for line in run.journal.read_bytes().splitlines()]


def folder_of(path):
    return RunFolder(path / "runs" / "study")
