"""The watch that a trial's own process keeps on itself: where nothing is measured for too long, it ends."""

import faulthandler
import os
import time
from collections.abc import Callable, Iterator
from threading import Event, Thread
from typing import Self, TypeVar

from orchestrator.causes import Cause
from orchestrator.clocks import Awake
from orchestrator.runs import TrialFolder

TICK_SECONDS = 1.0
Item = TypeVar("Item")


class Watch:
    """Ends this process where it measures nothing for `seconds` of being awake, with all stacks in the trial's log.

    A thread of Python's counts its own ticks. Where it cannot, because a thread in C keeps Python's lock, the stacks
    are written all the same, by a thread that needs no lock, and the driver ends the process.
    """

    def __init__(self, folder: TrialFolder, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self.seconds, self.awake = folder, seconds, Awake(clock)
        self.since: float | None = None  # None while somebody else has the word
        self.over, self.thread = Event(), Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self.over.set()
        self.thread.join()

    def _keep(self) -> None:
        with self.folder.log.open("a") as file:
            while not self.over.wait(TICK_SECONDS):
                now, since = self.awake(), self.since
                faulthandler.dump_traceback_later(self.seconds + TICK_SECONDS, exit=False, file=file)
                if since is not None and now - since >= self.seconds:
                    file.write(f"nothing was measured for {self.seconds:g} s\n")
                    file.flush()
                    faulthandler.dump_traceback(file, all_threads=True)
                    self.folder.update_status(cause=Cause.SILENT)  # "running" still: what follows, the driver decides
                    os._exit(1)
            faulthandler.cancel_dump_traceback_later()


def watched(items: Iterator[Item], folder: TrialFolder, seconds: float | None, *, loads: bool = True) -> Iterator[Item]:
    """The items, with a watch on the time that each but the first takes to come; None: no watch.

    Until the first has come a trial loads: models, checkpoints, the libraries of its optimizer. Its status says when
    that is over; a trial that hangs before is ended by the driver. Where nothing `loads`, all are watched.
    """
    first = next(items, None) if loads else None
    folder.update_status(loaded=True, sync=False)
    if first is not None:
        yield first
    elif loads:
        return
    if seconds is None:
        yield from items
        return
    with Watch(folder, seconds) as watch:
        while True:
            watch.since = watch.awake.seconds
            item = next(items, None)
            watch.since = None
            if item is None:
                return
            yield item
