"""Completions: what is given is kept, also where it is black; their distance from each other by hand."""

import itertools

import numpy as np
import pytest
import torch
from test_models import tiny

from aiqn_core.inpainting import HALVES, Completions, complete, half


@pytest.mark.parametrize("name", ["pixelcnn", "pixeliqn"])
@pytest.mark.parametrize("level", [0, 255])
def test_given_pixels_come_back_whatever_their_level(name, level):
    """Black is a colour like any other, not the sign of a pixel that is still to be filled in."""
    images = torch.full((3, 3, 5, 7), level, dtype=torch.uint8)
    given = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) < 0.5
    made = complete(tiny(name, (3, 5, 7)), images, given, 4, generator=torch.Generator().manual_seed(1))
    assert made.completed.shape == (3, 4, 3, 5, 7)
    assert (made.completed[..., given] == level).all()
    assert (made.completed[..., ~given] != level).any()


def test_completions_differ_and_are_a_function_of_the_seed():
    images = torch.randint(256, (3, 1, 5, 7), dtype=torch.uint8)
    model, given = tiny("pixelcnn", (1, 5, 7)), half("top", 5, 7)
    first, again, other = (
        complete(model, images, given, 4, generator=torch.Generator().manual_seed(seed)).completed for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({row.numpy().tobytes() for row in first[0]}) == 4


def test_diversity_is_the_mean_over_pairs_by_a_slow_loop():
    random = np.random.RandomState(0)
    images, completed = (torch.from_numpy(random.randint(0, 256, (3, *more, 2, 5, 7), np.uint8)) for more in ((), (4,)))
    given = torch.from_numpy(random.rand(5, 7) < 0.4)
    made = Completions(images, given, completed)

    def apart(a, b):
        places = [(c, r, k) for c in range(2) for r in range(5) for k in range(7) if not given[r, k]]
        return np.mean([abs(int(a[p]) - int(b[p])) for p in places])

    pairs = [apart(c[i], c[j]) for c in completed for i, j in itertools.combinations(range(4), 2)]
    assert made.diversity == pytest.approx(np.mean(pairs), rel=1e-5)
    assert made.variety == pytest.approx(np.mean([apart(*p) for p in itertools.combinations(images, 2)]), rel=1e-5)


def test_halves():
    for side in HALVES:
        mask = half(side, 5, 8)
        assert mask.shape == (5, 8)
        assert mask.sum() == (24 if side in ("top", "bottom") else 20)
    assert half("top", 5, 8)[0].all()
    assert half("left", 5, 8)[:, 0].all()
    assert not half("bottom", 5, 8)[0].any()
    assert not half("right", 5, 8)[:, 0].any()


def test_the_picture_has_a_row_for_each_image():
    images = torch.randint(256, (3, 1, 5, 7), dtype=torch.uint8)
    picture = Completions(images, half("top", 5, 7), images[:, None].repeat(1, 4, 1, 1, 1)).picture()
    scale = (picture.shape[1] - 5) // (6 * 7)
    assert picture.shape == (3 * 5 * scale + 2, 6 * 7 * scale + 5, 1)
