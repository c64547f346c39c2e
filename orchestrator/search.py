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
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from types import FrameType
from typing import TYPE_CHECKING, Any

from orchestrator.ledger import Ledger, Row
from orchestrator.live import Board, Tally, View
from orchestrator.nodes import Node, Nodes
from orchestrator.plan import plan_at_start
from orchestrator.preflight import Answer, Preflight, examine, probing, question
from orchestrator.runs import (
    FINISHED,
    FORMAT,
    Run,
    RunFolder,
    RunFolderError,
    load_runs,
    read_json,
    write_bytes,
    write_json,
)
from orchestrator.sections import Sweep, differences
from orchestrator.tracking import mirroring
from orchestrator.trial import WORKER_LOST, Assignment, classify, run_trial

if TYPE_CHECKING:
    from aiqn_core.parallel import Workers

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
from ray.util.scheduling_strategies import (  # noqa: E402
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

NODES_SECONDS = 5.0  # how often the cluster is asked for its machines
JOIN_SECONDS = 120.0  # how long a cluster is given to grow where no trial fits yet
LOST_SECONDS = 3.0  # how long a machine is given to be known as lost, once a process on it has died
LOCKS_NOTE = (
    "the run folder's storage does not show locks to other machines: never start two drivers of one sweep at once"
)
START_SECONDS = 60.0  # how long a trial may take to start before people are told that it waits


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
        self.nodes = Nodes(ledger.sweep.resources)
        self.preflight: Preflight | None = None
        self.asked = -math.inf  # when the cluster was last asked for its machines
        self.died: list[tuple[float, str]] = []  # (when, trial): not known yet whether the machine is lost
        self.handed: dict[str, tuple[float, int]] = {}  # trials not yet seen to start: (when, attempts before)
        self.notes: list[str] = []

    def meet(self, preflight: Preflight) -> None:
        """Check the machines that are there; raises RunFolderError with all that is wrong, or where no trial fits."""
        self.preflight = preflight
        wrong = [f"this machine, the driver's: {problem}" for problem in preflight.problems]
        deadline = time.monotonic() + (JOIN_SECONDS if "RAY_ADDRESS" in os.environ else 0.0)
        while not wrong and not self.stopping:
            self.look()
            if self.nodes.unchecked:
                time.sleep(0.05)
                continue
            wrong = [f"node {self.nodes.there[node]}: {problem}" for node, problem in self.nodes.refused.items()]
            if not wrong and (misfit := self.nodes.misfit()):
                if time.monotonic() > deadline:
                    raise RunFolderError(misfit)
                time.sleep(1.0)
                self.asked = -math.inf
                continue
            break
        if wrong:
            raise RunFolderError("\n".join(("Nothing was started, for the nodes are not ready:", *wrong)))

    def look(self) -> None:
        """Take note of machines that joined, were lost, or have passed the pre-flight."""
        assert self.preflight is not None
        for node, found in self.preflight.answers():
            self.nodes.checked(node, "; ".join(found) or None)
        if time.monotonic() - self.asked > NODES_SECONDS:
            self.asked = time.monotonic()
            for new in self.nodes.update(alive()):
                self.preflight.begin(new.id, new.resources.get("GPU", 0.0))

    def tell(self) -> None:
        """Keep what people should know of the cluster, and why trials wait, in the run folder where it changes."""
        assert self.preflight is not None
        late = 0
        for trial, (since, attempts) in list(self.handed.items()):
            if self.ledger.run.trial(trial).read_status().get("attempts", 0) > attempts:
                del self.handed[trial]
            elif time.monotonic() - since > START_SECONDS:
                late += 1
        notes = self.nodes.notes(late) + ([] if self.preflight.locks else [LOCKS_NOTE])
        if notes != self.notes or not self.ledger.run.cluster.exists():
            self.notes = notes
            nodes = [{"name": node.name, **node.resources} for node in self.nodes.there.values()]
            write_json(self.ledger.run.cluster, {"nodes": nodes, "notes": notes, "updated": time.time()})

    def suggest(self, ray_id: str) -> dict[str, Any] | str | None:
        """The next trial for Ray, None to be asked again, Searcher.FINISHED when there will be no more."""
        if self.stopping or self.failure or self.ledger.complete:
            return Searcher.FINISHED
        if len(self.trials) >= self.nodes.capacity:
            return None
        assignment = self.again.pop(0) if self.again else self.ledger.next()
        if assignment is None:
            return Searcher.FINISHED if self.ledger.complete else None
        self.trials[ray_id] = assignment.id
        attempts = self.ledger.run.trial(assignment.id).read_status().get("attempts", 0)
        self.handed[assignment.id] = (time.monotonic(), attempts)
        resources = self.ledger.sweep.resources
        return {
            "assignment": assignment.to_json(),
            "run": str(self.ledger.run.path.resolve()),
            "threads": max(1, int(resources.cpu)),
            "each": {name: need for name, need in (("CPU", resources.cpu), ("GPU", resources.gpu)) if need},
            "workers": resources.workers,
            "avoid": self.nodes.avoided,
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
        self.handed.pop(trial, None)
        status = self.ledger.run.trial(trial).read_status()
        if self.stopping and status.get("state") == "running":
            return  # stays RUNNING in the ledger: the next start continues it
        if status.get("state") in FINISHED:
            self.nodes.ended(status.get("node"), status.get("cause"))
            self.close(trial)
        else:
            self.died.append((time.monotonic(), trial))

    def settle(self) -> None:
        """Hand out again what died with its machine, and after a moment what died alone."""
        if not self.died:
            return
        there = {node.id for node in alive()}
        for when, trial in list(self.died):
            node = self.ledger.run.trial(trial).read_status().get("node")
            lost = node is not None and node not in there
            if lost or time.monotonic() - when > LOST_SECONDS:
                self.died.remove((when, trial))
                self.close(trial, node_lost=lost)

    def close(self, trial: str, node_lost: bool = False) -> None:
        retry = self.ledger.close(trial, node_lost=node_lost)
        if retry is not None:
            self.again.append(retry)

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
        notes = tuple(self.notes)
        return Board(ledger.sweep.name, ledger.objective.metric, tallies, elapsed, done, left, self.stopping, notes)

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
        guarded(self.driver, self.driver.look, None)  # all this several times a second
        guarded(self.driver, self.driver.settle, None)
        guarded(self.driver, self.driver.tell, None)
        self.driver.view.update(self.driver.board())
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
        assignment, run = Assignment(**json.loads(config["assignment"])), RunFolder(Path(config["run"]))
        self.stack = ExitStack()
        self.team = Team(config, assignment, run)
        workers = self.stack.enter_context(self.team.working())
        node = ray.get_runtime_context().get_node_id()
        gpu = config["each"].get("GPU", 0)
        self.records = run_trial(assignment, run, config["threads"], node, workers, gpu)

    def step(self) -> dict:
        from aiqn_core.training import DivergedError

        try:
            for record in self.records:
                if "samples" in record:
                    return {"record": json.dumps(record)}
        except DivergedError:
            pass  # a result like any other, recorded in the trial's status: this process is sound
        except Exception:
            self.team.verdict()
            raise
        return {"done": True}

    def reset_config(self, new_config: dict) -> bool:
        self.cleanup()
        self.open(new_config)
        return True

    def cleanup(self) -> None:
        self.records.close()
        self.stack.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the training keeps its own checkpoint in the trial's folder."""


class Team:
    """The workers that train one trial: this process leads, the others are Ray tasks in the trial's bundles."""

    def __init__(self, config: dict, assignment: Assignment, run: RunFolder) -> None:
        self.config, self.assignment, self.folder = config, assignment, run.trial(assignment.id)
        self.over, self.watcher = Event(), Thread(target=self.watch, daemon=True)
        self.tasks: list[Any] = []

    @contextmanager
    def working(self) -> Iterator["Workers | None"]:
        """Start the others and meet them; they end with the block."""
        if self.config["workers"] == 1:
            yield None
            return
        from aiqn_core.parallel import joined, open_meeting

        size, host = self.config["workers"], ray.util.get_node_ip_address()
        meeting = open_meeting(host)
        self.tasks = [self.start(host, meeting.port, rank, size) for rank in range(1, size)]
        self.watcher.start()
        with joined(meeting, 0, size) as workers:
            try:
                yield workers
            finally:
                self.over.set()
                for task in self.tasks:
                    ray.cancel(task, force=True)

    def start(self, host: str, port: int, rank: int, size: int) -> Any:
        each = self.config["each"]
        place = PlacementGroupSchedulingStrategy(ray.util.get_current_placement_group(), rank)
        task = ray.remote(num_cpus=each.get("CPU", 0), num_gpus=each.get("GPU", 0), max_retries=0)(follow_trial)
        own = task.options(scheduling_strategy=place)
        resources = self.config["threads"], each.get("GPU", 0)
        return own.remote(self.assignment.config, *resources, host, port, rank, size)

    def watch(self) -> None:
        """End this process with the first worker that fails: over NCCL it would wait for that one for hours."""
        waiting = self.tasks
        try:
            while waiting:
                done, waiting = ray.wait(waiting, num_returns=1)
                ray.get(done)
        except Exception as error:
            if self.over.is_set():
                return
            state, cause = classify(error)
            if isinstance(error, ray.exceptions.RayTaskError) and cause != WORKER_LOST:
                self.folder.update_status(state=state, cause=cause, message=f"on another worker: {error}"[:500])
            os._exit(1)

    def verdict(self) -> None:
        """Give the watcher a moment to find out that the leader's exception only follows from another worker's."""
        if self.tasks:
            self.watcher.join(LOST_SECONDS)


def follow_trial(
    config: Mapping[str, Any], threads: int, gpu: float, host: str, port: int, rank: int, size: int
) -> None:
    """Train as one of the workers that do not lead."""
    import torch

    from aiqn_core.config import TrainConfig
    from aiqn_core.memory import cap_gpu
    from aiqn_core.training import DivergedError, follow

    torch.set_num_threads(threads)
    if gpu:
        cap_gpu(gpu)
    with suppress(DivergedError):  # the leader found the same, and tells it
        follow(TrainConfig.from_dict(config), host, port, rank, size)


def bundles(config: dict) -> Any:
    """What Ray reserves for a trial: a bundle for each worker, on machines that are not avoided."""
    workers, options = config["workers"], {}
    if config["avoid"]:
        # no blanks: Ray takes one as part of the name that follows it, and so would avoid only the first
        elsewhere = {"ray.io/node-id": f"!in({','.join(config['avoid'])})"}
        options = {"bundle_label_selector": [elsewhere] * workers}
    return tune.PlacementGroupFactory([config["each"]] * workers, strategy="PACK", **options)


def alive() -> list[Node]:
    """The machines of the Ray cluster."""
    return [
        Node(node["NodeID"], f"{node['NodeManagerHostname']}/{node['NodeManagerAddress']}", node["Resources"])
        for node in ray.nodes()
        if node["Alive"]
    ]


def ask_by_task(node: str, asked: Mapping[str, Any]) -> Answer:
    """Examine a machine by a Ray task on it."""
    place = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(num_cpus=0, max_retries=0)(examine).options(scheduling_strategy=place).remote(asked, node)

    def answer() -> dict[str, Any] | Exception | None:
        if not ray.wait([task], timeout=0)[0]:
            return None
        try:
            return ray.get(task)
        except Exception as error:
            return error

    return answer


def ask_here(node: str, asked: Mapping[str, Any]) -> Answer:
    """The same for a cluster of this machine alone: no process need be started."""
    found = examine(asked, node)
    return lambda: found


def drive(ledger: Ledger, view: View) -> None:
    """Train on the Ray cluster until the ledger is complete or the sweep is told to stop.

    Connects to the cluster of RAY_ADDRESS where set, else starts one on this machine. Raises what failed in the
    driver itself; failures of trials are in their status.
    """
    driver = Driver(ledger, view)
    scratch = ledger.run.path / ".ray"
    shutil.rmtree(scratch, ignore_errors=True)
    asked = question(ledger.run, ledger.sweep)
    with cluster(), interruptible(driver), probing(asked), view:
        driver.meet(Preflight(asked, ask_by_task if "RAY_ADDRESS" in os.environ else ask_here))
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(max(1, driver.nodes.capacity))
        tune.Tuner(
            tune.with_resources(Trial, bundles),
            tune_config=tune.TuneConfig(
                search_alg=LedgerSearcher(driver),
                scheduler=LedgerScheduler(driver),
                num_samples=10**9,  # the searcher says when it is enough
                reuse_actors=ledger.sweep.resources.workers == 1,
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
        # without "local", Ray would join whatever cluster was last started on this machine
        address=os.environ.get("RAY_ADDRESS", "local"),
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
