"""Ray's sockets: where they may lie, whether anything listens there, and the end of a process whose Ray has died."""

import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

from orchestrator import lifeline
from orchestrator.lifeline import (
    CLUSTER_LOST,
    LONGEST_SESSION,
    RAY_DIED,
    SOCKET_LIMIT,
    answers,
    folder_for_sockets,
    given_address,
    wait_for_answer,
)
from orchestrator.runs import RunFolderError


@contextmanager
def listening():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("value", "found"), [("", None), ("  ", None), ("local", None), ("auto", "auto"), ("a:6379", "a:6379")]
)
def test_an_empty_variable_names_no_cluster(value, found):
    assert given_address({"RAY_ADDRESS": value}) == found
    assert given_address({}) is None


def test_what_listens_answers_until_it_is_gone(tmp_path):
    with listening() as address:
        assert answers(address, 5)
    assert not answers(address, 5)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        assert answers(str(tmp_path / "s"), 5)
    assert not answers(str(tmp_path / "s"), 5)  # the file is still there
    assert not answers("nonsense", 5)


def test_an_address_that_does_not_answer_is_said_with_what_to_do(monkeypatch):
    monkeypatch.setattr(lifeline, "LOOK_SECONDS", 0.01)
    with listening() as address:
        wait_for_answer(address, 1.0)
    with pytest.raises(RunFolderError, match=f"no Ray cluster answers at {address}.*ray start --head.*unset"):
        wait_for_answer(address, 0.1)
    with pytest.raises(RunFolderError, match="no Ray cluster answers at head:6379 "):  # as the user named it
        wait_for_answer(address, 0.1, named="head:6379")


def test_sockets_lie_where_their_paths_are_short_enough(tmp_path):
    short, long = tmp_path / "s", tmp_path / ("d" * 90)
    fits = len(str(short)) + LONGEST_SESSION <= SOCKET_LIMIT
    assert folder_for_sockets({"TMPDIR": str(long), "RAY_TMPDIR": str(short)}) == (str(short) if fits else "/tmp")
    assert folder_for_sockets({"TMPDIR": str(long)}) == "/tmp"
    assert not long.exists()
    assert folder_for_sockets({"TMPDIR": "/dev/shm"}) == "/dev/shm"
    assert folder_for_sockets({}) == "/tmp"
    # As Ray builds the path: "é" is two bytes.
    assert folder_for_sockets({"TMPDIR": "/tmp/" + "é" * ((SOCKET_LIMIT - LONGEST_SESSION) // 2)}) == "/tmp"


def test_where_no_folder_will_do_each_is_named_with_its_reason(monkeypatch):
    monkeypatch.setattr(lifeline, "_writable", lambda folder: False)
    with pytest.raises(RunFolderError, match=r"/x cannot be written; .*Name another by RAY_TMPDIR"):
        folder_for_sockets({"TMPDIR": "/x"})


SCRIPT = """
import sys, time
from orchestrator import lifeline
lifeline.LOOK_SECONDS, lifeline.OWN_SECONDS, lifeline.CLUSTER_SECONDS = 0.05, 0.1, {cluster_seconds}
with lifeline.Lifeline([{address!r}], own={own}, asked=lambda: {asked}):
    print("on", flush=True)
    sys.stdin.read()
sys.exit(5)
"""


def script(address, own, cluster_seconds=0.2, asked=False):
    return SCRIPT.format(address=address, own=own, cluster_seconds=cluster_seconds, asked=asked)


@pytest.mark.parametrize(
    ("own", "more", "code"),
    [
        (True, {"cluster_seconds": 9000}, RAY_DIED),
        (False, {}, CLUSTER_LOST),
        (False, {"cluster_seconds": 9000, "asked": True}, CLUSTER_LOST),  # who is told to end waits for no restart
    ],
)
def test_a_process_ends_with_its_ray(own, more, code):
    with listening() as address:
        command = [sys.executable, "-c", script(address, own, **more)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"on\n"
    with process:
        assert process.wait(60) == code  # it reads for ever


def test_a_process_that_leaves_ray_is_left_alone():
    with listening() as address:
        command = [sys.executable, "-c", script(address, own=True)]
        assert subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False).returncode == 5
