"""Real clusters on one machine: Ray nodes in network namespaces, Slurm, Ray's Job API, MLflow on PostgreSQL.

`make cluster` installs what they need. All are compared with an undisturbed run of the same sweep on one machine.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from hosts import ROOT, Machines, end, end_all_with, environment, free_port, holding, run, wait_for
from measured import numbers

from orchestrator.clusters import AUTOSCALING
from orchestrator.runs import RunFolder, load_runs, read_json

pytestmark = pytest.mark.cluster

SWEEP = """\
# Does a sweep end with the same numbers wherever it runs?
name: study
data: banana2d
train: {steps: 2000, batch_size: 64, ema_decay: 0.9}
evaluate: {every: 50, samples: 500, reference: 1000}
search: {trials: 6, sampler: random, objective: {metric: energy_distance}, seed: 5}
arms:
  made:
    model: {name: made, hidden: [32, 32]}
    space: {optimizer.lr: {low: 1.0e-3, high: 1.0e-2, log: true}}
  aiqn:
    model: {name: aiqn, hidden: [32, 32]}
    space: {optimizer.lr: {low: 1.0e-3, high: 1.0e-2, log: true}}
final: {top: 1, seeds: [0], steps: 2400}
resources: {cpu: 1, retries: 0}
"""
AIQN = (sys.executable, "-m", "orchestrator.cli")


def changed(*keys):
    """Words of the command line that change keys of the sweep file."""
    return [word for key in keys for word in ("--set", key)]


def trials(folder, state):
    return [item for item in load_runs(folder) if item.state == state] if folder.exists() else []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "study.yaml").write_text(SWEEP)
    result = subprocess.run(
        [*AIQN, "sweep", "study.yaml"], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = numbers(RunFolder(folder / "runs" / "study"))
    assert {state for _, _, _, state, _ in found.values()} == {"completed"}
    assert len(found) == 14
    return found


@pytest.fixture
def machines(tmp_path):
    made = Machines(tmp_path)
    try:
        yield made
    finally:
        made.close()


def sweep_on(machines, number, folder, *options, head=1, **variables):
    """The command on one of the machines."""
    (folder / "study.yaml").write_text(SWEEP)
    head = f"{machines.address(head)}:6379"
    command = (*AIQN, "sweep", "study.yaml", *options)
    return machines.start(number, *command, log="driver.log", cwd=folder, RAY_ADDRESS=head, **variables)


# ---- what these tests leave behind ---------------------------------------------------------------------------------


def test_machines_of_one_test_are_gone_before_those_of_the_next(tmp_path):
    before = set()
    for round_ in range(5):
        made = Machines(tmp_path)
        try:
            for number in (made.add(), made.add(), made.add()):
                made.start(number, "sleep", "1000", log="sleep.log")
            names = set(made.left())
        finally:
            made.close()
        assert len(names) == 7  # a bridge, and of each machine its link and its namespace
        assert not names & before, round_
        assert made.left() == []
        before |= names


# ---- several nodes -----------------------------------------------------------------------------------------------


def test_a_node_is_killed_and_one_is_added_and_nothing_changes(undisturbed, machines, tmp_path):
    held = tmp_path / "held"  # the sweep is not over before the fourth machine has joined it
    variables = holding(held)
    for number in (machines.add(), machines.add(), machines.add()):
        machines.ray_runs(number, head=None if number == 1 else 1, **variables)
    folder = tmp_path / "runs" / "study"
    driver = sweep_on(machines, 1, tmp_path)
    hosts = [machines.host(number) for number in (1, 2, 3)]
    on_third = wait_for(
        lambda: [item for item in trials(folder, "running") if item.status["host"] == hosts[2] and item.history],
        alive=driver,
    )
    wait_for(lambda: {item.status["host"] for item in trials(folder, "running")} >= set(hosts), alive=driver)
    machines.kill(3)
    fourth = machines.add()
    machines.ray(fourth, head=1, **variables)
    wait_for(
        lambda: [item for item in load_runs(folder) if item.status.get("host") == machines.host(fourth)], alive=driver
    )
    held.unlink()
    assert driver.wait(3600) == 0, (tmp_path / "driver.log").read_text()
    assert numbers(RunFolder(folder)) == undisturbed
    runs = {item.id: item for item in load_runs(folder)}
    assert runs[on_third[0].id].status["attempts"] >= 2  # although the sweep allows no retries
    used = {item.status["host"] for item in runs.values()}
    print(f"trials ended on {used}; the lost node had {on_third[0].id}")
    nodes = read_json(folder / "cluster.json")["nodes"]
    assert {node["name"].split("/")[0] for node in nodes} == {machines.host(number) for number in (1, 2, fourth)}


def test_a_node_that_is_not_like_the_others_is_refused_by_name(machines, tmp_path):
    other = tmp_path / "other"
    for room in ("aiqn_core", "orchestrator", "reports"):
        shutil.copytree(ROOT / room, other / room)
    (other / "aiqn_core" / "losses.py").open("a").write("# changed\n")
    machines.ray_runs(machines.add())
    machines.ray_runs(machines.add(), head=1, PYTHONPATH=str(other))
    driver = sweep_on(machines, 1, tmp_path)
    assert driver.wait(300) == 2
    said = (tmp_path / "driver.log").read_text()
    assert f"node {machines.host(2)}/{machines.address(2)}" in said
    assert "its AIQN Sweeps differs from the driver's" in said
    assert "aiqn submit --to ray" in said
    assert f"node {machines.host(1)}" not in said
    assert "Traceback" not in said
    assert not (tmp_path / "runs" / "study" / "trials").exists()
    # it also joins while a sweep runs, and then is left alone, with the reason told
    machines.kill(2)
    too_large = sweep_on(machines, 1, tmp_path, *changed("resources.cpu=2"))
    wait_for(lambda: (tmp_path / "driver.log").exists())
    assert too_large.wait(300) == 2
    assert "a trial needs {cpu: 2, gpu: 0} on one node, but the cluster has" in (tmp_path / "driver.log").read_text()


def test_two_workers_on_two_machines_equal_one(undisturbed, machines, tmp_path):
    for number in (machines.add(), machines.add()):
        machines.ray_runs(number, head=None if number == 1 else 1)
    driver = sweep_on(machines, 1, tmp_path, *changed("resources.workers=2", "search.trials=1", "final=null"))
    assert driver.wait(3600) == 0, (tmp_path / "driver.log").read_text()
    for trial, (*asked, records) in numbers(RunFolder(tmp_path / "runs" / "study")).items():
        *expected_asked, expected = undisturbed[trial]
        assert asked == expected_asked
        losses = [(record["step"], record["loss"]) for record in records[:10]]
        assert [step for step, _ in losses] == [record["step"] for record in expected[:10]]
        assert [loss for _, loss in losses] == pytest.approx([record["loss"] for record in expected[:10]], rel=1e-4)
    log = (tmp_path / "runs" / "study" / "trials" / "made-search-0" / "log.txt").read_text()
    print(log.splitlines()[0])


PLACE = """
import os
import ray
from ray.util import placement_group, remove_placement_group
from orchestrator.search import bundles
ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=10**8)
own, other, third = ray.nodes()[0]["NodeID"], "f" * 56, "e" * 56
for avoid in ([], [other], [other, third], [other, own], [own]):
    group = bundles({"each": {"CPU": 1}, "workers": 1, "avoid": avoid}).to_placement_group()
    print(group.wait(10))
    remove_placement_group(group)
"""


def test_ray_places_no_trial_on_an_avoided_node():
    result = subprocess.run([sys.executable, "-c", PLACE], env=environment(), capture_output=True, text=True)
    assert result.stdout.split() == ["True", "True", "True", "False", "False"], result.stderr


# ---- a head that is lost -------------------------------------------------------------------------------------------


def held_without_head(machines, folder, lose):
    """A sweep in the midst of whose trials the head of the cluster is lost; its driver and trials are elsewhere."""
    variables = holding(folder / "held")
    machines.ray_runs(machines.add(), cpus=0)
    machines.ray_runs(machines.add(), head=1, **variables)
    driver = sweep_on(machines, 2, folder)
    wait_for(lambda: [item for item in trials(folder / "runs" / "study", "running") if item.history], alive=driver)
    lose(1)
    return driver


def test_a_lost_head_ends_the_sweep_and_a_new_one_goes_on(undisturbed, machines, tmp_path):
    driver = held_without_head(machines, tmp_path, machines.unplug)
    assert driver.wait(60) == 3  # the promise itself
    said = (tmp_path / "driver.log").read_text()
    assert f"The Ray cluster at {machines.address(1)}:6379 is gone. Nothing is lost" in said
    assert "Traceback" not in said
    (tmp_path / "held").unlink()
    third = machines.add()
    machines.ray_runs(third)
    assert sweep_on(machines, third, tmp_path, head=third).wait(3600) == 0, (tmp_path / "driver.log").read_text()
    assert numbers(RunFolder(tmp_path / "runs" / "study")) == undisturbed


@pytest.mark.parametrize("lose", [Machines.kill, Machines.unplug])
def test_ctrl_c_ends_a_sweep_whose_head_is_lost(machines, tmp_path, lose):
    driver = held_without_head(machines, tmp_path, lambda number: lose(machines, number))
    driver.send_signal(signal.SIGINT)
    assert driver.wait(15) == 3  # the promise itself
    assert "Traceback" not in (tmp_path / "driver.log").read_text()


# ---- a cluster that grows ------------------------------------------------------------------------------------------

WORKER = {"resources": {"CPU": 1, "object_store_memory": 10**8}, "node_config": {}, "min_workers": 1, "max_workers": 3}
GROWING = {
    "cluster_name": "growing",
    "max_workers": 3,
    "idle_timeout_minutes": 1,
    "upscaling_speed": 1.0,
    **{key: {} for key in ("auth", "docker", "file_mounts")},
    **{key: [] for key in ("initialization_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter")},
    **{f"{where}setup_commands": [] for where in ("", "head_", "worker_")},
    **{f"{where}start_ray_commands": [] for where in ("head_", "worker_")},
    "file_mounts_sync_continuously": False,
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {}, "node_config": {}, "max_workers": 0},
        "worker": WORKER,
    },
}


def test_a_cluster_that_grows_is_asked_for_as_many_machines_as_there_are_trials(undisturbed, machines, tmp_path):
    """Ray's own autoscaler with machines that are only processes: as KubeRay's, it starts with the fewest."""
    head, held = machines.add(), tmp_path / "held"
    provider = {"type": "fake_multinode", "use_node_id_as_ip": True, "gcs_address": f"{machines.address(head)}:6379"}
    (tmp_path / "growing.yaml").write_text(json.dumps({**GROWING, "provider": provider}))
    options = (f"--autoscaling-config={tmp_path / 'growing.yaml'}",)
    fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    fake |= {"AUTOSCALER_HEARTBEAT_TIMEOUT_S": "100000"}  # on a slow machine nodes are late, and sound
    machines.ray_runs(head, cpus=0, options=options, **holding(held), **fake)
    driver = sweep_on(machines, head, tmp_path, **{AUTOSCALING: "1"})
    folder = tmp_path / "runs" / "study"
    wait_for(
        lambda: len({item.status["node"] for item in trials(folder, "running") if item.history}) >= 3, alive=driver
    )
    held.unlink()
    assert driver.wait(3600) == 0, (tmp_path / "driver.log").read_text()
    assert numbers(RunFolder(folder)) == undisturbed


# ---- Slurm -------------------------------------------------------------------------------------------------------

SLURM = """\
ClusterName=aiqn
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
FirstJobId={first}
JobRequeue=1
KillWait=10
MpiDefault=none
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
NodeName=gpu[01-04] NodeAddr=127.0.0.1 Port={elsewhere} CPUs=2 Feature=a100,h100 State=DOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes={host} MaxTime=2 State=UP
PartitionName=away Nodes=gpu[01-04] MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A Slurm of one node, with its own munge, away from any that the machine has."""
    folder = tmp_path / "slurm"
    folder.mkdir(mode=0o755)
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    conf = folder / "slurm.conf"
    host = os.uname().nodename.split(".")[0]
    # Jobs of two tests never have one number, from which the ports and the folder of their Ray are made.
    ports = {"port": free_port(), "node_port": free_port(), "first": free_port() * 10, "elsewhere": free_port()}
    conf.write_text(SLURM.format(folder=folder, host=host, **ports))
    monkeypatch.setenv("SLURM_CONF", str(conf))
    munge = [f"--{name}={folder / f'munge.{name}'}" for name in ("socket",)]
    munge += [f"--{name}-file={folder / f'munge.{name}'}" for name in ("key", "pid", "log", "seed")]
    with ExitStack() as stack:

        def start(*command):
            process = subprocess.Popen(command, start_new_session=True)
            stack.callback(end, process)

        start("munged", "--foreground", "--force", *munge)
        wait_for(lambda: (folder / "munge.socket").exists(), 60)
        start("slurmctld", "-D", "-f", str(conf))
        start("slurmd", "-D", "-f", str(conf), "-N", host)
        wait_for(lambda: "idle" in subprocess.run(["sinfo", "-h"], capture_output=True, text=True).stdout, 120)
        try:
            yield folder
        finally:
            run("scancel", "--user=root", "--quiet")
            wait_for(lambda: not run("squeue", "--noheader"), 60)
            end_all_with(str(tmp_path / "runs"))


ENDED = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED")


def show(number):
    """What Slurm says of each part of a job."""
    lines = run("scontrol", "show", "job", "--oneliner", number).splitlines()
    return [dict(word.split("=", 1) for word in line.split(" ") if "=" in word) for line in lines]


def at_its_limit(job):
    """Let a job's time limit come within a minute or two of its notice of ten, however long it has run."""
    hours, minutes, _ = map(int, job["RunTime"].split(":"))
    run("scontrol", "update", f"JobId={job['JobId']}", f"TimeLimit={60 * hours + minutes + 11}")


def go_on_at_once(number):
    """The parts of a job; those that were put back get their turn now, with more time: Slurm would wait two minutes."""
    found = show(number)
    for job in found:
        assert job["JobState"] != "FAILED", job
        if job["JobState"] == "PENDING" and job["Reason"] == "BeginTime":
            run("scontrol", "update", f"JobId={job['JobId']}", "StartTime=now", "TimeLimit=UNLIMITED")
    return found


def submit_to_slurm(folder, *keys):
    (folder / "study.yaml").write_text(SWEEP)
    command = [*AIQN, "submit", "study.yaml", "--to", "slurm", *changed(*keys)]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


def test_options_arrive_in_slurm_as_they_are_written(slurm, tmp_path):
    options = '["--nodelist=gpu[01-04]", "--constraint=a100|h100", "--comment=two words, a \'quote\' & #1"]'
    keys = ["cluster.nodes=4", "cluster.cpus=1", "cluster.slurm.partition=away", f"cluster.slurm.options={options}"]
    result = submit_to_slurm(tmp_path, *keys)
    assert result.returncode == 0, result.stderr
    told = run("scontrol", "show", "job", read_json(tmp_path / "runs" / "study" / "submission.json")["id"])
    assert "ReqNodeList=gpu[01-04] " in told
    assert "Features=a100|h100 " in told
    assert "Comment=two words, a 'quote' & #1" in told
    assert "JobState=PENDING" in told


def test_a_notice_longer_than_the_partitions_limit_is_said_at_the_start(slurm, tmp_path):
    keys = ["cluster.cpus=1", "cluster.slurm.partition=short"]
    result = submit_to_slurm(tmp_path, *keys)
    assert result.returncode == 2
    assert "saw 600, expected less than 120, the time limit of the partition short" in result.stderr
    assert run("squeue", "--noheader") == ""
    # where the limit could not be seen before, the job itself says it, and does not come back
    command = [*AIQN, "submit", "study.yaml", "--to", "slurm", "--dry-run", *changed(*keys)]
    script = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True).stdout
    (tmp_path / "job.sh").write_text(script)
    (tmp_path / "runs" / "study").mkdir(parents=True, exist_ok=True)
    number = run("sbatch", "--parsable", str(tmp_path / "job.sh")).strip()
    wait_for(lambda: show(number)[0]["JobState"] in ENDED)
    job = show(number)[0]
    assert (job["JobState"], job["ExitCode"], job["Restarts"]) == ("FAILED", "2:0", "0")
    log = (tmp_path / "runs" / "study" / "slurm.log").read_text()
    assert "cluster.slurm.notice_seconds = 600 is not less" in log


def test_many_small_allocations_share_a_sweep_and_come_and_go(undisturbed, slurm, tmp_path):
    folder, held = tmp_path / "runs" / "study", tmp_path / "held"  # nothing is over before two members have left
    keys = ["cluster.slurm.jobs={max: 3, gpus: 0, hours: 4}"]
    keys += [f"cluster.env.{name}={value}" for name, value in holding(held).items()]
    result = submit_to_slurm(tmp_path, *keys)
    assert result.returncode == 0, result.stderr
    number = read_json(folder / "submission.json")["id"]
    used = lambda: {item.status["node"] for item in trials(folder, "running") if item.history}  # noqa: E731
    wait_for(lambda: go_on_at_once(number) and len(used()) == 2, 1800)  # one leads, another has joined
    for leader in (False, True):
        before, running = used(), [job for job in show(number) if job["JobState"] == "RUNNING"]
        leaves = next(job for job in running if Path(f"/tmp/aiqn-slurm-{job['JobId']}").exists() == leader)
        at_its_limit(leaves)
        wait_for(
            lambda part=leaves["JobId"]: {job["JobId"]: int(job["Restarts"]) for job in go_on_at_once(number)}[part],
            1800,
        )
        wait_for(lambda before=before: go_on_at_once(number) and used() - before, 1800)  # and others go on
    held.unlink()
    wait_for(lambda: go_on_at_once(number) and read_json(folder / "sweep.json")["finished"], 3600)
    wait_for(lambda: all(job["JobState"] in ENDED for job in show(number)), 300)
    assert numbers(RunFolder(folder)) == undisturbed  # although the sweep allows no retries
    assert read_json(folder / "slurm" / "over.json") == {"code": 0}
    logs = "".join(path.read_text() for path in (folder / "slurm").glob("*.log"))
    assert "Traceback" not in logs
    assert not list((folder / "control").glob("leave.*"))
    assert not [job for job in show(number) if Path(f"/tmp/aiqn-slurm-{job['JobId']}").exists()]
    again = submit_to_slurm(tmp_path, *keys)  # to continue what is complete costs nothing
    assert again.returncode == 0
    number = read_json(folder / "submission.json")["id"]
    wait_for(lambda: all(job["JobState"] in ENDED for job in show(number)), 600)


def test_a_time_limit_too_short_is_outlived_by_requeueing(undisturbed, slurm, tmp_path):
    folder, held = tmp_path / "runs" / "study", tmp_path / "held"  # nothing is over before its first allocation is
    keys = ["cluster.hours=4", "cluster.cpus=2"]
    keys += [f"cluster.env.{name}={value}" for name, value in holding(held).items()]
    for said in ("submitted study as Slurm job", "is in the queue already"):
        result = submit_to_slurm(tmp_path, *keys)
        assert result.returncode == 0, result.stderr
        assert said in result.stdout
    number = read_json(folder / "submission.json")["id"]
    wait_for(lambda: go_on_at_once(number) and [item for item in trials(folder, "running") if item.history], 1800)
    at_its_limit(show(number)[0])
    wait_for(lambda: int(go_on_at_once(number)[0]["Restarts"]) >= 1, 1800)
    held.unlink()
    wait_for(lambda: go_on_at_once(number)[0]["JobState"] in ENDED, 3600)
    job = show(number)[0]
    log = (folder / "slurm.log").read_text()
    assert job["JobState"] == "COMPLETED", log
    assert "run the same command again to continue" in log  # a sweep that was told to stop, and did
    assert read_json(folder / "sweep.json")["finished"]
    assert {item.state for item in load_runs(folder)} == {"completed"}
    assert not list(Path("/tmp").glob(f"aiqn-{number}"))
    assert numbers(RunFolder(folder)) == undisturbed


def test_a_stopped_job_in_the_queue_is_taken_back(slurm, tmp_path):
    """`aiqn stop` of a job that waits: there is no driver that could be asked."""
    (tmp_path / "study.yaml").write_text(SWEEP)
    folder = tmp_path / "runs" / "study"
    run("scontrol", "update", "PartitionName=main", "State=DOWN")
    submit = [*AIQN, "submit", "study.yaml", "--to", "slurm", *changed("cluster.cpus=1")]
    assert subprocess.run(submit, cwd=tmp_path, env=environment(), capture_output=True).returncode == 0
    status = subprocess.run([*AIQN, "status", str(folder)], env=environment(), capture_output=True, text=True)
    assert "submitted to slurm as" in status.stdout
    assert "PENDING" in status.stdout
    stop = subprocess.run([*AIQN, "stop", str(folder)], env=environment(), capture_output=True, text=True)
    assert "cancelled Slurm job" in stop.stdout
    assert run("squeue", "--noheader") == ""


# ---- Ray's Job API -----------------------------------------------------------------------------------------------


@pytest.fixture
def job_api(tmp_path):
    """A Ray head with its dashboard on this machine; the address of its Job API."""
    scratch = tempfile.mkdtemp(prefix="aq", dir="/tmp")  # short: Ray puts sockets there
    port, dashboard = free_port(), free_port()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    command += ["--node-ip-address=127.0.0.1", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
    command += [f"--temp-dir={scratch}", "--num-cpus=2", f"--ray-client-server-port={free_port()}"]
    command += [f"--dashboard-agent-listen-port={free_port()}", "--object-store-memory=100000000"]
    elsewhere = tmp_path / "elsewhere"  # so that the code can only come with the job
    elsewhere.mkdir()
    own = environment()
    del own["PYTHONPATH"]
    with (tmp_path / "head.log").open("ab") as log:
        head = subprocess.Popen(
            command, cwd=elsewhere, env=own, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_for(lambda: "Ray runtime started" in (tmp_path / "head.log").read_text(), alive=head)
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        end(head)
        end_all_with(scratch)
        shutil.rmtree(scratch)


def test_submit_follow_stop_submit_again_complete(undisturbed, job_api, tmp_path):
    (tmp_path / "study.yaml").write_text(SWEEP)
    held = tmp_path / "held"  # the sweep is not over before it has been asked to stop
    variables = {**holding(held), "PYTHONPATH": str(ROOT / "tests" / "held")}  # its code comes with the job
    settings = [f"cluster.env.{name}={value}" for name, value in variables.items()]
    submit = [*AIQN, "submit", "study.yaml", "--to", "ray", *changed(f"cluster.ray.address={job_api}", *settings)]
    folder = tmp_path / "runs" / "study"
    (tmp_path / "runs").mkdir()

    def submitted(log):
        with (tmp_path / log).open("wb") as file:
            return subprocess.Popen(submit, cwd=tmp_path, env=environment(), stdout=file, stderr=subprocess.STDOUT)

    first = submitted("first.log")
    wait_for(lambda: [item for item in trials(folder, "running") if item.history], alive=first)
    second = submitted("second.log")  # twice is harmless: it follows the same job
    wait_for(lambda: "is there already" in (tmp_path / "second.log").read_text(), alive=second)
    status = subprocess.run([*AIQN, "status", str(folder)], env=environment(), capture_output=True, text=True)
    assert "submitted to ray as study: RUNNING" in status.stdout
    stop = subprocess.run([*AIQN, "stop", str(folder)], env=environment(), capture_output=True, text=True)
    assert stop.returncode == 0, stop.stderr
    assert first.wait(300) == 3, (tmp_path / "first.log").read_text()
    assert second.wait(60) == 3
    assert not read_json(folder / "sweep.json")["finished"]
    held.unlink()
    third = submitted("third.log")
    assert third.wait(3600) == 0, (tmp_path / "third.log").read_text()
    assert numbers(RunFolder(folder)) == undisturbed
    log = (tmp_path / "third.log").read_text()
    assert "made search: 6/6 done" in log  # the sweep's own lines, followed
    # code came with the job, and it knows its commit
    code = json.loads((folder / "trials" / "made-search-0" / "config.json").read_text())["provenance"]["git"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert code["commit"] == (head or None)
    assert subprocess.run(submit, cwd=tmp_path, env=environment(), capture_output=True).returncode == 0  # nothing to do


# ---- MLflow on PostgreSQL ----------------------------------------------------------------------------------------


@pytest.fixture
def mlflow_server(tmp_path):
    """The command of docs/cluster.md, on a PostgreSQL of its own."""
    bin_ = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    data, port = tmp_path / "postgres", free_port()
    data.mkdir()
    shutil.chown(data, "postgres", "postgres")
    for parent in data.parents:
        if parent.stat().st_mode & 0o005 != 0o005 and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o005)

    def as_postgres(*command):
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *map(str, command)]

    run(*as_postgres(bin_ / "initdb", "-D", data, "--auth=trust", "--username=mlflow"))
    with ExitStack() as stack:

        def start(command, log):
            with (tmp_path / log).open("wb") as file:
                process = subprocess.Popen(
                    command, stdout=file, stderr=subprocess.STDOUT, env=environment(), start_new_session=True
                )
            stack.callback(end, process)
            return process

        options = ("-c", "unix_socket_directories=", "-c", "listen_addresses=127.0.0.1")
        start(as_postgres(bin_ / "postgres", "-D", data, "-p", port, *options), "postgres.log")
        wait_for(lambda: not subprocess.run([bin_ / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]).returncode)
        run(str(bin_ / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow")
        uri, address = f"postgresql://mlflow@127.0.0.1:{port}/mlflow", free_port()
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1"]
        command += ["--artifacts-destination", str(tmp_path / "artifacts"), "--port", str(address), "--workers", "2"]
        server = start(command, "mlflow.log")
        health = ["curl", "--silent", "--fail", f"http://127.0.0.1:{address}/health"]
        wait_for(lambda: not subprocess.run(health, capture_output=True).returncode, alive=server)
        yield f"http://127.0.0.1:{address}"


def test_two_sweeps_write_to_one_server_at_once(undisturbed, mlflow_server, tmp_path):
    import mlflow

    sweeps = []
    for name in ("study", "other"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "study.yaml").write_text(SWEEP.replace("name: study", f"name: {name}"))
        command = [*AIQN, "sweep", "study.yaml", *changed(f"tracking.uri={mlflow_server}")]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=log, stderr=subprocess.STDOUT)
        sweeps.append((name, process, folder / "runs" / name, folder / "log"))
    client = mlflow.MlflowClient(mlflow_server)
    for name, process, folder, log in sweeps:
        assert process.wait(3600) == 0, log.read_text()
        experiment = client.get_experiment_by_name(name).experiment_id
        assert read_json(RunFolder(folder).mirror)["records_behind"] == 0
        for item in load_runs(folder):
            (mirrored,) = client.search_runs([experiment], f"tags.trial = '{item.id}'")
            assert mirrored.info.status == "FINISHED"
            history = client.get_metric_history(mirrored.info.run_id, "energy_distance")
            assert [(point.step, point.value) for point in history] == item.curve("energy_distance")
        assert len(client.search_runs([experiment], "tags.trial != ''")) == len(load_runs(folder)) == 14
        (parent,) = client.search_runs([experiment], f"tags.`mlflow.runName` = '{name}'")
        assert {file.path for file in client.list_artifacts(parent.info.run_id)} >= {"sweep.yaml", "report"}
        assert numbers(RunFolder(folder)) == undisturbed
    assert list((tmp_path / "artifacts").rglob("sweep.yaml"))  # proxied: only the server writes there
