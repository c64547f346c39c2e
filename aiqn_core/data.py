"""The bundled and the prepared images and vectors, pictures of them and PNG files. Nothing here is downloaded."""

import functools
import hashlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from aiqn_core.config import VECTOR_DATA, ConfigError, DataConfig, Problem
from aiqn_core.densities import DENSITIES
from aiqn_core.prepared import data_problems, prepared_folder, read_prepared
from aiqn_core.settings import one_line

DIGITS_TRAIN = 1500  # of 1,797
VECTORS_TRAIN, VECTORS_TEST = 20_000, 10_000
GRID, COLUMNS = 64, 8  # images in one picture, always the first ones, and in each of its rows
EXTENT, BINS = 3.5, 96  # of a picture of vectors: both axes from -EXTENT to EXTENT, in standard deviations

# Photographs are cut into columns of 160 pixels: 112 for training, then 48 held out. A crop lies within one part,
# so no pixel is in a training and in a test crop, and both sets see every region of both photographs.
PATCH, STRIDE, PERIOD, TRAIN_WIDTH = 32, 8, 160, 112


@dataclass(frozen=True)
class ImageData:
    """Images with shape (N, C, H, W), uint8, and one class per image, int64, in two sets that share nothing.

    Both sets are in a fixed random order, so that their first n images are a fair sample.
    """

    name: str
    train: UInt8[Tensor, "train channel height width"]
    train_labels: Int64[Tensor, " train"]
    test: UInt8[Tensor, "test channel height width"]
    test_labels: Int64[Tensor, " test"]
    num_classes: int
    checksum: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channel, height, width = self.train.shape[1:]
        return channel, height, width

    def picture(self, images: UInt8[Tensor, "image channel height width"]) -> np.ndarray:
        """Images as a grid with rows of 8, (H, W, C) uint8."""
        return image_grid(images, COLUMNS)

    def real_picture(self) -> np.ndarray:
        """The first held-out images, to lay beside samples."""
        return self.picture(self.test[:GRID])


@dataclass(frozen=True)
class VectorData:
    """Vectors with shape (N, D), float32, in two sets that share nothing; units as in `densities`."""

    name: str
    train: Float32[Tensor, "train dim"]
    test: Float32[Tensor, "test dim"]
    true_nll: float | None  # mean nats per dimension of the test set under the true density, where that is known
    checksum: str
    num_classes: int = 0

    @property
    def shape(self) -> tuple[int]:
        """(D,) of one vector."""
        return (self.train.shape[1],)

    def picture(self, vectors: Float[Tensor, "vector dim"]) -> np.ndarray:
        """The density of the first two dimensions, (H, W, 1) uint8: as black as the densest bin of the test set."""
        counts, real = histogram(vectors), histogram(self.test)
        shade = np.sqrt(counts / max(len(vectors), 1)) / np.sqrt(real.max() / len(self.test))
        pixels = np.rint(255 * (1 - shade.clip(0, 1))).astype(np.uint8)
        return pixels.repeat(4, 0).repeat(4, 1)[:, :, None]

    def real_picture(self) -> np.ndarray:
        """The density of the held-out vectors, to lay beside samples."""
        return self.picture(self.test)


def load_data(config: DataConfig) -> ImageData | VectorData:
    """The data of `config.name`: bundled, a density, or prepared; raises ConfigError where there are none."""
    if config.thing is not None:
        return _own_data(config)
    if config.name not in LOADERS:
        if problems := data_problems(config):
            raise ConfigError(problems)
        return load_prepared(config)
    if config.path is not None:
        message = f"saw {config.path!r}, but {config.name} is bundled and read from nowhere else; remove data.path"
        raise ConfigError([Problem("data.path", message)])
    return _bundled(config.name)


def _own_data(config: DataConfig) -> ImageData | VectorData:
    """The data of somebody's class; raises ConfigError where they are none."""
    try:
        data = config.thing(config.settings).load()
    except ConfigError:
        raise
    except Exception as error:
        told = f"saw {config.name!r}, whose load() raised {one_line(error)}"
        raise ConfigError([Problem("data.name", told)]) from error
    expected = VectorData if config.of_vectors else ImageData
    if not isinstance(data, expected):
        message = f"saw {config.name!r}, whose load() gave a {type(data).__name__}, expected {expected.__name__}"
        raise ConfigError([Problem("data.name", f"{message}; see aiqn_core.data.images and vectors")])
    return data


def images(
    name: str, train: Tensor, test: Tensor, train_labels: Tensor | None = None, test_labels: Tensor | None = None
) -> ImageData:
    """Images of one's own: uint8 tensors (N, C, H, W), each set in a random order, and classes from 0 where there are.

    Raises ValueError for any other tensors.
    """
    for part, what in ((train, "train"), (test, "test")):
        if part.dtype != torch.uint8 or part.ndim != 4 or not part.numel() or part.shape[1] not in (1, 3):
            seen = f"{part.dtype} of shape {tuple(part.shape)}"
            raise ValueError(f"{what}: saw {seen}, expected torch.uint8 of shape (N, 1 or 3, H, W)")
    labels = [
        torch.zeros(len(part), dtype=torch.long) if given is None else given.long()
        for part, given in ((train, train_labels), (test, test_labels))
    ]
    if train_labels is None:
        return ImageData(name, train, labels[0], test, labels[1], 0, image_checksum(train, test))
    return _image_data(name, train, labels[0], test, labels[1])


def vectors(name: str, train: Tensor, test: Tensor, true_nll: float | None = None) -> VectorData:
    """Vectors of one's own: float tensors (N, D), best with mean 0 and standard deviation 1 in every dimension.

    Raises ValueError for any other tensors.
    """
    for part, what in ((train, "train"), (test, "test")):
        if not part.is_floating_point() or part.ndim != 2 or not bool(part.isfinite().all()):
            seen = f"{part.dtype} of shape {tuple(part.shape)}"
            raise ValueError(f"{what}: saw {seen}, expected finite floats of shape (N, D)")
    train, test = train.float(), test.float()
    return VectorData(name, train, test, true_nll, image_checksum(train, test))


@functools.lru_cache(maxsize=1)
def _bundled(name: str) -> ImageData | VectorData:
    """Kept, for a process trains one trial of a sweep after the other on the same data, and nobody changes them."""
    return LOADERS[name]()


def load_prepared(config: DataConfig) -> ImageData:
    """Images that `prepare` wrote, mapped into memory: nothing is read before it is used."""
    prepared = read_prepared(prepared_folder(config.name, config.path))
    tensors = {key: torch.from_numpy(array) for key, array in prepared.arrays.items()}
    about = prepared.about
    return ImageData(
        config.name,
        tensors["train"],
        tensors["train_labels"],
        tensors["test"],
        tensors["test_labels"],
        about["num_classes"],
        about["checksum"],
    )


def load_digits() -> ImageData:
    """1,797 scanned digits, 8x8 grey, 10 classes: 1,500 to train, 297 to test (UCI, bundled with scikit-learn)."""
    from sklearn.datasets import load_digits as read_digits

    digits = read_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # scanned in 17 levels, 0 to 16
    order = _order(len(pixels))
    images, labels = torch.from_numpy(pixels)[order].unsqueeze(1), torch.from_numpy(digits.target).long()[order]
    return _image_data(
        "digits", images[:DIGITS_TRAIN], labels[:DIGITS_TRAIN], images[DIGITS_TRAIN:], labels[DIGITS_TRAIN:]
    )


def load_patches() -> ImageData:
    """32x32 RGB crops of two photographs, a class each: 4,400 to train, 1,200 to test (bundled with scikit-learn)."""
    from sklearn.datasets import load_sample_images

    train: list[Tensor] = []
    test: list[Tensor] = []
    for photograph in load_sample_images().images:  # china.jpg, flower.jpg: (427, 640, 3)
        train_corners, test_corners = patch_corners(*photograph.shape[:2])
        for crops, corners in ((train, train_corners), (test, test_corners)):
            cut = [photograph[top : top + PATCH, left : left + PATCH] for top, left in corners]
            crops.append(torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2))
    return _image_data("patches", *_shuffled(train), *_shuffled(test))


def load_vectors(name: str) -> VectorData:
    """Draws from a density in closed form, always the same ones: 20,000 to train, 10,000 to test."""
    density = DENSITIES[name]
    draws = density.sample(VECTORS_TRAIN + VECTORS_TEST, np.random.RandomState(0))
    # Rounded to a grid far below any model's error: the last digits of exp and log differ between machines.
    vectors = torch.from_numpy(np.rint(draws * 2**16) / 2**16).float()
    train, test = vectors[:VECTORS_TRAIN], vectors[VECTORS_TRAIN:]
    true_nll = -float(density.log_prob(test).mean()) / test.shape[1]
    return VectorData(name, train, test, true_nll, image_checksum(train, test))


LOADERS: dict[str, Callable[[], ImageData | VectorData]] = {
    "digits": load_digits,
    "patches": load_patches,
    **{name: functools.partial(load_vectors, name) for name in VECTOR_DATA},
}


def histogram(vectors: Float[Tensor, "vector dim"]) -> np.ndarray:
    """Counts (BINS, BINS) of the first two dimensions: the first to the right, the second upwards."""
    first, second = vectors[:, 0].double().cpu().numpy(), vectors[:, -1 if vectors.shape[1] == 1 else 1]
    ends = (-EXTENT, EXTENT)
    counts, _, _ = np.histogram2d(second.double().cpu().numpy(), first, bins=BINS, range=(ends, ends))
    return counts[::-1]


def patch_corners(height: int, width: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(top, left) of the training and of the test crops of a photograph, on a grid of 8 pixels within each part."""
    rows = range(0, height - PATCH + 1, STRIDE)
    parts = [(begin, begin + TRAIN_WIDTH, begin + PERIOD) for begin in range(0, width - PERIOD + 1, PERIOD)]
    train = [left for begin, middle, _ in parts for left in range(begin, middle - PATCH + 1, STRIDE)]
    test = [left for _, middle, end in parts for left in range(middle, end - PATCH + 1, STRIDE)]
    return [(top, left) for top in rows for left in train], [(top, left) for top in rows for left in test]


def image_checksum(*tensors: Tensor) -> str:
    """Sixteen hexadecimal digits of the SHA-256 over shapes, types and values."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def image_grid(
    images: UInt8[Tensor, "image channel height width"], columns: int, scale: int | None = None
) -> np.ndarray:
    """Images side by side as (H, W, 3 or 1) uint8, row by row, with white gaps of one pixel.

    Each pixel becomes a square of `scale` pixels; None takes the smallest that gives a grid of at least 256 pixels.
    Raises ValueError for anything but uint8 images of 1 or 3 channels, and for columns or scale below 1.
    """
    _check_grid(images, columns, scale)
    count, channel, height, width = images.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    scale = scale or max(1, math.ceil((256 - (columns - 1)) / (columns * width)))
    height, width = height * scale, width * scale
    large = images.cpu().repeat_interleave(scale, 2).repeat_interleave(scale, 3).permute(0, 2, 3, 1).numpy()
    grid = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channel), 255, dtype=np.uint8)
    for index, image in enumerate(large):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        grid[top : top + height, left : left + width] = image
    return grid


def encode_png(array: np.ndarray) -> bytes:
    """A PNG file of (H, W, 3), (H, W, 1) or (H, W) uint8 pixels; raises ValueError for any other array."""
    from PIL import Image

    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))):
        raise ValueError(f"saw {array.dtype} with shape {array.shape}, expected uint8 with shape (H, W, 1 or 3)")
    file = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array).save(file, format="PNG")
    return file.getvalue()


def _order(count: int) -> Tensor:
    # NumPy keeps the stream of this legacy generator frozen; torch promises no such thing for randperm
    return torch.from_numpy(np.random.RandomState(0).permutation(count))


def _shuffled(classes: list[Tensor]) -> tuple[Tensor, Tensor]:
    images = torch.cat(classes)
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(crops) for crops in classes]))
    order = _order(len(images))
    return images[order].contiguous(), labels[order]


def _image_data(name: str, train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> ImageData:
    checksum = image_checksum(train, train_labels, test, test_labels)
    return ImageData(name, train, train_labels, test, test_labels, int(train_labels.max()) + 1, checksum)


def _check_grid(images: Tensor, columns: int, scale: int | None) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        shape = tuple(images.shape)
        raise ValueError(f"images: saw {images.dtype} with shape {shape}, expected uint8 with shape (N, 1 or 3, H, W)")
    if columns < 1 or (scale is not None and scale < 1):
        raise ValueError(f"saw {columns=}, {scale=}, expected integers of at least 1")
