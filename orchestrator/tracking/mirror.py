"""The MLflow mirror: what a run folder holds, sent to a store. The only writer."""

import math
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiqn_core.config import dotted
from orchestrator.bulk import Parcel, writer_for
from orchestrator.moved import home
from orchestrator.runs import Run, RunFolder, read_json
from orchestrator.stored import (
    ASIDE_TAG,
    MARK,
    PARENT,
    RECORDED_TAG,
    REPLACED_TAG,
    STATUS_TAG,
    deleted_runs,
    found_runs,
    recorded,
    told,
)
from orchestrator.stores import kept

if TYPE_CHECKING:
    from mlflow import MlflowClient

STATUS = {
    "running": "RUNNING",
    "completed": "FINISHED",
    "pruned": "FINISHED",
    "parked": "FINISHED",  # and RUNNING again, should it be promoted
    "diverged": "FAILED",
    "failed": "FAILED",
    "stopped": "KILLED",
}


@dataclass
class Sent:
    """What the store holds of one trial."""

    run_id: str
    records: int = 0
    state: str = ""
    status: str = "RUNNING"  # MLflow's
    images: set[int] = field(default_factory=set)
    described: bool = True  # whether its parameters are there
    config_hash: str = ""


class Mirror:
    """Sends the difference between a run folder and its MLflow experiment."""

    def __init__(self, run: RunFolder, client: "MlflowClient") -> None:
        self.run, self.client, self.writer = run, client, writer_for(client)
        self.sweep = run.read_sweep()
        self.experiment = self._experiment()
        self.sent: dict[str, Sent] = {}
        self.deleted: set[str] = set()  # the experiment's deleted runs, as far as they are known
        self.aside = mlflow_runs_aside(run)
        self.attached: dict[str, int] = {}  # files of the whole sweep, by the time of their last change when sent
        self.parent = ""
        for known in found_runs(client, self.experiment, f"tags.run_folder = '{self.sweep['id']}'"):
            self._take_up(known)
        self.gone = self._look_for_deleted() - self.sent.keys()  # trials whose runs somebody deleted: they stay so
        if not self.parent:
            self.parent = self._create_parent()
        else:
            self.client.update_run(self.parent, "RUNNING")

    def _take_up(self, known: Any) -> None:
        """Take note of a run in the store; of two for one trial (a lost answer to a request) the emptier one goes."""
        tags = known.data.tags
        if "trial" not in tags:
            self.parent = known.info.run_id
            return
        if (name := self.aside.get(known.info.run_id)) is not None:  # no longer of this sweep, for whoever asks for it
            self.client.set_tag(known.info.run_id, ASIDE_TAG, name)
            self.client.set_tag(known.info.run_id, "run_folder", f"{self.sweep['id']}/{name}")
            return
        records, described = int(tags.get("mirrored", 0)), bool(known.data.params)
        digest, state = tags.get("config_hash", ""), tags.get("state", "")
        if known.info.status == "RUNNING" and STATUS.get(state, "RUNNING") != "RUNNING":  # cut off while it was sent
            records, described = 0, False
        sent = Sent(known.info.run_id, records, state, known.info.status, described=described, config_hash=digest)
        other = self.sent.get(tags["trial"], sent)
        self.sent[tags["trial"]] = max(other, sent, key=lambda one: one.records)
        if other is not sent:
            self._replace(min(other, sent, key=lambda one: one.records))

    def _look_for_deleted(self) -> set[str]:
        """Take note of all deleted runs of the experiment; the trials of those that were not deleted by a mirror."""
        found = deleted_runs(self.client, self.experiment)
        self.deleted = {run.info.run_id for run in found}
        own = [run.data.tags for run in found if run.data.tags.get("run_folder") == self.sweep["id"]]
        return {tags["trial"] for tags in own if "trial" in tags and REPLACED_TAG not in tags}

    def _replace(self, sent: Sent) -> None:
        """Delete a run in whose place there is another."""
        self.client.set_tag(sent.run_id, REPLACED_TAG, "true")
        self.client.delete_run(sent.run_id)

    def is_behind(self, trial: str, records: int, state: str) -> bool:
        """Whether the store lacks something of a trial that has so many records and this state."""
        if trial in self.gone:
            return False
        sent = self.sent.get(trial)
        return sent is None or sent.records < records or (sent.state, sent.status) != (state, STATUS[state])

    def sync(self, runs: Iterable[Run]) -> None:
        """Bring the store up to date with the runs; raises whatever the store raises."""
        self._attach()
        behind = (run for run in runs if self.is_behind(run.id, len(run.history), run.state))
        while together := list(islice(behind, self.writer.together)):
            self._send(together)

    def _send(self, runs: list[Run]) -> None:
        parcels = [self._parcel(run) for run in runs]
        self.writer.write(self.experiment, parcels)
        for run, parcel in zip(runs, parcels, strict=True):
            sent = self.sent.setdefault(run.id, Sent(parcel.run_id, config_hash=run.provenance.get("config_hash", "")))
            self._send_images(run, sent)
        # The status goes last. A run that still runs, though its tags say that it has ended, is sent again from the
        # beginning (see `_take_up`); everything in it is stored once all the same.
        self.writer.end(parcels)
        for run in runs:
            sent = self.sent[run.id]
            sent.records, sent.state, sent.status = max(sent.records, len(run.history)), run.state, STATUS[run.state]
            sent.described = True

    def _parcel(self, run: Run) -> Parcel:
        """What the store lacks of a trial."""
        from mlflow.entities import Metric

        sent, digest = self.sent.get(run.id), run.provenance.get("config_hash", "")
        if sent is not None and sent.config_hash != digest:  # a final that is longer now, and may have begun anew
            self._replace(sent)
            del self.sent[run.id]
            sent = None
        metrics = [
            Metric(key, float(value), int((record.get("time") or 0) * 1000), record["step"])
            for record in run.history[sent.records if sent else 0 :]
            for key, value in record.items()
            if key not in ("step", "time") and isinstance(value, (int, float)) and math.isfinite(value)
        ]
        described = sent is not None and sent.described
        params = {} if described else {key: str(value) for key, value in dotted(run.config) if value is not None}
        status, note = STATUS[run.state], {"mirrored": str(len(run.history))}
        tags = {"state": run.state, "cause": run.cause or "", STATUS_TAG: told(run.status)}
        created = self._tags_of(run) | tags | (note if status != "RUNNING" else {})
        changed = status != (sent.status if sent else "RUNNING")
        return Parcel(
            sent.run_id if sent else "",
            run.id,
            milliseconds(run.status.get("started", time.time())),
            created,
            metrics,
            params,
            tags | note if sent else {key: value for key, value in note.items() if key not in created},
            status if changed else None,
            milliseconds(run.status.get("updated", time.time())) if status != "RUNNING" else None,
        )

    def _attach(self) -> None:
        """Attach the files of the whole sweep to the parent run, each when it has changed."""
        for path in attachments(self.run):
            if path.exists() and (changed := path.stat().st_mtime_ns) != self.attached.get(path.name):
                self.client.log_artifact(self.parent, str(path))
                self.attached[path.name] = changed

    def finish(self, mark: str = "") -> None:
        """Attach the report and the sweep's state to the parent run, whose description is the answer.

        No run stays RUNNING that nobody trains.
        """
        left, now = [sent for sent in self.sent.values() if sent.status == "RUNNING"], milliseconds(time.time())
        self.writer.end([Parcel(sent.run_id, "", 0, {}, status="KILLED", ended=now) for sent in left])
        for sent in left:
            sent.status = "KILLED"
        if self.run.report.is_dir():
            self.client.log_artifacts(self.parent, str(self.run.report), "report")
        if (answer := self.run.report / "answer.md").exists():
            self.client.set_tag(self.parent, "mlflow.note.content", answer.read_text())
        finished = bool(self.run.read_sweep().get("finished"))
        self._attach()
        self.client.set_terminated(self.parent, "FINISHED" if finished else "KILLED")
        self.client.set_tag(self.parent, MARK, mark)
        self._look_for_deleted()

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
            if sent.images:  # MLflow's own mark of a run with images, for which an earlier process may not have lived
                self.client.set_tag(sent.run_id, "mlflow.loggedImages", True)
        for step in new:
            if step not in sent.images:
                with Image.open(run.folder / "samples" / f"{step}.png") as image:
                    stamp = int(times[step] * 1000)
                    self.client.log_image(sent.run_id, image.copy(), key="samples", step=step, timestamp=stamp)
                sent.images.add(step)

    def _tags_of(self, run: Run) -> dict[str, str]:
        """The tags of a trial's run that never change."""
        git = run.provenance.get("git", {})
        own = {
            "arm": run.arm,
            "stage": run.stage,
            "trial": run.id,
            "seed": str(run.seed),
            "config_hash": run.provenance.get("config_hash", ""),
            "git_commit": git.get("commit") or "",
            "mlflow.parentRunId": self.parent,
            RECORDED_TAG: recorded(run),
        }
        source = {} if run.source is None else {"source": f"{run.arm}-search-{run.source}"}
        return self._common_tags() | own | source

    def _common_tags(self) -> dict[str, str]:
        """The tags of every run of the sweep."""
        return {"sweep": self.sweep["name"], "run_folder": self.sweep["id"], "mlflow.source.name": "aiqn sweep"}

    def _create_parent(self) -> str:
        tags, started = self._common_tags() | {"role": PARENT}, milliseconds(self.sweep["created"])
        run = self.client.create_run(self.experiment, started, tags, self.sweep["name"])
        run_id: str = run.info.run_id
        return run_id

    def _experiment(self) -> str:
        name, local = self.sweep["name"], not kept(self.sweep).served
        known = self.client.get_experiment_by_name(name)
        if known is not None:
            if known.lifecycle_stage == "deleted":
                self._restore(known.experiment_id)
            return known.experiment_id
        location = home(self.run) if local else None  # a database alone would take the folder it is written from
        # The kind opens MLflow's page of training runs rather than that of language models.
        return self.client.create_experiment(
            name, artifact_location=location, tags={"mlflow.experimentKind": "custom_model_development"}
        )

    def _restore(self, experiment: str) -> None:
        """Restore an experiment; runs that had been deleted before it, which MLflow restores too, are deleted again."""
        before = set((read_json(self.run.mirror) or {}).get("deleted", []))
        replaced = {run.info.run_id for run in deleted_runs(self.client, experiment) if REPLACED_TAG in run.data.tags}
        self.client.restore_experiment(experiment)
        for run in sorted(before | replaced):
            with suppress(Exception):  # gone for good, or deleted still
                self.client.delete_run(run)


def mlflow_runs_aside(run: RunFolder) -> dict[str, str]:
    """MLflow's run of each trial that was put aside -> the name of the folder that it lies in."""
    return {
        mlflow_run: folder.name
        for folder in sorted(run.aside.glob("*"))
        for mlflow_run in ((read_json(RunFolder(folder).mlflow) or {}).get("runs") or {}).values()
    }


def milliseconds(seconds: float) -> int:
    """Of unix time, as MLflow counts it."""
    return int(seconds * 1000)


def attachments(run: RunFolder) -> tuple[Path, ...]:
    """The files of the whole sweep that the parent run holds."""
    return (run.sweep_yaml, run.sweep_json, run.plan, run.real, run.baselines)


def sent_as_files(run: RunFolder) -> tuple[Path, ...]:
    """The files whose changes say that there is something to send beside the trials."""
    return (*attachments(run), run.report / "index.html")
