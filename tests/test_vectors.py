"""Which output sees which input, by gradient; both models against closed forms; sampling and training of vectors."""

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor

from aiqn_core.config import ConfigError, ModelConfig, TrainConfig
from aiqn_core.data import load_data
from aiqn_core.models import build_model
from aiqn_core.models.vectors import AIQN, MADE, MaskedNetwork, mixture, sample_vectors
from aiqn_core.steps import update_ema
from aiqn_core.training import new_state, protocol, train, train_step

DIMS = 5
AIQN_MODES = [
    {"dependence": "autoregressive", "tau_mode": "causal"},
    {"dependence": "autoregressive", "tau_mode": "local"},
    {"dependence": "independent"},
    {"dependence": "shared"},
]


def tiny(name: str, *, seed: int = 0, hidden=(7, 11), dims: int = DIMS, **changes) -> AIQN | MADE:
    """A small model in float64 with every weight at random, also those that start at zero."""
    torch.manual_seed(seed)
    model = build_model(ModelConfig(name=name, hidden=hidden, **changes), (dims,)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def dependencies(models: list[AIQN | MADE]) -> tuple[Tensor, Tensor]:
    """For x and for tau: [i, j] tells whether output i depends on input j, at any random point of any model."""
    seen = []
    for model, _ in itertools.product(models, range(8)):  # many draws: a dead ReLU can hide a dependency at one
        x, tau = (torch.rand(1, DIMS, dtype=torch.float64, requires_grad=True) for _ in range(2))
        output = model(x, tau) if isinstance(model, AIQN) else model(x).sum(-1)
        output = output + 0 * (x.sum() + tau.sum())  # autograd wants every input in the graph
        rows = [torch.autograd.grad(output[0, i], (x, tau), retain_graph=True) for i in range(DIMS)]
        seen.append(torch.stack([torch.cat(row) != 0 for row in rows]))
    live = torch.stack(seen).any(0)
    return live[:, 0], live[:, 1]


def expected_tau(dependence: str = "autoregressive", tau_mode: str = "local") -> Tensor:
    everything = torch.ones(DIMS, DIMS, dtype=torch.bool)
    if dependence == "shared":
        return everything & (torch.arange(DIMS) == 0)
    return everything.tril() if tau_mode == "causal" else torch.eye(DIMS, dtype=torch.bool)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", AIQN_MODES)
def test_aiqn_sees_exactly_what_comes_before(mode, training):
    x, tau = dependencies([tiny("aiqn", seed=seed, **mode).train(training) for seed in range(6)])
    before = torch.ones_like(x).tril(-1)
    assert torch.equal(x, before if mode["dependence"] == "autoregressive" else torch.zeros_like(x))
    assert torch.equal(tau, expected_tau(**mode))


def test_made_sees_exactly_what_comes_before():
    x, tau = dependencies([tiny("made", seed=seed, components=3) for seed in range(6)])
    assert torch.equal(x, torch.ones_like(x).tril(-1))
    assert not tau.any()


@pytest.mark.parametrize("mode", [*AIQN_MODES, None])
def test_masks_hold_after_weight_decay_and_in_the_average(mode):
    models = [tiny("made", seed=seed) if mode is None else tiny("aiqn", seed=seed, **mode) for seed in range(4)]
    averages = copy.deepcopy(models)
    for model, average in zip(models, averages, strict=True):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
        for _ in range(10):
            optimizer.zero_grad()
            model.loss(torch.randn(7, DIMS).double(), torch.rand(7, DIMS).double()).backward()
            optimizer.step()
            update_ema(average, model, 0.7)
    for group in (models, averages):
        x, tau = dependencies(group)
        assert not (x & ~torch.ones_like(x).tril(-1)).any()
        assert not (tau & ~(expected_tau(**mode) if mode else torch.zeros_like(tau))).any()


def test_a_local_network_is_one_small_network_for_each_tau():
    """Slow reference: output i of the two streams equals the causal network when no other dimension is given a tau."""
    local, causal = (tiny("aiqn", tau_mode=mode) for mode in ("local", "causal"))
    causal.load_state_dict(local.state_dict())
    x, tau = torch.randn(11, DIMS).double(), torch.rand(11, DIMS).double()
    for i in range(DIMS):
        alone = torch.full_like(tau, 0.5)  # 2 tau - 1 = 0: what a context without tau adds
        alone[:, i] = tau[:, i]
        torch.testing.assert_close(local(x, tau)[:, i], causal(x, alone)[:, i], rtol=1e-12, atol=1e-12)


def test_shared_tau_gives_one_number_to_all_dimensions():
    shared, independent = tiny("aiqn", dependence="shared"), tiny("aiqn", dependence="independent")
    x, tau = torch.randn(7, DIMS).double(), torch.rand(7, DIMS).double()
    torch.testing.assert_close(shared(x, tau), independent(x, tau[:, :1].expand(-1, DIMS)))
    assert shared.loss(x, tau).item() == independent.loss(x, tau[:, :1].expand(-1, DIMS)).item()


def test_made_is_a_density_and_icdf_inverts_its_distribution_function():
    model = tiny("made", dims=1, hidden=(7,), components=3)
    x = torch.linspace(-60, 60, 240_001).double()[:, None]
    with torch.no_grad():
        density = model.log_prob(x).exp()
        assert torch.trapezoid(density[:, 0], x[:, 0]).item() == pytest.approx(1, abs=1e-6)
        cumulative = torch.cumulative_trapezoid(density[:, 0], x[:, 0])
        tau = torch.tensor([0.001, 0.2, 0.5, 0.77, 0.999]).double()[:, None]
        found = model.icdf(model(x[:5]), tau)
        at = cumulative[torch.searchsorted(x[1:, 0].contiguous(), found[:, 0].contiguous())]
    torch.testing.assert_close(at, tau[:, 0], rtol=0, atol=1e-3)  # one cell of the grid


def test_made_log_prob_is_the_mixture_that_torch_knows():
    model = tiny("made", components=4)
    x = torch.randn(7, DIMS).double()
    log_weight, mean, scale = mixture(model(x))
    known = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=log_weight), torch.distributions.Normal(mean, scale)
    )
    torch.testing.assert_close(model.log_prob(x), known.log_prob(x))
    assert model.loss(x).item() == pytest.approx(-known.log_prob(x).mean().item())


@pytest.mark.parametrize(("name", "mode"), [("made", {}), *(("aiqn", mode) for mode in AIQN_MODES)])
def test_a_sample_is_a_fixed_point_and_a_function_of_tau(name, mode):
    model = tiny(name, **mode)
    tau = torch.rand(7, DIMS).double()
    x = sample_vectors(model, 7, tau=tau)
    assert torch.equal(x, sample_vectors(model, 7, tau=tau))
    torch.testing.assert_close(x[2:5], sample_vectors(model, 3, tau=tau[2:5]), rtol=1e-9, atol=1e-9)
    output = model(x, tau) if isinstance(model, AIQN) else model(x)
    torch.testing.assert_close(model.icdf(output, tau), x, rtol=1e-9, atol=1e-9)  # one pass, all dimensions given
    drawn = [sample_vectors(model, 7, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], x)


def test_known_dimensions_are_kept_and_conditioned_on():
    model = tiny("aiqn")
    tau, known = torch.rand(7, DIMS).double(), torch.randn(7, DIMS).double()
    mask = torch.tensor([False, True, False, True, False])
    x = sample_vectors(model, 7, tau=tau, known=known, mask=mask)
    assert torch.equal(x[:, mask], known[:, mask])
    quantiles = model(x, tau)
    torch.testing.assert_close(x[:, ~mask], quantiles[:, ~mask], rtol=1e-9, atol=1e-9)


def test_wrong_arguments_say_what_was_seen():
    model = tiny("aiqn")
    with pytest.raises(ValueError, match=r"tau: saw shape \(3, 4\), expected \(3, 5\)"):
        sample_vectors(model, 3, tau=torch.rand(3, 4))
    with pytest.raises(ValueError, match=r"saw values from -1 to"):
        sample_vectors(model, 3, tau=torch.full((3, 5), -1.0))
    with pytest.raises(ValueError, match="only one of the two"):
        sample_vectors(model, 3, mask=torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"x: saw shape \(3, 4\), expected \(batch, 5\)"):
        model(torch.rand(3, 4).double(), torch.rand(3, 4).double())
    with pytest.raises(ValueError, match="tau: missing"):
        model.loss(torch.rand(3, 5).double(), None)
    with pytest.raises(ValueError, match=r"hidden: saw \[7, 4\] for 5 dimensions"):
        MaskedNetwork(5, (7, 4), outputs=1, tau_mode=None)
    with pytest.raises(ValueError, match=r"saw \(3, 8, 8\), but aiqn models vectors"):
        build_model(ModelConfig(name="aiqn"), (3, 8, 8))


# Training: the same loop as images


def small(name="aiqn", batch_size=5, **changes):
    mapping = {
        "data": "mixture2d",
        "model": {"name": name, "hidden": [7, 11], **changes},
        "optimizer": {"name": "adam", "lr": 0.01},
        "train": {"steps": 11, "batch_size": batch_size, "log_every": 3, "ema_decay": 0.9},
        "evaluate": {"every": 4, "samples": 50, "reference": 70},
    }
    return TrainConfig.from_dict(mapping)


def numbers(progress):
    timed = ("seconds", "evaluate_seconds")
    return progress.step, {key: value for key, value in progress.metrics.items() if key not in timed}


@pytest.mark.parametrize(("name", "mode"), [("made", {}), *(("aiqn", mode) for mode in AIQN_MODES)])
def test_an_interrupted_training_ends_bit_identical(tmp_path, name, mode):
    config = small(name, **mode)
    whole = list(train(config, tmp_path / "whole"))
    assert [step for step, metrics in map(numbers, whole) if "energy_distance" in metrics] == [4, 8, 11]
    names = {metric.name for metric in config.metrics}
    assert all(names <= progress.metrics.keys() for progress in whole if progress.samples is not None)
    for cut in (2, 4):  # after an evaluation, after a logged step
        interrupted = train(config, tmp_path / "cut")
        list(itertools.islice(interrupted, cut))
        interrupted.close()
    resumed = list(train(config, tmp_path / "cut"))
    assert [numbers(progress) for progress in resumed] == [numbers(progress) for progress in whole]
    assert torch.equal(resumed[-1].samples, whole[-1].samples)
    ends = [torch.load(tmp_path / folder / "checkpoint.pt", weights_only=True) for folder in ("whole", "cut")]
    for part in ("model", "ema"):
        assert all(torch.equal(ends[0][part][key], ends[1][part][key]) for key in ends[0][part])


def test_both_models_learn_in_the_training_loop():
    """The likelihood beats independent standard Gaussians, the quantile loss the true marginals."""
    data = load_data(small().data)
    after = {}
    for name in ("made", "aiqn"):
        config = small(name, batch_size=128)
        state, losses = new_state(config, data, torch.device("cpu")), []
        for _ in range(300):
            train_step(state, config, data.train, None, losses)
        after[name] = float(torch.stack(losses[-100:]).mean())
    assert after["made"] < 0.5 * math.log(2 * math.pi * math.e)
    marginal = data.test.sort(0).values.double()
    count = len(marginal)
    # The least quantile loss without x is E|X − X'| / 4 (half the CRPS of the truth), here by order statistics.
    difference = 2 * ((2 * torch.arange(1, count + 1) - count - 1)[:, None] * marginal).sum(0) / (count * (count - 1))
    assert after["aiqn"] < float(difference.mean()) / 4


def test_the_protocol_tells_the_true_likelihood():
    config = small()
    recorded = protocol(config, load_data(config.data))
    assert recorded["reference"] == 70
    assert recorded["true_nll"] == pytest.approx(0.7405, abs=1e-3)
    assert recorded["data"].startswith("mixture2d ")


# What fits together


@pytest.mark.parametrize(
    ("mapping", "problem"),
    [
        ({"data": "gaussian2d", "model": "pixelcnn"}, "model.name: saw 'pixelcnn', a model of images, but gaussian2d"),
        ({"data": "digits", "model": "aiqn"}, "model.name: saw 'aiqn', a model of vectors, but digits is data of"),
        (
            {"data": "banana2d", "model": "made", "evaluate": {"features": "lite0"}},
            "evaluate.features: saw 'lite0', but banana2d is data of vectors",
        ),
        (
            {"data": "banana2d", "model": "made", "evaluate": {"splits": 3}},
            "evaluate.splits: saw 3, but banana2d is data of vectors",
        ),
        (
            {"data": "banana2d", "model": "made", "loss": {"kappa": 0.1}},
            "loss.kappa: saw 0.1, but made has no kappa in its loss",
        ),
        ({"model": {"name": "aiqn", "planes": 32}}, "model.planes: saw 32, but aiqn has no planes; it has: hidden"),
        ({"model": {"name": "pixeliqn", "dependence": "shared"}}, "model.dependence: saw 'shared', but pixeliqn has"),
        ({"model": {"name": "made", "tau_mode": "local"}}, "model.tau_mode: saw 'local', but made has no tau_mode"),
        ({"model": {"name": "aiqn", "tau_mode": "paper"}}, "model.tau_mode: saw 'paper'; valid: causal, local"),
        (
            {"model": {"name": "aiqn", "tau_mode": "causal", "dependence": "shared"}},
            "model.tau_mode: saw 'causal'; valid for aiqn, shared: local",
        ),
        ({"model": {"name": "aiqn", "conditional": True}}, "model.conditional: saw True, but aiqn has no conditional"),
    ],
)
def test_what_does_not_fit_together_is_one_error(mapping, problem):
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_dict(mapping)
    (found,) = caught.value.problems
    assert str(found).startswith(problem)


def test_settings_of_vectors_are_recorded_in_full():
    config = TrainConfig.from_dict({"data": "gaussian2d", "model": "aiqn"})
    assert {key: value for key, value in config.to_dict()["model"].items() if value is not None} == {
        "name": "aiqn",
        "hidden": [64, 64],
        "tau_mode": "local",
        "dependence": "autoregressive",
    }
    assert config.loss.kappa == 0.0
    assert config.evaluate.features is None
    assert TrainConfig.from_dict(config.to_dict()) == config
    images = TrainConfig.from_dict({"data": "digits", "model": "pixelcnn"})
    assert (images.evaluate.features, images.evaluate.size, images.evaluate.splits) == ("lite0", 128, 10)
    assert TrainConfig.from_dict(images.to_dict()) == images
