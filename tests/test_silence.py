"""The watch of a trial on itself; what it ends is a real process, in the chaos tests and here."""

import subprocess
import sys

from orchestrator.runs import RunFolder
from orchestrator.silence import watched

SCRIPT = """
import sys, time
from pathlib import Path
from orchestrator import silence
from orchestrator.runs import TrialFolder
silence.TICK_SECONDS = 0.05
def items():
    time.sleep(0.5)  # while it loads: nobody's silence
    yield 1
    yield 2
    time.sleep(600)
for item in silence.watched(items(), TrialFolder(Path(sys.argv[1])), 0.2):
    print(item, flush=True)
"""


def test_a_trial_that_hangs_once_it_has_loaded_ends_itself_with_its_stacks(tmp_path):
    folder = RunFolder(tmp_path).trial("cnn-search-0")
    folder.path.mkdir(parents=True)
    command = [sys.executable, "-c", SCRIPT, str(folder.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (1, "1\n2\n", "")
    assert "nothing was measured for 0.2 s" in folder.log.read_text()
    assert 'File "<string>", line 11 in items' in folder.log.read_text()
    assert folder.read_status()["cause"] == "silent"


def test_a_trial_has_loaded_once_it_has_measured(tmp_path):
    folder = RunFolder(tmp_path).trial("cnn-search-0")
    folder.path.mkdir(parents=True)

    def items():
        yield bool(folder.read_status().get("loaded"))
        yield bool(folder.read_status().get("loaded"))

    assert list(watched(items(), folder, None)) == [False, True]
    assert list(watched(items(), folder, 60.0)) == [True, True]
    assert list(watched(iter(()), folder, 60.0)) == []
