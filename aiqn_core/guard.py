"""Runs a command, and ends all of it where it is told to, or where whoever started it is gone.

    python -I -S guard.py STOP DONE SECONDS WORD...

A process that was killed cleans up nothing, so this is a process of its own: it lives while the other end of the pipe
STOP is open. When that closes, by intent or by death, the command's process group gets SIGTERM, and after SECONDS
SIGKILL. The pipe DONE is told how the command ended. Standard library only.
"""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

TICK_SECONDS = 0.05
SUBREAPER = 36  # prctl: what a command leaves behind becomes a child of this process, whatever its group


def main(stop: int, done: int, seconds: float, words: list[str]) -> None:
    """Start the command, wait for its end, and leave nothing of it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # a handler, which the command does not inherit
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    try:
        process = subprocess.Popen(words, start_new_session=True)  # kept: it reaps its child where it is forgotten
    except OSError as error:
        tell(done, error=f"{words[0]} cannot be started ({error.strerror})")
        return
    command, code, asked = process.pid, None, False
    while code is None:
        asked = bool(select.select([stop], [], [], TICK_SECONDS)[0])
        code = reaped(command)
        if asked:
            break
    if asked:
        signalled(command, signal.SIGTERM)
        until = time.monotonic() + seconds
        while there(command) and time.monotonic() < until:
            time.sleep(TICK_SECONDS)
            last = reaped(command)
            code = code if last is None else last
    kill_all(command)
    tell(done, code=code)


def reaped(command: int) -> int | None:
    """The exit code of the command, negative for a signal, once it has ended; its orphans are reaped too."""
    code = None
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == command:
                code = os.waitstatus_to_exitcode(status)
            if pid == 0:
                break
    return code


def there(group: int) -> bool:
    """Whether a process group has a member."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def signalled(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def kill_all(group: int) -> None:
    """SIGKILL for the group and for what left it: with its parent killed that is a child of this process."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        signalled(group, signal.SIGKILL)
        own = children()
        for pid in own:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        reaped(group)
        if not own and not there(group):
            return
        time.sleep(TICK_SECONDS / 10)


def children() -> list[int]:
    """The children of this process."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):  # ended meanwhile
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(entry.name))
    return found


def tell(done: int, **what: object) -> None:
    with suppress(OSError):  # nobody is left to hear it
        os.write(done, json.dumps(what).encode())


if __name__ == "__main__":
    # Not a child of who starts it: Ray ends the children of a worker before the worker itself.
    if os.fork():
        os._exit(0)
    os.setsid()
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
