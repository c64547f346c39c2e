"""Kubernetes with KubeRay: the sweep file as a ConfigMap and the sweep as a RayJob, whose retries continue it."""

import re
import shlex
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import yaml

from orchestrator.control import STOPPED
from orchestrator.submit.job import FILE, Job, JobError, call

LONGEST_NAME = 47  # of a RayJob: KubeRay appends to it
FOLDER = "/etc/aiqn"  # where the sweep file is in the head's pod
FINISHED = ("Complete", "Failed")


def render(job: Job) -> str:
    """The YAML for `kubectl apply`; raises JobError where the image, the volume or the size of a node is missing."""
    return yaml.safe_dump_all([config_map(job), ray_job(job)], sort_keys=False)


def config_map(job: Job) -> dict[str, Any]:
    metadata = {"name": f"{name(job)}-sweep", "namespace": job.sweep.cluster.kuberay.namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {FILE: job.sweep.text}}


def ray_job(job: Job) -> dict[str, Any]:
    """The RayJob (ray.io/v1): its fields are those of KubeRay's definition, see tests/test_kuberay.py."""
    settings = job.sweep.cluster.kuberay
    check(job)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name(job), "namespace": settings.namespace, "labels": {"app": "aiqn"}},
        "spec": {
            "entrypoint": entrypoint(job),
            "submissionMode": "HTTPMode",  # no pod of its own that could be evicted while the sweep runs
            "backoffLimit": settings.retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 300,
            "rayClusterSpec": {
                "rayVersion": version("ray"),
                "headGroupSpec": {
                    # The driver's place: it trains nothing, so that no trial takes its memory.
                    "rayStartParams": {"num-cpus": "0", "num-gpus": "0"},
                    "template": head(job),
                },
                "workerGroupSpecs": [workers(job)],
            },
        },
    }


def entrypoint(job: Job) -> str:
    """The sweep as a shell command that fails only where another attempt of KubeRay's helps.

    It does not where trials failed, the input is wrong, somebody stopped the sweep or its budget is spent.
    """
    stopped = shlex.quote(str(job.run.control / STOPPED))
    return (
        f"rm -f {stopped}; {job.command('python', f'{FOLDER}/{FILE}')}; code=$?; "
        f"if [ $code -eq 1 ] || [ $code -eq 2 ] || [ -e {stopped} ]; "
        'then echo "the sweep ended with code $code, which no retry would change"; exit 0; fi; exit $code'
    )


def head(job: Job) -> dict[str, Any]:
    settings = job.sweep.cluster.kuberay
    container = pod_container(job, "ray-head", settings.head_cpus, settings.head_memory_gib, gpus=0)
    container["ports"] = [
        {"containerPort": 6379, "name": "gcs"},
        {"containerPort": 8265, "name": "dashboard"},
        {"containerPort": 10001, "name": "client"},
    ]
    container["volumeMounts"].append({"name": "sweep", "mountPath": FOLDER, "readOnly": True})
    sweep = {"name": "sweep", "configMap": {"name": f"{name(job)}-sweep"}}
    return {"spec": {"containers": [container], "volumes": [shared(job), sweep]}}


def workers(job: Job) -> dict[str, Any]:
    cluster = job.sweep.cluster
    container = pod_container(job, "ray-worker", cluster.cpus or 1, cluster.memory_gib, cluster.gpus)
    return {
        "groupName": "workers",
        "replicas": cluster.nodes,
        "minReplicas": cluster.nodes,
        "maxReplicas": cluster.nodes,
        "rayStartParams": {},
        "template": {"spec": {"containers": [container], "volumes": [shared(job)]}},
    }


def pod_container(job: Job, role: str, cpus: int, memory_gib: float | None, gpus: int) -> dict[str, Any]:
    """A container with equal requests and limits: Ray takes its size from the limits."""
    settings = job.sweep.cluster.kuberay
    amounts = {"cpu": str(cpus)}
    amounts |= {} if memory_gib is None else {"memory": f"{round(1024 * memory_gib)}Mi"}
    amounts |= {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {
        "name": role,
        "image": settings.image,
        "env": [{"name": key, "value": value} for key, value in job.environment.items()],
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "volumeMounts": [{"name": "shared", "mountPath": settings.mount}],
    }


def shared(job: Job) -> dict[str, Any]:
    """The volume of the run folders."""
    return {"name": "shared", "persistentVolumeClaim": {"claimName": job.sweep.cluster.kuberay.volume}}


def name(job: Job) -> str:
    """The sweep's name as Kubernetes wants it: lower case letters, digits and "-", starting with a letter."""
    plain = re.sub(r"[^a-z0-9]+", "-", job.sweep.name.lower()).strip("-")
    return f"aiqn-{plain}"[:LONGEST_NAME].rstrip("-")


def check(job: Job) -> None:
    """Raises JobError with all that is missing."""
    cluster, settings = job.sweep.cluster, job.sweep.cluster.kuberay
    wanted = {
        "cluster.kuberay.image": (settings.image, "an image with this version of AIQN Sweeps, registry/name:tag"),
        "cluster.kuberay.volume": (settings.volume, "the name of a PersistentVolumeClaim, ReadWriteMany"),
        "cluster.cpus": (cluster.cpus, "the number of CPUs of a worker"),
    }
    missing = [f"{key}: missing, expected {what}" for key, (value, what) in wanted.items() if value is None]
    if not job.runs.is_relative_to(settings.mount):
        missing.append(f"--runs: saw {job.runs}, expected a folder in cluster.kuberay.mount = {settings.mount}")
    if missing:
        raise JobError("\n".join(missing))


def submit(job: Job, say: Callable[[str], None]) -> int:
    """Apply the manifest; a RayJob that has finished is replaced, one that runs is left as it is."""
    text, own = render(job), ["--namespace", job.sweep.cluster.kuberay.namespace]
    path = "jsonpath={.status.jobDeploymentStatus}"
    known = call(["kubectl", "get", "rayjob", name(job), *own, "--ignore-not-found", "--output", path])
    if known in FINISHED:
        call(["kubectl", "delete", "rayjob", name(job), *own, "--wait"])
    say(call(["kubectl", "apply", "--filename", "-"], text))
    inside = f"kubectl exec {' '.join(own)} <head pod> -- python -m orchestrator.cli"
    say(f"look: kubectl get rayjob {name(job)} {' '.join(own)}; {inside} status {job.run.path}")
    say(f"stop: {inside} stop {job.run.path}")
    return 0


def state(known: dict[str, Any]) -> str:
    """Where the state of a job can be seen: it is not asked for, as `kubectl` may point at another cluster by now."""
    return f"see kubectl get rayjob {known['id']}"


def cancel(known: dict[str, Any]) -> str | None:
    """Nothing: a RayJob is stopped by its driver."""
    return None
