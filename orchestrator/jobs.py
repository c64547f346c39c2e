"""A sweep submitted to a cluster: first rendered as text, then sent. Here what all targets share, and Ray's Job API."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from orchestrator import shapes
from orchestrator.runs import RunFolder, read_json, write_json
from orchestrator.sections import Sweep
from orchestrator.stores import VARIABLE
from orchestrator.trial import git_state

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

Target = Literal["ray", "slurm", "kuberay"]
ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("aiqn_core", "orchestrator", "reports")  # all that a sweep needs: no data, no run folders, by construction
FILE = "sweep.yaml"  # the name of the sweep file where it is sent along
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
STOPPED = 3  # the exit code of a sweep that was stopped
STOP_SECONDS = 600  # that `ray job stop` leaves the evaluations in progress
POLL_SECONDS = 2.0


class JobError(Exception):
    """A submission that cannot be made: what was seen, what was expected, what to do."""


@dataclass(frozen=True)
class Job:
    """A sweep that is to run elsewhere, with the --set overrides of the command line."""

    sweep: Sweep
    runs: Path  # absolute, as the cluster sees it
    overrides: tuple[str, ...] = ()
    yes: bool = False  # start also where the plan is above the budget

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.runs / self.sweep.name)

    def command(self, python: str, file: str) -> str:
        """The shell command that runs the sweep: the same that a person would type."""
        settings = [word for setting in self.overrides for word in ("--set", setting)]
        words = [python, "-m", "orchestrator.cli", "sweep", file, "--runs", str(self.runs), *settings]
        words += ["--yes"] if self.yes else []
        return shlex.join(words)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of all processes: those of `cluster.env`, MLflow's, and those that file and overrides name."""
        text = "\n".join((self.sweep.text, *self.overrides))
        named = re.findall(r"(?<!\$)\$\{([A-Za-z_][A-Za-z0-9_]*)\}", text)
        store = [VARIABLE] if self.sweep.tracking.uri is None else []
        return {name: os.environ[name] for name in [*named, *store] if name in os.environ} | self.sweep.cluster.env


def submit(job: Job, to: Target, say: Callable[[str], None] = print) -> int:
    """Send a job, and follow it where the target allows; the exit code of the sweep, or 0 where it is only queued.

    A job that is there already is not sent again. Raises JobError where it cannot be sent.
    """
    from orchestrator import kuberay, slurm

    match to:
        case "ray":
            return submit_to_ray(job, say)
        case "slurm":
            return slurm.submit(job, say)
        case "kuberay":
            return kuberay.submit(job, say)


def render(job: Job, to: Target) -> str:
    """What `submit` would send, as text; raises JobError where something that the target needs is not given."""
    from orchestrator import kuberay, slurm

    match to:
        case "ray":
            return yaml.safe_dump(ray_request(job), sort_keys=False)
        case "slurm":
            return slurm.script(job)
        case "kuberay":
            return kuberay.manifest(job)


# ---- what was submitted, through the run folder ------------------------------------------------------------------


def remember(run: RunFolder, to: Target, identity: str, **more: str) -> None:
    """Note in the run folder under which name the cluster knows the job, for `aiqn status` and `aiqn stop`."""
    write_json(run.submission, {"to": to, "id": identity, **more, "submitted": time.time()})


def remembered(run: RunFolder, to: Target) -> str | None:
    """The identity of the job that was submitted last, where it was to this target."""
    known = read_json(run.submission, shapes.SUBMISSION) or {}
    return known["id"] if known.get("to") == to else None


def state_line(run: RunFolder) -> str | None:
    """One line about the job that was submitted for a run folder; None where none was."""
    known = read_json(run.submission, shapes.SUBMISSION)
    if known is None:
        return None
    if known["to"] == "slurm":
        from orchestrator import slurm

        state = slurm.state(known["id"]) or "no longer in the queue"
    elif known["to"] == "ray":
        state = ray_state(known)
    else:
        state = f"see kubectl get rayjob {known['id']}"
    return f"submitted to {known['to']} as {known['id']}: {state}"


def cancel(run: RunFolder) -> str | None:
    """Take back a job that has no driver yet, or whose driver does not answer; says what was done, None for nothing."""
    known = read_json(run.submission, shapes.SUBMISSION) or {}
    if known.get("to") == "slurm":
        from orchestrator import slurm

        return slurm.cancel(known["id"])
    if known.get("to") == "ray" and ray_state(known) not in ENDED:
        client(known["address"]).stop_job(known["id"])
        return f"asked Ray to stop the job {known['id']}"
    return None


def call(words: list[str], text: str | None = None) -> str:
    """The output of a cluster's own command; raises JobError with what it said."""
    try:
        result = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise JobError(
            f"{words[0]}: no such command on this machine; submit where it is, or take what --dry-run prints there"
        ) from None
    if result.returncode:
        said = (result.stderr or result.stdout).strip() or f"exit code {result.returncode}"
        raise JobError(f"{shlex.join(words)} said: {said}")
    return result.stdout.strip()


# ---- Ray's Job API -------------------------------------------------------------------------------------------------


def ray_request(job: Job) -> dict[str, Any]:
    """The submission as plain values; the folder of the code takes the place of the list of what is shipped."""
    git = git_state()
    provenance = {"AIQN_COMMIT": f"{git['commit']}{'-dirty' if git['dirty'] else ''}"} if git["commit"] else {}
    environment = {**job.environment, **provenance, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
    return {
        "address": job.sweep.cluster.ray.address,
        "submission_id": job.sweep.name,
        "entrypoint": job.command("python", FILE),
        "runtime_env": {"working_dir": [*SHIPPED, FILE], "env_vars": environment},
    }


def submit_to_ray(job: Job, say: Callable[[str], None]) -> int:
    """Submit under the sweep's name, or join the job of that name, and follow its log; the sweep's exit code.

    Ctrl-C ends the following, not the job.
    """
    request = ray_request(job)
    address, name = request.pop("address"), request["submission_id"]
    jobs = client(address)
    known = {details.submission_id: details for details in jobs.list_jobs()}.get(name)
    if known is not None and known.status not in ENDED:
        say(f"{name} is there already ({known.status}); following it")
    else:
        if known is not None:
            jobs.delete_job(name)  # only its name stands in the way: the run folder holds what it did
        with shipment(job) as folder:
            request["runtime_env"]["working_dir"] = str(folder)
            jobs.submit_job(**request)
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
    """A folder with our code and the sweep file, and nothing else."""
    with tempfile.TemporaryDirectory(prefix="aiqn-") as name:
        for room in SHIPPED:
            shutil.copytree(ROOT / room, Path(name) / room, ignore=shutil.ignore_patterns("__pycache__"))
        (Path(name) / FILE).write_text(job.sweep.text)
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


def ray_state(known: dict[str, Any]) -> str:
    try:
        return str(client(known["address"]).get_job_status(known["id"]).value)
    except (JobError, RuntimeError) as error:
        return f"unknown ({str(error).splitlines()[0]})"
