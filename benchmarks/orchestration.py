"""What the machinery itself costs: 500 trials that train nothing, through our whole stack and through others.

    python benchmarks/orchestration.py                     about 20 minutes on two idle cores
    python benchmarks/orchestration.py --json numbers.json

Every trial reports four metrics ten times; two run at once. Each side is a process of its own, one after the other.
Ratios of one call belong together; what the README states are medians of three.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measure import NOT_MEASURED, Row, publish

TRIALS, REPORTS, AT_ONCE = 500, 10, 2
MANY = 5_000
ROOT = Path(__file__).resolve().parent.parent
SWEEP = """
name: nothing
data: digits
train: {steps: REPORTS, batch_size: 8}
evaluate: {every: 1, samples: 11, splits: 2, size: 64, reference: 50}
search: {trials: TRIALS, sampler: SAMPLER, objective: {metric: fd_lite0}}
arms:
  only:
    model: {name: pixelcnn, layers: 1, planes: 6, skip_planes: 8}
    space:
      optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
      schedule: [constant, decay]
"""


def metrics(lr: float, step: int) -> dict[str, float]:
    """What a trial that trains nothing reports."""
    return {"fd_lite0": 100 / step + lr, "is_lite0_mean": 1 + step / 10, "kd_lite0": 1 / step, "loss": 2 / step}


# ---- our stack -------------------------------------------------------------------------------------------------------


def train_nothing(config: Any, folder: Any = None, workers: Any = None, data: Any = None) -> Iterator[Any]:
    """In place of `aiqn_core.training.train`."""
    from aiqn_core.training import Progress

    for step in range(1, config.train.steps + 1):
        yield Progress(step, {**metrics(config.optimizer.lr, step), "samples": 11}, time.time())


def replace_training() -> None:
    """Run by Ray in each of its worker processes, before our code: all of the stack but the training is real."""
    import aiqn_core.training

    aiqn_core.training.train = train_nothing


def ours() -> dict[str, float]:
    """The whole stack with MLflow on, until everything is in MLflow; without the report, which the others have not."""
    import ray

    from orchestrator import start
    from orchestrator.sweep import load_sweep

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nothing.yaml"
        path.write_text(sweep_text(TRIALS, "tpe"))
        ray.init(
            address="local",
            num_cpus=AT_ONCE,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"worker_process_setup_hook": replace_training},
        )
        start.write_report = lambda run: None
        begin = time.perf_counter()
        runs = start.run_sweep(load_sweep(path), folder)
        seconds = time.perf_counter() - begin
        last = max(run.status["updated"] for run in runs) - min(run.status["started"] for run in runs)
        assert len(runs) == TRIALS
        assert all(len(run.history) == REPORTS and run.state == "completed" for run in runs)
        assert mirrored(Path(folder) / "nothing") == TRIALS * REPORTS
    return {**usage(seconds), "trials_per_second_of_training": TRIALS / last}


def mirrored(run: Path) -> int:
    """How many points of the objective MLflow's store holds."""
    import sqlite3

    with sqlite3.connect(run / "mlflow.db") as store:
        return store.execute("select count(*) from metrics where key = 'fd_lite0'").fetchone()[0]


# ---- the others ------------------------------------------------------------------------------------------------------


def ray_tune(form: str, tracked: bool) -> dict[str, float]:
    """Stock Ray Tune with OptunaSearch and reused actors, as its documentation shows it."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search.optuna import OptunaSearch

    class Nothing(tune.Trainable):
        def setup(self, config: dict) -> None:
            self.config = config

        def step(self) -> dict:
            return {**metrics(self.config["lr"], self.iteration + 1), "done": self.iteration + 1 == REPORTS}

        def reset_config(self, new_config: dict) -> bool:
            self.config = new_config
            return True

        def save_checkpoint(self, folder: str) -> None:
            pass

    def nothing(config: dict) -> None:
        for step in range(1, REPORTS + 1):
            tune.report(metrics(config["lr"], step))

    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        ray.init(address="local", num_cpus=AT_ONCE, include_dashboard=False, log_to_driver=False)
        callbacks = [MLflowLoggerCallback(tracking_uri=uri, experiment_name="nothing")] if tracked else []
        tuner = tune.Tuner(
            tune.with_resources(Nothing if form == "class" else nothing, {"cpu": 1}),
            param_space={"lr": tune.loguniform(1e-4, 1e-2), "schedule": tune.choice(["constant", "decay"])},
            tune_config=tune.TuneConfig(
                metric="fd_lite0",
                mode="min",
                search_alg=OptunaSearch(),
                num_samples=TRIALS,
                max_concurrent_trials=AT_ONCE,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=folder, name="nothing", verbose=0, callbacks=callbacks),
        )
        begin = time.perf_counter()
        results = tuner.fit()
        seconds = time.perf_counter() - begin
        assert len(results) == TRIALS
        assert not results.errors
    return usage(seconds)


def optuna_alone() -> dict[str, float]:
    """Ask, report and tell in one process, in memory: nothing runs beside it and nothing survives it."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    begin = time.perf_counter()
    for _ in range(TRIALS):
        trial = study.ask()
        lr = trial.suggest_float("lr", 1e-4, 1e-2, log=True)
        trial.suggest_categorical("schedule", ["constant", "decay"])
        for step in range(1, REPORTS + 1):
            trial.report(metrics(lr, step)["fd_lite0"], step)
        study.tell(trial, metrics(lr, REPORTS)["fd_lite0"])
    return usage(time.perf_counter() - begin)


# ---- a finished sweep of 5,000 trials --------------------------------------------------------------------------------


def rerun() -> dict[str, float]:
    """`aiqn sweep` on a finished run of 5,000 trials, written by the real ledger and the real writers."""
    from orchestrator.ledger import Ledger
    from orchestrator.runs import FORMAT, RunFolder, write_json
    from orchestrator.start import mark_finished, open_run
    from orchestrator.sweep import load_sweep

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nothing.yaml"
        path.write_text(sweep_text(MANY, "random"))
        sweep, run = load_sweep(path), RunFolder(Path(folder) / "nothing")
        open_run(run, sweep)
        ledger = Ledger(run, sweep)
        while (assignment := ledger.next()) is not None:
            trial = run.trial(assignment.id)
            content = {"config": assignment.config, "params": assignment.params, "seed": assignment.seed}
            provenance = {"config_hash": "", "git": {}, "versions": {}, "device": "CPU", "protocol": {}}
            write_json(
                trial.config, {"format": FORMAT, **content, "source": None, "provenance": provenance}, sync=False
            )
            lr = assignment.config["optimizer"]["lr"]
            steps = range(1, REPORTS + 1)
            records = [{"step": s, "time": time.time(), "samples": 11, **metrics(lr, s)} for s in steps]
            trial.append_metrics(records, sync=False)
            trial.update_status(state="completed", attempts=1, started=time.time(), step=REPORTS, sync=False)
            for record in records:
                ledger.report(assignment.id, record)
            ledger.close(assignment.id)
        mark_finished(run, ledger.complete)
        first = timed_command(path, folder)  # writes the report, and fills MLflow
        second = timed_command(path, folder)
    return {f"first_{key}": value for key, value in first.items()} | second


def timed_command(path: Path, runs: str) -> dict[str, float]:
    """Seconds until "Nothing to train" and until the end, and the driver's peak memory."""
    begin, told = time.perf_counter(), NOT_MEASURED
    command = [sys.executable, "-m", "orchestrator.cli", "sweep", str(path), "--runs", runs]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert process.stdout is not None
    for line in process.stdout:
        if "Nothing to train" in line:
            told = time.perf_counter() - begin
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0
    return {"told": told, "seconds": time.perf_counter() - begin, "peak_mib": used.ru_maxrss / 1024}


# ---- measuring -------------------------------------------------------------------------------------------------------


def sweep_text(trials: int, sampler: str) -> str:
    return SWEEP.replace("REPORTS", str(REPORTS)).replace("TRIALS", str(trials)).replace("SAMPLER", sampler)


def usage(seconds: float) -> dict[str, float]:
    """Rate, and what this process, the driver, has used itself."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "trials_per_second": TRIALS / seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mib": used.ru_maxrss / 1024,
    }


SIDES = {
    "ours": ours,
    "ray class": lambda: ray_tune("class", tracked=False),
    "ray function": lambda: ray_tune("function", tracked=False),
    "ray mlflow": lambda: ray_tune("class", tracked=True),
    "optuna": optuna_alone,
    "rerun": rerun,
}


def side(name: str) -> dict[str, float]:
    """One side in a process of its own; its numbers come back as the last line that it prints."""
    command = [sys.executable, __file__, "--side", name]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}: {found}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=SIDES)
    chosen = parser.parse_known_args()[0].side
    if chosen:
        print(json.dumps(SIDES[chosen]()))
        return
    found = {name: side(name) for name in SIDES}
    mine, rows = found["ours"], []
    for what, against, goal in (
        ("Ray Tune's class form, no tracking", found["ray class"], ">= 1.0"),
        ("Ray Tune's function form, no tracking", found["ray function"], ">= 0.6"),
        ("the class form with MLflowLoggerCallback", found["ray mlflow"], ">= 12"),
        ("Optuna alone, in memory, one process", found["optuna"], ""),
    ):
        for key, unit in (("trials_per_second", "trials/s"), ("cpu_seconds", "s"), ("peak_mib", "MiB")):
            name = {"trials_per_second": "trials/s", "cpu_seconds": "driver CPU", "peak_mib": "peak memory"}[key]
            bound = goal if key == "trials_per_second" else ""
            rows.append(Row(f"{name} against {what}", mine[key], against[key], unit, mine[key] / against[key], bound))
    told = found["rerun"]["told"]
    rows.append(Row(f"finished run of {MANY:,}: until told", told, 10.0, "s", told / 10.0, "<= 1.0"))
    rows.append(Row("  until its end", found["rerun"]["seconds"], NOT_MEASURED, "s", NOT_MEASURED, ""))
    rows.append(Row("  peak memory", found["rerun"]["peak_mib"], NOT_MEASURED, "MiB", NOT_MEASURED, ""))
    publish("orchestration", rows, {"trials": TRIALS, "reports": REPORTS, "at once": AT_ONCE})


if __name__ == "__main__":
    main()
