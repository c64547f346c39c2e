"""What the mirror needs for a run that has ended: MLflow's client against rows in bulk, into stores beside each other.

    python benchmarks/mirror.py [--json FILE] [--trials 1000]          a minute and a half

Each run has 10 evaluations of 4 metrics and 40 parameters. CPU time, so that other work on the machine counts little;
both fill their stores in turn, a part of the runs at a time. Then the whole store is lost, and made again in bulk.
"""

import argparse
import tempfile
import time
from pathlib import Path

from measure import NOT_MEASURED, Row, publish

from orchestrator.bulk import Bulk, Requests
from orchestrator.runs import FORMAT, Run, RunFolder, load_runs, trial_id, write_json
from orchestrator.tracking.mirror import Mirror

REPORTS, PARAMS, PART = 10, 40, 100


def build(folder: RunFolder, trials: int) -> None:
    """A run folder with so many trials that have ended."""
    search = {"trials": trials, "objective": {"metric": "fd_lite0", "direction": "minimize"}}
    sweep = {"arms": {"only": {}}, "search": search, "final": None, "tracking": {"uri": None}}
    folder.path.mkdir()
    about = {"format": FORMAT, "id": "0" * 32, "name": "study", "created": 1.7e9, "finished": True}
    write_json(folder.sweep_json, {**about, "sweep": sweep})
    for number in range(trials):
        trial = folder.trial(trial_id("only", "search", number))
        config = {
            f"part{key % 7}": {f"key{k}": k / (number + 1) for k in range(key % 7, PARAMS, 7)} for key in range(7)
        }
        content = {"config": config, "params": {}, "seed": number, "source": None, "provenance": {}}
        write_json(trial.config, {"format": FORMAT, **content}, sync=False)
        values = ("fd_lite0", "is_lite0_mean", "kd_lite0", "loss")
        steps = range(1, REPORTS + 1)
        records = [{"step": s, "time": 1.7e9 + s} | {v: i + number / s for i, v in enumerate(values)} for s in steps]
        trial.append_metrics(records, sync=False)
        trial.update_status(state="completed", attempts=1, started=1.7e9, step=REPORTS, sync=False)


def mirror_into(folder: RunFolder, path: Path) -> Mirror:
    from mlflow import MlflowClient

    return Mirror(folder, MlflowClient(f"sqlite:///{path}"))


def cpu_seconds(mirror: Mirror, runs: list[Run]) -> float:
    begin = time.process_time()
    mirror.sync(runs)
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_known_args()[0].trials
    with tempfile.TemporaryDirectory() as temporary:
        folder = RunFolder(Path(temporary) / "study")
        build(folder, trials)
        runs = load_runs(folder.path)
        bulk, client = (mirror_into(folder, Path(temporary) / f"{name}.db") for name in ("bulk", "client"))
        assert isinstance(bulk.writer, Bulk)
        client.writer = Requests(client.client)
        spent = {"bulk": 0.0, "client": 0.0}
        for begin in range(0, trials, PART):
            part = runs[begin : begin + PART]
            spent["bulk"] += cpu_seconds(bulk, part)
            spent["client"] += cpu_seconds(client, part)
        begin_again = time.perf_counter()
        mirror_into(folder, Path(temporary) / "again.db").sync(load_runs(folder.path))
        again = time.perf_counter() - begin_again
    ours, theirs = (1000 * spent[name] / trials for name in ("bulk", "client"))
    rows = [
        Row(
            "CPU of the mirror for a run that has ended, in bulk against the client",
            ours,
            theirs,
            "ms",
            ours / theirs,
            "",
        ),
        Row("the same, against 2 ms", ours, 2.0, "ms", ours / 2, "<= 1.0"),
        Row(
            f"a lost store of {trials:,} runs made again, tables and reading included",
            again,
            NOT_MEASURED,
            "s",
            NOT_MEASURED,
            "",
        ),
    ]
    publish("mirror", rows, {"evaluations": REPORTS, "parameters": PARAMS})


if __name__ == "__main__":
    main()
