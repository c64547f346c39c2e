"""Densities against numerical integrals and moments, the data made of them, and pictures of vectors."""

import math

import numpy as np
import pytest
import torch

from aiqn_core.config import VECTOR_DATA, ConfigError, DataConfig
from aiqn_core.data import BINS, histogram, load_data
from aiqn_core.densities import DENSITIES


@pytest.mark.parametrize("name", VECTOR_DATA)
def test_a_density_integrates_to_one_with_moments_zero_and_one(name):
    step, ends = 0.02, 8.0
    axis = torch.arange(-ends, ends, step).double() + step / 2
    grid = torch.stack(torch.meshgrid(axis, 2 * axis, indexing="ij"), -1).reshape(-1, 2)  # the banana has a long tail
    mass = DENSITIES[name].log_prob(grid).exp() * step * 2 * step
    assert mass.sum().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(mass @ grid, torch.zeros(2).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(mass @ grid.square(), torch.ones(2).double(), rtol=0, atol=1e-3)
    correlation = (mass @ grid.prod(1)).item()
    if name != "mixture2d":
        assert correlation == pytest.approx({"gaussian2d": 0.8, "banana2d": 0.0}[name], abs=1e-4)


@pytest.mark.parametrize("name", VECTOR_DATA)
def test_draws_follow_the_density(name):
    """A chi-squared of counts on a coarse grid against the integral of the density over each cell."""
    draws = torch.from_numpy(DENSITIES[name].sample(20_000, np.random.RandomState(1)))
    edges, fine = np.linspace(-3, 3, 9), 40
    axis = torch.from_numpy((np.arange(8 * fine) + 0.5) / (8 * fine) * 6 - 3)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    mass = DENSITIES[name].log_prob(grid).exp().reshape(8, fine, 8, fine).sum((1, 3)) * (6 / (8 * fine)) ** 2
    counts, _, _ = np.histogram2d(*draws.T.numpy(), bins=(edges, edges))
    expected = mass.numpy() * len(draws)
    cells = expected > 10
    chi2 = ((counts - expected)[cells] ** 2 / expected[cells]).sum()
    freedom = cells.sum()
    assert abs(chi2 - freedom) < 4 * math.sqrt(2 * freedom)


def test_closed_form_entropies():
    """Both are those of a Gaussian with the same determinant: the banana is a shear of one, and shears keep volume."""
    for name, variance in (("gaussian2d", 1 - 0.8**2), ("banana2d", 1 - 0.9**2)):
        data = load_data(DataConfig(name))
        entropy = (2 * math.log(2 * math.pi * math.e) + math.log(variance)) / 4
        # log p has variance 1 for a Gaussian in two dimensions, 1/2 for each half of it
        assert data.true_nll == pytest.approx(entropy, abs=4 * 0.5 / math.sqrt(len(data.test)))


def test_vector_data_are_the_same_every_time():
    first, second = (load_data(DataConfig("mixture2d")) for _ in range(2))
    assert first.checksum == second.checksum
    assert torch.equal(first.train, second.train)
    assert first.train.dtype == torch.float32
    assert (first.train.shape, first.test.shape, first.shape) == ((20_000, 2), (10_000, 2), (2,))
    rows = {tuple(row) for row in first.train.tolist()}
    assert not rows & {tuple(row) for row in first.test.tolist()}
    assert len({load_data(DataConfig(name)).checksum for name in VECTOR_DATA}) == 3
    assert tuple(DENSITIES) == VECTOR_DATA


def test_vector_data_are_read_from_nowhere():
    with pytest.raises(ConfigError, match=r"data.path: saw '/somewhere', but gaussian2d is bundled"):
        load_data(DataConfig("gaussian2d", path="/somewhere"))


def test_a_picture_shows_the_first_dimension_to_the_right_and_the_second_upwards():
    data = load_data(DataConfig("gaussian2d"))
    picture = data.picture(torch.tensor([[3.0, -1.0]]).repeat(7, 1))
    assert (picture.dtype, picture.shape) == (np.uint8, (4 * BINS, 4 * BINS, 1))
    rows, columns = np.nonzero(picture[:, :, 0] < 255)
    assert rows.mean() / len(picture) == pytest.approx((3.5 + 1) / 7, abs=1 / BINS)
    assert columns.mean() / len(picture) == pytest.approx((3.5 + 3) / 7, abs=1 / BINS)
    assert histogram(data.test).sum() == (data.test.abs() <= 3.5).all(1).sum()
    assert data.picture(data.test).min() == 0
    assert (data.picture(torch.full((5, 2), 9.0)) == 255).all()
