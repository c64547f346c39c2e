"""Before the first trial: has every node the same code, run folder and data? No Ray: the driver carries the questions.

`examine` runs on each node and answers with facts; `problems` compares them with those of the driver's own machine.
"""

import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiqn_core.code import OURS, code_digest, kept_path
from aiqn_core.settings import ConfigError
from orchestrator.clocks import Awake
from orchestrator.needs import lacks, needs
from orchestrator.packages import own_packages, versions
from orchestrator.plan import room
from orchestrator.runs import RunFolder, RunFolderError
from orchestrator.sections import Sweep

ROOT = Path(__file__).resolve().parent.parent
DRIVER = "driver"  # in place of a node's id
SHIP = "let `aiqn submit --to ray` send the code along"
ANSWER_SECONDS = 120.0  # a node that is busy starting its first processes needs some tens
SEEN_SECONDS = 5.0  # how long a file written on one machine may take to appear on another (NFS caches names)

Answer = Callable[[], dict[str, Any] | Exception | None]


def question(run: RunFolder, sweep: Sweep, slots: int = 1) -> dict[str, Any]:
    """What every node is asked, as plain values; `slots` is how many trials run at once on this machine."""
    sections = [arm.base["data"] for arm in sweep.arms.values()]
    own = None if sweep.code is None else f"{sweep.code.name}."  # such data come with the code
    data = {(s["name"], s.get("path")): None for s in sections if own is None or not s["name"].startswith(own)}
    return {
        "probe": str((run.path / ".preflight").resolve()),
        "token": uuid.uuid4().hex,
        "data": [list(each) for each in data],
        "gpu": sweep.resources.gpu > 0,
        "workers": sweep.resources.workers,
        "needs": needs(run.path.resolve(), sweep, slots),
        "packages": sorted({name for arm in sweep.arms.values() for name in own_packages(arm.base)}),
        "own": None
        if sweep.code is None
        else [str(kept_path(run.path.resolve(), sweep.code.recorded())), sweep.code.digest],
    }


@contextmanager
def probing(asked: Mapping[str, Any]) -> Iterator[None]:
    """The folder that nodes look for, for the time of the block."""
    probe = Path(asked["probe"])
    shutil.rmtree(probe, ignore_errors=True)
    probe.mkdir(parents=True)
    try:
        with (probe / "token").open("w") as token:
            token.write(asked["token"])
            token.flush()
            fcntl.flock(token, fcntl.LOCK_EX)  # which no node can take, where locks are seen between machines
            yield
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def examine(asked: Mapping[str, Any], node: str) -> dict[str, Any]:
    """The facts of the machine that this runs on."""
    probe = Path(asked["probe"])
    sees = eventually(lambda: _read(probe / "token") == asked["token"])
    return {
        "host": socket.gethostname(),
        "versions": versions(asked["packages"]),
        "code": code(),
        "own": asked["own"] and own_code(*asked["own"]),
        "sees": sees,
        "fails": try_writing(probe / node, ledger=node == DRIVER) if sees else {},
        "locks": not sees or not _takes(probe / "token"),
        "data": {path or name: data_state(name, path) for name, path in asked["data"]},
        "gpu": gpu_works() if asked["gpu"] else True,
        "lacks": list(lacks(asked["needs"])),
    }


def problems(own: Mapping[str, Any], found: Mapping[str, Any], asked: Mapping[str, Any], node: str) -> list[str]:
    """What is wrong with a node's facts, each with its remedy; empty where trials may run there."""
    run = Path(asked["probe"]).parent
    told = []
    differing = [
        f"{name} {found['versions'].get(name)} (here {value})"
        for name, value in own["versions"].items()
        if found["versions"].get(name) != value
    ]
    if differing:
        told.append(f"it has {', '.join(differing)}: install the same versions on all nodes (constraints.txt)")
    if found["code"] != own["code"]:
        told.append(
            f"its AIQN Sweeps differs from the driver's (code {found['code']}, here {own['code']}): "
            f"update it there, or {SHIP}"
        )
    if asked["own"] and found["own"] != asked["own"][1]:
        path, digest = asked["own"]
        told.append(f"the sweep's own code there is {found['own']}, here {digest}: {path} must be the same everywhere")
    if not found["sees"]:
        told.append(f"it does not see the run folder {run}: keep --runs on storage that all nodes mount at this path")
    for operation, error in found["fails"].items():
        told.append(f"it cannot {operation} in {run} ({error}): {REMEDIES[operation]}")
    if found["sees"] and not found["fails"] and not eventually(lambda: _read(run / ".preflight" / node) == WRITTEN):
        told.append(f"what it writes in {run} is not seen here: mount the same storage at this path everywhere")
    for name, state in own["data"].items():
        if found["data"].get(name) != state:
            told.append(f"data {name}: {found['data'].get(name)} there, {state} here: prepare the same data on it")
    if not found["gpu"]:
        told.append("Ray counts GPUs there that torch cannot use: look at nvidia-smi and the driver on that node")
    return told + found["lacks"]


def check_here(sweep: Sweep, runs: Path) -> None:
    """Raises RunFolderError where this machine lacks what trials need, as the start of the sweep would say."""
    if told := list(lacks(needs(runs / sweep.name, sweep, room(sweep)[0]))):
        raise RunFolderError("\n".join(("A start would be refused, for this machine is not ready:", *told)))


class Preflight:
    """Asks nodes and judges their answers. `ask(node, question)` gives a call that returns facts, None until then."""

    def __init__(self, asked: Mapping[str, Any], ask: Callable[[str, Mapping[str, Any]], Answer]) -> None:
        self.asked, self.ask = asked, ask
        self.own = examine({**asked, "gpu": False}, DRIVER)  # a head node may have none
        self.problems = problems(self.own, self.own, asked, DRIVER)  # of the driver's machine
        self.waiting: dict[str, tuple[float, Answer]] = {}  # node -> when it was asked
        self.locks = True  # whether all machines see each other's locks
        self.awake = Awake()

    def begin(self, node: str, gpus: float, holds: int) -> None:
        """Ask a node that has so many GPUs in Ray's eyes, and holds so many workers of trials."""
        slots = -(-holds // self.asked["workers"])
        needed = {**self.asked["needs"], "slots": slots}
        asked = {**self.asked, "gpu": self.asked["gpu"] and gpus > 0, "needs": needed}
        self.waiting[node] = (self.awake(), self.ask(node, asked))

    def answers(self) -> Iterator[tuple[str, list[str]]]:
        """(node, its problems) of each that has answered by now, or for too long has not."""
        now = self.awake()
        for node, (since, answer) in list(self.waiting.items()):
            found = answer()
            if found is None and now - since < ANSWER_SECONDS:
                continue
            del self.waiting[node]
            if isinstance(found, Exception):
                yield node, [f"it cannot run our code ({_first_line(found)}): install this version there, or {SHIP}"]
            elif found is None:
                yield node, [f"it has not answered for {ANSWER_SECONDS:.0f} s: look at Ray's logs on it"]
            else:
                self.locks = self.locks and found["locks"]
                yield node, problems(self.own, found, self.asked, node)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()[:300]


def code() -> str:
    """Twelve hexadecimal digits of the SHA-256 over our own sources."""
    digest = hashlib.sha256()
    for path in sorted(path for name in OURS for path in (ROOT / name).rglob("*") if path.suffix in (".py", ".j2")):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def own_code(path: str, digest: str) -> str:
    """The hash of somebody's code in the run folder as it is seen here, or what keeps it from being read."""
    seen = ""

    def same() -> bool:
        nonlocal seen
        try:
            seen = code_digest(Path(path))
        except (ConfigError, OSError) as error:
            seen = f"missing ({error})"
        return seen == digest

    eventually(same)
    return seen


def data_state(name: str, path: str | None) -> str:
    """The checksum of a data set, or what keeps it from being read, in words that can be compared."""
    from aiqn_core.config import BUNDLED_DATA, DataConfig
    from aiqn_core.prepared import data_problems, prepared_folder, read_about

    if name in BUNDLED_DATA:
        return "bundled"
    if found := data_problems(DataConfig(name, path)):
        return f"missing ({found[0].message})"
    return f"checksum {read_about(prepared_folder(name, path))['checksum']}"


def gpu_works() -> bool:
    """Whether torch can use a GPU, asked in a process of its own: Ray hides GPUs from tasks that reserve none."""
    seen = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command = [sys.executable, "-c", "import sys, torch; sys.exit(not torch.cuda.is_available())"]
    return subprocess.run(command, env=seen, check=False).returncode == 0


# What a trial does in its folder, in the order of trying; a mounted bucket often cannot do one of them.
WRITTEN = "created, appended"
_BUCKET = "a mounted bucket must support it, else keep --runs on a file system; see docs/cluster.md"
REMEDIES = {
    "create a file": "allow the user that Ray runs as to write there",
    "append to a file": _BUCKET,
    "rename a file over another": _BUCKET,
    "lock a file": _BUCKET,
    "make a symbolic link": _BUCKET,
}


def try_writing(path: Path, ledger: bool = False) -> dict[str, str]:
    """Do in a folder what a trial does, and what the `ledger` does; what failed, operation -> error."""
    steps: dict[str, Callable[[], None]] = {
        "create a file": lambda: _create(path.with_suffix(".new")),
        "append to a file": lambda: _append(path.with_suffix(".new")),
        "rename a file over another": lambda: _rename(path.with_suffix(".new"), path),
        "lock a file": lambda: _lock(path),
    }
    if ledger:
        steps["make a symbolic link"] = lambda: _link(path)  # Optuna's lock of the journal
    for operation, step in steps.items():
        try:
            step()
        except OSError as error:
            return {operation: error.strerror or type(error).__name__}
    return {}


def _create(path: Path) -> None:
    with path.open("w") as file:
        file.write("created")
        file.flush()
        os.fsync(file.fileno())


def _append(path: Path) -> None:
    with path.open("a") as file:
        file.write(", appended")
    if _read(path) != WRITTEN:
        raise OSError(0, "what was there before is gone")


def _rename(source: Path, target: Path) -> None:
    target.write_text("before")
    source.replace(target)
    if _read(target) != WRITTEN:
        raise OSError(0, "the old content is still there")


def _lock(path: Path) -> None:
    with path.open("a") as first, path.open("a") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        raise OSError(0, "two hold it at once")


def _link(path: Path) -> None:
    link = path.with_suffix(".link")
    link.unlink(missing_ok=True)
    link.symlink_to(path)


def _takes(path: Path) -> bool:
    """Whether a file can be locked that the driver holds."""
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def eventually(condition: Callable[[], bool], seconds: float = SEEN_SECONDS) -> bool:
    """Whether the condition comes true within some seconds."""
    deadline = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return true


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
