"""MNIST's format: small files written by hand, and the genuine Fashion-MNIST where Debian's package is installed."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from aiqn_core.config import DataConfig
from aiqn_core.data import load_data
from aiqn_core.idx import NAMES
from aiqn_core.pictures import PrepareError
from aiqn_core.prepare import prepare
from aiqn_core.prepared import read_about

GENUINE = Path("/usr/share/datasets/fashion-mnist")


def small(folder, pack=lambda content: content, suffix=""):
    random = np.random.RandomState(0)
    folder.mkdir()
    arrays = {}
    for name, count in zip(NAMES, (11, 11, 7, 7), strict=True):
        shape = (count, 28, 28) if "images" in name else (count,)
        arrays[name] = random.randint(0, 256 if "images" in name else 10, shape, np.uint8)
        header = b"\0\0\x08" + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
        (folder / f"{name}{suffix}").write_bytes(pack(header + arrays[name].tobytes()))
    return arrays


@pytest.mark.parametrize(("pack", "suffix"), [(bytes, ""), (gzip.compress, ".gz")])
def test_idx_files_are_read(tmp_path, pack, suffix):
    arrays = small(tmp_path / "in", pack, suffix)
    data = load_data(DataConfig("mnist", str(prepare("mnist", tmp_path / "in", tmp_path / "out", unverified=True))))
    seen = {(image.tobytes(), int(label)) for image, label in zip(data.train.numpy(), data.train_labels, strict=True)}
    pairs = zip(arrays[NAMES[0]], arrays[NAMES[1]], strict=True)
    assert seen == {(image.tobytes(), int(label)) for image, label in pairs}
    assert (data.shape, len(data.test), data.num_classes) == ((1, 28, 28), 7, 10)


def test_bad_idx_files_are_one_clear_error(tmp_path):
    small(tmp_path / "in")
    with pytest.raises(PrepareError, match=r"saw the MD5 .* of its unpacked content, expected"):
        prepare("mnist", tmp_path / "in", tmp_path / "out")
    file = tmp_path / "in" / NAMES[2]
    whole = file.read_bytes()
    for content, message in (
        (whole[:-5], "saw 5483 values, expected 5488"),
        (b"<html>", "a header of IDX"),
        (gzip.compress(whole)[:-9], "damaged or incomplete"),
    ):
        file.write_bytes(content)
        with pytest.raises(PrepareError, match=message):
            prepare("mnist", tmp_path / "in", tmp_path / "out", unverified=True)
    file.unlink()
    with pytest.raises(PrepareError, match=f"{NAMES[2]} missing of"):
        prepare("mnist", tmp_path / "in", tmp_path / "out", unverified=True)


@pytest.mark.skipif(not GENUINE.exists(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_genuine_fashion_mnist(tmp_path):
    about = read_about(prepare("fashion-mnist", GENUINE, tmp_path / "out"))
    assert about["shapes"]["train"] == [60_000, 1, 28, 28]
    assert about["shapes"]["test"] == [10_000, 1, 28, 28]
    assert (about["num_classes"], about["classes"][9], about["unverified"]) == (10, "Ankle boot", False)
    assert sorted(about["verified"]) == sorted(NAMES)
    labels = np.load(tmp_path / "out" / "train_labels.npy")
    assert np.bincount(labels).tolist() == [6000] * 10
