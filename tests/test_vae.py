"""The VAE's terms against torch's distributions; what the AIQN reads and trains; codes that follow the encoder."""

import itertools
import math

import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from aiqn_core import training
from aiqn_core.config import ConfigError, ModelConfig, TrainConfig
from aiqn_core.data import load_data
from aiqn_core.distances import energy_distance
from aiqn_core.features import Lite0
from aiqn_core.levels import to_unit
from aiqn_core.models import build_model
from aiqn_core.models.vae import AIQNVAE, VAE, Code, divergence, normal, sample_codes
from aiqn_core.models.vectors import AIQN, sample_vectors
from aiqn_core.sampling import sample
from aiqn_core.training import new_state, train, train_step


def tiny(name: str = "aiqn_vae", image_shape: tuple[int, int, int] = (3, 5, 7), **changes) -> VAE:
    """A small model in float64 whose every weight is random."""
    torch.manual_seed(0)
    settings = {"layers": 2, "planes": 4, "kernel": 3, "latent": 6}
    settings |= {"hidden": (13, 11)} if name == "aiqn_vae" else {}
    model = build_model(ModelConfig(name=name, **settings | changes), image_shape).double()
    if isinstance(model, AIQNVAE):
        for parameter in model.aiqn.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def images(count: int, shape: tuple[int, int, int] = (3, 5, 7)) -> Tensor:
    return torch.randint(256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("image_shape", [(3, 64, 64), (3, 32, 32), (1, 8, 8), (3, 5, 7), (1, 1, 9), (2, 13, 6)])
def test_images_of_any_size_come_back_in_their_size(image_shape):
    model = tiny("vae", image_shape, layers=4)
    x = model.scaled(images(5, image_shape))
    code = model.encode(x)
    assert code.mean.shape == code.log_variance.shape == (5, 6)
    assert model.decode(code.mean).shape == x.shape
    assert sample(model, 3).shape == (3, *image_shape)


def test_the_papers_sizes():
    model = build_model(ModelConfig(name="aiqn_vae"), (3, 64, 64))
    convolutions = [m for m in model.encoder if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [64, 128, 256, 512]
    assert [tuple(m.kernel_size) for m in convolutions] == [(5, 5)] * 4
    assert [layer.weight.shape[0] for layer in model.aiqn.network.layers] == [512, 512, 512]
    assert model.latent == 32
    assert model.deviation**2 == pytest.approx(0.1)
    assert model.kl_weight == 0.5


@pytest.mark.parametrize(("name", "variance"), [("vae", 1.0), ("aiqn_vae", 0.1)])
def test_the_loss_is_made_of_terms_that_torch_knows(name, variance):
    model, image, tau = tiny(name).eval(), images(11), torch.rand(11, 6).double()
    x = 2 * to_unit(image, torch.float64) - 1
    code = model.encode(x)
    posterior = Normal(code.mean, (code.log_variance / 2).exp())
    noise = Normal(0, math.sqrt(variance)).icdf(tau)
    decoded = model.decode(code.mean + posterior.stddev * noise)
    kl = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1)
    expected = ((decoded - x) ** 2).sum((1, 2, 3)) + {"vae": 2.0, "aiqn_vae": 0.5}[name] * kl
    if isinstance(model, AIQNVAE):
        model.centre[:], model.square[:] = 0.3, 0.3**2 + 4.0  # mean 0.3, standard deviation 2
        z = (code.mean - 0.3) / 2
        error = z - model.aiqn(z, tau)
        pinball = torch.where(error > 0, tau, 1 - tau)  # of eq. (2), by hand
        huber = torch.where(error.abs() <= 0.7, error**2 / 1.4, error.abs() - 0.35)
        expected = expected + (pinball * huber).sum(1)
    found = model.loss(image, tau) if name == "vae" else model.loss(image, tau, kappa=0.7)
    assert found.item() == pytest.approx(expected.mean().item() / (3 * 5 * 7), rel=1e-12)


def test_the_divergence_is_that_of_two_gaussians():
    mean, deviation = torch.randn(7, 5).double(), torch.rand(7, 5).double() + 0.1
    known = kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(divergence(Code(mean, 2 * deviation.log())), known)


def test_the_bound_is_below_the_likelihood():
    """kl_weight 2, noise 1: half the loss plus the Gaussian's constant bounds −log p(x), here known by brute force."""
    model = tiny("vae", (1, 2, 2), latent=1, layers=1).eval()
    image = images(1, (1, 2, 2))
    x = model.scaled(image)
    with torch.no_grad():
        z = torch.linspace(-8, 8, 16_001).double()[:, None]
        log_joint = Normal(model.decode(z), 1.0).log_prob(x).sum((1, 2, 3)) + Normal(0.0, 1.0).log_prob(z[:, 0])
        exact = -float(torch.logsumexp(log_joint, 0) + math.log(16 / 16_000))
        tau = (torch.arange(2000).double()[:, None] + 0.5) / 2000
        bound = float(model.loss(image.expand(2000, -1, -1, -1), tau)) * 4 / 2 + 4 * math.log(2 * math.pi) / 2
        assert exact < bound < exact + float(divergence(model.encode(x))) + 3


def test_the_noise_is_normal_and_finite_at_the_ends():
    tau = torch.tensor([0.0, 0.025, 0.5, 0.975, 1.0])
    found = normal(tau)
    assert found.isfinite().all()
    assert found[1:4].tolist() == pytest.approx(scipy.stats.norm.ppf([0.025, 0.5, 0.975]).tolist(), abs=1e-6)


def test_detached_the_quantile_loss_trains_the_aiqn_alone():
    image, tau = images(7), torch.rand(7, 6).double()
    gradients = {}
    for detach in (True, False):
        model = tiny(detach=detach).eval()
        model.loss(image, tau).backward()
        gradients[detach] = {key: p.grad.clone() for key, p in model.named_parameters()}
    model = tiny().eval()
    (model._bound(image, tau)[0] / image[0].numel()).backward()
    alone = {key: p.grad for key, p in model.named_parameters() if not key.startswith("aiqn.")}
    assert all(torch.equal(gradients[True][key], gradient) for key, gradient in alone.items())
    assert not any(torch.allclose(gradients[False][key], alone[key]) for key in alone if key.startswith("encoder.8"))
    assert all(gradients[True][key].any() for key in gradients[True] if key.startswith("aiqn.") and "taus" not in key)


@pytest.mark.parametrize("tau_mode", ["causal", "local"])
def test_a_code_depends_on_the_levels_of_its_own_and_earlier_dimensions(tau_mode):
    model = tiny(tau_mode=tau_mode, hidden=(50, 60))
    tau = torch.rand(9, 6).double()
    code = model.code(tau)
    for j in range(6):
        nudged = tau.clone()
        nudged[:, j] = (nudged[:, j] + 0.31) % 1
        moved = (model.code(nudged) != code).any(0)
        assert not moved[:j].any()
        assert moved[j]


def test_samples_are_a_function_of_tau():
    model, tau = tiny().eval(), torch.rand(5, 6)
    drawn = sample(model, 5, tau=tau)
    assert torch.equal(drawn, sample_codes(model, 5, tau=tau, batch_size=2))
    assert torch.equal(drawn, model.images(model.code(tau.double())))
    prior = sample_codes(model, 5, tau=tau, prior=True)
    assert torch.equal(prior, model.images(normal(tau.double())))
    assert not torch.equal(drawn, prior)
    same = [sample(model, 5, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*same)


def test_errors_name_what_was_seen():
    model = tiny()
    with pytest.raises(ValueError, match=r"tau: saw shape \(3, 5\), expected \(3, 6\)"):
        sample(model, 3, tau=torch.rand(3, 5))
    with pytest.raises(ValueError, match="tau: saw values from 2 to 2"):
        sample(model, 3, tau=torch.full((3, 6), 2.0))
    with pytest.raises(ValueError, match="mask: seen, but a VAE draws whole images"):
        sample(model, 3, mask=torch.ones(3, 3, 5, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"x: saw shape \(2, 3, 7, 5\), expected \(batch, 3, 5, 7\)"):
        model.encode(torch.rand(2, 3, 7, 5).double())


@pytest.mark.parametrize(
    ("mapping", "problem"),
    [
        ({"model": "vae", "loss": {"kappa": 0.1}}, "loss.kappa: saw 0.1, but vae has no kappa in its loss"),
        ({"model": {"name": "vae", "conditional": True}}, "model.conditional: saw True, but vae has no conditional"),
        ({"model": {"name": "aiqn_vae", "tau_mode": "paper"}}, "model.tau_mode: saw 'paper'; valid: causal, local"),
        ({"model": {"name": "vae", "hidden": [7]}}, "model.hidden: saw [7], but vae has no hidden"),
        ({"data": "banana2d", "model": "aiqn_vae"}, "model.name: saw 'aiqn_vae', a model of images, but banana2d"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_one_error(mapping, problem):
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_dict(mapping)
    (found,) = caught.value.problems
    assert str(found).startswith(problem)


def small(name: str, **changes) -> TrainConfig:
    mapping = {
        "model": {"name": name, "layers": 2, "planes": 4, "latent": 6}
        | ({"hidden": [16, 16]} if name == "aiqn_vae" else {}),
        "optimizer": {"name": "adam", "lr": 0.003},
        "train": {"steps": 11, "batch_size": 13, "log_every": 3, "ema_decay": 0.9},
        "evaluate": {"every": 4, "samples": 14, "splits": 2, "size": 64, "reference": 50},
    }
    return TrainConfig.from_dict({key: {**value, **changes.get(key, {})} for key, value in mapping.items()})


@pytest.mark.parametrize("name", ["vae", "aiqn_vae"])
def test_an_interrupted_training_ends_bit_identical(tmp_path, name):
    """Running statistics too are in the checkpoint, and evaluations leave them alone."""
    config = small(name)
    whole = list(train(config, tmp_path / "whole"))
    for cut in (2, 4):
        interrupted = train(config, tmp_path / "cut")
        list(itertools.islice(interrupted, cut))
        interrupted.close()
    resumed = list(train(config, tmp_path / "cut"))
    for one, other in zip(whole, resumed, strict=True):
        timed = ("seconds", "evaluate_seconds")
        assert {k: v for k, v in one.metrics.items() if k not in timed} == {
            k: v for k, v in other.metrics.items() if k not in timed
        }
    ends = [torch.load(tmp_path / folder / "checkpoint.pt", weights_only=True) for folder in ("whole", "cut")]
    for part in ("model", "ema"):
        assert all(torch.equal(ends[0][part][key], ends[1][part][key]) for key in ends[0][part])
    assert {metric.name for metric in config.metrics} <= whole[-1].metrics.keys()
    once = [progress.metrics["loss"] for progress in train(small(name, evaluate={"every": 11}))]
    assert once[-1] == pytest.approx(whole[-1].metrics["loss"], rel=0.5)  # over other steps


def test_running_statistics_are_averaged_with_the_weights_that_rely_on_them():
    config = small("aiqn_vae")
    data = load_data(config.data)
    state = new_state(config, data, torch.device("cpu"))
    followed = ("centre", "square", "encoder.1.running_mean", "encoder.1.running_var", "decoder.4.running_mean")
    slow = {key: state.ema.state_dict()[key].clone() for key in followed}
    for step in range(5):
        train_step(state, config, data.train, None, [])
        weight = min(0.9, (1 + step) / (10 + step))
        for key in followed:
            slow[key] = weight * slow[key] + (1 - weight) * state.model.state_dict()[key]
    for key in followed:
        torch.testing.assert_close(state.ema.state_dict()[key], slow[key])
        assert slow[key].any()


def test_the_codes_drawn_follow_the_encoder_where_the_prior_does_not():
    """Trained on digits: by energy distance to the means of held-out digits, scaled per dimension."""
    config = small("aiqn_vae", model={"hidden": [64, 64]}, train={"steps": 400, "batch_size": 64, "ema_decay": 0.98})
    data = load_data(config.data)
    state = new_state(config, data, torch.device("cpu"))
    for _ in range(config.train.steps):
        train_step(state, config, data.train, None, [])
    model = state.ema
    assert isinstance(model, AIQNVAE)
    with torch.no_grad():
        held_out = model.encode(model.scaled(data.test)).mean
        fitted = model.encode(model.scaled(data.train)).mean
        tau = torch.rand(len(fitted), 6, generator=torch.Generator().manual_seed(2))
        scaled = [codes / held_out.std(0) for codes in (held_out, fitted, model.code(tau), model.prior(tau))]
    best, drawn, prior = (energy_distance(codes, scaled[0]) for codes in scaled[1:])
    assert drawn < best + (prior - best) / 3


@pytest.mark.parametrize("tau_mode", ["causal", "local"])
def test_the_aiqn_alone_learns_strong_dependence_that_is_not_gaussian(tau_mode):
    """A chain x_i = 1.5 sin(2 x_{i−1}) + 0.3 ε: the residuals that its samples leave are N(0, 0.09) and independent."""
    dims, generator = 4, torch.Generator().manual_seed(0)

    def chain(count: int) -> Tensor:
        x = torch.randn(count, dims, generator=generator)
        for i in range(1, dims):
            x[:, i] = 1.5 * torch.sin(2 * x[:, i - 1]) + 0.3 * x[:, i]
        return x

    torch.manual_seed(0)
    model = build_model(ModelConfig(name="aiqn", hidden=(64, 64, 64), tau_mode=tau_mode), (dims,))
    assert isinstance(model, AIQN)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.006)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 900)
    for _ in range(900):
        optimizer.zero_grad()
        model.loss(chain(256), torch.rand(256, dims, generator=generator)).backward()
        optimizer.step()
        decay.step()
    x, real = sample_vectors(model, 10_000, generator=generator), chain(10_000)
    residual = x[:, 1:] - 1.5 * torch.sin(2 * x[:, :-1])
    torch.testing.assert_close(residual.std(0), torch.full((dims - 1,), 0.3), rtol=0.2, atol=0)
    assert residual.mean(0).abs().max() < 0.05
    torch.testing.assert_close(torch.corrcoef(residual.T), torch.eye(dims - 1), rtol=0, atol=0.12)
    # without the dependence: the marginals of the same chain, each shuffled
    apart = torch.stack([column[torch.randperm(len(column))] for column in real.T], 1)
    floor = energy_distance(apart[:4000], real[:4000])
    assert energy_distance(x[:4000], real[:4000]) < floor / 10


def test_evaluation_scores_the_prior_beside_the_codes(monkeypatch):
    """Both are decoded from the same tau by the same weights, and the extractor sees each once."""
    seen = []
    original = Lite0.__call__
    monkeypatch.setattr(Lite0, "__call__", lambda self, x: seen.append(x) or original(self, x))
    config = small("aiqn_vae")
    data = load_data(config.data)
    state = new_state(config, data, torch.device("cpu"))
    scores, _ = training.evaluate(state.ema, config, data)
    tau, label = training.evaluation_draws(config, data, state.ema)
    assert label is None
    expected = [sample(state.ema, 14, tau=tau), sample_codes(state.ema, 14, tau=tau, prior=True)]
    assert all(any(torch.equal(x, y) for y in seen) for x in expected)
    assert {"fd_lite0", "prior_fd_lite0", "reconstruction_fd_lite0", "squared_error", "kl"} <= scores.keys()
