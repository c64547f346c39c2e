"""A process beside the driver that outlives whatever Ray does to it: it starts the driver, and starts it again.

The driver is a fork, so it begins where it was called. It ends with its supervisor, and with a signal to either.
"""

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import typer

from orchestrator.lifeline import ADDRESS, CLUSTER_LOST, RAY_DIED
from orchestrator.outcome import INTERRUPTED

STARTS_AGAIN = 3
PR_SET_PDEATHSIG = 1
SHOW_CURSOR = "\x1b[?25h"


def supervise(drive: Callable[[], None]) -> int:
    """Call `drive` in a process of its own, and again where the Ray that it started has died; gives the exit code."""
    with Forwarding() as signals:
        for again in range(STARTS_AGAIN + 1):
            code = signals.wait_for(start(drive))
            if code not in (RAY_DIED, CLUSTER_LOST):
                return code
            show_cursor()
            if code == CLUSTER_LOST:
                where = os.environ.get(ADDRESS, "")
                tell(
                    f"The Ray cluster at {where} is gone. Nothing is lost: run the same command again once it is back."
                )
                return INTERRUPTED
            if signals.asked:
                return INTERRUPTED
            if again < STARTS_AGAIN:
                tell(f"Ray has died on this machine; starting it again ({again + 1} of {STARTS_AGAIN}).")
    tell(
        f"Ray has died {STARTS_AGAIN + 1} times on this machine: look at its free memory and disk. Nothing is lost: "
        "run the same command again to continue."
    )
    return INTERRUPTED


def start(drive: Callable[[], None]) -> int:
    """Fork; the child calls `drive` and ends. Gives the child's process id."""
    flush()
    supervisor = os.getpid()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if os.getppid() != supervisor:  # it died before we asked to die with it
            os._exit(INTERRUPTED)
        drive()
        code = 0
    except typer.Exit as end:
        code = end.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException:
        with suppress(Exception):
            traceback.print_exc()
    finally:
        flush()
        os._exit(code)


class Forwarding:
    """Passes SIGINT and SIGTERM on to the driver, for the time of the block; a second one kills it where it hangs."""

    def __init__(self) -> None:
        self.child, self.asked = 0, False
        self.before: dict[int, object] = {}

    def __enter__(self) -> "Forwarding":
        self.before = {number: signal.signal(number, self._forward) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *reason: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        with suppress(ProcessLookupError):
            os.kill(self.child, number)

    def wait_for(self, child: int) -> int:
        """The exit code of the driver; 128 and the signal's number, as in a shell, where one has ended it."""
        self.child = child
        if self.asked:  # while it was forked
            os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return code
        show_cursor()
        name = signal.Signals(-code).name
        tell(f"The driver was ended by {name}. Nothing is lost: run the same command again to continue.")
        return INTERRUPTED


def tell(line: str) -> None:
    """Say a line, wherever anybody still listens."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def show_cursor() -> None:
    """The view hides it, and a driver that ends at once does not bring it back."""
    with suppress(OSError, ValueError):
        if sys.stdout.isatty():
            print(SHOW_CURSOR, end="", flush=True)


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
