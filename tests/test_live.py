import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.live import Board, Lines, Tally, Training, Unfailing, View, clock, eta, view_for
from orchestrator.screen import Screen


def board(**changes):
    search = Tally(
        "pixelcnn", "search", 7, {"completed": 3, "diverged": 2}, [Training("pixelcnn-search-5", 30, 110)], (41.5, 2)
    )
    values = {"sweep": "study", "metric": "fd_lite0", "tallies": [search, Tally("pixeliqn", "final", 5, {}, [], None)]}
    return Board(**{**values, "elapsed": 75.0, "steps_done": 300, "steps_left": 900, **changes})


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (59.9, "0:59"), (3599, "59:59"), (3661, "1:01:01")])
def test_clock(seconds, shown):
    assert clock(seconds) == shown


def test_what_is_left_follows_the_rate_of_this_start():
    assert eta(board()) == 225  # 300 steps took 75 s
    assert eta(board(steps_done=0)) is None


def test_lines_say_what_ended_and_leave_out_what_has_not_begun(capsys):
    Lines().update(board())
    assert capsys.readouterr().out == (
        "[1:15, about 3:45 left] pixelcnn search: 5/7 done" + ", 1 running, 2 diverged, best fd_lite0 41.5 (trial 2)\n"
    )


def test_a_line_for_each_event_and_now_and_then_one_for_the_whole_sweep(capsys):
    now = [0.0]
    with Lines(lambda: now[0]) as lines:
        for seconds in range(0, 700, 7):
            now[0] = seconds
            lines.update(
                board(elapsed=seconds, steps_done=0, tallies=[Tally("a", "search", 7, {"failed": seconds}, [], None)])
            )
            if seconds == 350:
                lines.event("a-search-3 completed")
        assert capsys.readouterr().out.splitlines() == [
            "[0:00] a search: 0/7 done, 0 failed",
            "[5:01] a search: 301/7 done, 301 failed",  # LINE_SECONDS later
            "[5:50] a-search-3 completed",
            "[10:02] a search: 602/7 done, 602 failed",
        ]
    assert capsys.readouterr().out == "[11:33] a search: 693/7 done, 693 failed\n"  # where it ended


def test_what_has_not_changed_is_not_said_again_and_a_stop_is_said_at_once(capsys):
    with Lines() as lines:
        lines.update(board())
        capsys.readouterr()
        lines.update(board())
        assert capsys.readouterr().out == ""
        lines.update(board(stopping="asked to stop"))
        assert capsys.readouterr().out.endswith(", asked to stop: stopping after the evaluations in progress\n")
        lines.update(board(stopping="asked to stop"))
    assert capsys.readouterr().out == ""


def test_a_table_only_in_a_terminal():
    assert isinstance(view_for(Console(file=io.StringIO())), Lines)
    assert isinstance(view_for(Console(file=io.StringIO(), force_terminal=True)), Screen)


def test_a_reader_that_has_gone_does_not_end_the_sweep():
    script = (
        "import sys; from orchestrator.live import Lines, Unfailing; view = Unfailing(Lines()); view.say('one');"
        "sys.stdin.read(); view.say('two'); view.say('three'); print('four'); sys.stdout.flush(); sys.exit(3)"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"one\n"
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 3


TERMINAL = """
import os, pty, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
outer, inner = pty.openpty()
for number in (1, 2):
    os.dup2(inner, number)
os.close(inner)
from rich.console import Console
from test_live import board
from orchestrator.live import Unfailing, view_for
with Unfailing(view_for(Console())) as view:
    view.update(board())
    assert os.read(outer, 5)
    os.close(outer)  # the terminal is gone: writing gives EIO from now on
    for seconds in range(3):
        view.update(board(elapsed=seconds))
        view.say("said")
os.write(int(sys.argv[1]), b"went on")
"""


def test_a_terminal_that_has_gone_does_not_end_the_sweep():
    """A real pseudo-terminal, with the view that a terminal gets."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as told:
        command = [sys.executable, "-c", TERMINAL, str(write)]
        process = subprocess.Popen(command, cwd=Path(__file__).parent, pass_fds=[write], stdin=subprocess.DEVNULL)
        os.close(write)
        assert told.read() == b"went on"
        process.wait(60)


def test_no_error_of_the_view_ends_the_sweep():
    class Broken(View):
        def update(self, board):
            raise RuntimeError("cannot draw")

    with Unfailing(Broken()) as view:
        view.update(board())
        view.update(board())


def test_parked_trials_are_not_done(capsys):
    waits = Tally("pixelcnn", "search", 11, {"completed": 2, "parked": 5}, [], None)
    Lines().update(board(tallies=[waits]))
    assert capsys.readouterr().out.endswith("pixelcnn search: 2/11 done, 5 parked\n")
