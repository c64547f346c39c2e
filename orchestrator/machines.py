"""The machines of a running sweep: checked before trials go there, watched while they are used. No Ray."""

import math
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from orchestrator.clocks import Awake
from orchestrator.control import LEAVE
from orchestrator.nodes import Node, Nodes
from orchestrator.preflight import Preflight
from orchestrator.runs import RunFolder, RunFolderError, write_json
from orchestrator.sections import Resources

Lost = Callable[[], bool | None]
NODES_SECONDS = 5.0  # how often the cluster is asked for its machines
JOIN_SECONDS = 120.0  # how long a cluster is given to grow where no trial fits yet
LOCKS_NOTE = (
    "the run folder's storage does not show locks to other machines: never start two drivers of one sweep at once"
)
LOST_SECONDS = 90.0  # after which a machine that neither answers nor is given up by Ray counts as there
START_SECONDS = 60.0  # how long a trial may take to start before people are told that it waits


class Machines:
    """What the driver knows of the cluster; `alive` asks it for the machines that are there."""

    def __init__(
        self,
        run: RunFolder,
        need: Resources,
        preflight: Preflight,
        alive: Callable[[], list[Node]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run, self.preflight, self.alive = run, preflight, alive
        self.nodes = Nodes(need)
        self.awake = Awake(clock)  # looked at with the machines: a driver that was suspended has waited for nobody
        self.asked = -math.inf  # when the cluster was last asked
        self.handed: dict[str, tuple[float, int]] = {}  # trials not yet seen to start: (when, attempts before)
        self.doubted: set[str] = set()  # that lacked something when a trial ended there
        self.notes: list[str] = []
        self.told: dict[str, Any] = {}  # what cluster.json holds

    def meet(self, interrupted: Callable[[], bool]) -> None:
        """Check the machines that are there; raises RunFolderError with all that is wrong, or where no trial fits."""
        wrong = [f"this machine, the driver's: {problem}" for problem in self.preflight.problems]
        deadline = self.awake() + (JOIN_SECONDS if "RAY_ADDRESS" in os.environ else 0.0)
        while not wrong and not interrupted():
            self.look()
            if self.nodes.unchecked:
                time.sleep(0.05)
                continue
            wrong = [f"node {self.nodes.there[node]}: {problem}" for node, problem in self.nodes.refused.items()]
            if not wrong and (misfit := self.nodes.misfit()):
                if self.awake() > deadline:
                    raise RunFolderError(misfit)
                time.sleep(1.0)
                self.asked = -math.inf
                continue
            break
        if wrong:
            raise RunFolderError("\n".join(("Nothing was started, for the nodes are not ready:", *wrong)))

    def look(self) -> None:
        """Take note of machines that joined, were lost, or have passed the pre-flight."""
        for node, found in self.preflight.answers():
            self.nodes.checked(node, "; ".join(found) or None)
        if self.awake() - self.asked > NODES_SECONDS:
            self.asked = self.awake.seconds
            for new in self.nodes.update(self.alive()):
                self.ask(new)

    def ask(self, node: Node) -> None:
        """Put the questions of the pre-flight to a machine."""
        self.preflight.begin(node.id, node.resources.get("GPU", 0.0), node.holds(self.nodes.need))

    def doubt(self, id: str | None) -> None:
        """A trial ended for what a machine lacks: it is asked again before the next one is placed there."""
        node = self.nodes.there.get(id or "")
        if node is not None and node.id not in self.nodes.unchecked | self.nodes.refused.keys():
            self.doubted.add(node.id)
            self.nodes.unchecked.add(node.id)
            self.ask(node)

    @property
    def hopeless(self) -> str:
        """What keeps the sweep from going on, where machines that trained fail the pre-flight now and none is left."""
        refused = [f"{self.nodes.there[node]}: {self.nodes.refused[node]}" for node in sorted(self.nodes.refused)]
        if not self.doubted & self.nodes.refused.keys() or self.nodes.unchecked or self.nodes.capacity:
            return ""
        return "\n".join(("No machine can train any more:", *(f"node {each}" for each in refused)))

    def take_requests(self, active: Iterable[str]) -> None:
        """Nodes that asked to be let go get no trial any more, and are let go when none of the active ones is there."""
        for request in self.run.control.glob(f"{LEAVE}*"):
            name = request.name.removeprefix(LEAVE)
            asked = {node.id for node in self.nodes.there.values() if node.given_name == name}
            self.nodes.leaving |= asked
            if not any(self.node_of(trial) in asked for trial in active):
                request.unlink(missing_ok=True)

    def leaves(self, trial: str) -> bool:
        """Whether a trial is on a node that asked to be let go."""
        return bool(self.nodes.leaving) and self.node_of(trial) in self.nodes.leaving

    def node_of(self, trial: str) -> str | None:
        return self.run.trial(trial).read_status().get("node")

    def hand(self, trial: str) -> None:
        """A trial is given to the cluster."""
        self.handed[trial] = (self.awake.seconds, self.run.trial(trial).read_status().get("attempts") or 0)

    def ended(self, trial: str) -> None:
        """A trial is no longer in the cluster's hands."""
        self.handed.pop(trial, None)

    def lost(self, node: str | None) -> Lost:
        """A call that tells whether a machine is lost, on which a process has just died; None until that is known.

        Ray needs up to a minute to notice that a machine is gone: one that answers a question is not.
        """
        if node is None or node not in {there.id for there in self.alive()}:
            return lambda: node is not None
        since, answer = self.awake.seconds, self.preflight.ask(node, {**self.preflight.asked, "gpu": False, "data": []})

        def lost() -> bool | None:
            if node not in {there.id for there in self.alive()}:
                return True
            return False if isinstance(answer(), dict) or self.awake.seconds - since > LOST_SECONDS else None

        return lost

    def tell(self) -> None:
        """Keep what people should know of the cluster, and why trials wait, in the run folder where it changes."""
        late = 0
        for trial, (since, attempts) in list(self.handed.items()):
            if (self.run.trial(trial).read_status().get("attempts") or 0) > attempts:
                del self.handed[trial]
            elif self.awake.seconds - since > START_SECONDS:
                late += 1
        self.notes = self.nodes.notes(late) + ([] if self.preflight.locks else [LOCKS_NOTE])
        nodes = [{"name": node.name, **node.resources} for node in self.nodes.there.values()]
        if (told := {"nodes": nodes, "notes": self.notes}) != self.told:
            self.told = told
            write_json(self.run.cluster, {**told, "updated": time.time()})
