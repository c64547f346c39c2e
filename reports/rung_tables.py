"""What rungs that promote have cost: how well a rung knows the end, and what parked trials might have become.

All of it is told by the audited trials alone. They were drawn before anything was known of them and trained to the end
whatever they scored; the promoted ones were chosen by the very scores that are in question.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from orchestrator import shapes
from orchestrator.promotion import Contest, Settings, audited, rungs_of, settings_of
from orchestrator.runs import FINISHED, Run
from reports.results import Results, last_value
from reports.rounding import MISSING, plural, rounded
from reports.tables import Table, last_step

FEWEST = 5  # audited trials from which an interval can be told
DRAWS = 2_000  # of the bootstrap
NORMAL = 1.959964  # 97.5 % of a normal distribution


class ArmRungs(NamedTuple):
    """The rungs of one arm as its runs tell them; costs are objectives turned so that less is better."""

    contest: Contest
    ends: dict[int, float]  # of each trial that has ended without being parked; infinite where it did not complete
    audited: list[int]  # those of them that the audit drew
    passed: set[int]  # those that would have been trained to the end without the audit
    parked: list[int]

    @property
    def winner(self) -> float:
        """The best end of those that the rungs chose; infinite where there is none."""
        return min((self.ends[n] for n in self.passed if n in self.ends), default=math.inf)

    @property
    def rejected(self) -> list[int]:
        """The audited trials that would have been parked."""
        return [n for n in self.audited if n not in self.passed]


class Correlation(NamedTuple):
    """Kendall's rank correlation of so many trials with its 95 % interval; None where there are too few."""

    trials: int
    tau: float | None = None
    low: float | None = None
    high: float | None = None


def rung_settings(results: Results) -> Settings | None:
    """The settings of a search whose rungs promote; None for any other, and for what another version recorded."""
    pruner = (results.sweep.get("search") or {}).get("pruner")
    if not isinstance(pruner, Mapping) or shapes.wrong(results.sweep["arms"], shapes.Each(shapes.STEPS)):
        return None
    try:
        return settings_of(pruner)
    except (TypeError, ValueError):
        return None


def arms_with_rungs(results: Results) -> Iterator[tuple[str, ArmRungs]]:
    """Each arm of a search whose rungs promote; none of any other search, nor arms that its sweep does not have."""
    if (settings := rung_settings(results)) is None:
        return
    for arm in results.arms:
        if arm in results.sweep["arms"]:
            yield arm, rungs_of_arm(results, arm, settings)


def rungs_of_arm(results: Results, arm: str, settings: Settings) -> ArmRungs:
    """The contest at the rungs of an arm, rebuilt from its runs."""
    runs = sorted(results.of(arm, "search"), key=lambda run: run.number)
    contest = Contest(
        rungs_of(results.sweep["arms"][arm], settings),
        settings.reduction_factor,
        results.trials,
        settings.asynchronous,
    )
    first, seed = runs[0].number if runs else 0, results.sweep["search"].get("seed") or 0
    ends: dict[int, float] = {}
    free = {run.number for run in runs if audited(settings, seed, arm, run.number - first)}
    for run in runs:
        contest.enter(run.number, run.number in free)
        for step, value in run.judged(results.objective.name):
            contest.reached(run.number, step, results.objective.key(value))
        if run.state == "parked":
            contest.park(run.number, last_step(run))
        elif run.state in FINISHED:
            ends[run.number] = _end(results, run)
            contest.end(run.number, run.state == "completed")
    judged = contest.judged()
    passed = set(judged[-1].chosen) if judged else set()
    passed |= {n for n in ends if n not in free and contest.contestants[n].passed == len(contest.rungs)}
    parked = [run.number for run in runs if run.state == "parked"]
    return ArmRungs(contest, ends, [n for n in ends if n in free], passed, parked)


def _end(results: Results, run: Run) -> float:
    value = last_value(run, results.objective.name) if run.state == "completed" else None
    return math.inf if value is None else results.objective.key(value)


def kendall(pairs: list[tuple[float, float]]) -> Correlation:
    """Kendall's tau-b of (cost at the rung, cost at the end), with Fieller's interval (1957) for ranks.

    Where all pairs agree, or all disagree, the interval is that of half a pair less: few trials are no proof.
    """
    count = len(pairs)
    if count < FEWEST:
        return Correlation(count)
    from scipy import stats

    tau = float(stats.kendalltau(*zip(*pairs, strict=True)).statistic)
    if math.isnan(tau):  # all alike
        return Correlation(count)
    most = 1 - 2 / (count * (count - 1))
    middle, half = math.atanh(min(max(tau, -most), most)), NORMAL * fieller(count)
    low, high = math.tanh(middle - half), math.tanh(middle + half)
    return Correlation(count, tau, -1.0 if tau <= -most else low, 1.0 if tau >= most else high)


def fieller(count: int) -> float:
    """The standard error of atanh(tau) of so many pairs (Fieller, Hartley and Pearson 1957)."""
    return math.sqrt(0.437 / (count - 4))


def correlations(arm: ArmRungs) -> list[Correlation]:
    """How each rung ranks the audited trials that came to it, against their end."""
    found = []
    for rung in arm.contest.rungs:
        costs = {n: arm.contest.contestants[n].costs.get(rung, math.inf) for n in arm.audited}
        found.append(kendall([(cost, arm.ends[n]) for n, cost in costs.items() if cost < math.inf]))
    return found


def rung_table(results: Results) -> Table:
    """Each rung of each arm: who came, who went on, and how well it ranks trials as their end does."""
    columns = ["arm", "step", "share", "trials", "promoted", "audited", "correlation", "low", "high"]
    rows: list[dict[str, Any]] = []
    shown: list[dict[str, str]] = []
    known: dict[str, list[Correlation]] = {}
    for arm, found in arms_with_rungs(results):
        steps, known[arm] = results.sweep["arms"][arm]["train"]["steps"], correlations(found)
        judged = found.contest.judged()
        for index, (rung, one) in enumerate(zip(found.contest.rungs, known[arm], strict=True)):
            came = sum(rung in trial.costs for trial in found.contest.contestants.values())
            after = judged[index + 1].contenders if index + 1 < len(judged) else found.passed
            row = {"arm": arm, "step": rung, "share": rung / steps, "trials": came, "promoted": len(after)}
            rows.append(row | {"audited": one.trials, "correlation": one.tau, "low": one.low, "high": one.high})
            shown.append(
                {
                    "Arm": arm,
                    "Rung": f"{rung:,} ({rung / steps:.0%})",
                    "Trials": f"{came:,}",
                    "Promoted": f"{len(after):,}",
                    "Audited": f"{one.trials:,}",
                    "Rank correlation with the end": _fixed(one.tau),
                    "95 % interval": MISSING if one.low is None else f"{_fixed(one.low)} to {_fixed(one.high)}",
                }
            )
    title = "Rungs: who came, who went on, and how well a rung ranks trials as their end does"
    data = pd.DataFrame(rows, columns=columns)
    notes = tuple(rung_notes(known)) if rows else ()
    return Table("rungs", title, data, pd.DataFrame(shown), ("Arm",), notes=notes)


def rung_notes(known: dict[str, list[Correlation]]) -> list[str]:
    """How the correlations are known, and a warning for each arm whose rungs know less of the end than another's."""
    notes = [
        "The correlation (Kendall's tau) is that of the audited trials alone, which were drawn before anything was"
        " known of them: promoted trials were chosen by the score in question."
    ]
    warned, untold = [], False
    for arm, own in known.items():
        for other, theirs in known.items():
            worse = [i for i, (one, two) in enumerate(zip(own, theirs, strict=False), start=1) if less(one, two)]
            if other != arm and worse:
                places = ", ".join(map(str, worse))
                warned.append(
                    f"Warning: rung {places} of {arm} knows less of the end than that of {other} does, so the rungs may"
                    f" have treated {arm} unfairly: for example good configurations of it that start slowly."
                )
        untold = untold or any(one.tau is None for one in own)
    if untold:
        notes.append(f"With fewer than {FEWEST} audited trials at a rung nobody can tell what it knows of the end.")
    elif not warned and len(known) > 1:
        notes.append("No rung of an arm knows less of the end than that of another, as far as the audit can tell.")
    return [*notes, *warned]


def less(one: Correlation, other: Correlation) -> bool:
    """Whether one correlation is below another beyond chance (two-sided, 5 %)."""
    if one.tau is None or other.tau is None:
        return False
    ends = [math.atanh(min(max(c.tau or 0.0, -(m := 1 - 2 / (c.trials * (c.trials - 1)))), m)) for c in (one, other)]
    return ends[1] - ends[0] > NORMAL * math.hypot(fieller(one.trials), fieller(other.trials))


class Loss(NamedTuple):
    """What the rungs may have cost an arm; None where the audit cannot tell."""

    better: int  # of the audited trials that would have been parked, those that beat the winner
    low: float | None = None  # 95 % interval of that share among all parked trials
    high: float | None = None
    regret: float | None = None  # how much better the best parked trial may be than the winner, median
    least: float | None = None
    most: float | None = None


def loss(arm: ArmRungs) -> Loss:
    """What the audited trials say of the parked ones.

    The share has its exact interval (Clopper and Pearson 1934). The regret is drawn: each parked trial ends as audited
    ones with its score at its rung did, by a line through them and one of their distances from it, both resampled.
    """
    rejected, winner = arm.rejected, arm.winner
    better = sum(arm.ends[n] < winner for n in rejected)
    if not rejected or winner == math.inf:
        return Loss(better)
    from scipy import stats

    share = stats.binomtest(better, len(rejected)).proportion_ci(method="exact")
    drawn = _regrets(arm)
    if drawn is None:
        return Loss(better, float(share.low), float(share.high))
    least, middle, most = np.quantile(drawn, [0.025, 0.5, 0.975])
    return Loss(better, float(share.low), float(share.high), float(middle), float(least), float(most))


def _regrets(arm: ArmRungs) -> np.ndarray | None:
    """Draws of how much better the best parked trial would be than the winner, as a share of it: (DRAWS,)."""
    contest, winner, random = arm.contest, arm.winner, np.random.default_rng(0)
    best = np.full(DRAWS, math.inf)
    for rung in contest.rungs:
        last = [n for n in arm.parked if contest.contestants[n].parked == rung]
        costs = np.array([contest.contestants[n].costs.get(rung, math.inf) for n in last])
        costs = costs[np.isfinite(costs)]
        pairs = [(contest.contestants[n].costs.get(rung, math.inf), arm.ends[n]) for n in arm.audited]
        known = np.array([pair for pair in pairs if all(map(math.isfinite, pair))])
        if not len(costs):
            continue
        if len(known) < FEWEST:
            return None
        logarithmic = bool((known > 0).all() and (costs > 0).all())
        known, at = (np.log(known), np.log(costs)) if logarithmic else (known, costs)
        for draw in range(DRAWS):
            x, y = known[random.integers(len(known), size=len(known))].T
            spread = ((x - x.mean()) ** 2).sum()
            slope = ((x - x.mean()) * (y - y.mean())).sum() / spread if spread else 0.0
            rest = (y - y.mean() - slope * (x - x.mean())) * math.sqrt(len(x) / (len(x) - 2))
            ends = y.mean() + slope * (at - x.mean()) + random.choice(rest, size=len(at))
            lowest = ends.min()
            best[draw] = min(best[draw], math.exp(lowest) if logarithmic else lowest)
    regrets: np.ndarray = np.maximum(0.0, (winner - best) / (abs(winner) or 1.0))
    return regrets


def loss_table(results: Results) -> Table:
    """For each arm: steps, parked trials, and what they might have become."""
    columns = ["arm", "steps", "share", "parked", "audited", "better", "low", "high", "regret", "least", "most"]
    rows: list[dict[str, Any]] = []
    shown: list[dict[str, str]] = []
    for arm, found in arms_with_rungs(results):
        runs = results.of(arm, "search")
        one, steps = loss(found), sum(map(last_step, runs))
        whole = results.sweep["arms"][arm]["train"]["steps"] * max(1, len(runs))
        row = {"arm": arm, "steps": steps, "share": steps / whole, "parked": len(found.parked)}
        rows.append(row | {"audited": len(found.rejected)} | one._asdict())
        beat = f"{one.better} of {plural(len(found.rejected), 'audited trial')}" if found.rejected else MISSING
        shown.append(
            {
                "Arm": arm,
                "Search steps": f"{steps:,} ({steps / whole:.0%} of all to their end)",
                "Parked": f"{len(found.parked):,}",
                "Rejected, and better than the winner": beat,
                "Share of the parked, 95 % interval": MISSING if one.high is None else _shares(one.low, one.high),
                "Regret": MISSING if one.regret is None else f"{one.regret:.1%}",
                "Its 95 % interval": MISSING if one.most is None else _shares(one.least, one.most),
            }
        )
    notes = (
        "Audited trials that the rungs would have parked stand for all parked ones. The regret is how much better the"
        " best parked trial may have become than the winner, if parked trials go on as audited ones of their score.",
    )
    title = "What the rungs may have cost"
    data, frame = pd.DataFrame(rows, columns=columns), pd.DataFrame(shown)
    return Table("rung-losses", title, data, frame, ("Arm",), notes=notes if rows else ())


def _shares(low: float | None, high: float | None) -> str:
    return f"{low or 0.0:.1%} to {math.ceil(1000 * (high or 0.0)) / 1000:.1%}"


def _fixed(value: float | None) -> str:
    return MISSING if value is None else rounded(value, 2) if abs(value) < 0.01 else f"{value:.2f}"
