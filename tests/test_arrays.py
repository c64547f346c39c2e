"""NumPy's files as data sets and as samples, and the list of prepared data."""

import gzip
import io
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from documents import write
from PIL import Image
from typer.testing import CliRunner

from aiqn_core.config import DataConfig
from aiqn_core.data import load_data
from aiqn_core.outside import read_images
from aiqn_core.pictures import PrepareError
from aiqn_core.prepare import prepare
from aiqn_core.prepared import read_about
from orchestrator.cli import app

RANDOM = np.random.RandomState(0)
IMAGES, OTHERS = RANDOM.randint(0, 256, (90, 7, 5, 3), np.uint8), RANDOM.randint(0, 256, (11, 7, 5, 3), np.uint8)
LABELS = RANDOM.randint(0, 4, 90)


def load(tmp_path, source):
    return load_data(DataConfig("mine", str(prepare("mine", source, tmp_path / "out"))))


@pytest.mark.parametrize("form", ["npy", "npz"])
def test_one_array_is_split_by_content(tmp_path, form):
    source = tmp_path / f"x.{form}"
    np.save(source, IMAGES) if form == "npy" else np.savez(source, IMAGES)
    data = load(tmp_path, source)
    seen = sorted(image.tobytes() for image in np.concatenate([data.train.numpy(), data.test.numpy()]))
    assert seen == sorted(image.tobytes() for image in IMAGES.transpose(0, 3, 1, 2))
    assert 2 <= len(data.test) <= 25
    assert len(read_images(source).images) == 90


def test_named_arrays_with_labels(tmp_path):
    source = tmp_path / "x.npz"
    np.savez(source, x_train=IMAGES, y_train=LABELS[:, None], x_test=OTHERS, y_test=LABELS[:11])
    data = load(tmp_path, source)
    truth = {image.tobytes(): label for image, label in zip(IMAGES.transpose(0, 3, 1, 2), LABELS, strict=True)}
    assert [truth[image.tobytes()] for image in data.train.numpy()] == data.train_labels.tolist()
    assert (len(data.test), data.num_classes) == (11, 4)


@pytest.mark.parametrize(("channels", "expected"), [(None, 1), (1, 1), (3, 3)])
def test_arrays_without_colours_have_one_channel(tmp_path, channels, expected):
    grey = IMAGES[:, :, :, :1]
    np.savez(tmp_path / "x.npz", x_train=grey.repeat(3, 3), x_test=OTHERS[:, :, :, :1].repeat(3, 3))
    folder = prepare("mine", tmp_path / "x.npz", tmp_path / "out", channels=channels)
    data = load_data(DataConfig("mine", str(folder)))
    assert data.shape == (expected, 7, 5)
    assert {image[0].tobytes() for image in data.train.numpy()} == {image.tobytes() for image in grey}
    said = "All images are grey, with three equal channels: one is kept (--channels 3 keeps three)"
    assert (said in read_about(folder)["notes"]) == (channels is None)


def test_colours_of_arrays_are_made_grey_as_pillow_does(tmp_path):
    np.save(tmp_path / "x.npy", OTHERS)
    folder = prepare("mine", tmp_path / "x.npy", tmp_path / "out", channels=1)
    data = load_data(DataConfig("mine", str(folder)))
    seen = {image.tobytes() for image in np.concatenate([data.train.numpy(), data.test.numpy()])}
    assert seen == {np.asarray(Image.fromarray(image).convert("L")).tobytes() for image in OTHERS}
    assert read_about(folder)["notes"] == ["Colours were made grey (--channels 1)"]


def test_bad_arrays_are_one_clear_error(tmp_path):
    source = tmp_path / "x.npz"
    for arrays, message in (
        ({"pixels": IMAGES}, "saw arrays pixels; expected one of x_train"),
        ({"x": IMAGES / 255}, "saw float64 from .* expected uint8 of 0 to 255; save np.rint"),
        ({"x": IMAGES, "y": LABELS[:3]}, r"x.npz, y: saw labels of int64 \(3,\), expected 90 integers"),
        ({"x": np.array([{}])}, "allow_pickle"),
    ):
        np.savez(source, **arrays)
        with pytest.raises(PrepareError, match=message):
            load(tmp_path, source)


def idx(array):
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


PLANES, OTHER_PLANES = IMAGES[:, :, :, 0], OTHERS[:, :, :, 0]
SPLIT = {
    "npy": {
        "x_train.npy": npy(PLANES),
        "y_train.npy": npy(LABELS),
        "x_test.npy": npy(OTHER_PLANES),
        "y_test.npy": npy(LABELS[:11, None]),
    },
    "npy in folders": {
        "d/train/images.npy": npy(PLANES),
        "d/train/labels.npy": npy(LABELS),
        "d/val/images.npy": npy(OTHER_PLANES),
        "d/val/labels.npy": npy(LABELS[:11]),
    },
    "npz": {
        "train.npz": npz(images=PLANES, labels=LABELS),
        "test.npz": npz(images=OTHER_PLANES, labels=LABELS[:11]),
    },
    "batches": {
        "train_batch_1.npz": npz(data=PLANES[:50], labels=LABELS[:50]),
        "train_batch_2.npz": npz(data=PLANES[50:], labels=LABELS[50:]),
        "test_batch.npz": npz(data=OTHER_PLANES, labels=LABELS[:11]),
    },
    "idx": {
        "emnist-train-images-idx3-ubyte": idx(PLANES),
        "emnist-train-labels-idx1-ubyte": idx(LABELS),
        "emnist-test-images-idx3-ubyte": idx(OTHER_PLANES),
        "emnist-test-labels-idx1-ubyte": idx(LABELS[:11]),
    },
    "gzipped idx": {
        "train-images.idx3-ubyte.gz": gzip.compress(idx(PLANES)),
        "train-labels.idx1-ubyte.gz": gzip.compress(idx(LABELS)),
        "t10k-images.idx3-ubyte.gz": gzip.compress(idx(OTHER_PLANES)),
        "t10k-labels.idx1-ubyte.gz": gzip.compress(idx(LABELS[:11])),
    },
}


def pairs(images, labels):
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", SPLIT)
def test_arrays_in_a_folder_or_an_archive(tmp_path, form, packed):
    source = write(tmp_path / "in", SPLIT[form])
    if packed:
        source = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", source))
    data = load(tmp_path, source)
    assert pairs(data.train.numpy(), data.train_labels) == pairs(PLANES, LABELS)
    assert pairs(data.test.numpy(), data.test_labels) == pairs(OTHER_PLANES, LABELS[:11])
    assert (data.shape, data.num_classes) == ((1, 7, 5), 4)
    assert len(read_images(source).images) == 101


def test_validation_beside_test_and_what_is_not_used(tmp_path):
    parts = {"train_images": PLANES, "val_images": OTHER_PLANES[:4], "test_images": OTHER_PLANES[4:]}
    np.savez(tmp_path / "x.npz", **parts, mean=np.zeros(7))
    folder = prepare("mine", tmp_path / "x.npz", tmp_path / "out")
    data = load_data(DataConfig("mine", str(folder)))
    assert pairs(data.test.numpy(), [0] * 11) == pairs(OTHER_PLANES, [0] * 11)
    assert read_about(folder)["notes"] == [
        "Trained on: train; held out: test, val",
        "All images are grey: one channel (--channels 3 repeats it)",
        "Arrays not used: mean",
    ]


def test_the_only_labels_are_those_of_the_only_images(tmp_path):
    source = write(tmp_path / "in", {"pictures of birds.npy": npy(PLANES), "labels.npy": npy(LABELS)})
    data = load(tmp_path, source)
    both = [*pairs(data.train.numpy(), data.train_labels), *pairs(data.test.numpy(), data.test_labels)]
    assert sorted(both) == pairs(PLANES, LABELS)


def test_one_idx_file_is_split_by_content(tmp_path):
    (tmp_path / "x-images-idx3-ubyte").write_bytes(idx(PLANES))
    data = load(tmp_path, tmp_path / "x-images-idx3-ubyte")
    assert pairs(np.concatenate([data.train, data.test]), [0] * 90) == pairs(PLANES, [0] * 90)


def test_arrays_that_do_not_fit_are_one_clear_error(tmp_path):
    files = SPLIT["npy"]
    for number, (change, message) in enumerate(
        (
            ({"y_train.npy": npy(LABELS[:5])}, r"y_train.npy: saw labels of int64 \(5,\), expected 90 integers"),
            ({"extra.npy": npy(PLANES)}, "saw .*extra.npy beside test, train; expected train, test or validation"),
            ({"train.npy": npy(PLANES)}, "saw .*train.npy and .*x_train.npy, expected one of the two"),
            ({"x_val.npy": npy(PLANES)}, "x_val.npy: saw no labels for these images, but .*y_"),
            ({"x_test.npy": npy(OTHERS / 2)}, "x_test.npy: saw float64 from .*, expected uint8"),
            ({"x_test.npy": npy(OTHERS)[:-9]}, "x_test.npy: is no array of numbers"),
            ({"t.parquet": b"x"}, "saw 1 Parquet files and 4 arrays, expected one form"),
        )
    ):
        with pytest.raises(PrepareError, match=message) as caught:
            load(tmp_path, write(tmp_path / f"{number}", files | change))
        assert len(str(caught.value).splitlines()) == 1


def test_prepared_data_are_listed_with_their_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("AIQN_DATA", str(tmp_path))
    assert "No prepared data" in CliRunner().invoke(app, ["data", "list"]).output
    np.save(tmp_path / "x.npy", IMAGES)
    prepare("mine", tmp_path / "x.npy")
    assert "mine: " in CliRunner().invoke(app, ["data", "list", "mine"]).output
