"""The MLflow mirror: a process beside the driver that reads the run folder and sends what is new. The only writer.

Sending again is harmless: every point keeps the time it was measured at, runs are found again by their tags, and a
server that is away is waited for. Nothing here can reach, slow or stop a trial.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from aiqn_core.config import dotted
from orchestrator.runs import Run, RunFolder, RunFolderError, load_runs, read_json, write_json

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH = 1000  # metrics in one request, MLflow's limit
# What a report needs besides metrics, as JSON. MLflow's pages hide tags that begin with "mlflow."
RECORDED_TAG = "mlflow.aiqn.recorded"  # config.json
STATUS_TAG = "mlflow.aiqn.status"  # status.json
LONGEST_TAG = 8000  # MLflow's limit; it cuts what is longer in silence
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60.0  # how long the end of a sweep waits for a server that is away
STATUS = {
    "running": "RUNNING",
    "completed": "FINISHED",
    "pruned": "FINISHED",
    "diverged": "FAILED",
    "failed": "FAILED",
    "stopped": "KILLED",
}
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def default_uri(run: RunFolder) -> str:
    """The tracking store used where the sweep file names none: SQLite inside the run folder."""
    return f"sqlite:///{run.path.resolve() / 'mlflow.db'}"


@dataclass
class Sent:
    """What the store holds of one trial."""

    run_id: str
    records: int = 0
    state: str = ""
    images: set[int] = field(default_factory=set)


class Mirror:
    """Sends the difference between a run folder and its MLflow experiment."""

    def __init__(self, run: RunFolder, client: "MlflowClient") -> None:
        self.run, self.client = run, client
        self.sweep = run.read_sweep()
        self.experiment = self._experiment()
        self.sent: dict[str, Sent] = {}
        self.attached: dict[str, bytes] = {}  # files of the whole sweep, as they were sent
        self.parent = ""
        for known in self._known_runs():
            tags = known.data.tags
            if "trial" in tags:
                self.sent[tags["trial"]] = Sent(known.info.run_id, int(tags.get("mirrored", 0)), tags.get("state", ""))
            else:
                self.parent = known.info.run_id
        if not self.parent:
            self.parent = self._create_run(self.sweep["name"], self.sweep["created"], {})

    def sync(self, runs: list[Run]) -> None:
        """Bring the store up to date with the runs; raises whatever the store raises."""
        self._attach()
        for run in runs:
            sent = self.sent.get(run.id)
            if sent is None:
                sent = self.sent[run.id] = Sent(self._create_child(run))
            self._send(run, sent)

    def _attach(self) -> None:
        """Attach the files of the whole sweep to the parent run, each when it has changed."""
        for path in (self.run.sweep_yaml, self.run.sweep_json, self.run.plan, self.run.real):
            if path.exists() and (content := path.read_bytes()) != self.attached.get(path.name):
                self.client.log_artifact(self.parent, str(path))
                self.attached[path.name] = content

    def finish(self) -> None:
        """Attach the report and the sweep's state to the parent run, whose description is the answer."""
        self._attach()
        if self.run.report.is_dir():
            self.client.log_artifacts(self.parent, str(self.run.report), "report")
        if (answer := self.run.report / "answer.md").exists():
            self.client.set_tag(self.parent, "mlflow.note.content", answer.read_text())
        finished = bool(self.run.read_sweep().get("finished"))
        self.client.set_terminated(self.parent, "FINISHED" if finished else "KILLED")

    def _send(self, run: Run, sent: Sent) -> None:
        from mlflow.entities import Metric, RunTag

        if run.state == sent.state and len(run.history) == sent.records:
            return
        metrics = [
            Metric(key, float(value), int(record["time"] * 1000), record["step"])
            for record in run.history[sent.records :]
            for key, value in record.items()
            if key not in ("step", "time") and isinstance(value, (int, float)) and math.isfinite(value)
        ]
        for begin in range(0, len(metrics), BATCH):
            self.client.log_batch(sent.run_id, metrics=metrics[begin : begin + BATCH])
        self._send_images(run, sent)
        tags = {"mirrored": len(run.history), "state": run.state, "cause": run.cause or ""}
        tags |= {STATUS_TAG: json.dumps(run.status)[:LONGEST_TAG]}
        self.client.log_batch(sent.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])
        if run.state != sent.state:
            ended = run.status.get("updated", time.time())
            if run.state == "running":
                self.client.update_run(sent.run_id, STATUS[run.state])
            else:
                self.client.set_terminated(sent.run_id, STATUS[run.state], int(ended * 1000))
        sent.records, sent.state = len(run.history), run.state

    def _send_images(self, run: Run, sent: Sent) -> None:
        from PIL import Image

        times = {record["step"]: record["time"] for record in run.history}
        steps = {int(path.stem) for path in (run.folder / "samples").glob("*.png") if path.stem.isdigit()}
        new = sorted((steps & times.keys()) - sent.images)
        if not new:
            return
        if not sent.images:  # this process has sent none: an earlier one may have
            names = [Path(file.path).name for file in self.client.list_artifacts(sent.run_id, "images")]
            sent.images = {int(name.split("+")[2]) for name in names if name.startswith("samples+step+")}
        for step in new:
            if step not in sent.images:
                with Image.open(run.folder / "samples" / f"{step}.png") as image:
                    stamp = int(times[step] * 1000)
                    self.client.log_image(sent.run_id, image.copy(), key="samples", step=step, timestamp=stamp)
                sent.images.add(step)

    def _create_child(self, run: Run) -> str:
        from mlflow.entities import Param

        git = run.provenance.get("git", {})
        tags = {
            "arm": run.arm,
            "stage": run.stage,
            "trial": run.id,
            "seed": str(run.seed),
            "config_hash": run.provenance.get("config_hash", ""),
            "git_commit": git.get("commit") or "",
            "mlflow.parentRunId": self.parent,
            RECORDED_TAG: recorded(run),
        } | ({} if run.source is None else {"source": f"{run.arm}-search-{run.source}"})
        run_id = self._create_run(run.id, run.status.get("started", time.time()), tags)
        params = [Param(key, str(value)) for key, value in dotted(run.config) if value is not None]
        self.client.log_batch(run_id, params=params[:100])
        return run_id

    def _create_run(self, name: str, started: float, tags: dict[str, str]) -> str:
        common = {"sweep": self.sweep["name"], "run_folder": self.sweep["id"], "mlflow.source.name": "aiqn sweep"}
        return self.client.create_run(
            self.experiment, start_time=int(started * 1000), tags=common | tags, run_name=name
        ).info.run_id

    def _experiment(self) -> str:
        name = self.sweep["name"]
        known = self.client.get_experiment_by_name(name)
        if known is not None:
            return known.experiment_id
        local = not self.sweep["sweep"]["tracking"]["uri"]
        location = (self.run.path.resolve() / "artifacts").as_uri() if local else None
        # The kind opens MLflow's page of training runs rather than that of language models.
        return self.client.create_experiment(
            name, artifact_location=location, tags={"mlflow.experimentKind": "custom_model_development"}
        )

    def _known_runs(self) -> Iterator[Any]:
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment], f"tags.run_folder = '{self.sweep['id']}'", max_results=1000, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return


def recorded(run: Run) -> str:
    """What config.json holds, as JSON; without the configuration where that is too long for a tag."""
    content = {
        "config": run.config,
        "params": run.params,
        "seed": run.seed,
        "source": run.source,
        "provenance": run.provenance,
    }
    text = json.dumps(content)
    return text if len(text) <= LONGEST_TAG else json.dumps({**content, "config": {}})


def mirror(run: RunFolder, uri: str, last_round: threading.Event) -> bool:
    """Keep the store up to date until `last_round` is set and everything is sent; False where patience ended first."""
    from mlflow import MlflowClient

    target: Mirror | None = None
    deadline = math.inf
    while True:
        last = last_round.is_set()  # read before the folder, so that nothing written before it is missed
        if last and deadline == math.inf:
            deadline = time.monotonic() + PATIENCE_SECONDS
        error = ""
        runs = load_runs(run.path)
        try:
            target = target or Mirror(run, MlflowClient(uri))
            target.sync(runs)
            if last:
                target.finish()
        except Exception as reason:  # whatever a store or the way to it may raise: wait, and try again
            error = f"{type(reason).__name__}: {reason}".splitlines()[0][:500]
        write_state(run, uri, runs, target, error)
        if last and (not error or time.monotonic() > deadline):
            return not error
        last_round.wait(POLL_SECONDS if not error else 5 * POLL_SECONDS)


def write_state(run: RunFolder, uri: str, runs: list[Run], target: Mirror | None, error: str) -> None:
    """Record what was sent, for `aiqn status` and the ledger."""
    sent = target.sent if target else {}
    behind = sum(len(item.history) - (sent[item.id].records if item.id in sent else 0) for item in runs)
    state = {
        "uri": uri,
        "error": error or None,
        "records_behind": behind,
        "experiment": target.experiment if target else None,
        "parent": target.parent if target else None,
        "runs": {trial: item.run_id for trial, item in sent.items()},
    }
    if state != {key: value for key, value in (read_json(run.mirror) or {}).items() if key != "updated"}:
        write_json(run.mirror, {**state, "updated": time.time()})


@contextmanager
def mirroring(run: RunFolder, uri: str | None) -> Iterator[None]:
    """Run the mirror as a process of its own while the block runs, then let it catch up.

    The mirror ends when its standard input closes, so it also ends, with everything sent, when the driver is killed.
    """
    command = [sys.executable, "-m", "orchestrator.tracking", str(run.path), "--uri", uri or default_uri(run)]
    with (run.path / "mirror.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env={**os.environ, **QUIET}, start_new_session=True
        )
    try:
        yield
    finally:
        if process.stdin:
            process.stdin.close()
        try:
            process.wait(2 * PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def serve(run_folder: Path | str, host: str, port: int) -> None:
    """Serve the MLflow UI on a run's own store until interrupted; raises RunFolderError where it has none."""
    run = RunFolder(Path(run_folder))
    uri = run.read_sweep()["sweep"]["tracking"]["uri"]
    if uri:
        raise RunFolderError(f"{run.path} is tracked at {uri}: open that address")
    print(f"the trials, best first: {address(run, host, port)}", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", default_uri(run)]
    subprocess.run([*command, "--host", host, "--port", str(port)], env={**os.environ, **QUIET}, check=False)


def address(run: RunFolder, host: str, port: int) -> str:
    """The page of MLflow's UI that charts the trials of a run, best first.

    Sorted by a metric, since MLflow folds children into their parent, which has no charts, in any other order.
    """
    experiment = (read_json(run.mirror) or {}).get("experiment") or "0"
    objective = run.read_sweep()["sweep"]["search"]["objective"]
    query = {
        "searchFilter": "tags.stage = 'search'",
        "orderByKey": f"metrics.`{objective['metric']}`",
        "orderByAsc": str(objective["direction"] == "minimize").lower(),
        "compareRunsMode": "CHART",
    }
    return f"http://{host}:{port}/#/experiments/{experiment}/runs?{urlencode(query, quote_via=quote)}"


def main() -> None:
    """The mirror process: `python -m orchestrator.tracking RUN --uri URI`, until standard input closes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--uri", required=True)
    arguments = parser.parse_args()
    os.environ.update(QUIET)
    closed = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.buffer.read()
        closed.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    sys.exit(0 if mirror(RunFolder(arguments.run), arguments.uri, closed) else 1)


if __name__ == "__main__":
    main()
