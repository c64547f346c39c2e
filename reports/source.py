"""A sweep read back from MLflow, as the mirror wrote it. The one file that imports mlflow to read."""

import math
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import shapes
from orchestrator.causes import Stage
from orchestrator.moved import bring_home
from orchestrator.runs import TRIAL_ID, Damage, Run, RunFolder, RunFolderError, checked, read_json, run_of
from orchestrator.stored import QUIET, RECORDED_TAG, STATUS_TAG, found_runs
from orchestrator.stores import VARIABLE, default_uri, plain, store_of_run, without_password
from reports.results import Results, results_of, shown_run, sweep_text

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFIX = "mlflow:"
WHOLE = ("samples",)  # metrics that are counts; MLflow keeps every value as a fraction
SAMPLES = re.compile(r"samples\+step\+([0-9]{1,15})\b.*\.png")  # pictures, as MLflow's page wants them named
CHUNK = 100  # runs in one question to a database
THREADS = 8  # questions at once to a server


def read_experiment(address: str, uri: str | None, scratch: Path) -> Results:
    """Everything that MLflow holds of a sweep; pictures are copied to `scratch`.

    `address` is the name of an experiment, with "/ID" behind it where several run folders share the name. `uri` is
    the tracking store; None for that of runs/<name>, or else $MLFLOW_TRACKING_URI. Raises RunFolderError where there is
    no such experiment.
    """
    os.environ.update(QUIET)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    name, _, wanted = address.partition("/")
    uri = uri or _beside(name)
    try:
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            known = ", ".join(sorted(one.name for one in client.search_experiments() if one.name != "Default"))
            raise RunFolderError(f"{uri}: no experiment {name!r}; it has: {known or 'none'}")
        parent = _parent(client, experiment.experiment_id, name, wanted)
        sweep = parent.data.tags["run_folder"]
        runs = list(_children(client, experiment.experiment_id, sweep))
        for path in ("sweep.json", "plan.json", "real.png", "baselines.json", "sweep.yaml"):
            _download(client, parent.info.run_id, path, scratch)
        recorded = read_json(scratch / "sweep.json") or {}
        plan = read_json(scratch / "plan.json", shapes.PLAN)
        results = results_of(recorded, _read(client, runs), scratch / "real.png", plan, f"{uri}, {name}")
        results = replace(results, baselines=RunFolder(scratch).read_baselines(), file=sweep_text(RunFolder(scratch)))
        return _with_samples(client, results, {run.data.tags["trial"]: run.info.run_id for run in runs}, scratch)
    except MlflowException as error:
        raise RunFolderError(f"{without_password(uri)}: {plain(error, uri)}") from error


def _beside(name: str) -> str:
    run, given = RunFolder(Path("runs") / name), os.environ.get(VARIABLE)
    if run.sweep_json.exists():
        store = store_of_run(run, os.environ)
        uri = store.uri or default_uri(run)
        if not store.served:
            bring_home(run, uri, own=not store.uri)
        return uri
    if not given:
        raise RunFolderError(f"mlflow:{name}: in which store? Set {VARIABLE} or --uri; there is no {run.path}")
    return given


def _parent(client: "MlflowClient", experiment: str, name: str, wanted: str) -> Any:
    """The parent run of the sweep; raises RunFolderError where there is none, or more than one to choose from."""
    runs = [run for run in found_runs(client, experiment, "tags.run_folder != ''") if "trial" not in run.data.tags]
    runs = [run for run in runs if run.data.tags["run_folder"].startswith(wanted)]
    if not runs:
        raise RunFolderError(f"experiment {name!r} holds no sweep {wanted}".rstrip())
    if len(runs) > 1:
        choices = ", ".join(f"mlflow:{name}/{run.data.tags['run_folder'][:8]}" for run in runs)
        raise RunFolderError(f"experiment {name!r} holds {len(runs)} sweeps; name one of: {choices}")
    return runs[0]


def _children(client: "MlflowClient", experiment: str, sweep: str) -> Iterator[Any]:
    for run in found_runs(client, experiment, f"tags.run_folder = '{sweep}'"):
        if TRIAL_ID.fullmatch(run.data.tags.get("trial", "")):
            yield run


def _read(client: "MlflowClient", runs: Sequence[Any]) -> list[Run]:
    """The runs in the order of `load_runs`."""
    histories: dict[str, dict[int, dict[str, Any]]] = {run.info.run_id: {} for run in runs}
    for key in sorted({key for run in runs for key in run.data.metrics}):
        having = [run.info.run_id for run in runs if key in run.data.metrics]
        for run_id, point in _points(client, having, key):
            record = histories[run_id].setdefault(point.step, {"step": point.step, "time": point.timestamp / 1000})
            record[key] = int(point.value) if key in WHOLE and math.isfinite(point.value) else point.value
    order = list(Stage)
    found = [_run(run, histories[run.info.run_id]) for run in runs]
    return sorted(found, key=lambda run: (run.arm, order.index(run.stage), run.number))


def _run(run: Any, history: dict[int, dict[str, Any]]) -> Run:
    tags = run.data.tags
    match = TRIAL_ID.fullmatch(tags["trial"])
    assert match is not None  # the mirror's own runs only
    config, status, metrics = (
        Path(f"MLflow run {run.info.run_id}", what) for what in (RECORDED_TAG, STATUS_TAG, "metrics")
    )
    read: dict[Path, dict[str, Any] | Damage | None] = {
        config: checked(tags[RECORDED_TAG], shapes.RECORDED, config) if RECORDED_TAG in tags else None,
        status: checked(tags.get(STATUS_TAG, "{}"), shapes.MIRRORED, status),
    }
    records = [history[step] for step in sorted(history)]
    wrong = {record["step"]: reason for record in records if (reason := shapes.wrong_record(record))}
    damage = Damage(metrics, next(iter(wrong.values()))) if wrong else None
    sound = [record for record in records if record["step"] not in wrong]
    return run_of(match, {**read, metrics: damage}, sound, Path())


def _points(client: "MlflowClient", run_ids: Sequence[str], key: str) -> Iterator[tuple[str, Any]]:
    """(run id, point) of one metric: in bulk from a database, run by run from a server."""
    bulk = getattr(client._tracking_client.store, "get_metric_history_bulk", None)
    if bulk is not None:
        for begin in range(0, len(run_ids), CHUNK):
            yield from ((one.run_id, one) for one in bulk(run_ids[begin : begin + CHUNK], key, 10**9))
        return
    with ThreadPoolExecutor(THREADS) as pool:
        for run_id, points in zip(
            run_ids, pool.map(lambda run: client.get_metric_history(run, key), run_ids), strict=True
        ):
            yield from ((run_id, point) for point in points)


def _with_samples(client: "MlflowClient", results: Results, run_ids: dict[str, str], scratch: Path) -> Results:
    """The results with the pictures of those runs that the page shows."""
    shown = {run.id for arm in results.arms if (run := shown_run(results, arm))}
    runs = []
    for run in results.runs:
        if run.id in shown:
            run = replace(run, folder=_samples(client, run_ids[run.id], scratch / run.id))
        runs.append(run)
    return replace(results, runs=runs)


def _samples(client: "MlflowClient", run_id: str, folder: Path) -> Path:
    """Copy a run's pictures into `folder` under the names they have in a run folder."""
    for file in client.list_artifacts(run_id, "images"):
        name = Path(file.path).name
        if found := SAMPLES.fullmatch(name):
            with tempfile.TemporaryDirectory() as temporary:
                fetched = Path(client.download_artifacts(run_id, file.path, temporary))
                (folder / "samples").mkdir(parents=True, exist_ok=True)
                (folder / "samples" / f"{int(found[1])}.png").write_bytes(fetched.read_bytes())
    return folder


def _download(client: "MlflowClient", run_id: str, path: str, scratch: Path) -> None:
    if any(file.path == path for file in client.list_artifacts(run_id)):
        client.download_artifacts(run_id, path, str(scratch))
