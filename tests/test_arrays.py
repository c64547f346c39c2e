"""NumPy's files as data sets and as samples, and the list of prepared data."""

import numpy as np
import pytest
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


def test_prepared_data_are_listed_with_their_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("AIQN_DATA", str(tmp_path))
    assert "No prepared data" in CliRunner().invoke(app, ["data", "list"]).output
    np.save(tmp_path / "x.npy", IMAGES)
    prepare("mine", tmp_path / "x.npy")
    assert "mine: " in CliRunner().invoke(app, ["data", "list", "mine"]).output
