import math

import numpy as np
import pytest
import scipy.linalg
import torch
from halves import normal

from aiqn_core.metrics import (
    frechet_distance,
    inception_score,
    kernel_distance,
    kernel_sums,
    kernel_within,
    random_subsets,
)


def covariance(size, seed=0, rank=None):
    factor = normal(size, rank or size + 3, seed=seed)
    return factor @ factor.T


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


# Inception score


def test_inception_score_of_equal_predictions_is_one():
    assert inception_score(torch.full((55, 7), 1 / 7), splits=5) == pytest.approx((1, 0))
    assert inception_score(torch.tensor([[0.7, 0.2, 0.1]]).expand(11, 3), splits=1) == pytest.approx((1, 0))


def test_inception_score_of_certain_and_balanced_predictions_is_the_number_of_classes():
    assert inception_score(torch.eye(7).repeat(10, 1), splits=5) == pytest.approx((7, 0))


def test_inception_score_equals_a_slow_loop():
    p = torch.softmax(2 * normal(23, 5), 1)
    scores = []
    for part in (p.numpy()[:7], p.numpy()[7:15], p.numpy()[15:]):  # cut at 23 // 3 and 46 // 3
        marginal = part.mean(0)
        scores.append(
            math.exp(np.mean([sum(a * math.log(a / m) for a, m in zip(r, marginal, strict=True)) for r in part]))
        )
    assert inception_score(p, splits=3) == pytest.approx((np.mean(scores), np.std(scores)))


def published_inception_score(p, splits):
    """The loop of the original code, improved-gan/inception_score/model.py, which torch-fidelity follows."""
    scores = []
    for i in range(splits):
        part = p[(i * p.shape[0] // splits) : ((i + 1) * p.shape[0] // splits), :]
        kl = part * (np.log(part) - np.log(np.expand_dims(np.mean(part, 0), 0)))
        scores.append(np.exp(np.mean(np.sum(kl, 1))))
    return np.mean(scores), np.std(scores)


@pytest.mark.parametrize(("count", "splits"), [(103, 10), (103, 7), (29, 29), (11, 4)])
def test_inception_score_is_cut_where_the_original_code_cuts(count, splits):
    p = torch.softmax(2 * normal(count, 5), 1)
    assert inception_score(p, splits) == pytest.approx(published_inception_score(p.numpy(), splits))


# Kernel distance


def slow_kernel(a, b, same):
    pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (same and i == j)]
    return sum((sum(p * q for p, q in zip(a[i], b[j], strict=True)) / len(a[0]) + 1) ** 3 for i, j in pairs) / len(
        pairs
    )


def slow_kernel_distance(x, y):
    a, b = x.tolist(), y.tolist()
    return slow_kernel(a, a, True) + slow_kernel(b, b, True) - 2 * slow_kernel(a, b, False)


def test_kernel_distance_equals_a_slow_loop():
    x, y = normal(5, 3, seed=1), normal(7, 3, seed=2) + 0.5
    expected = slow_kernel_distance(x, y)
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-10)
    assert kernel_distance(y, x) == pytest.approx(expected, rel=1e-10)


def test_kernel_sums_over_rows_and_subsets_equal_slow_loops():
    x, y = normal(5, 3, seed=1), normal(7, 3, seed=2)
    mine = torch.tensor([[1.0, 0, 1, 1, 0], [0, 1, 0, 1, 0]], dtype=torch.float64)
    theirs = torch.tensor([[0.0, 1, 1, 0, 0, 0, 1], [1, 0, 1, 0, 0, 0, 0]], dtype=torch.float64)
    across, within = kernel_sums(x, y, (mine, theirs)), kernel_within(x, mine)
    a, b = x.tolist(), y.tolist()
    assert across.rows.tolist() == pytest.approx([7 * slow_kernel([row], b, False) for row in a])
    for index, (ones, others) in enumerate(zip(mine.bool(), theirs.bool(), strict=True)):
        p, q = x[ones].tolist(), y[others].tolist()
        assert float(across.subsets[index]) == pytest.approx(len(p) * len(q) * slow_kernel(p, q, False))
        assert float(within.subsets[index]) == pytest.approx(len(p) * (len(p) - 1) * slow_kernel(p, p, True))


def test_kernel_distance_is_summed_in_blocks(monkeypatch):
    x, y = normal(23, 5, seed=1), normal(11, 5, seed=2)
    whole = kernel_distance(x, y)
    monkeypatch.setattr("aiqn_core.metrics.KERNEL_ROWS", 7)
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-12)


def test_kernel_distance_has_no_bias():
    distances = [kernel_distance(normal(11, 5, seed=seed), normal(7, 5, seed=seed + 1000)) for seed in range(400)]
    assert abs(np.mean(distances)) < 3 * np.std(distances) / math.sqrt(400)
    assert min(distances) < 0


@pytest.mark.parametrize(
    ("count", "size"), [(2, 2), (3, 2), (11, 5), (999, 499), (1000, 1000), (1499, 1000), (2003, 1000)]
)
def test_random_subsets_have_the_published_size_or_half_the_images(count, size):
    picked = random_subsets(count, 0)
    assert picked.shape == (100, count)
    assert set(picked.sum(1).tolist()) == {size}
    assert torch.equal(picked, random_subsets(count, 0))
    if count > 3 and size < count:
        assert not torch.equal(picked, random_subsets(count, 1))


# Wrong input


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


def test_wrong_features_are_refused():
    with pytest.raises(ValueError, match=r"features2: saw shape \(5, 6\), expected \(N, 7\)"):
        kernel_distance(normal(11, 7), normal(5, 6))
    for broken, message in (
        (normal(11, 7) * math.nan, "in 11 of 11 rows"),
        (normal(1, 7), "saw 1, expected at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            kernel_distance(broken, normal(5, 7))
