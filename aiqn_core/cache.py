"""The folder that keeps what is slow to compute: statistics of real images, scores of trivial generators.

Standard library only: a sweep asks for the folder before anything heavy is imported.
"""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "AIQN_CACHE"


class CacheError(OSError):
    """The cache cannot be used on this machine; no configuration is to blame for it."""


def cache_folder(chosen: Path | str | None = None) -> Path:
    """The folder of the cache: the chosen one, or else $AIQN_CACHE, or else ~/.cache/aiqn.

    Raises CacheError where none is named and the user has no home.
    """
    if named := chosen or os.environ.get(VARIABLE):
        return Path(named)
    try:
        return Path.home() / ".cache" / "aiqn"
    except RuntimeError:
        raise CacheError(f"the user has no home for a cache; {_advice()}") from None


def check_cache() -> None:
    """Raises CacheError where a trial could not keep statistics on this machine; makes the folder, leaves no file."""
    probe = cache_folder() / f".preflight-{socket.gethostname()}-{os.getpid()}"
    with locked(probe):
        write_whole(probe, bytes(65536))
    probe.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file alone, waiting for any process that holds it; the system frees it when a process dies."""
    with contextlib.ExitStack() as stack:
        with _told(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("a"))
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that readers see all of it or nothing; raises CacheError where it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _told(path.parent):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """An error of the file system within the block becomes a CacheError that says what to do."""
    try:
        yield
    except OSError as error:
        message = f"{folder}: reference statistics cannot be kept here ({error.strerror or error})"
        raise CacheError(f"{message}; {_advice()}") from error


def _advice() -> str:
    return f"set {VARIABLE} to a folder that can be written"
