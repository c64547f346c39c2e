import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest
from sweep_files import SMALL

from orchestrator.control import STOPPED
from orchestrator.runs import RunFolder, read_json, write_json
from orchestrator.submit import member as member_module
from orchestrator.submit import slurm
from orchestrator.submit.job import Job, JobError
from orchestrator.submit.member import Member, leading
from orchestrator.submit.slurm_script import LEFT
from orchestrator.submit.targets import render


def header(script):
    """The words that sbatch reads, without its own quoting."""
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH ")]
    return [word for line in lines for word in shlex.split(line.removeprefix("#SBATCH "))]


def cluster(load, keys, text=SMALL, **options):
    return Job(load(f"{text}cluster: {keys}\n", **options), Path("/shared/my runs"))


# ---- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("--array=0-3", "cluster.slurm.jobs"),
        ("--arr=0-3", "cluster.slurm.jobs"),  # sbatch takes the beginning of a name for the name
        ("-a0-3", "cluster.slurm.jobs"),
        ("--export=NONE", "cluster.env"),
        ("--export-file=x", "cluster.env"),
        ("--signal=USR2@60", "cluster.slurm.notice_seconds"),
        ("--sig=USR2@60", "cluster.slurm.notice_seconds"),
        ("--open-mode=truncate", "RUN/slurm.log"),
        ("--output=x", "RUN/slurm.log"),
        ("-o", "RUN/slurm.log"),
        ("--error=x", "RUN/slurm.log"),
        ("--time=1:00", "cluster.hours"),
        ("-t10", "cluster.hours"),
        ("--nodes=2", "cluster.nodes"),
        ("--ntasks=2", "cluster.nodes"),
        ("--mem=1G", "cluster.memory_gib"),
        ("--gres=gpu:2", "cluster.slurm.gpu_type"),
        ("--gpus=a100:2", "cluster.slurm.gpu_type"),
        ("--no-requeue", "goes back into the queue"),
        ("--wrap=true", "the script is ours"),
        ("--wait", "does not wait"),
        ("-W", "does not wait"),
        ("--test-only", "--dry-run"),
        ("--partition=x", "cluster.slurm.partition"),
        ("--qos high", "as one word, such as --qos=high"),
        ("--comment=two\nlines", "one line of text"),
        ("", "one line of text"),
    ],
)
def test_an_option_that_breaks_the_script_is_refused_with_its_line(mistakes, option, instead):
    (line,) = mistakes(f"{SMALL}cluster: {{slurm: {{options: [--nice, {json.dumps(option)}]}}}}\n")
    assert ":18: cluster.slurm.options[1]: saw " in line
    assert instead in line


USUAL = ["--nodelist=gpu[01-04]", "--constraint=a100|h100", "--comment=two words, 'quoted' \"twice\" & $HOME #1"]
USUAL += ["--qos=high", "-C", "a100&nvlink", "--exclude=bad", "--gres=lscratch:100", "--wait-all-nodes=1", "--nice"]


def test_options_that_people_use_arrive_as_they_are(load):
    job = cluster(load, f"{{slurm: {{options: {json.dumps(USUAL)}}}}}")
    assert header(render(job, "slurm"))[-len(USUAL) :] == USUAL


# ---- which Python, which GPUs ----------------------------------------------------------------------------------------


def test_python_is_that_of_the_submission_or_the_one_that_is_named(load):
    assert f"ray=({sys.executable} -m ray.scripts.scripts)" in render(cluster(load, "{}"), "slurm")
    script = render(cluster(load, "{slurm: {setup: [conda activate aiqn], python: python3.11}}"), "slurm")
    assert sys.executable not in script
    assert "ray=(python3.11 -m ray.scripts.scripts)" in script
    assert "\npython3.11 -m orchestrator.cli sweep " in script
    assert script.index("conda activate") < script.index("python3.11")


def test_in_a_container_every_python_runs_through_apptainer(load):
    job = cluster(load, "{gpus: 3, slurm: {container: /images/my aiqn.sif}}")
    script = render(job, "slurm")
    folder = job.sweep.path.resolve().parent
    words = ["apptainer", "exec", "--nv", "--bind", f"/shared/my runs,{folder}", "/images/my aiqn.sif", "python", "-m"]
    assert f"\n{shlex.join([*words, 'orchestrator.cli', 'sweep'])} " in script
    assert f"ray=({shlex.join([*words, 'ray.scripts.scripts'])})" in script
    assert sys.executable not in script
    assert "--nv" not in render(cluster(load, "{slurm: {container: x.sif, python: python3.11}}"), "slurm")
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_gpus_have_a_type(load):
    assert "--gpus-per-node=a100:3" in header(render(cluster(load, "{gpus: 3, slurm: {gpu_type: a100}}"), "slurm"))
    assert not any("gpus" in word for word in header(render(cluster(load, "{slurm: {gpu_type: a100}}"), "slurm")))


# ---- limits ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def partitions(tmp_path, monkeypatch):
    """A scontrol that says this of the partitions."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    monkeypatch.setenv("PATH", f"{bin_}:/usr/bin:/bin")

    def put(*lines):
        scontrol = bin_ / "scontrol"
        scontrol.write_text("#!/bin/bash\n" + "\n".join(f"echo '{line}'" for line in lines))
        scontrol.chmod(0o755)

    return put


SHORT = "PartitionName=short AllowGroups=ALL Default=YES DefaultTime=NONE MaxTime=00:09:00 Nodes=a"
LONG = "PartitionName=long Default=NO DefaultTime=00:05:00 MaxTime=2-01:00:00 Nodes=b"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("{}", "saw 600, expected less than 540, the time limit of the default partition"),
        ("{slurm: {notice_seconds: 539}}", None),
        ("{slurm: {notice_seconds: 540}}", "saw 540, expected less than 540"),
        ("{slurm: {partition: long}}", "saw 600, expected less than 300, the time limit of the partition long"),
        ("{hours: 48, slurm: {partition: long}}", None),  # more than the default, where it is asked for
        ("{slurm: {partition: other}}", None),  # sbatch will say that there is none
        ("{hours: 0.1}", "cluster.hours: saw 0.1, expected more than cluster.slurm.notice_seconds = 600"),
        ("{slurm: {jobs: {hours: 0.1}}}", "cluster.slurm.jobs.hours: saw 0.1, expected more than"),
    ],
)
def test_a_notice_longer_than_the_limit_is_found_before_the_job_is_sent(load, partitions, keys, said):
    partitions(SHORT, LONG)
    if said is None:
        slurm.check(cluster(load, keys))
    else:
        with pytest.raises(JobError, match=f".*{said}"):
            slurm.check(cluster(load, keys))


@pytest.mark.parametrize(
    ("limit", "expected"), [("00:09:00", 540), ("1-00:00:00", 86400), ("2-03:04:05", 183845), ("36:00:01", 129601)]
)
def test_times_of_slurm(limit, expected):
    assert slurm.seconds(limit) == expected


def test_a_script_whose_allocation_is_too_short_ends_at_once_and_says_so(load, partitions):
    for keys in ("{slurm: {notice_seconds: 300}}", "{slurm: {notice_seconds: 300, jobs: {}}}"):
        script = render(cluster(load, keys), "slurm").partition("    exit 2\nfi\n")[0] + "    exit 2\nfi\n"
        for left, code in ((-5, 2), (250, 2), (10000, 0)):
            end = int(time.time()) + left
            at = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(end))
            partitions("JobId=7 StartTime=2026-11-27T15:54:54 EndTime=" + at + " Deadline=N/A")
            environment = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}
            for told in ({}, {"SLURM_JOB_END_TIME": str(end)}):
                given = {**environment, **told}
                result = subprocess.run(["bash"], input=script, env=given, capture_output=True, text=True)
                assert result.returncode == code, result.stderr
                assert ("cluster.slurm.notice_seconds = 300 is not less" in result.stderr) == (code == 2)
        partitions("JobId=7 StartTime=2026-11-27T15:54:54 EndTime=Unknown Deadline=N/A")
        assert subprocess.run(["bash"], input=script, env=environment, capture_output=True, text=True).returncode == 0


def test_a_script_whose_ray_does_not_start_says_why_and_ends(load, tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\n[ "$1" = -c ] && echo 127.0.0.1 && exit\necho "no room for Ray" >&2; exit 1\n')
    python.chmod(0o755)
    job = cluster(load, f"{{slurm: {{python: '{python}', setup: ['export SLURM_JOB_ID=7']}}}}")
    script = render(job, "slurm").replace(str(job.run.path), str(tmp_path))
    environment = {**os.environ, "SLURM_JOB_END_TIME": str(int(time.time()) + 10000), "SLURM_JOB_NUM_NODES": "1"}
    environment |= {"SLURM_CPUS_ON_NODE": "2", "SLURMD_NODENAME": "a"}
    result = subprocess.run(["bash"], input=script, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 3
    assert result.stderr.splitlines()[-1] == "no room for Ray"


# ---- many small allocations ------------------------------------------------------------------------------------------


def test_small_jobs_are_one_array_of_single_nodes(load):
    text = SMALL + "resources: {cpu: 2, gpu: 0.5}\n"
    words = header(render(cluster(load, "{slurm: {jobs: {max: 7, gpus: 3, hours: 1.5}, gpu_type: l4}}", text), "slurm"))
    for word in ("--array=0-6", "--nodes=1", "--gpus-per-node=l4:3", "--cpus-per-task=12", "--time=01:30:00"):
        assert word in words  # 12: six trials at half a GPU, of two CPUs each
    assert "--output=/shared/my runs/small/slurm/%a.log" in words
    assert "--exclusive" not in words
    script = render(cluster(load, "{slurm: {jobs: {gpus: 0}}}"), "slurm")
    assert "--array=0-15" in header(script)
    assert "--cpus-per-task=1" in header(script)
    # the array's own number would put all of its jobs back
    assert '\njob="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"\n' in script
    assert 'scontrol requeue "$job"\n' in script
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_what_small_jobs_say_themselves_is_not_said_twice(load):
    for key in ("nodes: 2", "gpus: 1", "hours: 3"):
        with pytest.raises(JobError, match=f"cluster.{key.partition(':')[0]}: saw .* beside cluster.slurm.jobs"):
            slurm.check(cluster(load, f"{{{key}, slurm: {{jobs: {{}}}}}}"))


FAKE_RAY = "import os, signal, socket, sys; print(os.getpid(), file=open(__file__ + '.pid', 'w'), flush=True)\n"
FAKE_RAY += "port = [word for word in sys.argv if word.startswith('--port=')]\n"
FAKE_RAY += "server = socket.create_server(('', int(port[0][7:]))) if port else None\nsignal.pause()\n"


@pytest.fixture
def member(tmp_path, monkeypatch):
    """Makes members of one sweep, whose Ray is a process that waits and whose driver is a shell command."""
    (tmp_path / "ray.py").write_text(FAKE_RAY)
    monkeypatch.setattr(member_module, "RAY", (sys.executable, str(tmp_path / "ray.py")))
    monkeypatch.setattr(member_module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(member_module, "own_address", lambda: "127.0.0.1")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "3")
    run = RunFolder(tmp_path / "run")
    run.control.mkdir(parents=True)

    def make(command="exit 0", name="slurm-7", patience=60.0):
        return Member(run, name, patience, ["bash", "-c", command])

    return run, make


def meanwhile(step):
    """Do something again and again, until it says that it is done."""

    def work():
        while not step():
            time.sleep(0.01)

    Thread(target=work, daemon=True).start()


def end_when(condition, one):
    """What Slurm's notice does: the member is to leave."""

    def step():
        one.leaving = one.leaving or condition()
        return one.leaving

    meanwhile(step)


@pytest.mark.parametrize(("code", "stopped"), [(0, False), (1, False), (2, False), (3, True)])
def test_a_sweep_that_ends_ends_for_all_members(member, code, stopped):
    run, make = member
    mark = f"touch {run.control / STOPPED}; " if stopped else ""
    look = (
        f"echo $RAY_ADDRESS $RAY_AUTH_TOKEN > {run.path}/seen; stat -c %a {run.path}/slurm/head.json > {run.path}/mode"
    )
    one = make(f"{mark}{look}; exit {code}")
    assert one.take_part() == code
    assert read_json(one.over) == {"code": code}
    address, token = (run.path / "seen").read_text().split()
    assert address.startswith("127.0.0.1:")
    assert len(token) == 64
    assert (run.path / "mode").read_text() == "600\n"  # the token is nobody else's to read
    assert not one.head.exists()
    assert make("exit 5", "slurm-11").take_part() == 0  # it started later, and finds that all is done


def test_a_leader_whose_time_is_over_stops_the_driver_and_another_leads(member):
    run, make = member
    one = make(f"trap 'exit 3' TERM; touch {run.path}/up; while true; do sleep 0.01; done")
    two = make("exit 0", "slurm-11")
    end_when(lambda: (run.path / "up").exists(), one)
    assert one.take_part() == LEFT
    assert not one.over.exists()
    assert two.take_part() == 0
    assert read_json(two.over) == {"code": 0}


def test_a_leader_that_takes_too_long_to_stop_is_cut_off(member):
    run, make = member
    one = make(f"trap '' TERM; touch {run.path}/up; while true; do sleep 0.01; done", patience=0.1)
    end_when(lambda: (run.path / "up").exists(), one)
    assert one.take_part() == LEFT


def test_a_driver_that_is_killed_is_started_again_but_not_for_ever(member):
    run, make = member
    count = f"echo x >> {run.path}/count; "
    assert make(f"{count} [ $(wc -l < {run.path}/count) = 3 ] && exit 0; kill -9 $$").take_part() == 0
    (run.path / "slurm" / "over.json").unlink()
    (run.path / "count").unlink()
    assert make(f"{count} kill -9 $$").take_part() == -signal.SIGKILL
    assert (run.path / "count").read_text() == "x\n" * 3


def test_a_leader_whose_ray_dies_starts_both_again(member):
    """The driver may hang for minutes in a Ray that has died while it connects."""
    run, make = member
    ray = f"$(cat {run.path.parent}/ray.py.pid)"
    one = make(f"echo x >> {run.path}/count; [ $(wc -l < {run.path}/count) = 2 ] && exit 0; kill {ray}; sleep 600")
    assert one.take_part() == 0
    assert one.failures == 1


def test_a_member_joins_asks_to_leave_and_leaves_when_it_is_let_go(member):
    run, make = member
    one = make()
    one.folder.mkdir()
    where = {"address": "127.0.0.1:1", "token": "t" * 64}
    write_json(one.head, where)
    request = run.control / "leave.slurm-7"
    with leading(one.folder / "lead"):  # somebody else leads
        asked = []

        def let_go():
            if request.exists():
                asked.append(read_json(request))
                request.unlink()
            return asked

        end_when(lambda: (one.folder / "slurm-7.ray").exists(), one)
        meanwhile(let_go)
        assert one.take_part() == LEFT
    assert asked == [{"name": "slurm-7"}]


def test_a_member_follows_the_next_leader(member):
    """Its Ray ends with the leader that it joined, also where that one is gone without a word."""
    _, make = member
    one = make("exit 0")
    one.folder.mkdir()
    write_json(one.head, {"address": "127.0.0.1:1", "token": "t" * 64})  # of a leader that was killed
    assert one.take_part() == 0
    assert read_json(one.over) == {"code": 0}
