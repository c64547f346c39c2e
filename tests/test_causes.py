"""The whole table: from what is known of a trial's end to its cause, and from the cause to what follows."""

import errno
import os
import tempfile
from pathlib import Path

import pytest
import ray.exceptions
import torch

from aiqn_core.cache import CacheError
from aiqn_core.config import ConfigError, Problem
from aiqn_core.parallel import WorkerLostError
from aiqn_core.training import DivergedError
from aiqn_core.weights import WeightsError
from orchestrator.causes import POLICIES, Again, Cause, End, Stage, State, ending
from orchestrator.places import places
from orchestrator.trial import DataMissingError

RUNNING = {"state": "running"}
PLACE = Path("/needed/by/all")
STORAGE = "failed", "storage"


def os_error(number, path=None):
    return OSError(number, os.strerror(number), path)


def carried(error):
    """What was raised in a trial's process, as it arrives."""
    return ray.exceptions.RayTaskError("step", "its trace", error)


def dead(text, **more):
    """The end of a trial's process, as Ray tells it."""
    return ray.exceptions.RayActorError(error_msg=text, **more)


# (status, exception, silent, lost) -> state, word
ENDS = [
    ({"state": "completed"}, None, False, False, "completed", None),
    ({"state": "pruned"}, None, False, False, "pruned", None),
    ({"state": "stopped", "cause": "asked to stop"}, None, False, False, "stopped", "asked to stop"),
    ({"state": "diverged", "cause": "not finite"}, None, False, False, "diverged", "not finite"),
    ({"state": "failed", "cause": "KeyError"}, None, False, False, "failed", "KeyError"),
    ({"state": "failed", "cause": "KeyError"}, carried(ValueError()), True, True, "failed", "KeyError"),  # its own word
    (RUNNING, None, False, False, "failed", "process killed"),
    ({}, None, False, False, "failed", "process killed"),  # it died before it wrote anything
    (RUNNING, None, False, True, "failed", "node lost"),
    (RUNNING, None, True, True, "failed", "node lost"),
    (RUNNING, None, True, False, "failed", "silent"),
    (RUNNING | {"cause": "silent"}, None, False, False, "failed", "silent"),  # its own watch said so
    (RUNNING, DivergedError("nan"), False, False, "diverged", "not finite"),
    (RUNNING, torch.cuda.OutOfMemoryError("x"), False, False, "failed", "out of GPU memory"),
    (RUNNING, RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), False, False, "failed", "out of GPU memory"),
    (RUNNING, MemoryError(), False, False, "failed", "out of memory"),
    (RUNNING, RuntimeError("DefaultCPUAllocator: not enough"), False, False, "failed", "out of memory"),
    (RUNNING, RuntimeError("CUDA error: an illegal access"), False, False, "failed", "GPU fault"),
    (RUNNING, torch.AcceleratorError("x", 1), False, False, "failed", "GPU fault"),
    (RUNNING, ConfigError([Problem("a", "b")]), False, False, "failed", "configuration"),
    (RUNNING, DataMissingError("x"), False, False, "failed", "data missing"),
    (RUNNING, WorkerLostError("a worker is gone (CUDA error)"), False, False, "failed", "worker lost"),
    (RUNNING, os_error(errno.ENOSPC), False, False, "failed", "disk full"),
    (RUNNING, os_error(errno.EDQUOT), False, False, "failed", "disk full"),
    (RUNNING, os_error(errno.ESTALE), False, False, "failed", "storage"),
    (RUNNING, os_error(errno.EROFS), False, False, "failed", "storage"),
    (RUNNING, os_error(errno.EACCES, str(PLACE / "cache" / "file")), False, False, "failed", "storage"),
    (RUNNING, os_error(errno.EACCES, "/somewhere/else"), False, False, "failed", "PermissionError"),
    (RUNNING, OSError(errno.EXDEV, "x", "/somewhere", None, str(PLACE / "renamed")), False, False, "failed", "storage"),
    (RUNNING, os_error(errno.ENOTDIR, bytes(PLACE / "file")), False, False, "failed", "storage"),
    (RUNNING, os_error(errno.EBADF, 7), False, False, "failed", "OSError"),  # a number, no path
    (RUNNING, FileNotFoundError(errno.ENOENT, "No usable temporary directory found in []"), *2 * [False], *STORAGE),
    (RUNNING, CacheError("x"), False, False, "failed", "storage"),
    (RUNNING, WeightsError([Problem("a", "b")]), False, False, "failed", "storage"),
    (RUNNING, RuntimeError("file write failed"), False, False, "failed", "storage"),
    (RUNNING, KeyError("x"), False, False, "failed", "KeyError"),
    (RUNNING, carried(KeyError("x")), False, False, "failed", "KeyError"),
    (RUNNING, carried(os_error(errno.ENOSPC)), False, False, "failed", "disk full"),
    (RUNNING, carried(KeyError("low on memory, node has died")), False, False, "failed", "KeyError"),
    (RUNNING, carried(KeyboardInterrupt()), False, False, "failed", "process killed"),
    (RUNNING, ray.exceptions.OutOfMemoryError("x"), False, False, "failed", "killed for memory"),
    (RUNNING, dead("the node was low on memory"), False, False, "failed", "killed for memory"),
    (RUNNING, ray.exceptions.NodeDiedError("x"), False, False, "failed", "node lost"),
    (RUNNING, dead("The actor died because its node has died."), False, False, "failed", "node lost"),
    (RUNNING, dead("gone", preempted=True), False, False, "failed", "preempted"),
    (RUNNING, dead("gone"), False, False, "failed", "process killed"),
]


@pytest.mark.parametrize(("status", "error", "silent", "lost", "state", "word"), ENDS)
def test_what_is_known_of_an_end_gives_its_cause(status, error, silent, lost, state, word):
    end = ending(status, error, silent=silent, lost=lost, places=[PLACE])
    assert (end.state, end.recorded) == (state, word)


def test_what_every_trial_needs_is_nobodys_fault_where_it_fails(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    monkeypatch.setenv("AIQN_CACHE", str(tmp_path / "link"))
    monkeypatch.setenv("AIQN_INCEPTION", str(tmp_path / "weights.pth"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    config = {"data": {"name": "own", "path": str(tmp_path / "data")}, "evaluate": {"inception": None}}
    needed = places(Path("run"), config)
    for name in ("run/status.json", "link/x", "cache/x", "data/train.npy", "weights.pth", "temporary/x"):
        for path in (name, str(tmp_path / name)):
            assert ending(RUNNING, os_error(errno.EACCES, path), places=needed).recorded == "storage", path
    for name in ("other", "runs/status.json", "weights.pth.old"):
        assert ending(RUNNING, os_error(errno.EACCES, name), places=needed).recorded == "PermissionError"


def test_the_message_is_that_of_the_exception_itself():
    assert ending(RUNNING, carried(ValueError("first\nsecond"))).message == "first"
    assert ending(RUNNING, KeyError()).message == "KeyError"
    assert ending({"state": "failed", "message": "its own"}, ValueError("x")).message == "its own"


# whether it is handed out again, whether it is the configuration's fault, what Optuna is told, whether the sweep stops
FOLLOWS = {
    "not finite": (Again.NEVER, True, "PRUNED", False),
    "out of GPU memory": (Again.NEVER, True, "PRUNED", False),
    "out of memory": (Again.NEVER, True, "PRUNED", False),
    "configuration": (Again.NEVER, True, "PRUNED", False),
    "exception": (Again.NEVER, False, "FAIL", False),
    "data missing": (Again.COUNTED, False, "FAIL", True),
    "disk full": (Again.COUNTED, False, "FAIL", True),
    "storage": (Again.COUNTED, False, "FAIL", True),
    "GPU fault": (Again.COUNTED, False, "FAIL", False),
    "process killed": (Again.COUNTED, False, "FAIL", False),
    "killed for memory": (Again.COUNTED, False, "PRUNED", False),
    "worker lost": (Again.COUNTED, False, "FAIL", False),
    "silent": (Again.COUNTED, False, "FAIL", False),
    "node lost": (Again.ALWAYS, False, "FAIL", False),
    "preempted": (Again.ALWAYS, False, "FAIL", False),
    "driver ended": (Again.ALWAYS, False, "FAIL", False),
    "asked to stop": (Again.NEVER, False, "FAIL", False),
}


def test_what_follows_from_each_cause():
    assert {cause.value: tuple(policy) for cause, policy in POLICIES.items()} == FOLLOWS
    assert set(POLICIES) == set(Cause)
    ways = {Cause.of(word) for *_, word in ENDS} | {Cause.DRIVER_ENDED, None}  # that one the ledger finds at a start
    assert ways == set(Cause) | {None}


@pytest.mark.parametrize(
    ("recorded", "cause"),
    [(None, None), ("", None), ("process killed", Cause.KILLED), ("KeyError", Cause.EXCEPTION), ("nan", "exception")],
)
def test_the_words_of_earlier_run_folders_are_understood(recorded, cause):
    assert Cause.of(recorded) == cause


def test_only_what_failed_is_handed_out_again():
    assert End(State.FAILED, "storage").again == Again.COUNTED
    assert End(State.STOPPED, "storage").again == Again.NEVER
    assert End(State.COMPLETED).again == Again.NEVER


def test_words_are_written_as_they_are():
    assert f"{Stage.FINAL} {State.PRUNED} {Cause.GPU_MEMORY}" == "final pruned out of GPU memory"
