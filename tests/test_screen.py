import io

import pytest
from rich.console import Console

from orchestrator.live import Board, Tally, Training
from orchestrator.screen import Fitted, shares

STATES = {"completed": 31, "pruned": 12, "parked": 5, "diverged": 3, "failed": 2, "stopped": 1}


def drawn(board, events=(), width=80, height=24):
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    console.print(Fitted(board, tuple(events)))
    return console.file.getvalue().splitlines()


def board(tallies, **changes):
    values = {"sweep": "study", "metric": "fd_lite0", "tallies": tallies, "elapsed": 75.0}
    return Board(**{**values, "steps_done": 300, "steps_left": 900, **changes})


def cells(lines, arm):
    return next(line for line in lines if line.startswith(f"{arm} ")).split()


def test_diverged_and_failed_are_told_apart_and_what_is_not_there_has_no_column():
    lines = drawn(board([Tally("cnn", "search", 60, STATES, [], (41.5, 2)), Tally("iqn", "final", 7, {}, [], None)]))
    assert lines[0] == "sweep study   1:15, about 3:45 left"
    heads = ["arm", "stage", "done", "now", "pruned", "parked", "diverged", "stopped", "failed", "best", "fd_lite0"]
    assert lines[1].split() == heads
    assert cells(lines, "cnn") == ["cnn", "search", "49/60", "0", "12", "5", "3", "1", "2", "41.5", "#2"]
    assert drawn(board([Tally("iqn", "search", 7, {"failed": 5}, [], None)]))[1].split() == [
        "arm", "stage", "done", "now", "failed", "best", "fd_lite0",
    ]  # fmt: skip


def test_each_trial_in_training_has_its_step_and_its_machine_where_there_are_several():
    running = [Training("cnn-search-5", 30, 110, "n1"), Training("cnn-search-11", 55, 110, "n2")]
    lines = drawn(board([Tally("cnn", "search", 60, {}, running, None)]), ["0:12 cnn-search-3 failed (KeyError)"])
    assert [line.split() for line in lines[-5:]] == [
        ["in", "training"],
        ["cnn-search-5", "#" * 5 + "." * 15, "30", "of", "110", "n1"],
        ["cnn-search-11", "#" * 10 + "." * 10, "55", "of", "110", "n2"],
        ["last", "events"],
        ["0:12", "cnn-search-3", "failed", "(KeyError)"],
    ]
    alone = drawn(board([Tally("cnn", "search", 60, {}, running[:1], None)]))
    assert not any("n1" in line for line in alone)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 9), (40, 5), (200, 50)])
@pytest.mark.parametrize("arms", [1, 5, 37])
@pytest.mark.parametrize("running", [0, 2, 97])
@pytest.mark.parametrize("events", [0, 1, 71])
def test_it_fits_whole_whatever_there_is_to_show(width, height, arms, running, events):
    """One line is left for the cursor: a live view that is higher is cut off, and scrolls at each look."""
    rows = [Tally(f"an_arm_with_a_long_name_{i}", "search", 4000, STATES, [], (-123456.7, 3210)) for i in range(arms)]
    trials = [
        Training(f"an_arm_with_a_long_name_0-search-{i}", i, 100_000, "a-node.of.a.cluster") for i in range(running)
    ]
    rows[-1] = Tally("last", "search", 4000, STATES, trials, None)
    told = [f"1:02:03 trial {i} failed (KeyError): " + 50 * "long " for i in range(events)]
    lines = drawn(
        board(rows, stopping="asked to stop", notes=("node n7 is avoided: " + 20 * "two ",)), told, width, height
    )
    assert len(lines) <= height - 1
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("sweep study")
    if height >= 9:  # as small as anybody's
        assert not running or any(line.startswith("last ") for line in lines)  # the arm in which something is trained
        assert not running or any("an_arm_with_a_long_name_0-search-0 " in line for line in lines)
        assert not events or any(f"trial {events - 1} failed" in line for line in lines)


def test_lines_are_shared_in_turn_and_a_heading_is_never_alone():
    assert shares([3, 0, 5, 1], 100) == [3, 0, 5, 1]
    assert shares([38, 3, 72, 0], 22) == [10, 3, 9, 0]
    assert shares([38, 3, 72, 1], 3) == [2, 0, 0, 1]
    assert shares([38, 3, 72, 1], -1) == [0, 0, 0, 0]
