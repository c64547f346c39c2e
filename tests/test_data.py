import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from aiqn_core.config import ConfigError, DataConfig
from aiqn_core.data import encode_png, image_checksum, image_grid, load_data, patch_corners


def multiset(images, labels):
    return sorted((bytes(image.flatten()), int(label)) for image, label in zip(images, labels, strict=True))


def test_digits_are_those_of_scikit_learn():
    data, digits = load_data(DataConfig("digits")), load_digits()
    images = torch.cat([data.train, data.test])[:, 0].numpy()
    labels = torch.cat([data.train_labels, data.test_labels]).numpy()
    assert (len(data.train), len(data.test), data.shape, data.num_classes) == (1500, 297, (1, 8, 8), 10)
    assert data.train.dtype == torch.uint8
    assert data.train_labels.dtype == torch.int64
    levels = [round(level * 255 / 16) for level in range(17)]
    expected = np.array(levels, dtype=np.uint8)[digits.images.astype(int)]
    assert multiset(images, labels) == multiset(expected, digits.target)


def test_digits_are_split_at_random_and_always_alike():
    first, second = load_data(DataConfig("digits")), load_data(DataConfig("digits"))
    assert torch.equal(first.train, second.train)
    assert first.checksum == second.checksum == "e71b26f799ae960b"  # a recorded number means these very images
    assert torch.bincount(first.test_labels, minlength=10).min() >= 15  # of 29.7 expected


def test_patches_are_crops_of_their_photograph():
    data, photographs = load_data(DataConfig("patches")), load_sample_images().images
    assert (data.shape, data.num_classes, len(data.train), len(data.test)) == ((3, 32, 32), 2, 4400, 1200)
    for images, labels, part in ((data.train, data.train_labels, 0), (data.test, data.test_labels, 1)):
        crops, classes = [], []
        for label, photograph in enumerate(photographs):
            for top, left in patch_corners(427, 640)[part]:
                crops.append(photograph[top : top + 32, left : left + 32].transpose(2, 0, 1).copy())
                classes.append(label)
        assert multiset(images.numpy(), labels) == multiset(crops, classes)
        assert 0.4 < labels[:200].float().mean() < 0.6  # shuffled: the first images are a fair sample


@pytest.mark.parametrize(("height", "width"), [(427, 640), (40, 333)])
def test_no_pixel_is_in_a_training_and_in_a_test_crop(height, width):
    train, test = patch_corners(height, width)
    seen = np.zeros((2, height, width), dtype=bool)
    for part, corners in enumerate((train, test)):
        for top, left in corners:
            assert top + 32 <= height
            assert left + 32 <= width
            seen[part, top : top + 32, left : left + 32] = True
    assert seen[0].any()
    assert seen[1].any()
    assert not (seen[0] & seen[1]).any()


def test_unknown_data_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"data.name: saw 'digit'; did you mean 'digits'\? valid: digits, patches"):
        load_data(DataConfig("digit"))
    with pytest.raises(ConfigError, match=r"data.path: saw '/somewhere'"):
        load_data(DataConfig("digits", path="/somewhere"))


def test_checksum_tells_values_shapes_and_types_apart():
    images = torch.arange(35, dtype=torch.uint8).reshape(5, 7)
    changed = images.clone()
    changed[4, 6] = 0
    sums = {image_checksum(x) for x in (images, changed, images.reshape(7, 5), images.to(torch.int8))}
    assert len(sums) == 4
    assert image_checksum(images.T.contiguous().T) == image_checksum(images)  # memory layout is no content


@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid_equals_a_slow_loop(channels):
    images = torch.randint(0, 256, (7, channels, 5, 11), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    grid = image_grid(images, columns=3, scale=2)
    assert grid.shape == (3 * 10 + 2, 3 * 22 + 2, channels)
    expected = np.full_like(grid, 255)
    for index in range(7):
        for y in range(10):
            for x in range(22):
                at = (index // 3) * 11 + y, (index % 3) * 23 + x
                expected[at] = images[index, :, y // 2, x // 2]
    assert np.array_equal(grid, expected)


@pytest.mark.parametrize(("count", "side", "columns"), [(64, 8, 8), (7, 5, 11), (1, 3, 1), (20, 32, 10)])
def test_image_grid_takes_the_smallest_visible_scale(count, side, columns):
    images = torch.zeros((count, 1, side, side), dtype=torch.uint8)
    grid = image_grid(images, columns)
    scale = (grid.shape[1] + 1) // min(columns, count) // side
    assert grid.shape[1] >= 256
    assert np.array_equal(grid, image_grid(images, columns, scale))
    assert scale == 1 or image_grid(images, columns, scale - 1).shape[1] < 256


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7, 1), (5, 7)])
def test_png_round_trip(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    decoded = np.asarray(Image.open(io.BytesIO(encode_png(array))))
    assert np.array_equal(decoded, array.reshape(decoded.shape))
    assert decoded.shape[:2] == (5, 7)


def test_wrong_images_are_refused():
    with pytest.raises(ValueError, match=r"saw torch.float32"):
        image_grid(torch.zeros(5, 1, 7, 7), 2)
    with pytest.raises(ValueError, match=r"shape \(5, 2, 7, 7\)"):
        image_grid(torch.zeros(5, 2, 7, 7, dtype=torch.uint8), 2)
    with pytest.raises(ValueError, match="columns=0"):
        image_grid(torch.zeros(5, 1, 7, 7, dtype=torch.uint8), 0)
    with pytest.raises(ValueError, match=r"saw float64 with shape \(5, 7\)"):
        encode_png(np.zeros((5, 7)))
