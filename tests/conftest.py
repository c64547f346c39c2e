"""What several test files share: a trial recorded through the real writers, quiet libraries, a cache of their own."""

import os
import shutil

import pytest
from run_folders import build_run_folder

from orchestrator.document import SweepError
from orchestrator.runs import FORMAT, RunFolder, write_bytes, write_json
from orchestrator.sweep import load_sweep

# Before anything imports ray or mlflow: nothing phones home from a test either.
os.environ.update(RAY_USAGE_STATS_ENABLED="0", MLFLOW_DISABLE_TELEMETRY="true")
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # nor does a server start workers that nobody asks for
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("MLFLOW_TRACKING_URI", None)  # no test sends anything to the user's own server


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """Reference statistics of the tests stay out of the user's cache."""
    os.environ["AIQN_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def pytest_collection_modifyitems(items):
    """The longest files first, so that no process of the tests is left alone with one of them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def new_store(tmp_path_factory):
    """A store of MLflow with its tables and nothing else, to be copied: to make one takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def with_store(new_store):
    """Gives a run folder a store without any experiment."""

    def with_store(run: RunFolder) -> RunFolder:
        run.path.mkdir(parents=True, exist_ok=True)
        shutil.copy(new_store, run.path / "mlflow.db")
        return run

    return with_store


@pytest.fixture
def record_trial():
    """Writes a trial as its process would."""

    def write(run: RunFolder, trial: str, state: str = "completed", steps=(2, 4), images=(), **status):
        folder = run.trial(trial)
        folder.path.mkdir(parents=True)
        arm = trial.split("-", maxsplit=1)[0]
        config = {
            "model": {"name": arm},
            "optimizer": {"name": "adam", "lr": 0.1},
            "train": {"steps": max(steps, default=4)},
        }
        provenance = {"config_hash": "abc", "git": {"commit": "f00", "dirty": False}, "versions": {}, "device": "CPU"}
        content = {"format": FORMAT, "config": config, "params": {"optimizer.lr": 0.1}, "seed": 5, "source": None}
        write_json(folder.config, {**content, "provenance": provenance})
        folder.append_metrics(
            [{"step": step, "time": 1000.0 + step, "loss": 1 / step, "fd_lite0": 100 / step} for step in steps]
        )
        for step, png in images:
            write_bytes(folder.samples(step), png)
        folder.update_status(state=state, attempts=1, started=1000.0, **status)
        return folder

    return write


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The run folder of a finished sweep with its report, for tests that only read it."""
    from reports.html import write_report

    folder = build_run_folder(tmp_path_factory.mktemp("runs") / "quickstart")
    write_report(folder.path)
    return folder


@pytest.fixture(scope="session")
def few_undisturbed(tmp_path_factory):
    """The numbers of a sweep of five trials for each arm that nobody disturbed, as the chaos tests have it."""
    from chaos import Driver, folder_of, sweep_text
    from measured import numbers

    folder = tmp_path_factory.mktemp("undisturbed")
    with Driver(folder, sweep_text(trials=5, final="")) as driver:
        driver.finish()
    return numbers(folder_of(folder))


@pytest.fixture
def folder(tmp_path):
    """A run folder of its own for tests that change it."""
    return build_run_folder(tmp_path / "quickstart")


@pytest.fixture
def load(tmp_path):
    def load(text, overrides=(), environ=None, **options):
        path = tmp_path / "s.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_sweep(path, overrides, environ or {}, **options)

    return load


@pytest.fixture
def mistakes(load, tmp_path):
    def mistakes(text, overrides=(), environ=None):
        with pytest.raises(SweepError) as caught:
            load(text, overrides, environ)
        assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
        return [line.removeprefix(f"{tmp_path}/") for line in str(caught.value).splitlines()]

    return mistakes
