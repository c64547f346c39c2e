"""The machines of the cluster: how many trials they hold, which are not used, and why. No Ray."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.causes import Cause
from orchestrator.sections import Resources

FAULTS_IN_A_ROW = 2  # of different trials, after which a machine is avoided


@dataclass(frozen=True)
class Node:
    """One machine: Ray's id of it, the name people know it by, and all it has ("CPU", "GPU", ...)."""

    id: str
    name: str
    resources: Mapping[str, float]
    given_name: str = ""  # by whoever started it, where it was given one

    def holds(self, need: Resources) -> int:
        """How many workers of trials fit on it while it is empty."""
        wanted = {"CPU": need.cpu, "GPU": need.gpu}
        fits = [self.resources.get(name, 0.0) / amount for name, amount in wanted.items() if amount]
        return math.floor(min(fits) + 1e-9)

    def __str__(self) -> str:
        have = [f"{self.resources.get(name, 0):g} {name}" for name in ("CPU", "GPU")]
        return f"{self.name} ({', '.join(have)})"


class Nodes:
    """The machines that are there, less those that a trial is kept from."""

    def __init__(self, need: Resources) -> None:
        self.need = need
        self.there: dict[str, Node] = {}
        self.unchecked: set[str] = set()  # joined, and not yet passed by the pre-flight
        self.refused: dict[str, str] = {}  # id -> what the pre-flight found
        self.leaving: set[str] = set()  # that asked to be let go
        self.faults: Counter[str] = Counter()  # GPU faults since the last trial that ended well there

    def update(self, nodes: Iterable[Node]) -> list[Node]:
        """Take note of the machines that are there now; those that are new are unchecked, and returned."""
        before, self.there = self.there, {node.id: node for node in nodes}
        new = [node for node in self.there.values() if node.id not in before]
        self.unchecked |= {node.id for node in new}
        for gone in before.keys() - self.there.keys():
            self.unchecked.discard(gone)
            self.refused.pop(gone, None)
            self.leaving.discard(gone)
            self.faults.pop(gone, None)
        return new

    def checked(self, node: str, problem: str | None) -> None:
        """What the pre-flight says of a machine: None lets trials in."""
        self.unchecked.discard(node)
        if problem is not None and node in self.there:
            self.refused[node] = problem

    def ended(self, node: str | None, cause: str | None) -> None:
        """A trial ended on a machine, of `cause` or well."""
        if node not in self.there:
            return
        if cause == Cause.GPU_FAULT:
            self.faults[node] += 1
        else:
            del self.faults[node]

    @property
    def faulty(self) -> set[str]:
        """Machines with GPU faults in a row; none where no other machine would be left to hold a trial."""
        faulty = {node for node, count in self.faults.items() if count >= FAULTS_IN_A_ROW}
        sound = self.there.keys() - faulty - self.refused.keys() - self.unchecked - self.leaving
        return faulty if self._trials(sound) else set()

    @property
    def avoided(self) -> list[str]:
        """Ids of the machines that no trial may be placed on, sorted."""
        return sorted(self.unchecked | self.refused.keys() | self.leaving | self.faulty)

    @property
    def capacity(self) -> int:
        """How many trials fit at once on the machines that are used."""
        return self._trials(self.there.keys() - set(self.avoided))

    def _trials(self, ids: Iterable[str]) -> int:
        return sum(self.there[node].holds(self.need) for node in ids) // self.need.workers

    def misfit(self) -> str | None:
        """Why no trial would ever start on the machines that are there, and what to do; None where one fits."""
        if self._trials(self.there):
            return None
        each = f"cpu: {self.need.cpu:g}, gpu: {self.need.gpu:g}"
        trial = f"a trial needs {{{each}}} on one node"
        if self.need.workers > 1:
            trial = f"a trial needs {{{each}}} for each of its {self.need.workers} workers"
        nodes = ", ".join(map(str, self.there.values())) or "no node"
        return (
            f"resources: {trial}, but the cluster has {nodes}.\n"
            "Lower resources (--set resources.cpu=..., resources.gpu=..., resources.workers=...) or add larger nodes."
        )

    def notes(self, waiting: int = 0) -> list[str]:
        """What people should know: machines that are not used, and why trials wait where `waiting` of them do."""
        notes = [f"node {self._name(node)} is not used: {problem}" for node, problem in self.refused.items()]
        notes += [
            f"node {self._name(node)} is avoided: {self.faults[node]} trials in a row died there of GPU faults"
            for node in sorted(self.faulty)
        ]
        if not self.capacity:
            unchecked = f", {len(self.unchecked)} being checked" if self.unchecked else ""
            notes.append(f"trials wait for a node: none that is used holds one ({len(self.there)} there{unchecked})")
        elif waiting:
            notes.append(
                f"trials that wait for over a minute to start: {waiting}. Ray gives their resources to others,"
                " or is slow to start their processes; see `ray status`"
            )
        return notes

    def _name(self, node: str) -> str:
        return self.there[node].name if node in self.there else node
