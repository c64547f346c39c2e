"""Kubernetes with KubeRay: the sweep file as a ConfigMap and the sweep as a RayJob, whose retries continue it."""

import hashlib
import json
import math
import re
import shlex
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import yaml

from orchestrator.clusters import AUTOSCALING, Toleration
from orchestrator.control import STOPPED
from orchestrator.submit.job import FILE, Job, JobError, call

LARGEST = 1_000_000  # bytes of a ConfigMap, of 1 MiB that Kubernetes takes
LONGEST_NAME = 47  # of a RayJob: KubeRay appends to it
HASH_LENGTH = 8
FOLDER = "/etc/aiqn"  # where the sweep file is in the head's pod
FINISHED = ("Complete", "Failed", "ValidationFailed")
RUN = "aiqn/run"  # the annotation that says whose RayJob it is
KUEUE = "kueue.x-k8s.io/"  # its labels belong to the RayJob alone: a pod with a queue of its own would wait once more


def render(job: Job) -> str:
    """The YAML for `kubectl apply`; raises JobError where the image, the volume or the size of a node is missing."""
    return yaml.safe_dump_all([config_map(job), ray_job(job)], sort_keys=False)


def config_map(job: Job) -> dict[str, Any]:
    """The sweep file and the code that it names, under keys without the "/" of their places; see `head`."""
    metadata = {**described(job), "name": f"{name(job)}-sweep"}
    data = {key_of(place): text for place, text in job.files.items()}
    if (size := sum(len(text.encode()) for text in data.values())) > LARGEST:
        raise JobError(
            f"code: saw {size:,} bytes with the sweep file, expected at most {LARGEST:,}, which a ConfigMap holds:"
            " make a package of it, and install that into cluster.kuberay.image"
        )
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def key_of(place: str) -> str:
    """The key of a file in the ConfigMap: letters, digits, ".", "_" and "-", different for different places."""
    return place if "/" not in place else f"{hashlib.sha256(place.encode()).hexdigest()[:12]}.py"


def ray_job(job: Job) -> dict[str, Any]:
    """The RayJob (ray.io/v1): its fields are those of KubeRay's definition, see tests/test_kuberay.py."""
    settings = job.sweep.cluster.kuberay
    check(job)
    deadline = settings.deadline_hours
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": described(job),
        "spec": {
            "entrypoint": entrypoint(job),
            "submissionMode": "HTTPMode",  # no pod of its own that could be evicted while the sweep runs
            "backoffLimit": settings.retries,
            **({} if deadline is None else {"activeDeadlineSeconds": math.ceil(3600 * deadline)}),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 300,
            "rayClusterSpec": {
                "rayVersion": version("ray"),
                **({"enableInTreeAutoscaling": True} if autoscaled(job) else {}),
                "headGroupSpec": {
                    # The driver's place: it trains nothing, so that no trial takes its memory.
                    "rayStartParams": {"num-cpus": "0", "num-gpus": "0"},
                    "template": head(job),
                },
                "workerGroupSpecs": [workers(job)],
            },
        },
    }


def described(job: Job) -> dict[str, Any]:
    """The metadata of all that is submitted: name, labels, and the run folder, by which two sweeps are told apart."""
    settings = job.sweep.cluster.kuberay
    return {
        "name": name(job),
        "namespace": settings.namespace,
        "labels": {"app": "aiqn", **settings.labels},
        "annotations": {RUN: str(job.run.path)},
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
    container["env"] += [{"name": AUTOSCALING, "value": "1"}] if autoscaled(job) else []
    container["volumeMounts"].append({"name": "sweep", "mountPath": FOLDER, "readOnly": True})
    items = [{"key": key_of(place), "path": place} for place in job.files]
    mapped = {"items": items} if any("/" in place for place in job.files) else {}
    sweep = {"name": "sweep", "configMap": {"name": f"{name(job)}-sweep", **mapped}}
    return pod(job, container, [shared(job), sweep], settings.node_selector)


def workers(job: Job) -> dict[str, Any]:
    cluster, settings = job.sweep.cluster, job.sweep.cluster.kuberay
    container = pod_container(job, "ray-worker", cluster.cpus or 1, cluster.memory_gib, cluster.gpus)
    fewest, most = worker_range(job)
    return {
        "groupName": "workers",
        "replicas": cluster.nodes,
        "minReplicas": fewest,
        "maxReplicas": most,
        "rayStartParams": {},
        "template": pod(job, container, [shared(job)], {**settings.node_selector, **settings.worker_node_selector}),
    }


def worker_range(job: Job) -> tuple[int, int]:
    """The fewest and the most workers there may be."""
    settings, nodes = job.sweep.cluster.kuberay, job.sweep.cluster.nodes
    return settings.min_workers or nodes, settings.max_workers or nodes


def autoscaled(job: Job) -> bool:
    """Whether the number of workers follows the sweep's need."""
    fewest, most = worker_range(job)
    return fewest < most


def pod(job: Job, container: dict[str, Any], volumes: list[Any], node_selector: dict[str, str]) -> dict[str, Any]:
    """The template of a pod with one container, and where it may be placed."""
    settings = job.sweep.cluster.kuberay
    labels = {key: value for key, value in settings.labels.items() if not key.startswith(KUEUE)}
    optional = {
        "nodeSelector": dict(node_selector),
        "tolerations": [toleration(wanted) for wanted in settings.tolerations],
        "serviceAccountName": settings.service_account,
        "imagePullSecrets": [{"name": secret} for secret in settings.image_pull_secrets],
    }
    spec = {"containers": [container], "volumes": volumes, **{key: value for key, value in optional.items() if value}}
    return {"metadata": {"labels": {"app": "aiqn", **labels}}, "spec": spec}


def toleration(wanted: Toleration) -> dict[str, str]:
    operator = wanted.operator or ("Exists" if wanted.value is None else "Equal")
    return {**wanted.model_dump(exclude_none=True), "operator": operator}


def pod_container(job: Job, role: str, cpus: int, memory_gib: float | None, gpus: int) -> dict[str, Any]:
    """A container with equal requests and limits: Ray takes its size from the limits."""
    settings = job.sweep.cluster.kuberay
    amounts = {"cpu": str(cpus)}
    amounts |= {} if memory_gib is None else {"memory": f"{round(1024 * memory_gib)}Mi"}
    amounts |= {"nvidia.com/gpu": str(gpus)} if gpus else {}
    plain = {key: value for key, value in job.environment.items() if key not in settings.secrets}
    secret = {key: {"secretKeyRef": entry.model_dump()} for key, entry in settings.secrets.items()}
    return {
        "name": role,
        "image": settings.image,
        "env": [
            *({"name": key, "value": value} for key, value in plain.items()),
            *({"name": key, "valueFrom": source} for key, source in secret.items()),
        ],
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "volumeMounts": [{"name": "shared", "mountPath": settings.mount}],
    }


def shared(job: Job) -> dict[str, Any]:
    """The volume of the run folders."""
    return {"name": "shared", "persistentVolumeClaim": {"claimName": job.sweep.cluster.kuberay.volume}}


def name(job: Job) -> str:
    """The sweep's name as Kubernetes wants it: lower case letters, digits and "-", starting with a letter.

    Where that is not the whole name as it is written, a hash of the whole name tells it from others that become alike.
    """
    written = job.sweep.name
    plain = re.sub(r"[^a-z0-9]+", "-", written.lower()).strip("-")
    if f"aiqn-{plain}" == f"aiqn-{written}"[:LONGEST_NAME]:
        return f"aiqn-{plain}"
    digest = hashlib.sha256(written.encode()).hexdigest()[:HASH_LENGTH]
    return f"aiqn-{plain}"[: LONGEST_NAME - HASH_LENGTH - 1].rstrip("-") + f"-{digest}"


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
    fewest, most = worker_range(job)
    if not fewest <= cluster.nodes <= most:
        missing.append(
            f"cluster.nodes: saw {cluster.nodes}, expected a number from cluster.kuberay.min_workers = {fewest}"
            f" to max_workers = {most}: so many workers there are at the start"
        )
    if missing:
        raise JobError("\n".join(missing))


def submit(job: Job, say: Callable[[str], None]) -> int:
    """Apply the manifest; a RayJob that has finished is replaced, one that waits or runs is left as it is.

    Raises JobError where the name belongs to another run folder's RayJob.
    """
    text, own = render(job), ["--namespace", job.sweep.cluster.kuberay.namespace]
    found = call(["kubectl", "get", "rayjob", name(job), *own, "--ignore-not-found", "--output", "json"])
    known = json.loads(found) if found else None
    inside = f"kubectl exec {' '.join(own)} <head pod> -- python -m orchestrator.cli"
    if known is not None:
        run = known["metadata"].get("annotations", {}).get(RUN)
        if run not in (None, str(job.run.path)):
            raise JobError(
                f"the RayJob {name(job)} in the namespace {job.sweep.cluster.kuberay.namespace} belongs to {run},"
                f" and not to {job.run.path}: give one of the sweeps another name"
            )
        status = known.get("status", {}).get("jobDeploymentStatus") or "not yet started"
        if status not in FINISHED:
            say(f"{job.sweep.name} is there already: RayJob {name(job)}, {status}; nothing was changed")
            return 0
        call(["kubectl", "delete", "rayjob", name(job), *own, "--wait"])
    say(call(["kubectl", "apply", "--filename", "-"], text))
    say(f"look: kubectl get rayjob {name(job)} {' '.join(own)}; {inside} status {job.run.path}")
    say(f"stop: {inside} stop {job.run.path}")
    return 0


def state(known: dict[str, Any]) -> str:
    """Where the state of a job can be seen: it is not asked for, as `kubectl` may point at another cluster by now."""
    return f"see kubectl get rayjob {known['id']}"


def cancel(known: dict[str, Any]) -> str | None:
    """Nothing: a RayJob is stopped by its driver."""
    return None
