"""On PYTHONPATH, this lets every evaluation wait while the file $AIQN_TEST_HELD exists, for some seconds each.

So a test decides how far a sweep gets, whatever the speed of the machine, and a sweep that is asked to stop still can.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

SECONDS = 5.0

if held := os.environ.get("AIQN_TEST_HELD"):
    with suppress(ImportError):  # in a process that has nothing of ours on its path
        from orchestrator.runs import TrialFolder

        append = TrialFolder.append_metrics

        def append_when_released(self, records, **options):
            deadline = time.monotonic() + SECONDS
            while Path(held).exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            append(self, records, **options)

        TrialFolder.append_metrics = append_when_released
