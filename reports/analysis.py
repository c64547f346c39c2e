"""What a search tells besides its winner: what a smaller budget finds, how robust a method is, which parameters matter.

A trial without a value at its last step (pruned, diverged, failed) counts as worse than every value: a method that
often fails must not look robust for it.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from orchestrator.runs import FINISHED, Run
from reports.results import Metric, Results, last_value

ROUND = tuple(digit * 10**power for power in range(7) for digit in (1, 2, 5))
BUDGETS = ROUND[:9]  # up to 500, as many configurations as the paper's
FEWEST = 20  # trials below which no importance is computed
FOLDS, SHUFFLES, TREES = 5, 5, 60


class Outcome(NamedTuple):
    """An ended search trial; value None where it has none at its last step."""

    number: int
    value: float | None
    run: Run


class Importance(NamedTuple):
    """How much of the variance of the (ranked) objective is lost on held-out trials when one parameter is shuffled."""

    parameter: str
    loss: float
    explained: float  # share of the variance that all parameters explain together; below 0 they explain nothing


def outcomes(results: Results, arm: str) -> list[Outcome]:
    """The ended search trials of an arm in the order of their numbers."""
    runs = sorted((run for run in results.of(arm, "search") if run.state in FINISHED), key=lambda run: run.number)
    name = results.objective.name
    return [Outcome(run.number, last_value(run, name) if run.state == "completed" else None, run) for run in runs]


def best_so_far(values: Sequence[float | None], metric: Metric) -> list[float | None]:
    """The best value among the first n, for n = 1, 2, ...; None before the first value."""
    best: list[float | None] = []
    for value in values:
        known = [v for v in (best[-1] if best else None, value) if v is not None]
        best.append(min(known, key=metric.key) if known else None)
    return best


def best_of(
    values: Sequence[float | None], metric: Metric, count: int, quantiles: Sequence[float]
) -> list[float | None]:
    """Quantiles of the best of `count` trials drawn from these without replacement; None for "no value".

    The best has rank i or less with probability 1 - C(N - i, n) / C(N, n), so nothing needs to be drawn.
    """
    total = len(values)
    if not 1 <= count <= total:
        raise ValueError(f"count: saw {count}, expected 1 to {total}, the number of trials")
    ordered: list[float | None] = [*sorted((v for v in values if v is not None), key=metric.key)]
    ordered += [None] * (total - len(ordered))
    ranks = np.arange(1, total + 1)
    reached = np.array([1 - _ratio(total - int(rank), count, total) for rank in ranks])
    return [ordered[int(np.searchsorted(reached, quantile - 1e-12))] for quantile in quantiles]


def _ratio(left: int, count: int, total: int) -> float:
    """C(left, count) / C(total, count)."""
    if left < count:
        return 0.0
    log = (
        math.lgamma(left + 1) - math.lgamma(left - count + 1) - math.lgamma(total + 1) + math.lgamma(total - count + 1)
    )
    return math.exp(log)


def importances(found: Sequence[Outcome], metric: Metric) -> list[Importance]:
    """Permutation importance of each parameter, most important first; empty for few trials or parameters all equal.

    Random forests predict the rank of the objective, and are asked about trials that they have not seen (Breiman 2001).
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold

    columns = parameter_columns([outcome.run for outcome in found])
    if len(found) < FEWEST or not columns:
        return []
    keys = [math.inf if outcome.value is None else metric.key(outcome.value) for outcome in found]
    target = pd.Series(keys).rank(pct=True).to_numpy()
    inputs = np.concatenate(list(columns.values()), axis=1)
    random = np.random.RandomState(0)
    explained: list[float] = []
    lost: dict[str, list[float]] = {name: [] for name in columns}
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(inputs):
        forest = RandomForestRegressor(TREES, min_samples_leaf=2, random_state=0, n_jobs=1)
        forest.fit(inputs[train], target[train])
        tables = [inputs[test]]  # as they are, then with one parameter shuffled
        begin = 0
        for block in columns.values():
            part = slice(begin, begin := begin + block.shape[1])
            for _ in range(SHUFFLES):
                tables.append(inputs[test].copy())
                tables[-1][:, part] = inputs[test][random.permutation(len(test)), part]
        predicted = forest.predict(np.concatenate(tables)).reshape(len(tables), len(test))
        scores = [_explained(target[test], one) for one in predicted]
        explained.append(scores[0])
        for index, drops in enumerate(lost.values()):
            drops += [scores[0] - score for score in scores[1 + index * SHUFFLES :][:SHUFFLES]]
    share = float(np.mean(explained))
    found_out = [Importance(name, float(np.mean(drops)), share) for name, drops in lost.items()]
    return sorted(found_out, key=lambda importance: -importance.loss)


def _explained(truth: np.ndarray, predicted: np.ndarray) -> float:
    return 1 - float(((truth - predicted) ** 2).sum() / max(((truth - truth.mean()) ** 2).sum(), 1e-12))


def parameter_columns(runs: Sequence[Run]) -> dict[str, np.ndarray]:
    """Each parameter that varies as columns (trial, k): a number in [0, 1], or one column for each word.

    A parameter that a trial does not have is -1.
    """
    columns: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(name for run in runs for name in run.params):
        values = [run.params.get(name) for run in runs]
        words = sorted({str(value) for value in values})
        if len(words) < 2:
            continue
        if all(value is None or is_number(value) for value in values):
            columns[name] = np.array([-1.0 if v is None else v for v in positions(values)])[:, None]
        else:
            columns[name] = np.stack([[str(value) == word for value in values] for word in words], 1) * 1.0
    return columns


def positions(values: Sequence[float | None], log: bool | None = None) -> list[float | None]:
    """Numbers between the smallest (0) and the largest (1), on a logarithmic scale if `log`, or where that suits."""
    numbers = [value for value in values if value is not None]
    scale = math.log if (logarithmic(numbers) if log is None else log) else float
    low, high = scale(min(numbers)), scale(max(numbers))
    return [None if value is None else (scale(value) - low) / ((high - low) or 1) for value in values]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def logarithmic(numbers: Sequence[float]) -> bool:
    """Whether a parameter's values are best seen on a logarithmic axis."""
    return bool(numbers) and min(numbers) > 0 and max(numbers) / min(numbers) > 20
