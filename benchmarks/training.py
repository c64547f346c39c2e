"""Training steps of the small model: arithmetic against this machine's matrix products, steps against the paper's.

python benchmarks/training.py [--json FILE]        about three minutes on two CPU cores, one on a GPU
"""

import itertools
import os

import torch
from measure import PRODUCT_OPERATIONS, Row, alternating, device, not_measured, product, publish, seconds
from torch.utils.flop_counter import FlopCounterMode

from aiqn_core.config import ModelConfig, TrainConfig
from aiqn_core.data import ImageData
from aiqn_core.steps import WARM_UP, Steps
from aiqn_core.training import new_state, steps_of

BATCH = 32
PAPER_STEPS = 200_000 / 86_400  # a second on one P100 (appendix)


def images() -> ImageData:
    """Random images in the shape of CIFAR-10: their content does not change the time."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (512, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.zeros(512, dtype=torch.int64)
    return ImageData("random", pixels, labels, pixels[:1], labels[:1], 1, "random")


def state_of(name: str) -> tuple[Steps, int]:
    """The steps of a small model, and the floating-point operations of one."""
    model = ModelConfig.preset("small", name=name)
    config = TrainConfig.from_dict({"model": model.to_dict(), "train": {"batch_size": BATCH}})
    data = images()
    state = new_state(config, data, device())
    steps = steps_of(state, config, data.train.to(device()), None)
    with FlopCounterMode(display=False) as counter:
        steps(0)
    return steps, counter.get_total_flops()


def rows_of(name: str) -> list[Row]:
    """One step of a small model: forward, backward, optimiser and average."""
    steps, operations = state_of(name)
    number = itertools.count(1)
    on_gpu = device().type == "cuda"
    if on_gpu:  # until the step is recorded
        for _ in range(WARM_UP + 1):
            steps(next(number))
    step, against, ratio = alternating(lambda: steps(next(number)), product(), 20 if on_gpu else 3)
    share = operations / PRODUCT_OPERATIONS / ratio
    what = f"{name} small, batch {BATCH}"
    rate = PRODUCT_OPERATIONS / against / 1e9
    rows = [
        Row(f"{what}: arithmetic", operations / step / 1e9, rate, "GFLOP/s", share, "" if on_gpu else ">= 0.6"),
        Row(f"{what}: steps, paper on a P100", 1 / step, PAPER_STEPS, "steps/s", 1 / step / PAPER_STEPS, ""),
    ]
    if not on_gpu:
        rows += [not_measured(f"{what}: steps on a GPU", "steps/s", ">= 1", 110)]
        return [*rows, not_measured(f"{what}: with torch.compile on a GPU", "steps/s")]
    rows += [Row(f"{what}: steps on a GPU", 1 / step, 110, "steps/s", 1 / step / 110, ">= 1")]
    return [*rows, compiled_row(name, what, step)]


def compiled_row(name: str, what: str, step: float) -> Row:
    """The same step with torch.compile under the recording."""
    os.environ["AIQN_COMPILE"] = "1"
    steps, _ = state_of(name)
    del os.environ["AIQN_COMPILE"]
    number = itertools.count(1)
    fast = seconds(lambda: steps(next(number)), 20, warm_up=WARM_UP + 2)
    return Row(f"{what}: with torch.compile on a GPU", 1 / fast, 1 / step, "steps/s", step / fast, "")


if __name__ == "__main__":
    publish("training", [row for name in ("pixeliqn", "pixelcnn") for row in rows_of(name)])
