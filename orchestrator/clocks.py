"""Time as a process lives it: a pause of the process or of its machine is nobody's silence."""

import time
from collections.abc import Callable

GAP_SECONDS = 5.0  # of a longer gap between two looks no more is counted: the process, or its machine, was suspended


class Awake:
    """Seconds for which this process was awake; whoever counts by it must look at it every second or so.

    Monotonic: a clock that is set forward or back changes nothing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, gap: float = GAP_SECONDS) -> None:
        self.clock, self.gap = clock, gap
        self.seconds, self.last = 0.0, clock()

    def __call__(self) -> float:
        now = self.clock()
        self.seconds += min(now - self.last, self.gap)
        self.last = now
        return self.seconds
