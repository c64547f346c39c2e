"""The mirror against real stores: SQLite in the run folder, and a real server that is away at first."""

import io
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from orchestrator.aside import start_anew
from orchestrator.runs import FORMAT, RunFolder, RunFolderError, load_runs, read_json, write_json
from orchestrator.stores import default_uri
from orchestrator.tracking.mirror import Mirror
from orchestrator.tracking.process import mirror as keep_up
from orchestrator.tracking.process import mirroring, opened
from orchestrator.tracking.server import address, serve
from reports.html import write_report

mlflow = pytest.importorskip("mlflow")
pytestmark = pytest.mark.slow


def png(size, value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size), value, dtype=np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def run(tmp_path, record_trial, with_store):
    folder = with_store(RunFolder(tmp_path / "study"))
    search = {"trials": 9, "objective": {"metric": "fd_lite0", "direction": "minimize"}}
    sweep = {"arms": {"pixelcnn": {}, "pixeliqn": {}}, "search": search, "final": None, "tracking": {"uri": None}}
    head = {"format": FORMAT, "id": "0123", "name": "study", "created": 900.0, "finished": False}
    write_json(folder.sweep_json, {**head, "sweep": sweep})
    folder.sweep_yaml.write_text("name: study\n")
    record_trial(folder, "pixelcnn-search-0", steps=(2, 4, 6), images=[(4, png(7, 5)), (6, png(7, 9))])
    record_trial(folder, "pixelcnn-search-1", state="pruned", steps=(2,))
    record_trial(folder, "pixeliqn-search-0", state="failed", cause="OSError", steps=())
    record_trial(folder, "pixeliqn-final-0", state="running", steps=(2, 4))
    return folder


def children(client, experiment):
    runs = client.search_runs([experiment], "tags.trial != ''")
    return {run.data.tags["trial"]: run for run in runs}


def points(client, run, metric="fd_lite0"):
    return [(point.step, point.value, point.timestamp) for point in client.get_metric_history(run.info.run_id, metric)]


def check_equal(client, run):
    """Every number of the run folder is in the store, once, and nothing else is."""
    experiment = client.get_experiment_by_name("study").experiment_id
    mirrored = children(client, experiment)
    recorded = {item.id: item for item in load_runs(run.path)}
    assert mirrored.keys() == recorded.keys()
    assert len(client.search_runs([experiment])) == len(recorded) + 1  # and the parent
    for trial, item in recorded.items():
        expected = [(r["step"], r["fd_lite0"], int(r["time"] * 1000)) for r in item.history]
        assert points(client, mirrored[trial]) == expected
    return mirrored


def test_the_store_mirrors_the_run_folder(run, record_trial):
    client = mlflow.MlflowClient(default_uri(run))
    Mirror(run, client).sync(load_runs(run.path))
    mirrored = check_equal(client, run)
    statuses = {trial: (item.info.status, item.data.tags["state"]) for trial, item in mirrored.items()}
    assert statuses == {
        "pixelcnn-search-0": ("FINISHED", "completed"),
        "pixelcnn-search-1": ("FINISHED", "pruned"),
        "pixeliqn-search-0": ("FAILED", "failed"),
        "pixeliqn-final-0": ("RUNNING", "running"),
    }
    tags, params = mirrored["pixeliqn-search-0"].data.tags, mirrored["pixeliqn-search-0"].data.params
    assert (tags["sweep"], tags["arm"], tags["stage"], tags["cause"]) == ("study", "pixeliqn", "search", "OSError")
    assert (tags["seed"], tags["config_hash"], tags["git_commit"]) == ("5", "abc", "f00")
    assert params == {"model.name": "pixeliqn", "optimizer.name": "adam", "optimizer.lr": "0.1", "train.steps": "4"}
    images = client.list_artifacts(mirrored["pixelcnn-search-0"].info.run_id, "images")
    assert sorted(image.path.split("+")[2] for image in images if "compressed" not in image.path) == ["4", "6"]

    # A new mirror, after a crash of the first: nothing twice, what is new is added, statuses follow.
    run.trial("pixeliqn-final-0").append_metrics([{"step": 6, "time": 1006.5, "loss": 0.1, "fd_lite0": 7.0}])
    run.trial("pixeliqn-final-0").update_status(state="completed")
    record_trial(run, "pixeliqn-search-1", state="stopped")
    again = Mirror(run, client)
    again.sync(load_runs(run.path))
    mirrored = check_equal(client, run)
    assert mirrored["pixeliqn-final-0"].info.status == "FINISHED"
    assert mirrored["pixeliqn-search-1"].info.status == "KILLED"
    assert len(client.list_artifacts(mirrored["pixelcnn-search-0"].info.run_id, "images")) == len(images)
    run.report.mkdir()
    (run.report / "index.html").write_text("<p>report</p>")
    again.finish()
    parent = client.get_run(again.parent)
    assert parent.info.status == "KILLED"  # the sweep did not reach its end
    assert [file.path for file in client.list_artifacts(again.parent, "report")] == ["report/index.html"]


def test_metrics_sent_twice_are_stored_once(run):
    client = mlflow.MlflowClient(default_uri(run))
    first = Mirror(run, client)
    first.sync(load_runs(run.path))
    for sent in first.sent.values():  # as if the process had died before it could note what it sent
        sent.records, sent.state = 0, ""
    first.sync(load_runs(run.path))
    check_equal(client, run)


def test_a_final_that_was_made_longer_is_sent_anew(run):
    client = mlflow.MlflowClient(default_uri(run))
    mirror = Mirror(run, client)
    mirror.sync(load_runs(run.path))
    folder = run.trial("pixeliqn-final-0")
    config = read_json(folder.config)
    config["config"]["train"]["steps"], config["provenance"]["config_hash"] = 6, "longer"
    write_json(folder.config, config)
    folder.metrics.unlink()  # its schedule follows the steps: it began anew
    folder.append_metrics([{"step": step, "time": 2000.0 + step, "fd_lite0": 7.0 + step} for step in (1, 3, 6)])
    for target in (lambda: mirror, lambda: Mirror(run, client)):  # also where the store is asked what it holds
        target().sync(load_runs(run.path))
        mirrored = check_equal(client, run)["pixeliqn-final-0"]
        assert mirrored.data.params["train.steps"] == "6"
        assert mirrored.data.tags["config_hash"] == "longer"


def test_a_server_that_is_away_is_waited_for(run, tmp_path):
    shutil.move(run.path / "mlflow.db", tmp_path / "server.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--artifacts-destination", str(tmp_path)]
    with mirroring(run, uri):
        deadline = time.monotonic() + 300
        while not (read_json(run.mirror) or {}).get("error"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert read_json(run.mirror)["records_behind"] == 6
        with (tmp_path / "server.log").open("wb") as log:
            server = subprocess.Popen([*command, *store], stdout=log, stderr=log, start_new_session=True)
    try:
        assert read_json(run.mirror)["error"] is None
        check_equal(mlflow.MlflowClient(uri), run)
    finally:
        subprocess.run(["pkill", "-s", str(server.pid)], check=False)
        server.wait(20)


def test_the_mirror_process_ends_with_everything_sent_to_a_store_that_it_makes(run):
    (run.path / "mlflow.db").unlink()
    with mirroring(run, None):
        pass
    client = mlflow.MlflowClient(default_uri(run))
    check_equal(client, run)
    state = read_json(run.mirror)
    assert (state["records_behind"], state["error"], len(state["runs"])) == (0, None, 4)


def test_the_address_of_the_ui_names_the_experiment_and_sorts_by_the_objective(run):
    write_json(run.mirror, {"experiment": "7"})
    where = urlsplit(address(run, "127.0.0.1", 5001))
    page, query = where.fragment.split("?")
    assert (where.netloc, page) == ("127.0.0.1:5001", "/experiments/7/runs")
    assert parse_qs(query)["orderByKey"] == ["metrics.`fd_lite0`"]
    assert parse_qs(query)["orderByAsc"] == ["true"]


def test_best_first_shows_completed_search_trials_only_and_the_best_first(run, record_trial):
    """The filter and the order of the address, through MLflow's own search of a real store."""
    record_trial(run, "pixeliqn-search-1", state="diverged", steps=(50,))  # its last value is the best of all
    record_trial(run, "pixeliqn-search-2", steps=(2, 10))
    record_trial(run, "pixeliqn-search-3", steps=(2, 5))
    record_trial(run, "pixeliqn-final-1", steps=(40,))
    client = mlflow.MlflowClient(default_uri(run))
    mirror = Mirror(run, client)
    mirror.sync(load_runs(run.path))
    query = parse_qs(urlsplit(address(run, "127.0.0.1", 5001)).fragment.split("?")[1])
    (where,), (key,), (ascending,) = query["searchFilter"], query["orderByKey"], query["orderByAsc"]
    order = [f"{key} {'ASC' if ascending == 'true' else 'DESC'}"]
    found = client.search_runs([mirror.experiment], where, order_by=order)
    assert [item.data.tags["trial"] for item in found] == [
        "pixeliqn-search-2",
        "pixelcnn-search-0",
        "pixeliqn-search-3",
    ]
    everything = client.search_runs([mirror.experiment], "tags.trial != ''", order_by=order)
    assert everything[0].data.tags["trial"] == "pixeliqn-search-1"


def test_a_run_deleted_by_hand_stays_deleted(run):
    """Also where the experiment is deleted and restored after it, upon which MLflow brings back every run."""
    uri = default_uri(run)
    client = mlflow.MlflowClient(uri)
    with mirroring(run, None):
        pass
    experiment = client.get_experiment_by_name("study").experiment_id
    theirs = client.create_run(experiment).info.run_id  # somebody else's, in the same experiment
    ours = children(client, experiment)["pixelcnn-search-1"].info.run_id
    client.delete_run(ours)
    client.delete_run(theirs)
    with mirroring(run, None):  # nothing to send, but the deleted runs are seen
        pass
    assert set(read_json(run.mirror)["deleted"]) == {ours, theirs}
    assert len(children(client, experiment)) == 3  # it is not sent anew
    client.delete_experiment(experiment)
    mirror = Mirror(run, client)
    mirror.sync(load_runs(run.path))
    assert children(client, experiment).keys() == {item.id for item in load_runs(run.path)} - {"pixelcnn-search-1"}
    assert {client.get_run(one).info.lifecycle_stage for one in (ours, theirs)} == {"deleted"}
    assert len(client.search_runs([experiment])) == 3 + 1  # and the parent


def test_a_store_of_an_older_mlflow_is_one_line_with_the_command(run, monkeypatch):
    uri = default_uri(run)
    with mirroring(run, None):
        pass
    with sqlite3.connect(run.path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    expected = f"back it up, then run: mlflow db upgrade {uri}"
    last_round = threading.Event()
    last_round.set()
    monkeypatch.setattr("orchestrator.tracking.process.PATIENCE_SECONDS", 1e9)  # it is not waited for
    assert not keep_up(run, uri, last_round)
    assert read_json(run.mirror)["error"].endswith(expected)
    for ask in (lambda: serve(run.path, "127.0.0.1", 5001), lambda: write_report("mlflow:study", run.report, uri)):
        with pytest.raises(RunFolderError) as caught:
            ask()
        assert str(caught.value).endswith(expected)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["study", "100% ?"])
def test_a_process_that_is_killed_while_it_makes_a_store_leaves_none(tmp_path, name):
    """MLflow makes the tables one after the other, and never goes on with what it finds half made."""
    run = RunFolder(tmp_path / name)
    run.path.mkdir()
    script = "import sys; from orchestrator.tracking.process import *; run = RunFolder(Path(sys.argv[1]))"
    with subprocess.Popen([sys.executable, "-c", f"{script}; opened(run, default_uri(run))", str(run.path)]) as process:
        deadline = time.monotonic() + 300
        while not [path for path in run.path.glob("mlflow.db.*.new") if path.stat().st_size]:
            assert process.poll() is None
            assert time.monotonic() < deadline
        process.kill()
    assert not (run.path / "mlflow.db").exists()
    opened(run, default_uri(run)).create_experiment("study")
    with sqlite3.connect(run.path / "mlflow.db") as store:
        assert ("study",) in store.execute("select name from experiments").fetchall()


def test_the_runs_of_an_arm_that_starts_anew_are_kept_under_its_name_aside(run, record_trial):
    """They are no longer taken for the sweep's, and the new trials of the same names get runs of their own."""
    client = mlflow.MlflowClient(default_uri(run))
    content = read_json(run.sweep_json)
    write_json(run.sweep_json, {**content, "command": "aiqn sweep study.yaml"})
    first = Mirror(run, client)
    first.sync(load_runs(run.path))
    mirrored = {trial: sent.run_id for trial, sent in first.sent.items()}
    write_json(run.mirror, {"runs": mirrored})
    run.journal.write_text("")
    start_anew(run.path, "pixelcnn")
    record_trial(run, "pixelcnn-search-0", steps=(2, 4))  # with the configuration that it had: nobody edited anything
    again = Mirror(run, client)
    again.sync(load_runs(run.path))
    assert again.sent.keys() == {"pixelcnn-search-0", "pixeliqn-search-0", "pixeliqn-final-0"}
    assert again.sent["pixelcnn-search-0"].run_id != mirrored["pixelcnn-search-0"]
    assert again.sent["pixeliqn-final-0"].run_id == mirrored["pixeliqn-final-0"]
    for trial in ("pixelcnn-search-0", "pixelcnn-search-1"):
        kept = client.get_run(mirrored[trial])
        assert (kept.info.lifecycle_stage, kept.data.tags["aside"]) == ("active", "pixelcnn-1")
        assert kept.data.tags["run_folder"] == "0123/pixelcnn-1"
    assert Mirror(run, client).sent.keys() == again.sent.keys()
