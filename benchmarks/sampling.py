"""Cost of the cached sampler, in forward passes of the same batch: the naive sampler needs one for each sub-pixel.

python benchmarks/sampling.py [--json FILE]        about two minutes on two CPU cores, one on a GPU
"""

import torch
from measure import Row, alternating, device, not_measured, publish, seconds
from torch import Tensor

from aiqn_core.config import ModelConfig, TrainConfig
from aiqn_core.models import PixelCNN, PixelIQN, build_model
from aiqn_core.sampling import sample

NATURAL, DIGIT = (3, 32, 32), (1, 8, 8)
PART = 16  # images


def quickstart(name: str) -> TrainConfig:
    """A training of sweeps/quickstart.yaml."""
    return TrainConfig.from_dict({"model": {"name": name, "layers": 4, "planes": 32}, "train": {"batch_size": 32}})


def model_of(config: ModelConfig, shape: tuple[int, int, int]) -> PixelCNN | PixelIQN:
    """A model with all weights at random, so that no shortcut of zeros is timed."""
    torch.manual_seed(0)
    model = build_model(config, shape).to(device(), memory_format=torch.channels_last).eval()
    torch.nn.init.normal_(model.network.head.weight, std=0.02)
    return model


def forward(model: PixelCNN | PixelIQN, x: Tensor) -> None:
    """One pass, in the parts that are fastest on a CPU: a pass of all 64 at once takes a third longer."""
    for part in x.split(PART if device().type == "cpu" else len(x)):
        model.outputs(part, part)


@torch.inference_mode()
def passes(name: str, count: int) -> Row:
    """Sampling a batch of the small model against one forward of that batch."""
    model = model_of(ModelConfig.preset("small", name=name), NATURAL)
    tau = torch.rand(count, *NATURAL, device=device())
    pair = alternating(lambda: sample(model, count, tau=tau), lambda: forward(model, tau), 1 if count > 4 else 3)
    goal = {64: "<= 2", 4: "<= 6"}[count] if device().type == "cpu" else ""
    return Row(f"{name} small, batch {count}: one pass (naive {tau[0].numel()})", *pair[:2], "s", pair[2], goal)


@torch.inference_mode()
def digits(name: str, count: int = 500, naive: int = 50) -> Row:
    """Samples per second of the quickstart's model, cached against naive."""
    model = model_of(quickstart(name).model, DIGIT)
    tau = torch.rand(count, *DIGIT, device=device())
    ours = count / seconds(lambda: sample(model, count, tau=tau))
    slow = naive / seconds(lambda: sample(model, naive, tau=tau[:naive], method="naive"), 1)
    return Row(f"{name} of the quickstart on digits", ours, slow, "samples/s", ours / slow, "")


@torch.inference_mode()
def on_gpu(name: str, count: int = 2500, goal: float = 1.5) -> Row:
    """The paper's evaluation while tuning: 2,500 images of the small model, against the goal."""
    what = f"{name} small, {count} images on a GPU"
    if device().type == "cpu":
        return not_measured(what, "s", "<= 1", goal)
    model = model_of(ModelConfig.preset("small", name=name), NATURAL)
    tau = torch.rand(count, *NATURAL, device=device())
    ours = seconds(lambda: sample(model, count, tau=tau))
    return Row(what, ours, goal, "s", ours / goal, "<= 1")


if __name__ == "__main__":
    both = ("pixeliqn", "pixelcnn")
    rows = [passes(name, count) for count in (64, 4) for name in both]
    publish("sampling", rows + [digits(name) for name in both] + [on_gpu(name) for name in both])
