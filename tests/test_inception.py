import copy
import json

import pytest
import torch
from torch.nn import functional

from aiqn_core import weights
from aiqn_core.config import ConfigError, TrainConfig
from aiqn_core.inception import (
    Convolution,
    Inception,
    InceptionNetwork,
    average_pool,
    inception_network,
    load_inception,
    maximum_pool,
    resize_like_tensorflow,
)
from aiqn_core.weights import find_inception

# Every convolution of the published file: name, planes out and in, kernel. Each has a batch norm beside it.
CONVOLUTIONS = """
Conv2d_1a_3x3 32x3x3x3  Conv2d_2a_3x3 32x32x3x3  Conv2d_2b_3x3 64x32x3x3  Conv2d_3b_1x1 80x64x1x1
Conv2d_4a_3x3 192x80x3x3
Mixed_5b.branch1x1 64x192x1x1  Mixed_5b.branch5x5_1 48x192x1x1  Mixed_5b.branch5x5_2 64x48x5x5
Mixed_5b.branch3x3dbl_1 64x192x1x1  Mixed_5b.branch3x3dbl_2 96x64x3x3  Mixed_5b.branch3x3dbl_3 96x96x3x3
Mixed_5b.branch_pool 32x192x1x1
Mixed_5c.branch1x1 64x256x1x1  Mixed_5c.branch5x5_1 48x256x1x1  Mixed_5c.branch5x5_2 64x48x5x5
Mixed_5c.branch3x3dbl_1 64x256x1x1  Mixed_5c.branch3x3dbl_2 96x64x3x3  Mixed_5c.branch3x3dbl_3 96x96x3x3
Mixed_5c.branch_pool 64x256x1x1
Mixed_5d.branch1x1 64x288x1x1  Mixed_5d.branch5x5_1 48x288x1x1  Mixed_5d.branch5x5_2 64x48x5x5
Mixed_5d.branch3x3dbl_1 64x288x1x1  Mixed_5d.branch3x3dbl_2 96x64x3x3  Mixed_5d.branch3x3dbl_3 96x96x3x3
Mixed_5d.branch_pool 64x288x1x1
Mixed_6a.branch3x3 384x288x3x3  Mixed_6a.branch3x3dbl_1 64x288x1x1  Mixed_6a.branch3x3dbl_2 96x64x3x3
Mixed_6a.branch3x3dbl_3 96x96x3x3
Mixed_6b.branch1x1 192x768x1x1  Mixed_6b.branch7x7_1 128x768x1x1  Mixed_6b.branch7x7_2 128x128x1x7
Mixed_6b.branch7x7_3 192x128x7x1  Mixed_6b.branch7x7dbl_1 128x768x1x1  Mixed_6b.branch7x7dbl_2 128x128x7x1
Mixed_6b.branch7x7dbl_3 128x128x1x7  Mixed_6b.branch7x7dbl_4 128x128x7x1  Mixed_6b.branch7x7dbl_5 192x128x1x7
Mixed_6b.branch_pool 192x768x1x1
Mixed_6c.branch1x1 192x768x1x1  Mixed_6c.branch7x7_1 160x768x1x1  Mixed_6c.branch7x7_2 160x160x1x7
Mixed_6c.branch7x7_3 192x160x7x1  Mixed_6c.branch7x7dbl_1 160x768x1x1  Mixed_6c.branch7x7dbl_2 160x160x7x1
Mixed_6c.branch7x7dbl_3 160x160x1x7  Mixed_6c.branch7x7dbl_4 160x160x7x1  Mixed_6c.branch7x7dbl_5 192x160x1x7
Mixed_6c.branch_pool 192x768x1x1
Mixed_6d.branch1x1 192x768x1x1  Mixed_6d.branch7x7_1 160x768x1x1  Mixed_6d.branch7x7_2 160x160x1x7
Mixed_6d.branch7x7_3 192x160x7x1  Mixed_6d.branch7x7dbl_1 160x768x1x1  Mixed_6d.branch7x7dbl_2 160x160x7x1
Mixed_6d.branch7x7dbl_3 160x160x1x7  Mixed_6d.branch7x7dbl_4 160x160x7x1  Mixed_6d.branch7x7dbl_5 192x160x1x7
Mixed_6d.branch_pool 192x768x1x1
Mixed_6e.branch1x1 192x768x1x1  Mixed_6e.branch7x7_1 192x768x1x1  Mixed_6e.branch7x7_2 192x192x1x7
Mixed_6e.branch7x7_3 192x192x7x1  Mixed_6e.branch7x7dbl_1 192x768x1x1  Mixed_6e.branch7x7dbl_2 192x192x7x1
Mixed_6e.branch7x7dbl_3 192x192x1x7  Mixed_6e.branch7x7dbl_4 192x192x7x1  Mixed_6e.branch7x7dbl_5 192x192x1x7
Mixed_6e.branch_pool 192x768x1x1
Mixed_7a.branch3x3_1 192x768x1x1  Mixed_7a.branch3x3_2 320x192x3x3  Mixed_7a.branch7x7x3_1 192x768x1x1
Mixed_7a.branch7x7x3_2 192x192x1x7  Mixed_7a.branch7x7x3_3 192x192x7x1  Mixed_7a.branch7x7x3_4 192x192x3x3
Mixed_7b.branch1x1 320x1280x1x1  Mixed_7b.branch3x3_1 384x1280x1x1  Mixed_7b.branch3x3_2a 384x384x1x3
Mixed_7b.branch3x3_2b 384x384x3x1  Mixed_7b.branch3x3dbl_1 448x1280x1x1  Mixed_7b.branch3x3dbl_2 384x448x3x3
Mixed_7b.branch3x3dbl_3a 384x384x1x3  Mixed_7b.branch3x3dbl_3b 384x384x3x1  Mixed_7b.branch_pool 192x1280x1x1
Mixed_7c.branch1x1 320x2048x1x1  Mixed_7c.branch3x3_1 384x2048x1x1  Mixed_7c.branch3x3_2a 384x384x1x3
Mixed_7c.branch3x3_2b 384x384x3x1  Mixed_7c.branch3x3dbl_1 448x2048x1x1  Mixed_7c.branch3x3dbl_2 384x448x3x3
Mixed_7c.branch3x3dbl_3a 384x384x1x3  Mixed_7c.branch3x3dbl_3b 384x384x3x1  Mixed_7c.branch_pool 192x2048x1x1
"""


def layout():
    """Name -> shape of all that the published file holds."""
    words = CONVOLUTIONS.split()
    shapes = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    for name, shape in zip(words[::2], words[1::2], strict=True):
        shapes[f"{name}.conv.weight"] = tuple(map(int, shape.split("x")))
        own = {"weight", "bias", "running_mean", "running_var"}
        shapes |= {f"{name}.bn.{key}": (int(shape.split("x")[0]),) for key in own}
        shapes[f"{name}.bn.num_batches_tracked"] = ()
    return shapes


def made_up(shapes):
    """Weights by a formula, so that another implementation can be given the same."""
    state = {}
    for number, name in enumerate(sorted(shapes)):
        shape = shapes[name]
        size = max(1, torch.Size(shape).numel())
        wave = torch.cos(torch.arange(size, dtype=torch.float64) * 0.7 * (number + 1)).reshape(shape)
        match name.rsplit(".", 1)[-1]:
            case "num_batches_tracked":
                state[name] = torch.tensor(number)
                continue
            case "running_var":
                value = 1 + 0.5 * wave
            case "weight" if len(shape) == 1:
                value = 1 + 0.5 * wave
            case "weight":
                value = wave * 2 / (size / shape[0]) ** 0.5
            case _:
                value = 0.1 * wave
        state[name] = value.float()
    return state


@pytest.fixture(scope="module")
def state():
    return made_up(layout())


@pytest.fixture(scope="module")
def network(state):
    network = InceptionNetwork().eval()
    load_inception(network, state)
    return network


@pytest.fixture
def weights_file(tmp_path, state, monkeypatch):
    """A file of made-up weights that passes for the published one."""
    torch.save(state, tmp_path / "weights.pth")
    monkeypatch.setattr(weights, "PREFIX", "")
    inception_network.cache_clear()
    return tmp_path / "weights.pth"


def some_images(count=2, height=7, width=11):
    return (torch.arange(count * 3 * height * width) * 37 % 256).byte().reshape(count, 3, height, width)


def test_the_published_layout_loads_strictly(state):
    network = InceptionNetwork()
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == layout()
    load_inception(network, state)
    load_inception(network, {name: value for name, value in state.items() if "num_batches" not in name})
    for name in ("fc.bias", "Mixed_6e.branch7x7dbl_4.bn.running_var"):
        with pytest.raises(RuntimeError, match=f'Missing key.*"{name}"'):
            load_inception(network, {key: value for key, value in state.items() if key != name})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*AuxLogits"):
        load_inception(network, {**state, "AuxLogits.fc.bias": torch.zeros(1000)})
    with pytest.raises(RuntimeError, match=r"size mismatch for fc.weight.*1000, 2048"):
        load_inception(network, {**state, "fc.weight": torch.zeros(1000, 2048)})


def test_number_of_parameters():
    # torchvision's 23,834,568 without its auxiliary head, with 8 more classes
    assert sum(parameter.numel() for parameter in InceptionNetwork().parameters()) == 23_834_568 + 8 * 2049
    assert len(layout()) == 94 * 6 + 2


def test_shapes_on_the_way(network):
    shapes = {}
    network = copy.deepcopy(network)
    for name, module in network.named_children():
        module.register_forward_hook(
            lambda module, _, output, name=name: shapes.update({name: tuple(output.shape[1:])})
        )
    with torch.inference_mode():
        outputs = network(torch.zeros(1, 3, 299, 299))
    assert shapes == {
        "Conv2d_1a_3x3": (32, 149, 149),
        "Conv2d_2a_3x3": (32, 147, 147),
        "Conv2d_2b_3x3": (64, 147, 147),
        "Conv2d_3b_1x1": (80, 73, 73),
        "Conv2d_4a_3x3": (192, 71, 71),
        "Mixed_5b": (256, 35, 35),
        "Mixed_5c": (288, 35, 35),
        "Mixed_5d": (288, 35, 35),
        "Mixed_6a": (768, 17, 17),
        **{f"Mixed_6{letter}": (768, 17, 17) for letter in "bcde"},
        "Mixed_7a": (1280, 8, 8),
        "Mixed_7b": (2048, 8, 8),
        "Mixed_7c": (2048, 8, 8),
    }
    assert (outputs.pooled.shape, outputs.logits.shape) == ((1, 2048), (1, 1008))


def test_outputs_equal_those_of_another_implementation(weights_file):
    """torch-fidelity 0.4.0, in double precision, gives these numbers for the same weights and images."""
    extractor = Inception(weights_file, "cpu")
    pooled, probabilities = extractor(some_images())
    logits = [-0.00224, -0.1091, 0.0271, 0.10292, -0.05056]
    assert pooled[1, ::311].tolist() == pytest.approx([0.00108, 0.15655, 0, 0.00989, 0.03592, 0, 0], abs=2e-5)
    found = probabilities[0, ::211].log()
    assert (found - found[0]).tolist() == pytest.approx([logit - logits[0] for logit in logits], abs=3e-5)


def test_pools_are_tensorflows():
    ones = torch.ones(1, 2, 5, 7)
    assert torch.equal(average_pool(ones), ones)  # padding does not count
    x = -torch.rand(1, 2, 5, 7)
    assert torch.equal(maximum_pool(x)[0, 1, 0, 0], x[0, 1, :2, :2].max())


def test_only_the_last_block_pools_by_maximum(network):
    x = torch.rand(1, 2048, 8, 8)
    for name, planes, pool in (("Mixed_7b", 1280, average_pool), ("Mixed_7c", 2048, maximum_pool)):
        block = network.get_submodule(name)
        with torch.inference_mode():
            expected = block.branch_pool(pool(x[:, :planes]))
            assert torch.equal(block(x[:, :planes])[:, -192:], expected)


def test_folded_convolutions_equal_convolution_then_norm(network):
    convolution = copy.deepcopy(network.Mixed_6b.branch7x7_3)
    assert isinstance(convolution, Convolution)
    x = torch.rand(2, 128, 5, 7)
    with torch.inference_mode():
        before = convolution(x)
        convolution.fold()
        torch.testing.assert_close(convolution(x), before)


def slow_resize(x, size):
    """TensorFlow 1's loop: from the top left corner, four neighbours, weights in single precision."""
    out = torch.zeros(*x.shape[:2], size, size)
    height, width = x.shape[2:]
    for i in range(size):
        for j in range(size):
            y, z = i * (height / size), j * (width / size)
            top, left = int(y), int(z)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            a, b, c, d = x[..., top, left], x[..., top, right], x[..., bottom, left], x[..., bottom, right]
            above, below = a + (b - a) * (z - left), c + (d - c) * (z - left)
            out[..., i, j] = above + (below - above) * (y - top)
    return out


@pytest.mark.parametrize(("height", "width", "size"), [(7, 11, 19), (5, 5, 5), (23, 17, 13), (1, 3, 7)])
def test_resize_equals_tensorflows_loop(height, width, size):
    x = some_images(2, height, width).float()
    torch.testing.assert_close(resize_like_tensorflow(x, size), slow_resize(x, size), rtol=1e-5, atol=1e-3)


def test_resize_is_not_that_of_torch():
    x = some_images(1, 8, 8).float()
    other = functional.interpolate(x, (29, 29), mode="bilinear", align_corners=False)
    assert (resize_like_tensorflow(x, 29) - other).abs().max() > 1


def test_the_extractor(weights_file, network):
    extractor, images = Inception(weights_file, "cpu"), some_images(3)
    features = extractor(images, batch_size=2)
    with torch.inference_mode():
        outputs = network((resize_like_tensorflow(images.float(), 299) - 128) / 128)
    torch.testing.assert_close(features.pooled, outputs.pooled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.probabilities, outputs.logits.softmax(1), rtol=1e-3, atol=1e-6)
    grey = extractor(images[:, :1])
    assert torch.equal(grey.pooled, extractor(images[:, :1].expand(-1, 3, -1, -1)).pooled)
    description = extractor.describe()
    assert json.loads(json.dumps(description)) == description
    assert description["weights_sha256"] == extractor.weights.sha256


def test_the_bias_of_the_last_layer_does_not_count(network):
    biased = copy.deepcopy(network)
    biased.fc.bias.data += 5 * torch.arange(1008)
    x = torch.rand(1, 3, 299, 299)
    with torch.inference_mode():
        assert torch.equal(biased(x).logits, network(x).logits)


def test_weights_are_found_by_path_or_variable(weights_file, monkeypatch, tmp_path):
    monkeypatch.delenv("AIQN_INCEPTION", raising=False)
    assert find_inception(weights_file).path == weights_file
    with pytest.raises(
        ConfigError, match=r"evaluate.inception: saw none, and \$AIQN_INCEPTION is not set. FID, IS and"
    ):
        find_inception()
    monkeypatch.setenv("AIQN_INCEPTION", str(weights_file))
    assert find_inception() == find_inception(weights_file)
    monkeypatch.setenv("AIQN_INCEPTION", str(tmp_path / "nowhere.pth"))
    with pytest.raises(ConfigError, match=r"nowhere.pth \(\$AIQN_INCEPTION\), which cannot be read \(No such file"):
        find_inception()


def test_other_weights_are_refused(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"other")
    with pytest.raises(ConfigError) as caught:
        find_inception(tmp_path / "weights.pth")
    message = str(caught.value)
    assert "whose sha256 is d9298a10d1b07358..., not 6726825d...: other weights, or a torn download" in message
    assert "pt_inception-2015-12-05-6726825d.pth or weights-inception-2015-12-05-6726825d.pth" in message
    assert "https://github.com/mseitzer/pytorch-fid" in message
    assert len(message.splitlines()) == 1


def test_inception_is_chosen_in_the_configuration():
    config = TrainConfig.from_dict({"evaluate": {"features": "inception", "inception": "here.pth"}})
    assert (config.evaluate.size, config.evaluate.splits) == (299, 10)
    names = ["fid", "is_mean", "kid", "coverage_inception", "loss", "calibration_error"]
    assert [metric.name for metric in config.metrics] == names
    wrong = {"features": "inception", "size": 64}, {"features": "lite0", "inception": "here.pth"}
    expected = (
        "evaluate.size: saw 64, but Inception sees 299",
        "evaluate.inception: saw 'here.pth', but the features are",
    )
    for evaluate, message in zip(wrong, expected, strict=True):
        with pytest.raises(ConfigError, match=message):
            TrainConfig.from_dict({"evaluate": evaluate})
