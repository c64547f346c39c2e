"""Slurm: the script of a sweep is handed to sbatch, looked for in the queue, and taken back."""

import subprocess
from collections import Counter
from collections.abc import Callable
from typing import Any

from orchestrator.runs import write_bytes
from orchestrator.submit.job import Job, JobError, call, remember, remembered
from orchestrator.submit.slurm_script import render

__all__ = ["cancel", "check", "render", "state", "submit"]
OVER = "over.json"  # in RUN/slurm: the sweep has ended
UNLIMITED = ("UNLIMITED", "INFINITE", "NONE")


def submit(job: Job, say: Callable[[str], None]) -> int:
    """Hand the script to sbatch, unless the job is in the queue already."""
    check(job)
    known = remembered(job.run, "slurm")
    if known is not None and (now := queued(known)):
        say(f"{job.sweep.name} is in the queue already: job {known}, {now}")
        return 0
    path, folder = job.run.path / "slurm.sh", job.run.path / "slurm"
    write_bytes(path, render(job).encode())
    logs = job.run.path / "slurm.log"
    if job.sweep.cluster.slurm.jobs is not None:
        folder.mkdir(exist_ok=True)
        (folder / OVER).unlink(missing_ok=True)
        logs = folder
    number = call(["sbatch", "--parsable", str(path)]).partition(";")[0]
    remember(job.run, "slurm", number)
    say(f"submitted {job.sweep.name} as Slurm job {number}; its log is {logs}")
    say(f"look: aiqn status {job.run.path}   stop: aiqn stop {job.run.path}")
    return 0


def check(job: Job) -> None:
    """Raises JobError where keys do not fit each other, or a time limit that Slurm has."""
    cluster, slurm = job.sweep.cluster, job.sweep.cluster.slurm
    key, hours = ("cluster.hours", cluster.hours)
    if slurm.jobs is not None:
        key, hours = "cluster.slurm.jobs.hours", slurm.jobs.hours
        for other, value, default in (
            ("nodes", cluster.nodes, 1),
            ("gpus", cluster.gpus, 0),
            ("hours", cluster.hours, None),
        ):
            if value != default:
                raise JobError(f"cluster.{other}: saw {value:g} beside cluster.slurm.jobs, which says it: leave it out")
    limit = partition_seconds(slurm.partition, asked=hours is not None)
    if hours is not None and 3600 * hours <= slurm.notice_seconds:
        raise JobError(
            f"{key}: saw {hours:g}, expected more than cluster.slurm.notice_seconds ="
            f" {slurm.notice_seconds}: nothing would be trained before the notice"
        )
    where = f"the partition {slurm.partition}" if slurm.partition else "the default partition"
    if limit is not None and hours is None and limit <= slurm.notice_seconds:
        raise JobError(
            f"cluster.slurm.notice_seconds: saw {slurm.notice_seconds}, expected less than {limit}, the time limit of"
            f" {where}: nothing would be trained before the notice"
        )


def partition_seconds(name: str | None, asked: bool) -> int | None:
    """The most time that a job gets in a partition (None: the default one), or without asking; None: as it likes."""
    try:
        told = call(["scontrol", "show", "partition", "--oneliner", *([name] if name and "," not in name else [])])
    except JobError:  # sbatch itself says what is wrong
        return None
    for line in told.splitlines():
        found = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if found.get("PartitionName") == name or (name is None and found.get("Default") == "YES"):
            limits = (
                [found.get("MaxTime", "NONE")]
                if asked
                else [found.get(key, "NONE") for key in ("DefaultTime", "MaxTime")]
            )
            return next((seconds(limit) for limit in limits if limit not in UNLIMITED), None)
    return None


def seconds(limit: str) -> int:
    """Slurm's [days-]hours:minutes:seconds."""
    days, _, time = limit.rpartition("-")
    hours, minutes, rest = (int(part) for part in time.split(":"))
    return ((24 * int(days or 0) + hours) * 60 + minutes) * 60 + rest


def state(known: dict[str, Any]) -> str:
    """What Slurm says of a job that was submitted."""
    return queued(known["id"]) or "no longer in the queue"


def queued(number: str) -> str | None:
    """What Slurm says of a job that is in its queue, or of how many of its parts; None where none is."""
    try:
        result = subprocess.run(
            ["squeue", "--noheader", "--array", "--jobs", number, "--format", "%T %r"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return "unknown (no squeue on this machine)"
    lines = result.stdout.strip().splitlines()
    if len(lines) < 2:
        return "".join(lines) or None
    return ", ".join(f"{count} {line}" for line, count in Counter(lines).most_common())


def cancel(known: dict[str, Any]) -> str | None:
    """Take a job out of the queue; says what was done, None for nothing."""
    number = known["id"]
    if queued(number) is None:
        return None
    call(["scancel", number])
    return f"cancelled Slurm job {number}"
