"""Several machines on one: network namespaces with an address and a host name each, and what runs in them."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
TOKEN = uuid.uuid4().hex
NETWORK = "10.213.{}.{}"


def wait_for(condition, seconds=900.0, alive=None):
    """Wait until a condition is true; fails after some seconds, or when a process that must live has ended."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if alive is not None and alive.poll() is not None:
            raise AssertionError(f"{alive.args} ended with {alive.returncode}")
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.25)
    return found


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def environment(**more):
    """Of a process that imports this checkout and trains on one thread."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("RAY_") or key == "RAY_TMPDIR"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # Ray asks for a token that all of a cluster share, and runs trials with niceness 15, as if nobody waited for them.
    settings = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    return {**own, **settings, "PATH": path, "PYTHONPATH": str(ROOT), **more}


def holding(file):
    """Variables of processes whose evaluations wait while a file exists, see held/sitecustomize.py."""
    file.touch()
    return {"PYTHONPATH": f"{ROOT / 'tests' / 'held'}:{ROOT}", "AIQN_TEST_HELD": str(file)}


def end(process, seconds=20.0):
    """End a process that we started in a session of its own, with all its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Machines:
    """Hosts on a bridge of their own; each is a network namespace, and all its processes are ours to kill."""

    counter = itertools.count()

    def __init__(self, folder):
        self.folder = folder  # of logs
        self.scratch = Path(tempfile.mkdtemp(prefix="aq", dir="/tmp"))  # short: Ray puts sockets there
        number = next(self.counter)  # of these machines in this process: no name or address is used twice
        self.label = f"aq{os.getpid() % 10000}n{number}"
        self.network = (os.getpid() + number) % 250 + 1
        self.hosts = []
        self.processes = []
        run("ip", "link", "add", f"{self.label}br", "type", "bridge")
        run("ip", "link", "set", f"{self.label}br", "up")

    def add(self):
        """Another machine; its number."""
        number = len(self.hosts) + 1
        name = self.host(number)
        self.hosts.append(name)
        run("ip", "netns", "add", name)
        inside, outside = f"{name}i", f"{name}o"
        run("ip", "link", "add", outside, "type", "veth", "peer", "name", inside)
        run("ip", "link", "set", outside, "master", f"{self.label}br", "up")
        run("ip", "link", "set", inside, "netns", name, "name", "eth0")
        run("ip", "-n", name, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", name, "route", "add", "default", "dev", "eth0")  # Ray looks there for its own address
        return number

    def host(self, number):
        return f"{self.label}m{number}"

    def address(self, number):
        return NETWORK.format(self.network, number)

    def start(self, number, *command, log, cwd=None, **variables):
        """A process on a machine, with its host name."""
        # gloo looks its own address up by host name, which no name server knows here
        own = environment(GLOO_SOCKET_IFNAME="eth0", **variables)
        inside = ("ip", "netns", "exec", self.host(number), "unshare", "--uts")
        with (self.folder / log).open("ab") as file:
            process = subprocess.Popen(
                [*inside, "sh", "-c", 'hostname "$0" && exec "$@"', self.host(number), *map(str, command)],
                env=own,
                cwd=cwd,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def ray(self, number, head=None, cpus=1, options=(), **variables):
        """A Ray node: the head, or one that joins it."""
        where = ("--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={self.scratch}")
        if head is not None:
            where = (f"--address={self.address(head)}:6379",)
        return self.start(
            number,
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *where),
            *(f"--node-ip-address={self.address(number)}", f"--num-cpus={cpus}", "--object-store-memory=100000000"),
            *options,
            log=f"ray-{number}.log",
            **variables,
        )

    def ray_runs(self, number, head=None, **options):
        """Start a Ray node and wait for it."""
        node = self.ray(number, head, **options)
        log = self.folder / f"ray-{number}.log"
        wait_for(lambda: "Ray runtime started" in log.read_text(), alive=node)

    def pids(self, number):
        return [int(pid) for pid in run("ip", "netns", "pids", self.host(number)).split()]

    def kill(self, number):
        """Pull the plug: every process on the machine dies at once."""
        for pid in self.pids(number):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def unplug(self, number):
        """Nothing that is sent to the machine arrives any more, and nobody says so."""
        run("ip", "link", "set", f"{self.host(number)}o", "down")

    def close(self):
        """End all; returns when nothing of it is left."""
        for process in self.processes:
            if process.poll() is None:  # also one that has not yet got as far as its namespace
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(30)
        for number, name in enumerate(self.hosts, start=1):
            wait_for(lambda number=number: self.kill(number) is None and not self.pids(number), 60)
            run("ip", "link", "del", f"{name}o")
            run("ip", "netns", "del", name)
        run("ip", "link", "del", f"{self.label}br")
        wait_for(lambda: not self.left(), 60)
        shutil.rmtree(self.scratch)

    def left(self):
        """Names of our network devices and namespaces that there are."""
        words = f"{run('ip', '-o', 'link')} {run('ip', 'netns')}".replace("@", " ").replace(":", " ").split()
        return sorted({word for word in words if word.startswith(self.label)})


def processes_with(marker):
    """The ids of all processes whose command line or environment contains a text, but not ours."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            text = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
            if marker.encode() in text and int(path.name) != os.getpid():
                found.append(int(path.name))
    return found


def end_all_with(marker):
    """Kill what a test started and has left, known by a path of its own; returns when it is gone."""
    for pid in processes_with(marker):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not processes_with(marker), 60)


def run(*command, **options):
    result = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert result.returncode == 0, f"{command}: {result.stderr}"
    return result.stdout
