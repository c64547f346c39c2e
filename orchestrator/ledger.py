"""The ledger: every trial of a sweep in Optuna studies over one journal file. Issue, re-issue, report, prune, tell.

No Ray, no threads: the driver is the only writer, and everything it needs after a crash is in the journal and in the
trials' folders.
"""

import math
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from orchestrator.runs import FINISHED, RunFolder, trial_id
from orchestrator.samplers import make_pruner, make_sampler
from orchestrator.sections import Sweep, trial_seed
from orchestrator.space import Space, optuna_params, suggest
from orchestrator.trial import Assignment

CONFIGURATION_FAULTS = ("out of GPU memory", "out of memory", "configuration")  # told so that the sampler avoids them
RUNNING_STATES = (TrialState.RUNNING, TrialState.WAITING)

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


@dataclass
class Row:
    """One trial as the driver sees it while the sweep runs."""

    assignment: Assignment
    trial: Trial  # writes to the journal
    state: str = "running"
    step: int = 0
    value: float | None = None  # the objective at the last evaluation
    retries: int = 0
    reported: set[int] = field(default_factory=set)


class Ledger:
    """Decides what is trained next, and keeps what became of it. `rows` are the trials in the hands of workers."""

    def __init__(self, run: RunFolder, sweep: Sweep) -> None:
        self.run, self.sweep = run, sweep
        self.objective = sweep.search.objective
        repair(run.journal)
        storage = JournalStorage(JournalFileBackend(str(run.journal)))
        direction = self.objective.direction
        pruner = make_pruner(sweep.search.pruner, direction)
        self.studies = {
            (arm, stage): optuna.create_study(
                storage=storage,
                study_name=f"{arm}/{stage}",
                direction=direction,
                pruner=pruner if stage == "search" else optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
            for arm in sweep.arms
            for stage in ("search", "final")
        }
        self.rows: dict[str, Row] = {}
        self.states: dict[tuple[str, str], Counter[str]] = {key: Counter() for key in self.studies}
        self.best: dict[tuple[str, str], tuple[float, int]] = {}
        self.pending: list[tuple[str, str, FrozenTrial]] = []  # unfinished trials of a driver that is gone
        for (arm, stage), study in self.studies.items():
            for frozen in study.get_trials(deepcopy=False):
                if frozen.state not in RUNNING_STATES:
                    outcome = frozen.user_attrs.get("outcome", {})
                    self._count(arm, stage, frozen.number, outcome.get("state", "failed"), frozen.value)
                elif frozen.state == TrialState.RUNNING:
                    self.pending.append((arm, stage, frozen))

    # ---- what is next -------------------------------------------------------------------------------------------

    def next(self) -> Assignment | None:
        """The next trial to train, already in the journal as RUNNING; None while there is nothing to hand out."""
        while self.pending:
            assignment = self._reissue(*self.pending.pop(0))
            if assignment is not None:
                return assignment
        for arm in self.sweep.arms:
            if self._search_complete(arm) and (assignment := self._next_final(arm)):
                return assignment
        arms = [arm for arm in self.sweep.arms if self.issued(arm, "search") < self.sweep.search.trials]
        if not arms:
            return None
        return self._next_search(min(arms, key=lambda arm: self.issued(arm, "search")))

    @property
    def complete(self) -> bool:
        """Whether every trial of the sweep has ended."""
        return not self.rows and not self.pending and all(self._arm_complete(arm) for arm in self.sweep.arms)

    def issued(self, arm: str, stage: str) -> int:
        """How many trials of an arm have been handed out, in whatever state they are now."""
        live = sum(row.assignment.arm == arm and row.assignment.stage == stage for row in self.rows.values())
        waiting = sum(pending[:2] == (arm, stage) for pending in self.pending)
        return self.states[arm, stage].total() + live + waiting

    def expected(self, arm: str, stage: str) -> int:
        """How many trials of an arm there will be; finals can be fewer where too few search trials completed."""
        if stage == "search":
            return self.sweep.search.trials
        if self.sweep.final is None:
            return 0
        top = len(self.winners(arm)) if self._search_complete(arm) else self.sweep.final.top
        return max(top * len(self.sweep.final.seeds), self.states[arm, stage].total())

    def steps(self, arm: str, stage: str) -> int:
        """Training steps of one trial of a stage."""
        longer = self.sweep.final.steps if stage == "final" and self.sweep.final is not None else None
        return int(longer or self.sweep.arms[arm].base["train"]["steps"])

    def winners(self, arm: str) -> list[FrozenTrial]:
        """The search trials that go on to the finals: the best by the objective, the earlier one of equals."""
        if self.sweep.final is None:
            return []
        sign = 1 if self.objective.direction == "minimize" else -1
        completed = self.studies[arm, "search"].get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        ranked = sorted(completed, key=lambda trial: (sign * float(trial.value or 0.0), trial.number))
        return ranked[: self.sweep.final.top]

    def _next_search(self, arm: str) -> Assignment:
        study, space = self.studies[arm, "search"], self.sweep.arms[arm].space
        number = len(study.get_trials(deepcopy=False))
        study.sampler = self._sampler(arm, number, space)
        trial = study.ask()
        return self._hand_out(arm, "search", trial, suggest(trial, space))

    def _next_final(self, arm: str) -> Assignment | None:
        """Enqueue the finals that are missing, then take the first that waits."""
        if self.sweep.final is None:
            return None
        study, space = self.studies[arm, "final"], self.sweep.arms[arm].space
        trials = study.get_trials(deepcopy=False)
        known = {(trial.user_attrs["source"], trial.user_attrs["seed"]) for trial in trials}
        for winner in self.winners(arm):
            for seed in self.sweep.final.seeds:
                if (winner.number, seed) not in known:
                    params = suggest(optuna.trial.FixedTrial(winner.params), space)
                    fixed = optuna_params(space, params)
                    study.enqueue_trial(fixed, user_attrs={"source": winner.number, "seed": seed})
        if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return None
        study.sampler = optuna.samplers.RandomSampler(seed=0)  # never asked: every parameter is fixed
        trial = study.ask()
        return self._hand_out(arm, "final", trial, suggest(trial, space))

    def _reissue(self, arm: str, stage: str, frozen: FrozenTrial) -> Assignment | None:
        """A trial that was handed out before: told if its folder shows that it ended, else handed out again."""
        study, space = self.studies[arm, stage], self.sweep.arms[arm].space
        study.sampler = self._sampler(arm, frozen.number, space)  # for parameters that a crash left unsuggested
        assignment = self._hand_out(arm, stage, Trial(study, frozen._trial_id), None)
        row = self.rows[assignment.id]
        row.reported = set(frozen.intermediate_values)
        row.retries = frozen.user_attrs.get("retries", 0)
        folder = self.run.trial(assignment.id)
        if folder.read_status().get("state") not in FINISHED:
            return assignment
        for record in folder.read_history():
            self.report(assignment.id, record)
        self.close(assignment.id)
        return None

    def _hand_out(self, arm: str, stage: str, trial: Trial, params: dict[str, Any] | None) -> Assignment:
        if params is None:
            params = suggest(trial, self.sweep.arms[arm].space)
        if stage == "search":
            seed, source = trial_seed(self.sweep.search.seed, arm, trial.number), None
            config = self.sweep.config(arm, params, seed)
        else:
            seed, source = trial.user_attrs["seed"], trial.user_attrs["source"]
            config = self.sweep.final_config(arm, params, seed)
        assignment = Assignment(arm, stage, trial.number, config.to_dict(), params, seed, source)
        self.rows[assignment.id] = Row(assignment, trial)
        return assignment

    def _sampler(self, arm: str, number: int, space: Space) -> optuna.samplers.BaseSampler:
        # A new sampler for each trial, seeded by its number: what it suggests follows from the journal alone.
        seed = trial_seed(self.sweep.search.seed, f"{arm}/sampler", 0)
        return make_sampler(self.sweep.search.sampler, seed, space, number)

    def _search_complete(self, arm: str) -> bool:
        return self.states[arm, "search"].total() >= self.sweep.search.trials

    def _arm_complete(self, arm: str) -> bool:
        return self._search_complete(arm) and self.states[arm, "final"].total() >= self.expected(arm, "final")

    # ---- what became of it --------------------------------------------------------------------------------------

    def report(self, trial: str, record: dict[str, Any]) -> bool:
        """Take note of one record of a trial; True where its study's pruner says to stop it."""
        row = self.rows[trial]
        row.step = record["step"]
        value = record.get(self.objective.metric)
        if value is None or record["step"] == 0:  # the untrained model is measured, never judged
            return False
        row.value = value
        if record["step"] not in row.reported:
            row.reported.add(record["step"])
            row.trial.report(value, record["step"])
        last = record["step"] >= row.assignment.config["train"]["steps"]
        return row.assignment.stage == "search" and not last and row.trial.should_prune()

    def close(
        self, trial: str, state: str | None = None, cause: str | None = None, *, node_lost: bool = False
    ) -> Assignment | None:
        """Take a trial out of the workers' hands and tell its study, by `state` or else by its folder's status.

        Returns the assignment where it is to be handed out again: its process died and retries are left, or the
        machine was lost with it, which costs no retry.
        """
        row, folder = self.rows[trial], self.run.trial(trial)
        status = folder.read_status()
        if state is not None:
            folder.update_status(state=state, cause=cause)
        elif status.get("state") in FINISHED:
            state, cause = status["state"], status.get("cause")
        elif node_lost:
            return row.assignment
        elif row.retries < self.sweep.resources.retries:
            row.retries += 1
            row.trial.set_user_attr("retries", row.retries)
            return row.assignment
        else:
            state, cause = "failed", "process died"
            message = f"its process ended without a word {row.retries + 1} times; see {folder.log}"
            folder.update_status(state=state, cause=cause, message=message)
        outcome = {"state": state, "cause": cause, "attempts": folder.read_status().get("attempts", 0)}
        row.trial.set_user_attr("outcome", outcome)
        study = self.studies[row.assignment.arm, row.assignment.stage]
        value = row.value if state == "completed" else None
        study.tell(row.trial, values=value, state=told(state, cause, value), skip_if_finished=True)
        self._count(row.assignment.arm, row.assignment.stage, row.assignment.number, state, value)
        del self.rows[trial]
        return None

    def remember_runs(self, mlflow_runs: dict[str, str]) -> None:
        """Keep the MLflow run ids of the trials (id -> run id) in their studies."""
        for (arm, stage), study in self.studies.items():
            prefix = trial_id(arm, stage, 0).removesuffix("0")
            own = {trial.removeprefix(prefix): run for trial, run in mlflow_runs.items() if trial.startswith(prefix)}
            if own != study.user_attrs.get("mlflow_runs", {}):
                study.set_user_attr("mlflow_runs", own)

    def _count(self, arm: str, stage: str, number: int, state: str, value: float | None) -> None:
        self.states[arm, stage][state] += 1
        if state != "completed" or value is None or not math.isfinite(value):
            return
        best = self.best.get((arm, stage))
        better = best is None or (value < best[0]) == (self.objective.direction == "minimize")
        if better:
            self.best[arm, stage] = (value, number)


def told(state: str, cause: str | None, value: float | None) -> TrialState:
    """What Optuna is told of a trial that ended in `state`, so that its sampler learns the truth."""
    if state == "completed" and value is not None:
        return TrialState.COMPLETE
    if state in ("pruned", "diverged") or cause in CONFIGURATION_FAULTS:
        return TrialState.PRUNED
    return TrialState.FAIL


def repair(journal: Path) -> None:
    """Make a journal usable after a crash of its only writer: drop a torn last line and a lock nobody holds.

    Only for the holder of the run folder's lock.
    """
    Path(f"{journal}.lock").unlink(missing_ok=True)
    if not journal.exists():
        return
    with journal.open("rb+") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
            os.fsync(file.fileno())


def unfinished(ledger: Ledger) -> Iterator[str]:
    """The ids of the trials that the ledger shows as handed out and not ended."""
    yield from ledger.rows
    for arm, stage, frozen in ledger.pending:
        yield trial_id(arm, stage, frozen.number)
