"""What is seen of a running sweep: a board that is drawn in place in a terminal (`screen`), plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, Self

from rich.console import Console

from orchestrator.causes import Stage, State

LINE_SECONDS = 300.0  # between two lines that say where the whole sweep stands


class Training(NamedTuple):
    """A trial in the hands of a worker."""

    trial: str
    step: int
    steps: int
    host: str = ""  # the machine; "" until its status says so


@dataclass(frozen=True)
class Tally:
    """Where one stage of one arm stands."""

    arm: str
    stage: Stage
    expected: int
    states: dict[str, int]  # of the trials that ended
    running: list[Training]
    best: tuple[float, int] | None  # (value, number)

    @property
    def ended(self) -> int:
        return sum(self.states.values()) - self.parked

    @property
    def parked(self) -> int:
        """Trials that wait at a rung; once the search is over, those that it left there."""
        return self.states.get("parked", 0)

    def count(self, state: State) -> int:
        """How many trials ended in a state."""
        return self.states.get(state, 0)


@dataclass(frozen=True)
class Board:
    """Where the whole sweep stands at one moment."""

    sweep: str
    metric: str
    tallies: list[Tally]
    elapsed: float  # seconds since this start
    steps_done: float  # training steps since this start, of all arms
    steps_left: float
    stopping: str = ""  # why it is about to stop
    notes: tuple[str, ...] = ()  # of the cluster: nodes that are not used, why trials wait


class View:
    """Shows a sweep's progress; this one shows nothing, and is the value for "nobody looks"."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        return None

    def update(self, board: Board) -> None:
        """Show the board; called several times a second."""

    def event(self, text: str) -> None:
        """Show that a trial began or ended, in one line (see `events`)."""

    def say(self, text: str) -> None:
        """Show one line that is neither board nor event."""


class Unfailing(View):
    """Another view, for as long as it can be shown: a terminal that goes away never ends a sweep."""

    def __init__(self, shown: View) -> None:
        self.shown: View | None = shown

    def _do(self, action: Callable[[View], object]) -> None:
        if self.shown is None:
            return
        try:
            action(self.shown)
        except Exception as error:
            self.shown = None
            if isinstance(error, OSError):  # whoever looked has gone, for example with the same Ctrl-C
                silence()

    def __enter__(self) -> Self:
        self._do(lambda view: view.__enter__())
        return self

    def __exit__(self, *reason: object) -> None:
        self._do(lambda view: view.__exit__(*reason))

    def update(self, board: Board) -> None:
        self._do(lambda view: view.update(board))

    def event(self, text: str) -> None:
        self._do(lambda view: view.event(text))

    def say(self, text: str) -> None:
        self._do(lambda view: view.say(text))


def silence() -> None:
    """Send what is still printed nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            if stream is sys.stdout or os.isatty(stream.fileno()):
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class Lines(View):
    """A line for each event, and now and then one that says where the whole sweep stands."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.board: Board | None = None
        self.told, self.when = "", -LINE_SECONDS  # the last line about the whole sweep, and when it was printed
        self.notes: tuple[str, ...] = ()

    def __exit__(self, *reason: object) -> None:
        if self.board is not None:
            self.stand(self.board)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def event(self, text: str) -> None:
        self.say(f"[{clock(self.board.elapsed if self.board else 0.0)}] {text}")

    def update(self, board: Board) -> None:
        for line in board.notes:
            if line not in self.notes:
                self.say(line)
        begun = self.board is not None and self.board.stopping == board.stopping
        self.notes, self.board = board.notes, board
        if not begun or self.clock() - self.when >= LINE_SECONDS:
            self.stand(board)

    def stand(self, board: Board) -> None:
        """Say where the whole sweep stands, unless nothing has changed since it was said."""
        parts = [summary(tally, board.metric) for tally in board.tallies if tally.states or tally.running]
        told = "; ".join(parts) + note(board)
        self.when = self.clock()
        if told and told != self.told:
            self.told = told
            self.say(f"[{clocks(board)}] {told.removeprefix(', ')}")


def view_for(console: Console | None = None) -> View:
    """A board that is drawn in place where standard output is a terminal, plain lines elsewhere."""
    from orchestrator.screen import Screen

    console = console or Console()
    return Screen(console) if console.is_terminal else Lines()


def summary(tally: Tally, metric: str) -> str:
    """One stage of one arm in words."""
    parts = [f"{tally.ended}/{tally.expected} done"]
    parts += [f"{len(tally.running)} running"] if tally.running else []
    parts += [f"{count} {state}" for state, count in sorted(tally.states.items()) if state != "completed"]
    if tally.best is not None:
        parts.append(f"best {metric} {best(tally)}")
    return f"{tally.arm} {tally.stage}: " + ", ".join(parts)


def best(tally: Tally) -> str:
    """The best value so far and the trial that reached it."""
    return "" if tally.best is None else f"{tally.best[0]:.4g} (trial {tally.best[1]})"


def eta(board: Board) -> float | None:
    """Seconds that are left at the rate of this start; None before anything is known."""
    return board.elapsed * board.steps_left / board.steps_done if board.steps_done > 0 else None


def clocks(board: Board) -> str:
    left = eta(board)
    return clock(board.elapsed) + (f", about {clock(left)} left" if left else "")


def note(board: Board) -> str:
    return f", {board.stopping}: stopping after the evaluations in progress" if board.stopping else ""


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss from an hour on."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
