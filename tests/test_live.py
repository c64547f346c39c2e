import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.live import Board, Lines, Screen, Tally, Unfailing, View, clock, eta, table, view_for


def board(**changes):
    search = Tally(
        "pixelcnn", "search", 7, {"completed": 3, "diverged": 2}, [("pixelcnn-search-5", 30, 110)], (41.5, 2)
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


def test_lines_are_quiet_until_another_trial_has_ended(capsys):
    lines, now = Lines(), board()
    lines.update(now)
    lines.update(now)
    assert len(capsys.readouterr().out.splitlines()) == 1
    lines.update(board(tallies=[Tally("pixelcnn", "search", 7, {"completed": 6}, [], None)], stopping="asked to"))
    assert capsys.readouterr().out.endswith("6/7 done, asked to: stopping after the evaluations in progress\n")


def test_the_table_has_a_row_for_each_stage_with_what_is_in_training():
    console = Console(file=io.StringIO(), width=120)
    console.print(table(board()))
    row = next(line for line in console.file.getvalue().splitlines() if "pixelcnn" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "pixelcnn", "search", "5/7", "1", "0", "2", "41.5 (trial 2)", "5: 30/110",
    ]  # fmt: skip


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


def test_parked_trials_have_a_column_where_there_are_any_and_are_not_done(capsys):
    waits = Tally("pixelcnn", "search", 11, {"completed": 2, "parked": 5}, [], None)
    console = Console(file=io.StringIO(), width=120)
    console.print(table(board(tallies=[waits])))
    row = next(line for line in console.file.getvalue().splitlines() if "pixelcnn" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][2:7] == ["2/11", "0", "0", "5", "0"]
    Lines().update(board(tallies=[waits]))
    assert capsys.readouterr().out.endswith("pixelcnn search: 2/11 done, 5 parked\n")
