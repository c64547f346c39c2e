"""Many small operations as few: CUDA graphs and compiled functions, and plain calls where they cannot be had."""

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import torch

log = logging.getLogger(__name__)

Recorder: TypeAlias = Callable[[Callable[[], None]], Callable[[], None]]


def graph(function: Callable[[], None]) -> Callable[[], None]:
    """The same operations on the same memory at every call, as one CUDA graph; recording runs none of them.

    The function must have run once before, so that nothing is set up while it is recorded, and everything that changes
    between calls must be copied into tensors that it reads. Where recording fails, the function itself, and a warning.
    """
    try:
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            function()
    except Exception as error:  # drivers and libraries raise many types here, and plain calls give the same results
        log.warning("no CUDA graph, which is slower and gives the same: %s", (str(error).splitlines() or [""])[0])
        torch.cuda.empty_cache()
        return function
    return recorded.replay


def beside(function: Callable[[], None]) -> None:
    """Run a function on another stream of the GPU, as what is recorded later must have been; plainly on a CPU."""
    if not torch.cuda.is_available():
        function()
        return
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile of a function; where that fails, the function itself from then on, and a warning."""
    fast = torch.compile(function)

    def call(*arguments: Any) -> Any:
        nonlocal fast
        try:
            return fast(*arguments)
        except Exception as error:
            if fast is function:
                raise
            log.warning("torch.compile failed, going on without: %s", (str(error).splitlines() or [""])[0])
            fast = function
            return function(*arguments)

    return call
