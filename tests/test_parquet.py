"""Your own images in Parquet files, as Hugging Face and others write them."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from aiqn_core.config import DataConfig
from aiqn_core.data import load_data
from aiqn_core.outside import read_images
from aiqn_core.pictures import PrepareError
from aiqn_core.prepare import prepare

RANDOM = np.random.RandomState(0)
IMAGES = RANDOM.randint(0, 256, (90, 7, 5, 3), np.uint8)
LABELS = np.sort(RANDOM.randint(0, 4, 90))  # sorted by class, as published tables often are


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def parquet(path, metadata=None, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, row_group_size=17)
    return path


def structs(images):
    return [{"bytes": encoded(image), "path": f"{i}.png"} for i, image in enumerate(images)]


def prepared(tmp_path, source, **options):
    folder = prepare("mine", source, tmp_path / "out", force=True, **options)
    return load_data(DataConfig("mine", str(folder))), json.loads((folder / "dataset.json").read_text())


def pairs(images, labels):
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


@pytest.mark.parametrize("cells", ["structs", "bytes"])
def test_one_file_is_split_by_content_and_shuffled(tmp_path, cells):
    images = structs(IMAGES) if cells == "structs" else [encoded(image) for image in IMAGES]
    file = parquet(tmp_path / "all.parquet", picture=images, label=LABELS, caption=["x"] * 90)
    data, about = prepared(tmp_path, file)
    seen = pairs(data.train.numpy(), data.train_labels) + pairs(data.test.numpy(), data.test_labels)
    assert sorted(seen) == pairs(IMAGES.transpose(0, 3, 1, 2), LABELS)
    assert 2 <= len(data.test) <= 25
    assert len(set(data.train_labels[:20].tolist())) == 4
    assert about["notes"] == ["Columns: images from picture, labels from label; not used: caption"]
    assert read_images(file).images.shape == (90, 3, 7, 5)


@pytest.mark.parametrize("held_out", ["test", "validation"])
def test_files_are_split_by_their_names(tmp_path, held_out):
    names = ["ten", "two", "cat", "dog"]
    told = {"huggingface": json.dumps({"info": {"features": {"label": {"names": names}}}})}
    for name, part in (("train-0-of-2", slice(0, 30)), ("train-1-of-2", slice(30, 70)), (held_out, slice(70, 90))):
        file = tmp_path / "in" / "data" / f"{name}.parquet"
        parquet(file, told, image=structs(IMAGES[part]), label=LABELS[part])
    data, about = prepared(tmp_path, tmp_path / "in")
    assert pairs(data.test.numpy(), data.test_labels) == pairs(IMAGES[70:].transpose(0, 3, 1, 2), LABELS[70:])
    assert (len(data.train), about["classes"]) == (70, names)
    assert ("Trained on: train; held out: validation" in about["notes"]) == (held_out == "validation")


def test_labels_of_text_are_classes_in_natural_order(tmp_path):
    text = [f"class {(10, 2, 9, 1)[label]}" for label in LABELS]
    data, about = prepared(tmp_path, parquet(tmp_path / "x.parquet", image=structs(IMAGES), label=text))
    assert about["classes"] == ["class 1", "class 2", "class 9", "class 10"]
    truth = {image.tobytes(): one for image, one in zip(IMAGES.transpose(0, 3, 1, 2), text, strict=True)}
    seen = [about["classes"][label] for label in data.train_labels]
    assert seen == [truth[image.tobytes()] for image in data.train.numpy()]


def test_what_is_done_to_the_images_is_said(tmp_path):
    grey = np.repeat(IMAGES[:, :, :, :1], 3, 3)
    clear = Image.fromarray(np.dstack([grey[0], np.zeros((7, 5), np.uint8)]))
    cells = [encoded(clear), *(encoded(image) for image in grey[1:])]
    file = parquet(tmp_path / "x.parquet", image=cells)
    data, about = prepared(tmp_path, file)
    assert (data.shape, data.num_classes) == ((1, 7, 5), 1)
    composed = "1 image with transparency: composed over white"
    assert about["notes"] == [
        "Columns: images from image, no labels",
        "All images are grey, with three equal channels: one is kept (--channels 3 keeps three)",
        composed,
    ]
    assert read_images(file).notes == [composed]
    assert prepared(tmp_path, file, channels=3, size=4)[0].shape == (3, 4, 4)


def test_bad_tables_are_one_clear_error(tmp_path):
    one = structs(IMAGES[:3])
    for number, (columns, message) in enumerate(
        (
            ({"pixels": [1, 2, 3]}, "saw columns pixels, expected one with images"),
            ({"a": one, "b": one}, "saw columns a, b, expected one with images"),
            ({"image": [*one[:2], {"bytes": None, "path": "x.png"}]}, "row 2: saw NoneType, expected the bytes"),
            ({"image": [b"<html>"] * 3}, "row 0: is no complete image"),
            ({"image": one, "label": [0, 1, -1]}, "saw labels -1 to 1, expected integers from 0"),
            ({"image": one, "label": [0, 1, None]}, "saw the label None, expected integers from 0, or text"),
            ({"image": one, "label": [0.5, 1, 2]}, "saw the label 0.5, expected integers from 0, or text"),
            ({"image": [encoded(IMAGES[0]), encoded(IMAGES[1, :3])]}, "saw images of several sizes"),
        )
    ):
        with pytest.raises(PrepareError, match=message) as caught:
            prepared(tmp_path, parquet(tmp_path / f"{number}.parquet", **columns))
        assert len(str(caught.value).splitlines()) == 1
    parquet(tmp_path / "in" / "train.parquet", image=one)
    parquet(tmp_path / "in" / "extra.parquet", image=one)
    with pytest.raises(PrepareError, match=r"saw extra.parquet beside train; expected train, test or validation"):
        prepared(tmp_path, tmp_path / "in")
    (tmp_path / "in" / "extra.parquet").rename(tmp_path / "in" / "test.parquet")
    (tmp_path / "in" / "x.png").write_bytes(encoded(IMAGES[0]))
    with pytest.raises(PrepareError, match="saw 2 Parquet files and 1 image files, expected one form"):
        prepared(tmp_path, tmp_path / "in")
