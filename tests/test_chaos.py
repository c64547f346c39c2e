"""Real processes, real kills, a real MLflow server, a real full disk: nothing is lost, repeated or changed.

Not part of `make test`: `make chaos` runs it.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import mlflow
import pytest
from chaos import (
    ROOT,
    Driver,
    check_ledger,
    check_store,
    ended,
    folder_of,
    in_training,
    sweep_text,
)
from measured import numbers

from orchestrator.runs import load_runs, read_json
from orchestrator.status import status_lines
from orchestrator.stores import default_uri

pytestmark = pytest.mark.chaos
KILLS = 20


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The numbers of the sweep that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with Driver(folder, sweep_text()) as driver:
        driver.finish()
    run = folder_of(folder)
    check_ledger(run)
    check_store(mlflow.MlflowClient(default_uri(run)), run)
    assert len(numbers(run)) == 40
    return numbers(run)


def test_a_driver_killed_twenty_times_at_random_moments(undisturbed, tmp_path):
    chance, run = random.Random(20), folder_of(tmp_path)
    for _ in range(KILLS):
        before = ended(run)
        with Driver(tmp_path, sweep_text()) as driver:
            if chance.random() < 0.3:  # while it starts: the first trials need some seconds
                time.sleep(chance.uniform(0.0, 7.0))
            else:  # while it trains
                driver.wait_for(lambda before=before: ended(run) > before)
                time.sleep(chance.uniform(0.0, 0.8))
            assert driver.process.poll() is None, "the sweep ended before its driver could be killed"
    assert ended(run) < 40
    with Driver(tmp_path, sweep_text()) as driver:
        driver.finish()
    assert numbers(run) == undisturbed
    check_ledger(run)
    check_store(mlflow.MlflowClient(default_uri(run)), run)


def test_trial_processes_that_are_killed(undisturbed, tmp_path):
    chance, run, killed = random.Random(7), folder_of(tmp_path), []
    with Driver(tmp_path, sweep_text(trials=6, final="")) as driver:
        for _ in range(5):
            driver.wait_for(lambda: [item for item in in_training(run) if item.status["pid"] not in killed])
            time.sleep(chance.uniform(0.0, 1.0))
            victims = [item for item in in_training(run) if item.status["pid"] not in killed]
            if victims:
                killed.append(victims[0].status["pid"])
                os.kill(killed[-1], signal.SIGKILL)
        driver.finish()
    assert numbers(run) == {trial: found for trial, found in undisturbed.items() if trial in numbers(run)}
    assert len(numbers(run)) == 12
    causes = [cause for item in load_runs(run.path) for cause in item.status["causes"]]
    assert causes
    assert set(causes) == {"process killed"}
    assert f"  process killed: tried again {len(causes)}" in status_lines(run.path)


@contextmanager
def server(folder, port):
    """A real MLflow server; stopped, not gently, at the end of the block."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--artifacts-destination", str(folder / "art")]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen([*command, *store], stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while not answers(port):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_an_mlflow_server_that_is_away_for_half_of_the_sweep(undisturbed, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri, run = f"http://127.0.0.1:{port}", folder_of(tmp_path)
    text = sweep_text(trials=8, final="", more=f"tracking: {{uri: '{uri}'}}\n")
    with ExitStack() as stack:
        with server(tmp_path, port):  # which takes longer to start than a fast machine to train half of the trials
            driver = stack.enter_context(Driver(tmp_path, text))
            driver.wait_for(lambda: ended(run) >= 4)
        away = ended(run)
        driver.wait_for(lambda: (read_json(run.mirror) or {}).get("error") and ended(run) > away)
        assert any("MLflow" in line and "behind, since" in line for line in status_lines(run.path))
        driver.wait_for(lambda: ended(run) >= 12)  # trials do not wait for it
        with server(tmp_path, port):
            driver.finish()
            check_store(mlflow.MlflowClient(uri), run)
    assert numbers(run) == {trial: found for trial, found in undisturbed.items() if trial in numbers(run)}
    (tmp_path / "server.db").unlink()  # the mirror is lost as a whole: the finished sweep, run again, repairs it
    with server(tmp_path, port), Driver(tmp_path, text) as driver:
        assert "Nothing to train" in driver.finish()
        check_store(mlflow.MlflowClient(uri), run)


def test_files_cut_short_at_random_bytes(undisturbed, tmp_path):
    chance, run = random.Random(3), folder_of(tmp_path)
    for _ in range(4):
        before = ended(run)
        with Driver(tmp_path, sweep_text()) as driver:
            driver.wait_for(lambda before=before: ended(run) >= before + 5)
        damage(run, chance)
    with Driver(tmp_path, sweep_text()) as driver:
        driver.finish()
    assert numbers(run) == undisturbed
    check_ledger(run)
    damage(run, chance)
    with Driver(tmp_path, sweep_text()) as driver:  # a finished sweep as well
        driver.finish()
    assert numbers(run) == undisturbed
    check_ledger(run)


def damage(run, chance):
    """Cut off the ends of the journal, and of checkpoints and metrics of some trials, at random bytes."""
    found = [path for pattern in ("*.pt", "metrics.jsonl") for path in sorted(run.trials.glob(f"*/{pattern}"))]
    for path in [run.journal, *chance.sample(found, min(6, len(found)))]:
        os.truncate(path, chance.randrange(path.stat().st_size + 1))


@contextmanager
def small_disk(folder, size):
    """A file system of its own with so many MiB; needs the right to mount."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(undisturbed, tmp_path):
    disk, text = tmp_path / "disk", sweep_text(trials=8, final="")
    run = folder_of(disk)
    with small_disk(disk, 64):
        ballast = disk / "ballast"
        for _ in range(2):
            before = ended(run)
            with Driver(tmp_path, text, "--runs", str(disk / "runs")) as driver:
                driver.wait_for(lambda before=before: ended(run) >= before + 2)
                fill(ballast)
                said = driver.finish(code=3)
            assert "the storage is full" in said
            assert "run the same command again" in said
            ballast.unlink()
        with Driver(tmp_path, text, "--runs", str(disk / "runs")) as driver:
            driver.finish()
        assert len(numbers(run)) == 16
        assert numbers(run) == {trial: found for trial, found in undisturbed.items() if trial in numbers(run)}
        check_ledger(run, trials=8, finals=0)
        check_store(mlflow.MlflowClient(default_uri(run)), run)


def fill(path):
    """Write until nothing fits any more."""
    with path.open("ab", buffering=0) as file:
        for size in (2**20, 2**12):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


def test_two_drivers_at_once(undisturbed, tmp_path):
    run, other = folder_of(tmp_path), tmp_path / "other"
    other.mkdir()
    text = sweep_text(trials=3, final="")
    with Driver(tmp_path, text) as first:
        first.wait_for(lambda: in_training(run))
        with Driver(other, text, "--runs", str(tmp_path / "runs")) as second:
            assert f"is in use by pid {first.process.pid} on {socket.gethostname()}" in second.finish(code=2)
        first.finish()
    assert numbers(run) == {trial: found for trial, found in undisturbed.items() if trial in numbers(run)}
    assert {item.status["attempts"] for item in load_runs(run.path)} == {1}


def test_a_run_folder_without_write_permission(undisturbed, tmp_path):
    disk, text = tmp_path / "disk", sweep_text(trials=3, final="")
    run = folder_of(disk)
    with small_disk(disk, 64):
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with Driver(tmp_path, text, "--runs", str(disk / "runs")) as driver:
            assert "cannot be written" in driver.finish(code=2)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        with Driver(tmp_path, text, "--runs", str(disk / "runs")) as driver:
            driver.wait_for(lambda: ended(run) >= 1)
        deadline = time.monotonic() + 120  # until the killed driver's processes are gone
        while subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        with Driver(tmp_path, text, "--runs", str(disk / "runs")) as driver:
            assert "cannot be written" in driver.finish(code=2)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        with Driver(tmp_path, text, "--runs", str(disk / "runs")) as driver:
            driver.finish()
        assert numbers(run) == {trial: found for trial, found in undisturbed.items() if trial in numbers(run)}
        assert len(numbers(run)) == 6


def test_stopped_from_outside_and_continued(undisturbed, tmp_path):
    run, text = folder_of(tmp_path), sweep_text(trials=9, final="")
    stop = [sys.executable, "-m", "orchestrator.cli", "stop", str(run.path)]
    with Driver(tmp_path, text) as driver:
        driver.wait_for(lambda: ended(run) >= 1)
        subprocess.run(stop, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert "asked to stop" in driver.finish(code=3)
    with Driver(tmp_path, text) as driver:
        before = ended(run)
        driver.wait_for(lambda: ended(run) > before)
        driver.process.send_signal(signal.SIGTERM)
        driver.finish(code=3)
    with Driver(tmp_path, text) as driver:
        driver.finish()
    assert numbers(run) == {trial: found for trial, found in undisturbed.items() if trial in numbers(run)}
    assert len(numbers(run)) == 18
