import math

import numpy as np
import pytest
import torch
from halves import Halves, fitted, normal, random_images
from test_metrics import covariance

from aiqn_core.config import DataConfig
from aiqn_core.data import load_data
from aiqn_core.extractors import score_names
from aiqn_core.features import Lite0
from aiqn_core.metrics import frechet_distance, inception_score, kernel_distance
from aiqn_core.reference import cached_reference, reference_statistics
from aiqn_core.scores import (
    coverage_estimate,
    evaluate_images,
    frechet_estimate,
    frechet_to_reference,
    inception_estimate,
    kernel_score,
    kernel_to_reference,
)


@pytest.mark.parametrize(("count", "real"), [(17, 101), (101, 17), (5, 7), (103, 211), (2, 2)])
def test_frechet_to_reference_equals_the_full_formula(count, real):
    x, y = normal(count, 23, seed=1) * 1.5 + 0.3, normal(real, 23, seed=2) @ covariance(23, seed=3) / 23
    full = frechet_distance(*fitted(x), *fitted(y))
    assert frechet_to_reference(x, reference_statistics(y)) == pytest.approx(full, rel=1e-6)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_frechet_of_equal_gaussians_has_the_bias_of_finite_samples(spread):
    """Second-order expansion: (1/N1 + 1/N2) (tr C + sum_ij l_i l_j (1 + d_ij) / (l_i + l_j) / 2)."""
    size, count, real = 16, 250, 1000
    eigenvalues = torch.exp(spread * torch.linspace(-1, 1, size, dtype=torch.float64))
    pairs = eigenvalues[:, None] * eigenvalues / (eigenvalues[:, None] + eigenvalues) * (1 + torch.eye(size))
    expected = float((1 / count + 1 / real) * (eigenvalues.sum() + pairs.sum() / 2))
    x, y = normal(60, count, size, seed=1), normal(60, real, size, seed=2)
    scale = eigenvalues.sqrt()
    distances = [frechet_to_reference(a * scale, reference_statistics(b * scale)) for a, b in zip(x, y, strict=True)]
    assert np.mean(distances) == pytest.approx(expected, rel=0.05)


def test_kernel_to_reference_equals_the_kernel_distance():
    x, y = normal(11, 5, seed=1), normal(23, 5, seed=2) + 0.5
    # the reference keeps its features in single precision
    assert kernel_to_reference(x, reference_statistics(y)) == pytest.approx(kernel_distance(x, y), rel=1e-5)


# Error bars


def left_out(statistic, x):
    """Bias and standard error by leaving out each row in a loop."""
    values = np.array([statistic(torch.cat([x[:i], x[i + 1 :]])) for i in range(len(x))])
    count = len(x)
    bias = (count - 1) * (values.mean() - statistic(x))
    return bias, math.sqrt((count - 1) / count * np.square(values - values.mean()).sum())


@pytest.mark.parametrize(("count", "real"), [(3, 17), (17, 101), (101, 17), (31, 7), (67, 41)])
def test_jackknife_of_the_frechet_distance_equals_a_slow_loop(count, real):
    x, reference = normal(count, 23, seed=1) * 1.5 + 0.3, reference_statistics(normal(real, 23, seed=2))
    estimate = frechet_estimate(x, reference)
    bias, error = left_out(lambda rows: frechet_to_reference(rows, reference), x)
    assert estimate.value == frechet_to_reference(x, reference)
    assert (estimate.bias, estimate.error) == pytest.approx((bias, error), rel=1e-5)
    assert (estimate.low + estimate.high) / 2 == pytest.approx(estimate.value)
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * error, rel=1e-4)


@pytest.mark.parametrize(("count", "size", "shift"), [(90, 8, 0.0), (90, 8, 0.5), (25, 40, 0.5)])
def test_error_bars_hold_the_expected_value_as_often_as_they_say(count, size, shift):
    """Also with fewer samples than dimensions; the jackknife errs to the side of too wide (Efron and Stein 1981)."""
    scale = torch.arange(1, size + 1, dtype=torch.float64) ** -0.5
    reference = reference_statistics(normal(500, size, seed=1) * scale)
    draws = (normal(200, count, size, seed=2) + shift) * scale
    found = [[frechet_estimate(x, reference) for x in draws], [kernel_score(x, reference).estimate for x in draws]]
    if count > 25:  # scores of parts of 8 images are too skewed: 87 % instead of 95 %
        found.append([inception_estimate(torch.softmax(2 * x, 1), 3) for x in draws])
    for estimates in found:
        expected = np.mean([estimate.value for estimate in estimates])
        covered = np.mean([estimate.low <= expected <= estimate.high for estimate in estimates])
        spread = np.std([estimate.value for estimate in estimates])
        assert covered >= 0.9
        assert 0.9 <= np.mean([estimate.error for estimate in estimates]) / spread <= 2


def test_the_bias_of_the_distance_is_found_where_it_is_known():
    """Of samples of N(0, I), and with the reference of which the law is known: what more samples would take away."""
    reference = reference_statistics(normal(4000, 11, seed=1))
    cov = reference.factor @ reference.factor.T
    truth = frechet_distance(torch.zeros(11), torch.eye(11), reference.mean, cov)
    draws = [normal(120, 11, seed=seed) for seed in range(2, 102)]
    estimates = [frechet_estimate(x, reference) for x in draws]
    raised = np.mean([estimate.value for estimate in estimates]) - truth
    assert raised > 20 * truth
    assert np.mean([estimate.bias for estimate in estimates]) == pytest.approx(raised, rel=0.1)


def test_jackknife_of_the_coverage_equals_a_slow_loop():
    x, reference = normal(17, 5, seed=1), reference_statistics(normal(29, 5, seed=2))
    estimate = coverage_estimate(x, reference)
    bias, error = left_out(lambda rows: coverage_estimate(rows, reference).value, x)
    assert 0 < estimate.value < 1
    assert estimate.bias == pytest.approx(bias)
    assert estimate.error == pytest.approx(error)


def test_jackknife_of_the_kernel_distance_equals_a_slow_loop():
    x, reference = normal(13, 5, seed=1) + 0.3, reference_statistics(normal(29, 5, seed=2))
    estimate = kernel_score(x, reference).estimate
    bias, error = left_out(lambda rows: kernel_to_reference(rows, reference), x)
    assert estimate.bias == pytest.approx(bias, abs=1e-9)
    assert bias == pytest.approx(0, abs=1e-9)  # the estimator has none
    assert estimate.error == pytest.approx(error)


def test_jackknife_of_the_inception_score_equals_a_slow_loop():
    p = torch.softmax(2 * normal(23, 5), 1)
    parts = [left_out(lambda rows: inception_score(rows, 1).mean, part) for part in (p[:7], p[7:15], p[15:])]
    estimate = inception_estimate(p, 3)
    assert estimate.value == inception_score(p, 3).mean
    assert estimate.bias == pytest.approx(np.mean([bias for bias, _ in parts]))
    assert estimate.error == pytest.approx(math.sqrt(sum(error**2 for _, error in parts)) / 3)


def test_features_of_another_width_are_refused():
    reference = reference_statistics(normal(5, 7))
    for function in (frechet_to_reference, coverage_estimate, kernel_to_reference):
        with pytest.raises(ValueError, match=r"saw shape \(11, 6\), expected \(N, 7\)"):
            function(normal(11, 6), reference)


def test_wrong_images_are_refused():
    with pytest.raises(ValueError, match="images: saw 2, expected at least 3"):
        evaluate_images(random_images(2), reference_statistics(normal(5, 2)), Halves())


# Another implementation


class Pooled(torch.nn.Module):
    """The features that torchmetrics asks for."""

    def __init__(self, extractor, size):
        super().__init__()
        self.extractor, self.num_features = extractor, size

    def forward(self, images):
        return self.extractor(images).pooled


@pytest.mark.filterwarnings("ignore:Metric")
def test_distances_equal_those_of_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    images, real, extractor = random_images(37, seed=1), random_images(53, seed=2), Halves()
    fid = FrechetInceptionDistance(Pooled(extractor, 2), input_img_size=(1, 5, 7)).set_dtype(torch.float64)
    kid = KernelInceptionDistance(Pooled(extractor, 2), subsets=1, subset_size=37)
    for metric, real_part in ((fid, real), (kid, real[:37])):
        metric.update(real_part, real=True)
        metric.update(images, real=False)
    scores = evaluate_images(images, reference_statistics(extractor(real).pooled), extractor)
    assert scores["fd_halves"] == pytest.approx(float(fid.compute()), rel=1e-4)
    mine = kernel_distance(extractor(images).pooled, extractor(real[:37]).pooled)
    assert mine == pytest.approx(float(kid.compute()[0]), rel=1e-3, abs=1e-6)


@pytest.mark.filterwarnings("ignore:Metric")
def test_inception_score_equals_that_of_torchmetrics():
    from torchmetrics.image.inception import InceptionScore

    logits = normal(40, 7).float()
    score = InceptionScore(torch.nn.Identity(), splits=4)
    torch.manual_seed(0)
    score.update(logits)
    theirs = float(score.compute()[0])
    torch.manual_seed(0)  # it shuffles
    mine = inception_score(logits.softmax(1)[torch.randperm(40)], 4)
    assert mine.mean == pytest.approx(theirs, rel=1e-5)


@pytest.mark.filterwarnings("ignore:Metric")
def test_the_spread_of_the_kernel_distance_is_that_of_torchmetrics(monkeypatch):
    """Between one and two subsets' worth of images too, where half of them would give a spread half as wide again."""
    from torchmetrics.image.kid import KernelInceptionDistance

    monkeypatch.setattr("aiqn_core.metrics.SUBSETS", 1500)
    monkeypatch.setattr("aiqn_core.metrics.SUBSET_SIZE", 31)
    images, real, extractor = random_images(43, seed=1), random_images(53, seed=2), Halves()
    kid = KernelInceptionDistance(Pooled(extractor, 2), subsets=1500, subset_size=31).set_dtype(torch.float64)
    kid.update(real, real=True)
    kid.update(images, real=False)
    torch.manual_seed(0)
    mine = kernel_score(extractor(images).pooled, reference_statistics(extractor(real).pooled)).deviation
    assert mine == pytest.approx(float(kid.compute()[1]), rel=0.1)


# All together


@pytest.mark.parametrize("extrapolate", [False, True])
def test_evaluate_images_equals_its_parts(extrapolate):
    images, real, extractor = random_images(23, seed=1), random_images(31, seed=2), Halves()
    features, reference = extractor(images), extractor(real)
    statistics = reference_statistics(reference.pooled)
    scores = evaluate_images(images, statistics, extractor, splits=3, extrapolate=extrapolate)
    distance = frechet_distance(*fitted(features.pooled.double()), *fitted(reference.pooled.double()))
    assert scores["fd_halves"] == pytest.approx(distance, rel=1e-6)
    assert scores["kd_halves"] == pytest.approx(kernel_distance(features.pooled, reference.pooled), rel=1e-6)
    assert (scores["is_halves_mean"], scores["is_halves_std"]) == inception_score(features.probabilities, 3)
    assert scores["fd_halves_bias"] == frechet_estimate(features.pooled, statistics).bias
    assert scores["kd_halves_std"] == kernel_score(features.pooled, statistics).deviation
    for name, middle in (("fd_halves", "fd_halves"), ("is_halves", "is_halves_mean"), ("kd_halves", "kd_halves")):
        assert scores[f"{name}_low"] < scores[middle] < scores[f"{name}_high"]
    assert scores["coverage_halves"] == coverage_estimate(features.pooled, statistics).value
    unbiased = scores["fd_halves"] - scores["fd_halves_bias"]
    assert scores.get("fd_halves_infinite") == (unbiased if extrapolate else None)
    assert len(scores) == (16 if extrapolate else 15)


def test_only_inception_gives_fid():
    assert score_names("inception") == ("fid", "is", "kid", "coverage_inception")
    assert score_names("lite0") == ("fd_lite0", "is_lite0", "kd_lite0", "coverage_lite0")


@pytest.mark.parametrize(("data", "factor"), [("digits", 5), ("patches", 2)])
def test_lite0_distances_rise_with_noise(tmp_path, data, factor):
    images, extractor = load_data(DataConfig(data)).train, Lite0(64, "cpu")
    reference = cached_reference(images[:200], extractor, tmp_path)
    real = images[200:320]
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    levels = [(real.float() + level * noise).round().clamp(0, 255).byte() for level in (0, 8, 16, 32, 64, 128)]
    scores = [evaluate_images(noisy, reference, extractor) for noisy in levels]
    for key in ("fd_lite0", "kd_lite0"):
        values = [score[key] for score in scores]
        assert values == sorted(values)
        assert values[-1] > factor * values[0]
    assert scores[-1]["fd_lite0_low"] > scores[0]["fd_lite0_high"]  # can be told apart
