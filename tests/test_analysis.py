import itertools
import math

import numpy as np
import pytest

from orchestrator.runs import Run
from reports.analysis import (
    Outcome,
    best_of,
    best_so_far,
    importances,
    outcomes,
    parameter_columns,
)
from reports.results import Metric, read_results

DOWN, UP = Metric("fd_lite0", True), Metric("is_lite0_mean", False)


def runs_with(params, run):
    """Runs that differ in their parameters alone."""
    return [Run(**{**vars(run), "params": p, "number": number}) for number, p in enumerate(params)]


@pytest.fixture
def run(finished):
    return read_results(finished.path).runs[0]


def test_outcomes_are_in_order_and_without_value_where_a_trial_did_not_complete(finished):
    results = read_results(finished.path)
    found = outcomes(results, "pixelcnn")
    assert [outcome.number for outcome in found] == [0, 1, 2, 3, 4, 5]
    assert [outcome.value is None for outcome in found] == [False, False, True, True, False, False]


def test_best_so_far_goes_with_the_direction():
    assert best_so_far([None, 5.0, 7.0, None, 3.0], DOWN) == [None, 5.0, 5.0, 5.0, 3.0]
    assert best_so_far([2.0, None, 1.0, 4.0], UP) == [2.0, 2.0, 2.0, 4.0]


@pytest.mark.parametrize("metric", [DOWN, UP])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_best_of_n_is_what_all_subsets_give(metric, count):
    values = [4.0, None, 9.0, 1.0, 4.5, None, 7.0]
    ends = []
    for subset in itertools.combinations(values, count):
        known = [value for value in subset if value is not None]
        ends.append(min(metric.key(value) for value in known) if known else math.inf)
    ends.sort()
    for quantile in (0.1, 0.5, 0.9):
        expected = ends[math.ceil(quantile * len(ends) - 1e-9) - 1]
        (found,) = best_of(values, metric, count, [quantile])
        assert (math.inf if found is None else metric.key(found)) == expected


def test_best_of_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match="saw 4, expected 1 to 3"):
        best_of([1.0, 2.0, 3.0], DOWN, 4, [0.5])


def test_best_of_five_hundred_is_the_best():
    values = list(np.random.RandomState(0).rand(500))
    assert best_of(values, DOWN, 500, [0.5]) == [min(values)]
    assert best_of(values, DOWN, 1, [0.5])[0] == pytest.approx(np.quantile(values, 0.5, method="inverted_cdf"))


def test_parameters_become_columns(run):
    params = [
        {"lr": 1e-4, "name": "adam", "same": 3, "kappa": 0.0},
        {"lr": 1e-2, "name": "sgd", "same": 3, "kappa": 0.5},
        {"lr": 1e-3, "name": "adam", "same": 3},
    ]
    columns = parameter_columns(runs_with(params, run))
    assert set(columns) == {"lr", "name", "kappa"}
    assert columns["lr"][:, 0] == pytest.approx([0, 1, 0.5])  # logarithmic
    assert columns["name"].tolist() == [[1, 0], [0, 1], [1, 0]]
    assert columns["kappa"][:, 0].tolist() == [0, 1, -1]


def test_importances_find_the_parameter_that_decides(run):
    random = np.random.RandomState(1)
    params = [
        {"lr": 10 ** random.uniform(-4, -1), "optimizer": str(random.choice(["adam", "sgd"])), "noise": random.rand()}
        for _ in range(150)
    ]
    values = [
        None if p["lr"] > 0.05 else abs(math.log10(p["lr"]) + 2.5) + 0.5 * (p["optimizer"] == "sgd") for p in params
    ]
    runs = runs_with(params, run)
    found = importances([Outcome(i, value, runs[i]) for i, value in enumerate(values)], DOWN)
    assert [importance.parameter for importance in found] == ["lr", "optimizer", "noise"]
    assert found[0].explained > 0.8
    assert found[0].loss > 3 * found[1].loss > 0
    assert abs(found[2].loss) < 0.02


def test_importances_of_pure_noise_explain_nothing(run):
    random = np.random.RandomState(2)
    runs = runs_with([{"lr": random.rand()} for _ in range(90)], run)
    (found,) = importances([Outcome(i, random.rand(), run) for i, run in enumerate(runs)], DOWN)
    assert found.explained < 0.1
    assert importances([Outcome(0, 1.0, runs[0])], DOWN) == []
