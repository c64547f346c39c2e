"""How runs are written to MLflow: through its client, or many at once into the tables of a local SQLite store.

MLflow's client needs 20 ms of a core for one run, nearly all of it for looking up what it is about to write. Into a
store on this disk the rows go as they are, through MLflow's own models and in its own session. `tests/test_bulk.py`
compares every table, row for row, with what the client writes; so this way is taken for the version of MLflow that was
compared, and the client's for any other.
"""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

COMPARED = ("3.17.2",)  # the versions of MLflow whose client writes the very rows that `Bulk` writes
TOGETHER = 200  # trials in one transaction
BATCH = 800  # metrics in one request; MLflow's limit is 1,000 together with parameters and tags
PARAMS = 100  # of one run


@dataclass
class Parcel:
    """What a store lacks of one trial."""

    run_id: str  # "" as long as there is no run
    name: str
    started: int  # when the trial began, in milliseconds of unix time
    created: dict[str, str]  # tags of a new run
    metrics: list["Metric"] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)  # written after everything else
    status: str | None = None  # the new one in MLflow's words; None where it stays
    ended: int | None = None  # in milliseconds of unix time; None where the trial still runs


class Writer(Protocol):
    """A way to write parcels. Whatever was written before is harmless to write again."""

    together: int  # how many parcels are best written at once

    def write(self, experiment: str, parcels: Sequence[Parcel]) -> None:
        """Create the runs that are missing, whose ids the parcels then hold, and write everything but the status."""

    def end(self, parcels: Iterable[Parcel]) -> None:
        """Write the status of those runs whose status changes."""


class Requests:
    """The client's fewest calls: three for a trial that has ended, for any store."""

    together = 1

    def __init__(self, client: "MlflowClient") -> None:
        self.client = client

    def write(self, experiment: str, parcels: Sequence[Parcel]) -> None:
        from mlflow.entities import Param, RunTag

        for parcel in parcels:
            if not parcel.run_id:
                run = self.client.create_run(experiment, parcel.started, parcel.created, parcel.name)
                parcel.run_id = run.info.run_id
            for begin in range(BATCH, len(parcel.metrics), BATCH):
                self.client.log_batch(parcel.run_id, metrics=parcel.metrics[begin : begin + BATCH])
            # The note of what was sent goes last: cut off before it, everything is sent again, and stored once.
            self.client.log_batch(
                parcel.run_id,
                metrics=parcel.metrics[:BATCH],
                params=[Param(key, value) for key, value in list(parcel.params.items())[:PARAMS]],
                tags=[RunTag(key, value) for key, value in parcel.tags.items()],
            )

    def end(self, parcels: Iterable[Parcel]) -> None:
        for parcel in parcels:
            if parcel.status is not None and parcel.ended is None:
                self.client.update_run(parcel.run_id, parcel.status)
            elif parcel.status is not None:
                self.client.set_terminated(parcel.run_id, parcel.status, parcel.ended)


class Bulk:
    """All parcels in one transaction of a SQLite store of MLflow's."""

    together = TOGETHER

    def __init__(self, store: Any) -> None:
        self.store = store

    def write(self, experiment: str, parcels: Sequence[Parcel]) -> None:
        from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric, SqlParam, SqlRun, SqlTag
        from sqlalchemy.dialects.sqlite import insert

        found = self.store.get_experiment(experiment)
        self.store._check_experiment_is_active(found)
        ids = [parcel.run_id or uuid.uuid4().hex for parcel in parcels]
        with self.store.ManagedSessionMaker(read_only=False) as session:

            def add(model: Any, rows: list[dict[str, Any]], conflict: str = "raise") -> None:
                statement = insert(model.__table__)
                if conflict == "keep":
                    statement = statement.on_conflict_do_nothing()
                if conflict == "replace":
                    statement = statement.on_conflict_do_update(
                        index_elements=["key", "run_uuid"], set_={"value": statement.excluded.value}
                    )
                if rows:
                    session.execute(statement, rows)

            known = dict(zip(ids, parcels, strict=True))
            add(SqlRun, [run_row(id_, one, found) for id_, one in known.items() if not one.run_id])
            add(SqlParam, [row for id_, one in known.items() for row in param_rows(id_, one)], "keep")
            add(SqlMetric, [metric_row(id_, point) for id_, one in known.items() for point in one.metrics], "keep")
            add(SqlTag, [row for id_, one in known.items() for row in tag_rows(id_, one)], "replace")
            latest = [metric_row(id_, point) for id_, one in known.items() for point in newest(one.metrics)]
            if latest:
                session.execute(where_newer(insert(SqlLatestMetric.__table__)), latest)
            self._check_active(session, [one.run_id for one in parcels if one.run_id])
        for id_, parcel in known.items():
            parcel.run_id = id_

    def _check_active(self, session: Any, ids: list[str]) -> None:
        """Raise what the client raises where one of the runs was deleted meanwhile."""
        from mlflow.store.tracking.dbmodels.models import SqlRun

        if ids:
            there = {run.run_uuid: run for run in session.query(SqlRun).filter(SqlRun.run_uuid.in_(ids))}
            for id_ in ids:
                self.store._check_run_is_active(there.get(id_) or self.store._get_run(session, id_))

    def end(self, parcels: Iterable[Parcel]) -> None:
        from mlflow.store.tracking.dbmodels.models import SqlRun
        from sqlalchemy import bindparam, func, update

        runs = SqlRun.__table__
        rows = [{"id": one.run_id, "new": one.status, "ended": one.ended} for one in parcels if one.status is not None]
        if not rows:
            return
        with self.store.ManagedSessionMaker(read_only=False) as session:
            # A run that goes on keeps the end that it had, as MLflow's client leaves it.
            ended: Any = func.coalesce(bindparam("ended"), runs.c.end_time)
            changed = update(runs).where(runs.c.run_uuid == bindparam("id"))
            session.connection().execute(changed.values(status=bindparam("new"), end_time=ended), rows)
            self._check_active(session, [str(row["id"]) for row in rows])


def run_row(id_: str, parcel: Parcel, experiment: Any) -> dict[str, Any]:
    """The row of a new run, as `SqlAlchemyStore.create_run` writes it."""
    from mlflow.utils.uri import append_to_uri_path

    return {
        "run_uuid": id_,
        "name": parcel.name,
        "source_type": "UNKNOWN",
        "source_name": "",
        "entry_point_name": "",
        "source_version": "",
        "user_id": "unknown",
        "status": "RUNNING",
        "start_time": parcel.started,
        "end_time": None,
        "deleted_time": None,
        "lifecycle_stage": "active",
        "artifact_uri": append_to_uri_path(experiment.artifact_location, id_, "artifacts"),
        "experiment_id": int(experiment.experiment_id),
    }


def param_rows(id_: str, parcel: Parcel) -> Iterator[dict[str, Any]]:
    """Rows of the parameters, cut where MLflow cuts them."""
    from mlflow.utils.validation import _validate_param

    for key, value in list(parcel.params.items())[:PARAMS]:
        param = _validate_param(key, value)
        yield {"run_uuid": id_, "key": param.key, "value": param.value}


def tag_rows(id_: str, parcel: Parcel) -> Iterator[dict[str, Any]]:
    """Rows of the tags, with those of a run's creation where it is created now."""
    from mlflow.utils.validation import _validate_tag

    created = {} if parcel.run_id else {**parcel.created, "mlflow.runName": parcel.name}
    for key, value in (created | parcel.tags).items():
        tag = _validate_tag(key, value)
        yield {"run_uuid": id_, "key": tag.key, "value": tag.value}


def metric_row(id_: str, metric: "Metric") -> dict[str, Any]:
    """The row of one point of a curve. The mirror sends only finite numbers."""
    return {
        "run_uuid": id_,
        "key": metric.key,
        "value": metric.value,
        "timestamp": metric.timestamp,
        "step": metric.step,
        "is_nan": False,
    }


def newest(metrics: Sequence["Metric"]) -> Iterator["Metric"]:
    """The last point of each curve in MLflow's order: by step, then time, then value."""
    from mlflow.utils.validation import _validate_metric

    found: dict[str, Metric] = {}
    for metric in metrics:
        before = found.get(metric.key)
        if before is None:
            _validate_metric(metric.key, metric.value, metric.timestamp, metric.step)
        if before is None or _order(metric) > _order(before):
            found[metric.key] = metric
    yield from found.values()


def _order(metric: "Metric") -> tuple[int, int, float]:
    return metric.step, metric.timestamp, metric.value


def where_newer(statement: Any) -> Any:
    """An insertion into the table of last points that replaces only older ones."""
    from sqlalchemy import tuple_

    new, old = statement.excluded, statement.table.c
    columns = ("step", "timestamp", "value")
    later = tuple_(*(new[name] for name in columns)) > tuple_(*(old[name] for name in columns))
    changed = {name: new[name] for name in (*columns, "is_nan")}
    return statement.on_conflict_do_update(index_elements=[old.key, old.run_uuid], set_=changed, where=later)


def writer_for(client: "MlflowClient") -> Writer:
    """The fastest way to write to a client's store that is known to write what the client would."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.version import VERSION

    store = client._tracking_client.store
    if VERSION in COMPARED and type(store) is SqlAlchemyStore and store.db_type == "sqlite":
        return Bulk(store)
    return Requests(client)
