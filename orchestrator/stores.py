"""Which MLflow store a run is mirrored to: named by the file, else as the run began, else $MLFLOW_TRACKING_URI.

Standard library only. What was chosen stands in sweep.json (`store`), so that every later start, `aiqn ui` and reports
find the same store, whatever the variable holds by then; a password is not written down.
"""

import re
import shlex
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from orchestrator.runs import RunFolder, RunFolderError

VARIABLE = "MLFLOW_TRACKING_URI"
FILE, ENVIRONMENT, RUN = "file", "environment", "run folder"  # who named a store
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
EXPECTED = (
    "the address of a store that MLflow writes to: http://HOST:PORT, https://..., sqlite:///PATH, postgresql://...,"
    " mysql://..., mssql://... or databricks (MLflow has given up folders; null is SQLite inside the run folder)"
)
OUTDATED = "out-of-date database schema"  # in MLflow's own message


class Store(NamedTuple):
    """A store's address (None: SQLite inside the run folder), and who named it."""

    uri: str | None
    source: str

    @property
    def served(self) -> bool:
        """Whether somebody else serves MLflow's pages at this address."""
        return self.uri is not None and _kind(self.uri) not in DATABASES

    def recorded(self) -> dict[str, Any]:
        """For sweep.json."""
        return {"uri": self.uri and without_password(self.uri), "source": self.source}


def _kind(uri: str) -> str:
    return uri.partition(":")[0].partition("+")[0]


def is_known(uri: str) -> bool:
    """Whether MLflow takes an address of this kind (3.17.2, and the plugins that are installed)."""
    kind, rest = _kind(uri), uri.partition(":")[2]
    if kind in ("http", "https"):
        try:
            return bool(urlsplit(uri).hostname) and not re.search(r"\s", uri)
        except ValueError:
            return False
    if kind in DATABASES:
        return rest.startswith("//") and rest not in ("//", "///") and ":memory:" not in rest
    return uri == "databricks" or uri.startswith("databricks://") or kind in _plugins()


def _plugins() -> set[str]:
    return {point.name for point in entry_points(group="mlflow.tracking_store")}


def choose(named: str | None, before: Mapping[str, Any] | None, environ: Mapping[str, str]) -> Store:
    """The store of a start: `named` is the file's tracking.uri, `before` the run folder's sweep.json (None: none yet).

    Raises RunFolderError where the variable names no store, or a password is missing.
    """
    if named is not None:
        return Store(named, FILE)
    if before is not None and (known := kept(before)).source != FILE:
        return _with_password(known, environ)
    if not (uri := environ.get(VARIABLE)):
        return Store(None, RUN)
    if not is_known(uri):
        raise RunFolderError(f"${VARIABLE}: saw {uri!r}, expected {EXPECTED}; change it, unset it, or say tracking.uri")
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):  # from the root: later starts are elsewhere
        uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).resolve()}"
    return Store(uri, ENVIRONMENT)


def kept(content: Mapping[str, Any]) -> Store:
    """The store that a sweep.json names; an earlier version kept only that of the file."""
    if (store := content.get("store")) is not None:
        return Store(store["uri"], store["source"])
    uri = _named(content)
    return Store(uri, FILE if uri else RUN)


def _named(content: Mapping[str, Any]) -> str | None:
    """The address that the sweep file of a sweep.json names."""
    uri: str | None = (content["sweep"].get("tracking") or {}).get("uri")
    return uri


def store_of_run(run: RunFolder, environ: Mapping[str, str]) -> Store:
    """The store of a run folder; raises RunFolderError where it has none, or where the password is missing."""
    content = run.read_sweep()
    return choose(_named(content), content, environ)


HIDDEN = "***"


def without_password(uri: str) -> str:
    """The address with three stars in place of its password."""
    return re.sub(r"(?<=://)([^/@:]*):[^/@]*@", rf"\1:{HIDDEN}@", uri)


def _with_password(store: Store, environ: Mapping[str, str]) -> Store:
    given = environ.get(VARIABLE) or ""
    if store.uri is None or f":{HIDDEN}@" not in store.uri:
        return store
    if without_password(given) != store.uri:
        raise RunFolderError(f"this run is kept in {store.uri}: set ${VARIABLE} to it, with its password")
    return Store(given, store.source)


def note(store: Store, environ: Mapping[str, str]) -> str:
    """What is to be said of the store where the variable decided, or is not followed; else ""."""
    given = environ.get(VARIABLE) or ""
    where = without_password(store.uri) if store.uri else "SQLite inside the run folder"
    if store.source == FILE:
        return ""
    if store.source == ENVIRONMENT and (not given or store == choose(None, None, {VARIABLE: given})):
        return f"MLflow: {where}, from ${VARIABLE}" + ("" if given else " at the first start")
    if given:
        return (
            f"MLflow: {where}, where this run began; ${VARIABLE} = {without_password(given)} is not followed"
            " (tracking.uri would move it)"
        )
    return ""


def plain(reason: Exception, uri: str) -> str:
    """What a store raised, in one line; where it is of an older MLflow, the command that upgrades it."""
    if OUTDATED in str(reason):
        address = shlex.quote(without_password(uri))
        return (
            f"this store is of another MLflow than the one installed; back it up, then run: mlflow db upgrade {address}"
        )
    return f"{type(reason).__name__}: {reason}".splitlines()[0][:500]


def default_uri(run: RunFolder) -> str:
    """The tracking store used where the sweep file names none: SQLite inside the run folder."""
    path = str(run.path.resolve() / "mlflow.db")
    if "%" not in path and "?" not in path:
        return f"sqlite:///{path}"
    # SQLAlchemy reads the path as part of a URL; where no driver is named, MLflow makes a folder of the quoted name.
    return f"sqlite+pysqlite:///{quote(path)}"


def database(run: RunFolder, uri: str) -> Path | None:
    """The file of a store of SQLite; None for a server or another database."""
    if uri == default_uri(run):
        return run.path / "mlflow.db"
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
