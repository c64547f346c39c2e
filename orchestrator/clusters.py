"""The section `cluster` of a sweep file: which machines `aiqn submit` asks for, and what each kind of cluster needs."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from aiqn_core.settings import Count, Expected
from orchestrator import sbatch_options
from orchestrator.section import PositiveNumber, Section, Words

VariableName = Annotated[str, Words(r"[A-Za-z_][A-Za-z0-9_]*", "a name of letters, digits and '_'")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:/@+=-]+$")]  # goes into a script or manifest as it is

AUTOSCALING = "AIQN_AUTOSCALING"  # the variable that is set where Ray's autoscaler listens to the driver


Option = Annotated[str, AfterValidator(sbatch_options.check)]
Line = Annotated[str, Words(r"[^\x00-\x1f\x7f]+", "one line of text", 4096)]


class SmallJobs(Section):
    """Many allocations of one node each, in place of one of `cluster.nodes`; each joins and leaves by itself."""

    max: Annotated[int, Field(ge=1, le=1000)] = 16
    """At once."""
    gpus: Annotated[int, Field(ge=0)] = 1
    """Of each."""
    hours: PositiveNumber = 4.0
    """Of each; then it goes back into the queue."""


class Slurm(Section):
    """What `aiqn submit --to slurm` asks for besides nodes; `options` are further words for sbatch."""

    partition: Word | None = None
    """The partition."""
    account: Word | None = None
    """The account that pays."""
    gpu_type: Word | None = None
    """As Slurm calls it: a100."""
    notice_seconds: Annotated[int, Field(ge=60)] = 600
    """How long before the time limit the sweep is told to stop."""
    options: Annotated[tuple[Option, ...], Field(strict=False)] = ()
    """Further words for sbatch."""
    setup: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Shell lines that come first, as `module load`."""
    python: Line | None = None
    """A path, or a name that `setup` puts on the PATH; None: that of the submission."""
    container: Line | None = None
    """An image that apptainer runs all in, with this version of AIQN Sweeps installed."""
    jobs: SmallJobs | None = None
    """Many small allocations in place of one."""


class RayJobs(Section):
    """Where `aiqn submit --to ray` finds the cluster's Job API."""

    address: Word = "http://127.0.0.1:8265"
    """Of Ray's dashboard."""


# What Kubernetes accepts as names: RFC 1123, and its own rules for labels.
DnsLabel = Annotated[
    str,
    Words(
        r"[a-z0-9]([-a-z0-9]*[a-z0-9])?",
        "up to 63 lower case letters, digits and '-', a letter or digit at both ends: Kubernetes refuses others",
        63,
    ),
]
DnsName = Annotated[
    str,
    Words(
        r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
        "lower case letters, digits, '-' and '.', a letter or digit at both ends: Kubernetes refuses others",
    ),
]
LABEL_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
LabelKey = Annotated[
    str,
    Words(
        rf"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?{LABEL_NAME}",
        "up to 63 letters, digits and '-_.', where wanted behind a domain and '/', such as kueue.x-k8s.io/queue-name",
    ),
]
LabelValue = Annotated[
    str,
    Words(
        rf"({LABEL_NAME})?",
        "up to 63 letters, digits and '-_.', a letter or digit at both ends (in quotes, if a number)",
        63,
    ),
]
Labels = dict[LabelKey, LabelValue]
Image = Annotated[
    str,
    Words(
        r"([A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
        r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?",
        "an image such as registry/name:tag, the name in lower case",
        512,
    ),
]
SecretEntry = Annotated[str, Words(r"[-._a-zA-Z0-9]+", "letters, digits and '-._'")]
Mount = Annotated[str, Words(r"(/[A-Za-z0-9_.-]+)+", "an absolute path of letters, digits and '_.-', such as /shared")]


class SecretKey(Section):
    """An entry of a Secret in the sweep's namespace."""

    name: DnsName
    """Of the secret."""
    key: SecretEntry
    """In it."""


class Toleration(Section):
    """A taint of nodes that pods may be placed on nevertheless; words and meaning are those of Kubernetes."""

    key: LabelKey | None = None
    """None: every taint."""
    operator: Literal["Equal", "Exists"] | None = None
    """None: Exists, where there is no value."""
    value: LabelValue | None = None
    """Of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """None: every effect."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.operator == "Exists" or self.key is None) and self.value is not None:
            raise Expected("no value where the operator is Exists or there is no key")
        if self.operator == "Equal" and (self.value is None or self.key is None):
            raise Expected("a key and a value where the operator is Equal")
        return self


class KubeRay(Section):
    """What `aiqn submit --to kuberay` puts into its manifest besides nodes."""

    image: Image | None = None
    """With this version of AIQN Sweeps installed."""
    image_pull_secrets: Annotated[tuple[DnsName, ...], Field(strict=False)] = ()
    """Names of the secrets that images are pulled with."""
    namespace: DnsLabel = "default"
    """Where everything is made."""
    volume: DnsName | None = None
    """The PersistentVolumeClaim that holds run folders (and data), ReadWriteMany."""
    mount: Mount = "/shared"
    """Where the volume is seen in the pods."""
    retries: Annotated[int, Field(ge=0)] = 3
    """Each on a new cluster, continuing the sweep."""
    head_cpus: Count = 2
    """CPU cores of the head."""
    head_memory_gib: PositiveNumber = 8.0
    """Memory of the head."""
    labels: Labels = Field(default_factory=dict)
    """Of the RayJob, and but for those of Kueue of its pods."""
    node_selector: Labels = Field(default_factory=dict)
    """Of all pods."""
    worker_node_selector: Labels = Field(default_factory=dict)
    """Of the workers besides."""
    tolerations: Annotated[tuple[Toleration, ...], Field(strict=False)] = ()
    """Taints that pods may be placed on."""
    service_account: DnsName | None = None
    """The account that pods run as."""
    secrets: dict[VariableName, SecretKey] = Field(default_factory=dict)
    """Environment that is not in the manifest."""
    deadline_hours: PositiveNumber | None = None
    """Of one attempt, after which Kubernetes ends it."""
    min_workers: Count | None = None
    """With these two Ray's autoscaler adds and removes workers; None: cluster.nodes."""
    max_workers: Count | None = None
    """Most machines at once."""


class Cluster(Section):
    """The machines that `aiqn submit` asks for: `nodes` of equal size; None leaves the default of the target."""

    nodes: Count = 1
    """Machines to ask for."""
    cpus: Count | None = None
    """Of a node."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """Of a node."""
    memory_gib: PositiveNumber | None = None
    """Of a node."""
    hours: PositiveNumber | None = None
    """Slurm's time limit of one allocation; a sweep may take many."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment of all processes, such as AIQN_DATA."""
    slurm: Slurm = Slurm()
    ray: RayJobs = RayJobs()
    kuberay: KubeRay = KubeRay()

    @field_validator("env")
    @classmethod
    def _names(cls, value: dict[str, str]) -> dict[str, str]:
        if wrong := [name for name in value if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)]:
            raise Expected(f"names of letters, digits and '_', not {', '.join(wrong)}")
        return value
