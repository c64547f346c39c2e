"""Signals that end a sweep in order, and at once where they come again."""

import os
import signal
import time
from types import FrameType
from typing import Any, Self

ONE_SIGNAL_SECONDS = 0.5  # a terminal and our supervisor both pass on the same one


class Interrupt:
    """SIGINT and SIGTERM finish the evaluations in progress, then stop; a second one stops at once.

    Entered once more after Ray has started, which sets handlers of its own.
    """

    def __init__(self) -> None:
        self.asked, self.when = False, 0.0
        self.before: list[dict[int, Any]] = []

    def _stop(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.asked and now - self.when > ONE_SIGNAL_SECONDS:
            os._exit(3)  # checkpoints are on disk, and Ray's processes end with ours
        self.asked, self.when = True, self.when or now

    def __enter__(self) -> Self:
        self.before.append({number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)})
        return self

    def __exit__(self, *reason: object) -> None:
        for number, handler in self.before.pop().items():
            signal.signal(number, handler)
