"""Why trials end, and what follows: tried again or not, and what the sampler is told. The failure taxonomy."""

import errno
from typing import NamedTuple


class Policy(NamedTuple):
    """What follows from a cause."""

    retried: bool  # up to resources.retries times
    avoided: bool  # the sampler is told that the configuration is bad; otherwise it ignores the trial


NOT_FINITE = "not finite"
GPU_MEMORY = "out of GPU memory"
HOST_MEMORY = "out of memory"
CONFIGURATION = "configuration"
DATA_MISSING = "data missing"
GPU_FAULT = "GPU fault"
DISK_FULL = "disk full"
STORAGE = "storage"
KILLED = "process killed"
KILLED_FOR_MEMORY = "killed for memory"
NODE_LOST = "node lost"
PREEMPTED = "preempted"
SILENT = "silent"
WORKER_LOST = "worker lost"
DRIVER_ENDED = "driver ended"

POLICIES = {
    # The configuration's own fault: training it again gives the same.
    NOT_FINITE: Policy(retried=False, avoided=True),
    GPU_MEMORY: Policy(retried=False, avoided=True),
    HOST_MEMORY: Policy(retried=False, avoided=True),
    CONFIGURATION: Policy(retried=False, avoided=True),
    # The infrastructure's.
    DATA_MISSING: Policy(retried=True, avoided=False),  # another node may have them
    GPU_FAULT: Policy(retried=True, avoided=False),
    KILLED: Policy(retried=True, avoided=False),
    KILLED_FOR_MEMORY: Policy(retried=True, avoided=True),  # a neighbour's doing, or, if it comes back, its own
    WORKER_LOST: Policy(retried=True, avoided=False),  # one of several that train a trial together
    SILENT: Policy(retried=True, avoided=False),
    DISK_FULL: Policy(retried=True, avoided=False),
    STORAGE: Policy(retried=True, avoided=False),  # it did not answer, or not with what it holds
    # Nobody's: tried again without being counted.
    NODE_LOST: Policy(retried=True, avoided=False),
    PREEMPTED: Policy(retried=True, avoided=False),
    DRIVER_ENDED: Policy(retried=True, avoided=False),
}
UNCOUNTED = (NODE_LOST, PREEMPTED, DRIVER_ENDED)
OTHER = Policy(retried=False, avoided=False)  # an exception in the trainer: a bug, whose trace is in the trial's log


def policy(cause: str | None) -> Policy:
    """What follows from a cause; exceptions of the trainer have the name of their type as cause."""
    return POLICIES.get(cause or "", OTHER)


def unreachable(error: BaseException) -> bool:
    """Whether the storage failed to answer, as network file systems do for a while."""
    return isinstance(error, OSError) and error.errno in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO)


def no_space(error: BaseException) -> bool:
    """Whether the storage is full, or no longer to be written to."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
