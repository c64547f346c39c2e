"""Losses against eq. (2) written as a loop, closed forms, and what the Huber quantile does on a pixel grid."""

import math

import pytest
import torch

from aiqn_core.losses import bits_per_dim, categorical_nll, huber_quantile_loss, quantile_loss


def rho(u: float, tau: float, kappa: float) -> float:
    """Eq. (2) as it is printed."""
    weight = abs(tau - (1.0 if u <= 0 else 0.0))
    if kappa == 0:
        return (tau - (1.0 if u <= 0 else 0.0)) * u
    return weight / (2 * kappa) * u**2 if abs(u) <= kappa else weight * (abs(u) - kappa / 2)


@pytest.mark.parametrize("kappa", [0.0, 0.002, 0.3, 2.0])
def test_huber_quantile_loss_is_equation_2(kappa: float):
    prediction, target, tau = torch.rand(3, 5, 7, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target[0, :3] = prediction[0, :3]  # u = 0 is a case of its own
    expected = [
        rho(t - p, a, kappa) for p, t, a in zip(*(x.flatten().tolist() for x in (prediction, target, tau)), strict=True)
    ]
    loss = huber_quantile_loss(prediction, target, tau, kappa)
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64).view(5, 7, 11))


def test_underestimation_costs_tau():
    one, tau = torch.ones(1), torch.tensor([0.9])
    assert quantile_loss(0 * one, one, tau).item() == pytest.approx(0.9)
    assert quantile_loss(one, 0 * one, tau).item() == pytest.approx(0.1)


@pytest.mark.parametrize(("tau", "kappa"), [(0.3, 0.0), (0.3, 0.2), (0.75, 0.2), (0.6, 0.35)])
def test_minimiser_on_the_uniform_law(tau: float, kappa: float):
    """On U[0, 1] it is q = tau (1 - kappa) + kappa / 2."""
    target = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    q = torch.linspace(0, 1, 1001, dtype=torch.float64)
    grid = torch.broadcast_tensors(q[:, None], target[None, :], torch.full((1, 1), tau, dtype=torch.float64))
    loss = huber_quantile_loss(*grid, kappa=kappa).mean(1)
    assert q[loss.argmin()].item() == pytest.approx(tau * (1 - kappa) + kappa / 2, abs=2e-3)


def test_rounding_recovers_the_exact_quantile_of_a_grid_up_to_half_a_level():
    """With kappa = half the spacing the rounded minimiser is the tau-quantile; with a whole spacing it is not."""
    atoms, probability = torch.arange(5.0).double(), torch.tensor([0.13, 0.31, 0.07, 0.29, 0.2]).double()
    tau = (torch.arange(199).double() + 0.5) / 200  # off the jumps of the distribution function
    q = torch.linspace(0, 4, 4001).double()
    expected = torch.searchsorted(probability.cumsum(0), tau)

    def rounded(kappa: float) -> torch.Tensor:
        grid = torch.broadcast_tensors(q[:, None, None], atoms[None, None], tau[None, :, None])
        loss = (huber_quantile_loss(*grid, kappa=kappa) * probability).sum(-1)
        return q[loss.argmin(0)].round().long()

    assert torch.equal(rounded(0.5), expected)
    assert (rounded(1.0) != expected).sum() > 20


@pytest.mark.parametrize("loss", [quantile_loss, lambda *args: huber_quantile_loss(*args, kappa=0.1)])
def test_shapes_must_be_equal(loss):
    with pytest.raises(ValueError, match=r"\(5,\).*\(5, 1\).*\(5,\)"):
        loss(torch.zeros(5), torch.zeros(5, 1), torch.zeros(5))


def test_kappa_must_not_be_negative():
    with pytest.raises(ValueError, match=r"saw -0.1"):
        huber_quantile_loss(torch.zeros(5), torch.zeros(5), torch.zeros(5), kappa=-0.1)


def test_categorical_nll_reads_levels_on_axis_2():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 11, 5, 7, generator=generator)
    target = torch.randint(11, (2, 3, 5, 7), generator=generator, dtype=torch.uint8)
    nll = categorical_nll(logits, target)
    assert nll.shape == (2, 3, 5, 7)
    for b, c, h, w in ((0, 0, 0, 0), (1, 2, 4, 6), (0, 1, 3, 2)):
        p = logits[b, c, :, h, w].double().exp()
        expected = -math.log(p[target[b, c, h, w].item()] / p.sum())
        assert nll[b, c, h, w].item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"\(2, 11, 3, 5, 7\)"):
        categorical_nll(logits.movedim(2, 1), target)


def test_uniform_logits_cost_eight_bits():
    nll = categorical_nll(torch.zeros(1, 1, 256, 5, 7), torch.zeros(1, 1, 5, 7, dtype=torch.uint8))
    assert bits_per_dim(nll.mean()).item() == pytest.approx(8, rel=1e-6)
    assert bits_per_dim(math.log(256)) == pytest.approx(8)
