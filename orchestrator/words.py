"""What the commands share at the shell: help whose sentences are whole, and names that the shell completes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from orchestrator.runs import TRIAL_ID

WHOLE = 1000  # letters, more than any sentence has
HELP = {"help_option_names": ["-h", "--help"]}


class Commands(TyperGroup):
    """A group whose list of commands gives their first sentences whole, on several lines where one is too short."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # of typer's own copy of click, which has no name
        shown = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, one.get_short_help_str(WHOLE)) for name, one in shown if one is not None and not one.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def runs_that_begin(incomplete: str) -> Iterator[str]:
    """Run folders whose path begins so, and the folders on the way to them; without any text those in runs/."""
    for folder in _folders(incomplete or "runs/"):
        yield str(folder) if (folder / "sweep.json").exists() else f"{folder}/"


def trials_that_begin(incomplete: str) -> Iterator[str]:
    """Trials whose path begins so, and the folders on the way to them; of a run folder its trials at once."""
    for folder in _folders(incomplete or "runs/"):
        inside = folder / "trials"
        if TRIAL_ID.fullmatch(folder.name):
            yield str(folder)
        elif inside.is_dir():
            yield from sorted(str(trial) for trial in inside.iterdir() if TRIAL_ID.fullmatch(trial.name))
        else:
            yield f"{folder}/"


def trials_of_run(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """The trials of the run that the command line names, by their names."""
    run = ctx.params.get("run")
    inside = Path(run) / "trials" if run else Path()
    names = sorted(path.name for path in inside.iterdir()) if run and inside.is_dir() else []
    yield from (name for name in names if TRIAL_ID.fullmatch(name) and name.startswith(incomplete))


def _folders(incomplete: str) -> list[Path]:
    """The folders whose path begins with a text."""
    above, begin = Path(incomplete), ""
    if not incomplete.endswith("/"):
        above, begin = above.parent, above.name
    try:
        return sorted(path for path in above.iterdir() if path.name.startswith(begin) and path.is_dir())
    except OSError:
        return []
