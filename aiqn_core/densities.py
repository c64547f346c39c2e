"""Densities in the plane that are known in closed form: what a generative model should find, and how far it is.

Every dimension has mean 0 and standard deviation 1, so that distances and kappa are in units of one standard deviation.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class Density(Protocol):
    """What can be drawn from and evaluated."""

    def sample(self, count: int, random: np.random.RandomState) -> Float[np.ndarray, "count dim"]:
        """Independent draws."""

    def log_prob(self, x: Float[Tensor, "count dim"]) -> Float[Tensor, " count"]:
        """log p(x) in nats of each vector, in float64."""


@dataclass(frozen=True)
class GaussianMixture:
    """Gaussians with weights that sum to 1; one of them is a mixture too."""

    weights: tuple[float, ...]
    means: tuple[tuple[float, ...], ...]
    covariances: tuple[tuple[tuple[float, ...], ...], ...]

    def sample(self, count: int, random: np.random.RandomState) -> Float[np.ndarray, "count dim"]:
        """Independent draws: a component for each, then a Gaussian."""
        which = random.choice(len(self.weights), count, p=self.weights)
        roots = np.linalg.cholesky(np.array(self.covariances))
        noise = random.standard_normal((count, len(self.means[0])))
        return np.array(self.means)[which] + np.einsum("nij,nj->ni", roots[which], noise)

    def log_prob(self, x: Float[Tensor, "count dim"]) -> Float[Tensor, " count"]:
        """log of the weighted sum of the components' densities."""
        mean, covariance = (torch.tensor(v, dtype=torch.float64) for v in (self.means, self.covariances))
        components = torch.distributions.MultivariateNormal(mean, covariance)
        weight = torch.tensor(self.weights, dtype=torch.float64).log()
        return torch.logsumexp(weight + components.log_prob(x.double()[:, None]), 1)  # type: ignore[no-untyped-call]

    def standardised(self) -> "GaussianMixture":
        """The same shape, shifted and scaled so that every dimension has mean 0 and variance 1."""
        weights, means, covariances = (np.array(v) for v in (self.weights, self.means, self.covariances))
        mean = weights @ means
        second = np.einsum("k,kii->i", weights, covariances) + weights @ (means - mean) ** 2
        scale = np.sqrt(second)
        new_means = ((means - mean) / scale).tolist()
        new_covariances = (covariances / np.outer(scale, scale)).tolist()
        return GaussianMixture(
            self.weights, tuple(map(tuple, new_means)), tuple(tuple(map(tuple, c)) for c in new_covariances)
        )


@dataclass(frozen=True)
class Banana:
    """x1 ~ N(0, 1), x2 = bend (x1² − 1)/√2 + N(0, 1 − bend²): no linear correlation, and strong dependence."""

    bend: float

    def sample(self, count: int, random: np.random.RandomState) -> Float[np.ndarray, "count 2"]:
        """Independent draws."""
        x1, noise = random.standard_normal((2, count))
        return np.stack([x1, self.bend * (x1**2 - 1) / math.sqrt(2) + math.sqrt(1 - self.bend**2) * noise], 1)

    def log_prob(self, x: Float[Tensor, "count 2"]) -> Float[Tensor, " count"]:
        """The sum of the logs of two Gaussian densities."""
        x1, x2 = x.double().unbind(1)
        centre, variance = self.bend * (x1.square() - 1) / math.sqrt(2), 1 - self.bend**2
        squares = x1.square() + (x2 - centre).square() / variance
        return -squares / 2 - math.log(2 * math.pi) - math.log(variance) / 2


def _narrow(angle: float, long: float, short: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """The covariance of a Gaussian with standard deviation `long` along `angle` and `short` across it."""
    c, s = math.cos(angle), math.sin(angle)
    cross = c * s * (long**2 - short**2)
    return (((c * long) ** 2 + (s * short) ** 2, cross), (cross, (s * long) ** 2 + (c * short) ** 2))


DENSITIES: dict[str, Density] = {
    "gaussian2d": GaussianMixture((1.0,), ((0.0, 0.0),), (((1.0, 0.8), (0.8, 1.0)),)),
    "banana2d": Banana(bend=0.9),
    # Four modes of unequal weight and direction, apart in the plane and mixed in each dimension alone.
    "mixture2d": GaussianMixture(
        (0.4, 0.3, 0.2, 0.1),
        ((-1.5, -1.0), (1.0, -1.5), (1.5, 1.2), (-0.8, 1.6)),
        (_narrow(2.2, 0.7, 0.2), _narrow(0.4, 0.7, 0.2), _narrow(1.9, 0.6, 0.2), _narrow(0.0, 0.3, 0.3)),
    ).standardised(),
}
