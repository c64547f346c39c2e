"""The RayJob manifest against KubeRay's own definition, read on 2026-11-25 in ray-project/kuberay:

ray-operator/apis/ray/v1/rayjob_types.go and raycluster_types.go (the Go types that the CRD is made from),
ray-operator/config/crd/bases/ray.io_rayjobs.yaml (the CRD, also for the fields of pods) and
ray-operator/controllers/ray/utils/validation.go (what the operator refuses). Each field that those allow has its type
here; "!" marks one that must be there. Fields of pods are only those that we use.
"""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from sweep_files import SMALL

from orchestrator.control import STOPPED
from orchestrator.submit.job import Job, JobError
from orchestrator.submit.kuberay import entrypoint
from orchestrator.submit.targets import render

TEXTS = {str: str}  # additionalProperties: {type: string}
CONTAINER = {
    "name!": str,
    "image": str,
    "env": [{"name!": str, "value": str, "valueFrom": {"secretKeyRef": {"name": str, "key!": str, "optional": bool}}}],
    "ports": [{"containerPort!": int, "name": str}],
    "resources": {"limits": TEXTS, "requests": TEXTS},  # a quantity is a string or an integer
    "volumeMounts": [{"name!": str, "mountPath!": str, "readOnly": bool, "subPath": str}],
}
VOLUME = {
    "name!": str,
    "persistentVolumeClaim": {"claimName!": str, "readOnly": bool},
    "configMap": {"name": str, "optional": bool},
}
POD = {
    "metadata": {"labels": TEXTS, "annotations": TEXTS},
    "spec!": {
        "containers!": [CONTAINER],
        "volumes": [VOLUME],
        "restartPolicy": str,
        "nodeSelector": TEXTS,
        "tolerations": [{"key": str, "operator": str, "value": str, "effect": str, "tolerationSeconds": int}],
        "serviceAccountName": str,
        "imagePullSecrets": [{"name": str}],
    },
}
RAY_CLUSTER = {
    "suspend": bool,
    "managedBy": str,
    "autoscalerOptions": dict,
    "headServiceAnnotations": TEXTS,
    "enableInTreeAutoscaling": bool,
    "gcsFaultToleranceOptions": dict,
    "headGroupSpec!": {
        "template!": POD,
        "headService": dict,
        "enableIngress": bool,
        "rayStartParams!": TEXTS,
        "serviceType": str,
    },
    "rayVersion": str,
    "workerGroupSpecs": [
        {
            "suspend": bool,
            "groupName!": str,
            "replicas": int,
            "minReplicas!": int,
            "maxReplicas!": int,
            "idleTimeoutSeconds": int,
            "rayStartParams!": TEXTS,
            "template!": POD,
            "scaleStrategy": dict,
            "numOfHosts": int,
        }
    ],
}
RAY_JOB = {
    "apiVersion!": str,
    "kind!": str,
    "metadata!": {"name!": str, "namespace": str, "labels": TEXTS, "annotations": TEXTS},
    "spec!": {
        "activeDeadlineSeconds": int,
        "backoffLimit": int,
        "rayClusterSpec": RAY_CLUSTER,
        "submitterPodTemplate": POD,
        "metadata": TEXTS,
        "clusterSelector": TEXTS,
        "submitterConfig": {"backoffLimit": int},
        "managedBy": str,
        "deletionPolicy": str,
        "entrypoint!": str,  # required by the CRD of v1.0, optional later
        "runtimeEnvYAML": str,
        "jobId": str,
        "submissionMode": str,
        "entrypointResources": str,
        "entrypointNumCpus": float,
        "entrypointNumGpus": float,
        "ttlSecondsAfterFinished": int,
        "shutdownAfterJobFinishes": bool,
        "suspend": bool,
    },
}
CONFIG_MAP = {"apiVersion!": str, "kind!": str, "metadata!": RAY_JOB["metadata!"], "data": TEXTS}


def mistakes(value, allowed, path=""):
    """Where a manifest departs from a definition."""
    if isinstance(allowed, list):
        if not isinstance(value, list):
            return [f"{path}: not a list"]
        return [line for index, item in enumerate(value) for line in mistakes(item, allowed[0], f"{path}[{index}]")]
    if isinstance(allowed, dict):
        if not isinstance(value, dict):
            return [f"{path}: not a mapping"]
        if str in allowed:
            return [f"{path}.{key}: not text" for key, item in value.items() if type(item) is not str]
        fields = {key.rstrip("!"): kind for key, kind in allowed.items()}
        required = {key.rstrip("!") for key in allowed if key.endswith("!")}
        found = [f"{path}.{key}: missing" for key in sorted(required - value.keys())]
        found += [f"{path}.{key}: unknown" for key in sorted(value.keys() - fields.keys())]
        known = value.keys() & fields.keys()
        return found + [line for key in sorted(known) for line in mistakes(value[key], fields[key], f"{path}.{key}")]
    return [] if type(value) is allowed else [f"{path}: {type(value).__name__}, not {allowed.__name__}"]


CLUSTER = """
cluster:
  nodes: 5
  cpus: 7
  gpus: 3
  memory_gib: 11.5
  env: {AIQN_DATA: "/shared/data"}
  kuberay:
    image: registry/aiqn:1
    volume: runs
    namespace: research
    retries: 2
"""


ALL_KEYS = """\
    image_pull_secrets: [registry-key, other-key]
    labels: {kueue.x-k8s.io/queue-name: lab, kueue.x-k8s.io/priority-class: low, team: "7"}
    node_selector: {pool: research}
    worker_node_selector: {nvidia.com/gpu.product: NVIDIA-A100-SXM4-80GB}
    tolerations: [{key: nvidia.com/gpu, effect: NoSchedule}, {key: team, value: lab}, {operator: Exists}]
    service_account: sweeper
    secrets: {MLFLOW_TRACKING_TOKEN: {name: mlflow, key: token}, AIQN_DATA: {name: places, key: data.path}}
    deadline_hours: 2.5
    min_workers: 3
    max_workers: 11
"""


def made(load, text):
    job = Job(load(SMALL + text), Path("/shared/runs"), ("search.trials=13",))
    return job, *yaml.safe_load_all(render(job, "kuberay"))


@pytest.fixture
def manifest(load):
    return made(load, CLUSTER)


@pytest.fixture
def full(load):
    """With every key that a file can have."""
    return made(load, CLUSTER + ALL_KEYS)


@pytest.mark.parametrize("keys", ["manifest", "full"])
def test_every_field_is_one_of_the_definition_and_of_its_type(request, keys):
    _, config_map, ray_job = request.getfixturevalue(keys)
    assert mistakes(config_map, CONFIG_MAP) == []
    assert mistakes(ray_job, RAY_JOB) == []


def test_the_check_finds_what_is_wrong(manifest):
    _, _, ray_job = manifest
    spec = ray_job["spec"]
    spec["backofLimit"] = spec.pop("backoffLimit")
    spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    worker = spec["rayClusterSpec"]["workerGroupSpecs"][0]
    del worker["groupName"], worker["template"]["spec"]["containers"][0]["name"]
    worker["replicas"] = "5"
    assert mistakes(ray_job, RAY_JOB) == [
        ".spec.backofLimit: unknown",
        ".spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus: not text",
        ".spec.rayClusterSpec.workerGroupSpecs[0].groupName: missing",
        ".spec.rayClusterSpec.workerGroupSpecs[0].replicas: str, not int",
        ".spec.rayClusterSpec.workerGroupSpecs[0].template.spec.containers[0].name: missing",
    ]


def test_what_the_operator_refuses_beyond_the_definition(manifest):
    """Names, modes and combinations that its validation knows."""
    _, _, ray_job = manifest
    spec = ray_job["spec"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", ray_job["metadata"]["name"])
    assert len(ray_job["metadata"]["name"]) <= 47
    assert spec["submissionMode"] in ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
    assert spec["backoffLimit"] >= 0
    assert spec["ttlSecondsAfterFinished"] >= 0
    assert spec["shutdownAfterJobFinishes"] or not spec["ttlSecondsAfterFinished"]
    assert not {"clusterSelector", "suspend", "submitterPodTemplate", "submitterConfig"} & spec.keys()
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_what_is_asked_for(manifest):
    job, config_map, ray_job = manifest
    spec = ray_job["spec"]
    assert (ray_job["apiVersion"], ray_job["kind"]) == ("ray.io/v1", "RayJob")
    assert {item["metadata"]["namespace"] for item in (config_map, ray_job)} == {"research"}
    sweep = "python -m orchestrator.cli sweep /etc/aiqn/sweep.yaml --runs /shared/runs --set search.trials=13"
    assert f"; {sweep}; code=$?;" in spec["entrypoint"]
    assert spec["backoffLimit"] == 2
    (workers,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert workers["replicas"] == 5
    (worker,) = workers["template"]["spec"]["containers"]
    assert worker["resources"]["limits"] == {"cpu": "7", "memory": "11776Mi", "nvidia.com/gpu": "3"}
    assert worker["image"] == "registry/aiqn:1"
    pods = [spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"], workers["template"]["spec"]]
    for pod in pods:
        (container,) = pod["containers"]
        assert {"name": "AIQN_DATA", "value": "/shared/data"} in container["env"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        claim = next(volume for volume in pod["volumes"] if volume["name"] == "shared")
        assert claim["persistentVolumeClaim"] == {"claimName": "runs"}
    (head,) = pods[0]["containers"]
    assert {"name": "sweep", "mountPath": "/etc/aiqn", "readOnly": True} in head["volumeMounts"]
    assert config_map["data"] == {"sweep.yaml": job.sweep.text}
    assert {"name": "sweep", "configMap": {"name": config_map["metadata"]["name"]}} in pods[0]["volumes"]


def test_every_key_arrives_where_kubernetes_reads_it(full):
    _, config_map, ray_job = full
    kueue = {"kueue.x-k8s.io/queue-name": "lab", "kueue.x-k8s.io/priority-class": "low"}
    for item in (config_map, ray_job):
        assert item["metadata"]["labels"] == {"app": "aiqn", "team": "7", **kueue}
        assert item["metadata"]["annotations"] == {"aiqn/run": "/shared/runs/small"}
    spec = ray_job["spec"]
    assert spec["activeDeadlineSeconds"] == 9000
    cluster = spec["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True
    (workers,) = cluster["workerGroupSpecs"]
    assert [workers[key] for key in ("minReplicas", "replicas", "maxReplicas")] == [3, 5, 11]
    head = cluster["headGroupSpec"]["template"]
    product = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}
    for template, selector in ((head, {}), (workers["template"], product)):
        assert template["metadata"]["labels"] == {"app": "aiqn", "team": "7"}  # no queue of a pod's own
        pod = template["spec"]
        assert pod["nodeSelector"] == {"pool": "research", **selector}
        assert pod["tolerations"] == [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "team", "operator": "Equal", "value": "lab"},
            {"operator": "Exists"},
        ]
        assert pod["serviceAccountName"] == "sweeper"
        assert pod["imagePullSecrets"] == [{"name": "registry-key"}, {"name": "other-key"}]
        (container,) = pod["containers"]
        secrets = {entry["name"]: entry["valueFrom"] for entry in container["env"] if "valueFrom" in entry}
        assert secrets == {
            "MLFLOW_TRACKING_TOKEN": {"secretKeyRef": {"name": "mlflow", "key": "token"}},
            "AIQN_DATA": {"secretKeyRef": {"name": "places", "key": "data.path"}},
        }
        names = [entry["name"] for entry in container["env"]]
        assert len(names) == len(set(names))  # and none has a plain value besides


def test_without_the_keys_nothing_is_asked_for(manifest):
    _, _, ray_job = manifest
    text = yaml.safe_dump(ray_job)
    for word in ("nodeSelector", "tolerations", "serviceAccount", "Secret", "activeDeadline", "Autoscaling", "secret"):
        assert word not in text


def test_workers_at_the_start_lie_between_the_fewest_and_the_most(load):
    for keys in ("min_workers: 6", "max_workers: 4"):
        with pytest.raises(JobError, match=r"cluster.nodes: saw 5, expected a number from cluster.kuberay.min_workers"):
            made(load, f"{CLUSTER}    {keys}\n")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("namespace", "Research"),
        ("namespace", "n" * 64),
        ("volume", "my_runs"),
        ("image", "Registry/AIQN:1"),
        ("image", "registry/aiqn:"),
        ("mount", "shared"),
        ("mount", "/shared/"),
        ("service_account", "-sweeper"),
        ("image_pull_secrets[0]", "two words"),
        ("labels.team", "a/b"),
        ("labels.team", 7),
        ("labels.two words", "x"),
        ("node_selector.-x", "y"),
        ("secrets.A-B", {"name": "n", "key": "k"}),
        ("secrets.A.key", "two words"),
        ("secrets.A.name", "Upper"),
        ("secrets.A", "text"),
        ("secrets.A.kye", "k"),
        ("tolerations[0].effect", "Never"),
        ("tolerations[0]", {"operator": "Exists", "key": "a", "value": "b"}),
        ("tolerations[0]", {"operator": "Equal", "key": "a"}),
        ("deadline_hours", 0),
        ("min_workers", 0),
    ],
)
def test_what_kubernetes_refuses_is_refused_with_its_line(mistakes, key, value):
    head, _, last = key.replace("[0]", "").partition(".")
    secret = {"A": {"name": "n", "key": "k"}}
    if head == "secrets" and last.startswith("A."):
        given = {"secrets": {"A": {**secret["A"], last[2:]: value}}}
    elif head == "tolerations" and last:
        given = {head: [{last: value}]}
    elif "[0]" in key:
        given = {head: [value]}
    else:
        given = {head: {last: value}} if last else {head: value}
    lines = mistakes(SMALL + yaml.safe_dump({"cluster": {"kuberay": given}}, width=1000))
    assert len(lines) == 1
    assert f"cluster.kuberay.{key}: " in lines[0]
    assert "saw" in lines[0] or "unknown key; did you mean 'key'?" in lines[0]


@pytest.mark.parametrize(
    ("code", "stopped", "ends_with"),
    [(0, False, 0), (1, False, 0), (2, False, 0), (3, False, 3), (3, True, 0), (137, False, 137)],
)
def test_only_what_another_attempt_can_mend_fails(load, tmp_path, monkeypatch, code, stopped, ends_with):
    job = Job(load(SMALL), tmp_path / "runs")
    marker = job.run.control / STOPPED
    marker.parent.mkdir(parents=True)
    marker.touch()  # of an earlier start
    leave = f"touch {marker}; " if stopped else ""
    monkeypatch.setattr(Job, "command", lambda *_: f"({leave}exit {code})")
    assert subprocess.run(["sh", "-c", entrypoint(job)], check=False, capture_output=True).returncode == ends_with
