import itertools
import shutil

import numpy as np
import pytest
from run_folders import SEEDS, record, results_with, write_trial
from scipy import stats

from orchestrator.runs import trial_id
from reports.results import chosen_finals, read_results, values_of
from reports.verdict import State, compare, verdicts


def test_the_verdict_is_welchs_test_of_the_finals(finished):
    results = read_results(finished.path)
    (verdict,) = verdicts(results)
    first, second = (values_of(chosen_finals(results, arm), "fd_lite0") for arm in (verdict.better, verdict.worse))
    test = stats.ttest_ind(second, first, equal_var=False)
    interval = test.confidence_interval(0.95)
    assert verdict.better == "pixeliqn"
    assert verdict.p == pytest.approx(test.pvalue, rel=1e-9)
    assert (verdict.low, verdict.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert verdict.difference == pytest.approx(np.mean(second) - np.mean(first))
    assert verdict.distinguishable == (test.pvalue < 0.05)


def test_the_better_arm_reaches_the_others_score_earlier(finished):
    results = read_results(finished.path)
    (verdict,) = verdicts(results)
    curves = {}
    for arm in results.arms:
        runs = chosen_finals(results, arm)
        curves[arm] = {
            step: np.mean([dict(run.curve("fd_lite0"))[step] for run in runs]) for step in range(0, 1501, 250)
        }
    goal = curves[verdict.worse][1500]
    first = min(step for step, value in curves[verdict.better].items() if value <= goal)
    assert verdict.reached_at == first / 1500
    assert 0 < verdict.reached_at < 1


def test_one_seed_decides_nothing(folder):
    for arm in ("pixelcnn", "pixeliqn"):
        (folder.trial(trial_id(arm, "final", 1)).status).unlink()
        (folder.trial(trial_id(arm, "final", 1)).config).unlink()
    found = verdicts(read_results(folder.path))
    assert [(verdict.state, verdict.p, verdict.low) for verdict in found] == [(State.UNTESTED, None, None)]


def test_finals_of_different_protocols_get_no_verdict(folder):
    for seed in SEEDS:
        shutil.rmtree(folder.trial(trial_id("pixelcnn", "final", seed)).path)
        write_trial(folder, "pixelcnn", "final", seed, [record("pixelcnn", 4, 1500, 777)], seed=seed, source=4)
    (verdict,) = verdicts(read_results(folder.path))
    assert verdict.state is State.INCOMPARABLE
    assert (verdict.difference, verdict.p, verdict.reached_at) == (None, None, None)


def test_p_and_interval_are_adjusted_for_the_same_number_of_pairs(tmp_path):
    values = {"a": [3.1, 3.4, 2.9, 3.3], "b": [4.0, 4.7, 4.4], "c": [4.2, 5.9], "d": [6.0]}
    found = compare(results_with(tmp_path, values))
    assert found.tested == 3  # one seed of d: its pairs are not tested
    for better, worse in (("a", "b"), ("a", "c"), ("b", "c")):
        test = stats.ttest_ind(values[worse], values[better], equal_var=False)
        interval = test.confidence_interval(1 - 0.05 / 3)
        verdict = found.pair(better, worse)
        assert verdict.p == pytest.approx(min(1, 3 * test.pvalue), rel=1e-9)
        assert (verdict.low, verdict.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert {found.pair(arm, "d").state for arm in "abc"} == {State.UNTESTED}


def test_seeds_that_do_not_vary_are_no_test(tmp_path):
    found = compare(results_with(tmp_path, {"a": [0.1, 0.1, 0.1], "b": [0.1 + 2e-17, 0.1, 0.1], "c": [7.0, 7.0]}))
    assert [verdict.state for verdict in found.pairs] == [State.UNTESTED] * 3
    assert found.pair("a", "b").difference == 0


def test_false_verdicts_are_as_rare_as_promised(tmp_path):
    """Equal arms with unequal spread, four at a time: in at most 5 % of the cases is any pair told apart."""
    from reports.verdict import _welch

    random, wrong, uncovered, runs = np.random.default_rng(3), 0, 0, 600
    for _ in range(runs):
        arms = [random.normal(40, 1 + index, size=3).tolist() for index in range(4)]
        pairs = [(first, second, _welch(first, second)) for first, second in itertools.combinations(arms, 2)]
        wrong += any(6 * test.p < 0.05 for *_, test in pairs)
        uncovered += any(abs(np.mean(first) - np.mean(second)) > test.reach(6) for first, second, test in pairs)
    assert wrong == uncovered
    assert wrong / runs < 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5
