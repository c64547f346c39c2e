"""Where Ray is and whether it still lives, by its sockets alone. No Ray: what it would tell, it tells after minutes.

A process whose Ray has died may hang in it for good, beyond the reach of signals. So a thread watches, and ends the
process with a code that says what has died; the supervisor knows what to do then.
"""

import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Self

from orchestrator.clocks import Awake
from orchestrator.runs import RunFolderError

RAY_DIED, CLUSTER_LOST = 86, 87  # exit codes: the Ray that this process started; the cluster that it had joined
ADDRESS = "RAY_ADDRESS"
SOCKET_LIMIT = 107  # bytes of a path that Linux takes as the address of a socket
LONGEST_SESSION = len("/ray/session_2026-11-27_14-00-00_000000_4194304/sockets/plasma_store.000")
LOOK_SECONDS = 1.0
CONNECT_SECONDS = 3.0  # in which what listens on a machine that lives has taken a connection
OWN_SECONDS = 3.0  # for so long is Ray dead on this machine before it counts
CLUSTER_SECONDS = 30.0  # the same of a cluster, whose head may be started again
ANSWER_SECONDS = 20.0  # in which an address must answer at the start


def given_address(environ: Mapping[str, str]) -> str | None:
    """The cluster to join as RAY_ADDRESS names it; None where there is none, as with an empty variable or "local"."""
    named = environ.get(ADDRESS, "").strip()
    return named if named not in ("", "local") else None


def answers(address: str, seconds: float) -> bool:
    """Whether something listens at "host:port", or at the path of a socket."""
    try:
        if address.startswith("/"):
            with socket.socket(socket.AF_UNIX) as local:
                local.settimeout(seconds)
                local.connect(address)
        else:
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), seconds).close()
    except (OSError, ValueError):
        return False
    return True


def wait_for_answer(address: str, seconds: float = ANSWER_SECONDS, named: str = "") -> None:
    """Return once a cluster answers at host:port; raises RunFolderError after so many seconds, with the user's name."""
    awake = Awake(gap=2 * LOOK_SECONDS + min(5.0, seconds))
    while not answers(address, min(5.0, seconds)):
        if awake() + LOOK_SECONDS > seconds:
            raise RunFolderError(
                f"{ADDRESS}: no Ray cluster answers at {named or address} ({seconds:.0f} s). Start one there "
                f"(ray start --head), correct the address, or unset {ADDRESS} to use this machine."
            )
        time.sleep(LOOK_SECONDS)


def folder_for_sockets(environ: Mapping[str, str]) -> str:
    """A folder in which Ray's sockets have paths that are short enough, the user's own choice where it is.

    Raises RunFolderError where there is none that can be written.
    """
    wanted = [environ.get("RAY_TMPDIR"), environ.get("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm"]  # noqa: S108  looked at
    tried = []
    for folder in filter(None, wanted):
        if len(os.fsencode(folder)) + LONGEST_SESSION > SOCKET_LIMIT:
            tried.append(f"{folder} is longer than {SOCKET_LIMIT - LONGEST_SESSION} bytes")
        elif not _writable(folder):
            tried.append(f"{folder} cannot be written")
        else:
            return folder
    raise RunFolderError(f"Ray needs a folder for its sockets, but {'; '.join(tried)}. Name another by RAY_TMPDIR.")


def _writable(folder: str) -> bool:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


class Lifeline:
    """Ends this process where Ray is dead: its own after seconds, a cluster's after as long as a restart may take.

    Somebody who has asked the process to end does not wait for a restart; `asked` says whether that is so.
    """

    def __init__(self, addresses: Sequence[str], own: bool, asked: Callable[[], bool] = lambda: False) -> None:
        self.addresses, self.own, self.asked = addresses, own, asked  # where Ray listens
        self.over = Event()
        self.thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self.over.set()

    def _watch(self) -> None:
        awake = Awake()  # a machine that sleeps is not a Ray that is silent
        answered = 0.0  # when all of Ray did so last
        while not self.over.wait(LOOK_SECONDS):
            lives = all(answers(where, CONNECT_SECONDS) for where in self.addresses)
            now = awake()
            answered = now if lives else answered
            patience = OWN_SECONDS if self.own or self.asked() else CLUSTER_SECONDS
            if now - answered >= patience and not self.over.is_set():
                os._exit(RAY_DIED if self.own else CLUSTER_LOST)
