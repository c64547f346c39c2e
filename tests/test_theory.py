"""What the paper proves or claims (section 3, appendix), and the laws of the Huber threshold, checked in numbers.

Integrals are compared with closed forms. Where numbers are random the tolerance is four standard errors, plus an
allowance for training where a network is involved.
"""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor

from aiqn_core.config import ModelConfig, TrainConfig
from aiqn_core.data import load_data
from aiqn_core.distances import energy_distance, wasserstein1
from aiqn_core.losses import huber_quantile_loss, quantile_loss
from aiqn_core.models.vectors import AIQN, sample_vectors
from aiqn_core.training import new_state, train_step

# Proposition 1


class Pair(NamedTuple):
    """A true law P, a model Q, and E|X − X'| of P in closed form."""

    p: object
    q: object
    mean_difference: float


PAIRS = {
    "normals": Pair(stats.norm(0, 1), stats.norm(0.7, 1.6), 2 / math.sqrt(math.pi)),
    "exponential": Pair(stats.expon(), stats.uniform(0.5, 1.2), 1.0),
    "uniform": Pair(stats.uniform(0, 1), stats.uniform(0, 1.4), 1 / 3),
}


def midpoints(count: int) -> np.ndarray:
    return (np.arange(count) + 0.5) / count


def expected_loss(p, quantiles: np.ndarray, taus: np.ndarray, count: int = 4001) -> float:
    """E_τ E_X ρ_τ(X − q(τ)) with `quantile_loss`, X at equally likely points of P."""
    x = torch.from_numpy(p.ppf(midpoints(count)))
    grid = torch.broadcast_tensors(torch.from_numpy(quantiles)[:, None], x[None], torch.from_numpy(taus)[:, None])
    return quantile_loss(*grid).mean().item()


def quantile_divergence(p, q, taus: np.ndarray) -> float:
    """The definition in section 3.1; the inner integral by Gauss-Legendre between the two quantile functions."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    low, high = p.ppf(taus), q.ppf(taus)
    x = low[:, None] + (high - low)[:, None] * (nodes + 1) / 2
    inner = ((p.cdf(x) - taus[:, None]) * weights).sum(1) * (high - low) / 2
    return inner.mean()


@pytest.mark.parametrize("name", PAIRS)
def test_proposition_1(name):
    """The expected quantile loss of Q is its quantile divergence from P plus h(P) = E|X − X'|/4, its value at P."""
    p, q, mean_difference = PAIRS[name]
    taus = midpoints(1001)
    divergence = quantile_divergence(p, q, taus)
    loss, least = expected_loss(p, q.ppf(taus), taus), expected_loss(p, p.ppf(taus), taus)
    assert least == pytest.approx(mean_difference / 4, rel=5e-3)  # midpoints leave out a part of the tails
    assert loss - least == pytest.approx(divergence, rel=5e-3)
    assert divergence > 0
    assert quantile_divergence(p, p, taus) == 0


@pytest.mark.parametrize("name", PAIRS)
def test_the_quantile_divergence_is_half_the_squared_distance_of_distribution_functions(name):
    """q(P, Q) = ½ ∫ (F_P − F_Q)² dx, a quarter of the energy distance; for two uniform laws in closed form."""
    p, q, _ = PAIRS[name]
    divergence = quantile_divergence(p, q, midpoints(20_001))
    x = np.linspace(-15, 25, 400_001)
    assert divergence == pytest.approx(np.trapezoid((p.cdf(x) - q.cdf(x)) ** 2, x) / 2, rel=1e-3)
    draws = [torch.from_numpy(law.ppf(midpoints(1500)))[:, None] for law in (p, q)]
    assert divergence == pytest.approx(energy_distance(*draws) / 4, abs=2e-3)  # O(1 / 1500) from leaving out i = j
    if name == "uniform":
        c = 1.4
        assert divergence == pytest.approx(((1 - 1 / c) ** 2 + c * (1 - 1 / c) ** 3) / 6, rel=1e-3)


def test_the_divergence_is_at_most_the_area_between_the_quantile_functions():
    """Figure 8: for each τ a part of the area that the 1-Wasserstein metric measures, and zero together with it."""
    taus = midpoints(2001)
    for p, q, _ in PAIRS.values():
        area = np.abs(p.ppf(taus) - q.ppf(taus)).mean()
        assert 0 < quantile_divergence(p, q, taus) < area


# Gradients of samples


def test_the_sample_gradient_is_unbiased():
    """∇ρ_τ(x − Q_θ(τ)) of one draw, averaged, is ∇q(P, Q_θ) = ∇ ½ ∫ (F_P − F_Q)² for Q_θ = N(μ, σ²)."""
    p, mu, sigma = stats.norm(0.5, 1.3), 0.1, 0.8
    count = 400_000
    generator = torch.Generator().manual_seed(0)
    tau = torch.rand(count, generator=generator, dtype=torch.float64).clamp(1e-12)
    x = 0.5 + 1.3 * torch.randn(count, generator=generator, dtype=torch.float64)
    theta = torch.tensor([mu, sigma], dtype=torch.float64).expand(count, 2).clone().requires_grad_()
    quantile_loss(theta[:, 0] + theta[:, 1] * torch.special.ndtri(tau), x, tau).sum().backward()

    t = np.linspace(-12, 12, 200_001)
    difference, z = p.cdf(t) - stats.norm.cdf(t, mu, sigma), (t - mu) / sigma
    density = stats.norm.pdf(t, mu, sigma)
    exact = [np.trapezoid(difference * density, t), np.trapezoid(difference * density * z, t)]
    mean, error = theta.grad.mean(0), theta.grad.std(0) / math.sqrt(count)
    assert (error < 3e-3).all()
    assert ((mean - torch.tensor(exact)).abs() < 4 * error).all()
    assert min(map(abs, exact)) > 20 * error.max()  # it could not be mistaken for zero


def test_the_sample_gradient_of_the_wasserstein_metric_is_biased():
    """Bernoulli(θ) fitted to samples of Bernoulli(0.65) (Bellemare et al. 2017), exactly, over all samples of 5.

    E W1(P_n, Q_θ) = E|θ − k/n| is smallest at the median of k/n, which is 0.6; the expected quantile loss at 0.65.
    """
    n, truth = 5, 0.65
    k = np.arange(n + 1)
    weight = stats.binom.pmf(k, n, truth)
    thetas = np.linspace(0.4, 0.8, 81)
    taus = torch.from_numpy(midpoints(4000))

    def loss(theta: float) -> float:
        """With `quantile_loss`: the quantile function of Bernoulli(θ) is 0 up to 1 − θ, then 1."""
        quantile = (taus > 1 - theta).double()
        at_0, at_1 = (quantile_loss(quantile, torch.full_like(taus, x), taus).mean().item() for x in (0.0, 1.0))
        return (weight * ((1 - k / n) * at_0 + k / n * at_1)).sum()

    wasserstein = [(weight * np.abs(theta - k / n)).sum() for theta in thetas]
    assert thetas[np.argmin([loss(theta) for theta in thetas])] == pytest.approx(truth)
    assert thetas[np.argmin(wasserstein)] == pytest.approx(stats.binom.median(n, truth) / n) == pytest.approx(0.6)
    # At the truth the one has no slope, up to the width of a step in τ, the other P(k/n < θ) − P(k/n > θ).
    assert (loss(truth + 0.01) - loss(truth - 0.01)) / 0.02 == pytest.approx(0, abs=1e-3)
    slope = (weight * (np.abs(truth + 0.01 - k / n) - np.abs(truth - 0.01 - k / n))).sum() / 0.02
    assert slope == pytest.approx(2 * stats.binom.cdf(3, n, truth) - 1)
    assert slope > 0.1


# The Huber threshold


def minimiser(law, tau: float, kappa: float) -> float:
    """The q that minimises E ρ^κ_τ(X − q): where `huber_quantile_loss` has no slope, X at equally likely points."""
    x = torch.from_numpy(law.ppf(midpoints(20_001)))

    def slope(q: float) -> float:
        prediction = torch.full_like(x, q, requires_grad=True)
        huber_quantile_loss(prediction, x, torch.full_like(x, tau), kappa).mean().backward()
        return prediction.grad.sum().item()

    return optimize.brentq(slope, law.ppf(1e-4), law.ppf(1 - 1e-4), xtol=1e-10)


@pytest.mark.parametrize("law", [stats.norm(0, 1), stats.gamma(3)])
@pytest.mark.parametrize("tau", [0.15, 0.5, 0.8])
def test_the_huber_minimiser_lies_nearer_to_the_middle(law, tau):
    """τ ∫_q^{q+κ} (1 − F) = (1 − τ) ∫_{q−κ}^q F exactly; F(q) = τ − f κ (τ − ½) up to κ²."""
    for kappa in (0.1, 0.2):
        q = minimiser(law, tau, kappa)
        right = tau * np.trapezoid(1 - law.cdf(t := np.linspace(q, q + kappa, 2001)), t)
        left = (1 - tau) * np.trapezoid(law.cdf(t := np.linspace(q - kappa, q, 2001)), t)
        assert left == pytest.approx(right, rel=1e-3)
        shift = tau - law.cdf(q)
        assert shift == pytest.approx(law.pdf(q) * kappa * (tau - 0.5), abs=0.1 * kappa**2)
    assert law.cdf(minimiser(law, tau, 1e-3)) == pytest.approx(tau, abs=5e-4)


def test_every_kappa_narrows_a_continuous_law():
    """On U[0, 1] the learned law is uniform between κ/2 and 1 − κ/2 in its interior: its spread shrinks by 1 − κ."""
    law, taus = stats.uniform(0, 1), np.array([0.25, 0.75])
    for kappa in (0.02, 0.1, 0.2):
        low, high = (minimiser(law, tau, kappa) for tau in taus)
        assert (high - low) / 0.5 == pytest.approx(1 - kappa, abs=1e-4)


def level(probability: np.ndarray, tau: float, kappa: float) -> int:
    """The rounded minimiser on levels 0, 1, ..., found on a fine grid that avoids the midpoints."""
    q = torch.arange(0, len(probability) - 1 + 1e-9, 0.003, dtype=torch.float64) + 1e-4
    atoms = torch.arange(len(probability), dtype=torch.float64)
    grid = torch.broadcast_tensors(q[:, None], atoms[None], torch.full((1, 1), tau, dtype=torch.float64))
    loss = (huber_quantile_loss(*grid, kappa=kappa) * torch.from_numpy(probability)).sum(1)
    return round(q[loss.argmin()].item())


def test_rounding_is_lossless_up_to_half_a_level():
    """For random laws on 7 levels the rounded minimiser is the smallest level with F >= τ."""
    random = np.random.RandomState(0)
    for _ in range(40):
        probability = random.dirichlet(np.ones(7))
        cumulative = probability.cumsum()
        for tau in random.uniform(0.02, 0.98, 5):
            if np.abs(cumulative - tau).min() > 5e-3:  # away from ties
                for kappa in (0.25, 0.5):
                    assert level(probability, tau, kappa) == np.searchsorted(cumulative, tau)


@pytest.mark.parametrize("kappa", [0.5, 0.6, 0.8, 1.0])
def test_beyond_half_a_level_rounding_errs_by_a_known_law(kappa):
    """Three levels, ½ <= κ <= 1: the first step is at τ = p0 / (1 + (2κ − 1) p2) and no longer at p0, the quantile.

    It follows from the slope at the midpoint: (1 − τ) p0 / 2κ = τ (p1 / 2κ + p2). In levels, so κ = 1 is 1/255.
    """
    p0, p1, p2 = 0.45, 0.2, 0.35
    first = p0 / (1 + (2 * kappa - 1) * p2)
    second = (2 * kappa * p0 + p1) / (2 * kappa * p0 + p1 + p2)
    probability = np.array([p0, p1, p2])
    for tau, expected in ((first - 0.01, 0), (first + 0.01, 1), (second - 0.01, 1), (second + 0.01, 2)):
        assert level(probability, tau, kappa) == expected
    if kappa == 0.5:
        assert (first, second) == pytest.approx((p0, p0 + p1))
    else:
        assert first < p0 < p0 + p1 < second  # both steps move away from the middle: extreme levels get rarer


# Networks


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Mixture1D:
    """0.6 N(−1, 0.4²) + 0.4 N(1.2, 0.6²): two modes, and 2 % of the mass between −0.2 and 0.2."""

    weight, mean, scale = torch.tensor([0.6, 0.4]), torch.tensor([-1.0, 1.2]), torch.tensor([0.4, 0.6])

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        which = (torch.rand(count, generator=generator) > self.weight[0]).long()
        return self.mean[which] + self.scale[which] * torch.randn(count, generator=generator)

    def cdf(self, x: Tensor) -> Tensor:
        return (self.weight * torch.special.ndtr((x[..., None] - self.mean) / self.scale)).sum(-1)


def test_an_implicit_quantile_network_learns_a_mixture():
    torch.manual_seed(0)
    law, generator = Mixture1D(), torch.Generator().manual_seed(0)
    model, steps = AIQN(ModelConfig(name="aiqn", hidden=(32, 48)), 1), 800
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        x = law.sample(512, generator)[:, None]
        model.loss(x, torch.rand(512, 1, generator=generator)).backward()
        optimizer.step()
        schedule.step()

    tau = torch.linspace(0.01, 0.99, 197)[:, None].requires_grad_()
    quantile = model(torch.zeros_like(tau), tau)
    (sparsity,) = torch.autograd.grad(quantile.sum(), tau)
    assert (sparsity > 0).all()  # dQ/dτ > 0: more τ is a larger value, and not the reverse
    error = (law.cdf(quantile.detach()[:, 0]) - tau.detach()[:, 0]).abs()
    assert error.mean() < 0.01
    assert error.max() < 0.03
    count = 20_000  # calibration on new draws, with the binomial's own error
    fresh = law.sample(count, generator)
    for level_, q in zip(tau.detach()[::28, 0].tolist(), quantile.detach()[::28, 0], strict=True):
        covered = (fresh <= q).float().mean().item()
        assert covered == pytest.approx(level_, abs=0.03 + 4 * math.sqrt(level_ * (1 - level_) / count))
    # section 3.2: 1 / (dQ/dτ) is the density at Q(τ); the mean over modes of a piecewise linear Q
    (mode,) = (((quantile[:, 0] + 1).abs() < 0.15).nonzero(as_tuple=True),)
    density = 1 / sparsity[mode[0], 0].mean()
    assert density.item() == pytest.approx(0.6 / 0.4 / math.sqrt(2 * math.pi), rel=0.15)


@pytest.fixture(scope="module")
def learned():
    """4,000 samples of the three dependences, each trained on the correlated Gaussian; and real vectors."""
    samples = {}
    for dependence in ("autoregressive", "independent", "shared"):
        config = TrainConfig.from_dict(
            {
                "data": "gaussian2d",
                "model": {"name": "aiqn", "hidden": [32, 48], "dependence": dependence},
                "optimizer": {"name": "adam", "lr": 0.01},
                "schedule": "decay",
                "train": {"steps": 600, "batch_size": 256, "ema_decay": 0.98},
            }
        )
        data = load_data(config.data)
        state = new_state(config, data, torch.device("cpu"))
        for _ in range(config.train.steps):
            train_step(state, config, data.train, None, [])
        samples[dependence] = sample_vectors(state.ema, 4000, generator=torch.Generator().manual_seed(0))
    return samples, data.test


def correlation(x: Tensor) -> float:
    return torch.corrcoef(x.T)[0, 1].item()


@pytest.mark.parametrize("dependence", ["autoregressive", "independent", "shared"])
def test_all_three_learn_the_marginals(learned, dependence):
    """Two samples of 4,000 and 10,000 of N(0, 1) are 0.02 apart; the rest is training."""
    samples, test = learned
    assert wasserstein1(samples[dependence], test).max() < 0.12
    torch.testing.assert_close(samples[dependence].std(0), torch.ones(2), rtol=0, atol=0.12)


def test_the_autoregressive_network_learns_the_joint_law(learned):
    joint = learned[0]["autoregressive"]
    error = (1 - 0.8**2) / math.sqrt(len(joint))  # of a correlation
    assert correlation(joint) == pytest.approx(0.8, abs=4 * error + 0.02)
    residual = joint[:, 1] - 0.8 * joint[:, 0]  # x2 | x1 is N(0.8 x1, 0.36)
    assert residual.std().item() == pytest.approx(0.6, abs=0.05)


def test_separate_tau_without_context_is_independence(learned):
    """The second naive application: right marginals, no dependence at all (section 3)."""
    samples, _ = learned
    independent = samples["independent"]
    assert abs(correlation(independent)) < 4 / math.sqrt(len(independent))
    assert abs(stats.spearmanr(*independent.T.numpy()).statistic) < 4 / math.sqrt(len(independent))


def test_one_tau_for_all_dimensions_is_comonotonic(learned):
    """The first naive application: every dimension is an increasing function of one number (section 3)."""
    samples, _ = learned
    assert stats.spearmanr(*samples["shared"].T.numpy()).statistic > 0.9999
    assert correlation(samples["shared"]) > 0.99


def gaussian_energy_distance(cov1: np.ndarray, cov2: np.ndarray) -> float:
    """Of N(0, cov1) and N(0, cov2) in the plane: E|N(0, S)| = √(π/2) · mean over directions u of √(uᵀ S u)."""
    angle = 2 * np.pi * midpoints(20_000)
    u = np.stack([np.cos(angle), np.sin(angle)])

    def mean_norm(s: np.ndarray) -> float:
        return math.sqrt(math.pi / 2) * np.sqrt((u * (s @ u)).sum(0)).mean()

    return 2 * mean_norm(cov1 + cov2) - mean_norm(2 * cov1) - mean_norm(2 * cov2)


def test_the_naive_models_stay_at_the_distance_that_their_assumption_costs(learned):
    """Right marginals joined in the wrong way: a floor in closed form, which no training gets below."""
    samples, test = learned
    truth = np.array([[1, 0.8], [0.8, 1]])
    for dependence, assumed in (("independent", np.eye(2)), ("shared", np.ones((2, 2)))):
        floor = gaussian_energy_distance(assumed, truth)
        assert floor > 0.02
        # the sampling error of the distance itself is 0.002 at 4,000 against 4,000 vectors (spread over seeds)
        assert energy_distance(samples[dependence], test[:4000]) == pytest.approx(floor, abs=0.01)
    assert energy_distance(samples["autoregressive"], test[:4000]) < 0.008
