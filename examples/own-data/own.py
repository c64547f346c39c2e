"""Data, a metric and an extractor of features of one's own: images of rings, scored by what matters in rings."""

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from aiqn_core.data import images
from aiqn_core.features import Features
from aiqn_core.metric import Metric


class Rings:
    """Grey images of one ring each, of any radius, at any place: the data of `data: {name: own.Rings}`."""

    class Settings(BaseModel):
        count: int = 1500
        """Images to train on; a third as many are held out."""
        side: int = 12
        """Pixels of a side."""

    data = "images"

    def __init__(self, settings):
        self.settings = settings

    def load(self):
        generator = torch.Generator().manual_seed(0)  # the same images on all machines, at every start
        count, side = self.settings.count * 4 // 3, self.settings.side
        x, y, radius = torch.rand((3, count, 1, 1), generator=generator)
        radius = side * (0.15 + 0.2 * radius)
        x, y = (radius + 1 + (side - 2 * radius - 3) * place for place in (x, y))
        grid = torch.arange(side).float()
        distance = ((grid[:, None] - y).square() + (grid - x).square()).sqrt()  # (count, side, side)
        pixels = (255 * torch.exp(-(distance - radius).square())).round().to(torch.uint8)[:, None]
        return images("rings", pixels[: self.settings.count], pixels[self.settings.count :])


class Ink:
    """How far the amounts of ink in samples are from those in held-out images: `evaluate: {also: [own.Ink]}`.

    The Wasserstein-1 distance of the mean brightness of an image, in grey levels.
    """

    metric = Metric("ink_distance", "minimize", unit="grey levels", low=0)

    def __call__(self, samples: Tensor, real: Tensor) -> float:
        levels = torch.linspace(0.005, 0.995, 100)
        ours, theirs = (each.float().mean((1, 2, 3)).quantile(levels) for each in (samples, real))
        return float((ours - theirs).abs().mean())


class Edges:
    """Where the edges of an image lie and how strong they are: `evaluate: {features: own.Edges}`.

    Scores with it are called fd_edges, kd_edges, coverage_edges and so on. A trained network has the same form.
    """

    name = "edges"
    cells = 3

    def __call__(self, images: Tensor) -> Features:
        """Features of uint8 images (N, C, H, W), and probabilities of "classes": here which cell has the most edges."""
        x = images.float().mean(1) / 255
        across, down = x.diff(dim=2)[:, :-1], x.diff(dim=1)[:, :, :-1]  # both (N, H - 1, W - 1)
        parts = torch.stack([across.relu(), (-across).relu(), down.relu(), (-down).relu()], 1)
        pooled = nn.functional.adaptive_avg_pool2d(parts, self.cells)  # (N, 4, cells, cells)
        return Features(pooled.flatten(1), (40 * pooled.sum(1).flatten(1)).softmax(1))

    def describe(self):
        """What decides the features: it is recorded with every score, and scores of other records are not compared."""
        return {"extractor": "edges", "cells": self.cells}
