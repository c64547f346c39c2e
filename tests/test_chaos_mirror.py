"""The mirror's process from its start into a new store to its end, again and again. Part of `make chaos`."""

import os
import subprocess
import sys
import time

import pytest
from chaos import PATIENCE, ROOT
from run_folders import record, write_sweep, write_trial

from orchestrator.runs import RunFolder, read_json, write_json
from orchestrator.stored import QUIET
from orchestrator.stores import default_uri
from orchestrator.tracking.process import STORE_LOST

pytestmark = pytest.mark.chaos
STARTS = 20  # raise it where an abort is suspected: one came in two starts of five


def start(run):
    """The mirror as the driver starts it."""
    command = [sys.executable, "-m", "orchestrator.tracking.process", str(run.path), "--uri", default_uri(run)]
    with (run.path / "mirror.log").open("ab") as log:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **QUIET}
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def recorded(path):
    """A run folder with one trial that has ended."""
    run = RunFolder(path)
    write_sweep(run)
    write_json(run.sweep_json, {**run.read_sweep(), "id": "5a7"})
    write_trial(run, "pixelcnn", "search", 0, [record("pixelcnn", 0, step, 512) for step in (0, 200)])
    return run


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", range(STARTS))
def test_the_mirror_never_aborts_on_a_new_store(tmp_path, number):
    """It is told to end before, while and after it sends first; or its store is deleted while its input is open."""
    run = recorded(tmp_path / "study")
    store = run.path / "mlflow.db"
    with start(run) as mirror:
        if number % 4:
            wait_until([lambda: True, store.exists, lambda: (read_json(run.mirror) or {}).get("runs")][number % 4 - 1])
            mirror.stdin.close()
            expected = 0
        else:
            wait_until(lambda: (read_json(run.mirror) or {}).get("runs"))
            store.unlink()
            expected = STORE_LOST
        code = mirror.wait(PATIENCE)
    assert (code, (run.path / "mirror.log").read_text()) == (expected, "")
