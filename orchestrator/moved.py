"""A run folder that was moved or copied: the store of its runs holds absolute addresses, which are rewritten here."""

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from orchestrator.runs import RunFolder, RunFolderError, read_json

ADDRESSES = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))


def home(run: RunFolder) -> str:
    """The address below which the artifacts of a run lie that a database keeps."""
    return (run.path.resolve() / "artifacts").as_uri()


def bring_home(run: RunFolder, uri: str, own: bool) -> int:
    """Let the artifacts of a sweep lie in its run folder, wherever it was when they were sent; how many were rewritten.

    `uri` is an MLflow database; `own` says that it lies in the run folder too, and so was copied with it. Nothing is
    done where there is no such store or experiment yet. Raises RunFolderError where the run folder is a copy of one
    that sends to the same store: neither could tell its runs from the other's.
    """
    from sqlalchemy import Engine, MetaData, Table, create_engine, func, inspect, literal, or_, select, update

    if own and not (run.path / "mlflow.db").exists():
        return 0
    engine: Engine = create_engine(uri)
    try:
        there = set(inspect(engine).get_table_names())
        if "experiments" not in there:  # it is being made
            return 0
        tables = {name: Table(name, MetaData(), autoload_with=engine) for name, _ in ADDRESSES if name in there}
        experiments, name = tables["experiments"], run.read_sweep()["name"]
        with engine.begin() as store:
            old = store.scalar(select(experiments.c.artifact_location).where(experiments.c.name == name))
            if old is None or old == home(run) or not old.endswith("/artifacts"):
                return 0
            if not own:
                _check_moved(run, old)
            changed = 0
            for table, key in ADDRESSES:
                if table in tables:
                    column = tables[table].c[key]
                    moved = literal(home(run)).concat(func.substr(column, len(old) + 1))
                    below = or_(column == old, func.substr(column, 1, len(old) + 1) == f"{old}/")
                    found = store.execute(update(tables[table]).where(below).values({key: moved}))
                    changed += found.rowcount
            return changed
    finally:
        engine.dispose()


def _check_moved(run: RunFolder, old: str) -> None:
    before = RunFolder(Path(url2pathname(urlsplit(old).path)).parent)
    recorded = read_json(before.sweep_json) or {}
    if recorded.get("id") == run.read_sweep()["id"]:
        raise RunFolderError(
            f"{run.path} is a copy of {before.path}, and both send to one MLflow store. Start the sweep under another "
            "name (name: in the sweep file), or remove one of the two folders."
        )
