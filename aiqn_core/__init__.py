"""The paper's models, data, sampling, metrics and training. Works alone, with torch, numpy, jaxtyping and pydantic."""

from pathlib import Path
from typing import Any


def load(folder: Path | str, step: int | None = None) -> Any:
    """The trained model in a trial's folder, with averaged weights; see `aiqn_core.trained.load_trained`."""
    from aiqn_core.trained import load_trained  # torch takes seconds to import, and aiqn_core.config does not need it

    return load_trained(folder, step).model
