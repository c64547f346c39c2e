import pytest

from orchestrator.nodes import Node, Nodes
from orchestrator.sections import Resources

SMALL = Node("a1", "small/10.0.0.1", {"CPU": 3.0, "memory": 1e9})
LARGE = Node("b2", "large/10.0.0.2", {"CPU": 11.0, "GPU": 2.0})


def ready(need, *nodes):
    known = Nodes(Resources(**need))
    for node in known.update(nodes):
        known.checked(node.id, None)
    return known


@pytest.mark.parametrize(
    ("need", "expected"),
    [
        ({"cpu": 1}, 14),
        ({"cpu": 2}, 6),  # not 14 // 2: the odd core of each node holds none
        ({"cpu": 0.5}, 28),
        ({"cpu": 1, "gpu": 0.5}, 4),
        ({"cpu": 1, "gpu": 1, "workers": 2}, 1),
        ({"cpu": 3, "workers": 2}, 2),  # 1 + 3 workers, across nodes
        ({"cpu": 12}, 0),
    ],
)
def test_capacity_is_counted_node_by_node(need, expected):
    assert ready(need, SMALL, LARGE).capacity == expected


def test_what_never_fits_is_told_with_what_there_is():
    assert ready({"cpu": 5}, SMALL, LARGE).misfit() is None
    message = ready({"cpu": 12}, SMALL, LARGE).misfit()
    assert "a trial needs {cpu: 12, gpu: 0} on one node" in message
    assert "small/10.0.0.1 (3 CPU, 0 GPU), large/10.0.0.2 (11 CPU, 2 GPU)" in message
    assert "--set resources.cpu=" in message
    assert "for each of its 3 workers" in ready({"gpu": 1, "workers": 3}, SMALL, LARGE).misfit()


def test_a_node_that_joins_is_used_once_it_has_been_checked():
    known = ready({"cpu": 1}, SMALL)
    assert known.update([SMALL, LARGE]) == [LARGE]
    assert (known.capacity, known.avoided) == (3, ["b2"])
    known.checked("b2", None)
    assert (known.capacity, known.avoided) == (14, [])


def test_a_node_that_fails_the_check_is_not_used_until_it_comes_back():
    known = ready({"cpu": 1}, SMALL)
    known.update([SMALL, LARGE])
    known.checked("b2", "it has another torch")
    assert (known.capacity, known.avoided) == (3, ["b2"])
    assert known.notes() == ["node large/10.0.0.2 is not used: it has another torch"]
    known.update([SMALL])
    assert known.notes() == []
    assert known.update([SMALL, LARGE]) == [LARGE]


def test_two_gpu_faults_in_a_row_are_enough_and_a_good_end_forgives():
    known = ready({"cpu": 1}, SMALL, LARGE)
    for cause in ("GPU fault", None, "GPU fault", "out of GPU memory", "GPU fault"):
        known.ended("b2", cause)
    assert known.avoided == []
    known.ended("b2", "GPU fault")
    assert (known.avoided, known.capacity) == (["b2"], 3)
    assert known.notes() == ["node large/10.0.0.2 is avoided: 2 trials in a row died there of GPU faults"]


def test_the_last_node_is_never_avoided():
    known = ready({"cpu": 5}, SMALL, LARGE)  # only the large one holds a trial
    known.ended("b2", "GPU fault")
    known.ended("b2", "GPU fault")
    assert known.avoided == []


def test_waiting_is_never_silent():
    known = ready({"cpu": 5}, LARGE)
    assert known.notes() == []
    (line,) = known.notes(waiting=2)
    assert line.startswith("trials that wait for over a minute to start: 2. Ray gives their resources to others")
    known.update([SMALL])
    assert known.notes() == ["trials wait for a node: none that is used holds one (1 there, 1 being checked)"]
    known.update([])
    assert known.notes(waiting=2) == ["trials wait for a node: none that is used holds one (0 there)"]
