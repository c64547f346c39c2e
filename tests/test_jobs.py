import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import requests
import yaml
from sweep_files import SMALL

from aiqn_core.code import OURS
from orchestrator import preflight
from orchestrator.runs import RunFolder, write_json
from orchestrator.submit import kuberay, ray_jobs, slurm_script, targets
from orchestrator.submit.job import Job, JobError
from orchestrator.submit.targets import render
from orchestrator.sweep import load_sweep

ROOT = Path(__file__).parent.parent
CLUSTER = """
cluster:
  nodes: 5
  cpus: 7
  gpus: 3
  memory_gib: 11.5
  hours: 8.25
  env: {AIQN_DATA: "/shared/my data"}
  slurm: {partition: gpu, account: lab, notice_seconds: 300, options: [--constraint=a100], setup: [module load cuda]}
  ray: {address: "http://head:8265"}
  kuberay: {image: "registry/aiqn:1", volume: runs, namespace: research, retries: 2}
"""


@pytest.fixture
def job(load, tmp_path):
    return Job(load(SMALL + CLUSTER), Path("/shared/runs"), ("search.trials=13", "arms.one.model.layers=3"))


def test_the_command_is_what_a_person_would_type_and_survives_a_shell(load):
    job = Job(load(SMALL), Path("/shared/my runs"), ("search.sampler={name: tpe}",), yes=True)
    words = subprocess.run(["bash", "-c", f"printf '%s\\n' {job.command('py thon', 'a b.yaml')}"], capture_output=True)
    assert words.stdout.decode().splitlines() == [
        *("py thon", "-m", "orchestrator.cli", "sweep", "a b.yaml", "--runs", "/shared/my runs"),
        *("--set", "search.sampler={name: tpe}", "--yes"),
    ]


def test_variables_that_the_file_names_travel_along(load, monkeypatch):
    monkeypatch.setenv("SERVER", "http://mlflow:5000")
    monkeypatch.setenv("OTHER", "stays")
    text = SMALL + 'tracking: {uri: "${SERVER}"}\n# not $${OTHER}\n' + "cluster: {env: {A: b}}\n"
    job = Job(load(text, environ=os.environ), Path("/runs"))
    assert job.environment == {"SERVER": "http://mlflow:5000", "A": "b"}


# ---- Slurm -----------------------------------------------------------------------------------------------------------


def test_the_header_of_the_sbatch_script(job):
    head = render(job, "slurm").split("\nset -u")[0].splitlines()
    assert head == [
        "#!/bin/bash",
        "#SBATCH --job-name=aiqn-small",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=lab",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --mem=11776M",
        "#SBATCH --signal=B:USR1@300",
        "#SBATCH --open-mode=append",
        "#SBATCH --nodes=5",
        "#SBATCH --cpus-per-task=7",
        "#SBATCH --gpus-per-node=3",
        "#SBATCH --time=08:15:00",
        "#SBATCH --output=/shared/runs/small/slurm.log",
        "#SBATCH --requeue",
        "#SBATCH --no-kill",
        "#SBATCH --constraint=a100",
        "module load cuda",
        "export AIQN_DATA='/shared/my data'",
    ]


def test_what_is_not_given_is_not_asked_for(load):
    script = render(Job(load(SMALL), Path("/runs")), "slurm")
    assert "#SBATCH --exclusive" in script  # whole nodes, where no number of CPUs is given
    assert not any(f"--{word}" in script for word in ("partition", "account", "gpus-per-node", "time=", "mem="))


FAKE_PYTHON = """#!/bin/bash
case "$*" in
    *get_node_ip_address*) echo 127.0.0.1 ;;
    *"start --head"*) echo "head $*" >> {log}; exec {python} -c '
import re, socket, sys, time
server = socket.create_server(("127.0.0.1", int(re.search(r"--port=(\\d+)", sys.argv[1])[1])))
time.sleep(60)' "$*" ;;
    *orchestrator.cli*)
        trap 'echo told >> {log}; exit {code}' TERM
        echo "sweep $RAY_ADDRESS $*" >> {log}
        for _ in $(seq 300); do sleep 0.1; done ;;
esac
"""


@pytest.fixture
def slurm_job(load, tmp_path, monkeypatch):
    """Starts the script as Slurm would, with the given exit code of a sweep that is told to stop."""
    log, bin_ = tmp_path / "log", tmp_path / "bin"
    bin_.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]  # some free port above 20000, for the most part
    environment = {
        **os.environ,
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "SLURM_JOB_ID": str(number % 20000),
        "SLURM_CPUS_ON_NODE": "2",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURMD_NODENAME": "here",
    }

    def start(code):
        fake = bin_ / "python"
        fake.write_text(FAKE_PYTHON.format(log=log, python=sys.executable, code=code))
        scontrol = bin_ / "scontrol"
        scontrol.write_text(f'#!/bin/bash\n[ "$1" != requeue ] || echo "scontrol $*" >> {log}\n')
        for path in (fake, scontrol):
            path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(fake))
        monkeypatch.setattr(slurm_script, "LAST_SECONDS", 0)
        job = Job(load(SMALL), tmp_path / "runs")
        job.run.path.mkdir(parents=True)
        script = tmp_path / "job.sh"
        script.write_text(render(job, "slurm"))
        process = subprocess.Popen(["bash", str(script)], env=environment, start_new_session=True)
        deadline = time.monotonic() + 60
        while not log.exists() or "sweep" not in log.read_text():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        return process

    return start, lambda: log.read_text().splitlines(), number % 20000


@pytest.mark.parametrize(
    ("sent", "code", "requeued"),
    [
        (signal.SIGUSR1, 3, True),  # Slurm's notice: the sweep stopped with work left
        (signal.SIGUSR1, 0, False),  # it was complete just then
        (signal.SIGUSR1, 1, False),
        (signal.SIGTERM, 3, False),  # preempted: Slurm requeues it itself
    ],
)
def test_the_script_requeues_itself_only_on_notice_and_with_work_left(slurm_job, sent, code, requeued):
    start, log, number = slurm_job
    process = start(code)
    os.kill(process.pid, sent)
    assert process.wait(60) == code
    lines = log()
    assert lines[1].startswith(f"sweep 127.0.0.1:{20000 + number} -m orchestrator.cli sweep ")
    assert lines[2] == "told"
    assert lines[3:] == ([f"scontrol requeue {number}"] if requeued else [])
    assert "--num-cpus=2 --num-gpus=0" in lines[0]


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Puts fakes of a cluster's commands on the path: what each prints; returns how they were called."""
    folder, log = tmp_path / "bin", tmp_path / "called"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def put(**outputs):
        for name, output in outputs.items():
            path = folder / name
            path.write_text(f"#!/bin/bash\necho {name} $* >> {log}\ncat > /dev/null\n{output}\n")
            path.chmod(0o755)

    return put, lambda: log.read_text().splitlines() if log.exists() else []


def test_submitting_twice_queues_once_and_stop_takes_it_back(load, tmp_path, commands):
    put, called = commands
    job, said = Job(load(SMALL), tmp_path / "runs"), []
    put(sbatch="echo '17;cluster'", squeue="echo 'PENDING Resources'", scancel="true")
    assert targets.submit(job, "slurm", said.append) == 0
    assert targets.submit(job, "slurm", said.append) == 0
    assert said[0].startswith("submitted small as Slurm job 17; its log is")
    assert said[-1] == "small is in the queue already: job 17, PENDING Resources"
    assert (job.run.path / "slurm.sh").read_text() == render(job, "slurm")
    assert targets.state_line(job.run) == "submitted to slurm as 17: PENDING Resources"
    assert targets.cancel(job.run) == "cancelled Slurm job 17"
    assert [line.split()[0] for line in called()] == ["sbatch", "squeue", "squeue", "squeue", "scancel"]
    put(squeue="true")  # it has left the queue: submitting continues the sweep
    assert targets.cancel(job.run) is None
    assert targets.submit(job, "slurm", said.append) == 0
    assert called()[-1].startswith("sbatch")


def test_what_slurm_refuses_and_what_makes_no_sense_is_told(load, tmp_path, commands, monkeypatch):
    put, _ = commands
    job = Job(load(SMALL), tmp_path / "runs")
    with monkeypatch.context() as without:
        without.setenv("PATH", str(tmp_path / "nothing"))
        with pytest.raises(JobError, match="sbatch: no such command on this machine; submit where it is"):
            targets.submit(job, "slurm", print)
    put(sbatch="echo 'sbatch: error: invalid partition' >&2; exit 1")
    with pytest.raises(JobError, match="said: sbatch: error: invalid partition"):
        targets.submit(job, "slurm", print)
    short = Job(load(SMALL + "cluster: {hours: 0.1}\n"), tmp_path / "runs")
    with pytest.raises(
        JobError, match=r"cluster.hours: saw 0.1, expected more than cluster.slurm.notice_seconds = 600"
    ):
        targets.submit(short, "slurm", print)


# ---- Ray -------------------------------------------------------------------------------------------------------------


def test_the_request_to_ray(job, monkeypatch):
    monkeypatch.setattr(ray_jobs, "git_state", lambda: {"commit": "f00", "dirty": True})
    assert yaml.safe_load(render(job, "ray")) == {
        "address": "http://head:8265",
        "submission_id": "small",
        "entrypoint": "python -m orchestrator.cli sweep sweep.yaml --runs /shared/runs "
        "--set search.trials=13 --set arms.one.model.layers=3",
        "runtime_env": {
            "working_dir": ["aiqn_core", "orchestrator", "reports", "sweep.yaml"],
            "env_vars": {
                "AIQN_DATA": "/shared/my data",
                "AIQN_COMMIT": "f00-dirty",
                "RAY_JOB_STOP_WAIT_TIME_S": "600",
            },
        },
    }


def test_what_is_shipped_is_the_code_and_the_sweep_file_and_runs(job, monkeypatch):
    with ray_jobs.shipment(job) as folder:
        assert sorted(path.name for path in folder.iterdir()) == sorted([*OURS, "sweep.yaml"])
        assert (folder / "sweep.yaml").read_text() == job.sweep.text
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert size < 4e6
        monkeypatch.setattr(preflight, "ROOT", folder)
        shipped = preflight.code()
        monkeypatch.undo()
        assert shipped == preflight.code()
        command = [sys.executable, "-m", "orchestrator.cli", "sweep", "sweep.yaml", "--dry-run"]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        shutil.rmtree(folder / "runs", ignore_errors=True)
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert "one  3 search trials" in result.stdout, result.stderr


def test_files_of_a_command_are_shipped_with_the_sweep_file(tmp_path):
    for file in (ROOT / "examples" / "gan").iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    job = Job(load_sweep(tmp_path / "sweep.yaml"), Path("/shared/runs"))
    assert sorted(job.files) == ["sweep.yaml", "train_gan.py"]
    with ray_jobs.shipment(job) as folder:
        command = [sys.executable, "-m", "orchestrator.cli", "sweep", "sweep.yaml", "--dry-run"]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (tmp_path / "train_gan.py").write_text("print()")
    with pytest.raises(JobError, match="were edited while the sweep was loaded"):
        _ = job.files


class FakeJobs:
    """Ray's Job API as far as following goes."""

    def __init__(self, *steps):
        self.steps = list(steps)

    def get_job_info(self, name):
        status, code, self.log = self.steps.pop(0)
        return type("Details", (), {"status": status, "driver_exit_code": code, "message": "no such image"})

    def get_job_logs(self, name):
        return self.log


def test_logs_are_followed_line_by_line_and_the_exit_code_passed_on(monkeypatch):
    monkeypatch.setattr(ray_jobs, "POLL_SECONDS", 0.0)
    said = []
    steps = [("PENDING", None, ""), ("RUNNING", None, "one\ntw"), ("RUNNING", None, "one\ntwo\nth")]
    details = ray_jobs.follow(FakeJobs(*steps, ("FAILED", 1, "one\ntwo\nthree")), "small", said.append)
    assert said == ["one", "two", "three"]
    assert ray_jobs.exit_code(details) == 1
    for status, code, expected in (("SUCCEEDED", 0, 0), ("STOPPED", None, 3), ("FAILED", 2, 2)):
        assert ray_jobs.exit_code(ray_jobs.follow(FakeJobs((status, code, "")), "small", said.append)) == expected
    with pytest.raises(JobError, match="before the sweep began: no such image"):
        ray_jobs.exit_code(ray_jobs.follow(FakeJobs(("FAILED", None, "")), "small", said.append))


def test_a_cluster_that_goes_away_while_it_is_followed_is_a_plain_error():
    def gone(name):
        raise requests.exceptions.ConnectionError("Max retries exceeded")

    cluster = FakeJobs()
    cluster.get_job_info = gone
    with pytest.raises(JobError, match=r"lost the Ray cluster while following small \(ConnectionError\): submit again"):
        ray_jobs.follow(cluster, "small", print)


def test_no_job_api_is_a_plain_error_and_a_status(load, tmp_path):
    job = Job(load(SMALL + 'cluster: {ray: {address: "http://127.0.0.1:1"}}\n'), tmp_path)
    with pytest.raises(JobError, match=r"no Ray Job API answers at http://127\.0\.0\.1:1"):
        targets.submit(job, "ray", print)
    write_json(job.run.submission, {"to": "ray", "id": "small", "address": "http://127.0.0.1:1"})
    assert "unknown (cluster.ray.address: no Ray Job API answers" in targets.state_line(job.run)
    assert targets.state_line(RunFolder(tmp_path / "other")) is None


# ---- KubeRay ---------------------------------------------------------------------------------------------------------


def test_kuberay_says_all_that_is_missing(load):
    with pytest.raises(JobError) as caught:
        render(Job(load(SMALL), Path("/home/me/runs")), "kuberay")
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        *("cluster.kuberay.image", "cluster.kuberay.volume", "cluster.cpus", "--runs")
    ]


def named(load, name, runs="/shared/runs"):
    return Job(load(SMALL.replace("name: small", f'name: "{name}"') + CLUSTER), Path(runs))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("small", "aiqn-small"),
        ("9", "aiqn-9"),
        ("x" * 42, "aiqn-" + "x" * 42),
        ("CIFAR10_paper.v2", "aiqn-cifar10-paper-v2-????????"),
        ("x" * 60, "aiqn-" + "x" * 33 + "-????????"),
        ("x-" * 30, "aiqn-" + "x-" * 16 + "x-????????"),
    ],
)
def test_names_fit_kubernetes(load, name, expected):
    made = kuberay.name(named(load, name))
    assert fnmatchcase(made, expected)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", made)
    assert len(made) <= 47


def test_sweeps_of_different_names_have_different_rayjobs(load):
    names = ["other_study", "other-study", "other.study", "Other-Study", "other-study-", "x" * 43, "x" * 44, "x" * 42]
    names += ["x" * 42 + "-a", "x" * 42 + "-b", "x" * 41 + "-a"]
    assert len({kuberay.name(named(load, name)) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("status", "verbs"),
    [
        (None, ["get", "apply"]),
        ("Complete", ["get", "delete", "apply"]),
        ("Failed", ["get", "delete", "apply"]),
        ("ValidationFailed", ["get", "delete", "apply"]),
        ("Running", ["get"]),
        ("Suspended", ["get"]),  # it waits in Kueue's queue
        ("Retrying", ["get"]),
        ("", ["get"]),  # KubeRay has not seen it yet
    ],
)
def test_a_finished_rayjob_is_replaced_and_any_other_left_as_it_is(load, commands, status, verbs):
    put, called = commands
    job, said = named(load, "other_study"), []
    found = {"metadata": {"annotations": {"aiqn/run": "/shared/runs/other_study"}}}
    found |= {"status": {"jobDeploymentStatus": status}} if status else {}
    answer = "" if status is None else json.dumps(found)
    put(kubectl=f"[ \"$1\" = get ] && echo '{answer}'; true")
    assert targets.submit(job, "kuberay", said.append) == 0
    assert [line.split()[1] for line in called()] == verbs
    if verbs == ["get"]:
        expected = f"other_study is there already: RayJob {kuberay.name(job)}, {status or 'not yet started'}; nothing"
        assert said == [f"{expected} was changed"]


def test_a_rayjob_of_another_run_folder_is_never_touched(load, commands):
    put, called = commands
    for status in ("Running", "Complete"):
        found = {
            "metadata": {"annotations": {"aiqn/run": "/shared/theirs/other_study"}},
            "status": {"jobDeploymentStatus": status},
        }
        put(kubectl=f"[ \"$1\" = get ] && echo '{json.dumps(found)}'; true")
        with pytest.raises(JobError, match=r"belongs to /shared/theirs/other_study, and not to /shared/runs/other_st"):
            targets.submit(named(load, "other_study"), "kuberay", print)
    assert {line.split()[1] for line in called()} == {"get"}
