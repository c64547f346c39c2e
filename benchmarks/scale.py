"""How large a cluster one driver serves: its real code, with simulated trials whose hours pass in no time.

python benchmarks/scale.py [--json FILE] [--trials 10000] [--concurrency 64 256 1024]      about fifteen minutes

The ledger, the journal, the pruner, the decisions and the board are those of a sweep. Only the trials are simulated: an
event queue in virtual time says when each of them reports. What an event costs the driver is measured in CPU time, so
that other work on the machine does not count, and the queue lets events wait while the driver is busy. Not included:
what Ray's own loop adds, which is measured with trials that do nothing (see docs/scaling.md).
"""

import argparse
import atexit
import heapq
import itertools
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SWEEP = """\
# How much does a trial cost its driver?
name: scale
data: digits
train: {{steps: 1000}}
evaluate: {{every: 100}}
search: {{trials: {trials}, sampler: {sampler}, pruner: {pruner}, objective: {{metric: fd_lite0}}}}
arms:
  pixelcnn: {{model: pixelcnn, space: &space {space}}}
  pixeliqn: {{model: pixeliqn, space: *space}}
"""
SPACE = """{optimizer.lr: {low: 1e-5, high: 1e-2, log: true}, schedule: [constant, decay],
    model.layers: {low: 2, high: 12}, model.planes: {low: 16, high: 128, step: 16}, train.batch_size: [16, 32, 64],
    train.ema_decay: {low: 0.9, high: 0.9999}, train.clip_norm: {low: 0.1, high: 10.0, log: true}}"""
EVALUATIONS = 10
TRIAL_SECONDS = 3600.0
SIZES = (100, 500, 1000, 2500, 5000)  # trials of one arm, at which the sampler is timed


def simulate(concurrency: int, trials: int, sampler: str) -> dict[str, float]:
    """Run a whole sweep in virtual time; what its driver needed."""
    driver = make_driver(concurrency, trials, sampler, "{name: asha, min_resource: 100}")
    draw, order = random.Random(0), itertools.count()
    events: list[tuple[float, int, str, int]] = []  # (virtual time, tie breaker, Ray's trial id, evaluation)
    latencies: dict[str, list[float]] = {"report": [], "suggest": []}
    free, ids, begin = 0.0, map(str, itertools.count()), time.process_time()
    quality: dict[str, float] = {}

    def served(kind: str, arrival: float, action):  # the driver does one thing at a time
        nonlocal free
        started = time.process_time()
        result = action()
        driver.board()  # as after every step of Ray's loop
        free = max(arrival, free) + time.process_time() - started
        latencies[kind].append(free - arrival)
        return result

    def fill(now: float) -> None:
        while len(driver.trials) < concurrency:
            ray_id = next(ids)
            if served("suggest", now, lambda: driver.suggest(ray_id)) is None:  # noqa: B023
                return
            quality[ray_id] = draw.uniform(50, 500)
            seconds = TRIAL_SECONDS / EVALUATIONS * draw.uniform(0.8, 1.2)
            heapq.heappush(events, (free + seconds, next(order), ray_id, 1))

    fill(0.0)
    while events:
        now, _, ray_id, evaluation = heapq.heappop(events)
        trial = driver.trials[ray_id]
        score = quality[ray_id] * (1 + 2 / evaluation) + draw.gauss(0, 5)
        record = {"step": 100 * evaluation, "time": now, "loss": 1.0, "samples": 512, "fd_lite0": score}
        stop = served("report", now, lambda: driver.result(ray_id, record))  # noqa: B023
        if not stop and evaluation < EVALUATIONS:
            seconds = TRIAL_SECONDS / EVALUATIONS * draw.uniform(0.9, 1.1)
            heapq.heappush(events, (free + seconds, next(order), ray_id, evaluation + 1))
            continue
        write_status(driver.ledger.run.trial(trial), "pruned" if stop else "completed")
        served("report", now, lambda: driver.ended(ray_id))  # noqa: B023
        fill(free)
    assert driver.ledger.complete
    return summary(latencies, driver, time.process_time() - begin, free)


def make_driver(concurrency: int, trials: int, sampler: str, pruner: str):
    from orchestrator.driver import Driver, Outside
    from orchestrator.ledger import Ledger
    from orchestrator.live import View
    from orchestrator.machines import Machines
    from orchestrator.nodes import Node
    from orchestrator.preflight import Preflight, question
    from orchestrator.runs import RunFolder
    from orchestrator.search import ask_here
    from orchestrator.start import open_run
    from orchestrator.sweep import load_sweep

    scratch = tempfile.TemporaryDirectory(prefix="scale-")
    atexit.register(scratch.cleanup)
    folder = Path(scratch.name)
    text = SWEEP.format(trials=trials // 2, sampler=sampler, pruner=pruner, space=SPACE)
    (folder / "scale.yaml").write_text(text)
    sweep, run = load_sweep(folder / "scale.yaml"), RunFolder(folder / "run")
    run.path.mkdir()
    open_run(run, sweep)
    node = Node("n", "n", {"CPU": float(concurrency)})
    machines = Machines(run, sweep.resources, Preflight(question(run, sweep), ask_here), lambda: [node])
    machines.nodes.update([node])
    machines.nodes.checked(node.id, None)
    outside = Outside(kill=lambda ray_id: None, interrupted=lambda: False, revive_mirror=lambda: None)
    return Driver(Ledger(run, sweep), View(), machines, outside)


def write_status(folder, state: str) -> None:
    """What a trial's own process leaves for the driver to read."""
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.status.write_text(json.dumps({"state": state, "attempts": 1}))


def summary(latencies: dict[str, list[float]], driver, cpu: float, virtual: float) -> dict[str, float]:
    found = {"trials": len(latencies["suggest"]), "cpu_seconds": cpu, "virtual_hours": virtual / 3600}
    for kind, values in latencies.items():
        found[f"{kind}_median_ms"] = 1000 * statistics.median(values)
        found[f"{kind}_p99_ms"] = 1000 * statistics.quantiles(values, n=100)[98]
        found[f"{kind}_max_s"] = max(values)
    found["reports"] = len(latencies["report"])
    found["busy"] = cpu / virtual
    found["memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found["journal_mib"] = driver.ledger.run.journal.stat().st_size / 2**20
    return found


def time_sampler(sampler: str) -> dict[str, float]:
    """CPU milliseconds of the next configuration after so many trials of an arm."""
    import optuna

    driver = make_driver(1, 2 * SIZES[-1] + 2000, sampler, "none")
    study, ledger = driver.ledger.studies["pixelcnn", "search"], driver.ledger
    draw, found = random.Random(0), {}
    first = ledger._next_search("pixelcnn")
    distributions = study.get_trials(deepcopy=False)[0].distributions
    assert first is not None
    for size in SIZES:
        while len(study.get_trials(deepcopy=False)) < size:
            block = min(500, size - len(study.get_trials(deepcopy=False)))
            study.add_trials([fake_trial(optuna, distributions, draw) for _ in range(block)])
        times = []
        for _ in range(7):
            begin = time.process_time()
            ledger._next_search("pixelcnn")
            times.append(time.process_time() - begin)
        found[f"{size}"] = 1000 * statistics.median(times[1:])
    return found


def fake_trial(optuna, distributions, draw):
    params = {}
    for name, kind in distributions.items():
        if hasattr(kind, "choices"):
            params[name] = draw.choice(kind.choices)
        elif isinstance(kind, optuna.distributions.IntDistribution):
            params[name] = draw.randrange(kind.low, kind.high + 1, kind.step)
        else:
            params[name] = draw.uniform(kind.low, kind.high)
    return optuna.trial.create_trial(params=params, distributions=distributions, value=draw.uniform(50, 500))


def apart(*arguments: str) -> dict[str, float]:
    """The same in a process of its own, so that its peak memory is its own."""
    result = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--time-sampler", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.time_sampler:
        print(json.dumps(time_sampler(given.time_sampler)))
        return
    if given.one:
        print(json.dumps(simulate(given.one, given.trials, given.sampler)))
        return
    from measure import machine  # torch: not in the memory of those that are measured

    found: dict[str, dict[str, float]] = {}
    for concurrency in given.concurrency:
        options = ("--one", str(concurrency), "--trials", str(given.trials), "--sampler", given.sampler)
        found[f"{concurrency} at once"] = apart(*options)
    for sampler in ("random", "tpe"):
        found[f"{sampler}: ms of the next configuration, after so many trials"] = apart("--time-sampler", sampler)
    print("scale: " + ", ".join(f"{key} {value}" for key, value in machine().items()))
    for what, numbers in found.items():
        print(f"{what}: " + ", ".join(f"{key} {value:.4g}" for key, value in numbers.items()))
    if given.json:
        given.json.write_text(json.dumps({"name": "scale", "machine": machine(), "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
