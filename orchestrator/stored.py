"""How a trial stands in MLflow, known to the mirror that writes it and to the report that reads it."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.runs import Run

if TYPE_CHECKING:
    from mlflow import MlflowClient

# What a report needs besides metrics, as JSON. MLflow's pages hide tags that begin with "mlflow."
RECORDED_TAG = "mlflow.aiqn.recorded"  # config.json
STATUS_TAG = "mlflow.aiqn.status"  # status.json
REPLACED_TAG = "mlflow.aiqn.replaced"  # of a run that the mirror deleted because there is another in its place
ASIDE_TAG = "aside"  # of a run whose trial was put aside, with the name of its folder in RUN/aside
LONGEST_TAG = 8000  # MLflow's limit; it cuts what is longer in silence
PARENT, MARK = "sweep", "mirrored_all"  # the parent run's tag `role`, and the tag that names what the store holds
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a request that is sent twice may create two runs
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # of a server that we start: five processes for judges of texts
}


def found_runs(client: "MlflowClient", experiment: str, where: str, view: int = 1) -> Iterator[Any]:
    """Every run of an experiment that a filter finds, page by page; `view` is MLflow's, 1 for those not deleted."""
    token = None
    while True:
        page = client.search_runs([experiment], where, view, 1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def deleted_runs(client: "MlflowClient", experiment: str) -> list[Any]:
    """Every deleted run of an experiment."""
    from mlflow.entities import ViewType

    return list(found_runs(client, experiment, "", ViewType.DELETED_ONLY))


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


def told(status: Mapping[str, Any]) -> str:
    """What status.json holds, as JSON; with less of its message and causes where that is too long for a tag."""
    text = json.dumps(status)
    if len(text) <= LONGEST_TAG:
        return text
    return json.dumps({**status, "message": str(status.get("message"))[:600], "causes": status.get("causes", [])[-9:]})
