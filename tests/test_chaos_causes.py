"""Failures that are mended, pauses, clocks that jump and places that are missing: with real processes.

Not part of `make test`: `make chaos` runs it.
"""

import os
import shutil
import subprocess
import sys

import mlflow
import pytest
from chaos import ROOT, Driver, check_ledger, check_store, ended, folder_of, sweep_text
from measured import numbers

from orchestrator.runs import load_runs
from orchestrator.tracking import default_uri

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The numbers of a small sweep that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with Driver(folder, sweep_text(trials=3, final="")) as driver:
        driver.finish()
    return numbers(folder_of(folder))


def aiqn(folder, *words):
    """What a command says; it must end well."""
    command = [sys.executable, "-m", "orchestrator.cli", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Code:
    """A copy of the sources, whose evaluations have a bug until it is mended."""

    def __init__(self, folder):
        self.folder = folder / "code"
        for room in ("aiqn_core", "orchestrator", "reports"):
            shutil.copytree(ROOT / room, self.folder / room, ignore=shutil.ignore_patterns("__pycache__"))
        self.file = self.folder / "orchestrator" / "data_checks.py"
        self.sound = self.file.read_text()
        self.file.write_text(self.sound + '\n\ndef check_trial_data(*_):\n    raise KeyError("a typing error")\n')

    def mend(self):
        self.file.write_text(self.sound)


@pytest.mark.parametrize(("most", "failed"), [("3", 3), ("null", 6)])
def test_a_bug_that_is_mended_costs_few_trials_and_none_for_good(undisturbed, tmp_path, most, failed):
    text, run, code = sweep_text(trials=3, final=""), folder_of(tmp_path), Code(tmp_path)
    options, path = ("--set", f"search.same_failures={most}"), {"PYTHONPATH": str(code.folder)}
    with Driver(tmp_path, text, *options, **path) as driver:
        said = driver.finish(code=1)
    assert f"aiqn retry {os.path.relpath(run.path, tmp_path)}" in said
    assert "KeyError: 'a typing error'  log: " in said
    assert [item.cause for item in load_runs(run.path) if item.state == "failed"] == ["KeyError"] * failed
    code.mend()
    assert aiqn(tmp_path, "retry", str(run.path), "--cause", "KeyError").count("is handed out again") == failed
    with Driver(tmp_path, text, *options, **path) as driver:
        driver.finish()
    assert numbers(run) == undisturbed
    check_ledger(run, trials=3, finals=0)
    check_store(mlflow.MlflowClient(default_uri(run)), run)
    causes = [item.status["causes"] for item in load_runs(run.path)]
    assert causes.count(["KeyError"]) == failed


def test_a_trial_whose_folder_was_deleted_comes_back(undisturbed, tmp_path):
    text, run, code = sweep_text(trials=3, final=""), folder_of(tmp_path), Code(tmp_path)
    with Driver(tmp_path, text, PYTHONPATH=str(code.folder)) as driver:
        driver.finish(code=1)
    assert ended(run) >= 5
    for name in ("pixelcnn-search-0", "pixeliqn-search-1"):
        shutil.rmtree(run.trial(name).path)
    with Driver(tmp_path, text) as driver:
        driver.finish(code=1)
    found = {item.id: item.state for item in load_runs(run.path)}
    assert found["pixelcnn-search-0"] == found["pixeliqn-search-1"] == "completed"
    shutil.rmtree(run.trial("pixelcnn-search-0").path)  # and of one that had ended well
    aiqn(tmp_path, "retry", str(run.path))
    with Driver(tmp_path, text) as driver:
        driver.finish()
    assert numbers(run) == undisturbed
    check_ledger(run, trials=3, finals=0)


def test_a_cache_that_cannot_be_kept_is_said_before_the_first_trial(tmp_path):
    with Driver(tmp_path, sweep_text(trials=3, final=""), AIQN_CACHE="/proc/aiqn") as driver:
        said = driver.finish(code=2)
    assert "this machine, the driver's: /proc/aiqn: reference statistics cannot be kept here" in said
    assert "set AIQN_CACHE to a folder that can be written" in said
    assert not folder_of(tmp_path).trials.exists()


def test_a_cache_that_is_lost_in_the_middle_stops_the_sweep_in_order(undisturbed, tmp_path):
    text, run, cache = sweep_text(trials=3, final=""), folder_of(tmp_path), tmp_path / "cache"
    with Driver(tmp_path, text, AIQN_CACHE=str(cache)) as driver:
        driver.wait_for(lambda: ended(run) >= 1)
        cache.rename(tmp_path / "lost")
        cache.touch()
        said = driver.finish(code=3)
    assert "No machine can train any more" in said
    assert f"{cache}: reference statistics cannot be kept here" in said
    assert {item.state for item in load_runs(run.path)} <= {"completed", "running"}
    cache.unlink()
    with Driver(tmp_path, text, AIQN_CACHE=str(cache)) as driver:
        driver.finish()
    assert numbers(run) == undisturbed
    check_ledger(run, trials=3, finals=0)
    assert "storage" in [cause for item in load_runs(run.path) for cause in item.status["causes"]]
