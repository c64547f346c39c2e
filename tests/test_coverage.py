"""Coverage compared with its definition as slow loops, and with what it is for: samples that are all alike."""

import pytest
import torch

from aiqn_core import coverage
from aiqn_core.config import DataConfig
from aiqn_core.coverage import covered, neighbour_radii
from aiqn_core.data import load_data
from aiqn_core.features import Lite0
from aiqn_core.reference import reference_statistics
from aiqn_core.scores import coverage_estimate, kernel_to_reference


def normal(count, width, seed):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow(samples, real, k=5):
    """Naeem et al. 2020, equation (8): real images with a sample inside the sphere of their k-th nearest neighbour."""
    hits = 0
    for i, one in enumerate(real):
        others = sorted(float((one - other).norm()) for j, other in enumerate(real) if j != i)
        hits += any(float((one - sample).norm()) <= others[k - 1] for sample in samples)
    return hits / len(real)


@pytest.mark.parametrize("rows", [3, 1024])
def test_coverage_is_its_definition_in_blocks_of_any_size(monkeypatch, rows):
    monkeypatch.setattr(coverage, "ROWS", rows)
    samples, real = normal(11, 7, seed=1), normal(23, 7, seed=2)
    assert covered(samples, real, neighbour_radii(real)).share == pytest.approx(slow(samples, real))
    assert 0 < slow(samples, real) < 1


def test_real_images_cover_themselves_and_one_image_only_its_surroundings():
    real = normal(29, 5, seed=3)
    radii = neighbour_radii(real)
    assert covered(real, real, radii).share == 1
    assert covered(real[:1].repeat(17, 1), real, radii).share == pytest.approx(slow(real[:1], real))


def test_samples_as_good_as_real_images_cover_what_theory_says():
    """1 - C(N, 5) / C(N + M, 5), nearly, for M samples against N real images."""
    real, samples = normal(301, 3, seed=4), normal(199, 3, seed=5)
    expected = 1 - (301 / 500) ** 5
    assert covered(samples, real, neighbour_radii(real)).share == pytest.approx(expected, abs=0.05)


def test_few_digits_repeated_cover_less_than_noisy_ones_though_the_kernel_distance_prefers_them():
    digits, extractor = load_data(DataConfig("digits")).train, Lite0(64, "cpu")
    reference = reference_statistics(extractor(digits[:150]).pooled)
    generator = torch.Generator().manual_seed(0)
    rest = digits[150:200].float()
    noisy = (rest + 30 * torch.randn(rest.shape, generator=generator)).round().clamp(0, 255).byte()
    few = extractor(digits[150:155].repeat(10, 1, 1, 1)).pooled
    damaged = extractor(noisy).pooled
    assert kernel_to_reference(few, reference) < kernel_to_reference(damaged, reference)
    assert coverage_estimate(few, reference).value < coverage_estimate(damaged, reference).value
