import math
import multiprocessing
import time

import numpy as np
import pytest
import scipy.linalg
import torch

from aiqn_core.config import DataConfig
from aiqn_core.data import load_data
from aiqn_core.features import Features, Lite0
from aiqn_core.metrics import (
    cached_reference,
    evaluate_images,
    frechet_distance,
    frechet_to_reference,
    inception_score,
    kernel_distance,
    kernel_to_reference,
    reference_path,
    reference_statistics,
)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(size, seed=0, rank=None):
    factor = normal(size, rank or size + 3, seed=seed)
    return factor @ factor.T


def fitted(x):
    return x.mean(0), torch.cov(x.T)


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


def random_images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 5, 7), dtype=torch.uint8, generator=generator)


# Fréchet distance


def test_frechet_of_two_spheres():
    mean = torch.zeros(4)
    unit, wide = torch.eye(4), 4 * torch.eye(4)
    assert frechet_distance(mean, unit, torch.tensor([1.0, 0, 0, 0]), wide) == pytest.approx(5)  # 1 + 4 (2 - 1)^2


def test_frechet_of_commuting_covariances():
    basis = torch.linalg.qr(normal(7, 7)).Q
    a, b, shift = normal(7, seed=1).abs(), normal(7, seed=2).abs(), normal(7, seed=3)
    a[2], b[5] = 0, 0  # singular, and in different directions
    expected = float(shift.square().sum() + (a.sqrt() - b.sqrt()).square().sum())
    first, second = basis * a @ basis.T, basis * b @ basis.T
    assert frechet_distance(shift, first, torch.zeros(7), second) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(shift, a.diag(), torch.zeros(7), b.diag()) == pytest.approx(expected)


def test_frechet_equals_the_matrix_square_root_and_is_symmetric():
    one, two = (normal(11, seed=1), covariance(11, seed=2)), (normal(11, seed=3), covariance(11, seed=4))
    root = scipy.linalg.sqrtm((one[1] @ two[1]).numpy())
    assert np.abs(np.imag(root)).max() < 1e-6
    traces = float(one[1].trace() + two[1].trace()) - 2 * float(np.trace(np.real(root)))
    expected = float((one[0] - two[0]).square().sum()) + traces
    assert frechet_distance(*one, *two) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(*two, *one) == pytest.approx(frechet_distance(*one, *two), rel=1e-12)


def test_frechet_to_itself_is_zero_also_where_singular():
    for rank in (None, 5):
        cov, mean = covariance(11, rank=rank), normal(11)
        assert frechet_distance(mean, cov, mean, cov) == pytest.approx(0, abs=1e-5 * float(cov.trace()))


@pytest.mark.parametrize(("count", "real"), [(17, 101), (101, 17), (5, 7), (103, 211), (2, 2)])
def test_frechet_to_reference_equals_the_full_formula(count, real):
    x, y = normal(count, 23, seed=1) * 1.5 + 0.3, normal(real, 23, seed=2) @ covariance(23, seed=3) / 23
    full = frechet_distance(*fitted(x), *fitted(y))
    assert frechet_to_reference(x, reference_statistics(y)) == pytest.approx(full, rel=1e-6)


def test_reference_holds_the_covariance():
    for count in (5, 47):
        y = normal(count, 11)
        reference = reference_statistics(y)
        torch.testing.assert_close(reference.factor @ reference.factor.T, torch.cov(y.T))
        assert reference.factor.shape == (11, min(count, 11))
        assert reference.trace == pytest.approx(float(torch.cov(y.T).trace()))
        assert reference.count == count


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


# Inception score


def test_inception_score_of_equal_predictions_is_one():
    assert inception_score(torch.full((55, 7), 1 / 7), splits=5) == pytest.approx((1, 0))
    assert inception_score(torch.tensor([[0.7, 0.2, 0.1]]).expand(11, 3), splits=1) == pytest.approx((1, 0))


def test_inception_score_of_certain_and_balanced_predictions_is_the_number_of_classes():
    assert inception_score(torch.eye(7).repeat(10, 1), splits=5) == pytest.approx((7, 0))


def test_inception_score_equals_a_slow_loop():
    p = torch.softmax(2 * normal(23, 5), 1)
    scores = []
    for part in np.array_split(p.numpy(), 3):  # of 8, 8 and 7 images
        marginal = part.mean(0)
        scores.append(
            math.exp(np.mean([sum(a * math.log(a / m) for a, m in zip(r, marginal, strict=True)) for r in part]))
        )
    assert inception_score(p, splits=3) == pytest.approx((np.mean(scores), np.std(scores)))


# Kernel distance


def test_kernel_distance_equals_a_slow_loop():
    x, y = normal(5, 3, seed=1), normal(7, 3, seed=2) + 0.5

    def mean_kernel(a, b, same):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (same and i == j)]
        return sum((sum(a[i][k] * b[j][k] for k in range(3)) / 3 + 1) ** 3 for i, j in pairs) / len(pairs)

    a, b = x.tolist(), y.tolist()
    expected = mean_kernel(a, a, True) + mean_kernel(b, b, True) - 2 * mean_kernel(a, b, False)
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-10)
    assert kernel_distance(y, x) == pytest.approx(expected, rel=1e-10)
    # the reference keeps its features in single precision
    assert kernel_to_reference(x, reference_statistics(y)) == pytest.approx(expected, rel=1e-5)


def test_kernel_distance_is_summed_in_blocks(monkeypatch):
    x, y = normal(23, 5, seed=1), normal(11, 5, seed=2)
    whole = kernel_distance(x, y)
    monkeypatch.setattr("aiqn_core.metrics.KERNEL_ROWS", 7)
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-12)


def test_kernel_distance_has_no_bias():
    distances = [kernel_distance(normal(11, 5, seed=seed), normal(7, 5, seed=seed + 1000)) for seed in range(400)]
    assert abs(np.mean(distances)) < 3 * np.std(distances) / math.sqrt(400)
    assert min(distances) < 0


# Wrong input


@pytest.mark.parametrize("function", [reference_statistics, lambda x: kernel_distance(x, normal(5, 7))])
def test_wrong_features_are_refused(function):
    broken = normal(11, 7)
    broken[3, 2] = math.nan
    with pytest.raises(ValueError, match="saw NaN or infinity in 1 of 11 rows"):
        function(broken)
    with pytest.raises(ValueError, match="saw 1, expected at least 2 images"):
        function(normal(1, 7))
    with pytest.raises(ValueError, match=r"saw shape \(7,\)"):
        function(normal(7))


def test_features_of_another_width_are_refused():
    reference = reference_statistics(normal(5, 7))
    for function in (frechet_to_reference, kernel_to_reference):
        with pytest.raises(ValueError, match=r"saw shape \(11, 6\), expected \(N, 7\)"):
            function(normal(11, 6), reference)


def test_wrong_gaussians_are_refused():
    mean, cov = normal(5), covariance(5)
    with pytest.raises(ValueError, match=r"mean2 and cov2: saw shapes \(5,\) and \(7, 7\)"):
        frechet_distance(mean, cov, mean, covariance(7))
    with pytest.raises(ValueError, match="saw 5 and 7 dimensions"):
        frechet_distance(mean, cov, normal(7), covariance(7))
    with pytest.raises(ValueError, match="mean1 or cov1 holds NaN"):
        frechet_distance(mean * math.nan, cov, mean, cov)
    for wrong in (cov + normal(5, 5), -cov):
        with pytest.raises(ValueError, match=r"cov2: .* not a covariance"):
            frechet_distance(mean, cov, mean, wrong)


def test_wrong_probabilities_are_refused():
    with pytest.raises(ValueError, match="apply softmax to logits"):
        inception_score(normal(11, 5), splits=2)
    for splits in (0, 12):
        with pytest.raises(ValueError, match=f"splits: saw {splits}, expected 1 to 11"):
            inception_score(torch.full((11, 5), 0.2), splits=splits)


def test_wrong_images_are_refused(tmp_path):
    for wrong in (random_images(5).float(), random_images(5)[:, 0], random_images(1)):
        with pytest.raises(ValueError, match="images: saw"):
            cached_reference(wrong, Halves(), tmp_path)
    with pytest.raises(ValueError, match="images: saw 1"):
        evaluate_images(random_images(1), reference_statistics(normal(5, 2)), Halves())


# The cached reference


def equal(a, b):
    return all(
        np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


def test_reference_is_computed_once_and_read_back_exactly(tmp_path):
    images, extractor = random_images(11), Halves()
    first, second = (cached_reference(images, extractor, tmp_path) for _ in range(2))
    assert extractor.calls == 1
    assert equal(first, second)
    assert equal(first, reference_statistics(Halves()(images).pooled))


def test_other_images_counts_and_extractors_have_their_own_reference(tmp_path):
    images, extractor = random_images(11), Halves()
    cached_reference(images, extractor, tmp_path)
    cached_reference(images[:10], extractor, tmp_path)
    cached_reference(random_images(11, seed=1), extractor, tmp_path)
    other = Halves(version=2)
    cached_reference(images, other, tmp_path)
    assert (extractor.calls, other.calls) == (3, 1)
    assert len(list(tmp_path.glob("*.npz"))) == 4


@pytest.mark.parametrize("damage", ["torn", "empty", "flipped", "foreign"])
def test_damaged_reference_is_computed_again(tmp_path, damage):
    images, extractor = random_images(11), Halves()
    expected = cached_reference(images, extractor, tmp_path)
    path = reference_path(images, extractor, tmp_path)
    content = bytearray(path.read_bytes())
    at = content.index(np.asarray(expected.mean).tobytes())
    flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    path.write_bytes(
        {"torn": content[: len(content) // 2], "empty": b"", "flipped": flipped, "foreign": b"text"}[damage]
    )
    assert equal(cached_reference(images, extractor, tmp_path), expected)
    assert equal(cached_reference(images, extractor, tmp_path), expected)
    assert extractor.calls == 2
    assert not list(tmp_path.glob(".*.tmp"))


def test_processes_compute_a_reference_once(tmp_path):
    context = multiprocessing.get_context("fork")
    arguments = (random_images(11), SlowHalves(tmp_path), tmp_path)
    processes = [context.Process(target=cached_reference, args=arguments, daemon=True) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.glob("computed-*"))) == 1


def test_cache_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("AIQN_CACHE", str(tmp_path / "here"))
    assert reference_path(random_images(5), Halves()).parent == tmp_path / "here"
    monkeypatch.delenv("AIQN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert reference_path(random_images(5), Halves()).parent == tmp_path / ".cache" / "aiqn"


def test_cache_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="set AIQN_CACHE to a folder that can be written"):
        cached_reference(random_images(5), Halves(), tmp_path / "file")


# All together


def test_evaluate_images_equals_its_parts():
    images, real, extractor = random_images(23, seed=1), random_images(31, seed=2), Halves()
    features, reference = extractor(images), extractor(real)
    scores = evaluate_images(images, reference_statistics(reference.pooled), extractor, splits=3)
    assert list(scores) == ["fd_halves", "is_halves_mean", "is_halves_std", "kd_halves"]
    distance = frechet_distance(*fitted(features.pooled.double()), *fitted(reference.pooled.double()))
    assert scores["fd_halves"] == pytest.approx(distance, rel=1e-6)
    assert scores["kd_halves"] == pytest.approx(kernel_distance(features.pooled, reference.pooled), rel=1e-6)
    assert (scores["is_halves_mean"], scores["is_halves_std"]) == inception_score(features.probabilities, 3)


def test_lite0_distances_rise_with_noise_on_digits(tmp_path):
    data, extractor = load_data(DataConfig("digits")), Lite0(64, "cpu")
    reference = cached_reference(data.train[:300], extractor, tmp_path)
    real = data.train[300:500]
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    levels = [(real.float() + level * noise).round().clamp(0, 255).byte() for level in (0, 16, 32, 64, 128)]
    scores = [evaluate_images(images, reference, extractor) for images in levels]
    assert list(scores[0]) == ["fd_lite0", "is_lite0_mean", "is_lite0_std", "kd_lite0"]
    for key in ("fd_lite0", "kd_lite0"):
        values = [score[key] for score in scores]
        assert values == sorted(values)
        assert values[-1] > 5 * values[0]
