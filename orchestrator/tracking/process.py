"""The process of the mirror, beside the driver: it reads the run folder, and sends what is new."""

import argparse
import math
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.runs import RunFolder, RunFolderError
from orchestrator.stored import QUIET
from orchestrator.stores import OUTDATED, database, default_uri, plain
from orchestrator.tracking.progress import Progress

if TYPE_CHECKING:
    from mlflow import MlflowClient

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60.0  # how long the end of a sweep waits for a server that is away
NICENESS = 5  # trials go first
STORE_LOST = 75  # the exit code where the store's file was deleted under us


class Mirroring:
    """The mirror as a process of its own, which is started again should it die."""

    def __init__(self, run: RunFolder, uri: str | None) -> None:
        self.run, self.uri = run, uri or default_uri(run)
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "orchestrator.tracking.process", str(self.run.path), "--uri", self.uri]
        with (self.run.path / "mirror.log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **QUIET},
                start_new_session=True,
            )

    def revive(self) -> None:
        """Start the mirror again where it has died."""
        if self.process.poll() is not None:
            self.process = self._start()

    def close(self) -> None:
        """Tell the mirror that this was all."""
        if self.process.stdin:
            self.process.stdin.close()

    def catch_up(self) -> None:
        """Let the mirror send what is left, and wait for it, as long as it gets on."""
        for _ in range(2):  # should it have died, then once more
            self.close()
            noted, deadline = 0.0, time.monotonic() + 2 * PATIENCE_SECONDS
            while self.process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
                if self.run.mirror.exists() and (written := self.run.mirror.stat().st_mtime) != noted:
                    noted, deadline = written, time.monotonic() + 2 * PATIENCE_SECONDS
            if self.process.poll() is None:
                self.process.kill()
                return
            if self.process.returncode in (0, 1):
                return
            self.process = self._start()


@contextmanager
def mirroring(run: RunFolder, uri: str | None) -> Iterator[Mirroring]:
    """Run the mirror while the block runs, then let it catch up.

    The mirror ends when its standard input closes, so it also ends, with everything sent, when the driver is killed.
    """
    beside = Mirroring(run, uri)
    try:
        yield beside
    except BaseException:
        beside.close()  # nobody waits for what is left; the next start sends it
        raise
    beside.catch_up()


def mirror(run: RunFolder, uri: str, last_round: threading.Event) -> bool:
    """Keep the store up to date until `last_round` is set and everything is sent; False where patience ended first."""
    progress, deadline = Progress(run, uri), math.inf
    file = database(run, uri)
    identity: int | None = None
    while True:
        last = last_round.is_set()  # read before the folder, so that nothing written before it is missed
        if last and deadline == math.inf:
            deadline = time.monotonic() + PATIENCE_SECONDS
        begin, error, hopeless = time.monotonic(), "", False
        progress.look()
        looked = time.monotonic() - begin
        try:
            if progress.recorded or last:
                progress.send(opened(run, uri), last)
        except Exception as reason:  # whatever a store or the way to it may raise: wait, and try again
            error = str(reason) if isinstance(reason, RunFolderError) else plain(reason, uri)
            hopeless = isinstance(reason, RunFolderError) or OUTDATED in str(reason)
        progress.note(error, last)
        if last and (not error or hopeless or time.monotonic() > deadline):
            return not error
        if file is not None:  # one that was deleted takes what is written to it along
            found = file.stat().st_ino if file.exists() else None
            if identity is not None and identity != found:
                raise SystemExit(STORE_LOST)
            identity = found
        last_round.wait(max(POLL_SECONDS, 10 * looked) * (5 if error else 1))


def client(uri: str) -> "MlflowClient":
    """Of a store; imported only now, so that the first trials have the machine to themselves as they start."""
    from mlflow import MlflowClient

    return MlflowClient(uri)


def opened(run: RunFolder, uri: str) -> "MlflowClient":
    """A client of a store. A new one of SQLite is made whole or not at all: MLflow never mends one half made."""
    file = database(run, uri)
    if file is not None and file.parent.is_dir() and not file.exists() and "?" not in uri:
        ending = f".{uuid.uuid4().hex[:8]}.new"  # never one that MLflow has seen: it keeps what it has opened
        new = file.with_name(file.name + ending)
        try:
            client(uri + ending).search_experiments()
            if not file.exists():  # another process may have made it meanwhile
                new.rename(file)
        finally:
            new.unlink(missing_ok=True)
    return client(uri)


def main() -> None:
    """The mirror process: `python -m orchestrator.tracking.process RUN --uri URI`, until standard input closes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--uri", required=True)
    arguments = parser.parse_args()
    os.environ.update(QUIET)
    os.nice(NICENESS)
    with suppress(OSError):  # where the kernel shares by sessions, niceness counts only within one
        Path("/proc/self/autogroup").write_text(str(NICENESS))
    closed = threading.Event()

    def wait_for_the_end() -> None:
        while os.read(0, 1024):  # not through sys.stdin, whose lock Python wants at its end
            pass
        closed.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    run = RunFolder(arguments.run)
    with run.mirror_lock():  # of a killed driver, whose mirror may still send
        sent = mirror(run, arguments.uri, closed)
    sys.exit(0 if sent else 1)


if __name__ == "__main__":
    main()
