import math
import multiprocessing

import numpy as np
import pytest
import torch
from halves import Halves, SlowHalves, normal, random_images

from aiqn_core.reference import bar, cached_reference, reference_path, reference_statistics


def test_reference_holds_the_covariance():
    for count in (5, 47):
        y = normal(count, 11)
        reference = reference_statistics(y)
        torch.testing.assert_close(reference.factor @ reference.factor.T, torch.cov(y.T))
        assert reference.factor.shape == (11, min(count, 11))
        assert reference.trace == pytest.approx(float(torch.cov(y.T).trace()))
        assert reference.count == count


def test_wrong_features_are_refused():
    broken = normal(11, 7)
    broken[3, 2] = math.nan
    with pytest.raises(ValueError, match="saw NaN or infinity in 1 of 11 rows"):
        reference_statistics(broken)
    with pytest.raises(ValueError, match="saw 1, expected at least 2 images"):
        reference_statistics(normal(1, 7))
    with pytest.raises(ValueError, match=r"saw shape \(7,\)"):
        reference_statistics(normal(7))


def test_wrong_images_are_refused(tmp_path):
    for wrong in (random_images(5).float(), random_images(5)[:, 0], random_images(1)):
        with pytest.raises(ValueError, match="images: saw"):
            cached_reference(wrong, Halves(), tmp_path)


def equal(a, b):
    return all(
        np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


def test_reference_is_computed_once_and_read_back_exactly(tmp_path):
    images, extractor = random_images(11), Halves()
    first, second = (cached_reference(images, extractor, tmp_path) for _ in range(2))
    assert extractor.calls == 1
    assert equal(first, second)
    assert equal(first, reference_statistics(Halves()(images).pooled))


def test_other_images_counts_and_extractors_have_their_own_reference(tmp_path):
    images, extractor = random_images(11), Halves()
    cached_reference(images, extractor, tmp_path)
    cached_reference(images[:10], extractor, tmp_path)
    cached_reference(random_images(11, seed=1), extractor, tmp_path)
    other = Halves(version=2)
    cached_reference(images, other, tmp_path)
    assert (extractor.calls, other.calls) == (3, 1)
    assert len(list(tmp_path.glob("*.npz"))) == 4


@pytest.mark.parametrize("damage", ["torn", "empty", "flipped", "foreign"])
def test_damaged_reference_is_computed_again(tmp_path, damage):
    images, extractor = random_images(11), Halves()
    expected = cached_reference(images, extractor, tmp_path)
    path = reference_path(images, extractor, tmp_path)
    content = bytearray(path.read_bytes())
    at = content.index(np.asarray(expected.mean).tobytes())
    flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    path.write_bytes(
        {"torn": content[: len(content) // 2], "empty": b"", "flipped": flipped, "foreign": b"text"}[damage]
    )
    assert equal(cached_reference(images, extractor, tmp_path), expected)
    assert equal(cached_reference(images, extractor, tmp_path), expected)
    assert extractor.calls == 2
    assert not list(tmp_path.glob(".*.tmp"))


def test_processes_compute_a_reference_once(tmp_path):
    context = multiprocessing.get_context("fork")
    arguments = (random_images(11), SlowHalves(tmp_path), tmp_path)
    processes = [context.Process(target=cached_reference, args=arguments, daemon=True) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.glob("computed-*"))) == 1


def test_progress_is_told_while_it_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr("aiqn_core.reference.SEEN_AT_ONCE", 5)
    told = []
    reference = cached_reference(random_images(13), Halves(), tmp_path, lambda *seen: told.append(seen))
    assert told == [(0, 13), (5, 13), (10, 13), (13, 13)]
    assert equal(reference, reference_statistics(Halves()(random_images(13)).pooled))
    cached_reference(random_images(13), Halves(), tmp_path, lambda *seen: told.append(seen))
    assert len(told) == 4


def test_progress_is_shown_in_a_terminal_alone(capsys, monkeypatch):
    bar(5, 1000)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    bar(512, 1000)
    bar(1000, 1000)
    line = "\rstatistics of real images: "
    assert capsys.readouterr().err == f"{line}512 of 1,000{line}1,000 of 1,000\n"


def test_cache_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("AIQN_CACHE", str(tmp_path / "here"))
    assert reference_path(random_images(5), Halves()).parent == tmp_path / "here"
    monkeypatch.delenv("AIQN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert reference_path(random_images(5), Halves()).parent == tmp_path / ".cache" / "aiqn"


def test_cache_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="set AIQN_CACHE to a folder that can be written"):
        cached_reference(random_images(5), Halves(), tmp_path / "file")
