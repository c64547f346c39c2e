"""Failures that are mended, pauses, clocks that jump and places that are missing: with real processes.

Not part of `make test`: `make chaos` runs it.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import mlflow
import pytest
from chaos import ROOT, Driver, below, check_ledger, check_store, ended, folder_of, in_training, of_kind, sweep_text
from measured import numbers

from orchestrator.runs import load_runs
from orchestrator.stores import default_uri

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def undisturbed(few_undisturbed):
    """What the first three trials of each arm measure."""
    return {trial: found for trial, found in few_undisturbed.items() if int(trial.rsplit("-", 1)[1]) < 3}


def aiqn(folder, *words):
    """What a command says; it must end well."""
    command = [sys.executable, "-m", "orchestrator.cli", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def copied_code(folder):
    """A copy of our sources, to be changed."""
    for room in ("aiqn_core", "orchestrator", "reports"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


class Code:
    """A copy of the sources, in which every trial fails of a bug until it is mended."""

    def __init__(self, folder):
        self.folder = copied_code(folder / "code")
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


LIMIT, GRACE = 30, 15  # seconds that a trial may be silent, and that it then has to end itself
LIMITS = ("--set", f"resources.silent_minutes={LIMIT / 60}", "--set", "resources.retries=0")  # no second attempt


@contextmanager
def suspended(processes):
    """Processes that do not run for the time of the block, as those of a job that Slurm suspends."""
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    yield
    for process in processes:
        with suppress(ProcessLookupError):  # a child of one that was woken before it, and ended it
            os.kill(process, signal.SIGCONT)


def check_nobody_was_blamed(run, few_undisturbed):
    assert numbers(run) == few_undisturbed
    assert {(item.status["attempts"], *item.status["causes"]) for item in load_runs(run.path)} == {(1,)}
    check_ledger(run, trials=5, finals=0)


def test_processes_that_are_suspended_for_longer_than_the_limit_go_on(few_undisturbed, tmp_path):
    run, code = folder_of(tmp_path), copied_code(tmp_path / "code")
    file = code / "orchestrator" / "driver.py"
    for name, seconds in (("GRACE_SECONDS = 60.0", GRACE), ("SLOW_SECONDS = 10.0", 1)):
        assert name in file.read_text()
        file.write_text(file.read_text().replace(name, f"{name.split()[0]} = {seconds}"))
    with Driver(tmp_path, sweep_text(trials=5, final=""), *LIMITS, PYTHONPATH=str(code)) as driver:
        supervisor = driver.process.pid
        driver.wait_for(lambda: in_training(run))
        with suspended(of_kind(supervisor, "workers")):  # which the driver sees
            time.sleep(LIMIT + 3)
        before = ended(run)
        driver.wait_for(lambda: ended(run) > before and in_training(run))
        with suspended(of_kind(supervisor, "driver")):  # whose trials go on, end, and wait for it
            time.sleep(LIMIT + GRACE + 3)
        before = ended(run)
        driver.wait_for(lambda: ended(run) > before and in_training(run))
        with suspended(below(supervisor)):  # all of it: Ray, trials, driver, mirror
            time.sleep(LIMIT + GRACE + 3)
        driver.finish()
    check_nobody_was_blamed(run, few_undisturbed)


CLOCK = """
import os, time
real = time.time
def shifted():
    for file, hours in (("forward", 3), ("back", -3)):
        if os.path.exists(os.path.join(os.path.dirname(__file__), file)):
            return real() + 3600 * hours
    return real()
time.time = shifted
"""


def test_a_clock_that_is_set_by_hours_ends_nobody(few_undisturbed, tmp_path):
    """Every process of ours and of Ray's that runs Python takes its time from a clock that the test sets."""
    run, shim = folder_of(tmp_path), tmp_path / "shim"
    shim.mkdir()
    (shim / "sitecustomize.py").write_text(CLOCK)
    path = os.pathsep.join((str(shim), str(ROOT)))
    with Driver(tmp_path, sweep_text(trials=5, final=""), *LIMITS, PYTHONPATH=path) as driver:
        driver.wait_for(lambda: ended(run) >= 1 and in_training(run))
        (shim / "forward").touch()
        before = ended(run)
        driver.wait_for(lambda: ended(run) >= before + 2 and in_training(run))
        (shim / "back").touch()
        (shim / "forward").unlink()
        driver.finish()
    check_nobody_was_blamed(run, few_undisturbed)
    times = [record["time"] for item in load_runs(run.path) for record in item.history]
    assert max(times) - min(times) > 5 * 3600  # the clock was really set: forward, and back
    check_store(mlflow.MlflowClient(default_uri(run)), run)
