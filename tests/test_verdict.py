import shutil

import numpy as np
import pytest
from run_folders import SEEDS, record, write_trial
from scipy import stats

from orchestrator.runs import trial_id
from reports.results import chosen_finals, read_results, values_of
from reports.verdict import holm, verdicts


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
    assert all(verdict.p is None and not verdict.distinguishable for verdict in found)


def test_finals_of_different_protocols_get_no_verdict(folder):
    for seed in SEEDS:
        shutil.rmtree(folder.trial(trial_id("pixelcnn", "final", seed)).path)
        write_trial(folder, "pixelcnn", "final", seed, [record("pixelcnn", 4, 1500, 777)], seed=seed, source=4)
    assert verdicts(read_results(folder.path)) == []


def test_holm_by_hand():
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
