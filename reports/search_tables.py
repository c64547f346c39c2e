"""Tables of what sets arms apart: the test of the finals, what smaller budgets find, which parameters matter."""

from typing import Any

import pandas as pd

from reports.analysis import BUDGETS, best_of, importances, outcomes
from reports.results import Results
from reports.rounding import MISSING, rounded
from reports.tables import Table
from reports.verdict import verdicts


def verdict_table(results: Results) -> Table:
    """Each pair of arms: by how much the better mean is ahead, whether seeds can tell them apart, how much sooner."""
    name, rows, shown = results.objective.name, verdicts(results), []
    for verdict in rows:
        interval = f"{rounded(verdict.low)} to {rounded(verdict.high)}" if verdict.low is not None else MISSING
        reached = f"after {verdict.reached_at:.0%} of its steps" if verdict.reached_at is not None else "never"
        shown.append(
            {
                "Pair": f"{verdict.better} against {verdict.worse}",
                "Verdict": "better" if verdict.distinguishable else "not distinguishable",
                f"Ahead in {name} by": rounded(verdict.difference),
                "95 % interval": interval,
                "p": MISSING if verdict.p is None else f"{verdict.p:.2g}",
                "Has the other's final score": reached,
            }
        )
    notes = ["Welch's t-test of the finals over seeds; p is adjusted for the number of pairs (Holm), the level is 5 %."]
    if any(verdict.p is None for verdict in rows):
        notes.append("Without two seeds of both arms nothing can be tested.")
    words = ("Pair", "Verdict", "Has the other's final score")
    data, frame = pd.DataFrame(rows), pd.DataFrame(shown)
    return Table("verdicts", "Is the difference more than the spread of seeds?", data, frame, words, notes=tuple(notes))


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
    return Table("budget", title, pd.DataFrame(rows), pd.DataFrame(shown), ())


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
    title = f"{arm}: parameter importance"
    notes = (note,) if note else ()
    return Table(f"importance-{arm}", title, pd.DataFrame(rows), pd.DataFrame(shown), ("Parameter",), notes=notes)
