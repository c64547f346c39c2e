"""Training steps of the small model: arithmetic against this machine's matrix products, steps against the paper's.

python benchmarks/training.py [--json FILE]        about three minutes on two CPU cores, one on a GPU
"""

import torch
from measure import NOT_MEASURED, Row, device, matmul_rate, publish, seconds
from torch.utils.flop_counter import FlopCounterMode

from aiqn_core.config import ModelConfig, TrainConfig
from aiqn_core.data import ImageData
from aiqn_core.training import new_state, train_step

BATCH = 32
PAPER_STEPS = 200_000 / 86_400  # a second on one P100 (appendix)


def images() -> ImageData:
    """Random images in the shape of CIFAR-10: their content does not change the time."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (512, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.zeros(512, dtype=torch.int64)
    return ImageData("random", pixels, labels, pixels[:1], labels[:1], 1, "random")


def rows_of(name: str) -> list[Row]:
    """One step of a small model: forward, backward, optimiser and average."""
    model = ModelConfig.preset("small", name=name)
    config = TrainConfig.from_dict({"model": vars(model), "train": {"batch_size": BATCH}})
    data = images()
    state = new_state(config, data, device())
    pixels, labels = data.train.to(device()), data.train_labels.to(device())
    with FlopCounterMode(display=False) as counter:
        train_step(state, config, pixels, labels, [])
    operations = counter.get_total_flops()
    each = seconds(lambda: train_step(state, config, pixels, labels, []), 20 if device().type == "cuda" else 2)
    rate = matmul_rate()
    on_cpu = device().type == "cpu"
    share = Row(
        f"{name} small, batch {BATCH}: arithmetic",
        operations / each / 1e9,
        rate / 1e9,
        "GFLOP/s",
        operations / each / rate,
        ">= 0.6" if on_cpu else "",
    )
    steps = Row(
        f"{name} small, batch {BATCH}: steps, paper on a P100",
        1 / each,
        PAPER_STEPS,
        "steps/s",
        1 / each / PAPER_STEPS,
        "",
    )
    gpu = Row(
        f"{name} small, batch {BATCH}: steps on a GPU",
        NOT_MEASURED if on_cpu else 1 / each,
        110,
        "steps/s",
        NOT_MEASURED if on_cpu else 1 / each / 110,
        ">= 1",
    )
    return [share, steps, gpu]


if __name__ == "__main__":
    publish("training", [row for name in ("pixeliqn", "pixelcnn") for row in rows_of(name)])
