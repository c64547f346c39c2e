"""Distances of vectors against slow loops, closed forms and SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from aiqn_core import distances
from aiqn_core.distances import energy_distance, mean_distance, wasserstein1


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_mean(x, y, same):
    pairs = [(a - b).norm().item() for i, a in enumerate(x) for j, b in enumerate(y) if not (same and i == j)]
    return sum(pairs) / len(pairs)


def test_energy_distance_against_a_double_loop(monkeypatch):
    monkeypatch.setattr(distances, "ROWS", 4)  # several blocks, the last one shorter
    x, y = draws(7, 3), draws(11, 3, seed=1) + 0.5
    expected = 2 * slow_mean(x, y, False) - slow_mean(x, x, True) - slow_mean(y, y, True)
    assert energy_distance(x, y) == pytest.approx(expected, rel=1e-12)
    assert energy_distance(x.float(), y.float(), mean_distance(y)) == pytest.approx(expected, rel=1e-5)


def test_energy_distance_of_two_gaussians_has_a_closed_form():
    """E|N(m, s²)| = s √(2/π) e^(−m²/2s²) + m (1 − 2Φ(−m/s)); in one dimension the distance is also 2 ∫ (F − G)²."""
    mean, scale = 0.7, 1.5

    def mean_abs(m: float, s: float) -> float:
        return s * math.sqrt(2 / math.pi) * math.exp(-(m**2) / (2 * s**2)) + m * math.erf(m / s / math.sqrt(2))

    expected = 2 * mean_abs(mean, math.hypot(1, scale)) - mean_abs(0, math.sqrt(2)) - mean_abs(0, scale * math.sqrt(2))
    t = np.linspace(-12, 12, 100_001)
    cdfs = stats.norm.cdf(t) - stats.norm.cdf(t, mean, scale)
    assert 2 * np.trapezoid(cdfs**2, t) == pytest.approx(expected, rel=1e-6)
    found = [
        energy_distance(draws(500, 1, seed=2 * i), mean + scale * draws(700, 1, seed=2 * i + 1)) for i in range(40)
    ]
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert abs(np.mean(found) - expected) < 4 * error < 0.3 * expected


def test_energy_distance_of_one_distribution_is_zero_on_average():
    """Unbiased: without the correction for equal rows the mean would be E|X − X'| (1/n + 1/m), about 0.07 here."""
    found = [energy_distance(draws(40, 2, seed=2 * i), draws(70, 2, seed=2 * i + 1)) for i in range(100)]
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert abs(np.mean(found)) < 4 * error < 0.02
    assert min(found) < 0


def test_energy_distance_sees_dependence_and_wasserstein_does_not():
    x, noise = draws(2000, 1), draws(2000, 1, seed=1)
    dependent = torch.cat([x, x], 1)
    independent = torch.cat([x, noise], 1)
    assert energy_distance(dependent, independent) > 0.05
    assert wasserstein1(dependent, independent).max() < 0.1


def test_wasserstein_is_scipys_in_every_dimension():
    x, y = draws(7, 3), 2 * draws(11, 3, seed=1) + torch.tensor([0.0, 1.0, -5.0])
    y[:2] = x[:2]  # ties
    expected = [stats.wasserstein_distance(x[:, i], y[:, i]) for i in range(3)]
    torch.testing.assert_close(wasserstein1(x, y), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(wasserstein1(x, x + 0.25), torch.full((3,), 0.25).double())


@pytest.mark.parametrize("distance", [energy_distance, wasserstein1])
def test_wrong_input_is_refused(distance):
    x = draws(7, 3)
    with pytest.raises(ValueError, match="3 and 2 dimensions"):
        distance(x, x[:, :2])
    with pytest.raises(ValueError, match=r"shape \(1, 3\).*at least 2"):
        distance(x[:1], x)
    x[2, 1] = math.nan
    with pytest.raises(ValueError, match="saw 1 values that are not finite"):
        distance(draws(5, 3), x)
