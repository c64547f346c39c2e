"""The driver over a real ledger, with a cluster that is only said to be there."""

import errno
import json
import time

import pytest
from test_ledger import SWEEP, score, start

from orchestrator import driver as driver_module
from orchestrator.clocks import Awake
from orchestrator.control import STOPPED, note_stop, take_requests
from orchestrator.driver import Driver, Outside
from orchestrator.ledger import Ledger
from orchestrator.live import View
from orchestrator.nodes import Node, Nodes
from orchestrator.runs import RunFolder, StorageError, read_json, write_json
from orchestrator.sweep import load_sweep
from orchestrator.trial import Assignment

TEXT = SWEEP.replace("PRUNER", "none").replace("SAMPLER", "random")


class Machines:
    """Two machines, each for one trial; those in `gone` were lost."""

    def __init__(self, need, run):
        self.nodes, self.notes, self.gone, self.run = Nodes(need), [], set(), run
        self.unsound, self.hopeless = set(), ""
        self.look()

    def alive(self):
        return [Node(name, name, {"CPU": 1.0}) for name in ("left", "right") if name not in self.gone]

    def look(self):
        for new in self.nodes.update(self.alive()):
            self.nodes.checked(new.id, None)

    def lost(self, node):
        return lambda: node in self.gone

    def hand(self, trial):
        """Nothing."""

    def ended(self, trial):
        """Nothing."""

    def take_requests(self, active):
        """Nothing: nobody asks."""

    def leaves(self, trial):
        return False

    def node_of(self, trial):
        return self.run.trial(trial).read_status().get("node")

    def doubt(self, node):
        """It is asked again, and passes, unless it is one of the `unsound`."""
        if node in self.unsound:
            self.hopeless = f"No machine can train any more:\nnode {node}: its cache is gone"

    def tell(self):
        """Nothing."""


class World:
    """What the driver was asked to do outside, and what it is told."""

    def __init__(self):
        self.killed, self.interrupted, self.room = [], False, []


@pytest.fixture
def world():
    return World()


@pytest.fixture
def open_driver(tmp_path, world, monkeypatch):
    monkeypatch.setattr(driver_module, "TICK_SECONDS", 0.0)
    monkeypatch.setattr(driver_module, "SLOW_SECONDS", 0.0)

    def open_(more="", text=TEXT):
        path = tmp_path / "study.yaml"
        path.write_text(text + more)
        run = RunFolder(tmp_path / "runs" / "study")
        run.path.mkdir(parents=True, exist_ok=True)
        sweep = load_sweep(path)
        outside = Outside(world.killed.append, lambda: world.interrupted, lambda: None, world.room.append)
        return Driver(Ledger(run, sweep), View(), Machines(sweep.resources, run), outside)

    return open_


def evaluate(driver, ray_id, assignment, step=2):
    record = {"step": step, "time": 1.0, "samples": 11, "fd_lite0": score(assignment, step)}
    driver.ledger.run.trial(assignment.id).append_metrics([record])
    return driver.result(ray_id, record)


def begin(driver, ray_id, node="left"):
    assignment = driver.suggest(ray_id)
    start(driver.ledger, assignment).update_status(node=node, pid=1)
    return assignment


def test_as_many_trials_as_there_is_room(open_driver):
    driver = open_driver()
    assert begin(driver, "a").id == "pixelcnn-search-0"
    assert begin(driver, "b").id == "pixeliqn-search-0"
    assert driver.suggest("c") is None
    assert not driver.over
    driver.machines.gone.add("right")
    driver.tick()
    assert driver.machines.nodes.capacity == 1


def test_a_cluster_that_grows_is_told_of_all_trials_that_wait_until_the_sweep_stops(open_driver, world):
    driver = open_driver()
    begin(driver, "a")
    driver.tick()
    assert driver.machines.nodes.capacity == 2
    assert world.room == [driver.ledger.at_once]
    assert world.room[0] > 2
    world.interrupted = True
    driver.tick()
    driver.tick()
    assert world.room[-1] == 1


def test_a_trial_that_somebody_stops_ends_at_its_next_evaluation(open_driver):
    driver = open_driver()
    first, other = begin(driver, "a"), begin(driver, "b")
    write_json(driver.ledger.run.control / f"stop.{first.id}", {})
    driver.tick()
    assert not evaluate(driver, "b", other)
    assert evaluate(driver, "a", first)
    driver.ended("a")
    status = driver.ledger.run.trial(first.id).read_status()
    assert (status["state"], status["cause"], status["step"]) == ("stopped", "asked to stop", 2)
    assert driver.ledger.states["pixelcnn", "search"] == {"stopped": 1}
    assert driver.suggest("c").id == "pixelcnn-search-1"


@pytest.mark.parametrize("how", ["request", "signal", "hours"])
def test_a_sweep_that_is_to_stop_waits_for_the_evaluations_in_progress(open_driver, world, how):
    driver = open_driver("budget: {hours: 2}\n")
    first, other = begin(driver, "a"), begin(driver, "b")
    if how == "request":
        write_json(driver.ledger.run.control / "stop", {})
    world.interrupted = how == "signal"
    driver.spent.seconds = 7201 if how == "hours" else 0.0
    driver.tick()
    assert driver.stopping
    assert driver.suggest("c") is None
    assert driver.over
    for ray_id, assignment in (("a", first), ("b", other)):
        assert not driver.idle
        assert evaluate(driver, ray_id, assignment)
        driver.ended(ray_id)
    assert driver.idle
    assert take_requests(driver.ledger.run) == (False, [])
    again = open_driver("budget: {hours: 3}\n")  # they go on with the next start
    assert [again.suggest(ray_id).id for ray_id in "ab"] == [first.id, other.id]


def test_what_is_spent_adds_up_over_starts(open_driver):
    driver = open_driver("resources: {gpu: 0.5}\n")
    driver.spent.add(7200.0, 3)
    driver.spent.write()
    spent = open_driver("resources: {gpu: 0.5}\nbudget: {gpu_hours: 3}\n").spent
    assert (spent.seconds, spent.trial_seconds) == (7200.0, 21600.0)
    assert "budget.gpu_hours: 3 are spent" in spent.over_budget()
    assert open_driver("resources: {gpu: 0.5}\nbudget: {gpu_hours: 3.1}\n").spent.over_budget() == ""


def test_gpu_hours_are_those_of_all_workers_of_a_trial(open_driver):
    driver = open_driver("resources: {gpu: 1, workers: 3}\nbudget: {gpu_hours: 5}\n")
    driver.spent.add(3600.0, 2)
    assert "budget.gpu_hours: 5 are spent" in driver.spent.over_budget()


def test_only_a_stop_that_was_asked_for_leaves_word(open_driver):
    run = open_driver().ledger.run
    assert not (run.control / STOPPED).exists()
    note_stop(run, "asked to stop")
    assert json.loads((run.control / STOPPED).read_text()) == {"why": "asked to stop"}
    assert take_requests(run) == (False, [])  # the next start begins with this
    assert not (run.control / STOPPED).exists()


def test_a_trial_dies_of_its_cause_and_a_lost_machine_costs_no_retry(open_driver):
    driver = open_driver("resources: {retries: 1}\n")
    trial = begin(driver, "a")
    for number, node in enumerate(("left", "right")):
        if number:
            driver.machines.gone.add("right")
        driver.ended("a")
        driver.tick()
        assert driver.suggest("a").id == trial.id
        start(driver.ledger, trial).update_status(node="right" if number == 0 else node)
    causes = [attempt["cause"] for attempt in driver.ledger.rows[trial.id].attempts]
    assert causes == ["process killed", "node lost"]


def test_what_died_is_handed_out_again_though_ray_only_asks_for_trials(open_driver):
    """As Ray's loop does where no trial is left to run: it does not come to the driver's clock."""
    from orchestrator.search import LedgerSearcher

    driver, answers = open_driver(), [None, True]
    died = begin(driver, "a")
    driver.machines.lost = lambda node: lambda: answers.pop(0)
    driver.ended("a")
    searcher = LedgerSearcher(driver)
    assert Assignment.from_json(searcher.suggest("b")["assignment"]).id != died.id  # its end is not yet explained
    assert Assignment.from_json(searcher.suggest("c")["assignment"]).id == died.id
    assert [attempt["cause"] for attempt in driver.ledger.rows[died.id].attempts] == ["node lost"]


@pytest.mark.parametrize(
    ("together", "told"), [(True, [[1.0], [1.01, 1.02, 5.0], [5.5]]), (False, [[1.0], [1.01], [1.02], [5.0], [5.5]])]
)
def test_evaluations_that_come_at_once_are_told_at_once_where_none_is_judged_alone(together, told):
    from orchestrator.search import Trial

    trial = object.__new__(Trial)  # without the training, which a process of Ray's would open
    trial.together, trial.measured = together, 0.0
    times = [1.0, 1.01, 1.02, 5.0, 5.5]
    trial.records = iter([{"step": 3, "time": 0.9}, *({"step": 7, "time": at, "samples": 11} for at in times)])
    results = [trial.step() for _ in told]
    assert [[record["time"] for record in json.loads(result["records"])] for result in results] == told
    assert trial.step() == {"records": "[]", "done": True}


class Clock:
    """A monotonic clock that the test sets; the driver looks at it every second, but where it is suspended."""

    def __init__(self, driver):
        self.now, self.driver = 0.0, driver
        driver.awake = Awake(lambda: self.now)

    def run(self, seconds):
        for _ in range(seconds):
            self.now += 1.0
            self.driver.tick()

    def sleep(self, seconds):
        self.now += seconds
        self.driver.tick()


def test_a_silent_trial_is_ended_and_tried_again(open_driver, world):
    driver = open_driver("resources: {silent_minutes: 1}\n")
    clock, trial = Clock(driver), begin(driver, "a")
    clock.run(115)
    assert world.killed == []  # it may still end itself, with its stacks in the log
    evaluate(driver, "a", trial)
    clock.run(115)
    assert world.killed == []
    clock.run(10)
    assert set(world.killed) == {"a"}
    driver.ended("a")
    driver.tick()
    assert driver.suggest("b").causes == ["silent"]


def test_neither_a_pause_nor_a_clock_that_is_set_is_silence(open_driver, world, monkeypatch):
    driver = open_driver("resources: {silent_minutes: 1}\n")
    clock = Clock(driver)
    begin(driver, "a")
    clock.run(50)
    clock.sleep(7200)
    clock.run(50)
    then = time.time()
    monkeypatch.setattr(time, "time", lambda: then + 3 * 3600)
    clock.run(5)
    assert world.killed == []
    assert 105 <= driver.spent.seconds < 120  # nor is a pause work that a budget pays
    driver.ended("a")
    driver.tick()
    assert driver.suggest("b").causes == ["process killed"]


def test_a_trial_that_still_loads_is_given_time_and_its_own_word_is_heard(open_driver, world):
    driver = open_driver("resources: {silent_minutes: 1}\n")
    clock, trial = Clock(driver), begin(driver, "a")
    driver.ledger.run.trial(trial.id).update_status(loaded=False)
    clock.run(300)
    assert world.killed == []
    driver.ledger.run.trial(trial.id).update_status(loaded=True, cause="silent")
    driver.ended("a")
    driver.tick()
    assert driver.suggest("b").causes == ["silent"]


def test_no_trial_is_blamed_for_a_full_disk(open_driver, monkeypatch):
    driver = open_driver()
    trial = begin(driver, "a")
    journal = driver.ledger.run.journal.read_bytes()

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(driver_module, "write_bytes", full)
    with pytest.raises(StorageError, match="the storage is full"):
        driver.ended("a", OSError(errno.ENOSPC, "full"))
    driver.failure = StorageError("full")
    begun = driver.ledger.run.journal.read_bytes()
    driver.ended("b")
    assert driver.ledger.run.journal.read_bytes() == begun == journal
    assert read_json(driver.ledger.run.trial(trial.id).status)["state"] == "running"


@pytest.mark.parametrize("cause", ["storage", "disk full", "data missing"])
@pytest.mark.parametrize("sound", [True, False])
def test_a_sweep_stops_for_what_every_trial_needs_and_blames_none(open_driver, cause, sound):
    driver = open_driver("resources: {retries: 2}\n")
    driver.machines.unsound = set() if sound else {"left"}
    other, count = begin(driver, "b", "right"), 0
    journal = driver.ledger.run.journal
    while not driver.stopping:  # a fault that goes away costs a retry, one that stays is found out by asking again
        trial = begin(driver, "a")
        driver.ledger.run.trial(trial.id).update_status(state="failed", cause=cause, message="no cache")
        driver.ended("a")
        driver.tick()
        count += 1
    assert count == (3 if sound else 1)
    assert ("its cache is gone" if not sound else f"{trial.id} ended 3 times, of {cause}") in driver.stopping
    assert driver.suggest("c") is None
    assert evaluate(driver, "b", other)  # in order: the others stop after their evaluations
    driver.ended("b")
    assert driver.idle
    status = driver.ledger.run.trial(trial.id).read_status()
    assert (status["state"], status["cause"]) == ("running", None)
    assert all(not ended for ended in driver.ledger.states.values())
    assert b'"op_code":6' not in journal.read_bytes()  # no trial was told to have ended
    again = open_driver("resources: {retries: 2}\n")
    assert {again.suggest(ray_id).id for ray_id in "ab"} == {trial.id, other.id}
    for kill in range(3):  # and none of its retries is spent
        again.ledger.run.trial(trial.id).update_status(state="running", node="left", pid=1)
        assert (again.ledger.close(trial.id) is None) == (kill == 2)


def fail_next(driver, ray_id, cause):
    trial = begin(driver, ray_id)
    driver.ledger.run.trial(trial.id).update_status(state="failed", cause=cause, message="'x'", log="l.txt")
    driver.ended(ray_id)
    return trial


@pytest.mark.parametrize(("setting", "most"), [("", 5), (", same_failures: 3", 3), (", same_failures: null", None)])
def test_a_sweep_whose_first_trials_all_fail_alike_stops(open_driver, setting, most):
    driver = open_driver(text=TEXT.replace("seed: 3", f"seed: 3{setting}"))
    count = 0
    while not driver.over:
        last = fail_next(driver, f"{count}", "KeyError")
        count += 1
    assert count == (most or 10)  # of both arms: all of them, where there is no limit
    told = driver.alike.told(driver.ledger.run)
    if most is None:
        assert told == ""
        return
    assert f"The first {most} trials all failed with one exception" in told
    assert "KeyError: 'x'  log: l.txt" in told
    assert f"`aiqn retry {driver.ledger.run.path}`" in told
    again = open_driver(text=TEXT.replace("seed: 3", f"seed: 3{setting}"))
    assert not again.over  # the next start tries again, and burns no more than that
    assert again.suggest("a").id != last.id


@pytest.mark.parametrize("other", ["TypeError", None, "process killed"])
def test_failures_that_differ_or_a_trial_that_ends_well_stop_nothing(open_driver, other):
    driver = open_driver("resources: {retries: 0}\n")
    for number in range(7):
        if number == 2 and other is None:
            trial = begin(driver, "a")
            evaluate(driver, "a", trial, 6)
            driver.ledger.run.trial(trial.id).update_status(state="completed")
            driver.ended("a")
        else:
            fail_next(driver, "a", other if number == 2 else "KeyError")
    assert not driver.over
