"""The command of a sweep file that is run once when the sweep has ended or stopped, so that nobody has to look."""

import os
import subprocess
from collections.abc import Sequence

from orchestrator.causes import State
from orchestrator.outcome import WRONG_INPUT
from orchestrator.runs import RunFolder, RunFolderError, load_runs

LIMIT_SECONDS = 60.0  # after which the command is ended


def is_finished(run: RunFolder) -> bool:
    """Whether every trial of a run folder had ended; False also where there is none that can be read."""
    try:
        return bool((run.sweep_if_begun() or {}).get("finished"))
    except RunFolderError:
        return False


def end_of(run: RunFolder, code: int, *, finished_before: bool) -> str:
    """How a start of a sweep with this exit code ended: finished, failed or stopped; "" where nothing has begun."""
    if code == WRONG_INPUT:  # nothing was started, or another process is at it
        return ""
    if not is_finished(run):
        return "stopped"
    if finished_before:
        return ""
    return "failed" if load_runs(run.path, State.FAILED) else "finished"


def notify(command: Sequence[str], run: RunFolder, state: str, seconds: float = LIMIT_SECONDS) -> str:
    """Run a command, with AIQN_RUN, AIQN_STATE and AIQN_ANSWER in its environment; what went wrong in one line, or "".

    The state is "finished", "failed" (finished, but some trials failed) or "stopped"; the answer is that of the report,
    empty before there is one. Without a command, or without a state, nothing is done.
    """
    if not command or not state:
        return ""
    answer = run.report / "answer.txt"
    text = answer.read_text(encoding="utf-8").strip() if answer.exists() else ""
    told = {"AIQN_RUN": str(run.path.absolute()), "AIQN_STATE": state, "AIQN_ANSWER": text.replace("\0", "")}
    try:
        done = subprocess.run(
            list(command), env=os.environ | told, stdin=subprocess.DEVNULL, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return f"notify: {command[0]} was ended, as it took more than {seconds:g} s"
    except (OSError, ValueError) as error:
        return f"notify: {command[0]} could not be run ({getattr(error, 'strerror', None) or error})"
    return f"notify: {command[0]} ended with code {done.returncode}" if done.returncode else ""
