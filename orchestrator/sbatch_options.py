"""Options that people give sbatch besides ours: which would break the script, and what to do instead."""

import re

NODES = "cluster.nodes says how many"
CPUS = "cluster.cpus says how many"
GPUS = "cluster.gpus and cluster.slurm.gpu_type say which"
MEMORY = "cluster.memory_gib says how much"
LOG = "the log is RUN/slurm.log, and each start adds to it"
ONE_SCRIPT = "the script is ours, and runs in one allocation after another"

REFUSED = {
    "array": "cluster.slurm.jobs asks for many small allocations",
    "clusters": "submit on the cluster that is to run it",
    "cpus-per-gpu": CPUS,
    "cpus-per-task": CPUS,
    "error": LOG,
    "export": "the job needs the environment of its submission, and cluster.env adds to it",
    "export-file": "cluster.env sets variables",
    "gid": "submit as the user and group that are to run it",
    "gpus": GPUS,
    "gpus-per-node": GPUS,
    "gpus-per-socket": GPUS,
    "gpus-per-task": GPUS,
    "help": ONE_SCRIPT,
    "input": ONE_SCRIPT,
    "mem": MEMORY,
    "mem-per-cpu": MEMORY,
    "mem-per-gpu": MEMORY,
    "no-requeue": "the job goes back into the queue until the sweep is complete",
    "nodes": NODES,
    "ntasks": NODES,
    "ntasks-per-core": NODES,
    "ntasks-per-gpu": NODES,
    "ntasks-per-node": NODES,
    "ntasks-per-socket": NODES,
    "open-mode": LOG,
    "output": LOG,
    "partition": "cluster.slurm.partition names it",
    "signal": "cluster.slurm.notice_seconds says how long before the limit",
    "test-only": "--dry-run prints the script",
    "time": "cluster.hours sets the limit",
    "time-min": "cluster.hours sets the limit",
    "uid": "submit as the user that is to run it",
    "usage": ONE_SCRIPT,
    "version": ONE_SCRIPT,
    "wait": "aiqn submit does not wait; see aiqn status",
    "wrap": ONE_SCRIPT,
}
SHORT = {
    "G": "gpus",
    "M": "clusters",
    "N": "nodes",
    "V": "version",
    "W": "wait",
    "a": "array",
    "c": "cpus-per-task",
    "e": "error",
    "h": "help",
    "i": "input",
    "n": "ntasks",
    "o": "output",
    "p": "partition",
    "t": "time",
}
# Whole names that are also the beginning of a refused one.
ALLOWED = ("gres", "gres-flags", "wait-all-nodes")


def check(option: str) -> str:
    """The option; raises ValueError with what to do instead, where it would break the script."""
    if not option or re.search(r"[\x00-\x1f\x7f]", option):
        raise ValueError("one line of text")
    if not option.startswith("-"):
        return option  # the value of the one before
    if not re.match(r"--[a-z][a-z-]*(=.+)?$|-[A-Za-z]", option):
        raise ValueError("an option of sbatch as one word, such as --qos=high")
    if instead := _refusal(option):
        raise ValueError(f"another option: {instead}")
    return option


def _refusal(option: str) -> str | None:
    """Why an option is refused; sbatch takes the beginning of a name for the name."""
    if not option.startswith("--"):
        return REFUSED.get(SHORT.get(option[1], ""))
    name, _, value = option[2:].partition("=")
    if name == "gres" and re.search(r"\bgpu\b", value):
        return GPUS
    whole = [known for known in REFUSED if known.startswith(name)]
    if name in ALLOWED or not whole:
        return None
    return REFUSED[name if name in REFUSED else whole[0]]
