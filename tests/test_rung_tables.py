"""What the report says of rungs that promote, against searches of which everything is known."""

import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_promotion import halving

from orchestrator.causes import Stage
from orchestrator.promotion import audited, settings_of
from orchestrator.runs import FORMAT, Run
from reports.results import results_of
from reports.rung_tables import kendall, loss, loss_table, rung_table, rungs_of_arm

RUNGS, STEPS = (10, 30, 90), 100


def world(seed, trials, noise):
    """Curves by arm and number: at a rung the end, blurred by `noise[arm]` as long as the rest of the way is."""
    draw, found = random.Random(seed), {}
    for arm, blur in noise.items():
        for number in range(trials):
            good = draw.gauss(0, 1)
            values = [math.exp(good + blur * draw.gauss(0, 1) * (1 - step / STEPS)) for step in (*RUNGS, STEPS)]
            found[arm, number] = dict(zip((*RUNGS, STEPS), values, strict=True))
    return found


def searched(curves, trials, audit=0.2, factor=3):
    """The results of the search that these curves give, and who would have been trained to the end by the rungs."""
    arms = list(dict.fromkeys(arm for arm, _ in curves))
    pruner = {"name": "promote", "audit": audit, "reduction_factor": factor}
    base = {"train": {"steps": STEPS}, "evaluate": {"every": 10}}
    search = {"trials": trials, "objective": {"metric": "fd_lite0", "direction": "minimize"}, "pruner": pruner}
    sweep = {"arms": dict.fromkeys(arms, base), "search": {**search, "seed": 3}, "final": None}
    recorded = {"format": FORMAT, "name": "x", "finished": True, "sweep": sweep, "metrics": {arm: {} for arm in arms}}
    runs, passed = [], {}
    for arm in arms:
        own = {n: curves[arm, n] for n in range(trials)}
        chosen = halving(own, RUNGS, factor)
        passed[arm] = set(chosen[-1])
        for number, curve in own.items():
            last = next((r for r, alive in zip(RUNGS, chosen, strict=True) if number not in alive), STEPS)
            last = STEPS if audited(settings_of(pruner), 3, arm, number) else last
            history = [{"step": step, "fd_lite0": value, "samples": 7} for step, value in curve.items() if step <= last]
            state = "completed" if last == STEPS else "parked"
            runs.append(Run(arm, Stage.SEARCH, number, {}, history, state))
    return results_of(recorded, runs, Path("none"), None, "here"), passed


def truth(curves, arm, trials, passed):
    """The share of the rejected that would have beaten the winner, and how much better the best of them is."""
    ends = {n: curves[arm, n][STEPS] for n in range(trials)}
    winner = min(ends[n] for n in passed)
    rejected = [ends[n] for n in ends if n not in passed]
    return sum(end < winner for end in rejected) / len(rejected), max(0.0, (winner - min(rejected)) / winner)


def test_the_contest_is_found_again_from_the_runs():
    curves = world(1, 37, {"a": 0.5, "b": 0.5})
    results, passed = searched(curves, 37)
    for arm in ("a", "b"):
        found = rungs_of_arm(results, arm, settings_of(results.sweep["search"]["pruner"]))
        assert found.passed == passed[arm]
        assert found.winner == min(curves[arm, n][STEPS] for n in passed[arm])
        assert len(found.audited) in (7, 8)
        assert set(found.rejected) == set(found.audited) - passed[arm]
    data = rung_table(results).data
    assert list(data["step"]) == [*RUNGS, *RUNGS]
    assert list(data[data.arm == "a"]["promoted"]) == [12, 4, 1]
    steps = loss_table(results).data["steps"]
    assert list(steps) == [sum(run.history[-1]["step"] for run in results.of(arm, "search")) for arm in ("a", "b")]


def test_rungs_that_know_the_end_cost_nothing():
    results, _ = searched(world(2, 41, {"a": 0.0, "b": 0.0}), 41)
    table, losses = rung_table(results), loss_table(results)
    assert list(table.data["correlation"]) == pytest.approx([1.0] * 6)
    assert (table.data["high"] == 1.0).all()
    assert (table.data["low"] < 0.95).all()  # eight trials are no proof
    assert list(losses.data["better"]) == [0, 0]
    assert (losses.data["high"] > 0.1).all()  # nor that there is none better
    assert (losses.data["most"] < 1e-9).all()
    assert "No rung of an arm knows less" in " ".join(table.notes)


def test_an_arm_whose_rungs_know_less_of_the_end_is_warned_of():
    results, _ = searched(world(3, 101, {"a": 6.0, "b": 0.1}), 101, audit=0.3)
    (warning,) = [note for note in rung_table(results).notes if note.startswith("Warning")]
    assert "of a knows less of the end than that of b does" in warning


def test_few_audited_trials_tell_nothing():
    results, _ = searched(world(4, 23, {"a": 0.4}), 23, audit=0.04)
    table = rung_table(results)
    assert table.data["correlation"].isna().all()
    assert any("fewer than 5 audited trials" in note for note in table.notes)
    assert loss_table(results).data["regret"].isna().all()
    assert rung_table(replace(results, sweep={})).data.empty  # of another version, or without rungs


@pytest.mark.parametrize(("count", "rho"), [(11, 0.6), (29, 0.8)])
def test_the_interval_of_the_correlation_holds_the_truth(count, rho):
    """Normal pairs with correlation rho have tau = 2 / pi * asin(rho) (Greiner 1909)."""
    random_, true, held = np.random.default_rng(5), 2 / math.pi * math.asin(rho), 0
    for _ in range(300):
        pairs = random_.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=count)
        found = kendall([(float(x), float(y)) for x, y in pairs])
        held += found.low <= true <= found.high
    assert held / 300 >= 0.9


def test_share_and_regret_are_those_of_the_parked_trials():
    """The intervals hold what really was lost, of searches of which all is known, about as often as they say."""
    shares = regrets = 0
    seeds, trials = range(12), 61
    for seed in seeds:
        curves = world(seed, trials, {"a": 1.0})
        results, passed = searched(curves, trials, audit=0.3)
        share, regret = truth(curves, "a", trials, passed["a"])
        found = loss(rungs_of_arm(results, "a", settings_of(results.sweep["search"]["pruner"])))
        shares += found.low <= share <= found.high
        regrets += found.least - 1e-9 <= regret <= found.most + 1e-9
    assert shares >= 10
    assert regrets >= 10
