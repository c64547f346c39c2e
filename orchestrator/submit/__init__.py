"""A sweep submitted to a cluster: first rendered as text, then sent.

The job knows nothing of clusters; `ray_jobs`, `slurm` and `kuberay` know the job; `targets` knows them, and is what
the rest of the product asks. Here only what the command line needs before anything heavy is imported.
"""

from enum import StrEnum


class Target(StrEnum):
    """The kinds of cluster that a sweep can be submitted to."""

    ray = "ray"
    slurm = "slurm"
    kuberay = "kuberay"
