"""Ray Tune over the ledger: our own Searcher, TrialScheduler and Trainable. The one file that imports ray.

Ray places trials and tells when their processes die. It decides nothing: what is trained next and what is stopped
comes from the ledger, and Ray's own experiment state is thrown away.
"""

import gc
import json
import logging
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from orchestrator.causes import Cause, ending
from orchestrator.clusters import AUTOSCALING
from orchestrator.control import note_stop
from orchestrator.driver import Driver, Outside, check_space
from orchestrator.ledger import Ledger
from orchestrator.lifeline import ADDRESS, Lifeline, folder_for_sockets, given_address, wait_for_answer
from orchestrator.live import View
from orchestrator.machines import Machines
from orchestrator.nodes import Node
from orchestrator.places import places
from orchestrator.plan import room
from orchestrator.preflight import Answer, Preflight, examine, probing, question
from orchestrator.runs import RunFolder, RunFolderError
from orchestrator.sections import Resources
from orchestrator.signals import Interrupt
from orchestrator.tracking.process import Mirroring
from orchestrator.trial import Assignment, is_evaluation, run_trial

if TYPE_CHECKING:
    from aiqn_core.parallel import Workers

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 puts trials behind whatever else runs, the mirror among it
    "RAY_worker_register_timeout_seconds": "600",  # Ray's 60 kill each worker anew that starts on a busy machine
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # a snapshot nobody reads
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # they are in the trials' logs
}
os.environ.update({key: os.environ.get(key, value) for key, value in ENVIRONMENT.items()})

import ray  # noqa: E402  (its settings are read at import)
from ray import tune  # noqa: E402
from ray._private.services import canonicalize_bootstrap_address_or_die  # noqa: E402
from ray.autoscaler.sdk import request_resources  # noqa: E402
from ray.tune.schedulers import FIFOScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402
from ray.util.scheduling_strategies import (  # noqa: E402
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

RAY_STARTS = 3  # how often it is tried
MOST_WORKERS = 1000  # of trials, that an autoscaler is asked to make room for at once
LEAVE_SECONDS = 30.0  # that Ray has to end
TOGETHER_SECONDS = 0.1  # within which evaluations are told at once, where no pruner decides on each
VERDICT_SECONDS = 3.0  # between a worker's exception and what follows from it in the others


class LedgerSearcher(Searcher):
    """Hands Ray what the ledger says comes next."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self.driver = driver

    def suggest(self, trial_id: str) -> Any:
        return guarded(self.driver, lambda: self._suggest(trial_id), Searcher.FINISHED)

    def _suggest(self, ray_id: str) -> dict[str, Any] | str | None:
        self.driver.tick()  # with no trial at all Ray does nothing but ask here, for ten minutes on end
        assignment = self.driver.suggest(ray_id)
        if assignment is None:
            return Searcher.FINISHED if self.driver.over else None
        ledger = self.driver.ledger
        resources = ledger.sweep.resources
        return {
            "assignment": assignment.to_json(),
            "run": str(ledger.run.path.resolve()),
            "threads": max(1, int(resources.cpu)),
            "silent_seconds": None if resources.silent_minutes is None else 60 * resources.silent_minutes,
            "each": each(resources),
            "workers": resources.workers,
            "together": ledger.sweep.search.pruner["name"] == "none",
            "avoid": self.driver.machines.nodes.avoided,
        }

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        if not error:  # errors come with their reason, through the scheduler
            guarded(self.driver, lambda: self.driver.ended(trial_id), None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""


class LedgerScheduler(FIFOScheduler):
    """Tells the driver of trials that die."""

    def __init__(self, driver: Driver, ray_trials: dict[str, Any]) -> None:
        super().__init__()
        self.driver, self.ray_trials = driver, ray_trials

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self.ray_trials[trial.trial_id] = trial

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict) -> None:
        self.ray_trials.pop(trial.trial_id, None)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self.ray_trials.pop(trial.trial_id, None)
        error = trial.get_pickled_error()
        guarded(self.driver, lambda: self.driver.ended(trial.trial_id, error), None)


class Ticks(tune.Stopper):
    """The driver's clock, what trials measured, and the end of a trial or of Ray's loop where the driver wants it."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    def __call__(self, trial_id: str, result: dict) -> bool:  # the only hook that also sees a trial's last result
        records = json.loads(result.get("records", "[]"))
        return guarded(self.driver, lambda: any(self.driver.result(trial_id, record) for record in records), True)

    def stop_all(self) -> bool:  # called several times a second
        guarded(self.driver, self.driver.tick, None)
        return self.driver.idle


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
        assignment, run = Assignment.from_json(config["assignment"]), RunFolder(Path(config["run"]))
        self.stack = ExitStack()
        self.team = Team(config, assignment, run)
        workers = self.stack.enter_context(self.team.working())
        node = ray.get_runtime_context().get_node_id()
        gpu, silent_seconds = config["each"].get("GPU", 0), config["silent_seconds"]
        self.records = run_trial(assignment, run, config["threads"], node, workers, gpu, silent_seconds)
        self.together, self.measured = config["together"], 0.0

    def step(self) -> dict:
        """The next evaluation; where nobody decides on each, those that come at once with it."""
        from aiqn_core.training import DivergedError

        records: list[dict[str, Any]] = []
        try:
            for record in self.records:
                if is_evaluation(record):
                    records.append(record)
                    quick = record["time"] - self.measured < TOGETHER_SECONDS
                    self.measured = records[0]["time"]
                    if not (self.together and quick):
                        return {"records": json.dumps(records)}
        except DivergedError:
            pass  # a result like any other, recorded in the trial's status: this process is sound
        except Exception:
            self.team.verdict()
            raise
        return {"records": json.dumps(records), "done": True}

    def reset_config(self, new_config: dict) -> bool:
        self.cleanup()
        self.open(new_config)
        return True

    def cleanup(self) -> None:
        with suppress(OSError):  # of files that cannot be closed on a full disk
            self.records.close()
        self.stack.close()
        free_gpu_memory()


def free_gpu_memory() -> None:
    """Give the memory of the last training back to the GPU's other users, where this process has trained on one."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


class Team:
    """The workers that train one trial: this process leads, the others are Ray tasks in the trial's bundles."""

    def __init__(self, config: dict, assignment: Assignment, run: RunFolder) -> None:
        self.config, self.assignment, self.run = config, assignment, run
        self.folder = run.trial(assignment.id)
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
        return own.remote(str(self.run), self.assignment.config, *resources, host, port, rank, size)

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
            end = ending({}, error, places=places(self.run.path, self.assignment.config))
            if isinstance(error, ray.exceptions.RayTaskError) and end.cause != Cause.WORKER_LOST:
                message = f"on another worker: {error}"[:500]
                self.folder.update_status(state=end.state, cause=end.recorded, message=message)
            os._exit(1)

    def verdict(self) -> None:
        """Give the watcher a moment to find out that the leader's exception only follows from another worker's."""
        if self.tasks:
            self.watcher.join(VERDICT_SECONDS)


def follow_trial(
    run: str, config: Mapping[str, Any], threads: int, gpu: float, host: str, port: int, rank: int, size: int
) -> None:
    """Train as one of the workers that do not lead."""
    import torch

    from aiqn_core.code import load_kept
    from aiqn_core.config import TrainConfig
    from aiqn_core.memory import cap_gpu
    from aiqn_core.training import DivergedError, follow

    torch.set_num_threads(threads)
    if gpu:
        cap_gpu(gpu)
    with suppress(DivergedError):  # the leader found the same, and tells it
        load_kept(Path(run), config.get("code"))
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
        Node(
            node["NodeID"],
            f"{node['NodeManagerHostname']}/{node['NodeManagerAddress']}",
            node["Resources"],
            node["NodeName"],
        )
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
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
            return None  # the machine is going, or its process was killed: nothing that it says of our code
        except Exception as error:
            return error

    return answer


def ask_here(node: str, asked: Mapping[str, Any]) -> Answer:
    """The same for a cluster of this machine alone: no process need be started."""
    found = examine(asked, node)
    return lambda: found


def drive(ledger: Ledger, view: View, interrupt: Interrupt, mirror: Mirroring) -> str:
    """Train on the Ray cluster until the ledger is complete or the sweep is told to stop.

    Connects to the cluster of RAY_ADDRESS where set, else starts one on this machine. Raises what failed in the
    driver itself; failures of trials are in their status. Gives what stops a sweep whose first trials fail alike.
    """
    scratch = ledger.run.path / ".ray"
    shutil.rmtree(scratch, ignore_errors=True)
    address = given_address(os.environ)
    asked = question(ledger.run, ledger.sweep, 1 if address else room(ledger.sweep)[0])
    with cluster(lambda: interrupt.asked), interrupt, probing(asked), view:
        preflight = Preflight(asked, ask_by_task if address else ask_here)
        machines = Machines(ledger.run, ledger.sweep.resources, preflight, alive)
        machines.meet(lambda: interrupt.asked)
        ray_trials: dict[str, Any] = {}
        demand = Room(ledger.sweep.resources)
        outside = Outside(lambda ray_id: kill(ray_trials[ray_id]), lambda: interrupt.asked, mirror.revive, demand.make)
        driver = Driver(ledger, view, machines, outside)
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(max(1, machines.nodes.capacity))
        try:
            tuner(driver, ray_trials, scratch).fit()
        except Exception as error:  # of Ray itself, as where it cannot keep its state on a full disk
            driver.failure = driver.failure or error
        if driver.failure is None:
            driver.spent.write()
            view.update(driver.board())
            demand.make(0)
    shutil.rmtree(scratch, ignore_errors=True)
    if driver.failure is not None:
        check_space(ledger)
        raise driver.failure
    if driver.stopping:
        if not interrupt.asked:
            note_stop(ledger.run, driver.stopping)
        view.say(driver.stopping)
    return driver.alike.told(ledger.run)


class Room:
    """What is asked of Ray's autoscaler, where there is one: it sees no trial that is not yet in Ray's hands."""

    def __init__(self, need: Resources) -> None:
        self.need, self.listens = need, bool(os.environ.get(AUTOSCALING))
        self.trials: int | None = None  # for how many it was asked last

    def make(self, trials: int) -> None:
        """Ask for as many machines as so many trials need at once; fewer than before lets idle ones go."""
        trials = min(trials, max(1, MOST_WORKERS // self.need.workers))
        if self.listens and trials != self.trials:
            request_resources(bundles=[each(self.need)] * self.need.workers * trials)
            self.trials = trials


def each(need: Resources) -> dict[str, float]:
    """What Ray reserves for one worker of a trial."""
    return {name: amount for name, amount in (("CPU", need.cpu), ("GPU", need.gpu)) if amount}


def kill(trial: Any) -> None:
    """End the process of one of Ray's trials."""
    actor = trial.temporary_state.ray_actor
    if actor is not None:
        ray.kill(actor)


def tuner(driver: Driver, ray_trials: dict[str, Any], scratch: Path) -> tune.Tuner:
    """Ray Tune with our Searcher, Scheduler and Trainable, and nothing of its own kept."""
    return tune.Tuner(
        tune.with_resources(Trial, bundles),
        tune_config=tune.TuneConfig(
            search_alg=LedgerSearcher(driver),
            scheduler=LedgerScheduler(driver, ray_trials),
            num_samples=10**9,  # the searcher says when it is enough
            reuse_actors=driver.ledger.sweep.resources.workers == 1,
            trial_name_creator=str,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=uuid.uuid4().hex[:8],
            storage_path=str(scratch.resolve()),
            stop=Ticks(driver),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a training keeps its own in its folder
        ),
    )


@contextmanager
def cluster(asked: Callable[[], bool]) -> Iterator[None]:
    """A connection to the Ray cluster, or one of our own for the time of the block; this process ends where it dies.

    `asked` says whether somebody wants it to end anyway.
    """
    address = given_address(os.environ)
    if address is None:
        os.environ.pop(ADDRESS, None)  # Ray takes an empty one for an address
        os.environ["RAY_TMPDIR"] = folder_for_sockets(os.environ)
    elif "://" not in address:
        wait_for_answer(host_and_port(address), named=address)
    for attempt in range(1, RAY_STARTS + 1):
        try:
            start_ray(address)
            logging.getLogger("ray").setLevel(logging.CRITICAL)  # errors of trials are in their logs
            ray._private.worker.print_to_stdstream = lambda *_, **__: None  # nor the end of the raylet's log as it dies
            break
        except Exception as error:  # Ray has no type for it: where the machine is busy, its processes start too late
            ray.shutdown()
            if attempt == RAY_STARTS:
                raise RunFolderError(f"Ray does not start: {error}\nIts logs are in {ray_logs()}.") from error
    try:
        with Lifeline(sockets(), own=address is None, asked=asked):
            yield
    finally:
        end_ray()


def host_and_port(named: str) -> str:
    """Where a cluster listens that RAY_ADDRESS names; raises RunFolderError for "auto" where Ray finds none, or two."""
    try:
        return canonicalize_bootstrap_address_or_die(named)
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"{ADDRESS}: saw {named!r}, but {error} Name it as host:port, or unset {ADDRESS} to use this machine."
        ) from error


def start_ray(address: str | None) -> None:
    ray.init(
        # without "local", Ray would join whatever cluster was last started on this machine
        address=address or "local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        configure_logging=True,
        ignore_reinit_error=True,
    )


def sockets() -> list[str]:
    """Where Ray's head and its process on this machine listen."""
    context = ray.get_runtime_context()
    node = ray._private.worker._global_node
    return [context.gcs_address, *([node.raylet_socket_name] if node else [])]


def ray_logs() -> Path:
    return Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "session_latest" / "logs"  # noqa: S108


def end_ray() -> None:
    """Leave Ray; one that has died meanwhile must not keep us."""
    leaving = Thread(target=ray.shutdown, daemon=True)
    leaving.start()
    leaving.join(LEAVE_SECONDS)
