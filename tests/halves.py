"""An extractor that is easy to compute by hand, and random numbers and images, for the tests of metrics."""

import time

import torch

from aiqn_core.features import Features


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(x):
    return x.mean(0), torch.cov(x.T)


def random_images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 5, 7), dtype=torch.uint8, generator=generator)


class Halves:
    """An extractor that is easy to compute by hand: means of the image's halves, and of four levels."""

    name = "halves"

    def __init__(self, version=1):
        self.version, self.calls = version, 0

    def __call__(self, images):
        self.calls += 1
        pixels = images.flatten(1).float() / 255
        middle = pixels.shape[1] // 2
        pooled = torch.stack([pixels[:, :middle].mean(1), pixels[:, middle:].mean(1)], 1)
        return Features(pooled, torch.softmax(pooled @ torch.tensor([[1.0, 2, 3, 4], [4.0, 1, 3, 2]]), 1))

    def describe(self):
        return {"extractor": self.name, "version": self.version}


class SlowHalves(Halves):
    """Leaves a mark in a folder for every computation, and takes long enough for processes to meet."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def __call__(self, images):
        (self.folder / f"computed-{time.time_ns()}").touch()
        time.sleep(0.5)
        return super().__call__(images)
