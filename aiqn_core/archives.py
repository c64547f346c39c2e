"""Files in a folder, a tar or a zip, one after the other, as bytes: nothing is ever extracted."""

import contextlib
import hashlib
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

LARGEST_MEMBER = 2**31  # bytes; the largest member of the data sets we know, of ImageNet at 64 pixels, has 1.6 GB
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
ENCRYPTED = 1  # bit 0 of a zip member's flags
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    NotImplementedError,
)


class ArchiveError(ValueError):
    """A file that is no archive, a truncated one, or one with members that try to leave it."""


class Member(NamedTuple):
    """A file of a source; `read` must be called before the next member is asked for."""

    name: str  # with `/`, relative to the source, without `./`
    read: Callable[[], bytes]

    @property
    def base(self) -> str:
        """The last part of the name."""
        return PurePosixPath(self.name).name


def members(source: Path) -> Iterator[Member]:
    """The files of a folder (by name) or an archive (in its order); archives directly in a folder are opened too.

    Hidden files are left out, and so is what macOS adds to a zip. Raises ArchiveError for what cannot be read.
    """
    if source.is_dir():
        for path in _files(source):
            if path.name.endswith(ARCHIVES) and path.parent == source:
                yield from _archive(path)
            else:
                yield Member(path.relative_to(source).as_posix(), lambda path=path: _read(path))  # type: ignore[misc]
    elif source.is_file():
        yield from _archive(source) if source.name.endswith(ARCHIVES) else [Member(source.name, lambda: _read(source))]
    else:
        raise ArchiveError(f"{source}: no such file or folder")


def named(source: Path, name: str) -> list[Path]:
    """The files of that name: the source itself, those directly in it and those in its folders."""
    if source.is_file():
        return [source] if source.name == name else []
    return sorted(path for path in (*source.glob(name), *source.glob(f"*/{name}")) if path.is_file())


def digest(path: Path, algorithm: str) -> str:
    """The MD5 or SHA-256 of a file, whichever was published; MD5 is no protection against an attacker."""
    with _told(path), path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder, sorted; a folder that cannot be listed is an error, where `rglob` passes it over."""
    with _told(folder):
        entries = sorted(folder.iterdir())
    for path in entries:
        if _hidden(path.name):
            continue
        if path.is_dir():
            if path.is_symlink():  # it may hold itself
                raise ArchiveError(f"{path} is a link to a folder, expected files and folders; put the folder there")
            yield from _files(path)
        elif path.is_file():
            yield path


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _read(path: Path) -> bytes:
    with _told(path):
        size = path.stat().st_size
        if size > LARGEST_MEMBER:
            raise ArchiveError(f"{path}: saw {size} bytes, expected at most {LARGEST_MEMBER}")
        return path.read_bytes()


def _archive(path: Path) -> Iterator[Member]:
    with _told(path):
        for name, read in _zip(path) if path.suffix == ".zip" else _tar(path):
            if not _hidden(name):
                clean = PurePosixPath(name).as_posix()
                yield Member(clean, lambda read=read: _telling(path, read))  # type: ignore[misc]


def _telling(path: Path, read: Callable[[], bytes]) -> bytes:
    with _told(path):
        return read()


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Whatever the libraries raise on damaged bytes, as one clear error."""
    try:
        yield
    except DAMAGE as error:
        raise ArchiveError(
            f"{path}: cannot be read to its end ({error}); it is damaged or incomplete, fetch it again"
        ) from None


def _tar(path: Path) -> Iterator[Member]:
    with tarfile.open(path) as tar:
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of a million
            _check(path, info.name, info.size)
            if info.isdir():
                continue
            if not info.isreg():
                raise ArchiveError(f"{path}: {info.name} is a link or a device, expected files and folders only")
            yield Member(info.name, lambda info=info: _whole(path, info.name, tar.extractfile(info).read(), info.size))  # type: ignore[misc, union-attr]
        _check_end(path, tar)


def _check_end(path: Path, tar: tarfile.TarFile) -> None:
    """Raises ArchiveError where a tar stops before the block of zeros that ends one.

    tarfile takes a damaged header, or the end of the file between two members, for the end of the archive.
    """
    file = tar.fileobj
    assert file is not None
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise ArchiveError(
            f"{path}: ends too early, or has a damaged part; it is damaged or incomplete, fetch it again"
        )
    while file.read(2**20):  # to the checksum at the end of a .gz
        pass


def _zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            _check(path, info.filename, info.file_size)
            if info.flag_bits & ENCRYPTED:
                raise ArchiveError(f"{path}: {info.filename} needs a password; unpack it and give the folder")
            if stat.S_ISLNK(info.external_attr >> 16):
                raise ArchiveError(f"{path}: {info.filename} is a link, expected files and folders only")
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
