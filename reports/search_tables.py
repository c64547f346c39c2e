"""Tables of what sets arms apart: the test of the finals, what smaller budgets find, which parameters matter."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.runs import FINISHED
from reports.analysis import BUDGETS, Outcome, best_of, importances, is_number, outcomes
from reports.results import Metric, Results, active_seconds, final_groups, last_value, ranked
from reports.rounding import MISSING, p_value, parameter, plural, rounded, seconds, with_interval
from reports.searched import scales
from reports.tables import Table
from reports.verdict import LEVEL, Comparison, State, Verdict, compare

TOP = 5  # configurations of each arm on the page
MOST_VALUES = 12  # of a parameter that is listed value by value
FEWEST_OF_VALUE = 5  # trials of a value for it to be compared
LARGE_OF_VALUE = 10  # trials of each value from which the chi-square distribution is good enough
ORDERS = 9_999  # random ones, for fewer


def verdict_table(results: Results) -> Table:
    """Each pair of arms: by how much the better mean is ahead, whether seeds can tell them apart, how much sooner."""
    found = compare(results)
    shown = [_verdict_text(verdict, results.objective.name) for verdict in found.pairs]
    data = pd.DataFrame([verdict._asdict() for verdict in found.pairs], columns=list(Verdict._fields))
    frame = pd.DataFrame(shown)
    words = ("Pair", "Verdict", "Has the other's final score")
    which = f" in {results.objective.name}" if results.suffix else ""
    title = f"Is the difference{which} more than the spread of seeds?"
    return Table(f"verdicts{results.suffix}", title, data, frame, words, notes=tuple(verdict_notes(found)))


def _verdict_text(verdict: Verdict, name: str) -> dict[str, str]:
    ahead, interval, reached, sooner = rounded(verdict.difference), MISSING, MISSING, MISSING
    if verdict.difference is not None:
        reached = f"after {verdict.reached_at:.0%} of its steps" if verdict.reached_at is not None else "never"
        sooner = MISSING if verdict.reached_time is None else f"{verdict.reached_time:.0%}"
        if verdict.low is not None and verdict.high is not None:
            ahead, interval = with_interval(verdict.difference, verdict.low, verdict.high)
    return {
        "Pair": f"{verdict.better} against {verdict.worse}",
        "Verdict": verdict.state.value,
        f"Ahead in {name} by": ahead,
        "95 % interval": interval,
        "p": MISSING if verdict.p is None else p_value(verdict.p, LEVEL),
        "Has the other's final score": reached,
        "and of its time": sooner,
    }


def verdict_notes(found: Comparison) -> list[str]:
    """How the pairs were tested, and why some were not."""
    notes = []
    if found.why:
        notes.append(f"No verdict: {found.why}.")
    if found.tested == 1:
        notes.append("Welch's t-test of the finals over seeds, with its interval; the level is 5 %.")
    elif found.tested:
        notes.append(
            f"Welch's t-test of the finals over seeds. p and interval are both adjusted for the {found.tested} tested "
            "pairs (Bonferroni): 5 % is the level of all together, and an interval leaves out 0 exactly where "
            "p is below 0.05."
        )
    if found.of(State.UNTESTED):
        notes.append("Not tested: a test needs two seeds of both arms, and values that differ between seeds.")
    return notes


def budget_table(results: Results) -> Table:
    """What smaller budgets would have found: the best of n of each arm's search trials."""
    rows: list[dict[str, Any]] = []
    shown: list[dict[str, str]] = []
    found = {arm: outcomes(results, arm) for arm in results.arms}
    largest = max(map(len, found.values()), default=0)
    for count in (budget for budget in BUDGETS if budget <= largest):
        row: dict[str, Any] = {"trials": count}
        text = {"Trials": f"{count:,}"}
        for arm, trials in found.items():
            known = count <= len(trials)
            values = [trial.value for trial in trials]
            low, middle, high = best_of(values, results.objective, count, (0.1, 0.5, 0.9)) if known else (None,) * 3
            row |= {f"{arm}_low": low, f"{arm}_median": middle, f"{arm}_high": high}
            text[arm] = f"{rounded(middle)} ({rounded(low)} to {rounded(high)})" if known else MISSING
        rows.append(row)
        shown.append(text)
    title = f"Best {results.objective.name} of n search trials: median, and 10 % to 90 % of all draws"
    why = "no search trial has ended yet"
    columns = ["trials", *(f"{arm}_{part}" for arm in results.arms for part in ("low", "median", "high"))]
    return Table(f"budget{results.suffix}", title, pd.DataFrame(rows, columns=columns), pd.DataFrame(shown), empty=why)


def top_configurations(results: Results, arm: str, count: int = TOP) -> Table:
    """The best search trials of one arm with their hyperparameters; pruned trials have no value at the last step."""
    runs, rows, shown = ranked(results, arm)[:count], [], []
    keys = list(dict.fromkeys(key for run in runs for key in run.params))
    sources = final_groups(results, arm)
    for rank, run in enumerate(runs, start=1):
        values = {metric: last_value(run, metric.name) for metric in results.metrics}
        rows.append(
            {
                "rank": rank,
                "trial": run.id,
                **{m.name: v for m, v in values.items()},
                **{k: run.params.get(k) for k in keys},
            }
        )
        shown.append(
            {
                "Rank": str(rank),
                "Trial": run.id,
                **{metric.label: rounded(value) for metric, value in values.items()},
                **{key: parameter(run.params.get(key)) for key in keys},
                "Time": seconds(active_seconds(run)),
                "Final": "yes" if run.number in sources else "",
            }
        )
    title = f"{arm}: best {len(runs)} of {len(ranked(results, arm))} completed search trials"
    words = tuple(key for key in keys if any(isinstance(run.params.get(key), str) for run in runs))
    data = pd.DataFrame(rows, columns=["rank", "trial", *(metric.name for metric in results.metrics), *keys])
    ended = sum(run.state in FINISHED for run in results.of(arm, "search"))
    why = (
        f"no trial of the {ended} that ended has reached its last step with a value"
        if ended
        else "no search trial has ended yet"
    )
    return Table(f"top-{arm}", title, data, pd.DataFrame(shown), ("Trial", "Final", *words), empty=why)


def importance_table(results: Results, arm: str) -> Table:
    """Which parameters decide the objective of one arm's search trials."""
    found = importances(outcomes(results, arm), results.objective)
    rows = [{"parameter": one.parameter, "importance": one.loss, "explained": one.explained} for one in found]
    shown = [{"Parameter": one.parameter, "Importance": f"{max(one.loss, 0):.2f}"} for one in found]
    note = (
        f"Loss of explained variance of ranks on held-out trials when a parameter is shuffled; all together explain "
        f"{max(found[0].explained, 0):.0%}."
        if found
        else ""
    )
    title = f"{arm}: parameter importance" + (f" for {results.objective.name}" if results.suffix else "")
    notes = (note,) if note else ()
    data = pd.DataFrame(rows, columns=["parameter", "importance", "explained"])
    return Table(f"importance-{arm}{results.suffix}", title, data, pd.DataFrame(shown), ("Parameter",), notes=notes)


def choice_table(results: Results, arm: str) -> Table:
    """How the search trials of each value of a parameter did, for choices and what else has few values.

    A range has no row for each value, however few were tried.
    """
    found, metric, known = outcomes(results, arm), results.objective, scales(results, arm)
    rows: list[dict[str, Any]] = []
    shown: list[dict[str, str]] = []
    notes: list[str] = []
    for name in dict.fromkeys(name for outcome in found for name in outcome.run.params):
        groups = by_value(found, name)
        if not 2 <= len(groups) <= MOST_VALUES or (name in known and known[name].continuous):
            continue
        for value, values in groups.items():
            best, low, middle, high = (best_of(values, metric, 1, (q,))[0] for q in (0.0, 0.1, 0.5, 0.9))
            row = {"parameter": name, "value": parameter(value), "trials": len(values)}
            without = sum(v is None for v in values)
            rows.append(row | {"without_value": without, "best": best, "low": low, "median": middle, "high": high})
            text = {"Parameter": name, "Value": parameter(value), "Trials": f"{len(values):,}"}
            text |= {"Best": rounded(best), "Median": rounded(middle)}
            shown.append(text | {"10 % to 90 %": f"{rounded(low)} to {rounded(high)}"})
        notes.append(difference_note(name, groups, metric))
    if rows:
        notes.append("The sampler returns to values that did well and other parameters vary too: no controlled test.")
    title = f"{arm}: {metric.name} of its search trials by value of each parameter"
    words = ("Parameter", "Value")
    columns = ["parameter", "value", "trials", "without_value", "best", "low", "median", "high"]
    data = pd.DataFrame(rows, columns=columns)
    return Table(f"choices-{arm}{results.suffix}", title, data, pd.DataFrame(shown), words, notes=tuple(notes))


def by_value(found: Sequence[Outcome], name: str) -> dict[Any, list[float | None]]:
    """The objective of trials by their value of a parameter, numbers in order; trials without it are left out."""
    groups: dict[Any, list[float | None]] = {}
    for outcome in found:
        if name in outcome.run.params:
            value = outcome.run.params[name]  # of a choice among lists or mappings too
            groups.setdefault(str(value) if isinstance(value, list | dict) else value, []).append(outcome.value)
    numbers = all(map(is_number, groups))
    return dict(sorted(groups.items(), key=lambda pair: pair[0] if numbers else str(pair[0])))


def difference_note(name: str, groups: dict[Any, list[float | None]], metric: Metric) -> str:
    """Whether the values of a parameter differ in rank (Kruskal and Wallis 1952); of kappa also 0 against the rest."""
    medians = [middle for values in groups.values() if (middle := best_of(values, metric, 1, (0.5,))[0]) is not None]
    p = rank_test(list(groups.values()), metric)
    if p is None or not medians:
        return f"{name}: too few trials to compare its values."
    flat = "no difference beyond chance" if p >= LEVEL else "they differ beyond chance"
    spread = f"medians from {rounded(min(medians))} to {rounded(max(medians))}"
    note = f"{name}: {spread}; {flat} (Kruskal-Wallis, p = {p_value(p, LEVEL)})."
    if small := sum(len(values) < FEWEST_OF_VALUE for values in groups.values()):
        note += f" {plural(small, 'value')} with fewer than {FEWEST_OF_VALUE} trials not tested."
    if name != "loss.kappa" or 0 not in groups:
        return note
    plain, others = groups[0], [value for key, values in groups.items() if key != 0 for value in values]
    middles = [best_of(values, metric, 1, (0.5,))[0] for values in (plain, others)]
    p = rank_test([plain, others], metric)
    return note + (
        f" The plain quantile loss (0) has median {rounded(middles[0])}, all others together {rounded(middles[1])}"
        + (f" (p = {p_value(p, LEVEL)})." if p is not None else ".")
    )


def rank_test(groups: Sequence[Sequence[float | None]], metric: Metric) -> float | None:
    """P-value of the Kruskal-Wallis test, no value ranking worst; None where all are equal, or fewer than two groups
    have FEWEST_OF_VALUE trials.

    Of small groups it is the share of random orders that differ as much: the chi-square distribution, to which the
    statistic tends in large groups, rejects too often (10 % at a level of 5 % for two groups of three) or too seldom.
    """
    from scipy import stats

    keys = [[math.inf if value is None else metric.key(value) for value in values] for values in groups]
    large = [group for group in keys if len(group) >= FEWEST_OF_VALUE]
    if len(large) < 2 or len({key for group in large for key in group}) < 2:
        return None
    ranks = stats.rankdata([key for group in large for key in group])
    cuts = np.cumsum([len(group) for group in large])[:-1]
    if min(map(len, large)) >= LARGE_OF_VALUE:
        return float(stats.kruskal(*np.split(ranks, cuts)).pvalue)
    orders = np.random.default_rng(0).permuted(np.tile(ranks, (ORDERS, 1)), axis=1)
    seen, chance = (_between(np.atleast_2d(rows), cuts) for rows in (ranks, orders))
    return float((1 + (chance >= seen * (1 - 1e-9)).sum()) / (1 + ORDERS))


def _between(ranks: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """What the Kruskal-Wallis statistic grows with, for each row: ranks (row, trial), cut into groups of trials."""
    middle = ranks - ranks.mean(axis=1, keepdims=True)
    total: np.ndarray = sum(part.sum(axis=1) ** 2 / part.shape[1] for part in np.split(middle, cuts, axis=1))
    return total
