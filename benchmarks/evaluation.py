"""The share of a search trial of the paper that is spent on evaluations: 100K steps, 2,500 samples each 10K steps.

    python benchmarks/evaluation.py [--json FILE]      about three minutes on two CPU cores, one on a GPU

Times of a step, of the sampler and of the metrics are measured on parts and multiplied; nothing is trained for days.
"""

import itertools

import torch
from measure import Row, device, not_measured, publish, seconds
from sampling import NATURAL, model_of
from training import state_of

from aiqn_core.config import ModelConfig
from aiqn_core.features import Lite0
from aiqn_core.reference import reference_statistics
from aiqn_core.sampling import sample
from aiqn_core.scores import evaluate_images
from aiqn_core.steps import WARM_UP

STEPS, EVERY, SAMPLES = 100_000, 10_000, 2500


def rows_of(name: str) -> list[Row]:
    """The share on this device; on a GPU, the one that the goal is for, "not measured" where there is none."""
    row = row_of(name)
    if device().type == "cuda":
        return [row]
    return [row, not_measured(f"{name} small: evaluating of a whole trial, on a GPU", "h", "<= 0.05")]


def row_of(name: str) -> Row:
    """Hours of all evaluations against hours of all steps of a trial; the ratio is their share of the sum."""
    (steps, _), number = state_of(name), itertools.count(1)
    on_gpu = device().type == "cuda"
    step = seconds(lambda: steps(next(number)), *((20, WARM_UP + 2) if on_gpu else (2, 1)))
    count = SAMPLES if on_gpu else 64
    tau = torch.rand(count, *NATURAL, device=device())
    model = model_of(ModelConfig.preset("small", name=name), NATURAL)
    drawing = seconds(lambda: sample(model, count, tau=tau), 1) * SAMPLES / count
    extractor = Lite0(128)
    shown = torch.randint(256, (count, *NATURAL), dtype=torch.uint8)
    reference = reference_statistics(extractor(shown).pooled)
    scoring = seconds(lambda: evaluate_images(shown, reference, extractor), 1) * SAMPLES / count
    evaluations, training = STEPS / EVERY * (drawing + scoring), STEPS * step
    share = evaluations / (evaluations + training)
    what = f"{name} small: evaluating ({drawing:.3g} s sampling + {scoring:.3g} s scoring each) of a whole trial"
    return Row(what, evaluations / 3600, training / 3600, "h", share, "<= 0.05" if on_gpu else "")


if __name__ == "__main__":
    publish("evaluation", [row for name in ("pixeliqn", "pixelcnn") for row in rows_of(name)])
