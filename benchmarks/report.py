"""The report of 1,000 runs with 30 evaluations each, from the run folder and from MLflow.

python benchmarks/report.py [--json FILE]          a few minutes, most of them to fill MLflow's store
"""

import tempfile
from pathlib import Path

import numpy as np
from measure import Row, publish, seconds

from orchestrator.runs import FORMAT, RunFolder, load_runs, trial_id, write_json
from reports.html import write_report

ARMS, RUNS, EVALUATIONS, STEPS = ("pixelcnn", "pixeliqn"), 500, 30, 600


def build(folder: RunFolder) -> None:
    """A run folder as a finished sweep leaves it: 500 search trials of each arm, finals of the best with 3 seeds."""
    random = np.random.RandomState(0)
    folder.path.mkdir(parents=True)
    search = {"trials": RUNS, "objective": {"metric": "fd_lite0", "direction": "minimize"}}
    final = {"top": 1, "seeds": [0, 1, 2]}
    sweep = {"arms": {arm: {} for arm in ARMS}, "search": search, "final": final, "tracking": {"uri": None}}
    about = {
        "name": "study",
        "question": "Which?",
        "command": "aiqn sweep study.yaml",
        "created": 1.7e9,
        "id": "0" * 32,
    }
    write_json(folder.sweep_json, {"format": FORMAT, **about, "finished": True, "sweep": sweep})
    for arm in ARMS:
        for number in range(RUNS):
            write(folder, arm, "search", number, random)
        for seed in final["seeds"]:
            write(folder, arm, "final", seed, random, source=0)


def write(
    folder: RunFolder, arm: str, stage: str, number: int, random: np.random.RandomState, source: int | None = None
) -> None:
    """One trial through the real writers."""
    trial = folder.trial(trial_id(arm, stage, number))
    rate, optimizer = 10 ** random.uniform(-4, -1), str(random.choice(["adam", "sgd", "rmsprop"]))
    params = {"optimizer.name": optimizer, "optimizer.lr": rate, "loss.kappa": float(random.choice([0, 0.002, 0.01]))}
    end = 70 * (1 + (np.log10(rate) + 2.3) ** 2 + 0.2 * random.rand())
    content = {"format": FORMAT, "config": {}, "params": params, "seed": number, "source": source, "provenance": {}}
    write_json(trial.config, content)
    trial.append_metrics(
        [
            {
                "step": int(step),
                "time": 1.7e9 + step,
                "seconds": step / 20,
                "evaluate_seconds": step / 90,
                "samples": 512,
            }
            | {"fd_lite0": end * (1 + 300 / (step + 1)), "is_lite0_mean": 5 - 100 / step, "loss": 1 / step}
            for step in np.linspace(20, STEPS, EVALUATIONS).astype(int)
        ]
    )
    trial.update_status(state="completed", attempts=1)


def mirrored(folder: RunFolder) -> str:
    """Fill the default store as the mirror of a sweep does; returns its address."""
    from mlflow import MlflowClient

    from orchestrator.stores import default_uri
    from orchestrator.tracking.mirror import Mirror

    folder.sweep_yaml.write_text("name: study\n")
    Mirror(folder, MlflowClient(default_uri(folder))).sync(load_runs(folder.path))
    return default_uri(folder)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        folder = RunFolder(Path(temporary) / "study")
        build(folder)
        reading = seconds(lambda: load_runs(folder.path), 1)
        whole = seconds(lambda: write_report(folder.path), 1)
        uri = mirrored(folder)
        other = seconds(lambda: write_report("mlflow:study", Path(temporary) / "report", uri), 1)
        what = f"report of {len(ARMS) * RUNS:,} runs with {EVALUATIONS} evaluations"
        rows = [
            Row(f"{what}, against reading them", whole, reading, "s", whole / reading, ""),
            Row(f"{what}, against 10 s", whole, 10.0, "s", whole / 10, "<= 1"),
            Row(f"{what} from MLflow's SQLite store, against the run folder", other, whole, "s", other / whole, ""),
        ]
        publish("report", rows)
