"""CUDA graphs: many small operations on fixed memory as one call, and plain calls where that cannot be had."""

import logging
from collections.abc import Callable
from typing import TypeAlias

import torch

log = logging.getLogger(__name__)

Recorder: TypeAlias = Callable[[Callable[[], None]], Callable[[], None]]


def graph(function: Callable[[], None]) -> Callable[[], None]:
    """The same operations on the same memory at every call, as one CUDA graph; recording runs none of them.

    The function must have run once before, so that nothing is set up while it is recorded, and everything that changes
    between calls must be copied into tensors that it reads. Where recording fails, the function itself, and a warning.
    """
    recorded = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(recorded):
            function()
    except Exception as error:  # drivers and libraries raise many types here, and plain calls give the same results
        log.warning("no CUDA graph, which is slower and gives the same: %s", (str(error).splitlines() or [""])[0])
        torch.cuda.empty_cache()
        return function
    return recorded.replay
