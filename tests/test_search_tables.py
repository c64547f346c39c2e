import itertools
import math
import statistics

import numpy as np
import pytest
from scipy import stats

from reports.results import Metric, read_results
from reports.search_tables import budget_table, importance_table, rank_test, verdict_table


def test_the_verdict_in_words(finished, folder):
    (row,) = verdict_table(read_results(finished.path)).shown.to_dict(orient="records")
    assert row["Pair"] == "pixeliqn against pixelcnn"
    assert row["Verdict"] == "better"
    assert row["p"] == "0.0011"
    assert row["Has the other's final score"] == "after 50% of its steps"


def test_what_smaller_budgets_find(finished):
    results = read_results(finished.path)
    data = budget_table(results).data.set_index("trials")
    assert data.index.tolist() == [1, 2, 5]
    values = sorted(
        run.curve("fd_lite0")[-1][1] for run in results.of("pixelcnn", "search") if run.state == "completed"
    )
    assert len(values) == 4  # of six: the others count as worse
    pairs = [min(pair) for pair in itertools.combinations([*values, float("inf"), float("inf")], 2)]
    assert data.loc[2, "pixelcnn_median"] == pytest.approx(statistics.median_low(pairs))
    assert data.loc[1, "pixelcnn_median"] == values[2]
    assert data.loc[5, "pixelcnn_median"] == values[0]


def test_few_trials_have_no_importances(finished):
    table = importance_table(read_results(finished.path), "pixelcnn")
    assert table.shown.empty


@pytest.mark.parametrize("sizes", [(3, 3), (4, 4), (3, 3, 3)])
def test_groups_of_three_or_four_have_no_p_value(sizes):
    values = iter(range(99))
    assert rank_test([[next(values) for _ in range(size)] for size in sizes], Metric("loss", True)) is None


def test_the_p_value_of_small_groups_is_that_of_all_orders():
    """Against every way to divide ten ranks into two groups of five, and with ties."""
    for first, second in (
        ([1.0, 2.0, 3.0, 5.0, 7.0], [4.0, 6.0, 8.0, 9.0, 10.0]),
        ([1.0, 1.0, 2.0, 2.0, 3.0], [2.0, 3.0, 3.0, None, None]),
    ):
        ranks = stats.rankdata([math.inf if value is None else value for value in (*first, *second)])
        far = [abs(sum(part) - ranks.sum() / 2) for part in itertools.combinations(ranks, 5)]
        exact = sum(one >= abs(ranks[:5].sum() - ranks.sum() / 2) - 1e-9 for one in far) / len(far)
        assert rank_test([first, second], Metric("loss", True)) == pytest.approx(exact, abs=0.012)


def test_the_p_value_of_large_groups_is_kruskal_and_wallis():
    groups = [list(np.random.default_rng(size).normal(size=size)) for size in (10, 13, 17)]
    assert rank_test(groups, Metric("loss", True)) == pytest.approx(stats.kruskal(*groups).pvalue)
