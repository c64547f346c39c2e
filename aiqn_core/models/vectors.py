"""Models of real vectors: autoregressive implicit quantile networks (section 3), and MADE as the likelihood baseline.

Both are masked fully connected layers (Germain et al. 2015) and sample as x_i = icdf(x_<i, tau_i). The units of every
layer are cut in contiguous groups, one for each dimension: group i may depend on the dimensions of x before i.
"""

import math
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from aiqn_core.layers import Sees, colour_groups, colour_mask
from aiqn_core.losses import huber_quantile_loss
from aiqn_core.models.settings import AIQNSettings, MADESettings, VectorQuantileLoss

BISECTIONS = 60  # halvings of an interval of a few standard deviations: to the last digits of float64
SMALLEST_SCALE = 1e-3  # of a mixture's component: bounds the likelihood of a repeated value


class MaskedLinear(nn.Module):
    """A linear layer whose outputs read only some of the dimensions' groups; masked in every forward."""

    mask: Tensor
    own_mask: Tensor

    def __init__(
        self, in_group: Int[Tensor, " inp"], out_group: Int[Tensor, " out"], sees: Sees, *, bias: bool = True
    ) -> None:
        super().__init__()
        mask = colour_mask(out_group, in_group, sees)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("own_mask", mask & colour_mask(out_group, in_group, "own"), persistent=False)
        fan_in = mask.sum(1).clamp(min=1)[:, None]  # what is read; the factor 2 is He's, for ReLU
        self.weight = nn.Parameter(torch.randn(mask.shape) * mask * (2 / fan_in).sqrt())
        # Uniform, since tau is added to it: from zero biases every unit of dimension 0 would bend at tau = 1/2.
        self.bias = nn.Parameter(torch.rand(len(out_group)) * 2 - 1) if bias else None

    def forward(self, x: Float[Tensor, "batch inp"]) -> Float[Tensor, "batch out"]:
        return F.linear(x, self.weight * self.mask, self.bias)

    def own(self, x: Float[Tensor, "batch inp"]) -> Float[Tensor, "batch out"]:
        """The part of the output that each group reads from its own dimension, without bias."""
        return F.linear(x, self.weight * self.own_mask)


class MaskedNetwork(nn.Module):
    """Fully connected ReLU layers of any widths; `outputs` values for each dimension i, given x_<i.

    With tau_mode "causal" output i also sees tau_<=i, with "local" tau_i alone; None: the network has no tau. Without
    `autoregressive` it does not see x at all, and tau_i alone. Raises ValueError for a layer narrower than `dims`.
    """

    def __init__(
        self, dims: int, hidden: tuple[int, ...], *, outputs: int, tau_mode: str | None, autoregressive: bool = True
    ) -> None:
        super().__init__()
        if min(hidden) < dims:
            raise ValueError(f"hidden: saw {list(hidden)} for {dims} dimensions, expected at least one unit for each")
        self.dims, self.outputs = dims, outputs
        self.tau_mode, self.autoregressive = tau_mode, autoregressive
        dim = torch.arange(dims)
        groups = [colour_groups(width, dims) for width in hidden]
        sees: Sees = "upto" if autoregressive else "own"
        first = MaskedLinear(dim, groups[0], "before")
        self.layers = nn.ModuleList([first, *(MaskedLinear(before, after, sees) for before, after in pairwise(groups))])
        self.head = MaskedLinear(groups[-1], dim.repeat_interleave(outputs), sees)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        tau_sees: Sees = "upto" if tau_mode == "causal" else "own"
        into = groups if tau_mode is not None else []
        self.taus = nn.ModuleList(MaskedLinear(dim, group, tau_sees, bias=False) for group in into)

    def forward(
        self, x: Float[Tensor, "batch dim"], tau: Float[Tensor, "batch dim"] | None = None
    ) -> Float[Tensor, "batch dim outputs"]:
        """The outputs of all dimensions at once; tau in [0, 1]. Raises ValueError where a shape is wrong."""
        if x.dim() != 2 or x.shape[1] != self.dims:
            raise ValueError(f"x: saw shape {tuple(x.shape)}, expected (batch, {self.dims})")
        if tau is not None and tau.shape != x.shape:
            raise ValueError(f"tau: saw shape {tuple(tau.shape)}, expected that of x, {tuple(x.shape)}")
        context = x if self.autoregressive else torch.zeros_like(x)
        out = self._causal(context, tau) if self.tau_mode != "local" else self._local(context, tau)
        return out.view(len(x), self.dims, self.outputs)

    def _causal(self, x: Tensor, tau: Tensor | None) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if tau is not None and self.tau_mode is not None:
                x = x + self.taus[i](2 * tau - 1)
            x = torch.relu(x)
        return self.head(x)

    def _local(self, x: Tensor, tau: Tensor | None) -> Tensor:
        """Two streams: the context has no tau; the query reads itself in its own group, the context in those before."""
        assert tau is not None
        query = x
        for layer, tau_layer in zip(self.layers, self.taus, strict=True):
            before = layer(x)
            query = torch.relu(before + layer.own(query - x) + tau_layer(2 * tau - 1))  # type: ignore[operator]
            x = torch.relu(before)
        return self.head(x) + self.head.own(query - x)


class AIQN(nn.Module):
    """Autoregressive implicit quantile network: Q(tau_i | x_<i) of each dimension, or one of the paper's naive ones.

    `dependence` "independent" gives Q_i(tau_i): the product of the marginals. "shared" gives Q_i(tau_1), one tau for
    all: the comonotonic vector with these marginals (section 3).
    """

    Settings = AIQNSettings
    Loss = VectorQuantileLoss
    sample_batch = None

    def __init__(
        self,
        config: AIQNSettings,
        shape: int | tuple[int, ...],
        num_classes: int = 0,
        loss: VectorQuantileLoss | None = None,
    ) -> None:
        """The shape is the number of dimensions, or a tuple of it."""
        super().__init__()
        self.kappa = (loss or VectorQuantileLoss()).kappa
        dims = shape if isinstance(shape, int) else shape[0]
        self.dependence = config.dependence
        autoregressive = config.dependence == "autoregressive"
        self.network = MaskedNetwork(
            dims, config.hidden, outputs=1, tau_mode=config.tau_mode, autoregressive=autoregressive
        )

    def forward(self, x: Float[Tensor, "batch dim"], tau: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """The tau-quantile of each dimension given those before it, in the units of x, neither clamped nor rounded."""
        return self.network(x, self._used(tau)).squeeze(2)

    def loss(
        self,
        x: Float[Tensor, "batch dim"],
        tau: Float[Tensor, "batch dim"] | None,
        label: None = None,
        kappa: float | None = None,
    ) -> Float[Tensor, ""]:
        """Mean (Huber) quantile loss per dimension; tau must be drawn afresh, independent of x.

        kappa is in the units of x, that of the settings where None. Raises ValueError where tau is missing.
        """
        if tau is None:
            raise ValueError("tau: missing; draw it from U(0, 1) in the shape of x, afresh at every step")
        return huber_quantile_loss(
            self(x, tau), x, self._used(tau).to(x.dtype), self.kappa if kappa is None else kappa
        ).mean()

    def icdf(self, output: Float[Tensor, "batch dim"], tau: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """The quantiles that `forward` gave at tau."""
        return output

    def _used(self, tau: Tensor) -> Tensor:
        return tau[:, :1].expand_as(tau) if self.dependence == "shared" else tau

    def noise(self) -> tuple[int]:
        """One quantile level for each dimension."""
        return (self.network.dims,)

    def sample(self, noise: Float[Tensor, "batch dim"], label: None = None) -> Float[Tensor, "batch dim"]:
        """Vectors at quantile levels, one dimension after the other."""
        return sample_vectors(self, len(noise), tau=noise)

    def outputs(self, x: Float[Tensor, "batch dim"], tau: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """The quantiles at tau."""
        return self(x, tau)


class MADE(nn.Module):
    """Masked autoencoder whose conditionals p(x_i | x_<i) are mixtures of Gaussians, trained by likelihood."""

    Settings = MADESettings
    sample_batch = None

    def __init__(self, config: MADESettings, shape: int | tuple[int, ...], num_classes: int = 0) -> None:
        """The shape is the number of dimensions, or a tuple of it."""
        super().__init__()
        dims = shape if isinstance(shape, int) else shape[0]
        self.network = MaskedNetwork(dims, config.hidden, outputs=3 * config.components, tau_mode=None)
        assert self.network.head.bias is not None
        # Equal components would stay equal: they start side by side, each as wide as the data.
        means = torch.linspace(-2, 2, config.components) if config.components > 1 else torch.zeros(1)
        start = torch.stack([torch.zeros_like(means), means, torch.full_like(means, math.log(math.e - 1))])
        self.network.head.bias.data = start.flatten().repeat(dims)

    def forward(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim three_components"]:
        """Logits, means and raw scales of the components of each dimension given those before it."""
        return self.network(x)

    def loss(self, x: Float[Tensor, "batch dim"], tau: Tensor | None = None, label: None = None) -> Float[Tensor, ""]:
        """Mean nats per dimension; tau is not used."""
        return -self.log_prob(x).mean()

    def log_prob(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """log p(x_i | x_<i) in nats of each dimension."""
        log_weight, mean, scale = mixture(self(x))
        z = (x[..., None] - mean) / scale
        return torch.logsumexp(log_weight - scale.log() - z.square() / 2, -1) - math.log(2 * math.pi) / 2

    def icdf(
        self, output: Float[Tensor, "batch dim three_components"], tau: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch dim"]:
        """The tau-quantiles of the mixtures that `forward` gave, by bisection in float64."""
        log_weight, mean, scale = mixture(output.double())
        tau = tau.double().clamp(1e-12, 1 - 1e-12)
        # Every component's own quantile has at most, or at least, tau of the mixture on its left: two of them enclose.
        quantiles = mean + scale * torch.special.ndtri(tau)[..., None]
        low, high = quantiles.amin(-1), quantiles.amax(-1)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            below = (log_weight.exp() * torch.special.ndtr((middle[..., None] - mean) / scale)).sum(-1) < tau
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).to(output.dtype)

    def noise(self) -> tuple[int]:
        """One quantile level for each dimension."""
        return (self.network.dims,)

    def sample(self, noise: Float[Tensor, "batch dim"], label: None = None) -> Float[Tensor, "batch dim"]:
        """Vectors at quantile levels, one dimension after the other."""
        return sample_vectors(self, len(noise), tau=noise)

    def outputs(
        self, x: Float[Tensor, "batch dim"], tau: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch dim three_components"]:
        """The mixtures, which have no tau inside."""
        return self(x)

    @torch.inference_mode()
    def measure(self, data: Any, settings: Any) -> dict[str, float]:
        """Mean nats per dimension of the held-out vectors."""
        return {"test_nll": float(self.loss(data.test.to(next(self.parameters()).device)))}


def mixture(
    output: Float[Tensor, "*shape three_components"],
) -> tuple[Float[Tensor, "*shape component"], Float[Tensor, "*shape component"], Float[Tensor, "*shape component"]]:
    """Log weights, means and standard deviations of the mixtures that a network's outputs stand for."""
    logits, mean, raw = output.chunk(3, -1)
    return logits.log_softmax(-1), mean, F.softplus(raw) + SMALLEST_SCALE


@torch.no_grad()  # not inference mode: what is sampled may be the input of another network
def sample_vectors(
    model: AIQN | MADE,
    count: int,
    *,
    tau: Float[Tensor, "count dim"] | None = None,
    generator: torch.Generator | None = None,
    known: Float[Tensor, "count dim"] | None = None,
    mask: Bool[Tensor, " dim"] | None = None,
) -> Float[Tensor, "count dim"]:
    """Vectors that are a function of tau in [0, 1], drawn from `generator` where None; on the model's device.

    Where `mask` is true the dimension is that of `known`, and those after it are conditioned on it. Raises ValueError
    where tau or known has another shape, or only one of known and mask is given.
    """
    weight, dims = model.network.head.weight, model.network.dims
    if tau is None:
        tau = torch.rand(count, dims, generator=generator, device=None if generator is None else generator.device)
    if (known is None) != (mask is None):
        raise ValueError("known and mask: saw only one of the two, expected both or none")
    for name, value in {"tau": tau, "known": known}.items():
        if value is not None and value.shape != (count, dims):
            raise ValueError(f"{name}: saw shape {tuple(value.shape)}, expected ({count}, {dims})")
    if not bool(((tau >= 0) & (tau <= 1)).all()):
        raise ValueError(f"tau: saw values from {tau.min():g} to {tau.max():g}, expected all in [0, 1]")
    tau, x = tau.to(weight), weight.new_zeros(count, dims)
    if known is not None and mask is not None:
        x = torch.where(mask.to(weight.device), known.to(weight), x)
    for i in range(dims):
        if mask is None or not mask[i]:
            own = slice(i, i + 1)
            output = model.outputs(x, tau)
            x[:, own] = model.icdf(output[:, own], tau[:, own])
    return x
