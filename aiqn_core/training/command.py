"""Training by a command: it is started, what it reports becomes `Progress` like our own, and it is ended."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from aiqn_core import guard
from aiqn_core.command import WORK, words
from aiqn_core.config import TrainConfig
from aiqn_core.data import ImageData
from aiqn_core.prepared import prepared_folder
from aiqn_core.training.checkpoint import Progress
from aiqn_core.training.evaluation import Data
from aiqn_core.training.loop import is_evaluated
from aiqn_core.training.reported import CommandError, Lines, Reported

GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL
TICK_SECONDS = 0.1  # between two looks at what it reports
REPORT = "report.jsonl"
OURS = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ ")  # a line of the log that the trial itself wrote
TOLD = 300  # characters of the last line of a log


class CommandKilledError(Exception):
    """A command that somebody else ended: it may be started again."""


class Place(NamedTuple):
    """Where a command works, and what it may take."""

    run: Path  # the run folder, in which its files are kept
    folder: Path  # of its trial
    threads: int | None = None
    gpu: float = 0
    seconds: float | None = None  # that a start of the command may take; None: as long as it likes

    @property
    def work(self) -> Path:
        """Where it is started, and keeps what it likes."""
        return self.folder / WORK

    @property
    def report(self) -> Path:
        return self.folder / REPORT

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"


def train_by_command(
    config: TrainConfig, data: Data, place: Place, history: Sequence[Progress]
) -> Generator[Progress, None, None]:
    """Run the command of a configuration, yielding the `history` and then `Progress` at every step that it reports.

    Samples are scored as our own methods' are. What an earlier start reported and nobody has scored is scored first;
    then the command is started, again in the same folder where it was started before. It does not wait for us, and is
    ended with the generator, by a process of its own (`aiqn_core.guard`) also where this one is killed.

    Raises CommandError for what it does wrong, CommandKilledError where somebody else ended it, DivergedError on a
    number that is not finite, ConfigError where it cannot be started.
    """
    assert config.command is not None
    yield from history
    steps, last = config.train.steps, history[-1].step if history else -1
    reported = Reported(config, data, place.work, history)
    place.work.mkdir(parents=True, exist_ok=True)
    lines = Lines(place.report)
    for progress in reported.left_over(lines.rest()):
        last = progress.step
        yield progress
        reported.tidy()
    if last >= steps:
        return
    asked = words(config.command, place.run)
    with Process(asked, place, environment(config, data, place)) as process:
        reported.begin()
        over, begun = False, time.monotonic()
        while not over:
            over = process.wait(TICK_SECONDS)
            if place.seconds is not None and time.monotonic() - begun > place.seconds and not over:
                raise CommandError(
                    f"the command runs for more than {place.seconds:g} s, expected {steps} steps in them"
                )
            for number, line in lines.new(over=over and process.ended_well):
                if (told := reported.take(number, line)) is not None:
                    yield told
                reported.tidy()
        process.check()
        reported.check_complete()


def environment(config: TrainConfig, data: Data, place: Place) -> dict[str, str]:
    """The variables of a command: those of this process, and what it is told of its trial."""
    assert config.command is not None
    steps, threads = config.train.steps, place.threads or torch.get_num_threads()
    evaluated = [step for step in range(1, steps + 1) if is_evaluated(config, step)]
    told = {
        "FOLDER": place.work.absolute(),
        "REPORT": place.report.absolute(),
        "SEED": config.seed,
        "STEPS": steps,
        "EVALUATE": ",".join(map(str, evaluated)),
        "SAMPLES": config.evaluate.samples,
        "SHAPE": ",".join(map(str, data.shape)),
        "VALUES": json.dumps(config.command.values),
        "THREADS": threads,
        "GPU": f"{place.gpu:g}",
        **examples(config, data, place.run),
    }
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    # Ours is importable also where it was sent along with a job; what is installed comes before it.
    known = [*filter(None, [os.environ.get("PYTHONPATH")]), str(Path(guard.__file__).parent.parent)]
    paths = {"PYTHONPATH": os.pathsep.join(known)} if config.command.line[0].startswith("python") else {}
    own = {f"AIQN_{name}": str(value) for name, value in told.items()}
    return {"PYTHONUNBUFFERED": "1", **os.environ, **paths, **limits, **own}


def examples(config: TrainConfig, data: Data, run: Path) -> dict[str, Path]:
    """The training examples as files of NumPy's, and their classes where there are any: in the run folder, once."""
    if config.data.is_prepared:
        folder = prepared_folder(config.data.name, config.data.path)
    else:
        folder = run / "data" / data.checksum
        arrays = {"train": data.train}
        if isinstance(data, ImageData) and data.num_classes:
            arrays["train_labels"] = data.train_labels
        for name, tensor in arrays.items():
            if not (folder / f"{name}.npy").exists():
                folder.mkdir(parents=True, exist_ok=True)
                temporary = folder / f".{name}.{os.getpid()}.npy"
                np.save(temporary, tensor.numpy())
                temporary.replace(folder / f"{name}.npy")
    names = {"TRAIN": "train", "LABELS": "train_labels"}
    found = {key: folder.absolute() / f"{name}.npy" for key, name in names.items()}
    return {key: path for key, path in found.items() if path.exists()}


class Process:
    """A command that runs under a guard, for the time of the block."""

    def __init__(self, asked: list[str], place: Place, environ: dict[str, str]) -> None:
        self.asked, self.place, self.environ = asked, place, environ
        self.end: dict[str, Any] | None = None

    def __enter__(self) -> "Process":
        stop, self.stop = os.pipe()  # closed by us, or with us: the guard ends the command
        self.done, done = os.pipe()
        self.logged = self.place.log.stat().st_size if self.place.log.exists() else 0
        order = [sys.executable, "-I", "-S", guard.__file__, str(stop), str(done), str(GRACE_SECONDS), *self.asked]
        with self.place.log.open("ab") as log:
            subprocess.run(
                order,
                cwd=self.place.work,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(stop, done),
                check=True,
            )
        os.close(stop)
        os.close(done)
        return self

    def wait(self, seconds: float) -> bool:
        """Whether it has ended, within so many seconds."""
        if self.end is None and select.select([self.done], [], [], seconds)[0]:
            text = b"".join(iter(lambda: os.read(self.done, 4096), b""))
            self.end = json.loads(text) if text else {"code": -signal.SIGKILL}  # the guard itself was killed
        return self.end is not None

    @property
    def ended_well(self) -> bool:
        """Whether it has ended with exit code 0; the last line of another may be torn."""
        return self.end is not None and self.end.get("code") == 0

    def check(self) -> None:
        """Raise what follows from how it ended, where that was not well."""
        assert self.end is not None
        if "error" in self.end:
            raise CommandError(self.end["error"])
        if self.ended_well:
            return
        code = self.end["code"]
        said = self.last_line()
        told = f", and its last line is: {said}" if said else ", and it said nothing"
        if code in (-signal.SIGKILL, -signal.SIGTERM):
            raise CommandKilledError(f"the command was ended by {signal.Signals(-code).name}{told}")
        how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
        raise CommandError(f"the command ended with {how}{told}")

    def last_line(self) -> str:
        """The last line that it wrote into the log."""
        with self.place.log.open("rb") as file:
            file.seek(max(self.logged, file.seek(0, os.SEEK_END) - 65536))
            lines = file.read().decode(errors="replace").splitlines()
        return next((line.strip()[:TOLD] for line in reversed(lines) if line.strip() and not OURS.match(line)), "")

    def __exit__(self, *reason: object) -> None:
        os.close(self.stop)
        self.wait(GRACE_SECONDS + 15)
        os.close(self.done)
