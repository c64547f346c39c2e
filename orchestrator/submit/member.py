"""A member of a sweep that runs in many small allocations: one leads it, the others join with their machines.

Who holds the lock RUN/slurm/lead starts Ray and the driver, and says in RUN/slurm/head.json where; the others start a
Ray node that joins. A member whose time is over asks the driver to let it go, a leader stops the driver, and another
member leads from then on: to start is to resume. RUN/slurm/over.json ends all of them.
"""

import argparse
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from orchestrator.control import LEAVE, STOPPED
from orchestrator.lifeline import answers
from orchestrator.runs import RunFolder, read_json, write_json
from orchestrator.submit.slurm_script import LEFT

RAY = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block")
ANY_PORTS = ("--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0")
STORE_BYTES = 2**28  # of shared memory: trials pass nothing large, and several members may share a machine
POLL_SECONDS = 0.5
START_SECONDS = 180.0  # that Ray gets to start
END_SECONDS = 20.0  # that a process gets to end by itself
FAILURES = 3  # sweeps in a row that were killed under a leader, after which it gives up


class Member:
    """One allocation: its Ray is called `name`, and is given `patience` seconds once it is to leave."""

    def __init__(self, run: RunFolder, name: str, patience: float, command: list[str]) -> None:
        self.run, self.name, self.patience, self.command = run, name, patience, command
        self.folder = run.path / "slurm"
        self.head, self.over = self.folder / "head.json", self.folder / "over.json"
        self.scratch = Path("/tmp") / f"aiqn-{name}"  # noqa: S108  (short: Ray puts sockets there)
        self.leaving = False
        self.failures = 0

    def take_part(self) -> int:
        """Lead or join, again and again; 0, 1, 2 and 3 are the sweep's own end, LEFT that it goes on without us."""
        self.folder.mkdir(parents=True, exist_ok=True)
        while not self.over.exists():
            if self.leaving:
                return LEFT
            with leading(self.folder / "lead") as leads:
                code = self.lead() if leads else self.join()
            if code is not None:
                return code
        return 0

    # ---- leading ----------------------------------------------------------------------------------------------------

    def lead(self) -> int | None:
        """Run the sweep on a Ray of our own, which others join; None where it is to be tried again."""
        token, port, address = secrets.token_hex(32), free_port(), own_address()
        where = {"address": f"{address}:{port}", "token": token}
        options = [f"--port={port}", f"--temp-dir={self.scratch}", f"--node-ip-address={address}"]
        options += ["--include-dashboard=false"]
        if find_spec("grpc"):  # then Ray has a server for clients, on a fixed port unless told; else it takes no option
            options += [f"--ray-client-server-port={free_port()}"]
        node = self.start_ray(where, "--head", *options)
        try:
            if not self.answers(node, address, port):
                return self.failed(1)
            write_private(self.head, where)
            code = self.conduct(where, node)
        finally:
            self.head.unlink(missing_ok=True)
            end(node)
            shutil.rmtree(self.scratch, ignore_errors=True)
        if code in (0, 1, 2) or (self.run.control / STOPPED).exists():
            write_json(self.over, {"code": code})
            return code
        return LEFT if self.leaving else self.failed(code)

    def conduct(self, where: dict[str, str], node: subprocess.Popen) -> int:
        """The driver, from start to end; its exit code. Without Ray's head, `node`, it would hang, and is ended."""
        sweep = subprocess.Popen(self.command, env=environment(where, RAY_ADDRESS=where["address"]))
        asked: float | None = None
        while sweep.poll() is None:
            if self.leaving and asked is None:
                asked = time.monotonic()
                sweep.terminate()
            if node.poll() is not None or (asked is not None and time.monotonic() - asked > self.patience):
                sweep.kill()
            time.sleep(POLL_SECONDS)
        return sweep.returncode

    def answers(self, node: subprocess.Popen, address: str, port: int) -> bool:
        """Wait until Ray's head listens; False where it ends instead."""
        deadline = time.monotonic() + START_SECONDS
        while node.poll() is None and time.monotonic() < deadline:
            if answers(f"{address}:{port}", 1.0):
                return True
            time.sleep(POLL_SECONDS)
        return False

    def failed(self, code: int) -> int | None:
        """A sweep was killed, or Ray did not start: None for another try, the code where there were enough."""
        self.failures += 1
        return code if self.failures >= FAILURES else None

    # ---- joining ----------------------------------------------------------------------------------------------------

    def join(self) -> int | None:
        """Lend this machine to who leads, for as long as it leads and we may stay."""
        where = read_json(self.head)
        if where is None:  # it is about to start
            time.sleep(POLL_SECONDS)
            return None
        node = self.start_ray(where, f"--address={where['address']}")
        try:
            while node.poll() is None and read_json(self.head) == where:
                if self.leaving:
                    self.leave(where)
                    break
                time.sleep(POLL_SECONDS)
        finally:
            end(node)
        return LEFT if self.leaving else None

    def leave(self, where: dict[str, str]) -> None:
        """Ask the driver to take its trials from this machine, and wait until it has, or patience ends."""
        request, deadline = self.run.control / f"{LEAVE}{self.name}", time.monotonic() + self.patience
        write_json(request, {"name": self.name})
        while request.exists() and read_json(self.head) == where and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        request.unlink(missing_ok=True)

    def start_ray(self, where: dict[str, str], *options: str) -> subprocess.Popen:
        """A Ray node with what Slurm has given us."""
        size = [f"--num-cpus={os.environ['SLURM_CPUS_ON_NODE']}"]
        size += [f"--num-gpus={os.environ.get('SLURM_GPUS_ON_NODE', '0')}", f"--object-store-memory={STORE_BYTES}"]
        with (self.folder / f"{self.name}.ray").open("ab") as log:
            return subprocess.Popen(
                [*RAY, f"--node-name={self.name}", *size, *options, *ANY_PORTS],
                env=environment(where),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


@contextmanager
def leading(path: Path) -> Iterator[bool]:
    """Whether we are the only one to hold a file, for the time of the block."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def environment(where: dict[str, str], **more: str) -> dict[str, str]:
    """Of Ray and the driver: whoever shares these machines must not be able to run code in our Ray."""
    return {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": where["token"], **more}


def write_private(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file at once, for nobody's eyes but our user's."""
    new = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(json.dumps(content))
    new.replace(path)


def end(process: subprocess.Popen) -> None:
    """End a process that leads a session, and all that is in it, also where it has died before."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])


def own_address() -> str:
    """The address of this machine towards others."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("8.8.8.8", 80))  # sends nothing: it only asks which way that would go
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostbyname(socket.gethostname())


def main() -> None:
    """Take part as the script of `slurm_script` asks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--patience", type=float, required=True)
    parser.add_argument("command", nargs="+")
    asked = parser.parse_args()
    member = Member(RunFolder(asked.run), asked.name, asked.patience, asked.command)

    def leave(number: int, frame: FrameType | None) -> None:
        member.leaving = True

    signal.signal(signal.SIGTERM, leave)
    sys.exit(member.take_part())


if __name__ == "__main__":
    main()
