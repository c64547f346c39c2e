"""The driver of a sweep: who works on what, what is spent, when to stop. Ray's hooks ask it; it imports no Ray."""

import errno
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import shapes
from orchestrator.causes import FINISHED, Again, Cause, End, Stage, State, ending
from orchestrator.clocks import Awake
from orchestrator.control import take_requests
from orchestrator.events import began, ended, scored
from orchestrator.ledger import Ledger, Row
from orchestrator.live import Board, Tally, Training, View
from orchestrator.machines import Lost, Machines
from orchestrator.places import places
from orchestrator.progress import Progress
from orchestrator.promotion import expected_steps
from orchestrator.runs import RunFolder, StorageError, read_json, write_bytes, write_json
from orchestrator.trial import Assignment

TICK_SECONDS = 0.25  # between two looks at the board and at requests
SLOW_SECONDS = 10.0  # between two looks at the mirror, at silent trials and at the budget
LOADING_SECONDS = 7200.0  # that a trial may take to load its data, whatever it may be silent later
GRACE_SECONDS = 60.0  # that a silent trial has to end by itself, with the reason in its log


@dataclass(frozen=True)
class Outside:
    """What the driver needs of the world."""

    kill: Callable[[str], None]  # ends the process of one of Ray's trials
    interrupted: Callable[[], bool]  # whether a signal asked us to stop
    revive_mirror: Callable[[], None]
    make_room: Callable[[int], None] = lambda trials: None  # says to a cluster that grows for how many trials


class Driver:
    """What Ray's Searcher, Scheduler and Stopper share: the ledger and who works on what."""

    def __init__(
        self,
        ledger: Ledger,
        view: View,
        machines: Machines,
        outside: Outside,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ledger, self.view, self.machines, self.outside = ledger, view, machines, outside
        self.trials: dict[str, str] = {}  # Ray's trial id -> ours
        self.again: list[Assignment] = []  # trials whose process died
        self.died: list[tuple[str, BaseException | None, bool, Lost]] = []  # (trial, error, silent, machine lost?)
        self.unwanted: set[str] = set()  # trials that somebody asked to stop
        self.stopping = ""  # why, once the sweep is to end before it is complete
        self.awake = Awake(clock)
        self.signs: dict[str, tuple[float, float]] = {}  # the last sign of a trial, and when it was first seen
        self.silenced: set[str] = set()  # trials that were killed for their silence
        self.alike = Alike(ledger.sweep.search.same_failures)
        self.failure: Exception | None = None
        self.spent = Spent(ledger)
        self.steps_at_start = 0.0
        self.progress = Progress(ledger.run)
        self.begun: dict[str, float] = {}  # when a trial was handed to its worker
        self._ticked = self._slow = self.awake.seconds

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles its hooks for a restore that we never ask for."""
        return {}

    # ---- what Ray asks ------------------------------------------------------------------------------------------

    def suggest(self, ray_id: str) -> Assignment | None:
        """The next trial for Ray; None while there is none, or where there will be no more (see `over`)."""
        if self.over or len(self.trials) >= self.machines.nodes.capacity:
            return None
        again = bool(self.again)
        assignment = self.again.pop(0) if again else self.ledger.next()
        if assignment is not None:
            self.trials[ray_id] = assignment.id
            self.machines.hand(assignment.id)
            self.begun[assignment.id] = self.awake.seconds
            promoted = not again and "promoted" in self.ledger.rows[assignment.id].trial.user_attrs
            step = self.ledger.run.trial(assignment.id).last_step() or 0
            self.view.event(began(assignment, step, promoted=promoted))
        return assignment

    @property
    def over(self) -> bool:
        """Whether no trial will be handed out any more."""
        return bool(self.stopping) or self.failure is not None or self.ledger.complete

    @property
    def idle(self) -> bool:
        """Whether Ray's loop is to end although the sweep is not complete."""
        return self.failure is not None or (bool(self.stopping) and not self.trials)

    def result(self, ray_id: str, record: dict[str, Any]) -> bool:
        """Take note of an evaluation; True where the trial is to stop here."""
        trial = self.trials[ray_id]
        if (state := self.ledger.report(trial, record)) is not None:
            self.close(trial, End(state))
            return True
        if trial in self.unwanted:
            self.close(trial, End(State.STOPPED, Cause.ASKED))
            return True
        return bool(self.stopping) or self.machines.leaves(trial)

    def ended(self, ray_id: str, error: BaseException | None = None) -> None:
        """A trial left its worker: at its end, pruned, stopped by us, or because its process died, of `error`."""
        trial = self.trials.pop(ray_id, None)
        if trial is None or trial not in self.ledger.rows or self.failure is not None:
            return  # after a failure nothing is written any more: half a line may stand at the end of the journal
        if trial in self.trials.values():
            return  # it was parked here, and has been handed out again before its first worker told of its end
        self.machines.ended(trial)
        status, silent = self.ledger.run.trial(trial).read_status(), trial in self.silenced
        self.silenced.discard(trial)
        self.signs.pop(trial, None)
        alive = status.get("state") not in FINISHED
        if self.stopping and alive:
            return  # stays RUNNING in the ledger: the next start continues it
        end = ending(status, error, silent=silent, places=self.places(trial) if alive else ())
        if alive or end.policy.stops:
            check_space(self.ledger)
        if alive and error is None and self.machines.leaves(trial):
            self.close(trial, End(State.FAILED, Cause.PREEMPTED))  # after an evaluation: it goes on elsewhere
        elif alive:
            self.died.append((trial, error, silent, self.machines.lost(status.get("node"))))
        else:
            self.machines.nodes.ended(status.get("node"), end.cause)
            self.close(trial, end)

    def settle(self) -> None:
        """Hand out again what died, once it is known whether its machine died with it."""
        for death in list(self.died):
            trial, error, silent, lost = death
            if (answer := lost()) is not None:
                self.died.remove(death)
                status = self.ledger.run.trial(trial).read_status()
                self.close(trial, ending(status, error, silent=silent, lost=answer, places=self.places(trial)))

    def close(self, trial: str, end: End) -> None:
        """Tell the ledger how a trial ended, and hand it out again where that follows."""
        node = self.machines.node_of(trial) if end.policy.stops else None
        row = self.ledger.rows[trial]
        retry = self.ledger.close(trial, end)
        self.tell_end(row, end, again=retry is not None)
        if retry is not None:
            self.again.append(retry)
            if end.policy.stops:
                self.machines.doubt(node)
                self.despair(trial, end)
        elif self.alike.note(end):
            self.stopping = self.stopping or f"the first {self.alike.limit} trials failed alike"
            self.alike.trial = trial

    def tell_end(self, row: Row, end: End, *, again: bool) -> None:
        """Show how an attempt at a trial ended."""
        folder, assignment = self.ledger.run.trial(row.assignment.id), row.assignment
        if end.state == State.FAILED and not again and end.message is None:
            end = end._replace(message=folder.read_status().get("message"))  # such as: killed three times
        seconds = self.awake.seconds - self.begun.pop(assignment.id, self.awake.seconds)
        scores = scored([objective.metric for objective in self.ledger.objectives], row.values)
        step = max(row.step, folder.last_step() or 0)
        self.view.event(ended(assignment, end, step, seconds, scores, again=again, log=folder.log))

    def despair(self, trial: str, end: End) -> None:
        """Stop the sweep where a trial lacked so often what every trial needs that trying again is of no use."""
        count = self.ledger.rows[trial].lacking
        if count > self.ledger.sweep.resources.retries:
            told = f"{trial} ended {count} times, of {end.recorded}, which is not its fault: {end.message}"
            self.stopping = self.stopping or f"{told}; see {self.ledger.run.trial(trial).log}"

    def places(self, trial: str) -> list[Path]:
        """What every trial needs of its machine."""
        return places(self.ledger.run.path, self.ledger.rows[trial].assignment.config)

    def tick(self) -> None:
        """What has to be done now and then; called several times a second."""
        now = self.awake()  # by which a pause of this process is neither work nor anybody's silence
        if now - self._ticked >= TICK_SECONDS:
            self.spent.add(now - self._ticked, len(self.trials))
            self._ticked = now
            self.take_requests()
            self.machines.look()
            self.stopping = self.stopping or self.machines.hopeless
            self.settle()
            self.outside.make_room(len(self.trials) if self.over else self.ledger.at_once)
            self.machines.tell()
            self.view.update(self.board())
        if now - self._slow >= SLOW_SECONDS:
            self._slow = now
            self.outside.revive_mirror()
            self.end_silent()
            self.spent.write()
            self.stopping = self.stopping or self.spent.over_budget()

    # ---- requests, silence ----------------------------------------------------------------------------------------

    def take_requests(self) -> None:
        sweep, trials = take_requests(self.ledger.run)
        self.unwanted.update(trials)
        self.machines.take_requests(self.trials.values())
        if sweep or self.outside.interrupted():
            self.stopping = self.stopping or "asked to stop"

    def silent_seconds(self, trial: str) -> float:
        """For how long a trial has written nothing, as far as this process was awake to see it."""
        sign = self.ledger.run.trial(trial).last_sign()
        if self.signs.get(trial, (None, 0.0))[0] != sign:
            self.signs[trial] = sign, self.awake.seconds
        return self.awake.seconds - self.signs[trial][1]

    def end_silent(self) -> None:
        """Kill the processes of trials that hang and have not ended themselves, for example because they are frozen."""
        minutes = self.ledger.sweep.resources.silent_minutes
        for ray_id, trial in list(self.trials.items()) if minutes is not None else ():
            status = self.ledger.run.trial(trial).read_status()
            limit = 60 * (minutes or 0.0) + GRACE_SECONDS
            limit = limit if status.get("loaded", True) else max(limit, LOADING_SECONDS)
            if self.silent_seconds(trial) >= limit and status.get("state") == State.RUNNING:
                self.silenced.add(trial)
                self.outside.kill(ray_id)

    # ---- where the sweep stands -------------------------------------------------------------------------------------

    def board(self) -> Board:
        """Where the sweep stands, for the terminal."""
        ledger, active = self.ledger, set(self.trials.values())
        self.progress.look(active)
        tallies = []
        for arm, stage in ledger.states:
            rows = [row for row in ledger.rows.values() if (row.assignment.arm, row.assignment.stage) == (arm, stage)]
            running = [self.training(row) for row in rows if row.assignment.id in active]
            states, best = dict(ledger.states[arm, stage]), ledger.best.get((arm, stage))
            tallies.append(Tally(arm, stage, ledger.expected(arm, stage), states, running, best))
        elapsed, left = self.awake.seconds, self.steps_left(tallies)
        self.steps_at_start = self.steps_at_start or left
        done = self.steps_at_start - left
        metric, notes = ledger.objectives[0].metric, tuple(self.machines.notes)
        return Board(ledger.sweep.name, metric, tallies, elapsed, done, left, self.stopping, notes)

    def training(self, row: Row) -> Training:
        """A trial in a worker's hands: its last evaluation's step, or a later one that its records tell."""
        trial = row.assignment.id
        step = max(row.step, self.progress.step(trial))
        return Training(trial, step, row.assignment.config["train"]["steps"], self.progress.host(trial))

    def steps_left(self, tallies: list[Tally]) -> float:
        """Training steps until the end of the sweep, as if none were stopped early but by rungs that promote."""
        left = 0.0
        for tally in tallies:
            each = self.ledger.steps(tally.arm, tally.stage)
            if tally.stage == Stage.SEARCH and (rungs := self.ledger.rungs[tally.arm]).settings is not None:
                planned = expected_steps(tally.expected, rungs.rungs, each, rungs.settings)
                left += max(0.0, planned - rungs.steps_done(each))
                continue
            left += (tally.expected - tally.ended) * each - sum(one.step for one in tally.running)
        return left


class Alike:
    """Whether the first trials that end in a start all fail with one exception: the others would do the same."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.ends: list[End] = []
        self.trial: str | None = None  # the one with which it was found out

    def note(self, end: End) -> bool:
        """Take note of a trial's end; True with the one that is enough."""
        self.ends.append(end)
        failed = all(each.state == State.FAILED and each.again == Again.NEVER for each in self.ends)
        return len(self.ends) == self.limit and failed and len({each.recorded for each in self.ends}) == 1

    def told(self, run: RunFolder) -> str:
        """What was found, and what to do; "" where nothing was."""
        if self.trial is None:
            return ""
        status = run.trial(self.trial).read_status()
        return (
            f"The first {self.limit} trials all failed with one exception, so the sweep has stopped:\n"
            f"{status.get('cause')}: {status.get('message')}  log: {status.get('log')}\n"
            f"Mend it; then `aiqn retry {run.path}` hands them out again, and the same command goes on."
        )


class Spent:
    """Time spent on a sweep by all its drivers, kept in its run folder: of the sweep, and of its trials together."""

    def __init__(self, ledger: Ledger) -> None:
        self.path, self.sweep = ledger.run.spent, ledger.sweep
        known = read_json(self.path, shapes.SPENT) or {}
        self.seconds, self.trial_seconds = known.get("seconds") or 0.0, known.get("trial_seconds") or 0.0

    def add(self, seconds: float, trials: int) -> None:
        self.seconds += seconds
        self.trial_seconds += seconds * trials

    def write(self) -> None:
        write_json(self.path, {"seconds": self.seconds, "trial_seconds": self.trial_seconds}, sync=False)

    def over_budget(self) -> str:
        """Which limit of the sweep's budget is reached, in words; "" where none is."""
        spent = {
            "hours": self.seconds / 3600,
            "gpu_hours": self.trial_seconds * self.sweep.resources.gpu * self.sweep.resources.workers / 3600,
        }
        limits = self.sweep.budget.model_dump()
        reached = [key for key, limit in limits.items() if limit is not None and spent[key] >= limit]
        return "; ".join(f"budget.{key}: {limits[key]:g} are spent; raise it to go on" for key in reached)


def check_space(ledger: Ledger) -> None:
    """Raises StorageError where the run folder can no longer be written: no trial is to blame, and none can go on."""
    probe = ledger.run.path / ".probe"
    try:
        write_bytes(probe, bytes(65536))
        probe.unlink()
    except OSError as error:
        raise storage_error(ledger.run.path, error) from error


def storage_error(path: Path, error: OSError) -> StorageError:
    """What to do where a run folder cannot be written."""
    what = "is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"cannot be written ({error.strerror})"
    return StorageError(
        f"{path}: the storage {what} on {socket.gethostname()}. Nothing is lost: make it writable, with space,"
        " then run the same command again to continue."
    )
