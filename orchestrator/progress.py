"""How far trials are between their evaluations, and where: read from their folders, a few at a time."""

import time
from collections.abc import Callable, Iterable

from orchestrator.runs import RunFolder

LOOK_SECONDS = 1.0  # between two looks at one trial
AT_ONCE = 8  # trials that a call of `look` reads: a shared disk is not asked for hundreds of files each second


class Progress:
    """The last step and the machine of each trial in training, as its folder told them last."""

    def __init__(self, run: RunFolder, clock: Callable[[], float] = time.monotonic) -> None:
        self.run, self.clock = run, clock
        self.seen: dict[str, tuple[float, int, str]] = {}  # trial -> (when, step, host)

    def look(self, trials: Iterable[str]) -> None:
        """Read those of the trials that were not looked at for longest; forget all others."""
        now = self.clock()
        self.seen = {trial: self.seen.get(trial, (-LOOK_SECONDS, 0, "")) for trial in trials}
        due = sorted((when, trial) for trial, (when, _, _) in self.seen.items() if now - when >= LOOK_SECONDS)
        for _, trial in due[:AT_ONCE]:
            folder = self.run.trial(trial)
            self.seen[trial] = now, folder.last_step() or 0, str(folder.read_status().get("host") or "")

    def step(self, trial: str) -> int:
        """The last step of a trial's records; 0 before it is known."""
        return self.seen[trial][1] if trial in self.seen else 0

    def host(self, trial: str) -> str:
        """The machine that a trial is on; "" before it is known."""
        return self.seen[trial][2] if trial in self.seen else ""
