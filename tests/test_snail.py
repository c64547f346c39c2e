"""The snail trunk: what sees what, attention against a slow loop, its sampler against a full forward per sub-pixel."""

import copy

import pytest
import torch
from test_models import randomise, tiny
from torch import Tensor

from aiqn_core.config import ConfigError, ModelConfig
from aiqn_core.diagnostics import dependency_matrix
from aiqn_core.layers import colour_groups
from aiqn_core.models import PixelCNN, PixelIQN, build_model
from aiqn_core.sampling import sample
from aiqn_core.snail import Attention, places

KINDS = [("pixelcnn", "causal"), *(("pixeliqn", mode) for mode in ("causal", "local", "paper"))]


def snail(name: str, image_shape: tuple[int, int, int], *, classes: int = 0, seed: int = 0, **changes):
    settings = {"trunk": "snail", "layers": 4, "attention": 1, "heads": 2}
    model = tiny(name, image_shape, classes=classes, seed=seed, **settings | changes)
    assert isinstance(model, PixelCNN | PixelIQN)
    return model


def expected_tau(mode: str, image_shape: tuple[int, int, int]) -> Tensor:
    """Attention reaches every earlier pixel, with what that one knows: in causal mode all earlier tau."""
    index = torch.arange(image_shape[0] * image_shape[1] * image_shape[2])
    if mode == "local":
        return index[:, None] == index[None, :]
    size = image_shape[0] if mode == "paper" else 1
    return index[None, :] // size <= index[:, None] // size


def assert_sees(models) -> None:
    """Over several draws of weights: the strict triangle of x, and of tau what the mode says."""
    network = models[0].network
    found = [dependency_matrix(model) for model in models]
    x = torch.stack([dependencies.x for dependencies in found]).any(0)
    assert torch.equal(x, torch.ones_like(x).tril(-1))
    if isinstance(models[0], PixelIQN):
        tau = torch.stack([dependencies.tau for dependencies in found if dependencies.tau is not None]).any(0)
        assert torch.equal(tau, expected_tau(network.tau_mode, network.image_shape))


@pytest.mark.parametrize(("name", "tau_mode"), KINDS)
@pytest.mark.parametrize(("image_shape", "planes", "classes"), [((3, 5, 9), 8, 0), ((1, 9, 5), 7, 4)])
def test_it_sees_exactly_what_comes_before(name, tau_mode, image_shape, planes, classes):
    models = [
        snail(name, image_shape, planes=planes, classes=classes, tau_mode=tau_mode, seed=seed, out_hidden=seed)
        for seed in range(2)
    ]
    assert_sees([model.train(seed == 0) for seed, model in enumerate(models)])


@pytest.mark.parametrize(("name", "tau_mode"), KINDS)
def test_masks_hold_after_weight_decay_and_in_the_average(name, tau_mode):
    model = snail(name, (3, 4, 5), tau_mode=tau_mode)
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    for _ in range(8):
        image, tau = torch.randint(256, (2, 3, 4, 5), dtype=torch.uint8), torch.rand(2, 3, 4, 5)
        optimizer.zero_grad()
        model.loss(image, tau).backward()
        optimizer.step()
        for mean, parameter in zip(average.parameters(), model.parameters(), strict=True):
            mean.data.lerp_(parameter.data, 0.2)
    other = snail(name, (3, 4, 5), tau_mode=tau_mode, seed=1)
    assert_sees([model.train(), other])
    assert_sees([average.eval(), other])
    tau = torch.rand(2, 3, 4, 5)
    assert torch.equal(sample(average, 2, tau=tau), sample(average, 2, tau=tau, method="naive"))


def test_attention_is_that_of_a_slow_loop():
    torch.manual_seed(0)
    attention = Attention(colour_groups(11, 3), 3, 2).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    h = torch.randn(5, 11, 3, 4).double()
    found = attention(h)
    placed = torch.cat([h, places(3, 4, h).expand(5, -1, -1, -1)], 1)
    query, key, value = attention.query(placed), attention.key(placed), attention.value(h)
    size = attention.size
    read = torch.zeros(5, 3 * 2 * size, 12).double()
    for colour in range(3):
        for head in range(2):
            asked = query.flatten(2)[:, (colour * 2 + head) * size :][:, :size]
            for pixel in range(12):
                own = slice(head * size, (head + 1) * size)
                first = [x.view(1, size, 1).expand(5, -1, -1) for x in attention.first[:, head]]
                keys = torch.cat([first[0], key.flatten(2)[:, own, :pixel]], 2)
                values = torch.cat([first[1], value.flatten(2)[:, own, :pixel]], 2)
                weight = (torch.einsum("ns,nsp->np", asked[:, :, pixel], keys) / size**0.5).softmax(1)
                place = slice((colour * 2 + head) * size, (colour * 2 + head + 1) * size)
                read[:, place, pixel] = torch.einsum("np,nsp->ns", weight, values)
    torch.testing.assert_close(found, attention.out(read.view(5, -1, 3, 4)))


CASES = [
    ((3, 4, 5), {}),
    ((1, 5, 7), {"classes": 11, "out_hidden": 1, "attention": 2}),
    ((3, 5, 2), {"classes": 4, "planes": 16, "heads": 3}),
    ((1, 3, 6), {"layers": 1}),
    ((2, 3, 7), {"kernel": 7, "layers": 3}),
]


@pytest.mark.parametrize(("image_shape", "changes"), CASES)
@pytest.mark.parametrize(("name", "tau_mode"), KINDS)
def test_every_method_is_naive_bit_for_bit(name, tau_mode, image_shape, changes):
    model = snail(name, image_shape, tau_mode=tau_mode, **changes)
    if name == "pixeliqn":
        model.network.head.weight.data.mul_(0.3)
        torch.nn.init.constant_(model.network.head.bias, 0.47)
    given = {"tau": torch.rand(5, *image_shape)}
    given["label"] = torch.randint(changes["classes"], (5,)) if "classes" in changes else None
    naive = sample(model, 5, **given, method="naive")
    assert len(naive.unique()) > 8
    known, mask = torch.randint(256, naive.shape, dtype=torch.uint8), torch.rand(naive.shape) < 0.5
    mask[:, :, :, 0] = True
    filled = sample(model, 5, **given, known=known, mask=mask, method="naive")
    for method in ("cached", "jacobi"):
        assert torch.equal(sample(model, 5, **given, method=method), naive)
        assert torch.equal(sample(model, 5, **given, known=known, mask=mask, method=method), filled)
    assert torch.equal(filled[mask], known[mask])
    assert torch.equal(sample(model, 5, **given, batch_size=2), naive)


@pytest.mark.parametrize(("name", "tau_mode"), KINDS)
def test_every_parameter_is_trained(name, tau_mode):
    model = snail(name, (3, 5, 7), classes=4, tau_mode=tau_mode, out_hidden=1)
    image, tau = torch.randint(256, (4, 3, 5, 7), dtype=torch.uint8), torch.rand(4, 3, 5, 7)
    model.loss(image, tau, torch.arange(4)).backward()
    dead = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_what_does_not_fit_says_so():
    with pytest.raises(ConfigError, match="heads: saw 2, but a gated trunk has no heads"):
        ModelConfig(name="pixeliqn", heads=2)
    with pytest.raises(ConfigError, match="trunk: saw 'snail', but made has no trunk"):
        ModelConfig(name="made", trunk="snail")
    with pytest.raises(ValueError, match="method: saw 'row'; valid for a snail trunk: cached, jacobi, naive"):
        sample(snail("pixelcnn", (1, 3, 4)), 2, method="row")


def test_a_fresh_network_keeps_its_signal_through_many_blocks():
    torch.manual_seed(0)
    model = build_model(ModelConfig(trunk="snail", layers=12, planes=24), (3, 8, 8))
    randomise(model.network.head)
    x, tau = torch.rand(2, 5, 3, 8, 8)
    assert 0.01 < model(x, tau).std() < 10
