"""Rows written in bulk against those that MLflow's client writes: every table, row for row, also after being killed."""

import os
import shutil
import signal
import sqlite3

import numpy as np
import pytest
from sqlalchemy import event
from test_tracking import png

from orchestrator import bulk
from orchestrator.bulk import Bulk, Requests
from orchestrator.runs import FORMAT, RunFolder, load_runs, read_json, write_json
from orchestrator.stored import RECORDED_TAG
from orchestrator.tracking.mirror import Mirror

mlflow = pytest.importorskip("mlflow")


@pytest.fixture
def run(tmp_path, record_trial):
    """Trials of every state, with little and much to send, some of it longer than MLflow's limits."""
    folder = RunFolder(tmp_path / "study")
    search = {"trials": 9, "objective": {"metric": "fd_lite0", "direction": "minimize"}}
    sweep = {"arms": {"pixelcnn": {}, "pixeliqn": {}}, "search": search, "final": None, "tracking": {"uri": None}}
    folder.path.mkdir()
    head = {"format": FORMAT, "id": "0123", "name": "study", "created": 900.0, "finished": False}
    write_json(folder.sweep_json, {**head, "sweep": sweep})
    folder.sweep_yaml.write_text("name: study\n")
    record_trial(folder, "pixelcnn-search-0", steps=(2, 4, 6))
    record_trial(folder, "pixelcnn-search-1", state="pruned", steps=(2,), images=[(2, png(7, 5))])
    record_trial(folder, "pixelcnn-search-2", state="diverged", steps=(3, 5), message="é" * 9001)
    record_trial(folder, "pixelcnn-search-3", steps=range(1, 412))  # 822 points, which are two requests
    record_trial(folder, "pixeliqn-search-0", state="failed", cause="OSError", steps=())
    record_trial(folder, "pixeliqn-search-1", state="stopped", steps=(5,))
    final = record_trial(folder, "pixeliqn-final-0", state="running", steps=(2, 4), images=[(4, png(7, 9))])
    content = read_json(final.config)
    many = {"long": "x" * 7001} | {f"key{number:03}": number for number in range(113)}
    write_json(final.config, {**content, "source": 1, "config": content["config"] | {"more": many}})
    final.append_metrics([{"step": 5, "time": 1006.0, "loss": float("nan"), "fd_lite0": -np.inf}])
    return folder


def grow(run, record_trial):
    """What the next look finds: more of a trial that ran, a trial that began again, and two new ones."""
    run.trial("pixeliqn-final-0").append_metrics([{"step": 7, "time": 1007.5, "loss": 0.1, "fd_lite0": 7.0}])
    run.trial("pixeliqn-final-0").update_status(state="completed")
    run.trial("pixeliqn-search-1").append_metrics([{"step": 6, "time": 1001.0, "loss": 0.3, "kd_lite0": 0.25}])
    run.trial("pixeliqn-search-1").update_status(state="running")
    record_trial(run, "pixeliqn-search-2", steps=(3,))
    record_trial(run, "pixeliqn-search-3", state="running", steps=(1,))


class Stores:
    """Stores beside each other, each filled its own way from one run folder."""

    def __init__(self, run, new_store):
        self.run, self.new_store = run, new_store

    def path(self, name):
        return self.run.path.parent / f"{name}.db"

    def fill(self, name, writer):
        """One look of a new mirror that writes by `writer`, into a store that may have something in it."""
        if not self.path(name).exists():
            shutil.copy(self.new_store, self.path(name))
        mirror = Mirror(self.run, mlflow.MlflowClient(f"sqlite:///{self.path(name)}"))
        assert isinstance(mirror.writer, Bulk)
        if writer is Requests:
            mirror.writer = Requests(mirror.client)
        mirror.sync(load_runs(self.run.path))

    def rows(self, name):
        """Every row of every table but the times at which it was filled; runs under the names of their trials."""
        with sqlite3.connect(self.path(name)) as store:
            tables = [table for (table,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            names = dict(store.execute("SELECT run_uuid, name FROM runs"))
            assert len(set(names.values())) == len(names)

            def plain(value):
                for id_, trial in names.items() if isinstance(value, str) else ():
                    value = value.replace(id_, trial)
                return value

            found = {}
            for table in tables:
                columns = [row[1] for row in store.execute(f"PRAGMA table_info({table})")]
                kept = [name for name in columns if name not in ("creation_time", "last_update_time")]
                rows = store.execute(f"SELECT {', '.join(kept)} FROM {table}") if kept else ()
                found[table] = sorted((tuple(map(plain, row)) for row in rows), key=repr)
            return found


@pytest.fixture
def stores(run, new_store, monkeypatch):
    monkeypatch.setattr(Bulk, "together", 3)  # so that there are several transactions
    return Stores(run, new_store)


def check_equal(found, expected):
    assert found.keys() == expected.keys()
    for table, rows in expected.items():
        assert found[table] == rows, table
    assert {table for table, rows in found.items() if rows} >= {"runs", "tags", "params", "metrics", "latest_metrics"}


def test_every_table_is_what_the_client_writes(stores, run, record_trial):
    stores.fill("client", Requests)
    stores.fill("bulk", Bulk)
    expected = stores.rows("client")
    assert len(expected["runs"]) == 7 + 1  # and the parent
    assert max(len(value) for _, value, _ in expected["params"]) == 6000
    check_equal(stores.rows("bulk"), expected)
    shutil.copy(stores.path("client"), stores.path("mixed"))
    grow(run, record_trial)
    for name, writer in (("client", Requests), ("bulk", Bulk), ("mixed", Bulk), ("mixed", Requests)):
        stores.fill(name, writer)
    expected = stores.rows("client")
    assert len(expected["runs"]) == 9 + 1
    check_equal(stores.rows("bulk"), expected)
    check_equal(stores.rows("mixed"), expected)


def statements_until_killed(stores, name, count):
    """Fill a store in a process that is killed at its `count`-th statement that writes; whether it was."""
    child = os.fork()
    if child == 0:
        left = [count]

        def kill(connection, cursor, statement, *rest):
            left[0] -= statement.startswith(("INSERT", "UPDATE"))
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        from sqlalchemy.engine import Engine

        event.listen(Engine, "before_cursor_execute", kill)
        try:
            stores.fill(name, Bulk)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_killed_anywhere_nothing_is_missing_and_nothing_is_there_twice(stores):
    stores.fill("client", Requests)
    expected = stores.rows("client")
    shutil.copy(stores.new_store, stores.path("bulk"))
    count, killed = 2, 0
    while statements_until_killed(stores, "bulk", count):  # each time a little further than before
        killed, count = killed + 1, count + 1
    assert killed >= 5
    check_equal(stores.rows("bulk"), expected)


def test_a_run_that_was_deleted_meanwhile_is_refused_as_the_client_refuses_it(stores, run):
    stores.fill("bulk", Bulk)
    client = mlflow.MlflowClient(f"sqlite:///{stores.path('bulk')}")
    mirror = Mirror(run, client)
    client.delete_run(mirror.sent["pixeliqn-final-0"].run_id)
    before = stores.rows("bulk")
    run.trial("pixeliqn-final-0").append_metrics([{"step": 9, "time": 1009.0, "loss": 0.1}])
    for writer in (mirror.writer, Requests(client)):
        mirror.writer = writer
        with pytest.raises(mlflow.MlflowException, match="must be in the 'active' state"):
            mirror.sync(load_runs(run.path))
        check_equal(stores.rows("bulk"), before)


def test_another_version_and_a_server_are_left_to_the_client(stores, monkeypatch):
    stores.fill("bulk", Bulk)
    client = mlflow.MlflowClient(f"sqlite:///{stores.path('bulk')}")
    assert isinstance(bulk.writer_for(client), Bulk)
    assert isinstance(bulk.writer_for(mlflow.MlflowClient("http://127.0.0.1:1")), Requests)
    monkeypatch.setattr("mlflow.version.VERSION", "3.17.3")
    assert isinstance(bulk.writer_for(client), Requests)


def test_the_client_needs_three_calls_for_a_trial_that_has_ended(stores, run, monkeypatch):
    calls = []
    stores.fill("client", Requests)
    client = mlflow.MlflowClient(f"sqlite:///{stores.path('client')}")
    for name in ("create_run", "log_batch", "set_tag", "set_terminated", "update_run", "log_param", "log_metric"):
        real = getattr(client, name)
        monkeypatch.setattr(
            client, name, lambda *given, _name=name, _real=real, **named: calls.append(_name) or _real(*given, **named)
        )
    mirror = Mirror(run, client)
    mirror.writer = Requests(client)
    del mirror.sent["pixelcnn-search-0"]  # as if it were new
    calls.clear()
    mirror.sync(load_runs(run.path))
    assert calls == ["create_run", "log_batch", "set_terminated"]
    assert RECORDED_TAG in client.get_run(mirror.sent["pixelcnn-search-0"].run_id).data.tags
