"""Runs as the tables and figures read them: what was asked, what was measured, what is missing."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator import shapes
from orchestrator.fronts import Costs, fronts
from orchestrator.objectives import Facts, facts_of
from orchestrator.runs import DAMAGED, FINISHED, Run, RunFolder, RunFolderError, load_runs, objectives, read_json
from orchestrator.stores import without_password

STAGES = ("search", "final")


class Metric(NamedTuple):
    """A measured quantity under the name it was recorded with, and which way is better."""

    name: str
    lower_is_better: bool
    low: float = -math.inf  # the ends of its range
    high: float = math.inf
    comparable: bool = True  # across the arms of this sweep
    why: str = ""  # the reason where it is not, as a sentence without its full stop
    objection: bool = False  # named only where it contradicts an objective
    up_to_real: bool = False  # beyond what real data score, more is not better

    @property
    def label(self) -> str:
        return f"{self.name} {'↓' if self.lower_is_better else '↑'}"

    def key(self, value: float) -> float:
        """A sorting key that puts the best value first."""
        return value if self.lower_is_better else -value


@dataclass(frozen=True)
class Results:
    """One sweep and all its runs, as the tables and figures read them."""

    name: str
    question: str
    command: str
    created: float | None  # unix seconds
    finished: bool
    arms: list[str]  # in the order of the sweep file
    metrics: list[Metric]  # the objectives first, then the distance and the score beside them
    trials: int  # planned search trials of each arm
    top: int  # configurations of each arm that go on to the final stage
    seeds: int
    runs: list[Run]
    real: Path  # a grid of real images, where there is one
    data: dict[str, str] = field(default_factory=dict)  # arm -> the name of its data
    resources: dict[str, float] = field(default_factory=dict)  # of one trial: cpu, gpu
    plan: dict[str, Any] = field(default_factory=dict)  # plan.json; empty where there is none
    objectives: int = 1  # how many of the metrics, from the first on
    others: list[Metric] = field(default_factory=list)  # measured, and in no table of their own
    baselines: list[dict[str, Any]] = field(default_factory=list)  # what trivial generators score (see RunFolder)
    sweep: dict[str, Any] = field(default_factory=dict)  # as resolved, from sweep.json
    file: str = ""  # the text of the sweep file, where it is there
    suffix: str = ""  # of the names of tables and figures that look at another objective than the first

    @property
    def objective(self) -> Metric:
        return self.metrics[0]

    @property
    def known(self) -> list[Metric]:
        """All metrics that were measured, those of the tables first."""
        return [*self.metrics, *self.others]

    @property
    def views(self) -> list["Results"]:
        """These results by each objective alone, for tables and figures that show one: that objective first."""
        found = []
        for metric in self.metrics[: self.objectives]:
            others = [other for other in self.metrics if other is not metric]
            suffix = "" if metric is self.objective else f"-{metric.name}"
            found.append(replace(self, metrics=[metric, *others], objectives=1, suffix=suffix))
        return found

    @property
    def hours_unit(self) -> str:
        """What the cost of trials is counted in: hours of a GPU where they use one, else of a CPU core."""
        return "GPU-hours" if self.resources.get("gpu") else "Core-hours"

    def planned(self, stage: str) -> int:
        """How many trials of the stage each arm gets."""
        return self.trials if stage == "search" else self.top * self.seeds

    def of(self, arm: str, stage: str) -> list[Run]:
        """The runs of one arm in one stage."""
        return [run for run in self.runs if run.arm == arm and run.stage == stage]

    @property
    def done(self) -> int:
        return sum(run.state in FINISHED for run in self.runs)

    @property
    def damaged(self) -> int:
        """Trials whose files cannot be used."""
        return sum(run.state == DAMAGED for run in self.runs)

    @property
    def total(self) -> int:
        """Planned trials, or those found where there are more."""
        return sum(max(self.planned(stage), len(self.of(arm, stage))) for arm in self.arms for stage in STAGES)


def read_results(run_folder: Path | str) -> Results:
    """Everything recorded in a run folder; raises RunFolderError where it cannot be read."""
    runs, folder = load_runs(run_folder), RunFolder(Path(run_folder))
    plan = read_json(folder.plan, shapes.PLAN)
    results = results_of(folder.read_sweep(), runs, folder.real, plan, str(folder.sweep_json))
    return replace(results, baselines=folder.read_baselines(), file=sweep_text(folder))


def sweep_text(folder: RunFolder) -> str:
    """The sweep file as it was written, without the passwords of addresses; "" where there is none."""
    try:
        return without_password(folder.sweep_yaml.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""


def results_of(
    recorded: Mapping[str, Any], runs: list[Run], real: Path, plan: dict[str, Any] | None, where: str
) -> Results:
    """Results of a sweep (sweep.json), its runs and its plan; raises RunFolderError where the sweep is damaged."""
    if reason := shapes.wrong(recorded, shapes.SWEEP):
        raise RunFolderError(f"{where}: damaged, {reason}")
    sweep = recorded["sweep"]
    written, final = objectives(sweep), sweep.get("final") or {"top": 0, "seeds": []}
    arms = list(sweep["arms"])
    metrics, others = _metrics(written, facts_of(recorded), runs)
    return Results(
        name=recorded["name"],
        question=recorded.get("question") or "",
        command=recorded.get("command") or "",
        created=recorded.get("created"),
        finished=bool(recorded.get("finished")),
        arms=arms + sorted({run.arm for run in runs} - set(arms)),
        metrics=metrics,
        others=others,
        objectives=len(written),
        trials=sweep["search"]["trials"],
        top=final["top"],
        seeds=len(final["seeds"]),
        runs=runs,
        real=real,
        data={arm: (base.get("data") or {}).get("name") or "" for arm, base in sweep["arms"].items()},
        resources={key: value for key, value in (sweep.get("resources") or {}).items() if value is not None},
        plan=plan or {},
        sweep=dict(sweep),
    )


def _metrics(
    objectives: Sequence[Mapping[str, str]], facts: Mapping[str, Facts], runs: Sequence[Run]
) -> tuple[list[Metric], list[Metric]]:
    """The objectives and what the table of metrics puts beside them, as far as recorded; then all that is left."""
    recorded = {name for run in runs for record in run.history for name in record}
    measured = {m.name: m for arm in facts.values() for m in arm.values() if m.name in recorded}
    beside = [name for name, metric in measured.items() if metric.beside]
    lower = {name: metric.direction == "minimize" for name, metric in measured.items()}
    lower |= {one["metric"]: one["direction"] == "minimize" for one in objectives}
    shown = list(dict.fromkeys([*(one["metric"] for one in objectives), *beside]))
    left = [name for name in measured if name not in shown]
    return [_metric(name, lower[name], facts) for name in shown], [_metric(name, lower[name], facts) for name in left]


def _metric(name: str, lower_is_better: bool, facts: Mapping[str, Facts]) -> Metric:
    """A metric of the report from what is known of it in each arm; without a unit that arms share, no comparison."""
    known = {arm: metrics[name] for arm, metrics in facts.items() if name in metrics}
    metric = Metric(
        name,
        lower_is_better,
        min((one.low for one in known.values()), default=-math.inf),
        max((one.high for one in known.values()), default=math.inf),
        objection=any(one.objection for one in known.values()),
        up_to_real=any(one.up_to_real for one in known.values()),
    )
    units: dict[str | None, list[str]] = {}
    for arm, one in known.items():
        units.setdefault(one.unit if one.across_arms else None, []).append(arm)
    if len(known) < 2 or (len(units) == 1 and None not in units):
        return metric
    told = [f"{' and '.join(arms)}: {unit or 'no unit of its own'}" for unit, arms in units.items()]
    why = f"{name} is not the same quantity in all arms ({'; '.join(told)}), so it cannot be compared"
    return metric._replace(comparable=False, why=why)


class Summary(NamedTuple):
    """Mean and sample standard deviation (None for one value) of the values of several seeds."""

    mean: float
    deviation: float | None
    low: float
    high: float
    seeds: int


def summarise(values: Sequence[float]) -> Summary | None:
    """The summary of finite values, or None where there are none."""
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Summary(statistics.fmean(values), deviation, min(values), max(values), len(values))


def last_record(run: Run, metric: str) -> dict[str, Any]:
    """The last record that holds the metric; empty where there is none."""
    return next((record for record in reversed(run.history) if record.get(metric) is not None), {})


def last_value(run: Run, metric: str) -> float | None:
    """The metric at its last evaluation, or None where it was not measured or is not finite."""
    return finite(last_record(run, metric).get(metric))


def finite(value: Any) -> float | None:
    """The value where it is a finite number, else None."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def ranked(results: Results, arm: str) -> list[Run]:
    """Search trials of an arm that reached their last step with finite objectives, best first.

    Of several objectives the Pareto front comes first, then the front of the others, ...; in it, the first decides.
    """
    costs = objective_costs(results, arm)
    front = fronts(costs) if results.objectives > 1 else dict.fromkeys(costs, 0)
    runs = {run.number: run for run in results.of(arm, "search")}
    return [runs[number] for number in sorted(costs, key=lambda number: (front[number], costs[number][0], number))]


def objective_costs(results: Results, arm: str) -> Costs:
    """The objectives of the arm's completed search trials by their numbers, turned so that less is better."""
    metrics, costs = results.metrics[: results.objectives], Costs()
    for run in results.of(arm, "search"):
        values = [last_value(run, metric.name) for metric in metrics] if run.state == "completed" else [None]
        known = [metric.key(value) for metric, value in zip(metrics, values, strict=False) if value is not None]
        if len(known) == len(metrics):
            costs[run.number] = tuple(known)
    return costs


def final_groups(results: Results, arm: str) -> dict[int | None, list[Run]]:
    """Finals of an arm by the search trial whose configuration they train again, each by increasing seed."""
    groups: dict[int | None, list[Run]] = {}
    for run in sorted(results.of(arm, "final"), key=lambda run: (run.source is None, run.source, run.seed)):
        groups.setdefault(run.source, []).append(run)
    return groups


def chosen_finals(results: Results, arm: str) -> list[Run]:
    """Completed finals of the arm's configuration with most completed seeds, then the best mean objective."""
    objective = results.objective
    candidates: list[tuple[int, float, int, list[Run]]] = []
    for group in final_groups(results, arm).values():
        runs = [run for run in group if run.state == "completed" and last_value(run, objective.name) is not None]
        # A configuration with fewer seeds must not win by one lucky seed.
        if summary := summarise(values_of(runs, objective.name)):
            candidates.append((-summary.seeds, objective.key(summary.mean), len(candidates), runs))
    return min(candidates)[-1] if candidates else []


def shown_run(results: Results, arm: str) -> Run | None:
    """Whose samples are shown, by rule: the final of the lowest seed, else the best search trial."""
    finals = chosen_finals(results, arm)
    return min(finals, key=lambda run: run.seed) if finals else next(iter(ranked(results, arm)), None)


def values_of(runs: Iterable[Run], metric: str) -> list[float]:
    """The finite last values of a metric over runs."""
    return [value for run in runs if (value := last_value(run, metric)) is not None]


def untrained(runs: Iterable[Run], metric: str) -> list[float]:
    """The metric of the model before training (step 0), where it was recorded."""
    return [value for run in runs for step, value in run.curve(metric) if step == 0 and math.isfinite(value)]


def protocol(run: Run, metric: str) -> tuple[tuple[str, Any], ...]:
    """How the last value of a metric was measured: extractor, image size, reference, ..., samples and steps."""
    recorded = {k: v for k, v in (run.provenance.get("protocol") or {}).items() if k != "samples"}
    if recorded.pop("drawn_by", None) is not None:  # by weights of its own choice: nothing that sets an arm apart
        recorded["model_weights"] = "averaged"
    record = last_record(run, metric)
    return (*sorted(recorded.items()), ("samples", record.get("samples")), ("steps", record.get("step")))


def differing_protocols(results: Results, stage: str) -> dict[str, set[Any]]:
    """Settings of the measurement that are not the same in all completed trials of a stage, with their values."""
    runs = [run for run in results.runs if run.stage == stage and run.state == "completed"]
    seen: dict[str, set[Any]] = {}
    for settings in {protocol(run, results.objective.name) for run in runs}:
        for key, value in settings:
            seen.setdefault(key, set()).add(value)
    return {key: values for key, values in seen.items() if len(values) > 1}


def active_seconds(run: Run) -> float:
    """Seconds of training and evaluation, over all attempts."""
    return max((value for record in run.history if (value := finite(record.get("seconds"))) is not None), default=0.0)


def evaluation_seconds(run: Run) -> float:
    """The part of `active_seconds` that went into evaluations; records hold the sum so far."""
    values = (finite(record.get("evaluate_seconds")) for record in run.history)
    return max((value for value in values if value is not None), default=0.0)


def device_hours(results: Results, seconds: float) -> float:
    """Seconds of trials as hours of the devices they hold."""
    each = results.resources.get("gpu") or results.resources.get("cpu") or 1
    return seconds / 3600 * each * results.resources.get("workers", 1)
