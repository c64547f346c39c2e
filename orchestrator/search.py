"""Ray Tune over the ledger: our own Searcher, TrialScheduler and Trainable. The one file that imports ray.

Ray places trials and tells when their processes die. It decides nothing: what is trained next and what is stopped
comes from the ledger, and Ray's own experiment state is thrown away.
"""

import json
import math
import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from orchestrator.ledger import Ledger, Row
from orchestrator.live import Board, Tally, View
from orchestrator.plan import plan_at_start
from orchestrator.runs import FORMAT, Run, RunFolder, RunFolderError, load_runs, read_json, write_bytes, write_json
from orchestrator.sections import Sweep, differences
from orchestrator.tracking import mirroring
from orchestrator.trial import Assignment, run_trial

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # a snapshot nobody reads
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
}
os.environ.update({key: os.environ.get(key, value) for key, value in ENVIRONMENT.items()})

import ray  # noqa: E402  (its settings are read at import)
from ray import tune  # noqa: E402
from ray.tune.schedulers import FIFOScheduler, TrialScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

RESOURCES_SECONDS = 5.0  # how often the cluster is asked for its size


def run_sweep(sweep: Sweep, runs_dir: Path | str = "runs", view: View | None = None) -> list[Run]:
    """Run a sweep, or continue it, until every arm has its trials and finals; then write its report.

    Everything is kept in `runs_dir/<sweep.name>`; see `orchestrator.runs`. Stops early on SIGINT or SIGTERM, after
    the evaluations in progress. Raises RunFolderError where another driver holds the run folder or where the folder
    belongs to a sweep of another meaning.
    """
    run = RunFolder(Path(runs_dir) / sweep.name)
    with run.lock():
        open_run(run, sweep)
        plan_at_start(run, sweep)
        ledger = Ledger(run, sweep)
        with mirroring(run, sweep.tracking.uri):
            if not ledger.complete:
                drive(ledger, view or View())
            mark_finished(run, ledger.complete)
            write_report(run)
        ledger.remember_runs((read_json(run.mirror) or {}).get("runs", {}))
    return load_runs(run.path)


def open_run(run: RunFolder, sweep: Sweep) -> None:
    """Write the run folder's copy of the sweep; raises RunFolderError where it holds trials of another meaning."""
    before = run.read_sweep() if run.sweep_json.exists() else None
    resolved = sweep.to_dict()
    if before is not None and (changed := differences(before["sweep"], resolved)):
        raise RunFolderError(
            f"{run.path} holds trials of a sweep that differs in: {', '.join(changed)}\n"
            "More trials, arms, seeds and longer finals continue a sweep; anything else would mix two questions.\n"
            f"Undo the change, or give the sweep another name than {sweep.name!r}."
        )
    content = {
        "format": FORMAT,
        "id": before["id"] if before else uuid.uuid4().hex,
        "name": sweep.name,
        "question": sweep.question,
        "command": f"aiqn sweep {sweep.path}",
        "created": before["created"] if before else time.time(),
        "finished": bool(before and before["finished"]),
        "sweep": resolved,
    }
    if content != before:
        write_bytes(run.sweep_yaml, sweep.text.encode())
        write_json(run.sweep_json, content)


def mark_finished(run: RunFolder, finished: bool) -> None:
    """Record in sweep.json whether every trial has ended."""
    content = run.read_sweep()
    if content["finished"] != finished:
        write_json(run.sweep_json, {**content, "finished": finished})


def write_report(run: RunFolder) -> None:
    """Write the report, unless there is nothing to report on yet."""
    from reports.html import write_report as write  # pandas and Altair take a second to import

    if load_runs(run.path):
        write(run.path)


class Driver:
    """What the Searcher, the Scheduler and the main loop share: the ledger and who works on what."""

    def __init__(self, ledger: Ledger, view: View) -> None:
        self.ledger, self.view = ledger, view
        self.trials: dict[str, str] = {}  # Ray's trial id -> ours
        self.again: list[Assignment] = []  # trials whose process died
        self.stopping = False
        self.failure: Exception | None = None
        self.started, self.steps_at_start = time.monotonic(), 0.0
        self._capacity, self._asked = 0, -math.inf

    def suggest(self, ray_id: str) -> dict[str, Any] | str | None:
        """The next trial for Ray, None to be asked again, Searcher.FINISHED when there will be no more."""
        if self.stopping or self.failure or self.ledger.complete:
            return Searcher.FINISHED
        if len(self.trials) >= self.capacity():
            return None
        assignment = self.again.pop(0) if self.again else self.ledger.next()
        if assignment is None:
            return Searcher.FINISHED if self.ledger.complete else None
        self.trials[ray_id] = assignment.id
        resources = self.ledger.sweep.resources
        return {
            "assignment": assignment.to_json(),
            "run": str(self.ledger.run.path.resolve()),
            "threads": max(1, int(resources.cpu)),
        }

    def result(self, ray_id: str, record: dict[str, Any]) -> str:
        """Take note of a result; TrialScheduler.STOP or CONTINUE."""
        trial = self.trials[ray_id]
        if self.ledger.report(trial, record):
            self.ledger.close(trial, "pruned")
            return TrialScheduler.STOP
        return TrialScheduler.STOP if self.stopping else TrialScheduler.CONTINUE

    def ended(self, ray_id: str) -> None:
        """A trial left its worker: at its end, pruned, stopped by us, or because its process died."""
        trial = self.trials.pop(ray_id, None)
        if trial is None or trial not in self.ledger.rows:
            return
        state = self.ledger.run.trial(trial).read_status().get("state")
        if self.stopping and state == "running":
            return  # stays RUNNING in the ledger: the next start continues it
        retry = self.ledger.close(trial)
        if retry is not None:
            self.again.append(retry)

    def capacity(self) -> int:
        """How many trials fit on the cluster as it is now."""
        if time.monotonic() - self._asked > RESOURCES_SECONDS:
            self._asked = time.monotonic()
            total, each = ray.cluster_resources(), self.ledger.sweep.resources
            fits = [total.get(name, 0.0) / need for name, need in (("CPU", each.cpu), ("GPU", each.gpu)) if need]
            self._capacity = math.floor(min(fits) + 1e-9)
        return self._capacity

    def board(self) -> Board:
        """Where the sweep stands, for the terminal."""
        ledger, active = self.ledger, set(self.trials.values())
        tallies = []
        for arm, stage in ledger.states:
            rows = [row for row in ledger.rows.values() if (row.assignment.arm, row.assignment.stage) == (arm, stage)]
            running = [progress(row) for row in rows if row.assignment.id in active]
            states, best = dict(ledger.states[arm, stage]), ledger.best.get((arm, stage))
            tallies.append(Tally(arm, stage, ledger.expected(arm, stage), states, running, best))
        elapsed, left = time.monotonic() - self.started, self.steps_left(tallies)
        self.steps_at_start = self.steps_at_start or left
        done = self.steps_at_start - left
        return Board(ledger.sweep.name, ledger.objective.metric, tallies, elapsed, done, left, self.stopping)

    def steps_left(self, tallies: list[Tally]) -> float:
        """Training steps until the end of the sweep, as if no trial were stopped early."""
        left = 0.0
        for tally in tallies:
            each = self.ledger.steps(tally.arm, tally.stage)
            left += (tally.expected - tally.ended) * each - sum(step for _, step, _ in tally.running)
        return left


def progress(row: Row) -> tuple[str, int, int]:
    """(trial, step, steps) of a trial that is being trained."""
    return row.assignment.id, row.step, row.assignment.config["train"]["steps"]


class LedgerSearcher(Searcher):
    """Hands Ray what the ledger says comes next."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self.driver = driver

    def suggest(self, trial_id: str) -> Any:
        return guarded(self.driver, lambda: self.driver.suggest(trial_id), Searcher.FINISHED)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        guarded(self.driver, lambda: self.driver.ended(trial_id), None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""


class LedgerScheduler(FIFOScheduler):
    """Reports every result to the ledger, and stops what the trial's Optuna pruner stops."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self.driver = driver

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        record = json.loads(result["record"]) if "record" in result else None
        if record is None:
            return TrialScheduler.CONTINUE
        return guarded(self.driver, lambda: self.driver.result(trial.trial_id, record), TrialScheduler.STOP)


class StopWhenTold(tune.Stopper):
    """Ends Ray's loop once a stopping sweep has no trial left in training, or the driver itself has failed."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        self.driver.view.update(self.driver.board())  # called several times a second
        return self.driver.failure is not None or (self.driver.stopping and not self.driver.trials)


def guarded(driver: Driver, action: Callable[[], Any], otherwise: Any) -> Any:
    """Ray gives up all trials on any exception in its hooks; ours ends the sweep in order instead."""
    try:
        return action()
    except Exception as error:
        driver.failure = driver.failure or error
        return otherwise


class Trial(tune.Trainable):
    """One training as a Ray actor: a step is the next evaluation. Actors are reused, except after an error."""

    def setup(self, config: dict) -> None:
        self.open(config)

    def open(self, config: dict) -> None:
        assignment = Assignment(**json.loads(config["assignment"]))
        self.steps = assignment.config["train"]["steps"]
        self.records = run_trial(assignment, RunFolder(Path(config["run"])), config["threads"])

    def step(self) -> dict:
        from aiqn_core.training import DivergedError

        try:
            for record in self.records:
                if "samples" in record:
                    return {"record": json.dumps(record)}
        except DivergedError:
            pass  # a result like any other, recorded in the trial's status: this process is sound
        return {"done": True}

    def reset_config(self, new_config: dict) -> bool:
        self.cleanup()
        self.open(new_config)
        return True

    def cleanup(self) -> None:
        self.records.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the training keeps its own checkpoint in the trial's folder."""


def drive(ledger: Ledger, view: View) -> None:
    """Train on the Ray cluster until the ledger is complete or the sweep is told to stop.

    Connects to the cluster of RAY_ADDRESS where set, else starts one on this machine. Raises what failed in the
    driver itself; failures of trials are in their status.
    """
    driver = Driver(ledger, view)
    scratch = ledger.run.path / ".ray"
    shutil.rmtree(scratch, ignore_errors=True)
    with cluster(), interruptible(driver), view:
        resources = ledger.sweep.resources
        need = {"cpu": resources.cpu, "gpu": resources.gpu}
        if driver.capacity() < 1:
            have = {key.lower(): value for key, value in ray.cluster_resources().items() if key in ("CPU", "GPU")}
            raise RunFolderError(f"resources: a trial needs {need}, but the whole cluster has {have}")
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(driver.capacity())
        tune.Tuner(
            tune.with_resources(Trial, need),
            tune_config=tune.TuneConfig(
                search_alg=LedgerSearcher(driver),
                scheduler=LedgerScheduler(driver),
                num_samples=10**9,  # the searcher says when it is enough
                reuse_actors=True,
                trial_name_creator=str,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=uuid.uuid4().hex[:8],
                storage_path=str(scratch.resolve()),
                stop=StopWhenTold(driver),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        ).fit()
        view.update(driver.board())
    shutil.rmtree(scratch, ignore_errors=True)
    if driver.failure is not None:
        raise driver.failure


@contextmanager
def cluster() -> Iterator[None]:
    """A connection to the Ray cluster, or one of our own for the time of the block."""
    ray.init(
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        configure_logging=True,
        ignore_reinit_error=True,
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def interruptible(driver: Driver) -> Iterator[None]:
    """SIGINT and SIGTERM finish the evaluations in progress, then stop; a second one stops at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if driver.stopping:
            os._exit(3)  # checkpoints are on disk, and Ray's processes end with ours
        driver.stopping = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
