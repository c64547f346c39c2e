"""What a sweep will cost, before anything is spent: trials, steps, hours, wall clock, disk and memory.

Trials and steps follow from the sweep file. Seconds and bytes follow from rates: those of a short calibration (see
`calibration`), or those of a run that was recorded.
"""

import bisect
import heapq
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from orchestrator import shapes
from orchestrator.promotion import NAME as PROMOTE
from orchestrator.promotion import evaluations, ladder, rungs_of, settings_of, stays
from orchestrator.runs import FORMAT, Run, RunFolder, RunFolderError, load_runs, read_json, write_json
from orchestrator.sections import Sweep, with_final

Points = Sequence[tuple[int, float]]  # (samples, seconds) by rising samples


@dataclass(frozen=True)
class Rates:
    """What one arm's trials cost, in seconds and bytes."""

    step: float
    evaluation: Mapping[str, Points]  # of one evaluation, by stage
    trial: float  # of one trial, besides its steps and evaluations: start, hand-over to the next
    disk: float
    memory: float | None = None  # peak of one trial's process; None where it was not measured
    gpu_memory: float | None = None

    def seconds(self, stage: str, steps: float, evaluations: float, samples: int, starts: float = 1.0) -> float:
        """Of one trial."""
        return self.trial * starts + steps * self.step + evaluations * along(self.points(stage), samples)

    def points(self, stage: str) -> Points:
        """How long evaluations of a stage take; a stage that was not measured is taken to evaluate as the other."""
        return self.evaluation.get(stage) or next(iter(self.evaluation.values()))


@dataclass(frozen=True)
class Line:
    """One stage of one arm; steps, evaluations, samples (of an evaluation) and seconds are those of one trial."""

    arm: str
    stage: str
    trials: int
    steps: int
    evaluations: int
    samples: int
    seconds: float | None = None  # None without rates
    starts: float = 1.0  # how often a trial comes to a worker, in the mean: rungs park it
    rungs: tuple[tuple[int, int], ...] = ()  # (step, trials that train up to it) of a search whose rungs promote


@dataclass(frozen=True)
class Plan:
    """A sweep's cost; None stands for what is not known without rates."""

    name: str
    basis: str  # where the rates come from; "" without
    lines: tuple[Line, ...]
    slots: int  # trials at once
    machine: str  # what holds them
    cpu: float  # of each trial
    gpu: float
    upper_bound: bool  # a pruner will stop trials early
    wall_seconds: float | None = None
    disk: float | None = None
    memory: float | None = None  # of all trials that run at once
    gpu_memory: float | None = None  # of one trial

    @property
    def trials(self) -> int:
        return sum(line.trials for line in self.lines)

    @property
    def steps(self) -> int:
        return sum(line.trials * line.steps for line in self.lines)

    @property
    def trial_seconds(self) -> float | None:
        """Seconds of all trials, one after another."""
        seconds = [line.trials * line.seconds for line in self.lines if line.seconds is not None]
        return sum(seconds) if len(seconds) == len(self.lines) else None

    def device_hours(self, line: Line | None = None) -> float | None:
        """GPU-hours where trials use GPUs, else core-hours; of one line, or of all."""
        each = self.gpu or self.cpu
        if line is None:
            return None if self.trial_seconds is None else self.trial_seconds * each / 3600
        return None if line.seconds is None else line.trials * line.seconds * each / 3600

    @property
    def unit(self) -> str:
        return "GPU-hours" if self.gpu else "core-hours"


def make_plan(sweep: Sweep, rates: Mapping[str, Rates] | None = None, basis: str = "", gpus: int | None = None) -> Plan:
    """The plan of a sweep on this machine, or on `gpus` GPUs; `rates` by arm."""
    lines = tuple(_line(sweep, arm, stage, rates) for arm in sweep.arms for stage in ("search", "final"))
    lines = tuple(line for line in lines if line.trials)
    slots, machine = room(sweep, gpus)
    known = dict(rates or {})
    return Plan(
        name=sweep.name,
        basis=basis,
        lines=lines,
        slots=slots,
        machine=machine,
        cpu=sweep.resources.cpu * sweep.resources.workers,
        gpu=sweep.resources.gpu * sweep.resources.workers,
        upper_bound=sweep.search.pruner["name"] not in ("none", PROMOTE),
        wall_seconds=makespan(lines, slots) if known else None,
        disk=sum(line.trials * known[line.arm].disk for line in lines) if known else None,
        memory=_largest([one.memory for one in known.values()], slots),
        gpu_memory=_largest([one.gpu_memory for one in known.values()], 1),
    )


def _line(sweep: Sweep, arm: str, stage: str, rates: Mapping[str, Rates] | None) -> Line:
    final, mapping, trials = sweep.final, sweep.arms[arm].base, sweep.search.trials
    if stage == "final":
        trials = final.top * len(final.seeds) if final else 0
        mapping = with_final(mapping, final)
    samples, at = mapping["evaluate"]["samples"], evaluations(mapping)
    promote = settings_of(sweep.search.pruner) if stage == "search" else None
    rungs = (*rungs_of(mapping, promote), at[-1])
    counts = [float(trials)] if promote is None else stays(trials, rungs[:-1], promote)
    counts = [count / max(1, trials) for count in counts]  # of each part between rungs, by the mean trial
    parts = list(zip(counts, (0, *rungs), rungs, strict=False))
    steps = sum(share * (end - begin) for share, begin, end in parts)
    last, initial = parts[-1][0], bool(mapping["evaluate"]["initial"])
    early = sum(share * sum(begin < step <= end for step in at[:-1]) for share, begin, end in parts)
    scored, cheap = early + last + initial, (mapping["evaluate"].get("rungs") or {}).get("samples", samples)
    starts, come = 1.0, tuple[tuple[int, int], ...]()
    if promote is not None:
        come = tuple(zip(rungs, ladder(trials, len(rungs) - 1, promote.reduction_factor), strict=True))
        starts = sum(number for _, number in come) / max(1, trials)  # those of the audit never leave their worker
    known = None
    if rates is not None:
        own = rates[arm]
        known = own.seconds(stage, steps, last + initial, samples, starts) + early * along(own.points(stage), cheap)
    return Line(arm, stage, trials, _up(steps), _up(scored), samples, known, starts, come)


def _up(mean: float) -> int:
    """The next whole number; rounding of sums of shares adds none."""
    return math.ceil(mean - 1e-6)


def room(sweep: Sweep, gpus: int | None = None) -> tuple[int, str]:
    """How many trials run at once, and on what: on `gpus` GPUs, or else on this machine."""
    need, workers = sweep.resources, sweep.resources.workers
    cores = len(os.sched_getaffinity(0))
    if need.gpu:
        count = gpus if gpus is not None else _gpus_here() or 1
        each = math.floor(1 / need.gpu + 1e-9) if need.gpu <= 1 else 1 / need.gpu
        return max(1, math.floor(count * each / workers + 1e-9)), f"{count} GPU{'s' if count > 1 else ''}"
    return max(1, math.floor(cores / need.cpu / workers + 1e-9)), f"{cores} CPU core{'s' if cores > 1 else ''}"


def _gpus_here() -> int:
    import torch

    return torch.cuda.device_count()


def _largest(values: Sequence[float | None], times: int) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) * times if known else None


def makespan(lines: Sequence[Line], slots: int) -> float:
    """Seconds until the last trial ends when they start as the ledger hands them out.

    Search trials of the arms in turn; the finals of an arm, before all else, once its search has ended.
    """
    waiting = {line: line.trials for line in lines}
    running: list[tuple[float, int, Line]] = []
    searches = {line.arm: line.trials for line in lines if line.stage == "search"}  # not ended yet
    clock = 0.0
    for order in range(sum(waiting.values())):
        while len(running) >= slots or not (ready := _ready(waiting, searches)):
            clock, _, ended = heapq.heappop(running)
            searches[ended.arm] -= ended.stage == "search"
        line = ready[0]
        waiting[line] -= 1
        heapq.heappush(running, (clock + (line.seconds or 0.0), order, line))
    return max((end for end, _, _ in running), default=clock)


def _ready(waiting: Mapping[Line, int], searches: Mapping[str, int]) -> list[Line]:
    """The stages that can start a trial, the one that comes next first."""
    left = [line for line, count in waiting.items() if count]
    finals = [line for line in left if line.stage == "final" and not searches.get(line.arm)]
    search = [line for line in left if line.stage == "search"]
    return finals + sorted(search, key=lambda line: line.trials - waiting[line])


# ---- rates of a recorded run --------------------------------------------------------------------------------------


def rates_of_run(run_folder: Path | str, sweep: Sweep) -> dict[str, Rates]:
    """The rates of each arm of a sweep as an earlier run of the same models recorded them.

    Raises RunFolderError where an arm has no completed trial there, or one of another model or batch size.
    """
    runs = [run for run in load_runs(run_folder) if run.state == "completed" and _scored(run)]
    handover = hand_over(runs)
    rates = {}
    for name, arm in sweep.arms.items():
        own = [run for run in runs if run.arm == name]
        if not own:
            raise RunFolderError(f"{run_folder}: no completed trial of arm {name!r}; plan with --calibrate instead")
        _check_same(run_folder, name, own[0].config, arm.base, {dimension.path for dimension in arm.space.dimensions})
        rates[name] = _measured(own, handover)
    return rates


def _scored(run: Run) -> list[dict[str, Any]]:
    """The records of a trial that say how long an evaluation of how many samples took."""
    return [record for record in run.history if record.get("samples") and "evaluate_seconds" in record]


def _check_same(
    run_folder: Path | str, arm: str, before: dict[str, Any], now: dict[str, Any], varied: set[str]
) -> None:
    own = [("model", key) for key in now.get("model", {})] + [("command", key) for key in ("line", "hash")]
    for section, key in [*own, ("train", "batch_size"), ("evaluate", "size")]:
        old, new = (before.get(section) or {}).get(key), now.get(section, {}).get(key)
        if new is not None and old != new and f"{section}.{key}" not in varied and section not in varied:
            raise RunFolderError(
                f"{run_folder}: its trials of arm {arm!r} have {section}.{key} = {old!r}, this sweep {new!r}, "
                "so their times do not carry over; plan with --calibrate instead"
            )


def _measured(runs: Sequence[Run], handover: float) -> Rates:
    """Rates over completed trials of one arm."""
    last = [run.history[-1] for run in runs]
    scoring = sum(_seconds(record, "evaluate_seconds") for record in last)
    training = sum(_seconds(record, "seconds") for record in last) - scoring
    single = [(run.span, record) for run, record in zip(runs, last, strict=True) if run.status.get("attempts") == 1]
    walls = [span[1] - span[0] for span, _ in single if span]
    once = [_seconds(record, "seconds") for span, record in single if span]
    stages = dict.fromkeys(run.stage for run in runs)
    return Rates(
        step=max(0.0, training) / max(1, sum(record["step"] for record in last)),
        evaluation={stage: _points([run for run in runs if run.stage == stage]) for stage in stages},
        trial=handover + (max(0.0, sum(walls) - sum(once)) / len(walls) if walls else 0.0),
        disk=statistics.fmean(_size(run.folder) for run in runs[:20]) * MIRRORED,
    )


def _seconds(record: Mapping[str, Any], key: str) -> float:
    return float(record.get(key) or 0.0)


MIRRORED = 1.5  # MLflow keeps the grids of samples and the points once more


def _points(runs: Sequence[Run]) -> Points:
    """Mean seconds of an evaluation of each number of samples among the trials of one stage."""
    seconds: dict[int, list[float]] = {}
    for run in runs:
        own = _scored(run)
        seconds.setdefault(own[-1]["samples"], []).append(_seconds(own[-1], "evaluate_seconds") / len(own))
    return sorted((samples, statistics.fmean(values)) for samples, values in seconds.items())


def along(points: Points, samples: int) -> float:
    """Seconds of an evaluation, on the line through the two measured ones that lie nearest to so many samples."""
    i = min(max(1, bisect.bisect_left([count for count, _ in points], samples)), len(points) - 1)
    (few, less), (many, more) = points[max(0, i - 1)], points[i]
    if few < many and few <= samples <= many:
        return less + (more - less) * (samples - few) / (many - few)
    fixed, each = line_through(few, less, many, more)
    return fixed + each * samples


def line_through(few: int, less: float, many: int, more: float) -> tuple[float, float]:
    """Fixed and per-sample seconds of evaluations with `few` and `many` samples; neither is ever below 0."""
    if many <= few or more <= less:
        return 0.0, more / many
    each = (more - less) / (many - few)
    fixed = less - each * few
    return (fixed, each) if fixed > 0 else (0.0, more / many)


def hand_over(runs: Sequence[Run]) -> float:
    """Median seconds from the end of a trial to the start of the next on the same worker; 0 for too few trials."""
    spans = [run.span for run in runs if run.span]
    starts, ends = sorted(begin for begin, _ in spans), sorted(end for _, end in spans)
    events = sorted([(time, 1) for time in starts] + [(time, -1) for time in ends])
    level = slots = 0
    for _, change in events:
        level += change
        slots = max(slots, level)
    gaps = [start - end for start, end in zip(starts[slots:], ends, strict=False)]
    return max(0.0, statistics.median(gaps)) if len(gaps) >= 5 else 0.0


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# ---- the stored plan ----------------------------------------------------------------------------------------------


def store_plan(run: RunFolder, plan: Plan, rates: Mapping[str, Rates] | None, *, starting: bool = False) -> None:
    """Keep the plan in the run folder, for the report; not once trials have started, when it would be hindsight.

    The exception is a start with another sweep than the one that was planned (an extension): the plan is then that of
    the sweep as it is now, and `extended` says so.
    """
    begun = any(run.trials.glob("*"))
    if begun:
        before = read_json(run.plan, shapes.PLAN)
        same = before and _work(before.get("lines") or []) == _work([asdict(line) for line in plan.lines])
        if not starting or not before or same:
            return
    content = {
        "format": FORMAT,
        "created": time.time(),
        **asdict(plan),
        "rates": {arm: asdict(one) for arm, one in (rates or {}).items()},
        "extended": begun,
    }
    write_json(run.plan, content)


def _work(lines: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """What the lines of a plan ask for, without what it costs."""
    keys = ("arm", "stage", "trials", "steps", "evaluations", "samples")
    return [tuple(line.get(key) for key in keys) for line in lines]


def plan_at_start(run: RunFolder, sweep: Sweep) -> None:
    """Store the plan of a sweep that starts, with the rates of an earlier `aiqn plan` where there was one."""
    rates, basis = stored_rates(run, sweep)
    store_plan(run, make_plan(sweep, rates, basis), rates, starting=True)


def stored_rates(run: RunFolder, sweep: Sweep) -> tuple[dict[str, Rates] | None, str]:
    """The rates, and where they came from, that `aiqn plan` left in a run folder; (None, "") without."""
    before = read_json(run.plan, shapes.PLAN) or {}
    known = before.get("rates") or {}
    written = {field.name for field in fields(Rates)}
    if (
        before.get("format") != FORMAT
        or set(known) != set(sweep.arms)
        or any(set(one) != written or not _usable(one["evaluation"]) for one in known.values())
    ):
        return None, ""  # also what an earlier version left, whose rates were others
    return {arm: Rates(**one) for arm, one in known.items()}, before.get("basis") or ""


def _usable(evaluation: Mapping[str, Any]) -> bool:
    """Whether recorded times of evaluations are pairs of a number of samples and seconds, at least one a stage."""
    points = [point for stage in evaluation.values() for point in stage]
    return bool(evaluation) and all(evaluation.values()) and all(len(point) == 2 and point[0] > 0 for point in points)


def over_budget(plan: Plan, sweep: Sweep) -> list[str]:
    """What of the plan is above the sweep's budget, in words; empty where nothing is, or nothing is known."""
    pairs = [
        ("gpu_hours", sweep.budget.gpu_hours, plan.device_hours() if plan.gpu else None),
        ("hours", sweep.budget.hours, None if plan.wall_seconds is None else plan.wall_seconds / 3600),
    ]
    return [
        f"planned {value:,.2f} {key.replace('gpu_', 'GPU-')}, above budget.{key} = {limit:g}"
        for key, limit, value in pairs
        if limit is not None and value is not None and value > limit
    ]


# ---- in words -----------------------------------------------------------------------------------------------------


def plan_lines(plan: Plan) -> list[str]:
    """The plan as plain text."""
    header = ["", "", "trials", "steps each", "evaluations each", "time each", plan.unit]
    rows = [header]
    for line in plan.lines:
        scored = f"{line.evaluations} of {line.samples:,} samples"
        cells = [f"{line.trials:,}", f"{line.steps:,}", scored, duration(line.seconds)]
        rows.append([line.arm, line.stage, *cells, _hours(plan.device_hours(line))])
    total = ["all", "", f"{plan.trials:,}", f"{plan.steps:,} in all", "", duration(plan.trial_seconds)]
    rows.append([*total, _hours(plan.device_hours())])
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    table = [
        "  ".join(
            c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    table += _rungs_told(plan)
    at_once = f"{plan.slots} trial{'s' if plan.slots > 1 else ''} at once on {plan.machine}"
    if not plan.basis:
        return [*table, "", f"{at_once}; for hours, disk and memory add --calibrate (30 seconds) or --from RUN"]
    bound = ", an upper bound: the pruner stops trials early" if plan.upper_bound else ""
    lines = [*table, "", f"wall clock  {duration(plan.wall_seconds)}, {at_once}{bound}"]
    lines.append(f"disk        {size(plan.disk)}, the copy in MLflow's store included")
    if plan.memory is not None:
        lines.append(f"memory      {size(plan.memory)} for the trials at once")
    if plan.gpu_memory is not None:
        lines.append(f"GPU memory  {size(plan.gpu_memory)} for each trial")
    return [*lines, f"basis       {plan.basis}"]


def _rungs_told(plan: Plan) -> list[str]:
    """How many trials of each search are expected to come to each rung, and how often one starts."""
    found = []
    for line in plan.lines:
        if line.rungs:
            parts = " -> ".join(f"{count:,} to step {step:,}" for step, count in line.rungs)
            told = f"{parts}, besides the audit; {line.starts:.2f} starts a trial"
            found.append(f"{line.arm} {line.stage}: {told}")
    return ["", *found] if found else []


def duration(seconds: float | None) -> str:
    """ "4.2 s", "53 min", "7.5 h", "12 days"."""
    if seconds is None:
        return "?"
    for limit, unit, word in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.3g} {word}"
    return f"{seconds / 86_400:,.1f} days"


def size(number: float | None) -> str:
    """Bytes in a unit that suits them."""
    if number is None:
        return "?"
    for unit, word in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if number >= unit:
            return f"{number / unit:.3g} {word}"
    return f"{number / 1e3:.3g} kB"


def _hours(hours: float | None) -> str:
    return "?" if hours is None else f"{hours:,.2f}"
