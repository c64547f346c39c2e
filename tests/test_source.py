"""The report from MLflow against the one from the run folder, over the real mirror and a real store."""

import json
import re

import pytest
from run_folders import record, write_sweep, write_trial

from orchestrator.runs import RunFolder, RunFolderError, load_runs, write_json
from orchestrator.tracking import Mirror, default_uri
from reports.html import write_report

mlflow = pytest.importorskip("mlflow")


def mirrored(folder, sweep_id="0123abcd"):
    """Send a run folder to its store as the driver's mirror would; returns the store's address."""
    content = json.loads(folder.sweep_json.read_text()) | {"id": sweep_id}
    content["sweep"]["tracking"] = {"uri": None}
    write_json(folder.sweep_json, content)
    if not folder.sweep_yaml.exists():
        folder.sweep_yaml.write_text("name: quickstart\n")
    mirror = Mirror(folder, mlflow.MlflowClient(default_uri(folder)))
    mirror.sync(load_runs(folder.path))
    mirror.finish()
    return default_uri(folder)


def without_pictures(page):
    return re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)


def test_the_report_from_mlflow_is_the_one_from_the_run_folder(folder, tmp_path, with_store):
    with_store(folder)
    write_json(folder.plan, {"format": 1, "basis": "by hand", "lines": [], "wall_seconds": None})
    uri = mirrored(folder)
    here = write_report(folder.path, tmp_path / "here").parent
    there = write_report("mlflow:quickstart", tmp_path / "there", uri).parent
    names, others = (sorted(path.name for path in each.iterdir() if path.is_file()) for each in (here, there))
    assert names == others
    differing = [name for name in names if (here / name).read_bytes() != (there / name).read_bytes()]
    assert set(differing) <= {"index.html"}
    pages = [(path / "index.html").read_text() for path in (here, there)]
    assert without_pictures(pages[0]) == without_pictures(pages[1])
    assert pages[0].count("data:image/png") == pages[1].count("data:image/png") > 10


def test_an_unfinished_sweep_and_trials_without_points(tmp_path, with_store):
    folder = with_store(RunFolder(tmp_path / "quickstart"))
    write_sweep(folder, finished=False)
    write_trial(folder, "pixelcnn", "search", 0, [record("pixelcnn", 0, 600, 512)])
    write_trial(folder, "pixelcnn", "search", 1, [], state="failed", cause="OSError", message="gone")
    write_trial(folder, "pixeliqn", "search", 0, [record("pixeliqn", 0, 200, 512)], state="running")
    uri = mirrored(folder)
    here = write_report(folder.path, tmp_path / "here").parent
    there = write_report("mlflow:quickstart", tmp_path / "there", uri).parent
    assert (here / "index.html").read_text() == (there / "index.html").read_text()
    assert "gone" in (there / "incidents.csv").read_text()


def test_what_cannot_be_read_is_one_plain_error(folder, tmp_path, monkeypatch, with_store):
    with_store(folder)
    uri = mirrored(folder)
    with pytest.raises(RunFolderError, match="no experiment 'quikstart'; it has: quickstart"):
        write_report("mlflow:quikstart", tmp_path / "to", uri)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("quickstart").experiment_id
    client.create_run(experiment, tags={"run_folder": "4567abcd"})
    with pytest.raises(RunFolderError, match=r"name one of: mlflow:quickstart/[04].*, mlflow:quickstart/"):
        write_report("mlflow:quickstart", tmp_path / "to", uri)
    assert write_report("mlflow:quickstart/0123", tmp_path / "to", uri).exists()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(RunFolderError, match="in which store"):
        write_report("mlflow:elsewhere", tmp_path / "to")
