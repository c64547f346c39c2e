"""Throughput of 1, 2, 3 and 4 trials at once on one device, each in a process of its own, against one alone.

    python benchmarks/packing.py [--json FILE]         about two minutes on two CPU cores, five on a GPU

On a GPU the small model of the paper, each process capped to its share of the memory; on a CPU the quickstart's, each
with its share of the cores.
"""

import torch
from measure import Row, device, not_measured, publish
from sampling import quickstart

from aiqn_core.calibrate import describe, measure_packing
from aiqn_core.config import ModelConfig, TrainConfig

COUNTS = (1, 2, 3, 4)


def config_of(name: str) -> TrainConfig:
    """The small model on images of its size on a GPU, the quickstart's on digits on a CPU."""
    if device().type == "cpu":
        return quickstart(name)
    model = ModelConfig.preset("small", name=name).to_dict()
    return TrainConfig.from_dict({"data": "patches", "model": model, "train": {"batch_size": 32}})


def rows_of(name: str) -> list[Row]:
    """Steps a second of all trials together, against those of one alone."""
    measured = measure_packing(config_of(name), COUNTS, seconds=10.0)
    print(f"{name}\n{describe(measured)}\n")
    where = "one GPU" if device().type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    alone = measured[0].steps_per_second
    return [
        Row(f"{name}: {count} at once on {where}", rate, alone, "steps/s", rate / alone, "") for count, rate in measured
    ]


if __name__ == "__main__":
    names = ("pixeliqn", "pixelcnn")
    rows = [row for name in names for row in rows_of(name)]
    if device().type == "cpu":
        rows += [not_measured(f"{name} small: {n} at once on one GPU", "steps/s") for name in names for n in COUNTS]
    publish("packing", rows)
