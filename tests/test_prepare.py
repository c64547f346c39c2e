"""Small archives in the genuine formats, read back pixel by pixel; and bad ones, each with its one clear error."""

import dataclasses
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import textwrap
import warnings
import zipfile

import numpy as np
import pytest
import torch
from documents import write
from PIL import Image

from aiqn_core.archives import digest
from aiqn_core.config import ConfigError, DataConfig, TrainConfig
from aiqn_core.data import load_data
from aiqn_core.prepare import DATASETS, PrepareError, prepare
from aiqn_core.prepared import PreparedError, read_prepared, writing
from aiqn_core.training import train

SIZES = {f"data_batch_{i}": 5 + i for i in range(1, 6)} | {"test_batch": 11}


def batch(count, seed, classes=10, first=0):
    """Random images (no symmetry, so that swapped axes show) and labels."""
    random = np.random.RandomState(seed)
    return random.randint(0, 256, (count, 3, 32, 32), np.uint8), random.randint(first, first + classes, count)


BATCHES = {name: batch(count, seed) for seed, (name, count) in enumerate(SIZES.items())}
TRAIN = np.concatenate([BATCHES[f"data_batch_{i}"][0] for i in range(1, 6)])
TRAIN_LABELS = np.concatenate([BATCHES[f"data_batch_{i}"][1] for i in range(1, 6)])


def binary(images, labels):
    return b"".join(bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True))


def pickled(images, labels):
    content = {b"batch_label": b"x", b"labels": [int(label) for label in labels], b"data": images.reshape(-1, 3072)}
    return pickle.dumps(content, protocol=2)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, format="PNG")
    return file.getvalue()


def tar(path, files, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


BINARY = {f"cifar-10-batches-bin/{name}.bin": binary(*part) for name, part in BATCHES.items()}
PICKLED = {f"cifar-10-batches-py/{name}": pickled(*part) for name, part in BATCHES.items()}
NOTES = {"cifar-10-batches-py/batches.meta": pickle.dumps({b"label_names": [b"cat"]}, protocol=2), "readme.html": b"hi"}


def parquet(images, labels):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"bytes": png(image), "path": None} for image in images]
    file = io.BytesIO()
    pq.write_table(pa.table({"img": rows, "label": [int(label) for label in labels]}), file)
    return file.getvalue()


def table(images, labels, column="img"):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table({column: images, "label": labels}), file)
    return file.getvalue()


def cifar_sources(folder):
    half = len(TRAIN) // 2
    parts = {
        "plain_text/train-00000-of-00002.parquet": parquet(TRAIN[:half], TRAIN_LABELS[:half]),
        "plain_text/train-00001-of-00002.parquet": parquet(TRAIN[half:], TRAIN_LABELS[half:]),
        "plain_text/test-00000-of-00001.parquet": parquet(*BATCHES["test_batch"]),
    }
    return {
        "binary": write(folder / "binary", BINARY),
        "binary archive": tar(folder / "cifar-10-binary.tar.gz", BINARY),
        "python": write(folder / "python", PICKLED | NOTES),
        "python archive": tar(folder / "cifar-10-python.tar.gz", PICKLED | NOTES),
        "parquet": write(folder / "parquet", parts),
    }


@pytest.mark.parametrize("form", ["binary", "binary archive", "python", "python archive", "parquet"])
def test_cifar10_in_each_form_is_the_same(tmp_path, form):
    folder = prepare("cifar10", cifar_sources(tmp_path)[form], tmp_path / "out", unverified=True)
    data = load_data(DataConfig("cifar10", str(folder)))
    assert np.array_equal(data.train.numpy(), TRAIN)
    assert np.array_equal(data.train_labels.numpy(), TRAIN_LABELS)
    assert np.array_equal(data.test.numpy(), BATCHES["test_batch"][0])
    assert np.array_equal(data.test_labels.numpy(), BATCHES["test_batch"][1])
    assert (data.shape, data.num_classes) == ((3, 32, 32), 10)
    assert data.checksum == load_data(DataConfig("cifar10", str(folder))).checksum
    assert (folder / "train.npy").stat().st_size < len(TRAIN) * 3072 + 200


BLANK = np.zeros((3, 3072), np.uint8)


def npz(images, labels):
    file = io.BytesIO()
    np.savez(file, data=images.reshape(-1, 3072), labels=labels, mean=np.zeros(3072))
    return file.getvalue()


@pytest.mark.parametrize("form", ["pickles", "zips", "npz"])
def test_downsampled_imagenet(tmp_path, form):
    parts = {f"train_data_batch_{i}": batch(3 + i, i, 1000, 1) for i in range(1, 11)} | {
        "val_data": batch(7, 77, 1000, 1)
    }
    files = {name: pickled(*part) for name, part in parts.items()}
    if form == "zips":
        zipped(tmp_path / "Imagenet32_train.zip", {k: v for k, v in files.items() if k != "val_data"})
        zipped(tmp_path / "Imagenet32_val.zip", {"val_data": files["val_data"]})
    elif form == "npz":
        files = {f"Imagenet32_npz/{name}.npz": npz(*part) for name, part in parts.items()}
        zipped(tmp_path / "Imagenet32_npz.zip", files)
    else:
        write(tmp_path, files)
    data = load_data(DataConfig("imagenet32", str(prepare("imagenet32", tmp_path, tmp_path / "out", unverified=True))))
    images, labels = parts["val_data"]
    expected = {(image.tobytes(), label - 1) for image, label in zip(images, labels, strict=True)}
    pairs = zip(data.test.numpy(), data.test_labels.tolist(), strict=True)
    assert {(image.tobytes(), label) for image, label in pairs} == expected
    assert len(data.train) == sum(range(4, 14))


@pytest.mark.parametrize("form", ["folders", "tars"])
def test_small_imagenet_of_png_folders(tmp_path, form):
    train_images, test_images = batch(13, 1)[0], batch(5, 2)[0]
    files = {f"train_32x32/{i:07d}.png": png(image) for i, image in enumerate(train_images)}
    held_out = {f"valid_32x32/{i:05d}.png": png(image) for i, image in enumerate(test_images)}
    if form == "folders":
        write(tmp_path, files | held_out)
    else:
        tar(tmp_path / "train_32x32.tar", files, "w")
        tar(tmp_path / "valid_32x32.tar", held_out, "w")
    folder = prepare("imagenet32", tmp_path, tmp_path / "out", unverified=True)
    data = load_data(DataConfig("imagenet32", str(folder)))
    assert {image.tobytes() for image in data.train.numpy()} == {image.tobytes() for image in train_images}
    assert {image.tobytes() for image in data.test.numpy()} == {image.tobytes() for image in test_images}
    assert data.train_labels.tolist() == [0] * 13


def test_celeba_is_cut_at_the_centre_and_split_by_number(tmp_path):
    y, x = np.mgrid[:218, :178]
    picture = np.stack([x, y, 255 - x]).astype(np.uint8)  # its colours are its coordinates
    file = io.BytesIO()
    Image.fromarray(picture.transpose(1, 2, 0)).save(file, format="JPEG", quality=98, subsampling=0)
    names = ("000001", "000002", "162770", "162771", "202599")
    source = zipped(tmp_path / "img_align_celeba.zip", {f"img_align_celeba/{n}.jpg": file.getvalue() for n in names})
    data = load_data(DataConfig("celeba", str(prepare("celeba", source, tmp_path / "out", unverified=True))))
    assert (len(data.train), len(data.test), data.shape) == (3, 2, (3, 64, 64))
    # the centre 108 x 108 begins at (35, 55); a pixel of 64 covers 108 / 64 of it, around its middle
    centres = (np.arange(64) + 0.5) * 108 / 64 - 0.5
    assert np.abs(data.train[0, 0, 32].numpy() - (35 + centres)).max() < 3
    assert np.abs(data.train[0, 1, :, 32].numpy() - (55 + centres)).max() < 3


def face(seed):
    file = io.BytesIO()
    Image.fromarray(np.full((218, 178, 3), seed, np.uint8)).save(file, format="JPEG")
    return file.getvalue()


def test_celeba_is_split_by_its_own_file_where_there_is_one(tmp_path):
    files = {f"img_align_celeba/{number:06d}.jpg": face(10 * number) for number in range(1, 6)}
    lines = "000001.jpg 2\n000002.jpg 0\n000003.jpg 1\n000004.jpg 0\n000005.jpg 0\n000006.jpg 0\n"
    source = write(tmp_path / "faces", files | {"Eval/list_eval_partition.txt": lines.encode()})
    data = load_data(DataConfig("celeba", str(prepare("celeba", source, tmp_path / "out", unverified=True))))
    assert data.train[:, 0, 5, 7].tolist() == [20, 40, 50]
    assert data.test[:, 0, 5, 7].tolist() == [10, 30]
    for text, message in (
        (lines.replace("000003.jpg 1\n", ""), "000003.jpg is not in list_eval_partition.txt"),
        (lines.replace("jpg 1", "jpg 3"), "list_eval_partition.txt, line 3: saw '000003.jpg 3'"),
    ):
        write(source, {"Eval/list_eval_partition.txt": text.encode()})
        with pytest.raises(PrepareError, match=message):
            prepare("celeba", source, tmp_path / "other", unverified=True)


def imagenet_batches():
    train = {f"train_data_batch_{i}": pickled(*batch(i, i, 1000, 1)) for i in range(1, 11)}
    return train | {"val_data": pickled(*batch(7, 77, 1000, 1))}


def small_imagenet(side=32):
    images = np.random.RandomState(1).randint(0, 256, (9, 3, side, side), np.uint8)
    parts = {"train_32x32": range(7), "valid_32x32": range(7, 9)}
    return {f"{part}/{i}.png": png(images[i]) for part, numbers in parts.items() for i in numbers}


@pytest.mark.parametrize(
    ("files", "packed", "message"),
    [
        ({k: v for k, v in imagenet_batches().items() if not k.endswith("_7")}, {}, "train_data_batch_7 missing of"),
        ({k: v for k, v in imagenet_batches().items() if k != "val_data"}, {}, "val_data missing of"),
        (imagenet_batches(), {"val_data": imagenet_batches()["val_data"]}, "saw val_data twice"),
        (imagenet_batches() | small_imagenet(), {}, "saw batches and folders of images"),
        (small_imagenet(), small_imagenet(), "saw the image train_32x32/0.png twice"),
        ({f"copy/{k}": v for k, v in small_imagenet().items()}, small_imagenet(), "twice"),
        (small_imagenet(side=64), {}, "saw 64 x 64 pixels, expected 32 x 32"),
        ({"train_32x32/1.png": b"<html>"}, {}, "train_32x32/1.png: is no complete image"),
        ({"val_data.npz": npz(*batch(5, 1))[:-40]}, {}, "val_data.npz: is no complete .npz file"),
        (
            {"val_data.npz": npz(BLANK, np.array([{}, 1, 2]))},
            {},
            "val_data.npz: is no complete .*allow_pickle",
        ),
        ({"val_data.npz": npz(BLANK, np.array([0, 1, 1000]))}, {}, "saw labels 0 to 1000, expected 1 to 1000"),
    ],
)
def test_imagenet_that_is_not_all_there_or_there_twice(tmp_path, files, packed, message):
    source = write(tmp_path / "imagenet", files)
    if packed:
        tar(source / "more.tar", packed, "w")
    with pytest.raises(PrepareError, match=message):
        prepare("imagenet32", source, tmp_path / "out" / "x", unverified=True)
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("files", [imagenet_batches(), small_imagenet()])
def test_imagenet_has_its_published_numbers_of_images(tmp_path, files):
    expected = "expected 1281167 and 50000, or 1281149 and 49999: a part is missing"
    with pytest.raises(PrepareError, match=expected):
        prepare("imagenet32", write(tmp_path / "imagenet", files), tmp_path / "out")


def test_any_folder_of_images_by_class(tmp_path):
    images = batch(80, 3)[0]
    names = ("cats", "ants", "owls")
    files = {f"mine/{names[i % 3]}/{i}.png": png(image) for i, image in enumerate(images)}
    folder = prepare("mine", tar(tmp_path / "mine.tar.gz", files), tmp_path / "out")
    data = load_data(DataConfig("mine", str(folder)))
    truth = {image.tobytes(): sorted(names).index(names[i % 3]) for i, image in enumerate(images)}
    for split, labels in ((data.train, data.train_labels), (data.test, data.test_labels)):
        assert [truth.pop(image.tobytes()) for image in split.numpy()] == labels.tolist()
    assert truth == {}  # each image is in one of the two
    assert 2 <= len(data.test) <= 20
    assert len(set(data.train_labels[:12].tolist())) == 3  # in random order, not by class
    given = {f"{'test' if i < 7 else 'train'}/{names[i % 3]}/{i}.png": png(image) for i, image in enumerate(images)}
    data = load_data(DataConfig("mine", str(prepare("mine", write(tmp_path / "given", given), tmp_path / "out2"))))
    assert {image.tobytes() for image in data.test.numpy()} == {image.tobytes() for image in images[:7]}


def test_a_size_crops_and_resizes(tmp_path):
    wide = np.zeros((3, 20, 60), np.uint8)
    wide[0, :, 20:40] = 255  # red where the largest centre square is
    files = {f"{split}/a/{i}.png": png(wide) for split in ("train", "test") for i in range(2)}
    data = load_data(DataConfig("w", str(prepare("w", write(tmp_path / "w", files), tmp_path / "out", size=5))))
    assert data.shape == (3, 5, 5)
    assert (data.train[:, 0] == 255).all()


def test_it_is_kept_until_it_is_replaced_by_force(tmp_path):
    sources, seen = cifar_sources(tmp_path), []
    folder = prepare(
        "cifar10", sources["binary"], tmp_path / "out", unverified=True, progress=lambda *at: seen.append(at)
    )
    assert [step for step, *_ in seen] == ["checking", *["reading"] * 6, "writing"]
    assert seen[0] == ("checking", 0, None)
    assert seen[-2] == ("reading", len(TRAIN) + 11, 60_000)
    before = (folder / "dataset.json").stat().st_mtime_ns
    assert prepare("cifar10", tmp_path / "nowhere", tmp_path / "out") == folder  # nothing to do
    assert (folder / "dataset.json").stat().st_mtime_ns == before
    prepare("cifar10", sources["python"], folder, unverified=True, force=True)
    assert (folder / "dataset.json").stat().st_mtime_ns > before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_where_it_is_found_without_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("AIQN_DATA", str(tmp_path / "data"))
    folder = prepare("cifar10", cifar_sources(tmp_path)["binary"], unverified=True)
    assert folder == tmp_path / "data" / "cifar10"
    assert len(load_data(DataConfig("cifar10")).train) == len(TRAIN)


def test_missing_data_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("AIQN_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=r"run: aiqn data prepare cifar10 --from"):
        load_data(DataConfig("cifar10"))


def test_a_model_learns_on_it(tmp_path, monkeypatch):
    monkeypatch.setenv("AIQN_CACHE", str(tmp_path / "cache"))
    folder = prepare("cifar10", cifar_sources(tmp_path)["binary"], tmp_path / "out", unverified=True)
    config = TrainConfig.from_dict(
        {
            "data": {"name": "cifar10", "path": str(folder)},
            "model": {"name": "pixelcnn", "layers": 1, "planes": 6, "kernel": 3, "skip_planes": 8, "conditional": True},
            "optimizer": {"lr": 0.02},
            "train": {"steps": 12, "batch_size": 3, "log_every": 4},
            "evaluate": {"every": 12, "samples": 3, "splits": 1, "size": 64, "reference": 9},
        }
    )
    told = [progress.metrics["loss"] for progress in train(config)]
    assert told[-1] < told[0]
    assert torch.isfinite(torch.tensor(told)).all()


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


BAD = {
    "nowhere": (lambda at: at / "nowhere", "no such file or folder"),
    "an empty folder": (lambda at: write(at / "empty", {"notes.txt": b"x"}), "saw 0 training and 0 test images"),
    "a truncated archive": (lambda at: cut(tar(at / "x.tar.gz", BINARY), 0.5), "damaged or incomplete"),
    "a wrong checksum": (
        lambda at: tar(at / "cifar-10-binary.tar.gz", BINARY),
        r"saw the MD5 .* expected c32a1d4ab5d0",
    ),
    "too few images": (lambda at: write(at / "few", BINARY), "expected 50000 and 10000: a part is missing"),
    "a missing batch": (
        lambda at: write(at / "x", {k: v for k, v in BINARY.items() if "_3" not in k}),
        "data_batch_3 missing",
    ),
    "both forms": (lambda at: write(at / "x", BINARY | PICKLED), "twice"),
    "a truncated batch": (lambda at: write(at / "x", {"data_batch_1.bin": b"x" * 5000}), "a multiple of 3073"),
    "a label out of range": (
        lambda at: write(at / "x", {"data_batch_1.bin": b"\x0b" + b"x" * 3072}),
        "saw labels 11 to 11, expected 0 to 9",
    ),
    "a malicious pickle": (
        lambda at: write(at / "x", {"data_batch_1": pickle.dumps({b"data": Evil()})}),
        r"asks to call \w+.system",
    ),
    "a wrong shape": (
        lambda at: write(at / "x", {"data_batch_1": pickle.dumps({b"data": np.zeros((3, 99), np.uint8)})}),
        r"saw data of uint8 of shape \(3, 99\)",
    ),
    "no labels": (
        lambda at: write(at / "x", {"data_batch_1": pickle.dumps({b"data": np.zeros((3, 3072), np.uint8)})}),
        "expected 3 integers",
    ),
    "not a mapping": (lambda at: write(at / "x", {"test_batch": pickle.dumps([1])}), "saw a pickled list"),
    "a pickle cut short": (
        lambda at: write(at / "x", {"test_batch": PICKLED["cifar-10-batches-py/test_batch"][:99]}),
        "complete",
    ),
    "a path out of the tar": (lambda at: tar(at / "x.tar.gz", {"../data_batch_1.bin": b"x"}), "points outside"),
    "no parquet": (lambda at: write(at / "x", {"train-00000.parquet": b"PAR1"}), "no complete Parquet file"),
    "a row without image": (
        lambda at: write(at / "x", {"train-00000.parquet": table([None], [3])}),
        "train-00000.parquet, row 0: saw NoneType, expected the bytes of a PNG",
    ),
    "other columns": (
        lambda at: write(at / "x", {"train-00000.parquet": table([None], [3], "pixels")}),
        "saw columns pixels, label, expected one with images",
    ),
    "parquet and batches": (
        lambda at: write(at / "x", BINARY | {"p/train-0.parquet": parquet(*BATCHES["data_batch_1"])}),
        "saw batches and Parquet files, which hold the same images",
    ),
    "images of another size": (
        lambda at: write(at / "x", {"train-0.parquet": parquet(np.zeros((2, 3, 33, 31), np.uint8), [1, 2])}),
        "saw images of 31 x 33 pixels, expected 32 x 32",
    ),
    "labels in lists": (
        lambda at: write(at / "x", {"test_batch": pickle.dumps({b"data": BLANK, b"labels": [[1], [2, 3], [4]]})}),
        "saw labels that are no list of integers, expected 3 integers",
    ),
    "a wrong checksum in a folder": (
        lambda at: tar(write(at / "x", {"readme.html": b"x"}) / "cifar-10-python.tar.gz", PICKLED).parent,
        r"saw the MD5 .* expected c58f30108f71",
    ),
}


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


@pytest.mark.parametrize("case", BAD)
def test_a_bad_source_is_one_clear_error_and_leaves_nothing(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    make, message = BAD[case]
    with pytest.raises(PrepareError, match=message) as caught:
        prepare(
            "cifar10",
            make(tmp_path),
            tmp_path / "out" / "cifar10",
            unverified=case not in ("a wrong checksum", "a wrong checksum in a folder", "too few images"),
        )
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\nshowpage\n"  # Pillow would have Ghostscript run it


def test_bad_pictures_are_one_clear_error(tmp_path):
    one = png(batch(1, 0)[0][0])
    for name, files, message in (
        ("text", {"a/x.png": b"<html>"}, "a/x.png: is no complete image"),
        ("other", {"a/x.png": EPS}, r"a/x.png: is no complete image \(not an image of a known"),
        ("torn", {"a/x.png": one[:900]}, "a/x.png: is no complete image"),
        (
            "mixed",
            {"a/x.png": one, "a/y.png": png(np.zeros((3, 32, 31), np.uint8))},
            "saw 31 x 32 pixels, expected 32 x 32",
        ),
        ("none", {"a/x.txt": b"x"}, "no images in it"),
        ("one", {"a/x.png": one}, "saw [01] training and [01] test images"),
        ("deep", {"a/x.png": one, "b/c/y.png": one}, "saw a/<image>, b/c/<image>; expected <class>/<image>, or train/"),
        ("half", {"train/a/x.png": one, "b/a/y.png": one}, "saw b/a/<image>, train/a/<image>; expected <class>/"),
        ("only", {"train/a/x.png": one, "train/b/y.png": one}, "saw train/a/<image>, train/b/<image>; expected"),
        ("loose", {"x.png": one, "a/y.png": one}, "saw <image>, a/<image>; expected <class>/<image>"),
    ):
        with pytest.raises(PrepareError, match=message):
            prepare(name, write(tmp_path / name, files), tmp_path / "out")
        assert not (tmp_path / "out").exists()
    celeba = write(tmp_path / "faces", {"000001.jpg": one})
    with pytest.raises(PrepareError, match="saw 32 x 32 pixels, expected 178 x 218"):
        prepare("celeba", celeba, tmp_path / "out")


def test_names_that_cannot_be_prepared(tmp_path):
    for name, message in (("../evil", "letters, digits"), ("digits", "bundled"), ("", "letters")):
        with pytest.raises(PrepareError, match=message):
            prepare(name, tmp_path)
    with pytest.raises(PrepareError, match="cifar10 has its own size"):
        prepare("cifar10", tmp_path, size=16)


def test_arrays_are_mapped_and_changing_an_image_changes_no_file(tmp_path):
    folder = prepare("cifar10", cifar_sources(tmp_path)["binary"], tmp_path / "out", unverified=True)
    assert all(isinstance(array, np.memmap) for array in read_prepared(folder).arrays.values())
    before = (folder / "train.npy").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of arrays that cannot be written to
        data = load_data(DataConfig("cifar10", str(folder)))
    data.train[0] = 255 - data.train[0]
    assert (folder / "train.npy").read_bytes() == before


def test_a_prepared_folder_that_was_damaged(tmp_path):
    folder = prepare("cifar10", cifar_sources(tmp_path)["binary"], tmp_path / "out", unverified=True)
    whole = (folder / "train.npy").read_bytes()
    (folder / "train.npy").write_bytes(whole[:-1])
    with pytest.raises(PreparedError, match=r"train.npy cannot be read"):
        read_prepared(folder)
    (folder / "train.npy").write_bytes(whole + b"xyz")
    with pytest.raises(PreparedError, match=f"train.npy has {len(whole) + 3} bytes, expected {len(whole)}"):
        read_prepared(folder)
    (folder / "train.npy").write_bytes((folder / "test.npy").read_bytes())
    with pytest.raises(PreparedError, match=r"has uint8 \(11, 3, 32, 32\), expected uint8 \(40, 3, 32, 32\)"):
        read_prepared(folder)
    with pytest.raises(PrepareError, match="exists but is no prepared data"):  # not "prepared already"
        prepare("cifar10", tmp_path, tmp_path / "out")
    with pytest.raises(ConfigError, match=rf"--to {folder} --force"):
        load_data(DataConfig("cifar10", str(folder)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "is not of format 1"),
        ({"shapes": None}, "lacks a valid shapes"),
        ({"shapes": {"train": [40, 3, 32, 32]}}, "lacks a valid shapes"),
        ({"shapes": {"train": [5, 3, 7, 7], "train_labels": [6], "test": [2, 3, 7, 7], "test_labels": [2]}}, "shapes"),
        ({"shapes": {"train": [5, 3, 7, 7], "train_labels": [5], "test": [2, 3, 7, 8], "test_labels": [2]}}, "shapes"),
        ({"checksum": 5, "name": None}, "lacks a valid name, checksum"),
        ({"num_classes": 3}, "train_labels.npy has labels 0 to 9, expected 0 to 2"),
    ],
)
def test_a_dataset_json_that_does_not_fit_is_an_error_and_no_crash(tmp_path, change, message):
    folder = prepare("cifar10", cifar_sources(tmp_path)["binary"], tmp_path / "out", unverified=True)
    about = json.loads((folder / "dataset.json").read_text())
    assert (about["unverified"], about["cite"].split(",")[0]) == (True, "Krizhevsky")
    (folder / "dataset.json").write_text(json.dumps(about | change))
    with pytest.raises(PreparedError, match=message):
        read_prepared(folder)


def test_data_of_another_name_is_not_taken(tmp_path):
    folder = prepare("cifar10", cifar_sources(tmp_path)["binary"], tmp_path / "out", unverified=True)
    with pytest.raises(ConfigError, match=r"data.path: saw .* which holds cifar10, expected imagenet32"):
        load_data(DataConfig("imagenet32", str(folder)))
    with pytest.raises(PrepareError, match="holds cifar10, expected imagenet32; choose another --to, or --force"):
        prepare("imagenet32", tmp_path, folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig("cifar10"), "run: aiqn data prepare cifar10 --from .*cs.toronto.edu"),
        (DataConfig("celeba", "/a b/c"), "run: aiqn data prepare celeba --from .* --to '/a b/c' .*mmlab"),
        (DataConfig("cifr10"), "did you mean 'cifar10'"),
        (DataConfig("../../etc"), "saw '../../etc'; valid: digits"),
    ],
)
def test_what_is_missing_says_where_it_is_to_be_had(tmp_path, monkeypatch, config, message):
    monkeypatch.setenv("AIQN_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=message):
        load_data(config)


PROCESS = """
    import os, resource, signal, sys
    from aiqn_core.prepare import PrepareError, prepare
    {before}
    try:
        prepare("cifar10", "binary", "out", unverified=True, force=True, progress={progress})
    except PrepareError as error:
        sys.exit(str(error))
"""


def preparing(folder, before="", progress="lambda step, done, total: None"):
    code = textwrap.dedent(PROCESS).format(before=before, progress=progress)
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environ, capture_output=True, text=True)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_full_disk_or_a_kill_leaves_what_was_there(tmp_path):
    source = write(tmp_path / "binary", BINARY)
    # a limit on the size of files fails in write(), as a full disk does
    full = preparing(tmp_path, "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))")
    assert full.returncode == 1
    assert "cannot be written" in full.stderr
    assert len(full.stderr.splitlines()) == 1
    assert names(tmp_path) == ["binary"]
    killed = preparing(tmp_path, progress="lambda step, done, total: done and os.kill(os.getpid(), signal.SIGKILL)")
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert len(names(tmp_path)) == 2  # the kill left its part, hidden
    folder = prepare("cifar10", source, tmp_path / "out", unverified=True)
    assert names(tmp_path) == ["binary", "out"]  # and the next run has removed it
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    preparing(tmp_path, "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_part_that_a_process_is_writing_is_left_alone(tmp_path):
    with writing(tmp_path / "out", {"classes": []}, shuffle=False) as first:
        for split in ("train", "test"):
            first.append(split, np.zeros((2, 3, 5, 7), np.uint8), np.zeros(2, np.int64))
        with pytest.raises(ZeroDivisionError), writing(tmp_path / "out", {"classes": []}, shuffle=False):
            raise ZeroDivisionError
        assert first.folder.exists()
    assert (tmp_path / "out" / "dataset.json").exists()


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_published_checksums_are_those_of_the_archives(tmp_path, monkeypatch, algorithm):
    """The genuine archive cannot be here: with its checksum and numbers replaced by those of ours, ours is taken."""
    source = tar(tmp_path / "cifar-10-binary.tar.gz", BINARY)
    ours = dataclasses.replace(DATASETS["cifar10"], checksums={source.name: digest(source, algorithm)})
    monkeypatch.setitem(DATASETS, "cifar10", ours)
    with pytest.raises(PrepareError, match="a part is missing"):
        prepare("cifar10", source, tmp_path / "out")
    monkeypatch.setitem(DATASETS, "cifar10", dataclasses.replace(ours, counts=((len(TRAIN), 11),)))
    about = json.loads((prepare("cifar10", source, tmp_path / "out") / "dataset.json").read_text())
    assert (about["verified"], about["unverified"]) == ([source.name], False)


def test_an_unpacked_batch_that_was_altered(tmp_path):
    source = write(tmp_path / "unpacked", PICKLED)
    with pytest.raises(PrepareError, match=r"cifar-10-batches-py/data_batch_1: saw the MD5 .* expected c99cafc15224"):
        prepare("cifar10", source, tmp_path / "out")
