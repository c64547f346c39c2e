"""Images as they are in a folder: their channels, kinds, orientation, transparency, 16 bits, splits and class names."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from aiqn_core.config import DataConfig
from aiqn_core.data import load_data
from aiqn_core.outside import read_images
from aiqn_core.pictures import PrepareError, decode
from aiqn_core.prepare import few, prepare

RANDOM = np.random.RandomState(0)
GREY = RANDOM.randint(0, 256, (7, 5), np.uint8)
COLOUR = RANDOM.randint(0, 256, (7, 5, 3), np.uint8)


def file(image, kind="PNG", **options):
    made = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(made, kind, **options)
    return made.getvalue()


def prepared(tmp_path, files, **options):
    for name, content in files.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    folder = prepare("mine", tmp_path / "in", tmp_path / "out", **options)
    return load_data(DataConfig("mine", str(folder))), json.loads((folder / "dataset.json").read_text())


def both(name, content):
    return {f"train/a/{name}": content, f"test/a/{name}": content}


DEEP = RANDOM.randint(0, 65536, (7, 5)).astype(np.uint16)
GREYS = {
    "L": (file(GREY), GREY),
    "1": (file(Image.fromarray(GREY > 99)), np.where(GREY > 99, 255, 0)),
    "I;16": (file(DEEP), np.rint(DEEP / 65535 * 255)),
    "TIFF": (file(GREY, "TIFF"), GREY),
}


@pytest.mark.parametrize("mode", GREYS)
def test_grey_images_have_one_channel(tmp_path, mode):
    content, expected = GREYS[mode]
    data, about = prepared(tmp_path, both("x.png", content))
    assert data.shape == (1, 7, 5)
    assert np.array_equal(data.train[0, 0].numpy(), expected)
    assert "All images are grey: one channel (--channels 3 repeats it)" in about["notes"]
    assert ("2 images of 16 bits: scaled to 8" in about["notes"]) == (mode == "I;16")
    assert read_images(tmp_path / "in").images.shape == (2, 1, 7, 5)


def test_one_colour_image_or_a_wish_makes_three_channels(tmp_path):
    data, about = prepared(tmp_path, {"train/a/x.png": file(GREY), "test/a/y.png": file(COLOUR)})
    assert (data.shape, about["notes"]) == ((3, 7, 5), [])
    data, _ = prepared(tmp_path, {"test/a/y.png": file(GREY)}, channels=3, force=True)
    assert data.shape == (3, 7, 5)
    with pytest.raises(PrepareError, match="channels: saw 2, expected 1 or 3"):
        prepared(tmp_path, {}, channels=2, force=True)


def test_grey_images_stored_in_colours_have_one_channel(tmp_path):
    """Also in JPEG, and where an alpha or a palette holds the colours; one coloured pixel of one image changes it."""
    tripled = np.repeat(GREY[:, :, None], 3, 2)
    jpeg = Image.open(io.BytesIO(file(tripled, "JPEG")))
    files = {
        "train/a/x.png": file(tripled),
        "train/a/y.jpg": file(tripled, "JPEG"),
        "test/a/x.png": file(np.dstack([tripled, np.full_like(GREY, 255)])),
    }
    data, about = prepared(tmp_path, files)
    assert "All images are grey, with three equal channels: one is kept (--channels 3 keeps three)" in about["notes"]
    assert {image.tobytes() for image in data.train.numpy()} == {
        GREY.tobytes(),
        np.asarray(jpeg)[:, :, 0].tobytes(),
    }
    assert data.shape == (1, 7, 5)
    assert prepared(tmp_path, {}, channels=3, force=True)[0].shape == (3, 7, 5)
    tripled[5, 3, 2] ^= 1
    data, about = prepared(tmp_path, {"test/a/y.png": file(tripled)}, force=True)
    assert data.shape == (3, 7, 5)
    assert not any("grey" in note for note in about["notes"])


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def deep_png(image, kind, row=0, extra=b""):
    """A PNG of 16 bits, (H, W, C), written by its specification alone; `row` is the filter of all rows."""
    height, width, count = image.shape
    rows = image.astype(">u2").reshape(height, -1).view(np.uint8).astype(int)
    left = np.pad(rows, ((0, 0), (2 * count, 0)))[:, : rows.shape[1]]
    above = np.pad(rows, ((1, 0), (0, 0)))[:height]
    filtered = (rows - (0, left, above, (left + above) // 2)[row]) % 256
    content = b"".join(bytes([row, *line]) for line in filtered.tolist())
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("row", range(4))
@pytest.mark.parametrize(("kind", "count"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_rounded_to_the_nearest_of_eight(tmp_path, kind, count, row):
    """Pillow alone keeps the upper byte, in which 255 is 0 and 65,279 is 254; right are 1 and 254."""
    image = RANDOM.randint(0, 65536, (7, 5, count))
    image[0, 0] = 65535
    image[1, 0, 0] = 255
    opaque = image[:, :, -1:] / 65535 if kind >= 4 else 1.0
    colours = image[:, :, : 1 if kind in (0, 4) else 3]
    expected = np.rint((colours * opaque + 65535 * (1 - opaque)) / 257)
    data, about = prepared(tmp_path, both("x.png", deep_png(image, kind, row)))
    assert np.array_equal(data.train[0].permute(1, 2, 0).numpy(), expected)
    assert "2 images of 16 bits: scaled to 8" in about["notes"]


def test_sixteen_bits_that_are_not_read_rightly_are_refused():
    """A TIFF with colours, and one whose white is 0; a transparent value of 16 bits."""

    def tiff(channels, photometric):
        offset = 8 + 2 + 12 * 8 + 4
        values = GREY.astype("<u2").repeat(channels).tobytes()
        tags = [(256, 5), (257, 7), (258, 16), (259, 1), (262, photometric), (273, offset), (277, channels), (278, 7)]
        entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
        return b"II*\0" + struct.pack("<IH", 8, 8) + b"".join(entries) + struct.pack("<I", 0) + values

    assert np.array_equal(decode("x", tiff(1, 1), channels=1)[0], np.rint(GREY / 257))
    clear = deep_png(RANDOM.randint(0, 65536, (7, 5, 3)), 2, extra=chunk(b"tRNS", bytes(6)))
    for content, message in (
        (tiff(3, 2), r"^x: saw a TIFF of more than 8 bits \(RGB;16L\), expected 8"),
        (tiff(1, 0), r"^x: saw a TIFF of more than 8 bits \(I;16\), expected 8; save it so, or as a PNG"),
        (clear, "^x: saw 16 bits with a transparent value"),
    ):
        with pytest.raises(PrepareError, match=message):
            decode("x", content)


def test_hidden_colours_are_never_data():
    alpha = np.array([[0, 255], [51, 0]], np.uint8)
    colours = np.full((2, 2, 3), (200, 0, 100), np.uint8)
    expected = np.rint(alpha[..., None] / 255 * colours.astype(float) + (255 - alpha[..., None]))
    rgba = file(np.dstack([colours, alpha]))
    assert np.abs(decode("x", rgba).transpose(1, 2, 0) - expected).max() <= 1
    assert (decode("x", rgba)[:, 0, 0] == 255).all()
    la = file(Image.merge("LA", [Image.fromarray(colours[:, :, 0]), Image.fromarray(alpha)]))
    assert np.abs(decode("x", la, channels=1)[0] - expected[:, :, 0]).max() <= 1
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    palette.putpalette([9, 8, 7, 30, 20, 10])
    assert decode("x", file(palette, transparency=0)).ravel().tolist() == [255, 30, 255, 20, 255, 10]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_upright(orientation):
    """By the EXIF standard's table: what the 0th row and column of the file show."""
    turned = {
        1: GREY,
        2: GREY[:, ::-1],
        3: GREY[::-1, ::-1],
        4: GREY[::-1],
        5: GREY.T,
        6: GREY.T[:, ::-1],
        7: GREY.T[::-1, ::-1],
        8: GREY.T[::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decode("x", file(GREY, exif=exif), channels=1)[0], turned)


def test_every_kind_is_read_or_counted(tmp_path):
    files = {
        f"{split}/{kind}/x.{kind}": file(GREY, pillow)
        for split in ("train", "test")
        for kind, pillow in (
            ("tif", "TIFF"),
            ("gif", "GIF"),
            ("jfif", "JPEG"),
            ("webp", "WEBP"),
            ("bmp", "BMP"),
            ("avif", "AVIF"),
        )
    }
    moving = file(GREY, "GIF", save_all=True, append_images=[Image.fromarray(255 - GREY)])
    data, about = prepared(
        tmp_path, files | {"train/gif/y.gif": moving, "train/gif/z.heic": b"x", "train/notes.txt": b"x"}
    )
    assert about["classes"] == ["avif", "bmp", "gif", "jfif", "tif", "webp"]
    assert (len(data.train), len(data.test)) == (7, 6)
    assert "1 image of several frames or pages: the first one is taken" in about["notes"]
    assert "Skipped: 1 .heic, 1 .txt" in about["notes"]
    with pytest.raises(PrepareError, match="a class that would vanish"):
        prepared(tmp_path, {"train/phone/a.heic": b"x"}, force=True)


@pytest.mark.parametrize(
    ("train", "test"), [("training", "testing"), ("Train", "val"), ("train", "validation"), ("train", "dev")]
)
@pytest.mark.parametrize("inside", ["", "a/"])
def test_splits_are_no_classes(tmp_path, train, test, inside):
    files = {f"{train}/{inside}x.png": file(GREY), f"{test}/{inside}y.png": file(255 - GREY)}
    data, about = prepared(tmp_path, files)
    assert np.array_equal(data.train[0, 0].numpy(), GREY)
    assert np.array_equal(data.test[0, 0].numpy(), 255 - GREY)
    assert about["classes"] == [inside.removesuffix("/")]
    assert f"Trained on: {train}; held out: {test}" in about["notes"]


def test_validation_beside_test_is_held_out_too(tmp_path):
    files = {f"{split}/a/x.png": file(GREY) for split in ("train", "valid", "test")}
    data, about = prepared(tmp_path, files)
    assert (len(data.train), len(data.test)) == (1, 2)
    assert "Trained on: train; held out: test, valid" in about["notes"]


def test_classes_are_in_natural_order(tmp_path):
    names = ["0", "1", "2", "10", "11"]
    shades = dict(zip(names, (5, 60, 90, 130, 240), strict=True))
    files = {
        f"{split}/{n}/x.png": file(np.full((7, 5), s, np.uint8))
        for split in ("train", "test")
        for n, s in shades.items()
    }
    data, about = prepared(tmp_path, files)
    assert about["classes"] == names
    assert {
        names[label]: int(image[0, 0, 0]) for image, label in zip(data.train, data.train_labels, strict=True)
    } == shades


def test_few_images_are_warned_of():
    assert "only 1 image is held out" in few(1)[0]
    assert few(100) == []


def test_a_class_is_asked_for_by_name_or_number(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from orchestrator import look

    source = tmp_path / "in"
    for split in ("train", "test"):
        for name in ("2", "10", "cat"):
            (source / split / name).mkdir(parents=True)
            (source / split / name / "x.png").write_bytes(file(GREY))
    config = DataConfig("mine", str(prepare("mine", source, tmp_path / "out")))
    trained = SimpleNamespace(config=SimpleNamespace(data=config))
    monkeypatch.setattr(look, "read_trial", lambda trial: trained)
    assert [look.class_number(tmp_path, text) for text in ("2", "10", "cat", "0")] == [0, 1, 2, 0]
    with pytest.raises(look.RequestError, match="saw 'dog', expected a number, or: 2, 10, cat"):
        look.class_number(tmp_path, "dog")
