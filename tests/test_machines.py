import math

import pytest

from orchestrator import machines as machines_module
from orchestrator.machines import Machines
from orchestrator.nodes import Node
from orchestrator.runs import RunFolder, RunFolderError, read_json
from orchestrator.sections import Resources


class Preflight:
    """Nodes answer what the test says."""

    def __init__(self):
        self.problems, self.locks, self.asked, self.said = [], True, {"gpu": True, "data": ["digits"]}, {}
        self.questions, self.waiting = [], []

    def ask(self, node, question):
        self.questions.append((node, question))
        return lambda: self.said.get(node)

    def begin(self, node, gpus, holds):
        self.waiting.append(node)

    def answers(self):
        while self.waiting:
            node = self.waiting.pop()
            yield node, self.said.get(node, [])


class Clock:
    """A monotonic clock that the test sets; the machines are looked at every second, but where we are suspended."""

    def __init__(self):
        self.now = 1000.0

    def run(self, seconds):
        for _ in range(int(seconds)):
            self.now += 1.0
            self.look()

    def sleep(self, seconds):
        self.now += seconds
        self.look()


@pytest.fixture
def cluster(tmp_path):
    """Machines of a run folder, with a clock of their own; `there` says which nodes Ray counts."""
    clock = Clock()
    there = {"left": Node("left", "left", {"CPU": 2.0}), "right": Node("right", "right", {"CPU": 3.0})}
    made = Machines(RunFolder(tmp_path), Resources(), Preflight(), lambda: list(there.values()), lambda: clock.now)
    clock.look = made.look
    return made, there, clock


def test_a_node_that_answers_is_not_lost_and_one_that_ray_gives_up_is(cluster):
    made, there, clock = cluster
    lost = made.lost("left")
    assert made.preflight.questions == [("left", {"gpu": False, "data": []})]  # only whether it is there
    assert lost() is None
    clock.run(30)
    assert lost() is None  # Ray may need long to notice: nothing is decided, and no retry spent, meanwhile
    made.preflight.said["left"] = {"host": "left"}
    assert lost() is False
    gone = made.lost("right")
    assert gone() is None
    del there["right"]
    assert gone() is True
    assert made.lost("right")() is True
    assert made.lost(None)() is False  # it never got as far as a node


def test_a_node_that_neither_answers_nor_is_given_up_counts_as_there(cluster):
    made, _, clock = cluster
    lost = made.lost("left")
    clock.run(machines_module.LOST_SECONDS + 1)
    assert lost() is False


def test_a_machine_that_lacks_something_is_asked_again_and_the_last_one_ends_the_sweep(cluster):
    made, _, _ = cluster
    made.meet(lambda: False)
    made.doubt("left")
    made.doubt("left")  # of another trial there: one question is enough
    assert made.preflight.waiting == ["left"]
    assert made.nodes.avoided == ["left"]
    made.look()
    assert made.nodes.avoided == []  # it passes: the fault has gone
    made.preflight.said = {"left": ["no cache"], "right": ["no space"]}
    made.doubt("left")
    made.look()
    assert (made.nodes.avoided, made.hopeless) == (["left"], "")
    made.doubt("right")
    assert made.hopeless == ""  # not before its answer
    made.look()
    assert "node left (2 CPU, 0 GPU): no cache\nnode right (3 CPU, 0 GPU): no space" in made.hopeless
    made.doubt("gone")
    made.doubt(None)


def test_a_driver_that_was_suspended_has_waited_for_nobody(cluster):
    made, _, clock = cluster
    made.meet(lambda: False)
    lost = made.lost("left")
    made.hand("cnn-search-0")
    clock.run(20)
    clock.sleep(7200)
    clock.run(20)
    assert lost() is None  # it may still be found to be gone, and then no retry is spent
    made.tell()
    assert made.notes == []
    clock.run(machines_module.LOST_SECONDS)
    assert lost() is False
    made.tell()
    assert made.notes != []


def test_what_is_wrong_is_told_at_once_with_the_node(cluster):
    made, _, _ = cluster
    made.preflight.said = {"right": ["it has torch 1.0"]}
    with pytest.raises(RunFolderError, match=r"node right \(3 CPU, 0 GPU\): it has torch 1.0"):
        made.meet(lambda: False)


def test_a_node_that_asks_is_let_go_when_its_last_trial_has_left(cluster):
    made, there, _ = cluster
    there["third"] = Node("third", "right", {"CPU": 7.0}, "slurm-11")  # two on one host
    there["right"] = Node("right", "right", {"CPU": 3.0}, "slurm-7")
    made.meet(lambda: False)
    made.run.control.mkdir()
    request = made.run.control / "leave.slurm-11"
    for trial, node in (("cnn-search-0", "third"), ("cnn-search-1", "right"), ("cnn-search-2", "third")):
        made.run.trial(trial).path.mkdir(parents=True)
        made.run.trial(trial).update_status(node=node)
    made.take_requests(["cnn-search-0", "cnn-search-1"])
    assert made.nodes.avoided == []
    request.touch()
    made.take_requests(["cnn-search-0", "cnn-search-1"])
    assert (made.nodes.avoided, made.nodes.capacity) == (["third"], 5)
    assert request.exists()
    assert made.leaves("cnn-search-0")
    assert not made.leaves("cnn-search-1")
    made.take_requests(["cnn-search-1"])
    assert not request.exists()
    assert made.nodes.avoided == ["third"]  # until it is gone
    del there["third"]
    made.asked = -math.inf
    made.look()
    assert made.nodes.avoided == []
    request.touch()  # of a node that Ray does not know: it need not wait
    made.take_requests(["cnn-search-1"])
    assert not request.exists()


def test_the_run_folder_says_which_nodes_there_are_and_why_trials_wait(cluster):
    made, there, clock = cluster
    made.meet(lambda: False)
    made.tell()
    assert [node["name"] for node in read_json(made.run.cluster)["nodes"]] == ["left", "right"]
    made.hand("cnn-search-0")
    clock.run(machines_module.START_SECONDS + 1)
    del there["left"]
    made.asked = -math.inf
    made.look()
    made.tell()
    told = read_json(made.run.cluster)
    assert [node["name"] for node in told["nodes"]] == ["right"]
    (note,) = told["notes"]
    assert note.startswith("trials that wait for over a minute to start: 1. ")
    made.ended("cnn-search-0")
    made.tell()
    assert read_json(made.run.cluster)["notes"] == []
