"""The sbatch scripts of a sweep: one allocation for all of it, or many small ones that share it."""

import math
import shlex
import sys

from orchestrator.submit.job import Job

LAST_SECONDS = 30  # before the time limit, in which the job must be back in the queue
LEFT = 75  # the exit code of a member that has left a sweep which goes on

ALONE = '"$SLURM_JOB_ID"'
ONE_OF_MANY = '"${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"'  # the number of one of them means all of them

# A notice longer than the limit comes some seconds after each start, for ever.
BEGIN = """set -u
job={job}
end=${{SLURM_JOB_END_TIME:-}}  # older Slurms do not say it
if [ -z "$end" ]; then
    at=$(scontrol show job "$job" 2>/dev/null | sed -n 's/.* EndTime=\\([0-9][^ ]*\\).*/\\1/p')
    [ -n "$at" ] && end=$(date -d "$at" +%s)
fi
left=$((${{end:-0}} - $(date +%s)))
if [ -n "$end" ] && [ $left -le {notice} ]; then
    echo "This allocation ends in $left s, and cluster.slurm.notice_seconds = {notice} is not less: nothing would be" \\
        "trained before the notice. Set a longer cluster.hours, a shorter notice, or take another partition." >&2
    exit 2
fi"""

BODY = """
{begin}
logs={logs}
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
client=  # Ray's own server for clients, on a fixed port unless told; without grpc there is none, and no option
{python} -c 'import grpc' 2>/dev/null && client=--ray-client-server-port=$((port + 20000))
"${{ray[@]}}" start --head --block --node-ip-address="$ip" --port=$port --temp-dir="$scratch" \\
    --include-dashboard=false $client --dashboard-agent-listen-port=0 \\
    --min-worker-port=0 --max-worker-port=0 \\
    --num-cpus="$SLURM_CPUS_ON_NODE" --num-gpus="${{SLURM_GPUS_ON_NODE:-0}}" > "$logs.ray" 2>&1 &
head=$!
for _ in $(seq 120); do
    (exec 3<> "/dev/tcp/$ip/$port") 2>/dev/null && break
    kill -0 $head 2>/dev/null || break
    sleep 1
done
if ! kill -0 $head 2>/dev/null; then
    echo "Ray did not start on this node; the end of its output in $logs.ray:" >&2
    tail -n 5 "$logs.ray" >&2
    exit 3
fi

workers=
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then  # they join while the sweep already runs
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks-per-node=1 --exclude="$SLURMD_NODENAME" --no-kill \\
        --cpus-per-task="$SLURM_CPUS_ON_NODE" bash -c 'exec "$@" --num-cpus="$SLURM_CPUS_ON_NODE" \\
        --num-gpus="${{SLURM_GPUS_ON_NODE:-0}}"' ray "${{ray[@]}}" start --block --address="$ip:$port" \\
        --dashboard-agent-listen-port=0 --min-worker-port=0 --max-worker-port=0 >> "$logs.ray" 2>&1 &
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
    scontrol requeue "$job"
    sleep {last}  # Slurm ends this script
fi
exit $code
"""

MEMBER = """
{begin}
requeue= member=
# {notice} s before the time limit: leave the sweep in order, then wait for the next allocation.
warned() {{
    requeue=yes
    [ -n "$member" ] && kill -TERM "$member" 2>/dev/null
}}
trap warned USR1
trap '[ -n "$member" ] && kill -TERM "$member" 2>/dev/null' TERM  # preempted: whoever sends it also requeues

{python} -m orchestrator.submit.member {run} --name "slurm-$SLURM_JOB_ID" --patience {patience} -- \\
    {command} &
member=$!
[ -n "$requeue" ] && warned
while wait "$member"; code=$?; [ $code -gt 128 ] && kill -0 "$member" 2>/dev/null; do :; done
if [ $code -gt 128 ]; then wait "$member"; code=$?; fi

if [ $code -ne {left} ]; then
    scancel --state=PENDING "$SLURM_ARRAY_JOB_ID"  # the sweep is over: nobody need wait for it
elif [ -n "$requeue" ]; then
    scontrol requeue "$job"
    sleep {last}  # Slurm ends this script
fi
exit $code
"""


def render(job: Job) -> str:
    """The sbatch script of a sweep."""
    cluster, slurm = job.sweep.cluster, job.sweep.cluster.slurm
    words = [f"--{name}={value}" for name, value in {**shared_options(job), **size(job)}.items() if value is not None]
    words += ["--exclusive"] if cluster.cpus is None and slurm.jobs is None else []
    words += ["--requeue", "--no-kill", *slurm.options]
    exports = [f"export {name}={shlex.quote(value)}" for name, value in job.environment.items()]
    lines = ["#!/bin/bash", *(f"#SBATCH {shlex.quote(word)}" for word in words), *slurm.setup, *exports]
    body = (BODY if slurm.jobs is None else MEMBER).format(
        begin=BEGIN.format(job=ALONE if slurm.jobs is None else ONE_OF_MANY, notice=slurm.notice_seconds),
        python=shlex.join(python(job)),
        command=command(job),
        run=shlex.quote(str(job.run.path)),
        logs=shlex.quote(str(job.run.path / "slurm")),
        notice=slurm.notice_seconds,
        patience=slurm.notice_seconds - LAST_SECONDS,
        last=LAST_SECONDS,
        left=LEFT,
    )
    return "\n".join(lines) + "\n" + body


def shared_options(job: Job) -> dict[str, str | int | None]:
    """What is asked for in either case."""
    slurm, cluster = job.sweep.cluster.slurm, job.sweep.cluster
    return {
        "job-name": f"aiqn-{job.sweep.name}",
        "partition": slurm.partition,
        "account": slurm.account,
        "ntasks-per-node": 1,
        "mem": None if cluster.memory_gib is None else f"{math.ceil(1024 * cluster.memory_gib)}M",
        "signal": f"B:USR1@{slurm.notice_seconds}",
        "open-mode": "append",
    }


def size(job: Job) -> dict[str, str | int | None]:
    """Machines, time and the log: of the one allocation, or of each of many."""
    cluster, slurm = job.sweep.cluster, job.sweep.cluster.slurm
    folder = str(job.run.path).replace("%", "%%")  # a name with which Slurm does something else
    if (jobs := slurm.jobs) is None:
        return {
            "nodes": cluster.nodes,
            "cpus-per-task": cluster.cpus,
            "gpus-per-node": gpus(job, cluster.gpus),
            "time": None if cluster.hours is None else minutes(cluster.hours),
            "output": f"{folder}/slurm.log",
        }
    return {
        "array": f"0-{jobs.max - 1}",
        "nodes": 1,
        "cpus-per-task": cluster.cpus or cpus_of_member(job),
        "gpus-per-node": gpus(job, jobs.gpus),
        "time": minutes(jobs.hours),
        "output": f"{folder}/slurm/%a.log",
    }


def gpus(job: Job, count: int) -> str | None:
    """GPUs in Slurm's words, with their type where one is given."""
    kind = job.sweep.cluster.slurm.gpu_type
    return None if count == 0 else str(count) if kind is None else f"{kind}:{count}"


def cpus_of_member(job: Job) -> int:
    """The CPUs of the trials that fit on the GPUs of a small allocation, or of one trial."""
    resources, jobs = job.sweep.resources, job.sweep.cluster.slurm.jobs
    trials = math.floor(jobs.gpus / resources.gpu + 1e-9) if jobs and resources.gpu else 1
    return max(1, math.ceil(trials * resources.cpu - 1e-9))


def python(job: Job) -> list[str]:
    """The words that start Python on a node."""
    slurm = job.sweep.cluster.slurm
    if slurm.container is None:
        return [slurm.python or sys.executable]
    seen = {str(job.runs), str(job.sweep.path.resolve().parent)}
    has_gpus = job.sweep.cluster.gpus if slurm.jobs is None else slurm.jobs.gpus
    nvidia = ["--nv"] if has_gpus else []
    return ["apptainer", "exec", *nvidia, "--bind", ",".join(sorted(seen)), slurm.container, slurm.python or "python"]


def command(job: Job) -> str:
    """The shell command that runs the sweep on a node."""
    *before, interpreter = python(job)
    return shlex.join(before) + " " * bool(before) + job.command(interpreter, str(job.sweep.path.resolve()))


def minutes(hours: float) -> str:
    """Slurm's time, in whole minutes."""
    whole = math.ceil(60 * hours - 1e-9)
    return f"{whole // 60:02d}:{whole % 60:02d}:00"
