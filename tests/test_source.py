"""The report from MLflow against the one from the run folder, over the real mirror and a real store."""

import json
import random
import re
import sqlite3

import pytest
from damage import HOSTILE, call, changed, damaged, record_study, without_charts
from run_folders import record, write_sweep, write_trial

from orchestrator.runs import RunFolder, RunFolderError, load_runs, write_json
from orchestrator.stores import default_uri
from orchestrator.tracking.mirror import Mirror
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


# ---- a damaged store ----


@pytest.fixture
def store(tmp_path, monkeypatch, with_store):
    """The store of a finished study of ten trials, and its address."""
    without_charts(monkeypatch)
    _, run = record_study(tmp_path)
    with_store(run)
    return run, mirrored(run)


def reported(uri, folder):
    return call(write_report, "mlflow:study", folder / "to", uri)


def altered(run, chance):
    """Change one tag, point or file of a store; gives what takes it back, and in words what was changed."""
    database = run.path / "mlflow.db"
    if chance.random() < 1 / 4:
        file = chance.choice(sorted(path for path in (run.path / "artifacts").rglob("*.json") if path.is_file()))
        before = file.read_bytes()
        content, about = damaged(before, chance)
        file.write_bytes(content if isinstance(content, bytes) else b"")
        return lambda: file.write_bytes(before), f"{file.name}: {about}"
    table = chance.choice(["tags", "tags", "metrics"])
    column = "value" if table == "tags" else chance.choice(["value", "step", "timestamp", "is_nan"])
    with sqlite3.connect(database) as connection:
        rows = connection.execute(f"select rowid, key, {column} from {table} order by rowid").fetchall()
        row, key, before = chance.choice(rows)
        if table == "metrics":
            value = chance.choice([0, -1, 1, 2**62, -(2**62), 1.5, 1e308]) if column != "is_nan" else 1
        elif str(before).startswith("{") and chance.random() < 0.8:
            value = json.dumps(changed(json.loads(before), chance)[0])
        else:
            value = chance.choice(
                [str(before)[: len(str(before)) // 2], "x", "", "{}", "[]", json.dumps(chance.choice(HOSTILE))]
            )
        put = f"update {table} set {column} = ? where rowid = ?"
        connection.execute(put, (value, row))

    def back():
        with sqlite3.connect(database) as again:
            again.execute(put, (before, row))

    return back, f"{table}.{column} of {key}: {before!r:.60} -> {value!r:.60}"


def store_failures(store, folder, seeds):
    run, uri = store
    assert reported(uri, folder).code == 0
    found = []
    for seed in seeds:
        back, about = altered(run, random.Random(seed))
        answer = reported(uri, folder)
        back()
        if not answer.good and "RunFolderError" not in answer.trace.splitlines()[-1]:
            found.append(f"seed {seed}, {about}\n{answer.trace or answer.text[:300]}")
    return found


def test_a_damaged_store_is_refused_or_shown_with_what_is_sound(store, tmp_path):
    assert not (found := store_failures(store, tmp_path, range(7))), "\n".join(found)


@pytest.mark.chaos
def test_a_store_damaged_a_hundred_times(store, tmp_path):
    found = store_failures(store, tmp_path, range(1_000_000, 1_000_100))
    assert not found, f"{len(found)} of 100\n" + "\n".join(found[:9])


def test_a_damaged_tag_makes_a_damaged_trial_and_a_long_message_does_not(tmp_path, monkeypatch, with_store):
    without_charts(monkeypatch)
    _, run = record_study(tmp_path)
    with_store(run)
    status = run.trial("pixelcnn-search-1").status
    write_json(status, json.loads(status.read_text()) | {"message": "\N{SNOWMAN}" * 9000})
    uri = mirrored(run)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("study").experiment_id
    (bad,) = client.search_runs([experiment], "tags.trial = 'pixelcnn-search-0'")
    client.set_tag(bad.info.run_id, "mlflow.aiqn.recorded", '{"config": 5}')
    assert reported(uri, tmp_path).code == 0
    incidents = (tmp_path / "to" / "incidents.csv").read_text()
    assert f"MLflow run {bad.info.run_id}/mlflow.aiqn.recorded: damaged, config: saw 5" in incidents
    assert "\N{SNOWMAN}" * 100 in incidents
    assert incidents.count("damaged") == 2  # the state and the message of the one
