"""The ledger: every trial of a sweep in Optuna studies over one journal file. Issue, re-issue, report, prune, tell.

No Ray, no threads: the driver is the only writer, and everything it needs after a crash is in the journal and in the
trials' folders.
"""

import dataclasses
import math
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from aiqn_core.metric import judged_by
from orchestrator.aside import renew_edited
from orchestrator.causes import Again, Cause, End, Stage, State, ending
from orchestrator.earlier import ATTRIBUTE, tell_earlier
from orchestrator.journal import Journal
from orchestrator.parking import ArmRungs, reopen_parked
from orchestrator.promotion import settings_of
from orchestrator.ranking import ranked
from orchestrator.recovery import handed_out, intact, repair
from orchestrator.retry import hand_back_lost
from orchestrator.rungs import completed, fewest_arrivals
from orchestrator.runs import FINISHED, RunFolder, RunFolderError, trial_id
from orchestrator.samplers import is_pruned, make_pruner, make_sampler
from orchestrator.sections import Sweep
from orchestrator.seeds import trial_seed
from orchestrator.seen import OfSeen, is_parked
from orchestrator.sequences import ByNumber
from orchestrator.space import Space, partial_params, suggest
from orchestrator.trial import Assignment

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


@dataclass
class Row:
    """One trial as the driver sees it while the sweep runs."""

    assignment: Assignment
    trial: Trial  # writes to the journal
    step: int = 0
    values: list[float] | None = None  # of the objectives at the last evaluation
    attempts: list[dict[str, Any]] = field(default_factory=list)  # those that were cut off: cause, time
    reported: set[int] = field(default_factory=set)
    ended: State | None = None  # the state in which it had ended, of a trial whose folder is mended
    until: int | None = None  # the step at which it had ended
    lacking: int = 0  # how often a machine lacked what every trial needs, in this start

    @property
    def retries(self) -> int:
        """How often it was tried again for a fault of the infrastructure that may be its own."""
        counted = 0
        for attempt in self.attempts:  # after `aiqn retry` they are counted anew
            policy = End(State.FAILED, attempt["cause"]).policy
            blamed = policy.again == Again.COUNTED and not policy.stops
            counted = 0 if attempt.get("asked") else counted + blamed
        return counted


class Ledger:
    """Decides what is trained next, and keeps what became of it. `rows` are the trials in the hands of workers.

    Raises RunFolderError where `search.from` gives nothing to learn from.
    """

    def __init__(self, run: RunFolder, sweep: Sweep) -> None:
        self.run, self.sweep = run, sweep
        self.objectives = sweep.search.objectives
        repair(run.journal)
        hand_back_lost(run)
        renew_edited(run, sweep)
        reopen_parked(run, sweep)
        self.journal = Journal(run.journal)
        storage = JournalStorage(self.journal)
        known = {study.study_name for study in storage.get_all_studies()}
        with consistent(run):
            self.studies = {
                (arm, stage): self._study(storage, arm, stage, f"{arm}/{stage}" in known)
                for arm in sweep.arms
                for stage in Stage
            }
        tell_earlier(sweep, self.studies)
        self.fewest = fewest_arrivals(sweep.search.pruner, sweep.search.min_arrivals)
        self.rows: dict[str, Row] = {}
        self.states: dict[tuple[str, Stage], Counter[str]] = {key: Counter() for key in self.studies}
        self.best: dict[tuple[str, Stage], tuple[float, int]] = {}
        self.pending: list[tuple[str, Stage, FrozenTrial]] = []  # unfinished trials of a driver that is gone
        self.damaged: list[tuple[str, Stage, FrozenTrial]] = []  # ended, but their folders have lost something
        self.rungs = {arm: ArmRungs(sweep, arm) for arm in sweep.arms}
        self._parked: dict[tuple[str, int], int] = {}  # (arm, number) -> Optuna's id of a trial that waits at a rung
        self._by_number: dict[str, ByNumber] = {}  # by arm
        self._winners: dict[str, tuple[int, list[FrozenTrial]]] = {}
        self.finals: dict[str, set[tuple[int, int]]] = {arm: set() for arm in sweep.arms}  # (source, seed), once chosen
        with consistent(run):
            for (arm, stage), study in self.studies.items():
                for frozen in study.get_trials(deepcopy=False):
                    self._take_up(arm, stage, frozen)
            for arm in sweep.arms:
                self._tell_parked(arm)

    def _study(self, storage: JournalStorage, arm: str, stage: Stage, known: bool) -> optuna.Study:
        name = f"{arm}/{stage}"
        pruner = self._pruner(arm) if stage == Stage.SEARCH else optuna.pruners.NopPruner()
        directions = [objective.direction for objective in self.objectives]
        if known:  # to create it again would write to the journal at every start
            study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
            if [direction.name.lower() for direction in study.directions] != directions:
                raise ValueError(f"study {name} is not searched in the direction of {directions}")
            return study
        return optuna.create_study(storage=storage, study_name=name, directions=directions, pruner=pruner)

    def _pruner(self, arm: str) -> optuna.pruners.BasePruner:
        base = self.sweep.arms[arm].base
        settings = completed(self.sweep.search.pruner, base["evaluate"]["every"], base["train"]["steps"])
        return make_pruner(settings, self.sweep.search.objective.direction)

    def _take_up(self, arm: str, stage: Stage, frozen: FrozenTrial) -> None:
        """Count a trial of an earlier start, or note that there is work left in it."""
        parked = stage == Stage.SEARCH and is_parked(frozen)
        if stage == Stage.SEARCH:
            self.rungs[arm].take_up(frozen)
        if parked and frozen.state == TrialState.RUNNING:
            self._parked[arm, frozen.number] = frozen._trial_id
        elif frozen.state == TrialState.RUNNING:
            self.pending.append((arm, stage, frozen))
        if stage == Stage.FINAL:
            self.finals[arm].add((frozen.user_attrs["source"], frozen.user_attrs["seed"]))
        if ATTRIBUTE in frozen.user_attrs or not (parked or frozen.state.is_finished()):
            return
        state = State((frozen.user_attrs.get("outcome") or {}).get("state", State.FAILED))
        self._count(arm, stage, frozen.number, state, frozen.values)
        longer = self.sweep.final.steps if stage == Stage.FINAL and self.sweep.final is not None else None
        if not intact(self.run.trial(trial_id(arm, stage, frozen.number)), state, longer):
            self.damaged.append((arm, stage, frozen))

    # ---- what is next -------------------------------------------------------------------------------------------

    def next(self) -> Assignment | None:
        """The next trial to train, already in the journal as RUNNING; None while there is nothing to hand out."""
        while True:
            assignment = self._next()
            if assignment is None or not self._ended_already(assignment):
                return assignment

    def _next(self) -> Assignment | None:
        with consistent(self.run):
            if self.pending:
                return self._reissue(*self.pending.pop(0))
            if self.damaged:
                return self._mend(*self.damaged.pop(0))
            for arm in self.sweep.arms:
                if self._search_complete(arm) and (assignment := self._next_final(arm)):
                    return assignment
            for arm in self.sweep.arms:
                if (assignment := self._next_promoted(arm)) is not None:
                    return assignment
        arms = [arm for arm in self.sweep.arms if self.issued(arm, Stage.SEARCH) < self.sweep.search.trials]
        if not arms:
            return None
        return self._next_search(min(arms, key=lambda arm: self.issued(arm, Stage.SEARCH)))

    @property
    def complete(self) -> bool:
        """Whether every trial of the sweep has ended."""
        idle = not self.rows and not self.pending and not self.damaged
        return idle and all(self._arm_complete(arm) for arm in self.sweep.arms)

    def issued(self, arm: str, stage: Stage) -> int:
        """How many trials of an arm have been handed out, in whatever state they are now."""
        rows = (row for row in self.rows.values() if row.ended is None)
        live = sum(row.assignment.arm == arm and row.assignment.stage == stage for row in rows)
        waiting = sum(pending[:2] == (arm, stage) for pending in self.pending)
        return self.states[arm, stage].total() + live + waiting

    @property
    def at_once(self) -> int:
        """How many trials could be trained now, were there room for all: those in hand, and all that wait for none."""
        ready = len(self.rows) + len(self.pending) + len(self.damaged)
        for arm in self.sweep.arms:
            stage = Stage.FINAL if self._search_complete(arm) else Stage.SEARCH
            ready += max(0, self.expected(arm, stage) - self.issued(arm, stage))
        return ready

    def expected(self, arm: str, stage: Stage) -> int:
        """How many trials of an arm there will be; finals can be fewer where too few search trials completed."""
        if stage == Stage.SEARCH:
            return self.sweep.search.trials
        if self.sweep.final is None:
            return 0
        if not self._search_complete(arm):
            return max(self.sweep.final.top * len(self.sweep.final.seeds), len(self.finals[arm]))
        return len(self.finals[arm] | self._wanted(arm).keys())  # after more search trials others may have won

    def steps(self, arm: str, stage: Stage) -> int:
        """Training steps of one trial of a stage."""
        longer = self.sweep.final.steps if stage == Stage.FINAL and self.sweep.final is not None else None
        return int(longer or self.sweep.arms[arm].base["train"]["steps"])

    def winners(self, arm: str) -> list[FrozenTrial]:
        """The search trials that go on to the finals, best first."""
        if self.sweep.final is None:
            return []
        completed = self.states[arm, Stage.SEARCH][State.COMPLETED]
        if self._winners.get(arm, (-1,))[0] != completed:  # sorted anew only when another trial has completed
            trials = self.studies[arm, Stage.SEARCH].get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            own = [trial for trial in trials if ATTRIBUTE not in trial.user_attrs]
            self._winners[arm] = completed, ranked(own, self.objectives)[: self.sweep.final.top]
        return self._winners[arm][1]

    def _wanted(self, arm: str) -> dict[tuple[int, int], dict[str, Any]]:
        """The finals that the search calls for: (source, seed) -> parameters, in the order of their training."""
        seeds = self.sweep.final.seeds if self.sweep.final else ()
        return {(winner.number, seed): winner.params for winner in self.winners(arm) for seed in seeds}

    def _next_search(self, arm: str) -> Assignment:
        study, space = self.studies[arm, Stage.SEARCH], self.sweep.arms[arm].space
        trials = study.get_trials(deepcopy=False)
        waiting = [trial.number for trial in trials[-1:] if trial.state == TrialState.WAITING]
        number = waiting[0] if waiting else len(trials)
        if not waiting:
            self._enqueue(arm, number, trials)
        study.sampler = self._sampler(arm, number, space)
        trial = study.ask()
        return self._hand_out(arm, Stage.SEARCH, trial)

    def _enqueue(self, arm: str, number: int, trials: list[FrozenTrial]) -> None:
        """Fix the parameters of the trial that is asked for next, where they are known already."""
        space = self.sweep.arms[arm].space
        recorded = handed_out(self.run, trial_id(arm, Stage.SEARCH, number), space)
        wanted = (self.sweep.search.enqueue or {}).get(arm, ())
        used = {trial.user_attrs.get("enqueued") for trial in trials}
        index = next((i for i in range(len(wanted)) if i not in used), None)
        if recorded is None and index is None:
            return
        fixed = recorded["fixed"] if recorded else partial_params(space, wanted[index or 0])
        same = index is not None and partial_params(space, wanted[index]).items() <= fixed.items()
        self.studies[arm, Stage.SEARCH].enqueue_trial(fixed, user_attrs={"enqueued": index} if same else None)

    def _next_final(self, arm: str) -> Assignment | None:
        """The final that waits in the journal, or else the first that is missing."""
        if self.sweep.final is None or self.issued(arm, Stage.FINAL) >= self.expected(arm, Stage.FINAL):
            return None
        study, space = self.studies[arm, Stage.FINAL], self.sweep.arms[arm].space
        trials = study.get_trials(deepcopy=False)
        if not any(trial.state == TrialState.WAITING for trial in trials):
            known, wanted = self.finals[arm], self._wanted(arm)
            recorded = handed_out(self.run, trial_id(arm, Stage.FINAL, len(trials)), space)
            if recorded and (pair := (recorded["source"], recorded["seed"])) not in known:
                wanted = {pair: recorded["fixed"]}
            missing = [pair for pair in wanted if pair not in known]
            if not missing:
                return None
            source, seed = missing[0]
            known.add(missing[0])
            study.enqueue_trial(wanted[source, seed], user_attrs={"source": source, "seed": seed})
        study.sampler = optuna.samplers.RandomSampler(seed=0)  # never asked: every parameter is fixed
        return self._hand_out(arm, Stage.FINAL, study.ask())

    def _reissue(self, arm: str, stage: Stage, frozen: FrozenTrial) -> Assignment:
        """A trial that was handed out before, with the number, folder and parameters that it had."""
        study, space = self.studies[arm, stage], self.sweep.arms[arm].space
        recorded = handed_out(self.run, trial_id(arm, stage, frozen.number), space)
        if recorded and not recorded["fixed"].keys() <= frozen.params.keys():  # the journal has lost some of them
            study._storage.set_trial_system_attr(frozen._trial_id, "fixed_params", recorded["fixed"])
        study.sampler = self._sampler(arm, frozen.number, space)  # for parameters that a crash left unsuggested
        attempts = list(frozen.user_attrs.get("attempts", []))
        begun = self.run.trial(trial_id(arm, stage, frozen.number)).read_status().get("attempts") or 0
        if recorded and begun > len(attempts):  # the last of them was cut off with the driver
            attempts.append({"cause": Cause.DRIVER_ENDED, "time": time.time()})
        assignment = self._hand_out(arm, stage, Trial(study, frozen._trial_id), attempts)
        self.rows[assignment.id].reported = set(frozen.intermediate_values)
        return assignment

    def _next_promoted(self, arm: str) -> Assignment | None:
        """The next parked trial of an arm that goes on, if one does."""
        rungs, study = self.rungs[arm], self.studies[arm, Stage.SEARCH]
        for number, passed in rungs.claims():  # it trains anyway; from now on it competes at the next rung
            frozen = study.get_trials(deepcopy=False)[number]
            rungs.promote(number, passed)
            if not frozen.state.is_finished():  # else the values that it has reached say the same
                study._storage.set_trial_user_attr(frozen._trial_id, "promoted", passed)
        for number, passed in rungs.due():
            if trial_id(arm, Stage.SEARCH, number) not in self.rows:  # there its folder is being mended
                return self._promote(arm, number, passed)
        return None

    def _promote(self, arm: str, number: int, passed: int) -> Assignment:
        """A parked trial goes on from its checkpoint, under its number, in its folder."""
        study, folder = self.studies[arm, Stage.SEARCH], self.run.trial(trial_id(arm, Stage.SEARCH, number))
        frozen = study._storage.get_trial(self._parked.pop((arm, number)))
        outcome, status = frozen.user_attrs["outcome"], folder.read_status()
        attempts = list(frozen.user_attrs.get("attempts", []))
        since = (status.get("attempts") or 0) - (outcome.get("attempts") or 0)
        if since > len(attempts) - len(outcome.get("causes") or ()):  # promoted before, and cut off with the driver
            attempts.append({"cause": Cause.DRIVER_ENDED, "time": time.time()})
        study.sampler = optuna.samplers.RandomSampler(seed=0)  # never asked: every parameter is known
        trial = Trial(study, frozen._trial_id)
        trial.set_user_attr("promoted", passed)
        self.rungs[arm].promote(number, passed)
        self._uncount(arm, State.PARKED)
        if folder.path.is_dir():  # should its process die before it says so itself, it is not parked
            folder.update_status(state=State.RUNNING, cause=None)
        assignment = self._hand_out(arm, Stage.SEARCH, trial, attempts)
        self.rows[assignment.id].reported = set(frozen.intermediate_values)
        return assignment

    def _tell_parked(self, arm: str) -> None:
        """Tell an arm's study that its parked trials have ended where its search is over."""
        if not self._parked or not self._search_complete(arm):
            return
        for key in list(self._parked):
            if key[0] == arm:
                study = self.studies[arm, Stage.SEARCH]
                study.tell(key[1], state=TrialState.PRUNED, skip_if_finished=True)
                del self._parked[key]

    def _mend(self, arm: str, stage: Stage, frozen: FrozenTrial) -> Assignment:
        """A trial that has ended, again: its checkpoint, or a training from the start, gives the same numbers."""
        attempts = frozen.user_attrs.get("attempts", [])
        assignment = self._hand_out(arm, stage, Trial(self.studies[arm, stage], frozen._trial_id), attempts)
        row = self.rows[assignment.id]
        outcome = frozen.user_attrs["outcome"]  # which only a trial that ended with its numbers has
        row.ended = State(outcome["state"])
        row.until = outcome.get("step") if row.ended in (State.PRUNED, State.PARKED) else None
        return assignment

    def _ended_already(self, assignment: Assignment) -> bool:
        """Tell the study of a trial whose folder shows that it ended; nobody has to train it."""
        folder, row = self.run.trial(assignment.id), self.rows[assignment.id]
        status = folder.read_status()
        end = ending(status)
        if row.ended is not None or status.get("state") not in FINISHED or end.again != Again.NEVER:
            return False
        if not intact(folder, end.state, assignment.config["train"]["steps"]):  # for example cut short
            return False
        waits = end.state == State.PARKED
        if waits and not self.rungs[assignment.arm].parks(assignment.number, status.get("step") or 0):
            return False  # it was promoted since, or is free by now
        for record in folder.read_history():
            if "samples" in record or self.objectives[0].metric in record:
                self.report(assignment.id, record)
        row.step = status.get("step") or row.step if waits else row.step
        self.close(assignment.id)
        return True

    def _hand_out(
        self, arm: str, stage: Stage, trial: Trial, attempts: list[dict[str, Any]] | None = None
    ) -> Assignment:
        params = suggest(trial, self.sweep.arms[arm].space)
        if stage == Stage.SEARCH:
            seed, source = trial_seed(self.sweep.search.seed, arm, trial.number), None
            config = self.sweep.config(arm, params, seed)
            self.rungs[arm].begin(trial.number)
        else:
            seed, source = trial.user_attrs["seed"], trial.user_attrs["source"]
            config = self.sweep.final_config(arm, params, seed)
        causes = [attempt["cause"] for attempt in attempts or []]
        assignment = Assignment(arm, stage, trial.number, config.to_dict(), params, seed, source, causes)
        self.rows[assignment.id] = Row(assignment, trial, attempts=list(attempts or []))
        self.journal.sync()
        return assignment

    def _sampler(self, arm: str, number: int, space: Space) -> optuna.samplers.BaseSampler:
        # A new sampler for each trial, seeded by its number: what it suggests follows from the journal alone. Those
        # that go by the trial's number themselves are kept, for they hold the order of a whole space.
        if arm in self._by_number:
            return self._by_number[arm]
        search = self.sweep.search
        one_for_all = search.sampler["name"] == "qmc"  # as of a grid: arms of one space get the same configurations
        seed = search.seed if one_for_all else trial_seed(search.seed, f"{arm}/sampler", 0)
        sampler = make_sampler(search.sampler, seed, space, number)
        if isinstance(sampler, ByNumber):
            self._by_number[arm] = sampler
            return sampler
        return sampler if settings_of(search.pruner) is None else OfSeen(sampler, self.rungs[arm].shown_until)

    def _search_complete(self, arm: str) -> bool:
        return self.states[arm, Stage.SEARCH].total() >= self.sweep.search.trials and not self.rungs[arm].due()

    def _arm_complete(self, arm: str) -> bool:
        return self._search_complete(arm) and self.states[arm, Stage.FINAL].total() >= self.expected(arm, Stage.FINAL)

    # ---- what became of it --------------------------------------------------------------------------------------

    def report(self, trial: str, record: dict[str, Any]) -> State | None:
        """Take note of one evaluation of a trial; where it is to leave its worker here, the state in which it does."""
        row = self.rows[trial]
        row.step = record["step"]
        if row.ended is not None:
            return row.ended if row.until is not None and row.step >= row.until else None
        verdict = self._note(row, record)
        if row.assignment.stage == Stage.SEARCH:
            rungs, number = self.rungs[row.assignment.arm], row.assignment.number
            rungs.measured(number, row.step, judged_by(record, self.objectives[0].metric))
            verdict = State.PARKED if rungs.parks(number, row.step) else verdict
        return verdict

    def _note(self, row: Row, record: dict[str, Any]) -> State | None:
        """Tell the study of an evaluation, and ask its pruner."""
        values = [judged_by(record, objective.metric) for objective in self.objectives]
        if any(value is None for value in values) or row.step == 0:  # the untrained model is measured, never judged
            return None
        row.values = [float(value) for value in values if value is not None]
        if len(values) > 1:
            return None  # Optuna prunes by one objective only
        if row.step not in row.reported:
            row.reported.add(row.step)
            row.trial.report(row.values[0], row.step)
        last = row.step >= row.assignment.config["train"]["steps"]
        known = row.step < max(row.reported)  # said again by another attempt: it was judged there, and went on
        judged = row.assignment.stage == Stage.SEARCH and not last and not known
        return State.PRUNED if judged and is_pruned(row.trial, self.fewest) else None

    def close(self, trial: str, end: End | None = None) -> Assignment | None:
        """Take a trial out of the workers' hands and tell its study how it ended.

        Without an `end` the folder's status tells it. One that is decided here (pruned, stopped) is written to the
        folder. Returns the assignment where it is to be handed out again, as always where the policy of its end says
        that the sweep stops: whether it does is the driver's decision.
        """
        row, folder = self.rows[trial], self.run.trial(trial)
        status = folder.read_status()
        end = end or ending(status)
        if end.again != Again.NEVER:
            row.attempts.append({"cause": end.recorded, "time": time.time()})
            if end.policy.stops:
                row.lacking += 1
                folder.update_status(state=State.RUNNING, cause=None, message=None)  # unfinished, not failed
            if end.policy.stops or row.retries <= self.sweep.resources.retries:
                return self._again(row)
            message = end.message or f"{end.recorded} {row.retries} times; see {folder.log}"
            folder.update_status(state=end.state, cause=end.recorded, message=message)
        elif status.get("state") not in FINISHED or status["state"] != end.state:
            more: dict[str, Any] = {"message": end.message, "log": str(folder.log)} if end.message else {}
            folder.update_status(state=end.state, cause=end.recorded, step=row.step, **more)
        if row.ended is None:
            self._tell(row, end, folder.read_status())
        del self.rows[trial]
        if row.assignment.stage == Stage.SEARCH:
            self._tell_parked(row.assignment.arm)
        return None

    def _again(self, row: Row) -> Assignment:
        """The same assignment for another attempt, which knows why those before it were cut off."""
        if row.ended is None:
            row.trial.set_user_attr("attempts", row.attempts)
        causes = [attempt["cause"] for attempt in row.attempts]
        row.assignment = dataclasses.replace(row.assignment, causes=causes)
        return row.assignment

    def _tell(self, row: Row, end: End, status: dict[str, Any]) -> None:
        causes = [attempt["cause"] for attempt in row.attempts]
        outcome = {"state": end.state, "cause": end.recorded, "attempts": status.get("attempts", 0), "causes": causes}
        row.trial.set_user_attr("outcome", outcome | {"step": row.step})
        arm, stage, number = row.assignment.arm, row.assignment.stage, row.assignment.number
        values = row.values if end.state == State.COMPLETED else None
        self._count(arm, stage, number, end.state, values)
        if end.state == State.PARKED:  # Optuna lets none go on that has ended (see `parking`)
            self.rungs[arm].park(number, row.step)
            self._parked[arm, number] = row.trial._trial_id
            return
        row.trial.study.tell(row.trial, values=values, state=told(end, values), skip_if_finished=True)
        if stage == Stage.SEARCH:
            self.rungs[arm].end(number, end.state == State.COMPLETED)

    def remember_runs(self, mlflow_runs: dict[str, str]) -> None:
        """Keep the MLflow run ids of the trials (id -> run id) in their studies."""
        for (arm, stage), study in self.studies.items():
            prefix = trial_id(arm, stage, 0).removesuffix("0")
            own = {trial.removeprefix(prefix): run for trial, run in mlflow_runs.items() if trial.startswith(prefix)}
            if own != study.user_attrs.get("mlflow_runs", {}):
                study.set_user_attr("mlflow_runs", own)

    def _count(self, arm: str, stage: Stage, number: int, state: State, values: list[float] | None) -> None:
        self.states[arm, stage][state] += 1
        if state != State.COMPLETED or values is None or not math.isfinite(values[0]):
            return
        best = self.best.get((arm, stage))
        better = best is None or (values[0] < best[0]) == (self.objectives[0].direction == "minimize")
        if better:
            self.best[arm, stage] = (values[0], number)

    def _uncount(self, arm: str, state: State) -> None:
        counted = self.states[arm, Stage.SEARCH]
        counted[state] -= 1
        if not counted[state]:
            del counted[state]


@contextmanager
def consistent(run: RunFolder) -> Iterator[None]:
    """What in a journal does not fit the sweep or itself is one clear error; each of its lines was good (`usable`)."""
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{run.journal}: damaged ({type(error).__name__}: {str(error)[:200]}). Move this file away and run the same"
            " command again: what the trials measured is in their folders."
        ) from error


def told(end: End, values: list[float] | None) -> TrialState:
    """What Optuna is told of a trial that ended so, with these values at its end: its sampler learns the truth."""
    if end.state == State.COMPLETED and values is not None:
        return TrialState.COMPLETE
    return TrialState.PRUNED if end.state == State.PRUNED else TrialState[end.policy.told]
