"""Searches drawn from recorded trials and gone through as arrays, against the same searches one trial at a time."""

import math
import random

import numpy as np
import pytest
from test_replay import record

from orchestrator.promotion import Settings
from orchestrator.proposal import candidates, proposal_line, propose, share_of
from orchestrator.replay import recorded_curves, replay, replay_lines
from orchestrator.replay_rungs import Curve, Search, at_once, regret_of
from orchestrator.resampling import _halved, drawn_searches

STEPS, RUNGS = 90, (10, 30)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr("orchestrator.resampling.SEARCHES", 30)


def sweep(direction="minimize", seed=0):
    search = {"objective": {"metric": "fd", "direction": direction}, "seed": seed}
    return {"arms": {arm: {"train": {"steps": STEPS}} for arm in ("a", "b")}, "search": search}


def drawn_curves(seed, count, diverging=0.2, arm="a"):
    """Curves of three evaluations; some diverge between them, some measure nothing finite."""
    draw, found = random.Random(seed), []
    for number in range(count):
        good = draw.random()
        points = [(step, step / 2, good + draw.random()) for step in (*RUNGS, STEPS)]
        if draw.random() < diverging:
            points = points[: draw.randrange(3)] or [(7, 3.5, None)]
        elif draw.random() < 0.1:
            points[0] = (10, 5.0, draw.choice([None, math.nan, math.inf]))
        found.append(Curve(arm, number, points, len(points) == 3, cut=False))
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_arrays_choose_and_train_as_one_trial_at_a_time(seed, direction):
    curves = drawn_curves(seed, 31, diverging=0.9 if seed == 5 else 0.2)
    settings, recorded = Settings(3, 0.1, audit=0.1), sweep(direction, seed)
    sign = 1 if direction == "minimize" else -1
    found = _halved(curves, settings, recorded, np.random.default_rng(11))
    drawn = np.random.default_rng(11).integers(31, size=(30, 31))
    again = 0
    for row, order in enumerate(drawn):
        own = [curves[i] for i in order]
        gone = at_once(Search(own, settings, recorded))
        value = gone.chosen["a"]
        assert found.chosen[row] == (math.inf if value is None else sign * value)
        assert found.steps[row] == gone.steps
        assert found.whole[row] == sum(curve.points[-1][0] for curve in own)
        again += gone.steps > 0
    assert again == 30


def test_the_share_of_searches_is_that_of_a_loop():
    curves = [one for pair in zip(drawn_curves(1, 23), drawn_curves(2, 23, arm="b"), strict=True) for one in pair]
    settings, recorded = Settings(3, 0.1, audit=0.05), sweep()
    found = drawn_searches(curves, settings, recorded, 1, 0.25)
    wanted = {}
    for place, arm in enumerate(("a", "b")):
        own, good = [curve for curve in curves if curve.arm == arm], 0
        for order in np.random.default_rng([0, place]).integers(23, size=(30, 23)):
            drawn = [own[i] for i in order]
            lost = regret_of(at_once(Search(drawn, settings, recorded)).chosen[arm], drawn, min)
            good += lost is not None and lost <= 0.25
        wanted[arm] = good / 30
    assert found.within == wanted
    assert min(wanted.values()) > 0
    assert max(wanted.values()) < 1


def clear(count):
    """Curves by arm whose order at the second evaluation, and not at the first, is that at the end."""
    draw, found = random.Random(4), {}
    for arm in ("a", "b"):
        goods = [draw.random() for _ in range(count)]
        found[arm] = [[draw.random(), 5 + good, 3 + good] for good in goods]
    return found


def test_the_cheapest_settings_that_are_sure_enough_are_proposed(tmp_path):
    path = record(tmp_path, clear(37)).path
    tried = propose(path)
    assert [one.drawn.steps for one in tried] == sorted(one.drawn.steps for one in tried)
    line = proposal_line(tried)
    # At the second of three evaluations: only from there on the order is that of the end.
    assert line.startswith("Proposed: pruner: {name: promote, reduction_factor: 5, first: 0.66, audit: 0.04} takes 7")
    assert "100% in a, 100% in b choose within 2% of their best." in line
    unsure = proposal_line([one for one in tried if one.settings.first < 0.6])
    assert unsure.startswith("Nothing is proposed, for no rungs are sure enough (90% of the searches): the surest, ")


def test_what_cannot_be_proposed(tmp_path):
    cut = record(tmp_path, clear(5), cut={("a", 2)}).path
    assert propose(cut) == []
    assert "cannot be told" in proposal_line([])


def test_every_different_rung_is_a_candidate_once(tmp_path):
    curves, recorded = recorded_curves(record(tmp_path, clear(5)).path)
    found = [(one.reduction_factor, one.first) for one in candidates(curves, recorded)]
    # 100 and 200 of 300: by twos both are rungs, by threes and more the first alone.
    assert found == [(2, 0.33), (3, 0.33), (4, 0.33), (5, 0.33), (2, 0.66), (3, 0.66), (4, 0.66), (5, 0.66)]


@pytest.mark.parametrize(("before", "step", "steps"), [(0, 24, 240), (23, 24, 240), (0, 1, 100_000), (333, 334, 1001)])
def test_the_share_at_which_a_step_is_the_first_evaluation(before, step, steps):
    assert before < share_of(before, step, steps) * steps <= step * (1 + 1e-9)


def test_searches_are_drawn_for_a_pruner_of_optunas_where_asked(tmp_path):
    path = record(tmp_path, clear(19)).path
    median = {"name": "median", "n_startup_trials": 3}
    (once,), (drawn,) = (replay(path, [median], searches=count) for count in (0, 7))
    assert (once.searches, once.within, once.typical) == (0, {}, None)
    assert (drawn.steps, drawn.chosen) == (once.steps, once.chosen)
    assert drawn.searches == 7
    assert 0.3 < drawn.typical < 1
    assert all(7 * share == pytest.approx(round(7 * share)) for share in drawn.within.values())
    assert "of 7 searches drawn from the recorded trials" in "\n".join(replay_lines([drawn]))
