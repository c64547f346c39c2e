"""The kinds of cluster that a sweep can be submitted to. They know the job, and it knows none of them."""

from collections.abc import Callable
from typing import Any, Protocol

from orchestrator import shapes
from orchestrator.runs import RunFolder, read_json
from orchestrator.submit import Target, kuberay, ray_jobs, slurm
from orchestrator.submit.job import Job


class Cluster(Protocol):
    """What each of their modules offers; `known` is what `remember` has noted in the run folder."""

    def render(self, job: Job) -> str:
        """What would be sent, as text; raises JobError where something that is needed is not given."""

    def submit(self, job: Job, say: Callable[[str], None]) -> int:
        """Send a job, and follow it where that is possible; an exit code."""

    def state(self, known: dict[str, Any]) -> str:
        """What the cluster says of a job."""

    def cancel(self, known: dict[str, Any]) -> str | None:
        """Take a job back that has no driver yet; says what was done, None for nothing."""


CLUSTERS: dict[str, Cluster] = {Target.ray: ray_jobs, Target.slurm: slurm, Target.kuberay: kuberay}


def submit(job: Job, to: str, say: Callable[[str], None] = print) -> int:
    """Send a job, and follow it where the target allows; the exit code of the sweep, or 0 where it is only queued.

    A job that is there already is not sent again. Raises JobError where it cannot be sent.
    """
    return CLUSTERS[to].submit(job, say)


def render(job: Job, to: str) -> str:
    """What `submit` would send, as text; raises JobError where something that the target needs is not given."""
    return CLUSTERS[to].render(job)


def state_line(run: RunFolder) -> str | None:
    """One line about the job that was submitted for a run folder; None where none was."""
    known = read_json(run.submission, shapes.SUBMISSION)
    if known is None:
        return None
    return f"submitted to {known['to']} as {known['id']}: {CLUSTERS[known['to']].state(known)}"


def cancel(run: RunFolder) -> str | None:
    """Take back a job that has no driver yet, or whose driver does not answer; says what was done, None for nothing."""
    known = read_json(run.submission, shapes.SUBMISSION)
    return None if known is None else CLUSTERS[known["to"]].cancel(known)
