"""CIFAR-100 and ImageNet at 64 pixels: small files in each genuine form."""

import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from documents import write
from PIL import Image

from aiqn_core.config import DataConfig
from aiqn_core.data import load_data
from aiqn_core.pictures import PrepareError
from aiqn_core.prepare import DATASETS, prepare
from aiqn_core.prepared import read_about

RANDOM = np.random.RandomState(0)
NAMES = [f"class_{99 - i}" for i in range(100)]  # in no order that sorting gives


def batch(count, side=32, classes=100):
    return RANDOM.randint(0, 256, (count, 3, side, side), np.uint8), RANDOM.randint(0, classes, count)


PARTS = {"train": batch(13), "test": batch(7)}


def png(image):
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, format="PNG")
    return file.getvalue()


def binary():
    """A byte for the coarse class, one for the fine class, then the pixels."""
    records = {
        f"cifar-100-binary/{split}.bin": b"".join(
            bytes([label // 5, label]) + image.tobytes() for image, label in zip(images, labels, strict=True)
        )
        for split, (images, labels) in PARTS.items()
    }
    return records | {"cifar-100-binary/fine_label_names.txt": "\n".join([*NAMES, ""]).encode()}


def pickled():
    files = {
        f"cifar-100-python/{split}": {
            b"filenames": [b"x.png"] * len(labels),
            b"batch_label": b"one of one",
            b"fine_labels": [int(label) for label in labels],
            b"coarse_labels": [int(label) // 5 for label in labels],
            b"data": images.reshape(-1, 3072),
        }
        for split, (images, labels) in PARTS.items()
    }
    files["cifar-100-python/meta"] = {
        b"fine_label_names": [name.encode() for name in NAMES],
        b"coarse_label_names": [b"x"] * 20,
    }
    return {name: pickle.dumps(content, protocol=2) for name, content in files.items()}


def parquet():
    files = {}
    names = {"info": {"features": {"fine_label": {"names": NAMES, "_type": "ClassLabel"}}}}
    for split, (images, labels) in PARTS.items():
        columns = {
            "img": [{"bytes": png(image), "path": None} for image in images],
            "fine_label": [int(label) for label in labels],
            "coarse_label": [int(label) // 5 for label in labels],
        }
        table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(names)})
        file = io.BytesIO()
        pq.write_table(table, file)
        files[f"cifar100/{split}-00000-of-00001.parquet"] = file.getvalue()
    return files


def tar(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


FORMS = {"binary": binary, "python": pickled, "parquet": parquet}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_cifar100_in_each_form_is_the_same(tmp_path, form, packed):
    files = FORMS[form]()
    source = tar(tmp_path / "x.tar.gz", files) if packed else write(tmp_path / "in", files)
    folder = prepare("cifar100", source, tmp_path / "out", unverified=True)
    data = load_data(DataConfig("cifar100", str(folder)))
    for images, labels, split in ((data.train, data.train_labels, "train"), (data.test, data.test_labels, "test")):
        assert np.array_equal(images.numpy(), PARTS[split][0])
        assert np.array_equal(labels.numpy(), PARTS[split][1])  # the fine ones
    assert (data.num_classes, read_about(folder)["classes"]) == (100, NAMES)


def test_cifar100_without_its_names_or_with_bad_parts(tmp_path):
    files = binary()
    files.pop("cifar-100-binary/fine_label_names.txt")
    about = read_about(prepare("cifar100", write(tmp_path / "in", files), tmp_path / "out", unverified=True))
    assert about["classes"] == []
    assert about["notes"] == ["The file with the names of the classes is missing: they are known by number only"]
    for change, message in (
        ({"cifar-100-binary/train.bin": files["cifar-100-binary/train.bin"][:-1]}, "expected a multiple of 3074"),
        ({"cifar-100-binary/train.bin": b"\0\x64" + bytes(3072)}, "saw labels 100 to 100, expected 0 to 99"),
        ({"cifar-100-python/test": pickled()["cifar-100-python/test"]}, "saw test twice"),
        ({"train-0.parquet": next(iter(parquet().values()))}, "saw batches and Parquet files"),
    ):
        source = write(tmp_path / message.replace(" ", ""), files | change)
        with pytest.raises(PrepareError, match=message):
            prepare("cifar100", source, tmp_path / "other", unverified=True)
    for name, source in (("cifar-100-binary", "binary"), ("cifar-100-python", "python")):
        packed = tar(tmp_path / f"{name}.tar.gz", FORMS[source]())
        with pytest.raises(
            PrepareError, match=f"saw the MD5 .* expected {DATASETS['cifar100'].checksums[packed.name]}"
        ):
            prepare("cifar100", packed, tmp_path / "other")
    with pytest.raises(PrepareError, match="expected 50000 and 10000"):
        prepare("cifar100", tmp_path / "in", tmp_path / "other")


def npz(images, labels):
    file = io.BytesIO()
    np.savez(file, data=images.reshape(len(images), -1), labels=labels, mean=np.zeros(3 * 64 * 64))
    return file.getvalue()


@pytest.mark.parametrize("form", ["pickles", "npz", "zips"])
def test_downsampled_imagenet_of_64_pixels(tmp_path, form):
    parts = {f"train_data_batch_{i}": batch(1 + i, 64, 1000) for i in range(1, 11)} | {"val_data": batch(5, 64, 1000)}
    files = {}
    for name, (images, labels) in parts.items():
        content = {"data": images.reshape(len(images), -1), "labels": [int(label) + 1 for label in labels]}
        files[name] = pickle.dumps(content, protocol=2) if form == "pickles" else npz(images, labels + 1)
    if form == "pickles":
        write(tmp_path / "in", files)
    elif form == "npz":
        write(tmp_path / "in", {f"{name}.npz": content for name, content in files.items()})
    else:
        (tmp_path / "in").mkdir()
        with zipfile.ZipFile(tmp_path / "in" / "Imagenet64_npz.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(f"Imagenet64/{name}.npz", content)
    folder = prepare("imagenet64", tmp_path / "in", tmp_path / "out", unverified=True)
    data = load_data(DataConfig("imagenet64", str(folder)))
    assert (data.shape, len(data.train)) == ((3, 64, 64), sum(range(2, 12)))
    seen = {(image.tobytes(), int(label)) for image, label in zip(data.test.numpy(), data.test_labels, strict=True)}
    assert seen == {(image.tobytes(), label) for image, label in zip(*parts["val_data"], strict=True)}
    with pytest.raises(PrepareError, match=r"saw data of uint8 of shape \(\d+, 12288\), expected .* \(n, 3072\)"):
        prepare("imagenet32", tmp_path / "in", tmp_path / "other", unverified=True)


def test_small_imagenet_of_64_pixels(tmp_path):
    images = batch(7, 64)[0]
    files = {f"{'valid' if i < 2 else 'train'}_64x64/{i}.png": png(image) for i, image in enumerate(images)}
    folder = prepare("imagenet64", write(tmp_path / "in", files), tmp_path / "out", unverified=True)
    data = load_data(DataConfig("imagenet64", str(folder)))
    assert {image.tobytes() for image in data.test.numpy()} == {image.tobytes() for image in images[:2]}
    assert len(data.train) == 5
