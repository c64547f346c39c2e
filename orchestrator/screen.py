"""The board of a running sweep in a terminal: arms, the trials in training, the last events; it always fits whole."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Self, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.causes import State
from orchestrator.live import Board, Tally, Training, View, clock, clocks, note

EVENTS = 100  # that are kept, for a terminal that grows
HIDDEN = (State.PRUNED, State.PARKED, State.DIVERGED, State.STOPPED)  # columns that are there once they count any
Item = TypeVar("Item")


class Screen(View):
    """The board, drawn anew in place."""

    def __init__(self, console: Console) -> None:
        self.live = Live(console=console, refresh_per_second=4, transient=False)
        self.events: deque[str] = deque(maxlen=EVENTS)
        self.elapsed = 0.0

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self.live.stop()

    def update(self, board: Board) -> None:
        self.elapsed = board.elapsed
        self.live.update(Fitted(board, tuple(self.events)))

    def event(self, text: str) -> None:
        self.events.append(f"{clock(self.elapsed)} {text}")

    def say(self, text: str) -> None:
        self.live.console.print(text, markup=False)


class Fitted:
    """The board and the last events, in as many lines as the terminal has but one, on which the cursor stands."""

    def __init__(self, board: Board, events: tuple[str, ...]) -> None:
        self.board, self.events = board, events

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield from lines(self.board, self.events, console.size.height - 1)


def lines(board: Board, events: tuple[str, ...], height: int) -> list[RenderableType]:
    """At most `height` lines: one for the whole sweep, then as much of all else as fits (see `shares`)."""
    rows = [tally for tally in board.tallies if tally.expected]
    training = [one for tally in board.tallies for one in tally.running]
    wanted = (len(rows) + 1, len(training) + bool(training), len(events) + bool(events), len(board.notes))
    of_table, of_training, of_events, of_notes = shares(wanted, height - 1)
    parts: list[RenderableType] = [_line(f"sweep {board.sweep}   {clocks(board)}{note(board)}", "bold")]
    parts += map(_line, board.notes[:of_notes])
    if of_table:
        shown, more = _fitting(sorted(rows, key=lambda tally: not tally.running), of_table - 1)
        parts += [table(board, [tally for tally in rows if tally in shown]), *more]
    if of_training:
        first, more = _fitting(training, of_training - 1)
        several = len({one.host for one in training if one.host}) > 1
        parts += [_line("in training", "dim"), *(_line(_trained(one, several)) for one in first), *more]
    if of_events:
        parts += [_line("last events", "dim"), *map(_line, events[1 - of_events :])]
    return parts


def shares(wanted: Sequence[int], room: int) -> list[int]:
    """How many of `room` lines each part gets, at most what it wants, from the first on in turn; none gets one alone.

    One line would be a heading without anything below; only the last part has none.
    """
    given = [0] * len(wanted)
    while room > 0:
        before = room
        for part, want in enumerate(wanted):
            step = 2 if given[part] == 0 and part < len(wanted) - 1 else 1
            if given[part] + step <= want and step <= room:
                given[part] += step
                room -= step
        if room == before:
            break
    return given


def table(board: Board, rows: list[Tally]) -> Table:
    """A line for each stage of each arm: what is done, what is in training, how others ended, the best."""
    drawn = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    drawn.add_column("arm", no_wrap=True, overflow="ellipsis", min_width=8)
    drawn.add_column("stage", no_wrap=True)
    hidden = [state for state in HIDDEN if any(tally.count(state) for tally in board.tallies)]
    for word in ("done", "now", *hidden, "failed", f"best {board.metric}"):
        drawn.add_column(str(word), justify="right", no_wrap=True, overflow="ellipsis")
    for tally in rows:
        counted = [str(tally.count(state)) for state in (*hidden, State.FAILED)]
        best = "" if tally.best is None else f"{tally.best[0]:.4g} #{tally.best[1]}"
        done = f"{tally.ended}/{tally.expected}"
        drawn.add_row(tally.arm, str(tally.stage), done, str(len(tally.running)), *counted, best)
    return drawn


def _fitting(items: list[Item], room: int) -> tuple[list[Item], list[Text]]:
    """The first of the items, and a line that says how many more there are, in at most `room` lines."""
    shown = items if len(items) <= room else items[: max(1, room - 1)]
    more = len(items) - len(shown)
    return shown, [_line(f"and {more} more", "dim")] if more and len(shown) < room else []


def _trained(one: Training, several: bool) -> str:
    """A trial in training: its share of all steps as a bar, its step, and its machine where there are several."""
    bar = "#" * int(20 * one.step / max(1, one.steps))
    where = f"  {one.host}" if several and one.host else ""
    return f"{one.trial:<28} {bar:.<20} {one.step:>9,} of {one.steps:,}{where}"


def _line(text: str, style: str = "") -> Text:
    """One line, cut off where the terminal ends."""
    return Text(text.replace("\n", " "), style=style, no_wrap=True, overflow="ellipsis", end="\n")
