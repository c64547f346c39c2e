"""What a command reports, line by line: checked, scored as our own samples are, and turned into `Progress`."""

import json
import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aiqn_core.config import TrainConfig
from aiqn_core.data import ImageData
from aiqn_core.training.checkpoint import Progress, Samples
from aiqn_core.training.evaluation import Data, DivergedError, samples_to_show, score
from aiqn_core.training.loop import is_evaluated

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,99}")  # of a number: part of file names
LONGEST = 2**20  # bytes of a line
TIMES = ("seconds", "evaluate_seconds")
KEPT = "reported"  # the folder that `aiqn_core.report` writes samples to


class CommandError(RuntimeError):
    """A command that failed, or that reports wrongly: what was seen, and what was expected."""


class Lines:
    """The complete lines of a file that grows; it is begun where it is not there."""

    def __init__(self, path: Path) -> None:
        self.path, self.read, self.number = path, 0, 0
        path.touch()

    def rest(self) -> list[str]:
        """What is there already; a line that was torn is ended."""
        with self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
        return [line for _, line in self.new(over=True)]

    def new(self, *, over: bool) -> Iterator[tuple[int, str]]:
        """(number, text) of each line that has come; where it is `over` also of one without an end."""
        with self.path.open("rb") as file:
            file.seek(self.read)
            while line := file.readline(LONGEST):
                if not line.endswith(b"\n") and len(line) < LONGEST and not over:
                    return
                self.read, self.number = file.tell(), self.number + 1
                if line.strip():
                    yield self.number, line.decode(errors="replace").strip()


class Reported:
    """What the command of one trial has reported, in this start of it and before.

    `history` is what is recorded of it already; relative paths of samples begin in the folder `work`.
    """

    def __init__(self, config: TrainConfig, data: Data, work: Path, history: Sequence[Progress]) -> None:
        self.config, self.data, self.work = config, data, work
        metrics = history[-1].metrics if history else {}
        self.seconds, self.scoring = (metrics.get(key) or 0.0 for key in TIMES)
        self.since = time.perf_counter()
        self.measured_here = {metric.name for metric in config.metrics} - {"loss"} | {"time", *TIMES}
        self.recorded = history[-1].step if history else -1  # the last step that is recorded
        self.said: int | None = None  # the last step that this start has reported
        self.files: dict[str, int] = {}  # of samples in this start, with their steps
        self.where = ""  # of the line that is looked at
        self.over: list[Path] = []  # samples that nobody needs any more

    def left_over(self, lines: Sequence[str]) -> Iterator[Progress]:
        """What an earlier start reported, as far as it is good: it ended before that could be scored."""
        found: dict[int, dict[str, Any]] = {}
        for line in lines:
            with suppress(CommandError, DivergedError):  # torn, or wrong
                said = self._parsed(line)
                found[said["step"]] = said
        for step in found:
            if step <= self.recorded:
                self._note_over(found[step])
        with suppress(CommandError, DivergedError):  # from here on the command says it again
            for step in sorted(step for step in found if step > self.recorded):
                self._check_asked(found[step])
                yield self._measured(found[step])

    def begin(self) -> None:
        """The command is started."""
        self.since = time.perf_counter()

    def take(self, number: int, line: str) -> Progress | None:
        """What a line of this start says; None where it is recorded already. Raises CommandError, DivergedError."""
        self.where = f"report.jsonl, line {number}: "
        said = self._parsed(line)
        step, samples = said["step"], said.get("samples")
        if self.said is not None and step < self.said:
            raise self._wrong(f"step {step} after step {self.said}", "steps that rise")
        if step == self.said and samples is not None and samples not in self.files:
            raise self._wrong(f"step {step} again, with samples", "numbers and samples in one report")
        self.said = step
        if samples is not None and (other := self.files.setdefault(samples, step)) != step:
            raise self._wrong(f"samples {samples!r}, which were those of step {other}", "a file for each step")
        if step <= self.recorded:
            self._note_over(said)
            return None
        self._check_asked(said)
        return self._measured(said)

    def check_complete(self) -> None:
        """Raise CommandError where a command that ended well has not come to its last step."""
        steps = self.config.train.steps
        self.where = "the command ended: "
        if self.said is None:
            raise self._wrong("no report at all", f"lines in AIQN_REPORT up to step {steps}")
        if self.recorded < steps:
            raise self._wrong(f"a last report of step {self.said}", f"step {steps} (AIQN_STEPS)")

    def _wrong(self, seen: str, expected: str) -> CommandError:
        return CommandError(f"{self.where}saw {seen}, expected {expected}")

    def _parsed(self, line: str) -> dict[str, Any]:
        """The object in a line, its step and numbers checked."""
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            said = line[:100]
        if not isinstance(said, dict):
            raise self._wrong(f"{said!r}", 'a JSON object such as {"step": 200, "samples": "200.npy", "loss": 1.2}')
        step, steps = said.get("step"), self.config.train.steps
        if type(step) is not int or not 0 <= step <= steps:
            raise self._wrong(f"step {step!r}", f"an integer from 0 to {steps} (AIQN_STEPS)")
        if not isinstance(said.get("samples", ""), str):
            raise self._wrong(f"samples {said['samples']!r}", "the path of a .npy file")
        for name, value in said.items():
            if name not in ("step", "samples"):
                self._check_number(name, value, step)
        return said

    def _check_number(self, name: str, value: Any, step: int) -> None:
        if not NAME.fullmatch(name) or isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(f"{name!r}: {value!r}", "a number under a word of letters, digits and _")
        if name in self.measured_here:
            raise self._wrong(f"{name!r}, which is measured here", "another name for a number of your own")
        if not math.isfinite(value):
            raise DivergedError(f"{name} is {value} at step {step}")

    def _check_asked(self, said: dict[str, Any]) -> None:
        """Every evaluation of a sweep needs samples: rungs and curves compare arms at the same steps."""
        step = said["step"]
        asked = (one for one in range(max(1, self.recorded + 1), step + 1) if is_evaluated(self.config, one))
        missed = next((one for one in asked if one < step or "samples" not in said), None)
        if missed is not None:
            raise self._wrong(f"no samples of step {missed}", "some at each step of AIQN_EVALUATE")

    def _measured(self, said: dict[str, Any]) -> Progress:
        """The numbers that a report holds, with the scores of its samples."""
        shown = None
        numbers = {name: float(value) for name, value in said.items() if name not in ("step", "samples")}
        if "samples" in said:
            begin = time.perf_counter()
            samples = self._read(self.work / said["samples"])
            scores = score(samples, self.config, self.data)
            if own := sorted(numbers.keys() & scores.keys()):
                raise self._wrong(f"{own[0]!r}, which is measured here", "another name for a number of your own")
            numbers |= scores
            shown = samples_to_show(samples)
            self.scoring += time.perf_counter() - begin
            self._note_over(said)
        self.recorded = said["step"]
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now
        numbers |= dict(zip(TIMES, (self.seconds, self.scoring), strict=True))
        return Progress(said["step"], numbers, time.time(), shown)

    def _read(self, path: Path) -> Samples:
        """The samples in a file, as many and of the kind that an evaluation scores; raises CommandError for others."""
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise self._wrong(f"samples {str(path)!r} ({error})", "a .npy file that can be read") from None
        shape, images = (self.config.evaluate.samples, *self.data.shape), isinstance(self.data, ImageData)
        kind = "uint8" if images else "float32"
        if not isinstance(array, np.ndarray) or array.shape != shape:
            seen = f"of shape {array.shape}" if isinstance(array, np.ndarray) else "in an archive"
            raise self._wrong(f"samples {seen}", f"{kind} of shape {shape} (AIQN_SAMPLES, AIQN_SHAPE)")
        if array.dtype.kind not in ("iu" if images else "iuf"):
            raise self._wrong(f"samples of {array.dtype}", f"{kind}{': levels from 0 to 255' if images else ''}")
        if images and not 0 <= array.min() <= array.max() <= 255:
            raise self._wrong(f"samples from {array.min()} to {array.max()}", "levels from 0 to 255")
        return torch.from_numpy(array.astype(kind))

    def _note_over(self, said: dict[str, Any]) -> None:
        path = self.work / said.get("samples", "")
        if path.parent == self.work.absolute() / KEPT:
            self.over.append(path)

    def tidy(self) -> None:
        """Remove the samples that `aiqn_core.report` wrote itself and whose scores are recorded."""
        while self.over:
            self.over.pop().unlink(missing_ok=True)
