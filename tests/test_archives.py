import gzip
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from aiqn_core.archives import ArchiveError, digest, members, named

FILES = {"one/a.bin": b"first", "one/b.bin": b"", "two/c.bin": bytes(range(256)) * 99}


def tar(path, mode="w:gz", files=FILES, extra=()):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in extra:
            archive.addfile(info)
    return path


def zipped(path, files=FILES):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def read(source):
    return {member.name: member.read() for member in members(source)}


def test_a_folder_a_tar_and_a_zip_give_the_same_files(tmp_path):
    for name, content in FILES.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    assert read(tmp_path / "folder") == FILES
    assert read(tar(tmp_path / "x.tar.gz")) == FILES
    assert read(tar(tmp_path / "x.tar", "w")) == FILES
    assert read(zipped(tmp_path / "x.zip")) == FILES


def test_archives_in_a_folder_are_opened(tmp_path):
    tar(tmp_path / "x.tar", "w")
    zipped(tmp_path / "y.zip", {"three/d.bin": b"d"})
    assert read(tmp_path) == {**FILES, "three/d.bin": b"d"}


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil"])
def test_members_that_point_outside_are_refused(tmp_path, name):
    for archive in (tar(tmp_path / "x.tar.gz", files={name: b"x"}), zipped(tmp_path / "x.zip", {name: b"x"})):
        with pytest.raises(ArchiveError, match="points outside"):
            read(archive)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    info = tarfile.TarInfo("link")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(ArchiveError, match="link or a device"):
        read(tar(tmp_path / "x.tar", "w", extra=[info]))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("suffix", [".tar.gz", ".zip", ".tar"])
def test_truncated_archives_are_one_clear_error(tmp_path, suffix, share):
    path = tmp_path / f"x{suffix}"
    zipped(path) if suffix == ".zip" else tar(path, "w" if suffix == ".tar" else "w:gz")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * min(len(whole), 25_000))])
    with pytest.raises(ArchiveError, match="damaged"):
        read(path)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("kind", ["cut between members", "a damaged header"])
def test_a_tar_that_only_seems_shorter_is_refused(tmp_path, mode, kind):
    """tarfile itself takes both for the end of the archive, without an error."""
    content = bytearray(tar(tmp_path / "x.tar", "w").read_bytes())
    second = 2 * tarfile.BLOCKSIZE  # behind the header and the one block of the first member
    if kind == "cut between members":
        del content[second:]
    else:
        content[second + 20] ^= 255
    path = tmp_path / "y.tar.gz"
    path.write_bytes(gzip.compress(content) if mode == "w:gz" else content)
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["one/a.bin"]
    with pytest.raises(ArchiveError, match="damaged or incomplete"):
        read(path)


def test_zips_with_passwords_and_links(tmp_path):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ArchiveError, match=r"link.png is a link"):
        read(tmp_path / "link.zip")
    path = zipped(tmp_path / "secret.zip", {"a.bin": b"x"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag of an encrypted member
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"a.bin needs a password"):
        read(path)


def test_hidden_files_are_left_out(tmp_path):
    files = {"./a/1.bin": b"x", "a/.DS_Store": b"y", "__MACOSX/a/._1.bin": b"z", ".git/config": b"w"}
    for source in (zipped(tmp_path / "x.zip", files), tar(tmp_path / "x.tar.gz", files=files)):
        assert read(source) == {"a/1.bin": b"x"}
    for name, content in files.items():
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(content)
    assert read(tmp_path / "x") == {"a/1.bin": b"x"}


def test_a_folder_that_cannot_be_listed_or_is_a_link_is_not_passed_over(tmp_path, monkeypatch):
    (tmp_path / "x" / "closed").mkdir(parents=True)
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "again").symlink_to(tmp_path / "y")
    with pytest.raises(ArchiveError, match=r"again is a link to a folder"):
        read(tmp_path / "y")
    listed = Path.iterdir

    def iterdir(path):
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(ArchiveError, match=r"closed: cannot be read .*Permission denied"):
        read(tmp_path / "x")


def test_a_text_file_that_is_called_an_archive(tmp_path):
    (tmp_path / "x.tar.gz").write_text("<html>not found</html>")
    with pytest.raises(ArchiveError, match="damaged or incomplete"):
        read(tmp_path / "x.tar.gz")
    with pytest.raises(ArchiveError, match="no such file"):
        read(tmp_path / "nowhere")


def test_digests_of_a_known_text(tmp_path):
    (tmp_path / "x").write_bytes(b"The quick brown fox jumps over the lazy dog")
    assert digest(tmp_path / "x", "md5") == "9e107d9d372bb6826bd81d3542a419d6"
    sha256 = "d7a8fbb307d7809469ca9abcb0082e4f8d5651e46d3cdb762d02d0bf37c9e592"
    assert digest(tmp_path / "x", "sha256") == sha256


def test_files_of_a_name_are_found_where_people_unpack_them(tmp_path):
    for name in ("x", "one/x", "one/y", "one/two/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert named(tmp_path, "x") == [tmp_path / "one" / "x", tmp_path / "x"]
    assert named(tmp_path / "one" / "y", "y") == [tmp_path / "one" / "y"]
    assert named(tmp_path / "one" / "y", "x") == []
