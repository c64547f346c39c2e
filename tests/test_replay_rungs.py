"""`pruner: promote` on recorded curves, against a plain loop of synchronous halving."""

import random

import pytest
from test_promotion import halving
from test_replay import record

from aiqn_core.config import ConfigError
from orchestrator.replay import replay, replay_lines

# Three evaluations, at 100, 200 and 300; rungs with these settings at 100 and 200.
SETTINGS = {"name": "promote", "first": 0.3, "reduction_factor": 2, "audit": 0.0}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr("orchestrator.resampling.SEARCHES", 20)


def curves_of(seed, count, noise):
    """Made-up curves by arm; without noise the order at each evaluation is that at the end."""
    draw, found = random.Random(seed), {}
    for arm in ("a", "b"):
        goods = [draw.random() for _ in range(count)]
        found[arm] = [[5 + good + noise * draw.random() + 3 / step for step in (1, 2, 3)] for good in goods]
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("workers", [1, 3, 1024])
def test_steps_and_choice_are_those_of_a_loop_whatever_the_workers(tmp_path, seed, workers):
    curves = curves_of(seed, 11, 0.7)
    (one,) = replay(record(tmp_path, curves).path, [SETTINGS], workers)
    steps = 0
    for arm, values in curves.items():
        costs = {n: dict(zip((100, 200, 300), curve, strict=True)) for n, curve in enumerate(values)}
        first, second = halving(costs, (100, 200), 2)
        assert (len(first), len(second)) == (5, 2)
        steps += 100 * (11 + len(first) + len(second))
        chosen, best = min(costs[n][300] for n in second), min(curve[-1] for curve in values)
        assert one.chosen[arm] == chosen
        assert one.regret[arm] == pytest.approx((chosen - best) / best)
    assert one.steps == steps
    assert one.share == pytest.approx(steps / 6600)
    assert one.pruned == 22 - 4


def test_time_on_one_worker_and_on_many(tmp_path):
    path = record(tmp_path, curves_of(1, 5, 0.0)).path
    one, many = (replay(path, [SETTINGS], workers)[0] for workers in (1, 99))
    assert one.makespan == 10 * one.steps / 100  # ten seconds between evaluations, and nobody waits
    assert many.makespan == 30  # a stay at each rung


def test_an_audited_trial_is_trained_to_its_end(tmp_path):
    path = record(tmp_path, curves_of(2, 11, 0.0)).path
    audit, none = (replay(path, [SETTINGS | {"audit": share}])[0] for share in (1.0, 0.0))
    assert audit.steps == 6600
    assert none.steps < 6600
    assert audit.pruned == 0


def test_resampled_searches_say_how_sure_the_choice_is(tmp_path):
    sure, unsure = (
        replay(record(tmp_path, curves_of(3, 23, noise), f"n{noise}").path, [SETTINGS])[0] for noise in (0.0, 9.0)
    )
    assert sure.within == {"a": 1.0, "b": 1.0}  # rungs that know the end lose nothing
    assert all(0 < share < 0.95 for share in unsure.within.values())
    assert "within 2% of their best: 100% in a, 100% in b, for 57% of the steps." in "\n".join(replay_lines([sure]))


def test_curves_that_were_cut_short(tmp_path):
    """An arm whose recorded search parked trials says so: those that would have gone on are counted."""
    curves = curves_of(4, 7, 0.0)
    order = sorted(range(7), key=lambda n: curves["a"][n][0])
    curves["a"][order[0]] = curves["a"][order[0]][:1]  # the best was parked at the first rung
    (one,) = replay(record(tmp_path, curves, cut={("a", order[0])}).path, [SETTINGS])
    assert one.beyond == {"a": 1, "b": 0}
    assert one.regret["a"] is None
    assert one.within["a"] is None
    assert one.within["b"] == 1.0


def test_without_waiting_the_workers_are_busy(tmp_path):
    path = record(tmp_path, curves_of(5, 29, 0.3)).path
    waits, hurries = (replay(path, [SETTINGS | {"asynchronous": how}], 4)[0] for how in (False, True))
    assert hurries.steps >= waits.steps  # all that a full rung promotes, and some that seemed good before
    assert set(hurries.within) == {"a", "b"}


def test_settings_that_are_wrong(tmp_path):
    with pytest.raises(ConfigError, match="expected a share of the steps"):
        replay(record(tmp_path, curves_of(1, 5, 0.0)).path, [{"name": "promote", "first": 3.0}])
