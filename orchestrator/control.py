"""Requests from outside: `aiqn stop` leaves a file in the run folder, the driver takes it up."""

from pathlib import Path

from orchestrator.runs import TRIAL_ID, RunFolder, RunFolderError, load_runs, write_json

SWEEP = "stop"  # the file that asks for the whole sweep; that for a trial has its name behind a dot
LEAVE = "leave."  # before the name of a node that asks to be let go; the file goes when no trial is there any more
STOPPED = "stopped"  # the file that tells who starts sweeps by itself to leave this one, until the next start


def ask_to_stop(run_folder: Path | str, trial: str | None = None) -> str:
    """Ask the driver of a run to stop it, or one of its trials, after the current evaluation; says what was asked.

    Raises RunFolderError where no driver runs, or no such trial.
    """
    run = RunFolder(Path(run_folder))
    run.read_sweep()
    owner = run.owner()
    if owner is None:
        raise RunFolderError(f"{run.path} is not running; there is nothing to stop")
    if trial is not None:
        _check_running(run, trial)
    write_json(run.control / (SWEEP if trial is None else f"{SWEEP}.{trial}"), {"trial": trial})
    what = "the sweep" if trial is None else trial
    return f"asked {owner} to stop {what} after the current evaluation"


def note_stop(run: RunFolder, why: str) -> None:
    """Leave word that the sweep has ended because it was asked to, or its budget is spent, and not by a signal."""
    write_json(run.control / STOPPED, {"why": why})


def take_requests(run: RunFolder) -> tuple[bool, list[str]]:
    """Whether the sweep was asked to stop, and which trials; taken requests are gone, and word of an earlier stop."""
    sweep, trials = False, []
    for path in sorted(run.control.glob(f"{SWEEP}*")):
        path.unlink(missing_ok=True)
        trial = path.name.removeprefix(f"{SWEEP}.")
        if path.name == SWEEP:
            sweep = True
        elif TRIAL_ID.fullmatch(trial):
            trials.append(trial)
    return sweep, trials


def _check_running(run: RunFolder, trial: str) -> None:
    running = [item.id for item in load_runs(run.path) if item.state == "running"]
    if trial not in running:
        listed = ", ".join(running) or "none"
        raise RunFolderError(f"saw {trial!r}, expected a trial that is running: {listed}")
