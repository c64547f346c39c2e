"""Slurm: an sbatch script that starts Ray on its nodes, runs the sweep, and requeues itself before its time is over."""

import math
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from orchestrator.runs import write_bytes
from orchestrator.submit.job import Job, JobError, call, remember, remembered

LAST_SECONDS = 30  # before the time limit, in which the job must be back in the queue

BODY = """
set -u
ray=({python} -m ray.scripts.scripts)
port=$((20000 + SLURM_JOB_ID % 20000))  # nodes may be shared: no two jobs of ours on one port
scratch=/tmp/aiqn-$SLURM_JOB_ID
requeue= sweep=
# Whoever shares these nodes must not be able to run code in our Ray.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')

# {notice} s before the time limit: finish the evaluations in progress, then wait for the next allocation.
warned() {{
    requeue=yes
    kill -TERM "$sweep" 2>/dev/null
    (sleep {patience}; kill -KILL "$sweep" 2>/dev/null) &
}}
trap warned USR1
trap 'kill -TERM "$sweep" 2>/dev/null' TERM  # preempted: whoever sends it also requeues

ip=$({python} -c 'import ray; print(ray.util.get_node_ip_address())')
"${{ray[@]}}" start --head --block --node-ip-address="$ip" --port=$port --temp-dir="$scratch" \\
    --include-dashboard=false --ray-client-server-port=$((port + 20000)) --dashboard-agent-listen-port=0 \\
    --min-worker-port=0 --max-worker-port=0 \\
    --num-cpus="$SLURM_CPUS_ON_NODE" --num-gpus="${{SLURM_GPUS_ON_NODE:-0}}" > "{logs}.ray" 2>&1 &
head=$!
for _ in $(seq 120); do (exec 3<> "/dev/tcp/$ip/$port") 2>/dev/null && break; sleep 1; done

workers=
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then  # they join while the sweep already runs
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks-per-node=1 --exclude="$SLURMD_NODENAME" --no-kill \\
        --cpus-per-task="$SLURM_CPUS_ON_NODE" bash -c 'exec "$@" --num-cpus="$SLURM_CPUS_ON_NODE" \\
        --num-gpus="${{SLURM_GPUS_ON_NODE:-0}}"' ray "${{ray[@]}}" start --block --address="$ip:$port" \\
        --dashboard-agent-listen-port=0 --min-worker-port=0 --max-worker-port=0 >> "{logs}.ray" 2>&1 &
    workers=$!
fi

export RAY_ADDRESS=$ip:$port
{command} &
sweep=$!
[ -n "$requeue" ] && warned  # the notice came before there was anybody to tell
# A signal interrupts `wait`, with a code above 128: wait again, also where the sweep has ended in between.
while wait "$sweep"; code=$?; [ $code -gt 128 ] && kill -0 "$sweep" 2>/dev/null; do :; done
if [ $code -gt 128 ]; then wait "$sweep"; code=$?; fi

kill $head $workers 2>/dev/null
wait $head $workers
rm -rf "$scratch"
# 0, 1 and 2 are final: done, trials failed, wrong input.
if [ -n "$requeue" ] && [ $code -gt 2 ]; then
    scontrol requeue "$SLURM_JOB_ID"
    sleep {last}  # Slurm ends this script
fi
exit $code
"""


def render(job: Job) -> str:
    """The sbatch script of a sweep."""
    cluster, slurm, logs = job.sweep.cluster, job.sweep.cluster.slurm, job.run.path / "slurm"
    options = {
        "job-name": f"aiqn-{job.sweep.name}",
        "partition": slurm.partition,
        "account": slurm.account,
        "nodes": cluster.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": cluster.cpus,
        "gpus-per-node": cluster.gpus or None,
        "mem": None if cluster.memory_gib is None else f"{math.ceil(1024 * cluster.memory_gib)}M",
        "time": None if cluster.hours is None else _minutes(cluster.hours),
        "signal": f"B:USR1@{slurm.notice_seconds}",
        "output": f"{logs}.log",
        "open-mode": "append",
    }
    words = [f"--{name}={value}" for name, value in options.items() if value is not None]
    words += ["--exclusive"] if cluster.cpus is None else []
    words += ["--requeue", "--no-kill", *slurm.options]
    exports = [f"export {name}={shlex.quote(value)}" for name, value in job.environment.items()]
    python = shlex.quote(sys.executable)
    body = BODY.format(
        python=python,
        command=job.command(sys.executable, str(job.sweep.path.resolve())),
        logs=logs,
        notice=slurm.notice_seconds,
        patience=slurm.notice_seconds - LAST_SECONDS,
        last=LAST_SECONDS,
    )
    lines = ["#!/bin/bash", *(f"#SBATCH {word}" for word in words), *slurm.setup, *exports]
    return "\n".join(lines) + "\n" + body


def submit(job: Job, say: Callable[[str], None]) -> int:
    """Hand the script to sbatch, unless the job is in the queue already."""
    text, cluster = render(job), job.sweep.cluster
    if cluster.hours is not None and 3600 * cluster.hours <= cluster.slurm.notice_seconds:
        raise JobError(
            f"cluster.hours: saw {cluster.hours:g}, expected more than cluster.slurm.notice_seconds ="
            f" {cluster.slurm.notice_seconds}: nothing would be trained before the notice"
        )
    known = remembered(job.run, "slurm")
    if known is not None and (now := queued(known)):
        say(f"{job.sweep.name} is in the queue already: job {known}, {now}")
        return 0
    path = job.run.path / "slurm.sh"
    write_bytes(path, text.encode())
    number = call(["sbatch", "--parsable", str(path)]).partition(";")[0]
    remember(job.run, "slurm", number)
    say(f"submitted {job.sweep.name} as Slurm job {number}; its log is {job.run.path / 'slurm.log'}")
    say(f"look: aiqn status {job.run.path}   stop: aiqn stop {job.run.path}")
    return 0


def state(known: dict[str, Any]) -> str:
    """What Slurm says of a job that was submitted."""
    return queued(known["id"]) or "no longer in the queue"


def queued(number: str) -> str | None:
    """What Slurm says of a job that is in its queue; None where it is not."""
    try:
        result = subprocess.run(
            ["squeue", "--noheader", "--jobs", number, "--format", "%T %r"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return "unknown (no squeue on this machine)"
    return result.stdout.strip() or None


def cancel(known: dict[str, Any]) -> str | None:
    """Take a job out of the queue; says what was done, None for nothing."""
    number = known["id"]
    if queued(number) is None:
        return None
    call(["scancel", number])
    return f"cancelled Slurm job {number}"


def _minutes(hours: float) -> str:
    """Slurm's time, in whole minutes."""
    minutes = math.ceil(60 * hours - 1e-9)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"
