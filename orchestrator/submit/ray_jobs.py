"""Ray's Job API: the code goes along with the job, whose log is followed. Only this file has its client."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from aiqn_core.code import OURS
from orchestrator.submit.job import FILE, Job, JobError, remember
from orchestrator.trial import git_state

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

ROOT = Path(__file__).resolve().parent.parent.parent
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
STOPPED = 3  # the exit code of a sweep that was stopped
STOP_SECONDS = 600  # that `ray job stop` leaves the evaluations in progress
POLL_SECONDS = 2.0


def render(job: Job) -> str:
    """The submission as YAML."""
    return yaml.safe_dump(request(job), sort_keys=False)


def request(job: Job) -> dict[str, Any]:
    """The submission as plain values; the folder of the code takes the place of the list of what is shipped."""
    git = git_state()
    provenance = {"AIQN_COMMIT": f"{git['commit']}{'-dirty' if git['dirty'] else ''}"} if git["commit"] else {}
    environment = {**job.environment, **provenance, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
    return {
        "address": job.sweep.cluster.ray.address,
        "submission_id": job.sweep.name,
        "entrypoint": job.command("python", FILE),
        "runtime_env": {"working_dir": [*OURS, *job.files], "env_vars": environment},
    }


def submit(job: Job, say: Callable[[str], None]) -> int:
    """Submit under the sweep's name, or join the job of that name, and follow its log; the sweep's exit code.

    Ctrl-C ends the following, not the job.
    """
    asked = request(job)
    address, name = asked.pop("address"), asked["submission_id"]
    jobs = client(address)
    known = {details.submission_id: details for details in jobs.list_jobs()}.get(name)
    if known is not None and known.status not in ENDED:
        say(f"{name} is there already ({known.status}); following it")
    else:
        if known is not None:
            jobs.delete_job(name)  # only its name stands in the way: the run folder holds what it did
        with shipment(job) as folder:
            asked["runtime_env"]["working_dir"] = str(folder)
            jobs.submit_job(**asked)
        say(f"submitted {name} to {address}; Ctrl-C ends only this following, `aiqn stop {job.run.path}` the sweep")
        if job.run.path.parent.is_dir():
            remember(job.run, "ray", name, address=address)
    try:
        return exit_code(follow(jobs, name, say))
    except KeyboardInterrupt:
        say(f"{name} goes on; submit again to follow it, or stop it: aiqn stop {job.run.path}")
        return STOPPED


@contextmanager
def shipment(job: Job) -> Iterator[Path]:
    """A folder with our code, the sweep file and the code that it names, and nothing else."""
    with tempfile.TemporaryDirectory(prefix="aiqn-") as name:
        for room in OURS:
            shutil.copytree(ROOT / room, Path(name) / room, ignore=shutil.ignore_patterns("__pycache__"))
        for file, text in job.files.items():
            path = Path(name) / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        yield Path(name)


def follow(jobs: "JobSubmissionClient", name: str, say: Callable[[str], None]) -> "JobDetails":
    """Say each new line of a job's log until the job has ended; its details then.

    Raises JobError where the cluster no longer answers.
    """
    said = 0
    while True:
        try:
            details = jobs.get_job_info(name)  # before the log, so that a job that has ended has all of it there
            lines = jobs.get_job_logs(name).splitlines()
        except (OSError, RuntimeError) as error:  # `requests` raises OSErrors
            raise JobError(
                f"lost the Ray cluster while following {name} ({type(error).__name__}): submit again to follow it, "
                "or to continue the sweep on another cluster"
            ) from None
        ended = details.status in ENDED
        complete = lines if ended else lines[:-1]
        for line in complete[said:]:
            say(line)
        said = max(said, len(complete))
        if ended:
            return details
        time.sleep(POLL_SECONDS)


def exit_code(details: "JobDetails") -> int:
    """The exit code of the sweep in an ended job; one that Ray stopped has that of a stopped sweep."""
    if details.status == "SUCCEEDED":
        return 0
    if details.status == "STOPPED":
        return STOPPED
    if details.driver_exit_code is None:
        raise JobError(f"the job failed before the sweep began: {details.message}")
    return details.driver_exit_code


def client(address: str) -> "JobSubmissionClient":
    """A connection to the Job API; raises JobError where there is none."""
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise JobError(
            f"cluster.ray.address: no Ray Job API answers at {address} ({str(error).splitlines()[0]})\n"
            "The head node needs ray[default] and its dashboard; from elsewhere forward its port 8265."
        ) from None


def state(known: dict[str, Any]) -> str:
    try:
        return str(client(known["address"]).get_job_status(known["id"]).value)
    except (JobError, RuntimeError) as error:
        return f"unknown ({str(error).splitlines()[0]})"


def cancel(known: dict[str, Any]) -> str | None:
    """Ask Ray to stop a job that has not ended; says what was done, None for nothing."""
    if state(known) in ENDED:
        return None
    client(known["address"]).stop_job(known["id"])
    return f"asked Ray to stop the job {known['id']}"
