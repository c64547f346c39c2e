"""The terminal view of a running sweep: a live table in a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from orchestrator.causes import Stage

LINE_SECONDS = 15.0  # between plain lines where nothing ended


@dataclass(frozen=True)
class Tally:
    """Where one stage of one arm stands."""

    arm: str
    stage: Stage
    expected: int
    states: dict[str, int]  # of the trials that ended
    running: list[tuple[str, int, int]]  # (trial, step, steps)
    best: tuple[float, int] | None  # (value, number)

    @property
    def ended(self) -> int:
        return sum(self.states.values()) - self.parked

    @property
    def parked(self) -> int:
        """Trials that wait at a rung; once the search is over, those that it left there."""
        return self.states.get("parked", 0)

    @property
    def troubled(self) -> dict[str, int]:
        return {state: count for state, count in self.states.items() if state not in ("completed", "pruned", "parked")}


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

    def say(self, text: str) -> None:
        """Show one line that is no board."""


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
    """One line when a trial has ended, and now and then while all are busy."""

    def say(self, text: str) -> None:
        print(text, flush=True)

    def __init__(self) -> None:
        self.last, self.ended = 0.0, -1
        self.notes: tuple[str, ...] = ()

    def update(self, board: Board) -> None:
        for line in board.notes:
            if line not in self.notes:
                self.say(line)
        self.notes = board.notes
        ended = sum(tally.ended + tally.parked for tally in board.tallies)
        if ended == self.ended and time.monotonic() - self.last < LINE_SECONDS:
            return
        self.last, self.ended = time.monotonic(), ended
        parts = [summary(tally, board.metric) for tally in board.tallies if tally.ended or tally.running]
        self.say(f"[{clocks(board)}] " + "; ".join(parts) + note(board))


class Screen(View):
    """A table that is drawn anew in place."""

    def __init__(self, console: Console) -> None:
        self.live = Live(console=console, refresh_per_second=4, transient=False)

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self.live.stop()

    def update(self, board: Board) -> None:
        self.live.update(table(board))

    def say(self, text: str) -> None:
        self.live.console.print(text, markup=False)


def view_for(console: Console | None = None) -> View:
    """A live table where standard output is a terminal, plain lines elsewhere."""
    console = console or Console()
    return Screen(console) if console.is_terminal else Lines()


def table(board: Board) -> Table:
    """The board as a table: a row for each stage of each arm."""
    caption = "\n".join((clocks(board) + note(board), *board.notes))
    drawn = Table(title=f"sweep {board.sweep}", caption=caption, title_justify="left", caption_justify="left")
    for column in ("arm", "stage"):
        drawn.add_column(column)
    parked = any(tally.parked for tally in board.tallies)
    counted = ("done", "running", "pruned", *(("parked",) if parked else ()), "failed")
    for column in (*counted, f"best {board.metric}"):
        drawn.add_column(column, justify="right")
    drawn.add_column("in training")
    for tally in board.tallies:
        if not tally.expected:
            continue
        drawn.add_row(
            tally.arm,
            tally.stage,
            f"{tally.ended}/{tally.expected}",
            str(len(tally.running)),
            str(tally.states.get("pruned", 0)),
            *([str(tally.parked)] if parked else []),
            str(sum(tally.troubled.values())),
            best(tally),
            ", ".join(f"{trial.rsplit('-', 1)[1]}: {step}/{steps}" for trial, step, steps in tally.running),
        )
    return drawn


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
