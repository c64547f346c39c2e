"""Which output sees which input, by gradient and by perturbation; sizes, losses and sampling levels of both models."""

import copy
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from aiqn_core.config import ModelConfig
from aiqn_core.diagnostics import dependency_matrix, raster
from aiqn_core.levels import nearest_level, softmax_icdf, to_unit
from aiqn_core.losses import categorical_nll, huber_quantile_loss
from aiqn_core.models import PixelCNN, PixelIQN, build_model
from aiqn_core.sampling import sample
from aiqn_core.steps import update_ema

pytestmark = pytest.mark.slow

Model = PixelCNN | PixelIQN
TAU_MODES = ("causal", "local", "paper")


def tiny(name: str, image_shape: tuple[int, int, int], *, classes: int = 0, seed: int = 0, **changes: Any) -> Model:
    """A small model in float64 with every weight at random, also those that start at zero."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"name": name, "layers": 5, "planes": 8, "skip_planes": 16, "conditional": classes > 0}
    model = build_model(ModelConfig(**settings | changes), image_shape, classes).double()
    randomise(model)
    return model


def randomise(model: Model) -> None:
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 4
        torch.nn.init.normal_(parameter, std=1.2 / math.sqrt(fan_in))


def predict(model: Model, x: Tensor, tau: Tensor, label: Tensor | None) -> Tensor:
    """One number for each sub-pixel: the quantile, or a random projection of all its logits."""
    if isinstance(model, PixelIQN):
        return model(x, tau, label)
    logits = model(x, label)
    return (logits * torch.randn(256, 1, 1, dtype=x.dtype)).sum(2)


def any_of(found: list[Tensor]) -> Tensor:
    """Over several draws of the weights: a dead ReLU can hide one dependency at one of them."""
    return torch.stack(found).any(0)


def expected_tau(mode: str, image_shape: tuple[int, int, int]) -> Tensor:
    """causal: this row up to the own sub-pixel; local: itself; paper: all earlier pixels and all of the own one."""
    channels, height, width = image_shape
    index = torch.arange(channels * height * width)
    if mode == "local":
        return index[:, None] == index[None, :]
    if mode == "causal":
        row = index // (channels * width)
        return (row[:, None] == row[None, :]) & (index[None, :] <= index[:, None])
    pixel = index // channels
    return pixel[None, :] <= pixel[:, None]


def assert_triangle(models: list[Model]) -> None:
    image_shape = models[0].network.image_shape
    found = [dependency_matrix(model) for model in models]
    x = any_of([dependencies.x for dependencies in found])
    assert torch.equal(x, torch.ones_like(x).tril(-1))
    if isinstance(models[0], PixelIQN):
        mode = models[0].network.tau_mode
        assert mode is not None
        tau = any_of([dependencies.tau for dependencies in found if dependencies.tau is not None])
        assert torch.equal(tau, expected_tau(mode, image_shape))


@pytest.mark.parametrize("classes", [0, 11])
@pytest.mark.parametrize(("image_shape", "planes"), [((3, 5, 7), 8), ((3, 5, 9), 16), ((1, 5, 9), 8), ((1, 7, 5), 16)])
def test_pixelcnn_sees_exactly_what_comes_before(image_shape, planes, classes):
    assert_triangle([tiny("pixelcnn", image_shape, classes=classes, planes=planes, seed=s) for s in range(2)])


@pytest.mark.parametrize("tau_mode", TAU_MODES)
@pytest.mark.parametrize(
    ("image_shape", "planes", "classes"),
    [((3, 5, 7), 8, 0), ((3, 5, 9), 16, 11), ((1, 5, 9), 8, 11), ((1, 7, 5), 16, 0)],
)
def test_pixeliqn_sees_exactly_what_comes_before(image_shape, planes, classes, tau_mode):
    models = [
        tiny("pixeliqn", image_shape, classes=classes, planes=planes, tau_mode=tau_mode, seed=s, out_hidden=s % 2)
        for s in range(2)
    ]
    assert_triangle(models)


@pytest.mark.parametrize("name", ["pixelcnn", "pixeliqn"])
def test_no_blind_spot_in_a_wide_image(name):
    """A vertical stack that is shifted again in every layer never sees what is above and 5 or more to the right."""
    assert_triangle([tiny(name, (1, 3, 13), layers=7, seed=s) for s in range(2)])


@pytest.mark.parametrize(("name", "tau_mode"), [("pixelcnn", "causal"), *(("pixeliqn", mode) for mode in TAU_MODES)])
def test_the_small_presets_width_after_weight_decay_and_in_the_average(name, tau_mode):
    """128 planes are not divisible by three; fewer blocks than the preset's 15 cover this small image."""
    torch.manual_seed(3)
    config = ModelConfig.preset("small", name=name, tau_mode=tau_mode, layers=3)
    model = build_model(config, (3, 4, 4)).double()
    randomise(model)
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=5)  # 5 % of every weight at each step
    for _ in range(4):
        optimizer.zero_grad()
        model.loss(torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8), torch.rand(2, 3, 4, 4)).backward()
        optimizer.step()
        update_ema(average, model, 0.8)
    assert_triangle([model])
    assert_triangle([average.eval()])


@pytest.mark.parametrize(("name", "tau_mode"), [("pixelcnn", "causal"), *(("pixeliqn", mode) for mode in TAU_MODES)])
def test_masks_hold_after_weight_decay_and_in_the_average(name, tau_mode):
    model = tiny(name, (3, 4, 5), layers=3, tau_mode=tau_mode)
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    for _ in range(12):
        image, tau = torch.randint(256, (2, 3, 4, 5), dtype=torch.uint8), torch.rand(2, 3, 4, 5)
        optimizer.zero_grad()
        model.loss(image, tau).backward()
        optimizer.step()
        update_ema(average, model, 0.8)
    others = [tiny(name, (3, 4, 5), layers=3, tau_mode=tau_mode, seed=s) for s in (1, 2)]
    assert_triangle([model.train(), *others])
    assert_triangle([average.eval(), *others])
    tau = torch.rand(2, 3, 4, 5)
    assert torch.equal(sample(average, 2, tau=tau), sample(average, 2, tau=tau, method="naive"))


@pytest.mark.parametrize(("name", "tau_mode"), [("pixelcnn", "causal"), *(("pixeliqn", mode) for mode in TAU_MODES)])
def test_one_level_in_float32_changes_only_what_comes_after(name, tau_mode):
    """As used in production: gradients would not see a leak through integers or rounding."""
    image_shape = (3, 5, 7)
    model = tiny(name, image_shape, tau_mode=tau_mode).float()
    n = math.prod(image_shape)
    image, tau = torch.randint(1, 255, (1, *image_shape), dtype=torch.uint8), torch.rand(1, *image_shape)
    step = torch.eye(n, dtype=torch.uint8).view(n, 5, 7, 3).movedim(-1, 1)
    nudged = torch.where(step.bool(), (tau + 0.37) % 1, tau)
    torch.manual_seed(1)
    with torch.no_grad():

        def out(images: Tensor, taus: Tensor) -> Tensor:
            torch.manual_seed(2)
            return raster(predict(model, to_unit(images), taus, None))

        base = out(image.repeat(n, 1, 1, 1), tau.repeat(n, 1, 1, 1))
        by_x = out(image + step, tau.repeat(n, 1, 1, 1)) != base  # [j, i]
        by_tau = out(image.repeat(n, 1, 1, 1), nudged) != base
    before = torch.ones(n, n, dtype=torch.bool).tril(-1)
    assert not (by_x.T & ~before).any()
    assert by_x.T[before].float().mean() > 0.9
    if name == "pixeliqn":
        allowed = expected_tau(tau_mode, image_shape)
        assert not (by_tau.T & ~allowed).any()
        assert by_tau.diagonal().all()


# Worked out by hand for 3 x 5 vertical and 1 x 3 horizontal kernels in every block, with biases, one bias for all skips
# and tau into both stacks without: that is mode "paper". The other modes have one projection of tau less in each block.
TAU_V = {"small": 15 * 3 * 256, "large": 20 * 3 * 512}
LABELS = {"small": 15 * 2 * 256, "large": 20 * 2 * 512}  # for each class: a bias in both stacks of every block
PARAMETERS = [
    ("small", "pixelcnn", "causal", 0, 12_267_904),
    ("large", "pixelcnn", "causal", 0, 57_474_816),
    ("small", "pixeliqn", "paper", 0, 11_506_819),
    ("small", "pixeliqn", "causal", 0, 11_506_819 - TAU_V["small"]),
    ("small", "pixeliqn", "local", 0, 11_506_819 - TAU_V["small"]),
    ("large", "pixeliqn", "paper", 0, 56_752_131),
    ("large", "pixeliqn", "causal", 0, 56_752_131 - TAU_V["large"]),
    ("large", "pixeliqn", "local", 0, 56_752_131 - TAU_V["large"]),
    ("small", "pixelcnn", "causal", 10, 12_267_904 + 10 * LABELS["small"]),
    ("small", "pixeliqn", "paper", 10, 11_506_819 + 10 * LABELS["small"]),
    ("large", "pixelcnn", "causal", 1000, 57_474_816 + 1000 * LABELS["large"]),
    ("large", "pixeliqn", "paper", 1000, 56_752_131 + 1000 * LABELS["large"]),
]


@pytest.mark.parametrize(("size", "name", "tau_mode", "classes", "expected"), PARAMETERS)
def test_number_of_parameters(size, name, tau_mode, classes, expected):
    config = ModelConfig.preset(size, name=name, tau_mode=tau_mode, conditional=classes > 0)
    with torch.device("meta"):
        model = build_model(config, (3, 32, 32), classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize(
    ("size", "name", "tau_mode", "gigaflops"),
    [
        ("small", "pixeliqn", "paper", 23.5),
        ("small", "pixeliqn", "causal", 23.5),
        ("small", "pixeliqn", "local", 29.0),  # a second stream: the own pixel's taps, 1x1 and skips once more
        ("small", "pixelcnn", "causal", 25.1),
        ("large", "pixeliqn", "paper", 116.0),
        ("large", "pixelcnn", "causal", 117.6),
    ],
)
def test_forward_operations_of_an_image(size, name, tau_mode, gigaflops):
    """Worked out by hand from the sizes of the kernels: 2 x multiply-adds at 32 x 32 positions."""
    model = build_model(ModelConfig.preset(size, name=name, tau_mode=tau_mode), (3, 32, 32))
    inputs = [torch.rand(1, 3, 32, 32)] * (2 if name == "pixeliqn" else 1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    assert counter.get_total_flops() / 1e9 == pytest.approx(gigaflops, rel=0.1)


def test_a_hidden_output_layer_has_1024_planes():
    with torch.device("meta"):
        zero, one = (
            build_model(ModelConfig.preset("small", name="pixeliqn", out_hidden=n), (3, 32, 32)) for n in (0, 1)
        )
    assert sum(p.numel() for p in one.parameters()) - sum(p.numel() for p in zero.parameters()) == 1_049_600


@pytest.mark.parametrize("tau_mode", TAU_MODES)
@pytest.mark.parametrize("name", ["pixelcnn", "pixeliqn"])
def test_every_parameter_is_trained(name, tau_mode):
    model = tiny(name, (3, 5, 7), classes=4, tau_mode=tau_mode, out_hidden=1)
    image, tau = torch.randint(256, (4, 3, 5, 7), dtype=torch.uint8), torch.rand(4, 3, 5, 7)
    model.loss(image, tau, torch.arange(4)).backward()
    dead = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_a_fresh_pixelcnn_is_uniform_and_a_fresh_pixeliqn_is_grey():
    image, tau = torch.randint(256, (2, 1, 5, 7), dtype=torch.uint8), torch.rand(2, 1, 5, 7)
    cnn, iqn = (build_model(ModelConfig(name=name), (1, 5, 7)) for name in ("pixelcnn", "pixeliqn"))
    assert cnn.loss(image, None).item() == pytest.approx(math.log(256), rel=1e-6)
    grey = torch.full((2, 1, 5, 7), 0.5)
    expected = huber_quantile_loss(grey, image / 255, tau, 0.1).mean()
    torch.testing.assert_close(iqn.loss(image, tau, kappa=0.1), expected)
    with pytest.raises(ValueError, match="tau: missing"):
        iqn.loss(image, None)


def test_pixelcnn_loss_is_the_likelihood_of_its_softmax():
    model = tiny("pixelcnn", (3, 4, 5))
    image = torch.randint(256, (2, 3, 4, 5), dtype=torch.uint8)
    p = model(to_unit(image, torch.float64)).softmax(2).detach().numpy()
    n, c, h, w = np.indices(image.shape)
    assert model.loss(image).item() == pytest.approx(-np.log(p[n, c, image.numpy(), h, w]).mean(), rel=1e-9)


FEW = 3  # levels of the toy below: 0, 1 and 2


def test_the_probabilities_of_all_images_of_a_toy_sum_to_one_and_are_met_by_samples():
    """2 x 2 grey pixels of three levels: 81 images, each scored by the likelihood and counted among the samples."""
    model = tiny("pixelcnn", (1, 2, 2), layers=2)
    model.network.head.bias.data[FEW:] = -1e9
    model.network.head.weight.data.mul_(12)  # levels 0, 1, 2 differ little as inputs; the logits must differ much
    images = torch.cartesian_prod(*[torch.arange(FEW, dtype=torch.uint8)] * 4).reshape(-1, 1, 2, 2)
    each = categorical_nll(model(to_unit(images, torch.float64)), images).flatten(1).sum(1)
    probability = (-each).exp().detach()
    assert probability.sum().item() == pytest.approx(1, abs=1e-9)
    found = sample(model, 20_000, generator=torch.Generator().manual_seed(5)).flatten(1)
    expected = dict(zip(map(tuple, images.flatten(1).tolist()), probability.tolist(), strict=True))
    assert_frequencies(Counter(map(tuple, found.tolist())), expected)


@torch.no_grad()
def test_the_probabilities_of_all_images_of_a_toy_pixeliqn_sum_to_one_and_are_met_by_samples():
    """2 x 2 grey pixels: P(level | those before) is the length of the τ that lead to it, counted on a fine grid."""
    model = tiny("pixeliqn", (1, 2, 2), layers=2, tau_mode="local")  # an output sees no τ but its own
    model.network.head.weight.data.mul_(0.012)  # a few levels around the bias
    torch.nn.init.constant_(model.network.head.bias, 0.47)
    grid = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    probability = {(): 1.0}
    for position in range(4):
        longer = {}
        for before, p in probability.items():
            image = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
            image.view(-1)[:position] = torch.tensor(before, dtype=torch.uint8)
            x = to_unit(image, torch.float64).expand(len(grid), 1, 2, 2)
            output = model(x, grid[:, None, None, None].expand(x.shape))
            levels, counts = nearest_level(output).flatten(1)[:, position].unique(return_counts=True)
            for level, count in zip(levels.tolist(), counts.tolist(), strict=True):
                longer[*before, level] = p * count / len(grid)
        probability = longer
    assert len(probability) > 20
    assert sum(probability.values()) == pytest.approx(1, abs=1e-9)
    found = sample(model, 20_000, generator=torch.Generator().manual_seed(5)).flatten(1)
    assert_frequencies(Counter(map(tuple, found.tolist())), probability)


def assert_frequencies(observed: Counter[tuple[int, ...]], probability: dict[tuple[int, ...], float]) -> None:
    """χ² of counts against probabilities; all that are expected fewer than five times go with the rarest other."""
    count = sum(observed.values())
    often = [key for key, p in probability.items() if p * count > 5][:-1]
    expected, seen = [probability[key] * count for key in often], [observed[key] for key in often]
    assert sum(n > 0 for n in seen) > 15  # not all on a few
    assert scipy.stats.chisquare([*seen, count - sum(seen)], [*expected, count - sum(expected)]).pvalue > 1e-3


def test_batches_of_different_sizes_follow_each_other():
    model = tiny("pixeliqn", (3, 5, 9))
    x, tau = torch.rand(2, 7, 3, 5, 9, dtype=torch.float64)
    first = model(x[:4], tau[:4])
    torch.testing.assert_close(model(x, tau)[:4], first)


def test_tau_enters_as_minus_one_to_one():
    """At tau = 1/2 the tau terms vanish, so the weights of their projections do not matter."""
    model = tiny("pixeliqn", (3, 4, 5), tau_mode="causal")
    x, half = torch.rand(2, 3, 4, 5, dtype=torch.float64), torch.full((2, 3, 4, 5), 0.5, dtype=torch.float64)
    before = model(x, half)
    for block in model.network.blocks:
        block.tau_h.weight.data.mul_(7)
    assert torch.equal(model(x, half), before)
    assert not torch.equal(model(x, half + 0.1), before)


def test_autocast_keeps_the_output_in_float32():
    model = tiny("pixeliqn", (3, 5, 7)).float()
    x, tau = torch.rand(2, 2, 3, 5, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(x, tau)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, model(x, tau), atol=0.1, rtol=0)


def test_softmax_icdf_inverts_the_distribution_function():
    generator = torch.Generator().manual_seed(0)
    logits, tau = torch.randn(5, 7, 11, generator=generator), torch.rand(5, 7, generator=generator)
    level = softmax_icdf(logits, tau)
    for index in np.ndindex(5, 7):
        cumulative = logits[index].double().softmax(-1).cumsum(-1).numpy()
        assert level[index] == np.searchsorted(cumulative, tau[index].item(), side="right")


def test_softmax_icdf_never_selects_an_impossible_level():
    logits = torch.full((4, 256), -torch.inf)
    logits[:, 17:200] = torch.randn(183)
    assert softmax_icdf(logits, torch.tensor([0.0, 1e-30, 1 - 2**-24, 1.0])).tolist() == [17, 17, 199, 199]


def test_nearest_level_rounds_and_clamps():
    value = torch.tensor([-0.2, 0.0, 0.9999, 1.3, 0.4 / 255, 0.6 / 255])
    assert nearest_level(value).tolist() == [0, 0, 255, 255, 0, 1]
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(nearest_level(to_unit(levels)), levels)


def test_errors_name_what_was_seen():
    for classes in (0, 1):
        with pytest.raises(ValueError, match=f"conditional: saw true with {classes} classes"):
            build_model(ModelConfig(conditional=True), (1, 8, 8), classes)
    with pytest.raises(ValueError, match=r"saw \(8, 8\)"):
        build_model(ModelConfig(), (8, 8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="saw 3 planes for 4 colours"):
        build_model(ModelConfig(planes=3), (4, 8, 8))
    plain, labelled = tiny("pixeliqn", (1, 4, 5)), tiny("pixelcnn", (1, 4, 5), classes=4)
    x = torch.rand(2, 1, 4, 5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"x: saw shape \(2, 1, 5, 4\), expected \(batch, 1, 4, 5\)"):
        plain(x.mT, x.mT)
    with pytest.raises(ValueError, match=r"tau: saw shape \(1, 1, 4, 5\)"):
        plain(x, x[:1])
    with pytest.raises(ValueError, match="label: seen"):
        plain(x, x, torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="label: missing"):
        labelled(x)
    with pytest.raises(ValueError, match=r"label: saw shape \(3,\)"):
        labelled(x, torch.zeros(3, dtype=torch.long))
