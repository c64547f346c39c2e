"""Which MLflow store a run is mirrored to."""

import json
import os
import sys
from contextlib import nullcontext, suppress

import mlflow
import pytest
from sweep_files import SMALL
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.document import SweepError
from orchestrator.runs import RunFolder, RunFolderError, read_json, write_json
from orchestrator.start import open_run
from orchestrator.stores import ENVIRONMENT, FILE, RUN, VARIABLE, Store, choose, is_known, note, store_of_run
from orchestrator.submit.job import Job
from reports.source import _beside

A, B = "http://a:5001", "http://b:5002"


@pytest.mark.parametrize(
    ("uri", "known"),
    [
        ("http://127.0.0.1:9", True),
        ("https://127.0.0.1:9/path", True),
        ("sqlite:///{}/a.db", True),
        ("sqlite+pysqlite:///{}/b.db", True),
        ("postgresql://u:p@127.0.0.1:9/x", True),
        ("mysql+pymysql://u@127.0.0.1:9/x", True),
        ("mssql://u@127.0.0.1:9/x", True),
        ("databricks", True),
        ("databricks://profile", True),
        ("file:///{}/runs", False),
        ("{}/runs", False),
        ("runs", False),
        ("127.0.0.1:5000", False),
        ("localhost:5000", False),
        ("htp://a:5", False),
        ("postgres://u@127.0.0.1:9/x", False),
        ("SQLITE:///{}/c.db", False),
        ("sqlite:", False),
        ("s3://bucket/x", False),
        ("uc:http://127.0.0.1:9", False),
        ("databricks-uc", False),
    ],
)
def test_a_kind_is_refused_exactly_where_mlflow_refuses_it(tmp_path, monkeypatch, uri, known):
    """MLflow makes a client of any kind that it takes; a missing driver of a database is no refusal of its kind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "psycopg", None)  # where it is installed, it would wait for a server
    uri = uri.format(tmp_path)
    assert is_known(uri) == known
    words = "maintenance mode|unsupported|not support|parse|load"
    refused = nullcontext() if known else pytest.raises(Exception, match=words)
    with refused, suppress(ModuleNotFoundError):
        mlflow.MlflowClient(uri)


@pytest.mark.parametrize(
    "uri", ["", "http://", "http:/x", "  http://a", "http://[a", "sqlite://", "sqlite:///:memory:"]
)
def test_what_mlflow_takes_and_cannot_use_is_refused_too(uri):
    """The empty address is a folder of MLflow's choice; one in memory is gone with the process that writes it."""
    assert not is_known(uri)


def test_a_wrong_kind_has_its_line(load):
    for uri in ("file:///srv/mlruns", "htp://a:5", ""):
        with pytest.raises(SweepError) as caught:
            load(SMALL + f'tracking:\n  uri: "{uri}"\n')
        (problem,) = caught.value.problems
        assert f"s.yaml:19: tracking.uri: saw '{uri}', expected the address of a store" in str(problem)


def started(run, sweep, monkeypatch, variable):
    """The store of a start with this value of the variable, and what is said of it."""
    monkeypatch.delenv(VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(VARIABLE, variable)
    store = open_run(run, sweep)
    return store, note(store, os.environ)


@pytest.mark.parametrize(
    ("first", "second", "expected", "said"),
    [
        (A, None, Store(A, ENVIRONMENT), "MLflow: http://a:5001, from $MLFLOW_TRACKING_URI at the first start"),
        (A, A, Store(A, ENVIRONMENT), "MLflow: http://a:5001, from $MLFLOW_TRACKING_URI"),
        (
            A,
            B,
            Store(A, ENVIRONMENT),
            "MLflow: http://a:5001, where this run began; $MLFLOW_TRACKING_URI = http://b:5002",
        ),
        (None, B, Store(None, RUN), "MLflow: SQLite inside the run folder, where this run began; $MLFLOW_TRACKING_URI"),
        (None, None, Store(None, RUN), ""),
    ],
)
def test_the_store_of_the_first_start_stays(load, tmp_path, monkeypatch, first, second, expected, said):
    run, sweep = RunFolder(tmp_path / "runs" / "small"), load(SMALL)
    assert started(run, sweep, monkeypatch, first)[0] == expected
    store, words = started(run, sweep, monkeypatch, second)
    assert store == expected == store_of_run(run, os.environ)
    assert words.startswith(said)
    assert bool(words) == bool(said)
    monkeypatch.chdir(tmp_path)
    assert _beside("small") == (expected.uri or f"sqlite:///{run.path / 'mlflow.db'}")  # where reports look


def test_the_file_names_a_store_at_any_start(load, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "small")
    assert started(run, load(SMALL), monkeypatch, A)[0] == Store(A, ENVIRONMENT)
    named = load(SMALL + f'tracking: {{uri: "{B}"}}\n')
    assert started(run, named, monkeypatch, A) == (Store(B, FILE), "")
    assert started(run, load(SMALL), monkeypatch, A)[0] == Store(
        A, ENVIRONMENT
    )  # not named any more: as at a first start


def test_a_run_folder_of_before_keeps_its_own_store(load, tmp_path, monkeypatch):
    run, sweep = RunFolder(tmp_path / "small"), load(SMALL)
    open_run(run, sweep)
    write_json(run.sweep_json, {key: value for key, value in read_json(run.sweep_json).items() if key != "store"})
    assert started(run, sweep, monkeypatch, A)[0] == Store(None, RUN)


def test_a_password_is_not_written_down_and_asked_for(load, tmp_path, monkeypatch):
    run, sweep = RunFolder(tmp_path / "small"), load(SMALL)
    uri = "postgresql://me:hun:ter2@db:5432/mlflow"
    assert started(run, sweep, monkeypatch, uri)[0].uri == uri
    assert "ter2" not in run.sweep_json.read_text()
    assert started(run, sweep, monkeypatch, uri.replace("hun:ter2", "changed"))[0].uri.count("changed") == 1
    for other in (None, uri.replace("db:", "elsewhere:")):
        with pytest.raises(RunFolderError, match=r"postgresql://me:\*\*\*@db:5432/mlflow: set \$MLFLOW_TRACKING_URI"):
            started(run, sweep, monkeypatch, other)


def test_a_variable_that_names_no_store_is_refused_and_an_empty_one_is_none():
    with pytest.raises(RunFolderError, match=r"\$MLFLOW_TRACKING_URI: saw 'file:x', expected the address"):
        choose(None, None, {VARIABLE: "file:x"})
    assert choose(None, None, {VARIABLE: ""}) == Store(None, RUN)


def test_a_database_beside_the_first_start_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert choose(None, None, {VARIABLE: "sqlite:///a.db"}).uri == f"sqlite:///{tmp_path}/a.db"


def test_what_only_looks_says_which_store_and_what_is_submitted_takes_it_along(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, A)
    sweep = load(SMALL)
    result = CliRunner().invoke(app, ["sweep", "s.yaml", "--dry-run"])
    assert f"MLflow: {A}, from ${VARIABLE}\n" in result.output
    assert Job(sweep, tmp_path).environment == {VARIABLE: A}
    assert Job(load(SMALL + f'tracking: {{uri: "{B}"}}\n'), tmp_path).environment == {}


def test_the_ui_sends_to_a_server(load, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "small")
    started(run, load(SMALL), monkeypatch, A)
    result = CliRunner().invoke(app, ["ui", str(run.path)])
    assert (result.exit_code, result.stderr) == (2, f"{run.path} is tracked at {A}: open that address\n")
    assert json.loads(run.sweep_json.read_text())["store"] == {"uri": A, "source": ENVIRONMENT}
