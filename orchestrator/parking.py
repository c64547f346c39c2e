"""The rungs of a sweep's arms as the journal holds them: where its trials stand, and what is written of it.

A parked trial is RUNNING in Optuna, for that is what its study can take up again, with its end so far under `outcome`
like that of every ended trial, and under `promoted` how many rungs it was promoted from. Once nothing is left of an
arm's search its parked trials are told as PRUNED with their last value; where the search goes on later, because it has
grown or somebody asks for them, the journal forgets that (`reopen_parked`), as for `aiqn retry`.
"""

from collections.abc import Iterable

from optuna.trial import FrozenTrial, TrialState

from orchestrator.causes import Stage, State
from orchestrator.earlier import ATTRIBUTE
from orchestrator.journal import Recorded, recorded_trials, reopen
from orchestrator.promotion import Contest, Settings, audited, rungs_of, settings_of
from orchestrator.runs import RunFolder
from orchestrator.sections import Sweep
from orchestrator.seen import is_parked


class ArmRungs(Contest):
    """The rungs of one arm's search; without any where the sweep's pruner does not promote."""

    def __init__(self, sweep: Sweep, arm: str) -> None:
        settings = settings_of(sweep.search.pruner)
        self.settings, self.arm, self.seed = settings, arm, sweep.search.seed
        self.sign = 1.0 if sweep.search.objective.direction == "minimize" else -1.0
        self.earlier = 0  # trials of another run, which stand in the journal before all others
        known = settings or Settings()
        super().__init__(
            rungs_of(sweep.arms[arm].base, settings), known.reduction_factor, sweep.search.trials, known.asynchronous
        )

    def begin(self, number: int, asked: bool = False) -> None:
        """A search trial of this arm is handed out, or was."""
        self.enter(number, asked or audited(self.settings, self.seed, self.arm, number - self.earlier))

    def measured(self, number: int, step: int, value: float | None) -> None:
        """A trial's objective at an evaluation."""
        self.reached(number, step, None if value is None else self.sign * value)

    def shown_until(self, number: int) -> int | None:
        """The rung beyond which no sampler is shown a trial, which trains on for the audit alone; None for others."""
        one = self.contestants.get(number)
        return self.rungs[one.passed] if one is not None and one.free and one.passed < len(self.rungs) else None

    def take_up(self, trial: FrozenTrial) -> None:
        """What the journal says of a trial."""
        if ATTRIBUTE in trial.user_attrs:
            self.earlier += 1
            return
        if trial.state == TrialState.WAITING:
            return
        self.begin(trial.number, bool(trial.user_attrs.get("asked")))
        for step, value in trial.intermediate_values.items():
            self.measured(trial.number, step, value)
        if is_parked(trial):
            self.park(trial.number, trial.user_attrs["outcome"]["step"])
        elif trial.state.is_finished():
            self.end(trial.number, trial.state == TrialState.COMPLETE)
        self.contestants[trial.number].passed = max(
            self.contestants[trial.number].passed, trial.user_attrs.get("promoted", 0)
        )


def reopen_parked(run: RunFolder, sweep: Sweep) -> None:
    """Make the parked trials of each arm whose search is not over unfinished again; for the run folder's lock holder.

    That is where trials are missing, or one of them is unfinished: only then can any be promoted.
    """
    if settings_of(sweep.search.pruner) is None or not run.journal.exists():
        return
    trials = recorded_trials(run.journal)
    chosen: list[Recorded] = []
    for arm in sweep.arms:
        own = [one for one in trials if (one.arm, one.stage) == (arm, Stage.SEARCH) and ATTRIBUTE not in one.attributes]
        if len(own) < sweep.search.trials or not all(one.ended for one in own):
            chosen += told_parked(own)
    if chosen:
        reopen(run.journal, {one.id: {} for one in chosen})


def told_parked(trials: Iterable[Recorded]) -> list[Recorded]:
    """Those of a journal's trials that were told as ended while parked."""
    return [one for one in trials if one.ended and (one.attributes.get("outcome") or {}).get("state") == State.PARKED]
