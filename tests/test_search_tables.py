import itertools
import statistics

import pytest

from reports.results import read_results
from reports.search_tables import budget_table, importance_table, verdict_table


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
