"""One training on several workers: each takes a share of every batch and of the samples, and all hold the same weights.

The gradients are summed in one all-reduce after the backward pass instead of by DistributedDataParallel: that one waits
for gradients of every parameter, which an autoregressive network does not have (nothing reads its last vertical stack).
"""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported, but not told so

# Workers wait for each other while the leader computes scores or the driver is slow. One that dies is noticed by its
# closed connection (gloo), or by whoever started it.
PATIENCE = timedelta(hours=2)


class WorkerLostError(RuntimeError):
    """Another worker of the training is gone: its process, or the way to it."""


@dataclass(frozen=True)
class Workers:
    """This process's place among those that train one model; alone, each method returns what it is given."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this worker scores the samples, keeps the checkpoint and tells what was measured."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """This worker's share of `count` rows; shares differ by at most one row."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def average(self, loss: Float[Tensor, ""], parameters: Iterable[Tensor], weight: float) -> Float[Tensor, ""]:
        """Make the gradients those of the whole batch, and return its loss; `weight` is this worker's part of it."""
        loss = loss.detach()
        if self.size == 1:
            return loss
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), loss[None]]) * weight
        with _together():
            dist.all_reduce(flat)
        parts = torch.split(flat, [*(gradient.numel() for gradient in gradients), 1])
        for gradient, part in zip(gradients, parts, strict=False):
            gradient.copy_(part.view_as(gradient))
        return flat[-1]

    def gather(self, own: Tensor, count: int) -> Tensor:
        """The rows of all workers in order, (count, ...), from this worker's share of them."""
        if self.size == 1:
            return own
        longest = -(-count // self.size)
        padded = own.new_zeros((longest, *own.shape[1:]))
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        with _together():
            dist.all_gather(parts, padded)
        shares = [Workers(rank, self.size).rows(count) for rank in range(self.size)]
        return torch.cat([part[: rows.stop - rows.start] for part, rows in zip(parts, shares, strict=True)])

    def share(self, content: Any) -> Any:
        """What the leader holds, for every worker: tensors (on the CPU) and plain values, as in a checkpoint."""
        if self.size == 1:
            return content
        file = io.BytesIO()
        if self.leads:
            torch.save(content, file)
        device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
        length = torch.tensor([file.getbuffer().nbytes], device=device)
        with _together():
            dist.broadcast(length, src=0)
            data = torch.empty(int(length), dtype=torch.uint8, device=device)
            if self.leads:
                data.copy_(torch.frombuffer(file.getbuffer(), dtype=torch.uint8))
            dist.broadcast(data, src=0)
        return torch.load(io.BytesIO(data.cpu().numpy().tobytes()), map_location="cpu", weights_only=True)


ALONE = Workers()


def open_meeting(host: str) -> TCPStore:
    """Where the workers of one training find each other: made by the leader, on a free port of `host`."""
    return TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)


def find_meeting(host: str, port: int) -> TCPStore:
    """The same, for the other workers."""
    return TCPStore(host, port, is_master=False, timeout=PATIENCE)


@contextmanager
def joined(meeting: TCPStore, rank: int, size: int) -> Iterator[Workers]:
    """The workers of one training, connected over NCCL where there are GPUs, else gloo; waits for all of them."""
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    with _together():
        dist.init_process_group(backend, store=meeting, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield Workers(rank, size)
    finally:
        dist.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    """torch reports a lost connection as RuntimeError, like much else."""
    try:
        yield
    except (RuntimeError, torch.distributed.DistError) as error:
        raise WorkerLostError(f"a worker of this training is gone ({str(error).splitlines()[0]})") from error
