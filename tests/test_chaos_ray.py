"""Ray dies in every way, does not start, cannot be reached; a terminal and a UI go away. Part of `make chaos`."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from chaos import PATIENCE, ROOT, Driver, check_ledger, ended, folder_of, of_kind, sweep_text
from measured import numbers

from orchestrator.lifeline import answers
from orchestrator.runs import load_runs

pytestmark = pytest.mark.chaos
TRIALS = 5
TEXT = sweep_text(trials=TRIALS, final="")
DEATHS = [  # one after the other in one sweep, which starts Ray again three times
    [("raylet",), ("gcs",), ("raylet", "workers")],
    [("workers",), ("monitors",), ("gcs", "raylet", "workers", "agents", "monitors"), ("agents",)],
]
DIED = "Ray has died on this machine; starting it again"


def kill(driver, kinds):
    """Kill all of Ray's processes of these kinds; how many there were."""
    found = [process for kind in kinds for process in of_kind(driver.process.pid, kind)]
    for process in found:
        os.kill(process, signal.SIGKILL)
    return len(found)


@pytest.mark.parametrize("deaths", DEATHS, ids=["raylet-gcs-both", "workers-monitors-all-agents"])
def test_a_sweep_outlives_its_ray(few_undisturbed, tmp_path, deaths):
    run, fatal = folder_of(tmp_path), 0
    with Driver(tmp_path, TEXT) as driver:
        for kinds in deaths:
            before = ended(run)
            driver.wait_for(lambda before=before: ended(run) > before and of_kind(driver.process.pid, "workers"))
            assert kill(driver, kinds) >= 1
            if {"raylet", "gcs"} & {*kinds}:
                fatal += 1
                driver.wait_for(lambda: driver.output.read_text().count(DIED) >= fatal)  # noqa: B023  at once
        text = driver.finish()
    assert "(raylet)" not in text  # nothing of Ray's inner state
    assert fatal <= text.count(DIED) <= fatal + (("agents",) in deaths)  # with its agents a raylet may end, or not
    check_ledger(run, TRIALS, finals=0)
    assert numbers(run) == few_undisturbed


def test_ray_that_dies_as_it_starts(few_undisturbed, tmp_path):
    run = folder_of(tmp_path)
    with Driver(tmp_path, TEXT) as driver:
        driver.wait_for(lambda: of_kind(driver.process.pid, "raylet"))
        kill(driver, ["raylet"])
        driver.finish()
    assert numbers(run) == few_undisturbed


def test_ctrl_c_ends_a_sweep_whose_ray_is_dead(tmp_path):
    run = folder_of(tmp_path)
    with Driver(tmp_path, TEXT) as driver:
        driver.wait_for(lambda: ended(run) >= 1)
        kill(driver, ["raylet", "workers"])
        driver.process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        driver.finish(3)
        assert time.monotonic() - begin < 15  # the promise itself


def test_a_second_ctrl_c_ends_it_at_once(tmp_path):
    run = folder_of(tmp_path)
    with Driver(tmp_path, TEXT.replace("steps: 60", "steps: 6000000").replace("every: 20", "every: 3000000")) as driver:
        driver.wait_for(
            lambda: any((run.trials / name).exists() for name in ("pixelcnn-search-0", "pixeliqn-search-0"))
        )
        driver.process.send_signal(signal.SIGINT)
        time.sleep(1.0)  # two signals within half a second are one
        driver.process.send_signal(signal.SIGINT)
        driver.finish(3)


@pytest.mark.parametrize("variables", [{"RAY_ADDRESS": ""}, {"TMPDIR": "long"}, {"HOME": "unwritable"}], ids=str)
def test_ray_starts_whatever_the_environment(tmp_path, variables):
    long, home = tmp_path / ("d" * 90), tmp_path / "file"
    long.mkdir()
    home.write_text("a file is no folder")
    known = {"long": str(long), "unwritable": str(home / "home"), "": ""}
    with Driver(tmp_path, TEXT, "--set", "search.trials=1", **{k: known[v] for k, v in variables.items()}) as driver:
        driver.finish()
    assert ended(folder_of(tmp_path)) == 2


def test_a_cluster_that_does_not_answer_is_said(tmp_path):
    with Driver(tmp_path, TEXT, RAY_ADDRESS="127.0.0.1:1") as driver:
        text = driver.finish(2)
    assert "RAY_ADDRESS: no Ray cluster answers at 127.0.0.1:1 (20 s)" in text
    assert len(text.splitlines()) == 1


HANGUP = """
import os, pty, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_terminal_that_goes_away(few_undisturbed, tmp_path):
    """As under nohup: SIGHUP is ignored, and then everything that is printed fails."""
    run, (outer, inner) = folder_of(tmp_path), pty.openpty()
    (tmp_path / "study.yaml").write_text(TEXT)
    command = [sys.executable, "-c", HANGUP, sys.executable, "-m", "orchestrator.cli", "sweep", "study.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdin=inner, stdout=inner, stderr=inner, start_new_session=True
    )
    os.close(inner)
    try:
        deadline = time.monotonic() + PATIENCE
        while ended(run) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            os.read(outer, 65536)
        os.close(outer)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
    check_ledger(run, TRIALS, finals=0)
    assert numbers(run) == few_undisturbed


def test_a_killed_ui_leaves_no_server(tmp_path):
    with Driver(tmp_path, TEXT, "--set", "search.trials=1") as driver:
        driver.finish()
    assert load_runs(folder_of(tmp_path).path)
    command = [sys.executable, "-m", "orchestrator.cli", "ui", "runs/study", "--port", "51731"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        address = re.search(r"http://127.0.0.1:51731/", process.stdout.readline())  # the first line, and the only one
        assert urllib.request.urlopen(address[0], timeout=30).status == 200  # it answers once it is named
        process.kill()
    deadline = time.monotonic() + 60
    while answers("127.0.0.1:51731", 1):
        assert time.monotonic() < deadline
        time.sleep(0.05)
