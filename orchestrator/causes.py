"""Why trials end, and what follows: the one place that decides it, and the one table of what is done about it.

Standard library only. Exceptions are known by package and name, so that neither torch nor Ray is imported to ask.
"""

import errno
import os
from collections.abc import Iterable, Mapping
from enum import Enum, StrEnum, auto
from pathlib import Path
from typing import Any, NamedTuple


class Stage(StrEnum):
    """The part of a sweep that a trial belongs to."""

    SEARCH = "search"
    FINAL = "final"


class State(StrEnum):
    """Where a trial stands, as status.json says it."""

    RUNNING = "running"
    COMPLETED = "completed"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    FAILED = "failed"
    STOPPED = "stopped"
    PARKED = "parked"  # waits at a rung (pruner: promote), from where it may go on


# Nobody trains these; of them only a parked one may be taken up again by itself.
FINISHED = (State.COMPLETED, State.PRUNED, State.DIVERGED, State.FAILED, State.STOPPED, State.PARKED)
RECORDED = (State.COMPLETED, State.PRUNED, State.DIVERGED, State.PARKED)  # that leave all their numbers in the folder
HEEDLESS = ("random", "grid", "qmc")  # samplers that ask no trial how it ended
CUT = (State.PRUNED, State.STOPPED, State.PARKED)  # would have gone on; how, nobody knows


class Cause(StrEnum):
    """Why a trial, or an attempt at it, ended; the words stand in status.json, in the journal and in MLflow."""

    NOT_FINITE = "not finite"
    GPU_MEMORY = "out of GPU memory"
    HOST_MEMORY = "out of memory"
    CONFIGURATION = "configuration"
    EXCEPTION = "exception"  # of the trainer: a bug. What is recorded is the name of its type
    DATA_MISSING = "data missing"
    DISK_FULL = "disk full"
    STORAGE = "storage"
    GPU_FAULT = "GPU fault"
    KILLED = "process killed"
    KILLED_FOR_MEMORY = "killed for memory"
    WORKER_LOST = "worker lost"
    SILENT = "silent"
    NODE_LOST = "node lost"
    PREEMPTED = "preempted"
    DRIVER_ENDED = "driver ended"
    ASKED = "asked to stop"

    @classmethod
    def of(cls, recorded: str | None) -> "Cause | None":
        """The cause that a recorded word stands for; a word that is none of ours is the name of an exception."""
        known: dict[str, Cause] = {cause.value: cause for cause in cls}
        return known.get(recorded, cls.EXCEPTION) if recorded else None


class Again(Enum):
    """Whether a trial is handed out again by itself."""

    NEVER = auto()
    COUNTED = auto()  # up to resources.retries times
    ALWAYS = auto()  # without being counted: nobody is to blame


class Policy(NamedTuple):
    """What follows from a cause."""

    again: Again
    own_fault: bool  # of the configuration: training it once more gives the same
    told: str  # what Optuna is told at last: PRUNED ranks worst, FAIL is ignored by the sampler
    stops: bool  # whether the sweep stops, and no trial is given up, where no machine is sound or retries are used up


POLICIES = {
    Cause.NOT_FINITE: Policy(Again.NEVER, own_fault=True, told="PRUNED", stops=False),
    Cause.GPU_MEMORY: Policy(Again.NEVER, own_fault=True, told="PRUNED", stops=False),
    Cause.HOST_MEMORY: Policy(Again.NEVER, own_fault=True, told="PRUNED", stops=False),
    Cause.CONFIGURATION: Policy(Again.NEVER, own_fault=True, told="PRUNED", stops=False),
    Cause.EXCEPTION: Policy(Again.NEVER, own_fault=False, told="FAIL", stops=False),
    # Another node may have what this one lacks; where none has, no trial can go on, and none is to blame.
    Cause.DATA_MISSING: Policy(Again.COUNTED, own_fault=False, told="FAIL", stops=True),
    Cause.DISK_FULL: Policy(Again.COUNTED, own_fault=False, told="FAIL", stops=True),
    Cause.STORAGE: Policy(Again.COUNTED, own_fault=False, told="FAIL", stops=True),
    Cause.GPU_FAULT: Policy(Again.COUNTED, own_fault=False, told="FAIL", stops=False),
    Cause.KILLED: Policy(Again.COUNTED, own_fault=False, told="FAIL", stops=False),
    # A neighbour's doing; or, where it comes back, the configuration's own.
    Cause.KILLED_FOR_MEMORY: Policy(Again.COUNTED, own_fault=False, told="PRUNED", stops=False),
    Cause.WORKER_LOST: Policy(Again.COUNTED, own_fault=False, told="FAIL", stops=False),
    Cause.SILENT: Policy(Again.COUNTED, own_fault=False, told="FAIL", stops=False),
    Cause.NODE_LOST: Policy(Again.ALWAYS, own_fault=False, told="FAIL", stops=False),
    Cause.PREEMPTED: Policy(Again.ALWAYS, own_fault=False, told="FAIL", stops=False),
    Cause.DRIVER_ENDED: Policy(Again.ALWAYS, own_fault=False, told="FAIL", stops=False),
    Cause.ASKED: Policy(Again.NEVER, own_fault=False, told="FAIL", stops=False),
}


class End(NamedTuple):
    """How a trial, or an attempt at it, ended."""

    state: State
    recorded: str | None = None  # the word for its cause; None where it ended well
    message: str | None = None  # the first line of the exception

    @property
    def cause(self) -> Cause | None:
        return Cause.of(self.recorded)

    @property
    def policy(self) -> Policy:
        """What follows; also of an end without a cause, which is never handed out again."""
        return POLICIES[self.cause] if self.cause else Policy(Again.NEVER, own_fault=False, told="FAIL", stops=False)

    @property
    def again(self) -> Again:
        """Whether the trial is handed out again by itself."""
        return self.policy.again if self.state == State.FAILED else Again.NEVER


def ending(
    status: Mapping[str, Any],
    error: BaseException | None = None,
    *,
    silent: bool = False,
    lost: bool = False,
    places: Iterable[Path] = (),
) -> End:
    """How an attempt at a trial ended, from all that is known of it.

    `status` is what its folder says, and what stands there as its end is its end. Else `lost` says whether its machine
    is gone, `silent` whether it was ended because it measured nothing any more (its own watch says so in the status),
    and `error` is the exception that ended it, its own or Ray's; None where its process is gone without a word.
    An OSError on a path within `places` (what every trial needs of a machine) is the storage's fault.
    """
    if status.get("state") in FINISHED:
        return End(State(status["state"]), status.get("cause"), status.get("message"))
    if lost:
        return End(State.FAILED, Cause.NODE_LOST)
    if silent or status.get("cause") == Cause.SILENT:
        return End(State.FAILED, Cause.SILENT)
    if error is None:
        return End(State.FAILED, Cause.KILLED)
    own = _own(error)
    recorded = _of_exception(own, tuple(places))
    return End(State.DIVERGED if recorded == Cause.NOT_FINITE else State.FAILED, recorded, _first_line(own))


def _own(error: BaseException) -> BaseException:
    """What was raised in a trial's process, where Ray has carried it from there."""
    within = getattr(error, "cause", None)
    carried = isinstance(within, Exception) and "ray.RayTaskError" in _names(error)
    return within if carried and isinstance(within, Exception) else error


def _names(error: BaseException) -> list[str]:
    """The types of an exception, nearest first, each as its top-level package and name."""
    return [f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}" for kind in type(error).__mro__]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:500]


KINDS = {  # by top-level package and name
    "aiqn_core.DivergedError": Cause.NOT_FINITE,
    "aiqn_core.WorkerLostError": Cause.WORKER_LOST,
    "aiqn_core.CommandKilledError": Cause.KILLED,
    "aiqn_core.ConfigError": Cause.CONFIGURATION,
    "aiqn_core.CacheError": Cause.STORAGE,
    "aiqn_core.WeightsError": Cause.STORAGE,
    "orchestrator.DataMissingError": Cause.DATA_MISSING,
    "torch.OutOfMemoryError": Cause.GPU_MEMORY,
    "builtins.MemoryError": Cause.HOST_MEMORY,
    "ray.OutOfMemoryError": Cause.KILLED_FOR_MEMORY,  # of Ray's monitor
    "ray.NodeDiedError": Cause.NODE_LOST,
}
WORDS = {  # of RuntimeErrors that have no type of their own, and of a command's last line
    "CUDA out of memory": Cause.GPU_MEMORY,
    "MemoryError": Cause.HOST_MEMORY,
    "ALLOC_FAILED": Cause.GPU_MEMORY,  # cuBLAS, cuDNN
    "DefaultCPUAllocator": Cause.HOST_MEMORY,
    "CUDA error": Cause.GPU_FAULT,
    "file write failed": Cause.STORAGE,  # torch's writer of archives
}
WORDS_OF_RAY = {"low on memory": Cause.KILLED_FOR_MEMORY, "node has died": Cause.NODE_LOST}
FULL = (errno.ENOSPC, errno.EDQUOT)
NO_TEMPORARY = "No usable temporary directory"  # of tempfile, which names no file
UNREACHABLE = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.EROFS, errno.ENOTCONN)


def _of_exception(error: BaseException, places: tuple[Path, ...]) -> str:
    """The cause of an exception; the name of its type where it is none that is known."""
    names, text = _names(error), str(error)
    if known := [KINDS[name] for name in names if name in KINDS]:
        return known[0]
    if names[0].startswith("ray."):
        told = [cause for words, cause in WORDS_OF_RAY.items() if words in text]
        return told[0] if told else Cause.PREEMPTED if getattr(error, "preempted", False) else Cause.KILLED
    if isinstance(error, RuntimeError) and (told := [cause for words, cause in WORDS.items() if words in text]):
        return told[0]
    if "torch.AcceleratorError" in names:
        return Cause.GPU_FAULT
    if isinstance(error, OSError) and error.errno in FULL:
        return Cause.DISK_FULL
    if isinstance(error, OSError) and (error.errno in UNREACHABLE or _within(error, places) or NO_TEMPORARY in text):
        return Cause.STORAGE
    return type(error).__name__


def _within(error: OSError, places: tuple[Path, ...]) -> bool:
    """Whether a path of an error lies in one of the places."""
    names = [name for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    paths = [Path(os.fsdecode(name)).absolute() for name in names]
    return any(path.is_relative_to(place) for path in paths for place in places)
