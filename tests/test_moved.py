"""Run folders that are moved and copied, with real stores of MLflow."""

import hashlib
import io
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from orchestrator.moved import bring_home, home
from orchestrator.runs import FORMAT, RunFolder, read_json, write_json
from orchestrator.stores import default_uri

mlflow = pytest.importorskip("mlflow")
pytestmark = pytest.mark.slow


def png(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((5, 7), value, dtype=np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def run(tmp_path, record_trial, with_store):
    folder = with_store(RunFolder(tmp_path / "runs" / "study"))
    search = {"trials": 3, "objective": {"metric": "fd_lite0", "direction": "minimize"}}
    sweep = {"arms": {"pixelcnn": {}}, "search": search, "final": None, "tracking": {"uri": None}}
    head = {"format": FORMAT, "id": "0123", "name": "study", "created": 900.0, "finished": False}
    write_json(folder.sweep_json, {**head, "sweep": sweep})
    folder.sweep_yaml.write_text("name: study\n")
    record_trial(folder, "pixelcnn-search-0", steps=(2, 4, 6), images=[(4, png(5)), (6, png(9))])
    return folder


def sent(run, uri=None):
    """The client of a store to which the mirror, a process of its own, has sent all of a run; what it failed of."""
    uri = uri or default_uri(run)
    command = [sys.executable, "-m", "orchestrator.tracking.process", str(run.path), "--uri", uri]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=False, timeout=120)
    return mlflow.MlflowClient(uri), read_json(run.mirror)["error"]


def addresses(path):
    with sqlite3.connect(path) as store:
        rows = store.execute("SELECT artifact_uri FROM runs UNION SELECT artifact_location FROM experiments")
        return [address for (address,) in rows if "mlruns" not in address]


def contents(folder):
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["a b#é", "100%41?b=c"])
def test_what_a_moved_folder_sends_lies_in_it(run, record_trial, tmp_path, name):
    sent(run)
    (tmp_path / "elsewhere").mkdir()
    moved = RunFolder(tmp_path / "elsewhere" / name)
    shutil.move(run.path, moved.path)
    record_trial(moved, "pixelcnn-search-1", images=[(4, png(7))])
    client, error = sent(moved)
    assert error is None
    assert not run.path.exists()
    assert addresses(moved.path / "mlflow.db")
    assert all(address.startswith(home(moved)) for address in addresses(moved.path / "mlflow.db"))
    experiment = client.get_experiment_by_name("study").experiment_id
    found = [client.list_artifacts(one.info.run_id, "images") for one in client.search_runs([experiment])]
    assert sorted(len(files) for files in found) == [0, 2, 4]  # the parent and both trials: a picture and its preview
    assert bring_home(moved, default_uri(moved), own=True) == 0
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == [name]


def test_a_copy_never_writes_to_what_it_was_copied_from(run, record_trial, tmp_path):
    sent(run)
    before = contents(run.path)
    copy = RunFolder(tmp_path / "copy" / "study")
    shutil.copytree(run.path, copy.path)
    record_trial(copy, "pixelcnn-search-1", images=[(4, png(7))])
    sent(copy)
    assert contents(run.path) == before
    assert all(address.startswith(home(copy)) for address in addresses(copy.path / "mlflow.db"))


def test_in_a_database_of_others_a_moved_folder_is_followed_and_a_copy_refused(run, record_trial, tmp_path):
    uri = f"sqlite:///{shutil.move(run.path / 'mlflow.db', tmp_path / 'shared.db')}"
    client, _ = sent(run, uri)
    client.create_experiment("mine", artifact_location="file:///data/artifacts")
    copy, moved = RunFolder(tmp_path / "copy" / "study"), RunFolder(tmp_path / "moved" / "study")
    shutil.copytree(run.path, copy.path)
    record_trial(copy, "pixelcnn-search-1")
    assert f"{copy.path} is a copy of {run.path}, and both send to one MLflow store" in sent(copy, uri)[1]
    shutil.rmtree(copy.path)
    moved.path.parent.mkdir()
    shutil.move(run.path, moved.path)
    sent(moved, uri)
    assert client.get_experiment_by_name("mine").artifact_location == "file:///data/artifacts"
    assert {address for address in addresses(tmp_path / "shared.db") if not address.startswith(home(moved))} == {
        "file:///data/artifacts"
    }


def test_where_there_is_no_store_yet_nothing_is_made(run):
    (run.path / "mlflow.db").unlink()
    assert bring_home(run, default_uri(run), own=True) == 0
    assert not (run.path / "mlflow.db").exists()
