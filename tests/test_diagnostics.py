"""Diagnostics of models whose quantiles are known: they must tell what is right from what is not."""

import pytest
import torch

from aiqn_core.config import ModelConfig
from aiqn_core.diagnostics import (
    calibration,
    crossing_rate,
    dependency_matrix,
    implied_density,
    raster,
    tau_sensitivity,
    unraster,
)
from aiqn_core.models import PixelIQN

SHAPE = (3, 5, 7)


class Known(PixelIQN):
    """A model with a quantile function that is written down, in place of the network."""

    def __init__(self, quantile):
        super().__init__(ModelConfig(layers=1, planes=3, skip_planes=3), SHAPE)
        self.double()
        self.quantile = quantile

    def forward(self, x, tau, label=None):
        return self.quantile(x, tau)


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def levels(count):
    """Images of independent levels, uniform over 0..255."""
    return torch.randint(256, (count, *SHAPE), dtype=torch.uint8, generator=generator(7))


def test_raster_orders_by_row_column_channel_and_back():
    x = torch.arange(2 * 3 * 5 * 7.0).reshape(2, *SHAPE)
    flat = raster(x)
    assert flat[1, (4 * 7 + 2) * 3 + 1] == x[1, 1, 4, 2]
    assert torch.equal(unraster(flat, x.shape), x)


def test_dependencies_of_a_known_function():
    def below_left(x, tau):  # reads the pixel to the left of the same channel, and the own tau
        left = torch.zeros_like(x)
        left[..., 1:] = x[..., :-1]
        return left * left + tau

    found = dependency_matrix(Known(below_left), generator=generator())
    n = 3 * 5 * 7
    order = torch.arange(n)
    inside = (order[:, None] // 3) % 7 > 0
    assert torch.equal(found.x, inside & (order[None, :] == order[:, None] - 3))
    assert torch.equal(found.tau, torch.eye(n, dtype=torch.bool))


def test_sensitivity_of_a_known_function():
    def neighbours(x, tau):
        flat = raster(tau)
        mixed = flat.clone()
        mixed[:, 1:] = mixed[:, 1:] + 0.25 * flat[:, :-1]
        mixed[:, :-1] = mixed[:, :-1] - 0.5 * flat[:, 1:]
        return unraster(mixed, tau.shape)

    found = tau_sensitivity(Known(neighbours), levels(400), generator())
    assert found.earlier == pytest.approx(0.25, rel=0.03)  # the first and last sub-pixel have one neighbour
    assert found.later == pytest.approx(0.5, rel=0.03)


def test_the_implied_density_is_that_of_the_distribution():
    """Logistic: Q = m + s log(τ/(1−τ)), p(Q) = τ(1−τ)/s, the density at the quantile."""
    model = Known(lambda x, tau: 0.5 + 0.1 * torch.logit(tau))
    tau = torch.rand(11, *SHAPE, generator=generator()).double()
    index = torch.randint(105, (11,), generator=generator())
    quantile, density = implied_density(model, levels(11), tau, index)
    own = raster(tau).gather(1, index[:, None]).squeeze(1)
    z = torch.exp(-(quantile - 0.5) / 0.1)
    assert torch.allclose(quantile, 0.5 + 0.1 * torch.logit(own))
    assert torch.allclose(density, z / (0.1 * (1 + z) ** 2))


def test_calibration_of_fewer_images_than_levels_leaves_levels_out():
    found = calibration(Known(lambda x, tau: (256 * tau).floor() / 255), levels(3), generator=generator())
    assert found.levels.tolist() == [0.05, 0.25, 0.5]
    assert 0 <= found.error < 0.2
    assert found.upto.isfinite().all()


def test_calibration_of_the_true_quantiles_of_a_shifted_and_of_a_narrow_model():
    image = levels(300)  # x = floor(256 u) / 255, whose quantile is floor(256 τ) / 255
    true = calibration(Known(lambda x, tau: (256 * tau).floor() / 255), image, generator=generator())
    deviation = (0.25 / (300 / 5 * 105 / 2)) ** 0.5  # of a frequency, at most
    assert true.error < 3 * deviation
    assert torch.all((true.upto - true.levels).abs() < 1 / 256 + 4 * deviation)
    assert torch.all(true.below < true.upto)
    shifted = calibration(Known(lambda x, tau: (256 * tau).floor() / 255 + 0.1), image, generator=generator())
    assert torch.allclose(shifted.below[:4] - shifted.levels[:4], torch.full((4,), 0.1).double(), atol=4 * deviation)
    narrow = calibration(Known(lambda x, tau: 0.5 + 0.5 * (tau - 0.5)), image, generator=generator())
    assert narrow.upto[0] == pytest.approx(0.275, abs=0.02)  # P(u <= 0.275)
    assert narrow.below[-1] == pytest.approx(0.725, abs=0.02)
    assert narrow.error > 0.1


@pytest.mark.parametrize(
    ("quantile", "rate"), [(lambda tau: tau, 0.0), (lambda tau: -tau, 1.0), (lambda tau: (tau - 0.3).abs(), 0.3)]
)
def test_crossing_rate_of_a_known_function(quantile, rate):
    found = crossing_rate(Known(lambda x, tau: quantile(tau)), levels(900), generator=generator())
    assert found == pytest.approx(rate, abs=0.06 if 0 < rate < 1 else 0)


@pytest.mark.parametrize("tau_mode", ["causal", "local"])
def test_a_real_model_has_no_sensitivity_to_later_levels(tau_mode):
    torch.manual_seed(5)
    model = PixelIQN(ModelConfig(layers=2, planes=8, skip_planes=16, tau_mode=tau_mode), SHAPE).double()
    torch.nn.init.normal_(model.network.head.weight)
    found = tau_sensitivity(model, levels(16), generator())
    assert found.later == 0
    assert (found.earlier > 0) == (tau_mode == "causal")
