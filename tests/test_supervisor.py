"""The supervisor with drivers that end in every way; each is a real process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.lifeline import CLUSTER_LOST, RAY_DIED

SCRIPT = """
import os, signal, sys, time, typer
from orchestrator.supervisor import supervise
def drive():
    number = len(open("starts").read()) if os.path.exists("starts") else 0
    open("starts", "a").write("x")
    print(f"start {{number}}", flush=True)
    {body}
sys.exit(supervise(drive))
"""


def supervised(folder, body, **options):
    command = [sys.executable, "-c", SCRIPT.format(body=body)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def ran(folder, body, **environment):
    process = supervised(folder, body, env={**os.environ, **environment})
    out, error = process.communicate(timeout=60)
    return process.returncode, out.splitlines(), error


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("pass", 0),
        ("raise typer.Exit(1)", 1),
        ("raise typer.Exit(2)", 2),
        ("os._exit(7)", 7),
        ("raise KeyboardInterrupt", 3),
    ],
)
def test_the_code_is_that_of_the_driver(tmp_path, body, code):
    assert ran(tmp_path, body) == (code, ["start 0"], "")


def test_an_exception_is_a_traceback_and_one(tmp_path):
    code, _, error = ran(tmp_path, "raise ValueError('seen')")
    assert code == 1
    assert error.endswith("ValueError: seen\n")


def test_ray_is_started_again_three_times(tmp_path):
    code, starts, error = ran(tmp_path, f"number < 2 and os._exit({RAY_DIED})")
    assert (code, starts) == (0, ["start 0", "start 1", "start 2"])
    assert error.splitlines() == [f"Ray has died on this machine; starting it again ({n} of 3)." for n in (1, 2)]


def test_the_fourth_time_it_stops_in_words(tmp_path):
    code, starts, error = ran(tmp_path, f"os._exit({RAY_DIED})")
    assert (code, len(starts)) == (3, 4)
    assert error.splitlines()[-1].startswith("Ray has died 4 times on this machine: look at its free memory and disk.")


def test_a_cluster_that_is_lost_is_not_started_by_us(tmp_path):
    code, starts, error = ran(tmp_path, f"os._exit({CLUSTER_LOST})", RAY_ADDRESS="head:6379")
    assert (code, len(starts)) == (3, 1)
    assert error.startswith("The Ray cluster at head:6379 is gone. Nothing is lost")


def test_a_driver_that_is_killed_is_said_to_be(tmp_path):
    code, starts, error = ran(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert (code, len(starts)) == (3, 1)
    assert error.startswith("The driver was ended by SIGKILL. Nothing is lost: run the same command again")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_driver_and_stop_the_starting_again(tmp_path, number):
    body = f"""signal.signal({int(number)}, lambda *_: os._exit({RAY_DIED}))
    print("ready", flush=True)
    time.sleep(600)"""
    with supervised(tmp_path, body) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["start 0\n", "ready\n"]
        process.send_signal(number)
        assert process.wait(60) == 3
        assert process.stdout.read() == ""


def test_the_driver_ends_with_its_supervisor(tmp_path):
    with supervised(tmp_path, "print(os.getpid(), flush=True); time.sleep(600)") as process:
        process.stdout.readline()
        driver = int(process.stdout.readline())
        process.kill()
        process.wait(60)
        assert process.stdout.read() == ""  # its end closes the pipe
        deadline = time.monotonic() + 60
        while Path(f"/proc/{driver}").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not Path(f"/proc/{driver}").exists()
