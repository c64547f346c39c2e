"""Which trials of a run folder have changed since the last look: for readers that look every second."""

from collections.abc import Iterator
from pathlib import Path

from orchestrator.runs import TRIAL_ID, Run, RunFolder, TrialFolder, load_run

Signature = tuple[tuple[int, int] | None, ...]


class Watch:
    """A reader that loads a trial only when one of its files has changed: a look costs three `stat` for each trial."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.seen: dict[str, Signature] = {}

    def names(self) -> list[str]:
        """The trials that have a folder."""
        try:
            return sorted(path.name for path in self.run.trials.iterdir() if TRIAL_ID.fullmatch(path.name))
        except FileNotFoundError:
            return []

    def signatures(self) -> dict[str, Signature]:
        """When the files of each trial were last changed, and their sizes."""
        return {name: _signature(self.run.trial(name)) for name in self.names()}

    def changed(self) -> Iterator[Run]:
        """The trials that are new or have changed since the last call."""
        for name in self.names():
            now = _signature(self.run.trial(name))  # before the files are read: what is written later is seen
            if now != self.seen.get(name) and (found := load_run(self.run, name)) is not None:
                self.seen[name] = now
                if found.damage is None:  # of one that is damaged, whoever looks keeps what he knows
                    yield found


def _signature(folder: TrialFolder) -> Signature:
    return tuple(map(signature, (folder.config, folder.status, folder.metrics)))


def signature(path: Path) -> tuple[int, int] | None:
    """When a file was last changed, and its size; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size
