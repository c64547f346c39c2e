"""What another pruner would have cost and lost: recorded curves under a virtual clock. Nothing is trained."""

import heapq
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
import yaml

from aiqn_core.config import ConfigError, Problem, shown
from aiqn_core.metric import judged_by
from orchestrator import shapes
from orchestrator.causes import CUT
from orchestrator.promotion import settings_of
from orchestrator.replay_rungs import Curve as Curve
from orchestrator.replay_rungs import Search, regret_of, searched
from orchestrator.resampling import drawn_searches, resampled, shares
from orchestrator.rungs import completed, fewest_arrivals
from orchestrator.runs import FINISHED, Run, RunFolder, RunFolderError, load_runs, objectives
from orchestrator.samplers import is_pruned, make_pruner

REGRET, SHARE = 0.02, 0.25  # what a pruner is worth having for
PRUNERS = ("none", "median", "{name: percentile, percentile: 25.0}", "asha", "hyperband", "promote")


@dataclass(frozen=True)
class Replay:
    """A search as it would have gone with a pruner, against the recorded one.

    A curve that the recorded search cut short ends where the pruner may have let it go on. Steps, share and makespan
    are lower bounds where `beyond` is not 0, and the regret of an arm with any such curve is not known.
    """

    pruner: str
    steps: int  # training steps of all arms
    share: float  # of the steps that were recorded
    makespan: float  # seconds until the last worker is done
    pruned: int
    chosen: dict[str, float | None]  # the objective of each arm's best completed trial
    regret: dict[str, float | None]  # how much worse than the recorded best, as a share of it; None: cannot be told
    curves: dict[str, int]  # how many were recorded, by arm
    cut: dict[str, int]  # how many of them the recorded search cut short
    beyond: dict[str, int]  # how many of those this pruner would have let go on
    within: dict[str, float | None] = field(default_factory=dict)  # share of resampled searches with little regret
    searches: int = 0  # how many were drawn
    typical: float | None = None  # the share of the steps that they took, in the mean


def replay(
    run_folder: Path | str, pruners: Sequence[Mapping[str, Any]], workers: int = 2, searches: int = 0
) -> list[Replay]:
    """Replay the search trials of a run under each pruner of `{name: ..., argument: ...}`.

    For pruners of Optuna's so many `searches` are drawn from the recorded trials and replayed as well. Trials start in
    the order of their numbers, arms in turn, as soon as one of `workers` is free; the pruner sees every evaluation at
    its virtual time. Raises RunFolderError for a run without ended search trials, ConfigError for a pruner that does
    not exist.
    """
    curves, recorded = recorded_curves(run_folder)
    return [replayed(curves, dict(pruner), recorded, workers, searches) for pruner in pruners]


def recorded_curves(run_folder: Path | str) -> tuple[list[Curve], dict[str, Any]]:
    """The curves of a run's search trials in the order in which trials start, and its sweep; RunFolderError without."""
    folder = RunFolder(Path(run_folder))
    recorded = folder.read_sweep()["sweep"]
    if reason := shapes.wrong(recorded["arms"], shapes.Each(shapes.STEPS), "sweep.arms"):
        raise RunFolderError(f"{folder.sweep_json}: damaged, {reason}")
    objective = objectives(recorded)[0]
    curves = [
        _curve(run, objective["metric"])
        for run in load_runs(run_folder)
        if run.arm in recorded["arms"] and _usable(run)
    ]
    curves = sorted((curve for curve in curves if curve.points), key=lambda curve: (curve.number, curve.arm))
    if not curves:
        raise RunFolderError(f"{run_folder}: no search trial has ended yet; there is nothing to replay")
    return curves, recorded


def parse_pruner(text: str) -> dict[str, Any]:
    """The settings of a pruner as typed: its name, or a YAML mapping; raises ConfigError for anything else."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, dict):
        message = f"saw {shown(text)}, expected a name or a mapping, for example {PRUNERS[2]}"
        raise ConfigError([Problem("--pruner", message)])
    return {str(key): item for key, item in value.items()}


def _usable(run: Run) -> bool:
    return run.stage == "search" and run.state in FINISHED


def _curve(run: Run, metric: str) -> Curve:
    points = [
        (record["step"], record.get("seconds") or 0.0, judged_by(record, metric))
        for record in run.history
        if record["step"] > 0 and ("samples" in record or metric in record)
    ]
    if run.history and (not points or points[-1][0] < run.history[-1]["step"]):
        last = run.history[-1]  # a trial that diverged between evaluations cost its steps too
        points.append((last["step"], last.get("seconds") or 0.0, None))
    return Curve(run.arm, run.number, points, run.state == "completed", run.state in CUT)


def replayed(
    curves: Sequence[Curve], settings: dict[str, Any], recorded: Mapping[str, Any], workers: int, searches: int = 0
) -> Replay:
    """The search of these curves under a pruner; `recorded` is a sweep, of which search and arms are read."""
    one = _replayed(curves, settings, recorded, workers)
    if not searches or settings_of(settings) is not None or settings["name"] == "none":
        return one
    good, share = dict.fromkeys(one.chosen, 0), 0.0
    for drawn in resampled(curves, searches):
        found = _replayed(drawn, settings, recorded, workers)
        share += found.share / searches
        for arm, lost in found.regret.items():
            good[arm] += lost is not None and lost <= REGRET
    return replace(one, within=shares(curves, good, searches), searches=searches, typical=share)


def _replayed(curves: Sequence[Curve], settings: dict[str, Any], recorded: Mapping[str, Any], workers: int) -> Replay:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    direction = objectives(recorded)[0]["direction"]
    make_pruner(settings, direction)  # raises ConfigError for settings that are wrong
    if settings_of(settings) is not None:
        return _promoted(curves, settings, recorded, workers)
    arms = dict.fromkeys(curve.arm for curve in curves)
    studies = {arm: _study(settings, direction, arm, recorded["arms"][arm]) for arm in arms}
    fewest = fewest_arrivals(settings, recorded["search"].get("min_arrivals"))
    waiting, clock, steps, pruned = list(reversed(curves)), 0.0, 0, 0
    chosen: dict[str, float | None] = dict.fromkeys(studies)
    beyond = dict.fromkeys(studies, 0)
    best = min if direction == "minimize" else max
    events: list[tuple[float, int, int, Curve, optuna.Trial]] = []  # (time, order, evaluation, ...)

    def start(now: float) -> None:
        if waiting:
            curve = waiting.pop()
            trial = studies[curve.arm].ask()
            heapq.heappush(events, (now + curve.points[0][1], len(waiting), 0, curve, trial))

    for _ in range(workers):
        start(0.0)
    while events:
        clock, order, index, curve, trial = heapq.heappop(events)
        step, seconds, value = curve.points[index]
        last = index + 1 == len(curve.points)
        stop = False
        if value is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trial.report(value, step)
                stop = (not last or curve.cut) and is_pruned(trial, fewest)
        if not (last or stop):
            ahead = curve.points[index + 1][1] - seconds
            heapq.heappush(events, (clock + ahead, order, index + 1, curve, trial))
            continue
        steps, pruned = steps + step, pruned + stop
        beyond[curve.arm] += curve.cut and not stop
        done = curve.completed and not stop and value is not None
        state = optuna.trial.TrialState.COMPLETE if done else optuna.trial.TrialState.PRUNED
        studies[curve.arm].tell(trial, value if done else None, state=state)
        if done:
            chosen[curve.arm] = best(v for v in (chosen[curve.arm], value) if v is not None)
        start(clock)
    total = sum(curve.points[-1][0] for curve in curves)
    count = {arm: sum(curve.arm == arm for curve in curves) for arm in studies}
    cut = {arm: sum(curve.arm == arm and curve.cut for curve in curves) for arm in studies}
    regret = {
        arm: None if cut[arm] else regret_of(value, [c for c in curves if c.arm == arm], best)
        for arm, value in chosen.items()
    }
    share = steps / total if total else 0.0
    return Replay(_told(settings), steps, share, clock, pruned, chosen, regret, count, cut, beyond)


def _promoted(curves: Sequence[Curve], settings: dict[str, Any], recorded: Mapping[str, Any], workers: int) -> Replay:
    """The search with rungs that promote; `pruned` are those that were parked at its end."""
    promote = settings_of(settings)
    assert promote is not None
    search = Search(curves, promote, recorded)
    gone = searched(search, workers)
    drawn = drawn_searches(curves, promote, recorded, workers, REGRET)
    by_arm = {arm: [curve for curve in curves if curve.arm == arm] for arm in gone.chosen}
    cut = {arm: sum(curve.cut for curve in own) for arm, own in by_arm.items()}
    return Replay(
        pruner=_told(settings),
        steps=gone.steps,
        share=gone.steps / (sum(curve.points[-1][0] for curve in curves) or 1),
        makespan=gone.clock,
        pruned=gone.parked,
        chosen=gone.chosen,
        regret={
            arm: None if cut[arm] else regret_of(value, by_arm[arm], search.best) for arm, value in gone.chosen.items()
        },
        curves={arm: len(own) for arm, own in by_arm.items()},
        cut=cut,
        beyond=gone.beyond,
        within=drawn.within,
        searches=drawn.searches,
        typical=drawn.steps,
    )


def _told(settings: Mapping[str, Any]) -> str:
    return settings["name"] + "".join(f" {key}={value}" for key, value in settings.items() if key != "name")


def _study(settings: dict[str, Any], direction: str, arm: str, base: Mapping[str, Any]) -> optuna.Study:
    """An arm's study as a sweep would have it; Hyperband deals trials to its brackets by the study's name."""
    pruner = make_pruner(completed(settings, base["evaluate"]["every"], base["train"]["steps"]), direction)
    towards = optuna.study.StudyDirection[direction.upper()]
    sampler = optuna.samplers.RandomSampler(seed=0)  # never asked; the usual one looks through all trials for each
    return optuna.create_study(study_name=f"{arm}/search", direction=towards, pruner=pruner, sampler=sampler)


def replay_lines(replays: Sequence[Replay]) -> list[str]:
    """The replays as a plain table: steps, time, and for each arm what would have been chosen."""
    arms = list(replays[0].chosen)
    header = ["pruner", "steps", "of recorded", "makespan", "pruned", *(f"{arm} (regret)" for arm in arms)]
    rows = [header]
    for one in replays:
        least = "≥ " if any(one.beyond.values()) else ""
        cells = [f"{one.steps:,}", f"{one.share:.0%}", f"{one.makespan / 60:.1f} min"]
        rows.append([one.pruner, *(least + cell for cell in cells), str(one.pruned), *(_choice(one, a) for a in arms)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*table, "", *_cut_short(replays[0]), *_resampled(replays), _cheap_enough(replays)]


def _choice(one: Replay, arm: str) -> str:
    """The objective that a pruner would have found in an arm, as far as the recorded curves tell, and its regret."""
    value, lost = one.chosen[arm], one.regret[arm]
    text = "none" if value is None else f"{value:.4g}"
    if one.beyond[arm]:
        text += " or better" if value is not None else " known"
    if one.cut[arm]:
        return f"{text} (unknown)"
    return text if lost is None else f"{text} ({lost:.1%})"


def _cut_short(one: Replay) -> list[str]:
    """How many curves the recorded search cut short, and what cannot be told for it; nothing where it cut none."""
    cut, count = sum(one.cut.values()), sum(one.curves.values())
    if not cut:
        return []
    arms = ", ".join(f"{n} of {one.curves[arm]} in {arm}" for arm, n in one.cut.items() if n)
    return [
        f"{cut} of {count} curves were cut short by the recorded search ({arms}). How they would have gone on is not"
        " known, and any of them may have become the best: regrets there cannot be told, and steps and times are lower"
        " bounds (≥) where a pruner lets such a curve go on. To compare pruners, record a search with pruner: none.",
    ]


def _resampled(replays: Sequence[Replay]) -> list[str]:
    """How often a pruner finds nearly the best, not only in the search that happened."""
    found = []
    for one in replays:
        told = ", ".join(f"{share:.0%} in {arm}" for arm, share in one.within.items() if share is not None)
        if told:
            drawn = f"of {one.searches} searches drawn from the recorded trials so many choose"
            cost = "" if one.typical is None else f", for {one.typical:.0%} of the steps"
            found.append(f"{one.pruner}: {drawn} within {REGRET:.0%} of their best: {told}{cost}.")
    return found


def _cheap_enough(replays: Sequence[Replay]) -> str:
    """Which pruners would have found nearly the best of every arm for a fraction of the steps."""
    question = f"Within {REGRET:.0%} of the best of each arm for at most {SHARE:.0%} of the steps"
    if any(replays[0].cut.values()):
        return f"{question}: cannot be told from curves that were cut short."
    good = [
        one.pruner
        for one in replays
        if one.share <= SHARE and all(lost is not None and lost <= REGRET for lost in one.regret.values())
    ]
    return f"{question}: {', '.join(good) or 'none'}."
