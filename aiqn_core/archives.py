"""Files in a folder, a tar or a zip, one after the other, as bytes: nothing is ever extracted."""

import contextlib
import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

LARGEST_MEMBER = 2**30  # bytes; the largest member of the data sets we know has 400 MB
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")


class ArchiveError(ValueError):
    """A file that is no archive, a truncated one, or one with members that try to leave it."""


class Member(NamedTuple):
    """A file of a source; `read` must be called before the next member is asked for."""

    name: str  # with `/`, relative to the source
    read: Callable[[], bytes]

    @property
    def base(self) -> str:
        """The last part of the name."""
        return PurePosixPath(self.name).name


def members(source: Path) -> Iterator[Member]:
    """The files of a folder (by name) or an archive (in its order); archives directly in a folder are opened too.

    Raises ArchiveError for what cannot be read.
    """
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if not path.is_file():
                continue
            if path.name.endswith(ARCHIVES) and path.parent == source:
                yield from _archive(path)
            else:
                yield Member(path.relative_to(source).as_posix(), lambda path=path: _read(path))  # type: ignore[misc]
    elif source.is_file():
        yield from _archive(source) if source.name.endswith(ARCHIVES) else [Member(source.name, lambda: _read(source))]
    else:
        raise ArchiveError(f"{source}: no such file or folder")


def md5(path: Path) -> str:
    """The MD5 of a file, which is how data sets are published; no protection against an attacker."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _read(path: Path) -> bytes:
    if path.stat().st_size > LARGEST_MEMBER:
        raise ArchiveError(f"{path}: saw {path.stat().st_size} bytes, expected at most {LARGEST_MEMBER}")
    return path.read_bytes()


def _archive(path: Path) -> Iterator[Member]:
    with _told(path):
        for name, read in _zip(path) if path.suffix == ".zip" else _tar(path):
            yield Member(name, lambda read=read: _telling(path, read))  # type: ignore[misc]


def _telling(path: Path, read: Callable[[], bytes]) -> bytes:
    with _told(path):
        return read()


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Whatever the libraries raise on damaged bytes, as one clear error."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise ArchiveError(
            f"{path}: cannot be read to its end ({error}); it is damaged or incomplete, fetch it again"
        ) from None


def _tar(path: Path) -> Iterator[Member]:
    with tarfile.open(path) as tar:
        for info in tar:
            _check(path, info.name, info.size)
            if info.isdir():
                continue
            if not info.isreg():
                raise ArchiveError(f"{path}: {info.name} is a link or a device, expected files and folders only")
            yield Member(info.name, lambda info=info: _whole(path, info.name, tar.extractfile(info).read(), info.size))  # type: ignore[misc, union-attr]


def _zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            _check(path, info.filename, info.file_size)
            if not info.is_dir():
                yield Member(info.filename, lambda info=info: _unzip(path, archive, info))  # type: ignore[misc]


def _unzip(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with archive.open(info) as file:  # no more than was declared, whatever it would unpack to
        return _whole(path, info.filename, file.read(info.file_size + 1), info.file_size)


def _whole(path: Path, name: str, content: bytes, size: int) -> bytes:
    if len(content) != size:
        raise ArchiveError(f"{path}: {name} has {len(content)} bytes, expected {size}; it is damaged, fetch it again")
    return content


def _check(path: Path, name: str, size: int) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[:1]:
        raise ArchiveError(f"{path}: saw the member {name!r}, which points outside the archive; do not use this file")
    if size > LARGEST_MEMBER:
        raise ArchiveError(f"{path}: {name} has {size} bytes, expected at most {LARGEST_MEMBER}")
