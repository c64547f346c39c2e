"""Evaluations before the end with fewer samples (`evaluate.rungs`), under names that keep them apart from all others.

What few samples score is another quantity than what many score: the distance of few is larger. So an evaluation under
this protocol reports `rung_fd_lite0` and the like, and a training reports the score itself only at its end.
"""

from collections.abc import Mapping
from dataclasses import replace

from aiqn_core.config import TrainConfig
from aiqn_core.metric import RUNG


def at_step(config: TrainConfig, step: int) -> TrainConfig | None:
    """The configuration by which the evaluation after so many steps is made; None where it is the usual one.

    The untrained model, and that after the last step, are always evaluated as usual.
    """
    settings = config.evaluate
    if settings.rungs is None or not 0 < step < config.train.steps:
        return None
    samples = settings.rungs["samples"]
    splits = None if settings.splits is None else min(settings.splits, samples)
    return replace(config, evaluate=settings.changed(samples=samples, splits=splits, rungs=None))


def named(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores of such an evaluation under their own names; how many samples were drawn is a count like any other."""
    return {key if key == "samples" else RUNG + key: value for key, value in scores.items()}
