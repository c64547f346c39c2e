"""How much room a training takes on disk, before it is begun."""

import torch

from aiqn_core.config import TrainConfig
from aiqn_core.data import load_data
from aiqn_core.models import build_model

COPIES = 4  # of the weights in a checkpoint: the model, its averages, and two moments, the most of our optimisers
FILES = 2  # a checkpoint is written beside the one before it


def checkpoint_bytes(config: TrainConfig) -> int:
    """About how many bytes the checkpoints of one training take at once, at most.

    The model is built without memory for its weights. Raises ConfigError where the data are missing.
    """
    if config.command is not None:  # what it keeps nobody knows
        return 0
    data = load_data(config.data)
    with torch.random.fork_rng(), torch.device("meta"):
        model = build_model(config.model, data.shape, data.num_classes, config.given_loss)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    kept = -(-config.train.steps // config.evaluate.every) if config.evaluate.keep_weights else 0
    return weights * (COPIES * FILES + kept)
