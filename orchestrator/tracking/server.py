"""MLflow's own pages on the store of a run: `aiqn ui`."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlencode

from orchestrator.lifeline import answers
from orchestrator.moved import bring_home
from orchestrator.runs import RunFolder, RunFolderError, objectives, read_json
from orchestrator.stored import QUIET
from orchestrator.stores import default_uri, plain, store_of_run, without_password
from orchestrator.tracking.process import opened

ANSWER_SECONDS = 1.0  # in which a server on this machine answers


def serve(run_folder: Path | str, host: str, port: int) -> None:
    """Serve the MLflow UI on a run's own store until interrupted; raises RunFolderError where it has none."""
    run = RunFolder(Path(run_folder))
    store = store_of_run(run, os.environ)
    if store.served:
        raise RunFolderError(f"{run.path} is tracked at {store.uri}: open that address")
    uri = store.uri or default_uri(run)
    os.environ.update(QUIET)
    try:
        opened(run, uri)
        bring_home(run, uri, own=not store.uri)
    except RunFolderError:
        raise
    except Exception as reason:
        raise RunFolderError(f"{without_password(uri)}: {plain(reason, uri)}") from reason
    if answers(f"{host}:{port}", ANSWER_SECONDS):
        raise RunFolderError(f"{host}:{port} is taken by another program: name another --port")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--workers", "1"]
    with ending_with_us([*command, "--host", host, "--port", str(port)]) as server:
        while server.poll() is None and not answers(f"{host}:{port}", ANSWER_SECONDS):
            time.sleep(0.1)
        if server.poll() is None:
            print(f"the trials, best first: {address(run, host, port)}", flush=True)
        if code := server.wait():
            raise RunFolderError(f"MLflow's server has ended with code {code}; what it said stands above")


# Ends a group of processes once its standard input closes, which it does however its writer ends.
GUARD = "import os, signal, sys; sys.stdin.read(); os.killpg(int(sys.argv[1]), signal.SIGKILL)"


@contextmanager
def ending_with_us(command: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command that starts processes of its own; all of them end with the block, and with this process.

    What it prints goes to standard error: standard output is ours.
    """
    server = subprocess.Popen(command, start_new_session=True, stdout=2)
    watch = [sys.executable, "-c", GUARD, str(server.pid)]
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(watch, stdin=subprocess.PIPE, stderr=nowhere, start_new_session=True) as guard:
        try:
            yield server
        except KeyboardInterrupt:
            pass
        finally:
            assert guard.stdin is not None
            guard.stdin.close()


def address(run: RunFolder, host: str, port: int) -> str:
    """The page of MLflow's UI that charts the trials of a run, best first.

    Sorted by a metric, since MLflow folds children into their parent, which has no charts, in any other order.
    """
    experiment = (read_json(run.mirror) or {}).get("experiment") or "0"
    objective = objectives(run.read_sweep()["sweep"])[0]
    query = {
        "searchFilter": "tags.stage = 'search' and tags.state = 'completed'",
        "orderByKey": f"metrics.`{objective['metric']}`",
        "orderByAsc": str(objective["direction"] == "minimize").lower(),
        "compareRunsMode": "CHART",
    }
    return f"http://{host}:{port}/#/experiments/{experiment}/runs?{urlencode(query, quote_via=quote)}"
