import gzip
import json
import shutil
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from aiqn_core.config import ConfigError, DataConfig, TrainConfig
from aiqn_core.data import encode_png, load_data
from aiqn_core.features import Lite0
from aiqn_core.outside import SamplesError, evaluate_files, evaluate_trial, in_fixed_order, read_images, scored_lines
from aiqn_core.reference import reference_statistics
from aiqn_core.scores import evaluate_images
from aiqn_core.training import train
from orchestrator.cli import app

SMALL = {"size": 64, "splits": 3, "reference": 41}


def save_images(folder, images):
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy()).save(folder / f"{index:03}.png")
    return folder


@pytest.fixture(scope="module")
def digits():
    return load_data(DataConfig("digits"))


def test_an_array_and_a_folder_of_the_same_images_score_alike(tmp_path, digits):
    images, real = digits.test[:17], digits.train[:23]
    np.save(tmp_path / "samples.npy", images.numpy())
    folder, against = save_images(tmp_path / "samples", images), save_images(tmp_path / "real", real)
    by_array = evaluate_files(tmp_path / "samples.npy", str(against), **SMALL)
    by_folder = evaluate_files(folder, str(against), **SMALL)
    assert by_array == by_folder
    extractor = Lite0(64, "cpu")
    reference = reference_statistics(extractor(in_fixed_order(real).repeat(1, 3, 1, 1)).pooled)
    expected = evaluate_images(in_fixed_order(images), reference, extractor, splits=3, extrapolate=True)
    assert by_array.scores == pytest.approx(expected, rel=1e-5)
    assert {"samples": 17, "reference": 23, "reference_set": "folder", "splits": 3}.items() <= by_array.protocol.items()


@pytest.mark.parametrize("samples", [None, 19])
def test_neither_order_nor_names_nor_container_change_a_digit(tmp_path, digits, samples):
    """Sorted by class and shuffled, as folders, an archive and arrays of two layouts, on both sides."""
    by_class = digits.train_labels[:41].argsort()
    images, real = digits.train[:41][by_class], digits.train[50:97]
    images = torch.cat([images, images[:5]])  # some are there twice
    mixed, real_mixed = images[torch.randperm(46)], real[torch.randperm(47)]
    settings = SMALL | {"reference": 31} | ({} if samples is None else {"samples": samples})
    folder = save_images(tmp_path / "samples", images)
    (tmp_path / "mixed").mkdir()
    (tmp_path / "reversed").mkdir()
    save_images(tmp_path / "mixed" / "nested", mixed)
    shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path / "mixed")
    for index, file in enumerate(sorted(folder.iterdir(), reverse=True)):
        shutil.copy(file, tmp_path / "reversed" / f"{index}.png")
    np.save(tmp_path / "samples.npy", images.numpy())
    np.save(tmp_path / "mixed.npy", mixed[:, 0].repeat(3, 1, 1, 1).permute(1, 2, 3, 0).contiguous().numpy())
    against, by_array = save_images(tmp_path / "real", real), tmp_path / "real.npy"
    np.save(by_array, real_mixed.numpy())
    expected = evaluate_files(folder, str(against), **settings)
    for name in ("reversed", "zipped.zip", "samples.npy", "mixed.npy"):
        assert evaluate_files(tmp_path / name, str(against), **settings) == expected
    shuffled = evaluate_files(tmp_path / "mixed.npy", str(by_array), **settings)
    assert shuffled.scores == expected.scores
    assert shuffled.protocol["data"].split()[1] == expected.protocol["data"].split()[1]  # the checksum of the images


def test_every_form_that_is_prepared_is_scored_alike(tmp_path, digits):
    """IDX, Parquet, .npz and a folder of arrays: one set of images has one set of numbers."""
    images = digits.test[:17]
    planes = images[:, 0].numpy()
    header = b"\0\0\x08\x03" + struct.pack(">3I", *planes.shape)
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "samples-idx3-ubyte.gz").write_bytes(gzip.compress(header + planes.tobytes()))
    cells = [{"bytes": encode_png(image[:, :, None].repeat(3, 2)), "path": None} for image in planes[::-1]]
    pq.write_table(pa.table({"image": cells}), tmp_path / "x.parquet")
    np.savez(tmp_path / "x.npz", x_train=planes[5:], x_test=planes[:5])
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "a.npy", planes[:9])
    np.save(tmp_path / "arrays" / "b.npy", planes[9:, :, :, None].repeat(3, 3).transpose(0, 3, 1, 2))
    shutil.make_archive(str(tmp_path / "packed"), "gztar", tmp_path / "arrays")
    shutil.copytree(save_images(tmp_path / "samples", images), tmp_path / "real")
    expected = evaluate_files(tmp_path / "samples", str(tmp_path / "real"), **SMALL)
    for name in ("idx", "x.parquet", "x.npz", "arrays", "packed.tar.gz"):
        scored = evaluate_files(tmp_path / name, str(tmp_path / name), **SMALL)
        assert scored.scores == expected.scores
        assert scored.protocol["data"].split()[-1] == expected.protocol["data"].split()[-1]


def test_what_was_done_to_the_images_is_said(tmp_path, digits):
    folder = save_images(tmp_path / "samples", digits.test[:5])
    Image.new("RGBA", (8, 8)).save(folder / "clear.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("L", (8, 8)).save(folder / "turned.jpg", exif=turned)
    (folder / "notes.txt").write_text("x")
    scored = evaluate_files(folder, "digits", **SMALL)
    assert scored.notes == (
        "samples: 1 image with transparency: composed over white",
        "samples: 1 image turned upright by their EXIF orientation",
        "samples: Skipped: 1 .txt",
    )
    assert scored_lines(scored)[-3:] == list(scored.notes)
    np.savez(tmp_path / "x.npz", images=digits.test[:7].numpy(), mean=np.zeros(5))
    assert evaluate_files(folder, str(tmp_path / "x.npz"), **SMALL).notes[-1] == "x.npz: Arrays not used: mean"


def test_the_first_images_are_a_fair_sample_of_all():
    images = torch.arange(200, dtype=torch.uint8).clamp(max=149)[:, None, None, None]
    ordered = in_fixed_order(images.flip(0))
    assert torch.equal(ordered, in_fixed_order(images))
    assert torch.equal(ordered.flatten().sort().values, images.flatten())
    repeated = (ordered[:40] == 149).sum()  # a quarter of all images are one and the same
    assert 5 <= repeated <= 17


def test_images_of_one_class_first_score_as_shuffled_ones(tmp_path, digits):
    """The first N by name were the first classes."""
    images = digits.train[:300][digits.train_labels[:300].argsort()]
    np.save(tmp_path / "sorted.npy", images.numpy())
    scored = evaluate_files(tmp_path / "sorted.npy", str(tmp_path / "sorted.npy"), size=64, samples=100).scores
    extractor = Lite0(64, "cpu")
    reference = reference_statistics(extractor(images).pooled)
    fair, unfair = (evaluate_images(some, reference, extractor)["fd_lite0"] for some in (images[::3], images[:100]))
    assert scored["fd_lite0"] == pytest.approx(fair, rel=0.1)
    assert unfair > 1.5 * scored["fd_lite0"]


def test_against_a_data_set(tmp_path, digits):
    np.save(tmp_path / "samples.npy", digits.test[:19, 0].numpy())  # (N, H, W)
    scored = evaluate_files(tmp_path / "samples.npy", "digits", **SMALL, samples=13)
    assert {"samples": 13, "reference": 41, "reference_set": "training"}.items() <= scored.protocol.items()
    assert scored.protocol["data"] == f"digits {digits.checksum}"
    lines = scored_lines(scored)
    assert lines[0].startswith("fd_lite0 ")
    assert f"{scored.scores['fd_lite0_low']:.4g} to {scored.scores['fd_lite0_high']:.4g}" in lines[0]
    assert "samples: 13" in lines


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """A tiny training in its folder, and the last record of it."""
    folder = tmp_path_factory.mktemp("trial")
    evaluation = {"every": 2, "samples": 13, "size": 64, "splits": 2, "reference": 29, "seed": 5}
    model = {"name": "pixeliqn", "layers": 1, "planes": 6, "skip_planes": 8}
    config = TrainConfig.from_dict({"model": model, "train": {"steps": 3, "batch_size": 5}, "evaluate": evaluation})
    return folder, list(train(config, folder))[-1]


def test_a_trial_scores_as_its_own_last_evaluation(trial):
    folder, last = trial
    scored = evaluate_trial(folder)
    assert scored.scores == {key: value for key, value in last.metrics.items() if key in scored.scores}
    assert {"fd_lite0", "kd_lite0_std", "samples"} <= scored.scores.keys()
    expected = {"samples": 13, "reference": 29, "step": 3, "model_weights": "averaged", "size": 64}
    assert expected.items() <= scored.protocol.items()


def test_a_trial_against_other_images_and_with_other_settings(trial, tmp_path, digits):
    real = save_images(tmp_path / "real", digits.test[:17])
    scored = evaluate_trial(trial[0], str(real), samples=11)
    assert {"samples": 11, "reference": 17, "reference_set": "folder", "step": 3}.items() <= scored.protocol.items()
    assert evaluate_trial(trial[0], samples=11).scores["fd_lite0"] != scored.scores["fd_lite0"]


def test_the_command(trial, tmp_path, digits, monkeypatch):
    monkeypatch.delenv("AIQN_INCEPTION", raising=False)

    def run(*arguments):
        return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])

    printed = json.loads(run(trial[0], "--json").stdout)
    assert printed["scores"]["fd_lite0"] == trial[1].metrics["fd_lite0"]
    np.save(tmp_path / "x.npy", digits.test[:7].numpy())
    shown = run(tmp_path / "x.npy", "--against", "digits", "--size", 64, "--reference", 23)
    assert (shown.exit_code, "samples: 7" in shown.stdout) == (0, True)
    for arguments, message in (
        ((tmp_path / "x.npy",), "saw no trial and no --against"),
        ((tmp_path / "x.npy", "--against", "digits", "--samples", 8), "saw 7 images, expected at least 8"),
        ((trial[0], "--features", "inception"), "evaluate.inception: saw none, and $AIQN_INCEPTION is not set"),
    ):
        refused = run(*arguments)
        assert (refused.exit_code, message in refused.stderr) == (2, True)
        assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("shape", [(5, 7, 11), (5, 7, 11, 3), (5, 7, 11, 1), (5, 3, 7, 11), (5, 1, 7, 11)])
def test_layouts_of_arrays(tmp_path, shape):
    array = np.arange(np.prod(shape)).astype(np.uint8).reshape(shape)
    np.save(tmp_path / "x.npy", array)
    images = read_images(tmp_path / "x.npy").images
    planes = array[:, None] if len(shape) == 3 else array if shape[1] < 5 else array.transpose(0, 3, 1, 2)
    assert torch.equal(images, torch.from_numpy(np.ascontiguousarray(planes)))


FLOATS = np.random.RandomState(0).rand(5, 7, 11, 3)
BROKEN = np.where(np.arange(5)[:, None, None, None] == 3, np.nan, FLOATS)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (BROKEN, r"saw NaN or infinity in 1 of 5 images \(float64\), expected uint8 of 0 to 255; find out why"),
        (255 * FLOATS.astype(np.float32), r"saw float32 from [\d.]+ to 25\d.*; save np.rint\(images\).clip\(0, 255\)"),
        (FLOATS, r"saw float64 from [\de.-]+ to 0.9\d*, expected uint8 of 0 to 255; save np.rint\(255 \* images\)"),
        (2 * FLOATS - 1, r"save np.rint\(127.5 \* \(images \+ 1\)\).astype\(np.uint8\)"),
        (FLOATS.astype(np.int64), "saw int64, expected uint8"),
        (np.zeros((5, 7), np.uint8), r"saw the shape \(5, 7\), expected \(N, H, W\), \(N, H, W, 1 or 3\)"),
        (np.zeros((5, 2, 7, 11), np.uint8), r"saw the shape \(5, 2, 7, 11\)"),
        (np.zeros((5, 3, 7, 3), np.uint8), r"saw the shape \(5, 3, 7, 3\)"),  # whose planes could be either
        (np.zeros((0, 3, 7, 11), np.uint8), r"saw the shape \(0, 3, 7, 11\)"),
        (np.zeros((2, 3, 7, 11), np.uint8), "saw 2 images, expected at least 3"),
        (np.zeros((1, 3, 7, 11), np.uint8), "saw 1 image, expected at least 3"),
        (np.array([{}], object), "is no array of numbers that NumPy can read"),
    ],
)
def test_wrong_arrays_are_one_clear_line(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(SamplesError, match=message) as caught:
        evaluate_files(tmp_path / "x.npy", "digits", **SMALL)
    assert str(caught.value).startswith(f"{tmp_path}/x.npy: ")
    assert len(str(caught.value).splitlines()) == 1


def test_wrong_sources_are_one_clear_line(tmp_path, digits):
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY")
    samples = save_images(tmp_path / "samples", digits.test[:5])
    for source, against, message in (
        (tmp_path / "empty", "digits", "empty: saw no images in it, expected files ending in .png"),
        (tmp_path / "nowhere", "digits", "nowhere: no such file or folder"),
        (tmp_path / "nowhere.npy", "digits", "nowhere.npy: no such file"),
        (tmp_path / "torn.npy", "digits", "torn.npy: is no array of numbers"),
        (samples, str(tmp_path / "empty"), "empty: saw no images in it"),
        (samples, "banana2d", "banana2d: saw data of vectors, expected images"),
    ):
        with pytest.raises(SamplesError, match=message) as caught:
            evaluate_files(source, against, **SMALL)
        assert len(str(caught.value).splitlines()) == 1
    for settings, message in (({"size": 5}, "evaluate.size: saw 5"), ({"features": "lite"}, "saw 'lite'")):
        with pytest.raises(ConfigError, match=message):
            evaluate_files(samples, "digits", **settings)
    with pytest.raises(ConfigError, match=r"data.name: saw 'digit'; did you mean 'digits'"):
        evaluate_files(samples, "digit", **SMALL)
